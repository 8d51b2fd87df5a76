"""The Keras layer for each op: Keras' own where there is one, else a class of this module.

`Block.build` makes and names these layers. A block rebuilds them from its own config, so none is
registered with Keras.
"""

import functools
import math
import operator
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from kblocks.common import backend
from kblocks.layers.export_mode import written_as
from kblocks.layers.grouped import Convolving, convolve
from kblocks.layers.spatial import Corners, OpLayer, ResizeLike, SoftArgmax
from kblocks.plans import ops
from kblocks.plans.cost import walk
from kblocks.plans.geometry import op_reach, pool_reach
from kblocks.plans.ops import Pads, Pair


def layer_for(
    op: ops.Op,
    following: ops.Op | None,
    channels: int,
    data_format: str,
    name: str,
    seed: str,
    dtype: Any,
) -> Any:
    """The unbuilt Keras layer for one op; `following` is the next one in the chain, or None."""
    axis = -1 if data_format == "channels_last" else 1
    common = {"name": name, "dtype": dtype}
    if type(op) in _OWN_LAYERS:
        return _OWN_LAYERS[type(op)](op, data_format, **common)
    match op:
        case ops.Conv():
            return Conv2D(op, data_format, seed, **common)
        case ops.Dense():
            return Dense(op, seed, **common)
        case ops.Norm():
            return _norm(op, following, channels, axis, common)
        case ops.Activation():
            return _activation(op.function, axis, common)
        case ops.GlobalPool():
            name = "Max" if op.kind == "max" else "Average"
            kind = getattr(keras.layers, f"Global{name}Pooling2D")
            return kind(data_format=data_format, keepdims=op.keepdims, **common)
        case ops.AdaptivePool():
            return AdaptivePool2D(op.output_size, data_format=data_format, **common)
        case ops.Reshape():
            return keras.layers.Reshape(op.shape, **common)
        case ops.Scale():
            return keras.layers.Rescaling(op.factor, **common)
        case ops.Flatten():
            return keras.layers.Flatten(data_format=data_format, **common)
        case ops.Dropout():
            return keras.layers.Dropout(op.rate, **common)
        case ops.DropPath():
            return keras.layers.Dropout(op.rate, noise_shape=(None, 1, 1, 1), **common)
    raise TypeError(f"A plan holds the primitives of kblocks.plans.ops. Received: {op!r}")


def _norm(op: ops.Norm, following: ops.Op, channels: int, axis: int, common: dict[str, Any]) -> Any:
    common = {"axis": axis, "epsilon": op.epsilon, "scale": op.scale, "center": op.center, **common}
    match op.kind:
        case "batch":
            own = {"momentum": op.momentum, "synchronized": op.synchronized}
            return BatchNormalization(before_relu=_is_relu(following), **own, **common)
        case "layer":
            return keras.layers.LayerNormalization(**common)
    return keras.layers.GroupNormalization(op.groups or math.gcd(32, channels), **common)


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer, faster on maps. `before_relu`: whether a rectifier follows (CPUs fuse it)."""

    def __init__(self, *, before_relu: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._before_relu = before_relu

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        data_format = "channels_last" if self.axis in (-1, 3) else "channels_first"
        plain = mask is not None or self.renorm or self.synchronized or len(inputs.shape) != 4
        plain = plain or keras.backend.standardize_dtype(inputs.dtype) == "float64"
        if plain or not backend.has_fused_batch_norm(self.epsilon, data_format):
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[self.axis]
        moving: Any = (self.moving_mean, self.moving_variance)
        known = [_wide(variable) for variable in moving]
        learns = bool(training) and self.trainable
        gamma = _wide(self.gamma) if self.scale else keras.ops.ones(channels, "float32")
        beta = _wide(self.beta) if self.center else keras.ops.zeros(channels, "float32")
        outputs, *found = backend.fused_batch_norm(
            inputs, gamma, beta, None if learns else known, self.epsilon, data_format
        )
        if learns:
            for variable, old, new in zip(moving, known, found, strict=True):
                variable.assign(old + (new - old) * (1 - self.momentum))
        elif not self._before_relu:
            outputs = backend.kept_from_fusing(outputs)
        return keras.ops.cast(outputs, self.compute_dtype)


def _wide(value: Any) -> Any:
    return keras.ops.cast(value, "float32")


def _is_relu(op: ops.Op | None) -> bool:
    function = getattr(op, "function", None)
    if isinstance(function, Mapping):
        return function["class_name"] in ("ReLU", "LeakyReLU", "ELU")
    return function in ("relu", "relu6", "leaky_relu", "elu")


def _activation(function: Any, axis: int, common: dict[str, Any]) -> Any:
    if isinstance(function, Mapping):
        config = {**function, "config": {**function["config"], **common}}
        return keras.saving.deserialize_keras_object(config)
    if function in ("softmax", "log_softmax"):
        function = functools.partial(getattr(keras.activations, function), axis=axis)
    if function == "sparsemax":
        function = functools.partial(_sparsemax, axis=axis)
    if function == "softplus":
        function = _softplus
    return _Activation(function, **common)


class _Activation(keras.layers.Activation):
    """Keras' layer; in half precision it computes in float32 where that is faster."""

    def call(self, inputs: Any) -> Any:
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if self.activation in _SIMPLE or not backend.is_slow_in(dtype):
            return super().call(inputs)
        return keras.ops.cast(super().call(keras.ops.cast(inputs, "float32")), dtype)


