"""Ops, the primitives of convolutional networks as data.

A block's `plan` returns a tree of these, made by `Chain` and `Merge`. `walk` gives the output's
shape and counts costs; `geometry` gives strides and reach, or None where they do not give the
output's size. Ops are named tuples, since a search makes hundreds of thousands a second. Shapes are
(height, width, channels), pairs (height, width).
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from kblocks.plans import geometry as sizes
from kblocks.plans.cost import Tally
from kblocks.plans.geometry import Geometry, InputTooSmallError, Op, Pixels, Shape, op_reach, window
from kblocks.plans.geometry import Pads as Pads
from kblocks.plans.geometry import Pair as Pair
from kblocks.plans.trees import Chain as Chain
from kblocks.plans.trees import Merge as Merge
from kblocks.plans.trees import parts as parts


def _keeps_shape(op: Op, shape: Shape, tally: Tally | None) -> Shape:
    return shape


def _keeps_size(op: Op) -> Geometry:
    return 1, 1, 0, 0


def _has_its_own_size(op: Op) -> None:
    """The geometry of an op whose output's size does not follow from strides and a reach."""


def _map(op: Op, shape: Shape) -> Shape:
    """The shape, if it is that of a map."""
    if len(shape) != 3:
        raise ValueError(
            f"{type(op).__name__} works on a map of (height, width, channels). "
            f"Received: input of shape {shape}"
        )
    return shape


def unknown_size(op: Op, reason: str) -> ValueError:
    """The error for "same" padding that depends on a size that is not known."""
    return ValueError(
        f"padding='same' with {reason} and strides={op.strides} needs a known height and width; "
        "'symmetric' does not. Received: unknown size"
    )


def pads_of(op: Op, size: Any, window: Pair, dilation_rate: Pair, reason: str) -> Pads:
    """The pixels that an op's padding, which is not "valid", adds to a map of this size."""
    amounts = []
    for axis, n in enumerate(size):
        kernel, stride, dilation = window[axis], op.strides[axis], dilation_rate[axis]
        padding = sizes.of_axis(op.padding, axis)
        if padding != "same":
            amounts.append((sizes.side(kernel, padding, dilation),) * 2)
        elif n is None and stride > 1 and kernel > 1:
            raise unknown_size(op, reason)
        else:
            amounts.append(sizes.same_padding(n or kernel * dilation, kernel, stride, dilation))
    return amounts[0], amounts[1]


