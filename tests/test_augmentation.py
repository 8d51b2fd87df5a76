"""Augmentation by a recipe: what a training step sees, and what nothing else sees."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import optuna
import pytest
from spaces import plain_net

import kblocks as kb
from kblocks.tuner.storing.identity import text_of

SHAPE = (8, 16, 2)
NUMBER = 48
RANDOM = np.random.default_rng(4)
X = RANDOM.normal(size=(NUMBER, *SHAPE)).astype("float32")
Y = RANDOM.integers(0, 2, NUMBER).astype("int32")
NAMES = ["flip", "shift", "flip+shift"]


@keras.saving.register_keras_serializable("tests")
class Seen(keras.layers.Layer):
    """Keeps the last images that it met in training and elsewhere."""

    def build(self, shape: Any) -> None:
        """Two variables of the shape of a batch."""
        batch = {"shape": (NUMBER, *shape[1:]), "trainable": False, "autocast": False}
        self.trained = self.add_weight(name="trained", **batch)
        self.tested = self.add_weight(name="tested", **batch)

    def call(self, images: Any, training: bool = False) -> Any:
        """The images."""
        (self.trained if training else self.tested).assign(images)
        return images


class Labels(keras.Metric):
    """Keeps the last labels of a batch."""

    def __init__(self, name: str = "labels", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.last = self.add_variable((NUMBER,), "zeros", name="last")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """The labels of this batch."""
        self.last.assign(keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "float32"))

    def result(self) -> Any:
        """As one number, by which their order counts."""
        return keras.ops.sum(self.last * keras.ops.arange(NUMBER, dtype="float32"))

    def reset_state(self) -> None:
        """Nothing to forget."""


def seeing(shape: tuple[int, ...] = SHAPE) -> keras.Model:
    inputs = keras.Input(shape, NUMBER)
    features = keras.layers.GlobalAveragePooling2D()(Seen(name="seen")(inputs))
    return keras.Model(inputs, keras.layers.Dense(2)(features))


def compiled(augmentation: Any, **arguments: Any) -> keras.Model:
    model = seeing()
    kb.Recipe(augmentation=augmentation, **arguments).compile(model)
    return model


def trained_on(model: keras.Model) -> np.ndarray:
    return keras.ops.convert_to_numpy(model.get_layer("seen").trained)


def fit(model: keras.Model, x: Any = X, y: Any = Y, **arguments: Any) -> np.ndarray:
    """What the last step of training saw."""
    model.fit(x, y, **{"batch_size": NUMBER, "shuffle": False, "verbose": 0, **arguments})
    return trained_on(model)


def versions(image: np.ndarray, name: str) -> dict[tuple[int, int, bool], np.ndarray]:
    """Every allowed version of an image, by how far it was moved and whether it was flipped."""
    rows, columns = (1, 2) if "shift" in name else (0, 0)  # an eighth of 8 and of 16
    padded = np.pad(image, ((rows, rows), (columns, columns), (0, 0)), mode="edge")
    found = {}
    for down in range(2 * rows + 1):
        for right in range(2 * columns + 1):
            cut = padded[down : down + image.shape[0], right : right + image.shape[1]]
            found[down, right, False] = cut
            if "flip" in name:
                found[down, right, True] = cut[:, ::-1]
    return found


def which(seen: np.ndarray, name: str) -> list[tuple[int, int, bool]]:
    """Which version of each image was seen; fails where it is none."""
    moves = []
    for image, changed in zip(X, seen, strict=True):
        fits = [k for k, v in versions(image, name).items() if np.array_equal(v, changed)]
        assert len(fits) == 1
        moves += fits
    return moves


@pytest.mark.parametrize("name", NAMES)
def test_each_image_is_one_of_its_allowed_versions(name: str) -> None:
    """All versions come, about equally often, in every epoch anew; the labels stay."""
    model = compiled(name, metrics=[Labels()])
    moves: Counter[Any] = Counter()
    steps = set()
    for _ in range(20):
        found = which(fit(model), name)
        steps.add(tuple(found))
        moves.update(found)
        labels = model.get_metrics_result()["labels"]
        assert float(labels) == (Y * np.arange(NUMBER)).sum()
    assert len(steps) == 20
    assert set(moves) == set(versions(X[0], name))
    expected = 20 * NUMBER / len(moves)
    for count in moves.values():  # five standard deviations of a count
        assert abs(count - expected) < 5 * np.sqrt(expected)
    directions = list(zip(*moves.elements(), strict=True))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        if min(len(set(directions[one])), len(set(directions[other]))) > 1:
            assert abs(np.corrcoef(directions[one], directions[other])[0, 1]) < 0.16


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_training_sees_it(name: str, tmp_path: Path) -> None:
    model = compiled(name)
    model.fit(X, Y, batch_size=NUMBER, validation_data=(X, Y), shuffle=False, verbose=0)
    tested = model.get_layer("seen").tested
    assert not np.array_equal(trained_on(model), X)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(tested), X)
    for use, data in ((model.evaluate, (X, Y)), (model.predict, (X,))):
        tested.assign(np.zeros_like(X))
        use(*data, batch_size=NUMBER, verbose=0)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(tested), X)
    assert len(model.layers) == len(seeing().layers)
    assert model.count_params() == seeing().count_params()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(X, batch_size=NUMBER, verbose=0),
        model.predict(X, batch_size=NUMBER, verbose=0),
        rtol=1e-6,
    )
    np.testing.assert_array_equal(fit(loaded), X)


@pytest.mark.parametrize("augmentation", ["flip+shift", keras.layers.RandomFlip("horizontal")])
def test_the_same_seed_gives_the_same_images(augmentation: Any) -> None:
    """Also when training goes on: the number of the step decides."""
    found = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        model = compiled(augmentation)
        found.append([fit(model), fit(model)])
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0][0], found[2][0])
    assert not np.array_equal(found[0][0], found[0][1])


def test_layers_of_keras_alone_and_in_lists() -> None:
    flip = keras.layers.RandomFlip("horizontal", seed=3)
    for augmentation in (flip, [flip], ["shift", flip], (None, flip, "shift")):
        name = "flip+shift" if "shift" in np.atleast_1d(augmentation).tolist() else "flip"
        moves = which(fit(compiled(augmentation)), name)
        assert {flipped for _, _, flipped in moves} == {True, False}
    assert flip.generator.state.numpy().tolist() == [3, 0]  # each model has its own


def test_compiling_again_ends_it() -> None:
    model = compiled("flip+shift")
    which(fit(model), "flip+shift")
    kb.Recipe().compile(model)
    np.testing.assert_array_equal(fit(model), X)
    kb.Recipe(augmentation="flip").compile(model)
    assert {move[:2] for move in which(fit(model), "flip")} == {(0, 0)}
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    np.testing.assert_array_equal(fit(model), X)


def test_whole_numbers_stay_whole() -> None:
    images = RANDOM.integers(0, 256, X.shape).astype("uint8")
    model = compiled("shift")
    seen = fit(model, images)
    assert set(np.unique(seen)) <= set(range(256))
    assert not np.array_equal(seen, images)


@pytest.mark.thin(5)
@pytest.mark.parametrize("form", ["arrays", "dataset", "batches", "weights", "split"])
def test_every_form_of_data_goes_through_the_hypermodel(form: str) -> None:
    """A shift alone leaves a constant image as it is: each class is one here."""
    bright = np.ones((NUMBER, *SHAPE), "float32") * Y[:, None, None, None]
    space = kb.Space(plain_net, filters=(4, 4)).within(SHAPE)
    recipe = kb.Recipe(learning_rate=0.05, augmentation=kb.choice("flip+shift", None))
    hypermodel = kb.tuner.HyperModel(space, recipe, latency=False)
    hp = keras_tuner.HyperParameters()
    model = hypermodel.build(hp)
    assert hp.values["recipe.augmentation"] == "flip+shift"
    data: dict[str, Any] = {"x": bright, "y": Y}
    if form == "dataset":
        tf = pytest.importorskip("tensorflow")
        data = {"x": tf.data.Dataset.from_tensor_slices((bright, Y)).batch(16)}
    elif form == "batches":

        class Batches(keras.utils.PyDataset):
            def __len__(self) -> int:
                return 3

            def __getitem__(self, index: int) -> Any:
                return bright[index::3], Y[index::3]

        data = {"x": Batches()}
    elif form == "weights":
        data["sample_weight"] = np.ones(NUMBER)
    elif form == "split":
        data["validation_split"] = 0.25
    history = hypermodel.fit(hp, model, epochs=15, verbose=0, **data).history
    assert history["loss"][-1] < history["loss"][0] / 2


def test_channels_first() -> None:
    keras.config.set_image_data_format("channels_first")
    model = keras.Sequential(
        [keras.Input((2, 8, 16), NUMBER), Seen(name="seen"), keras.layers.Flatten()]
    )
    model.add(keras.layers.Dense(2))
    kb.Recipe(augmentation="flip+shift").compile(model)
    which(fit(model, X.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1), "flip+shift")


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_policies(policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    model = compiled("flip")
    images = X.astype("float16") if policy == "mixed_float16" else X
    kept = [np.array_equal(*pair) for pair in zip(images, fit(model), strict=True)]
    flipped = [
        np.array_equal(*pair) for pair in zip(images[:, :, ::-1], trained_on(model), strict=True)
    ]
    assert flipped == [not same for same in kept]
    assert len(set(kept)) == 2


@pytest.mark.parametrize(
    "wrong", ["flop", "shift+flip", "mixup+mixup", 3, True, ["flip", 3], keras.layers.CutMix]
)
def test_what_is_no_augmentation_is_refused(wrong: Any) -> None:
    for given in (wrong, kb.choice(None, wrong), ["flip", kb.choice("flip", wrong)]):
        with pytest.raises(ValueError, match=r"`augmentation` must be None, 'flip'.*Received: aug"):
            kb.Recipe(augmentation=given)


def test_a_search_knows_its_augmentation_again() -> None:
    """Whatever a layer is called in a process; another one is another search."""
    texts = [
        text_of(kb.Recipe(augmentation=["flip", keras.layers.RandomRotation(factor)]))
        for factor in (0.1, 0.1, 0.2)
    ]
    assert texts[0] == texts[1] != texts[2]


# --- a recipe under Optuna -----------------------------------------------------------------

RECIPE = kb.Recipe(
    optimizer=kb.choice("adam", "sgd"),
    learning_rate=kb.real(1e-3, 1e-1, log=True),
    weight_decay=kb.choice(None, 1e-4),
    schedule=kb.choice("cosine", None),
    augmentation=kb.choice(None, "flip", [keras.layers.RandomFlip("horizontal"), "shift"]),
)


def test_a_trial_of_optuna_gives_plain_arguments() -> None:
    trial = optuna.trial.FixedTrial(
        {
            "recipe.optimizer": "sgd",
            "recipe.learning_rate": 0.02,
            "recipe.weight_decay": "0.0001",
            "recipe.schedule": "cosine",
            "recipe.augmentation": "flip",
        }
    )
    chosen = RECIPE.suggest(trial)
    model = seeing()
    RECIPE.compile(model, **chosen)
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
    assert model.optimizer.weight_decay == 1e-4
    which(fit(model), "flip")
    assert len(RECIPE.callbacks(3, **chosen)) == 1


@pytest.mark.slow
def test_optuna_searches_a_recipe_and_a_space() -> None:
    space = kb.Space(plain_net, filters=kb.per_stage(2, kb.choice(4, 8))).within(SHAPE)

    def objective(trial: Any) -> float:
        model = space.suggest(trial).model(SHAPE)
        chosen = RECIPE.suggest(trial)
        RECIPE.compile(model, **chosen)
        callbacks = RECIPE.callbacks(2, **chosen)
        return model.fit(X, Y, epochs=2, verbose=0, callbacks=callbacks).history["loss"][-1]

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=4)
    assert all(np.isfinite(trial.value) for trial in study.trials)
    expected = {f"recipe.{name}" for name in ("optimizer", "learning_rate", "weight_decay")}
    expected |= {"recipe.schedule", "recipe.augmentation", "filters[0]", "filters[1]"}
    assert all(set(trial.params) == expected for trial in study.trials)
