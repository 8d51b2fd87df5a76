"""Whatever a trial does, it ends with its reason, the others run, and the search ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from searching import PACKAGE
from tiers import THOROUGH

from kblocks.tuner.records import Failure, Run, read

NASTY = Path(__file__).parent / "runs" / "nasty.py"

# What a trial does, and how it ends: completed, or so.
EVERYWHERE: dict[str, tuple[str, str] | None] = {
    "nothing": None,
    "exits": ("error", "SystemExit: 2"),
    "exits_in_words": ("error", "SystemExit: usage: mine.py [-h]"),
    "closes_generator": ("error", "GeneratorExit"),
    "raises_base": ("error", "Base: mine"),
    "raises_unprintable": ("error", "UnprintableError: (its __str__ raises ValueError)"),
    "raises_textless": ("error", "TextlessError: (its __str__ raises TypeError)"),
    "raises_surrogate": ("error", "ValueError: half ? of \x00 a pair"),
    "raises_long": ("error", "ValueError: xxxxx"),
    "recurs": ("error", "RecursionError: "),
    "leaves_thread": None,
    "leaves_child": None,
    "leaves_fork": None,
    "forks_and_goes_on": None,
    "outlives_its_fork": None,
    "leaves_alarm": None,
    "goes_elsewhere": None,
    "removes_its_folder": None,
    "sets_handlers": None,
    "changes_keras": None,
    "replaces_stdout": None,
    "takes_stdout_away": None,
    "closes_stdout": None,
    "closes_output": None,
    "asks_for_too_much": ("memory", "Unable to allocate"),
    "fills_memory": ("memory", "MemoryError"),
}
KILLED = ("killed", "its process ended 3 times")
# In the calling process these end the search, or are Ctrl-C.
IN_WORKERS: dict[str, tuple[str, str] | None] = {
    "interrupts": ("error", "KeyboardInterrupt"),
    "closes_all": None,
    "leaves_at_once": KILLED,
    "is_killed": KILLED,
    "is_told_to_end": KILLED,
    "aborts": KILLED,
}


class Nasty:
    """A search in a process of its own, which ends with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ends(self, backend: str, deeds: list[str], workers: int, seconds: float = 900) -> int:
        """Its exit code; all that it has written is in a file, which its children may hold."""
        settings = {"directory": "runs", "workers": workers}  # a relative one
        with (self.folder / "out").open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, str(NASTY), backend, json.dumps(deeds), json.dumps(settings)],
                cwd=self.folder,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={
                    **os.environ,
                    "KBLOCKS_NASTY_NOTES": str(self.folder / "notes"),
                    "KBLOCKS_NASTY_BACKEND": backend,
                    "PYTHONPATH": str(PACKAGE),
                },
            )
        try:
            return process.wait(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def said(self) -> str:
        return (self.folder / "out").read_text(encoding="utf-8", errors="replace")

    def run(self) -> Run:
        url = f"sqlite:///{self.folder / 'runs' / 'search' / 'study.db'}"
        return read(optuna.load_study(study_name="search", storage=url))

    def notes(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.folder / "notes").read_text().splitlines()]


def check(failure: Failure | None, expected: tuple[str, str] | None, name: str) -> None:
    if expected is None:
        assert failure is None, f"{name}: {failure}"
        return
    assert failure is not None, name
    assert (failure.kind, expected[1] in failure.message) == (expected[0], True), (name, failure)
    assert len(failure.message) <= 500


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("backend", ["numpy", "tensorflow"])
def test_a_search_outlives_its_trials(tmp_path: Path, backend: str, workers: int) -> None:
    if backend == "tensorflow" and workers < 2 and not THOROUGH:
        pytest.skip("several minutes: KBLOCKS_THOROUGH=1")
    expected = {**EVERYWHERE, **(IN_WORKERS if workers else {})}
    # After each a good one, which finds all as it was.
    deeds = [name for deed in expected for name in (deed, "nothing")]
    search = Nasty(tmp_path)
    assert search.ends(backend, deeds, workers) == 0, search.said()
    trials = search.run().trials
    assert [t.number for t in trials if not t.is_finished] == []
    for name, trial in zip(deeds, trials, strict=True):
        check(trial.failure, expected[name], name)
    completed = sum(expected[name] is None for name in deeds)
    assert f"completed {completed} of {len(deeds)}" in search.said()
    files = sorted((tmp_path / "runs" / "search" / "checkpoints").glob("trial-*/best.npz"))
    assert len(files) == 3
    for note in search.notes():
        assert note["folder"] == str(tmp_path), note
        assert note["rings"] == 0, note
        assert note["keras"] == ["float32", "channels_last", "float32"], note
    begun = [note["number"] for note in search.notes()]
    for number, name in enumerate(deeds):
        assert begun.count(number) == (3 if expected[name] == KILLED else 1), name
