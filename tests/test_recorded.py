"""What tuners record of a space goes back into it, and each of several spaces has its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import optuna
import pytest
from spaces import Recorder

import kblocks as kb

INPUT = (8, 8, 1)


def space(**changed: Any) -> kb.Space:
    arguments: dict[str, Any] = {
        "classes": 3,
        "blocks": [1],
        "filters": [kb.choice(4, 8, 16)],
        "kernel_size": kb.choice(3, (1, 7)),
        "stem": {"filters": 4, "kernel_size": 3, "strides": 1, "pool": kb.choice(None, "max")},
    }
    return kb.Space(kb.resnet, **{**arguments, **changed}).within(INPUT)


# --- one value, in every form ------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        (3, (1, 7)),
        (None, "None", 0.1),
        (False, True),
        (True, 1, "True", "1"),
        ("1x7", (1, 7), 3),
        (3, "3", (3,)),
        ((1, (2, 3)), (1, "(2, 3)")),
        ("#0", "a"),
        (0.5, 1, 2),
        (kb.resnet, kb.preresnet),
    ],
)
def test_an_option_is_read_by_its_label_and_by_what_is_recorded(options: Any) -> None:
    kind = kb.choice(*options)
    for position in range(len(options)):
        assert kind.index(kind.label(position)) == position
        assert kind.index(kind.recorded(position)) == position


@pytest.mark.parametrize(
    ("kind", "value", "position"),
    [
        (kb.integer(2, 11, step=3), np.int64(8), 2),
        (kb.integer(1, 64, log=True), 65, 63),  # where Keras Tuner draws the very end
        (kb.real(0, 3), np.float32(1.5), 1.5),
        (kb.real(1, 3), 3 + 1e-12, 3.0),
        (kb.choice(3, 5), np.int32(5), 1),
        (kb.choice(3, (1, 7)), [1, 7], 1),  # as JSON has it
        (kb.boolean(), np.True_, 1),
    ],
)
def test_numbers_of_numpy_and_of_rounding_are_read(kind: Any, value: Any, position: Any) -> None:
    assert kind.index(value) == position


@pytest.mark.parametrize("value", [65, 66])
def test_only_what_keras_tuner_draws_lies_past_the_end(value: int) -> None:
    with pytest.raises(ValueError, match="an integer from 1 to 64"):
        kb.integer(1, 64, log=value == 66).index(value)


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
def test_best_params_of_optuna_go_back_and_values_can_be_enqueued(
    storage: str, tmp_path: Path
) -> None:
    searched = space()
    wanted = {"filters[0]": 16, "kernel_size": (1, 7), "stem.pool": None}
    url = None if storage == "memory" else f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=url, sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(searched.default())
    study.enqueue_trial(wanted)
    study.enqueue_trial({"kernel_size": "1x7"})  # as it is recorded; the rest is drawn

    def objective(trial: Any) -> float:
        trial.suggest_float("recipe.learning_rate", 0, 1)
        return -searched.suggest(trial).cost(INPUT).macs

    study.optimize(objective, n_trials=5)
    nets = [kb.Architecture.from_json(t.user_attrs["kblocks/network"]) for t in study.trials]
    assert nets[0] == searched.build(searched.default())
    assert nets[1] == searched.build(wanted)
    assert study.trials[2].params["kernel_size"] == "1x7"
    for trial, net in zip(study.trials, nets, strict=True):
        assert searched.build(trial.params) == net
        assert searched.build(searched.repair(trial.params)) == net
        assert searched.key(trial.params) == searched.key(searched.repair(trial.params))
    assert searched.build(study.best_params) == nets[study.best_trial.number]


def test_fixed_trials_take_both_forms_and_leave_them_as_they_are() -> None:
    searched = space()
    plain = {"filters[0]": 8, "kernel_size": 3, "stem.pool": "max"}
    for values in (plain, {**plain, "kernel_size": "3"}):
        given = dict(values)
        trial = optuna.trial.FixedTrial(given)
        assert searched.suggest(trial) == searched.build(plain)
        assert given == values
        assert trial.params == {**plain, "kernel_size": "3"}


def test_an_enqueued_value_that_is_no_option_is_named() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"kernel_size": 5})
    with pytest.raises(ValueError, match=r"`kernel_size` must be one of \[3, \(1, 7\)\].*size=5"):
        space().suggest(study.ask())


def test_optuna_still_keeps_given_values_where_they_are_changed() -> None:
    """Optuna has no public way to change them: if this fails, `record_given` has to follow."""
    study = optuna.create_study()
    study.enqueue_trial({"x": 3})
    assert study.ask()._fixed_params == {"x": 3}
    assert optuna.trial.FixedTrial({"x": 3})._params == {"x": 3}


def test_values_of_keras_tuner_go_back(tmp_path: Path) -> None:
    searched = space()
    hypermodel = kb.tuner.HyperModel(searched, kb.Recipe(weight_decay=kb.choice(None, 1e-3)))
    loss = keras_tuner.Objective("loss", "min")
    tuner = keras_tuner.RandomSearch(hypermodel, loss, 8, seed=0, directory=tmp_path)
    for _ in range(8):
        trial = tuner.oracle.create_trial("tuner")
        net = kb.tuner.suggest(trial.hyperparameters, searched)
        values = {**trial.hyperparameters.values, "tuner/epochs": 3}  # which Hyperband notes
        assert searched.build(searched.repair(values)) == net
        assert searched.build(values) == net  # all of them fit


def test_a_hypermodel_builds_of_values_as_a_space_has_them() -> None:
    searched = space()
    wanted = {"filters[0]": 16, "kernel_size": (1, 7), "stem.pool": None}
    hp = keras_tuner.HyperParameters()
    hp.values = dict(wanted)
    assert kb.tuner.suggest(hp, searched) == searched.build(wanted)


def test_what_is_neither_of_the_space_nor_of_a_tuner_is_refused() -> None:
    values = {**space().default(), "lr": 0.1}
    with pytest.raises(ValueError, match="Received: 'lr'"):
        space().build(values)


@pytest.mark.parametrize("low", [-(2**53) - 1, 0])
def test_integers_that_tuners_would_not_record_exactly_are_refused_there(low: int) -> None:
    """Python's floats, in which Optuna's tables keep numbers, take 2**53 + 1 for 2**53."""
    assert float(2**53 + 1) == 2**53
    searched = kb.Space(Recorder(), a=kb.integer(low, 2**53 + 1))
    with pytest.raises(ValueError, match=r"`a` must be from -2\*\*53 to 2\*\*53"):
        searched.suggest(optuna.create_study().ask())
    with pytest.raises(ValueError, match=r"`a` must be from -2\*\*53 to 2\*\*53"):
        kb.tuner.HyperModel(searched.within(INPUT))
    with pytest.raises(ValueError, match=r"`a` must be from -2\*\*53 to 2\*\*53"):
        kb.tuner.suggest(keras_tuner.HyperParameters(), searched)
    edge = kb.Space(Recorder(), a=kb.integer(2**53 - 1, 2**53))
    study = optuna.create_study()
    study.enqueue_trial({"a": 2**53})
    trial = study.ask()
    edge.suggest(trial)
    assert edge.builder.calls[-1] == {"a": 2**53} == study.trials[0].params


# --- recipes -----------------------------------------------------------------------------

RECIPE = kb.Recipe(
    optimizer=kb.choice("sgd", "adamw"),
    learning_rate=kb.real(0.01, 1, log=True),
    weight_decay=kb.choice(None, 1e-3),
    label_smoothing=0.1,
)


def compiled(recipe: kb.Recipe, **chosen: Any) -> keras.Model:
    model = keras.Sequential([keras.Input(INPUT), keras.layers.Flatten(), keras.layers.Dense(3)])
    recipe.compile(model, **chosen)
    return model


@pytest.mark.parametrize("decay", [None, "None"])
def test_a_recipe_takes_what_was_recorded_of_an_argument(decay: Any) -> None:
    model = compiled(RECIPE, optimizer="sgd", learning_rate=0.5, weight_decay=decay)
    assert model.optimizer.weight_decay is None
    assert float(model.optimizer.learning_rate) == 0.5


def test_a_recipe_takes_all_that_a_study_recorded() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    recorded_values = {
        "recipe.optimizer": "adamw",
        "recipe.learning_rate": 0.25,
        "recipe.weight_decay": "0.001",
        "kernel_size": "1x7",  # of a space, which a recipe passes over
    }
    study.enqueue_trial(recorded_values)
    trial = study.ask()
    space().suggest(trial)
    chosen = RECIPE.suggest(trial)
    for model in (compiled(RECIPE, **trial.params), compiled(RECIPE, **chosen)):
        assert isinstance(model.optimizer, keras.optimizers.AdamW)
        assert float(model.optimizer.learning_rate) == 0.25
        assert model.optimizer.weight_decay == 1e-3
    model = compiled(RECIPE, **trial.params, weight_decay=0.5)  # one's own counts
    assert model.optimizer.weight_decay == 0.5
    (schedule,) = kb.Recipe(schedule=kb.choice(None, "cosine")).callbacks(2, schedule="cosine")
    assert isinstance(schedule, keras.callbacks.LearningRateScheduler)
    assert not kb.Recipe(schedule=kb.choice(None, "cosine")).callbacks(
        2, **{"recipe.schedule": "None"}
    )


def test_a_recipe_refuses_what_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="wight_decay"):
        compiled(RECIPE, learning_rate=0.5, wight_decay=1)
    with pytest.raises(ValueError, match=r"must have 'recipe\.optimizer'"):
        compiled(RECIPE, **{"recipe.weight_decay": "None", "recipe.learning_rate": 0.5})
    with pytest.raises(ValueError, match="none for `weight_decay`"):
        compiled(RECIPE, optimizer="sgd", learning_rate=0.5)


# --- several spaces in one trial -----------------------------------------------------------


def test_spaces_with_names_are_searched_apart_in_optuna() -> None:
    searched = space()
    study = optuna.create_study()
    study.enqueue_trial(
        {"teacher/filters[0]": 16, "teacher/kernel_size": 3, "student/kernel_size": (1, 7)}
    )
    trial = study.ask()
    teacher = searched.suggest(trial, name="teacher")
    student = searched.suggest(trial, name="student")
    assert set(trial.params) == {
        f"{who}/{name}" for who in ("teacher", "student") for name in searched.names()
    }
    assert searched.build(trial.params, name="teacher") == teacher != student
    assert searched.build(trial.params, name="student") == student
    assert searched.repair(trial.params, name="student")["kernel_size"] == (1, 7)
    kept = trial.user_attrs
    assert kb.Architecture.from_json(kept["kblocks/network/teacher"]) == teacher
    assert kb.Architecture.from_json(kept["kblocks/network/student"]) == student
    net = searched.suggest(trial)  # one may go without
    assert searched.build(trial.params) == net


@pytest.mark.parametrize("name", [None, "teacher"])
def test_a_name_counts_once_in_a_trial(name: Any) -> None:
    study = optuna.create_study()
    trial = study.ask()
    space().suggest(trial, name=name)
    with pytest.raises(ValueError, match=r"a name of its own.*again"):
        space().suggest(trial, name=name)
    space().suggest(study.ask(), name=name)


@pytest.mark.parametrize("name", ["", "a/b", 3, "tuner", "kblocks"])
def test_bad_names_are_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="`name` must be a word"):
        space().suggest(optuna.create_study().ask(), name=name)
    with pytest.raises(ValueError, match="`name` must be a word"):
        kb.tuner.suggest(keras_tuner.HyperParameters(), space(), name=name)


def test_spaces_with_names_are_searched_apart_in_keras_tuner() -> None:
    searched = space()
    hp = keras_tuner.HyperParameters()
    hp.values = {"teacher/filters[0]": 16, "student/kernel_size": "1x7"}
    teacher = kb.tuner.suggest(hp, searched, name="teacher")
    student = kb.tuner.suggest(hp, searched, name="student")
    assert teacher == searched.build({"filters[0]": 16, "kernel_size": 3, "stem.pool": None})
    assert student == searched.build({"filters[0]": 4, "kernel_size": (1, 7), "stem.pool": None})
    for values in (hp, hp.values, hp.copy(), hp.get_config()["values"]):
        assert kb.tuner.network_of(values, "teacher") == teacher
        assert kb.tuner.network_of(values, "student") == student
        with pytest.raises(ValueError, match="must be of a trial"):
            kb.tuner.network_of(values)
    assert searched.build(hp.values, name="student") == student
    assert kb.tuner.suggest(hp, searched, name="teacher") == teacher  # built once more
    assert {one.name for one in hp.space} == {
        f"{who}/{name}" for who in ("teacher", "student") for name in searched.names()
    }


def test_conditional_choices_of_a_named_space_are_active_where_they_are() -> None:
    searched = space(
        stem=kb.choice(
            {"filters": 4, "kernel_size": 3, "strides": 1, "pool": None},
            {"filters": kb.choice(8, 16), "kernel_size": 3, "strides": 1, "pool": None},
        )
    )
    hp = keras_tuner.HyperParameters()
    hp.values = {"a/stem": "#1", "a/stem#1.filters": 16}
    net = kb.tuner.suggest(hp, searched, name="a")
    values = {"filters[0]": 4, "kernel_size": 3, "stem": "#1", "stem#1.filters": 16}
    assert net == searched.build(values) == searched.build(hp.values, name="a")
    other = keras_tuner.HyperParameters()
    kb.tuner.suggest(other, searched, name="a")
    assert "a/stem#1.filters" not in other.values


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (space(kernel_size=kb.choice(5, 7)), r"`kernel_size` must be one of \[5, 7\]"),
        (space(classes=4), "a name of its own"),
        (space(blocks=[kb.choice(1, 2)]), "a name of its own"),
    ],
)
def test_a_second_space_under_the_same_name_is_refused(second: kb.Space, message: str) -> None:
    hp = keras_tuner.HyperParameters()
    kb.tuner.suggest(hp, space())
    with pytest.raises(ValueError, match=message):
        kb.tuner.suggest(hp, second)


def test_changed_values_are_built_again_under_the_same_name() -> None:
    hp = keras_tuner.HyperParameters()
    kb.tuner.suggest(hp, space())
    hp.values["filters[0]"] = 16
    assert kb.tuner.suggest(hp, space()).rows == space().build(hp.values).rows


# --- under our tuner -----------------------------------------------------------------------


class Pair(keras_tuner.HyperModel):
    """Two networks and a value that is not searched, scored without training."""

    def build(self, hp: Any) -> keras.Model:
        self.size = hp.Fixed("size", 14)
        for name in ("teacher", "student"):
            kb.tuner.suggest(hp, space(), name=name)
        model = keras.Sequential([keras.Input(INPUT), keras.layers.Flatten()])
        model.compile("sgd", "mse")
        return model

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        assert hp.get("size") == 14
        nets = [kb.tuner.network_of(hp, name) for name in ("teacher", "student")]
        first, second = (net.cost(INPUT).macs for net in nets)
        return {"loss": second / first}


def test_fixed_values_and_named_networks_are_recorded(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"workers": 0, "directory": tmp_path, "seed": 1, "checkpoints": 0}
    tuner = kb.tuner.Tuner(Pair(), keras_tuner.Objective("loss", "min"), trials=4, **settings)
    run = tuner.search(np.zeros((2, *INPUT)), np.zeros(2), verbose=0)
    assert [trial.state for trial in run.trials] == ["completed"] * 4
    best = tuner.get_best_hyperparameters()[0]
    assert best.get("size") == 14
    record = run.best()
    assert record is not None
    for name in ("teacher", "student"):
        net = kb.tuner.network_of(best, name)
        assert net == space().build(record.values, name=name)
    theirs = keras_tuner.HyperParameters()  # what Keras Tuner has after such a trial
    theirs.values = dict(record.values)
    Pair().build(theirs)
    assert dict(best.values) == dict(theirs.values)


def test_records_of_a_search_go_back(tmp_path: Path) -> None:
    class Scored(kb.tuner.HyperModel):
        def build(self, hp: Any) -> keras.Model:
            kb.tuner.suggest(hp, self.space)
            self.declare_hyperparameters(hp)
            return compiled(RECIPE, **hp.values)

        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            return {"val_accuracy": kb.tuner.network_of(hp).cost(INPUT).macs}

        def __init__(self) -> None:
            super().__init__(space(), RECIPE, latency=False)

    tuner = kb.tuner.Tuner(Scored(), trials=6, workers=0, directory=tmp_path, seed=1, checkpoints=0)
    tuner.search(np.zeros((2, *INPUT)), np.zeros(2), verbose=0)
    study = optuna.load_study(study_name="search", storage=tuner.storage_url)
    wanted = {"filters[0]": 16, "kernel_size": (1, 7), "stem.pool": None}
    study.enqueue_trial({**wanted, "recipe.learning_rate": 0.5, "recipe.weight_decay": None})
    tuner.trials = 7
    run = tuner.search(np.zeros((2, *INPUT)), np.zeros(2), verbose=0)
    assert len(run.trials) == 7
    assert run.trials[6].network == space().build(wanted).to_json()
    assert run.trials[6].values["recipe.weight_decay"] == "None"
    for trial in run.trials:
        assert space().build(trial.values).to_json() == trial.network
        assert space().build(space().repair(trial.values)).to_json() == trial.network
        model = compiled(RECIPE, **trial.values)
        assert float(model.optimizer.learning_rate) == np.float32(
            trial.values["recipe.learning_rate"]
        )
