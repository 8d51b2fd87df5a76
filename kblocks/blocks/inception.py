"""Inception modules: branches side by side, concatenated or added to their input."""

from dataclasses import KW_ONLY
from typing import Any

from kblocks.blocks.convolution import Convolutional, act, check_odd, check_pool, conv, norm
from kblocks.blocks.fields import Branches, Padding, Size, Sizes
from kblocks.plans.ops import Chain, Merge, Op, Pair, Pixels, Pool, Scale


class Branched(Convolutional, kw_only=True, abstract=True):
    """The arguments of all blocks of several branches, and the descriptions of their first two.

    Args:
        branches: an entry for each branch: the filters of its convolutions in their order, such as
            `64` or `(96, 128)`, after "max", "avg" or "min" if it begins with a pool, such as
            `("max", 32)`. The first of several convolutions is a 1x1; all after a pool are.
        kernel_size: one for all branches or one for each; integer or pair (height, width). It is
            the kernel of the branch's pool, of its only convolution, or of those after the first.
            Of the latter, every second has height and width swapped.
        last_kernel_size: kernel of the last convolution in branches of several; integer or pair;
            None takes the branch's `kernel_size`.
        wide: whether the last convolution in branches of several becomes two side by side, 1xn and
            nx1, each with all its filters; n is the longer side of its kernel.
        padding: of all convolutions and pools: "same" (as Keras), "valid", "symmetric" (equal on
            both sides, which keeps the size at stride 1; kernels must be odd), or the number of
            pixels on each side, integer or pair, for the axes on which the kernel is longer than
            1. Where branches shrink the map differently, the inputs of those that shrink it less
            are cropped to their centre.
        last_padding: of the pool or the last convolution of each branch, in the forms of `padding`;
            None takes `padding`.
        pool_count_padding: whether average pools count the padding as zeros.
        pool_ceil_mode: whether pools keep a last window that reaches over the edge; not with
            padding "same".
    """

    last_kernel_size: Size | None = None
    wide: bool = False
    padding: Padding = "same"
    last_padding: Padding | None = None
    pool_count_padding: bool = False
    pool_ceil_mode: bool = False

    def check(self) -> None:
        if len(self.kernel_size) not in (1, len(self.branches)):
            raise ValueError(
                "`kernel_size` must be one for all or one for each of the `branches`. "
                f"Received: {len(self.kernel_size)} sizes for {len(self.branches)} branches"
            )
        last = "padding" if self.last_padding is None else "last_padding"
        for steps, kernel in _with_kernels(self):
            if _pools(steps):
                check_pool(last, _own_padding(getattr(self, last), kernel), "kernel_size", kernel)
                if self.pool_ceil_mode and getattr(self, last) == "same":
                    raise ValueError(
                        f"`pool_ceil_mode` does not go with `{last}`='same'. "
                        f"Received: {last}='same'"
                    )
                continue
            *inner, end = _kernels(self, len(steps), kernel)
            for size in inner:
                check_odd("padding", self.padding, "kernel_size", size)
            check_odd(last, getattr(self, last), "kernel_size", end)


class InceptionBlock(Branched):
    """Convolutions of several sizes and a pool side by side, their channels concatenated.

    Normalization and activation follow each convolution.

    Args:
        strides: of the pool or the last convolution of each branch; integer or pair.

    Output shape: (batch, new_height, new_width, the sum of the branches' last filters and of the
        channels of bare pools).

    Example:
        Modules of GoogLeNet and of Inception-v3 (with factorized kernels; a grid reduction):

        >>> spec = kb.InceptionBlock.Spec
        >>> googlenet = spec((64, (96, 128), (16, 32), ("max", 32)), (1, 3, 5, 3))
        >>> v3_b = spec((192, (128, 128, 192), (128, 128, 128, 128, 192), ("avg", 192)),
        ...             (1, (1, 7), (7, 1), 3))
        >>> v3_reduction_a = spec((384, (64, 96, 96), "max"), 3, 2, last_padding="valid")

    Reference: GoogLeNet: Szegedy et al. 2014, arXiv:1409.4842, Fig. 2; v3: Szegedy et al. 2015,
        arXiv:1512.00567, Fig. 5 (A), 6 (B), 7 (C) and 10; v4: Szegedy et al. 2016,
        arXiv:1602.07261, Fig. 3 to 8.
    """

    branches: Branches
    kernel_size: Sizes = (1, 3, 5, 3)
    strides: Size = 1

    def plan(self, channels: int) -> Op:
        return Chain(side_by_side(self, self.strides))


