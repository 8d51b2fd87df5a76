"""The same space under every tuner, under Optuna and by hand; costs as objectives."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import NUMBERS, Recorder, Values, exact, plain_net, resolved, trees, with_choices
from test_tuner import INPUT, NETWORK, Counting, X, Y, make_tuner, train

import kblocks as kb

STOCK = ("RandomSearch", "BayesianOptimization", "Hyperband", "GridSearch")
KINDS = {"random": 0, "bayesian": 1, "hyperband": 2, "grid": 3}
BUDGET = kb.Budget(macs=5e3)


def varied() -> kb.Space:
    """Every kind of choice: one in ten or fewer of its points fit the budget."""
    number = kb.choice(2, 3, 1)
    return kb.Space(
        plain_net,
        filters=kb.per_stage(number, kb.choice(16, 2, 12), kb.integer(2, 24), kb.integer(2, 24)),
        blocks=kb.per_stage(number, kb.choice(2, 1, 3)),
        strides=kb.per_stage(number, 1, 2, 1),
        kernel_size=kb.choice(5, (1, 3), 3),
        padding=kb.choice("same", "valid"),
        head=kb.choice(
            None,
            {"pool": kb.choice("max", "concat"), "dropout": kb.real(0.1, 0.5)},
            {"pool": "flatten", "hidden": kb.choice((), (8,), (16, 4))},
        ),
    )


def written(space: kb.Space, values: Values) -> Values:
    """Values as tuners hold them."""
    return space.point(values).recorded


# --- one network for one set of values -----------------------------------------------------


def by_hand(space: kb.Space, values: Values, folder: Path) -> kb.Architecture:
    return space.build(values)


def by_suggest(space: kb.Space, values: Values, folder: Path) -> kb.Architecture:
    hp = keras_tuner.HyperParameters()
    hp.values = written(space, values)
    return kb.tuner.suggest(hp, space)


def by_optuna(space: kb.Space, values: Values, folder: Path) -> kb.Architecture:
    trial = optuna.trial.FixedTrial(written(space, values))
    net = space.suggest(trial)
    assert kb.Architecture.from_json(trial.user_attrs[NETWORK]) == net
    assert set(trial.params) == set(values)  # inactive choices are not asked for
    return net


def by_study(space: kb.Space, values: Values, folder: Path) -> kb.Architecture:
    nets: list[kb.Architecture] = []

    def objective(trial: Any) -> float:
        nets.append(space.suggest(trial))
        return 0.0

    study = optuna.create_study()
    study.enqueue_trial(written(space, values))
    study.optimize(objective, n_trials=1)
    return nets[0]


def by_tuner(kind: str) -> Callable[..., kb.Architecture]:
    def run(space: kb.Space, values: Values, folder: Path) -> kb.Architecture:
        """Every value is given to the tuner as fixed, as Keras Tuner documents it."""
        given = keras_tuner.HyperParameters()
        for name, value in written(space, values).items():
            given.Fixed(name, value)
        hypermodel = Counting(space, latency=False)
        arguments: dict[str, Any] = {"hyperparameters": given, "tune_new_entries": False}
        tuner = make_tuner(kind, hypermodel, folder, **arguments)
        trial = tuner.oracle.create_trial("tuner0")
        hypermodel.build(trial.hyperparameters)
        return kb.tuner.network_of(trial.hyperparameters)

    return run


WAYS: dict[str, Callable[..., kb.Architecture]] = {
    "by hand": by_hand,
    "kb.tuner.suggest": by_suggest,
    "Optuna, fixed": by_optuna,
    "Optuna, study": by_study,
    **{f"Keras Tuner, {kind}": by_tuner(kind) for kind in KINDS},
}


def test_the_stock_tuners_are_all_here() -> None:
    found = {
        name
        for name, value in vars(keras_tuner).items()
        if isinstance(value, type)
        and issubclass(value, keras_tuner.Tuner)
        and value is not keras_tuner.Tuner
    }
    assert found == set(STOCK)


@pytest.mark.thin(3)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(4))
def test_the_same_values_give_the_same_network(way: str, seed: int, tmp_path: Path) -> None:
    space = varied().within(INPUT, BUDGET)
    values = space.sample(seed)
    assert WAYS[way](space, values, tmp_path) == space.build(values)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "by hand"])
def test_values_that_do_not_fit_give_the_network_of_the_repaired_ones(
    way: str, tmp_path: Path
) -> None:
    space = varied().within(INPUT, BUDGET)
    values = varied().sample(3)
    assert space.repair(values) != values
    assert WAYS[way](space, values, tmp_path) == space.build(space.repair(values))


@given(trees, st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_any_tree_of_choices_goes_through_optuna(tree: Values, seed: int) -> None:
    """Against a second reading of the tree."""
    space = kb.Space(Recorder(), **with_choices(tree))

    class Trial(optuna.trial.FixedTrial):
        def set_user_attr(self, key: str, value: Any) -> None:
            assert key == NETWORK

    values = space.sample(seed)
    trial = Trial(written(space, values))
    space.suggest(trial)
    positions = {n: space.tree.dimensions[n].kind.index(v) for n, v in values.items()}
    arguments, known = resolved(tree, lambda name, node: positions[name])
    assert exact(space.builder.calls[-1]) == exact(arguments)
    assert set(trial.params) == set(known)


def test_numbers_are_ranges_in_optuna() -> None:
    space = kb.Space(
        Recorder(),
        **NUMBERS,
        e=kb.choice(3, (1, 3), None),
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    study.optimize(lambda trial: float(bool(space.suggest(trial).rows)), n_trials=30)
    found = study.trials[0].distributions
    ints, floats = optuna.distributions.IntDistribution, optuna.distributions.FloatDistribution
    assert found["a"] == ints(2, 11, step=3)
    assert found["b"] == ints(1, 64, log=True)
    assert found["c"] == floats(0.5, 2)
    assert found["d"] == floats(1e-4, 1, log=True)
    assert found["e"].choices == ("3", "1x3", "None")
    assert {call["e"] for call in space.builder.calls} == {3, (1, 3), None}


# --- searches in which nearly nothing fits -------------------------------------------------


@pytest.mark.slow
def test_nine_in_ten_points_of_these_searches_do_not_fit() -> None:
    free, bounded = varied(), varied().within(INPUT, BUDGET)
    missed = sum(bounded.repair(v) != v for v in map(free.sample, range(400)))
    assert missed >= 0.9 * 400


@pytest.mark.system
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow if k != "random" else ()) for k in KINDS]
)
def test_a_search_trains_as_many_networks_as_it_was_asked_for(
    kind: str, tmp_path: Path, fresh_process: Callable[..., str]
) -> None:
    """All of them fit; after a reload each is rebuilt from its trial, without a tuner too."""
    space = varied().within(INPUT, BUDGET)
    hypermodel = Counting(space, kb.Recipe(learning_rate=0.01))
    tuner = make_tuner(kind, hypermodel, tmp_path)
    train(tuner)
    trials = list(tuner.oracle.trials.values())
    assert len(trials) == 6
    assert {trial.status for trial in trials} == {"COMPLETED"}
    trained = hypermodel.built[1:]  # the first is the constructor's
    assert len(trained) == 6
    nets = [kb.Architecture.from_json(text) for _, text in trained]
    assert all(net.cost(INPUT).macs <= BUDGET.macs for net in nets)
    for trial, net in zip(trials, nets, strict=True):
        cost = net.cost(INPUT)
        for name in ("params", "macs", "activations"):
            assert trial.metrics.get_best_value(name) == getattr(cost, name)
        assert 1e-5 < trial.metrics.get_best_value("latency") < 10
    again = make_tuner(kind, Counting(space, kb.Recipe(learning_rate=0.01)), tmp_path)
    for trial, net in zip(trials, nets, strict=True):
        found = again.oracle.get_trial(trial.trial_id).hyperparameters
        assert kb.tuner.network_of(found) == net
        left = {k: v for k, v in found.values.items() if k in space.names()}
        hp = keras_tuner.HyperParameters()
        hp.values = left
        assert kb.tuner.suggest(hp, space) == net
    texts = [t.hyperparameters.values[NETWORK] for t in trials]
    (tmp_path / "nets.json").write_text(json.dumps(texts))
    printed = fresh_process(REBUILD, str(tmp_path / "nets.json"))
    assert printed.split() == [str(params) for params, _ in trained]


REBUILD = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("keras_tuner", "optuna", "sklearn"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Blocked())
import json
import kblocks as kb
for text in json.load(open(sys.argv[1])):
    print(kb.Architecture.from_json(text).model((8, 8, 1)).count_params())
"""


