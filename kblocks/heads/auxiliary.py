"""`AuxiliaryClassifier`: a classifier on a map in the middle of a network."""

from dataclasses import KW_ONLY
from typing import Any, Literal

from kblocks.blocks.convolution import Convolutional, act, check_symmetric, conv, dense, norm
from kblocks.blocks.fields import Count, Counts, Padding, Positive, Rate, Size, Sizes
from kblocks.heads.classification import classification
from kblocks.heads.classifier import pooled
from kblocks.heads.task import Task
from kblocks.plans.ops import AdaptivePool, Chain, Dropout, Op, Pair, Pool


class AuxiliaryClassifier(Convolutional):
    """A classifier on a map in the middle of a network, whose loss trains the layers before it.

    Initializers and regularizers also apply to the linear layers, which have a bias and no
    normalization.

    Args:
        classes: number of logits.
        filters: filters of each convolution after the average pool.
        kernel_size: kernel of the convolutions, one value or a list with one for each.
        pool_size: window of the average pool, which has no padding; integer or pair.
        pool_strides: strides of the average pool; integer or pair.
        grid: with `pool_size=None`, average adaptively to a map of this size instead, whatever
            the size of the input; integer or pair.
        pool: how the map becomes features after the convolutions, "avg" (global) or "flatten".
        hidden: units of each hidden linear layer.
        dropout: dropout rate after each hidden layer, or before the logits if there is none.
        loss_weight: factor of this output's loss in the total; the default is GoogLeNet's.

    Output shape: (batch, classes), logits.

    Reference: Szegedy et al. 2014, arXiv:1409.4842, Sec. 5 (the defaults); Szegedy et al. 2015,
        arXiv:1512.00567, Fig. 8.
    """

    classes: Count
    _: KW_ONLY
    filters: Counts = (128,)
    kernel_size: Sizes = 1
    padding: Padding = "valid"
    pool_size: Size | None = 5
    pool_strides: Size = 3
    grid: Size | None = None
    pool: Literal["avg", "flatten"] = "flatten"
    hidden: Counts = (1024,)
    dropout: Rate = 0.7
    loss_weight: Positive = 0.3

    def check(self) -> None:
        if (self.pool_size is None) == (self.grid is None):
            raise ValueError(
                "One of `pool_size` and `grid` must be given. "
                f"Received: pool_size={self.pool_size}, grid={self.grid}"
            )
        if len(self.kernels()) != len(self.filters):
            raise ValueError(
                "`kernel_size` must be one for all or one for each of `filters`. "
                f"Received: kernel_size={self.kernel_size}, filters={self.filters}"
            )
        for size in self.kernels():
            check_symmetric("padding", self.padding, "kernel_size", size)

    def task(self) -> Task:
        """The task: cross-entropy and accuracy."""
        return classification(self.classes, weight=self.loss_weight)

    def kernels(self) -> list[Pair]:
        """The kernel size of each convolution."""
        sizes: Any = self.kernel_size
        return list(sizes * len(self.filters) if len(sizes) == 1 else sizes)

    def plan(self, channels: int) -> Op:
        windows = Pool("avg", self.pool_size, self.pool_strides)
        averages = AdaptivePool(self.grid) if self.grid else windows
        convolutions = [
            Chain(conv(self, filters, size), norm(self), act(self))
            for filters, size in zip(self.filters, self.kernels(), strict=True)
        ]
        drop = Dropout(self.dropout) if self.dropout else None
        hidden = [Chain(dense(self, units, True), act(self), drop) for units in self.hidden]
        logits = dense(self, self.classes, True)
        return Chain(averages, *convolutions, pooled(self.pool), *(hidden or [drop]), logits)
