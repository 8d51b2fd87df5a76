"""kblocks search tuning/fashion_mnist.py    (about 7 minutes on 2 cores; the first run downloads)

Searches a residual network for Fashion-MNIST (60,000 images of 28x28; Xiao et al. 2017,
arXiv:1708.07747) under a budget of 6 million multiply-adds, on 12,000 of its training images; its
own 10,000 test images are used only at the end. With Debian's package dataset-fashion-mnist,
FASHION_MNIST=/usr/share/datasets/fashion-mnist avoids the download.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

import kblocks as kb

INPUT = (28, 28, 1)


def tuner(**settings: Any) -> kb.tuner.Tuner:
    """Twelve trials of a residual network in three stages; a pruner ends bad ones early."""
    space = kb.Space(
        kb.resnet,
        classes=10,
        blocks=kb.per_stage(3, kb.choice(1, 2, 3)),
        filters=[kb.choice(16, 24, 32), kb.choice(32, 48, 64), kb.choice(64, 96, 128)],
        kernel_size=kb.per_stage(3, kb.choice(3, 5)),
        strides=[kb.choice(1, 2), 2, 2],
        padding=kb.choice("same", "symmetric"),
        stem={"filters": kb.choice(16, 32), "kernel_size": 3, "strides": 1, "pool": None},
        head={"pool": kb.choice("avg", "concat"), "dropout": kb.choice(0.0, 0.2)},
    )
    hypermodel = kb.tuner.HyperModel(
        space.within(INPUT, kb.Budget(macs=6e6)),
        recipe=kb.Recipe(learning_rate=kb.real(1e-3, 1e-2, log=True), schedule="cosine"),
        latency=False,
    )
    own = {
        "trials": 12,
        "pruner": "median",
        "seed": 1,
        "project_name": "fashion_mnist",
        "workers": "auto",
    }
    return kb.tuner.Tuner(hypermodel, **{**own, **settings})


def data() -> kb.tuner.Data:
    """Keras' own copy, or the folder of idx files that FASHION_MNIST names."""
    source = os.environ.get("FASHION_MNIST", "fashion_mnist")
    return replace(kb.tuner.load(source, limit=12_000), fit={"epochs": 8, "batch_size": 64})


if __name__ == "__main__":  # `python tuning/fashion_mnist.py` searches too
    os.execv(sys.executable, [sys.executable, "-m", "kblocks", "search", *sys.argv])
