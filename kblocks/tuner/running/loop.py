"""The loop of a process that works for a search: ask for a trial, train it, record its end."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import keras_tuner
import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from kblocks.common.backend import custom_gradients, forget_gradients
from kblocks.search_space.space import NETWORK
from kblocks.tuner.bridge import HyperModel
from kblocks.tuner.choosing.asking import Asking, asked_by
from kblocks.tuner.choosing.sampler import Choosing, ExhaustedError, TornError
from kblocks.tuner.records import (
    ATTEMPTS,
    COST_NAMES,
    COSTS,
    EPOCHS,
    EXHAUSTED,
    FAILURE,
    FIXED,
    HISTORY,
    OWNER,
    RANGES,
    SHAPES,
    SURPLUS,
    Objective,
    ended,
    identity_of,
    record,
)
from kblocks.tuner.running.surroundings import restored
from kblocks.tuner.running.trial import Limits, LostError, Outcome, Progress, Watch, train
from kblocks.tuner.storing import interrupts
from kblocks.tuner.storing.checkpoints import Checkpoints
from kblocks.tuner.storing.identity import compare_range, compare_ranges
from kblocks.tuner.storing.ledger import Ledger
from kblocks.tuner.storing.owners import Watchman, beating, give_back, is_busy, is_gone
from kblocks.tuner.storing.patience import PatientStorage
from kblocks.tuner.terminal import log

_POLL = 1.0  # seconds between two looks at the trials of other processes
_REFREEZE = 200  # trials between two garbage collections of all objects
_HOPELESS = 5  # trials; a search gives up when so many have ended, all with an error


class HopelessError(RuntimeError):
    """All trials have failed, or the first few: the fault lies in the search itself."""


@dataclass
class Search:
    """What a process needs to work for a search.

    Attributes:
        study: Optuna's study, with sampler and pruner.
        storage: the storage of the study.
        hypermodel: builds and fits the models.
        objectives: one or several.
        checkpoints: the files of weights.
        kept: how many of the best trials keep their weights.
        trials: the total number of trials, or None.
        limits: what ends a trial early.
        tensorboard: a folder for TensorBoard, or None.
        is_worker: whether this is a worker process, whose trial the first process releases.
        ledger: running totals over the trials.
    """

    study: optuna.Study
    storage: PatientStorage
    hypermodel: keras_tuner.HyperModel
    objectives: tuple[Objective, ...]
    checkpoints: Checkpoints
    kept: int
    trials: int | None
    limits: Limits
    tensorboard: str | None = None
    is_worker: bool = False
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.study, self.objectives, self.kept)

    @property
    def sampler(self) -> Choosing:
        """The sampler of the study, always a `Choosing`."""
        sampler: Any = self.study.sampler
        return sampler


@contextlib.contextmanager
def frozen() -> Iterator[Callable[[], None]]:
    """Leaves existing objects out of the garbage collection after each trial.

    Yields:
        A function that collects. Every 200 trials it goes through everything and then leaves out
        what has survived, so the time for a collection does not grow with the trials.
    """
    count = 0
    known = set(custom_gradients())

    def collect() -> None:
        nonlocal count
        count += 1
        if not is_busy():  # a trial in another thread may still need its gradients
            forget_gradients(known)
        if count % _REFREEZE == 0:
            gc.unfreeze()
        gc.collect()
        if count % _REFREEZE == 0:
            gc.freeze()

    gc.freeze()
    try:
        yield collect
    finally:
        gc.unfreeze()


Tell = Callable[[str, int], None]


def work(
    search: Search,
    fit: tuple[tuple[Any, ...], Mapping[str, Any]],
    tell: Tell = lambda event, number: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Runs trials until there are enough.

    Args:
        search: the search to work for.
        fit: the arguments of `fit`.
        tell: called with ("begin", number) and ("end", number) of each trial.
        stop: called before each trial; whether to end there.

    Raises:
        HopelessError: if the first trials have all raised.
        SpaceChangedError: if the HyperModel asks for other hyperparameters than before.
    """
    watchman = Watchman(search.study, search.storage)
    with interrupts.remembered(), frozen() as collect:
        _look_at_space(search)
        _work(search, fit, tell, stop, watchman, collect)


def _work(
    search: Search, fit: Any, tell: Tell, stop: Any, watchman: Watchman, collect: Any
) -> None:
    while not stop() and not _is_late(search.limits):
        interrupts.check()
        watchman.look()
        trial = _next(search)
        if trial is None:
            if _is_over(search):
                return
            time.sleep(_POLL)  # others run the last trials, which may be released again
            continue
        tell("begin", trial.number)
        try:
            _run(search, trial, fit)
            _forget(collect)
        finally:
            tell("end", trial.number)
        _check_hope(search.ledger)


