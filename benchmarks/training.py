"""python benchmarks/training.py [--sizes 64 224] [--torch]    (about 8 minutes, 12 with torch)

A training step (SGD, batch 8) of kblocks' networks against `keras.applications`, and of ResNet-50
and ResNeXt-50 against torchvision on the same cores (`pip install --no-deps torch torchvision` and
their dependencies; the table shows the better of its two memory formats). All sides run in turn in
one process; the table shows medians of pairs. Keras' ResNet-50 has its strides on the first 1x1,
6 % less work than torchvision's placement; "v1" is ours with the same strides. Keras' VGG-16 has
neither dropout nor the average to 7x7 by which ours has 138 M parameters at any input; one row of
ours has neither, too.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import keras
import numpy as np
import tensorflow as tf

import kblocks as kb

BATCH, ROUNDS = 8, {64: 15, 96: 11, 224: 5}
NETWORKS: dict[str, tuple[Callable[[], Any], str]] = {
    "ResNet-50": (lambda: kb.resnet50(), "ResNet50"),
    "ResNet-50, v1": (lambda: kb.resnet50(variant="v1"), "ResNet50"),
    "VGG-16": (lambda: kb.vgg16(), "VGG16"),
    "VGG-16, Keras' head": (lambda: kb.vgg16(head={"pool_size": None, "dropout": 0.0}), "VGG16"),
    "DenseNet-121": (lambda: kb.densenet121(), "DenseNet121"),
    "Inception-v3": (lambda: kb.inception_v3(), "InceptionV3"),
    "EfficientNet-B0": (lambda: kb.efficientnet_b0(), "EfficientNetB0"),
}
AGAINST_TORCH = {
    "ResNet-50": (lambda: kb.resnet50(), "resnet50"),
    "ResNeXt-50 32x4d": (lambda: kb.resnext50_32x4d(), "resnext50_32x4d"),
}
Step = Callable[[], Any]


def main() -> None:
    """Times all sides in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    options = parser.parse_args()
    print("| network | input | kblocks | other | of its time |")
    print("|---|---|---|---|---|")
    for size in options.sizes:
        for name in options.networks:
            ours, theirs = NETWORKS[name]
            fits = max(size, 96) if theirs == "InceptionV3" else size
            sides = [ours_step(ours(), fits), applications_step(theirs, fits)]
            told(name, fits, "keras.applications", sides)
        for name, (net, theirs) in AGAINST_TORCH.items() if options.torch else ():
            told(name, size, "torchvision", [ours_step(net(), size), *torch_steps(theirs, size)])


def told(name: str, size: int, other: str, sides: list[Step]) -> None:
    """Prints the first side's time as a share of the fastest other side's."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(ROUNDS.get(size, 5)):
        for side, found in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            found.append(time.perf_counter() - start)
    ours, *others = (statistics.median(found) for found in times)
    best = min(range(len(others)), key=others.__getitem__)
    pairs = zip(times[0], times[1 + best], strict=True)
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    seen = f"{others[best] * 1e3:.0f} ms ({other})"
    print(f"| {name} | {size} | {ours * 1e3:.0f} ms | {seen} | {ratio:.2f} |", flush=True)
    keras.backend.clear_session()


def images(size: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(BATCH, size, size, 3)).astype("float32")
    return x, random.integers(0, 1000, BATCH).astype("int32")


def compiled_step(model: keras.Model, size: int) -> Step:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.001), loss)
    x, y = (tf.constant(value) for value in images(size))
    for _ in range(2):
        model.train_on_batch(x, y)
    return lambda: model.train_on_batch(x, y)


def ours_step(net: Any, size: int) -> Step:
    return compiled_step(net.model((size, size, 3)), size)


def applications_step(name: str, size: int) -> Step:
    made = getattr(keras.applications, name)
    shape = (size, size, 3)
    return compiled_step(made(weights=None, input_shape=shape, classifier_activation=None), size)


@functools.cache
def _give_torchvision_its_operators() -> Any:
    """Registers operators that torchvision's CPU build lacks; the cache keeps them registered."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def torch_steps(name: str, size: int) -> list[Step]:
    """Training steps in torch's default memory format and channels last."""
    import torch

    _give_torchvision_its_operators()
    import torchvision

    torch.set_num_threads(os.cpu_count() or 1)
    sides = []
    x, labels = (torch.from_numpy(value) for value in images(size))
    y = labels.long()
    x = x.permute(0, 3, 1, 2)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = getattr(torchvision.models, name)().to(memory_format=memory_format).train()
        x = x.contiguous(memory_format=memory_format)
        optimizer = torch.optim.SGD(model.parameters(), 0.001)

        def step(model: Any = model, x: Any = x, optimizer: Any = optimizer) -> float:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return float(loss)

        step()
        sides.append(step)
    return sides


if __name__ == "__main__":
    main()
