"""python examples/own_hypermodel.py    (about 1 minute)

A space inside your own `build(hp)`: the network comes from kblocks, everything else is yours.
"""

import keras
import keras_tuner
import numpy as np
from sklearn.datasets import load_digits

import kblocks as kb

keras.utils.set_random_seed(1)
digits = load_digits()
images = (digits.images[..., np.newaxis] / 16).astype("float32")

space = kb.Space(
    kb.vgg,
    classes=10,
    blocks=[kb.choice(1, 2), kb.choice(1, 2)],
    filters=[kb.choice(16, 32), kb.choice(32, 64)],
    kernel_size=kb.choice(3, (1, 3), 5),
    normalization=kb.choice("batch", "group", None),
    head={"pool": kb.choice("avg", "concat"), "hidden": ()},
).within((8, 8, 1), kb.Budget(params=60_000))


def build(hp: keras_tuner.HyperParameters) -> keras.Model:
    """Builds a network of the space behind an augmentation; the optimizer is a choice."""
    inputs = keras.Input((8, 8, 1))
    shifted = keras.layers.RandomTranslation(0.1, 0.1)(inputs)
    model = kb.tuner.suggest(hp, space).model((8, 8, 1), input_tensor=shifted)
    model.compile(
        hp.Choice("optimizer", ["adam", "nadam"]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


tuner = keras_tuner.RandomSearch(
    build,
    "val_accuracy",
    max_trials=3,
    seed=1,
    directory="runs",
    project_name="own",
    overwrite=True,
)
tuner.search(images[:1200], digits.target[:1200], validation_split=0.2, epochs=3, verbose=0)
best = tuner.get_best_hyperparameters()[0]
net = kb.tuner.network_of(best)
kb.summary(net, (8, 8, 1))

kb.draw(net, "runs/own_hypermodel.svg", input_shape=(8, 8, 1))
print("runs/own_hypermodel.svg: the best network")
