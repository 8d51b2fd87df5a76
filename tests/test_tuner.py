"""Spaces under Keras Tuner: what a trial draws, builds, trains and leaves behind."""

from __future__ import annotations

import copy
import csv
import gc
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from spaces import NUMBERS, One, Recorder, Values, exact, plain_net, resolved, trees, with_choices

import kblocks as kb
from kblocks.tuner import files
from kblocks.tuner.records import Objective, Record
from kblocks.tuner.reporting.report import report
from kblocks.tuner.running.live import Live

INPUT = (8, 8, 1)
X = np.random.default_rng(0).normal(size=(32, *INPUT)).astype("float32")
Y = (X.mean((1, 2, 3)) > 0).astype("int32")
NETWORK = "kblocks/network"


@pytest.fixture(autouse=True, scope="module")
def _no_forced_collections() -> Iterator[None]:
    """Keras Tuner collects garbage twice a trial: two thirds of the time of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda *args: 0)
        yield


def tiny_space() -> kb.Space:
    """Numbers, words, pairs among numbers, and choices that only one head has."""
    return kb.Space(
        plain_net,
        filters=kb.per_stage(2, kb.choice(16, 4, 8)),
        kernel_size=kb.choice(3, (1, 3), 5),
        strides=[1, kb.choice(1, 2)],
        padding=kb.choice("same", "valid"),
        head=kb.choice(None, {"pool": kb.choice("max", "concat"), "hidden": (kb.choice(8, 16),)}),
    )


BUDGET = kb.Budget(macs=20e3)
PLAIN = {  # what stands in `hp` where Keras Tuner cannot hold the option itself
    "kernel_size": {"3": 3, "1x3": (1, 3), "5": 5},
    "head": {"None": None, "#1": "#1"},
}


def plain(values: Values) -> Values:
    """The values of the space from those of a trial."""
    names = tiny_space().names()
    return {n: PLAIN[n][v] if n in PLAIN else v for n, v in values.items() if n in names}


def over_budget(values: Values) -> bool:
    try:
        return tiny_space().build(values).cost(INPUT).macs > BUDGET.macs
    except kb.InputTooSmallError:
        return True


class Counting(kb.tuner.HyperModel):
    """Notes every model that it builds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.built: list[tuple[int, str]] = []

    def build(self, hp: Any) -> keras.Model:
        model = super().build(hp)
        self.built.append((model.count_params(), hp.values[NETWORK]))
        return model


class Untrained(Counting):
    """For what a tuner draws and builds: the score is the number of the trial."""

    def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        return {"val_loss": float(len(self.built))}


Make = Callable[..., Any]
TUNERS: dict[str, Make] = {
    "random": lambda h, **kw: keras_tuner.RandomSearch(h, **{"max_trials": 6, **kw}),
    "bayesian": lambda h, **kw: keras_tuner.BayesianOptimization(
        h, num_initial_points=3, **{"max_trials": 6, **kw}
    ),
    "hyperband": lambda h, **kw: keras_tuner.Hyperband(h, max_epochs=3, factor=3, **kw),
    "grid": lambda h, **kw: keras_tuner.GridSearch(h, **{"max_trials": 6, **kw}),
}


@dataclass
class Run:
    """A finished search with what its tuner drew, noted when it drew it."""

    kind: str
    folder: Path
    hypermodel: Counting
    tuner: Any
    drawn: dict[str, Values]

    @property
    def trials(self) -> list[Any]:
        return list(self.tuner.oracle.trials.values())


def make_tuner(kind: str, hypermodel: Any, folder: Path, **kwargs: Any) -> Any:
    objective = keras_tuner.Objective("val_loss", "min")
    return TUNERS[kind](hypermodel, objective=objective, directory=folder, seed=3, **kwargs)


def train(tuner: Any, epochs: int = 1, **kwargs: Any) -> None:
    tuner.search(X, Y, validation_data=(X, Y), epochs=epochs, verbose=0, **kwargs)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=() if kind in ("random", "hyperband") else pytest.mark.slow)
        for kind in TUNERS
    ],
)
def run(request: Any, tmp_path_factory: Any) -> Run:
    """One small search of each stock tuner, over a space that mostly does not fit."""
    folder = tmp_path_factory.mktemp(request.param)
    keras.utils.set_random_seed(1)
    hypermodel = Counting(
        tiny_space().within(INPUT, BUDGET), kb.Recipe(learning_rate=kb.real(1e-3, 1e-1, log=True))
    )
    tuner = make_tuner(request.param, hypermodel, folder)
    drawn: dict[str, Values] = {}
    create = tuner.oracle.create_trial

    def noting(tuner_id: str) -> Any:
        trial = create(tuner_id)
        drawn[trial.trial_id] = dict(trial.hyperparameters.values)
        return trial

    tuner.oracle.create_trial = noting
    train(tuner)
    del tuner.oracle.create_trial
    return Run(request.param, folder, hypermodel, tuner, drawn)


# --- under the stock tuners ----------------------------------------------------------------


def test_the_space_of_these_tests_mostly_does_not_fit() -> None:
    sampled = [tiny_space().sample(seed) for seed in range(300)]
    assert sum(map(over_budget, sampled)) > 150


@pytest.mark.thin(4)
def test_every_trial_is_trained_and_scored(run: Run) -> None:
    assert {trial.status for trial in run.trials} == {"COMPLETED"}
    assert all(math.isfinite(trial.score) for trial in run.trials)
    if run.kind == "hyperband":  # brackets of 3 + 1 trials of 1 and 3 epochs, and of 2 of 3
        epochs = [trial.hyperparameters.values["tuner/epochs"] for trial in run.trials]
        assert sorted(epochs) == [1, 1, 1, 3, 3, 3]
    else:
        assert len(run.trials) == 6


def test_every_trial_tells_the_network_that_it_trained(run: Run) -> None:
    trained = run.hypermodel.built[1:]  # the first is the constructor's
    assert len(trained) == len(run.trials)
    for trial, (params, text) in zip(run.trials, trained, strict=True):
        net = kb.tuner.network_of(trial.hyperparameters)
        assert trial.hyperparameters.values[NETWORK] == text
        assert net.cost(INPUT).params == params
        assert net.cost(INPUT).macs <= BUDGET.macs


def test_networks_are_the_repaired_values(run: Run) -> None:
    space = tiny_space().within(INPUT, BUDGET)
    for trial in run.trials:
        values = plain(trial.hyperparameters.values)
        assert kb.tuner.network_of(trial.hyperparameters) == space.build(space.repair(values))
    drawn = [plain(values) for values in run.drawn.values() if values]
    assert any(map(over_budget, drawn))
    assert all(set(space.repair(values)) <= set(space.names()) for values in drawn)


