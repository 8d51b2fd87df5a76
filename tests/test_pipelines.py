"""Networks in `model.fit` and its like, with every kind of data; each against something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb

pytestmark = pytest.mark.slow  # about a minute and a half together

tf = pytest.importorskip("tensorflow")

INPUT, CLASSES, SAMPLES, BATCH = (8, 8, 3), 3, 24, 8
# Without batch norm, for what must not depend on how samples are cut into batches.
PLAIN = kb.Architecture(
    [kb.ConvBlock.Spec(4, normalization=None), kb.ResidualBlock.Spec(4, normalization="layer")],
    head=kb.Classifier(CLASSES),
)
RICH = kb.Architecture(
    [kb.ConvBlock.Spec(8), kb.ResNeXtBlock.Spec(8, cardinality=4, group_width=2)],
    head=kb.Classifier(CLASSES, dropout=0.2),
)


def made(net: kb.Architecture = PLAIN, optimizer: Any = "sgd", **compiled: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = net.model(INPUT)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **compiled)
    keras.utils.set_random_seed(1)  # dropout begins alike, whatever was made before
    return model


def images() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(SAMPLES, *INPUT)).astype("float32"), np.arange(SAMPLES) % CLASSES


def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    x, y = images()
    yield from ((x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, SAMPLES, BATCH))


class Sequence(keras.utils.PyDataset):
    def __len__(self) -> int:
        return SAMPLES // BATCH

    def __getitem__(self, index: int) -> Any:
        return list(batches())[index]


def endless() -> Iterator[Any]:
    while True:
        yield from batches()


def dataset() -> Any:
    return tf.data.Dataset.from_tensor_slices(images()).batch(BATCH)


STEPS = {"steps_per_epoch": SAMPLES // BATCH}
DATA: dict[str, Callable[[], dict[str, Any]]] = {
    "batched": lambda: {"x": dataset()},
    "cached, prefetched": lambda: {"x": dataset().cache().prefetch(2)},
    "endless": lambda: {"x": dataset().repeat(), **STEPS},
    "PyDataset": lambda: {"x": Sequence()},
    "PyDataset, workers": lambda: {"x": Sequence(workers=2)},
    "generator": lambda: {"x": endless(), **STEPS},
}


def assert_equal_weights(one: keras.Model, other: keras.Model, atol: float = 1e-5) -> None:
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=atol)


def fitted(model: keras.Model, epochs: int = 2, **data: Any) -> list[float]:
    if not data:
        data = dict(zip("xy", images(), strict=True), batch_size=BATCH)
    return model.fit(**data, epochs=epochs, shuffle=False, verbose=0).history["loss"]


# --- data ----------------------------------------------------------------------------------


@pytest.mark.parametrize("net", [PLAIN, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("data", DATA.values(), ids=DATA.keys())
def test_every_kind_of_data_trains_alike(net: Any, data: Callable[[], Any]) -> None:
    """The losses and weights of NumPy arrays in the same order, batch norm and dropout too."""
    arrays, other = made(net), made(net)
    keras.utils.set_random_seed(1)
    expected = fitted(arrays)
    keras.utils.set_random_seed(1)
    np.testing.assert_allclose(fitted(other, **data()), expected, rtol=1e-4)
    assert_equal_weights(other, arrays)
    assert expected[1] != expected[0]


def test_class_weights_are_sample_weights() -> None:
    by_class, by_sample, without = made(), made(), made()
    x, y = images()
    weights = {0: 0.2, 1: 1.0, 2: 3.0}
    fitted(by_class, x=x, y=y, batch_size=BATCH, class_weight=weights)
    own = np.array([weights[label] for label in y], "float32")
    fitted(by_sample, x=x, y=y, batch_size=BATCH, sample_weight=own)
    fitted(without)
    assert_equal_weights(by_class, by_sample, 1e-6)
    assert not np.allclose(by_class.get_weights()[0], without.get_weights()[0], atol=1e-4)


def test_callbacks_are_called(tmp_path: Any) -> None:
    """Stops early, keeps the best weights, which a new model loads."""
    model = made(RICH, metrics=["accuracy"])
    path = str(tmp_path / "best.weights.h5")
    callbacks = [
        keras.callbacks.EarlyStopping("loss", patience=0, min_delta=10.0),
        keras.callbacks.ModelCheckpoint(path, save_weights_only=True),
        keras.callbacks.TerminateOnNaN(),
    ]
    history = model.fit(
        *images(), epochs=9, validation_data=images(), verbose=0, callbacks=callbacks
    )
    assert len(history.history["val_accuracy"]) == 2
    again = made(RICH)
    again.load_weights(path)
    assert_equal_weights(again, model, 0)


# --- loops ---------------------------------------------------------------------------------


def test_train_on_batch_is_fit() -> None:
    fit, by_hand = made(RICH), made(RICH)
    keras.utils.set_random_seed(1)
    fitted(fit, epochs=1)
    for x, y in batches():
        by_hand.train_on_batch(x, y)
    assert_equal_weights(by_hand, fit)


@pytest.mark.parametrize("traced", [False, True])
def test_a_gradient_tape_is_fit(traced: bool) -> None:
    """Weights moved by hand, with no optimizer; moving averages follow too."""
    net = kb.Architecture(RICH.rows[:-1], head=kb.Classifier(CLASSES))
    fit, by_hand = made(net, keras.optimizers.SGD(0.1)), made(net)
    fitted(fit, epochs=1)

    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            logits = by_hand(x, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            loss = tf.reduce_mean(losses)
        weights = by_hand.trainable_weights
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.assign_sub(0.1 * gradient)

    step = tf.function(step) if traced else step
    for x, y in batches():
        step(tf.constant(x), tf.constant(y))
    assert_equal_weights(by_hand, fit)


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": True}], ids=str)
def test_however_it_runs(how: dict[str, Any], prepared: bool) -> None:
    """Weights of the traced step; no dropout, of which XLA draws other numbers."""
    net = kb.Architecture(RICH.rows[:-1], head=kb.Classifier(CLASSES))
    plain, other = made(net, jit_compile=False), made(net, **how)
    if prepared:
        kb.prepare(other)
    np.testing.assert_allclose(fitted(other), fitted(plain), rtol=1e-4)
    assert_equal_weights(other, plain, 1e-4)


# --- optimizers ----------------------------------------------------------------------------


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_two_half_batches_are_a_whole_one(name: str, prepared: bool) -> None:
    """For a network without batch norm."""
    kind = getattr(keras.optimizers, name)
    halves = made(PLAIN, kind(0.01, gradient_accumulation_steps=2))
    whole = made(PLAIN, kind(0.01))
    if prepared:
        kb.prepare(halves)
    x, y = images()
    fitted(halves, x=x, y=y, batch_size=BATCH // 2)
    fitted(whole)
    assert_equal_weights(halves, whole, 1e-4)


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_averages_of_weights(name: str, prepared: bool) -> None:
    """By hand in NumPy from the weights of each step without averages (Polyak & Juditsky 1992)."""
    kind = getattr(keras.optimizers, name)
    plain, averaged = (
        made(PLAIN, kind(0.01)),
        made(PLAIN, kind(0.01, use_ema=True, ema_momentum=0.8)),
    )
    if prepared:
        kb.prepare(averaged)
    expected: list[np.ndarray] = []
    for x, y in batches():
        plain.train_on_batch(x, y)
        now = plain.get_weights()
        kept = expected or now  # the first step's weights begin the average
        expected = [0.8 * old + 0.2 * new for old, new in zip(kept, now, strict=True)]
    fitted(averaged, epochs=1)  # at whose end the averages take the weights' place
    for mine, theirs in zip(averaged.get_weights(), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert not np.allclose(averaged.get_weights()[0], plain.get_weights()[0], atol=1e-4)


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy: str, prepared: bool) -> None:
    """The losses of float32 to the precision of its numbers, from weights of float32."""
    net = kb.Architecture(RICH.rows[:-1], head=kb.Classifier(CLASSES))
    expected = fitted(made(net, keras.optimizers.SGD(0.1)))
    keras.config.set_dtype_policy(policy)
    model = made(net, keras.optimizers.SGD(0.1))
    if prepared:
        kb.prepare(model)
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    np.testing.assert_allclose(fitted(model), expected, rtol=0.03)
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    assert model.layers[-2].compute_dtype == policy.removeprefix("mixed_")
    assert model(images()[0]).dtype == "float32"


@pytest.mark.parametrize("prepared", [False, True])
def test_a_step_that_overflows_in_float16_is_left_out(prepared: bool) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    scaler = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=2.0**15)
    model = made(PLAIN, scaler)
    if prepared:
        kb.prepare(model)
    before = model.get_weights()
    x, y = images()
    model.train_on_batch(x * 1e4, y)
    assert float(scaler.dynamic_scale) == 2.0**14
    for mine, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


# --- several devices -----------------------------------------------------------------------

MIRRORED = """
import sys
import numpy as np, keras, tensorflow as tf
import kblocks as kb

