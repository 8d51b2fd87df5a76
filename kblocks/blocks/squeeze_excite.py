"""Squeeze-and-excitation (Hu et al. 2017, arXiv:1709.01507)."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any

from kblocks.block import Block
from kblocks.fields import ActivationLike, Count, InitializerLike
from kblocks.ops import Activation, Chain, Conv, GlobalPool, Merge, Op


class SqueezeExcite(Block):
    """Weighs channels by a gate that is computed from their global averages.

    Args:
        width: channels in the middle of the gate.
        activation: in the middle of the gate.
        gate: the activation that ends it.
        kernel_initializer: of both linear layers.

    Input shape: (batch, height, width, channels). Output shape: the same.

    Reference: Hu et al. 2017, arXiv:1709.01507, Fig. 2.
    """

    width: Count
    _: KW_ONLY
    activation: ActivationLike = "relu"
    gate: ActivationLike = "sigmoid"
    kernel_initializer: InitializerLike = "he_normal"

    def plan(self, channels: int) -> Op:
        options = (self.activation, self.gate, self.kernel_initializer)
        return Chain(squeeze_excite(self.width, channels, *options))


def squeeze_excite(
    width: int,
    channels: int,
    activation: Any = "relu",
    gate: Any = "sigmoid",
    initializer: Any = "he_normal",
) -> Merge:
    """The gate beside the map that it multiplies, as a part of a plan."""
    return Merge(
        "multiply",
        map=Chain(),
        gate=Chain(
            GlobalPool("avg", keepdims=True),
            Conv(width, kernel_initializer=initializer),
            Activation(activation),
            Conv(channels, kernel_initializer=initializer),
            Activation(gate),
        ),
    )
