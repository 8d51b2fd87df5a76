"""python examples/own_model.py    (about 1 minute)

A space over your own function: Keras' layers, blocks with choices, a budget for the whole model.
"""

from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

import kblocks as kb


def digits_model(first: dict[str, Any], second: dict[str, Any], third: dict[str, Any]) -> Any:
    """A convolution of Keras, then three blocks, whose arguments are searched."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(8, 3, padding="same")(inputs)
    x = kb.ResidualBlock(**first)(x)
    x = keras.layers.MaxPooling2D()(x)
    x = kb.SeparableConvBlock(**second)(x)
    x = kb.MBConvBlock(**third)(x)
    return keras.Model(inputs, kb.Classifier(10)(x))


space = kb.Space(
    digits_model,
    first={"filters": kb.choice(8, 16, 32), "kernel_size": kb.choice(3, 5, (1, 5))},
    second={"filters": kb.choice(16, 32, 64), "activation": kb.choice("relu", "silu")},
    third={"filters": kb.choice(32, 64), "expansion": kb.choice(2, 4)},
).within((8, 8, 1), kb.Budget(params=30_000, macs=400_000))

if __name__ == "__main__":
    digits = load_digits()
    images = (digits.images[..., np.newaxis] / 16).astype("float32")
    recipe = kb.Recipe(learning_rate=kb.real(1e-3, 1e-2, log=True))
    hypermodel = kb.tuner.HyperModel(space, recipe, latency=False)
    tuner = kb.tuner.Tuner(
        hypermodel, trials=4, seed=1, workers=1, project_name="own_model", overwrite=True
    )
    run = tuner.search(images[:1200], digits.target[:1200], validation_split=0.2, epochs=15)
    for trial in run.ranked():
        print(trial.number, run.told(trial), f"{trial.costs['macs']:,} MACs", dict(trial.values))
    kb.summary(tuner.get_best_models()[0])
