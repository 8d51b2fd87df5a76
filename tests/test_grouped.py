"""`GroupedConv2D`, `accelerate` and `BatchNormalization`: Keras' results by faster ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb
from kblocks.common import backend
from kblocks.layers.grouped import _split, convolve, way_of
from kblocks.layers.primitives import BatchNormalization

tf = pytest.importorskip("tensorflow")


def images(data_format: str = "channels_last", channels: int = 8, dtype: str = "float32") -> Any:
    x = np.random.default_rng(0).normal(size=(2, 15, 14, channels))
    x = x if data_format == "channels_last" else x.transpose(0, 3, 1, 2)
    return tf.constant(x, dtype)


def twins(groups: int, **arguments: Any) -> tuple[Any, Any]:
    """Keras' layer and ours with the same weights."""
    arguments = {"activation": "relu", "bias_initializer": "ones", **arguments}
    theirs = keras.layers.Conv2D(16, 3, groups=groups, **arguments)
    ours = kb.GroupedConv2D.from_config(theirs.get_config())
    shape = images(arguments.get("data_format", "channels_last")).shape
    for layer in (theirs, ours):
        layer.build(shape)
    ours.set_weights(theirs.get_weights())
    return theirs, ours


def run(layer: Any, x: Any, jit_compile: bool = False) -> list[Any]:
    """The outputs, and the gradients of their squares' sum."""

    def outputs_and_gradients(x: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x)
            loss = tf.reduce_sum(tf.cast(outputs, "float32") ** 2)
        return [outputs, *tape.gradient(loss, [x, *layer.trainable_weights])]

    return tf.function(outputs_and_gradients, jit_compile=jit_compile)(x)


def assert_close(mine: list[Any], theirs: list[Any], limit: float = 1e-5) -> None:
    for own, other in zip(mine, theirs, strict=True):
        own, other = (np.asarray(tf.cast(value, "float64")) for value in (own, other))
        assert abs(own - other).max() / abs(other).max() < limit


GRIDS = [
    {"strides": strides, "padding": padding} for strides in (1, 2) for padding in ("same", "valid")
] + [{"strides": (2, 1)}, {"dilation_rate": 2, "padding": "same"}, {"use_bias": False}]


CASES = [
    pytest.param(
        *(arguments, groups, jit_compile, data_format),
        marks=() if (groups == 4 and not jit_compile) or index == groups else pytest.mark.slow,
    )
    for index, arguments in enumerate(GRIDS)
    for groups in (1, 2, 4, 8)
    for jit_compile in (False, True)
    for data_format in ("channels_last", "channels_first")
]


@pytest.mark.thin(4)
@pytest.mark.parametrize(("arguments", "groups", "jit_compile", "data_format"), CASES)
def test_results_and_gradients_are_those_of_keras(
    arguments: dict[str, Any], groups: int, jit_compile: bool, data_format: str
) -> None:
    """Keras' layer goes through XLA, which is the independent computation here."""
    theirs, ours = twins(groups, data_format=data_format, **arguments)
    x = images(data_format)
    expected = run(theirs, x, jit_compile=True)
    assert_close(run(ours, x, jit_compile), expected)


def test_the_way_can_be_seen() -> None:
    ways = {}
    for groups in (1, 4, 8):
        layer = twins(groups)[1]
        assert layer.way is None
        run(layer, images())
        ways[groups] = layer.way
    native = "native" if backend.convolves_groups("float32", False) else "split"
    assert ways == {1: "dense", 4: native, 8: "depthwise"}
    layer = twins(4)[1]
    run(layer, images(), jit_compile=True)
    assert layer.way == "split"
    block = kb.ResNeXtBlock(32, cardinality=4, group_width=2)
    block(images())
    assert block.main_conv2.way == native


def test_eager_and_compiled_are_told_apart() -> None:
    """There is no public way to ask TensorFlow; were the other way to vanish, this fails."""
    found = []

    def ask(x: Any) -> Any:
        found.append(backend.compiles())
        return x

    ask(1)
    tf.function(ask, jit_compile=True)(tf.constant(1))
    tf.function(ask)(tf.constant(1))
    outer = tf.function(lambda x: tf.function(ask)(x), jit_compile=True)
    outer(tf.constant(1))
    assert found == [False, True, False, True]


def test_a_compiled_training_step_takes_the_split_way() -> None:
    inputs = keras.Input((8, 8, 8))
    layer = kb.GroupedConv2D(8, 3, groups=4)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(layer(inputs)))
    model.compile("sgd", "mse", jit_compile=True)
    model.fit(np.ones((4, 8, 8, 8)), np.zeros((4, 8)), verbose=0)
    assert layer.way == "split"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_other_dtypes_have_outputs_and_gradients(dtype: str, jit_compile: bool) -> None:
    theirs, _ = twins(4)
    ours = kb.GroupedConv2D(16, 3, groups=4, activation="relu", dtype=dtype)
    ours.build(images().shape)
    ours.set_weights(theirs.get_weights())
    found = run(ours, images(dtype=dtype), jit_compile)
    assert {value.dtype.name for value in found} == {dtype}
    limit = {"float16": 2e-2, "bfloat16": 2e-1, "float64": 1e-5}[dtype]
    assert_close(found, run(theirs, images(), jit_compile=True), limit)


