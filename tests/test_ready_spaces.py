"""`kb.spaces`: one ready space a family, around its published networks."""

from __future__ import annotations

import contextlib
import functools
import json
from dataclasses import dataclass
from random import Random
from typing import Any

import keras
import numpy as np
import pytest
from counting import as_count, counted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiers import THOROUGH

import kblocks as kb
from kblocks.search_space.repair import Repair
from kblocks.tuner.storing.identity import settings_of

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
    "xception": "xception",
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
STAGES = {
    "efficientnet": 8,
    "xception": 6,
    "vgg": 5,
    "googlenet": 3,
    "inception_v3": 3,
    "inception_v4": 3,
}
TOPS = {"efficientnet": "stage8", "inception_resnet": "stage4"}
LIGHT = [
    pytest.param(
        family, marks=pytest.mark.slow if "inception" in family or family == "xception" else ()
    )
    for family in DEFAULTS
]
INPUT = (96, 96, 3)
BUDGET = kb.Budget(params=3e6, macs=3e8)


def test_every_family_has_one() -> None:
    assert sorted(kb.spaces.__all__) == sorted(DEFAULTS)


def test_an_image_that_is_too_small_is_refused_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a few starts, all of which lack the same pixels: 75 is the least of Inception-v3."""
    begun: list[Any] = []
    descend = Repair._descend

    def counted(self: Repair, start: Any, *more: Any) -> Any:
        begun.append(start)
        return descend(self, start, *more)

    monkeypatch.setattr(Repair, "_descend", counted)
    space = kb.spaces.inception_v3(scope="published", stem=None, classes=3)
    begun.clear()
    with pytest.raises(ValueError, match=r"Nothing in this space .*\(75, 75, 3\)"):
        space.within((32, 32, 3))
    assert len(begun) < 10  # of 100
    assert space.within((75, 75, 3)).default()


@pytest.mark.parametrize(("family", "name"), DEFAULTS.items())
def test_the_default_point_is_the_published_network(family: str, name: str) -> None:
    space = getattr(kb.spaces, family)()
    assert space.build(space.default()) == kb.architecture(name)


@pytest.mark.parametrize(("family", "name"), LARGER)
def test_other_members_can_be_the_default_point(family: str, name: str) -> None:
    space = getattr(kb.spaces, family)(name)
    assert space.build(space.default()) == kb.architecture(name)


@pytest.mark.thin(9)
@pytest.mark.parametrize("family", LIGHT)
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


def test_an_unknown_member_or_scope_is_refused() -> None:
    with pytest.raises(ValueError, match="resnet18"):
        kb.spaces.resnet("resnet19")
    with pytest.raises(
        ValueError, match=r"`scope` must be .*'wide', 'published'.* Received: .*'all'"
    ):
        kb.spaces.resnet(scope="all")


@pytest.mark.parametrize("scope", ["wide", "published"])
def test_a_search_can_record_its_space(scope: str) -> None:
    """A norm with arguments of its own, as published spaces have, is written with them."""
    for family in DEFAULTS:
        space = getattr(kb.spaces, family)(classes=3, scope=scope).within((96, 96, 3))
        model = kb.tuner.HyperModel(space, latency=False)
        known = settings_of(model, [kb.tuner.Objective("macs", "min")], ((), {}))
        assert json.loads(json.dumps(known)) == known
        norm = known["fixed"].get("normalization", known["space"].get("normalization", ""))
        assert "object at" not in str(norm)


@pytest.mark.parametrize(("family", "name"), DEFAULTS.items())
def test_the_published_scope_is_a_smaller_space_of_the_same_network(family: str, name: str) -> None:
    wide, small = (getattr(kb.spaces, family)(scope=scope) for scope in ("wide", "published"))
    assert 4 < len(small.names()) < len(wide.names()) * 0.75
    assert set(small.names()) < set(wide.names())
    assert small.build(small.default()) == kb.architecture(name)


# --- what is open in each stage ----------------------------------------------------------------


def traits(net: kb.Architecture, shape: tuple[int, ...]) -> dict[tuple[str, str], set[Any]]:
    """Of each stage its kernels, strides, paddings and output's channels, read from its ops."""
    costs = net.costs(shape)
    found: dict[tuple[str, str], set[Any]] = {}
    for row in net.rows:
        stage = row.name.split("_")[0]
        if stage == "head" or row.name not in costs:
            continue
        channels = costs[row.inputs[0]].output_shape[-1] if row.inputs != ("input",) else shape[-1]
        ops = [op for _, op in kb.ops.parts(row.spec.plan(channels))]
        convs = [op for op in ops if isinstance(op, kb.ops.Conv)]
        for trait, values in (
            ("kernel_size", {op.kernel_size for op in convs}),
            ("strides", {getattr(op, "strides", getattr(op, "block", None)) for op in ops}),
            ("padding", {op.padding for op in convs if op.kernel_size != (1, 1)}),
            ("filters", {costs[row.name].output_shape[-1]}),
        ):
            found.setdefault((stage, trait), set()).update(values)
    return found


