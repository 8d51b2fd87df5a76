"""`SeparableConvBlock` against Keras' own layers, Xception against Keras' application."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb

LAYERS: Any = keras.layers
APPLICATIONS: Any = keras.applications


def copied(part: Any, layer: Any) -> None:
    """Gives one of our parts, or two for a separable convolution, the weights of Keras' layer."""
    if isinstance(layer, LAYERS.SeparableConv2D):
        depthwise, *pointwise = layer.get_weights()
        next(part).set_weights([depthwise.transpose(0, 1, 3, 2)])  # (h, w, 1, channels)
        next(part).set_weights(pointwise)
    else:
        next(part).set_weights(layer.get_weights())


def weighted(layer: Any) -> Any:
    """The parts of a block that have weights, in the order of its plan."""
    return (part for part in layer.layers if part.weights)


def shaken(model: Any) -> Any:
    """The model with norms off the values that they start with, and signals that stay large."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, LAYERS.BatchNormalization):
            size = layer.weights[0].shape
            values = [random.uniform(low, high, size) for low, high in ((0.8, 1.2), (-0.2, 0.2))]
            layer.set_weights([*values, *reversed(values)])
        if isinstance(layer, LAYERS.SeparableConv2D):
            depthwise, *others = layer.get_weights()
            layer.set_weights([random.normal(scale=1 / 3, size=depthwise.shape), *others])
    return model


@pytest.mark.parametrize("order", ["conv_norm_act", "act_conv_norm"])
@pytest.mark.parametrize(("strides", "padding", "bias"), [(1, "same", True), (2, "valid", False)])
def test_a_block_computes_what_layers_of_keras_do(
    order: Any, strides: int, padding: Any, bias: bool
) -> None:
    conv = LAYERS.SeparableConv2D(5, 3, strides, padding, use_bias=bias, bias_initializer="ones")
    unit = [conv, LAYERS.BatchNormalization()]
    where = 0 if order == "act_conv_norm" else len(unit)
    unit.insert(where, LAYERS.ReLU())
    theirs = shaken(keras.Sequential([keras.Input((9, 8, 4)), *unit]))
    block: Any = kb.SeparableConvBlock(5, 3, strides, padding=padding, use_bias=bias, order=order)
    x = np.random.default_rng(1).normal(size=(2, 9, 8, 4)).astype("float32")
    assert block(x).shape == (2, *theirs.output_shape[1:])
    parts = weighted(block)
    for layer in theirs.layers:
        if layer.weights:
            copied(parts, layer)
    np.testing.assert_allclose(block(x), theirs(x), atol=1e-5)
    assert block.count_params() == theirs.count_params()


def macs_of(model: Any) -> int:
    """Multiply-adds by the kernels and output shapes of Keras' layers."""
    total = 0
    for layer in model.layers:
        kernels = [w.shape for w in layer.weights if w.name.endswith("kernel")]
        pixels = np.prod(layer.output.shape[1:-1], dtype=int)  # 1 for a linear layer
        total += sum(int(np.prod(kernel)) for kernel in kernels) * int(pixels)
    return total


@pytest.mark.slow
def test_xception_is_that_of_keras() -> None:
    """Counts at 299 pixels; outputs at 96 with the weights copied over."""
    theirs = APPLICATIONS.Xception(weights=None)
    cost = kb.xception().cost((299, 299, 3))
    trainable = sum(int(np.prod(w.shape)) for w in theirs.trainable_weights)
    assert (cost.params, cost.trainable_params) == (theirs.count_params(), trainable)
    assert cost.macs == macs_of(theirs)

    options: dict[str, Any] = {"input_shape": (96, 96, 3), "classes": 7}
    theirs = shaken(APPLICATIONS.Xception(weights=None, classifier_activation=None, **options))
    ours = kb.xception(7).model((96, 96, 3))
    unnamed = [layer for layer in theirs.layers if layer.weights and "block" not in layer.name]
    shortcuts = iter(unnamed[:-1])  # a convolution and a norm each; the last is the head
    rows = [layer for layer in ours.layers if isinstance(layer, kb.Block)]
    assert [row.name for row in rows[:2]] == ["stem_block1", "stem_block2"]
    of_rows = ["block1_conv1", "block1_conv2", *(f"block{n}_" for n in range(2, 15))]
    for row, start in zip(rows[:-1], of_rows, strict=True):
        parts = weighted(row)
        for layer in theirs.layers:
            if layer.weights and layer.name.startswith(start):
                copied(parts, layer)
        for part in parts:  # what is left is the shortcut's
            part.set_weights(next(shortcuts).get_weights())
    rows[-1].set_weights(unnamed[-1].get_weights())
    assert not list(shortcuts)
    x = np.random.default_rng(2).normal(size=(2, 96, 96, 3)).astype("float32")
    adds = [layer.output.shape for layer in theirs.layers if isinstance(layer, LAYERS.Add)]
    assert [row.output.shape for row in rows[2:-2]] == adds
    expected = np.asarray(theirs(x))
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    np.testing.assert_allclose(ours(x), expected, atol=1e-4 * expected.std(), rtol=1e-4)