def test_drawn_values_stay_as_the_tuner_drew_them(run: Run) -> None:
    for trial in run.trials:
        left = {k: v for k, v in trial.hyperparameters.values.items() if k != NETWORK}
        assert left == {k: v for k, v in run.drawn[trial.trial_id].items() if k != NETWORK}


def test_inactive_choices_are_in_no_trial(run: Run) -> None:
    kinds = set()
    for trial in run.trials:
        values = trial.hyperparameters.values
        assert ("head#1.pool" in values) == ("head#1.hidden[0]" in values)
        assert ("head#1.pool" in values) == (values["head"] == "#1")
        kinds.add(values["head"])
    if run.kind != "grid":  # which has come no further than the last choices
        assert kinds == {"None", "#1"}


def test_no_point_is_drawn_twice(run: Run) -> None:
    """Bayesian search is left out: it may well come back to a point that it likes."""
    if run.kind == "bayesian":
        pytest.skip("Keras Tuner's Bayesian search repeats points")
    points = [
        {k: v for k, v in values.items() if not k.startswith(("tuner/", NETWORK))}
        for name, values in run.drawn.items()
        if values and "tuner/trial_id" not in values
    ]
    assert len({exact(point) for point in points}) == len(points)


def test_constructor_builds_once(run: Run, tmp_path: Path) -> None:
    hypermodel = Counting(run.hypermodel.space, run.hypermodel.recipe)
    make_tuner(run.kind, hypermodel, tmp_path)
    assert len(hypermodel.built) == 1


def test_reload_knows_networks_and_weights(run: Run) -> None:
    again = make_tuner(run.kind, Counting(run.hypermodel.space, run.hypermodel.recipe), run.folder)
    assert set(again.oracle.trials) == {trial.trial_id for trial in run.trials}
    for old, new in zip(
        run.tuner.get_best_hyperparameters(3), again.get_best_hyperparameters(3), strict=True
    ):
        assert dict(old.values) == dict(new.values)
        assert kb.tuner.network_of(old) == kb.tuner.network_of(new)
    before, after = run.tuner.get_best_models()[0], again.get_best_models()[0]
    np.testing.assert_allclose(after.predict(X, verbose=0), before.predict(X, verbose=0), atol=1e-6)


def test_best_model_scores_what_its_trial_says(run: Run) -> None:
    model, trial = run.tuner.get_best_models()[0], run.tuner.oracle.get_best_trials()[0]
    assert model.evaluate(X, Y, verbose=0)[0] == pytest.approx(trial.score, rel=1e-4)


@pytest.mark.parametrize("kind", ["random", "grid"])
def test_small_space_is_searched_once_through_and_then_over(kind: str, tmp_path: Path) -> None:
    """What a trial built is kept beside its values and must not make them look new."""
    space = kb.Space(plain_net, filters=kb.per_stage(2, kb.choice(2, 4))).within(INPUT)
    tuner = make_tuner(kind, Untrained(space), tmp_path, max_trials=20)
    train(tuner)
    points = {
        (trial.hyperparameters.get("filters[0]"), trial.hyperparameters.get("filters[1]"))
        for trial in tuner.oracle.trials.values()
    }
    assert len(points) == len(tuner.oracle.trials) == 4
    assert {trial.status for trial in tuner.oracle.trials.values()} == {"COMPLETED"}


def branching(first: Any, second: Any = None) -> kb.Architecture:
    """A network with the kernel that one of two branches names."""
    kernels = [part["k"] for part in (first, second) if isinstance(part, dict)]
    return plain_net((2,), (1,), kernel_size=max(kernels, default=1), strides=(1,))


KERNEL = kb.choice(1, 3, 5, name="k")
SHARED = {
    "options of one choice": {"first": kb.choice({"k": KERNEL}, 0, {"k": KERNEL, "b": 1})},
    "two choices": {"first": kb.choice({"k": KERNEL}, 0), "second": kb.choice(0, {"k": KERNEL})},
    "a choice and its child": {
        "first": kb.choice(0, {"k": KERNEL, "in": kb.choice(0, {"k": KERNEL})})
    },
    "everywhere": {"first": {"k": KERNEL}, "second": kb.choice(0, {"k": KERNEL})},
}


@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize("kind", ["random", "grid"])
def test_one_name_under_several_conditions(kind: str, case: str, tmp_path: Path) -> None:
    """Keras Tuner loses the value of a name that is declared in two scopes."""
    space = kb.Space(branching, **SHARED[case]).within(INPUT)
    hypermodel = Untrained(space)
    tuner = make_tuner(kind, hypermodel, tmp_path, max_trials=4)
    assert len(hypermodel.built) == 1
    train(tuner)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED"] * 4
    assert len({exact(dict(t.hyperparameters.values)) for t in tuner.oracle.trials.values()}) == 4


@pytest.mark.slow
def test_nested_conditions_build_once_and_are_all_drawn(tmp_path: Path) -> None:
    """Keras Tuner builds once more for each scope it sees: here that would be five times."""
    leaf = kb.choice({"k": kb.choice(1, 3)}, {"k": kb.choice(3, 5)}, 0)
    space = kb.Space(branching, first=kb.choice(leaf, {"k": kb.choice(1, 5)}), second=leaf)
    hypermodel = Untrained(space.within(INPUT))
    tuner = make_tuner("random", hypermodel, tmp_path, max_trials=20)
    assert len(hypermodel.built) == 1
    train(tuner)
    seen = set()
    for trial in tuner.oracle.trials.values():
        values = {k: v for k, v in trial.hyperparameters.values.items() if k != NETWORK}
        seen |= set(values)
        for name in values:
            if "#" in name:
                parent, place = name.rsplit("#", 1)
                assert values[parent] == f"#{place.split('.')[0]}"
    assert seen == set(space.names())


# --- suggest in a build of one's own -------------------------------------------------------


def compiled(net: kb.Architecture) -> keras.Model:
    model = net.model(INPUT)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


class Own:
    """A build function of one's own; it fails if it is called for each scope."""

    def __init__(self, space: kb.Space) -> None:
        self.space, self.calls, self.nets = space, 0, []

    def __call__(self, hp: Any) -> keras.Model:
        self.calls += 1
        assert self.calls < 20, "the constructor does not end"
        rate = hp.Float("my_rate", 1e-3, 1e-1, sampling="log")
        net = kb.tuner.suggest(hp, self.space)
        self.nets.append(net)
        model = compiled(net)
        model.optimizer.learning_rate = rate
        return model


class OwnHyperModel(keras_tuner.HyperModel):
    def __init__(self, own: Own) -> None:
        super().__init__()
        self.own = own

    def build(self, hp: Any) -> keras.Model:
        return self.own(hp)


