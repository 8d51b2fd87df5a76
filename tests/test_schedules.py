"""Schedules, clipping and averages of weights, against loops in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from spaces import plain_net

import kblocks as kb
from kblocks.training.averaging import as_trained
from kblocks.tuner.storing.checkpoints import State
from kblocks.tuner.storing.identity import ChangedError, check, text_of

STEPS, EPOCHS, PEAK = 5, 4, 0.1
TOTAL = STEPS * EPOCHS
AT = np.arange(TOTAL)
X = np.full((STEPS, 1), 3.0, "float32")
Y = np.zeros((STEPS, 1), "float32")


def output(y_true: Any, y_pred: Any) -> Any:
    """A loss whose gradient is 3 for the kernel and 1 for the bias, whatever their values."""
    return y_pred[:, 0]


def compiled(**arguments: Any) -> keras.Model:
    """A model of two weights."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones")(inputs))
    kb.Recipe(optimizer="sgd", learning_rate=PEAK, loss=output, metrics=None, **arguments).compile(
        model
    )
    return model


class Watched(keras.callbacks.Callback):
    """Notes the kernel before each step, after each epoch and in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[float] = []
        self.epochs: list[float] = []
        self.tests: list[float] = []

    def _kernel(self) -> float:
        return float(self.model.get_weights()[0][0, 0])

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Before a step."""
        self.steps.append(self._kernel())

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """In validation."""
        self.tests.append(self._kernel())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """What a callback for checkpoints would save."""
        self.epochs.append(self._kernel())


def fit(model: keras.Model, first: int = 0, callbacks: Any = (), **arguments: Any) -> Watched:
    recipe, watched = kb.Recipe(learning_rate=PEAK, **arguments), Watched()
    own = [*recipe.callbacks(EPOCHS), watched, *callbacks]
    given: dict[str, Any] = {"validation_data": (X, Y), "batch_size": 1, "verbose": 0}
    model.fit(X, Y, epochs=EPOCHS, initial_epoch=first, callbacks=own, **given)
    return watched


def kernels(rates: Any, gradient: float = 3.0) -> np.ndarray:
    """Nesterov momentum of 0.9, as Keras' SGD: the kernel before each step and after the last."""
    found, speed = [1.0], 0.0
    for rate in rates:
        speed = 0.9 * speed - rate * gradient
        found.append(found[-1] + 0.9 * speed - rate * gradient)
    return np.array(found)


def cosine(warm: float) -> np.ndarray:
    after = 0.5 * (1 + np.cos(np.pi * (AT - warm) / (TOTAL - warm)))
    return PEAK * np.where(AT - warm < 0, AT / max(warm, 1), after)


RATES = {
    (None, 0.2): PEAK * np.minimum(AT / 4, 1),
    ("cosine", 0.0): PEAK * 0.5 * (1 + np.cos(np.pi * (AT // STEPS) / EPOCHS)),  # by epochs
    ("cosine", 0.2): cosine(4),
    ("linear", 0.0): PEAK * (1 - AT / TOTAL),
    ("linear", 0.25): PEAK * np.where(AT < 5, AT / 5, 1 - (AT - 5) / 15),
    ("steps", 0.0): PEAK * np.repeat([1, 0.1, 0.01], [10, 5, 5]),
    ("steps", 0.1): PEAK * np.where(AT < 2, AT / 2, np.repeat([1, 0.1, 0.01], [10, 5, 5])),
    ("one-cycle", 0.0): PEAK * np.interp(AT, [0, 9, 18, 20], [0.1, 1, 0.1, 0]),
}


@pytest.mark.parametrize(("schedule", "warmup"), RATES, ids=str)
def test_the_rate_of_each_step(schedule: Any, warmup: float) -> None:
    """Shown by the weights; a second `fit` has the same rates again."""
    given: Any = {"schedule": schedule, "warmup": warmup}
    model = compiled(**given)
    expected = kernels(RATES[schedule, warmup])
    np.testing.assert_allclose(fit(model, **given).steps, expected[:-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.get_weights()[0], expected[-1], rtol=1e-5)
    if warmup != 0.2:
        return
    again = fit(model, **given).steps
    twice = kernels(np.tile(RATES[schedule, warmup], 2))
    np.testing.assert_allclose(again, twice[TOTAL:-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip", [0.5, 100.0])
def test_gradients_are_clipped_by_their_common_norm(clip: float) -> None:
    """Also in the one-op updates: the norm is sqrt(3² + 1²)."""
    model = compiled(clip=clip)
    gradient = 3.0 * min(1.0, clip / np.sqrt(10))
    expected = kernels(np.full(TOTAL, PEAK), gradient)
    np.testing.assert_allclose(fit(model).steps, expected[:-1], rtol=1e-5)


def averages(values: np.ndarray, momentum: float) -> np.ndarray:
    """The average after each step; it begins with the weights after the first one."""
    found = [values[1]]
    for value in values[2:]:
        found.append(momentum * found[-1] + (1 - momentum) * value)
    return np.array(found)


EMA: Any = {"ema": 0.8, "schedule": "linear", "warmup": 0.25}


def test_averages_are_evaluated_and_kept_while_training_goes_on() -> None:
    model = compiled(**EMA)
    watched = fit(model, **EMA)
    plain = kernels(RATES["linear", 0.25])
    ends = averages(plain, 0.8)[STEPS - 1 :: STEPS]
    np.testing.assert_allclose(watched.steps, plain[:-1], rtol=1e-5)
    np.testing.assert_allclose(watched.epochs, ends, rtol=1e-5)
    np.testing.assert_allclose(watched.tests[::STEPS], ends, rtol=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], ends[-1], rtol=1e-5)


def test_averages_stay_when_training_ends_early() -> None:
    """`keras.callbacks.SwapEMAWeights` would leave the weights without averaging."""
    model = compiled(**EMA)
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 1)
    )
    fit(model, callbacks=[stop], **EMA)
    expected = averages(kernels(RATES["linear", 0.25]), 0.8)[2 * STEPS - 1]
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5)


def test_a_resumed_training_goes_on_as_if_nothing_had_happened() -> None:
    """From a checkpoint made at the end of an epoch, while the model has the averages."""
    states: list[State] = []

    def save(epoch: int, logs: Any) -> None:
        with as_trained(whole):
            states.append(State.of(whole, epoch + 1, []))

    whole, resumed = compiled(**EMA), compiled(**EMA)
    fit(whole, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=save)], **EMA)
    states[1].restore(resumed)
    steps = fit(resumed, first=2, **EMA).steps
    np.testing.assert_allclose(steps, kernels(RATES["linear", 0.25])[2 * STEPS : -1], rtol=1e-5)
    np.testing.assert_allclose(resumed.get_weights()[0], whole.get_weights()[0], rtol=1e-6)


