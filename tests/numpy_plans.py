"""What a block computes by the definition of its plan's primitives: NumPy in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy_reference import PAD_MODES, Pads, adaptive_average, conv, pad, pair, same_pads

from kblocks.plans import ops

Numbers = dict[str, np.ndarray]  # of one part: its weights by name


def numbers_of(part: Any) -> Numbers:
    """The weights of a Keras layer in float64, by the last word of their paths."""
    return {w.path.split("/")[-1]: np.asarray(w, "float64") for w in part.weights}


def computed(plan: Any, x: Any, numbers: list[Numbers], training: bool = False) -> np.ndarray:
    """The output of a plan for (batch, height, width, channels), or a list of several inputs.

    Args:
        plan: a tree of `kblocks.plans.ops`.
        x: the input, or inputs; channels last.
        numbers: the weights of each of its primitives, in their order.
        training: whether batch norms take the statistics of the batch. Dropout never drops.
    """
    left = iter(numbers)
    outputs = _computed(plan, x, left, training)
    assert next(left, None) is None, "a primitive of the plan was not computed"
    return outputs


def _computed(op: Any, x: Any, left: Iterator[Numbers], training: bool) -> np.ndarray:
    if isinstance(op, ops.Chain):
        for step in op:
            x = _computed(step, x, left, training)
        return x
    if isinstance(op, ops.Merge):
        cuts = [None] * len(op.branches) if isinstance(x, list) else op.crops()
        outputs = []
        for index, ((_, branch), cut) in enumerate(zip(op.branches, cuts, strict=True)):
            source = x[index] if isinstance(x, list) else x
            if cut is not None:
                (top, bottom), (before, behind) = cut
                height, width = source.shape[1:3]
                source = source[:, top : height - bottom, before : width - behind]
            outputs.append(_computed(branch, source, left, training))
        if op.mode == "concat":
            return np.concatenate(outputs, -1)
        return sum(outputs[1:], outputs[0]) if op.mode == "add" else math.prod(outputs)
    return _primitive(op, x, next(left), training)


def _primitive(op: Any, x: Any, own: Numbers, training: bool) -> np.ndarray:
    match op:
        case ops.Conv():
            return _conv(op, x, own)
        case ops.Dense():
            return x @ _kernel(op, own) + own.get("bias", 0.0)
        case ops.Norm():
            return _norm(op, x, own, training)
        case ops.Activation():
            return _activation(op.function, x)
        case ops.Pool():
            return _pool(op, x)
        case ops.GlobalPool():
            return {"max": np.max, "avg": np.mean}[op.kind](x, (1, 2), keepdims=op.keepdims)
        case ops.AdaptivePool():
            return adaptive_average(x, op.output_size)
        case ops.PadChannels():
            return np.pad(x, ((0, 0),) * 3 + ((0, op.filters - x.shape[-1]),))
        case ops.Blur():
            return _blur(op, x)
        case ops.SpaceToDepth():
            return _space_to_depth(op.block, x)
        case ops.Scale():
            return x * op.factor
        case ops.Flatten():
            return x.reshape(len(x), -1)
        case ops.Reshape():
            return x.reshape(len(x), *op.shape)
        case ops.ResizeLike():
            return _resized(x[0], x[1].shape[1:3])
        case ops.SoftArgmax():
            return _soft_argmax(x)
        case ops.Corners():
            return np.concatenate([x[..., :2] - x[..., 2:] / 2, x[..., :2] + x[..., 2:] / 2], -1)
        case ops.Dropout() | ops.DropPath():
            return x
    raise TypeError(f"tests/numpy_plans.py does not know {op!r}")


def _kernel(op: Any, own: Numbers) -> np.ndarray:
    if not op.weight_norm:
        return own["kernel"]
    axes = tuple(range(own["kernel"].ndim - 1))
    return own["kernel"] * own["gain"] / np.sqrt((own["kernel"] ** 2).sum(axes))


def pads_of(padding: Any, size: Any, kernel: Any, strides: Any, dilation: Any = 1) -> Pads:
    """What each `padding` stands for, by its definition in the papers' code and in Keras."""
    if padding == "same":
        return same_pads(size, kernel, strides, dilation)
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "symmetric":
        sides = [d * (k - 1) // 2 for k, d in zip(pair(kernel), pair(dilation), strict=True)]
    else:
        sides = list(pair(padding))
    return (sides[0], sides[0]), (sides[1], sides[1])


def _conv(op: ops.Conv, x: np.ndarray, own: Numbers) -> np.ndarray:
    pads = pads_of(op.padding, x.shape[1:3], op.kernel_size, op.strides, op.dilation_rate)
    padded = pad(x, pads, PAD_MODES[op.padding_mode])
    kernel = _kernel(op, own)
    return conv(padded, kernel, op.strides, op.dilation_rate, op.groups) + own.get("bias", 0.0)


def _norm(op: ops.Norm, x: np.ndarray, own: Numbers, training: bool) -> np.ndarray:
    axes: Any = tuple(range(x.ndim - 1)) if op.kind == "batch" else -1
    shape = x.shape
    if op.kind == "group":
        groups = op.groups or math.gcd(32, shape[-1])
        x = x.reshape(*shape[:-1], groups, shape[-1] // groups)
        axes = (*range(1, x.ndim - 2), x.ndim - 1)
    if op.kind == "batch" and not training:
        mean, variance = own["moving_mean"], own["moving_variance"]
    else:
        mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    x = ((x - mean) / np.sqrt(variance + op.epsilon)).reshape(shape)
    return x * own.get("gamma", 1.0) + own.get("beta", 0.0)


def _activation(function: Any, x: np.ndarray) -> np.ndarray:
    """Keras' own function, in float64 and eagerly."""
    if isinstance(function, dict):
        config = {**function, "config": {**function["config"], "dtype": "float64"}}
        return np.asarray(keras.saving.deserialize_keras_object(config)(x))
    if function == "sparsemax":
        return sparsemax(x)
    return np.asarray(keras.activations.get(function)(keras.ops.convert_to_tensor(x, "float64")))


def sparsemax(x: np.ndarray) -> np.ndarray:
    """max(x - t, 0), with t bisected so that channels sum to 1 (arXiv:1602.02068, Eq. 2)."""
    x = x.astype("float64")
    low, high = x.max(-1, keepdims=True) - 1, x.max(-1, keepdims=True)
    for _ in range(60):
        middle = (low + high) / 2
        over = np.maximum(x - middle, 0).sum(-1, keepdims=True) > 1
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return np.maximum(x - low, 0)


def _pool(op: ops.Pool, x: np.ndarray) -> np.ndarray:
    """Window by window, as PyTorch defines `ceil_mode` and `count_include_pad`."""
    pads = pads_of(op.padding, x.shape[1:3], op.pool_size, op.strides)
    axes: list[list[tuple[int, int, int]]] = []  # of each window the pixels, and how many count
    for n, k, s, (before, behind) in zip(x.shape[1:3], op.pool_size, op.strides, pads, strict=True):
        ceils = op.ceil_mode and op.padding != "same"
        number = (n + before + behind - k + (s - 1 if ceils else 0)) // s + 1
        if ceils and (number - 1) * s >= n + before:
            number -= 1
        starts = [i * s - before for i in range(number)]
        axes.append([(max(a, 0), min(a + k, n), min(a + k, n + behind) - a) for a in starts])
    outputs = np.empty((len(x), len(axes[0]), len(axes[1]), x.shape[-1]))
    for i, (top, bottom, rows) in enumerate(axes[0]):
        for j, (left, right, columns) in enumerate(axes[1]):
            seen = x[:, top:bottom, left:right]
            if op.kind == "avg":
                number = rows * columns if op.count_padding else seen.shape[1] * seen.shape[2]
                outputs[:, i, j] = seen.sum((1, 2)) / number
            else:
                outputs[:, i, j] = {"max": np.max, "min": np.min}[op.kind](seen, (1, 2))
    return outputs


def _blur(op: ops.Blur, x: np.ndarray) -> np.ndarray:
    row = np.array([math.comb(op.size - 1, i) for i in range(op.size)], "float64")
    kernel = np.outer(row, row) / row.sum() ** 2
    side = op.size // 2
    padded = pad(x, ((side, side), (side, side)), "reflect")
    kernel = np.repeat(kernel[..., None, None], x.shape[-1], -1)
    return conv(padded, kernel, op.strides, groups=x.shape[-1])


def _space_to_depth(block: int, x: np.ndarray) -> np.ndarray:
    batch, height, width, channels = x.shape
    rows, columns = -(-height // block), -(-width // block)
    outputs = np.zeros((batch, rows, columns, block * block * channels))
    for i in range(block):
        for j in range(block):
            seen = x[:, i::block, j::block]
            first = (i * block + j) * channels
            outputs[:, : seen.shape[1], : seen.shape[2], first : first + channels] = seen
    return outputs


def _resized(x: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bilinear, with centres at half pixels and edges that go on."""
    for axis, (n, m) in enumerate(zip(x.shape[1:3], size, strict=True), start=1):
        places = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
        below = np.floor(places).astype(int)
        above = np.minimum(below + 1, n - 1)
        share = (places - below).reshape([-1 if a == axis else 1 for a in range(4)])
        x = np.take(x, below, axis) * (1 - share) + np.take(x, above, axis) * share
    return x


def _soft_argmax(x: np.ndarray) -> np.ndarray:
    likely = np.exp(x - x.max((1, 2), keepdims=True))
    likely /= likely.sum((1, 2), keepdims=True)
    rows, columns = ((np.arange(n) + 0.5) / n for n in x.shape[1:3])
    y = (likely * rows[:, None, None]).sum((1, 2))
    return np.stack([y, (likely * columns[:, None]).sum((1, 2))], -1)