@pytest.mark.thin(4)
@pytest.mark.parametrize("form", [lambda own: own, OwnHyperModel], ids=["function", "class"])
@pytest.mark.parametrize("kind", ["random", "grid"])
def test_suggest_in_ones_own_build(form: Any, kind: str, tmp_path: Path) -> None:
    space = tiny_space().within(INPUT, BUDGET)
    own = Own(space)
    tuner = make_tuner(kind, form(own), tmp_path, max_trials=3)
    assert own.calls == 1
    train(tuner)
    trials = list(tuner.oracle.trials.values())
    assert [trial.status for trial in trials] == ["COMPLETED"] * 3
    for trial, net in zip(trials, own.nets[1:], strict=True):
        assert "my_rate" in trial.hyperparameters.values
        assert kb.tuner.network_of(trial.hyperparameters) == net
        assert net == space.build(space.repair(plain(trial.hyperparameters.values)))
        assert net.cost(INPUT).macs <= BUDGET.macs


@pytest.mark.slow
def test_suggest_below_a_condition_of_ones_own(tmp_path: Path) -> None:
    """Keras Tuner's own scopes keep working: it builds once more to see the other branch."""
    space = kb.Space(plain_net, filters=[kb.choice(2, 4), kb.choice(2, 4)]).within(INPUT)
    calls = []

    def build(hp: Any) -> keras.Model:
        kind = hp.Choice("kind", ["dense", "conv"])
        calls.append(kind)
        assert len(calls) < 20
        if kind == "conv":
            with hp.conditional_scope("kind", ["conv"]):
                return compiled(kb.tuner.suggest(hp, space))
        with hp.conditional_scope("kind", ["dense"]):
            units = hp.Int("units", 1, 3)
        model = keras.Sequential(
            [keras.Input(INPUT), keras.layers.Flatten(), keras.layers.Dense(units + 1)]
        )
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    tuner = make_tuner("random", build, tmp_path, max_trials=6)
    train(tuner)
    for trial in tuner.oracle.trials.values():
        assert trial.status == "COMPLETED"
        conv = trial.hyperparameters.get("kind") == "conv"
        assert ("filters[0]" in trial.hyperparameters.values) == conv
        assert ("units" in trial.hyperparameters.values) != conv
    assert {"conv", "dense"} == set(calls)


def test_suggest_outside_of_any_tuner_gives_the_default() -> None:
    space = tiny_space()
    hp = keras_tuner.HyperParameters()
    assert kb.tuner.suggest(hp, space) == space.build(space.default())
    assert kb.tuner.network_of(hp) == kb.tuner.network_of(dict(hp.values))
    bounded = space.within(INPUT, kb.Budget(macs=10e3))
    other = keras_tuner.HyperParameters()
    assert kb.tuner.suggest(other, bounded) == bounded.build(bounded.default())


@pytest.mark.slow
def test_fixed_hyperparameters_of_the_user_are_kept(tmp_path: Path) -> None:
    """`hyperparameters` of a tuner override the space, as Keras Tuner documents it."""
    given = keras_tuner.HyperParameters()
    given.Fixed("padding", "valid")
    tuner = make_tuner(
        "random",
        kb.tuner.HyperModel(tiny_space().within(INPUT)),
        tmp_path,
        hyperparameters=given,
        tune_new_entries=True,
        max_trials=3,
    )
    train(tuner)
    for trial in tuner.oracle.trials.values():
        net = kb.tuner.network_of(trial.hyperparameters)
        assert {row.spec.padding for row in net.rows if row.name != "head"} == {"valid"}


def test_a_value_from_elsewhere_is_refused_by_name() -> None:
    space = kb.Space(Recorder(), a=kb.choice(1, 2), b=kb.integer(1, 4), c=kb.real(0, 1))
    for name, value in (("a", 3), ("a", "x"), ("b", 9), ("b", "x"), ("c", 2.0), ("c", None)):
        hp = keras_tuner.HyperParameters()
        kb.tuner.suggest(hp, space)
        hp.values[name] = value
        with pytest.raises(ValueError, match=f"`{name}` must be .* Received: {name}="):
            kb.tuner.suggest(hp, space)


def test_network_of_a_trial_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be of a trial that built a network.*'a': 1"):
        kb.tuner.network_of({"a": 1})


# --- values through hyperparameters --------------------------------------------------------


def redrawn(hp: Any, seed: int) -> Any:
    """Random values as Keras Tuner's oracles draw them."""
    drawn = keras_tuner.HyperParameters()
    for index, parameter in enumerate(hp.space):
        drawn.merge([parameter])
        if drawn.is_active(parameter):
            drawn.values[parameter.name] = parameter.random_sample(seed + index)
    return drawn


@given(trees, st.integers(0, 10**6))
@settings(max_examples=120, deadline=None)
def test_any_tree_of_choices_goes_through_hyperparameters(tree: Values, seed: int) -> None:
    """The option at the drawn position reaches the builder, by hand, fresh and reloaded."""
    space = kb.Space(Recorder(), **with_choices(tree))
    hp = keras_tuner.HyperParameters()
    kb.tuner.suggest(hp, space)
    assert not hp.active_scopes
    assert not hp.inactive_scopes
    drawn = redrawn(hp, seed)
    names = set(drawn.values)
    options = {parameter.name: list(parameter.values) for parameter in drawn.space}

    def position(name: str, node: One) -> int:
        assert len(options[name]) == len(node.options)
        return options[name].index(drawn.values[name])

    arguments, values = resolved(tree, position)
    kb.tuner.suggest(drawn, space)
    assert exact(space.builder.calls[-1]) == exact(arguments)
    space.build(values)
    assert exact(space.builder.calls[-1]) == exact(arguments)
    reloaded = keras_tuner.HyperParameters.from_config(json.loads(json.dumps(drawn.get_config())))
    assert NETWORK in reloaded.values
    kb.tuner.suggest(reloaded, space)
    assert exact(space.builder.calls[-1]) == exact(arguments)
    assert set(values) <= names
    if not {"shared", "deep", "alone"} & set(space.names()):
        assert set(values) == names


@given(trees)
@settings(max_examples=60, deadline=None)
def test_keras_tuner_finds_all_drawn_values_active(tree: Values) -> None:
    """It deletes what it holds to be inactive, which would lose a value that is needed."""
    space = kb.Space(Recorder(), **with_choices(tree))
    hp = keras_tuner.HyperParameters()
    kb.tuner.suggest(hp, space)
    for seed in range(4):
        drawn = redrawn(hp, 100 * seed)
        before = dict(drawn.values)
        drawn.ensure_active_values()
        assert dict(drawn.values) == before


