"""python benchmarks/search_quality.py --minutes 15 --seeds 1 2 3    (about 5 hours)

How good a network each search finds in how much time: Fashion-MNIST with 12,000 images to train on
and 2,000 for validation; the 10,000 test images are used once, for the winner of a run. All systems
get the same wall time on the same cores, from the start of their process on (imports included), and
run one after the other.

- ours: `kb.tuner.Tuner` as it is, over `network_space` and `recipe`; tpe-alone: with the same TPE,
  but without comparing candidates by their size; ours-long: with 32 epochs a trial in place of 8;
  ours-asha, -asha-long: with `scheduler="asha"` and rungs of 2, 4 and 8 or 8, 16 and 32 epochs
- default-network: the space's default network trained all the time, with restarts;
  default-trained-on: each restart with a recipe drawn anew, for half as many epochs at a third of
  the rate; inheriting: each of these as a changed network, by `kb.inherit`
- same-bayesian: the same HyperModel under Keras Tuner's BayesianOptimization
- hyperresnet-random, -bayesian, -hyperband: Keras Tuner's HyperResNet under its stock tuners
- autokeras: AutoKeras' ImageClassifier, in an environment of its own (`--autokeras`): AutoKeras
  3.0.0 runs with keras 3.12.4 at the newest (`pip install autokeras keras==3.12.4
  tensorflow-cpu==2.21.0 six tensorboard`)

Each run writes its log and a CSV, with a line whenever validation accuracy improves, to `--folder`;
a test accuracy of 0 means that no epoch ended in time. A run whose CSV is complete is not repeated,
so you can stop the benchmark at any time and continue later.
Needs Debian's package dataset-fashion-mnist, and matplotlib for the drawing.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
COLOURS = {
    "ours": "tab:blue",
    "ours-long": "tab:cyan",
    "ours-asha": "tab:purple",
    "ours-asha-long": "tab:pink",
    "default-trained-on": "dimgray",
    "inheriting": "tab:brown",
    "tpe-alone": "tab:gray",
    "default-network": "black",
    "same-bayesian": "tab:orange",
    "hyperresnet-random": "limegreen",
    "hyperresnet-bayesian": "tab:olive",
    "hyperresnet-hyperband": "tab:green",
    "autokeras": "tab:red",
}
MARKS = (1, 3, 5, 10, 15, 30, 60)  # the minutes of the table's columns


@dataclass(frozen=True)
class Row:
    """A line of a run's CSV: `kind` is "validation", or "test" in the last one."""

    kind: str
    seconds: float
    accuracy: float


def rows(path: Path) -> list[Row]:
    """The lines of a run's CSV so far."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(k, float(s), float(a)) for k, s, a in csv.reader(file)]


def note(path: Path, kind: str, seconds: float, accuracy: float) -> None:
    """Adds a line to a run's CSV."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow([kind, f"{seconds:.2f}", f"{accuracy:.4f}"])


def main() -> None:
    """Runs the missing runs, then draws and prints all results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--systems", nargs="+", default=list(COLOURS), choices=COLOURS)
    parser.add_argument("--folder", type=Path, default=HERE / "search_quality")
    parser.add_argument("--autokeras", default=".venv-autokeras/bin/python")
    parser.add_argument("--images", type=int, default=12_000, help="to train on")
    parser.add_argument("--moved", action="store_true", help="harder images: `moved`")
    parser.add_argument("--digits", action="store_true", help="digits in place of clothes")
    parser.add_argument("--plot", type=Path, default=HERE / "search_quality.png")
    options = parser.parse_args()
    found: dict[str, list[list[Row]]] = {system: [] for system in options.systems}
    for seed in options.seeds:  # all systems for one seed first, so that an early end is fair
        for system in options.systems:
            given = ["--images", str(options.images), *["--moved"] * options.moved]
            given += ["--digits"] * options.digits
            folder = options.folder / f"{options.minutes:g}min{''.join(given[1:])}"
            path = folder / f"{system}-{seed}.csv"
            python = options.autokeras if system == "autokeras" else sys.executable
            complete(path, python, system, options.minutes, seed, given)
            found[system].append(rows(path))
    table(found, options.minutes)
    draw(found, options.minutes, options.images, options.plot)


def complete(
    path: Path, python: str, system: str, minutes: float, seed: int, given: list[str]
) -> None:
    """Runs a system unless its CSV is complete.

    Raises:
        RuntimeError: if the run ends without a result; the message names its log.
    """
    if any(row.kind == "test" for row in rows(path)):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # left by an interrupted run
    started = time.time()
    command = [python, HERE / "search_systems.py", system, path.resolve()]
    command += ["--minutes", minutes, "--seed", seed, "--started", started, *given]
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with path.with_suffix(".log").open("w", encoding="utf-8") as log:
        subprocess.run(
            [str(part) for part in command],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            check=False,
        )
    done = [row for row in rows(path) if row.kind == "test"]
    if not done:
        raise RuntimeError(f"{system} with seed {seed} has no result: see {log.name}")
    load = os.getloadavg()[0]
    told = f"{best_at(rows(path), 60 * minutes):.4f}, test {done[0].accuracy:.4f}"
    print(f"{system}, seed {seed}: validation {told} (load {load:.1f})", flush=True)


def best_at(run: list[Row], seconds: float) -> float:
    """The best validation accuracy up to a time; 0 if there was none."""
    found = [r.accuracy for r in run if r.kind == "validation" and r.seconds <= seconds]
    return max(found, default=0.0)


def table(found: dict[str, list[list[Row]]], minutes: float) -> None:
    """The table of medians over the seeds, with least and greatest in brackets."""
    marks = [mark for mark in MARKS if mark < minutes] + [minutes]
    print("| system | " + " | ".join(f"{mark:g} min" for mark in marks) + " | test |")
    print("|---" * (len(marks) + 2) + "|")

    def told(values: list[float]) -> str:
        return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    for system, runs in found.items():
        cells = [told([best_at(run, 60 * mark) for run in runs]) for mark in marks]
        cells.append(told([row.accuracy for run in runs for row in run if row.kind == "test"]))
        print(f"| {system} | " + " | ".join(cells) + " |")


def draw(found: dict[str, list[list[Row]]], minutes: float, images: int, path: Path) -> None:
    """Plots the best validation accuracy over time, one line for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for system, runs in found.items():
        for index, run in enumerate(runs):
            seen = [row for row in run if row.kind == "validation"]
            if not seen:
                continue
            times = [row.seconds / 60 for row in seen] + [minutes]
            best = [row.accuracy for row in seen] + [seen[-1].accuracy]
            name = None if index else system
            axes.step(times, best, where="post", color=COLOURS[system], label=name, alpha=0.8)
    axes.set(xlabel="minutes since the process began", ylabel="best validation accuracy")
    axes.set(xlim=(0, minutes))
    axes.set_ylim(bottom=0.5)
    cores = len(os.sched_getaffinity(0))
    axes.set_title(f"Fashion-MNIST, {images:,} training images, CPU cores: {cores}")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()
