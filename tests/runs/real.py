"""A small real search on scikit-learn's digits, whose memory can be cut in mid-trial.

KBLOCKS_REAL, as JSON, names trials that are let run out of memory: {"starve": [1]}, and
{"epochs": 2}, {"images": 400} are of all trials.
"""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

import kblocks as kb

SPACE = kb.Space(
    kb.resnet,
    classes=10,
    blocks=(1, 1),
    filters=kb.per_stage(2, kb.choice(8, 12, 16, 20, 24)),
    kernel_size=kb.choice(3, 5),
    stem={"filters": 8, "kernel_size": 3, "strides": 1, "pool": None},
)


def plan() -> dict[str, Any]:
    """What the trials do."""
    return json.loads(os.environ.get("KBLOCKS_REAL", "{}"))


def note(text: str) -> None:
    """A line, written at once."""
    with Path(os.environ["KBLOCKS_REAL_NOTES"]).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


class Noting(keras.callbacks.Callback):
    """Notes epochs, and starves the trials that are to be starved."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Before the second epoch: the first one has taken what training needs."""
        note(f"epoch {NUMBER[0]} {epoch} {os.getpid()} {_status('VmRSS')}")
        if epoch == 1 and NUMBER[0] in plan().get("starve", ()):
            resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + (1 << 22), -1))


NUMBER = [-1]


class Real(kb.tuner.HyperModel):
    """Knows which trial it trains."""

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        NUMBER[0] = kwargs["callbacks"][-1].number
        return super().fit(hp, model, *args, **kwargs)


def _status(name: str) -> int:
    """Bytes that this process has of something."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = next(line.partition(":")[2] for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(found.split()[0])


def tuner(**settings: Any) -> kb.tuner.Tuner:
    """What every run file has."""
    growth = settings.pop("growth", None)
    made = kb.tuner.Tuner(Real(SPACE.within((8, 8, 1)), latency=False), **settings)
    if growth is not None:
        made.growth = growth
    return made


def data() -> kb.tuner.Data:
    """What every run file has."""
    digits = load_digits()
    count = plan().get("images", 400)
    x = (digits.images[:count, ..., np.newaxis] / 16).astype("float32")
    fit = {
        "validation_split": 0.25,
        "epochs": plan().get("epochs", 2),
        "batch_size": plan().get("batch", 50),
        "callbacks": [Noting()],
    }
    return kb.tuner.Data((x, digits.target[:count]), None, fit=fit)
