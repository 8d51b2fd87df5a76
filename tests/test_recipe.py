"""What a recipe takes as a loss, what it refuses before a search, and where it can go."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from scenes import HEADS, network, scenes

import kblocks as kb
from kblocks.tuner.running.failures import failure_from
from kblocks.tuner.storing.identity import text_of

SHAPE = (8, 8, 1)
X = np.random.default_rng(0).normal(size=(24, *SHAPE)).astype("float32")
Y = np.arange(24) % 3
ONE_HOT = np.eye(3, dtype="float32")[Y]
Focal: Any = keras.losses.CategoricalFocalCrossentropy


def focal(logits: np.ndarray, gamma: float, alpha: float = 0.25) -> float:
    """arXiv:1708.02002, Eq. 5, of the right class."""
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    right = (shares * ONE_HOT).sum(1)
    return float(np.mean(-alpha * (1 - right) ** gamma * np.log(right)))


def own(y_true: Any, y_pred: Any) -> Any:
    """A loss of somebody's, for integer labels."""
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


class Own(keras.losses.Loss):
    """A loss of somebody's, with a number."""

    def __init__(self, power: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.power = power

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One value a sample."""
        return keras.ops.power(own(y_true, y_pred), self.power)

    def get_config(self) -> dict[str, Any]:
        """Its number."""
        return {**super().get_config(), "power": self.power}


def classifier() -> Any:
    return network(kb.Classifier(3)).model(SHAPE)


@pytest.mark.parametrize(
    "loss", [Focal(gamma=3.0, from_logits=True), "categorical_focal_crossentropy"]
)
def test_focal_loss_as_an_object_and_by_its_name(loss: Any, tmp_path: Path) -> None:
    """A name stands for the loss on logits."""
    model = classifier()
    kb.Recipe(loss=loss).compile(model)
    expected = focal(model.predict(X, verbose=0), 2.0 if isinstance(loss, str) else 3.0)
    found = model.evaluate(X, ONE_HOT, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(expected, rel=1e-4)
    right = np.mean(np.argmax(model.predict(X, verbose=0), 1) == Y)
    assert found["accuracy"] == pytest.approx(right)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.evaluate(X, ONE_HOT, verbose=0, return_dict=True)
    assert again["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", [own, Own()])
def test_a_loss_of_ones_own_has_the_accuracy_of_its_labels(loss: Any) -> None:
    """`prepare` does not know their form, and a wrong guess would stay."""
    model = classifier()
    kb.Recipe(loss=loss).compile(model)
    logits = model.predict(X, verbose=0)
    found = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert found["accuracy"] == pytest.approx(np.mean(np.argmax(logits, 1) == Y))
    log_shares = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert found["loss"] == pytest.approx(-log_shares[np.arange(24), Y].mean(), rel=1e-5)


@pytest.mark.slow
def test_losses_of_some_outputs() -> None:
    model = network(HEADS).model((24, 32, 3))
    recipe = kb.Recipe(loss={"box": "mean_absolute_error"}, loss_weights={"box": 2.0})
    recipe.compile(model)
    x, y = scenes(8)
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    boxes = model.predict(x, verbose=0)["box"]
    assert found["box_loss"] == pytest.approx(np.abs(boxes - y["box"]).mean(), rel=1e-4)
    others = sum(found[f"{name}_loss"] for name in HEADS if name != "box")
    assert found["loss"] == pytest.approx(others + 2 * found["box_loss"], rel=1e-4)
    segmenter = network(HEADS["mask"]).model((24, 32, 3))
    kb.Recipe(loss=keras.losses.SparseCategoricalCrossentropy(True)).compile(segmenter)
    found = segmenter.evaluate(x, y["mask"], verbose=0, return_dict=True)
    assert set(found) == {"loss", "mean_iou"}


@pytest.mark.parametrize(
    ("head", "arguments", "message"),
    [
        ("label", {"loss": Focal()}, "on logits"),
        ("label", {"loss": keras.losses.categorical_crossentropy, "label_smoothing": 0.1}, "goes"),
        ("label", {"loss": "dice"}, "on logits"),
        ("mask", {"loss": keras.losses.Dice()}, "on logits"),
        ("label", {"loss": {"label": own}}, "must be one loss"),
        (None, {"loss": own}, "a dict by output, of mask, box"),
        (None, {"loss": {"bax": own}}, "a dict by output, of mask, box"),
    ],
)
def test_losses_that_do_not_fit_the_head(head: Any, arguments: Any, message: str) -> None:
    model = network(HEADS[head] if head else HEADS).model((24, 32, 3))
    with pytest.raises(ValueError, match=f"`l.*{message}.*Received: l"):
        kb.Recipe(**arguments).compile(model)


@pytest.mark.parametrize("loss", ["mes", 3, None, {}, {"a": "head"}, {"a": {"b": own}}, [own]])
def test_what_is_no_loss(loss: Any) -> None:
    with pytest.raises(
        ValueError, match="`loss` must be 'head', 'sparse', 'categorical', a loss of"
    ):
        kb.Recipe(loss=loss)


def test_losses_are_searched_and_known_again() -> None:
    recipe = kb.Recipe(loss=kb.choice("head", own, Focal(from_logits=True), Own(2.0)))
    assert list(recipe.tree().dimensions) == ["recipe.loss"]
    texts = {text_of(kb.Recipe(loss=loss)) for loss in (Own(1.0), Own(1.0), Own(2.0), own, "head")}
    assert len(texts) == 4
    assert text_of(recipe) != text_of(
        kb.Recipe(loss=kb.choice("head", own, Focal(from_logits=True), Own(3.0)))
    )
    assert "power" not in text_of({"loss": Own(2.0)})  # as earlier searches have it


def test_the_text_of_a_recipe_is_that_of_earlier_searches() -> None:
    """Written by the code before losses could be objects."""
    expected = (
        "Recipe(optimizer=adam, learning_rate=0.001, weight_decay=None, schedule=None, "
        "label_smoothing=0.0, augmentation=None, loss=head, metrics=head, loss_weights=None)"
    )
    assert text_of(kb.Recipe()).replace("'", "") == expected


def test_the_callbacks_of_a_recipe_can_be_sent_to_another_process() -> None:
    """Half a cosine over 4 epochs (arXiv:1608.03983, Eq. 5 without restarts)."""
    callbacks = kb.Recipe(learning_rate=0.1, schedule="cosine").callbacks(4)
    (sent,) = pickle.loads(pickle.dumps(callbacks))
    expected = 0.05 * (1 + np.cos(np.pi * np.arange(4) / 4))
    assert [sent.schedule(epoch, 0.3) for epoch in range(4)] == pytest.approx(list(expected))


def test_a_learning_rate_has_one_schedule() -> None:
    own = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    match = "`learning_rate` must be a number if `schedule` is 'cosine'"
    for schedule in ("cosine", kb.choice(None, "cosine")):
        with pytest.raises(ValueError, match=match):
            kb.Recipe(learning_rate=own, schedule=schedule)
    assert kb.Recipe(learning_rate=own).callbacks(4) == []


class Late(keras.Model):
    """A model whose `build` leaves the layers for the first call to build."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.dense = keras.layers.Flatten(), keras.layers.Dense(3)

    def build(self, shape: Any) -> None:
        """Nothing yet."""
        self.built = True

    def call(self, x: Any) -> Any:
        """Logits."""
        return self.dense(self.flat(x))


def test_a_model_whose_layers_are_built_late() -> None:
    model = Late()
    model.build((None, *SHAPE))
    kb.Recipe(learning_rate=0.05).compile(model)
    history = model.fit(X, Y, epochs=10, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


# --- targets that no trial could be trained on ----------------------------------------------

CLASSES = kb.Space(network, head=kb.fixed(kb.Classifier(3))).within(SHAPE)


@pytest.mark.parametrize(
    ("recipe", "labels", "message"),
    [
        ({}, ONE_HOT, r"`y` of fit: One-hot labels need kb.Recipe\(loss=\"categorical\"\)"),
        ({"loss": "categorical"}, Y, r"Integer labels need kb.Recipe\(loss=\"sparse\"\)"),
        ({}, Y + 1, r"classes from 0 to 2.*values from 1 to 3"),
        ({}, Y - 1, r"classes from 0 to 2.*values from -1 to 1"),
        ({}, Y / 2, r"classes from 0 to 2.*fractions"),
    ],
)
def test_labels_that_are_none_are_refused_before_the_first_trial(
    recipe: Any, labels: Any, message: str, tmp_path: Path
) -> None:
    hypermodel = kb.tuner.HyperModel(CLASSES, kb.Recipe(**recipe), latency=False)
    tuner = kb.tuner.Tuner(hypermodel, trials=1, workers=0, directory=tmp_path)
    with pytest.raises(ValueError, match=message):
        tuner.search(X, labels, validation_data=(X, labels), verbose=0)
    good = ONE_HOT if recipe else Y
    with pytest.raises(ValueError, match=message.replace("`y`", "`validation_data`")):
        tuner.search(X, good, validation_data=(X, labels), verbose=0)
    assert not (tmp_path / "search" / "study.db").exists()


def test_labels_of_datasets_are_refused_by_their_shape() -> None:
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((X, ONE_HOT)).batch(8)
    for recipe, is_wrong in ((kb.Recipe(), True), (kb.Recipe(loss="categorical"), False)):
        hypermodel = kb.tuner.HyperModel(CLASSES, recipe, latency=False)
        if is_wrong:
            with pytest.raises(ValueError, match=r"`x` of fit: One-hot"):
                hypermodel.check_targets((data,), {})
        else:
            hypermodel.check_targets((data,), {"validation_data": data})


def test_targets_of_heads_are_refused_before_the_first_trial() -> None:
    space = kb.Space(network, head=kb.fixed(HEADS)).within((24, 32, 3))
    x, y = scenes(4)
    hypermodel = kb.tuner.HyperModel(space, latency=False)
    hypermodel.check_targets((x, y), {"validation_data": (x, y)})
    for wrong in ({**y, "box": y["box"] * 32}, {k: v for k, v in y.items() if k != "mask"}):
        with pytest.raises(ValueError, match=r"`y` of fit: (box: .*pixels|Targets must be a dict)"):
            hypermodel.check_targets((x, wrong), {})


def test_a_model_of_ones_own_makes_of_targets_what_it_wants() -> None:
    class Other(kb.tuner.HyperModel):
        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            return super().fit(hp, model, *args, **kwargs)

    Other(CLASSES, latency=False).check_targets((X, ONE_HOT), {})
    kb.tuner.HyperModel(CLASSES, compile={"loss": "mse"}).check_targets((X, ONE_HOT), {})
    kb.tuner.HyperModel(CLASSES, kb.Recipe(loss=own)).check_targets((X, ONE_HOT), {})


def test_a_failed_trial_keeps_the_line_that_helps() -> None:
    """Not the first one, that something was wrong in a graph."""
    tf = pytest.importorskip("tensorflow")
    model: Any = classifier()
    kb.Recipe().compile(model)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        model.fit(X, Y + 1, verbose=0)
    message = failure_from(caught.value).message
    assert message.startswith("InvalidArgumentError: Received a label value of 3 which is outside")
    segmenter: Any = network(HEADS["mask"]).model((24, 32, 3))
    kb.Recipe().compile(segmenter)
    x, y = scenes(4)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        segmenter.fit(x, y["mask"] + 3, verbose=0)
    assert "Targets must be classes from 0 to 2" in failure_from(caught.value).message
