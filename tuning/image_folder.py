"""IMAGES=FOLDER kblocks search tuning/image_folder.py    (1,000 images: 4 minutes)

Searches a pre-activation residual network for your own images. FOLDER has one folder for each
class, with that class's images (BMP, GIF, JPEG, PNG, TIFF, WebP). They are resized to SIDE by SIDE
pixels (an environment variable, 64 by default) and read while training, so that they need not fit
into memory. A fifth is the test part.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import cache
from typing import Any

import kblocks as kb


@cache
def data() -> kb.tuner.Data:
    """The folder's images, split by class."""
    folder = os.environ.get("IMAGES")
    if not folder:
        raise ValueError("the environment's IMAGES must be a folder with one folder a class")
    side = int(os.environ.get("SIDE", "64"))
    loaded = kb.tuner.load(folder, image_size=(side, side), batch_size=32)
    return replace(loaded, fit={"epochs": 10})


def tuner(**settings: Any) -> kb.tuner.Tuner:
    """Twelve trials in the ready space, with at most 20,000 multiply-adds a pixel."""
    images = data()
    height, width, _ = images.input_shape
    space = kb.spaces.preresnet(classes=images.classes)
    hypermodel = kb.tuner.HyperModel(
        space.within(images.input_shape, kb.Budget(macs=20_000 * height * width)),
        recipe=kb.Recipe(
            learning_rate=kb.real(3e-4, 1e-2, log=True),
            label_smoothing=kb.choice(0.0, 0.1),
            schedule="cosine",
        ),
        latency=False,
    )
    own = {"trials": 12, "pruner": "median", "project_name": "image_folder", "workers": "auto"}
    return kb.tuner.Tuner(hypermodel, **{**own, **settings})


if __name__ == "__main__":  # `python tuning/image_folder.py` searches too
    os.execv(sys.executable, [sys.executable, "-m", "kblocks", "search", *sys.argv])
