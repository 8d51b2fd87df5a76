"""Every published network against its published implementations: counts, names and shapes.

`data/published.json` holds them; `data/published.py` tells how it was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tiers import THOROUGH

import kblocks as kb

PUBLISHED = json.loads((Path(__file__).parent / "data" / "published.json").read_text())

# Trainable and running numbers, MACs and side of the input of networks of papers that neither
# torchvision nor timm has, counted in PyTorch from re-implementations of the papers; Xception from
# the layers of keras.applications.Xception (tests/test_xception.py).
DERIVED = {
    "xception": (22855952, 54528, 8357403496, 299),
    "inception_resnet_v1": (22756328, 27040, 6206361696, 299),
    "resnet20": (269722, 1376, 40551040, 32),
    "resnet32": (464154, 2272, 68862592, 32),
    "resnet44": (658586, 3168, 97174144, 32),
    "resnet56": (853018, 4064, 125485696, 32),
    "preresnet110": (1730522, 8096, 253149824, 32),
    "preresnet1001": (10327706, 149216, 1487849984, 32),
    "resnet1001": (10327706, 149216, 1487849984, 32),
    "wrn28_10": (36479194, 17952, 5243328768, 32),
    "resnext29_8x64d": (34426698, 57472, 5387266048, 32),
    "densenet40_12": (1019722, 18096, 264812928, 32),
    "densenet_bc100_12": (769162, 23988, 287929692, 32),
}

LABELS = {"torchvision files": "torchvision densenet, files"}
# All but "paper", which has no names.
NAMED = [(name, one) for name, sources in PUBLISHED.items() for one in sources if one != "paper"]
# One of each naming that no golden file has. Of the others, each eighth is a slow test, and all are
# with KBLOCKS_THOROUGH=1.
QUICK = {
    ("alexnet", "torchvision"),
    ("vgg11_bn", "timm"),
    ("resnet18", "timm"),
    ("densenet121", "torchvision files"),
    ("efficientnet_b0", "efficientnet_pytorch"),
    ("efficientnet_b0", "timm"),
    ("efficientnet_lite0", "efficientnet_pytorch"),
    ("inception_v3+aux", "timm"),
    ("preresnet50", "timm"),
}


def network(name: str) -> tuple[kb.Architecture, bool]:
    """The architecture, and whether its auxiliary heads are meant."""
    plain = name.removesuffix("+aux")
    return kb.architecture(plain), plain != name


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_of_the_published_implementation(name: str) -> None:
    net, aux = network(name)
    for source, facts in PUBLISHED[name].items():
        cost = net.cost(tuple(facts["input"]), aux=aux)
        running = cost.params - cost.trainable_params
        counted = (cost.trainable_params, running, cost.macs, cost.activations)
        names = ("trainable", "running", "macs", "activations")
        assert counted == tuple(facts[key] for key in names), source


# Whose norms are another source's. EfficientNet-B0 to B4 have torchvision's of PyTorch, B5 to B7
# and the lite ones TensorFlow's; timm has PyTorch's (of the lite ones the momentum), the package
# efficientnet_pytorch TensorFlow's.
OTHER_NORMS = {
    *(("timm", f"efficientnet_{which}") for which in ("b5", "b6", "b7")),
    *(("timm", f"efficientnet_lite{n}") for n in range(5)),
    *(("efficientnet_pytorch", f"efficientnet_b{n}") for n in range(5)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_batch_norms_are_the_published_ones(name: str) -> None:
    net, _ = network(name)
    norms = [getattr(row.spec, "normalization", None) for row in net.rows]
    found = {(norm.epsilon, norm.momentum) for norm in norms if norm is not None}
    for source, facts in PUBLISHED[name].items():
        same = found == set(map(tuple, facts["norms"]))
        assert same != ((source, name) in OTHER_NORMS), source


@pytest.mark.parametrize(("name", "facts"), DERIVED.items())
def test_counts_of_re_implementations(name: str, facts: tuple[int, ...]) -> None:
    cost = kb.architecture(name).cost((facts[3], facts[3], 3))
    running = cost.params - cost.trainable_params
    assert (cost.trainable_params, running, cost.macs) == facts[:3]


def test_every_architecture_is_held_to_counts_of_others() -> None:
    assert {name.removesuffix("+aux") for name in PUBLISHED} | set(DERIVED) == set(
        kb.architectures()
    )


# --- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in kb.architectures() if n.startswith("inception")])
def test_inceptions_fit_from_75_pixels(name: str) -> None:
    net = kb.architecture(name)
    for size in (*range(75, 299, 8), 299, 300):
        assert net.cost((size, size + 3, 3)).output_shape == (1000,)
    with pytest.raises(kb.InputTooSmallError, match=r"smallest input that fits is \(75, 75, 3\)"):
        net.cost((74, 74, 3))


@pytest.mark.parametrize(
    "name", [n for n in kb.architectures() if not n.startswith(("alexnet", "inception"))]
)
def test_others_fit_from_32_pixels(name: str) -> None:
    assert kb.architecture(name).cost((32, 32, 3)).output_shape in ((1000,), (10,))


# --- names and shapes of state dicts -------------------------------------------------------


def without_values(name: str) -> keras.Model:
    """The model before any weight is made, which is most of the time of making one.

    In Keras' stateless scopes variables have shapes, and values only where a scope gives them.
    """
    net, aux = network(name)
    side = 299 if "inception" in name else 64
    with keras.StatelessScope():
        return net.model((side, side, 3), aux=aux)


def held(model: keras.Model) -> keras.StatelessScope:
    """A scope in which all weights of `model` are 0 until they are assigned."""
    return keras.StatelessScope(
        [(weight, np.zeros(weight.shape, weight.dtype)) for weight in model.weights]
    )


def digest(state: Mapping[str, np.ndarray]) -> str:
    lines = sorted(f"{name} {list(value.shape)}" for name, value in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.thin(8)
@pytest.mark.parametrize(
    ("name", "source"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for number, case in enumerate(NAMED)
        if case in QUICK or number % 8 == 0 or THOROUGH
    ],
)
def test_state_dicts_have_the_published_names_and_shapes(name: str, source: str) -> None:
    """Given out, and taken: each tensor lands where the same name reads it again."""
    facts, model = PUBLISHED[name][source], without_values(name)
    with held(model):
        zeros: Any = kb.to_torch_state_dict(model, LABELS.get(source, source))
        assert len(zeros) == facts["tensors"]
        assert digest(zeros) == facts["sha256"]
        state = {
            key: np.broadcast_to(np.float32(number), value.shape)
            for number, (key, value) in enumerate(zeros.items(), 1)
        }
        kb.load_torch_weights(model, state)
        back = kb.to_torch_state_dict(model, LABELS.get(source, source))
        assert {key: (value.min(), value.max()) for key, value in back.items()} == {
            key: (number, number) for number, key in enumerate(zeros, 1)
        }
    keras.backend.clear_session()


def test_a_source_without_the_network_is_refused() -> None:
    model = kb.resnet20().model((32, 32, 3))
    with pytest.raises(ValueError, match=r"resnet20.*torchvision.*'keras'"):
        kb.to_torch_state_dict(model, "keras")
