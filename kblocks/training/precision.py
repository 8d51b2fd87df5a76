"""In which precision a model computes: float32, or bfloat16 where a short trial shows it faster."""

from __future__ import annotations

import functools
import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kblocks.blocks.block import Block
from kblocks.common.keras_graph import maker_of
from kblocks.training.preparing import guessed_labels

HALF = "mixed_bfloat16"
POLICIES = {"float32": "float32", "bfloat16": HALF, HALF: HALF}  # the dtype policy of each name
PRECISIONS = "'float32', 'bfloat16' (the same as 'mixed_bfloat16'), 'auto' or None"

_WORTH = 0.9  # the most that a step in bfloat16 may take of one in float32 to be chosen
_PAIRS, _FEWEST = 9, 3  # of measurements, one in each precision
_SHORT, _LONG = 0.1, 30.0  # seconds of one measurement at least, and of all about at most
_HOPELESS = 2.0  # times as slow in bfloat16: one pair is enough
_BATCH = 32  # images, as in `fit`
# They take whole numbers up to 255 and fractions, or parts of a pixel.
_OF_IMAGES = (keras.layers.Rescaling, keras.layers.Resizing, keras.layers.Normalization)

_measured: dict[tuple[str, int], float] = {}  # by network and batch size, in this process


def is_precision(value: Any) -> bool:
    """Whether a value is one of `PRECISIONS`."""
    return value is None or (isinstance(value, str) and value in ("auto", *POLICIES))


def compute_in(model: Any, policy: str) -> None:
    """Makes a model's layers compute in "float32" or "mixed_bfloat16", with the same weights.

    Outputs stay float32, as do layers that scale, resize or normalize images. Layers of pure 16 or
    64 bits and quantized ones stay as they are. Call it before the model is trained or used.
    """
    last = {id(maker_of(x)) for x in getattr(model, "outputs", None) or ()}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            compute_in(layer, policy)
        elif isinstance(layer, (keras.layers.InputLayer, *_OF_IMAGES)) or not _is_usual(layer):
            continue
        elif isinstance(layer, Block):
            layer.set_policy(policy)
        else:
            layer.dtype_policy = "float32" if id(layer) in last else policy


def _is_usual(layer: Any) -> bool:
    parts = [layer, *(layer.layers if isinstance(layer, Block) else ())]
    return all(p.variable_dtype == "float32" and p.quantization_mode is None for p in parts)


def faster(make: Callable[[], Any], batch_size: int = _BATCH) -> tuple[str, float]:
    """The dtype policy in which a model trains faster here, and the share of time that shows it.

    Trains two models on random images, one in each precision, some steps in turn. The policy is
    "mixed_bfloat16" if the median step in it takes at most 0.9 of the time in float32. A process
    measures a network once.

    Args:
        make: makes the model, compiled and of a known input size, anew at each call.
        batch_size: images in a batch.

    Raises:
        Exception: whatever a training step raises.
    """
    plain, half = make(), make()
    key = str(plain.get_config()), batch_size
    if key not in _measured:
        compute_in(half, HALF)
        _measured[key] = _ratio(_step(plain, batch_size), _step(half, batch_size))
    ratio = _measured[key]
    return HALF if ratio <= _WORTH else "float32", ratio


def compute_in_faster(model: Any, compile_: Callable[[Any], None]) -> None:
    """Makes a model compute in the precision in which copies of it, once compiled, train faster."""

    def copy() -> Any:
        other = type(model).from_config(model.get_config())
        compile_(other)
        return other

    try:
        policy, _ = faster(copy)
    except Exception as error:  # of the layers or the loss of somebody else
        warnings.warn(f"precision='auto' stays at float32: {error}", stacklevel=3)
        policy = "float32"
    compute_in(model, policy)


def _step(model: Any, batch_size: int) -> Callable[[], Any]:
    """A training step on random images, traced and warm."""
    numbers = np.random.default_rng(0)

    def images(x: Any) -> Any:
        array = numbers.uniform(size=(batch_size, *x.shape[1:]))
        return keras.ops.convert_to_tensor(array, x.dtype)

    def zeros(x: Any) -> Any:
        return keras.ops.zeros((batch_size, *x.shape[1:]), x.dtype)

    outputs = keras.tree.map_structure(zeros, model.output)
    labels = guessed_labels(model, outputs)
    step = functools.partial(
        model.train_on_batch, keras.tree.map_structure(images, model.input), labels
    )
    for _ in range(2):
        step()
    return step


def _ratio(plain: Callable[[], Any], half: Callable[[], Any]) -> float:
    """The median time of `half` as a share of that of `plain`, the two in turn."""

    def seconds(step: Callable[[], Any], count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            step()
        return time.perf_counter() - began

    began, count = time.perf_counter(), math.ceil(_SHORT / seconds(plain, 1))
    pairs: list[float] = []
    while len(pairs) < _PAIRS:
        both = [seconds(step, count) for step in (plain, half)]
        pairs.append(both[1] / both[0])
        is_late = len(pairs) >= _FEWEST and time.perf_counter() - began > _LONG
        if is_late or pairs[0] > _HOPELESS:
            break
    return statistics.median(pairs)
