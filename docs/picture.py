"""python docs/picture.py    (needs matplotlib, and runs/digits/trials.csv from tuning/digits.py)

Draws docs/picture.png: one definition as a layer, as a cost, as points of a search.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import kblocks as kb
from kblocks import ops

INK, SOFT, STRONG, WARM = "#1f2933", "#d9e6f2", "#2f6db3", "#d9822b"
LABELS = {
    ops.Conv: lambda op: (
        f"conv {op.kernel_size[0]}×{op.kernel_size[1]}, {op.filters}"
        + (f", / {op.strides[0]}" if op.strides != (1, 1) else "")
    ),
    ops.Norm: lambda op: f"{op.kind} norm",
    ops.Activation: lambda op: op.function,
}


def box(axes: Any, x: float, y: float, op: ops.Op) -> None:
    """One primitive."""
    strong = isinstance(op, ops.Conv)
    axes.text(
        *(x, y, LABELS[type(op)](op)),
        ha="center",
        va="center",
        fontsize=8.5,
        color="white" if strong else INK,
        bbox={"boxstyle": "round,pad=0.35", "fc": STRONG if strong else SOFT, "ec": "none"},
    )


def draw_block(axes: Any) -> None:
    """The plan of a bottleneck block, branch beside branch."""
    spec = kb.BottleneckBlock.Spec(64, 3, 2)
    merge, after = spec.plan(64)
    branches = dict(merge.branches)
    columns = {"main": 0.0, "shortcut": 1.5}
    height = len(branches["main"])
    for name, x in columns.items():
        steps = branches[name]
        axes.plot([0, 0, x, x], [height + 0.9, height + 0.5, height + 0.5, 0.2], color=INK, lw=1)
        gap = (height - len(steps)) / 2
        for i, op in enumerate(steps):
            box(axes, x, height - 0.4 - gap - i, op)
        axes.plot([x, x, 0], [0.2, -0.2, -0.2], color=INK, lw=1)
    axes.text(0, -0.2, "+", ha="center", va="center", bbox={"boxstyle": "circle", "fc": "white"})
    axes.plot([0, 0], [-0.55, -1.7], color=INK, lw=1, zorder=0)
    box(axes, 0, -1.1, after)
    axes.set(xlim=(-0.8, 2.3), ylim=(-1.9, height + 1.1))
    axes.axis("off")
    axes.set_title("a Keras layer\nkb.BottleneckBlock(64, strides=2)", fontsize=10)


def draw_cost(axes: Any) -> None:
    """Multiply-adds of the stages of ResNet-50."""
    stages = kb.resnet50().stages((224, 224, 3))
    names = [name for name, _ in stages]
    macs = [cost.macs / 1e6 for _, cost in stages]
    axes.barh(names, macs, color=STRONG)
    for i, (_, cost) in enumerate(stages):
        shape = "×".join(map(str, cost.output_shape))
        axes.text(macs[i] + 25, i, shape, va="center", fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.set(xlabel="million multiply-adds", xlim=(0, 1950))
    title = "a cost in 0.3 ms, no layer made\nkb.resnet50().stages((224, 224, 3))"
    axes.set_title(title, fontsize=10)


def draw_search(axes: Any, table: Path) -> None:
    """The trials of the search on digits."""
    with table.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["val_accuracy"]]
    macs = [float(row["macs"]) / 1e6 for row in rows]
    accuracy = [float(row["val_accuracy"]) for row in rows]
    params = [float(row["params"]) / 1e3 for row in rows]
    best = max(range(len(rows)), key=lambda i: accuracy[i])
    axes.scatter(macs, accuracy, s=[20 + p for p in params], color=STRONG, alpha=0.6, lw=0)
    axes.scatter(macs[best], accuracy[best], s=20 + params[best], color=WARM, lw=0)
    axes.axvline(1.5, color=INK, lw=1, ls=":")
    axes.text(1.49, min(accuracy), "budget", ha="right", fontsize=8, color=INK)
    axes.set(xlabel="million multiply-adds", ylabel="validation accuracy")
    axes.set_title("a search that keeps its budget\npython tuning/digits.py", fontsize=10)


def main() -> None:
    """Three panels."""
    root = Path(__file__).parent.parent
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 4.2), width_ratios=(1, 1, 1), layout="constrained", dpi=110
    )
    draw_block(left)
    draw_cost(middle)
    draw_search(right, root / "runs" / "digits" / "trials.csv")
    for axes in (middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.get_layout_engine().set(wspace=0.08)
    figure.savefig(root / "docs" / "picture.png")


if __name__ == "__main__":
    main()