def test_numbers_keep_their_kind() -> None:
    """Integers and reals are ranges in Keras Tuner too, not lists of options."""
    space = kb.Space(
        Recorder(),
        **NUMBERS,
        e=kb.choice(0.5, 1.5),
        f=kb.boolean(),
        g=kb.choice("x", "y"),
    )
    hp = keras_tuner.HyperParameters()
    kb.tuner.suggest(hp, space)
    kinds = {parameter.name: type(parameter).__name__ for parameter in hp.space}
    assert kinds == dict(zip("abcdefg", ["Int"] * 2 + ["Float"] * 2 + ["Choice"] * 3, strict=True))
    samplings = {p.name: p.sampling for p in hp.space if p.name in "abcd"}
    assert samplings == {"a": "linear", "b": "log", "c": "linear", "d": "log"}
    assert space.builder.calls[-1] == space.default() | {"f": False}
    for seed in range(50):
        drawn = redrawn(hp, seed)
        kb.tuner.suggest(drawn, space)
        seen = space.builder.calls[-1]
        assert {name: seen[name] for name in "abcdeg"} == {n: drawn.get(n) for n in "abcdeg"}
        assert seen["f"] is (drawn.get("f") == "True")
        assert seen["a"] in (2, 5, 8, 11)


def test_the_very_end_of_a_range_is_its_end() -> None:
    """Bayesian search likes bounds, and there Keras Tuner's arithmetic goes past them."""
    random = Random(0)
    past = 0
    for _ in range(300):
        low, high = sorted(random.uniform(1e-5, 1e-1) for _ in range(2))
        space = kb.Space(
            Recorder(),
            a=kb.integer(2, 9, log=True),
            b=kb.real(low, high, log=True),
            c=kb.real(low, high),
        )
        hp = keras_tuner.HyperParameters()
        kb.tuner.suggest(hp, space)
        hp.values |= {p.name: p.prob_to_value(1.0) for p in hp.space}
        past += hp.values["b"] > high
        kb.tuner.suggest(hp, space)
        seen = space.builder.calls[-1]
        assert seen["a"] == 9
        assert low <= seen["b"] <= high
        assert low <= seen["c"] <= high
        assert seen["b"] == pytest.approx(high)
    assert past > 0


@pytest.mark.slow
def test_bayesian_search_that_stays_at_the_upper_end(tmp_path: Path) -> None:
    """The largest network always scores best, so that search goes for the end of the range."""

    class Larger(kb.tuner.HyperModel):
        def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
            return {"size": float(hp.get("filters[0]"))}

    space = kb.Space(plain_net, filters=[kb.integer(2, 9, log=True), 2]).within(INPUT)
    tuner = keras_tuner.BayesianOptimization(
        Larger(space),
        objective=keras_tuner.Objective("size", "max"),
        max_trials=8,
        num_initial_points=2,
        seed=1,
        directory=tmp_path,
    )
    tuner.search(verbose=0)
    assert {trial.status for trial in tuner.oracle.trials.values()} == {"COMPLETED"}
    assert max(trial.score for trial in tuner.oracle.trials.values()) >= 9


# --- the hypermodel's door -----------------------------------------------------------------


def test_hypermodel_refuses_a_space_that_does_not_know_its_input() -> None:
    for space in (tiny_space(), "resnet", kb.resnet, None):
        with pytest.raises(ValueError, match=r"space.within\(input_shape\). Received: space="):
            kb.tuner.HyperModel(space)


def test_hypermodel_takes_a_recipe_or_compile() -> None:
    space = tiny_space().within(INPUT)
    with pytest.raises(ValueError, match=r"`recipe` and `compile` exclude each other"):
        kb.tuner.HyperModel(space, recipe=kb.Recipe(), compile={"optimizer": "sgd"})
    with pytest.raises(ValueError, match=r"`recipe` must be .*Recipe. Received: recipe='a'"):
        kb.tuner.HyperModel(space, recipe="a")


def test_hypermodel_keeps_its_name() -> None:
    assert kb.tuner.HyperModel(tiny_space().within(INPUT), name="mine").name == "mine"


def test_compile_as_a_dict_makes_fresh_objects_for_each_model() -> None:
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.5))
    metric = keras.metrics.SparseTopKCategoricalAccuracy(1, name="top")
    hypermodel = kb.tuner.HyperModel(
        tiny_space().within(INPUT),
        compile={
            "optimizer": optimizer,
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "metrics": [metric, "accuracy"],
        },
    )
    models = [hypermodel.build(keras_tuner.HyperParameters()) for _ in range(2)]
    for model in models:
        model.fit(X, Y, batch_size=8, verbose=0)
        assert float(model.optimizer.learning_rate) == pytest.approx(0.01 * 0.5 ** (4 / 10))
        assert set(model.get_metrics_result()) >= {"loss", "top", "accuracy"}
    assert len({id(model.optimizer) for model in models} | {id(optimizer)}) == 3
    assert not metric.variables[0].numpy()
    assert not optimizer.built


@pytest.mark.slow
def test_compile_as_a_function_may_search_too(tmp_path: Path) -> None:
    def compile_(model: keras.Model, hp: Any) -> None:
        momentum = hp.Choice("momentum", [0.0, 0.5, 0.9])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01, momentum=momentum), loss)

    hypermodel = kb.tuner.HyperModel(tiny_space().within(INPUT, BUDGET), compile=compile_)
    tuner = make_tuner("random", hypermodel, tmp_path, max_trials=4)
    train(tuner)
    for trial in tuner.oracle.trials.values():
        assert trial.status == "COMPLETED"
        assert trial.hyperparameters.get("momentum") in (0.0, 0.5, 0.9)
        assert not any(name.startswith("recipe.") for name in trial.hyperparameters.values)


# --- recipes -------------------------------------------------------------------------------


def small_model() -> keras.Model:
    return plain_net((4, 4)).model(INPUT)


