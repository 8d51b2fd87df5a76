"""Runs a search in worker processes: starts, watches, replaces and ends them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from kblocks.tuner.records import Failure, read
from kblocks.tuner.running import devices
from kblocks.tuner.running.ends import OVER, AwayError, raise_ending
from kblocks.tuner.running.fitting import Fit
from kblocks.tuner.running.jobs import Job
from kblocks.tuner.running.live import Live
from kblocks.tuner.running.loop import tidy, work
from kblocks.tuner.running.on_ray import Cluster
from kblocks.tuner.running.search import Search
from kblocks.tuner.running.wire import Errand
from kblocks.tuner.running.worker import serve
from kblocks.tuner.storing.diagnosis import diagnosis
from kblocks.tuner.storing.interrupts import REQUESTS, held
from kblocks.tuner.storing.owners import Watchman, fail, give_back_all, node
from kblocks.tuner.storing.patience import why
from kblocks.tuner.storing.storage import is_in_memory, shown

if TYPE_CHECKING:
    from kblocks.tuner.tuner import Tuner

_AWAY = (AwayError, StorageInternalError, SQLAlchemyError)
_POLL = 0.5  # seconds between two looks at the workers
_LEAVE = 5.0  # seconds to wait for a worker, or for the storage, when the search ends
_SLACK = 10.0  # seconds for a trial over its limit to end itself
_FALSE_STARTS = 2  # no more workers start after so many that end before they are ready
_SIGNALLED = 10  # the same for workers that a signal has ended

_LOCK = threading.Lock()
_SEARCHED: set[tuple[str, str]] = set()  # storage and name of the searches of this process


@contextlib.contextmanager
def alone(url: str, name: str) -> Iterator[None]:
    """Lets one thread at a time run a search, and no worker process that is still starting.

    Two threads would have the same owner in the storage, and take each other's trials.

    Raises:
        RuntimeError: if another thread runs it, or this is a worker that imports its script.
    """
    is_child = multiprocessing.current_process().name != "MainProcess"
    if is_child and multiprocessing.parent_process() is None:  # set after the import
        raise RuntimeError(
            "A process that a search has begun imports this script, which would begin the search "
            "again. It needs `if __name__ == '__main__':` around what it does"
        )
    key = url, name
    with _LOCK:
        if key in _SEARCHED and not is_in_memory(url):
            raise RuntimeError(
                f"Another thread of this process runs the search {name!r} in {shown(url)}. Let one "
                "call run it, with `workers=2`"
            )
        _SEARCHED.add(key)
    try:
        yield
    finally:
        _SEARCHED.discard(key)


def supervise(tuner: Tuner, job: Job, fit: Fit, verbose: int) -> None:
    """Runs a search to its end, in worker processes if that is possible.

    Raises:
        RuntimeError: if the first trials have all raised, or a worker cannot go on.
        ConnectionError: if the storage could not be used for too long.
        KeyboardInterrupt: after Ctrl-C; the search can be resumed.
        SystemExit: after SIGTERM or SIGHUP; the search can be resumed.
    """
    search = tuner.make_search(tuner.deadline())
    try:
        progress = Live(lambda: read(search.study), tuner.trials, tuner.hours, verbose)
        with _ended_by_request(), progress as live:
            try:
                _searched(tuner, job, fit, search, live)
            except BaseException as error:
                # From here on, the storage is not worth waiting for.
                search.storage.patience = min(search.storage.patience, _LEAVE)
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    with contextlib.suppress(OSError):  # the terminal is closed
                        live.say(f"Interrupted. {tuner.how_to_resume()}")
                raise
    except Exception as error:
        message = _unusable(tuner, search, error)
        if message is None:
            raise
        raise ConnectionError(message) from None
    finally:
        search.storage.patience = tuner.storage_patience


def _unusable(tuner: Tuner, search: Search, error: Exception) -> str | None:
    """What is wrong with the search's database and what to do; None if it is not the cause."""
    # Of the studies that this process has used, an extension of the search is the newest.
    (_, seen), kept = max(search.storage.seen.items(), default=(0, 0)), search.checkpoints.shown
    found = diagnosis(tuner.storage_url, search.study.study_name, seen, kept)
    if found is None and not isinstance(error, _AWAY):
        return None
    reason = f": {why(error)}" if isinstance(error, _AWAY) else ""
    back = (
        f"What was finished is in {shown(tuner.storage_url)}: when that can be used, run the same "
        f"again to go on with {tuner.project_name!r}."
    )
    return f"The search's database cannot be used{reason}. {found or back}"