@pytest.mark.parametrize("family", DEFAULTS)
def test_each_stage_opens_kernels_strides_padding_and_filters(family: str) -> None:
    """The stages differ in all of these over sampled points, by the ops of the networks."""
    space, seen = getattr(kb.spaces, family)(), {}
    for seed in range(500 if THOROUGH else 30):
        with contextlib.suppress(ValueError):  # no network, or one for larger images
            net: Any = space.build(space.sample(seed))
            for key, values in traits(net, (2048, 2048, 3)).items():
                seen.setdefault(key, set()).add(frozenset(values))
    assert len({stage for stage, _ in seen} - {"stem"}) == STAGES.get(family, 4)
    fixed = {key for key, values in seen.items() if len(values) == 1}
    # The last stage may be a 1x1 convolution; DenseNet's first has no transition, only the stem.
    top = {(TOPS.get(family), trait) for trait in ("kernel_size", "strides", "padding")}
    assert fixed - top <= {"densenet": {("stage1", "strides")}}.get(family, set())


# --- properties: any input, any budget -----------------------------------------------------


@functools.cache
def bare(family: str) -> kb.Space:
    return getattr(kb.spaces, family)(classes=10)


@functools.cache
def smallest(family: str) -> int:
    """The smallest square input for which anything in the space fits."""

    def is_enough(size: int) -> bool:
        try:
            bare(family).within((size, size, 1))
        except ValueError:
            return False
        return True

    low, high = 0, 224
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


@dataclass
class Case:
    space: kb.Space
    shape: tuple[int, int, int]
    budget: kb.Budget
    seed: int


@st.composite
def cases(draw: Any, family: str, largest: int = 224) -> Case:
    """A budget that some point keeps: it is as much as a random one costs, or more."""
    sizes = st.integers(smallest(family), max(largest, smallest(family) + 8))
    shape = draw(sizes), draw(sizes), draw(st.integers(1, 4))
    free, seed = bare(family).within(shape), draw(st.integers(0, 2**32))
    cost = free.build(free.sample(seed)).cost(shape)
    limits = draw(st.sets(st.sampled_from(["params", "macs", "activations"])))
    share = draw(st.floats(1.0, 3.0))
    budget = kb.Budget(**{name: share * getattr(cost, name) for name in limits})
    return Case(free.within(shape, budget), shape, budget, seed)


def check_samples(case: Case, number: int) -> None:
    """All valid and inside the budget by static cost."""
    random = Random(case.seed)
    for _ in range(number):
        cost = case.space.build(case.space.sample(random)).cost(case.shape)
        assert cost.output_shape == (10,)
        for name, limit in case.budget.limits().items():
            assert getattr(cost, name) <= limit


@pytest.mark.thin(3, 2)
@pytest.mark.parametrize("family", LIGHT)
def test_samples_are_valid_for_any_input_and_budget(family: str) -> None:
    @given(cases(family))
    @settings(max_examples=5, deadline=None)
    def check(case: Case) -> None:
        check_samples(case, 8)

    check()


# With KBLOCKS_THOROUGH=1 ten thousand samples of each and a hundred models: hours.
MANY, FEW = (100, 100) if THOROUGH else (4, 1)


@pytest.mark.slow
@pytest.mark.parametrize("family", DEFAULTS)
def test_many_samples_of_each_are_valid(family: str) -> None:
    @given(cases(family))
    @settings(max_examples=MANY, deadline=None)
    def check(case: Case) -> None:
        check_samples(case, 100 if THOROUGH else 20)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("family", DEFAULTS)
def test_small_ones_are_what_keras_builds(family: str) -> None:
    """Output shape, parameters and MACs, counted on the layers that Keras made."""

    @given(cases(family, largest=48))
    @settings(max_examples=FEW, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case: Case) -> None:
        net = case.space.build(case.space.sample(case.seed))
        model = net.model(case.shape)
        image = np.zeros((1, *case.shape), "float32")
        assert counted(model, image) == as_count(net.cost(case.shape))
        model.compile("sgd", run_eagerly=True, **net.head.training())
        assert np.isfinite(model.train_on_batch(image, np.zeros(1))[0])
        keras.backend.clear_session()

    check()