norm = {"sync": kb.Norm("batch", synchronized=True), "local": "batch", "none": None}[sys.argv[1]]
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
random = np.random.default_rng(0)
x, y = random.normal(size=(24, 8, 8, 3)).astype("float32"), np.arange(24) % 3
x[::2] *= 3  # statistics that differ between devices
net = kb.Architecture(
    [kb.ConvBlock.Spec(8, normalization=norm),
     kb.ResNeXtBlock.Spec(8, cardinality=4, group_width=2, normalization=norm)],
    head=kb.Classifier(3),
)

def trained(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = net.model((8, 8, 3))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05), loss, jit_compile=False)
        if sys.argv[2] == "prepared":
            kb.prepare(model)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    model.fit(data, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()

two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert two.num_replicas_in_sync == 2
one, both = trained(tf.distribute.get_strategy()), trained(two)
print(max(float(np.abs(a - b).max()) for a, b in zip(one, both)))
"""


@pytest.mark.parametrize("prepared", ["prepared", "plain"])
@pytest.mark.parametrize(("norm", "least", "most"), [("sync", 0, 1e-4), ("none", 0, 1e-4)])
def test_two_devices_are_one(
    norm: str, least: float, most: float, prepared: str, fresh_process: Callable[..., str]
) -> None:
    printed = fresh_process(MIRRORED, norm, prepared)
    assert least <= float(printed.splitlines()[-1]) < most


def test_local_batch_norm_on_two_devices_is_another(fresh_process: Callable[..., str]) -> None:
    """Which is why there is `synchronized`: the same measure tells them apart."""
    assert float(fresh_process(MIRRORED, "local", "plain").splitlines()[-1]) > 1e-3


def test_only_batch_norms_synchronize() -> None:
    with pytest.raises(ValueError, match="`normalization` of ConvBlock"):
        kb.ConvBlock(4, normalization=kb.Norm("layer", synchronized=True))
    layer = kb.ConvBlock(4, normalization=kb.Norm(synchronized=True))
    again = kb.ConvBlock.from_config(layer.get_config())
    again.build((None, 8, 8, 3))
    assert again.normalization.synchronized
    assert again.norm.synchronized
