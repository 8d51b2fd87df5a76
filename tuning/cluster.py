"""kblocks worker tuning/cluster.py    (a full trial: by estimate 3 hours on 2 cores)

Searches a ResNet for CIFAR-10 on many machines. KBLOCKS_STORAGE is the URL of a PostgreSQL
database that all machines reach, CHECKPOINTS a folder or URL that they share. One machine starts
with `kblocks search tuning/cluster.py`, the others join with the line above. tuning/cluster/ has
the files for Slurm and Kubernetes.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

import kblocks as kb

INPUT = (32, 32, 3)


def tuner(**settings: Any) -> kb.tuner.Tuner:
    """200 trials around ResNet-20, with at most twice its multiply-adds."""
    space = kb.Space(
        kb.resnet20,
        blocks=kb.per_stage(3, kb.choice(3, 1, 2, 5)),
        filters=[kb.choice(16, 24, 32), kb.choice(32, 48, 64), kb.choice(64, 96, 128)],
        kernel_size=kb.per_stage(3, kb.choice(3, 5, (1, 7), (7, 1))),
        padding=kb.choice("symmetric", "same"),
        head={"pool": kb.choice("avg", "concat"), "dropout": kb.choice(0.0, 0.2)},
    )
    hypermodel = kb.tuner.HyperModel(
        space.within(INPUT, kb.Budget(macs=80e6)),
        recipe=kb.Recipe(
            learning_rate=kb.real(5e-4, 1e-2, log=True),
            weight_decay=kb.choice(1e-4, 1e-3, 1e-2),
            schedule="cosine",
        ),
        latency=False,
    )
    own: dict[str, Any] = {"trials": 200, "pruner": "hyperband", "project_name": "cluster"}
    if os.environ.get("CHECKPOINTS"):
        own["checkpoint_directory"] = os.environ["CHECKPOINTS"]
    if os.environ.get("KBLOCKS_STORAGE"):
        own["storage"] = os.environ["KBLOCKS_STORAGE"]
    return kb.tuner.Tuner(hypermodel, **{**own, **settings})


def data() -> kb.tuner.Data:
    """CIFAR-10 from Keras, or from the `.npz` file that the variable DATA names."""
    source = os.environ.get("DATA", "cifar10")
    return replace(kb.tuner.load(source), fit={"epochs": 40, "batch_size": 128})


if __name__ == "__main__":  # `python tuning/cluster.py` searches too
    os.execv(sys.executable, [sys.executable, "-m", "kblocks", "search", *sys.argv])
