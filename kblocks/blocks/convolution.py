"""`ConvBlock`, `NormAct`, and what all convolutional blocks share."""

import operator
from dataclasses import KW_ONLY
from typing import Any, Literal

from kblocks.blocks import fields
from kblocks.blocks.block import Block
from kblocks.plans.ops import Activation, Chain, Conv, Dense, Dropout, Norm, Op, Pixels, Pool


class Convolutional(Block, kw_only=True, abstract=True):
    """The arguments of all convolutional blocks, and the descriptions of those that several have.

    Args:
        normalization: "batch", "layer" (over the channels of each pixel), "group", "weight" (of
            the kernels: Salimans & Kingma 2016, arXiv:1602.07868), a `kblocks.Norm` (to set
            momentum, epsilon and more), or None.
        use_bias: whether convolutions have a bias; None adds one where no map is normalized:
            with normalization None or "weight".
        padding_mode: what the padding consists of: "zeros", "reflect" (the map mirrored at its
            edge) or "replicate" (the edge repeated).
        padding: of the spatial convolutions: "same" (as Keras), "valid", "symmetric" (equal on both
            sides, which keeps the size at stride 1; kernels must be odd), or the number of pixels
            on each side, integer or pair. Where a branch shrinks the map, the inputs of branches
            beside it, such as a shortcut, are cropped to their centre.
        dilation_rate: of the spatial convolutions; integer or pair; must be 1 if strides are not.
        groups: of the spatial convolutions; must divide the channels that they read and make.
        stochastic_depth: probability with which training drops the main path of a sample.
    """

    activation: fields.ActivationLike | None = "relu"
    normalization: fields.NormLike | None = "batch"
    use_bias: bool | None = None
    padding_mode: fields.PaddingMode = "zeros"
    kernel_initializer: fields.InitializerLike = "he_normal"
    bias_initializer: fields.InitializerLike = "zeros"
    kernel_regularizer: fields.RegularizerLike | None = None
    bias_regularizer: fields.RegularizerLike | None = None


_variables = operator.attrgetter(  # of an op with a kernel, in their order
    "kernel_initializer", "bias_initializer", "kernel_regularizer", "bias_regularizer"
)


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
    """A convolution with arguments of `spec`; `padding` None takes the block's padding."""
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
        *_variables(spec),
        weight_norm,
    )


def spatial(
    spec: Any,
    filters: int,
    strides: Pixels = (1, 1),
    groups: int | None = None,
    use_bias: bool | None = None,
) -> Conv:
    """A convolution with the block's kernel size and dilation rate, and its groups or `groups`."""
    shape = {"dilation_rate": spec.dilation_rate, "groups": groups or spec.groups}
    return conv(spec, filters, spec.kernel_size, strides, use_bias=use_bias, **shape)


def dense(spec: Any, units: int, use_bias: bool, weight_norm: bool = False) -> Dense:
    """A linear layer with the initializers and regularizers of `spec`."""
    return Dense(units, use_bias, *_variables(spec), weight_norm)


def norms_weights(spec: Any) -> bool:
    """Whether the block normalizes its kernels, not its maps."""
    return spec.normalization is not None and spec.normalization.kind == "weight"


def norm(spec: Any) -> Norm | None:
    """The op that normalizes the block's maps, or None, which a Chain leaves out."""
    return None if norms_weights(spec) else spec.normalization


def act(spec: Any) -> Activation | None:
    """The op of the block's activation, or None, which a Chain leaves out."""
    return None if spec.activation is None else Activation(spec.activation)


def check_conv(spec: Any, filters: int | None = None) -> None:
    """Refuses contradictions; `filters` of the grouped convolution are by default the block's."""
    dilation_rate = getattr(spec, "dilation_rate", (1, 1))
    if dilation_rate != (1, 1) and max(spec.strides) > 1:
        raise ValueError(
            "`strides` and `dilation_rate` cannot both be more than 1. "
            f"Received: strides={spec.strides}, dilation_rate={dilation_rate}"
        )
    groups = getattr(spec, "groups", 1)
    if (filters or spec.filters) % groups:
        raise ValueError(
            f"`groups` must divide `filters`. Received: groups={groups}, filters={spec.filters}"
        )
    check_odd("padding", spec.padding, "kernel_size", spec.kernel_size)


