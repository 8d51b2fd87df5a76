"""`OpLayer`, and layers with spatial outputs: resize, soft-argmax, box corners."""

from typing import Any

import keras

from kblocks.layers.export_mode import written_as
from kblocks.plans.ops import Op

_ops: Any = keras.ops  # whose functions are typed as if they could return None


class OpLayer(keras.layers.Layer):
    """The base class of layers without weights that compute one op."""

    def __init__(self, op: Op, data_format: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._op = op
        self.data_format = data_format
        self._axis = -1 if data_format == "channels_last" else 1  # of the channels

    def to_last(self, maps: Any) -> Any:
        """Maps of this layer as (batch, height, width, channels)."""
        return maps if self._axis == -1 else _ops.transpose(maps, (0, 2, 3, 1))

    def from_last(self, maps: Any) -> Any:
        """Maps of (batch, height, width, channels) in this layer's format."""
        return maps if self._axis == -1 else _ops.transpose(maps, (0, 3, 1, 2))


class ResizeLike(OpLayer):
    """Bilinear interpolation of the first input to the size of the second.

    Computed by a matrix for each axis in training, for sizes unknown while tracing, and for ONNX,
    which rounds products to get sizes; else by the backend's resize, which LiteRT has as well, also
    in int8.
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x, like = self.to_last(inputs[0]), inputs[1]
        sides = slice(1, 3) if self._axis == -1 else slice(2, 4)
        size = like.shape[sides]
        if training or written_as("onnx") or None in (*size, *x.shape[1:3]):
            return self.from_last(_by_matrices(x, _ops.shape(like)[sides]))
        resized = _ops.image.resize(x, size, "bilinear", data_format="channels_last")
        return self.from_last(_ops.cast(resized, x.dtype))

    def compute_output_shape(self, input_shape: Any) -> Any:
        x, like = input_shape
        return (*like[:3], x[3]) if self._axis == -1 else (*x[:2], *like[2:])


def _by_matrices(x: Any, target: Any) -> Any:
    """Maps of (batch, height, width, channels), resized to the target (height, width)."""
    _, height, width, _ = _ops.shape(x)
    x = _ops.einsum("oh,bhwc->bowc", _interpolation(height, target[0], x.dtype), x)
    return _ops.einsum("ow,bhwc->bhoc", _interpolation(width, target[1], x.dtype), x)


def _interpolation(size: Any, target: Any, dtype: Any) -> Any:
    """The weights (target, size) of the old pixels in the new ones; centres lie at half pixels."""
    pixels = _ops.cast(_ops.arange(size), "float32")
    places = _ops.cast(_ops.arange(target), "float32") + 0.5
    scale = _ops.cast(size, "float32") / _ops.cast(target, "float32")
    last = _ops.cast(size, "float32") - 1.0
    places = _ops.minimum(_ops.maximum(places * scale - 0.5, 0.0), last)
    distances = _ops.abs(places[:, None] - pixels[None, :])
    return _ops.cast(_ops.maximum(1.0 - distances, 0.0), dtype)


class SoftArgmax(OpLayer):
    def call(self, inputs: Any) -> Any:
        x = _ops.transpose(inputs, (0, 3, 1, 2)) if self._axis == -1 else inputs
        shape = _ops.shape(x)
        height, width = shape[2], shape[3]
        flat = _ops.reshape(x, (-1, x.shape[1], height * width))
        wide = _ops.cast(flat, "float32")  # positions in float16 would be off by pixels
        # Not `softmax`: in int8 its steps would be larger than most of its values.
        likely = _ops.exp(wide - _ops.max(wide, axis=-1, keepdims=True))
        whole = _ops.sum(likely, axis=-1)
        likely = _ops.reshape(likely, (-1, x.shape[1], height, width))
        y = _ops.sum(_ops.sum(likely, 3) * _centres(height), -1) / whole
        x = _ops.sum(_ops.sum(likely, 2) * _centres(width), -1) / whole
        return _ops.cast(_ops.stack([y, x], -1), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0], input_shape[self._axis], 2


def _centres(size: Any) -> Any:
    """The centres of the pixels along an axis, as shares of its length."""
    places = _ops.cast(_ops.arange(size), "float32") + 0.5
    return places / _ops.cast(size, "float32")


class Corners(OpLayer):
    def call(self, inputs: Any) -> Any:
        centre, half = inputs[..., :2], 0.5 * inputs[..., 2:]
        return _ops.concatenate([centre - half, centre + half], -1)
