"""The processes of a search: begun, watched, replaced, and ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import psutil
from optuna.trial import TrialState

from kblocks.tuner.identity import ChangedError
from kblocks.tuner.jobs import Job
from kblocks.tuner.live import Live
from kblocks.tuner.loop import HopelessError, Search, work
from kblocks.tuner.owners import Watchman, give_back
from kblocks.tuner.records import FAILURE, OWNER
from kblocks.tuner.training import Fit

_POLL = 0.5  # seconds
_SLACK = 10.0  # seconds in which a trial over its time may end itself
_GROWTH = 1 << 30  # bytes that a worker may grow by after its first trial
_FALSE_STARTS = 2  # workers that end before they have begun, after which none is begun


def supervise(tuner: Any, job: Job, fit: Fit, verbose: int) -> None:
    """Runs a search to its end, in worker processes where that is possible.

    Raises:
        RuntimeError: if the first trials have all raised.
        KeyboardInterrupt: if it was interrupted; it can go on later.
    """
    search = tuner.make_search(tuner.deadline())
    with Live(search, tuner, verbose) as live:
        obstacle = job.obstacle() if tuner.workers else None
        try:
            if tuner.workers and obstacle is None:
                obstacle = _Crew(tuner, job, search).run()
            if obstacle is not None:
                live.say(f"Searching in this process, since no other can: {obstacle}")
            if obstacle is not None or not tuner.workers:
                work(search, fit)
        except KeyboardInterrupt:
            live.say(f"Interrupted. {tuner.how_to_resume()}")
            raise


@dataclass
class _Member:
    process: Any
    connection: Any
    began: float | None = None  # when its trial began
    number: int | None = None  # of its trial
    is_ready: bool = False


class _Crew:
    """The worker processes of a search on this machine."""

    def __init__(self, tuner: Any, job: Job, search: Search) -> None:
        self._tuner, self._job, self._search = tuner, job, search
        self._context = multiprocessing.get_context("spawn")
        self._members: list[_Member] = []
        self._begun = self._false_starts = 0
        self._is_over = False
        self._obstacle: str | None = None
        self._watchman = Watchman(search.study, search.storage)

    def run(self) -> str | None:
        """Works until the search is over; returns why not, if no process could begin."""
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
            here, there = self._context.Pipe(duplex=False)
            deadline = self._search.limits.deadline
            left = None if deadline is None else deadline - time.monotonic()
            process = self._context.Process(
                target=_serve, args=(self._job, self._begun, there, left), daemon=True
            )
            with _environment(self._tuner.workers):
                process.start()
            there.close()
            self._begun += 1
            self._members.append(_Member(process, here))

    def _listen(self) -> None:
        connections = [member.connection for member in self._members]
        for connection in wait(connections, _POLL):
            member = next(m for m in self._members if m.connection is connection)
            self._drain(member)

    def _drain(self, member: _Member) -> None:
        with contextlib.suppress(EOFError, OSError):
            while member.connection.poll():
                self._heard(member, *member.connection.recv())

    def _heard(self, member: _Member, event: str, value: Any) -> None:
        match event:
            case "ready":
                member.is_ready, self._false_starts = True, 0
            case "begin":
                member.number, member.began = value, time.monotonic()
            case "end":
                member.number = member.began = None
            case "over":
                self._is_over = True
            case "hopeless":
                raise HopelessError(value)
            case "changed":
                raise ChangedError(value)

    def _check_time(self) -> None:
        limit = self._search.limits.seconds
        for member in self._members:
            if limit is None or member.began is None or member.number is None:
                continue
            if time.monotonic() - member.began > limit + _SLACK:
                self._stop(member)
                self._fail(member.number, f"took longer than {limit:g} s, and did not react")

    def _fail(self, number: int, message: str) -> None:
        study = self._search.study
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number == number:
                failure = {"kind": "timeout", "message": message, "traceback": ""}
                self._search.storage.set_trial_user_attr(trial._trial_id, FAILURE, failure)
                study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def _collect(self) -> None:
        """Takes leave of those that have ended, and gives their trials back."""
        ended = [member for member in self._members if not member.process.is_alive()]
        for member in ended:
            self._drain(member)
            member.connection.close()
            self._members.remove(member)
            if not member.is_ready:
                self._false_starts += 1
                if self._false_starts >= _FALSE_STARTS:
                    self._obstacle = (
                        "the worker processes end before they begin (exit code "
                        f"{member.process.exitcode}); a script needs `if __name__ == '__main__':`"
                    )
        self._watchman.look()

    def _end(self) -> None:
        """Ends all processes; their trials wait for the next run."""
        names = set()
        for member in self._members:
            names.add(f"|{member.process.pid}|")
            member.process.terminate()
        for member in self._members:
            member.process.join(5)
            self._stop(member)
        if not self._members:
            return
        study, storage = self._search.study, self._search.storage
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if any(name in trial.user_attrs.get(OWNER, "") for name in names):
                give_back(study, storage, trial, counts=False)

    @staticmethod
    def _stop(member: _Member) -> None:
        with contextlib.suppress(OSError):
            member.process.kill()
        member.process.join()


def _serve(job: Job, index: int, connection: Any, left: float | None) -> None:
    """A worker process, from its beginning to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process tells what to do
    signal.signal(signal.SIGTERM, lambda *_: _exit())
    threading.Thread(target=_follow, daemon=True).start()
    job.enter()
    tuner, fit = job.tuner(), job.fit()
    tuner.worker = index
    search = tuner.make_search(None if left is None else time.monotonic() + left)
    connection.send(("ready", None))
    memory = _Memory()

    def tell(event: str, number: int) -> None:
        connection.send((event, number))
        if event == "end":
            memory.look()

    try:
        work(search, fit, tell, lambda: memory.has_grown)
    except HopelessError as error:
        connection.send(("hopeless", str(error)))
    except ChangedError as error:
        connection.send(("changed", str(error)))
    else:
        if not memory.has_grown:
            connection.send(("over", None))


def _exit() -> None:
    raise SystemExit(0)


def _follow() -> None:
    """Ends this process when the one that began it has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class _Memory:
    """Whether this process has grown too large to go on."""

    def __init__(self) -> None:
        self._first: int | None = None
        self.has_grown = False

    def look(self) -> None:
        """Called after each trial."""
        size = psutil.Process().memory_info().rss
        self._first = size if self._first is None else self._first
        self.has_grown = size - self._first > _GROWTH


@contextlib.contextmanager
def _environment(workers: int) -> Iterator[None]:
    """What worker processes find: a share of the cores each, and less noise from TensorFlow."""
    wanted = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    if workers > 1:
        share = str(max(1, (os.cpu_count() or 1) // workers))
        names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
        wanted |= dict.fromkeys(names, share)
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
