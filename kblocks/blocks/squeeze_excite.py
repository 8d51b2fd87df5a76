"""Squeeze-and-excitation (Hu et al. 2017, arXiv:1709.01507)."""

from dataclasses import KW_ONLY
from typing import Any

from kblocks.blocks.block import Block
from kblocks.blocks.convolution import conv
from kblocks.blocks.fields import ActivationLike, Count, InitializerLike
from kblocks.plans.ops import Activation, Chain, Conv, GlobalPool, Merge, Op


class SqueezeExcite(Block):
    """Multiplies each channel by a gate, computed from the global averages of all channels.

    Args:
        width: channels in the middle of the gate.
        activation: in the middle of the gate: a Keras activation by name, a function, or an
            activation layer without weights.

    Input shape: (batch, height, width, channels). Output shape: the same.

    Reference: Hu et al. 2017, arXiv:1709.01507, Fig. 2.
    """

    width: Count
    _: KW_ONLY
    activation: ActivationLike = "relu"
    gate: ActivationLike = "sigmoid"
    kernel_initializer: InitializerLike = "he_normal"

    def plan(self, channels: int) -> Op:
        squeeze = Conv(self.width, kernel_initializer=self.kernel_initializer)
        excite = Conv(channels, kernel_initializer=self.kernel_initializer)
        return Chain(_gated(squeeze, self.activation, excite, self.gate))


def squeeze_excite(spec: Any, width: int, channels: int, activation: Any) -> Merge:
    """Squeeze-excite in a block with an argument `gate`; with biases unless `use_bias=False`."""
    use_bias = spec.use_bias is not False
    squeeze = conv(spec, width, padding="same", use_bias=use_bias)
    excite = conv(spec, channels, padding="same", use_bias=use_bias)
    return _gated(squeeze, activation, excite, spec.gate)


def _gated(squeeze: Conv, activation: Any, excite: Conv, gate: Any) -> Merge:
    middle = None if activation is None else Activation(activation)
    averages = GlobalPool("avg", keepdims=True)
    branch = Chain(averages, squeeze, middle, excite, Activation(gate))
    return Merge("multiply", map=Chain(), gate=branch)
