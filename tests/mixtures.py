"""Images that tell which images they were mixed of, for any backend: no test runner here."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import kblocks as kb

NUMBER, CLASSES = 12, 3
# Channel i is 1 in image i alone, so the mean of a mixed image is the share of each image in it.
X = np.broadcast_to(np.eye(NUMBER, dtype="float32")[:, None, None], (NUMBER, 9, 7, NUMBER)).copy()
Y = np.arange(NUMBER) % CLASSES
ONE_HOT = np.eye(CLASSES, dtype="float32")[Y]
COLOURED = X @ ONE_HOT  # of three channels, one for each class
WEIGHTS = np.random.default_rng(1).uniform(0.5, 2, NUMBER).astype("float32")


def classifier(channels: int = NUMBER) -> keras.Model:
    inputs = keras.Input((*X.shape[1:3], channels))
    features = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(features))


class Seen:
    """Trains one step, which changes next to nothing, and keeps the images that it has seen."""

    def __init__(self, model: Any, recipe: kb.Recipe, x: Any, y: Any, **arguments: Any) -> None:
        recipe.compile(model, learning_rate=1e-9)
        model.run_eagerly, loss = True, model.compute_loss

        def compute_loss(x: Any, *args: Any, **kwargs: Any) -> Any:
            self.x = np.asarray(keras.ops.convert_to_numpy(x))
            return loss(x, *args, **kwargs)

        model.compute_loss = compute_loss
        given: dict[str, Any] = {"batch_size": NUMBER, "shuffle": False, "verbose": 0}
        history = model.fit(x, y, **given, **arguments).history
        self.logs = {name: values[0] for name, values in history.items()}
        self.shares = self.x.mean((1, 2))  # [i, j]: of image j in the mixed image i
        outputs = model(self.x, training=True)
        self.outputs: Any = keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def cross_entropy(outputs: Any, smoothing: float = 0.0) -> np.ndarray:
    """[i, j]: of the outputs for image i with the label of image j."""
    logits = np.asarray(outputs, "float64")
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = (1 - smoothing) * ONE_HOT + smoothing / CLASSES
    return -logs @ targets.T
