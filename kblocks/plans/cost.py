"""The cost of a plan by arithmetic: output shape, parameters, multiply-adds, activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kblocks.plans import ops
from kblocks.plans.geometry import (
    InputTooSmallError,
    Shape,
    ceiled,
    cropped,
    crops,
    of_axis,
    pool_reach,
    same_padding,
    side,
    window,
)
from kblocks.plans.ops import Chain, Merge, Op


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one forward pass of one sample.

    Attributes:
        output_shape: (height, width, channels) or (features,); a dict of them by output where
            there are several.
        params: number of all parameters, as Keras' `count_params` counts them.
        trainable_params: number of the parameters that training changes.
        macs: multiply-adds of convolutions and linear layers.
        activations: number of elements in the outputs of convolutions and linear layers.
    """

    output_shape: Any
    params: int = 0
    trainable_params: int = 0
    macs: int = 0
    activations: int = 0

    def __add__(self, other: Cost) -> Cost:
        """The sum, with the output shape of the second; for `sum`, start with `Cost(None)`."""
        return Cost(
            other.output_shape,
            self.params + other.params,
            self.trainable_params + other.trainable_params,
            self.macs + other.macs,
            self.activations + other.activations,
        )


class Tally:
    """The running counts of a `walk` through a plan."""

    __slots__ = ("activations", "macs", "params", "trainable_params")

    def __init__(self) -> None:
        self.params = self.trainable_params = self.macs = self.activations = 0


def cost(op: Op, input_shape: Shape | Sequence[Shape]) -> Cost:
    """The cost of a plan on an input of (height, width, channels), all of them known."""
    for shape in input_shape if isinstance(input_shape, list) else (input_shape,):
        if None in shape:
            raise ValueError(f"A cost needs known sizes. Received: input of shape {shape}")
    tally = Tally()
    shape = walk(op, input_shape, tally)
    return Cost(shape, tally.params, tally.trainable_params, tally.macs, tally.activations)


def walk(op: Op, shape: Any, tally: Tally | None = None) -> Shape:
    """The output shape of `op`; adds its counts to `tally`, which needs all sizes known.

    A list of shapes stands for several inputs, one for each branch of a Merge.
    """
    return _RULES[type(op)](op, shape, tally)


# --- one rule for each primitive -------------------------------------------------------


class _Rules(dict[type, Callable[[Op, Any, Tally | None], Shape]]):
    def __missing__(self, kind: type) -> Any:
        raise TypeError(
            f"A plan holds the primitives of kblocks.plans.ops. Received: {kind.__name__}"
        )


_RULES = _Rules()


def _rule(*kinds: type) -> Callable[[Callable], Callable]:
    def register(function: Callable) -> Callable:
        for kind in kinds:
            _RULES[kind] = function
        return function

    return register


