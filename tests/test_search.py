"""`kb.tuner.Tuner` in one process: what it tries, keeps, refuses and goes on with."""

from __future__ import annotations

import csv
import html
import io
import itertools
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import keras
import keras_tuner
import numpy as np
import optuna
import pytest
import tensorflow
from rich.console import Console

import kblocks as kb
from kblocks.command.stored import opened
from kblocks.command.tables import of_run
from kblocks.tuner import records
from kblocks.tuner.files import table_of, write_table
from kblocks.tuner.records import Objective
from kblocks.tuner.reporting.report import report
from kblocks.tuner.running.jobs import ObjectJob
from kblocks.tuner.running.recorder import Progress

INPUT = (8, 8, 1)
RNG = np.random.default_rng(0)
X = RNG.random((64, *INPUT), dtype="float32")
Y = RNG.integers(0, 3, 64)


def test_the_table_names_machines_where_there_are_several() -> None:
    first = records.Record(0, "completed", (0.5,), owner="one/abc/pid:[1]|12|34")
    trials = (first, replace(first, number=1, owner="two|12|34"))
    run = records.Run("toy", (Objective("val_loss", "min"),), {}, trials)
    assert [row["machine"] for row in table_of(run)] == ["one", "two"]
    alone = replace(run, trials=(first, replace(first, number=1, owner="")))
    assert not any("machine" in row for row in table_of(alone))


def space(**changed: Any) -> kb.Space:
    arguments: dict[str, Any] = {
        "classes": 3,
        "blocks": [1, kb.choice(1, 2)],
        "filters": [kb.choice(4, 8), kb.choice(8, 16)],
        "kernel_size": kb.choice(3, 5),
        "stem": {"filters": 4, "kernel_size": 3, "strides": 1, "pool": None},
    }
    return kb.Space(kb.resnet, **{**arguments, **changed})


class Scored(kb.tuner.HyperModel):
    """Our hypermodel whose networks are scored by their cost in place of training."""

    def build(self, hp: Any) -> keras.Model:
        kb.tuner.suggest(hp, self.space)
        return dense()

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        macs = kb.tuner.network_of(hp).cost(self.space.input_shape).macs
        return {"val_accuracy": 1 / (1 + abs(math.log(macs / 1e5))), "macs": macs}


def scored(searched: kb.Space | None = None, recipe: kb.Recipe | None = None) -> Scored:
    return Scored(searched or space().within(INPUT), recipe, latency=False)


class Other(keras_tuner.HyperModel):
    """A HyperModel of somebody else, with scopes, loops and a fit of its own."""

    def __init__(self, options: tuple[int, ...] = (1, 2, 3)) -> None:
        super().__init__()
        self.options = options

    def build(self, hp: Any) -> keras.Model:
        kind = hp.Choice("kind", ["narrow", "wide"])
        with hp.conditional_scope("kind", ["wide"]):
            if kind == "wide":
                hp.Int("width", 8, 32, step=8)
        for layer in range(hp.Choice("layers", list(self.options))):
            hp.Float(f"rate_{layer}", 1e-3, 1e-1, sampling="log")
        return dense()

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        return sum(v for k, v in hp.values.items() if k.startswith("rate_")) + hp.get("layers")


