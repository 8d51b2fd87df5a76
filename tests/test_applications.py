"""Scripts of Keras Tuner's guides and tests for its applications, with the import changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest
from keras_tuner.applications import HyperImageAugment

import kblocks as kb

ALL = [kb.tuner.HyperResNet, kb.tuner.HyperEfficientNet, kb.tuner.HyperXception]
ONE_HOT = np.eye(10, dtype="float32")


def images(*shape: int) -> tuple[Any, Any]:
    x = np.random.default_rng(0).random((10, *shape), "float32")
    return x, ONE_HOT


def small(kind: Any, **given: Any) -> Any:
    """With a budget, so that tests are quick."""
    return kind(**{"classes": 10, **given}).within(kb.Budget(params=1_000_000))


@pytest.mark.parametrize(
    "kind", [ALL[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in ALL[1:])]
)
def test_a_model_is_built_and_trained(kind: Any) -> None:
    hp = keras_tuner.HyperParameters()
    model = small(kind, input_shape=(16, 16, 3)).build(hp)
    assert model.count_params() <= 1_000_000
    assert model.name == kind.__name__.removeprefix("Hyper")
    assert model.output_shape == (None, 10)
    assert hp.get("learning_rate") == 0.01
    x, y = images(16, 16, 3)
    np.testing.assert_allclose(model.predict_on_batch(x).sum(1), 1, rtol=1e-5)
    model.train_on_batch(x, y)


def test_features_without_a_top() -> None:
    inputs = keras.Input((16, 16, 3))
    model = kb.tuner.HyperResNet(input_tensor=inputs, include_top=False).build(
        keras_tuner.HyperParameters()
    )
    assert model.inputs == [inputs]
    assert model.output_shape == (None, 512)
    assert not model.compiled


def test_images_are_augmented() -> None:
    hp = keras_tuner.HyperParameters()
    shape = (16, 16, 3)
    augment = HyperImageAugment(input_shape=shape)
    model = kb.tuner.HyperEfficientNet(shape, None, 10, augment).build(hp)
    assert model.layers[1].name == "image_rand_augment"
    assert "factor_rotate" in hp.values
    fixed = keras.Sequential([keras.layers.RandomFlip()], name="aug")
    model = kb.tuner.HyperResNet(input_shape=shape, classes=10, augmentation_model=fixed)
    assert model.build(keras_tuner.HyperParameters()).layers[1].name == "aug"


def test_a_subclass_compiles_in_its_own_way() -> None:
    class Mine(kb.tuner.HyperEfficientNet):
        def _compile(self, model: Any, hp: Any) -> None:
            optimizer = hp.Choice("optimizer", ["adam", "sgd"], default="adam")
            model.compile(optimizer=optimizer, loss="categorical_crossentropy")

    hp = keras_tuner.HyperParameters()
    Mine(input_shape=(16, 16, 3), classes=5).build(hp)
    assert "learning_rate" not in hp.values
    assert hp.values["optimizer"] == "adam"


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="`classes` must be given with include_top=True"):
        kb.tuner.HyperResNet(input_shape=(32, 32, 3))
    with pytest.raises(ValueError, match="`input_shape` or `input_tensor` must be given"):
        kb.tuner.HyperXception(classes=10)
    with pytest.raises(ValueError, match="`augmentation_model` must be a keras"):
        kb.tuner.HyperEfficientNet(input_shape=(32, 32, 3), classes=10, augmentation_model=0)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_script_of_the_guide_runs(tmp_path: Path) -> None:
    """keras.io/keras_tuner/getting_started, the part on HyperResNet."""
    x_train, y_train = x_val, y_val = images(28, 28, 1)
    hypermodel = kb.tuner.HyperResNet(input_shape=(28, 28, 1), classes=10)
    tuner = keras_tuner.RandomSearch(
        hypermodel,
        objective="val_accuracy",
        max_trials=2,
        overwrite=True,
        directory=tmp_path,
        project_name="built_in_hypermodel",
    )
    tuner.search(x_train[:100], y_train[:100], epochs=1, validation_data=(x_val, y_val), verbose=0)
    assert tuner.get_best_models()[0].output_shape == (None, 10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["RandomSearch", "Hyperband"])
def test_only_the_learning_rate_is_tuned(kind: str, tmp_path: Path) -> None:
    """keras.io/guides/keras_tuner/tailor_the_search_space, the part on HyperXception."""
    x, y = images(28, 28, 1)
    hypermodel = small(kb.tuner.HyperXception, input_shape=(28, 28, 1))
    hp = keras_tuner.HyperParameters()
    hp.Choice("learning_rate", values=[0.3, 0.2])
    tuner = getattr(keras_tuner, kind)(
        hypermodel,
        hyperparameters=hp,
        tune_new_entries=False,
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        objective="val_accuracy",
        **({"max_trials": 2} if kind == "RandomSearch" else {"max_epochs": 2, "factor": 2}),
        overwrite=True,
        directory=tmp_path,
        project_name="helloworld",
    )
    tuner.search(x, y.argmax(1), epochs=1, validation_data=(x, y.argmax(1)), verbose=0)
    for trial in tuner.oracle.trials.values():
        assert trial.hyperparameters.get("learning_rate") in (0.3, 0.2)
        assert trial.status == "COMPLETED"


@pytest.mark.slow
def test_our_tuner_searches_with_augmentation(tmp_path: Path) -> None:
    x, y = images(16, 16, 3)
    augment = HyperImageAugment(input_shape=(16, 16, 3), augment_layers=0)
    hypermodel = kb.tuner.HyperResNet(
        input_shape=(16, 16, 3), classes=10, augmentation_model=augment, latency=False
    )
    budget = kb.Budget(params=100_000)
    tuner = kb.tuner.Tuner(hypermodel, trials=2, budget=budget, workers=0, directory=tmp_path)
    run = tuner.search(x, y, validation_data=(x, y), verbose=0)
    assert [trial.state for trial in run.trials] == ["completed"] * 2
    assert all(trial.costs["params"] <= 100_000 for trial in run.trials)
    assert {"learning_rate", "factor_rotate"} <= set(run.trials[1].values)
    assert tuner.get_best_models()[0].layers[1].name == "image_augment"