def _look_at_space(search: Search) -> None:
    """Raises if a third-party HyperModel declares other hyperparameters than in trial 0.

    Raises:
        SpaceChangedError: with the first difference.
    """
    trials = search.study.get_trials(deepcopy=False)
    if isinstance(search.hypermodel, HyperModel) or not trials or not trials[0].state.is_finished():
        return
    try:
        now = asked_by(search.hypermodel, search.sampler.needs_lists)
    except BaseException as error:  # the trials will report it
        interrupts.check(error)
        return
    then = trials[0].params
    if FAILURE in trials[0].user_attrs or any(then.get(k, v) != v for k, v in now.values.items()):
        return  # trial 0 failed before it had asked for all, or was not the default point
    ranges = {name: str(distribution) for name, distribution in now.asked.items()}
    known = search.study.user_attrs.get(RANGES, {})
    builds_alone = type(search.hypermodel).fit is keras_tuner.HyperModel.fit
    compare_ranges(known, ranges, set(then) if builds_alone else set())


def _is_late(limits: Limits) -> bool:
    return limits.deadline is not None and time.monotonic() > limits.deadline


def _is_over(search: Search) -> bool:
    ledger = search.ledger
    ledger.look()
    return not ledger.open and (search.trials is None or ledger.counted >= search.trials)


def _next(search: Search) -> optuna.Trial | None:
    """A trial to run: a waiting one, or a new one if there are too few; else None."""
    ledger = search.ledger
    ledger.look()
    waiting = any(t.state is TrialState.WAITING for t in ledger.open)
    if search.trials is not None and ledger.counted >= search.trials and not waiting:
        return None
    try:
        trial = search.study.ask()
    except ExhaustedError as error:
        search.study.set_user_attr(EXHAUSTED, True)
        _drop(search, error.number)
        ledger.look()
        search.trials = ledger.counted
        return None
    except TornError as error:
        _drop(search, error.number)
        return _next(search)
    if search.trials is not None and trial.number >= search.trials:
        ledger.look()
        if ledger.counted_before(trial.number) >= search.trials:
            _drop(search, trial.number)  # other processes were first
            return None
    if not search.sampler.settle(trial, is_gone):
        _drop(search, trial.number)
        return _next(search)
    return trial


def _drop(search: Search, number: int) -> None:
    """Ends a trial that nobody needs, so that it no longer counts, and removes its files."""
    trial = search.study.get_trials(deepcopy=False)[number]
    search.storage.set_trial_user_attr(identity_of(trial), SURPLUS, True)
    search.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    with contextlib.suppress(OSError):
        search.checkpoints.drop(number)  # it may have trained while more trials were wanted


def _run(search: Search, trial: optuna.Trial, fit: Any) -> None:
    identity = identity_of(trial)
    attributes = trial.user_attrs
    search.storage.set_trial_user_attr(identity, ATTEMPTS, attributes.get(ATTEMPTS, 0) + 1)
    watch = _Telling(search, trial, attributes.get(HISTORY, {}))
    process = os.getpid()
    with beating(search.storage, identity):
        try:
            hp = Asking(_asks(search, trial), listed=search.sampler.needs_lists)
            with restored():
                outcome, weights = train(
                    search.hypermodel,
                    hp,
                    fit,
                    search.objectives,
                    trial.number,
                    search.checkpoints,
                    search.limits,
                    watch,
                )
            if os.getpid() != process:
                os._exit(1)  # the trial has forked, and this is the child
        except LostError:
            log.warning("Trial %s is another process's by now: it is left to it", trial.number)
            return
        except BaseException:  # told to stop: not the trial's fault
            # The first process releases the trials of workers that it ends. Any other end of a
            # worker counts as an attempt.
            with contextlib.suppress(Exception):
                mine = None if search.is_worker else _mine(search, trial)
                if mine is not None:
                    give_back(search.study, search.storage, mine, counts=False)
            raise
        fixed = hp.unasked()
        if fixed and _mine(search, trial) is not None:
            trial.set_user_attr(FIXED, fixed)
        _keep(search, trial.number, outcome, weights)
        _finish(search, trial, outcome)
    _log_for_tensorboard(search, identity)
    tidy(search)


def _asks(search: Search, trial: optuna.Trial) -> Callable[[str, Any, Any], Any]:
    """Suggests values for `Asking`; records the ranges that a third-party HyperModel asks for."""
    ours = isinstance(search.hypermodel, HyperModel)
    known = {} if ours else dict(search.study.user_attrs.get(RANGES, {}))

    def ask(name: str, distribution: Any, default: Any) -> Any:
        if not ours:
            compare_range(known, name, str(distribution))
            if name not in known:
                known[name] = str(distribution)
                search.study.set_user_attr(RANGES, known)
        return search.sampler.ask(trial, name, distribution, default)

    return ask


