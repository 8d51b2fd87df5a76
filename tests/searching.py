"""Toy searches in processes of their own (`runs/toy.py`), and what must hold after any end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil

from kblocks.tuner.records import Record, Run, read

TOY = Path(__file__).parent / "runs" / "toy.py"
PACKAGE = Path(__file__).parents[1]


@dataclass
class Toy:
    """A search in a folder: begun, watched, ended from outside, and read."""

    folder: Path
    plan: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    process: Any = None

    def start(self, output: int = subprocess.PIPE, **changed: Any) -> subprocess.Popen[str]:
        """Begins it in a process group of its own."""
        settings = {"directory": str(self.folder), "seed": 1, **self.settings, **changed}
        environment = {
            **os.environ,
            "KBLOCKS_TOY": json.dumps(self.plan),
            "KBLOCKS_TOY_NOTES": str(self.notes_path),
            "PYTHONPATH": str(PACKAGE),
            **self.environment,
        }
        environment.pop("KERAS_BACKEND", None)
        self.process = subprocess.Popen(
            [sys.executable, str(TOY), json.dumps(settings)],
            stdout=output,
            stderr=output if output >= 0 else subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=environment,
        )
        return self.process

    def ends(self, seconds: float = 300) -> tuple[int, str, str]:
        """Its exit code and what it has written, when it has ended."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    def finish(self, **changed: Any) -> str:
        """Begins it and waits for a good end; what it has written."""
        self.start(**changed)
        code, out, err = self.ends()
        assert code == 0, f"{out}\n{err}"
        return out

    @property
    def notes_path(self) -> Path:
        return self.folder.parent / f"{self.folder.name}.notes"

    def notes(self) -> list[list[str]]:
        """What the trials have noted: begin, number, first epoch, process; and so on."""
        if not self.notes_path.exists():
            return []
        return [line.split() for line in self.notes_path.read_text(encoding="utf-8").splitlines()]

    def begun(self) -> list[int]:
        """The numbers of the trials in the order in which their training began."""
        return [int(note[1]) for note in self.notes() if note[0] == "begin"]

    def wait_for(self, note: str, seconds: float = 180) -> list[str]:
        """The note that begins so, when it is there."""
        words = note.split()
        return until(
            lambda: next((n for n in self.notes() if n[: len(words)] == words), None), seconds
        )

    @property
    def database(self) -> Path:
        return self.folder / "search" / "study.db"

    def run(self) -> Run:
        """The search as its storage has it."""
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            return read(
                optuna.load_study(study_name="search", storage=f"sqlite:///{self.database}")
            )
        finally:
            optuna.logging.set_verbosity(level)

    def trials(self) -> tuple[Record, ...]:
        return self.run().trials

    def files(self) -> list[str]:
        """What is kept of trials."""
        root = self.folder / "search" / "checkpoints"
        return sorted(str(p.relative_to(root)) for p in root.rglob("trial-*/*"))

    def check(self, trials: int) -> None:
        """What holds after every search, whatever happened to it."""
        run = self.run()
        assert len(run.trials) == trials
        assert [t.number for t in run.trials if not t.is_finished] == []
        best = [trial.number for trial in run.ranked()[:3]]
        expected = sorted(f"trial-{number:06d}/best.npz" for number in best)
        assert self.files() == expected, f"{self.files()} is not {expected}"
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for trial in run.completed():
            assert all(len(values) == trial.epochs for values in trial.history.values()), trial


def until(found: Callable[[], Any], seconds: float = 180) -> Any:
    """What `found` returns, as soon as that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def family(pid: int) -> list[psutil.Process]:
    """The processes that a process has begun."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def command_line(process: psutil.Process) -> str:
    """What `ps` shows of a process; nothing of one that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # or a zombie, which is one too
        return ""


def told_to_end(search: Toy, how: str, within: float) -> None:
    """Ends a search by SIGTERM, or as a terminal does by Ctrl-C or its end, in so many seconds."""
    began = time.monotonic()
    if how == "sigterm":
        search.process.terminate()
    elif how == "hang-up":
        os.killpg(search.process.pid, signal.SIGHUP)
    else:
        os.killpg(search.process.pid, signal.SIGINT)
    code, out, err = search.ends(2 * within)
    assert time.monotonic() - began < within
    expected = {"sigterm": 128 + signal.SIGTERM, "hang-up": 128 + signal.SIGHUP}
    assert code == expected.get(how, -signal.SIGINT), f"{out}\n{err}"
    assert "Interrupted. Nothing that was finished is lost; run the same again" in out
    # A script that does not catch Ctrl-C shows where it was: once, and nothing from workers.
    assert err.count("Traceback") == (0 if how in expected else 1), err


@contextlib.contextmanager
def cleared(toy: Toy) -> Iterator[Toy]:
    """Leaves no process behind, whatever a test finds."""
    try:
        yield toy
    finally:
        if toy.process is not None and toy.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(toy.process.pid, signal.SIGKILL)
            toy.process.wait()
