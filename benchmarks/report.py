"""python benchmarks/report.py    (about 2 minutes for 1,000 and 10,000 trials)

What the report of a large search costs: seconds of `kb.tuner.report` without and with its PNGs (CPU
seconds in brackets, which other work does not lengthen), the size of the HTML file, the rise of the
peak of resident memory, and, if Chromium is installed, seconds until a headless one has drawn the
page, with its console output. The trials are invented, not trained: real networks of a small space
with invented scores; some failed, were pruned or are left out of the plots. Each size has a process
of its own.
"""

from __future__ import annotations

import argparse
import math
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import kblocks as kb
from kblocks.tuner.records import Failure, Objective, Record, Run

INPUT, EPOCHS = (32, 32, 3), 20
NETWORKS = 1000  # different networks; trials of equal networks differ in the learning rate
LENGTHS = {"completed": EPOCHS, "pruned": 5, "failed": 3}
OBJECTIVES = (
    Objective("val_accuracy", "max"),
    Objective("macs", "min"),
    Objective("params", "min"),
)
START = datetime(2026, 11, 20, 18)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
FAILURES = ("OOM when allocating tensor with shape[64,32,32,512]", "val_loss is NaN in epoch 3")


# Thirteen choices, one of them conditional.
SPACE = kb.Space(
    kb.resnet,
    classes=10,
    blocks=kb.per_stage(3, kb.choice(1, 2, 3)),
    filters=[kb.choice(16, 24, 32), kb.choice(32, 48, 64), kb.choice(64, 96, 128)],
    kernel_size=kb.per_stage(3, kb.choice(3, 5, (1, 3))),
    padding=kb.choice("same", "valid", "symmetric"),
    stem={"filters": kb.choice(16, 32), "kernel_size": 3, "strides": 1, "pool": None},
    head=kb.choice({"pool": "avg"}, {"pool": "concat", "dropout": kb.real(0.05, 0.5)}),
).within(INPUT, kb.Budget(macs=60e6))


def run(count: int, objectives: int = 1) -> Run:
    """Makes the run of a finished search with `count` trials."""
    random = Random(0)
    settings = {"input_shape": list(INPUT), "trials": count, "epochs": EPOCHS}
    drawn = list(islice(SPACE.samples(random), min(count, NETWORKS)))
    built = [(values, SPACE.build(values)) for values in drawn]
    priced = [(values, net.cost(INPUT), net.to_json()) for values, net in built]
    trials = (trial(random, n, *priced[n % NETWORKS], objectives) for n in range(count))
    return Run("large", OBJECTIVES[:objectives], settings, tuple(trials))


def trial(
    random: Random, number: int, values: dict[str, Any], cost: kb.Cost, net: str, objectives: int
) -> Record:
    """Makes a trial; one in twenty has failed, one in ten was pruned."""
    rate = 10 ** random.uniform(-4, -1)
    best = 0.93 - 0.35 * math.exp(-cost.macs / 9e6) - 0.06 * math.log10(rate / 3e-3) ** 2
    best += 0.012 * random.gauss(0, 1)
    state = "failed" if number % 20 == 7 else "pruned" if number % 10 == 3 else "completed"
    curve = [best - 0.5 * math.exp(-epoch / 4) for epoch in range(LENGTHS[state])]
    begun = START + timedelta(seconds=40 * number)
    why = f"{FAILURES[number % 3 % 2]} ({number})"
    return Record(
        number,
        state,
        (best, cost.macs, cost.params)[:objectives] if state == "completed" else (),
        {name: str(value) if isinstance(value, tuple) else value for name, value in values.items()}
        | {"recipe.learning_rate": rate},
        net,
        {"params": cost.params, "macs": cost.macs, "activations": cost.activations},
        {
            "val_accuracy": curve,
            "val_loss": [2.3 * (1 - value) for value in curve],
            "accuracy": [value + 0.01 for value in curve],
            "loss": [2.2 * (1 - value) for value in curve],
        },
        EPOCHS,
        Failure("error", why, "  File run.py, line 4\n" * 30) if state == "failed" else None,
        owner=f"worker-{number % 2}",
        started=begun,
        ended=begun + timedelta(seconds=20 + cost.macs / 2e6),
    )


def peak() -> float:
    """The peak of resident memory in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def loaded(path: Path) -> tuple[float, str]:
    """Seconds until a headless Chromium has drawn a page, and its console output."""
    with tempfile.TemporaryDirectory() as profile:
        own = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}")
        own = (*own, "--window-size=1200,3000", "--virtual-time-budget=60000")  # of idle seconds
        start = time.perf_counter()
        done = subprocess.run(
            [str(CHROMIUM), *own, "--enable-logging=stderr", "--dump-dom", path.as_uri()],
            capture_output=True,
            text=True,
            timeout=300,
        )
    took = time.perf_counter() - start
    said = re.findall(r"CONSOLE.*", done.stderr)
    drawn = done.stdout.count('class="marks"') if 'data-drawn="yes"' in done.stdout else "no"
    return took, f"{drawn} plots drawn; the console says: {said}"


def measure(count: int, objectives: int, folder: Path) -> None:
    """Measures one size and prints its row of the table."""
    found = run(count, objectives)
    kb.tuner.report(run(20), folder / "first")  # warm-up: imports, and the renderer's first start
    before, took = peak(), []
    for png in (False, True):
        start, busy = time.perf_counter(), time.process_time()
        path = kb.tuner.report(found, folder / "report", png=png)
        busy = time.process_time() - busy
        took.append(f"{time.perf_counter() - start:.1f} s ({busy:.1f})")
    size = path.stat().st_size / 1e6
    grown = peak() - before
    browser = "-"
    if CHROMIUM:
        seconds, said = loaded(path)
        empty = folder / "empty.html"
        empty.write_text("<title>empty</title>")
        browser = f"{seconds - loaded(empty)[0]:.1f} s"
        print(said, file=sys.stderr)
    told = (f"{count:,}", *took, f"{size:.1f} MB", f"{grown:.0f} MB", browser)
    print(f"| {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, nargs="*", default=[100, 1_000, 10_000])
    parser.add_argument("--objectives", type=int, default=1, choices=(1, 2, 3))
    parser.add_argument("--folder", type=Path, help="where the largest report stays")
    given = parser.parse_args()
    if len(given.trials) == 1:
        with tempfile.TemporaryDirectory() as temporary:
            measure(given.trials[0], given.objectives, given.folder or Path(temporary))
    else:
        print("| trials | report | with PNGs | file | memory | drawn |\n|---|---|---|---|---|---|")
        sys.stdout.flush()
        for count in given.trials:
            own = ("--trials", str(count), "--objectives", str(given.objectives))
            subprocess.run([sys.executable, __file__, *own], check=True)
