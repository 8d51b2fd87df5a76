"""The blocks of DenseNet (Huang et al. 2016, arXiv:1608.06993)."""

from dataclasses import KW_ONLY

from kblocks.blocks.convolution import (
    Convolutional,
    act,
    check_odd,
    check_pool,
    conv,
    norm,
    spatial,
)
from kblocks.blocks.fields import Count, Fraction, Padding, PoolKind, Rate, Repeats, Size
from kblocks.plans.ops import Chain, Dropout, Merge, Op, Pool


class DenseBlock(Convolutional):
    """Layers that each read all channels before them and add `growth_rate` more.

    Normalization and activation precede each convolution.

    Args:
        growth_rate: channels that each layer adds.
        depth: number of layers.
        kernel_size: of each layer's spatial convolution; integer or pair (height, width).
        bottleneck: a 1x1 convolution before the spatial one makes `bottleneck * growth_rate`
            channels; None for no such convolution.
        dilation_rate: of the spatial convolutions; integer or pair.
        dropout: share of the features that training sets to zero after each layer.

    Output shape: (batch, new_height, new_width, channels + depth * growth_rate).

    Reference: Huang et al. 2016, arXiv:1608.06993, Eq. 2, "Composite function" and "Bottleneck
        layers".
    """

    growth_rate: Count
    _: KW_ONLY
    depth: Repeats = 1
    kernel_size: Size = 3
    bottleneck: Count | None = 4
    padding: Padding = "same"
    dilation_rate: Size = 1
    groups: Count = 1
    dropout: Rate = 0.0

    def check(self) -> None:
        check_odd("padding", self.padding, "kernel_size", self.kernel_size)
        if self.growth_rate % self.groups:
            raise ValueError(
                "`groups` must divide `growth_rate`. "
                f"Received: groups={self.groups}, growth_rate={self.growth_rate}"
            )

    def plan(self, channels: int) -> Op:
        reduce = self.bottleneck and Chain(
            norm(self), act(self), conv(self, self.bottleneck * self.growth_rate, padding="same")
        )
        drop = Dropout(self.dropout) if self.dropout else None
        layer = Chain(reduce, norm(self), act(self), spatial(self, self.growth_rate), drop)
        names = (f"layer{number}" for number in range(1, self.depth + 1))
        return Chain(*(Merge("concat", **{"input": Chain(), name: layer}) for name in names))


class TransitionBlock(Convolutional):
    """The link between dense blocks: a convolution to fewer channels, then a pool.

    Normalization and activation precede the convolution.

    Args:
        compression: output channels as a share of the input's, rounded down, at least 1 channel.
        kernel_size: of the convolution; integer or pair (height, width).
        strides: of the pool; integer or pair; with 1 there is no pool unless `pool_size` is given.
        pool: "avg", "max" or "min".
        pool_size: window of the pool; integer or pair; None takes `strides`.
        dropout: share of the features that training sets to zero before the pool.

    Output shape: (batch, new_height, new_width, int(compression * channels)).

    Reference: Huang et al. 2016, arXiv:1608.06993, "Pooling layers" and "Compression".
    """

    compression: Fraction = 0.5
    kernel_size: Size = 1
    strides: Size = 2
    _: KW_ONLY
    padding: Padding = "same"
    pool: PoolKind = "avg"
    pool_size: Size | None = None
    pool_padding: Padding = "valid"
    dropout: Rate = 0.0

    def check(self) -> None:
        check_odd("padding", self.padding, "kernel_size", self.kernel_size)
        check_pool("pool_padding", self.pool_padding, "pool_size", self.pool_size or self.strides)

    def plan(self, channels: int) -> Op:
        filters = max(1, int(channels * self.compression + 1e-6))  # .29 * 100 is 28.999999999999996
        size = self.pool_size or self.strides
        pools = size != (1, 1) or self.strides != (1, 1)
        drop = Dropout(self.dropout) if self.dropout else None
        pool = Pool(self.pool, size, self.strides, self.pool_padding) if pools else None
        return Chain(norm(self), act(self), conv(self, filters, self.kernel_size), drop, pool)
