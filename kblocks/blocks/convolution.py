"""`ConvBlock`, and what all blocks of convolutions share."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any, Literal

from kblocks.blocks.block import Block
from kblocks.blocks.fields import (
    ActivationLike,
    Count,
    InitializerLike,
    NormLike,
    Padding,
    PaddingMode,
    PoolKind,
    Rate,
    RegularizerLike,
    Repeats,
    Size,
)
from kblocks.plans.ops import Activation, Chain, Conv, Dropout, Norm, Op, Pixels, Pool


class Convolutional(Block, kw_only=True):
    """The arguments that every block of convolutions has.

    Args:
        activation: a Keras activation by name, a function, an activation layer without
            weights, or None.
        normalization: "batch", "layer", "group", "weight" (of the kernels: Salimans & Kingma
            2016, arXiv:1602.07868), a `kblocks.Norm` (to set momentum and epsilon), or None.
        use_bias: of the convolutions; None gives one where the block has no normalization.
        padding_mode: what is padded with: "zeros", "reflect" or "replicate" the edge.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer: as in
            Keras; each kernel gets an initializer of its own, so that no two start equal.
    """

    activation: ActivationLike | None = "relu"
    normalization: NormLike | None = "batch"
    use_bias: bool | None = None
    padding_mode: PaddingMode = "zeros"
    kernel_initializer: InitializerLike = "he_normal"
    bias_initializer: InitializerLike = "zeros"
    kernel_regularizer: RegularizerLike | None = None
    bias_regularizer: RegularizerLike | None = None


def conv(
    spec: Any,
    filters: int,
    kernel_size: Pixels = (1, 1),
    strides: Pixels = (1, 1),
    padding: Pixels = None,
    dilation_rate: Pixels = (1, 1),
    groups: int = 1,
    use_bias: bool | None = None,
) -> Conv:
    """A convolution with the arguments that `spec` has for all of its own.

    `padding` None is the block's own, which a 1x1 kernel needs only where it is a number.
    """
    use_bias = spec.use_bias if use_bias is None else use_bias
    weight_norm = norms_weights(spec)
    return Conv(
        filters,
        kernel_size,
        strides,
        spec.padding if padding is None else padding,
        dilation_rate,
        groups,
        spec.normalization is None or weight_norm if use_bias is None else use_bias,
        spec.padding_mode,
        spec.kernel_initializer,
        spec.bias_initializer,
        spec.kernel_regularizer,
        spec.bias_regularizer,
        weight_norm,
    )


def norms_weights(spec: Any) -> bool:
    """Whether the block's normalization is of its kernels, not of its maps."""
    return spec.normalization is not None and spec.normalization.kind == "weight"


def norm(spec: Any) -> Norm | None:
    """The block's normalization of maps; None leaves no op behind in a Chain."""
    return None if norms_weights(spec) else spec.normalization


def act(spec: Any) -> Activation | None:
    """The block's activation; None leaves no op behind in a Chain."""
    return None if spec.activation is None else Activation(spec.activation)


def check_convolutions(spec: Any, filters: int | None = None) -> None:
    """What the arguments of a block's spatial convolutions have to do with each other.

    `filters` are those of the grouped convolution where they are not the block's own.
    """
    if spec.dilation_rate != (1, 1) and max(spec.strides) > 1:
        raise ValueError(
            "`strides` and `dilation_rate` cannot both be more than 1. "
            f"Received: strides={spec.strides}, dilation_rate={spec.dilation_rate}"
        )
    if spec.groups != 1 and (filters or spec.filters) % spec.groups:
        raise ValueError(
            "`groups` must divide `filters`. "
            f"Received: groups={spec.groups}, filters={spec.filters}"
        )
    check_symmetric("padding", spec.padding, "kernel_size", spec.kernel_size)


