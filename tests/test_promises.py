"""What Keras Tuner promises, held by its `RandomSearch` and by `kb.tuner.Tuner` alike.

Each test is a behaviour with the value that Keras Tuner documents for it, at
https://keras.io/keras_tuner/ and in the docstrings of keras_tuner 1.4.8: of `HyperModel.fit` and
`Tuner.run_trial` (what they may return), `Tuner` (executions, sizes, overrides), `Oracle`
(objective, retries, failures, space).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest
from keras_tuner import errors
from keras_tuner.engine.trial import Trial

import kblocks as kb

X = np.linspace(0, 1, 16, dtype="float32").reshape(8, 2)
Y = np.arange(8) % 2
FIT: dict[str, Any] = {"x": X, "y": Y, "validation_data": (X, Y), "batch_size": 4, "verbose": 0}
LOSS = keras_tuner.Objective("val_loss", "min")

Make = Callable[..., Any]


@pytest.fixture(params=[keras_tuner.RandomSearch, kb.tuner.Tuner], ids=["theirs", "ours"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes a tuner of either kind, or of a subclass with the methods that are given."""

    def tuner(
        hypermodel: Any = None, objective: Any = LOSS, methods: Any = None, **given: Any
    ) -> Any:
        kind = request.param
        own = {"workers": 0} if kind is kb.tuner.Tuner else {}
        if methods:
            kind = type("Mine", (kind,), methods)
        settings = {"directory": tmp_path, "project_name": "it", "max_trials": 2, "seed": 1}
        return kind(hypermodel, objective, **{**own, **settings, **given})

    return tuner


def model(width: int = 1) -> keras.Model:
    made = keras.Sequential([keras.Input((2,)), keras.layers.Dense(width), keras.layers.Dense(1)])
    made.compile("sgd", "mse", metrics=["mae"])
    return made


def build(hp: Any) -> keras.Model:
    hp.Int("n", 0, 9)
    return model()


class Returns(keras_tuner.HyperModel):
    """Trains for an epoch where `trains` says so; its `fit` returns what a function of `n` does."""

    def __init__(self, value: Callable[[int], Any], trains: bool = False) -> None:
        super().__init__()
        self.value, self.trains = value, trains
        self.fits: list[int] = []

    def build(self, hp: Any) -> keras.Model:
        hp.Int("n", 0, 9, default=4)
        return model()

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        self.fits.append(hp.get("n"))
        if self.trains:
            super().fit(hp, model, *args, **kwargs)
        return self.value(hp.get("n"))


def history(**metrics: Any) -> keras.callbacks.History:
    made = keras.callbacks.History()
    made.history = metrics
    return made


# --- what `fit` and `run_trial` return -----------------------------------------------------


@pytest.mark.parametrize("trains", [False, True], ids=["untrained", "trained"])
@pytest.mark.parametrize(
    ("returned", "score"),
    [
        (42.0, 42.0),
        (42, 42.0),
        (np.float32(0.5), 0.5),
        ({"val_loss": 42.0, "other": 1.0}, 42.0),
        (history(val_loss=[3.0, 1.0, 2.0], other=[0.0, 5.0, 6.0]), 1.0),
        ([1.0, 3.0], 2.0),
        ([{"val_loss": 1.0}, {"val_loss": 4.0}], 2.5),
        ([history(val_loss=[3.0, 1.0]), history(val_loss=[5.0])], 3.0),
    ],
    ids=["float", "int", "numpy", "dict", "history", "floats", "dicts", "histories"],
)
def test_what_fit_returns_is_the_score(
    make: Make, returned: Any, score: float, trains: bool
) -> None:
    tuner = make(Returns(lambda n: returned, trains), max_trials=1)
    tuner.search(**FIT)
    (trial,) = tuner.oracle.get_best_trials()
    assert trial.score == pytest.approx(score)
    assert trial.status == "COMPLETED"


