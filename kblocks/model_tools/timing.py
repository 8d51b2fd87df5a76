"""Measures how long a model takes on this machine."""

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
    """The median time in seconds that `predict_on_batch` takes for one batch of random images.

    Args:
        model: a model with one input.
        batch_size: images in a batch.
        input_shape: the shape of one image without the batch; None takes the model's own, in
            which all sizes must be known.
        repeats: runs to measure.
        warm: runs before these, to compile and warm up; may be 0.

    Raises:
        ValueError: if a count is not an integer in range, or the input's size is not known.
    """
    counts = {"batch_size": (batch_size, 1), "repeats": (repeats, 1), "warm": (warm, 0)}
    for name, (value, least) in counts.items():
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
