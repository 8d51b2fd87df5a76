"""What a plan costs, by arithmetic: output shape, parameters, multiply-adds, activations.

The arithmetic of padding and stride lives here and nowhere else. One formula serves all
paddings: with `reach`, the pixels by which an axis would shrink at stride 1, the output
has `(size - 1 - reach) // stride + 1` pixels. It composes, which is what lets `crops`
say how to align branches without knowing the size of the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kblocks import ops
from kblocks.ops import Chain, Merge, Op, Pair

Shape = tuple[Any, ...]  # (height, width, channels) or (features,); None is an unknown size
Geometry = tuple[int, int, int, int]  # strides (height, width), reach (height, width)
Crop = tuple[Pair, Pair]  # pixels to cut: (top, bottom), (left, right)


class InputTooSmallError(ValueError):
    """A map that would vanish. `missing` is the number of pixels that it lacks, or, where an
    architecture raises it, the input of the architecture."""

    def __init__(self, message: str, missing: float) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one forward pass of one sample.

    Attributes:
        output_shape: height, width, channels or (features,); a dict of them where there
            are several outputs.
        params: all numbers held, as Keras' `count_params` counts them.
        trainable_params: those that training changes.
        macs: multiply-adds of convolutions and linear layers.
        activations: elements that convolutions and linear layers put out.
    """

    output_shape: Any
    params: int = 0
    trainable_params: int = 0
    macs: int = 0
    activations: int = 0


class Tally:
    """Counts while a plan is walked."""

    __slots__ = ("activations", "macs", "params", "trainable_params")

    def __init__(self) -> None:
        self.params = self.trainable_params = self.macs = self.activations = 0


def cost(op: Op, input_shape: Shape | Sequence[Shape]) -> Cost:
    """The cost of a plan on an input of known (height, width, channels)."""
    for shape in input_shape if isinstance(input_shape, list) else (input_shape,):
        if None in shape:
            raise ValueError(f"A cost needs known sizes. Received: input of shape {shape}")
    tally = Tally()
    shape = walk(op, input_shape, tally)
    return Cost(shape, tally.params, tally.trainable_params, tally.macs, tally.activations)


def walk(op: Op, shape: Any, tally: Tally | None = None) -> Shape:
    """The output shape of `op`; counts into `tally`, for which all sizes must be known.

    A list of shapes is a list of inputs, one for each branch of a Merge.
    """
    return _RULES[type(op)](op, shape, tally)


# --- sizes -----------------------------------------------------------------------------


def reach(kernel_size: int, padding: str | int, dilation_rate: int = 1) -> int:
    """The pixels by which one axis shrinks at stride 1; negative where padding lets it grow."""
    span = dilation_rate * (kernel_size - 1)
    if padding == "valid":
        return span
    if padding == "same":
        return 0
    return span - 2 * side(kernel_size, padding, dilation_rate)


def side(kernel_size: int, padding: str | int, dilation_rate: int = 1) -> int:
    """The pixels that `padding` adds on each side of one axis; not for "same"."""
    if padding == "symmetric":
        return (dilation_rate * (kernel_size - 1) + 1) // 2
    return 0 if padding == "valid" else int(padding)


