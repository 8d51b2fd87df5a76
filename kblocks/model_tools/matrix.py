"""`as_matrix`: a convolution as the linear layer that it is."""

from typing import Any

import keras
import numpy as np

_LARGEST = 50_000_000  # entries: 200 MB in float32
_STEP = 256  # inputs at a time


def as_matrix(layer: Any, input_shape: tuple[int, ...]) -> np.ndarray:
    """The matrix that a linear layer multiplies its flattened input with.

    A convolution's rows hold the same few weights at shifted places, and zeros elsewhere.

    Args:
        layer: a Keras layer or model that is linear up to a bias, with one input and one output: a
            convolution, an average pool, a block with `activation=None`, a batch normalization in
            inference. The bias is what it gives for zeros.
        input_shape: the shape of one input as the layer takes it, without the batch.

    Returns:
        An array (output elements, input elements), both in the order of `flatten()`.

    Raises:
        ValueError: if the layer is not linear, or the matrix has over 50 million entries.

    Example:
        >>> matrix = kb.as_matrix(keras.layers.Conv2D(4, 3, use_bias=False), (6, 6, 3))
        >>> matrix.shape  # 4 x 4 x 4 outputs
        (64, 108)
    """
    shape = tuple(input_shape)
    inputs = int(np.prod(shape))
    bias = _outputs(layer, np.zeros((1, *shape), "float32"))[0]
    if inputs * bias.size > _LARGEST:
        raise ValueError(
            f"`input_shape` must be small enough for a matrix of {_LARGEST:,} entries. Received: "
            f"input_shape={shape} ({bias.size:,} x {inputs:,} entries)"
        )
    matrix = np.empty((bias.size, inputs), bias.dtype)
    for start in range(0, inputs, _STEP):
        ones = np.eye(min(_STEP, inputs - start), inputs, start, "float32")
        found = _outputs(layer, ones.reshape(-1, *shape))
        matrix[:, start : start + len(found)] = (found - bias).T
    tried = 10 * np.random.default_rng(0).standard_normal((4, inputs), "float32")
    outputs = _outputs(layer, tried.reshape(-1, *shape))
    if not np.allclose(tried @ matrix.T + bias, outputs, rtol=0, atol=0.02 * np.abs(outputs).max()):
        raise ValueError(
            "`layer` must be linear: no activation, max pool, or normalization by statistics of "
            f"its input. Received: {layer.name} ({type(layer).__name__})"
        )
    return matrix


def _outputs(layer: Any, images: np.ndarray) -> np.ndarray:
    """The flattened outputs for a batch of images, in inference."""
    outputs = layer(keras.ops.convert_to_tensor(images), training=False)
    found: Any = keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))
    return found.reshape(len(images), -1)
