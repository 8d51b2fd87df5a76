"""The storage of a search: no call leaves a lock, and one's own clock judges who is silent."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import optuna
import pytest
from optuna.trial import TrialState

from kblocks.tuner.records import BEAT, OWNER
from kblocks.tuner.storing import owners
from kblocks.tuner.storing.interrupts import check, held, remembered
from kblocks.tuner.storing.patience import ForkedError
from kblocks.tuner.storing.storage import open_storage


@contextlib.contextmanager
def signalled(after: float) -> Iterator[None]:
    """Ctrl-C comes so many seconds later."""

    def send() -> None:
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_call_that_ctrl_c_interrupts_leaves_no_lock(tmp_path: Path) -> None:
    """Without care one in a few dozen leaves SQLite locked for as long as the process lives."""
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    random = Random(1)
    for turn in range(150):
        kept = None
        try:
            with signalled(random.uniform(0, 0.01)):
                while True:
                    if turn % 2:
                        storage.set_trial_user_attr(trial._trial_id, "turn", turn)
                    else:
                        storage.get_trial(trial._trial_id)
        except KeyboardInterrupt as error:
            kept = error  # and with it all frames, as in a notebook
        assert kept is not None
        database = sqlite3.connect(tmp_path / "study.db", timeout=0, isolation_level=None)
        with contextlib.closing(database):
            database.execute("BEGIN EXCLUSIVE")
    assert storage.get_trial(trial._trial_id).user_attrs["turn"] == 149


def test_a_forked_child_writes_nothing(tmp_path: Path) -> None:
    """SQLite forbids it: the child's copy of a connection knows nothing of the parent's locks."""
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    trial = optuna.create_study(storage=storage).ask()
    child = os.fork()
    if child == 0:
        try:
            trial.set_user_attr("of", "the child")
        except ForkedError:
            os._exit(3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    trial.set_user_attr("of", "the parent")
    assert storage.get_trial(trial._trial_id).user_attrs["of"] == "the parent"


def test_only_the_owner_of_a_running_trial_writes_to_it(tmp_path: Path) -> None:
    """All of what it writes at once, or nothing."""
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    study = optuna.create_study(storage=storage)
    number = study.ask()._trial_id
    assert storage.write(number, {"a": 1, "b": [2.5, None]})
    assert storage.write(number, {"a": "new"})
    with pytest.raises(TypeError):
        storage.write(number, {"a": "newer", "b": object()})
    other = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    other.owner = "another process"
    assert not other.write(number, {"a": "stolen"})
    found = storage.get_trial(number)
    assert found.state is TrialState.RUNNING
    assert {key: found.user_attrs[key] for key in "ab"} == {"a": "new", "b": [2.5, None]}
    study.tell(0, 1.0)
    assert not storage.write(number, {"a": "late"})
    assert storage.get_trial(number).user_attrs["a"] == "new"


def test_what_is_held_back_is_heard_afterwards() -> None:
    steps = []

    def interrupted() -> None:
        with held():
            os.kill(os.getpid(), signal.SIGINT)
            steps.append(time.sleep(0.05))

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(steps) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_insists_is_heard_at_once() -> None:
    steps = []

    def interrupted() -> None:
        with held():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            steps.append(time.sleep(0.05))

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not steps


def test_what_a_signal_raised_and_others_lost_is_raised_again() -> None:
    with remembered():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        with pytest.raises(KeyboardInterrupt):
            check()
    check()  # what is over is forgotten
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_hold_nothing_back() -> None:
    handlers = []

    def look() -> None:
        with held():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


class Clock:
    """Stands where it is put."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def watched(folder: Path) -> tuple[optuna.Study, owners.Watchman, Clock]:
    """A study without trials, who watches it, and that one's clock."""
    storage = open_storage(f"sqlite:///{folder / 'study.db'}")
    study, clock = optuna.create_study(storage=storage), Clock()
    return study, owners.Watchman(study, storage, grace=60.0, clock=clock), clock


def begun_elsewhere(study: optuna.Study) -> optuna.Trial:
    """A trial that a process of another machine runs."""
    trial = study.ask()
    trial.set_user_attr(OWNER, "elsewhere/1|77|5")
    return trial


@pytest.mark.parametrize(
    ("steps", "is_given_back"),
    [
        ([5.0] * 30, True),
        ([5.0] * 10, False),
        ([3600.0], False),  # this machine slept, or the storage was away: nobody was silent
        ([5.0] * 6 + [3600.0] + [5.0] * 2, False),
    ],
    ids=["silent", "silent for a moment", "the clock jumps", "the clock jumps in between"],
)
def test_another_machine_is_silent_by_this_ones_looks(
    tmp_path: Path, steps: list[float], is_given_back: bool
) -> None:
    study, watchman, clock = watched(tmp_path)
    begun_elsewhere(study)
    watchman.look()
    freed = []
    for step in steps:
        clock.now += step
        freed += watchman.look()
    assert freed == ([0] if is_given_back else [])
    state = study.get_trials(deepcopy=False)[0].state
    assert state is (TrialState.WAITING if is_given_back else TrialState.RUNNING)


def test_nobody_was_silent_before_being_seen(tmp_path: Path) -> None:
    study, watchman, clock = watched(tmp_path)
    watchman.look()
    begun_elsewhere(study)
    for _ in range(13):  # 60 seconds pass between the first look at it and the last
        clock.now += 5
        assert watchman.look() == []
    clock.now += 5
    assert watchman.look() == [0]


def test_a_beat_begins_the_silence_anew(tmp_path: Path) -> None:
    study, watchman, clock = watched(tmp_path)
    trial = begun_elsewhere(study)
    for turn in range(40):
        clock.now += 5
        if turn % 10 == 9:
            trial.set_user_attr(BEAT, turn)
        assert watchman.look() == []
