"""How long a model takes, measured here and now."""

from __future__ import annotations

import statistics
import time

import keras
import numpy as np


def latency(
    model: keras.Model,
    batch_size: int = 1,
    *,
    input_shape: tuple[int, ...] | None = None,
    repeats: int = 30,
    warm: int = 3,
) -> float:
    """Seconds that `model` takes for one batch, as `predict_on_batch` runs it: the median.

    Args:
        model: with one input.
        batch_size: images in a batch.
        input_shape: of one image, as the model takes it, where the model leaves sizes open.
        repeats: runs that are measured.
        warm: runs before, which compile and warm up; not measured.

    Raises:
        ValueError: if a count is not positive, or the input's size is not known.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("repeats", repeats, 1),
        ("warm", warm, 0),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"`{name}` must be an integer from {least}. Received: {value!r}")
    shape = tuple(input_shape or model.input_shape[1:])
    if None in shape:
        raise ValueError(f"`input_shape` must say the size of the input. Received: {shape}")
    images = np.random.default_rng(0).random((batch_size, *shape), dtype="float32")
    for _ in range(warm):
        model.predict_on_batch(images)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        model.predict_on_batch(images)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
