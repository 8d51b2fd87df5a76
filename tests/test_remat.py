"""Blocks that are computed again in the backward pass: the same training, less memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb

tf = pytest.importorskip("tensorflow")

INPUT = (8, 8, 3)
NETS: dict[str, kb.Architecture] = {
    "batch norm": kb.Architecture([kb.ConvBlock.Spec(4), kb.ResidualBlock.Spec(8, strides=2)]),
    "group norm": kb.Architecture([kb.ResidualBlock.Spec(8, normalization="group")]),
    "weight norm": kb.Architecture([kb.ConvBlock.Spec(4, normalization="weight")]),
    "dropout": kb.Architecture([kb.ConvBlock.Spec(8, dropout=0.5, convolutions=2)]),
    "drop path": kb.Architecture([[kb.ResidualBlock.Spec(8, stochastic_depth=0.5)] * 2]),
    "grouped": kb.Architecture([kb.ResNeXtBlock.Spec(16, cardinality=2)]),
    "dense": kb.Architecture([kb.DenseBlock.Spec(4)]),
    "several inputs": kb.Architecture(
        [("a", kb.ConvBlock.Spec(4), ("input",)), ("b", kb.ConvBlock.Spec(4), ("a",))],
        outputs={"a": "a", "b": "b"},
    ),
}


def trained(net: kb.Architecture, remat: bool, **compiled: Any) -> tuple[Any, Any]:
    """The weights and losses of three steps."""
    keras.utils.set_random_seed(1)
    model = net.model(INPUT, remat=remat)
    model.compile(keras.optimizers.SGD(0.05), "mse", **compiled)
    x = np.random.default_rng(0).normal(size=(16, *INPUT)).astype("float32")
    targets = keras.tree.map_structure(lambda t: np.ones((16, *t.shape[1:])), model.output)
    history = model.fit(x, targets, batch_size=8, epochs=3, shuffle=False, verbose=0).history
    return model.get_weights(), history["loss"]


@pytest.mark.thin(8, 2)
@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}, {"jit_compile": True}], ids=str)
@pytest.mark.parametrize("net", NETS.values(), ids=NETS.keys())
def test_training_stays_the_same(net: kb.Architecture, how: dict[str, Any]) -> None:
    """Gradients, moving averages (once a step) and the draws of dropout."""
    plain, losses = trained(net, remat=False, **how)
    again, found = trained(net, remat=True, **how)
    np.testing.assert_allclose(found, losses, rtol=1e-4)
    for mine, theirs in zip(again, plain, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


def test_the_maps_are_computed_again() -> None:
    """The convolutions stand in the graph twice; TensorFlow does not merge them."""
    counts = {}
    for remat in (False, True):
        model = kb.Architecture([kb.ConvBlock.Spec(4, convolutions=3)]).model(INPUT, remat=remat)

        def step(x: Any, model: Any = model) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(x, training=True) ** 2)
            return tape.gradient(loss, model.trainable_variables)

        graph = tf.function(step).get_concrete_function(tf.TensorSpec((2, *INPUT))).graph
        counts[remat] = sum(operation.type == "Conv2D" for operation in graph.get_operations())
    assert counts == {False: 3, True: 6}


PEAK = """
import keras, numpy as np, kblocks as kb
rows = [[kb.ConvBlock.Spec(64, convolutions=4)] * 4]
model = kb.Architecture(rows, head=kb.Classifier(2)).model((96, 96, 3), remat={remat})
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
open("/proc/self/clear_refs", "w").write("5")  # forgets the peak so far
def peak():
    status = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
before = peak()
for _ in range(2):
    model.train_on_batch(np.ones((8, 96, 96, 3)), np.zeros(8))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux for the peak")
def test_memory_falls(fresh_process: Callable[..., str]) -> None:
    """Of 16 convolutions with their norms, a block of 4 and the 4 borders live at once."""
    plain, again = (
        float(fresh_process(PEAK.format(remat=remat)).split()[-1]) for remat in (False, True)
    )
    assert again < 0.7 * plain, (again, plain)


def test_other_backends_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblocks.common.backend.name", lambda: "jax")
    with pytest.raises(ValueError, match="needs the TensorFlow backend"):
        kb.Architecture([kb.ConvBlock.Spec(4)]).model(INPUT, remat=True)(
            np.ones((1, *INPUT)), training=True
        )
