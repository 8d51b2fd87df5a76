"""The residual block of fully connected layers."""

from dataclasses import KW_ONLY
from typing import Literal

from kblocks.blocks import fields
from kblocks.blocks.block import Block
from kblocks.blocks.convolution import act, dense, norm, norms_weights
from kblocks.plans.ops import Chain, Dense, Dropout, Merge, Norm, Op


class ResidualDense(Block):
    """Linear layers and a shortcut around them.

    Args:
        units: output features of each linear layer.
        depth: number of linear layers.
        order: "original" (linear → norm → activation, the last activation after the addition)
            or "full_preactivation" (norm → activation → linear), as for `kb.ResidualBlock`.
        normalization: "batch", "layer", "weight" (of the kernels), a `kblocks.Norm` of these, or
            None.
        dropout: share of the features that training sets to zero before the last linear layer.
        use_bias: whether linear layers have a bias; None adds one where no features are normalized:
            with normalization None or "weight".

    Where the number of features changes, the shortcut is a linear layer too.

    Input shape: (batch, features). Output shape: (batch, units).

    Reference: He et al. 2015, arXiv:1512.03385, Eq. 1 and 2.
    """

    units: fields.Count
    _: KW_ONLY
    depth: fields.Repeats = 2
    order: Literal["original", "full_preactivation"] = "original"
    activation: fields.ActivationLike | None = "relu"
    normalization: fields.NormLike | None = "batch"
    dropout: fields.Rate = 0.0
    use_bias: bool | None = None
    kernel_initializer: fields.InitializerLike = "he_normal"
    bias_initializer: fields.InitializerLike = "zeros"
    kernel_regularizer: fields.RegularizerLike | None = None
    bias_regularizer: fields.RegularizerLike | None = None

    def check(self) -> None:
        if isinstance(self.normalization, Norm) and self.normalization.kind == "group":
            raise ValueError(
                "`normalization` of features must not be 'group': groups of single features would "
                f"all be zero. Received: normalization={self.normalization}"
            )

    def plan(self, channels: int) -> Op:
        bn, relu = norm(self), act(self)
        drop = Dropout(self.dropout) if self.dropout else None
        before = [None] * (self.depth - 1) + [drop]
        shortcut = None if channels == self.units else self.linear()
        if self.order == "full_preactivation":
            main = Chain(*(op for d in before for op in (bn, relu, d, self.linear())))
            return Chain(Merge("add", main=main, shortcut=Chain(shortcut)))
        first, *rest = before
        main = Chain(
            first, self.linear(), *(op for d in rest for op in (bn, relu, d, self.linear())), bn
        )
        projection = Chain(shortcut, None if shortcut is None else bn)
        return Chain(Merge("add", main=main, shortcut=projection), relu)

    def linear(self) -> Dense:
        weight_norm = norms_weights(self)
        needs_bias = self.normalization is None or weight_norm
        use_bias = needs_bias if self.use_bias is None else self.use_bias
        return dense(self, self.units, use_bias, weight_norm)