class InceptionResNetBlock(Branched):
    """Branches side by side, joined by a linear 1x1 convolution, scaled and added to the input.

    Normalization and activation follow each convolution in a branch. The 1x1 convolution that joins
    the branches has neither; it has as many filters as the input has channels, and a bias unless
    `use_bias` is False.

    Args:
        scale: factor of the branches' output before the addition; small ones keep training of wide
            networks stable.
        activate: whether the activation follows the addition.

    Output shape: (batch, new_height, new_width, channels).

    Example:
        The published forms A, B and C, with the widths and scales of Inception-ResNet-v2:

        >>> spec = kb.InceptionResNetBlock.Spec
        >>> a = spec((32, (32, 32), (32, 48, 64)), (1, 3, 3), scale=0.17)
        >>> b = spec((192, (128, 160, 192)), (1, (1, 7)), scale=0.1)
        >>> c = spec((192, (192, 224, 256)), (1, (1, 3)), scale=0.2)

    Reference: Szegedy et al. 2016, arXiv:1602.07261, Fig. 10, 11, 13, 16, 17 and 19; scale:
        Sec. 3.3 and Fig. 20.
    """

    branches: Branches
    kernel_size: Sizes = (1, 3, 3)
    _: KW_ONLY
    scale: float = 1.0
    activate: bool = True

    def plan(self, channels: int) -> Op:
        join = conv(self, channels, padding="same", use_bias=self.use_bias is not False)
        scaling = None if self.scale == 1 else Scale(self.scale)
        main = Chain(side_by_side(self, (1, 1)), join, scaling)
        added = Merge("add", main=main, shortcut=Chain())
        return Chain(added, act(self) if self.activate else None)


def side_by_side(spec: Any, strides: Pixels) -> Merge:
    """The branches of `spec`, their channels concatenated."""
    branches = (_branch(spec, steps, kernel, strides) for steps, kernel in _with_kernels(spec))
    return Merge("concat", **{f"branch{i}": branch for i, branch in enumerate(branches, 1)})


def _with_kernels(spec: Any) -> list[tuple[tuple[Any, ...], Pair]]:
    """The parts of each branch, and its kernel."""
    one_for_all = len(spec.kernel_size) == 1
    kernels = spec.kernel_size * len(spec.branches) if one_for_all else spec.kernel_size
    return list(zip(spec.branches, kernels, strict=True))


def _pools(steps: tuple[Any, ...]) -> bool:
    return isinstance(steps[0], str)


def _branch(spec: Any, steps: tuple[Any, ...], kernel: Pair, strides: Pixels) -> Op:
    padding = spec.padding if spec.last_padding is None else spec.last_padding
    if _pools(steps):
        kind, *projections = steps
        modes = spec.pool_count_padding, spec.pool_ceil_mode
        pool = Pool(kind, kernel, strides, _own_padding(padding, kernel), *modes)
        return Chain(pool, *(_unit(spec, filters) for filters in projections))
    *inner, last = steps
    *kernels, end = _kernels(spec, len(steps), kernel)
    pairs = zip(inner, kernels, strict=True)
    units = [_unit(spec, filters, size, (1, 1), spec.padding) for filters, size in pairs]
    if not (spec.wide and inner):
        return Chain(*units, _unit(spec, last, end, strides, padding))
    length = max(end)
    row = _unit(spec, last, (1, length), strides, padding)
    column = _unit(spec, last, (length, 1), strides, padding)
    return Chain(*units, Merge("concat", row=row, column=column))


def _kernels(spec: Any, number: int, kernel: Pair) -> list[Pair]:
    """The kernels of a branch's convolutions: of several, a 1x1 first, then `kernel`, turning."""
    if number == 1:
        return [kernel]
    turned = kernel[1], kernel[0]
    kernels = [(1, 1), *(turned if i % 2 else kernel for i in range(number - 1))]
    if spec.last_kernel_size is not None:
        kernels[-1] = spec.last_kernel_size
    return kernels


def _unit(
    spec: Any, filters: int, kernel: Pair = (1, 1), strides: Pair = (1, 1), padding: Pixels = "same"
) -> Op:
    convolution = conv(spec, filters, kernel, strides, _own_padding(padding, kernel))
    return Chain(convolution, norm(spec), act(spec))


def _own_padding(padding: Pixels, kernel: Pair) -> Pixels:
    """`padding`; a number of pixels becomes 0 along an axis on which the kernel has length 1."""
    if isinstance(padding, str):
        return padding
    return tuple(side if size > 1 else 0 for side, size in zip(padding, kernel, strict=True))
