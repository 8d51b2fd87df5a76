"""One trial: builds its model, trains it epoch by epoch, and returns its scores."""

from __future__ import annotations

import copy
import math
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import keras_tuner
import numpy as np

from kblocks.search_space.budget import Budget
from kblocks.search_space.names import NETWORK
from kblocks.tuner.bridge import HyperModel, costs_of, named, network_of
from kblocks.tuner.records import COST_NAMES, Failure, Objective, folder_name
from kblocks.tuner.storing import interrupts
from kblocks.tuner.storing.checkpoints import Checkpoints, State
from kblocks.tuner.terminal import log

_SHARE = 10  # saving checkpoints may take a tenth of the time
_NO_MEMORY = ("ResourceExhaustedError", "OutOfMemoryError", "XlaRuntimeError")


Fit = tuple[tuple[Any, ...], Mapping[str, Any]]  # the arguments of `fit`


class DivergedError(Exception):
    """The loss or an objective became NaN or infinite."""


class PrunedError(Exception):
    """The pruner ended the trial."""


class LostError(Exception):
    """Another process has claimed the trial, as this one was silent for too long."""


class TimeoutError(Exception):
    """The trial took longer than its limit."""


class OverBudgetError(Exception):
    """The model has more or fewer parameters than the budget allows."""


@dataclass(frozen=True)
class Limits:
    """What ends the training of a trial early.

    Attributes:
        budget: for the models of a third-party HyperModel; ours keeps to its budget by itself.
        seconds: how long a trial may take; None without a limit.
        deadline: in seconds of `time.monotonic`; the epoch that runs then is the last.
        waited: returns the seconds that this thread has waited for the storage; they do not count.
    """

    budget: Budget | None = None
    seconds: float | None = None
    deadline: float | None = None
    waited: Callable[[], float] = lambda: 0.0


