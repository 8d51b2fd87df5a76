"""Who runs a trial, and whether that process still lives: what was left behind is run again."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from kblocks.tuner.records import ATTEMPTS, BEAT, FAILURE, OWNER, Failure, Record, Run, identity_of
from kblocks.tuner.storing.patience import PatientStorage

BEAT_SECONDS = 5.0
GRACE_SECONDS = 60.0  # without a beat after which a process counts as dead
BEGINNINGS = 3  # of a trial: once, and twice again after its process has died


@functools.cache
def node() -> str:
    """This machine, and its processes' name space: a container has one of its own."""
    space = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = f"/{boot[:8]}/{os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname() + space


def owner() -> str:
    """This process, as no other was or will be called."""
    return f"{node()}|{os.getpid()}|{_began(os.getpid())[0]}"


def _began(pid: int) -> tuple[str, bool]:
    """When a process began, and whether it has ended since without being taken leave of.

    On Linux in ticks since the start of the machine: a time of day moves with its clock.

    Raises:
        psutil.NoSuchProcess: if it is not there.
    """
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            raise psutil.NoSuchProcess(pid) from None
        return fields[19], fields[0] in "ZX"
    process = psutil.Process(pid)
    return f"{process.create_time():.1f}", process.status() == psutil.STATUS_ZOMBIE


def is_gone(name: str) -> bool:
    """Whether an owner is known to have ended: it is of this machine, and not there."""
    pid, _, began = name.partition("|")[2].partition("|")
    if not is_here(name) or not pid.isdigit():
        return False
    try:
        found, has_ended = _began(int(pid))
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError, IndexError):
        return False
    return has_ended or found != began


def is_here(name: str) -> bool:
    """Whether an owner is of this machine."""
    return name.partition("|")[0] == node()


def as_it_is(run: Run) -> Run:
    """A run in which trials wait that run no more, as their process was killed with all others."""

    def now(trial: Record) -> Record:
        is_left = trial.state == "running" and is_gone(trial.owner)
        return replace(trial, state="waiting") if is_left else trial

    return replace(run, trials=tuple(map(now, run.trials)))


_RUNS: set[int] = set()  # the trials that this process runs


@contextlib.contextmanager
def beating(storage: PatientStorage, trial_id: int) -> Iterator[None]:
    """Lets others see that the trial is being run."""
    done = threading.Event()

    def beat() -> None:
        count = 0
        while not done.wait(BEAT_SECONDS):
            count += 1
            with contextlib.suppress(Exception):  # the trial itself will meet what is wrong
                storage.set_trial_user_attr(trial_id, BEAT, count)

    thread = threading.Thread(target=beat, daemon=True, name="kblocks-beat")
    thread.start()
    _RUNS.add(trial_id)
    try:
        yield
    finally:
        done.set()
        _RUNS.discard(trial_id)


def is_busy() -> bool:
    """Whether this process runs a trial."""
    return bool(_RUNS)


@dataclass
class _Seen:
    beat: Any
    still: float = 0.0  # seconds that it was watched without a change


@dataclass
class Watchman:
    """Gives the trials of dead processes back to the search.

    A process of this machine is looked up, and this process knows what it runs; of another
    machine the beats are watched by this one's own clock, and only while the storage can be read.
    To be called by the thread that takes trials.

    Args:
        study: the search.
        grace: seconds without a beat.
    """

    study: optuna.Study
    storage: PatientStorage
    grace: float = field(default_factory=lambda: GRACE_SECONDS)
    clock: Callable[[], float] = time.monotonic
    _seen: dict[int, _Seen] = field(default_factory=dict)
    _looked: float | None = None

    def look(self) -> list[int]:
        """Returns the numbers of the trials that were given back or have failed for good."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        now = self.clock()
        # A gap between two looks is no silence of the others: it may have been the storage's.
        passed = 0.0 if self._looked is None else min(now - self._looked, 2 * BEAT_SECONDS)
        self._looked = now
        freed = []
        seen: dict[int, _Seen] = {}
        for trial in running:
            name, beat = trial.user_attrs.get(OWNER, ""), trial.user_attrs.get(BEAT)
            state = _Seen((name, beat))
            before = self._seen.get(trial.number)
            if before is not None and before.beat == state.beat:
                state.still = before.still + passed
            if self._is_left(trial, name) or (not is_here(name) and state.still > self.grace):
                if give_back(self.study, self.storage, trial):
                    freed.append(trial.number)
            else:
                seen[trial.number] = state
        self._seen = seen
        return freed

    @staticmethod
    def _is_left(trial: FrozenTrial, name: str) -> bool:
        """Whether nobody runs it: its process has ended, or is this one and does something else."""
        return is_gone(name) or (name == owner() and identity_of(trial) not in _RUNS)


def give_back(
    study: optuna.Study, storage: PatientStorage, trial: FrozenTrial, counts: bool = True
) -> bool:
    """Lets another process go on with a trial; fails it if it has killed too many.

    Args:
        study, storage: of the search.
        trial: one that is running, and whose process has ended.
        counts: whether its end counts as the trial's fault.

    Returns:
        False if the trial has ended or has another owner in the meantime.
    """
    begun = trial.user_attrs.get(ATTEMPTS, 0)
    if not counts or begun < BEGINNINGS:
        return storage.release(trial, begun if counts else max(begun - 1, 0))
    message = f"its process ended {begun} times without a word, as by a signal"
    if storage.get_trial(identity_of(trial)).user_attrs.get(OWNER) != trial.user_attrs.get(OWNER):
        return False
    return fail(study, storage, trial, Failure("killed", message))


def fail(
    study: optuna.Study, storage: PatientStorage, trial: FrozenTrial, failure: Failure
) -> bool:
    """Fails a trial that is running; False if it has ended in the meantime."""
    try:
        storage.set_trial_user_attr(identity_of(trial), FAILURE, asdict(failure))
        study.tell(trial.number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):
        return False
    return True
