"""A space over a function that returns a Keras model: no model outside the budget is trained."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import optuna
import pytest
from test_any_tuner import KINDS
from test_tuner import INPUT, X, Y, make_tuner

import kblocks as kb

BUILT: list[dict[str, Any]] = []  # the arguments of every model that was built


def own_model(filters: int, kernel_size: Any, units: int, fails: Any = None) -> keras.Model:
    """A convolution of Keras and a block of ours, without bias, and a head."""
    BUILT.append({"filters": filters, "kernel_size": kernel_size, "units": units})
    if fails is not None:
        raise fails
    inputs = keras.Input(INPUT)
    x = keras.layers.Conv2D(filters, kernel_size, padding="same", use_bias=False)(inputs)
    x = kb.ConvBlock(units, 1, normalization=None, use_bias=False)(x)
    return keras.Model(inputs, kb.Classifier(2)(x))


def macs(values: dict[str, Any]) -> int:
    """By hand, on 8x8 pixels of one channel: the kernels' elements at every pixel."""
    height, width = {"3": (3, 3), "1x7": (1, 7)}[
        str(values["kernel_size"]).replace("(1, 7)", "1x7")
    ]
    filters, units = values["filters"], values["units"]
    return 64 * (height * width * filters + filters * units) + 2 * units


def space() -> kb.Space:
    kernel_size, units = kb.choice(3, (1, 7)), kb.choice(4, 16)
    return kb.Space(own_model, filters=kb.choice(2, 4, 8), kernel_size=kernel_size, units=units)


MACS = 64 * (9 * 4 + 4 * 4) + 2 * 4  # of 4 filters of 3x3 and 4 units: half of the points fit


def bounded() -> kb.Space:
    return space().within(INPUT, kb.Budget(macs=MACS))


@pytest.fixture(autouse=True)
def _none_built() -> None:
    BUILT.clear()


def test_by_hand_a_model_is_built() -> None:
    found = space()
    assert repr(found) == "<Space of own_model: 3 choices, 12 models>"
    values = {"filters": 4, "kernel_size": (1, 7), "units": 16}
    model = found.build(values)
    assert isinstance(model, keras.Model)
    assert model.layers[1].kernel_size == (1, 7)
    assert model is not found.build(values)
    assert BUILT[-1] == values
    lines: list[str] = []
    found.describe(lines.append)
    assert lines[0].endswith("3 choices, 12 models")
    assert found.key(values) == found.key({**values, "kernel_size": "1x7"})
    assert found.key(values) != found.key(found.default())


def test_a_budget_holds_models_and_each_is_built_once() -> None:
    found = bounded()
    drawn = [found.sample(seed) for seed in range(20)]
    assert len(BUILT) == len({str(one) for one in BUILT})
    assert {macs(values) <= MACS for values in drawn} == {True}
    fitting = list(found.samples(0))
    every = [
        {"filters": f, "kernel_size": k, "units": u}
        for f in (2, 4, 8)
        for k in (3, (1, 7))
        for u in (4, 16)
    ]
    assert sorted(map(str, fitting)) == sorted(str(v) for v in every if macs(v) <= MACS)
    assert len(BUILT) == 12
    _ = found.build(BUILT[-1])
    assert len(BUILT) == 12  # that model was there
    _ = found.build(BUILT[-1])
    assert len(BUILT) == 13  # a second one is another model
    copied = pickle.loads(pickle.dumps(found))
    assert copied.sample(3) == found.sample(3)


def test_lower_limits_and_a_default_that_does_not_fit() -> None:
    found = space().within(INPUT, kb.Budget(min_params=150))
    assert found.build(found.default()).count_params() >= 150
    with pytest.raises(ValueError, match=r"Nothing in this space fits.*params=.*times its limit"):
        space().within(INPUT, kb.Budget(params=5))