def test_recipe_choices_are_searched_under_their_own_names(tmp_path: Path) -> None:
    recipe = kb.Recipe(
        optimizer=kb.choice("sgd", "adamw"),
        learning_rate=kb.real(1e-3, 1e-1, log=True),
        weight_decay=kb.choice(None, 0.0, 1e-2),
        label_smoothing=kb.choice(0.0, 0.1),
        schedule=kb.choice(None, "cosine"),
    )
    models = []

    class Noting(kb.tuner.HyperModel):
        def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
            found = super().fit(hp, model, *args, **kwargs)
            models.append((dict(hp.values), model, found.history))
            return found

    hypermodel = Noting(tiny_space().within(INPUT, BUDGET), recipe)
    tuner = make_tuner("random", hypermodel, tmp_path, max_trials=6)
    train(tuner, epochs=2)
    assert len(models) == 6
    for values, model, history in models:
        names = {name for name in values if name.startswith("recipe.")}
        keys = ["optimizer", "learning_rate", "weight_decay", "label_smoothing", "schedule"]
        assert names == {f"recipe.{key}" for key in keys}
        assert type(model.optimizer).__name__.lower() == values["recipe.optimizer"]
        rates = [values["recipe.learning_rate"]] * 2
        if values["recipe.schedule"] == "cosine":
            rates[1] *= 0.5 * (1 + math.cos(math.pi / 2))
            assert history["learning_rate"] == pytest.approx(rates)
        assert float(model.optimizer.learning_rate) == pytest.approx(rates[-1])
        own = 0.004 if values["recipe.optimizer"] == "adamw" else None
        decay = {"None": own, "0.0": 0.0, "0.01": 0.01}[values["recipe.weight_decay"]]
        assert model.optimizer.weight_decay == decay
        smoothed = isinstance(model.loss, keras.losses.Loss) and getattr(
            model.loss, "label_smoothing", 0.0
        )
        assert smoothed == values["recipe.label_smoothing"]
    assert len({values["recipe.optimizer"] for values, *_ in models}) == 2


@pytest.mark.parametrize("name", ["sgd", "SGD", "adam", "adamw", "rmsprop", "nadam", "lion"])
def test_optimizers_by_name(name: str) -> None:
    model = small_model()
    kb.Recipe(optimizer=name, learning_rate=0.0125).compile(model)
    assert type(model.optimizer).__name__.lower() == name.lower()
    assert float(model.optimizer.learning_rate) == pytest.approx(0.0125)
    if name.lower() == "sgd":
        assert (model.optimizer.momentum, model.optimizer.nesterov) == (0.9, True)


@pytest.mark.parametrize(
    ("optimizer", "decay", "factor"),
    [
        ("sgd", 0.1, 0.1),
        ("adam", 0.1, 0.1),
        ("adamw", 0.1, 0.1),
        ("adamw", 0.0, 0.0),
        ("sgd", None, 0.0),
        ("adamw", None, 0.004),  # Keras' own
    ],
)
def test_weight_decay_is_of_kernels_alone(optimizer: str, decay: Any, factor: float) -> None:
    """A step without gradient leaves nothing but the decay: w (1 - learning rate x decay)."""
    model = small_model()
    for weight in model.trainable_weights:
        weight.assign(np.full(weight.shape, 2.0))
    kb.Recipe(optimizer=optimizer, learning_rate=0.5, weight_decay=decay).compile(model)
    model.optimizer.apply(
        [keras.ops.zeros(w.shape) for w in model.trainable_weights], model.trainable_weights
    )
    names = {weight.name for weight in model.trainable_weights}
    assert names == {"kernel", "bias", "gamma", "beta"}
    for weight in model.trainable_weights:
        expected = 2.0 * (1 - 0.5 * factor) if weight.name == "kernel" else 2.0
        np.testing.assert_allclose(np.asarray(weight), expected, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_label_smoothing_is_that_of_the_paper(smoothing: float) -> None:
    """arXiv:1512.00567, Sec. 7: (1 - s) of the label and s of an even distribution."""
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(12, 5)) * 3, rng.integers(0, 5, 12)
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = (1 - smoothing) * np.eye(5)[labels] + smoothing / 5
    expected = -(target * log_softmax).sum(1).mean()
    for loss, truth in (("sparse", labels), ("sparse", labels[:, None]), ("categorical", None)):
        model = keras.Sequential([keras.Input((5,)), keras.layers.Identity()])
        kb.Recipe(loss=loss, label_smoothing=smoothing, metrics=()).compile(model)
        truth = np.eye(5)[labels] if truth is None else truth
        found = model.evaluate(logits.astype("float32"), truth, verbose=0)
        assert found == pytest.approx(expected, rel=1e-5)


def test_smoothed_loss_is_saved_with_the_model(tmp_path: Path) -> None:
    model = small_model()
    kb.Recipe(label_smoothing=0.3).compile(model)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", safe_mode=True)
    assert loaded.evaluate(X, Y, verbose=0) == pytest.approx(model.evaluate(X, Y, verbose=0))
    assert loaded.loss.label_smoothing == 0.3


@pytest.mark.parametrize("epochs", [1, 2, 5])
@pytest.mark.parametrize("positional", [True, False])
def test_cosine_falls_from_the_rate_to_nearly_zero(epochs: int, positional: bool) -> None:
    """lr/2 (1 + cos(pi e/E)) in epoch e of E: Eq. 5 of arXiv:1608.03983 without restarts."""
    recipe = kb.Recipe(learning_rate=0.02, schedule="cosine")
    hypermodel = kb.tuner.HyperModel(tiny_space().within(INPUT), recipe)
    hp = keras_tuner.HyperParameters()
    model = hypermodel.build(hp)
    x, y = X[:4], Y[:4]
    if positional:
        history = hypermodel.fit(hp, model, x, y, 4, epochs, 0)
    else:
        history = hypermodel.fit(hp, model, x, y, epochs=epochs, verbose=0, callbacks=None)
    expected = [0.01 * (1 + math.cos(math.pi * epoch / epochs)) for epoch in range(epochs)]
    assert history.history["learning_rate"] == pytest.approx(expected)


def test_without_a_schedule_the_rate_stays() -> None:
    assert kb.Recipe().callbacks(5) == []


BAD_RECIPES = [
    ("optimizer", "adm", "the name of a Keras optimizer"),
    ("optimizer", None, "the name of a Keras optimizer"),
    ("optimizer", 3, "the name of a Keras optimizer"),
    ("learning_rate", 0, "a positive number or a Keras schedule"),
    ("learning_rate", -0.1, "a positive number or a Keras schedule"),
    ("learning_rate", "fast", "a positive number or a Keras schedule"),
    ("learning_rate", None, "a positive number or a Keras schedule"),
    ("learning_rate", math.nan, "a positive number or a Keras schedule"),
    ("weight_decay", -1e-3, "a number of 0 or more, or None"),
    ("weight_decay", "a", "a number of 0 or more, or None"),
    ("schedule", "cos", "'cosine', 'one-cycle', 'linear', 'steps' or None"),
    ("label_smoothing", 1, "a number from 0 up to but not including 1"),
    ("label_smoothing", -0.1, "a number from 0 up to but not including 1"),
    ("label_smoothing", None, "a number from 0 up to but not including 1"),
    ("label_smoothing", True, "a number from 0 up to but not including 1"),
    (
        "loss",
        "mes",
        "'head', 'sparse', 'categorical', a loss of Keras or its name, a function, or a dict of "
        "losses by output",
    ),
    ("loss_weights", {"box": -1}, "a dict of numbers of 0 or more by output, or None"),
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD_RECIPES)
def test_bad_recipe_arguments_and_options_are_refused_by_name(
    name: str, value: Any, expected: str
) -> None:
    message = f"`{name}` must be {expected}. Received: {name}={value!r}"
    good = getattr(kb.Recipe(), name)
    with pytest.raises(ValueError, match=re.escape(message)):
        kb.Recipe(**{name: value})
    with pytest.raises(ValueError, match=re.escape(message)):
        kb.Recipe(**{name: kb.choice(good, kb.choice(good, value))})
    with pytest.raises(ValueError, match=re.escape(message)):
        kb.Recipe().compile(small_model(), **{name: value})


