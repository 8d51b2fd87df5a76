"""The Keras callbacks of a trial: what is recorded, saved and checked while its model trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kblocks.training.averaging import as_trained
from kblocks.tuner.hypermodel import HyperModel
from kblocks.tuner.running.failures import FailedError
from kblocks.tuner.running.recorder import Progress
from kblocks.tuner.running.results import figures_of, refuse_diverged
from kblocks.tuner.storing import interrupts
from kblocks.tuner.storing.checkpoints import State
from kblocks.tuner.terminal import log

if TYPE_CHECKING:
    from kblocks.tuner.running.trial import Attempt

_SHARE = 10  # saving checkpoints may take a tenth of the time


class PrunedError(Exception):
    """The pruner ended the trial."""


class Epochs(keras.callbacks.Callback):
    """Records, checkpoints and ends one training of a trial.

    Args:
        trial: the trial.
        execution: which of its trainings this is, from 0.
        state: the trial's last checkpoint, which may be of an earlier training.
    """

    def __init__(self, trial: Attempt, execution: int, state: State | None) -> None:
        super().__init__()
        self._trial, self._search, self._recorder = trial, trial.search, trial.recorder
        self._objectives = self._search.objectives
        self.number, self._execution = self._recorder.number, execution
        self._is_last = execution + 1 == self._search.tuner.trainings
        is_own = state is not None and state.execution == execution and state.epoch
        self._state = state if is_own else None
        self._saved, self._took = time.monotonic(), 0.0  # the last checkpoint, in seconds
        self.progress = Progress()
        self.first = 0  # the epoch with which training begins
        self.when_built: Callable[[], None] | None = None  # called once `fit` has built the model

    def __deepcopy__(self, memo: Any) -> Epochs:
        return self  # a copied list of callbacks keeps this one

    def resume(self, model: keras.Model) -> None:
        """Restores the checkpoint of this training, if there is one."""
        state, self._state = self._state, None
        if state is None:
            return
        hypermodel, hp = self._search.tuner.hypermodel, self._trial.hyperparameters
        is_ours = isinstance(hypermodel, HyperModel)
        head = hypermodel.chosen(hp).head_epochs if is_ours else 0
        if head and state.epoch >= head:
            hypermodel.compiled(model, hp)
            state.optimizer = state.optimizer if state.epoch > head else []  # a new one begins here
        try:
            state.restore(model)
        except ValueError:  # truncated, or of another model
            if head:
                hypermodel.compiled(model, hp, epoch=0)
            log.warning("The checkpoint of trial %s does not fit: it starts anew", self.number)
            self._trial.weights = []
            return
        known = self._recorder.history
        self.progress.history = {k: list(v[: state.epoch]) for k, v in known.items()}
        self.first = state.epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Records the logs, asks the pruner, and saves a checkpoint."""
        interrupts.check()
        model: Any = self.model
        self._note_build(model)
        figures = {k: float(v) for k, v in (logs or {}).items() if np.ndim(v) == 0}
        self.progress.add(figures)
        for name in sorted({"loss", *(o.name for o in self._objectives)} & set(figures)):
            refuse_diverged(name, [figures[name]], f" after epoch {epoch + 1}")
        best = self.progress.best(self._objectives)
        if best is not None and best[0] == self.progress.epochs - 1:
            self._keep(model, best[1])
        epochs = (self.params or {}).get("epochs") or 1
        is_last = self._is_last and (epoch + 1 >= epochs or model.stop_training)
        if self._recorder.epoch(self.progress, epochs) and not is_last:
            raise PrunedError
        is_late, rungs = self._search.is_late, self._search.rungs
        model.stop_training |= is_late
        is_over = epoch + 1 >= epochs or model.stop_training
        if is_over and rungs is not None and epochs < rungs.epochs[-1]:
            self._save(model, epoch + 1, at_once=True)  # another trial may go on from here
        elif epoch + 1 < epochs and not is_late:
            self._save(model, epoch + 1)
        self.check_time()

    def finish(self, returned: Any, model: keras.Model) -> Any:
        """Records what `fit` returned; returns it, a History with the epochs before a restart."""
        logged = self.progress.best(self._objectives)
        raw = dict(returned.history) if isinstance(returned, keras.callbacks.History) else None
        if raw is not None:
            returned.history = self._completed(raw)
        figures = figures_of(returned, self._search, "HyperModel.fit", self._recorder.costs)
        for objective in self._objectives:
            found = (figures if raw is None else raw).get(objective.name, [])
            refuse_diverged(objective.name, np.ravel(found))
        history = {**self.progress.history, **figures}
        if history != self.progress.history:
            self.progress.history = history
            self._recorder.epoch(self.progress, self.progress.epochs)
        best = Progress(figures).best(self._objectives)
        if logged is None and best is not None:  # no epoch had the objectives in its logs
            self._keep(model, best[1])
        return returned

    def check_time(self) -> None:
        """Raises FailedError if the trial has taken longer than its limit."""
        limit = self._search.tuner.trial_seconds
        if limit is not None and self._search.clock() - self._trial.began > limit:
            raise FailedError("timeout", f"took longer than {limit:g} s")

    def _completed(self, history: dict[str, list[Any]]) -> dict[str, list[float]]:
        """A History with the epochs of an earlier process, if it is of this training."""
        seen = max(map(len, history.values()), default=0)
        if self.progress.epochs - self.first != seen:
            return history
        known, gap = self.progress.history, [math.nan] * self.first
        own = {k: v for k, v in history.items() if len(v) == seen and not any(map(np.ndim, v))}
        return {**known, **{k: [*known.get(k, gap)[: self.first], *v] for k, v in own.items()}}

    def _note_build(self, model: keras.Model) -> None:
        if self.when_built is not None:
            self._recorder.built_by_fit(model.get_build_config() or {})
            self.when_built()
            self.when_built = None

    def _keep(self, model: keras.Model, scores: tuple[float, ...]) -> None:
        if self._recorder.improves(scores) or not self._trial.weights:
            self._trial.weights = model.get_weights()

    def _save(self, model: keras.Model, epochs: int, at_once: bool = False) -> None:
        """Saves a checkpoint; if not `at_once`, only where the last one took little time."""
        now = time.monotonic()
        if not at_once and now - self._saved < _SHARE * self._took:
            return
        with as_trained(model):
            state = State.of(model, epochs, self._trial.weights, self._execution)
        self._trial.save_state(state)
        self._saved = time.monotonic()
        self._took = self._saved - now


class TimedEpochs(Epochs):
    """Checks the time after each batch too; used only where there is a limit."""

    looks_at_the_clock = True  # also after an execution of several steps

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Raises FailedError if the trial has taken longer than its limit."""
        self.check_time()


# Methods of a tuner that are called while a model trains, by those of Keras' callbacks.
_HOOKS = {
    "on_epoch_begin": "on_epoch_begin",
    "on_epoch_end": "on_epoch_end",
    "on_train_batch_begin": "on_batch_begin",
    "on_train_batch_end": "on_batch_end",
}


def hooks(trial: Attempt) -> list[keras.callbacks.Callback]:
    """A callback that calls the methods of `_HOOKS` which a subclass of Tuner has replaced."""
    tuner = trial.search.tuner

    def calling(name: str) -> Callable[..., None]:
        method = getattr(tuner, name)
        return lambda index, logs=None: method(trial, callback.model, index, logs)

    own = {theirs: calling(name) for theirs, name in _HOOKS.items() if tuner.replaces(name)}
    callback = keras.callbacks.LambdaCallback(**own)
    return [callback] if own else []