def test_a_metric_that_only_the_dict_has_is_the_objective(make: Make) -> None:
    objective = keras_tuner.Objective("f1", "max")
    tuner = make(Returns(lambda n: {"f1": n / 10, "n": n}, trains=True), objective)
    tuner.search(**FIT)
    best = tuner.oracle.get_best_trials()[0]
    assert best.score == best.hyperparameters.get("n") / 10
    assert best.metrics.get_best_value("n") == best.hyperparameters.get("n")


@pytest.mark.parametrize("way", ["fit", "run_trial"])
@pytest.mark.parametrize(
    ("returned", "error"),
    [
        (None, errors.FatalTypeError),
        ("good", errors.FatalTypeError),
        ([None], errors.FatalTypeError),
        ({"other": 1.0}, errors.FatalValueError),
    ],
    ids=str,
)
def test_anything_else_ends_the_search(make: Make, returned: Any, error: Any, way: str) -> None:
    methods = {"run_trial": lambda self, trial, *args, **kwargs: returned}
    tuner = make(Returns(lambda n: returned), methods=methods if way == "run_trial" else None)
    with pytest.raises(error, match=way):
        tuner.search(**FIT)


def test_without_an_objective_a_number_is_minimized(make: Make) -> None:
    tuner = make(Returns(lambda n: abs(n - 3.5)), None, max_trials=4)
    tuner.search(**FIT)
    numbers = [trial.hyperparameters.get("n") for trial in tuner.oracle.trials.values()]
    best = tuner.get_best_hyperparameters()[0].get("n")
    assert abs(best - 3.5) == min(abs(n - 3.5) for n in numbers)
    assert tuner.oracle.objective.name == "default_objective"


@pytest.mark.parametrize(
    "returned", [{"val_loss": 1.0}, history(val_loss=[1.0])], ids=["dict", "history"]
)
def test_without_an_objective_only_a_number_will_do(make: Make, returned: Any) -> None:
    with pytest.raises((errors.FatalTypeError, errors.FatalValueError), match="objective"):
        make(Returns(lambda n: returned), None).search(**FIT)


# --- methods that a subclass replaces --------------------------------------------------------


def test_methods_of_a_subclass_are_called_where_keras_tuner_calls_them(make: Make) -> None:
    seen: list[Any] = []

    def noting(name: str) -> Callable[..., None]:
        def method(self: Any, *args: Any, **kwargs: Any) -> None:
            seen.append(name)
            if name.startswith(("on_epoch", "on_batch")):
                trial, made, index = args[:3]
                seen[-1] += str(index)
                assert isinstance(made, keras.Model)
            elif name.startswith("on_trial"):
                (trial,) = args
                super(type(self), self).on_trial_end(trial) if name == "on_trial_end" else None
            if args:
                assert isinstance(args[0], Trial)
                assert args[0].hyperparameters.get("n") in range(10)

        return method

    names = ["on_search_begin", "on_trial_begin", "on_epoch_begin", "on_batch_begin"]
    names += ["on_batch_end", "on_epoch_end", "on_trial_end", "on_search_end"]
    make(build, methods={name: noting(name) for name in names}, max_trials=1).search(
        **FIT, epochs=2
    )
    batches = ["on_batch_begin0", "on_batch_end0", "on_batch_begin1", "on_batch_end1"]
    epochs = [["on_epoch_begin0", *batches, "on_epoch_end0"], ["on_epoch_begin1", *batches]]
    assert seen == [
        *("on_search_begin", "on_trial_begin"),
        *(*epochs[0], *epochs[1], "on_epoch_end1"),
        *("on_trial_end", "on_search_end"),
    ]


def test_run_trial_may_do_anything(make: Make) -> None:
    """The black box of the docstring of `Tuner.run_trial`."""

    def run_trial(self: Any, trial: Any, *args: Any, **kwargs: Any) -> float:
        x = trial.hyperparameters.Float("x", -1.0, 1.0)
        return x * x + 1

    tuner = make(None, None, {"run_trial": run_trial}, max_trials=3)
    tuner.search()
    best = tuner.oracle.get_best_trials()[0]
    assert best.score == pytest.approx(best.hyperparameters.get("x") ** 2 + 1)
    assert len(tuner.oracle.trials) == 3