@pytest.mark.slow
def test_a_search_keeps_the_averages_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    """The kept weights have the recorded score, and are those of an uninterrupted search."""
    x = np.random.default_rng(0).normal(size=(60, 8, 8, 1)).astype("float32")
    y = (x.mean((1, 2, 3)) > 0).astype("int32")
    recipe = kb.Recipe(ema=0.9, schedule="one-cycle", clip=1.0, learning_rate=0.05)

    class Killed(kb.tuner.Tuner):
        def on_epoch_begin(self, trial: Any, model: Any, epoch: int, logs: Any = None) -> None:
            """Ends the process's search in the third epoch."""
            if epoch == 2:
                raise KeyboardInterrupt

    def search(kind: Any, name: str) -> Any:
        keras.utils.set_random_seed(0)
        space = kb.Space(plain_net, filters=kb.choice((4, 4), (4, 8))).within((8, 8, 1))
        hypermodel = kb.tuner.HyperModel(space, recipe, latency=False)
        tuner = kind(hypermodel, trials=1, workers=0, directory=tmp_path, project_name=name, seed=0)
        given: dict[str, Any] = {"validation_data": (x, y), "epochs": 4, "shuffle": False}
        return tuner, tuner.search(x, y, verbose=0, **given)

    with pytest.raises(KeyboardInterrupt):
        search(Killed, "killed")
    histories = []
    for name in ("whole", "killed"):
        tuner, run = search(kb.tuner.Tuner, name)
        (trial,) = run.trials
        model = tuner.get_best_models()[0]
        recipe.compile(model)
        found = model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
        assert found == pytest.approx(trial.scores[0])
        histories.append(trial.history["val_loss"])
    assert histories[0] == pytest.approx(histories[1], rel=1e-4)


def test_data_of_unknown_length_need_steps_per_epoch() -> None:
    model = compiled(schedule="linear")
    (callback,) = kb.Recipe(schedule="linear").callbacks(2)
    data = ((X, Y) for _ in iter(int, 1))
    with pytest.raises(
        ValueError, match=r"`schedule` and `warmup` need .*`steps_per_epoch` to fit"
    ):
        model.fit(data, epochs=1, callbacks=[callback], verbose=0)
    model.fit(data, epochs=1, steps_per_epoch=3, callbacks=[callback], verbose=0)


def test_a_saved_model_trains_on(tmp_path: Path) -> None:
    """Its file has the schedule."""
    model = compiled(schedule="one-cycle")
    fit(model, schedule="one-cycle")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"output": output})
    for step in (0, 7, 30):
        mine, theirs = (m.optimizer.get_config()["learning_rate"] for m in (model, loaded))
        rates = [float(keras.optimizers.schedules.deserialize(c)(step)) for c in (mine, theirs)]
        assert rates[0] == rates[1]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("schedule", "exponential"), ("warmup", 1), ("warmup", True), ("ema", 1.0), ("clip", 0)],
)
def test_what_no_recipe_has(name: str, wrong: Any) -> None:
    for given in (wrong, kb.choice(wrong, None)):
        with pytest.raises(ValueError, match=rf"`{name}` must be .*Received: {name}={wrong!r}"):
            kb.Recipe(**{name: given})


def test_named_recipes_can_be_changed() -> None:
    recipe = kb.Recipe.named("strong", ema=kb.choice(0.99, None))
    assert recipe.schedule == kb.Recipe.named("plain").schedule == "cosine"
    assert list(recipe.tree().dimensions) == ["recipe.ema"]
    with pytest.raises(
        ValueError, match=r"`name` must be one of plain, strong\. Received: name='x'"
    ):
        kb.Recipe.named("x")


def test_a_search_knows_its_recipe_again() -> None:
    """New fields are written only where they differ; `extend` sees their changes too."""
    assert text_of(kb.Recipe(ema=0.9)) == text_of(kb.Recipe())[:-1] + ", ema=0.9)"
    old: Any = {"space": {}, "plain": {"optimizer": "'adam'"}}
    check(old, {"space": {}, "plain": {"optimizer": "'adam'", "ema": "None"}}, extend=True)
    with pytest.raises(ChangedError, match=r"recipe: ema was None, is 0\.9"):
        check(old, {"space": {}, "plain": {"optimizer": "'adam'", "ema": "0.9"}}, extend=True)
