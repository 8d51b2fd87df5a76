"""kblocks search tuning/digits.py    (about 2 minutes on 2 cores)

Searches a residual network for scikit-learn's digits (1,797 images of 8x8) under a budget of
1.5 million multiply-adds, and writes the best model, its architecture and a table of all
trials to runs/digits/. The search never sees a fifth of the images, which give the final accuracy.
The best trial's network is trained once more, on the validation images too and on copies of all
images moved by a pixel.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

import numpy as np

import kblocks as kb

INPUT = (8, 8, 1)
SEED = 7


def space() -> kb.Space:
    """A residual network with choices of depth, filters, kernels, strides, padding and pooling."""
    return kb.Space(
        kb.resnet,
        classes=10,
        blocks=kb.per_stage(3, kb.choice(1, 2)),
        filters=[kb.choice(16, 24, 32), kb.choice(32, 48, 64), kb.choice(64, 96, 128)],
        kernel_size=kb.per_stage(3, kb.choice(3, 5, (1, 3), (3, 1))),
        strides=[1, kb.choice(1, 2), kb.choice(2, (2, 1))],
        padding=kb.choice("same", "valid", "symmetric"),
        stem={"filters": kb.choice(16, 32), "kernel_size": 3, "strides": 1, "pool": None},
        head={"pool": kb.choice("avg", "concat"), "dropout": kb.choice(0.0, 0.2)},
    )


def tuner(**settings: Any) -> kb.tuner.Tuner:
    """Ten trials, with the learning rate among the choices."""
    hypermodel = kb.tuner.HyperModel(
        space().within(INPUT, kb.Budget(macs=1.5e6)),
        recipe=kb.Recipe(
            learning_rate=kb.real(2e-3, 2e-2, log=True), label_smoothing=0.1, schedule="cosine"
        ),
        latency=False,
    )
    own = {"trials": 10, "seed": SEED, "project_name": "digits", "workers": "auto"}
    return kb.tuner.Tuner(hypermodel, **{**own, **settings})


def data() -> kb.tuner.Data:
    """A fifth for the test, a fifth of the rest for validation."""
    return replace(kb.tuner.load("digits", seed=SEED), fit={"epochs": 15, "batch_size": 64})


def final(data: kb.tuner.Data) -> kb.tuner.Data:
    """Data of the last training: all but the test images, and copies moved by one pixel."""
    images = np.concatenate([data.train[0], data.validation[0]])
    labels = np.concatenate([data.train[1], data.validation[1]])
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    moved = [padded[:, row : row + 8, column : column + 8] for row, column in corners]
    moved_labels = np.tile(labels, len(corners))
    fit = {"epochs": 10, "batch_size": 128}
    return replace(data, train=(np.concatenate(moved), moved_labels), fit=fit)


if __name__ == "__main__":  # `python tuning/digits.py` searches too
    os.execv(sys.executable, [sys.executable, "-m", "kblocks", "search", *sys.argv])
