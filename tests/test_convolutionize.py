"""Classifiers as fully convolutional networks: the same logits, and maps of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import kblocks as kb

Images = Callable[..., np.ndarray]
SIDE = 64
SMALL: dict[str, Any] = {"blocks": (1, 1, 1), "filters": (4, 6, 8)}


def vgg(**head: Any) -> keras.Model:
    return kb.vgg(5, **SMALL, head={"hidden": (12, 9), **head}).model((SIDE, SIDE, 3))


def of_keras(*tail: Any) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.Conv2D(4, 3, 2, "same", activation="relu"),
            layers.MaxPooling2D(4),
            *tail,
        ]
    )


# By name: a model, and the pixels of an image that one pixel of its map of logits steps by.
MODELS: dict[str, tuple[Callable[[], keras.Model], int]] = {
    "vgg": (lambda: vgg(pool_size=8), 8),
    "vgg, pooled map": (lambda: vgg(pool_size=4), 16),
    "vgg, flattened map": (lambda: vgg(pool_size=None), 8),
    "vgg, averaged": (lambda: vgg(pool="avg"), 8),
    "vgg, both pools": (lambda: vgg(pool="concat", use_bias=False), 8),
    "alexnet": (
        lambda: kb.alexnet(5, filters=(4, 5, 6, 7), head={"pool_size": 1, "hidden": (6,)}).model(
            (SIDE, SIDE, 3)
        ),
        32,
    ),
    "resnet": (lambda: kb.resnet(5, **SMALL).model((SIDE, SIDE, 3)), 16),
    "efficientnet": (lambda: kb.efficientnet_b0(5).model((SIDE, SIDE, 3)), 32),
    "softmax": (
        lambda: kb.resnet(5, **SMALL).model((SIDE, SIDE, 3), classifier_activation="softmax"),
        16,
    ),
    "Keras, flattened": (
        lambda: of_keras(
            layers.Flatten(), layers.Dropout(0.5), layers.Dense(6, "relu"), layers.Dense(5)
        ),
        8,
    ),
    "Keras, averaged": (
        lambda: of_keras(layers.GlobalAveragePooling2D(), layers.Dense(5, use_bias=False)),
        8,
    ),
    "Keras, maximum": (
        lambda: of_keras(
            layers.GlobalMaxPooling2D(),
            layers.Dense(6),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(5),
        ),
        8,
    ),
}
each_model = pytest.mark.parametrize(
    ("make", "step"), MODELS.values(), ids=[name.replace(" ", "_") for name in MODELS]
)


def shaken(model: Any) -> Any:
    """With weights that a mistaken order of pixels would not survive."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name in ("bias", "beta", "moving_mean"):
            weight.assign(random.normal(size=weight.shape) * 0.2)
    return model


@pytest.mark.thin(4)
@each_model
def test_the_same_logits_at_the_models_size(
    make: Callable[[], Any], step: int, images: Images
) -> None:
    model = shaken(make())
    x = images(3, SIDE, SIDE, 3)
    expected = np.asarray(model(x))
    found = np.asarray(kb.convolutionize(model)(x))
    assert found.shape == (3, 1, 1, 5)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.thin(4)
@each_model
def test_a_map_on_larger_images(make: Callable[[], Any], step: int, images: Images) -> None:
    model = kb.convolutionize(make())
    shape = (2, SIDE + 2 * step, SIDE + step, 3)
    expected = (2, 3, 2, 5)
    assert model.compute_output_shape(shape) == expected
    assert model(images(*shape)).shape == expected


def test_each_place_of_the_map_is_the_classifier_there(images: Images) -> None:
    """Without padding, a map of logits is the classifier slid over the image."""
    net = kb.Architecture(
        [
            kb.ConvBlock.Spec(4, 3, 2, padding="valid"),
            kb.ConvBlock.Spec(6, 3, 2, padding="valid"),
        ],
        head=kb.Classifier(5, pool="flatten", hidden=(7,)),
    )
    model = shaken(net.model((19, 19, 3)))
    x = images(1, 19 + 8, 19 + 4, 3)
    found = np.asarray(kb.convolutionize(model)(x))
    assert found.shape == (1, 3, 2, 5)
    for row in range(3):
        for column in range(2):
            crop = x[:, 4 * row : 4 * row + 19, 4 * column : 4 * column + 19]
            np.testing.assert_allclose(found[:, row, column], model(crop), rtol=1e-4, atol=1e-5)


