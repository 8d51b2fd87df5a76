"""What Keras Tuner promises, held by its `RandomSearch` and by `kb.tuner.Tuner` alike.

Each test is a behaviour with the value that Keras Tuner documents for it, at
https://keras.io/keras_tuner/ and in the docstrings of keras_tuner 1.4.8: of `HyperModel.fit` and
`Tuner.run_trial` (what they may return), `Tuner` (executions, sizes, overrides), `Oracle`
(objective, retries, failures, space).
"""

from __future__ import annotations

import gc
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest
from keras_tuner import errors
from keras_tuner.engine.trial import Trial

import kblocks as kb
from kblocks.tuner.files import table_of
from kblocks.tuner.reporting.tables import trials as trials_table
from kblocks.tuner.reporting.view import View
from kblocks.tuner.running.fitting import of_training

X = np.linspace(0, 1, 16, dtype="float32").reshape(8, 2)
Y = np.arange(8) % 2
FIT: dict[str, Any] = {"x": X, "y": Y, "validation_data": (X, Y), "batch_size": 4, "verbose": 0}
LOSS = keras_tuner.Objective("val_loss", "min")

Make = Callable[..., Any]


@pytest.fixture(params=[keras_tuner.RandomSearch, kb.tuner.Tuner], ids=["theirs", "ours"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
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

    gc.freeze()  # Keras Tuner collects garbage in each trial
    yield tuner
    gc.unfreeze()


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


RETURNED: list[tuple[Any, float]] = [
    (42.0, 42.0),
    (42, 42.0),
    (np.float32(0.5), 0.5),
    ({"val_loss": 42.0, "other": 1.0}, 42.0),
    (history(val_loss=[3.0, 1.0, 2.0], other=[0.0, 5.0, 6.0]), 1.0),
    ([1.0, 3.0], 2.0),
    ([{"val_loss": 1.0}, {"val_loss": 4.0}], 2.5),
    ([history(val_loss=[3.0, 1.0]), history(val_loss=[5.0])], 3.0),
]


@pytest.mark.parametrize("rows", [slice(None), slice(3, 5)], ids=["untrained", "trained"])
def test_what_fit_returns_is_the_score(make: Make, rows: slice) -> None:
    table = RETURNED[rows]
    left = iter(table)
    tuner = make(Returns(lambda n: next(left)[0], rows.start == 3), max_trials=len(table))
    tuner.search(**FIT)
    trials = tuner.oracle.trials.values()
    assert [trial.status for trial in trials] == ["COMPLETED"] * len(table)
    assert [trial.score for trial in trials] == pytest.approx([score for _, score in table])


def test_a_metric_that_only_the_dict_has_is_the_objective(make: Make) -> None:
    objective = keras_tuner.Objective("f1", "max")
    tuner = make(Returns(lambda n: {"f1": n / 10, "n": n}, trains=True), objective)
    tuner.search(**FIT)
    best = tuner.oracle.get_best_trials()[0]
    assert best.score == best.hyperparameters.get("n") / 10
    assert best.metrics.get_best_value("n") == best.hyperparameters.get("n")


@pytest.mark.parametrize(
    ("returned", "error", "way"),
    [
        (None, errors.FatalTypeError, "fit"),
        ("good", errors.FatalTypeError, "fit"),
        ({"other": 1.0}, errors.FatalValueError, "fit"),
        ([None], errors.FatalTypeError, "run_trial"),
    ],
    ids=str,
)
def test_anything_else_ends_the_search(make: Make, returned: Any, error: Any, way: str) -> None:
    methods = {"run_trial": lambda self, trial, *args, **kwargs: returned}
    tuner = make(Returns(lambda n: returned), methods=methods if way == "run_trial" else None)
    with pytest.raises(error, match=way):
        tuner.search(**FIT)


@pytest.mark.parametrize("returned", [np.nan, [1.0, np.nan], {"val_loss": np.nan}], ids=str)
def test_a_score_that_is_no_number_is_a_failed_trial(make: Make, returned: Any) -> None:
    left = iter([returned, 1.0])
    tuner = make(Returns(lambda n: next(left)))
    tuner.search(**FIT)
    assert [t.status for t in tuner.oracle.trials.values()] == ["FAILED", "COMPLETED"]


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


def conditional(hp: Any) -> None:
    hp.Boolean("b")
    with hp.conditional_scope("b", [True]):
        hp.Int("n", 0, 2)


@pytest.mark.parametrize(
    ("ask", "points"),
    [(lambda hp: None, 1), (lambda hp: hp.Boolean("b"), 2), (conditional, 4)],
    ids=["none", "two", "conditional"],
)
def test_no_point_is_tried_twice(make: Make, ask: Callable[..., Any], points: int) -> None:
    class Asks(Returns):
        def build(self, hp: Any) -> keras.Model:
            ask(hp)
            return model()

        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            return 1.0

    tuner = make(Asks(lambda n: 1.0), max_trials=9)
    tuner.search(**FIT)
    values = [str(t.hyperparameters.values) for t in tuner.oracle.trials.values()]
    assert len(set(values)) == len(values)
    # Keras Tuner may end early: after 20 draws that it has seen.
    is_whole = isinstance(tuner, kb.tuner.Tuner) or points < 4
    assert len(values) == points if is_whole else len(values) <= points


def test_each_execution_is_a_training_and_the_score_their_mean(make: Make) -> None:
    scores = iter([1.0, 5.0, 4.0, 4.0])
    tuner = make(Returns(lambda n: next(scores)), executions_per_trial=2)
    tuner.search(**FIT)
    assert [trial.score for trial in tuner.oracle.get_best_trials(2)] == [3.0, 4.0]
    assert len(tuner.hypermodel.fits) == 4


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

    tuner = make(More(lambda n: 1.0), hyperparameters=hp, tune_new_entries=False, max_trials=1)
    tuner.search(**FIT)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED"]
    given = {"hyperparameters": hp, "allow_new_entries": False, "project_name": "no"}
    with pytest.raises(RuntimeError, match="allow_new_entries"):
        make(More(lambda n: 1.0), **given).search(**FIT)
    with pytest.raises(ValueError, match="hyperparameters"):
        make(build, tune_new_entries=False, project_name="none")


def test_arguments_of_compile_are_replaced(make: Make) -> None:
    given = {"optimizer": keras.optimizers.Adam(0.5), "loss": "mae", "metrics": ["mse"]}
    built: list[Any] = []

    class Keeps(Returns):
        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            built.append(model)
            model.evaluate(X, Y, verbose=0)
            return 1.0

    make(Keeps(lambda n: 1.0), max_trials=1, **given).search(**FIT)
    (made,) = built
    assert (made.loss, type(made.optimizer)) == ("mae", keras.optimizers.Adam)
    assert float(made.optimizer.learning_rate) == 0.5
    assert set(made.get_metrics_result()) == {"loss", "mse"}


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

    with pytest.raises(errors.FatalTypeError, match=r"(?i)model"):
        make(nothing, max_trials=5).search(**FIT)
    assert len(calls) <= 2  # Keras Tuner's constructor builds once


# --- what `kb.tuner.Tuner` adds ------------------------------------------------------------


def ours(folder: Path, hypermodel: Any = build, objective: Any = LOSS, **given: Any) -> Any:
    settings = {"workers": 0, "directory": folder, "project_name": "it", "trials": 2, "seed": 1}
    return kb.tuner.Tuner(hypermodel, objective, **{**settings, **given})


class Spaced(kb.tuner.HyperModel):
    """A HyperModel of kblocks' whose `fit` is the user's."""

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        return 1.0


def test_our_own_hypermodel_keeps_its_objective(tmp_path: Path) -> None:
    small = {"filters": kb.choice(2, 4), "blocks": [1], "stem": {"filters": 2}}
    space = kb.Space(kb.resnet, classes=2, **small).within((8, 8, 1))
    assert ours(tmp_path, kb.tuner.HyperModel(space), None).objectives[0].name == "val_accuracy"
    with pytest.raises(errors.FatalTypeError, match="`objective`, which is given"):
        ours(tmp_path, Spaced(space, latency=False), None).search(X, Y, verbose=0)
    with pytest.raises(ValueError, match="`loss` is for other HyperModels"):
        ours(tmp_path, kb.tuner.HyperModel(space), loss="mse")


def test_the_direction_in_the_storage_holds(tmp_path: Path) -> None:
    most = keras_tuner.Objective("val_accuracy", "max")
    ours(tmp_path, Returns(lambda n: n), most).search(**FIT)
    again = ours(tmp_path, Returns(lambda n: n), None, trials=4)
    run = again.search(**FIT)
    assert run.best().scores[0] == max(trial.scores[0] for trial in run.trials)
    assert again.objectives == run.objectives


def test_what_is_not_replaced_of_compile_stays(tmp_path: Path) -> None:
    """Keras Tuner loses the metrics under Keras 3, and raises where a model is not compiled."""

    def uncompiled(hp: Any) -> keras.Model:
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

    made = ours(tmp_path, loss="mae").build(keras_tuner.HyperParameters())
    made.evaluate(X, Y, verbose=0)
    assert (made.loss, type(made.optimizer)) == ("mae", keras.optimizers.SGD)
    assert set(made.get_metrics_result()) == {"loss", "mae"}
    tuner = ours(tmp_path, uncompiled, loss="mse", optimizer="sgd", project_name="other")
    assert tuner.build(keras_tuner.HyperParameters()).compiled


@pytest.mark.parametrize("name", ["save_model", "save", "_build_and_fit_model", "get_state"])
def test_a_method_that_no_search_calls_is_refused(tmp_path: Path, name: str) -> None:
    kind = type("Mine", (kb.tuner.Tuner,), {name: lambda self, *args, **kwargs: None})
    with pytest.raises(ValueError, match=f"cannot replace `{name}`.*Received: Mine"):
        kind(build, LOSS, directory=tmp_path)


@pytest.mark.parametrize(
    "given", [{"trials": 1, "max_trials": 2}, {"budget": 1, "max_model_size": 2}]
)
def test_two_names_of_one_argument_exclude_each_other(tmp_path: Path, given: Any) -> None:
    with pytest.raises(ValueError, match=f"`{min(given, key=len)}`"):
        kb.tuner.Tuner(build, LOSS, directory=tmp_path, **given)


def test_what_fit_asks_for_is_a_part_of_the_point(tmp_path: Path) -> None:
    class AsksLate(Returns):
        def build(self, hp: Any) -> keras.Model:
            hp.Boolean("early")
            return model()

        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            return float(hp.Choice("late", [1, 2]))

    run = ours(tmp_path, AsksLate(lambda n: 1.0), trials=9).search(**FIT)
    found = {(trial.values["early"], trial.values["late"]) for trial in run.trials}
    assert len(run.trials) == len(found) == 4
    assert run.is_exhausted


class Seen(keras_tuner.HyperModel):
    """Notes the data of each training."""

    def __init__(self) -> None:
        super().__init__()
        self.data: list[Any] = []

    def build(self, hp: Any) -> keras.Model:
        hp.Int("n", 0, 9)
        return model()

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        self.data.append(kwargs)
        return float(len(self.data))


def test_each_fold_is_the_validation_data_once(tmp_path: Path) -> None:
    """As of scikit-learn's StratifiedKFold: each row is held out once, each class in its share."""
    x, y = np.arange(40.0).reshape(20, 2), np.array([0] * 15 + [1] * 5)
    tuner = ours(tmp_path, Seen(), folds=5, trials=1)
    (trial,) = tuner.search(x[:16], y[:16], validation_data=(x[16:], y[16:]), verbose=0).trials
    held = [kwargs["validation_data"] for kwargs in tuner.hypermodel.data]
    assert sorted(np.concatenate([part[0] for part in held])[:, 0]) == list(x[:, 0])
    for kwargs, (inputs, labels) in zip(tuner.hypermodel.data, held, strict=True):
        assert list(np.bincount(labels)) == [3, 1]
        assert set(kwargs["x"][:, 0]) == set(x[:, 0]) - set(inputs[:, 0])
        np.testing.assert_array_equal(kwargs["y"], y[(kwargs["x"][:, 0] / 2).astype(int)])
    assert trial.scores == (3.0,)
    assert [one["scores"] for one in trial.executions] == [[1.0], [2.0], [3.0], [4.0], [5.0]]
    assert trial.spread == pytest.approx([np.std([1, 2, 3, 4, 5], ddof=1)])
    assert table_of(tuner.run())[0]["val_loss spread"] == trial.spread[0]
    assert "3.0000 ± 1.5811 (1.0000, 2.0000" in trials_table(View(tuner.run()))
    with pytest.raises(ValueError, match="`folds` must be an integer from 2"):
        ours(tmp_path, folds=1)
    with pytest.raises(ValueError, match="`folds` needs arrays"):
        ours(tmp_path, Seen(), folds=3, project_name="no").search(x=iter(()), verbose=0)
    with pytest.raises(ValueError, match=r"folds was 5, is not there"):
        ours(tmp_path, Seen(), trials=1).search(x, y, verbose=0)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    y = np.array([0, 0, 0, 0, 0, 2, 2, 3])
    weights = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=y)
    expected = dict(zip([0, 2, 3], weights, strict=True))
    for labels in (y, y[:, None], np.eye(4)[y]):
        _, given = of_training(((X, labels), {"class_weight": "balanced"}), None, 0)
        assert given["class_weight"] == pytest.approx(expected)
    for labels, given in ((X, "balanced"), (y, "even")):
        with pytest.raises(ValueError, match=f"`class_weight` must be .* Received: .*{given}"):
            of_training(((X, labels), {"class_weight": given}), None, 0)


def test_patience_ends_a_search_that_no_longer_improves(tmp_path: Path) -> None:
    scores = iter([3.0, 1.0, 2.0, 2.0, 0.5, 4.0, 4.0, 4.0, 4.0])
    tuner = ours(tmp_path, Returns(lambda n: next(scores)), patience=3, trials=None)
    assert len(tuner.search(**FIT).trials) == 8
    again = ours(tmp_path, Returns(lambda n: 4.0), patience=4, trials=None)
    assert len(again.search(**FIT).trials) == 9


def test_a_trial_goes_on_in_the_training_in_which_it_was_interrupted(tmp_path: Path) -> None:
    epochs: list[int] = []

    class Stops(keras.callbacks.Callback):
        at = 4

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            epochs.append(epoch)
            if len(epochs) == self.at:
                raise KeyboardInterrupt

    tuner = ours(tmp_path, trials=1, executions_per_trial=2)
    with pytest.raises(KeyboardInterrupt):
        tuner.search(**FIT, epochs=2, callbacks=[Stops()])
    again = ours(tmp_path, trials=1, executions_per_trial=2)
    (trial,) = again.search(**FIT, epochs=2, callbacks=[Stops()]).trials
    # Two epochs, two, of which the second was not recorded, and that one again.
    assert epochs == [0, 1, 0, 1, 1]
    assert [len(one["history"]["val_loss"]) for one in trial.executions] == [2, 2]
    best = [min(one["history"]["val_loss"]) for one in trial.executions]
    assert trial.scores == pytest.approx([np.mean(best)])
    (made,) = tuner.get_best_models()
    assert made.evaluate(X, Y, verbose=0)[0] == pytest.approx(min(best), rel=1e-4)


class InWorker(kb.tuner.Tuner):
    """Writes what is called to a file beside the search."""

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        return [1.0, 2.0 + trial.hyperparameters.Int("n", 0, 1)]

    def on_trial_end(self, trial: Any) -> None:
        with (Path(self.directory) / "called").open("a") as file:
            file.write(f"{multiprocessing.current_process().name} {trial.score}\n")


@pytest.mark.system
def test_promises_hold_in_worker_processes(tmp_path: Path) -> None:
    tuner = InWorker(objective=LOSS, trials=5, workers=2, directory=tmp_path, seed=1)
    run = tuner.search(verbose=0)
    # Both processes may ask for the last point at once: nobody knows it before `run_trial` does.
    assert {trial.values["n"] for trial in run.trials} == {0, 1}
    assert run.best().scores == (1.5,)
    assert [one["scores"] for one in run.best().executions] == [[1.0], [2.0]]
    called = (tmp_path / "called").read_text().split("\n")[:-1]
    assert {line.split()[1] for line in called} == {"1.5", "2.0"}
    assert not any("MainProcess" in line for line in called)
    with pytest.raises(errors.FatalTypeError, match="run_trial must return"):
        Wrong(objective=LOSS, trials=5, directory=tmp_path, project_name="no").search(verbose=0)


class Wrong(kb.tuner.Tuner):
    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> None:
        trial.hyperparameters.Int("n", 0, 1)
