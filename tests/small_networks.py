"""A small member of every family, for tests that need one of each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import kblocks as kb

_STAGES = {"blocks": (1, 1), "filters": (8, 12)}
_TOP = {"filters": 16, "width": 12}
_NARROW = {
    "blocks": (1, 1, 1),
    "width": 0.125,
}  # narrower branches would be dead, which int8 cannot scale

# By family, how its small member is made and a size of image that it fits.
SMALL: dict[str, tuple[Callable[[], kb.Architecture], int]] = {
    "alexnet": (lambda: kb.alexnet(5, **_STAGES, head={"hidden": (16,)}), 95),
    "vgg": (lambda: kb.vgg(5, **_STAGES, head={"hidden": (16,)}), 16),
    "googlenet": (lambda: kb.googlenet(5, **_NARROW), 64),
    "inception_v3": (lambda: kb.inception_v3(5, **_NARROW), 96),
    "inception_v4": (lambda: kb.inception_v4(5, **_NARROW), 96),
    "inception_resnet": (lambda: kb.inception_resnet(5, **_NARROW), 96),
    "resnet": (lambda: kb.resnet(5, **_STAGES), 32),
    "preresnet": (lambda: kb.preresnet(5, **_STAGES), 32),
    "resnext": (lambda: kb.resnext(5, **_STAGES, cardinality=4, group_width=2), 32),
    "densenet": (lambda: kb.densenet(5, blocks=(2, 2), growth_rate=6), 32),
    "efficientnet": (lambda: kb.efficientnet(5, **_STAGES), 32),
    "xception": (lambda: kb.xception(5, **_STAGES, strides=2, convolutions=2, top=_TOP), 32),
    "tresnet": (lambda: kb.tresnet(5, **_STAGES), 32),
}


def small_model(family: str) -> tuple[keras.Model, np.ndarray]:
    """Its model, all weights off the values they start with, and two images."""
    make, size = SMALL[family]
    random = np.random.default_rng(0)
    model = make().model((size, size, 3))
    for weight in model.weights:
        if weight.path.endswith(("bias", "beta", "moving_mean")):
            weight.assign(random.normal(size=weight.shape) * 0.1)
        elif not weight.path.endswith(("kernel", "seed_generator_state")):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    return model, random.normal(size=(2, size, size, 3)).astype("float32")


def spread(found: Any, expected: Any) -> float:
    """The largest difference in units of the expected values' standard deviation."""
    expected = np.asarray(expected, "float64")
    return float(np.abs(np.asarray(found, "float64") - expected).max() / expected.std())