def test_run_trial_may_call_that_of_the_base(make: Make) -> None:
    def run_trial(self: Any, trial: Any, *args: Any, **kwargs: Any) -> Any:
        epochs = trial.hyperparameters.Int("epochs", 2, 2)
        (found,) = super(type(self), self).run_trial(trial, *args, epochs=epochs, **kwargs)
        assert len(found.history["val_loss"]) == 2
        return {"val_loss": min(found.history["val_loss"]) + 100}

    tuner = make(build, methods={"run_trial": run_trial}, max_trials=1)
    tuner.search(**FIT)
    assert tuner.oracle.get_best_trials()[0].score > 100
    assert isinstance(tuner.get_best_models()[0], keras.Model)


def test_load_model_gives_the_best_models(make: Make) -> None:
    given = model()
    tuner = make(build, methods={"load_model": lambda self, trial: given}, max_trials=1)
    tuner.search(**FIT)
    assert tuner.get_best_models() == [given]


# --- what is tried --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "points"),
    [
        (lambda hp: None, 1),
        (lambda hp: hp.Boolean("b"), 2),
        (lambda hp: hp.Int("n", 0, 3) if hp.Boolean("b") else None, 5),
    ],
    ids=["none", "two", "conditional"],
)
def test_no_point_is_tried_twice(make: Make, ask: Callable[..., Any], points: int) -> None:
    def built(hp: Any) -> keras.Model:
        ask(hp)
        return model()

    class Counted(Returns):
        def build(self, hp: Any) -> keras.Model:
            return built(hp)

        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            return 1.0

    tuner = make(Counted(lambda n: 1.0), max_trials=9)
    tuner.search(**FIT)
    values = [trial.hyperparameters.values for trial in tuner.oracle.trials.values()]
    found = {str(sorted(own.items())) for own in values}
    assert len(found) == len(values)
    # Keras Tuner may end early: after 20 draws that it has seen.
    is_whole = isinstance(tuner, kb.tuner.Tuner) or points < 5
    assert len(values) == points if is_whole else len(values) <= points


def test_each_execution_is_a_training_and_the_score_their_mean(make: Make) -> None:
    scores = iter([1.0, 2.0, 6.0, 4.0, 4.0, 4.0])
    tuner = make(Returns(lambda n: next(scores)), executions_per_trial=3)
    tuner.search(**FIT)
    assert [trial.score for trial in tuner.oracle.get_best_trials(2)] == [3.0, 4.0]
    assert len(tuner.hypermodel.fits) == 6


def test_a_model_that_is_too_large_is_a_failed_trial(make: Make) -> None:
    def sized(hp: Any) -> keras.Model:
        return model(hp.Choice("width", [1, 50]))

    tuner = make(sized, max_model_size=100, max_trials=2)
    tuner.search(**FIT)
    found = {t.hyperparameters.get("width"): t.status for t in tuner.oracle.trials.values()}
    assert found == {1: "COMPLETED", 50: "FAILED"}


def _failing(times: int) -> Callable[[int], float]:
    left = [times]

    def value(n: int) -> float:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError("once more")
        return 1.0

    return value


def test_a_failed_trial_is_tried_again(make: Make) -> None:
    tuner = make(Returns(_failing(2)), max_retries_per_trial=2, max_trials=1)
    tuner.search(**FIT)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED"]
    assert len(set(tuner.hypermodel.fits)) == 1
    assert len(tuner.hypermodel.fits) == 3


def test_failed_trials_in_a_row_end_the_search(make: Make) -> None:
    tuner = make(Returns(_failing(9)), max_consecutive_failed_trials=2, max_trials=9)
    with pytest.raises(RuntimeError, match="once more"):
        tuner.search(**FIT)
    assert len(tuner.oracle.trials) == 2


