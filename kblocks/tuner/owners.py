"""Who runs a trial, and whether that process still lives: what was left behind is run again."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from kblocks.tuner.records import ATTEMPTS, BEAT, FAILURE, OWNER

BEAT_SECONDS = 5.0
GRACE_SECONDS = 60.0  # without a beat after which a process counts as dead
BEGINNINGS = 3  # of a trial: once, and twice again after its process has died


def node() -> str:
    """This machine, and its processes' name space: a container has one of its own."""
    space = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = f"/{boot[:8]}/{os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname() + space


def owner() -> str:
    """This process, as no other was or will be called."""
    return f"{node()}|{os.getpid()}|{psutil.Process().create_time():.2f}"


def is_gone(name: str) -> bool:
    """Whether an owner is known to have ended: it is of this machine, and not there."""
    where, _, rest = name.partition("|")
    pid, _, began = rest.partition("|")
    if where != node() or not pid.isdigit():
        return False
    try:
        process = psutil.Process(int(pid))
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return abs(process.create_time() - float(began)) > 0.1
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError):
        return False


@contextlib.contextmanager
def beating(storage: BaseStorage, trial_id: int) -> Iterator[None]:
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
    try:
        yield
    finally:
        done.set()


@dataclass
class _Seen:
    beat: Any
    still: float = 0.0  # seconds that it was watched without a change


@dataclass
class Watchman:
    """Gives the trials of dead processes back to the search.

    A process of this machine is looked up; of another the beats are watched by this one's own
    clock, and only while the storage can be read.

    Args:
        study: the search.
        grace: seconds without a beat.
    """

    study: optuna.Study
    storage: BaseStorage
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
            state = self._seen.get(trial.number, _Seen((name, beat)))
            changed = state.beat != (name, beat)
            state = _Seen((name, beat), 0.0 if changed else state.still + passed)
            if is_gone(name) or state.still > self.grace:
                if give_back(self.study, self.storage, trial):
                    freed.append(trial.number)
            else:
                seen[trial.number] = state
        self._seen = seen
        return freed


def give_back(
    study: optuna.Study, storage: BaseStorage, trial: FrozenTrial, counts: bool = True
) -> bool:
    """Lets another process go on with a trial; fails it if it has killed too many.

    Args:
        study, storage: of the search.
        trial: one that is running, and whose process has ended.
        counts: whether its end counts as the trial's fault.

    Returns:
        False if the trial has ended in the meantime.
    """
    begun = trial.user_attrs.get(ATTEMPTS, 1)
    identity = trial._trial_id
    try:
        now = storage.get_trial(identity)
        if now.state is not TrialState.RUNNING or _holder(now) != _holder(trial):
            return False  # another process was first, and may have begun it anew
        if not counts:
            storage.set_trial_user_attr(identity, ATTEMPTS, begun - 1)
        elif begun >= BEGINNINGS:
            message = f"its process ended {begun} times without a word, as by a signal"
            failure = {"kind": "killed", "message": message, "traceback": ""}
            storage.set_trial_user_attr(identity, FAILURE, failure)
            study.tell(trial.number, state=TrialState.FAIL)
            return True
        # Who takes it is not in it at once, and must not be taken for the one that has ended.
        storage.set_trial_user_attr(identity, OWNER, "")
        return bool(storage.set_trial_state_values(identity, TrialState.WAITING))
    except (UpdateFinishedTrialError, ValueError):
        return False


def _holder(trial: FrozenTrial) -> tuple[str, int]:
    return trial.user_attrs.get(OWNER, ""), trial.user_attrs.get(ATTEMPTS, 0)
