"""python benchmarks/peak.py [--depth]    (about 4 minutes, 15 with --depth)

Peak memory and time of a training step (SGD, batch 8): kblocks' networks as they are and with
`remat=True`, against `keras.applications`. Each side is a process of its own; memory is its largest
resident size minus that before the first step (Linux). `--depth` adds preresnet1001 at 32x32, which
has no counterpart in Keras: build, first step, save.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

NETWORKS = {
    "ResNet-50": ("resnet50", "ResNet50", 224),
    "DenseNet-121": ("densenet121", "DenseNet121", 224),
    "EfficientNet-B0": ("efficientnet_b0", "EfficientNetB0", 224),
    "VGG-16": ("vgg16", "VGG16", 128),
}
AS_KERAS = {"vgg16": {"head": {"pool_size": None, "dropout": 0.0}}}  # its head, at any input size
BATCH, STEPS = 8, 4


def main() -> None:
    """Measures each side in a process of its own and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", nargs=3)
    parser.add_argument("--depth", action="store_true")
    options = parser.parse_args()
    if options.side:
        side, name, size = options.side
        deep() if side == "deep" else print(*step(side, name, int(size)))
        return
    if options.depth:
        print(in_a_process("deep", "preresnet1001", 32))
        return
    print("| network | input | side | peak | of Keras' | step | of Keras' |")
    print("|---|---|---|---|---|---|---|")
    for label, (ours, theirs, size) in NETWORKS.items():
        sides = {"keras": theirs, "kblocks": ours, "kblocks, remat": ours}
        found = {s: in_a_process(s, name, size).split() for s, name in sides.items()}
        base, base_time = map(float, found["keras"])
        for side, (memory, seconds) in ((s, map(float, f)) for s, f in found.items()):
            share = f"{memory:.0f} MB | {memory / base:.2f} | {seconds:.2f} s"
            print(
                f"| {label} | {size} | {side} | {share} | {seconds / base_time:.2f} |", flush=True
            )


def in_a_process(*side: Any) -> str:
    command = [sys.executable, __file__, "--side", *map(str, side)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def peak() -> float:
    """The largest resident size since the last `forget_peak`, in MB (Linux)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def forget_peak() -> float:
    """Restarts the measurement of the peak; returns the present size in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def step(side: str, name: str, size: int) -> tuple[float, float]:
    """Peak megabytes and median seconds of a training step."""
    import keras
    import numpy as np

    import kblocks as kb

    shape = (size, size, 3)
    if side == "keras":
        made = getattr(keras.applications, name)
        model = made(weights=None, input_shape=shape, classifier_activation=None)
    else:
        net = kb.architecture(name, **AS_KERAS.get(name, {}))
        model = net.model(shape, remat=side.endswith("remat"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.001), loss)
    x = np.random.default_rng(0).normal(size=(BATCH, *shape)).astype("float32")
    y = np.zeros(BATCH, "int32")
    before, seconds = forget_peak(), []
    for _ in range(STEPS):
        start = time.perf_counter()
        model.train_on_batch(x, y)
        seconds.append(time.perf_counter() - start)
    return peak() - before, statistics.median(seconds[1:])


def deep() -> None:
    """Prints the time and memory to build, train a step of and save preresnet1001."""
    import keras
    import numpy as np

    import kblocks as kb

    marks = [(time.perf_counter(), "")]

    def done(what: str) -> None:
        now = time.perf_counter()
        print(f"{what}: {now - marks[-1][0]:.1f} s, peak {peak() / 1024:.2f} GB", flush=True)
        marks.append((time.perf_counter(), what))

    model = kb.preresnet1001().model((32, 32, 3))
    done("build")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    kb.prepare(model)
    x, y = np.ones((BATCH, 32, 32, 3), "float32"), np.zeros(BATCH, "int32")
    for which in ("first step", "second step"):
        model.train_on_batch(x, y)
        done(which)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.weights.h5"
        model.save_weights(file)
        done(f"save ({file.stat().st_size / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