def dense() -> keras.Model:
    model = keras.Sequential([keras.Input(INPUT), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    return model


Make = Callable[..., kb.tuner.Tuner]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def tuner(hypermodel: Any = None, objective: Any = "val_accuracy", **settings: Any) -> Any:
        settings = {"workers": 0, "directory": tmp_path, "seed": 1, **settings}
        return kb.tuner.Tuner(hypermodel or scored(), objective, **settings)

    return tuner


def keys(run: kb.tuner.Run) -> list[Any]:
    nets = [kb.Architecture.from_json(str(trial.network)) for trial in run.trials]
    return [net.canonical(INPUT) for net in nets]


# --- what is tried -----------------------------------------------------------------------


@pytest.mark.thin(2)
@pytest.mark.parametrize("sampler", ["tpe", "random", "grid", "nsga2"])
def test_the_default_comes_first_and_no_network_twice(make: Make, sampler: str) -> None:
    run = make(sampler=sampler, trials=14, checkpoints=0).search(X, Y, verbose=0)
    searched = space().within(INPUT)
    assert run.trials[0].values == searched.default()
    assert [trial.state for trial in run.trials] == ["completed"] * 14
    assert len(set(keys(run))) == 14
    for trial in run.trials:  # what is recorded is what was built
        net = searched.build(trial.values)
        assert net.to_json() == trial.network
        assert trial.costs["macs"] == net.cost(INPUT).macs


def test_a_small_space_ends_when_all_of_it_was_tried(make: Make) -> None:
    """8x8 is 1x1 in the last stage: there kernels of 3 and 1 on one pixel are the same network."""
    small = kb.Space(
        kb.resnet,
        classes=3,
        blocks=[1, 1, 1, 1],
        filters=[4, 4, 4, kb.choice(4, 8)],
        kernel_size=[3, 3, 3, kb.choice(3, 5, 7)],
        stem={"filters": 4, "kernel_size": 3, "strides": 1, "pool": None},
    ).within(INPUT)
    options = itertools.product((4, 8), (3, 5, 7))
    values = [{"filters[3]": f, "kernel_size[3]": k} for f, k in options]
    different = {small.key(v) for v in values}
    assert len(different) < len(values)
    for sampler in ("tpe", "random", "grid"):
        tuner = make(scored(small), sampler=sampler, trials=20, project_name=sampler)
        run = tuner.search(X, Y, verbose=0)
        assert len(run.trials) == len(different)
        assert {small.key(trial.values) for trial in run.trials} == different


@pytest.mark.thin(3)
@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_every_trial_keeps_the_budget(make: Make, sampler: str) -> None:
    wide = space(
        blocks=kb.per_stage(3, kb.choice(1, 2, 3)),
        filters=kb.per_stage(3, kb.choice(4, 8, 16, 32)),
        kernel_size=kb.per_stage(3, kb.choice(3, 5, 7)),
    )
    free, bound = wide.within(INPUT), wide.within(INPUT, kb.Budget(macs=3e5, min_macs=1.5e5))
    random = Random(0)
    drawn = [free.tree.draw(random) for _ in range(500)]
    assert sum(bound.violation(point) is None for point in drawn) < 100  # most do not fit
    run = make(scored(bound), sampler=sampler, trials=16, checkpoints=0).search(X, Y, verbose=0)
    assert len(run.completed()) == 16
    for trial in run.trials:
        assert 1.5e5 <= kb.Architecture.from_json(str(trial.network)).cost(INPUT).macs <= 3e5
        assert bound.repair(trial.values) == trial.values


def test_a_grid_goes_through_all_that_fits(make: Make) -> None:
    bound = space().within(INPUT, kb.Budget(macs=2e5))
    names = {"blocks[1]": (1, 2), "filters[0]": (4, 8), "filters[1]": (8, 16)}
    names["kernel_size"] = (3, 5)
    points = [dict(zip(names, point, strict=True)) for point in itertools.product(*names.values())]
    fitting = [p for p in points if bound.build(p).cost(INPUT).macs <= 2e5]
    assert 0 < len(fitting) < len(points)
    run = make(scored(bound), sampler="grid").search(X, Y, verbose=0)
    tried = sorted(tuple(sorted(trial.values.items())) for trial in run.trials)
    assert tried == sorted(tuple(sorted(point.items())) for point in fitting)


def test_a_grid_has_ten_values_of_a_recipes_range(make: Make) -> None:
    class Asked(Scored):
        def build(self, hp: Any) -> keras.Model:
            self.declare_hyperparameters(hp)
            return super().build(hp)

    recipe = kb.Recipe(learning_rate=kb.real(1e-4, 1e-2, log=True))
    small = space(blocks=[1, 1], filters=[4, 8], kernel_size=3).within(INPUT)
    run = make(Asked(small, recipe, latency=False), sampler="grid").search(X, Y, verbose=0)
    assert [trial.failure for trial in run.trials] == [None] * len(run.trials)
    rates = sorted(trial.values["recipe.learning_rate"] for trial in run.trials)
    np.testing.assert_allclose(rates, np.geomspace(1e-4, 1e-2, 10))


def test_the_budget_may_come_with_the_tuner(make: Make) -> None:
    run = make(budget=kb.Budget(macs=2e5), trials=6).search(X, Y, verbose=0)
    assert all(trial.costs["macs"] <= 2e5 for trial in run.trials)
    with pytest.raises(ValueError, match="`params`"):
        make(Other(), budget=kb.Budget(macs=2e5))


@pytest.mark.slow
def test_tpe_finds_more_than_chance(make: Make) -> None:
    """In 30 trials of a space of 6,561, by a known score, over three seeds."""
    wide = space(
        blocks=[1, 1, 1],
        filters=kb.per_stage(3, kb.choice(4, 8, 12, 16, 20, 24, 28, 32)),
        kernel_size=kb.per_stage(3, kb.choice(3, 5, 7)),
    ).within(INPUT)

    class Known(Scored):
        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            chosen = [hp.get(f"filters[{i}]") / 32 for i in range(3)]
            kernels = [hp.get(f"kernel_size[{i}]") for i in range(3)]
            return -sum(abs(a - b) for a, b in zip(chosen, (1, 0.5, 0.25), strict=True)) - sum(
                kernel != 5 for kernel in kernels
            )

    def best(sampler: str, seed: int) -> float:
        tuner = make(
            Known(wide, latency=False),
            sampler=sampler,
            seed=seed,
            trials=40,
            checkpoints=0,
            project_name=f"{sampler}{seed}",
        )
        return tuner.search(X, Y, verbose=0).ranked()[0].scores[0]

    seeds = (1, 2, 3)
    assert sum(best("tpe", s) for s in seeds) > sum(best("random", s) for s in seeds)


def test_tpe_prefers_large_networks_at_first(make: Make) -> None:
    """The fourth is a plain sample; all are where a cost is among the objectives."""
    wide = space(filters=kb.per_stage(2, kb.choice(*range(4, 68, 4)))).within(INPUT)

    def macs(name: str, objective: Any, sampler: str = "tpe") -> list[float]:
        own = {"sampler": sampler, "trials": 5, "checkpoints": 0, "project_name": name}
        run = make(scored(wide), objective, **own).search(X, Y, verbose=0)
        return [trial.costs["macs"] for trial in run.trials]

    plain, large = macs("plain", "val_accuracy", "random"), macs("large", "val_accuracy")
    assert large[0] == plain[0] == wide.build(wide.default()).cost(INPUT).macs
    random = Random(1)  # the search's seed
    for trial in range(1, 5):
        drawn = [wide.sample_point(random).network for _ in range(3 if trial % 4 else 1)]
        assert large[trial] == max(network.cost(INPUT).macs for network in drawn)
    assert macs("cost", keras_tuner.Objective("macs", "min")) == plain
    assert macs("both", ["val_accuracy", "macs"]) == plain


@pytest.mark.slow
def test_machines_that_join_draw_their_own_points(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one seed in the run file of all, which begin together."""
    wide = space(filters=kb.choice(*range(4, 804, 4))).within(INPUT)

    def drawn(machine: str, name: str) -> list[Any]:
        monkeypatch.setattr("kblocks.tuner.storing.owners.node", lambda: machine)
        found: Any = None
        for trials in (1, 4):
            own = {"sampler": "random", "seed": 7, "trials": trials, "checkpoints": 0}
            tuner = make(Scored(wide, latency=False), **own, project_name=name)
            if trials > 1:
                tuner.join()
            found = tuner.search(X, Y, verbose=0)
        return [trial.values for trial in found.trials]

    one, again, other = drawn("a", "one"), drawn("a", "again"), drawn("b", "other")
    assert one == again
    assert one[0] == other[0]
    assert one[1:] != other[1:]  # of which one may be equal by chance


@pytest.mark.parametrize("becomes", ["another", "nothing"])
def test_ctrl_c_that_is_lost_in_a_trial_still_ends_the_search(make: Make, becomes: str) -> None:
    """TensorFlow's C++ has turned one into a RuntimeError: that trial has not failed."""
    interrupted = []

    class Deaf(Scored):
        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            if len(interrupted) < 1:
                interrupted.append(hp)
                try:
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(1)
                except KeyboardInterrupt:
                    if becomes == "another":
                        raise RuntimeError("MISMATCH of exception types") from None
            return super().fit(hp, model, *args, **kwargs)

    hypermodel = Deaf(space().within(INPUT), latency=False)
    tuner = make(hypermodel, trials=3)
    with pytest.raises(KeyboardInterrupt):
        tuner.search(X, Y, verbose=0)
    assert [t.state for t in tuner.run().trials] == (
        ["waiting"] if becomes == "another" else ["completed"]
    )
    run = make(hypermodel, trials=3).search(X, Y, verbose=0)
    assert [t.state for t in run.trials] == ["completed"] * 3
    assert all(t.failure is None for t in run.trials)


def test_an_epoch_without_validation_is_not_the_best(make: Make) -> None:
    tuner = make(kb.tuner.HyperModel(space().within(INPUT), latency=False), trials=1)
    run = tuner.search(
        X, Y, validation_data=(X, Y), validation_freq=2, epochs=4, batch_size=32, verbose=0
    )
    (trial,) = run.trials
    assert trial.state == "completed"
    values = [v for v in dict(trial.history)["val_accuracy"] if not math.isnan(v)]
    assert len(values) == 2
    assert trial.scores == (max(values),)


def test_a_cost_that_comes_first_does_not_choose_the_epoch() -> None:
    history = {"params": [7.0, 7.0, 7.0], "val_accuracy": [0.4, 0.9, 0.6]}
    params, accuracy = Objective("params", "min"), Objective("val_accuracy", "max")
    progress = Progress(history)
    assert progress.best([params, accuracy]) == (1, (7.0, 0.9))
    assert progress.best([accuracy, params]) == (1, (0.9, 7.0))
    assert progress.best([params]) == (0, (7.0,))
    assert Progress({"val_accuracy": [math.nan]}).best([accuracy]) is None


def test_the_best_of_several_objectives_have_weights_whoever_came_later(make: Make) -> None:
    """A trial that beats others takes them off the front, and older ones rise behind it."""
    figures = [(0.9, 10.0), (0.8, 5.0), (0.7, 4.0), (0.89, 20.0), (0.85, 1.0)]

    class Given(Scored):
        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            accuracy, price = figures[len(tuner.run().completed())]
            return {"val_accuracy": accuracy, "price": price}

    objectives = ["val_accuracy", keras_tuner.Objective("price", "min")]
    hypermodel = Given(space().within(INPUT), latency=False)
    tuner = make(hypermodel, objectives, trials=5, checkpoints=3)
    tuner.search(X, Y, verbose=0)
    assert len(tuner.get_best_models(3)) == 3


# --- several objectives ------------------------------------------------------------------


def test_several_objectives_give_the_pareto_front(make: Make) -> None:
    wide = space(filters=kb.per_stage(2, kb.choice(4, 6, 8, 12, 16))).within(INPUT)

    class Two(Scored):
        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            cost = kb.tuner.network_of(hp).cost(INPUT)
            return {"val_accuracy": cost.params / 1e5, "macs": cost.macs}

    tuner = make(
        Two(wide, latency=False),
        ["val_accuracy", "macs"],
        sampler="nsga2",
        trials=40,
        checkpoints=0,
    )
    run = tuner.search(X, Y, verbose=0)
    points = {t.number: (-t.scores[0], t.scores[1]) for t in run.trials}
    beaten = {
        a
        for (a, p), (b, q) in itertools.permutations(points.items(), 2)
        if q[0] <= p[0] and q[1] <= p[1] and (q != p or b < a)
    }
    front = [trial.number for trial in run.front()]
    assert set(front) == set(points) - beaten
    assert [run.trials[n].scores[0] for n in front] == sorted(
        (run.trials[n].scores[0] for n in front), reverse=True
    )
    best = tuner.get_best_hyperparameters(len(front))
    nets = [kb.tuner.network_of(hp) for hp in best]
    assert [net.cost(INPUT).macs for net in nets] == [run.trials[n].scores[1] for n in front]
    optunas = optuna.load_study(study_name="search", storage=tuner.storage_url)
    assert {trial.number for trial in optunas.best_trials} >= set(front)


def test_costs_are_to_be_small_without_saying_so(make: Make) -> None:
    tuner = make(objective=["val_accuracy", "latency"])
    assert [o.direction for o in tuner.objectives] == ["max", "min"]
    with pytest.raises(ValueError, match="Objective"):
        make(objective="beauty")
    with pytest.raises(ValueError, match="one objective"):
        make(objective=["val_accuracy", "macs"], pruner="median")


# --- other's HyperModels -----------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_any_hypermodel_is_searched_define_by_run(make: Make, sampler: str) -> None:
    tuner = make(Other(), keras_tuner.Objective("score", "min"), sampler=sampler, trials=12)
    run = tuner.search(X, Y, verbose=0)
    assert len(run.completed()) == 12
    # The defaults come first; a rate is asked for only where there is a layer for it.
    assert run.trials[0].values == {"kind": "narrow", "layers": 1, "rate_0": 1e-3}
    for trial in run.trials:
        rates = [name for name in trial.values if name.startswith("rate_")]
        assert len(rates) == trial.values["layers"]
        assert ("width" in trial.values) == (trial.values["kind"] == "wide")
        expected = sum(trial.values[name] for name in rates) + trial.values["layers"]
        assert trial.scores == (pytest.approx(expected),)
    best = tuner.get_best_hyperparameters()[0]
    assert best.get("layers") == 1
    assert isinstance(tuner.hypermodel.build(best), keras.Model)


def test_a_function_is_a_hypermodel(make: Make) -> None:
    def build(hp: Any) -> keras.Model:
        model = dense()
        model.optimizer.learning_rate = hp.Float("rate", 1e-3, 1e-1, sampling="log", default=1e-2)
        return model

    tuner = make(build, trials=2)
    run = tuner.search(X, Y, validation_data=(X, Y), epochs=2, verbose=0)
    assert run.trials[0].values == {"rate": 1e-2}
    assert [len(trial.history["val_accuracy"]) for trial in run.trials] == [2, 2]
    assert run.trials[0].costs == {"params": 8 * 8 * 3 + 3}
    trial = tuner.oracle.get_best_trials()[0]
    assert trial.score == max(trial.metrics.get_history("val_accuracy"), key=score_of).value[0]
    assert isinstance(tuner, keras_tuner.Tuner)


def score_of(observation: Any) -> float:
    return observation.value[0]


@pytest.mark.slow
def test_of_one_name_the_first_range_holds_as_in_keras_tuner(make: Make, tmp_path: Path) -> None:
    """Its guide tailors a space by a Float in front of the Choice that the model asks for."""

    class Tailored(keras_tuner.HyperModel):
        def build(self, hp: Any) -> keras.Model:
            first = hp.Float("rate", 1e-4, 1e-2, sampling="log", default=1e-3)
            assert hp.Choice("rate", [0.5, 0.1]) == first
            assert hp.Int("width", 8, 16) == hp.Int("width", 8, 32)
            return dense()

        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            return {"val_accuracy": hp.get("rate")}

    ours = make(Tailored(), trials=6).search(X, Y, verbose=0)
    theirs = keras_tuner.RandomSearch(
        Tailored(), keras_tuner.Objective("val_accuracy", "max"), 6, directory=tmp_path / "theirs"
    )
    theirs.search(X, Y, verbose=0)
    recorded = [trial.hyperparameters.values for trial in theirs.oracle.trials.values()]
    for values in [*recorded, *(trial.values for trial in ours.trials)]:
        assert set(values) == {"rate", "width"}
        assert 1e-4 <= values["rate"] <= 1e-2
        assert 8 <= values["width"] <= 16


def test_a_model_over_the_budget_is_no_result(make: Make) -> None:
    def build(hp: Any) -> keras.Model:
        width = hp.Choice("width", [1, 50])
        model = keras.Sequential([keras.Input(INPUT), keras.layers.Flatten()])
        model.add(keras.layers.Dense(width))
        model.add(keras.layers.Dense(3))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
        return model

    tuner = make(build, budget=kb.Budget(params=1000), sampler="grid", trials=2)
    run = tuner.search(X, Y, validation_data=(X, Y), verbose=0)
    assert {t.values["width"]: t.failure and t.failure.kind for t in run.trials} == {
        1: None,
        50: "budget",
    }


# --- results -----------------------------------------------------------------------------


def trained(**settings: Any) -> kb.tuner.HyperModel:
    recipe = kb.Recipe(learning_rate=kb.real(1e-3, 1e-2, log=True, default=3e-3))
    return kb.tuner.HyperModel(space().within(INPUT), recipe, latency=False, **settings)


def test_best_models_have_the_weights_of_their_best_epoch(
    make: Make, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tuner = make(trained(), trials=3, checkpoints=2)
    run = tuner.search(X, Y, validation_data=(X[:32], Y[:32]), epochs=3, verbose=0)
    models = tuner.get_best_models(2)
    for model, record in zip(models, run.ranked(), strict=False):
        assert record.scores[0] == max(record.history["val_accuracy"])
        found = model.evaluate(X[:32], Y[:32], verbose=0, return_dict=True)["accuracy"]
        assert found == pytest.approx(record.scores[0])
    told = [one for one in caplog.records if one.name == "kblocks"]
    assert not told
    more = tuner.get_best_models(3)  # than are kept: those that are
    assert len(more) == 2
    for one, other in zip(more, models, strict=True):
        np.testing.assert_array_equal(one.predict(X, verbose=0), other.predict(X, verbose=0))
    third = run.ranked()[2]
    (told,) = [one.getMessage() for one in caplog.records if one.name == "kblocks"]
    assert f"trial {third.number}; of the 2 best they are (`checkpoints`)" in told
    assert told.endswith("2 of 3 models are there")
    with pytest.raises(ValueError, match="`checkpoints`"):
        tuner.model_of(third)
    kept = sorted(path.name for path in (tuner.folder / "checkpoints").glob("trial-*"))
    assert kept == sorted(f"trial-{record.number:06d}" for record in run.ranked()[:2])
    tuner.results_summary()
    assert f"Trial {run.ranked()[0].number}: val_accuracy" in capsys.readouterr().out
    assert tuner.remaining_trials == 0


def test_what_is_shown(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make(trials=2).search(X, Y, verbose=0)
    assert capsys.readouterr().out == ""
    make(trials=3).search(X, Y)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Going on after 2 trials"
    assert shown[1].startswith("trial 3/3  val_accuracy 0.")
    assert "MACs" in shown[1]


# --- going on ----------------------------------------------------------------------------


def test_what_a_search_is_made_with_is_recorded_and_may_change(make: Make) -> None:
    found = make(trials=1).search(X, Y, verbose=0).settings["versions"]
    assert found == {
        "kblocks": kb.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "backend": f"tensorflow {tensorflow.__version__}",
        "keras": keras.__version__,
        "keras-tuner": keras_tuner.__version__,
        "optuna": optuna.__version__,
        "numpy": np.__version__,
    }
    # As a search was recorded before, with fewer of them, and by other versions.
    tuner = make(trials=2)
    study = tuner.store.study()
    before = study.user_attrs[records.RUN]
    study.set_user_attr(records.RUN, {**before, "versions": {"keras": "3.12.0"}})
    run = tuner.search(X, Y, verbose=0)
    assert len(run.trials) == 2
    assert run.settings["versions"] == found


def test_a_search_goes_on_where_it_ended(make: Make) -> None:
    first = make(trials=3).search(X, Y, verbose=0)
    then = make(trials=6).search(X, Y, verbose=0)
    assert then.trials[:3] == first.trials
    assert len(then.completed()) == len(set(keys(then))) == 6
    again = make(trials=6).search(X, Y, verbose=0)
    assert again.trials == then.trials
    anew = make(trials=1, overwrite=True).search(X, Y, verbose=0)
    assert len(anew.trials) == 1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"hypermodel": scored(space(kernel_size=kb.choice(3, 7)).within(INPUT))}, "kernel_size"),
        ({"hypermodel": scored(space(classes=4).within(INPUT))}, "classes was 3, is 4"),
        ({"hypermodel": scored(space().within((9, 8, 1)))}, r"was \[8, 8, 1\], is \[9, 8, 1\]"),
        ({"hypermodel": scored(recipe=kb.Recipe(optimizer="sgd"))}, "recipe was"),
        ({"budget": kb.Budget(macs=1e6)}, "budget: macs was not there, is 1000000.0"),
        ({"objective": "val_loss"}, "objectives was"),
        ({"data": X + 1}, "data: x was"),
        ({"epochs": 2}, "data: epochs was not there, is 2"),
        ({"hypermodel": Other()}, "builder was"),
    ],
    ids=["space", "fixed", "input", "recipe", "budget", "objective", "data", "epochs", "model"],
)
def test_another_search_does_not_go_on(make: Make, changed: dict[str, Any], told: str) -> None:
    before = make(trials=2).search(X, Y, verbose=0)
    images, epochs = changed.pop("data", X), changed.pop("epochs", None)
    other = make(trials=4, **changed)
    arguments = {} if epochs is None else {"epochs": epochs}
    with pytest.raises(ValueError, match=told):
        other.search(images, Y, verbose=0, **arguments)
    assert make(trials=2).run().trials == before.trials


def test_choices_may_be_added_on_request(make: Make) -> None:
    before = make(trials=4).search(X, Y, verbose=0)
    wider = scored(space(kernel_size=kb.choice(3, 5, 7)).within(INPUT))
    with pytest.raises(ValueError, match="extend"):
        make(wider, trials=8).search(X, Y, verbose=0)
    run = make(wider, trials=20, extend=True, sampler="random").search(X, Y, verbose=0)
    assert [t.values for t in run.trials[:4]] == [t.values for t in before.trials]
    assert [t.scores for t in run.trials[:4]] == [t.scores for t in before.trials]
    assert 7 in {trial.values["kernel_size"] for trial in run.trials}
    assert len(set(keys(run))) == 20
    assert run.name == before.name
    fewer = scored(space(kernel_size=kb.choice(5, 7)).within(INPUT))
    with pytest.raises(ValueError, match="may only grow"):
        make(fewer, trials=22, extend=True).search(X, Y, verbose=0)


def test_an_extension_goes_by_the_searchs_own_name(make: Make, tmp_path: Path) -> None:
    """Beside a search that has the name which an extension would take."""
    url = f"sqlite:///{tmp_path / 'both.db'}"
    wider = scored(space(kernel_size=kb.choice(3, 5, 7)).within(INPUT))
    widest = scored(space(kernel_size=kb.choice(3, 5, 7, 9)).within(INPUT))
    own: dict[str, Any] = {"storage": url, "project_name": "d"}
    beside = make(storage=url, project_name="d +1", trials=1).search(X, Y, verbose=0)
    make(**own, trials=1).search(X, Y, verbose=0)
    for count, hypermodel in ((2, wider), (3, widest)):
        make(hypermodel, **own, trials=count, extend=True).search(X, Y, verbose=0)
    assert (opened("d", url).name, len(opened("d", url).trials)) == ("d", 3)
    assert opened("d +1", url) == beside
    with pytest.raises(ValueError, match=r"RUN must be one of d, d \+1\. Received: d \+2"):
        opened("d +2", url)
    anew = make(**own, trials=1, overwrite=True).search(X, Y, verbose=0)
    assert len(anew.trials) == 1
    assert sorted(optuna.get_all_study_names(url)) == ["d", "d +1"]
    assert opened("d +1", url) == beside


def test_what_is_no_choice_stays_on_request_too(make: Make) -> None:
    """An optimizer is another search's; a plain value may become one of several."""
    searched = space().within(INPUT)
    make(scored(searched, kb.Recipe(optimizer="adam", weight_decay=0.1)), trials=2).search(
        X, Y, verbose=0
    )
    other = scored(searched, kb.Recipe(optimizer="sgd", weight_decay=0.1))
    with pytest.raises(ValueError, match="recipe: optimizer was 'adam', is 'sgd'"):
        make(other, trials=4, extend=True).search(X, Y, verbose=0)
    wider = scored(searched, kb.Recipe(optimizer="adam", weight_decay=kb.choice(0.1, 0.2)))
    run = make(wider, trials=4, extend=True).search(X, Y, verbose=0)
    assert [trial.state for trial in run.trials] == ["completed"] * 4


@pytest.mark.filterwarnings("ignore:The output 'logits':UserWarning")
def test_an_optimizer_of_other_settings_is_another_search(make: Make) -> None:
    def compiled(rate: float) -> Scored:
        optimizer = keras.optimizers.Adam(rate)
        compile = {"optimizer": optimizer, "loss": "sparse_categorical_crossentropy"}
        return Scored(space().within(INPUT), compile=compile, latency=False)

    make(compiled(1e-3), trials=2).search(X, Y, verbose=0)
    make(compiled(1e-3), trials=3).search(X, Y, verbose=0)
    with pytest.raises(ValueError, match=r"recipe was .*0\.001.* is .*learning_rate: 10"):
        make(compiled(10.0), trials=4).search(X, Y, verbose=0)


def test_other_ranges_of_other_hypermodels_are_refused(make: Make) -> None:
    objective = keras_tuner.Objective("score", "min")
    make(Other(), objective, trials=2).search(X, Y, verbose=0)
    with pytest.raises(ValueError, match=r"layers was .*\(1, 2, 3\).* is .*\(1, 2\)"):
        make(Other((1, 2)), objective, trials=4).search(X, Y, verbose=0)


class Stops(keras.callbacks.Callback):
    """Interrupts the training as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.after:
            raise KeyboardInterrupt


def test_an_interrupted_trial_goes_on_from_its_last_epoch(make: Make) -> None:
    """Its end is to rounding that of a training which nothing interrupted."""
    arguments = {"epochs": 5, "shuffle": False, "validation_data": (X, Y), "verbose": 0}

    def search(name: str, *callbacks: Any) -> kb.tuner.Tuner:
        keras.utils.set_random_seed(3)
        tuner = make(trained(), "loss", trials=1, project_name=name)
        tuner.search(X, Y, callbacks=list(callbacks), **arguments)
        return tuner

    whole = search("whole")
    with pytest.raises(KeyboardInterrupt):
        search("cut", Stops(after=3))
    waiting = make(trained(), "loss", project_name="cut").run().trials[0]
    assert waiting.state == "waiting"
    assert len(waiting.history["loss"]) == 3
    cut = search("cut")
    expected, found = whole.run().trials[0], cut.run().trials[0]
    assert found.state == "completed"
    assert len(found.history["loss"]) == 5
    np.testing.assert_allclose(found.history["loss"], expected.history["loss"], rtol=1e-4)
    for a, b in zip(
        whole.get_best_models()[0].get_weights(),
        cut.get_best_models()[0].get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    files = sorted(path.name for path in (cut.folder / "checkpoints").rglob("trial-*/*"))
    assert files == ["best.npz"]


def test_the_precision_that_was_set_holds_for_all_trials(make: Make) -> None:
    seen: list[str] = []

    class Looking(Scored):
        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(model.layers[-1].compute_dtype)
            return super().fit(hp, model)

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        make(Looking(space().within(INPUT), latency=False), trials=3).search(X, Y, verbose=0)
        job = ObjectJob(None, (), {})
    finally:
        keras.config.set_dtype_policy("float32")
    assert seen == ["bfloat16"] * 3
    job.enter()
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    keras.config.set_dtype_policy("float32")


# --- what goes wrong ---------------------------------------------------------------------


class Faulty(Scored):
    """Fails in a given way for networks with kernels of 5."""

    fault: Any = None

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        if hp.get("kernel_size") == 5:
            if isinstance(self.fault, float):
                return {"val_accuracy": [0.9, self.fault]}
            raise self.fault
        return super().fit(hp, model)


@pytest.mark.parametrize(
    ("fault", "kind", "state"),
    [
        (KeyError("no <such> key"), "error", "failed"),
        (MemoryError("no room"), "memory", "failed"),
        (math.nan, "diverged", "pruned"),
        (math.inf, "diverged", "pruned"),
        (keras_tuner.errors.FailedTrialError("not this one"), "error", "failed"),
    ],
    ids=["error", "memory", "nan", "inf", "failed"],
)
def test_a_failure_is_noted_and_the_search_goes_on(
    make: Make, fault: Any, kind: str, state: str
) -> None:
    model = Faulty(space().within(INPUT), latency=False)
    model.fault = fault
    run = make(model, sampler="random", trials=12).search(X, Y, verbose=0)
    failed = [trial for trial in run.trials if trial.values["kernel_size"] == 5]
    assert failed
    for trial in failed:
        assert (trial.state, trial.failure and trial.failure.kind) == (state, kind)
        assert trial.scores == ()
        assert kb.Architecture.from_json(str(trial.network)) is not None
    rest = [trial for trial in run.trials if trial.values["kernel_size"] == 3]
    assert all(trial.state == "completed" for trial in rest)
    assert run.best() in rest


def test_a_failure_is_one_wherever_it_is_told(
    make: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Also one that the sampler is to learn from, which Optuna is told as pruned."""

    def build(hp: Any) -> keras.Model:
        kind = hp.Choice("kind", ["good", "diverges", "large"])
        model = keras.Sequential([keras.Input(INPUT), keras.layers.Flatten()])
        model.add(keras.layers.Dense(50 if kind == "large" else 3))
        loss = keras.losses.SparseCategoricalCrossentropy(True)
        rate = 1e38 if kind == "diverges" else 1e-2
        model.compile(keras.optimizers.SGD(rate), loss, metrics=["accuracy"])
        return model

    tuner = make(build, budget=kb.Budget(params=1000), sampler="grid", trials=3)
    run = tuner.search(X, Y, validation_data=(X, Y), epochs=2, batch_size=8)
    printed = capsys.readouterr().out
    found = {t.values["kind"]: (t.has_failed, t.status) for t in run.trials}
    failed = (True, "failed")
    assert found == {"good": (False, "completed"), "diverges": failed, "large": failed}
    write_table(tmp_path / "trials.csv", table_of(run))
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"]: row["status"] for row in rows} == {k: v[1] for k, v in found.items()}
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(of_run(opened(str(tuner.folder))))
    status = console.export_text()
    assert "3 trials ended (2 failed, 1 completed)" in " ".join(status.split()).replace(" of 3", "")
    page = html.unescape(report(run, tmp_path, png=False).read_text(encoding="utf-8"))
    assert "2 of 3 trials failed" in page
    assert "1 trial diverged to NaN or infinity" in re.sub("<[^>]+>", "", page)
    assert "1 trial built a model outside the budget" in re.sub("<[^>]+>", "", page)
    for trial in run.trials:
        if trial.failure is not None:
            assert trial.failure.message in page
            assert trial.failure.message in printed
            assert trial.failure.message in status
            assert tuner.oracle.get_trial(str(trial.number)).status == "FAILED"


def test_a_trial_that_was_run_again_has_not_failed(make: Make) -> None:
    """Its process ended after it had noted why, and before it had told that the trial was over."""
    tuner = make(trials=1)
    tuner.search(X, Y, verbose=0)
    study = tuner.store.study()
    failure = {"kind": "error", "message": "once", "traceback": ""}
    trial = study.ask()
    trial.set_user_attr(records.FAILURE, failure)
    assert tuner.run().trials[1].failure is None
    study.tell(trial, 0.5)
    assert (tuner.run().trials[1].failure, tuner.run().trials[1].status) == (None, "completed")


def test_training_that_diverges_ends(make: Make) -> None:
    def build(hp: Any) -> keras.Model:
        model = dense()
        model.optimizer.learning_rate = hp.Choice("rate", [1e-2, 1e38])
        return model

    tuner = make(build, sampler="grid", trials=2)
    run = tuner.search(X, Y, validation_data=(X, Y), epochs=6, batch_size=8, verbose=0)
    failed = next(trial for trial in run.trials if trial.values["rate"] == 1e38)
    assert failed.failure is not None
    assert failed.failure.kind == "diverged"
    assert len(failed.history.get("loss", [])) < 6


def test_a_trial_over_its_time_ends(make: Make) -> None:
    tuner = make(trained(), trials=1, trial_seconds=0.01)
    with pytest.raises(RuntimeError, match=r"The last failure: timeout: took longer than 0.01 s"):
        tuner.search(X, Y, validation_data=(X, Y), epochs=500, verbose=0)
    failure = tuner.run().trials[0].failure
    assert failure is not None
    assert failure.kind == "timeout"


def test_a_search_that_only_fails_gives_up(make: Make) -> None:
    def build(hp: Any) -> keras.Model:
        hp.Float("x", 0, 1)
        raise TypeError("this is a mistake in the code")

    tuner = make(build, trials=100)
    with pytest.raises(RuntimeError, match="this is a mistake in the code"):
        tuner.search(X, Y, verbose=0)
    assert len(tuner.run().trials) == 5


def test_an_objective_that_is_not_in_the_logs_is_named(make: Make) -> None:
    with pytest.raises(RuntimeError, match=r"val_accuracy must be in the logs.*'loss'"):
        make(trained(), trials=9).search(X, Y, verbose=0)


@pytest.mark.slow
def test_a_pruner_ends_what_looks_bad(make: Make) -> None:
    class Curves(Scored):
        def fit(self, hp: Any, model: Any, *args: Any, callbacks: Any = (), **kwargs: Any) -> Any:
            level = 0.9 if hp.get("kernel_size") == 3 else 0.1
            for callback in callbacks:
                callback.set_model(model)
                callback.set_params({"epochs": 6})
            for epoch in range(6):
                logs = {"val_accuracy": level + 0.01 * epoch}
                for callback in callbacks:
                    callback.on_epoch_end(epoch, logs)
            return logs

    model = Curves(space().within(INPUT), latency=False)
    for pruner in ("median", "hyperband"):
        tuner = make(model, pruner=pruner, sampler="random", trials=14, project_name=pruner)
        run = tuner.search(X, Y, verbose=0)
        pruned = [trial for trial in run.trials if trial.state == "pruned"]
        assert pruned
        assert all(0 < len(trial.history["val_accuracy"]) < 6 for trial in pruned)
        best = run.best()
        assert best is not None
        assert best.values["kernel_size"] == 3


def test_hours_end_a_search_with_its_epoch(make: Make) -> None:
    tuner = make(trained(), hours=1e-9)
    assert tuner.search(X, Y, validation_data=(X, Y), epochs=2, verbose=0).trials == ()
    tuner = make(trained(), hours=3 / 3600, project_name="hours")
    run = tuner.search(X, Y, validation_data=(X, Y), epochs=100_000, verbose=0)
    assert all(trial.state == "completed" for trial in run.trials)
    assert run.trials


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampler": "guess"},
        {"pruner": "guess"},
        {"trials": 0},
        {"trials": 2.5},
        {"hours": -1},
        {"workers": -1},
        {"workers": True},
        {"storage": "not a url"},
        {"hypermodel": 3},
        {"objective": []},
        {"objective": ["val_accuracy", "val_accuracy"]},
        {"budget": 3},
    ],
    ids=str,
)
def test_bad_arguments_are_refused_at_the_door(make: Make, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"`{next(iter(wrong))}`") as caught:
        make(**wrong)
    assert "Received" in str(caught.value)


def test_a_password_is_in_no_message(make: Make) -> None:
    url = "postgresql+psycopg://me:geheim@localhost:1/none"
    tuner = make(storage=url, trials=1)
    assert "geheim" not in tuner.how_to_resume()
    with pytest.raises(ValueError, match="URL") as caught:
        make(storage="::geheim::")
    assert "geheim" not in str(caught.value)


def test_tensorboard_has_a_run_for_each_trial(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "board"
    run = make(trials=3, tensorboard=folder).search(X, Y, verbose=0)
    logs = [path.name for path in folder.iterdir() if any(path.rglob("events.*"))]
    assert len(logs) == len(run.trials) == 3