class Conv(NamedTuple):
    """A convolution. `padding` is "same", "valid", "symmetric" or the pixels on each side."""

    filters: int
    kernel_size: Pixels = (1, 1)
    strides: Pixels = (1, 1)
    padding: Pixels = "same"
    dilation_rate: Pixels = (1, 1)
    groups: int = 1
    use_bias: bool = True
    padding_mode: str = "zeros"
    kernel_initializer: Any = "he_normal"
    bias_initializer: Any = "zeros"
    kernel_regularizer: Any = None
    bias_regularizer: Any = None
    weight_norm: bool = False
    label = "conv"

    def walk(self, shape: Shape, tally: Tally | None) -> Shape:
        if len(shape) != 3:  # asked here to save a call
            _map(self, shape)
        height, width, channels = shape
        filters, kernel, _, _, dilation, groups, _, mode = self[:8]
        if channels % groups:
            raise ValueError(
                f"`groups` (={groups}) must divide the input's channels (={channels}) in a "
                f"convolution to {filters} filters"
            )
        if mode != "zeros":
            self._check_padding_mode(height, width)
        rows, columns = window(self, height, width, kernel, dilation)
        if tally is not None:
            weights = kernel[0] * kernel[1] * (channels // groups) * filters
            tally.add_kernel(self, weights, filters, rows * columns)
        return rows, columns, filters

    def geometry(self) -> Geometry:
        return (*self.strides, *op_reach(self, self.kernel_size, self.dilation_rate))

    def _check_padding_mode(self, height: int | None, width: int | None) -> None:
        shape, reason = (height, width), f"padding_mode={self.padding_mode!r}"
        pads = pads_of(self, shape, self.kernel_size, self.dilation_rate, reason)
        for size, (_, added) in zip(shape, pads, strict=True):
            if self.padding_mode == "reflect" and size is not None and added >= size:
                raise InputTooSmallError(
                    f"{size} pixels are too few to reflect {added} of them: "
                    f"{added + 1 - size} more are needed",
                    missing=added + 1 - size,
                )


class Dense(NamedTuple):
    """A linear layer on flat features."""

    units: int
    use_bias: bool = True
    kernel_initializer: Any = "glorot_uniform"
    bias_initializer: Any = "zeros"
    kernel_regularizer: Any = None
    bias_regularizer: Any = None
    weight_norm: bool = False
    label = "dense"
    geometry = _keeps_size

    def walk(self, shape: Shape, tally: Tally | None) -> Shape:
        if len(shape) != 1 or shape[0] is None:
            raise ValueError(
                "Dense works on flat features of known number (is the height and width of the "
                f"input given?). Received: input of shape {shape}"
            )
        if tally is not None:
            tally.add_kernel(self, shape[0] * self.units, self.units)
        return (self.units,)


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalization of maps or features, and the long form of a block's `normalization`.

    A block raises ValueError for values other than those below.

    Args:
        kind: "batch", "layer" (over the channels of each pixel), "group", or "weight" (of the
            kernels of a block, which then has no op for it).
        momentum: of the moving averages of batch normalization, from 0 to 1, in Keras' sense
            (PyTorch's is one minus this).
        epsilon: added to the variance; positive.
        scale: whether each channel has a learned factor.
        center: whether each channel has a learned offset.
        groups: number of groups, for "group" alone; None takes the greatest common divisor of 32
            and the channels.
        synchronized: for "batch" alone: whether statistics are taken over all devices of a
            `tf.distribute` strategy; TensorFlow only.
    """

    kind: str = "batch"
    momentum: float = 0.99
    epsilon: float = 1e-3
    scale: bool = True
    center: bool = True
    groups: int | None = None
    synchronized: bool = False
    label: ClassVar[str] = "norm"

    def walk(self, shape: Shape, tally: Tally | None) -> Shape:
        channels = shape[-1]
        if self.groups is not None and channels % self.groups:
            raise ValueError(
                f"`groups` (={self.groups}) of the normalization must divide its channels "
                f"(={channels})"
            )
        if tally is not None:
            learned = channels * (self.scale + self.center)
            tally.trainable_params += learned
            tally.params += learned + (2 * channels if self.kind == "batch" else 0)
        return shape

    def geometry(self) -> Geometry:
        return 1, 1, 0, 0


class Activation(NamedTuple):
    """An element-wise function: its Keras name, a callable or a layer's config."""

    function: Any
    label = "act"
    walk = _keeps_shape
    geometry = _keeps_size


class Pool(NamedTuple):
    """A pool over windows: kind "max", "avg" or "min".

    `count_padding`: averages count the padding as zeros. `ceil_mode`: a last window that reaches
    over the edge is kept if it begins before the edge; what lies over the edge never counts.
    """

    kind: str
    pool_size: Pixels
    strides: Pixels
    padding: Pixels = "valid"
    count_padding: bool = False
    ceil_mode: bool = False
    label = "pooling"

    def walk(self, shape: Shape, tally: Tally | None) -> Shape:
        height, width, channels = _map(self, shape)
        if self.kind == "avg" and self.count_padding and self.padding == "same":
            # It raises ValueError for an unknown size.
            pads_of(self, (height, width), self.pool_size, (1, 1), "count_padding=True")
        if not self.ceil_mode:
            return (*window(self, height, width, self.pool_size), channels)
        sides = zip((height, width), sizes.pool_reach(self), self.strides, strict=True)
        rows, columns = (
            None if n is None else sizes.ceiled(n, reach, step) for n, reach, step in sides
        )
        return rows, columns, channels

    def geometry(self) -> Geometry:
        return (*self.strides, *sizes.pool_reach(self))


class GlobalPool(NamedTuple):
    """The "max" or "avg" of the whole map: (channels,), with `keepdims` (1, 1, channels)."""

    kind: str
    keepdims: bool = False
    label = "global_pooling"
    geometry = _has_its_own_size

    def walk(self, shape: Shape, tally: Tally | None) -> Shape:
        channels = _map(self, shape)[2]
        return (1, 1, channels) if self.keepdims else (channels,)


class AdaptivePool(NamedTuple):
    """The averages of a grid of `output_size` windows, which cover a map of any size."""

    output_size: Pixels
    label = "adaptive_pooling"
    geometry = _has_its_own_size

    def walk(self, shape: Shape, tally: Tally | None) -> Shape:
        height, width, channels = _map(self, shape)
        if height is None or width is None:
            raise ValueError(
                f"Pooling to {self.output_size} needs a known height and width. "
                f"Received: input of shape {shape}"
            )
        return (*self.output_size, channels)


class PadChannels(NamedTuple):
    """Appends zero channels, up to `filters` channels."""

    filters: int
    label = "pad_channels"
    geometry = _keeps_size

    def walk(self, shape: Shape, tally: Tally | None) -> Shape:
        height, width, channels = _map(self, shape)
        if channels > self.filters:
            raise ValueError(
                f"Zero-padding to {self.filters} channels cannot shorten an input of {channels} "
                "channels"
            )
        return height, width, self.filters


class Blur(NamedTuple):
    """A fixed binomial kernel on each channel, its edges reflected (arXiv:1904.11486)."""

    size: int = 3
    strides: Pixels = (2, 2)
    label = "blur"

    def walk(self, shape: Shape, tally: Tally | None) -> Shape:
        height, width, channels = _map(self, shape)
        least = self.size // 2 + 1
        for size in (height, width):
            if size is not None and size < least:
                raise InputTooSmallError(f"{size} pixels are too few to blur", least - size)
        sides = zip((height, width), self.strides, strict=True)
        rows, columns = (None if n is None else (n - 1) // step + 1 for n, step in sides)
        return rows, columns, channels

    def geometry(self) -> Geometry:
        return (*self.strides, 0, 0)


class SpaceToDepth(NamedTuple):
    """Turns squares of `block` by `block` pixels into channels: row, column, then channel.

    Zeros fill up the squares that reach over the edge.
    """

    block: int
    label = "space_to_depth"

    def walk(self, shape: Shape, tally: Tally | None) -> Shape:
        height, width, channels = _map(self, shape)
        rows, columns = (None if n is None else -(-n // self.block) for n in (height, width))
        return rows, columns, channels * self.block**2

    def geometry(self) -> Geometry:
        return self.block, self.block, 0, 0


class Scale(NamedTuple):
    """Multiplies the map by a constant."""

    factor: float
    label = "scaling"
    walk = _keeps_shape
    geometry = _keeps_size


class Flatten(NamedTuple):
    """Turns a map into flat features, channels running fastest."""

    label = "flatten"
    geometry = _has_its_own_size

    def walk(self, shape: Shape, tally: Tally | None) -> Shape:
        return (None,) if None in shape else (math.prod(shape),)


class Reshape(NamedTuple):
    """Gives flat features another shape, the last axis running fastest."""

    shape: tuple[int, ...]
    label = "reshape"
    geometry = _has_its_own_size

    def walk(self, shape: Shape, tally: Tally | None) -> Shape:
        if None not in shape and math.prod(shape) != math.prod(self.shape):
            raise ValueError(f"A reshape to {self.shape} does not fit. Received: input {shape}")
        return self.shape


class ResizeLike(NamedTuple):
    """Interpolates the first of two inputs bilinearly to the height and width of the second."""

    label = "resize"
    geometry = _has_its_own_size

    def walk(self, shape: Any, tally: Tally | None) -> Shape:
        if not isinstance(shape, list) or len(shape) != 2:
            raise ValueError(f"ResizeLike works on two inputs. Received: {shape}")
        source, like = (_map(self, one) for one in shape)
        return (*like[:2], source[2])


class SoftArgmax(NamedTuple):
    """The mean position (y, x) under the softmax of each channel: (channels, 2).

    Positions are shares of the map's size: the centre of the first of n pixels is 0.5 / n.
    """

    label = "soft_argmax"
    geometry = _has_its_own_size

    def walk(self, shape: Shape, tally: Tally | None) -> Shape:
        return (_map(self, shape)[2], 2)


class Corners(NamedTuple):
    """Turns a box's centre (y, x) and size (height, width) into corners (y1, x1, y2, x2)."""

    label = "corners"
    geometry = _has_its_own_size

    def walk(self, shape: Shape, tally: Tally | None) -> Shape:
        if shape != (4,):
            raise ValueError(f"Corners works on four features. Received: input of shape {shape}")
        return shape


class Dropout(NamedTuple):
    """Sets single features to zero in training."""

    rate: float
    label = "drop"
    walk = _keeps_shape
    geometry = _keeps_size


class DropPath(NamedTuple):
    """Drops whole samples in training: stochastic depth (Huang et al. 2016, arXiv:1603.09382)."""

    rate: float
    label = "drop_path"
    walk = _keeps_shape
    geometry = _keeps_size


PRIMITIVES = {name: kind for name, kind in tuple(globals().items()) if hasattr(kind, "label")}


def ends(op: Op, is_end: bool = True) -> list[bool]:
    """For each of a plan's `parts`, whether no convolution or linear layer follows it.

    The last ones are ends themselves, those of all branches.
    """
    if isinstance(op, Merge):
        return [one for _, branch in op.branches for one in ends(branch, is_end)]
    if not isinstance(op, Chain):
        return [is_end]
    kernels = [any(isinstance(part, (Conv, Dense)) for _, part in parts(step)) for step in op]
    last = max((i for i, has_kernel in enumerate(kernels) if has_kernel), default=0)
    return [one for i, step in enumerate(op) for one in ends(step, is_end and i >= last)]
