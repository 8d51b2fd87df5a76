"""An independent count over built Keras layers: what they put out, and from which kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import keras
import numpy as np


class Count(NamedTuple):
    output_shape: Any
    params: int
    trainable_params: int
    macs: int
    activations: int


@contextmanager
def recorded_calls() -> Iterator[list[tuple[Any, Any]]]:
    """Each convolution or linear layer that is called, with what it puts out, as it happens."""
    calls: list[tuple[Any, Any]] = []
    call = keras.Layer.__call__

    def record(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = call(layer, *args, **kwargs)
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            calls.append((layer, outputs))
        return outputs

    with mock.patch.object(keras.Layer, "__call__", record):
        yield calls


def counted(owner: Any, x: np.ndarray) -> Count:
    """What running a layer or model on one image does; channels last."""
    with recorded_calls() as calls:
        outputs = owner(x, training=False)
    macs = activations = 0
    for layer, output in calls:
        positions = math.prod(output.shape[1:-1])
        macs += positions * math.prod(layer.kernel.shape)
        activations += math.prod(output.shape[1:])
    shape = (
        {name: tuple(output.shape[1:]) for name, output in outputs.items()}
        if isinstance(outputs, dict)
        else tuple(outputs.shape[1:])
    )
    trainable = sum(math.prod(weight.shape) for weight in owner.trainable_weights)
    return Count(shape, owner.count_params(), trainable, macs, activations)


def as_count(cost: Any) -> Count:
    """A `kblocks.Cost` in the form of a `Count`, for a readable difference where they differ."""
    return Count(cost.output_shape, cost.params, cost.trainable_params, cost.macs, cost.activations)
