"""Convolutions, grouped ones too, by the fastest correct kernel of the backend and device.

On TensorFlow, Keras computes every grouped convolution by XLA, whose gradient on a CPU takes a
hundred times as long as that of TensorFlow's own kernel; JAX has XLA alone.
"""

from typing import Any

import keras

from kblocks.common import backend

_NARROW = 16  # channels; XLA is faster with narrower groups joined, zeros between them


def way_of(channels: int, groups: int, strides: Any, dtype: str, dilated: bool) -> str:
    """How a convolution is computed on this backend and device.

    - "dense": as Keras does, with one group.
    - "depthwise": by the depthwise kernel, with one channel a group.
    - "depthwise in float32": by the same, for a dtype in which it is up to ten times as slow.
    - "native": by TensorFlow's own grouped kernel.
    - "native in float32": by the same, for a dtype in which it has no gradient.
    - "split": as dense convolutions side by side, for XLA on a CPU and where there is no grouped
      kernel.
    - "keras": as Keras does, by the grouped kernel of PyTorch, or of an accelerator under JAX.
    """
    if groups == 1:
        return "dense"
    if groups == channels and strides[0] == strides[1]:
        return "depthwise in float32" if backend.is_slow_in(dtype) else "depthwise"
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
    """Makes a subclass of Keras' `Conv2D` use `convolve`; `way` is that of the last call."""

    way: str | None = None

    def convolution_op(self: Any, inputs: Any, kernel: Any) -> Any:
        how = self.strides, self.padding, self.dilation_rate, self.groups, self.data_format
        outputs, self.way = convolve(inputs, kernel, *how)
        return outputs


@keras.saving.register_keras_serializable("kblocks")
class GroupedConv2D(Convolving, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with fast groups: a drop-in with the same weights and results.

    After a call, the attribute `way` says how it was computed: "dense", "depthwise", "native",
    "split" or "keras", some of them "in float32" (see `way_of` in this module). With "split",
    infinite values and NaN may spread to neighbouring groups.

    Args:
        ...: those of `keras.layers.Conv2D`.

    Input shape: (batch, height, width, channels), or channels first.
    Output shape: that of `keras.layers.Conv2D`.

    Raises:
        ValueError: as `keras.layers.Conv2D`, such as for groups that do not divide `filters`.

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
    """The outputs of a convolution, and how they were computed (see `way_of`)."""
    given, dtype = data_format, keras.backend.standardize_dtype(inputs.dtype)
    if data_format == "channels_first" and not backend.convolves_channels_first():
        inputs, data_format = keras.ops.transpose(inputs, (0, 2, 3, 1)), "channels_last"
    if backend.errs_channels_last(inputs, kernel.shape, dilation_rate, groups):
        inputs, data_format = backend.channels_first(inputs, data_format), "channels_first"
    channels = inputs.shape[-1 if data_format == "channels_last" else 1]
    if backend.overruns(inputs, kernel.shape, strides):
        # Takes the pixels that the kernel reads. A slice's gradient is slower than this pool's.
        inputs = keras.ops.average_pool(inputs, 1, strides, "valid", data_format)
        strides = (1, 1)
    way = way_of(channels, groups, strides, dtype, max(dilation_rate) > 1)
    how = {"strides": strides, "padding": padding}
    how |= {"dilation_rate": dilation_rate, "data_format": data_format}
    kind = way.removesuffix(" in float32")
    if kind != way:
        inputs, kernel = keras.ops.cast(inputs, "float32"), keras.ops.cast(kernel, "float32")
    if kind == "depthwise":  # one channel a group: the kernel, reshaped, is a depthwise one
        kernel = keras.ops.reshape(kernel, (*kernel.shape[:2], channels, -1))
        outputs = keras.ops.depthwise_conv(inputs, kernel, **how)
    elif kind == "native":
        outputs = backend.conv2d(inputs, kernel, **how)
    elif kind == "split":
        outputs = _split(inputs, kernel, groups, how)
    else:
        outputs = keras.ops.conv(inputs, kernel, **how)
    if kind != way:
        outputs = keras.ops.cast(outputs, dtype)
    if data_format != given:
        back = (0, 3, 1, 2) if given == "channels_first" else (0, 2, 3, 1)
        outputs = keras.ops.transpose(outputs, back)
    return outputs, way


def _split(x: Any, kernel: Any, groups: int, how: dict[str, Any]) -> Any:
    """A grouped convolution as dense ones side by side, each of one group or of narrow ones."""
    axis = -1 if how["data_format"] == "channels_last" else 1
    width = kernel.shape[2]
    together = next(
        m for m in range(groups, 0, -1) if not groups % m and (m * width <= _NARROW or m == 1)
    )
    parts = groups // together
    kernels: Any = keras.ops.split(_on_diagonal(kernel, groups, together), parts, axis=-1)
    inputs: Any = keras.ops.split(x, parts, axis=axis)
    outputs = [keras.ops.conv(part, own, **how) for part, own in zip(inputs, kernels, strict=True)]
    return keras.ops.concatenate(outputs, axis=axis)


def _on_diagonal(kernel: Any, groups: int, together: int) -> Any:
    """An equivalent kernel of `groups / together` groups, with zeros between those joined."""
    if together == 1:
        return kernel
    height, width, channels, filters = kernel.shape
    parts, own = groups // together, filters // groups
    blocks: Any = keras.ops.reshape(kernel, (height, width, 1, channels, parts, together, own))
    eye = keras.ops.eye(together, dtype=kernel.dtype)
    diagonal = keras.ops.reshape(eye, (1, 1, together, 1, 1, together, 1))
    return keras.ops.reshape(blocks * diagonal, (height, width, together * channels, filters))