def test_ends_of_a_range_in_a_recipe_are_checked() -> None:
    with pytest.raises(ValueError, match=r"`label_smoothing` must be .*label_smoothing=1\.0"):
        kb.Recipe(label_smoothing=kb.real(0.0, 1.0))
    with pytest.raises(ValueError, match=r"`learning_rate` must be .*learning_rate=0\.0"):
        kb.Recipe(learning_rate=kb.real(0.0, 1.0))


def test_misspelt_recipe_argument() -> None:
    with pytest.raises(TypeError, match="learning_rat"):
        kb.Recipe(learning_rat=0.1)


@pytest.mark.parametrize(
    ("recipe", "optimizer", "loss"),
    [
        (
            kb.Recipe(optimizer="adam", learning_rate=0.01),
            lambda: keras.optimizers.Adam(0.01),
            lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ),
        (
            kb.Recipe(optimizer="sgd", learning_rate=0.05, loss="categorical", label_smoothing=0.1),
            lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
            lambda: keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        ),
    ],
    ids=["adam", "sgd"],
)
def test_recipe_trains_as_the_same_compile_by_hand(recipe: Any, optimizer: Any, loss: Any) -> None:
    """The variables that it makes early must change neither weights nor metrics."""
    y = np.eye(2)[Y].astype("float32") if recipe.loss == "categorical" else Y
    found = []
    for by_hand in (True, False):
        keras.utils.set_random_seed(5)
        model = small_model()
        if by_hand:
            model.compile(optimizer=optimizer(), loss=loss(), metrics=["accuracy"])
        else:
            recipe.compile(model)
            assert int(model.optimizer.iterations) == 0
        history = model.fit(X, y, epochs=2, batch_size=8, verbose=0).history
        found.append((model.get_weights(), history))
    (by_hand_weights, by_hand_history), (weights, history) = found
    assert set(history) == set(by_hand_history) == {"loss", "accuracy"}
    for name, numbers in history.items():
        assert numbers == pytest.approx(by_hand_history[name], rel=1e-5)
    for first, second in zip(by_hand_weights, weights, strict=True):
        np.testing.assert_allclose(second, first, atol=1e-5)


def test_metrics_of_a_recipe_are_made_anew_for_each_model() -> None:
    metric = keras.metrics.SparseTopKCategoricalAccuracy(1, name="top")
    recipe = kb.Recipe(metrics=[metric, "accuracy"])
    models = [small_model(), small_model()]
    for model in models:
        recipe.compile(model)
        model.evaluate(X, Y, verbose=0)
    assert set(models[0].get_metrics_result()) == {"loss", "top", "accuracy"}
    models[0].reset_metrics()
    assert models[1].get_metrics_result()["top"] > 0
    assert not metric.variables[0].numpy()


@pytest.mark.parametrize("metrics", ["accuracy", None, (), ["accuracy"]])
def test_metrics_as_compile_takes_them(metrics: Any) -> None:
    model = small_model()
    kb.Recipe(metrics=metrics).compile(model)
    names = set(model.evaluate(X, Y, verbose=0, return_dict=True))
    assert names == ({"loss", "accuracy"} if metrics else {"loss"})


# --- search --------------------------------------------------------------------------------


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def searched(tuner: Any, folder: Path, **kwargs: Any) -> kb.tuner.Result:
    return kb.tuner.search(
        tuner, X, Y, validation_data=(X, Y), folder=folder, **{"epochs": 1, **kwargs}
    )


@dataclass
class Searched:
    folder: Path
    tuner: Any
    result: kb.tuner.Result
    output: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: Any) -> Searched:
    """One search of three trials with what it printed."""
    folder = tmp_path_factory.mktemp("search")
    keras.utils.set_random_seed(2)
    hypermodel = kb.tuner.HyperModel(
        tiny_space().within(INPUT, BUDGET), kb.Recipe(learning_rate=kb.real(1e-3, 1e-1, log=True))
    )
    tuner = make_tuner("random", hypermodel, folder / "tuner", max_trials=3)
    with pytest.MonkeyPatch.context() as patch:
        written = io.StringIO()
        patch.setattr("sys.stdout", written)
        result = searched(tuner, folder, epochs=2)
    return Searched(folder, tuner, result, written.getvalue())


def test_search_writes_one_row_a_trial(finished: Searched) -> None:
    rows = table(finished.folder)
    trials = finished.tuner.oracle.trials
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    for row, trial in zip(rows, trials.values(), strict=True):
        cost = kb.tuner.network_of(trial.hyperparameters).cost(INPUT)
        assert row["status"] == "completed"
        assert float(row["val_loss"]) == trial.score
        assert (int(row["params"]), int(row["macs"])) == (cost.params, cost.macs)
        assert float(row["seconds"]) >= 0
        for name, value in trial.hyperparameters.values.items():
            if name != NETWORK:
                assert row[name] == str(value)
    assert NETWORK not in rows[0]
    assert finished.result.trials[0]["macs"] == int(rows[0]["macs"])


def test_search_returns_the_best_trial(finished: Searched) -> None:
    result, best = finished.result, finished.tuner.oracle.get_best_trials()[0]
    assert result.score == best.score == min(float(r["val_loss"]) for r in table(finished.folder))
    assert result.network == kb.tuner.network_of(best.hyperparameters)
    expected = {k: v for k, v in best.hyperparameters.values.items() if k != NETWORK}
    assert result.values == expected
    assert result.model.count_params() == result.network.cost(INPUT).params
    assert result.model.evaluate(X, Y, verbose=0)[0] == pytest.approx(result.score, rel=1e-4)