@dataclass
class Progress:
    """The logged figures of a trial's epochs so far."""

    history: dict[str, list[float]] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return max(map(len, self.history.values()), default=0)

    def best(self, objectives: Sequence[Objective]) -> tuple[int, tuple[float, ...]] | None:
        """The best epoch and its objectives; None if no epoch has them all.

        Epochs are compared by the first objective that is not a cost, as costs never change.
        """
        names = [objective.name for objective in objectives]
        place = next((i for i, name in enumerate(names) if name not in COST_NAMES), 0)
        found: tuple[int, tuple[float, ...]] | None = None
        columns = [self.history.get(name, ()) for name in names]
        for epoch, values in enumerate(zip(*columns, strict=False)):
            if any(map(math.isnan, values)):
                continue  # not in that epoch's logs, as with `validation_freq`
            if found is None or objectives[place].better(values[place], found[1][place]):
                found = epoch, tuple(map(float, values))
        return found


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: completed with scores, pruned, or failed with a reason."""

    scores: tuple[float, ...] = ()
    failure: Failure | None = None


def train(
    hypermodel: keras_tuner.HyperModel,
    hp: keras_tuner.HyperParameters,
    fit: Fit,
    objectives: Sequence[Objective],
    number: int,
    checkpoints: Checkpoints,
    limits: Limits,
    watch: Watch,
) -> tuple[Outcome, list[np.ndarray]]:
    """Builds and trains the model of a trial; an interrupted one resumes from its checkpoint.

    Returns:
        How the trial ended, and the weights of its best epoch.
    """
    started = time.monotonic() - limits.waited()
    epoch: _Epochs | None = None
    try:
        model: Any = hypermodel.build(hp)
        if not isinstance(model, keras.Model):
            raise ValueError(f"`build` must return a keras.Model. Received: {model!r}")

        def built() -> None:
            _hold_to(limits.budget, hypermodel, model)
            watch.built(hp.values.get(NETWORK), _costs(hypermodel, hp, model))

        kind = _Epochs if limits.seconds is None else _TimedEpochs
        epoch = kind(objectives, number, checkpoints, limits, watch, started)
        if build_as(model, watch.shapes()):
            built()
            epoch.resume(model)
        else:
            epoch.when_built = built
        results = _fitted(hypermodel, hp, model, fit, epoch)
        epoch.finish(results)
        found = epoch.progress.best(objectives)
        if found is None:
            raise ValueError(
                f"the objectives {', '.join(o.name for o in objectives)} must be in the logs. "
                f"Received: {sorted(epoch.progress.history) or 'none'}"
            )
        return Outcome(found[1]), epoch.weights or model.get_weights()
    except PrunedError:
        return Outcome(), []
    except (keras_tuner.errors.FatalError, LostError):
        raise
    except BaseException as error:  # `sys.exit` among them, as `argparse` calls it
        interrupts.check(error)
        return Outcome(failure=_failure(error)), []


class Watch:
    """Receives the progress of a trial; this base class ignores it."""

    def built(self, network: str | None, costs: Mapping[str, float]) -> None:
        """Called when the model is built."""

    def shapes(self) -> Mapping[str, Any] | None:
        """The input shapes with which `fit` built the model before an interruption, or None."""
        return None

    def built_of(self, shapes: Mapping[str, Any]) -> None:
        """Called with the input shapes with which `fit` has built the model."""

    def resumed(self) -> Mapping[str, list[float]]:
        """The history of the epochs before an interruption."""
        return {}

    def epoch(self, progress: Progress, epochs: int) -> bool:
        """Called after each epoch; returns whether the pruner ends the trial."""
        return False


class _Epochs(keras.callbacks.Callback):
    """Records, checkpoints and ends the training of a trial."""

    def __init__(
        self,
        objectives: Sequence[Objective],
        number: int,
        checkpoints: Checkpoints,
        limits: Limits,
        watch: Watch,
        started: float,
    ) -> None:
        super().__init__()
        self._objectives, self.number, self._watch = objectives, number, watch
        self._checkpoints, self._limits = checkpoints, limits
        self._started = started
        self._saved, self._took = time.monotonic(), 0.0
        self.progress = Progress()
        self.weights: list[np.ndarray] = []
        self.first = 0  # the epoch with which training begins
        self.when_built: Callable[[], None] | None = None  # called once `fit` has built the model

    def __deepcopy__(self, memo: Any) -> _Epochs:
        return self  # a copied list of callbacks keeps this one

    def resume(self, model: Any) -> None:
        """Restores the last checkpoint of the trial, if there is one."""
        try:
            state = self._checkpoints.state(self.number)
        except OSError as error:
            log.warning("Trial %s starts anew, its checkpoint is away: %s", self.number, error)
            return
        if state is None:
            return
        try:
            state.restore(model)
        except ValueError:  # truncated, or of another model
            log.warning("The checkpoint of trial %s does not fit: it starts anew", self.number)
            return
        known = self._watch.resumed()
        self.progress.history = {k: list(v[: state.epoch]) for k, v in known.items()}
        self.weights, self.first = state.best, state.epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Records the logs, asks the pruner, and saves a checkpoint."""
        interrupts.check()
        model: Any = self.model
        if self.when_built is not None:
            self._watch.built_of(model.get_build_config() or {})
            self.when_built()
            self.when_built = None
        figures = {k: float(v) for k, v in (logs or {}).items() if np.ndim(v) == 0}
        for name, value in figures.items():
            past = self.progress.history.setdefault(name, [])
            past.extend([math.nan] * (self.progress.epochs - 1 - len(past)))
            past.append(value)
        watched = {"loss", *(o.name for o in self._objectives)}
        wrong = [n for n in sorted(watched & set(figures)) if not math.isfinite(figures[n])]
        if wrong:
            raise DivergedError(f"{wrong[0]} is {figures[wrong[0]]} after epoch {epoch + 1}")
        found = self.progress.best(self._objectives)
        if found is not None and found[0] == self.progress.epochs - 1:
            self.weights = model.get_weights()
        epochs = (self.params or {}).get("epochs") or 1
        is_last = epoch + 1 >= epochs or model.stop_training
        if self._watch.epoch(self.progress, epochs) and not is_last:
            raise PrunedError
        if self._limits.deadline is not None and time.monotonic() > self._limits.deadline:
            model.stop_training = True
        elif epoch + 1 < epochs:
            self._keep(model, epoch + 1)
        self.check_time()

    def finish(self, results: Any) -> None:
        """Records what `fit` returned, if it has not called this callback."""
        if self.progress.history:
            return
        if isinstance(results, keras.callbacks.History):
            results = results.history
        if isinstance(results, (int, float, np.floating)):
            results = {self._objectives[0].name: results}
        if isinstance(results, Mapping):
            history = {k: [float(x) for x in np.ravel(v)] for k, v in results.items()}
            self.progress.history = history
            for objective in self._objectives:
                values = history.get(objective.name, [])
                if any(not math.isfinite(value) for value in values):
                    raise DivergedError(f"{objective.name} is {values[-1]}")
            self._watch.epoch(self.progress, self.progress.epochs)

    def check_time(self) -> None:
        """Raises TimeoutError if the trial has taken longer than its limit."""
        limit = self._limits.seconds
        if limit is None:
            return
        if time.monotonic() - self._limits.waited() - self._started > limit:
            raise TimeoutError(f"took longer than {limit:g} s")

    def _keep(self, model: Any, done: int) -> None:
        now = time.monotonic()
        if now - self._saved < _SHARE * self._took:
            return
        try:
            self._checkpoints.save_state(self.number, State.of(model, done, self.weights))
        except OSError as error:
            log.warning("No checkpoint of trial %s: %s", self.number, error)
        self._saved = time.monotonic()
        self._took = self._saved - now


