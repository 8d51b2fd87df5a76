"""Residual blocks, which ResNet, its pre-activation form, Wide ResNet and ResNeXt are made of."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any, Literal

from kblocks.blocks.convolution import Convolutional, act, check_convolutions, conv, norm
from kblocks.blocks.fields import Count, Padding, Rate, Size
from kblocks.plans.ops import Chain, DropPath, Merge, Op, PadChannels, Pixels, Pool

Order = Literal[
    "original",
    "norm_after_addition",
    "relu_before_addition",
    "relu_only_preactivation",
    "full_preactivation",
]


class Residual(Convolutional, kw_only=True):
    """The arguments that all residual blocks have.

    Args:
        padding: "same" (as Keras), "valid", "symmetric", or the pixels on each side. Where
            the main path shrinks the map, the shortcut's input is cropped in its centre.
        order: of convolution, normalization, activation and addition, as in Fig. 4 of He et
            al. 2016: "original" (a), "norm_after_addition" (b), "relu_before_addition" (c),
            "relu_only_preactivation" (d) or "full_preactivation" (e). "relu" stands for the
            block's activation.
        shortcut: where shape changes, "projection" is a 1x1 convolution and "zero_pad" takes
            every `strides`-th pixel and appends zero channels; else both are the identity.
            "identity" refuses a change of shape.
        dilation_rate: integer or pair, of the spatial convolutions; not with strides.
        groups: of the spatial convolutions.
        stochastic_depth: the rate at which training drops the main path of a sample.
    """

    padding: Padding = "same"
    order: Order = "original"
    shortcut: Literal["projection", "zero_pad", "identity"] = "projection"
    dilation_rate: Size = 1
    groups: Count = 1
    stochastic_depth: Rate = 0.0


def residual(spec: Any, channels: int, filters: int, convolutions: list[Op]) -> Op:
    """The main path of `convolutions` and the shortcut beside it, in the order of `spec`."""
    changes = channels != filters or spec.strides != (1, 1)
    if changes and spec.shortcut == "identity":
        raise ValueError(
            "shortcut='identity' needs strides=1 and as many output as input channels. "
            f"Received: strides={spec.strides}, {channels} channels in, {filters} out"
        )
    projects = changes and spec.shortcut == "projection"
    shortcut = Chain()
    if projects:
        normed = spec.order not in ("norm_after_addition", "full_preactivation")
        padding = "same" if isinstance(spec.padding, str) else "valid"
        projection = conv(spec, filters, (1, 1), spec.strides, padding)
        shortcut = Chain(projection, norm(spec) if normed else None)
    elif changes:
        subsample = None if spec.strides == (1, 1) else Pool("max", (1, 1), spec.strides)
        shortcut = Chain(subsample, None if channels == filters else PadChannels(filters))
    drop = DropPath(spec.stochastic_depth) if spec.stochastic_depth else None
    before, main, after = _ordered(spec, convolutions, shared=projects)
    return Chain(before, Merge("add", main=Chain(main, drop), shortcut=shortcut), after)


def _ordered(spec: Any, convolutions: list[Op], shared: bool) -> tuple[Op, Op, Op]:
    """What stands before the two paths, on the main path, and behind the addition."""
    bn, relu = norm(spec), act(spec)
    first, *rest = convolutions
    between = [op for convolution in rest for op in (bn, relu, convolution)]
    match spec.order:
        case "original":
            return None, Chain(first, *between, bn), relu
        case "norm_after_addition":
            return None, Chain(first, *between), Chain(bn, relu)
        case "relu_before_addition":
            return None, Chain(first, *between, bn, relu), None
        case "relu_only_preactivation":
            return None, Chain(*(op for c in convolutions for op in (relu, c, bn))), None
    if shared:
        return Chain(bn, relu), Chain(first, *between), None
    return None, Chain(bn, relu, first, *between), None


class ResidualBlock(Residual):
    """Two convolutions and a shortcut.

    Args:
        filters: output channels of both convolutions.
        kernel_size: of both convolutions; integer or pair (height, width).
        strides: of the first convolution and the shortcut.
        ...: see `Residual` and `Convolutional`.

    Input shape: (batch, height, width, channels).
    Output shape: (batch, new_height, new_width, filters).

    Raises:
        ValueError: if an argument is not of the documented form or does not fit the input.

    Reference: He et al. 2015, arXiv:1512.03385, Fig. 2; orders: arXiv:1603.05027, Fig. 4.
    """

    filters: Count
    kernel_size: Size = 3
    strides: Size = 1

    def check(self) -> None:
        check_convolutions(self)

    def plan(self, channels: int) -> Op:
        shared = {"dilation_rate": self.dilation_rate, "groups": self.groups}
        first = conv(self, self.filters, self.kernel_size, self.strides, **shared)
        second = conv(self, self.filters, self.kernel_size, **shared)
        return residual(self, channels, self.filters, [first, second])


class BottleneckBlock(Residual):
    """A 1x1 convolution to `filters`, a spatial one, a 1x1 to `expansion * filters`; a shortcut.

    Args:
        filters: channels of the first two convolutions, from which those of the output follow.
        kernel_size: of the middle convolution; integer or pair (height, width).
        strides: of the middle convolution (or the first, see `strides_on`) and the shortcut.
        expansion: the output has `expansion * filters` channels.
        width: channels of the first two convolutions where they are not `filters`, as in Wide
            ResNets (arXiv:1605.07146); the output stays as it is.
        strides_on: "spatial" puts the strides on the middle convolution, as published weights
            have it ("v1.5"); "first" on the first 1x1, as the paper has it.
        ...: see `Residual` and `Convolutional`.

    Input shape: (batch, height, width, channels).
    Output shape: (batch, new_height, new_width, expansion * filters).

    Raises:
        ValueError: if an argument is not of the documented form or does not fit the input.

    Reference: He et al. 2015, arXiv:1512.03385, Fig. 5; orders: arXiv:1603.05027, Fig. 4.
    """

    filters: Count
    kernel_size: Size = 3
    strides: Size = 1
    _: KW_ONLY
    expansion: Count = 4
    width: Count | None = None
    strides_on: Literal["spatial", "first"] = "spatial"

    def check(self) -> None:
        check_convolutions(self, self.width or self.filters)

    def plan(self, channels: int) -> Op:
        outputs = self.expansion * self.filters
        return bottleneck(self, channels, self.width or self.filters, outputs, self.groups)


class ResNeXtBlock(Residual):
    """A bottleneck whose middle convolution is split into `cardinality` groups (Fig. 3, form c).

    Args:
        filters: channels of the output.
        kernel_size: of the middle convolution; integer or pair (height, width).
        strides: of the middle convolution (or the first, see `strides_on`) and the shortcut.
        cardinality: number of groups, in place of `groups`.
        group_width: channels of each group.
        strides_on: "spatial" or "first", see `BottleneckBlock`.
        ...: see `Residual` and `Convolutional`.

    Input shape: (batch, height, width, channels).
    Output shape: (batch, new_height, new_width, filters).

    Raises:
        ValueError: if an argument is not of the documented form or does not fit the input.

    Reference: Xie et al. 2016, arXiv:1611.05431, Fig. 3.
    """

    filters: Count
    kernel_size: Size = 3
    strides: Size = 1
    _: KW_ONLY
    cardinality: Count = 32
    group_width: Count = 4
    strides_on: Literal["spatial", "first"] = "spatial"

    def check(self) -> None:
        check_convolutions(self)
        if self.groups != 1:
            raise ValueError(
                f"`cardinality` is the number of groups here. Received: groups={self.groups}"
            )

    def plan(self, channels: int) -> Op:
        inner = self.cardinality * self.group_width
        return bottleneck(self, channels, inner, self.filters, self.cardinality)


def bottleneck(spec: Any, channels: int, width: int, outputs: int, groups: int) -> Op:
    """1x1 to `width`, spatial in `groups`, 1x1 to `outputs`, and the shortcut."""
    padding = "same" if isinstance(spec.padding, str) else "valid"
    first = spec.strides_on == "first"
    once: Pixels = (1, 1)
    reduce = conv(spec, width, once, spec.strides if first else once, padding)
    spatial = conv(
        spec,
        width,
        spec.kernel_size,
        once if first else spec.strides,
        dilation_rate=spec.dilation_rate,
        groups=groups,
    )
    expand = conv(spec, outputs, once, padding=padding)
    return residual(spec, channels, outputs, [reduce, spatial, expand])