WITHOUT_TUNER = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("keras_tuner", "sklearn"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Blocked())
import numpy as np, keras
import kblocks as kb
folder = sys.argv[1]
"""


@pytest.mark.system
def test_best_json_rebuilds_where_there_is_no_tuner(
    finished: Searched, fresh_process: Callable[..., str]
) -> None:
    """And takes the weights of `best.keras`, so that both speak of the same network."""
    script = WITHOUT_TUNER + (
        "net = kb.Architecture.from_json(open(folder + '/best.json').read())\n"
        "model = net.model((8, 8, 1))\n"
        "model.set_weights(keras.models.load_model(folder + '/best.keras').get_weights())\n"
        "x = np.load(folder + '/x.npy')\n"
        "np.save(folder + '/json.npy', model.predict(x, verbose=0))\n"
        "print(net.cost((8, 8, 1)).macs)\n"
    )
    np.save(finished.folder / "x.npy", X)
    printed = fresh_process(script, str(finished.folder))
    assert int(printed.split()[-1]) == finished.result.network.cost(INPUT).macs
    np.testing.assert_allclose(
        np.load(finished.folder / "json.npy"),
        finished.result.model.predict(X, verbose=0),
        atol=1e-5,
    )


@pytest.mark.system
def test_best_keras_loads_in_safe_mode_where_there_is_no_tuner(
    finished: Searched, fresh_process: Callable[..., str]
) -> None:
    script = WITHOUT_TUNER + (
        "model = keras.models.load_model(folder + '/best.keras', safe_mode=True)\n"
        "x = np.load(folder + '/x.npy')\n"
        "np.save(folder + '/keras.npy', model.predict(x, verbose=0))\n"
    )
    np.save(finished.folder / "x.npy", X)
    fresh_process(script, str(finished.folder))
    np.testing.assert_allclose(
        np.load(finished.folder / "keras.npy"),
        finished.result.model.predict(X, verbose=0),
        atol=1e-5,
    )


def test_output_that_is_no_terminal_is_one_plain_line_a_trial(finished: Searched) -> None:
    lines = [line for line in finished.output.splitlines() if line.strip()]
    assert "\x1b" not in finished.output
    assert "\r" not in finished.output
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    for line, row in zip(lines, table(finished.folder), strict=True):
        assert f"val_loss {float(row['val_loss']):.4f}" in line
        assert "parameters" in line
        assert "MACs" in line
    assert all("left" in line for line in lines)


def test_search_leaves_nothing_on_the_tuner(finished: Searched) -> None:
    assert not {"on_trial_begin", "on_trial_end"} & set(vars(finished.tuner))
    assert sorted(p.name for p in finished.folder.iterdir() if p.suffix != ".npy") == [
        "best.json",
        "best.keras",
        "trials.csv",
        "tuner",
    ]


def test_the_run_has_what_keras_tuner_does_not_keep(finished: Searched) -> None:
    run = finished.result.run
    assert run.input_shape == INPUT
    assert run.settings["sampler"] == "RandomSearch"
    assert finished.result.values.items() >= run.best().values.items()
    for trial in run.trials:
        assert trial.epochs == 2
        assert min(trial.history["val_loss"]) == pytest.approx(trial.scores[0])
        assert trial.costs.keys() == {"params", "macs", "activations", "latency"}
        assert trial.seconds > 0


def test_a_run_of_a_stock_tuner_has_a_report(finished: Searched, tmp_path: Path) -> None:
    page = report(finished.result.run, tmp_path, png=False).read_text(encoding="utf-8")
    assert "filters" in page
    assert 'id="curves"' in page
    assert 'id="network"' in page


class Faked(kb.tuner.HyperModel):
    """Instead of training gives a score or raises: `outcomes` in turn."""

    def __init__(self, *outcomes: Any) -> None:
        super().__init__(kb.Space(plain_net, filters=(2, kb.integer(1, 500))).within(INPUT))
        self.outcomes = list(outcomes)

    def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        # The checkpoint that the tuner would have made.
        for callback in kwargs["callbacks"]:
            callback.set_model(model)
            callback.on_epoch_end(0, {"val_loss": outcome})
        return {"val_loss": outcome}


def faked(folder: Path, *outcomes: Any, **kwargs: Any) -> Any:
    kwargs = {"max_trials": len(outcomes), **kwargs}
    return make_tuner("random", Faked(*outcomes), folder / "tuner", **kwargs)


def test_verbose_0_prints_nothing(tmp_path: Path, capsys: Any) -> None:
    tuner = faked(tmp_path, 0.5, 0.25)
    capsys.readouterr()
    searched(tuner, tmp_path, verbose=0)
    assert capsys.readouterr().out == ""
    assert len(table(tmp_path)) == 2


def test_a_trial_that_raises_is_in_the_table_and_the_search_goes_on(
    tmp_path: Path, capsys: Any
) -> None:
    tuner = faked(tmp_path, 0.5, ZeroDivisionError("the cause"), 0.25)
    result = searched(tuner, tmp_path)
    assert [row["status"] for row in table(tmp_path)] == ["completed", "failed", "completed"]
    assert [row["val_loss"] for row in table(tmp_path)] == ["0.5", "", "0.25"]
    assert result.score == 0.25
    assert table(tmp_path)[1]["failure"] == "error: ZeroDivisionError: the cause"
    assert "error: ZeroDivisionError: the cause" in capsys.readouterr().out
    assert "the cause" in result.run.trials[1].failure.traceback


def test_a_score_that_is_no_number_is_a_failure_and_never_the_best(
    tmp_path: Path, capsys: Any
) -> None:
    result = searched(faked(tmp_path, math.nan, 0.5, math.nan, 0.25), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    lines = [line for line in lines if line.startswith("trial")]
    assert "diverged: val_loss is nan" in "".join(lines)
    assert "val_loss 0.2500" in "".join(lines)
    assert result.score == 0.25
    assert [row["status"] for row in table(tmp_path)] == ["failed", "completed"] * 2


@pytest.mark.parametrize("trials", [1, 2, 5])
def test_where_every_trial_fails_the_cause_is_told(trials: int, tmp_path: Path) -> None:
    """From the third failure in a row it is Keras Tuner that ends the search."""
    tuner = faked(tmp_path, *[ZeroDivisionError("the cause")] * trials)
    with pytest.raises(RuntimeError, match=r"ZeroDivisionError: the cause"):
        searched(tuner, tmp_path)
    assert [row["status"] for row in table(tmp_path)] == ["failed"] * min(trials, 3)
    assert not (tmp_path / "best.keras").exists()
    assert not {"on_trial_begin", "on_trial_end"} & set(vars(tuner))


def test_a_trial_that_is_tried_again_is_one_row(tmp_path: Path, capsys: Any) -> None:
    outcomes = [ZeroDivisionError("once"), 0.5, 0.25]
    tuner = faked(tmp_path, *outcomes, max_trials=2, max_retries_per_trial=1)
    result = searched(tuner, tmp_path)
    assert [(row["status"], row["val_loss"]) for row in table(tmp_path)] == [
        ("completed", "0.5"),
        ("completed", "0.25"),
    ]
    assert [trial.attempts for trial in result.run.trials] == [2, 1]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trial")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]


def test_hooks_of_the_users_are_called_and_kept(tmp_path: Path) -> None:
    tuner = faked(tmp_path, 0.5, 0.25)
    ended = []
    original = tuner.on_trial_end

    def mine(trial: Any) -> None:
        original(trial)
        ended.append(trial.trial_id)

    tuner.on_trial_end = mine
    searched(tuner, tmp_path)
    assert ended == list(tuner.oracle.trials)
    assert tuner.on_trial_end is mine
    assert "on_trial_begin" not in vars(tuner)


def test_a_search_that_goes_on_keeps_the_earlier_rows(tmp_path: Path, capsys: Any) -> None:
    searched(faked(tmp_path, 0.5, 0.25), tmp_path)
    capsys.readouterr()
    result = searched(faked(tmp_path, 0.125, 0.75, max_trials=4), tmp_path)
    histories = [list(trial.history["val_loss"]) for trial in result.run.trials]
    assert histories == [[0.5], [0.25], [0.125], [0.75]]
    assert all(trial.seconds > 0 for trial in result.run.trials)
    assert [row["val_loss"] for row in table(tmp_path)] == ["0.5", "0.25", "0.125", "0.75"]
    assert all(int(row["macs"]) > 0 for row in table(tmp_path))
    assert len(result.trials) == 4
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trial")]
    assert [line.split()[1] for line in lines] == ["3/4", "4/4"]


def test_a_search_of_an_earlier_version_goes_on(tmp_path: Path, caplog: Any) -> None:
    """It has no notes of its trials, and a table with other columns, which is kept."""
    searched(faked(tmp_path, 0.5, 0.25), tmp_path)
    for path in tmp_path.glob("tuner/**/kblocks.json"):
        path.unlink()
    older = '"trial","status","val_loss","seconds"\n"0","COMPLETED",0.5,1.5\n'
    (tmp_path / "trials.csv").write_text(older)
    result = searched(faked(tmp_path, 0.125, max_trials=3), tmp_path)
    assert (tmp_path / "trials-1.csv").read_text() == older
    assert "trials-1.csv" in caplog.text
    assert [row["val_loss"] for row in table(tmp_path)] == ["0.5", "0.25", "0.125"]
    assert all(int(row["macs"]) > 0 for row in table(tmp_path))
    assert [trial.seconds is None for trial in result.run.trials] == [True, True, False]


def test_search_over_a_build_of_ones_own(tmp_path: Path) -> None:
    own = Own(tiny_space().within(INPUT, BUDGET))
    tuner = make_tuner("random", own, tmp_path / "tuner", max_trials=2)
    result = searched(tuner, tmp_path)
    text = (tmp_path / "best.json").read_text(encoding="utf-8")
    assert kb.Architecture.from_json(text) == result.network
    assert result.network in own.nets
    counts = [net.cost(INPUT).params for net in own.nets[-2:]]
    assert [int(row["params"]) for row in table(tmp_path)] == counts


def test_search_over_a_model_that_is_not_ours(tmp_path: Path) -> None:
    def build(hp: Any) -> keras.Model:
        layers = [keras.layers.Flatten(), keras.layers.Dense(hp.Int("units", 2, 5))]
        model = keras.Sequential([keras.Input(INPUT), *layers])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    tuner = make_tuner("random", build, tmp_path / "tuner", max_trials=2)
    result = searched(tuner, tmp_path)
    assert result.network is None
    assert not (tmp_path / "best.json").exists()
    assert len(table(tmp_path)) == 2


def test_callbacks_of_the_users_run_in_every_trial(tmp_path: Path) -> None:
    path = tmp_path / "epochs.txt"

    class Writing(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            with path.open("a") as file:
                file.write(f"{epoch} ")

    space = kb.Space(plain_net, filters=(2, kb.choice(2, 4))).within(INPUT)
    tuner = make_tuner("random", kb.tuner.HyperModel(space), tmp_path / "tuner", max_trials=2)
    searched(tuner, tmp_path, epochs=2, callbacks=[Writing()])
    assert path.read_text().split() == ["0", "1"] * 2


# --- progress and files --------------------------------------------------------------------


def run_of(*trials: Record) -> kb.tuner.Run:
    return kb.tuner.Run("search", (Objective("val_accuracy", "max"),), {}, trials)


def test_time_left_is_the_mean_of_the_trials_times_those_left(monkeypatch: Any) -> None:
    """Each of four trials takes a minute; those of an earlier run took none of this one's time."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for earlier, left in ((0, ["3:00", "2:00", "1:00", "0:00"]), (2, ["1:00", "0:00"])):
        written = io.StringIO()
        trials = [Record(number, "completed", (0.5,)) for number in range(earlier)]
        live = Live(
            lambda known=trials: run_of(*known), 4, console=Console(file=written, width=120)
        )
        with live:
            for number in range(earlier, 4):
                now[0] += 60
                trials.append(Record(number, "completed", (0.5,)))
                live._look()
        lines = [line for line in written.getvalue().splitlines() if line.startswith("trial")]
        assert [line.split()[-2] for line in lines] == left


