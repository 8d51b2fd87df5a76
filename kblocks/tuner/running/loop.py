"""The loop of a process that works for a search: ask for a trial, train it, record its end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import keras_tuner
import optuna
from optuna.trial import TrialState

from kblocks.tuner.choosing.point_sampler import TornError
from kblocks.tuner.choosing.sampler import ExhaustedError, RepeatedError
from kblocks.tuner.hypermodel import HyperModel
from kblocks.tuner.records import (
    CONTINUES,
    EXHAUSTED,
    FAILURE,
    FIXED,
    RANGES,
    SURPLUS,
    Run,
    identity_of,
    record,
)
from kblocks.tuner.running.fitting import Fit
from kblocks.tuner.running.precision import agreed
from kblocks.tuner.running.recorder import LostError, Outcome, Recorder
from kblocks.tuner.running.search import Search
from kblocks.tuner.running.surroundings import cleaning, restored
from kblocks.tuner.running.trial import Attempt, train
from kblocks.tuner.storing import interrupts
from kblocks.tuner.storing.identity import refuse_change
from kblocks.tuner.storing.owners import Watchman, beating, give_back, is_gone
from kblocks.tuner.terminal import log

_POLL = 1.0  # seconds between two looks at the trials of other processes
_HOPELESS = 5  # trials; a search gives up when so many have ended, all with an error
# After more points in a row that were tried before, a space counts as exhausted.
_REPEATS_IN_FINITE = 2  # there the untried points are known
_REPEATS = 20  # as in Keras Tuner


class HopelessError(RuntimeError):
    """All trials have failed, or the first few: the fault lies in the search itself."""


def without_result(run: Run) -> str:
    """The message for a search without a completed trial."""
    failure = next((t.failure for t in reversed(run.trials) if t.failure is not None), None)
    message = f"None of the {len(run.trials)} trials of the search {run.name!r} was completed"
    if failure is None:
        return message
    last = f"{failure.kind}: {failure.message}\n{failure.traceback}".rstrip()
    return f"{message}. The last failure: {last}"


Tell = Callable[[str, int], None]


def work(
    search: Search,
    fit: Fit,
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
    with interrupts.remembered(), cleaning() as clean:
        _look_at_space(search)
        search.policy = agreed(search, fit)
        clean()
        while not stop() and not search.is_late:
            interrupts.check()
            watchman.look()
            search.tuner.pre_create_trial()
            trial = _next(search)
            if trial is None and _is_over(search):
                return
            if trial is None:
                time.sleep(_POLL)  # others run the last trials, which may be released again
                continue
            tell("begin", trial.number)
            try:
                _run(search, trial, fit, clean)
                search.sampler.repeats = 0
            except RepeatedError:
                _drop(search, trial.number)
                search.sampler.repeats += 1
            finally:
                tell("end", trial.number)
            clean()
            most = _REPEATS_IN_FINITE if search.sampler.is_finite else _REPEATS
            if search.sampler.repeats > most:
                _exhaust(search)
            _check_hope(search)


def _look_at_space(search: Search) -> None:
    """Raises if a third-party HyperModel declares other hyperparameters than in trial 0.

    Raises:
        SpaceChangedError: with the first difference.
    """
    trials = search.study.get_trials(deepcopy=False)
    is_ours = isinstance(search.tuner.hypermodel, HyperModel)
    if is_ours or not trials or not trials[0].state.is_finished():
        return
    try:
        now = search.tuner.asked()
    except BaseException as error:  # the trials will report it
        interrupts.check(error)
        return
    then = trials[0].params
    if FAILURE in trials[0].user_attrs or any(then.get(k, v) != v for k, v in now.values.items()):
        return  # trial 0 failed before it had asked for all, or was not the default point
    known = search.study.user_attrs.get(RANGES, {})
    for name, distribution in now.asked.items():
        refuse_change(name, known.get(name), str(distribution))
    fit_asks = type(search.tuner.hypermodel).fit is not keras_tuner.HyperModel.fit
    if not fit_asks and not search.tuner.replaces("run_trial"):
        for name in sorted(set(then) - set(now.asked)):
            refuse_change(name, known.get(name, "there"), None)


def _is_over(search: Search) -> bool:
    ledger = search.ledger
    ledger.look()
    if ledger.open or (search.trials is not None and ledger.counted < search.trials):
        return False
    return search.rungs is None or search.rungs.is_settled()


def _next(search: Search) -> optuna.Trial | None:
    """A trial to run: a waiting one, one that goes on, or a new one if there are too few."""
    ledger = search.ledger
    ledger.look()
    if search.has_stalled:
        search.trials = ledger.counted
    waiting = any(t.state is TrialState.WAITING for t in ledger.open)
    enough = search.trials is not None and ledger.counted >= search.trials
    begun = None
    if search.rungs is not None and not waiting:
        begun = search.rungs.go_on(search.storage, ends=enough)
    if enough and not waiting and begun is None:
        return None
    try:
        trial = begun or search.study.ask()
    except ExhaustedError as error:
        _drop(search, error.args[0])
        _exhaust(search)
        return None
    except TornError as error:
        _drop(search, error.args[0])
        return _next(search)
    if search.rungs is not None and CONTINUES in trial.user_attrs:
        if search.rungs.is_first(trial):
            return trial
        _drop(search, trial.number)
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


def _exhaust(search: Search) -> None:
    """Ends a search whose every point was tried; running trials go on."""
    search.study.set_user_attr(EXHAUSTED, True)
    search.ledger.look()
    search.trials = search.ledger.counted


def _drop(search: Search, number: int) -> None:
    """Ends a trial that nobody needs, so that it no longer counts, and removes its files."""
    trial = search.study.get_trials(deepcopy=False)[number]
    search.storage.set_trial_user_attr(identity_of(trial), SURPLUS, True)
    search.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    with contextlib.suppress(OSError):
        search.checkpoints.drop(number)  # it may have trained while more trials were wanted


def _run(search: Search, trial: optuna.Trial, fit: Fit, clean: Callable[[], None]) -> None:
    recorder = Recorder(search, trial)
    with beating(search.storage, identity_of(trial)):
        try:
            hp = search.tuner.asking(_asks(search, trial, recorder.is_new))
            attempt = Attempt(search, recorder, hp, clean)
            with restored():
                own = fit if search.rungs is None else search.rungs.of_trial(trial, fit)
                outcome = train(attempt, own)
        except LostError:
            log.warning("Trial %s is another process's by now: it is left to it", trial.number)
            return
        except RepeatedError:
            raise
        except BaseException:  # told to stop: not the trial's fault
            # The first process releases the trials of workers that it ends. Any other end of a
            # worker counts as an attempt.
            with contextlib.suppress(Exception):
                current = None if search.is_worker else recorder.current()
                if current is not None:
                    give_back(search.study, search.storage, current, counts=False)
            raise
        fixed = hp.unasked()
        if fixed and recorder.current() is not None:
            trial.set_user_attr(FIXED, fixed)
        _keep(search, trial.number, outcome)
        recorder.end(outcome)
    search.needs_room = recorder.device != "" and getattr(outcome.failure, "kind", "") == "memory"
    _log_for_tensorboard(search, identity_of(trial))
    tidy(search)
    attempt.ended(outcome)
    search.tuner.on_trial_end(attempt)


def _asks(search: Search, trial: optuna.Trial, is_new: bool) -> Callable[[str, Any, Any], Any]:
    """Suggests values for `Asking`; records the ranges that a third-party HyperModel asks for."""
    ours = isinstance(search.tuner.hypermodel, HyperModel)
    known = {} if ours else dict(search.study.user_attrs.get(RANGES, {}))
    asked: dict[str, Any] = {}

    def ask(name: str, distribution: Any, default: Any) -> Any:
        nonlocal is_new
        if not ours:
            now = str(distribution)
            refuse_change(name, known.get(name, now), now)
            if name not in known:
                known[name] = now
                search.study.set_user_attr(RANGES, known)
        asked[name] = search.sampler.ask(trial, name, distribution, default)
        is_new &= getattr(distribution, "step", 1) is not None  # a real number is always another
        if is_new:
            search.sampler.refuse_repeated(trial.number, asked)
        return asked[name]

    return ask


def _keep(search: Search, number: int, outcome: Outcome) -> None:
    """Saves the weights if the trial is among the best, before its end is recorded."""
    if not outcome.scores or not outcome.weights:
        return
    search.ledger.look()
    if number in search.ledger.best(search.tuner.checkpoints, number, outcome.scores):
        try:
            search.checkpoints.save_best(number, outcome.weights)
        except OSError as error:
            log.warning("The weights of trial %s could not be kept: %s", number, error)


def tidy(search: Search) -> None:
    """Removes the weights of all but the best trials, and the states that no trial goes on from.

    Called after a trial's end is recorded, since a process may end between any two steps.
    """
    ledger = search.ledger
    ledger.look()
    try:
        best = ledger.best(search.tuner.checkpoints)
        paused = set() if search.rungs is None else search.rungs.paused()
        search.checkpoints.keep(best, ledger.is_finished, paused)
    except OSError as error:
        log.warning("What is not needed any more could not be removed: %s", error)


def _log_for_tensorboard(search: Search, trial_id: int) -> None:
    if search.tuner.tensorboard is None:
        return
    from kblocks.tuner.reporting.tensorboard import log_trial

    found = record(search.storage.get_trial(trial_id))
    try:
        log_trial(found, search.objectives, search.tuner.tensorboard)
    except Exception as error:  # the trial has logged something that TensorBoard refuses
        log.warning("TensorBoard's log of trial %s: %s", found.number, error)


def _check_hope(search: Search) -> None:
    """Raises HopelessError if the first trials, or too many in a row, have failed."""
    ledger, most = search.ledger, search.tuner.max_consecutive_failed_trials
    ledger.look()
    failed, what = ledger.errors() or [], "The first {} trials have all failed."
    if most is not None:
        failed, what = ledger.last_failures(), "The last {} trials have all failed."
    if len(failed) >= (most or _HOPELESS):
        last = failed[-1].user_attrs.get(FAILURE, {})
        raise HopelessError(
            f"{what.format(len(failed))} The last one:\n"
            f"{last.get('traceback') or last.get('message', '')}"
        )
