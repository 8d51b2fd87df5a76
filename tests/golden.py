"""Golden logits of published implementations: the formula's weights, loaded into our models.

`data/golden/NAME.npz` holds what torchvision 0.28 gives, in float64, for weights and images
that both sides make by formula; see the functions below.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np

GOLDEN = Path(__file__).parent / "data" / "golden"
BATCH_NORM = {"weight": 0, "bias": 1, "running_mean": 2, "running_var": 3}


def tensor(name: str, shape: list[int], gain: float) -> np.ndarray:
    """The weights that stand for a torch tensor of this name."""
    r = np.random.RandomState(zlib.crc32(name.encode()))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_mean":
        return 0.02 * r.standard_normal(shape)
    if leaf == "running_var":
        return r.uniform(0.8, 1.2, shape)
    if leaf == "bias":
        return 0.02 * r.standard_normal(shape)
    if len(shape) == 1:
        return r.uniform(0.8, 1.2, shape)
    fan_in = np.prod(shape[1:])
    return r.standard_normal(shape) * np.sqrt((gain if len(shape) == 4 else 1.0) / fan_in)


def images(size: int, count: int = 2) -> np.ndarray:
    return np.random.RandomState(size).uniform(-1, 1, (count, size, size, 3)).astype("float32")


def resnet_part(model: keras.Model, name: str) -> Any:
    """torchvision's `layer1.0.conv2` is our `stage1_block1`'s `main_conv2`."""
    if name in ("conv1", "bn1", "fc"):
        block, part = {"conv1": "stem conv", "bn1": "stem norm", "fc": "head dense"}[name].split()
        return getattr(model.get_layer(block), part)
    stage, index, part = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", name).groups()
    block = model.get_layer(f"stage{stage}_block{int(index) + 1}")
    own = {"downsample.0": "shortcut_conv", "downsample.1": "shortcut_norm"}
    numbered = part.replace("conv", "main_conv").replace("bn", "main_norm")
    return getattr(block, own.get(part, numbered))


def vgg_part(model: keras.Model, name: str) -> Any:
    """torchvision counts convolutions, norms, activations and pools: `features.7`."""
    kind, number = name.split(".")
    blocks = [layer for layer in model.layers if layer.name.startswith("stage")]
    parts = [part for block in blocks for part in block.layers]
    if kind == "classifier":
        parts = model.get_layer("head").layers[2:]  # behind pooling and flattening
    return parts[int(number)]


def load(model: keras.Model, name: str) -> np.lib.npyio.NpzFile:
    """Puts the formula's weights into a model that `name` is of; gives the golden file."""
    golden = np.load(GOLDEN / f"{name}.npz")
    part_of = vgg_part if name.startswith("vgg") else resnet_part
    loaded = set()
    for full, shape in zip(golden["names"], golden["shapes"], strict=True):
        module, leaf = str(full).rsplit(".", 1)
        part = part_of(model, module)
        value = tensor(str(full), json.loads(str(shape)), float(golden["gain"])).astype("float32")
        if isinstance(part, keras.layers.BatchNormalization):
            weight = part.weights[BATCH_NORM[leaf]]
        else:
            weight = part.bias if leaf == "bias" else part.kernel
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        elif str(full) == "classifier.0.weight":  # flattened with channels slowest, ours fastest
            value = value.reshape(-1, 512, 7, 7).transpose(0, 2, 3, 1).reshape(len(value), -1).T
        elif value.ndim == 2:
            value = value.T
        weight.assign(value)
        loaded.add(id(weight))
    assert loaded == {id(weight) for weight in model.weights}
    return golden
