"""Searches that processes, signals, disks, databases and their own trials bring to an end."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from searching import Toy, cleared, command_line, family, told_to_end, until
from tiers import THOROUGH

import kblocks as kb
from kblocks.command.stored import opened

pytestmark = pytest.mark.system

MakeToy = Callable[..., Toy]


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[MakeToy]:
    """Makes a toy search whose processes end with the test."""
    with contextlib.ExitStack() as stack:

        def make(plan: dict[str, Any], folder: Path | None = None, **settings: Any) -> Toy:
            made = Toy(folder or tmp_path / "runs", plan, settings)
            return stack.enter_context(cleared(made))

        yield make


# --- killed processes --------------------------------------------------------------------


def test_a_trial_goes_on_at_its_last_epoch_when_its_worker_or_the_main_process_is_killed(
    toy: MakeToy,
) -> None:
    search = toy({"seconds": 0.4, "epochs": 6}, trials=3)
    main = search.start()
    worker = int(search.wait_for("epoch 0 2")[3])
    os.kill(worker, signal.SIGKILL)  # in the fourth epoch
    assert search.wait_for("begin 0 3")[3] != str(worker)
    search.wait_for("begin 1 0")
    finished = search.trials()[0]
    search.wait_for("epoch 1 2")
    main.kill()
    main.wait()
    until(lambda: not psutil.pid_exists(int(search.notes()[-1][3])))  # the worker follows it
    search.finish()
    search.check(3)
    assert ["begin", "1", "3"] in [note[:3] for note in search.notes()]
    assert search.begun() == [0, 0, 1, 1, 2]
    assert search.trials()[0] == finished
    for trial in search.trials():
        assert trial.history["loss"] == [1 / (epoch + 1) for epoch in range(6)]
    # That the main process was killed is no fault of the trial that its worker ran.
    assert [trial.attempts for trial in search.trials()] == [2, 1, 1]


def test_a_search_in_one_process_goes_on_after_its_kill(toy: MakeToy) -> None:
    search = toy({"seconds": 0.3, "epochs": 4}, trials=2, workers=0)
    main = search.start()
    search.wait_for("epoch 1 1")
    main.kill()
    main.wait()
    shown = opened(str(search.database.parent))  # as `kblocks status` reads it
    assert [trial.state for trial in shown.trials] == ["completed", "waiting"]
    search.finish()
    search.check(2)
    assert search.begun() == [0, 1, 1]


@pytest.mark.slow
def test_nothing_is_lost_or_run_twice_by_kills_at_random_moments(toy: MakeToy) -> None:
    chance, many = random.Random(20261122), 50 if THOROUGH else 20
    search = toy({"seconds": 0.02, "epochs": 4}, trials=many + 20, workers=3)
    finished: dict[int, tuple[str, int]] = {}  # by number: its end, and the notes by then
    kills = {"main": 0, "worker": 0}
    main = search.start()
    until(search.begun)
    while sum(kills.values()) < many:
        known = len(search.notes())
        until(lambda seen=known: len(search.notes()) > seen or search.process.poll() is not None)
        time.sleep(chance.uniform(0, 0.4))
        if main.poll() is not None:
            assert main.returncode in (0, -signal.SIGKILL), search.ends()
            main = search.start()
            continue
        workers = [p for p in family(main.pid) if "spawn_main" in command_line(p)]
        who = "main" if chance.random() < 0.2 or not workers else "worker"
        with contextlib.suppress(psutil.NoSuchProcess):
            (psutil.Process(main.pid) if who == "main" else chance.choice(workers)).kill()
            kills[who] += 1
        if who == "main":
            main.wait()
        trials = search.trials() if search.database.exists() else ()
        known = len(search.notes())  # after these: a trial may begin and end between the two
        for trial in trials:
            if trial.is_finished:
                finished.setdefault(trial.number, (repr(trial), known))
        search.settings["trials"] = max(many + 20, len(finished) + 20)
    main.kill()
    main.wait()
    total = search.settings["trials"]
    search.finish()
    search.check(total)
    ended = {trial.number: trial for trial in search.trials()}
    notes = search.notes()
    for number, (text, known) in finished.items():
        if number in ended:  # not one that nobody needed
            assert repr(ended[number]) == text
        assert not [n for n in notes[known:] if n[:2] == ["begin", str(number)]]
    for trial in ended.values():
        if trial.failure is not None:
            assert (trial.failure.kind, trial.attempts) == ("killed", 3)
    assert kills["main"] >= many // 10
    assert kills["worker"] >= many // 3


@pytest.mark.slow
def test_a_trial_whose_machine_was_silent_is_run_elsewhere_and_left_alone_when_it_wakes(
    toy: MakeToy,
) -> None:
    plan = {"seconds": 0.4, "epochs": 20}
    sleeper = toy({**plan, "node": "a"}, trials=2, workers=0)
    stopped = sleeper.start()
    sleeper.wait_for("epoch 0 2")
    stopped.send_signal(signal.SIGSTOP)  # as a laptop whose lid is closed
    other = toy({**plan, "node": "b"}, trials=2, workers=0)
    other.start()
    taken = other.wait_for("begin 0 3")
    assert taken[3] != str(stopped.pid)
    other.wait_for("epoch 0 5")
    stopped.send_signal(signal.SIGCONT)
    for search in (sleeper, other):
        code, out, err = search.ends()
        assert code == 0, f"{out}\n{err}"
    other.check(2)
    ends = [note for note in other.notes() if note[0] == "end"]
    assert sorted(int(note[1]) for note in ends) == [0, 1]
    for trial in other.trials():
        assert trial.history["loss"] == [1 / (epoch + 1) for epoch in range(20)]
    assert [trial.attempts for trial in other.trials()] == [2, 1]


@pytest.mark.slow
def test_a_worker_that_stands_still_on_this_machine_keeps_its_trial(toy: MakeToy) -> None:
    search = toy({"seconds": 0.2, "epochs": 6}, trials=5, workers=2)
    search.start()
    worker = int(search.wait_for("epoch 0 1")[3])
    os.kill(worker, signal.SIGSTOP)
    search.wait_for("end 3", 120)  # the other worker does the rest meanwhile
    os.kill(worker, signal.SIGCONT)
    code, out, err = search.ends()
    assert code == 0, f"{out}\n{err}"
    search.check(5)
    assert sorted(search.begun()) == [0, 1, 2, 3, 4]
    assert [trial.attempts for trial in search.trials()] == [1] * 5


# --- trials that go wrong ----------------------------------------------------------------


def test_a_search_goes_on_after_trials_that_go_wrong_in_every_way(toy: MakeToy) -> None:
    faults = dict(enumerate(["raise", "memory", "nan", "inf", "kill", "hang", "exit"], 1))
    plan = {str(number): fault for number, fault in faults.items()}
    search = toy({**plan, "seconds": 0.02}, trials=10, workers=2, trial_seconds=4)
    out = search.finish()
    search.check(10)
    trials = search.trials()
    kinds = {t.number: t.failure.kind for t in trials if t.failure is not None}
    assert kinds == {
        1: "error",
        2: "memory",
        3: "diverged",
        4: "diverged",
        5: "killed",
        6: "timeout",
        7: "error",
    }
    expected = {
        1: "a fault of this <architecture>",
        2: "Unable to allocate",
        3: "nan after epoch 1",
        4: "inf after epoch 1",
        5: "ended 3 times",
        6: "longer than 4 s",
        7: "SystemExit: 2",
    }
    for number, words in expected.items():
        failure = trials[number].failure
        assert failure is not None
        assert words in failure.message
        assert kb.Architecture.from_json(trials[number].network).cost((16, 16, 3)).params > 0
    assert search.begun().count(5) == 3
    assert [number for number in range(10) if search.begun().count(number) != 1] == [5]
    assert trials[5].attempts == 3
    assert "killed: its process ended 3 times" in out


def test_a_search_whose_first_trials_all_raise_ends_with_the_last_error(toy: MakeToy) -> None:
    search = toy({str(n): "raise" for n in range(9)}, trials=9)
    search.start()
    code, _, err = search.ends()
    assert code == 1
    assert "first 5 trials have all failed" in err
    assert "ValueError: a fault of this <architecture>" in err


@pytest.mark.slow
def test_a_worker_that_has_grown_is_replaced(toy: MakeToy) -> None:
    plan = {str(number): "grow" for number in range(5)}
    search = toy({**plan, "epochs": 1}, trials=5, growth=1 << 27)
    search.finish()
    search.check(5)
    workers = [note[3] for note in search.notes() if note[0] == "begin"]
    # The first trial is what growth is counted from; each 256 MiB more is over 128 MiB.
    assert workers[0] == workers[1] != workers[2] == workers[3] != workers[4]


# --- told to end -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        "ctrl-c",
        *(
            pytest.param(h, marks=pytest.mark.slow)
            for h in ("ctrl-c at the start", "sigterm", "hang-up")
        ),
    ],
)
def test_a_search_that_is_told_to_end_does_so_at_once_and_says_how_to_go_on(
    toy: MakeToy, how: str
) -> None:
    search = toy({"seconds": 0.3, "epochs": 4}, trials=3, workers=2)
    main = search.start()
    if how == "ctrl-c at the start":
        until(lambda: [p for p in family(main.pid) if "spawn_main" in command_line(p)])
    else:
        search.wait_for("epoch 1 1")
    below = family(main.pid)
    told_to_end(search, how, 10)
    until(lambda: not any(process.is_running() for process in below), 3)
    assert [t.state for t in search.trials() if t.state == "running"] == []
    search.finish()
    search.check(3)
    assert [trial.attempts for trial in search.trials()] == [1, 1, 1]


# --- the database and the disk -----------------------------------------------------------


@pytest.mark.slow
def test_a_search_waits_for_a_database_that_is_locked_moved_away_or_replaced(toy: MakeToy) -> None:
    search = toy({"seconds": 0.1}, trials=12, workers=2)
    search.start()
    search.wait_for("end 0")
    away = search.database.with_suffix(".away")
    with contextlib.closing(sqlite3.connect(search.database, timeout=30)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        locked = len(search.notes())
        time.sleep(3)
        assert len(search.notes()) < locked + 12  # they wait
        connection.execute("ROLLBACK")
    until(lambda: len(search.notes()) > locked + 12)
    with contextlib.closing(sqlite3.connect(search.database, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")  # nobody writes while it is moved
        os.rename(search.database, away)
    time.sleep(3)
    assert not search.database.exists()
    shutil.copy(away, search.database.with_suffix(".copy"))
    away.unlink()  # what is written to this file from now on is lost
    os.rename(search.database.with_suffix(".copy"), search.database)
    code, out, err = search.ends()
    assert code == 0, f"{out}\n{err}"
    search.check(12)
    assert sorted(search.begun()) == list(range(12))


@pytest.mark.slow
def test_a_database_that_stays_away_ends_the_search_with_one_clear_error(toy: MakeToy) -> None:
    search = toy({"seconds": 0.1}, trials=50, workers=2, storage_patience=2)
    search.start()
    search.wait_for("end 0")
    with contextlib.closing(sqlite3.connect(search.database, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        os.rename(search.database, search.database.with_suffix(".away"))
    code, _, err = search.ends(40)
    assert code == 1
    lines = [line for line in err.splitlines() if line.startswith("ConnectionError")]
    assert len(lines) == 1, err
    assert "unable to open database file" in lines[0]
    assert "run the same again" in lines[0]
    os.rename(search.database.with_suffix(".away"), search.database)
    search.finish(trials=5)
    assert [t.number for t in search.trials() if not t.is_finished] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB, with a search's notes beside it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Takes all the space that is left."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    return path


@pytest.mark.slow
def test_a_search_goes_on_after_its_disk_was_full(
    toy: MakeToy, small_disk: Path, tmp_path: Path
) -> None:
    search = toy({"seconds": 0.1, "width": 2000}, small_disk, trials=30, workers=2)
    said = tmp_path / "said"
    with said.open("w", encoding="utf-8") as file:
        search.start(output=file.fileno())
    search.wait_for("end 1")
    finished = {t.number: t for t in search.trials() if t.is_finished}

    def heard() -> bool:
        fill(small_disk)  # again: what is removed in the meantime makes no room
        return "database or disk is full" in said.read_text(encoding="utf-8")

    until(heard)
    before = len(search.notes())
    (small_disk / "filler").unlink()
    code, _, _ = search.ends()
    assert code == 0, said.read_text(encoding="utf-8")
    assert len(search.notes()) > before
    search.check(30)
    # A trial that the full disk left half made is no trial, so the numbers may have a gap.
    assert sorted(search.begun()) == [trial.number for trial in search.trials()]
    ended = {trial.number: trial for trial in search.trials()}
    assert all(ended[number] == trial for number, trial in finished.items())


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_search_with_one_clear_error(
    toy: MakeToy, small_disk: Path
) -> None:
    search = toy({"seconds": 0.1}, small_disk, trials=50, workers=2, storage_patience=2)
    search.start()
    search.wait_for("end 1")
    filler = fill(small_disk)
    code, _, err = search.ends(60)
    assert code == 1
    lines = [line for line in err.splitlines() if line.startswith("ConnectionError")]
    assert len(lines) == 1, err
    assert "disk is full" in lines[0]
    filler.unlink()
    done = sum(trial.is_finished for trial in search.trials())
    search.finish(trials=done + 3)
    search.check(done + 3)


# --- what is shown -----------------------------------------------------------------------


def test_nothing_is_shown_at_verbose_0_and_plain_lines_where_no_terminal_is(toy: MakeToy) -> None:
    search = toy({"1": "raise", "seconds": 0.02}, trials=3)
    out = search.finish()
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines[:3]] == ["trial 1/3", "trial 2/3", "trial 3/3"]
    assert "error: ValueError: a fault of this <architecture>" in lines[1]
    assert re.search(r"val_accuracy 0\.\d{4}, [\d.]+ k parameters, [\d.]+ [kM] MACs", lines[0])
    assert "\x1b" not in out
    again = search.finish(trials=4, verbose=0)
    assert again == "completed 3 of 4\n"


@pytest.mark.slow
def test_a_terminal_shows_a_table_that_lives(toy: MakeToy) -> None:
    search = toy({"1": "raise", "seconds": 1.0}, trials=4, workers=2)
    ours, theirs = pty.openpty()
    search.start(output=theirs)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
        while part := os.read(ours, 1 << 16):
            seen += part
    os.close(ours)
    search.process.wait()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert b"\x1b[" in seen
    assert re.search(r"trial \d of 4 +\d+:\d\d left", text), text
    assert re.search(r"\d +epoch [12]/3 +val_accuracy 0\.\d{4} +[\d.]+ k parameters", text), text
    assert re.search(
        r"best: trial \d, val_accuracy 0\.\d+, [\d.]+ k parameters, [\d.]+ [kM] MACs", text
    )
    assert "failed: 1 error" in text
    assert re.search(r"━ *\r?\n", text), text  # the bar has a line of its own
