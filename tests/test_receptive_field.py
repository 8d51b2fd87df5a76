"""Receptive fields, against published values and against gradients."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import kblocks as kb

# Araujo et al. 2019, Computing Receptive Fields of Convolutional Neural Networks, table 1, of the
# networks in TF-Slim; its ResNets have the strides that the paper's first 1x1 convolutions have.
PUBLISHED = {
    "alexnet": 195,
    "vgg16": 212,
    "inception_v3": 1311,
    "inception_v4": 2071,
    "inception_resnet_v2": 3039,
}


def fields(net: Any, size: int) -> dict[str, Any]:
    return {name: cost.receptive_field for name, cost in net.stages((size, size, 3))}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_the_published_fields(name: str) -> None:
    found = fields(kb.architecture(name), 299)
    assert list(found.values())[-2:] == [(PUBLISHED[name],) * 2, None]  # the head pools globally


@pytest.mark.parametrize(("blocks", "side"), [((3, 4, 6, 3), 483), ((3, 4, 23, 3), 1027)])
def test_residual_networks_have_the_published_fields(blocks: Any, side: int) -> None:
    net = kb.resnet(block="bottleneck", blocks=blocks, variant="v1")
    assert fields(net, 224)["stage4"] == (side, side)


LINEAR: Any = {"activation": None, "normalization": None}
NETS = {
    "strides, pools, dilation": [
        kb.ConvBlock.Spec(2, 5, strides=2, pool="avg", pool_size=(1, 3), **LINEAR),
        kb.ConvBlock.Spec(2, (3, 1), dilation_rate=2, convolutions=2, **LINEAR),
    ],
    "valid, residual": [
        kb.ResidualBlock.Spec(2, kernel_size=(3, 5), padding="valid", **LINEAR),
        kb.ResidualBlock.Spec(2, strides=2, padding="symmetric", **LINEAR),
        kb.ConvBlock.Spec(2, 3, **LINEAR),
    ],
    "branches": [
        kb.InceptionBlock.Spec((2, (2, 2), ("avg", 2)), (1, (1, 7), 3), **LINEAR),
        kb.InceptionBlock.Spec((2, (2, 2, 2)), (3, 3), strides=2, **LINEAR),
    ],
}


@pytest.mark.parametrize("name", NETS)
def test_a_field_holds_the_pixels_that_have_a_gradient(name: str) -> None:
    """Positive weights, so that nothing cancels, and a pixel far from all edges."""
    net = kb.Architecture(NETS[name], head=kb.Classifier(2))
    model = kb.extract(net.model((64, 64, 1)), list(dict(net.stages((64, 64, 1))))[-2])
    model.set_weights([np.abs(weight) + 0.1 for weight in model.get_weights()])
    image = tf.Variable(tf.ones((1, 64, 64, 1)))
    with tf.GradientTape() as tape:
        outputs = model(image)
        middle = tf.reduce_sum(outputs[0, outputs.shape[1] // 2, outputs.shape[2] // 2])
    rows, columns = np.nonzero(keras.ops.convert_to_numpy(tape.gradient(middle, image))[0, ..., 0])
    seen = (int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)
    assert net.stages((64, 64, 1))[-2][1].receptive_field == seen


def test_gates_are_left_out_and_drawings_show_the_field() -> None:
    rows = [kb.MBConvBlock.Spec(4, 5), kb.ConvBlock.Spec(4, (1, 3))]
    net = kb.Architecture(rows, head=kb.Classifier(2))
    expected = {"stage1": (5, 5), "stage2": (5, 7), "head": None}  # squeeze-and-excitation sees all
    assert fields(net, 16) == expected
    assert ">5 x 7<" in kb.draw(net, input_shape=(16, 16, 3))
