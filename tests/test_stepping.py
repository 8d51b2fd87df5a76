"""Several steps in one execution train as `fit` does."""

from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb
from kblocks.training.stepping import joined

if keras.backend.backend() != "tensorflow":
    pytest.skip("only on TensorFlow", allow_module_level=True)

MACS = 2e9 / 4 / 3  # of a network of which three steps of four images are one execution


def prepared(recipe: kb.Recipe) -> tuple[keras.Model, dict[str, Any]]:
    """A model, always the same, and the arguments of a `fit` of 7 steps an epoch."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(27, 8, 8, 3)), random.integers(0, 3, 27)
    keras.utils.set_random_seed(0)
    model = kb.Architecture([kb.ConvBlock.Spec(4)], head=kb.Classifier(3)).model((8, 8, 3))
    recipe.compile(model)
    given = {"x": x, "y": y, "batch_size": 4, "epochs": 2, "verbose": 0, "shuffle": False}
    given |= {"validation_data": (x, y), "callbacks": recipe.callbacks(2)}
    return model, given


@pytest.mark.parametrize(
    "recipe",
    [kb.Recipe(), kb.Recipe.named("plain", augmentation="flip+shift", ema=0.9)],
    ids=["default", "schedule"],
)
def test_training_is_that_of_keras(recipe: kb.Recipe) -> None:
    """The last execution has one step, and the last step three images."""
    found = []
    for macs in (None, MACS):
        model, given = prepared(recipe)
        with joined(model, given, macs) as arguments:
            assert ("steps_per_epoch" in arguments) == (macs is not None)
            history = model.fit(**arguments).history
        found.append((history, model.get_weights(), int(model.optimizer.iterations.numpy())))
    (history, weights, steps), (ours, others, count) = found
    assert steps == count == 14
    assert history.keys() == ours.keys()
    for name, values in history.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-4)
    for mine, theirs in zip(others, weights, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_every_epoch_has_each_image_once_in_a_new_order() -> None:
    model, given = prepared(kb.Recipe())
    seen: list[float] = []
    plain = model.train_step

    def train_step(data: Any) -> Any:
        import tensorflow as tf

        tf.py_function(lambda x: seen.extend(x.numpy()[:, 0, 0, 0]), [data[0]], [])
        return plain(data)

    model.train_step = train_step
    with joined(model, {**given, "shuffle": True}, MACS) as arguments:
        model.fit(**arguments)
    first, second = seen[:27], seen[27:]
    own = given["x"][:, 0, 0, 0].astype("float32")
    assert sorted(first) == sorted(second) == sorted(own)
    assert first != second != list(own)


class Evaluating(keras.callbacks.Callback):
    """Evaluates the model on other images after each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        x, y = np.ones((5, 8, 8, 3)), np.arange(5) % 3
        model: Any = self.model
        self.found.append(model.evaluate(x, y, batch_size=2, verbose=0))
        model.reset_metrics()
        self.found.append(model.test_on_batch(x, y))


@pytest.mark.parametrize("batch", [None, 5])
def test_a_callback_may_evaluate_other_images(batch: int | None) -> None:
    """The validation has a batch size of its own, and a last batch that is smaller."""
    found = []
    for macs in (None, MACS):
        model, given = prepared(kb.Recipe())
        given |= {"validation_data": (given["x"][:13], given["y"][:13])}
        given |= {"validation_batch_size": batch, "callbacks": [Evaluating()]}
        with joined(model, given, macs) as arguments:
            history = model.fit(**arguments).history
        found.append((history["val_loss"], given["callbacks"][0].found))
        again = model.evaluate(*given["validation_data"], batch_size=4, verbose=0)
        np.testing.assert_allclose(again[0], history["val_loss"][-1], rtol=1e-4)
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-4)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-4)


def test_a_validation_may_come_from_a_dataset() -> None:
    """The training's steps are joined, the dataset stays as it is, and is read once an epoch."""
    import tensorflow as tf

    model, given = prepared(kb.Recipe())
    read: list[int] = []

    def batches() -> Any:
        read.append(1)
        yield given["x"].astype("float32"), given["y"]

    images, labels = tf.TensorSpec((27, 8, 8, 3)), tf.TensorSpec((27,), "int64")
    data = tf.data.Dataset.from_generator(batches, output_signature=(images, labels))
    data = data.apply(tf.data.experimental.assert_cardinality(1))
    with joined(model, {**given, "validation_data": data}, MACS) as arguments:
        assert arguments["validation_data"] is data
        assert "steps_per_epoch" in arguments
        assert read == []
        history = model.fit(**arguments).history
    assert len(history["val_loss"]) == len(read) == 2


class LookingAtTests(keras.callbacks.Callback):
    """Looks at each batch of a validation."""

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        pass


@pytest.mark.parametrize("weighted", [False, True])
def test_a_validation_that_cannot_be_joined_stays_as_it_is(weighted: bool) -> None:
    model, given = prepared(kb.Recipe())
    x, y = given["validation_data"]
    given |= {"validation_data": (x, y, np.arange(27.0))} if weighted else {}
    given["callbacks"] += [] if weighted else [LookingAtTests()]
    with joined(model, given, MACS) as arguments:
        assert "steps_per_epoch" in arguments
        assert arguments["validation_data"] is given["validation_data"]
        model.fit(**arguments)


def test_the_validation_may_be_rare_and_the_first_epochs_done() -> None:
    model, given = prepared(kb.Recipe())
    given |= {"epochs": 6, "initial_epoch": 2, "validation_freq": [4, 5]}
    with joined(model, given, MACS) as arguments:
        history = model.fit(**arguments).history
    assert [len(history[name]) for name in ("loss", "val_loss")] == [4, 2]


class Watching(keras.callbacks.Callback):
    """Looks at each batch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        pass


@pytest.mark.parametrize(
    "changed",
    [
        {"callbacks": [Watching()]},
        {"class_weight": {0: 2.0}},
        {"verbose": 1},
    ],
    ids=["callbacks", "class_weight", "verbose"],
)
def test_fit_is_left_alone_where_single_steps_count(changed: dict[str, Any]) -> None:
    model, given = prepared(kb.Recipe())
    given |= changed
    with joined(model, given, MACS) as arguments:
        assert arguments is given
