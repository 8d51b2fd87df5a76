"""python benchmarks/augmentation.py    (about 20 seconds)

Flip and shift of 64 images of 28x28, by kblocks (`augmentation="flip+shift"`) and by Keras'
`RandomFlip` and `RandomTranslation`, each as a `tf.function`. Both run in turn; the table shows
medians. Keras' layer computes every pixel from its four neighbours, so it also blurs.
"""

from __future__ import annotations

import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from kblocks.training.moving import Moved

ROUNDS, CALLS = 40, 20
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


if __name__ == "__main__":
    main()
