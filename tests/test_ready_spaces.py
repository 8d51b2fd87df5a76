"""`kb.spaces`: one ready space a family, around its published networks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb

DEFAULTS = {
    "alexnet": "alexnet",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "googlenet": "googlenet",
    "inception_resnet": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "preresnet": "preresnet50",
    "resnet": "resnet18",
    "resnext": "resnext50_32x4d",
    "tresnet": "tresnet_m",
    "vgg": "vgg11",
}
LARGER = [
    ("densenet", "densenet169"),
    ("efficientnet", "efficientnet_b3"),
    ("inception_resnet", "inception_resnet_v1"),
    ("resnet", "resnet20"),
    ("resnet", "wide_resnet50_2"),
    ("preresnet", "preresnet164"),
    ("preresnet", "wrn28_10"),
    ("resnext", "resnext29_8x64d"),
    ("vgg", "vgg16_bn"),
]
INPUT = (96, 96, 3)
BUDGET = kb.Budget(params=3e6, macs=3e8)


def test_every_family_has_one() -> None:
    assert sorted(kb.spaces.__all__) == sorted(DEFAULTS)


@pytest.mark.parametrize(("family", "name"), DEFAULTS.items())
def test_the_default_point_is_the_published_network(family: str, name: str) -> None:
    space = getattr(kb.spaces, family)()
    assert space.build(space.default()) == kb.architecture(name)


@pytest.mark.parametrize(("family", "name"), LARGER)
def test_other_members_can_be_the_default_point(family: str, name: str) -> None:
    space = getattr(kb.spaces, family)(name)
    assert space.build(space.default()) == kb.architecture(name)


@pytest.mark.parametrize("family", DEFAULTS)
def test_samples_keep_the_budget_and_build(family: str) -> None:
    """By static cost, and two of them as Keras models with the parameters that were told."""
    space = getattr(kb.spaces, family)(classes=10).within(INPUT, BUDGET)
    nets: list[Any] = [space.build(space.sample(seed)) for seed in range(20)]
    costs = [net.cost(INPUT) for net in nets]
    assert all(not BUDGET.exceeded(cost) for cost in costs)
    assert len({net.to_json() for net in nets}) > 10
    small = sorted(zip(costs, nets, strict=True), key=lambda pair: len(pair[1].rows))[:2]
    for cost, net in small:
        model = net.model(INPUT)
        assert model.count_params() == cost.params
        assert model(np.zeros((1, *INPUT), "float32")).shape == (1, 10)
        keras.backend.clear_session()


def test_an_unknown_member_is_refused() -> None:
    with pytest.raises(ValueError, match="resnet18"):
        kb.spaces.resnet("resnet19")