def _map(op: Op, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ValueError(
            f"{type(op).__name__} works on a map of (height, width, channels). "
            f"Received: input of shape {shape}"
        )
    return shape


@_rule(Chain)
def _chain(op: Chain, shape: Any, tally: Tally | None) -> Shape:
    for step in op:
        shape = _RULES[type(step)](step, shape, tally)
    return shape


@_rule(Merge)
def _merge(op: Merge, shape: Any, tally: Tally | None) -> Shape:
    branches = op.branches
    if isinstance(shape, list):
        if len(shape) != len(branches):
            raise ValueError(f"Expected {len(branches)} inputs. Received: {len(shape)} inputs")
        sources = shape
    else:
        cuts = crops(op)
        sources = [shape if cut is None else cropped(shape, cut) for cut in cuts]
    shapes = [
        _RULES[type(branch)](branch, source, tally)
        for (_, branch), source in zip(branches, sources, strict=True)
    ]
    first = shapes[0]
    if op.mode == "multiply":
        gate = (1, 1, first[-1])
        maps = [other for other in shapes if other != gate] or [gate]
        if maps.count(maps[0]) == len(maps) and maps[0][-1] == first[-1]:
            return maps[0]
    if op.mode == "add":
        if shapes.count(first) == len(shapes):
            return first
    elif op.mode not in ("concat", "multiply"):
        raise ValueError(
            f"A Merge's mode is 'add', 'concat' or 'multiply'. Received: mode={op.mode!r}"
        )
    elif op.mode == "concat" and all(other[:-1] == first[:-1] for other in shapes):
        return (*first[:-1], sum(other[-1] for other in shapes))
    described = ", ".join(f"{n}: {s}" for (n, _), s in zip(branches, shapes, strict=True))
    raise ValueError(f"Branches do not fit for {op.mode!r}. Received: {described}")


@_rule(ops.Conv)
def _conv(op: ops.Conv, shape: Shape, tally: Tally | None) -> Shape:
    if len(shape) != 3:
        _map(op, shape)
    height, width, channels = shape
    filters, kernel, _, _, dilation, groups, use_bias, mode = op[:8]
    if channels % groups:
        raise ValueError(
            f"`groups` (={groups}) must divide the input's channels (={channels}) in a "
            f"convolution to {filters} filters"
        )
    if mode != "zeros":
        _check_padding_mode(op, height, width)
    rows, columns = window(op, height, width, kernel, dilation)
    if tally is not None:
        weights = kernel[0] * kernel[1] * (channels // groups) * filters
        params = weights + filters * (use_bias + op.weight_norm)
        tally.params += params
        tally.trainable_params += params
        tally.macs += rows * columns * weights
        tally.activations += rows * columns * filters
    return rows, columns, filters


def _check_padding_mode(op: ops.Conv, height: Any, width: Any) -> None:
    for axis, size in enumerate((height, width)):
        kernel, dilation = op.kernel_size[axis], op.dilation_rate[axis]
        padding = of_axis(op.padding, axis)
        if size is None:
            if padding == "same" and kernel > 1 and op.strides[axis] > 1:
                raise unknown_size(op, f"padding_mode={op.padding_mode!r}")
            continue
        added = (
            same_padding(size, kernel, op.strides[axis], dilation)[1]
            if padding == "same"
            else side(kernel, padding, dilation)
        )
        if op.padding_mode == "reflect" and added >= size:
            raise InputTooSmallError(
                f"{size} pixels are too few to reflect {added} of them: "
                f"{added + 1 - size} more are needed",
                missing=added + 1 - size,
            )


def unknown_size(op: Any, reason: str) -> ValueError:
    """The error for "same" padding that depends on a size that is not known."""
    return ValueError(
        f"padding='same' with {reason} and strides={op.strides} needs a known height and width; "
        "'symmetric' does not. Received: unknown size"
    )


@_rule(ops.Pool)
def _pool(op: ops.Pool, shape: Shape, tally: Tally | None) -> Shape:
    height, width, channels = _map(op, shape)
    if op.kind == "avg" and op.count_padding and op.padding == "same":
        for size, window_size, stride in zip(
            (height, width), op.pool_size, op.strides, strict=True
        ):
            if size is None and window_size > 1 and stride > 1:
                raise unknown_size(op, "count_padding=True")
    if op.ceil_mode:
        sizes = (height, width)
        rows, columns = (
            None if n is None else ceiled(n, reached, stride)
            for n, reached, stride in zip(sizes, pool_reach(op), op.strides, strict=True)
        )
        return rows, columns, channels
    return (*window(op, height, width, op.pool_size), channels)


@_rule(ops.Dense)
def _dense(op: ops.Dense, shape: Shape, tally: Tally | None) -> Shape:
    if len(shape) != 1 or shape[0] is None:
        raise ValueError(
            "Dense works on flat features of known number (is the height and width of the input "
            f"given?). Received: input of shape {shape}"
        )
    if tally is not None:
        weights = shape[0] * op.units
        params = weights + op.units * (op.use_bias + op.weight_norm)
        tally.params += params
        tally.trainable_params += params
        tally.macs += weights
        tally.activations += op.units
    return (op.units,)


@_rule(ops.Norm)
def _norm(op: ops.Norm, shape: Shape, tally: Tally | None) -> Shape:
    channels = shape[-1]
    if op.groups is not None and channels % op.groups:
        raise ValueError(
            f"`groups` (={op.groups}) of the normalization must divide its channels (={channels})"
        )
    if tally is not None:
        learned = channels * (op.scale + op.center)
        tally.trainable_params += learned
        tally.params += learned + (2 * channels if op.kind == "batch" else 0)
    return shape


@_rule(ops.Activation, ops.Dropout, ops.DropPath, ops.Scale)
def _unchanged(op: Op, shape: Shape, tally: Tally | None) -> Shape:
    return shape


@_rule(ops.GlobalPool)
def _global_pool(op: ops.GlobalPool, shape: Shape, tally: Tally | None) -> Shape:
    channels = _map(op, shape)[2]
    return (1, 1, channels) if op.keepdims else (channels,)


@_rule(ops.Blur)
def _blur(op: ops.Blur, shape: Shape, tally: Tally | None) -> Shape:
    height, width, channels = _map(op, shape)
    for size in (height, width):
        if size is not None and size <= op.size // 2:
            raise InputTooSmallError(f"{size} pixels are too few to blur", op.size // 2 + 1 - size)
    rows, columns = (
        None if n is None else (n - 1) // stride + 1
        for n, stride in zip((height, width), op.strides, strict=True)
    )
    return rows, columns, channels


@_rule(ops.SpaceToDepth)
def _space_to_depth(op: ops.SpaceToDepth, shape: Shape, tally: Tally | None) -> Shape:
    height, width, channels = _map(op, shape)
    rows, columns = (None if n is None else -(-n // op.block) for n in (height, width))
    return rows, columns, channels * op.block**2


@_rule(ops.AdaptivePool)
def _adaptive_pool(op: ops.AdaptivePool, shape: Shape, tally: Tally | None) -> Shape:
    height, width, channels = _map(op, shape)
    if height is None or width is None:
        raise ValueError(
            f"Pooling to {op.output_size} needs a known height and width. "
            f"Received: input of shape {shape}"
        )
    return (*op.output_size, channels)


@_rule(ops.PadChannels)
def _pad_channels(op: ops.PadChannels, shape: Shape, tally: Tally | None) -> Shape:
    height, width, channels = _map(op, shape)
    if channels > op.filters:
        raise ValueError(
            f"Zero-padding to {op.filters} channels cannot shorten an input of {channels} channels"
        )
    return height, width, op.filters


@_rule(ops.Reshape)
def _reshape(op: ops.Reshape, shape: Shape, tally: Tally | None) -> Shape:
    if None not in shape and math.prod(shape) != math.prod(op.shape):
        raise ValueError(f"A reshape to {op.shape} does not fit. Received: input of shape {shape}")
    return op.shape


@_rule(ops.ResizeLike)
def _resize_like(op: ops.ResizeLike, shape: Any, tally: Tally | None) -> Shape:
    if not isinstance(shape, list) or len(shape) != 2:
        raise ValueError(f"ResizeLike works on two inputs. Received: {shape}")
    source, like = (_map(op, one) for one in shape)
    return (*like[:2], source[2])


@_rule(ops.SoftArgmax)
def _soft_argmax(op: ops.SoftArgmax, shape: Shape, tally: Tally | None) -> Shape:
    return (_map(op, shape)[2], 2)


@_rule(ops.Corners)
def _corners(op: ops.Corners, shape: Shape, tally: Tally | None) -> Shape:
    if shape != (4,):
        raise ValueError(f"Corners works on four features. Received: input of shape {shape}")
    return shape


@_rule(ops.Flatten)
def _flatten(op: ops.Flatten, shape: Shape, tally: Tally | None) -> Shape:
    return (None,) if None in shape else (math.prod(shape),)
