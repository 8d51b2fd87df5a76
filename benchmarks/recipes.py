"""python benchmarks/recipes.py --seconds 300 --seeds 1 2 3 4 5    (about 2.5 hours)

Test accuracy of one small residual network after equal CPU time under each named recipe: the
default, also in bfloat16, "plain" and "strong", on Fashion-MNIST and on scikit-learn's digits. The
CPU time of an epoch is measured first, so that every schedule ends when the time is over. The
spread is the standard deviation over the seeds. `--images` limits the images to train on. On a GPU,
whose time is not CPU time, `--epochs` says how many epochs each recipe trains.

Needs Debian's package dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import kblocks as kb

DATA = {"Fashion-MNIST": "/usr/share/datasets/fashion-mnist", "digits": "digits"}
RECIPES = {
    "default": kb.Recipe(),
    "plain": kb.Recipe.named("plain"),
    "strong": kb.Recipe.named("strong"),
    "bfloat16": kb.Recipe(precision="bfloat16"),
}
BATCH = 64


def main() -> None:
    """Prints a row for each data set and recipe."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--images", type=int)
    parser.add_argument("--epochs", type=int, help="equal epochs in place of equal time")
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=DATA)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    options = parser.parse_args()
    print("| data | recipe | epochs | CPU seconds | test accuracy | spread | each |")
    print("|---|---|---|---|---|---|---|")
    for name in options.data:
        data = kb.tuner.load(DATA[name], limit=options.images)
        for kind in options.recipes:
            recipe = RECIPES[kind]
            epochs = options.epochs or max(
                1, round(options.seconds / seconds_of_an_epoch(recipe, data))
            )
            found = [trained(recipe, data, epochs, seed) for seed in options.seeds]
            accuracies, used = zip(*found, strict=True)
            spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
            figures = f"{statistics.mean(used):.0f} | {statistics.mean(accuracies):.4f}"
            each = " ".join(f"{one:.4f}" for one in accuracies)
            print(f"| {name} | {kind} | {epochs} | {figures} | {spread:.4f} | {each} |", flush=True)


def seconds_of_an_epoch(recipe: kb.Recipe, data: Any) -> float:
    """The CPU time of an epoch after the first, in which the step is traced."""
    marks: list[float] = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: marks.append(time.process_time())
    )
    trained(recipe, data, 2, 0, clock)
    return marks[1] - marks[0]


def trained(
    recipe: kb.Recipe, data: Any, epochs: int, seed: int, *callbacks: Any
) -> tuple[float, float]:
    """The accuracy on the test images after training, and the CPU seconds of `fit`."""
    keras.utils.set_random_seed(seed)
    stem = {"filters": 16, "kernel_size": 3, "strides": 1, "pool": None}
    net = kb.resnet(classes=data.classes, blocks=(1, 1, 1), filters=(16, 32, 64), stem=stem)
    model = net.model(data.input_shape)
    recipe.compile(model)
    own = [*recipe.callbacks(epochs), *callbacks]
    start = time.process_time()
    model.fit(*data.train, epochs=epochs, batch_size=BATCH, callbacks=own, verbose=0)
    used = time.process_time() - start
    figures: Any = model.evaluate(*data.test, batch_size=1000, verbose=0, return_dict=True)
    keras.backend.clear_session()
    return float(figures["accuracy"]), used


if __name__ == "__main__":
    main()
