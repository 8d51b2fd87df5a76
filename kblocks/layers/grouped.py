"""Convolutions by the fastest way that is right on this backend and device.

Keras sends every grouped convolution on TensorFlow through XLA, whose gradient on a CPU takes a
hundred times as long as TensorFlow's own kernel; on JAX, XLA is all there is.
"""

from __future__ import annotations

from typing import Any

import keras

from kblocks.common import backend

_NARROW = 16  # XLA is quicker with one convolution of some zeros than with several this narrow


def way_of(channels: int, groups: int, strides: Any, dtype: str, dilated: bool) -> str:
    """How a convolution is computed here and now.

    - "dense": it has one group.
    - "depthwise": by the depthwise kernel, as it has one channel a group.
    - "native": by TensorFlow's own grouped kernel.
    - "native in float32": the same, for a dtype for which it has no gradient.
    - "split": as dense convolutions side by side, for XLA on a CPU and where there is no grouped
      kernel.
    - "keras": as Keras does, by the grouped kernel of PyTorch, or of an accelerator under JAX.
    """
    if groups == 1:
        return "dense"
    if groups == channels and strides[0] == strides[1]:
        return "depthwise"
    if backend.name() == "torch":
        return "keras"
    if backend.name() == "jax":
        return "keras" if backend.has_accelerator() else "split"
    if backend.compiles():
        return "native" if backend.has_accelerator() else "split"
    if backend.convolves_groups(dtype, dilated):
        return "native"
    if dtype in ("float16", "bfloat16") and backend.convolves_groups("float32", dilated):
        return "native in float32"
    return "split"


class Convolving:
    """What gives a subclass of Keras' `Conv2D` the fastest way; `way` tells the last one taken."""

    way: str | None = None

    def convolution_op(self: Any, inputs: Any, kernel: Any) -> Any:
        outputs, self.way = convolve(
            inputs,
            kernel,
            self.strides,
            self.padding,
            self.dilation_rate,
            self.groups,
            self.data_format,
        )
        return outputs


@keras.saving.register_keras_serializable("kblocks")
class GroupedConv2D(Convolving, keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose groups are fast: a drop-in with the same weights and results.

    Args:
        ...: those of `keras.layers.Conv2D`.

    After a call, `way` tells how it was computed; `way_of` in this module lists the ways. Where it
    is "split", a value that is not finite may spread to neighbouring groups.

    Input shape: (batch, height, width, channels), or channels first.
    Output shape: as of `keras.layers.Conv2D`.

    Example:
        >>> kb.GroupedConv2D(64, 3, padding="same", groups=8)(keras.Input((32, 32, 32))).shape
        (None, 32, 32, 64)
    """


def convolve(
    inputs: Any,
    kernel: Any,
    strides: Any,
    padding: str,
    dilation_rate: Any,
    groups: int,
    data_format: str,
) -> tuple[Any, str]:
    """The convolution, and the way in which it was computed (see `way_of`)."""
    given, dtype = data_format, keras.backend.standardize_dtype(inputs.dtype)
    if data_format == "channels_first" and not backend.convolves_channels_first():
        inputs, data_format = keras.ops.transpose(inputs, (0, 2, 3, 1)), "channels_last"
    if backend.errs_channels_last(kernel.shape, dilation_rate, groups, dtype):
        inputs, data_format = backend.channels_first(inputs, data_format), "channels_first"
    channels = inputs.shape[-1 if data_format == "channels_last" else 1]
    if backend.overruns(kernel.shape, strides):
        # The pixels that the kernel sees; the gradient of a pool is quicker than that of a slice.
        inputs = keras.ops.average_pool(inputs, 1, strides, "valid", data_format)
        strides = (1, 1)
    way = way_of(channels, groups, strides, dtype, max(dilation_rate) > 1)
    how = (strides, padding, dilation_rate, data_format)
    if way == "depthwise":
        outputs = _depthwise(inputs, kernel, *how)
    elif way == "native":
        outputs = backend.conv2d(inputs, kernel, *how)
    elif way == "native in float32":
        wide, wide_kernel = keras.ops.cast(inputs, "float32"), keras.ops.cast(kernel, "float32")
        outputs = keras.ops.cast(backend.conv2d(wide, wide_kernel, *how), dtype)
    elif way == "split":
        outputs = _split(inputs, kernel, groups, *how)
    else:
        outputs = _dense(inputs, kernel, *how)
    if data_format != given:
        back = (0, 3, 1, 2) if given == "channels_first" else (0, 2, 3, 1)
        outputs = keras.ops.transpose(outputs, back)
    return outputs, way


def _dense(x: Any, kernel: Any, strides: Any, padding: str, dilation: Any, data_format: str) -> Any:
    return keras.ops.conv(
        x,
        kernel,
        strides=strides,
        padding=padding,
        dilation_rate=dilation,
        data_format=data_format,
    )


def _depthwise(
    x: Any, kernel: Any, strides: Any, padding: str, dilation: Any, data_format: str
) -> Any:
    """The kernel of one input channel a group is that of a depthwise convolution in other words."""
    channels = x.shape[-1 if data_format == "channels_last" else 1]
    filters = kernel.shape[-1]
    return keras.ops.depthwise_conv(
        x,
        keras.ops.reshape(kernel, (*kernel.shape[:2], channels, filters // channels)),
        strides=strides,
        padding=padding,
        dilation_rate=dilation,
        data_format=data_format,
    )


def _split(x: Any, kernel: Any, groups: int, *how: Any) -> Any:
    """Dense convolutions side by side, each of one group or of several narrow ones."""
    axis = -1 if how[-1] == "channels_last" else 1
    width = kernel.shape[2]
    together = next(
        m for m in range(groups, 0, -1) if not groups % m and (m * width <= _NARROW or m == 1)
    )
    parts = groups // together
    kernels: Any = keras.ops.split(_on_diagonal(kernel, groups, together), parts, axis=-1)
    inputs: Any = keras.ops.split(x, parts, axis=axis)
    outputs = [_dense(part, own, *how) for part, own in zip(inputs, kernels, strict=True)]
    return keras.ops.concatenate(outputs, axis=axis)


def _on_diagonal(kernel: Any, groups: int, together: int) -> Any:
    """The kernel of a convolution of `groups / together` groups that computes the same."""
    if together == 1:
        return kernel
    height, width, channels, filters = kernel.shape
    parts, own = groups // together, filters // groups
    blocks: Any = keras.ops.reshape(kernel, (height, width, 1, channels, parts, together, own))
    diagonal = keras.ops.reshape(
        keras.ops.eye(together, dtype=kernel.dtype), (1, 1, together, 1, 1, together, 1)
    )
    return keras.ops.reshape(blocks * diagonal, (height, width, together * channels, filters))
