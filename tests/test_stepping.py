"""Several steps in one execution train as `fit` does."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import kblocks as kb
from kblocks.training.stepping import joined

if keras.backend.backend() != "tensorflow":
    pytest.skip("only on TensorFlow", allow_module_level=True)


def trained(macs: float | None) -> tuple[dict[str, list[float]], list[np.ndarray], int]:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(27, 8, 8, 3)), random.integers(0, 3, 27)
    keras.utils.set_random_seed(0)
    model = kb.Architecture([kb.ConvBlock.Spec(4)], head=kb.Classifier(3)).model((8, 8, 3))
    kb.Recipe().compile(model)
    given = {"x": x, "y": y, "batch_size": 4, "epochs": 2, "verbose": 0, "shuffle": False}
    given["validation_data"] = (x, y)
    with joined(model, given, macs) as arguments:
        history = model.fit(**arguments).history
    return history, model.get_weights(), int(model.optimizer.iterations.numpy())


def test_training_is_that_of_keras() -> None:
    """7 steps an epoch, 3 in one execution, the last step with 3 images."""
    (plain, weights, steps), (ours, others, count) = trained(None), trained(2e9 / 4 / 3)
    assert steps == count == 14
    assert plain.keys() == ours.keys()
    for name, values in plain.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-4)
    for mine, theirs in zip(others, weights, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
