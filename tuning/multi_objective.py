"""kblocks search tuning/multi_objective.py    (about 2 minutes on 2 cores)

Searches networks for digits with two objectives, validation accuracy and multiply-adds, by NSGA-II
(Deb et al. 2002). The result is a Pareto front: the most accurate network found at each cost.
`kblocks status runs/multi_objective` lists it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

import kblocks as kb

INPUT = (8, 8, 1)


def tuner(**settings: Any) -> kb.tuner.Tuner:
    """Thirty trials from very small networks up to two million multiply-adds."""
    space = kb.Space(
        kb.resnet,
        classes=10,
        blocks=kb.per_stage(2, kb.choice(1, 2)),
        filters=[kb.choice(4, 8, 16, 32), kb.choice(8, 16, 32, 64)],
        kernel_size=kb.per_stage(2, kb.choice(1, 3, 5)),
        strides=[kb.choice(1, 2), 2],
        stem={"filters": kb.choice(4, 8, 16), "kernel_size": 3, "strides": 1, "pool": None},
    )
    hypermodel = kb.tuner.HyperModel(
        space.within(INPUT, kb.Budget(macs=2e6)),
        recipe=kb.Recipe(learning_rate=kb.real(2e-3, 2e-2, log=True), schedule="cosine"),
        latency=False,
    )
    own = {"trials": 30, "seed": 3, "project_name": "multi_objective", "checkpoints": 30}
    searched = {"objective": ["val_accuracy", "macs"], "sampler": "nsga2", "workers": "auto"}
    return kb.tuner.Tuner(hypermodel, **{**own, **searched, **settings})


def data() -> kb.tuner.Data:
    """A fifth for the test, a fifth of the rest for validation."""
    return replace(kb.tuner.load("digits", seed=3), fit={"epochs": 10, "batch_size": 64})


if __name__ == "__main__":  # `python tuning/multi_objective.py` searches too
    os.execv(sys.executable, [sys.executable, "-m", "kblocks", "search", *sys.argv])
