"""The residual blocks of ResNet, pre-activation ResNet, Wide ResNet and ResNeXt."""

from dataclasses import KW_ONLY
from typing import Any, Literal

from kblocks.blocks.convolution import Convolutional, act, check_conv, conv, norm, spatial
from kblocks.blocks.fields import Count, Padding, Rate, Size
from kblocks.plans.ops import Chain, DropPath, Merge, Op, PadChannels, Pixels, Pool

Order = Literal[
    "original",
    "norm_after_addition",
    "relu_before_addition",
    "relu_only_preactivation",
    "full_preactivation",
]


class Residual(Convolutional, kw_only=True, abstract=True):
    """The arguments of all residual blocks, and the descriptions of those of both bottlenecks.

    Args:
        order: of convolution, normalization, activation ("relu") and addition, as in Fig. 4 of
            He et al. 2016, arXiv:1603.05027: "original" (a), "norm_after_addition" (b),
            "relu_before_addition" (c), "relu_only_preactivation" (d) or "full_preactivation" (e).
        shortcut: what it does where the block changes the size or the number of channels; elsewhere
            it is the identity. "projection": a 1x1 convolution. "zero_pad": take every `strides`-th
            pixel and append zero channels. "identity": raise an error.
        kernel_size: of the middle convolution; integer or pair (height, width).
        strides: of the shortcut and of one convolution (see `strides_on`); integer or pair.
        strides_on: the convolution that has the strides: "spatial" for the middle one, as in
            published weights ("v1.5"), or "first" for the first 1x1, as in the paper.
    """

    padding: Padding = "same"
    order: Order = "original"
    shortcut: Literal["projection", "zero_pad", "identity"] = "projection"
    dilation_rate: Size = 1
    groups: Count = 1
    stochastic_depth: Rate = 0.0


def residual(spec: Any, channels: int, filters: int, convolutions: list[Op]) -> Op:
    """The sum of a main path of `convolutions` and the shortcut, in the order of `spec`."""
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
    """The ops before both paths (if these are `shared`), on the main path, after the addition."""
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
        strides: of the first convolution and the shortcut; integer or pair.

    Output shape: (batch, new_height, new_width, filters).

    Reference: He et al. 2015, arXiv:1512.03385, Fig. 2; orders: arXiv:1603.05027, Fig. 4.
    """

    filters: Count
    kernel_size: Size = 3
    strides: Size = 1

    def check(self) -> None:
        check_conv(self)

    def plan(self, channels: int) -> Op:
        both = [spatial(self, self.filters, self.strides), spatial(self, self.filters)]
        return residual(self, channels, self.filters, both)


class BottleneckBlock(Residual):
    """A 1x1 convolution, a spatial one, a 1x1 to `expansion * filters` channels; and a shortcut.

    Args:
        filters: output channels of the first two convolutions.
        expansion: the output has `expansion * filters` channels.
        width: output channels of the first two convolutions in place of `filters`, as in Wide
            ResNets (arXiv:1605.07146); the block's output keeps `expansion * filters`.

    Output shape: (batch, new_height, new_width, expansion * filters).

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
        check_conv(self, self.width or self.filters)

    def plan(self, channels: int) -> Op:
        outputs = self.expansion * self.filters
        return bottleneck(self, channels, self.width or self.filters, outputs, self.groups)


class ResNeXtBlock(Residual):
    """A bottleneck whose middle convolution is split into `cardinality` groups (Fig. 3, form c).

    Args:
        filters: channels of the output.
        groups: must stay 1; `cardinality` sets the number of groups.
        cardinality: number of groups of the middle convolution.
        group_width: channels of each group.

    Output shape: (batch, new_height, new_width, filters).

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
        check_conv(self)
        if self.groups != 1:
            raise ValueError(f"`cardinality` sets the groups here. Received: groups={self.groups}")

    def plan(self, channels: int) -> Op:
        inner = self.cardinality * self.group_width
        return bottleneck(self, channels, inner, self.filters, self.cardinality)


def bottleneck(spec: Any, channels: int, width: int, outputs: int, groups: int) -> Op:
    """A 1x1 convolution to `width`, a spatial one in `groups`, a 1x1 to `outputs`; a shortcut."""
    padding = "same" if isinstance(spec.padding, str) else "valid"
    first = spec.strides_on == "first"
    once: Pixels = (1, 1)
    reduce = conv(spec, width, once, spec.strides if first else once, padding)
    middle = spatial(spec, width, once if first else spec.strides, groups)
    expand = conv(spec, outputs, once, padding=padding)
    return residual(spec, channels, outputs, [reduce, middle, expand])