def test_a_terminal_sees_the_epochs_as_they_pass() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120)
    history = {"val_accuracy": [0.5, 0.625]}
    run = run_of(Record(0, "running", history=history, epochs=4))
    console.print(Live(lambda: run, 3, console=console)._table(run))
    assert "epoch 2/4 val_accuracy 0.6250" in " ".join(written.getvalue().split())
    assert "trial 0 of 3" in written.getvalue()


def test_whole_replaces_a_file_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    with files.whole(path) as written:
        written.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with files.whole(path) as written:
        written.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_whole_keeps_the_old_file_when_the_block_fails(when: str, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with files.whole(path) as written:
            if when == "after":
                written.write_text("new")
            raise KeyError("stopped")

    with pytest.raises(KeyError):
        write()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_table_has_a_column_for_every_key_of_any_row(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": "x,y"}, {"a": 2, "c": 'he said "no"'}]
    files.write_table(tmp_path / "t.csv", rows)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert read == [
        {"a": "1", "b": "x,y", "c": ""},
        {"a": "2", "b": "", "c": 'he said "no"'},
    ]


def test_values_of_a_trial_copy_with_their_network() -> None:
    """However Keras Tuner or a user copies them."""
    hp = keras_tuner.HyperParameters()
    kb.tuner.suggest(hp, tiny_space())
    text = hp.values[NETWORK]
    copies = [dict(hp.values), {**hp.values}, hp.values.copy(), copy.copy(hp.values)]
    copies += [copy.deepcopy(hp.values), json.loads(json.dumps(hp.values)), hp.copy().values]
    assert all(found[NETWORK] == text for found in copies)
