"""The primitives of convolutional networks and the two joints between them, as data.

Named tuples, since a search that weighs candidates makes hundreds of thousands a second.

A block's `plan` returns a tree of these. They know neither Keras nor cost: `cost` counts
them and `block` turns them into Keras layers. Maps are spoken of as height, width,
channels; pairs are `(height, width)`.
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
    """A normalisation over channels; also the long form of a block's `normalization`.

    Args:
        kind: "batch", "layer" (over the channels of each position), "group", or "weight" (of
            a block's kernels; no op of its own).
        momentum: of the moving averages of batch normalisation, as Keras counts it
            (PyTorch's is one minus this).
        epsilon: added to the variance.
        scale: whether there is a learned factor a channel.
        center: whether there is a learned offset a channel.
        groups: of group normalisation; None takes the greatest common divisor of 32
            and the channels.
        synchronized: whether batch normalisation takes its statistics over all devices of a
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
    """An element-wise function, by its Keras name, as a callable or as a layer's config."""

    function: Any
    label = "act"


class Pool(NamedTuple):
    """A pool over windows: kind "max", "avg" or "min".

    Averages leave the padding out unless `count_padding`. `ceil_mode` keeps the last window
    that reaches over the edge, if it begins before it; what lies over the edge never counts.
    """

    kind: str
    pool_size: Pixels
    strides: Pixels
    padding: Pixels = "valid"
    count_padding: bool = False
    ceil_mode: bool = False
    label = "pooling"


class GlobalPool(NamedTuple):
    """The "max" or "avg" over the whole map: to (channels,), or (1, 1, channels) if kept."""

    kind: str
    keepdims: bool = False
    label = "global_pooling"


class AdaptivePool(NamedTuple):
    """The average over a grid of `output_size` windows that cover a map of any size."""

    output_size: Pixels
    label = "adaptive_pooling"


class PadChannels(NamedTuple):
    """Zeros behind the last channel, up to `filters` channels."""

    filters: int
    label = "pad_channels"


class Blur(NamedTuple):
    """A fixed binomial kernel on each channel, its edges reflected (arXiv:1904.11486)."""

    size: int = 3
    strides: Pixels = (2, 2)
    label = "blur"


class SpaceToDepth(NamedTuple):
    """Squares of `block` by `block` pixels as channels: row, column, then channel.

    Zeros fill what the last squares reach over the edge.
    """

    block: int
    label = "space_to_depth"


class Scale(NamedTuple):
    """The map times a constant."""

    factor: float
    label = "scaling"


class Flatten(NamedTuple):
    """A map to flat features, channels running fastest."""

    label = "flatten"


class Reshape(NamedTuple):
    """Flat features in another shape, the last axis running fastest."""

    shape: tuple[int, ...]
    label = "reshape"


class ResizeLike(NamedTuple):
    """The first of two inputs, interpolated bilinearly to the height and width of the second."""

    label = "resize"


class SoftArgmax(NamedTuple):
    """Of each channel the mean place (y, x) under its softmax: to (channels, 2).

    Places are shares of the map: its first pixel, of n, has its centre at 0.5 / n.
    """

    label = "soft_argmax"


class Corners(NamedTuple):
    """Four features, centre (y, x) and size (height, width), as corners (y1, x1, y2, x2)."""

    label = "corners"


class Dropout(NamedTuple):
    """Zeroes single features in training."""

    rate: float
    label = "drop"


class DropPath(NamedTuple):
    """Zeroes whole samples in training: stochastic depth (Huang et al. 2016, arXiv:1603.09382)."""

    rate: float
    label = "drop_path"


class Chain(tuple):
    """Ops one after another. `Chain(a, None, Chain(b, c))` is `Chain(a, b, c)`; empty: identity."""

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
    Where `valid` padding lets branches shrink differently, the input of the branch that
    reaches less far is cropped in its centre (`geometry.crops`).
    """

    __slots__ = ()

    def __new__(cls, mode: str, **branches: Op) -> Merge:
        return tuple.__new__(cls, (mode, tuple(branches.items())))


def parts(op: Op, prefix: str = "") -> Iterator[tuple[str, Op]]:
    """The primitives of a plan in order, each with its path, such as `main_conv2`.

    A path is the names of the branches around an op, its kind, and its number where
    several ops of its kind stand in the same branch.
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
