"""python benchmarks/growth.py    (about 1 minute; with --steps about 3)

How time and memory grow with depth and width: to analyse a network (`cost`), to build its Keras
model, and with `--steps` to take the first training step. Each point runs in a process of its own,
so that its peak memory is its own; it first builds one block, since Keras loads some parts late.
`--plot FILE` draws the result (needs matplotlib). The exponent between neighbours, in brackets, is
log(ratio of values) / log(ratio of layers, or of parameters): 1 is linear, more is worse.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

DEPTHS = ("resnet20", "resnet32", "resnet56", "resnet110", "preresnet164", "preresnet1001")
WIDTHS = (1, 2, 4, 8)
BATCH = 8


def measured(name: str, width: int, steps: bool) -> dict[str, Any]:
    """Measures one network in this process, which has done nothing else."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np

    import kblocks as kb

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    keras.Model(x := keras.Input((8, 8, 3)), kb.ConvBlock(2)(x))  # Keras loads parts late
    start_memory = peak()
    filters = tuple(width * n for n in (16, 32, 64))
    own = {} if width == 1 else {"filters": filters, "stem": {"filters": filters[0]}}
    made = []
    for _ in range(5):
        start = time.perf_counter()
        net = kb.architecture(name, **own)
        cost = net.cost((32, 32, 3))
        made.append(time.perf_counter() - start)
    analysed_memory = peak()
    start = time.perf_counter()
    model = net.model((32, 32, 3))
    found: dict[str, Any] = {
        "name": name,
        "width": width,
        "params": cost.params,
        "macs": cost.macs,
        "layers": sum(len(block.layers) for block in model.layers[1:]),
        "analysis": statistics.median(made),
        "build": time.perf_counter() - start,
        "analysis_memory": analysed_memory - start_memory,
        "build_memory": peak() - analysed_memory,
    }
    if steps:
        images = np.zeros((BATCH, 32, 32, 3), "float32")
        labels = np.zeros(BATCH, "int32")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss)
        before = peak()
        for key in ("first_step", "later_step"):
            start = time.perf_counter()
            model.train_on_batch(images, labels)
            found[key] = time.perf_counter() - start
        found["step_memory"] = peak() - before
    return found


def in_own_process(name: str, width: int, steps: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, "--point", name, str(width), *["--steps"] * steps]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def exponent(first: dict[str, Any], second: dict[str, Any], key: str, size: str) -> str:
    """The power of `size` with which the value grows from one point to the next."""
    if first[key] <= 0 or second[key] <= 0:
        return ""
    power = math.log(second[key] / first[key]) / math.log(second[size] / first[size])
    return f" ({power:.2f})"


COLUMNS = {
    "analysis": ("analysis, ms", 1e3, 2),
    "build": ("build, s", 1, 2),
    "build_memory": ("build, MB", 1, 0),
    "first_step": ("first step, s", 1, 1),
    "later_step": ("second step, s", 1, 2),
    "step_memory": ("steps, MB", 1, 0),
}


def table(points: list[dict[str, Any]], size: str) -> None:
    """Prints the points; in brackets the exponent since the one before."""
    columns = {key: column for key, column in COLUMNS.items() if key in points[0]}
    print("| network | layers | parameters |", end="")
    print("".join(f" {title} |" for title, _, _ in columns.values()))
    print("|---" * (3 + len(columns)) + "|")
    for index, point in enumerate(points):
        cells = []
        for key, (_, unit, digits) in columns.items():
            if key not in point:
                cells.append("")
                continue
            grown = exponent(points[index - 1], point, key, size) if index else ""
            cells.append(f"{point[key] * unit:,.{digits}f}{grown}")
        wide = "" if point["width"] == 1 else f", {point['width']} x filters"
        print(f"| {point['name']}{wide} | {point['layers']:,} | {point['params']:,} |", end="")
        print("".join(f" {cell} |" for cell in cells))
    print()


def plot(deep: list[dict[str, Any]], wide: list[dict[str, Any]], file: str) -> None:
    """Plots both tables on logarithmic axes, with linear growth as a dotted line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axis, points, size in ((axes[0], deep, "layers"), (axes[1], wide, "params")):
        for key in ("analysis", "build", "first_step", "later_step"):
            shown = [point for point in points if key in point]
            if shown:
                xs, ys = [p[size] for p in shown], [p[key] for p in shown]
                (line,) = axis.plot(xs, ys, marker="o", label=key.replace("_", " "))
                ys = [ys[0] * x / xs[0] for x in xs]
                axis.plot(xs, ys, ":", color=line.get_color(), linewidth=1)
        axis.set(xscale="log", yscale="log", xlabel=size, ylabel="seconds")
        axis.grid(alpha=0.3, which="both")
    axes[0].set_title("depth: CIFAR networks (dotted: linear)")
    axes[1].set_title("width: resnet20 with 1, 2, 4, 8 x filters")
    axes[0].legend()
    plt.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", action="store_true", help="the first training step too")
    parser.add_argument("--plot", help="a file for the picture")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point:
        print(json.dumps(measured(given.point[0], int(given.point[1]), given.steps)))
        return
    deep = [in_own_process(name, 1, given.steps) for name in DEPTHS]
    wide = [in_own_process("resnet20", width, given.steps) for width in WIDTHS]
    table(deep, "layers")
    table(wide, "params")
    if given.plot:
        plot(deep, wide, given.plot)


if __name__ == "__main__":
    main()
