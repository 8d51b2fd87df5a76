"""What ends a network."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any, Literal

from kblocks.block import Block
from kblocks.blocks.convolution import Convolutional, act, check_symmetric, conv, norm
from kblocks.blocks.pooling import concat_pool
from kblocks.fields import (
    ActivationLike,
    Count,
    Counts,
    InitializerLike,
    Padding,
    Rate,
    RegularizerLike,
    Size,
    Sizes,
)
from kblocks.ops import (
    Activation,
    AdaptivePool,
    Chain,
    Dense,
    Dropout,
    Flatten,
    GlobalPool,
    Op,
    Pair,
    Pool,
)


class Classifier(Block):
    """Pooling, hidden layers and the linear layer that gives the logits.

    Args:
        classes: number of logits.
        pool: "avg" or "max" (global), "concat" (both, twice the features) or "flatten".
        pool_size: average adaptively to a map of this size before "flatten", so that any
            input size fits; integer, pair or None.
        hidden: units of each hidden linear layer.
        activation: behind each hidden layer.
        dropout: rate behind each hidden layer; without any, before the logits.
        dropout_first: whether dropout stands before each hidden layer instead.
        use_bias, kernel_initializer, bias_initializer, kernel_regularizer,
            bias_regularizer: of the linear layers.

    Input shape: (batch, height, width, channels).
    Output shape: (batch, classes), logits.
    """

    classes: Count
    _: KW_ONLY
    pool: Literal["avg", "max", "concat", "flatten"] = "avg"
    pool_size: Size | None = None
    hidden: Counts = ()
    activation: ActivationLike | None = "relu"
    dropout: Rate = 0.0
    dropout_first: bool = False
    use_bias: bool = True
    kernel_initializer: InitializerLike = "glorot_uniform"
    bias_initializer: InitializerLike = "zeros"
    kernel_regularizer: RegularizerLike | None = None
    bias_regularizer: RegularizerLike | None = None

    def check(self) -> None:
        if self.pool_size is not None and self.pool != "flatten":
            raise ValueError(
                "`pool_size` goes with pool='flatten'. "
                f"Received: pool_size={self.pool_size}, pool={self.pool!r}"
            )

    def plan(self, channels: int) -> Op:
        drop = Dropout(self.dropout) if self.dropout else None
        act = None if self.activation is None else Activation(self.activation)
        before, behind = (drop, None) if self.dropout_first else (None, drop)
        hidden = [Chain(before, self.linear(units), act, behind) for units in self.hidden]
        return Chain(self.pooling(), *(hidden or [drop]), self.linear(self.classes))

    def pooling(self) -> Op:
        """From a map to features."""
        if self.pool == "concat":
            return concat_pool()
        if self.pool == "flatten":
            return Chain(self.pool_size and AdaptivePool(self.pool_size), Flatten())
        return GlobalPool(self.pool)

    def linear(self, units: int) -> Dense:
        """A linear layer with this head's arguments."""
        return Dense(
            units,
            self.use_bias,
            self.kernel_initializer,
            self.bias_initializer,
            self.kernel_regularizer,
            self.bias_regularizer,
        )


class AuxiliaryClassifier(Convolutional):
    """A head on a map in the middle of a network, which trains what stands before it.

    Args:
        classes: number of logits.
        filters: of each convolution behind the average pool.
        kernel_size: one for all convolutions or one for each.
        padding: of the convolutions; see `ConvBlock`.
        pool_size, pool_strides: windows of the average pool, without padding.
        grid: in their place (with `pool_size=None`) a grid of this many windows that covers a
            map of any size; integer or pair.
        pool: "avg" (global) or "flatten", behind the convolutions.
        hidden: units of each hidden linear layer.
        dropout: rate behind each hidden layer; without any, before the logits.
        ...: see `Convolutional`; initializers and regularizers are the linear layers' too, which
            have a bias and no normalization.

    Input shape: (batch, height, width, channels).
    Output shape: (batch, classes), logits.

    Raises:
        ValueError: if an argument is not of the documented form or does not fit the input.

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

    def kernels(self) -> list[Pair]:
        """The kernel of each convolution."""
        sizes: Any = self.kernel_size
        return list(sizes * len(self.filters) if len(sizes) == 1 else sizes)

    def plan(self, channels: int) -> Op:
        windows = Pool("avg", self.pool_size, self.pool_strides)
        averages = AdaptivePool(self.grid) if self.grid else windows
        convolutions = [
            Chain(conv(self, filters, size), norm(self), act(self))
            for filters, size in zip(self.filters, self.kernels(), strict=True)
        ]
        features = Flatten() if self.pool == "flatten" else GlobalPool("avg")
        drop = Dropout(self.dropout) if self.dropout else None
        hidden = [Chain(self.linear(units), act(self), drop) for units in self.hidden]
        logits = self.linear(self.classes)
        return Chain(averages, *convolutions, features, *(hidden or [drop]), logits)

    def linear(self, units: int) -> Dense:
        """A linear layer with this head's arguments."""
        return Dense(
            units,
            True,
            self.kernel_initializer,
            self.bias_initializer,
            self.kernel_regularizer,
            self.bias_regularizer,
        )


class Features(Block):
    """Pooling alone: what stands for the head in `model(include_top=False, pooling=...)`.

    Args:
        pool: "avg", "max" or "concat".

    Input shape: (batch, height, width, channels).
    Output shape: (batch, channels), or twice the channels for "concat".
    """

    pool: Literal["avg", "max", "concat"] = "avg"

    def plan(self, channels: int) -> Op:
        return concat_pool() if self.pool == "concat" else GlobalPool(self.pool)
