"""The main job, as a newcomer runs it: `kblocks search tuning/digits.py`."""

from __future__ import annotations

import csv
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import kblocks as kb
from kblocks.tuner.running.jobs import imported

pytestmark = pytest.mark.system

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tuning" / "digits.py"
INPUT = (8, 8, 1)
BUDGET = 1.5e6


@dataclass
class Job:
    """A finished run of the script."""

    folder: Path
    output: str
    seconds: float
    cpu_seconds: float

    def rows(self) -> list[dict[str, str]]:
        with (self.folder / "trials.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def number(self, pattern: str) -> float:
        found = re.search(pattern + r": ([0-9.]+)", self.output)
        assert found, self.output
        return float(found[1])


def run(folder: Path, *arguments: str) -> Job:
    started, used = time.monotonic(), cpu_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "kblocks", "search", str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    taken = time.monotonic() - started, cpu_seconds() - used
    return Job(folder / "runs" / "digits", done.stdout, *taken)


def cpu_seconds() -> float:
    """What the processes that this one has waited for have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((2, "--trials", "2", "--epochs", "1"), id="short"),
        pytest.param((8,), id="whole", marks=pytest.mark.slow),
    ],
)
def job(request: Any, tmp_path_factory: Any) -> tuple[int, Job]:
    """Two trials of one epoch, and marked slow the job itself."""
    least, *arguments = request.param
    return least, run(tmp_path_factory.mktemp("digits"), *arguments)


def script_space() -> kb.Space:
    return imported(SCRIPT).space()


def test_space_has_ten_choices_of_all_kinds() -> None:
    names = script_space().names()
    assert len(names) >= 10
    for kind in ("blocks", "filters", "kernel_size", "strides", "padding"):
        assert any(name.startswith(kind) for name in names), kind


def test_table_has_every_trial_with_score_and_cost(job: tuple[int, Job]) -> None:
    least, done = job
    rows = done.rows()
    assert len(rows) >= least
    names = set(script_space().names())
    for row in rows:
        assert row["status"] == "completed"
        assert 0 <= float(row["val_accuracy"]) <= 1
        assert int(row["params"]) > 0
        assert 0 < int(row["macs"]) <= BUDGET
        assert names <= set(row)


def test_output_is_plain_and_names_the_best_values_and_the_yardstick(job: tuple[int, Job]) -> None:
    _, done = job
    assert "\x1b" not in done.output
    total = len(done.rows())
    for number in range(1, total + 1):
        assert f"trial {number}/{total}" in done.output
    assert done.output.count(" left") >= total - 1
    best = max(done.rows(), key=lambda row: float(row["val_accuracy"]))
    for name in script_space().names():
        if best[name]:
            assert f"  {name} = {best[name]}\n" in done.output
    # One neighbour among 1,438 images: 0.98 or more on this set, whatever the split.
    assert done.number("nearest neighbour on the same images") > 0.97
    assert 0 <= done.number("accuracy on 359 images the search never saw") <= 1


def test_json_rebuilds_the_network_that_takes_the_weights(job: tuple[int, Job]) -> None:
    _, done = job
    net = kb.Architecture.from_json((done.folder / "best.json").read_text(encoding="utf-8"))
    saved = keras.models.load_model(done.folder / "best.keras", safe_mode=True)
    model = net.model(INPUT)
    model.set_weights(saved.get_weights())
    images = load_digits().images[:64, ..., np.newaxis].astype("float32")  # from 0 to 16
    np.testing.assert_allclose(
        model.predict(images / 16, verbose=0), saved.predict(images, verbose=0), atol=1e-5
    )
    cost = net.cost(INPUT)
    assert cost.macs <= BUDGET
    assert saved.count_params() == cost.params
    best = max(done.rows(), key=lambda row: float(row["val_accuracy"]))
    assert (int(best["params"]), int(best["macs"])) == (cost.params, cost.macs)


@pytest.mark.slow
def test_whole_job_is_quick_and_good(job: tuple[int, Job]) -> None:
    """Within three minutes on two cores, 0.985 or more on images that the search never saw."""
    least, done = job
    if least < 8:
        pytest.skip("of the whole job")
    # Where other work takes the cores: what the job itself used would do in that time on one.
    assert min(done.seconds, done.cpu_seconds) < 180
    assert done.number("accuracy on 359 images the search never saw") >= 0.985
