"""Logits of published implementations, for weights and images made by formula.

The files hold what torchvision 0.28 (AlexNet: 0.29) and timm 1.0.31 give in float64; their making
is described in `tests/data/golden/README.md`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from golden import GOLDEN, images, tensor

import kblocks as kb

NAMES = sorted(path.stem for path in GOLDEN.glob("*.npz"))


def read(name: str) -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
    """The file, the state dict by formula, and the images."""
    data = np.load(GOLDEN / f"{name}.npz")
    shapes = [json.loads(str(shape)) for shape in data["shapes"]]
    state = {
        str(n): tensor(str(n), s, float(data["gain"])).astype("float32")
        for n, s in zip(data["names"], shapes, strict=True)
    }
    size = int(data["size"])
    return data, state, images(size)


@pytest.mark.thin(14)
@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_the_published_ones(name: str) -> None:
    """Float rounding gives 1e-6 to 7e-6; the smallest mistake that was tried, 7e-3."""
    data, state, x = read(name)
    net = kb.architecture(name)
    outputs = [key for key in data.files if key.startswith("logits")]
    model = net.model(x.shape[1:], aux=len(outputs) > 1)
    kb.load_torch_weights(model, state)
    found = model.predict(x, verbose=0)
    found = found if isinstance(found, dict) else {"logits": found}
    assert len(found) == len(outputs)
    for key in outputs:
        mine = found[key.removeprefix("logits_")]
        error = np.abs(mine - data[key]).max() / data[key].std()
        assert error < 1e-4, (key, error)


LARGE = {"inception_resnet_v2", "vgg11_bn", "vgg16", "wide_resnet50_2"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in NAMES]
)
def test_the_state_dict_comes_back(name: str) -> None:
    """The same tensors, names and shapes as went in."""
    data, state, x = read(name)
    net = kb.architecture(name)
    aux = any(key.startswith("logits_") for key in data.files)
    model = net.model(x.shape[1:], aux=aux)
    kb.load_torch_weights(model, state)
    back = kb.to_torch_state_dict(model)
    assert set(back) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)