def same_padding(size: int, kernel_size: int, strides: int, dilation_rate: int = 1) -> Pair:
    """The pixels that Keras' "same" adds (before, after) one axis."""
    outputs = -(-size // strides)
    total = max((outputs - 1) * strides + dilation_rate * (kernel_size - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def conv_output_size(
    size: Any,
    kernel_size: Any,
    strides: Any = 1,
    padding: Any = "valid",
    dilation_rate: Any = 1,
) -> Any:
    """The size of a map behind a convolution or pool.

    Args:
        size: pixels of one axis, or the pair (height, width). None passes through.
        kernel_size, strides, dilation_rate: integers, or pairs for a pair of sizes.
        padding: "same", "valid", "symmetric", or the pixels added on each side.

    Returns:
        The output's pixels: an integer, or a pair for a pair.

    Raises:
        InputTooSmallError: (a ValueError) if nothing would be left.
        ValueError: if an argument is not of the form above.
    """
    if isinstance(size, (tuple, list)):
        columns = []
        for value in (kernel_size, strides, padding, dilation_rate):
            pair = value if isinstance(value, (tuple, list)) else [value] * len(size)
            if len(pair) != len(size):
                raise ValueError(f"Expected one value for each of size={size}. Received: {value!r}")
            columns.append(pair)
        return tuple(conv_output_size(n, *(c[i] for c in columns)) for i, n in enumerate(size))
    for name, value in (
        ("size", 1 if size is None else size),
        ("kernel_size", kernel_size),
        ("strides", strides),
        ("dilation_rate", dilation_rate),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    pixels = isinstance(padding, int) and not isinstance(padding, bool) and padding >= 0
    if not pixels and padding not in ("same", "valid", "symmetric"):
        raise ValueError(
            "`padding` must be 'same', 'valid', 'symmetric' or a number of pixels. "
            f"Received: padding={padding!r}"
        )
    return _output_size(size, kernel_size, strides, padding, dilation_rate)


def _output_size(size: Any, kernel_size: int, strides: int, padding: Any, dilation: int) -> Any:
    if size is None:
        return None
    left = size - 1 - reach(kernel_size, padding, dilation)
    if left < 0:
        raise InputTooSmallError(
            f"{size} pixels are too few for a kernel of {kernel_size} with padding={padding!r}, "
            f"dilation_rate={dilation}: {-left} more are needed",
            missing=-left,
        )
    return left // strides + 1


def window(op: Op, height: Any, width: Any, kernel: Pair, dilation: Pair = (1, 1)) -> Shape:
    """The output's (height, width) of an op with `strides` and `padding`."""
    vertical, horizontal = op.strides
    rows, columns = (0, 0) if op.padding == "same" else op_reach(op, kernel, dilation)
    if height is None or width is None or height <= rows or width <= columns:
        return tuple(
            _output_size(
                size, kernel[axis], op.strides[axis], _axis(op.padding, axis), dilation[axis]
            )
            for axis, size in enumerate((height, width))
        )
    return (height - 1 - rows) // vertical + 1, (width - 1 - columns) // horizontal + 1


def op_reach(op: Op, kernel: Pair, dilation: Pair = (1, 1)) -> Pair:
    """`reach` of both axes of an op with `padding`."""
    padding = op.padding
    if padding == "same" or (padding == "symmetric" and kernel[0] % 2 and kernel[1] % 2):
        return 0, 0
    return (
        reach(kernel[0], _axis(padding, 0), dilation[0]),
        reach(kernel[1], _axis(padding, 1), dilation[1]),
    )


def _axis(padding: Any, axis: int) -> Any:
    return padding[axis] if type(padding) is tuple else padding


# --- branches --------------------------------------------------------------------------


def geometry(op: Op) -> Geometry | None:
    """Total strides and reach of a plan; None where its output has a size of its own."""
    down, right, rows, columns = 1, 1, 0, 0
    for step in op if type(op) is Chain else (op,):
        kind = type(step)
        if kind in _KEEPS_SIZE:
            continue
        if kind is ops.Conv:
            reached = op_reach(step, step.kernel_size, step.dilation_rate)
        elif kind is ops.Pool:
            reached = pool_reach(step)
        elif kind is ops.Blur:
            reached = (0, 0)
        elif kind is ops.SpaceToDepth:
            down, right = down * step.block, right * step.block
            continue
        else:
            inner = _merged_geometry(step)[0] if kind is Merge else None
            if inner is None:
                return None
            rows += down * inner[2]
            columns += right * inner[3]
            down *= inner[0]
            right *= inner[1]
            continue
        rows += down * reached[0]
        columns += right * reached[1]
        down *= step.strides[0]
        right *= step.strides[1]
    return down, right, rows, columns


_KEEPS_SIZE = frozenset(
    {
        ops.Activation,
        ops.Dense,
        ops.DropPath,
        ops.Dropout,
        ops.Norm,
        ops.PadChannels,
        ops.Scale,
    }
)


def _merged_geometry(merge: Merge) -> tuple[Geometry | None, list[Geometry | None]]:
    branches = [geometry(branch) for _, branch in merge.branches]
    first = branches[0]
    if branches.count(first) == len(branches):
        return first, branches
    known = [branch for branch in branches if branch is not None]
    if merge.mode == "multiply" and len(known) == 1:
        return known[0], [known[0]] * len(branches)  # gates of one pixel need no alignment
    if len(known) < len(branches) or any(branch[:2] != known[0][:2] for branch in known):
        described = ", ".join(
            f"{name}: {'size of its own' if inner is None else inner[:2]}"
            for (name, _), inner in zip(merge.branches, branches, strict=True)
        )
        raise ValueError(
            f"Branches joined by {merge.mode!r} must have equal strides. Received: {described}"
        )
    rows, columns = max(branch[2] for branch in known), max(branch[3] for branch in known)
    return (*known[0][:2], rows, columns), branches


def crops(merge: Merge) -> list[Crop | None]:
    """For each branch, how much to cut off its input so that all outputs lie centred."""
    total, branches = _merged_geometry(merge)
    if branches.count(total) == len(branches):
        return [None] * len(branches)
    cuts: list[Crop | None] = []
    for branch in branches:
        if branch is None or total is None or branch == total:
            cuts.append(None)
            continue
        rows, columns = total[2] - branch[2], total[3] - branch[3]
        cuts.append(((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)))
    return cuts


# --- one rule a primitive --------------------------------------------------------------


class _Rules(dict[type, Callable[[Op, Any, Tally | None], Shape]]):
    def __missing__(self, kind: type) -> Any:
        raise TypeError(f"A plan holds the primitives of kblocks.ops. Received: {kind.__name__}")


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


def cropped(shape: Shape, cut: Crop) -> Shape:
    height, width, channels = shape
    sizes = []
    for size, (before, after) in ((height, cut[0]), (width, cut[1])):
        if size is not None and size <= before + after:
            missing = before + after + 1 - size
            raise InputTooSmallError(
                f"{size} pixels are too few to cut {before + after} off for a branch that is "
                f"joined to one with valid padding: {missing} more are needed",
                missing,
            )
        sizes.append(None if size is None else size - before - after)
    return (*sizes, channels)


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
        padding = _axis(op.padding, axis)
        if size is None:
            if padding == "same" and kernel > 1 and op.strides[axis] > 1:
                raise ValueError(
                    f"padding='same' with padding_mode={op.padding_mode!r} and strides="
                    f"{op.strides} needs a known height and width; 'symmetric' does not"
                )
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


@_rule(ops.Pool)
def _pool(op: ops.Pool, shape: Shape, tally: Tally | None) -> Shape:
    height, width, channels = _map(op, shape)
    if op.ceil_mode:
        sizes = (height, width)
        rows, columns = (
            None if n is None else _ceiled(n, reached, stride)
            for n, reached, stride in zip(sizes, pool_reach(op), op.strides, strict=True)
        )
        return rows, columns, channels
    return (*window(op, height, width, op.pool_size), channels)


def _ceiled(size: int, reached: int, stride: int) -> int:
    if size <= reached:
        raise InputTooSmallError(
            f"{size} pixels are too few for a pool that reaches {reached} of them",
            reached + 1 - size,
        )
    return (size - 1 - reached) // stride + 1


def pool_reach(op: ops.Pool) -> Pair:
    """`reach` of a pool; with `ceil_mode` a window over the edge counts if it begins before it."""
    rows, columns = op_reach(op, op.pool_size)
    if not op.ceil_mode or op.padding == "same":
        return rows, columns
    above, left = (side(op.pool_size[axis], _axis(op.padding, axis)) for axis in (0, 1))
    return max(rows - op.strides[0] + 1, -above), max(columns - op.strides[1] + 1, -left)


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


@_rule(ops.Flatten)
def _flatten(op: ops.Flatten, shape: Shape, tally: Tally | None) -> Shape:
    return (None,) if None in shape else (math.prod(shape),)
