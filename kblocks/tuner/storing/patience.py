"""Retries while a database is unreachable, locked or on a full disk."""

import abc
import functools
import inspect
import math
import os
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Engine, exc

from kblocks.tuner.records import OWNER, identity_of
from kblocks.tuner.storing.claims import once, release, take, write
from kblocks.tuner.storing.interrupts import held
from kblocks.tuner.terminal import log

PATIENCE = 900.0  # seconds for which a database may be unusable
_LONGEST = 10.0  # seconds between two tries, at most
_AWAY = (StorageInternalError, exc.DBAPIError)
# Waiting does not help against these.
_WRONG = (exc.DataError, exc.IntegrityError, exc.NotSupportedError, exc.ProgrammingError)
_REFUSED = ("password authentication failed", "no password supplied", "does not exist")
_SPOILT = ("malformed", "not a database")


class ForkedError(RuntimeError):
    """A child made by `fork` has used its parent's storage, whose connections are not its own."""


_Result = TypeVar("_Result")
_Storage = TypeVar("_Storage", bound="type[BaseStorage]")


def _retrying(storage: _Storage) -> _Storage:
    """Adds each method of Optuna's storages that a class lacks: that of `inner`, retried."""

    def retried(name: str) -> Callable[..., Any]:
        @functools.wraps(getattr(BaseStorage, name), updated=())  # not the mark of abstract ones
        def call(self: "PatientStorage", *args: Any, **kwargs: Any) -> Any:
            return self.patiently(lambda: getattr(self.inner, name)(*args, **kwargs))

        return call

    for name, _ in inspect.getmembers(BaseStorage, inspect.isfunction):
        if not name.startswith("_") and name not in vars(storage):
            setattr(storage, name, retried(name))
    return abc.update_abstractmethods(storage)


@_retrying
class PatientStorage(BaseStorage):
    """A storage that retries while its database is unreachable, locked or on a full disk.

    A running trial has an owner from its first moment on: the process that asked for it.
    """

    def __init__(self, inner: BaseStorage, engine: Engine, owner: str, patience: float) -> None:
        self.inner, self._engine = inner, engine
        self.owner = owner  # the name of this process
        # Seconds after which the error of the database is raised; other threads may lower it.
        self.patience = patience
        self.seen: dict[int, int] = {}  # by study: the most trials seen so far
        self._thread = threading.local()
        self._process = os.getpid()

    @property
    def waited(self) -> float:
        """Seconds that this thread has waited for the database."""
        return getattr(self._thread, "waited", 0.0)

    def patiently(self, function: Callable[[], _Result]) -> _Result:
        """The result of `function`, which is retried while the database cannot be used.

        Raises ForkedError in a child made by `fork`: SQLite's connections do not survive that.
        """
        if os.getpid() != self._process:
            raise ForkedError("a process that was forked cannot use its parent's storage")
        began, failed = time.monotonic(), False

        def called() -> _Result:
            nonlocal failed
            try:
                with held():
                    return function()
            except _AWAY:
                failed = True
                raise

        try:
            return patiently(called, lambda: self.patience)
        finally:
            if failed:
                self._thread.waited = self.waited + time.monotonic() - began

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Creates a trial; without a template it is running and owned by this process.

        Raises StorageInternalError if the study has lost trials, as in an older copy of it.
        """
        template = template_trial or create_trial(
            state=TrialState.RUNNING, user_attrs={OWNER: self.owner}
        )
        seen = self.seen.get(study_id, 0)
        made = self.patiently(lambda: self.inner.create_new_trial(study_id, template))
        number = self.get_trial_number_from_id(made)
        if number < seen:
            raise StorageInternalError from RuntimeError("it has fewer trials than before")
        self._see(study_id, number + 1)
        return made

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Sets a trial's state; of several processes that set RUNNING, one gets True."""
        if state is TrialState.RUNNING:
            return self.patiently(lambda: take(self._engine, trial_id, self.owner))
        return self.patiently(lambda: self.inner.set_trial_state_values(trial_id, state, values))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Reads the trials and notes how many there are."""
        found = self.patiently(lambda: self.inner.get_all_trials(study_id, deepcopy, states))
        self._see(study_id, found[-1].number + 1 if found else 0)
        return found

    def delete_study(self, study_id: int) -> None:
        """Deletes a study, whose number another may get."""
        self.patiently(lambda: self.inner.delete_study(study_id))
        self.seen.pop(study_id, None)

    def _see(self, study_id: int, trials: int) -> None:
        self.seen[study_id] = max(self.seen.get(study_id, 0), trials)

    def once(self, study_id: int, key: str, value: Any) -> Any:
        """As `claims.once`."""
        return self.patiently(lambda: once(self._engine, study_id, key, value))

    def write(self, trial_id: int, attributes: Mapping[str, Any]) -> bool:
        """As `claims.write`, for this process."""
        return self.patiently(lambda: write(self._engine, trial_id, self.owner, attributes))

    def release(self, trial: FrozenTrial, attempts: int) -> bool:
        """As `claims.release`, for the owner that the trial had when it was read."""
        owner = trial.user_attrs.get(OWNER, "")
        return self.patiently(lambda: release(self._engine, identity_of(trial), owner, attempts))

    def __getstate__(self) -> Any:
        raise TypeError("a storage holds connections: hand over its URL")


class _Outage:
    """Logs the start and the end of an outage once, however many threads wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: float | None = None  # start of the outage that was logged
        self._ended = -math.inf  # end of the outage before

    def goes_on(self, began: float, tried: float, error: BaseException) -> None:
        with self._lock:
            if self._began is None and tried > self._ended:  # else a thread is late to tell
                self._began = began
                log.warning("The search's database cannot be used, trying again: %s", why(error))

    def is_over(self) -> None:
        with self._lock:
            if self._began is not None:
                seconds = time.monotonic() - self._began
                log.warning("The search's database can be used again, after %.0f s", seconds)
                self._began, self._ended = None, time.monotonic()


_outage = _Outage()


def patiently(function: Callable[[], _Result], patience: Callable[[], float]) -> _Result:
    """The result of `function`, retried for as many seconds as `patience` says at every try."""
    began, wait, is_told = time.monotonic(), 0.1, False
    while True:
        tried = time.monotonic()
        try:
            found = function()
            if is_told:  # only then, as reading succeeds on a full disk
                _outage.is_over()
            return found
        except _AWAY as error:
            left = began + patience() - time.monotonic()
            if left <= 0 or _is_wrong(error):
                raise
            if wait > 1:  # short locks are not logged
                is_told = True
                _outage.goes_on(began, tried, error)
            _sleep(min(wait, left), patience)
            wait = min(2 * wait, _LONGEST)


def _sleep(seconds: float, patience: Callable[[], float]) -> None:
    """Sleeps, but no longer than until the patience changes."""
    until, before = time.monotonic() + seconds, patience()
    while time.monotonic() < until and patience() == before:
        time.sleep(min(0.2, max(until - time.monotonic(), 0)))


def _is_wrong(error: BaseException) -> bool:
    """Whether the database has answered with an error that would come again."""
    cause = error if isinstance(error, exc.DBAPIError) else error.__cause__
    return isinstance(cause, _WRONG) or any(words in why(error) for words in _REFUSED + _SPOILT)


def why(error: BaseException) -> str:
    """The error message of the database, in one line."""
    cause = error.__cause__ or error
    origin = getattr(cause, "orig", None) or cause
    return str(origin).strip().splitlines()[0] if str(origin).strip() else type(origin).__name__