def test_in_half_precision_on_a_cpu_slow_ops_compute_in_float32() -> None:
    """TensorFlow's own kernels for bfloat16 take up to ten times as long (`benchmarks/half.py`)."""
    x = keras.random.uniform((2, 6, 6, 8), -3, 3, "bfloat16", seed=0)
    layer = kb.ConvBlock(8, groups=8, activation="silu", dtype="mixed_bfloat16")
    layer(x)
    assert layer.conv.way == ("depthwise" if backend.has_accelerator() else "depthwise in float32")
    wide = keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))
    rounded = keras.ops.cast(keras.ops.convert_to_tensor(wide / (1 + np.exp(-wide))), "bfloat16")
    found = layer.act(x)
    assert found.dtype == rounded.dtype
    np.testing.assert_array_equal(
        *(keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")) for y in (found, rounded))
    )


def test_each_way_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a machine without oneDNN, a GPU or another backend would take."""
    kernel = tf.constant(np.random.default_rng(1).normal(size=(3, 3, 2, 12)), "float32")
    arguments = (kernel, (1, 1), "same", (1, 1), 4, "channels_last")
    expected = run(lambda_layer(lambda x: keras.ops.conv(x, kernel, padding="same")), images())
    ways = {
        "native": {"convolves_groups": lambda dtype, dilated: True},
        "native in float32": {"convolves_groups": lambda dtype, dilated: dtype == "float32"},
        "split": {"convolves_groups": lambda dtype, dilated: False},
        "keras": {
            "name": lambda: "torch",
            "overruns": lambda *_: False,
            "errs_channels_last": lambda *_: False,
        },
    }
    for way, answers in ways.items():
        with monkeypatch.context() as patched:
            for name, answer in answers.items():
                patched.setattr(backend, name, answer)
            dtype = "float16" if "float32" in way else "float32"
            assert way_of(8, 4, (1, 1), dtype, False) == way
            assert_close([convolve(images(), *arguments)[0]], expected[:1])
    monkeypatch.setattr(backend, "compiles", lambda: True)
    for name, accelerated, way in (
        *(("jax", False, "split"), ("jax", True, "keras")),
        *(("tensorflow", False, "split"), ("tensorflow", True, "native")),
    ):
        monkeypatch.setattr(backend, "name", lambda name=name: name)
        monkeypatch.setattr(backend, "has_accelerator", lambda found=accelerated: found)
        assert way_of(8, 4, (1, 1), "float32", False) == way


def lambda_layer(function: Callable[[Any], Any]) -> Any:
    return keras.layers.Lambda(function)


@pytest.mark.parametrize("groups", [2, 4, 8, 32, 64])
def test_the_split_way_at_many_widths(groups: int) -> None:
    """Narrow groups are put together on the diagonal of a wider kernel."""
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(2, 6, 6, 64)), "float32")
    kernel = tf.constant(random.normal(size=(3, 3, 64 // groups, 192)), "float32")
    how = {
        "strides": (1, 1),
        "padding": "same",
        "dilation_rate": (1, 1),
        "data_format": "channels_last",
    }
    mine = _split(x, kernel, groups, how)
    parts = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
    dense = [tf.nn.conv2d(part, own, 1, "SAME") for part, own in parts]
    np.testing.assert_allclose(mine, tf.concat(dense, -1), rtol=1e-4, atol=1e-4)


NO_ONEDNN = """
import keras, numpy as np, tensorflow as tf, kblocks as kb
from kblocks.common import backend
assert not backend.convolves_groups("float32", False)
x = tf.constant(np.random.default_rng(0).normal(size=(2, 9, 9, 8)), "float32")
theirs = keras.layers.Conv2D(16, 3, groups=4, activation="relu")
ours = kb.GroupedConv2D.from_config(theirs.get_config())
theirs.build(x.shape), ours.build(x.shape)
ours.set_weights(theirs.get_weights())
def gradients(layer):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    return tape.gradient(loss, layer.trainable_weights)
mine = tf.function(lambda: gradients(ours))()
for own, other in zip(mine, gradients(theirs)):
    np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-3)
