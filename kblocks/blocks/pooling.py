"""Pooling layers that Keras lacks."""

from __future__ import annotations

from dataclasses import KW_ONLY

from kblocks.block import Block
from kblocks.blocks.convolution import check_pool
from kblocks.fields import Padding, Size
from kblocks.ops import Chain, GlobalPool, Merge, Op, Pool


class MinPooling2D(Block):
    """The minimum over windows, as `keras.layers.MaxPooling2D` takes the maximum.

    Args:
        pool_size: integer or pair (height, width).
        strides: integer or pair; None takes `pool_size`.
        padding: "valid", "same", "symmetric", or the pixels on each side; padding never
            is the minimum.

    Input shape: (batch, height, width, channels).
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


class GlobalConcatPooling2D(Block):
    """Global average and global maximum, concatenated.

    Input shape: (batch, height, width, channels).
    Output shape: (batch, 2 * channels): the averages, then the maxima.

    Reference: fastai's `AdaptiveConcatPool2d` (Howard & Gugger 2020, arXiv:2002.04688).
    """

    def plan(self, channels: int) -> Op:
        return concat_pool()


def concat_pool() -> Op:
    """Global average and maximum side by side."""
    return Chain(Merge("concat", average=GlobalPool("avg"), maximum=GlobalPool("max")))
