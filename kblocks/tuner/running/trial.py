"""Trains the model of one trial: builds it, fits it epoch by epoch, and returns its scores."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import keras_tuner
import numpy as np

from kblocks.search_space.names import NETWORK
from kblocks.tuner.bridge import HyperModel, costs_of, named, network_of
from kblocks.tuner.records import folder_name
from kblocks.tuner.running.failures import FailedError, failure_from
from kblocks.tuner.running.recorder import LostError, Outcome, Progress, Recorder
from kblocks.tuner.running.search import Search
from kblocks.tuner.storing import interrupts
from kblocks.tuner.storing.checkpoints import State
from kblocks.tuner.terminal import log

_SHARE = 10  # saving checkpoints may take a tenth of the time

Fit = tuple[tuple[Any, ...], Mapping[str, Any]]  # the arguments of `fit`


class PrunedError(Exception):
    """The pruner ended the trial."""


def train(search: Search, recorder: Recorder, hp: keras_tuner.HyperParameters, fit: Fit) -> Outcome:
    """Builds and trains the model of a trial; an interrupted one resumes from its checkpoint."""
    callback = (_Epochs if search.trial_seconds is None else _TimedEpochs)(search, recorder)
    try:
        model: Any = search.hypermodel.build(hp)
        if not isinstance(model, keras.Model):
            raise ValueError(f"`build` must return a keras.Model. Received: {model!r}")

        def built() -> None:
            recorder.built(hp.values.get(NETWORK), _costs(search, hp, model))

        if build_as(model, recorder.shapes):
            built()
            callback.resume(model)
        else:
            callback.when_built = built
        callback.finish(_fitted(search.hypermodel, hp, model, fit, callback))
        best = callback.progress.best(search.objectives)
        if best is None:
            raise ValueError(
                f"the objectives {', '.join(o.name for o in search.objectives)} must be in the "
                f"logs. Received: {sorted(callback.progress.history) or 'none'}"
            )
        return Outcome(best[1], callback.weights or model.get_weights())
    except PrunedError:
        return Outcome()
    except (keras_tuner.errors.FatalError, LostError):
        raise
    except BaseException as error:  # `sys.exit` among them, as `argparse` calls it
        interrupts.check(error)
        return Outcome(failure=failure_from(error))


class _Epochs(keras.callbacks.Callback):
    """Records, checkpoints and ends the training of a trial."""

    def __init__(self, search: Search, recorder: Recorder) -> None:
        super().__init__()
        self._search, self._recorder = search, recorder
        self._objectives = [objective.name for objective in search.objectives]
        self.number = recorder.number
        self._started = search.clock()
        self._saved, self._took = time.monotonic(), 0.0  # the last checkpoint, in seconds
        self.progress = Progress()
        self.weights: list[np.ndarray] = []  # of the best epoch
        self.first = 0  # the epoch with which training begins
        self.when_built: Callable[[], None] | None = None  # called once `fit` has built the model

    def __deepcopy__(self, memo: Any) -> _Epochs:
        return self  # a copied list of callbacks keeps this one

    def resume(self, model: keras.Model) -> None:
        """Restores the last checkpoint of the trial, if there is one."""
        try:
            state = self._search.checkpoints.state(self.number)
            if state is None:
                return
            state.restore(model)
        except OSError as error:
            log.warning("Trial %s starts anew, its checkpoint is away: %s", self.number, error)
            return
        except ValueError:  # truncated, or of another model
            log.warning("The checkpoint of trial %s does not fit: it starts anew", self.number)
            return
        known = self._recorder.history
        self.progress.history = {k: list(v[: state.epoch]) for k, v in known.items()}
        self.weights, self.first = state.best, state.epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Records the logs, asks the pruner, and saves a checkpoint."""
        interrupts.check()
        model: Any = self.model
        self._note_build(model)
        figures = {k: float(v) for k, v in (logs or {}).items() if np.ndim(v) == 0}
        self.progress.add(figures)
        for name in sorted({"loss", *self._objectives} & set(figures)):
            _refuse_diverged(name, [figures[name]], f" after epoch {epoch + 1}")
        self._keep_best(model)
        epochs = (self.params or {}).get("epochs") or 1
        is_last = epoch + 1 >= epochs or model.stop_training
        if self._recorder.epoch(self.progress, epochs) and not is_last:
            raise PrunedError
        if self._search.is_late:
            model.stop_training = True
        elif epoch + 1 < epochs:
            self._save(model, epoch + 1)
        self.check_time()

    def finish(self, results: Any) -> None:
        """Records what `fit` returned, if it has not called this callback."""
        if self.progress.history:
            return
        if isinstance(results, keras.callbacks.History):
            results = results.history
        if isinstance(results, (int, float, np.floating)):
            results = {self._objectives[0]: results}
        if isinstance(results, Mapping):
            history = {k: [float(x) for x in np.ravel(v)] for k, v in results.items()}
            self.progress.history = history
            for name in self._objectives:
                _refuse_diverged(name, history.get(name, []))
            self._recorder.epoch(self.progress, self.progress.epochs)

    def check_time(self) -> None:
        """Raises FailedError if the trial has taken longer than its limit."""
        limit = self._search.trial_seconds
        if limit is not None and self._search.clock() - self._started > limit:
            raise FailedError("timeout", f"took longer than {limit:g} s")

    def _note_build(self, model: keras.Model) -> None:
        if self.when_built is not None:
            self._recorder.built_by_fit(model.get_build_config() or {})
            self.when_built()
            self.when_built = None

    def _keep_best(self, model: keras.Model) -> None:
        best = self.progress.best(self._search.objectives)
        if best is not None and best[0] == self.progress.epochs - 1:
            self.weights = model.get_weights()

    def _save(self, model: keras.Model, epochs: int) -> None:
        """Saves a checkpoint, unless the last one took too much of the time since."""
        now = time.monotonic()
        if now - self._saved < _SHARE * self._took:
            return
        try:
            state = State.of(model, epochs, self.weights)
            self._search.checkpoints.save_state(self.number, state)
        except OSError as error:
            log.warning("No checkpoint of trial %s: %s", self.number, error)
        self._saved = time.monotonic()
        self._took = self._saved - now