_SIMPLE = tuple(map(keras.activations.get, ("linear", "relu", "relu6")))


def _sparsemax(x: Any, axis: int) -> Any:
    """The nearest point of the simplex (Martins & Astudillo 2016, arXiv:1602.02068, Alg. 1).

    Keras 3.15 sums the wrong terms for its threshold, and counts channels in the dtype of `x`.
    """
    ops: Any = keras.ops
    wide = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    falling = ops.negative(ops.sort(ops.negative(wide), axis=axis))
    above = ops.cumsum(falling, axis=axis) - 1
    numbers = ops.cumsum(ops.ones_like(wide), axis=axis)
    support = ops.cast(falling * numbers > above, wide.dtype)
    size = ops.sum(support, axis=axis, keepdims=True)
    threshold = (ops.sum(falling * support, axis=axis, keepdims=True) - 1) / size
    return ops.cast(ops.relu(wide - threshold), x.dtype)


def _softplus(x: Any) -> Any:
    """Softplus; for int8 by exponentials up to 1, as larger ones would take up the whole range."""
    if written_as("int8"):
        small = keras.ops.log1p(keras.ops.exp(keras.ops.negative(keras.ops.abs(x))))
        return keras.ops.add(keras.ops.relu(x), small)
    return keras.ops.softplus(x)


def _variables(op: ops.Conv | ops.Dense, seed: str) -> dict[str, Any]:
    """New initializers and regularizers; a seed is mixed with the name of the variable."""
    return {
        "kernel_initializer": _initializer(op.kernel_initializer, f"{seed}/kernel"),
        "bias_initializer": _initializer(op.bias_initializer, f"{seed}/bias"),
        "kernel_regularizer": _fresh(op.kernel_regularizer),
        "bias_regularizer": _fresh(op.bias_regularizer),
    }


def _fresh(config: Any) -> Any:
    return dict(config) if isinstance(config, Mapping) else config


def _initializer(config: Any, place: str) -> Any:
    if isinstance(config, Mapping):
        inner = config.get("config") or {}
        seed = inner.get("seed") if isinstance(inner, Mapping) else None
        if isinstance(seed, Mapping):  # a SeedGenerator, whose copies would all draw the same
            seed = seed["config"]["seed"]
        if isinstance(seed, int):
            mixed = zlib.crc32(f"{seed}/{place}".encode())
            return {**config, "config": {**inner, "seed": mixed}}
    return _fresh(config)


