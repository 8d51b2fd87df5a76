"""python benchmarks/grouped.py    (about 4 minutes)

Grouped convolutions of kblocks against Keras' own layer: single layers, and a training step of
ResNeXt-50 32x4d, each as TensorFlow runs it and under `jit_compile=True`. Both sides run in turn in
one process; the table shows medians.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import kblocks as kb
from kblocks.layers import grouped

LAYERS = ((56, 128), (28, 256), (14, 512), (7, 1024))
GROUPS, BATCH, ROUNDS = 32, 4, 5


def main() -> None:
    """Times both sides in turn."""
    print("| what | XLA | kblocks | Keras | ratio |")
    print("|---|---|---|---|---|")
    for size, channels in LAYERS:
        for jit in (False, True):
            told(
                f"3x3, {channels} channels at {size}x{size}, forward",
                jit,
                layers(size, channels, jit),
            )
            told("the same with gradients", jit, layers(size, channels, jit, gradients=True))
    for jit in (False, True):
        told("ResNeXt-50 32x4d, step, 64x64, batch 8", jit, steps(jit))


def told(what: str, jit: bool, sides: list[Callable[[], Any]]) -> None:
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for side, found in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            found.append(time.perf_counter() - start)
    ours, theirs = (1e3 * statistics.median(found) for found in times)
    xla = "yes" if jit else "no"
    print(f"| {what} | {xla} | {ours:.1f} ms | {theirs:.1f} ms | {theirs / ours:.1f} |", flush=True)


def layers(size: int, channels: int, jit: bool, gradients: bool = False) -> list[Callable[[], Any]]:
    """A traced call of each side's layer."""
    x = tf.random.normal((BATCH, size, size, channels), seed=0)
    sides = []
    for kind in (kb.GroupedConv2D, keras.layers.Conv2D):
        layer = kind(channels, 3, padding="same", groups=GROUPS, use_bias=False)
        layer.build(x.shape)

        def run(layer: Any = layer) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = layer(x)
                loss = tf.reduce_sum(outputs**2)
            return tape.gradient(loss, [x, layer.kernel.value]) if gradients else outputs

        compiled = tf.function(run, jit_compile=jit)
        compiled()
        sides.append(lambda compiled=compiled: [t.numpy() for t in tf.nest.flatten(compiled())])
    return sides


def steps(jit: bool) -> list[Callable[[], Any]]:
    """A training step of each side's model: the same network with Keras' convolution."""
    x = np.random.default_rng(0).normal(size=(8, 64, 64, 3)).astype("float32")
    y = np.zeros(8, "int32")
    sides = []
    for scope in (ours, by_keras):
        with scope():
            model = kb.resnext50_32x4d(1000).model((64, 64, 3))
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=jit)
            model.train_on_batch(x, y)
        sides.append(lambda model=model: model.train_on_batch(x, y))
    return sides


@contextmanager
def ours() -> Iterator[None]:
    yield


@contextmanager
def by_keras() -> Iterator[None]:
    """Makes every kblocks convolution use `keras.ops.conv`, as Keras' layer does."""
    kept = grouped.way_of
    grouped.way_of = lambda *about: "keras"
    try:
        yield
    finally:
        grouped.way_of = kept


if __name__ == "__main__":
    main()