class _TimedEpochs(_Epochs):
    """Checks the time after each batch too; used only where there is a limit."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Raises FailedError if the trial has taken longer than its limit."""
        self.check_time()


def _refuse_diverged(name: str, values: Iterable[float], when: str = "") -> None:
    for value in values:
        if not math.isfinite(value):
            raise FailedError("diverged", f"{name} is {value}{when}")


def _fitted(
    hypermodel: keras_tuner.HyperModel,
    hp: keras_tuner.HyperParameters,
    model: keras.Model,
    fit: Fit,
    epochs: _Epochs,
) -> Any:
    """Calls the HyperModel's `fit` with copies of the user's callbacks and `epochs`."""
    args, kwargs = fit[0], dict(fit[1])
    own = [_copied(callback) for callback in kwargs.pop("callbacks", None) or ()]
    added: list[Any] = []
    for callback in own:
        if isinstance(callback, keras.callbacks.TensorBoard):
            from kblocks.tuner.reporting.tensorboard import Values

            run = folder_name(epochs.number)
            callback.log_dir = os.path.join(str(callback.log_dir), run)
            values = {name: value for name, value in hp.values.items() if name != NETWORK}
            added.append(Values(callback.log_dir, run, values))
    kwargs["callbacks"] = [*own, *added, epochs]
    kwargs.setdefault("verbose", 0)
    if epochs.first:
        kwargs["initial_epoch"] = epochs.first
    return hypermodel.fit(hp, model, *args, **kwargs)


def _copied(callback: Any) -> Any:
    try:
        return copy.deepcopy(callback)
    except Exception:  # all trials share a callback that cannot be copied
        return callback


def build_as(model: keras.Model, shapes: Mapping[str, Any] | None) -> bool:
    """Builds a model that `fit` would build, if `fit` has built it with known shapes before.

    The shapes are as JSON holds them. Returns whether the model is built.
    """
    if not model.built and shapes:
        model.build_from_config({name: _tuples(shape) for name, shape in shapes.items()})
        return True
    return model.built


def _tuples(shape: Any) -> Any:
    """Restores the tuples of shapes, which JSON turns into lists."""
    if isinstance(shape, Mapping):
        return {name: _tuples(one) for name, one in shape.items()}
    is_shape = isinstance(shape, list) and all(n is None or isinstance(n, int) for n in shape)
    return tuple(shape) if is_shape else shape


def _costs(
    search: Search, hp: keras_tuner.HyperParameters, model: keras.Model
) -> Mapping[str, float]:
    """The costs of a trial's network; refuses a third-party model that is outside the budget."""
    # Like `model.count_params`, which takes some built models for unbuilt.
    params = sum(math.prod(weight.shape) for weight in model.weights)
    if not isinstance(search.hypermodel, HyperModel):
        limits = search.budget.limits() if search.budget else {}
        if not limits.get("min_params", 0) <= params <= limits.get("params", math.inf):
            message = f"the model has {params:,} parameters, which {search.budget} excludes"
            raise FailedError("budget", message)
    elif NETWORK in hp.values:
        return costs_of(network_of(hp), search.hypermodel.space.input_shape)
    return {"params": params}


def epochs_of(fit: Fit) -> int:
    """How many epochs `fit` is called for."""
    return int(named(*fit).get("epochs", 1))