def test_optuna_prunes_what_does_not_fit() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"filters": 8, "kernel_size": 3, "units": 16})
    study.enqueue_trial({"b/filters": 2, "b/kernel_size": (1, 7), "b/units": 4})
    with pytest.raises(optuna.TrialPruned, match=r"macs=12,832 \(3.85 times its limit\)"):
        bounded().suggest(study.ask())
    trial = study.ask()
    assert bounded().suggest(trial, name="b").layers[1].filters == 2
    assert trial.user_attrs == {}


class Untrained(kb.tuner.HyperModel):
    """Notes what it was to train; scored without training."""

    def __init__(self, space: kb.Space) -> None:
        super().__init__(space, latency=False)
        self.trained: list[int] = []

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        self.trained.append(macs(hp.values))
        return dict.fromkeys(("val_accuracy", "val_loss"), 1 / model.count_params())


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind == "random" else pytest.mark.slow) for kind in KINDS],
)
def test_stock_tuners_train_nothing_over_the_budget(kind: str, tmp_path: Path) -> None:
    hypermodel = Untrained(bounded())
    tuner = make_tuner(kind, hypermodel, tmp_path)
    tuner.oracle.max_consecutive_failed_trials = 50
    tuner.search(X, Y, validation_data=(X, Y), verbose=0)
    assert hypermodel.trained
    assert max(hypermodel.trained) <= MACS
    for trial in tuner.oracle.trials.values():
        is_over = macs(trial.hyperparameters.values) > MACS
        assert trial.status == ("FAILED" if is_over else "COMPLETED")
        assert ("FailedTrialError: over budget: {" in (trial.message or "")) is is_over


@pytest.mark.slow
def test_a_stock_search_tells_what_was_over_budget(tmp_path: Path) -> None:
    tuner = make_tuner("random", kb.tuner.HyperModel(bounded(), latency=False), tmp_path)
    tuner.oracle.max_consecutive_failed_trials = 50
    result = kb.tuner.search(tuner, X, Y, folder=tmp_path, validation_data=(X, Y), verbose=0)
    kinds = {trial.failure.kind for trial in result.run.trials if trial.failure}
    assert kinds == {"budget"}
    for trial in result.run.completed():
        assert trial.costs["macs"] == macs(dict(trial.values))
    assert result.network is None
    assert macs(result.values) <= MACS


def make(tmp_path: Path, hypermodel: Any, **given: Any) -> kb.tuner.Tuner:
    plain: dict[str, Any] = {"workers": 0, "directory": tmp_path, "seed": 1, "trials": 30}
    return kb.tuner.Tuner(hypermodel, **{**plain, **given})


@pytest.mark.parametrize(
    "sampler", ["tpe", *(pytest.param(one, marks=pytest.mark.slow) for one in ("random", "grid"))]
)
def test_our_tuner_draws_anew(sampler: str, tmp_path: Path) -> None:
    """It tries all points that fit, once each, and builds each model once."""
    hypermodel = Untrained(space().within(INPUT))
    tuner = make(tmp_path, hypermodel, budget=kb.Budget(macs=MACS), sampler=sampler, checkpoints=0)
    run = tuner.search(X, Y, validation_data=(X, Y), verbose=0)
    assert run.is_exhausted
    assert len(BUILT) == len({str(one) for one in BUILT})
    fitting = {str(dict(trial.values)) for trial in run.trials}
    assert len(fitting) == len(run.trials) == len(list(bounded().samples(0)))
    assert {trial.state for trial in run.trials} == {"completed"}
    assert all(trial.costs["macs"] == macs(dict(trial.values)) <= MACS for trial in run.trials)
    assert {trial.network for trial in run.trials} == {None}