class _TimedEpochs(_Epochs):
    """Checks the time after each batch too; used only where there is a limit."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Raises TimeoutError if the trial has taken longer than its limit."""
        self.check_time()


def _fitted(hypermodel: Any, hp: Any, model: Any, fit: Fit, epoch: _Epochs) -> Any:
    args, kwargs = fit
    kwargs = dict(kwargs)
    own = [_copied(callback) for callback in kwargs.pop("callbacks", None) or ()]
    told: list[Any] = []
    for callback in own:
        if isinstance(callback, keras.callbacks.TensorBoard):
            from kblocks.tuner.reporting.tensorboard import Values

            # a run for each trial
            callback.log_dir = os.path.join(str(callback.log_dir), folder_name(epoch.number))
            values = {name: value for name, value in hp.values.items() if name != NETWORK}
            told.append(Values(callback.log_dir, folder_name(epoch.number), values))
    kwargs["callbacks"] = [*own, *told, epoch]
    kwargs.setdefault("verbose", 0)
    if epoch.first:
        kwargs["initial_epoch"] = epoch.first
    return hypermodel.fit(hp, model, *args, **kwargs)


def _copied(callback: Any) -> Any:
    try:
        return copy.deepcopy(callback)
    except Exception:  # all trials share a callback that cannot be copied
        return callback


def build_as(model: Any, shapes: Mapping[str, Any] | None) -> bool:
    """Builds a model that `fit` would build, if its input shapes are known.

    Args:
        model: from a HyperModel.
        shapes: the input shapes with which `fit` built it before, as JSON holds them; or None.

    Returns:
        Whether the model is built.
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


def _hold_to(budget: Budget | None, hypermodel: Any, model: Any) -> None:
    if budget is None or isinstance(hypermodel, HyperModel):
        return
    params = _params(model)
    least, most = budget.min_params, budget.params
    if (most is not None and params > most) or (least is not None and params < least):
        raise OverBudgetError(f"the model has {params:,} parameters, which {budget} excludes")


def _costs(hypermodel: Any, hp: Any, model: Any) -> dict[str, float]:
    if NETWORK not in hp.values or not isinstance(hypermodel, HyperModel):
        return {"params": _params(model)}
    return {**costs_of(network_of(hp), hypermodel.space.input_shape)}


def _params(model: Any) -> int:
    """Like `model.count_params`, which takes some built models for unbuilt."""
    return sum(math.prod(weight.shape) for weight in model.weights)


def reason(error: BaseException) -> str:
    """An exception in one line."""
    told = _line_that_helps(_text(error).strip())
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def _text(error: BaseException) -> str:
    """The message of an exception; its `__str__` may be a user's, and raise."""
    try:
        return str(error)
    except BaseException as another:
        interrupts.check(another)
        return f"(its __str__ raises {type(another).__name__})"


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # its attributes are not those of Python's own exceptions
        return ""


def _failure(error: BaseException) -> Failure:
    message, kind = reason(error), "error"
    if isinstance(error, DivergedError):
        kind, message = "diverged", str(error)
    elif isinstance(error, TimeoutError):
        kind, message = "timeout", str(error)
    elif isinstance(error, OverBudgetError):
        kind, message = "budget", str(error)
    elif isinstance(error, MemoryError) or (
        type(error).__name__ in _NO_MEMORY or "out of memory" in _text(error).lower()
    ):
        kind = "memory"
    # Python strings may have lone surrogates, but databases and terminals refuse them.
    message, trace = (t.encode(errors="replace").decode() for t in (message, _trace(error)))
    return Failure(kind, message[:500], trace[-8000:])


def _line_that_helps(text: str) -> str:
    """The first line of an error message that says what is wrong.

    In an error of a TensorFlow graph, indented lines before it say where in the graph and in the
    code it arose.
    """
    lines = text.splitlines() or [""]
    if lines[0] != "Graph execution error:":
        return lines[0]
    where = (" ", "\t", "Detected at", "<stack traces", "defined at")
    telling = [line for line in lines[1:] if line and not line.startswith(where)]
    if telling and "root error(s) found" in telling[0]:  # then take the first of a numbered list
        telling = [line.strip() for line in lines if line.startswith("  (0)")] or telling
    return (telling or lines)[0]


def epochs_of(fit: Fit) -> int:
    """How many epochs `fit` is called for."""
    return int(named(*fit).get("epochs", 1))
