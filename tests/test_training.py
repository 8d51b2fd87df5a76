"""`prepare`: the same training from a sooner first step."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb
from kblocks.common import backend

INPUT = (8, 8, 3)
ADAM = keras.optimizers.Adam
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": ADAM,
    "adam, clipped, averaged": lambda: ADAM(clipnorm=0.1, use_ema=True, ema_overwrite_frequency=3),
    "adam, decayed": lambda: ADAM(weight_decay=0.1),
    "adam, schedule": lambda: ADAM(keras.optimizers.schedules.ExponentialDecay(0.01, 2, 0.5)),
    "adam, accumulated": lambda: ADAM(0.01, gradient_accumulation_steps=2),
    "adam, other betas": lambda: ADAM(0.01, beta_1=0.5, beta_2=0.9, epsilon=0.1),
    "adam, amsgrad": lambda: ADAM(0.01, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.01),
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "sgd, momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "sgd, nesterov": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "loss scaled": lambda: keras.optimizers.LossScaleOptimizer(ADAM(0.01)),
}
NET = kb.Architecture([kb.ConvBlock.Spec(4), kb.ResidualBlock.Spec(4)], head=kb.Classifier(3))


def made(optimizer: Any, **compiled: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = NET.model(INPUT)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, **{"loss": loss, "metrics": ["accuracy"], **compiled})
    return model


def images(number: int = 24) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(number, *INPUT)).astype("float32"), random.integers(0, 3, number)


@pytest.mark.thin(13)
@pytest.mark.parametrize("eagerly", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_training_is_that_of_keras(optimizer: Callable[[], Any], eagerly: bool) -> None:
    """After 12 steps, weights and slots of the optimizer are Keras' to rounding."""
    plain = made(optimizer(), run_eagerly=eagerly)
    ours = kb.prepare(made(optimizer(), run_eagerly=eagerly))
    start = [value.copy() for value in ours.get_weights()]
    histories = [
        model.fit(*images(), batch_size=8, epochs=4, shuffle=False, verbose=0).history
        for model in (plain, ours)
    ]
    for key, values in histories[0].items():
        np.testing.assert_allclose(histories[1][key], values, rtol=1e-4, err_msg=key)
    moved = 0.0
    for before, mine, theirs in zip(start, ours.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-4)
        moved = max(moved, float(np.abs(mine - before).max()))
    assert moved > 1e-2
    for mine, theirs in zip(ours.optimizer.variables, plain.optimizer.variables, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), atol=2e-4)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "sgd, momentum"])
def test_one_op_a_variable(optimizer: str) -> None:
    """Were Keras to change under us, the kernels would no longer be in the graph."""
    tf = pytest.importorskip("tensorflow")
    model = kb.prepare(made(OPTIMIZERS[optimizer]()))

    def step(x: Any) -> None:
        gradients = [tf.zeros_like(variable.value) for variable in model.trainable_variables]
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    operations = tf.function(step).get_concrete_function(1).graph.get_operations()
    kernels = [o for o in operations if o.type.startswith("ResourceApply")]
    assert len(kernels) == len(model.trainable_variables)
    if "adam" in optimizer:  # the rates and the like are made once, not once a variable
        assert len({tuple(tensor.name for tensor in o.inputs[3:9]) for o in kernels}) == 1


def test_the_step_is_traced_once() -> None:
    traces = []

    class Counted(kb.Block):
        def plan(self, channels: int) -> Any:
            return kb.ConvBlock.Spec(3).plan(channels)

        def call(self, inputs: Any, training: bool | None = None) -> Any:
            traces.append(training)
            return super().call(inputs, training)

    inputs = keras.Input(INPUT)
    outputs = keras.layers.GlobalAveragePooling2D()(Counted()(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse", metrics=["mae"])
    kb.prepare(model)
    traces.clear()
    model.fit(images()[0], np.zeros((24, 3)), batch_size=8, verbose=0)
    assert traces == [True]


def test_an_optimizer_is_saved_as_what_it_is(tmp_path: Any) -> None:
    model = kb.prepare(made(ADAM()))
    model.fit(*images(), verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded.optimizer) is ADAM
    for mine, theirs in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


@pytest.mark.filterwarnings("ignore:The output 'logits':UserWarning")
def test_labels_of_any_form() -> None:
    """Labels that cannot be guessed do no harm; those that are given build the metrics."""

    def loss(y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.square(y_true["a"] - y_pred))

    model = kb.prepare(made(ADAM(), loss=loss, metrics=None))
    assert model.optimizer.built
    model = made("sgd", loss="categorical_crossentropy")
    kb.prepare(model, labels=np.eye(3))
    assert all(float(keras.ops.sum(v)) == 0 for m in model.metrics for v in m.variables)
    with pytest.raises(ValueError, match="shape"):
        kb.prepare(made("sgd", loss="categorical_crossentropy"), labels=np.zeros((2, 5)))


def test_other_kinds_of_models() -> None:
    """Sequential ones have no `output`, those of a class of one's own no outputs at all."""

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner = keras.layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.inner(x)

    own = Own()
    own(np.ones((1, 5)))
    for model in (keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]), own):
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        assert kb.prepare(model) is model
        history = model.fit(np.ones((4, 5)), np.array([0, 1, 2, 0]), verbose=0).history
        assert 0 <= history["accuracy"][0] <= 1


def test_a_model_whose_layers_get_their_weights_in_the_first_step() -> None:
    """`build` of a class of one's own need not build its layers, and trains without `prepare`."""

    class Late(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner = keras.layers.Dense(3)

        def build(self, input_shape: Any) -> None:
            self.built = True

        def call(self, x: Any) -> Any:
            return self.inner(x)

    for how in ("prepare", "recipe"):
        model = Late()
        model.build((None, 5))
        if how == "recipe":
            kb.Recipe(optimizer="adam").compile(model)
        else:
            model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            kb.prepare(model)
        before = model.count_params()
        model.fit(np.ones((4, 5)), np.array([0, 1, 2, 0]), verbose=0)
        assert (before, model.count_params()) == (0, 5 * 3 + 3)


def test_what_is_not_ready_is_refused() -> None:
    for model in (NET.model(INPUT), keras.Sequential([keras.layers.Dense(3)])):
        with pytest.raises(ValueError, match="built and compiled"):
            kb.prepare(model)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own table")
def test_gradients_that_a_model_has_registered_are_forgotten() -> None:
    """The table is private to TensorFlow: it may move, or not grow any more."""
    known = set(backend.custom_gradients())
    assert known
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.zeros((4, 2)), np.zeros(4), verbose=0)
    added = set(backend.custom_gradients()) - known
    assert added, "TensorFlow or Keras keeps no gradient any more: `forget_gradients` can go"
    assert all(name.startswith("CustomGradient-") for name in added)
    backend.forget_gradients(known)
    assert set(backend.custom_gradients()) == known
    model.fit(np.zeros((4, 2)), np.zeros(4), verbose=0)  # which was traced before


def test_the_schedule_of_a_recipe_is_pickled() -> None:
    """Half a cosine (Loshchilov & Hutter 2016, Eq. 5, with no restart): .5 (1 + cos(pi t / T))."""
    (callback,) = kb.Recipe(learning_rate=0.4, schedule="cosine").callbacks(4)
    again = pickle.loads(pickle.dumps(callback))
    assert [again.schedule(epoch) for epoch in (0, 2)] == pytest.approx([0.4, 0.2])
