"""The mobile inverted bottleneck (Sandler et al. 2018, arXiv:1801.04381), with squeeze-excite."""

from dataclasses import KW_ONLY

from kblocks.blocks.convolution import Convolutional, act, check_conv, conv, norm
from kblocks.blocks.fields import ActivationLike, Count, Fraction, Padding, Positive, Rate, Size
from kblocks.blocks.squeeze_excite import squeeze_excite
from kblocks.plans.ops import Chain, DropPath, Merge, Op


class MBConvBlock(Convolutional):
    """The mobile inverted bottleneck: expand, convolve each channel, squeeze-excite, project.

    Args:
        filters: channels of the output.
        kernel_size: of the depthwise convolution; integer or pair (height, width).
        strides: of the depthwise convolution; integer or pair.
        activation: of all convolutions but the last: a Keras activation by name, a function, an
            activation layer without weights, or None.
        expansion: the first 1x1 convolution makes this many times the input's channels, rounded
            down; it is left out where their number stays.
        squeeze_ratio: width of the squeeze-excite gate as a share of the block's input
            channels, rounded down; None for no gate.
        squeeze_activation: in the middle of the gate, in the forms of `activation`; None takes
            `activation`.
        stochastic_depth: probability with which training drops the main path of a sample, where
            the block has a shortcut: at strides 1 with as many output as input channels.

    Output shape: (batch, new_height, new_width, filters).

    Reference: Sandler et al. 2018, arXiv:1801.04381, Table 1; with squeeze-excite, Tan et al.
        2018, arXiv:1807.11626, Fig. 7.
    """

    filters: Count
    kernel_size: Size = 3
    strides: Size = 1
    _: KW_ONLY
    expansion: Positive = 6.0
    padding: Padding = "same"
    activation: ActivationLike | None = "silu"
    squeeze_ratio: Fraction | None = 0.25
    squeeze_activation: ActivationLike | None = None
    gate: ActivationLike = "sigmoid"
    stochastic_depth: Rate = 0.0

    def check(self) -> None:
        check_conv(self)

    def plan(self, channels: int) -> Op:
        inner = max(1, int(channels * self.expansion + 1e-6))
        expand = None
        if inner != channels:
            expand = Chain(conv(self, inner, padding="same"), norm(self), act(self))
        depthwise = conv(self, inner, self.kernel_size, self.strides, groups=inner)
        gated = None
        if self.squeeze_ratio is not None:
            width = max(1, int(channels * self.squeeze_ratio + 1e-6))
            gated = squeeze_excite(self, width, inner, self.squeeze_activation or self.activation)
        project = Chain(conv(self, self.filters, padding="same"), norm(self))
        main = Chain(expand, depthwise, norm(self), act(self), gated, project)
        if channels != self.filters or self.strides != (1, 1):
            return main
        drop = DropPath(self.stochastic_depth) if self.stochastic_depth else None
        return Chain(Merge("add", main=Chain(main, drop), shortcut=Chain()))
