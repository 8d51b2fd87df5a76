"""Every activation of Keras behind every normalisation, in eager calls and in graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from numpy_plans import sparsemax

import kblocks as kb

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="what TensorFlow's rewriting of graphs does"
)
NAMES = sorted(
    name
    for name, value in vars(keras.activations).items()
    if not name.startswith("_") and callable(value)
    if name not in ("deserialize", "get", "glu", "serialize", "threshold")  # blocks refuse two
)
QUICK = (("batch", "float32"), ("layer", "float32"), ("batch", "mixed_float16"))
TOLERANCES = {"float32": 1e-5, "float64": 1e-12, "mixed_float16": 4e-3, "mixed_bfloat16": 3e-2}


def _as_numpy(x: Any) -> Any:
    wide = "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32"
    found: Any = keras.ops.convert_to_numpy(keras.ops.cast(x, wide))
    return found


CASES = [
    pytest.param(norm, policy, marks=() if (norm, policy) in QUICK else pytest.mark.slow)
    for policy in TOLERANCES
    for norm in ("batch", "layer", "group", "weight", None)
]


@pytest.mark.parametrize(("normalization", "policy"), CASES)
def test_activations(normalization: Any, policy: str, images: Callable[..., np.ndarray]) -> None:
    """Keras' function of what the block gives without one, from a call and from `predict`."""
    blocks = {
        name: kb.ConvBlock(8, normalization=normalization, activation=name, dtype=policy)
        for name in [*NAMES, None]
    }
    start = keras.Input((6, 5, 4))
    outputs = {str(name): block(start) for name, block in blocks.items()}
    model = keras.Model(start, outputs)
    values = [
        np.random.default_rng(i).uniform(0.1, 0.6, w.shape)
        for i, w in enumerate(blocks[None].weights)
    ]
    for block in blocks.values():
        block.set_weights(values)
    x = images(3, 6, 5, 4)
    eager, graph = model(x, training=False), model.predict(x, verbose=0)
    before = _as_numpy(eager["None"])
    for name in NAMES:
        expected = _as_numpy(keras.activations.get(name)(keras.ops.convert_to_tensor(before)))
        if name == "sparsemax":
            expected = sparsemax(before)
        scale = 1 + np.abs(expected).max()
        # Rounding may move a value over the step of this function.
        step = name == "hard_shrink" and np.abs(np.abs(before) - 0.5) < TOLERANCES[policy]
        for found in (_as_numpy(eager[name]), np.asarray(graph[name], before.dtype)):
            worst = np.where(step, 0, np.abs(found - expected)).max()
            assert worst <= TOLERANCES[policy] * scale, (name, worst, scale)


def test_sparsemax_is_the_nearest_point_of_the_simplex() -> None:
    """By hand for two channels: the differences are kept and the values sum to 1."""
    block = kb.NormAct(normalization=None, activation="sparsemax")
    x = np.array([[1, 1], [2, 1.5], [3, 1]], "float32").reshape(3, 1, 1, 2)
    by_hand = np.array([[0.5, 0.5], [0.75, 0.25], [1, 0]])
    np.testing.assert_allclose(np.reshape(block(x), (3, 2)), by_hand, atol=1e-6)
    np.testing.assert_allclose(sparsemax(x).reshape(3, 2), by_hand, atol=1e-12)


def test_kerass_sparsemax_is_still_wrong() -> None:
    """When this fails, Keras' own function can be taken."""
    wrong = keras.ops.convert_to_numpy(keras.activations.sparsemax(np.ones((1, 2), "float32")))
    np.testing.assert_allclose(wrong, [[0, 0]])


@pytest.mark.parametrize("name", ["tanh", "mish"])
def test_an_activation_of_the_users_own_behind_a_block(
    name: str, images: Callable[..., np.ndarray]
) -> None:
    x = images(2, 6, 5, 4)
    layer = keras.layers.Activation(name)
    inside = keras.Sequential([keras.Input((6, 5, 4)), kb.ConvBlock(4, activation=layer)])
    behind = keras.Sequential([keras.Input((6, 5, 4)), kb.ConvBlock(4, activation=None), layer])
    behind.set_weights(inside.get_weights())
    expected = np.asarray(inside(x, training=False))
    for model in (inside, behind):
        np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-6)


@on_tensorflow
def test_graphs_are_left_to_be_fused_where_that_is_right() -> None:
    import tensorflow as tf

    def ops_of(activation: Any, **told: Any) -> list[str]:
        block = kb.ConvBlock(4, activation=activation)
        block.build((None, 6, 5, 4))
        shape = tf.TensorSpec((None, 6, 5, 4))
        traced = tf.function(lambda x: block(x, **told)).get_concrete_function(shape)
        return [op.type for op in traced.graph.get_operations()]

    for relu in ("relu", "relu6", "elu", "leaky_relu", keras.layers.LeakyReLU(0.1)):
        assert "EnsureShape" not in ops_of(relu)
    assert "EnsureShape" not in ops_of("tanh", training=True)
    assert "EnsureShape" in ops_of("tanh")


@on_tensorflow
def test_tensorflow_still_fuses_what_it_has_no_kernel_for() -> None:
    """When this fails, `backend.kept_from_fusing` and `before_relu` can go."""
    import tensorflow as tf

    ones = tf.ones(4)

    @tf.function
    def normed_tanh(x: Any, kernel: Any) -> Any:
        maps = tf.nn.conv2d(x, kernel, 1, "SAME")
        how = {"scale": ones, "offset": ones, "mean": ones, "variance": ones}
        normed = tf.raw_ops.FusedBatchNormV3(x=maps, **how, is_training=False)
        return tf.tanh(normed.y)

    try:
        normed_tanh(tf.ones((2, 5, 5, 3)), tf.ones((3, 3, 3, 4)))
    except tf.errors.UnimplementedError:
        return
    if tf.config.list_physical_devices("GPU") or not _has_onednn():
        pytest.skip("fuses on a CPU with oneDNN alone")
    pytest.fail("TensorFlow no longer fuses batch norm and tanh")


def _has_onednn() -> bool:
    """Which no public function tells: whether it convolves with the channels first."""
    import tensorflow as tf

    try:
        tf.nn.conv2d(tf.ones((1, 3, 5, 5)), tf.ones((3, 3, 3, 4)), 1, "SAME", data_format="NCHW")
    except (tf.errors.OpError, ValueError):
        return False
    return True