def check_odd(name: str, padding: Any, window: str, size: Pixels) -> None:
    """Refuses symmetric padding for an even window, where it cannot keep the size."""
    if padding == "symmetric" and not (size[0] % 2 and size[1] % 2):
        raise ValueError(f"`{name}`='symmetric' needs an odd `{window}`. Received: {window}={size}")


def check_pool(name: str, padding: Any, window: str, size: Pixels) -> None:
    """Refuses pool padding that does not fit the window; each window must hold a pixel."""
    check_odd(name, padding, window, size)
    if not isinstance(padding, str) and (padding[0] >= size[0] or padding[1] >= size[1]):
        raise ValueError(
            f"`{name}` must be less than `{window}`. Received: {name}={padding}, {window}={size}"
        )


class ConvBlock(Convolutional):
    """Convolutions with normalization and activation, then an optional pool and dropout.

    Args:
        filters: output channels of each convolution.
        kernel_size: of all convolutions; integer or pair (height, width).
        strides: of the first convolution, integer or pair; the others have strides 1.
        convolutions: number of convolutions.
        order: of the parts of each unit: "conv_norm_act"; "norm_act_conv"; or "norm_last",
            convolution and activation, where only the last convolution is normalized.
        pool: "max", "avg" or "min" for a pool after the convolutions, or None.
        pool_size: window of that pool; integer or pair.
        pool_strides: strides of that pool; integer or pair; None takes `pool_size`.
        dropout: share of the features that training sets to zero at the end of the block.

    Output shape: (batch, new_height, new_width, filters).

    Example:
        >>> kb.ConvBlock(32, 3, convolutions=2, pool="max")(keras.Input((32, 32, 3))).shape
        (None, 16, 16, 32)

    Reference: the conv-bn-relu unit of Ioffe & Szegedy 2015, arXiv:1502.03167.
    """

    filters: fields.Count
    kernel_size: fields.Size = 3
    strides: fields.Size = 1
    _: KW_ONLY
    padding: fields.Padding = "same"
    convolutions: fields.Repeats = 1
    order: Literal["conv_norm_act", "norm_act_conv", "norm_last"] = "conv_norm_act"
    dilation_rate: fields.Size = 1
    groups: fields.Count = 1
    pool: fields.PoolKind | None = None
    pool_size: fields.Size = 2
    pool_strides: fields.Size | None = None
    pool_padding: fields.Padding = "valid"
    dropout: fields.Rate = 0.0

    def check(self) -> None:
        check_conv(self)
        check_pool("pool_padding", self.pool_padding, "pool_size", self.pool_size)

    def plan(self, channels: int) -> Op:
        units = (self.unit(index) for index in range(self.convolutions))
        strides = self.pool_strides or self.pool_size
        pool = self.pool and Pool(self.pool, self.pool_size, strides, self.pool_padding)
        return Chain(*units, pool, Dropout(self.dropout) if self.dropout else None)

    def unit(self, index: int) -> Op:
        """The convolution at `index`, counted from 0, with its normalization and activation."""
        last = index == self.convolutions - 1
        normed = last or self.order != "norm_last"
        use_bias = None if normed or self.use_bias is not None else True
        strides: Pixels = self.strides if index == 0 else (1, 1)
        convolution = spatial(self, self.filters, strides, use_bias=use_bias)
        if self.order == "norm_act_conv":
            return Chain(norm(self), act(self), convolution)
        return Chain(convolution, norm(self) if normed else None, act(self))


class NormAct(Convolutional):
    """Normalization, then activation: the end of a pre-activation network.

    `use_bias`, `padding_mode`, initializers and regularizers have no effect here.

    Args:
        normalization: "batch", "layer" (over the channels of each pixel), "group", a `kblocks.Norm`
            (to set momentum, epsilon and more), or None.

    Input shape: (batch, height, width, channels). Output shape: the same.
    """

    def plan(self, channels: int) -> Op:
        return Chain(norm(self), act(self))