def check_symmetric(name: str, padding: Any, size_name: str, size: Pixels) -> None:
    """Symmetric padding keeps the size at stride 1, which needs a middle pixel."""
    if padding == "symmetric" and not (size[0] % 2 and size[1] % 2):
        raise ValueError(
            f"`{name}`='symmetric' needs an odd `{size_name}`. Received: {size_name}={size}"
        )


def check_pool(name: str, padding: Any, size_name: str, size: Pixels) -> None:
    """What the padding of a pool has to do with its window, which must hold a pixel."""
    check_symmetric(name, padding, size_name, size)
    if not isinstance(padding, str) and (padding[0] >= size[0] or padding[1] >= size[1]):
        raise ValueError(
            f"`{name}` must be less than `{size_name}`. "
            f"Received: {name}={padding}, {size_name}={size}"
        )


class ConvBlock(Convolutional):
    """Convolutions with normalization and activation, then an optional pool and dropout.

    Args:
        filters: output channels of each convolution.
        kernel_size: integer or pair (height, width).
        strides: of the first convolution; the others have 1.
        padding: "same" (as Keras), "valid", "symmetric" (kernel // 2 on both sides), or the
            pixels on each side, a number or a pair.
        convolutions: how many.
        order: of each convolution's parts: "conv_norm_act"; "norm_act_conv"; or "norm_last",
            conv → activation, with one normalization between the last of these two.
        dilation_rate: integer or pair, of all convolutions; not with strides.
        groups: of all convolutions; must divide the input's channels and `filters`.
        pool: "max", "avg" or "min" behind the convolutions, or None.
        pool_size, pool_strides, pool_padding: of that pool; strides None are its size.
        dropout: rate of zeroed features at the end.
        ...: see `Convolutional` for the rest.

    Input shape: (batch, height, width, channels).
    Output shape: (batch, new_height, new_width, filters).

    Raises:
        ValueError: if an argument is not of the form above.

    Example:
        >>> kb.ConvBlock(32, 3, convolutions=2, pool="max")(keras.Input((32, 32, 3))).shape
        (None, 16, 16, 32)

    Reference: the conv-bn-relu unit of Ioffe & Szegedy 2015, arXiv:1502.03167.
    """

    filters: Count
    kernel_size: Size = 3
    strides: Size = 1
    _: KW_ONLY
    padding: Padding = "same"
    convolutions: Repeats = 1
    order: Literal["conv_norm_act", "norm_act_conv", "norm_last"] = "conv_norm_act"
    dilation_rate: Size = 1
    groups: Count = 1
    pool: PoolKind | None = None
    pool_size: Size = 2
    pool_strides: Size | None = None
    pool_padding: Padding = "valid"
    dropout: Rate = 0.0

    def check(self) -> None:
        check_convolutions(self)
        check_pool("pool_padding", self.pool_padding, "pool_size", self.pool_size)

    def plan(self, channels: int) -> Op:
        units = (self.unit(index) for index in range(self.convolutions))
        pool = self.pool and Pool(
            self.pool, self.pool_size, self.pool_strides or self.pool_size, self.pool_padding
        )
        return Chain(*units, pool, Dropout(self.dropout) if self.dropout else None)

    def unit(self, index: int) -> Op:
        """The convolution of that index with what belongs to it."""
        last = index == self.convolutions - 1
        normed = last or self.order != "norm_last"
        convolution = conv(
            self,
            self.filters,
            self.kernel_size,
            self.strides if index == 0 else (1, 1),
            dilation_rate=self.dilation_rate,
            groups=self.groups,
            use_bias=None if normed or self.use_bias is not None else True,
        )
        if self.order == "norm_act_conv":
            return Chain(norm(self), act(self), convolution)
        return Chain(convolution, norm(self) if normed else None, act(self))


class NormAct(Convolutional):
    """Normalization, then activation: what ends the stages of a pre-activation network.

    Args:
        activation, normalization: see `Convolutional`.

    Input shape: (batch, height, width, channels). Output shape: the same.
    """

    def plan(self, channels: int) -> Op:
        return Chain(norm(self), act(self))
