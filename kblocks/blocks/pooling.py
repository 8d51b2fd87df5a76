"""Pooling layers that Keras lacks."""

from dataclasses import KW_ONLY

from kblocks.blocks.block import Block
from kblocks.blocks.convolution import check_pool
from kblocks.blocks.fields import Count, Padding, Size
from kblocks.plans.ops import Blur, Chain, GlobalPool, Merge, Op, Pool


class MinPooling2D(Block):
    """The minimum over windows, as `keras.layers.MaxPooling2D` takes the maximum.

    Args:
        pool_size: the window; integer or pair (height, width).
        strides: integer or pair; None takes `pool_size`.
        padding: "valid", "same" (as Keras), "symmetric" (equal on both sides, which keeps the size
            at stride 1; windows must be odd), or the number of pixels on each side, integer or
            pair, less than `pool_size`. Padding is never the minimum.

    Output shape: (batch, new_height, new_width, channels).
    """

    pool_size: Size = 2
    strides: Size | None = None
    _: KW_ONLY
    padding: Padding = "valid"

    def check(self) -> None:
        check_pool("padding", self.padding, "pool_size", self.pool_size)

    def plan(self, channels: int) -> Op:
        return Pool("min", self.pool_size, self.strides or self.pool_size, self.padding)


class BlurPooling2D(Block):
    """Blurs each channel by a binomial kernel and takes every `strides`-th pixel: anti-aliasing.

    Args:
        pool_size: side of the kernel, odd; 3 is [1, 2, 1] / 4 in both directions.
        strides: integer or pair (height, width).

    `pool_size // 2` pixels on each side are padded by reflection, which keeps the size at stride 1.

    Input shape: (batch, height, width, channels), with height and width over `pool_size // 2`.
    Output shape: (batch, new_height, new_width, channels).

    Reference: Zhang 2019, arXiv:1904.11486, Sec. 3.
    """

    pool_size: Count = 3
    strides: Size = 2

    def check(self) -> None:
        check_blur("pool_size", self.pool_size)

    def plan(self, channels: int) -> Op:
        return Blur(self.pool_size, self.strides)


def check_blur(name: str, size: int | None) -> None:
    """Refuses an even kernel, which has no pixel in its middle."""
    if size is not None and size % 2 == 0:
        raise ValueError(f"`{name}` of a blur must be odd. Received: {name}={size}")


class GlobalConcatPooling2D(Block):
    """Global average and global maximum, concatenated.

    Output shape: (batch, 2 * channels): the averages, then the maxima.

    Reference: fastai's `AdaptiveConcatPool2d` (Howard & Gugger 2020, arXiv:2002.04688).
    """

    def plan(self, channels: int) -> Op:
        return concat_pool()


def concat_pool() -> Op:
    return Chain(Merge("concat", average=GlobalPool("avg"), maximum=GlobalPool("max")))