class _WeightNorm:
    """Adds weight normalization, if the op asks for it: a learned norm (gain) a kernel channel."""

    def build(self: Any, input_shape: Any) -> None:
        super().build(input_shape)  # type: ignore[misc]
        if self._op.weight_norm:
            # The gain starts as the kernel's norm, so that it changes nothing at first.
            self.gain = self.add_weight(
                name="gain",
                shape=(self.kernel.shape[-1],),
                initializer=lambda shape, dtype=None: _channel_norms(self.kernel),
            )

    def effective_kernel(self: Any) -> Any:
        """The normalized kernel (Salimans & Kingma 2016, arXiv:1602.07868, Eq. 2)."""
        if not self._op.weight_norm:
            return self.kernel
        return self.kernel * (self.gain / _channel_norms(self.kernel))

    # Keras' layers save their kernel and bias one by one, and no other weight.
    def save_own_variables(self: Any, store: Any) -> None:
        super().save_own_variables(store)  # type: ignore[misc]
        if self._op.weight_norm:
            store["gain"] = self.gain

    def load_own_variables(self: Any, store: Any) -> None:
        super().load_own_variables(store)  # type: ignore[misc]
        if self._op.weight_norm:
            self.gain.assign(store["gain"])


def _channel_norms(kernel: Any) -> Any:
    axes = tuple(range(len(kernel.shape) - 1))
    return keras.ops.sqrt(keras.ops.sum(keras.ops.square(kernel), axes))