print(ours.way)
"""


@pytest.mark.system
def test_without_onednn(fresh_process: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert fresh_process(NO_ONEDNN).splitlines()[-1] == "split"


# --- accelerate --------------------------------------------------------------------------


def keras_model() -> keras.Model:
    """Grouped convolutions at the top, nested, wrapped, and used twice."""
    inputs = keras.Input((12, 12, 8))
    shared = keras.layers.Conv2D(8, 3, groups=2, padding="same", name="shared")
    x = shared(shared(inputs))
    inner = keras.Sequential(
        [keras.Input((12, 12, 8)), keras.layers.Conv2D(16, 3, groups=4, name="nested")]
    )
    x = keras.layers.BatchNormalization()(inner(x))
    x = keras.layers.Lambda(lambda t: 2 * t, output_shape=(10, 10, 16))(x)
    x = keras.layers.Reshape((2, 5, 10, 16))(x)
    x = keras.layers.TimeDistributed(keras.layers.Conv2D(4, 3, groups=4, name="wrapped"))(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x), name="users")


@pytest.mark.slow
def test_a_users_model_is_accelerated() -> None:
    model = keras_model()
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    fast = kb.accelerate(model)
    x = np.random.default_rng(0).normal(size=(4, 12, 12, 8)).astype("float32")
    np.testing.assert_allclose(fast.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)
    assert type(model.get_layer("shared")) is keras.layers.Conv2D, "the user's is as it was"
    assert type(fast.get_layer("shared")) is kb.GroupedConv2D
    for mine, theirs in zip(fast.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    histories = [
        m.fit(x, np.ones((4, 3)), epochs=3, verbose=0, shuffle=False).history for m in (fast, model)
    ]
    for key in histories[1]:
        np.testing.assert_allclose(histories[0][key], histories[1][key], rtol=1e-3)


def test_a_model_without_groups_and_a_saved_one(tmp_path: Any) -> None:
    fast = kb.accelerate(keras_model())
    fast.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", safe_mode=False)
    x = np.ones((1, 12, 12, 8), "float32")
    np.testing.assert_allclose(loaded(x), fast(x), atol=1e-6)
    plain = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3)])
    assert type(kb.accelerate(plain).layers[0]) is keras.layers.Conv2D


def test_a_strided_1x1_convolution_of_a_users_model_is_ours() -> None:
    """Keras' own may write over memory: see test_small_convolutions.py."""
    layers = [keras.layers.Conv2D(4, 1, strides=2), keras.layers.Conv2D(4, 1)]
    model = keras.Sequential([keras.Input((9, 8, 3)), *layers])
    fast = kb.accelerate(model)
    assert [type(layer) for layer in fast.layers] == [kb.GroupedConv2D, keras.layers.Conv2D]
    x = np.random.default_rng(0).normal(size=(3, 9, 8, 3)).astype("float32")
    np.testing.assert_allclose(fast(x), model(x), atol=1e-6)


def test_a_convolution_out_of_reach_is_named() -> None:
    class Own(keras.Model):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.inner = keras.layers.Conv2D(4, 3, groups=2, name="deep_inside")

        def call(self, x: Any) -> Any:
            return self.inner(x)

    model = Own()
    model(np.ones((1, 5, 5, 4)))
    with (
        pytest.raises(ValueError, match="deep_inside"),
        keras.utils.custom_object_scope({"Own": Own}),
    ):
        kb.accelerate(model)


# --- batch normalisation -----------------------------------------------------------------


@pytest.mark.thin(5)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"scale": False},
        {"center": False},
        {"epsilon": 1e-5, "momentum": 0.9},
        {"dtype": "mixed_float16"},
    ],
    ids=str,
)
def test_batch_normalisation_is_that_of_keras(
    arguments: dict[str, Any], jit_compile: bool, axis: int, training: bool
) -> None:
    """Outputs, gradients and moving averages; the variance is not Bessel's, as in Keras."""
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(2, 3, size=(3, 4, 5, 6)), "float32")
    layers = [
        k(axis=axis, **arguments) for k in (keras.layers.BatchNormalization, BatchNormalization)
    ]
    results = []
    for layer in layers:
        layer.build(x.shape)
        values = np.random.default_rng(1)
        layer.set_weights([values.uniform(0.5, 2, w.shape) for w in layer.weights])

        def step(layer: Any = layer) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.cast(layer(x, training=training), "float32")
                loss = tf.reduce_sum(y**3)
            return [y, *tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])]

        compiled = tf.function(step, jit_compile=jit_compile)
        found = [np.asarray(value) for value in compiled()]
        results.append(found + [np.asarray(w) for w in layer.weights])
    for theirs, mine in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-4 * abs(theirs).max())


def test_the_kernel_is_used() -> None:
    layer = BatchNormalization()
    layer.build((None, 4, 4, 3))
    traced = tf.function(lambda x: layer(x, training=True))
    operations = traced.get_concrete_function(tf.TensorSpec((None, 4, 4, 3))).graph.get_operations()
    assert sum(o.type == "FusedBatchNormV3" for o in operations) == 1


def test_a_batch_of_one_pixel_and_a_frozen_layer() -> None:
    for kind in (keras.layers.BatchNormalization, BatchNormalization):
        layer = kind()
        np.testing.assert_allclose(layer(np.full((1, 1, 1, 2), 3.0), training=True), 0, atol=1e-6)
        np.testing.assert_allclose(layer.moving_variance, [0.99, 0.99], rtol=1e-6)
        layer.trainable = False
        layer(np.full((4, 1, 1, 2), 3.0), training=True)
        np.testing.assert_allclose(layer.moving_mean, [0.03, 0.03], rtol=1e-5)
