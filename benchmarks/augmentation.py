"""python benchmarks/augmentation.py    (about 40 seconds)

Flip and shift of 64 images of 28x28, by kblocks (`augmentation="flip+shift"`) and by Keras'
`RandomFlip` and `RandomTranslation`, each as a `tf.function`. Both run in turn; the table shows
medians. Keras' layer computes every pixel from its four neighbours, so it also blurs.

Then the CPU time that each other named augmentation adds to a training step, against Keras' layer
in a `tf.data` pipeline, also for 64 images of 32x32 with three channels.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import kblocks as kb
from kblocks.training.moving import Moved

layers: Any = keras.layers

ROUNDS, CALLS = 40, 20
NAMED = {
    "mixup": lambda: layers.MixUp(),
    "cutmix": lambda: layers.CutMix((1.0, 1.0)),
    "erasing": lambda: layers.RandomErasing(value_range=(0, 1)),
    "randaugment": lambda: layers.RandAugment(value_range=(0, 1), factor=0.1),
}
EIGHTH = 1 / 8  # of height and width, as far as "shift" moves


def main() -> None:
    """Prints a row for each side."""
    images = tf.constant(np.random.default_rng(0).random((64, 28, 28, 1)), "float32")
    shift = keras.layers.RandomTranslation(EIGHTH, EIGHTH, fill_mode="nearest")
    theirs = keras.Sequential([keras.layers.RandomFlip("horizontal"), shift])
    sides = {"kblocks": Moved(flip=True, shift=True), "Keras": theirs}
    calls = {
        name: tf.function(lambda x, s=side: s(x, training=True)) for name, side in sides.items()
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(images)
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call(images)
            times[name].append(1000 * (time.perf_counter() - start) / CALLS)
    print("| flip and shift by | ms |\n|---|---|")
    for name, found in times.items():
        print(f"| {name} | {statistics.median(found):.2f} |")
    print("\n| images | augmentation | in the step, ms | Keras in tf.data, ms |\n|---|---|---|---|")
    for shape in ((28, 28, 1), (32, 32, 3)):
        plain = cpu_time(step(shape, None))
        for name, make in NAMED.items():
            added, theirs = cpu_time(step(shape, name)) - plain, cpu_time(pipeline(shape, make()))
            print(f"| {'x'.join(map(str, shape))} | {name} | {added:.2f} | {theirs:.2f} |")


def batch(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """64 images and their labels."""
    return np.random.default_rng(0).random((64, *shape)).astype("float32"), np.arange(64) % 10


def step(shape: tuple[int, ...], augmentation: str | None) -> Callable[[], Any]:
    """A training step of a model that does next to nothing."""
    inputs = keras.Input(shape)
    outputs = layers.Dense(10)(layers.GlobalAveragePooling2D()(inputs))
    model: Any = keras.Model(inputs, outputs)
    kb.Recipe(augmentation=augmentation).compile(model)
    model.make_train_function()
    batches: Iterator[Any] = iter(tf.data.Dataset.from_tensors(batch(shape)).repeat())
    return lambda: model.train_function(batches)


def pipeline(shape: tuple[int, ...], layer: Any) -> Callable[[], Any]:
    """The next batch of a pipeline with one-hot labels."""
    x, y = batch(shape)
    data = tf.data.Dataset.from_tensors({"images": x, "labels": np.eye(10, dtype="float32")[y]})
    batches = iter(data.repeat().map(lambda one: layer(dict(one), training=True)))
    return lambda: next(batches)


def cpu_time(call: Callable[[], Any]) -> float:
    """The median of the CPU milliseconds of a call."""
    call()
    times = []
    for _ in range(CALLS):
        start = time.process_time()
        call()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


if __name__ == "__main__":
    main()