class Drawn(kb.tuner.HyperModel):
    """Notes the values of every trial; its score is their number."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.drawn: list[Values] = []

    def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        self.drawn.append(dict(hp.values))
        return {"val_loss": float(len(self.drawn))}


@pytest.mark.thin(4)
@pytest.mark.parametrize("kind", KINDS)
def test_search_tries_the_default_first_under_stock_tuners(kind: str, tmp_path: Path) -> None:
    """And what follows is the tuner's own: none of them has the default twice but Hyperband,
    which trains its best once more for longer."""
    space = varied().within(INPUT)
    recipe = kb.Recipe(optimizer=kb.choice("sgd", "adam"), learning_rate=kb.choice(0.03, 0.1))
    hypermodel = Drawn(space, recipe)
    tuner = make_tuner(kind, hypermodel, tmp_path)
    populate = tuner.oracle.populate_space
    with contextlib.suppress(ValueError, FileNotFoundError):  # there are no weights to load
        kb.tuner.search(tuner, X, Y, validation_data=(X, Y), folder=tmp_path / "out", verbose=0)
    first, *others = hypermodel.drawn
    defaults = written(space, space.default()) | {
        "recipe.optimizer": "sgd",
        "recipe.learning_rate": 0.03,
    }
    known = set(space.names()) | {"recipe.optimizer", "recipe.learning_rate"}
    assert {name: value for name, value in first.items() if name in known} == defaults
    assert kb.tuner.network_of(first) == space.build(space.default())
    assert tuner.oracle.populate_space == populate  # as it was
    for values in others:
        same = {name: value for name, value in values.items() if name in known} == defaults
        assert not same or values.get("tuner/round", 0) > 0
    assert len(others) >= 3


def test_samples_begin_with_the_default() -> None:
    space = varied().within(INPUT)
    assert next(space.samples(0)) == space.default()


# --- costs as objectives -------------------------------------------------------------------


@pytest.mark.system
@pytest.mark.parametrize("name", ["params", "macs", "activations", "latency"])
def test_costs_are_objectives(name: str, tmp_path: Path) -> None:
    space = varied().within(INPUT, kb.Budget(macs=40e3))
    tuner = keras_tuner.RandomSearch(
        kb.tuner.HyperModel(space),
        objective=keras_tuner.Objective(name, "min"),
        max_trials=4,
        seed=5,
        directory=tmp_path,
    )
    train(tuner)
    trials = tuner.oracle.get_best_trials(4)
    assert len(trials) == 4
    assert [trial.score for trial in trials] == sorted(trial.score for trial in trials)
    if name != "latency":
        for trial in trials:
            net = kb.tuner.network_of(trial.hyperparameters)
            assert trial.score == getattr(net.cost(INPUT), name)
    assert len({trial.score for trial in trials}) > 1


def test_costs_are_in_the_history_and_latency_can_be_left_out() -> None:
    space = varied().within(INPUT, BUDGET)
    for timed in (True, False):
        hypermodel = kb.tuner.HyperModel(space, latency=timed)
        hp = keras_tuner.HyperParameters()
        model = hypermodel.build(hp)
        history = hypermodel.fit(hp, model, X, Y, epochs=2, verbose=0).history
        cost = kb.tuner.network_of(hp).cost(INPUT)
        assert history["params"] == [cost.params] * 2 == [model.count_params()] * 2
        assert history["macs"] == [cost.macs] * 2
        assert ("latency" in history) == timed


def test_costs_join_the_logs_of_a_model_of_ones_own() -> None:
    net = plain_net((2, 2))
    model = net.model(INPUT)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    costs = kb.tuner.CostLogs(net, INPUT, latency=False)
    history = model.fit(X, Y, verbose=0, callbacks=[costs]).history
    assert history["macs"] == [net.cost(INPUT).macs]
    assert np.isfinite(history["loss"][0])


@pytest.mark.parametrize(
    "sampler",
    [lambda: optuna.samplers.NSGAIISampler(seed=0), lambda: optuna.samplers.TPESampler(seed=0)],
    ids=["NSGA-II", "TPE"],
)
def test_optuna_searches_for_a_pareto_front(sampler: Callable[[], Any]) -> None:
    """Of two costs that pull apart: its best trials are those that none beats in both."""
    space = varied().within(INPUT, BUDGET)

    def objective(trial: Any) -> tuple[int, int]:
        cost = space.suggest(trial).cost(INPUT)
        return cost.params, cost.macs

    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler())
    study.optimize(objective, n_trials=60)
    points = {t.number: (-t.values[0], t.values[1]) for t in study.trials}
    front = {
        number
        for number, (a, b) in points.items()
        if not any((c, d) != (a, b) and c <= a and d <= b for c, d in points.values())
    }
    assert {trial.number for trial in study.best_trials} == front
    for trial in study.best_trials:
        net = kb.Architecture.from_json(trial.user_attrs[NETWORK])
        assert net.cost(INPUT).macs <= BUDGET.macs
        assert [net.cost(INPUT).params, net.cost(INPUT).macs] == trial.values
