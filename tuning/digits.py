"""python tuning/digits.py    (about 2 minutes on 2 cores)

Searches a residual network for scikit-learn's digits (1,797 images of 8x8) under a budget of
1.5 million multiply-adds, and writes the best model, its architecture and a table of all
trials to runs/digits/. A fifth of the images is kept away from the search for the last figure.
The best trial's network is trained once more, on the validation images too and on all images
moved by a pixel.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_tuner
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

import kblocks as kb

INPUT = (8, 8, 1)
SEED = 7


def space() -> kb.Space:
    """Depth, filters, kernels, strides, padding and pooling of a residual network."""
    return kb.Space(
        kb.resnet,
        classes=10,
        blocks=kb.per_stage(3, kb.choice(1, 2)),
        filters=[kb.choice(16, 24, 32), kb.choice(32, 48, 64), kb.choice(64, 96, 128)],
        kernel_size=kb.per_stage(3, kb.choice(3, 5, (1, 3), (3, 1))),
        strides=[1, kb.choice(1, 2), kb.choice(2, (2, 1))],
        padding=kb.choice("same", "valid", "symmetric"),
        stem={"filters": kb.choice(16, 32), "kernel_size": 3, "strides": 1, "pool": None},
        head={"pool": kb.choice("avg", "concat"), "dropout": kb.choice(0.0, 0.2)},
    )


def shifted(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images, and each moved by one pixel up, down, left and right."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    moved = [padded[:, row : row + 8, column : column + 8] for row, column in corners]
    return np.concatenate(moved), np.tile(labels, len(corners))


def main() -> None:
    """Splits, searches, and tells what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--last-epochs", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path("runs/digits"))
    arguments = parser.parse_args()

    keras.utils.set_random_seed(SEED)
    digits = load_digits()
    images = (digits.images[..., np.newaxis] / 16).astype("float32")
    x_rest, x_test, y_rest, y_test = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=SEED
    )
    x_train, x_val, y_train, y_val = train_test_split(
        x_rest, y_rest, test_size=0.2, stratify=y_rest, random_state=SEED
    )

    searched = space().within(INPUT, kb.Budget(macs=1.5e6))
    hypermodel = kb.tuner.HyperModel(
        searched, recipe=kb.Recipe(learning_rate=kb.real(2e-3, 2e-2, log=True), schedule="cosine")
    )
    tuner = keras_tuner.BayesianOptimization(
        hypermodel,
        objective="val_accuracy",
        max_trials=arguments.trials,
        num_initial_points=5,
        seed=SEED,
        directory=arguments.folder,
        project_name="tuner",
        overwrite=True,
    )
    result = kb.tuner.search(
        tuner,
        x_train,
        y_train,
        validation_data=(x_val, y_val),
        epochs=arguments.epochs,
        batch_size=64,
        folder=arguments.folder,
    )

    print(f"\nbest trial: val_accuracy {result.score:.4f} with")
    for name, value in result.values.items():
        print(f"  {name} = {value}")
    print(f"training it once more on all {len(x_rest)} images, {arguments.last_epochs} epochs")
    keras.utils.set_random_seed(SEED)
    best = tuner.get_best_hyperparameters()[0]
    model = hypermodel.build(best)
    images, labels = shifted(x_rest, y_rest)
    hypermodel.fit(
        best, model, images, labels, epochs=arguments.last_epochs, batch_size=128, verbose=0
    )
    kb.tuner.save(model, arguments.folder / "best.keras")
    accuracy = model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]
    neighbour = KNeighborsClassifier(1).fit(x_rest.reshape(len(x_rest), -1), y_rest)
    yardstick = neighbour.score(x_test.reshape(len(x_test), -1), y_test)
    print(f"accuracy on {len(x_test)} images the search never saw: {accuracy:.4f}")
    print(f"nearest neighbour on the same images: {yardstick:.4f}")
    print(f"written to {arguments.folder}: best.keras, best.json, trials.csv")


if __name__ == "__main__":
    main()
