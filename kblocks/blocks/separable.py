"""The separable convolution (Chollet 2016, arXiv:1610.02357) as a block."""

from dataclasses import KW_ONLY
from typing import Literal

from kblocks.blocks.convolution import Convolutional, act, check_conv, check_pool, conv, norm
from kblocks.blocks.fields import Count, Padding, PoolKind, Repeats, Size
from kblocks.plans.ops import Chain, Merge, Op, Pool


class SeparableConvBlock(Convolutional):
    """Separable convolutions, each normalized and activated; optionally a pool and a shortcut.

    A separable convolution is a depthwise one, which convolves each channel alone and has no bias,
    and a 1x1 convolution.

    Args:
        filters: output channels of the last convolution.
        kernel_size: of the depthwise convolutions; integer or pair (height, width).
        strides: of the pool, or without one of the first depthwise convolution, and of the
            shortcut; integer or pair.
        use_bias: whether the 1x1 convolutions have a bias; None adds one where no map is
            normalized: with normalization None or "weight".
        convolutions: number of separable convolutions.
        width: output channels of all of them but the last; None is `filters`.
        order: whether the activation comes behind each convolution, "conv_norm_act", or before
            it, "act_conv_norm".
        shortcut: whether the input is added at the end: as it is, or through a 1x1 convolution
            where the block changes the size or the number of channels.
        pool: "max", "avg" or "min" for a pool with `strides` after the convolutions, which a block
            of strides 1 leaves out; or None.
        pool_size: window of that pool; integer or pair.

    Output shape: (batch, new_height, new_width, filters).

    Example:
        >>> kb.SeparableConvBlock(64, 3, 2)(keras.Input((32, 32, 16))).shape
        (None, 16, 16, 64)

    Reference: Chollet 2016, arXiv:1610.02357, Fig. 4 and 5.
    """

    filters: Count
    kernel_size: Size = 3
    strides: Size = 1
    _: KW_ONLY
    padding: Padding = "same"
    convolutions: Repeats = 1
    width: Count | None = None
    order: Literal["conv_norm_act", "act_conv_norm"] = "conv_norm_act"
    dilation_rate: Size = 1
    shortcut: bool = False
    pool: PoolKind | None = None
    pool_size: Size = 3
    pool_padding: Padding = "same"

    def check(self) -> None:
        check_conv(self)
        check_pool("pool_padding", self.pool_padding, "pool_size", self.pool_size)

    def plan(self, channels: int) -> Op:
        pool, strides = None, self.strides
        if self.pool is not None and self.strides != (1, 1):
            pool = Pool(self.pool, self.pool_size, self.strides, self.pool_padding)
            strides = (1, 1)
        units, read = [], channels
        for index in range(self.convolutions):
            made = self.filters if index == self.convolutions - 1 else self.width or self.filters
            steps = strides if index == 0 else (1, 1)
            shape = {"dilation_rate": self.dilation_rate, "groups": read, "use_bias": False}
            depthwise = conv(self, read, self.kernel_size, steps, **shape)
            unit = Chain(depthwise, conv(self, made, padding="same"), norm(self))
            units += [act(self), unit] if self.order == "act_conv_norm" else [unit, act(self)]
            read = made
        main = Chain(*units, pool)
        if not self.shortcut:
            return main
        shortcut = Chain()
        if channels != self.filters or self.strides != (1, 1):
            padding = "same" if isinstance(self.padding, str) else "valid"
            projection = conv(self, self.filters, (1, 1), self.strides, padding)
            shortcut = Chain(projection, norm(self))
        return Chain(Merge("add", main=main, shortcut=shortcut))
