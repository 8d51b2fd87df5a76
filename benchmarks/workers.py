"""python benchmarks/workers.py    (about 20 minutes; --seconds, --rounds, --workers)

How many trials a search completes in a given time with one worker process, which has all cores, and
with several, which share them. Each search runs in a process of its own, the two kinds in turn, on
an otherwise idle machine; both draw networks at random from the same space with the same seeds.
With --before FOLDER the first side is the search of an earlier commit, checked out in FOLDER.
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


def completed(run: str, workers: str, seconds: float, seed: int, folder: Path = FOLDER) -> int:
    """The number of trials that a search of some seconds completes, by the kblocks in `folder`."""
    command = [sys.executable, "-m", "kblocks", "search", str(folder / run), "--sampler", "random"]
    command += ["--workers", workers, "--hours", str(seconds / 3600), "--trials", "100000"]
    with tempfile.TemporaryDirectory() as runs:
        command += ["--directory", runs, "--seed", str(seed), "--no-retrain", "--quiet"]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        (table,) = Path(runs).rglob("trials.csv")
        with table.open(encoding="utf-8") as file:
            return sum(row["status"] == "completed" for row in csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", default="auto", help="compared with one")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    options = parser.parse_args()
    first = "one worker" if options.before is None else "before, one worker"
    print(f"| trials in {options.seconds:g} s | {first} | {options.workers} | ratio |")
    print("|---|---|---|---|")
    os.environ.setdefault("FASHION_MNIST", "/usr/share/datasets/fashion-mnist")
    for name, run in SEARCHES.items():
        pairs = [
            (
                completed(run, "1", options.seconds, seed, (options.before or FOLDER).absolute()),
                completed(run, options.workers, options.seconds, seed),
            )
            for seed in range(options.rounds)
        ]
        one, several = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"| {name} | {one:g} | {several:g} | {several / one:.2f} |", flush=True)


if __name__ == "__main__":
    main()
