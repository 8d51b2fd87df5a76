"""python benchmarks/workers.py    (about 20 minutes; --seconds, --rounds, --workers)

How many trials a search completes in a given time with one worker process, which has all cores, and
with several, which share them. Each search runs in a process of its own, the two kinds in turn, on
an otherwise idle machine; both draw networks at random from the same space with the same seeds.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent.parent
SEARCHES = {"digits": "tuning/digits.py", "Fashion-MNIST": "tuning/fashion_mnist.py"}


def completed(run: str, workers: str, seconds: float, seed: int) -> int:
    """The number of trials that a search of some seconds completes."""
    command = [sys.executable, "-m", "kblocks", "search", str(FOLDER / run), "--sampler", "random"]
    command += ["--workers", workers, "--hours", str(seconds / 3600), "--trials", "100000"]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--directory", folder, "--seed", str(seed), "--no-retrain", "--quiet"]
        subprocess.run(command, check=True, cwd=FOLDER, stdout=subprocess.DEVNULL)
        (table,) = Path(folder).rglob("trials.csv")
        with table.open(encoding="utf-8") as file:
            return sum(row["status"] == "completed" for row in csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", default="auto", help="compared with one")
    options = parser.parse_args()
    print(f"| trials in {options.seconds:g} s | one worker | {options.workers} | ratio |")
    print("|---|---|---|---|")
    os.environ.setdefault("FASHION_MNIST", "/usr/share/datasets/fashion-mnist")
    for name, run in SEARCHES.items():
        pairs = [
            [completed(run, workers, options.seconds, seed) for workers in ("1", options.workers)]
            for seed in range(options.rounds)
        ]
        one, several = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"| {name} | {one:g} | {several:g} | {several / one:.2f} |", flush=True)


if __name__ == "__main__":
    main()
