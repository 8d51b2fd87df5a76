"""The same faults in a real search under TensorFlow (`runs/real.py`): killed, and out of memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from searching import PACKAGE, family, until

import kblocks as kb
from kblocks.tuner.records import Run, read
from kblocks.tuner.storing.storage import loaded, open_storage

REAL = Path(__file__).parent / "runs" / "real.py"
SEARCH = """
import json, sys
from kblocks.command.ready import RunFile
if __name__ == "__main__":
    path, settings = sys.argv[1], json.loads(sys.argv[2])
    job = RunFile(path, settings)
    print(len(job.tuner().run_job(job).completed()), "completed")
"""
Start = Callable[..., "subprocess.Popen[str]"]

pytestmark = pytest.mark.slow


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Begins the search, which ends with the test."""
    begun = []
    (tmp_path / "search.py").write_text(SEARCH, encoding="utf-8")

    def make(plan: dict[str, Any], **settings: Any) -> subprocess.Popen[str]:
        settings = {"directory": str(tmp_path / "runs"), "sampler": "random", "seed": 1, **settings}
        begun.append(
            subprocess.Popen(
                [sys.executable, str(tmp_path / "search.py"), str(REAL), json.dumps(settings)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env={
                    **os.environ,
                    "KERAS_BACKEND": "tensorflow",
                    "KBLOCKS_REAL": json.dumps(plan),
                    "KBLOCKS_REAL_NOTES": str(tmp_path / "notes"),
                    "PYTHONPATH": str(PACKAGE),
                },
            )
        )
        return begun[-1]

    yield make
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def notes(folder: Path) -> list[tuple[int, int, int]]:
    """The trial, epoch and process of each epoch that has begun."""
    path = folder / "notes"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(int(n), int(e), int(p)) for _, n, e, p, _ in map(str.split, lines)]


def finished(process: subprocess.Popen[str], folder: Path) -> Run:
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, f"{out}\n{err}"
    storage = open_storage(f"sqlite:///{folder / 'runs' / 'search' / 'study.db'}")
    return read(loaded(storage, "search"))


def test_a_real_trial_goes_on_at_its_last_epoch_after_kills(start: Start, tmp_path: Path) -> None:
    # One batch of training a second epoch takes far less than the search's look at its processes.
    plan = {"epochs": 30, "images": 1600, "batch": 10}
    main = start(plan, trials=2)
    worker = until(lambda: next((p for n, e, p in notes(tmp_path) if (n, e) == (0, 4)), 0), 120)
    os.kill(worker, signal.SIGKILL)
    until(lambda: [1 for n, e, p in notes(tmp_path) if n == 0 and p != worker and e >= 4], 120)
    below = family(main.pid)
    main.kill()
    main.wait()
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in below), 30)
    run = finished(start(plan, trials=2), tmp_path)
    assert [trial.state for trial in run.trials] == ["completed", "completed"]
    assert [trial.attempts for trial in run.trials] == [2, 1]
    begun = [(n, e) for n, e, _ in notes(tmp_path)]
    # Only the epochs in which it was interrupted, and those since the last checkpoint, come twice.
    assert [e for n, e in begun if n == 0].count(0) == 1
    for trial in run.trials:
        assert len(trial.history["loss"]) == 30
        assert trial.history["loss"][-1] < trial.history["loss"][0]


def test_a_network_that_takes_all_memory_is_failed_and_the_search_goes_on(
    start: Start, tmp_path: Path
) -> None:
    """Where TensorFlow's allocator or oneDNN finds none, the process ends by a signal."""
    plan = {"epochs": 3, "images": 1600, "batch": 800, "starve": [1]}
    run = finished(start(plan, trials=4), tmp_path)
    failed = [trial for trial in run.trials if trial.failure is not None]
    assert [trial.number for trial in failed] == [1]
    assert failed[0].failure is not None
    assert failed[0].failure.kind in ("killed", "memory")
    assert kb.Architecture.from_json(failed[0].network or "").cost((8, 8, 1)).params > 0
    assert [t.state for t in run.trials if t.number != 1] == ["completed"] * 3


MEMORY = """
import contextlib, json, os, sys
import psutil
sys.path.insert(0, sys.argv[1])
import real
import kblocks as kb
from kblocks.tuner.running import loop

real.SPACE = kb.Space(  # of more than 60 networks
    kb.resnet,
    classes=10,
    blocks=(1, 1),
    filters=kb.per_stage(2, kb.choice(*range(8, 24, 2))),
    kernel_size=kb.choice(3, 5),
    stem={"filters": 8, "kernel_size": 3, "strides": 1, "pool": None},
)
sizes, cleaning = [], loop.cleaning

@contextlib.contextmanager
def watched():
    with cleaning() as clean:
        def look():
            clean()
            sizes.append(psutil.Process().memory_info().rss / 2**20)
        yield look

loop.cleaning = watched
own = {"trials": 60, "workers": 0, "sampler": "random", "seed": 1, "directory": sys.argv[2]}
run = real.tuner(**own).search(**real.data().fit_arguments(), verbose=0)
print(json.dumps([len(run.completed()), sizes[19], sizes[59]]))
"""


def test_sixty_trials_in_one_process_leave_little_memory(
    fresh_process: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 5 MB a trial that TensorFlow's table of custom gradients kept, 40 would be 200 MB."""
    monkeypatch.setenv("KBLOCKS_REAL", json.dumps({"epochs": 1, "images": 100}))
    monkeypatch.setenv("KBLOCKS_REAL_NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE))
    out = fresh_process(MEMORY, str(REAL.parent), str(tmp_path / "runs"))
    completed, after_20, after_60 = json.loads(out.splitlines()[-1])
    assert completed == 60
    assert after_60 - after_20 < 120, f"{after_20:.0f} MB, then {after_60:.0f} MB"
