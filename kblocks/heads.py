"""What ends a network."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from kblocks.block import Block
from kblocks.blocks.pooling import concat_pool
from kblocks.fields import (
    ActivationLike,
    Count,
    Counts,
    InitializerLike,
    Rate,
    RegularizerLike,
    Size,
)
from kblocks.ops import Activation, AdaptivePool, Chain, Dense, Dropout, Flatten, GlobalPool, Op


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
        hidden = [Chain(self.linear(units), act, drop) for units in self.hidden]
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
