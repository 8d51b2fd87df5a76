"""`ResidualDense`, the residual block of features, and weight normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb

NORMS = ("batch", "layer", "weight", None)
CASES = [(norm, order) for norm in NORMS for order in ("original", "full_preactivation")]


@pytest.mark.thin(5)
@pytest.mark.parametrize(("normalization", "order"), CASES)
@pytest.mark.parametrize("features", [6, 8])
def test_it_is_a_layer_of_its_cost(
    normalization: Any, order: str, features: int, tmp_path: Path
) -> None:
    """Shapes, parameters, gradients, config and files, with and without a projection."""
    block = kb.ResidualDense(8, depth=3, order=order, normalization=normalization, dropout=0.1)
    x = np.random.default_rng(0).normal(size=(5, features)).astype("float32")
    model = keras.Sequential([keras.Input((features,)), block])
    cost = block.spec.cost((features,))
    assert model.output_shape == (None, 8) == (None, *cost.output_shape)
    assert model.count_params() == cost.params
    assert sum(
        w.size if hasattr(w, "size") else np.prod(w.shape) for w in model.trainable_weights
    ) == (cost.trainable_params)
    kernels = [w.shape for w in model.trainable_weights if w.name == "kernel"]
    assert cost.macs == sum(rows * columns for rows, columns in kernels)
    model.compile("sgd", "mse")
    before = [keras.ops.convert_to_numpy(w) for w in model.trainable_weights]
    model.fit(x, np.ones((5, 8), "float32"), verbose=0)
    after = [keras.ops.convert_to_numpy(w) for w in model.trainable_weights]
    still = [np.array_equal(*pair) for pair in zip(before, after, strict=True)]
    assert sum(still) <= 1
    model.save(tmp_path / "dense.keras")
    again = keras.saving.load_model(tmp_path / "dense.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_without_norm_it_is_the_formula() -> None:
    """y = relu(W2 relu(W1 x + b1) + b2 + x), He et al. 2015, Eq. 1."""
    block = kb.ResidualDense(4, normalization=None, bias_initializer="ones")
    x = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    y = np.array(block(x))
    (w1, b1), (w2, b2) = (
        [keras.ops.convert_to_numpy(w) for w in layer.weights]
        for layer in block.layers
        if layer.weights
    )
    expected = np.maximum(np.maximum(x @ w1 + b1, 0) @ w2 + b2 + x, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "block", [kb.ConvBlock(6, normalization="weight"), kb.ResidualDense(6, normalization="weight")]
)
def test_weight_normalization_is_the_formula(block: Any) -> None:
    """w = g v / |v| (Salimans & Kingma 2016, Eq. 2); at the start g = |v|, so that w = v."""
    shape = (2, 5, 5, 3) if isinstance(block, kb.ConvBlock) else (2, 6)
    block.build(shape)
    layer = next(part for part in block.layers if part.weights)
    v, g = keras.ops.convert_to_numpy(layer.kernel), keras.ops.convert_to_numpy(layer.gain)
    np.testing.assert_allclose(np.array(layer.effective_kernel()), v, rtol=1e-6)
    layer.gain.assign(2 * g)
    layer.kernel.assign(3 * v)
    norms = np.sqrt((v.reshape(-1, 6) ** 2).sum(0))
    np.testing.assert_allclose(np.array(layer.effective_kernel()), 2 * g * v / norms, rtol=1e-5)


def test_groups_of_features_are_refused() -> None:
    """A group of one feature is zero once normalised, and nothing would train."""
    with pytest.raises(ValueError, match="normalization"):
        kb.ResidualDense(8, normalization="group")