def _finish(search: Search, trial: optuna.Trial, outcome: Outcome) -> None:
    """Records in the storage how a trial ended."""
    failure = outcome.failure
    state = ended(outcome.scores, failure, several=len(search.objectives) > 1)
    if _mine(search, trial) is None:
        return
    if failure is not None:
        trial.set_user_attr(FAILURE, asdict(failure))
    values = list(outcome.scores) or None
    with contextlib.suppress(UpdateFinishedTrialError, ValueError):
        search.study.tell(trial, values, state=state, skip_if_finished=True)


def _keep(search: Search, number: int, outcome: Outcome, weights: list[np.ndarray]) -> None:
    """Saves the weights if the trial is among the best, before its end is recorded."""
    if not outcome.scores:
        return
    search.ledger.look()
    if number in search.ledger.best(search.kept, number, outcome.scores):
        try:
            search.checkpoints.save_best(number, weights)
        except OSError as error:
            log.warning("The weights of trial %s could not be kept: %s", number, error)


def tidy(search: Search) -> None:
    """Removes the weights of all but the best trials, and the states of finished trials.

    Called after a trial's end is recorded, since a process may end between any two steps.
    """
    ledger = search.ledger
    ledger.look()
    try:
        search.checkpoints.keep(ledger.best(search.kept), ledger.is_finished)
    except OSError as error:
        log.warning("What is not needed any more could not be removed: %s", error)


def _log_for_tensorboard(search: Search, trial_id: int) -> None:
    if search.tensorboard is None:
        return
    from kblocks.tuner.reporting.tensorboard import log_trial

    found = record(search.storage.get_trial(trial_id))
    try:
        log_trial(found, search.objectives, search.tensorboard)
    except Exception as error:  # the trial has logged something that TensorBoard refuses
        log.warning("TensorBoard's log of trial %s: %s", found.number, error)


def _forget(collect: Callable[[], None]) -> None:
    with restored():  # `clear_session` resets the dtype policy as well
        keras.utils.clear_session(free_memory=False)
    collect()


def _check_hope(ledger: Ledger) -> None:
    ledger.look()
    failed = ledger.errors()
    if failed is not None and len(failed) >= _HOPELESS:
        raise HopelessError(
            f"The first {len(failed)} trials have all failed. The last one:\n"
            f"{failed[-1].user_attrs[FAILURE]['traceback']}"
        )


class _Telling(Watch):
    """Records the progress of a trial in the storage."""

    def __init__(
        self, search: Search, trial: optuna.Trial, history: Mapping[str, Sequence[float]]
    ) -> None:
        self._search, self._trial = search, trial
        self._identity = identity_of(trial)
        self._history = {name: list(values) for name, values in history.items()}
        self._costs: dict[str, float] = {}
        self._left_out = set(COST_NAMES) - {o.name for o in search.objectives}

    def built(self, network: str | None, costs: Mapping[str, float]) -> None:
        """Records the network and its costs."""
        self._check_owner()
        self._costs = dict(costs)
        if network is not None:
            self._trial.set_user_attr(NETWORK, network)
        self._trial.set_user_attr(COSTS, self._costs)

    def shapes(self) -> Mapping[str, Any] | None:
        """The input shapes with which an earlier process built the model."""
        return self._trial.user_attrs.get(SHAPES)

    def built_of(self, shapes: Mapping[str, Any]) -> None:
        """Records the input shapes with which `fit` has built the model."""
        self._trial.set_user_attr(SHAPES, dict(shapes))

    def resumed(self) -> Mapping[str, list[float]]:
        """The history that earlier processes have recorded."""
        return self._history

    def epoch(self, progress: Progress, epochs: int) -> bool:
        """Records the history and, with one objective, asks the pruner."""
        known = self._check_owner()
        history = {k: v for k, v in progress.history.items() if k not in self._left_out}
        latency = progress.history.get("latency")
        if latency and "latency" not in self._costs:
            self._costs["latency"] = latency[-1]
            self._trial.set_user_attr(COSTS, self._costs)
        if progress.epochs == 1 or not self._history:
            self._trial.set_user_attr(EPOCHS, epochs)
        self._trial.set_user_attr(HISTORY, history)
        objectives = self._search.objectives
        found = progress.best(objectives)
        if len(objectives) > 1 or found is None:
            return False
        if progress.epochs not in known.intermediate_values:  # else it is trained once more
            self._trial.report(found[1][0], progress.epochs)  # the score that it would end with now
        return self._trial.should_prune()

    def _check_owner(self) -> FrozenTrial:
        """The trial as the storage has it; raises LostError if it is no longer this process's."""
        known = _mine(self._search, self._trial)
        if known is None:
            raise LostError
        return known


def _mine(search: Search, trial: optuna.Trial) -> FrozenTrial | None:
    """A trial as the storage has it; None if it has ended or belongs to another process."""
    known = search.storage.get_trial(identity_of(trial))
    is_mine = known.user_attrs.get(OWNER) == search.storage.owner
    return known if known.state is TrialState.RUNNING and is_mine else None