def _searched(tuner: Tuner, job: Job, fit: Fit, search: Search, live: Live) -> None:
    if tuner.ray is not None:
        Cluster(tuner, job, search, live.say).run()
    elif not tuner.workers:
        work(search, fit)
    elif obstacle := job.obstacle() or _Crew(tuner, job, search).run():
        if tuner.gpus is not None:
            raise RuntimeError(f"`gpus` is for worker processes, and none can work: {obstacle}")
        live.say(
            "Searching in this process, which a trial that crashes would end, since no other can: "
            f"{obstacle}"
        )
        work(search, fit)
    tidy(search)
    if search.has_stalled:
        live.say(f"The last {tuner.patience} trials did not improve: the search ends (`patience`)")


@contextlib.contextmanager
def _ended_by_request() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end this process as Ctrl-C does, unless the program handles them."""
    here = threading.current_thread() is threading.main_thread()
    free = [n for n in REQUESTS if here and signal.getsignal(n) is signal.SIG_DFL]

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    for number in free:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in free:
            signal.signal(number, signal.SIG_DFL)


@dataclass
class _Member:
    process: Any
    connection: Any
    seat: int  # from 0; a worker that takes the place of another has its seat, and so its GPU
    began: float | None = None  # when its trial began
    number: int | None = None  # of its trial
    is_ready: bool = False
    errand: Errand | None = None  # sends its job
    until: float | None = None  # when it is killed, after it has announced its end


class _Crew:
    """The worker processes of a search on this machine."""

    def __init__(self, tuner: Tuner, job: Job, search: Search) -> None:
        self._tuner, self._job, self._search = tuner, job, search
        self._context = multiprocessing.get_context("spawn")
        self._members: list[_Member] = []
        self._begun = tuner.role.worker
        self._false_starts = self._signalled = 0
        self._is_over = False
        self._obstacle: str | None = None
        self._reason = "they end before they begin"
        self._watchman = Watchman(search.study, search.storage)

    def run(self) -> str | None:
        """Works until the search is over; returns the reason if no process could start."""
        try:
            while not self._is_over or self._members:
                if not self._is_over and not self._obstacle:
                    self._fill()
                self._listen()
                self._check_time()
                self._collect()
                if self._obstacle and not self._members:
                    return self._obstacle
        finally:
            self._end()
        return None

    def _fill(self) -> None:
        while len(self._members) < self._tuner.workers:
            seat = min(set(range(self._tuner.workers)) - {member.seat for member in self._members})
            # On Ray, the task above this process has its GPUs from Ray.
            gpu = {} if self._tuner.role.serves else devices.variables(self._tuner.gpus, seat)
            here, there = self._context.Pipe()
            process = self._context.Process(target=serve, args=(there, self._begun), daemon=True)
            self._begun += 1
            try:
                with _environment(self._tuner.workers, gpu), _uninterrupted():
                    process.start()
            except OSError as error:  # no memory, too many processes, or it was killed at once
                here.close()
                self._reason = f"they cannot be begun: {error}"
                self._failed_to_start(-signal.SIGKILL)
                return
            finally:
                there.close()
            self._members.append(_Member(process, here, seat))

    def _listen(self) -> None:
        ready = wait([m.connection for m in self._members if not m.connection.closed], _POLL)
        for member in self._members:
            if member.connection in ready:
                self._drain(member)

    def _drain(self, member: _Member) -> None:
        while not member.connection.closed:
            try:
                if not member.connection.poll():
                    return
                event, value = member.connection.recv()
            except Exception:  # the pipe is closed, or a trial has written to it
                member.connection.close()
                return
            self._handle(member, event, value)

    def _handle(self, member: _Member, event: str, value: Any) -> None:
        match event:
            case "hello":
                deadline = self._search.deadline
                left = None if deadline is None else deadline - time.monotonic()
                member.errand = Errand(member.connection, (self._job, left))
                member.errand.start()
            case "ready":
                member.is_ready, self._false_starts = True, 0
            case "begin":
                member.number, member.began = value, self._search.clock()
            case "end":
                member.number = member.began = None
            case "unable" | "replaced" | "over":
                member.until = time.monotonic() + _LEAVE
                self._reason = value or self._reason
                self._is_over |= event == OVER
            case _:
                raise_ending(event, value)

    def _check_time(self) -> None:
        limit = self._search.tuner.trial_seconds
        for member in self._members:
            if member.until is not None and time.monotonic() > member.until:
                self._stop(member)  # a thread left by a trial keeps it alive
            if limit is None or member.began is None or member.number is None:
                continue
            if self._search.clock() - member.began > limit + _SLACK:
                # Before it is killed, since others would claim the trial of a dead process.
                trial = self._search.study.get_trials(deepcopy=False)[member.number]
                if trial.state is TrialState.RUNNING:
                    message = f"took longer than {limit:g} s, and did not react"
                    failure = Failure("timeout", message)
                    fail(self._search.study, self._search.storage, trial, failure)
                self._stop(member)

    def _collect(self) -> None:
        """Removes workers that have ended, and releases their trials."""
        for member in self._members:
            errand = member.errand
            if errand is not None and errand.error and member.process.is_alive():
                self._reason, errand.error = errand.error, None
                member.process.terminate()  # it still waits for the rest of its job
        ended = [member for member in self._members if not member.process.is_alive()]
        for member in ended:
            self._drain(member)
            member.connection.close()
            self._members.remove(member)
            if not member.is_ready:
                self._failed_to_start(member.process.exitcode or 0)
        self._watchman.look()

    def _failed_to_start(self, code: int) -> None:
        if code < 0:
            self._signalled += 1
        else:
            self._false_starts += 1
        if self._false_starts >= _FALSE_STARTS or self._signalled >= _SIGNALLED:
            self._obstacle = (
                f"worker processes cannot work, {self._reason} (exit code {code}). A script needs "
                "`if __name__ == '__main__':`"
            )

    def _end(self) -> None:
        """Ends all processes and releases their trials for the next run."""
        if not self._members:
            return
        names = tuple(f"{node()}|{member.process.pid}|" for member in self._members)
        for member in self._members:
            member.process.terminate()
        until = time.monotonic() + _LEAVE
        for member in self._members:
            member.process.join(max(until - time.monotonic(), 0))
            self._stop(member)
        study, storage = self._search.study, self._search.storage
        storage.patience = min(storage.patience, _LEAVE)
        with contextlib.suppress(StorageInternalError, SQLAlchemyError):
            give_back_all(study, storage, names)

    @staticmethod
    def _stop(member: _Member) -> None:
        with contextlib.suppress(OSError):
            member.process.kill()
        member.process.join()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Starts a process without interruption, and blocks Ctrl-C in it from its first moment.

    The process inherits the signal mask. The mask alone would not protect this process: another
    thread may receive the signal, and the main thread would still raise.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    blocks = hasattr(signal, "pthread_sigmask")
    if blocks:
        resource_tracker.ensure_running()  # its start lifts the mask
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if blocks else set()
    try:
        with held():
            yield
    finally:
        if blocks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _environment(workers: int, gpu: Mapping[str, str]) -> Iterator[None]:
    """Sets the environment of a worker: its share of cores, its GPU; less output of TensorFlow."""
    wanted = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    if workers > 1:
        share = str(max(1, devices.cores() // workers))
        names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
        wanted |= {**dict.fromkeys(names, share), **devices.SHARING}
    given = {name: value for name, value in wanted.items() if name not in os.environ} | {**gpu}
    before = {name: os.environ[name] for name in given if name in os.environ}
    os.environ.update(given)
    try:
        yield
    finally:
        for name in given:
            del os.environ[name]
        os.environ.update(before)