def test_hyperparameters_go_before_those_of_the_model(make: Make) -> None:
    hp = keras_tuner.HyperParameters()
    hp.Choice("n", [7])
    hp.Fixed("fixed", 5)

    class More(Returns):
        def build(self, hp: Any) -> keras.Model:
            assert hp.Int("n", 0, 3) == 7
            assert hp.Int("fixed", 0, 3) == 5
            hp.Boolean("other", default=True)
            return model()

    tuner = make(More(lambda n: 1.0), hyperparameters=hp, tune_new_entries=False, max_trials=3)
    tuner.search(**FIT)
    assert len(tuner.oracle.trials) == 1
    given = {"hyperparameters": hp, "allow_new_entries": False, "project_name": "no"}
    with pytest.raises(RuntimeError, match="allow_new_entries"):
        make(
            More(lambda n: 1.0), hyperparameters=hp, allow_new_entries=False, project_name="no"
        ).search(**FIT)
    with pytest.raises(ValueError, match="hyperparameters"):
        make(build, tune_new_entries=False, project_name="none")


def test_arguments_of_compile_are_replaced(make: Make) -> None:
    def uncompiled(hp: Any) -> keras.Model:
        hp.Int("n", 0, 9)
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

    given = {"optimizer": keras.optimizers.Adam(0.5), "loss": "mae", "metrics": ["mse"]}
    tuner = make(uncompiled, keras_tuner.Objective("val_mse", "min"), max_trials=1, **given)
    tuner.search(**FIT)
    (made,) = tuner.get_best_models()
    assert (made.loss, made.optimizer.name) == ("mae", "adam")
    assert float(made.optimizer.learning_rate) == 0.5
    tuner = make(build, max_trials=1, loss="mae", project_name="loss")
    tuner.search(**FIT)
    assert tuner.get_best_models()[0].loss == "mae"


class Strategy:
    """What Keras Tuner asks of a `tf.distribute.Strategy`."""

    entered = 0
    extended = None

    def scope(self) -> Strategy:
        return self

    def __enter__(self) -> None:
        Strategy.entered += 1

    def __exit__(self, *error: object) -> None:
        pass


def test_models_are_built_under_the_distribution_strategy(make: Make) -> None:
    Strategy.entered = 0
    make(Returns(lambda n: 1.0), distribution_strategy=Strategy(), max_trials=1).search(**FIT)
    assert Strategy.entered > 0


# --- the oracle -------------------------------------------------------------------------------


def test_the_oracle_shows_the_search(make: Make) -> None:
    tuner = make(Returns(lambda n: n / 10), max_trials=3)
    assert [one.name for one in tuner.oracle.get_space().space] == ["n"]
    assert (tuner.oracle.max_trials, tuner.oracle.remaining_trials()) == (3, 3)
    tuner.search(**FIT)
    ids = list(tuner.oracle.trials)
    assert (tuner.oracle.start_order, tuner.oracle.end_order) == (ids, ids)
    assert len(ids) == 3
    assert tuner.oracle.remaining_trials() == tuner.remaining_trials == 0
    (best,) = tuner.get_best_hyperparameters()
    assert [(one.name, one.min_value, one.max_value) for one in best.space] == [("n", 0, 9)]
    tuner.reload()
    assert list(tuner.oracle.trials) == ids


def test_overwrite_clears_at_once(make: Make) -> None:
    make(Returns(lambda n: 1.0)).search(**FIT)
    assert len(make(Returns(lambda n: 1.0)).oracle.trials) == 2
    anew = make(Returns(lambda n: 1.0), overwrite=True)
    assert len(anew.oracle.trials) == 0
    assert len(make(Returns(lambda n: 1.0)).oracle.trials) == 0


def test_a_callback_that_cannot_be_copied_is_refused(make: Make) -> None:
    class Holds(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

    with pytest.raises(ValueError, match=r"callbacks"):
        make(build).search(**FIT, callbacks=[Holds()])


def test_a_build_without_a_model_ends_the_search(make: Make) -> None:
    calls: list[int] = []

    def nothing(hp: Any) -> None:
        calls.append(hp.Int("n", 0, 9))

    with pytest.raises(errors.FatalTypeError, match="model"):
        make(nothing, max_trials=5).search(**FIT)
    assert len(calls) <= 2  # Keras Tuner's constructor builds once
