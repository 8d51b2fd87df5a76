"""Which process owns a trial and whether it still lives; abandoned trials are run again."""

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
GRACE_SECONDS = 60.0  # without a heartbeat, after which a process counts as dead
BEGINNINGS = 3  # attempts at a trial: one, and two more after its process has died


@functools.cache
def node() -> str:
    """The host name; on Linux also boot and PID namespace, since a container has its own PIDs."""
    space = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = f"/{boot[:8]}/{os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname() + space


def owner() -> str:
    """A name of this process that no other process has or will have."""
    return f"{node()}|{os.getpid()}|{_began(os.getpid())[0]}"


def _began(pid: int) -> tuple[str, bool]:
    """When a process began, and whether it is a zombie: ended, but not yet waited for.

    On Linux the time counts in ticks since boot, since a time of day moves with the clock.
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
    """Whether an owner is known to have ended: it was a process of this machine and is gone."""
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
    """Whether an owner is a process of this machine."""
    return name.partition("|")[0] == node()


def as_it_is(run: Run) -> Run:
    """The run, with running trials of dead processes of this machine shown as waiting."""

    def now(trial: Record) -> Record:
        is_left = trial.state == "running" and is_gone(trial.owner)
        return replace(trial, state="waiting") if is_left else trial

    return replace(run, trials=tuple(map(now, run.trials)))


_RUNS: set[int] = set()  # the ids of the trials that this process runs


@contextlib.contextmanager
def beating(storage: PatientStorage, trial_id: int) -> Iterator[None]:
    """Updates a trial's heartbeat while the block runs, so that others see the trial running."""
    done = threading.Event()

    def beat() -> None:
        count = 0
        while not done.wait(BEAT_SECONDS):
            count += 1
            with contextlib.suppress(Exception):  # the trial itself will meet the error
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
class Watchman:
    """Releases the trials of dead processes.

    Processes of this machine are looked up by PID, and this process knows its own trials. The
    heartbeats of other machines are timed by the clock here, and only while the storage answers;
    after `grace` seconds without one a process counts as dead. The thread that claims trials must
    call `look`.
    """

    study: optuna.Study
    storage: PatientStorage
    grace: float = field(default_factory=lambda: GRACE_SECONDS)
    clock: Callable[[], float] = time.monotonic
    # By trial: owner and heartbeat, and for how many seconds these have been the same.
    _seen: dict[int, tuple[Any, float]] = field(default_factory=dict)
    _looked: float | None = None

    def look(self) -> list[int]:
        """Releases or fails the trials of dead processes; returns their numbers."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        now = self.clock()
        # A long gap between two looks may be an outage of the storage; it counts as two beats.
        passed = 0.0 if self._looked is None else min(now - self._looked, 2 * BEAT_SECONDS)
        self._looked = now
        freed = []
        seen = {}
        for trial in running:
            name = trial.user_attrs.get(OWNER, "")
            state = name, trial.user_attrs.get(BEAT)
            before, still = self._seen.get(trial.number, (None, 0.0))
            still = still + passed if state == before else 0.0
            is_left = name == owner() and identity_of(trial) not in _RUNS
            if is_left or is_gone(name) or (not is_here(name) and still > self.grace):
                if give_back(self.study, self.storage, trial):
                    freed.append(trial.number)
            else:
                seen[trial.number] = state, still
        self._seen = seen
        return freed


def give_back(
    study: optuna.Study, storage: PatientStorage, trial: FrozenTrial, counts: bool = True
) -> bool:
    """Releases a running trial, or fails it after too many attempts that count.

    Returns False if it has ended or has another owner in the meantime.
    """
    begun = trial.user_attrs.get(ATTEMPTS, 0)
    if not counts or begun < BEGINNINGS:
        return storage.release(trial, begun if counts else max(begun - 1, 0))
    message = f"its process ended {begun} times without a word, as by a signal"
    if storage.get_trial(identity_of(trial)).user_attrs.get(OWNER) != trial.user_attrs.get(OWNER):
        return False
    return fail(study, storage, trial, Failure("killed", message))


def give_back_all(study: optuna.Study, storage: PatientStorage, names: tuple[str, ...]) -> None:
    """Releases trials of owners with these beginnings, told to end: the attempts do not count."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.user_attrs.get(OWNER, "").startswith(names):
            give_back(study, storage, trial, counts=False)


def fail(
    study: optuna.Study, storage: PatientStorage, trial: FrozenTrial, failure: Failure
) -> bool:
    """Fails a running trial; returns False if it has ended in the meantime."""
    try:
        storage.set_trial_user_attr(identity_of(trial), FAILURE, asdict(failure))
        study.tell(trial.number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):
        return False
    return True
