"""The blocks of TResNet: residual blocks with anti-aliased strides, and the stem."""

from dataclasses import KW_ONLY
from typing import Any

from kblocks.blocks.convolution import Convolutional, act, check_conv, conv, norm, spatial
from kblocks.blocks.fields import ActivationLike, Count, Fraction, Padding, Rate, Size, leaky_relu
from kblocks.blocks.pooling import check_blur
from kblocks.blocks.squeeze_excite import squeeze_excite
from kblocks.plans.ops import Activation, Blur, Chain, DropPath, Merge, Op, Pool, SpaceToDepth


class SpaceToDepthStem(Convolutional):
    """Turns squares of pixels into channels, then a convolution: a stem that loses no pixel.

    Args:
        filters: output channels.
        kernel_size: of the convolution; integer or pair (height, width).
        strides: of the convolution; integer or pair.
        block_size: side of the squares; zeros fill up those that reach over the edge.

    Output shape: (batch, ceil(height / block_size), ceil(width / block_size), filters) at
        strides 1 with padding "same".

    Reference: Ridnik et al. 2020, arXiv:2003.13630, Sec. 2.
    """

    filters: Count
    kernel_size: Size = 3
    strides: Size = 1
    _: KW_ONLY
    padding: Padding = "same"
    block_size: Count = 4

    def check(self) -> None:
        check_conv(self)

    def plan(self, channels: int) -> Op:
        first = conv(self, self.filters, self.kernel_size, self.strides)
        return Chain(SpaceToDepth(self.block_size), first, norm(self), act(self))


class AntiAliased(Convolutional, kw_only=True, abstract=True):
    """The arguments of both residual blocks of TResNet.

    Args:
        last_activation: after the addition, in the forms of `activation`.
        blur_size: side of the binomial kernel of the blur, odd; the blur has the strides in place
            of the convolution before it. None leaves them on the convolution, without a blur.
        squeeze_ratio: width of the squeeze-excite gate as a fraction of `filters`, rounded down;
            None for no gate.
        least_squeeze: the least width of the gate, in channels; a smaller one is raised to it.
        squeeze_activation: the activation in the middle of the gate, in the forms of `activation`.
    """

    padding: Padding = "same"
    activation: ActivationLike | None = leaky_relu(1e-3)
    last_activation: ActivationLike | None = "relu"
    blur_size: Count | None = 3
    squeeze_ratio: Fraction | None = 0.25
    least_squeeze: Count = 64
    squeeze_activation: ActivationLike | None = "relu"
    gate: ActivationLike = "sigmoid"
    dilation_rate: Size = 1
    groups: Count = 1
    stochastic_depth: Rate = 0.0

    def check(self) -> None:
        check_conv(self)
        check_blur("blur_size", self.blur_size)


class TResNetBasicBlock(AntiAliased):
    """Two convolutions, a blur where they have strides, squeeze-excite, and a shortcut.

    Where the shape changes, the shortcut is an average pool and a 1x1 convolution.

    Args:
        filters: output channels of both convolutions.
        kernel_size: of both convolutions; integer or pair (height, width).
        strides: of the blur after the first convolution, and of the shortcut; integer or pair.

    Output shape: (batch, new_height, new_width, filters).

    Reference: Ridnik et al. 2020, arXiv:2003.13630, Sec. 2.
    """

    filters: Count
    kernel_size: Size = 3
    strides: Size = 1

    def plan(self, channels: int) -> Op:
        second = Chain(spatial(self, self.filters), norm(self))
        main = Chain(blurred(self), second, gated(self))
        return joined(self, channels, self.filters, main)


class TResNetBottleneckBlock(AntiAliased):
    """A 1x1 and a spatial convolution, squeeze-excite, a 1x1 convolution; and a shortcut.

    Where the shape changes, the shortcut is an average pool and a 1x1 convolution.

    Args:
        filters: output channels of the first two convolutions.
        kernel_size: of the middle convolution; integer or pair (height, width).
        strides: of the blur after the middle convolution, and of the shortcut; integer or pair.
        expansion: the output has `expansion * filters` channels.

    Output shape: (batch, new_height, new_width, expansion * filters).

    Reference: Ridnik et al. 2020, arXiv:2003.13630, Sec. 2.
    """

    filters: Count
    kernel_size: Size = 3
    strides: Size = 1
    _: KW_ONLY
    expansion: Count = 4
    squeeze_ratio: Fraction | None = 0.5

    def plan(self, channels: int) -> Op:
        outputs = self.expansion * self.filters
        reduce = Chain(conv(self, self.filters, padding="same"), norm(self), act(self))
        expand = Chain(conv(self, outputs, padding="same"), norm(self))
        main = Chain(reduce, blurred(self), gated(self), expand)
        return joined(self, channels, outputs, main)


def blurred(spec: Any) -> Op:
    """The spatial convolution, and the blur that has its strides if there is one."""
    blurs = spec.blur_size and spec.strides != (1, 1)
    convolution = spatial(spec, spec.filters, (1, 1) if blurs else spec.strides)
    blur = Blur(spec.blur_size, spec.strides) if blurs else None
    return Chain(convolution, norm(spec), act(spec), blur)


def gated(spec: Any) -> Op:
    """Squeeze-excite on `filters` channels; None if the block has none."""
    if spec.squeeze_ratio is None:
        return None
    width = max(spec.least_squeeze, int(spec.filters * spec.squeeze_ratio + 1e-6))
    return squeeze_excite(spec, width, spec.filters, spec.squeeze_activation)


def joined(spec: Any, channels: int, outputs: int, main: Op) -> Op:
    """The sum of the main path and its shortcut, then the last activation."""
    shortcut = Chain()
    if channels != outputs or spec.strides != (1, 1):
        strides = spec.strides
        pool = None if strides == (1, 1) else Pool("avg", strides, strides, ceil_mode=True)
        shortcut = Chain(pool, conv(spec, outputs, padding="same"), norm(spec))
    drop = DropPath(spec.stochastic_depth) if spec.stochastic_depth else None
    last = None if spec.last_activation is None else Activation(spec.last_activation)
    return Chain(Merge("add", main=Chain(main, drop), shortcut=shortcut), last)
