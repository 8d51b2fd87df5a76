"""python benchmarks/first_step.py [--trials]    (about 6 minutes, 10 with --trials)

Time from a compiled model to the end of its first `fit` step (Adam, one metric, batch 64 of 32x32):
`kb.prepare` on a kblocks network against plain Keras with the same network written by hand. Each
side is a process of its own, warmed up by another small model; the sides take turns, and the table
shows medians. `--trials`: a whole search of 20 trials of a small network, kblocks under Keras Tuner
against Keras Tuner with the same network written by hand.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROUNDS, TRIALS, BATCH, INPUT = 3, 20, 64, (32, 32, 3)
NETWORKS = {
    "ResNet-18": {"block": "basic", "blocks": (2, 2, 2, 2), "filters": (64, 128, 256, 512)},
    "ResNet-50": {"block": "bottleneck", "blocks": (3, 4, 6, 3), "filters": (64, 128, 256, 512)},
    "small": {"block": "basic", "blocks": (1, 2, 1), "filters": (16, 32, 64)},
}


def main() -> None:
    """Measures each side in a process of its own and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", nargs=2)
    parser.add_argument("--trials", action="store_true")
    options = parser.parse_args()
    if options.side:
        what, side = options.side
        print(trials(side) if what == "trials" else first_step(what, side))
        return
    print("| network | kblocks | plain Keras | of its time |")
    print("|---|---|---|---|")
    for what in [*NETWORKS, *(["trials"] if options.trials else [])]:
        rounds = 1 if what == "trials" else ROUNDS
        sides: dict[str, list[float]] = {"kblocks": [], "keras": []}
        for _ in range(rounds):
            for side, found in sides.items():
                found.append(in_a_process(what, side))
        ours, theirs = (statistics.median(found) for found in sides.values())
        label = f"{TRIALS} trials, all" if what == "trials" else what
        print(f"| {label} | {ours:.1f} s | {theirs:.1f} s | {ours / theirs:.2f} |", flush=True)


def in_a_process(what: str, side: str) -> float:
    command = [sys.executable, __file__, "--side", what, side]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def first_step(what: str, side: str) -> float:
    """Seconds from `compile` to the end of the first step."""
    import keras

    import kblocks as kb

    fitted(compiled(by_hand({"block": "basic", "blocks": (1,), "filters": (4,)})))
    if side == "keras":
        model = by_hand(NETWORKS[what])
    else:
        model = kb.resnet(10, **NETWORKS[what]).model(INPUT)
    start = time.perf_counter()
    compiled(model)
    if side == "kblocks":
        kb.prepare(model)
    fitted(model)
    seconds = time.perf_counter() - start
    if side == "keras":
        assert model.count_params() == kb.resnet(10, **NETWORKS[what]).cost(INPUT).params
    keras.backend.clear_session()
    return seconds


def compiled(model: Any) -> Any:
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def fitted(model: Any) -> None:
    model.fit(*images(BATCH), batch_size=BATCH, verbose=0)


def images(number: int) -> tuple[Any, Any]:
    import numpy as np

    random = np.random.default_rng(0)
    return random.normal(size=(number, *INPUT)).astype("float32"), random.integers(0, 10, number)


def by_hand(network: dict[str, Any]) -> Any:
    """The network of `kb.resnet`, written with Keras alone."""
    import keras
    from keras import layers

    def conv(x: Any, filters: int, size: int, strides: int = 1, act: bool = True) -> Any:
        if size > 1:
            x = layers.ZeroPadding2D(size // 2)(x)
        x = layers.Conv2D(filters, size, strides, use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        return layers.ReLU()(x) if act else x

    def basic(x: Any, filters: int, strides: int) -> Any:
        y = conv(conv(x, filters, 3, strides), filters, 3, act=False)
        return joined(x, y, filters, strides)

    def bottleneck(x: Any, filters: int, strides: int) -> Any:
        y = conv(conv(conv(x, filters, 1), filters, 3, strides), 4 * filters, 1, act=False)
        return joined(x, y, 4 * filters, strides)

    def joined(x: Any, y: Any, filters: int, strides: int) -> Any:
        if strides > 1 or x.shape[-1] != filters:
            x = conv(x, filters, 1, strides, act=False)
        return layers.ReLU()(layers.Add()([x, y]))

    block: Callable[..., Any] = basic if network["block"] == "basic" else bottleneck
    inputs = keras.Input(INPUT)
    x = conv(inputs, 64, 7, 2)
    x = layers.MaxPooling2D(3, 2, "same")(x)
    for stage, (blocks, filters) in enumerate(
        zip(network["blocks"], network["filters"], strict=True)
    ):
        for index in range(blocks):
            x = block(x, filters, 2 if stage and not index else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def trials(side: str) -> float:
    """Seconds of a whole random search with one epoch of two steps a trial."""
    import keras_tuner

    import kblocks as kb

    fitted(compiled(by_hand({"block": "basic", "blocks": (1,), "filters": (4,)})))
    x, y = images(2 * BATCH)
    data = {"validation_data": (x, y), "batch_size": BATCH, "epochs": 1}
    widths = [(16, 24, 32), (24, 32, 48), (32, 48, 64)]

    def build(hp: Any) -> Any:
        filters = [hp.Choice(f"filters{i}", list(options)) for i, options in enumerate(widths)]
        return compiled(by_hand({**NETWORKS["small"], "filters": filters}))

    small = {**NETWORKS["small"], "filters": [kb.choice(*options) for options in widths]}
    space = kb.Space(kb.resnet, classes=10, **small).within(INPUT)
    hypermodel = build if side == "keras" else kb.tuner.HyperModel(space)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        tuner = keras_tuner.RandomSearch(
            hypermodel, "val_accuracy", max_trials=TRIALS, seed=1, directory=folder
        )
        if side == "keras":
            tuner.search(x, y, verbose=0, **data)
        else:
            kb.tuner.search(tuner, x, y, folder=folder, verbose=0, **data)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
