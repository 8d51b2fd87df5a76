"""MixUp and CutMix in a recipe: the loss by hand from the images that a step has seen."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from mixtures import (
    CLASSES,
    COLOURED,
    NUMBER,
    ONE_HOT,
    WEIGHTS,
    Seen,
    X,
    Y,
    classifier,
    cross_entropy,
)
from scenes import HEADS, network

import kblocks as kb
from kblocks.training.augmentation import OneAtATime

CASES: list[tuple[dict[str, Any], Any, dict[str, Any]]] = [
    ({"augmentation": "mixup"}, Y, {}),
    ({"augmentation": "cutmix"}, Y[:, None], {}),
    ({"augmentation": "mixup+cutmix", "label_smoothing": 0.2}, Y, {}),
    ({"augmentation": keras.layers.MixUp(1.0), "loss": "categorical"}, ONE_HOT, {}),
    ({"augmentation": "mixup", "loss": "sparse_categorical_crossentropy"}, Y, {}),
    ({"augmentation": "mixup"}, Y, {"sample_weight": WEIGHTS}),
    ({"augmentation": "cutmix"}, Y, {"class_weight": {0: 1.0, 1: 3.0, 2: 0.5}}),
]


@pytest.mark.parametrize(("recipe", "labels", "given"), CASES, ids=lambda case: str(case)[:40])
def test_the_loss_is_that_of_all_labels_in_their_shares(
    recipe: dict[str, Any], labels: Any, given: dict[str, Any]
) -> None:
    """With weights, that of each image counts with its own; accuracy is for the largest share."""
    seen = Seen(classifier(), kb.Recipe(**recipe), X, labels, **given)
    assert np.allclose(seen.shares.sum(1), 1)
    assert (np.count_nonzero(seen.shares > 1e-6, 1) > 1).sum() > 0
    weights = given.get("sample_weight", np.ones(NUMBER))
    if "class_weight" in given:
        weights = np.array([given["class_weight"][label] for label in Y])
    losses = cross_entropy(seen.outputs, recipe.get("label_smoothing", 0.0))
    expected = (seen.shares * weights * losses).sum() / NUMBER
    assert seen.logs["loss"] == pytest.approx(expected, rel=1e-4)
    right = np.argmax(seen.outputs, 1) == Y[np.argmax(seen.shares, 1)]
    assert seen.logs["accuracy"] == pytest.approx(right.mean())


def test_all_heads_are_mixed_alike_and_validation_is_not() -> None:
    """Two classifiers, one with a weight; the second head's classes are one higher."""
    heads = {"one": kb.Classifier(CLASSES), "two": kb.Classifier(CLASSES, loss_weight=0.5)}
    model: Any = network(heads).model(X.shape[1:])
    y = {"one": Y, "two": (Y + 1) % CLASSES}
    seen = Seen(model, kb.Recipe(augmentation="mixup"), X, y)
    losses = {name: cross_entropy(outputs) for name, outputs in seen.outputs.items()}
    one = (seen.shares * losses["one"]).sum() / NUMBER
    two = (seen.shares * losses["two"][:, (Y + 1) % CLASSES]).sum() / NUMBER
    assert seen.logs["one_loss"] == pytest.approx(one, rel=1e-4)
    assert seen.logs["two_loss"] == pytest.approx(two, rel=1e-4)
    assert seen.logs["loss"] == pytest.approx(one + 0.5 * two, rel=1e-4)
    found = model.evaluate(X, y, batch_size=NUMBER, verbose=0, return_dict=True)
    np.testing.assert_array_equal(seen.x, X)
    losses = cross_entropy(model(X, training=False)["one"])
    assert found["one_loss"] == pytest.approx(np.diag(losses).mean(), rel=1e-4)


def test_the_loss_of_an_auxiliary_classifier_is_mixed_too() -> None:
    model: Any = network(kb.Classifier(CLASSES), aux=True).model(X.shape[1:], aux=True)
    seen = Seen(model, kb.Recipe(augmentation="cutmix"), X, Y)
    main, aux = (
        (seen.shares * cross_entropy(seen.outputs[name])).sum() / NUMBER for name in seen.outputs
    )
    weight = model.auxiliary["aux"][1]
    assert list(seen.outputs) == ["logits", "aux"]
    assert seen.logs["loss"] == pytest.approx(main + weight * aux, rel=1e-4)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_traced_step_learns_mixed_images(policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    model = classifier(3)
    recipe = kb.Recipe(learning_rate=0.1, augmentation="mixup+cutmix", ema=0.5, clip=1.0)
    recipe.compile(model)
    callbacks = recipe.callbacks(8)
    model.fit(COLOURED, Y, epochs=8, batch_size=3, callbacks=callbacks, verbose=0)
    assert model.evaluate(COLOURED, Y, verbose=0, return_dict=True)["accuracy"] == 1


@pytest.mark.parametrize("augmentation", ["mixup", "cutmix", ["flip", keras.layers.MixUp()]])
@pytest.mark.parametrize("head", ["mask", "box", "objects", "points", None])
def test_what_cannot_be_mixed_is_refused_by_name(augmentation: Any, head: Any) -> None:
    model = network(HEADS[head] if head else HEADS).model((24, 32, 3))
    name = "CutMix" if augmentation == "cutmix" else "MixUp"
    targets = "mask, box, objects, points" if head is None else ".+"
    with pytest.raises(ValueError, match=rf"classifiers only.*Received: {name} for.* {targets}$"):
        kb.Recipe(augmentation=augmentation).compile(model)


def test_other_inputs_and_sums_are_refused() -> None:
    image, table = keras.Input((8, 8, 1)), keras.Input((4,), name="table")
    features = [keras.layers.Flatten()(image), table]
    both = keras.Model([image, table], keras.layers.Dense(3)(keras.layers.Concatenate()(features)))
    with pytest.raises(ValueError, match=r"all inputs are images.*MixUp for .* inputs table"):
        kb.Recipe(augmentation="mixup").compile(both)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    with pytest.raises(ValueError, match=r"a mean over the batch.*CutMix for .*'sum'"):
        kb.Recipe(augmentation="cutmix", loss=loss).compile(classifier())


def test_names_of_augmentations_are_choices_and_layers_may_be() -> None:
    names = ["erasing", "flip+mixup", "shift+randaugment+erasing+cutmix"]
    recipe = kb.Recipe(augmentation=kb.choice(None, *names, keras.layers.MixUp(0.4)))
    (kind,) = recipe.tree().dimensions.values()
    assert kind.kind.written[:4] == ("None", *names)


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_computes_what_keras_does(channels: int) -> None:
    """With the same random numbers; Keras computes every operation and throws most away."""
    images = np.random.default_rng(1).uniform(size=(4, 10, 8, channels)).astype("float32")
    for seed in range(4):
        given: Any = {"value_range": (0, 1), "factor": 0.3, "seed": seed, "num_ops": 1}
        theirs = keras.layers.RandAugment(**given)(images, training=True)
        mine = OneAtATime(**given)(images, training=True)
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["randaugment", "erasing"])
def test_labels_stay_where_no_images_are_mixed(name: str) -> None:
    """And values from 0 to 1 stay between them."""
    seen = Seen(classifier(3), kb.Recipe(augmentation=name), COLOURED, Y)
    assert not np.allclose(seen.x, COLOURED)
    assert seen.x.min() >= 0
    assert seen.x.max() <= 1
    expected = np.diag(cross_entropy(seen.outputs)).mean()
    assert seen.logs["loss"] == pytest.approx(expected, rel=1e-4)
