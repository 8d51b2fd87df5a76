"""python benchmarks/inference.py    (about 6 minutes; needs tf2onnx and onnxruntime for ONNX)

How much `kb.fuse` speeds up inference: the kblocks model as it is and fused, and its counterpart in
`keras.applications`, at 224x224 and batch 1 and 8, eagerly (`model(x, training=False)`), as a
`tf.function` and in ONNX Runtime (`model.export(format="onnx")`). All sides of a network run in
turn in one process; the table shows medians. Weights are random, as time does not depend on them.
VGG-16 has no batch normalisation to fold: it shows how far two equal sides differ. ONNX leaves it
out, since a run over all three sides ran out of memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import kblocks as kb

NETWORKS: dict[str, Any] = {
    "resnet50": keras.applications.ResNet50,
    "vgg16": keras.applications.VGG16,
    "densenet121": keras.applications.DenseNet121,
    "inception_v3": keras.applications.InceptionV3,
    "efficientnet_b0": keras.applications.EfficientNetB0,
}
SECONDS = 1.0  # of measurement for one side at one batch in one way
ROUNDS = 3, 15  # the fewest and the most
Run = Callable[[Any], Any]


def sides(name: str, size: int) -> dict[str, keras.Model]:
    """The models to compare; without batch norm there is no fused one."""
    ours = kb.architecture(name).model((size, size, 3))
    made = {"kblocks": ours, "fused": kb.fuse(ours)}
    theirs = NETWORKS[name](
        weights=None, input_shape=(size, size, 3), classes=1000, classifier_activation=None
    )
    return {**made, "keras.applications": theirs}


def eager(model: keras.Model) -> Run:
    return lambda x: model(x, training=False)


def graph(model: keras.Model) -> Run:
    return tf.function(lambda x: model(x, training=False))


def onnx(model: keras.Model) -> Run | None:
    """A session of ONNX Runtime on all cores; None if it is not installed or the file is wrong."""
    if not all(importlib.util.find_spec(name) for name in ("tf2onnx", "onnxruntime")):
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        model.export(path, format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    if len(session.get_inputs()) > 1:  # as in Keras' EfficientNet, which normalises its input
        return None
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: np.asarray(x)})[0]


WAYS: dict[str, Callable[[keras.Model], Run | None]] = {
    "eager": eager,
    "tf.function": graph,
    "ONNX Runtime": onnx,
}


def interleaved(runs: dict[str, Run], x: Any, seconds: float) -> dict[str, float]:
    """Runs all sides in turn; returns the median milliseconds of each."""
    times: dict[str, list[float]] = {side: [] for side in runs}
    for run in runs.values():
        run(x)
    start = time.perf_counter()
    while True:
        for side, run in runs.items():
            began = time.perf_counter()
            run(x)
            times[side].append((time.perf_counter() - began) * 1e3)
        rounds = len(next(iter(times.values())))
        spent = time.perf_counter() - start
        if rounds >= ROUNDS[1] or (rounds >= ROUNDS[0] and spent > seconds * len(runs)):
            return {side: statistics.median(found) for side, found in times.items()}


def check(models: dict[str, keras.Model], runs: dict[str, Any], x: Any) -> None:
    """Checks that each way computes what its model does, and the fused model what ours does."""
    for side, run in runs.items():
        compared = models["kblocks" if side == "fused" else side]
        expected = np.asarray(compared(x, training=False))
        error = np.abs(np.asarray(run(x)) - expected).max() / expected.std()
        assert error < 1e-3, f"{side} differs by {error} standard deviations"


def main() -> None:
    """Prints a row for each network, batch and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    given = parser.parse_args()
    columns = ("network", "batch", "way", "kblocks, ms", "fused, ms", "keras.applications, ms")
    if len(given.networks) > 1:  # each in a process of its own, to free the memory
        print("|", " | ".join((*columns, "fused / kblocks", "fused / Keras")), "|")
        print("|---" * 8 + "|", flush=True)
        options = ["--size", str(given.size), "--seconds", str(given.seconds)]
        for name in given.networks:
            subprocess.run([sys.executable, __file__, *options, "--networks", name], check=True)
        return
    (name,) = given.networks
    models = sides(name, given.size)
    for way, prepared in WAYS.items():
        if (name, way) == ("vgg16", "ONNX Runtime"):
            continue
        prepared_runs = {side: prepared(model) for side, model in models.items()}
        runs = {side: run for side, run in prepared_runs.items() if run is not None}
        if not runs:
            continue
        for batch in (1, 8):
            x = tf.random.stateless_normal((batch, given.size, given.size, 3), (0, 1))
            check(models, runs, x)
            found = interleaved(runs, x, given.seconds)
            times = " | ".join(f"{found[side]:.1f}" if side in found else "-" for side in models)
            ratios = " | ".join(
                f"{found['fused'] / found[side]:.2f}" if side in found else "-"
                for side in ("kblocks", "keras.applications")
            )
            print(f"| {name} | {batch} | {way} | {times} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