def test_it_is_a_copy_that_saves_and_keeps_names(tmp_path: Path, images: Images) -> None:
    model = vgg(pool_size=8)
    made = kb.convolutionize(model)
    assert [layer.name for layer in made.layers] == [layer.name for layer in model.layers]
    assert made.count_params() == model.count_params()
    x = images(1, SIDE, SIDE, 3)
    before = np.asarray(made(x))
    model.get_layer("stage1").conv.kernel.assign(model.get_layer("stage1").conv.kernel * 0)
    np.testing.assert_array_equal(made(x), before)
    made.save(tmp_path / "made.keras")
    loaded = keras.models.load_model(tmp_path / "made.keras")
    np.testing.assert_allclose(loaded(x), before, rtol=1e-5, atol=1e-6)


def test_published_vgg16_of_keras() -> None:
    """Another library's classifier, by Keras' layers alone: 32x32 at least."""
    model = keras.applications.VGG16(weights=None, classes=5, input_shape=(32, 32, 3))
    x = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
    made = kb.convolutionize(model)
    np.testing.assert_allclose(made(x)[:, 0, 0], model(x), rtol=1e-5, atol=1e-6)
    assert made.compute_output_shape((1, 64, 96, 3)) == (1, 2, 3, 5)


def branched(*kinds: Any) -> keras.Model:
    """Two forms of a map side by side."""
    image = keras.Input((SIDE, SIDE, 3))
    maps = layers.Conv2D(4, 3)(image)
    both = [kind()(maps) for kind in (kinds * 2)[:2]]
    return keras.Model(image, layers.Dense(5)(layers.Concatenate()(both)))


def averaged() -> keras.Model:
    image = keras.Input((SIDE, SIDE, 3))
    return keras.Model(image, layers.Dense(5)(keras.ops.mean(image, (1, 2))))


@pytest.mark.parametrize(
    "make",
    [
        lambda: of_keras(layers.Flatten(), layers.Dense(5), layers.Softmax(axis=1)),
        lambda: of_keras(
            layers.Flatten(), layers.Dense(6), layers.BatchNormalization(axis=1), layers.Dense(5)
        ),
        lambda: branched(layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D),
        lambda: of_keras(
            layers.Conv2D(6, 8), layers.Flatten(), layers.BatchNormalization(), layers.Dense(5)
        ),
    ],
    ids=["softmax", "batch norm", "pools side by side", "one pixel flattened"],
)
def test_what_works_on_features_works_on_the_maps_channels(
    make: Callable[[], Any], images: Images
) -> None:
    model = shaken(make())
    x = images(2, SIDE, SIDE, 3)
    np.testing.assert_allclose(
        np.reshape(kb.convolutionize(model)(x), (2, 5)), model(x), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: kb.resnet(5, **SMALL).model((None, None, 3)), "known height"),
        (lambda: vgg(pool_size=3), "windows"),
        (lambda: of_keras(layers.Flatten(), layers.Reshape((16, 16)), layers.Dense(5)), "reshape"),
        (lambda: of_keras(layers.Flatten(), layers.LayerNormalization()), "layer_normalization"),
        (lambda: of_keras(layers.Reshape((-1,)), layers.Dense(5)), "reshape"),
        (lambda: of_keras(layers.Permute((3, 1, 2)), layers.Flatten()), "permute"),
        (lambda: of_keras(layers.Flatten(), layers.BatchNormalization()), "flattened map"),
        (lambda: of_keras(layers.Flatten(), layers.Softmax(), layers.Dense(5)), "flattened map"),
        (lambda: branched(layers.Flatten), "joins flattened maps"),
        (lambda: averaged(), "mean.* no convolutional form"),
        (lambda: kb.resnet(3, **SMALL, head=kb.BoxRegressor()).model((SIDE, SIDE, 3)), "head"),
        (lambda: keras.Sequential([keras.Input((3,)), layers.Dense(2)]), "one map"),
        (lambda: "model", "one map"),
    ],
)
def test_models_without_a_convolutional_form(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kb.convolutionize(make())
