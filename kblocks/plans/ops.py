"""Ops, the primitives of convolutional networks as data, and `Chain` and `Merge` of them.

A block's `plan` returns a tree of these. They know neither Keras nor costs: `plans.cost`
counts them and `layers.primitives` turns them into Keras layers. They are named tuples, since
a search makes hundreds of thousands a second. Shapes are (height, width, channels), pairs
(height, width).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

Pair = tuple[int, int]
Pixels = Any  # a Pair, or a name of padding; checkers see a block's field as `int | Pair`
Op = Any  # a primitive below, a Chain or a Merge


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


class Activation(NamedTuple):
    """An element-wise function: its Keras name, a callable or a layer's config."""

    function: Any
    label = "act"


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


class GlobalPool(NamedTuple):
    """The "max" or "avg" of the whole map: (channels,), with `keepdims` (1, 1, channels)."""

    kind: str
    keepdims: bool = False
    label = "global_pooling"


class AdaptivePool(NamedTuple):
    """The averages of a grid of `output_size` windows, which cover a map of any size."""

    output_size: Pixels
    label = "adaptive_pooling"


class PadChannels(NamedTuple):
    """Appends zero channels, up to `filters` channels."""

    filters: int
    label = "pad_channels"


class Blur(NamedTuple):
    """A fixed binomial kernel on each channel, its edges reflected (arXiv:1904.11486)."""

    size: int = 3
    strides: Pixels = (2, 2)
    label = "blur"


class SpaceToDepth(NamedTuple):
    """Turns squares of `block` by `block` pixels into channels: row, column, then channel.

    Zeros fill up the squares that reach over the edge.
    """

    block: int
    label = "space_to_depth"


class Scale(NamedTuple):
    """Multiplies the map by a constant."""

    factor: float
    label = "scaling"


class Flatten(NamedTuple):
    """Turns a map into flat features, channels running fastest."""

    label = "flatten"


class Reshape(NamedTuple):
    """Gives flat features another shape, the last axis running fastest."""

    shape: tuple[int, ...]
    label = "reshape"


class ResizeLike(NamedTuple):
    """Interpolates the first of two inputs bilinearly to the height and width of the second."""

    label = "resize"


class SoftArgmax(NamedTuple):
    """The mean position (y, x) under the softmax of each channel: (channels, 2).

    Positions are shares of the map's size: the centre of the first of n pixels is 0.5 / n.
    """

    label = "soft_argmax"


class Corners(NamedTuple):
    """Turns a box's centre (y, x) and size (height, width) into corners (y1, x1, y2, x2)."""

    label = "corners"


class Dropout(NamedTuple):
    """Sets single features to zero in training."""

    rate: float
    label = "drop"


class DropPath(NamedTuple):
    """Drops whole samples in training: stochastic depth (Huang et al. 2016, arXiv:1603.09382)."""

    rate: float
    label = "drop_path"


PRIMITIVES = {name: kind for name, kind in tuple(globals().items()) if hasattr(kind, "label")}


class Chain(tuple):
    """Ops in sequence. `Chain(a, None, Chain(b, c))` is `Chain(a, b, c)`; `Chain()`: identity."""

    __slots__ = ()

    def __new__(cls, *ops: Op) -> Chain:
        flat: list[Op] = []
        for op in ops:
            if type(op) is Chain:
                flat.extend(op)
            elif op is not None:
                flat.append(op)
        return tuple.__new__(cls, flat)

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self))})"


class _Branches(NamedTuple):
    mode: str
    branches: tuple[tuple[str, Op], ...]


class Merge(_Branches):
    """Named branches from one input, joined by `mode`: "add", "concat" (of channels), "multiply".

    A branch of "multiply" may be a gate of one pixel.
    Where "valid" padding makes branches shrink differently, the inputs of those that shrink
    less are cropped to their centre (`geometry.crops`).
    """

    __slots__ = ()

    def __new__(cls, mode: str, **branches: Op) -> Merge:
        return tuple.__new__(cls, (mode, tuple(branches.items())))


def parts(op: Op, prefix: str = "") -> Iterator[tuple[str, Op]]:
    """The primitives of a plan in order, each with its path, such as `main_conv2`.

    A path consists of the names of the branches around an op, its kind, and its number if the
    same branch holds several ops of its kind.
    """
    chain = op if isinstance(op, Chain) else (op,)
    labels = [step.label for step in chain if not isinstance(step, Merge)]
    seen: dict[str, int] = {}
    for step in chain:
        if isinstance(step, Merge):
            for name, branch in step.branches:
                yield from parts(branch, f"{prefix}{name}_")
        else:
            label = step.label
            seen[label] = seen.get(label, 0) + 1
            number = str(seen[label]) if labels.count(label) > 1 else ""
            yield f"{prefix}{label}{number}", step
