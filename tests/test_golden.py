"""Logits of published implementations, for weights and images made by formula.

The files hold what torchvision 0.28 and timm 1.0.31 give in float64; their making is described
in `tests/data/golden/README.md`.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kblocks as kb

GOLDEN = Path(__file__).parent / "data" / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.npz"))


def tensor(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    """The formula for a weight, in NumPy's frozen legacy generator."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_mean":
        return 0.02 * random.standard_normal(shape)
    if leaf == "running_var":
        return random.uniform(0.8, 1.2, shape)
    if leaf == "bias":
        return 0.02 * random.standard_normal(shape)
    if len(shape) == 1:
        return random.uniform(0.8, 1.2, shape)
    fan_in = np.prod(shape[1:])
    return random.standard_normal(shape) * np.sqrt((gain if len(shape) == 4 else 1.0) / fan_in)


def golden(name: str) -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
    """The file, the state dict by formula, and the images."""
    data = np.load(GOLDEN / f"{name}.npz")
    shapes = [json.loads(str(shape)) for shape in data["shapes"]]
    state = {
        str(n): tensor(str(n), tuple(s), float(data["gain"])).astype("float32")
        for n, s in zip(data["names"], shapes, strict=True)
    }
    size = int(data["size"])
    images = np.random.RandomState(size).uniform(-1, 1, (2, size, size, 3)).astype("float32")
    return data, state, images


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_the_published_ones(name: str) -> None:
    """Float rounding gives 1e-6 to 7e-6; the smallest mistake that was tried, 7e-3."""
    data, state, images = golden(name)
    net = kb.architecture(name)
    outputs = [key for key in data.files if key.startswith("logits")]
    model = net.model(images.shape[1:], aux=len(outputs) > 1)
    kb.load_torch_weights(model, state)
    found = model.predict(images, verbose=0)
    found = found if isinstance(found, dict) else {"logits": found}
    assert len(found) == len(outputs)
    for key in outputs:
        mine = found[key.removeprefix("logits_")]
        error = np.abs(mine - data[key]).max() / data[key].std()
        assert error < 1e-4, (key, error)


@pytest.mark.parametrize("name", NAMES)
def test_the_state_dict_comes_back(name: str) -> None:
    """The same tensors, names and shapes as went in."""
    data, state, images = golden(name)
    net = kb.architecture(name)
    aux = any(key.startswith("logits_") for key in data.files)
    model = net.model(images.shape[1:], aux=aux)
    kb.load_torch_weights(model, state)
    back = kb.to_torch_state_dict(model)
    assert set(back) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)
