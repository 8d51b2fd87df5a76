"""A new head on a trained model: the body's weights stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb

INPUT = (32, 32, 3)
ROWS: list[Any] = [
    ("stem", kb.ConvBlock.Spec(4, strides=4)),
    [kb.ResidualBlock.Spec(4)],
    [kb.ResidualBlock.Spec(6, strides=2)],
]
NET = kb.Architecture(ROWS, head=kb.Classifier(3))
HEADS: dict[str, Callable[[], Any]] = {
    "classes": lambda: kb.Classifier(5, hidden=(8,)),
    "pixels": lambda: kb.Segmenter(2, stride=4),
    "boxes": lambda: kb.Localizer(2),
    "several": lambda: {"kind": kb.Classifier(5), "points": kb.Keypoints(2)},
}


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, *INPUT)).astype("float32")


def scaled(net: keras.Model) -> keras.Model:
    return keras.Sequential([keras.Input(INPUT), keras.layers.Rescaling(0.5), net])


def outputs(model: keras.Model, x: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(y) for y in keras.tree.flatten(model(x, training=False))]


@pytest.mark.parametrize("wrap", [None, scaled], ids=["flat", "wrapped"])
@pytest.mark.parametrize("kind", HEADS)
def test_the_model_is_that_of_the_architecture_with_the_new_head(kind: str, wrap: Any) -> None:
    """Which is built on its own, and gets the new model's weights by the layers' names."""
    trained = NET.model(INPUT)
    body = trained.get_layer("stage3_block1").get_weights()
    model = kb.replace_head(wrap(trained) if wrap else trained, HEADS[kind]())
    expected = kb.Architecture(ROWS, head=HEADS[kind]()).model(INPUT)
    inner = (
        next(layer for layer in model.layers if isinstance(layer, keras.Model)) if wrap else model
    )
    for layer in expected.layers:
        layer.set_weights(inner.get_layer(layer.name).get_weights())
    for mine, own in zip(body, inner.get_layer("stage3_block1").get_weights(), strict=True):
        np.testing.assert_array_equal(mine, own)
    x = images()
    given = outputs(model, x)
    wanted = outputs(expected, 0.5 * x if wrap else x)
    for mine, own in zip(given, wanted, strict=True):
        np.testing.assert_allclose(mine, own, atol=1e-5)
    structure = expected.output
    names = list(structure) if isinstance(structure, dict) else None
    assert (list(model.output) if isinstance(model.output, dict) else None) == names
    model.compile("sgd", **kb.Architecture(ROWS, head=HEADS[kind]()).head.training())


def test_a_loaded_model_gets_other_classes_and_trains(tmp_path: Path) -> None:
    NET.model(INPUT).save(tmp_path / "m.keras")
    loaded: Any = keras.models.load_model(tmp_path / "m.keras")
    model = kb.freeze(kb.replace_head(loaded, kb.Classifier(5)), "stage3")
    assert {w.path.split("/")[0] for w in model.trainable_weights} == {"head"}
    np.testing.assert_array_equal(
        outputs(kb.extract(model, "stage3"), images())[0],
        outputs(kb.extract(loaded, "stage3"), images())[0],
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images(), np.array([0, 4]), verbose=0)
    model.save(tmp_path / "n.keras")
    again: Any = keras.models.load_model(tmp_path / "n.keras")
    np.testing.assert_allclose(outputs(again, images())[0], outputs(model, images())[0], atol=1e-6)


def test_what_stands_behind_the_head_stays() -> None:
    softened = NET.model(INPUT, classifier_activation="softmax")
    wrapped = keras.Sequential([keras.Input(INPUT), NET.model(INPUT), keras.layers.Softmax()])
    for model in (softened, wrapped):
        new = kb.replace_head(model, kb.Classifier(5))
        np.testing.assert_allclose(outputs(new, images())[0].sum(1), 1, atol=1e-6)
        assert new.output_shape == (None, 5)
    with pytest.raises(ValueError, match=r"must end in its head.*logits_activation behind it"):
        kb.replace_head(softened, HEADS["several"]())


def test_prefixes_and_auxiliary_outputs() -> None:
    model = kb.replace_head(NET.model(INPUT, prefix="rgb_"), kb.Classifier(5), prefix="rgb_")
    assert [layer.name for layer in model.layers][-1] == "rgb_head"
    rows = [("stem", kb.ConvBlock.Spec(4)), ("aux", kb.AuxiliaryClassifier.Spec(3), "stem")]
    net = kb.Architecture(
        [*rows, ("stage1", kb.ConvBlock.Spec(4), "stem")], head=kb.Classifier(3), auxiliary=["aux"]
    )
    new = kb.replace_head(net.model((64, 64, 3), aux=True), kb.Classifier(5))
    assert [layer.name for layer in new.layers[1:]] == ["stem", "stage1", "head"]
    assert new.output_shape == (None, 5)


def test_what_has_no_head_or_two_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have one head.*a model with none"):
        kb.replace_head(NET.model(INPUT, include_top=False), kb.Classifier(5))
    image = keras.Input(INPUT)
    both = [NET.model(INPUT, name=name)(image) for name in ("one", "two")]
    with pytest.raises(ValueError, match="a model with one/head, two/head"):
        kb.replace_head(keras.Model(image, both), kb.Classifier(5))
    with pytest.raises(ValueError, match="needs a map at stride 2"):
        kb.replace_head(NET.model(INPUT), kb.Segmenter(2, stride=2))
