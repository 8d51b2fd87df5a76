"""The loop of a process that works for a search: ask for a trial, train it, tell how it ended."""

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

_POLL = 1.0  # seconds between two looks at what others do
_REFREEZE = 200  # trials
_HOPELESS = 5  # trials that raise, with none that does not, after which a search gives up


class HopelessError(RuntimeError):
    """All trials have failed, or the first of them: the search itself is at fault."""


@dataclass
class Search:
    """A search as a process sees it that works for it.

    Attributes:
        study: with its sampler and pruner.
        storage: of the study.
        hypermodel: what builds and fits.
        objectives: one or several.
        checkpoints: where weights are kept.
        kept: of how many trials they are kept.
        trials: how many are run in all, or None.
        tensorboard: a folder for TensorBoard, or None.
        limits: of a trial.
        is_worker: whether this process is a worker, whose trial the first process gives back.
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
        """The sampler of the study, which is ours."""
        sampler: Any = self.study.sampler
        return sampler


@contextlib.contextmanager
def frozen() -> Iterator[Callable[[], None]]:
    """What lives already is left out when garbage is collected after each trial.

    Yields:
        What collects; of the trials, which are more and more, it looks at the last ones alone.
    """
    count = 0
    known = set(custom_gradients())

    def collect() -> None:
        nonlocal count
        count += 1
        if not is_busy():  # else another thread's trial may need its own
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
        search: what is worked for.
        fit: the arguments of `fit`.
        tell: hears of ("begin", number) and ("end", number).
        stop: whether to end before the next trial.

    Raises:
        HopelessError: if the first trials have all raised.
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
            time.sleep(_POLL)  # others run the last trials, which may come back
            continue
        tell("begin", trial.number)
        try:
            _run(search, trial, fit)
            _forget(collect)
        finally:
            tell("end", trial.number)
        _check_hope(search.ledger)


def _look_at_space(search: Search) -> None:
    """Refuses a HyperModel of another's that asks otherwise than it did in the first trial.

    Raises:
        SpaceChangedError: with the first difference.
    """
    trials = search.study.get_trials(deepcopy=False)
    if isinstance(search.hypermodel, HyperModel) or not trials or not trials[0].state.is_finished():
        return
    try:
        now = asked_by(search.hypermodel, search.sampler.needs_lists)
    except BaseException as error:  # which its trials will tell
        interrupts.check(error)
        return
    then = trials[0].params
    if FAILURE in trials[0].user_attrs or any(then.get(k, v) != v for k, v in now.values.items()):
        return  # it did not ask for all, or others: the default is not what it had
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
    """A trial to run: one that waits, or a new one if there are not enough; else None."""
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
            _drop(search, trial.number)  # another process was first
            return None
    if not search.sampler.settle(trial, is_gone):
        _drop(search, trial.number)
        return _next(search)
    return trial


def _drop(search: Search, number: int) -> None:
    """Takes a trial that nobody needs out of the count."""
    trial = search.study.get_trials(deepcopy=False)[number]
    search.storage.set_trial_user_attr(identity_of(trial), SURPLUS, True)
    search.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    with contextlib.suppress(OSError):
        search.checkpoints.drop(number)  # it may have been begun when more were wanted


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
                os._exit(1)  # the trial has forked, and its child has come out of it as well
        except LostError:
            log.warning("Trial %s is another process's by now: it is left to it", trial.number)
            return
        except BaseException:  # told to stop, which is not the trial's fault
            # A worker that others than its first process have told so counts as ended by its trial.
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
    """Where a hyperparameter's value comes from; the ranges of other's HyperModels are kept."""
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
    """Tells the storage how a trial ended."""
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
    """Keeps the weights if the trial is among the best, before its end is told."""
    if not outcome.scores:
        return
    search.ledger.look()
    if number in search.ledger.best(search.kept, number, outcome.scores):
        try:
            search.checkpoints.save_best(number, weights)
        except OSError as error:
            log.warning("The weights of trial %s could not be kept: %s", number, error)


def tidy(search: Search) -> None:
    """Removes all weights but those of the best trials, and where finished trials stood.

    After the end of a trial is told: a process may end between any two steps.
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
    from kblocks.tuner.reporting.tensorboard import Log

    found = record(search.storage.get_trial(trial_id))
    try:
        Log(search.tensorboard).trial(found, search.objectives)
    except Exception as error:  # the trial has logged what TensorBoard does not take
        log.warning("TensorBoard's log of trial %s: %s", found.number, error)


def _forget(collect: Callable[[], None]) -> None:
    with restored():  # Keras forgets its dtype policy as well
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
    """Tells the storage what a trial does."""

    def __init__(
        self, search: Search, trial: optuna.Trial, history: Mapping[str, Sequence[float]]
    ) -> None:
        self._search, self._trial = search, trial
        self._identity = identity_of(trial)
        self._history = {name: list(values) for name, values in history.items()}
        self._costs: dict[str, float] = {}
        self._left_out = set(COST_NAMES) - {o.name for o in search.objectives}

    def built(self, network: str | None, costs: Mapping[str, float]) -> None:
        """Keeps the network and what it costs."""
        self._check_owner()
        self._costs = dict(costs)
        if network is not None:
            self._trial.set_user_attr(NETWORK, network)
        self._trial.set_user_attr(COSTS, self._costs)

    def shapes(self) -> Mapping[str, Any] | None:
        """What an earlier process has built the model of."""
        return self._trial.user_attrs.get(SHAPES)

    def built_of(self, shapes: Mapping[str, Any]) -> None:
        """Keeps it."""
        self._trial.set_user_attr(SHAPES, dict(shapes))

    def resumed(self) -> Mapping[str, list[float]]:
        """The history of an earlier process."""
        return self._history

    def epoch(self, progress: Progress, epochs: int) -> bool:
        """Keeps the figures, and asks the pruner where there is one objective."""
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
        if progress.epochs not in known.intermediate_values:  # else trained once more
            self._trial.report(found[1][0], progress.epochs)  # what its score would be
        return self._trial.should_prune()

    def _check_owner(self) -> FrozenTrial:
        """The trial as the storage has it, if it is still this process's."""
        known = _mine(self._search, self._trial)
        if known is None:
            raise LostError
        return known


def _mine(search: Search, trial: optuna.Trial) -> FrozenTrial | None:
    """A trial as the storage has it; None if it has been given to another process."""
    known = search.storage.get_trial(identity_of(trial))
    is_mine = known.user_attrs.get(OWNER) == search.storage.owner
    return known if known.state is TrialState.RUNNING and is_mine else None