class Conv2D(Convolving, _WeightNorm, keras.layers.Conv2D):
    """Keras' convolution with symmetric and numeric padding, and with padding modes."""

    def __init__(self, op: ops.Conv, data_format: str, seed: str, **kwargs: Any) -> None:
        self._pads = _explicit_pads(op)
        self._op = op
        explicit = self._pads is not None or op.padding == "valid"
        shape = {"padding": "valid" if explicit else "same", "data_format": data_format}
        shape |= {"dilation_rate": op.dilation_rate, "groups": op.groups, "use_bias": op.use_bias}
        kwargs |= {**shape, **_variables(op, seed)}
        super().__init__(op.filters, op.kernel_size, op.strides, **kwargs)

    def call(self, inputs: Any) -> Any:
        if self._pads is not None:
            pads = self._pads(_map_size(inputs, self.data_format))
            inputs = pad(inputs, pads, self._op.padding_mode, self.data_format)
        outputs = self.convolution_op(inputs, self.effective_kernel())
        if not self.use_bias:
            return outputs
        if self.data_format == "channels_last":
            return keras.ops.add(outputs, self.bias)
        # The bias must be the first term: Keras on TensorFlow adds a second term of shape
        # (1, n, 1, 1) along the width if the map is n wide.
        return keras.ops.add(keras.ops.reshape(self.bias, (1, -1, 1, 1)), outputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        # Keras' own method, which `build` calls too, leaves the padding before it out.
        batch, *sizes = input_shape
        if self.data_format == "channels_last":
            return batch, *walk(self._op, tuple(sizes))
        height, width, filters = walk(self._op, (sizes[1], sizes[2], sizes[0]))
        return batch, filters, height, width


class Dense(_WeightNorm, keras.layers.Dense):
    """Keras' linear layer with weight normalization."""

    def __init__(self, op: ops.Dense, seed: str, **kwargs: Any) -> None:
        self._op = op
        super().__init__(op.units, use_bias=op.use_bias, **_variables(op, seed), **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not self._op.weight_norm:
            return super().call(inputs, training=training)
        outputs = keras.ops.matmul(inputs, self.effective_kernel())
        return keras.ops.add(outputs, self.bias) if self.use_bias else outputs

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        """As Keras' layer, which refuses subclasses; here it refuses those with a learned norm."""
        super().quantize(mode, type_check=bool(self._op.weight_norm), config=config)


class Pool2D(OpLayer):
    def __init__(self, op: ops.Pool, data_format: str, **kwargs: Any) -> None:
        super().__init__(op, data_format, **kwargs)
        counts_same = op.padding == "same" and op.kind == "avg" and op.count_padding
        self._explicit = op.padding not in ("same", "valid") or counts_same
        self._over = _over_the_edge(op)
        pixels = () if isinstance(op.padding, str) else op.padding
        self._reaches_past = any(map(operator.ge, pixels, op.pool_size))

    def call(self, inputs: Any) -> Any:
        # In int8 infinity would take up the whole range of values. Padding by copies of the edge
        # gives the same maxima, but takes a third more time than a constant.
        copies = written_as("int8") and not self._reaches_past
        outside = "replicate" if copies else -math.inf
        if self._op.kind == "min":
            return -self._pooled(keras.ops.max_pool, -inputs, outside)
        if self._op.kind == "max":
            return self._pooled(keras.ops.max_pool, inputs, outside)
        means = self._pooled(keras.ops.average_pool, inputs, 0.0)
        if self._over == ((0, 0), (0, 0)) and (self._op.count_padding or not self._explicit):
            return means
        first = inputs[:1, :, :, :1] if self._axis == -1 else inputs[:1, :1]
        ones, counts = keras.ops.ones_like(first), float(self._op.count_padding)
        return means / self._pooled(keras.ops.average_pool, ones, counts)

    def _pooled(self, function: Callable[..., Any], x: Any, outside: float | str) -> Any:
        op = self._op
        padding = op.padding
        mode, value = (outside, 0.0) if isinstance(outside, str) else ("zeros", outside)
        if self._explicit:
            size = _map_size(x, self.data_format)
            pads = ops.pads_of(op, size, op.pool_size, (1, 1), "count_padding=True")
            x, padding = pad(x, pads, mode, self.data_format, value), "valid"
        # An average may count the padding, but never what lies beyond it.
        beyond = 0.0 if op.kind == "avg" else value
        x = pad(x, self._over, mode, self.data_format, beyond)
        return function(x, op.pool_size, op.strides, padding=padding, data_format=self.data_format)


class AdaptivePool2D(keras.layers.AdaptiveAveragePooling2D):
    """Keras' adaptive average pool, computed window by window.

    Keras pools with windows of two sizes and selects from both. In a TensorFlow graph the larger
    one does not fit an axis with one input or output pixel.
    """

    def call(self, inputs: Any) -> Any:
        first = 1 if self.data_format == "channels_last" else 2
        sizes = zip(_map_size(inputs, self.data_format), self.output_size, strict=True)
        for axis, (n, wanted) in enumerate(sizes, start=first):
            if n != wanted:
                inputs = _means(inputs, axis, n, wanted)
        return inputs


def _means(x: Any, axis: int, n: int, wanted: int) -> Any:
    """The means of `wanted` windows over the `n` pixels of an axis; they overlap by at most one."""
    index: list[Any] = [slice(None)] * 4
    means = []
    for i in range(wanted):
        index[axis] = slice(i * n // wanted, -(-(i + 1) * n // wanted))
        means.append(keras.ops.mean(x[tuple(index)], axis, keepdims=True))
    return keras.ops.concatenate(means, axis)


class Blur2D(OpLayer):
    """A convolution of each channel with a binomial kernel, with reflected edges and strides."""

    def call(self, inputs: Any) -> Any:
        size, channels = self._op.size, inputs.shape[self._axis]
        row = np.array([math.comb(size - 1, i) for i in range(size)], "float64")
        kernel = np.outer(row, row) / row.sum() ** 2
        kernel = np.repeat(kernel[:, :, np.newaxis, np.newaxis], channels, axis=3)
        kernel = keras.ops.convert_to_tensor(kernel, dtype=inputs.dtype)
        side = size // 2
        padded = pad(inputs, ((side, side), (side, side)), "reflect", self.data_format)
        strides = self._op.strides
        return convolve(padded, kernel, strides, "valid", (1, 1), channels, self.data_format)[0]


class SpaceToDepth(OpLayer):
    def call(self, inputs: Any) -> Any:
        block, x = self._op.block, self.to_last(inputs)
        if any(size is None or size % block for size in x.shape[1:3]):
            x = pad(x, ((0, block - 1), (0, block - 1)), "zeros", "channels_last")
        shape: Any = keras.ops.shape(x)
        _, height, width, channels = shape
        rows, columns = height // block, width // block
        x = x[:, : rows * block, : columns * block]
        x = keras.ops.reshape(x, (-1, rows, block, columns, block, channels))
        turned: Any = keras.ops.transpose(x, (0, 1, 3, 2, 4, 5))
        x = keras.ops.reshape(turned, (-1, rows, columns, block * block * channels))
        return self.from_last(x)


class PadChannels(OpLayer):
    def call(self, inputs: Any) -> Any:
        widths = [(0, 0)] * 4
        widths[self._axis] = (0, self._op.filters - inputs.shape[self._axis])
        return keras.ops.pad(inputs, widths)


_OWN_LAYERS: dict[type, type[OpLayer]] = {
    ops.Pool: Pool2D,
    ops.Blur: Blur2D,
    ops.SpaceToDepth: SpaceToDepth,
    ops.PadChannels: PadChannels,
    ops.ResizeLike: ResizeLike,
    ops.SoftArgmax: SoftArgmax,
    ops.Corners: Corners,
}


def _map_size(inputs: Any, data_format: str) -> tuple[Any, Any]:
    shape = inputs.shape
    return (shape[1], shape[2]) if data_format == "channels_last" else (shape[2], shape[3])


def _over_the_edge(op: ops.Pool) -> Pads:
    """The pixels beyond the padding that the windows kept by `ceil_mode` need."""
    if not op.ceil_mode or op.padding == "same":
        return (0, 0), (0, 0)
    reached, within = pool_reach(op), op_reach(op, op.pool_size)
    rows, columns = (w - r for w, r in zip(within, reached, strict=True))
    return (0, rows), (0, columns)


def _explicit_pads(op: ops.Conv) -> Callable[[Any], Pads] | None:
    """A function from a map's size to the padding before the convolution; None if Keras pads."""
    is_same = op.padding == "same" or (
        op.strides == (1, 1) and op_reach(op, op.kernel_size, op.dilation_rate) == (0, 0)
    )
    if op.padding == "valid" or (is_same and op.padding_mode == "zeros"):
        return None  # Keras' "same" pads the same, within its kernel
    reason = f"padding_mode={op.padding_mode!r}"
    return lambda size: ops.pads_of(op, size, op.kernel_size, op.dilation_rate, reason)


def pad(x: Any, pads: Pads, mode: str, data_format: str, value: float = 0.0) -> Any:
    """`x` with rows and columns added: "zeros" (or `value`), "reflect" or "replicate"."""
    if pads == ((0, 0), (0, 0)):
        return x
    first = 1 if data_format == "channels_last" else 2
    if mode == "replicate":
        for axis, amounts in enumerate(pads, start=first):
            x = _replicate(x, axis, amounts)
        return x
    widths = [(0, 0)] * 4
    widths[first], widths[first + 1] = pads
    if mode == "reflect":
        return keras.ops.pad(x, widths, mode="reflect")
    return keras.ops.pad(x, widths, constant_values=value)


def _replicate(x: Any, axis: int, amounts: Pair) -> Any:
    before, after = amounts
    index: list[Any] = [slice(None)] * 4
    pieces = [x]
    if before:
        index[axis] = slice(0, 1)
        pieces.insert(0, keras.ops.repeat(x[tuple(index)], before, axis=axis))
    if after:
        index[axis] = slice(-1, None)
        pieces.append(keras.ops.repeat(x[tuple(index)], after, axis=axis))
    return keras.ops.concatenate(pieces, axis=axis) if len(pieces) > 1 else x


def crop(x: Any, cut: Pads, data_format: str) -> Any:
    """`x` with rows and columns cut off its edges."""
    index: list[Any] = [slice(None)] * 4
    first = 1 if data_format == "channels_last" else 2
    for axis, (before, after) in enumerate(cut, start=first):
        index[axis] = slice(before, -after if after else None)
    return x[tuple(index)]