@pytest.mark.slow
def test_a_search_is_resumed_and_gives_its_models(tmp_path: Path) -> None:
    fit: dict[str, Any] = {"validation_data": (X, Y), "verbose": 0, "batch_size": 32}
    make(tmp_path, kb.tuner.HyperModel(bounded(), latency=False), trials=1).search(X, Y, **fit)
    built = len(BUILT)
    tuner = make(tmp_path, kb.tuner.HyperModel(bounded(), latency=False), trials=2)
    run = tuner.search(X, Y, **fit)
    assert len(run.completed()) == 2
    assert len(BUILT) - built <= len({str(one) for one in BUILT[built:]}) + 1
    model: Any = tuner.get_best_models()[0]
    best = run.best()
    assert best is not None
    assert model.layers[1].filters == best.values["filters"]
    score = model.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"]
    assert score == pytest.approx(best.scores[0])
    page = kb.tuner.report(run, tmp_path / "report").read_text()
    assert "Its network was not kept" in page


def test_what_the_builder_raises_is_no_point_or_a_failed_trial(tmp_path: Path) -> None:
    """A ValueError, as Keras raises it of a map that vanishes, is a point that does not fit."""
    fails = kb.choice(None, ValueError("no"), RuntimeError("a fault"))
    found = kb.Space(own_model, filters=2, kernel_size=3, units=4, fails=fails).within(INPUT)
    tuner = make(tmp_path, kb.tuner.HyperModel(found, latency=False))
    run = tuner.search(X, Y, validation_data=(X, Y), verbose=0, batch_size=32)
    assert sorted(trial.status for trial in run.trials) == ["completed", "failed"]
    failure = next(trial.failure for trial in run.trials if trial.failure)
    assert "RuntimeError: a fault" in failure.message


def test_tools_for_architectures_say_so() -> None:
    found = bounded()
    with pytest.raises(ValueError, match=r"`repair` is for spaces of networks and blocks"):
        found.repair(found.default())
    with pytest.raises(ValueError, match=r"`budget` can limit Keras models to.*training_memory"):
        space().within(INPUT, kb.Budget(training_memory=1e9))
    with pytest.raises(ValueError, match=r"`input_shape` must be that of the model's only input"):
        space().within((9, 9, 1))
    with pytest.raises(TypeError, match=r"own_model returns Keras models, which have no Archi"):
        kb.Space(own_model, filters=2, kernel_size=3, units=4, where=lambda network: True)
    hp = keras_tuner.HyperParameters()
    kb.tuner.suggest(hp, found)
    with pytest.raises(ValueError, match="`hp` must be of a trial that built a network"):
        kb.tuner.network_of(hp)
    with pytest.raises(TypeError, match="must return an Architecture or a Keras model"):
        kb.Space(lambda units: units, units=kb.choice(1, 2))
    mixed = kb.Space(kb.choice(lambda: keras.Sequential(), kb.vgg11))
    with pytest.raises(TypeError, match=r"vgg11 must return a Keras model, as the default"):
        mixed.build({"builder": "vgg11"})


def test_a_model_with_layers_of_unknown_cost_is_held_to_its_parameters() -> None:
    def attentive(units: int) -> keras.Model:
        inputs = keras.Input((4, 3))
        x = keras.layers.MultiHeadAttention(1, units)(inputs, inputs)
        return keras.Model(inputs, keras.layers.Dense(2)(x))

    found = kb.Space(attentive, units=kb.choice(2, 4)).within((4, 3), kb.Budget(params=50))
    assert found.build({"units": 2}).count_params() == 41
    assert {values["units"] for values in found.samples(0)} == {2}
    with pytest.raises(ValueError, match=r"only the params.*macs; multi_head_attention"):
        kb.Space(attentive, units=kb.choice(2, 4)).within((4, 3), kb.Budget(macs=1e6))


def test_conditions_come_before_the_model_is_built() -> None:
    found = kb.Space(
        own_model,
        filters=kb.choice(2, 4, 8),
        kernel_size=3,
        units=kb.choice(4, 8),
        where=lambda filters, units: filters == units,
    )
    assert [values["filters"] for values in found.samples(0)] in ([4, 8], [8, 4])
    assert np.all([one["filters"] in (2, 4, 8) for one in BUILT])
