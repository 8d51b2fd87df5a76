"""`kb.as_matrix`: the matrix of a linear layer gives what the layer gives."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb

IMAGE = (7, 6, 4)
LAYERS: dict[str, Any] = {
    "same": lambda: keras.layers.Conv2D(3, 3, 2, "same"),
    "valid": lambda: keras.layers.Conv2D(3, (1, 5), use_bias=False),
    "dilated": lambda: keras.layers.Conv2D(3, 3, dilation_rate=2, padding="same"),
    "groups": lambda: kb.GroupedConv2D(6, 3, 2, "same", groups=2),
    "depthwise": lambda: keras.layers.DepthwiseConv2D(3, 2, "same", 2),
    "average": lambda: keras.layers.AveragePooling2D(3, 2, "same"),
    "transposed": lambda: keras.layers.Conv2DTranspose(2, 3, 2),
    "block": lambda: kb.ConvBlock(3, 3, activation=None, normalization=None, padding="symmetric"),
    "model": lambda: keras.Sequential([keras.layers.Conv2D(2, 3), keras.layers.Flatten()]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_matrix_computes_what_the_layer_computes(name: str) -> None:
    layer = LAYERS[name]()
    matrix = kb.as_matrix(layer, IMAGE)
    images = np.random.default_rng(0).standard_normal((2, *IMAGE)).astype("float32")
    outputs, bias = (
        keras.ops.convert_to_numpy(layer(x)).reshape(len(x), -1) for x in (images, 0 * images[:1])
    )
    assert matrix.shape == (outputs.shape[1], np.prod(IMAGE))
    assert np.allclose(images.reshape(2, -1) @ matrix.T + bias, outputs, atol=1e-5)


def test_a_layer_that_is_channels_first_takes_its_own_shape() -> None:
    first = kb.ConvBlock(3, 3, activation=None, normalization=None, data_format="channels_first")
    last = kb.ConvBlock(3, 3, activation=None, normalization=None, data_format="channels_last")
    last.build((None, *IMAGE))
    first.build((None, 4, 7, 6))
    first.set_weights(last.get_weights())
    matrix = kb.as_matrix(last, IMAGE).reshape(7, 6, 3, 7, 6, 4).transpose(2, 0, 1, 5, 3, 4)
    assert np.allclose(kb.as_matrix(first, (4, 7, 6)), matrix.reshape(126, 168), atol=1e-6)


def test_rows_of_a_convolution_are_one_row_shifted() -> None:
    """By hand: a kernel of two pixels on a row of four."""
    layer = keras.layers.Conv2D(1, (1, 2), use_bias=False)
    layer.build((None, 1, 4, 1))
    layer.set_weights([np.array([2.0, 5.0]).reshape(1, 2, 1, 1)])
    assert kb.as_matrix(layer, (1, 4, 1)).tolist() == [[2, 5, 0, 0], [0, 2, 5, 0], [0, 0, 2, 5]]


@pytest.mark.parametrize(
    "layer", [kb.ConvBlock(3), keras.layers.MaxPooling2D(), keras.layers.LayerNormalization()]
)
def test_other_layers_are_refused(layer: Any) -> None:
    with pytest.raises(ValueError, match=f"must be linear.*Received: {layer.name}"):
        kb.as_matrix(layer, IMAGE)


def test_a_matrix_too_large_for_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"193,600 x 50,176"):
        kb.as_matrix(keras.layers.Conv2D(4, 5), (224, 224, 1))
