"""Budgets of memory and of least costs, latency, and samples where nearly nothing fits."""

from __future__ import annotations

import math
import re
from random import Random
from typing import Any

import keras
import numpy as np
import pytest
from spaces import plain_net

import kblocks as kb

INPUT = (8, 8, 1)
F = 4  # bytes of a float32


def net_of(*specs: Any, head: Any = None) -> kb.Architecture:
    return kb.Architecture(list(specs), head=head)


def conv(filters: int, **arguments: Any) -> Any:
    return kb.ConvBlock.Spec(filters, **arguments)


# --- memory --------------------------------------------------------------------------------


def test_memory_in_use_is_input_and_output_of_the_largest_step() -> None:
    """8x8x1 to 8x8x16 to 8x8x4: the second convolution holds 64 x (16 + 4) numbers."""
    assert kb.inference_memory(net_of(conv(16), conv(4)), INPUT) == F * 64 * (16 + 4)
    assert kb.inference_memory(net_of(conv(16), conv(4)), INPUT, itemsize=1) == 64 * 20


def test_a_shortcut_is_held_until_it_is_added() -> None:
    """Second convolution: the block's input, its own input, its output; all 8x8x4."""
    block = kb.ResidualBlock.Spec(4)
    assert kb.inference_memory(net_of(conv(4), block), INPUT) == F * 64 * 4 * 3


def test_what_is_needed_again_is_not_written_over() -> None:
    """Before its first convolution a pre-activation block keeps its input for the shortcut."""
    plain = net_of(conv(4), kb.ConvBlock.Spec(4, order="norm_act_conv"))
    assert kb.inference_memory(plain, INPUT) == F * 64 * 4 * 2
    rows = [("a", conv(4)), ("b", kb.NormAct.Spec()), ("c", conv(2), ("b",))]
    kept = kb.Architecture(rows, outputs={"x": "c", "y": "a"})
    # In the convolution: the kept map, its normalized copy and 2 filters.
    assert kb.inference_memory(kept, INPUT) == F * 64 * (4 + 4 + 2)


def test_explicit_padding_is_a_tensor_of_its_own() -> None:
    """Strides 2 with symmetric padding: 8x8x1 and the padded 10x10x1, or that and 4x4x2."""
    net = net_of(conv(2, strides=2, padding="symmetric"))
    assert kb.inference_memory(net, INPUT) == F * max(64 + 100, 100 + 32)


def test_concatenation_holds_branches_and_result() -> None:
    net = net_of(conv(8), kb.DenseBlock.Spec(2, bottleneck=None))
    assert kb.inference_memory(net, INPUT) == F * 64 * (8 + 2 + 10)


def test_memory_in_training_grows_with_the_batch_by_what_is_kept() -> None:
    """One convolution with bias and ReLU: its input, its output, and both gradients."""
    net = net_of(kb.ConvBlock.Spec(2, normalization=None))
    weights = 9 * 2 + 2
    for batch in (1, 16):
        # Kept: the image (64) and the activated map (128). Flowing: 128 + 128 of the ReLU.
        expected = F * (4 * weights + batch * (64 + 128 + 256))
        assert kb.training_memory(net, INPUT, batch) == expected
    without = kb.training_memory(net, INPUT, 1, slots=0)
    assert without == kb.training_memory(net, INPUT, 1) - F * 2 * weights


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet", "efficientnet_b0"])
def test_memory_of_published_networks_is_bounded_by_their_maps(name: str) -> None:
    """At least the largest map there is, and no more than all maps there are."""
    net, shape = kb.architecture(name), (96, 96, 3)
    used, trained = kb.inference_memory(net, shape), kb.training_memory(net, shape, 1)
    sizes = [math.prod(cost.output_shape) for _, cost in net.stages(shape)]
    assert used >= F * max(sizes)
    assert trained > used


def test_memory_refuses_what_vanishes() -> None:
    net = net_of(conv(2, kernel_size=9, padding="valid"))
    for function in (kb.inference_memory, kb.training_memory):
        with pytest.raises(kb.InputTooSmallError, match="smallest input that fits"):
            function(net, INPUT)


# --- limits --------------------------------------------------------------------------------


def space() -> kb.Space:
    return kb.Space(plain_net, filters=kb.per_stage(2, kb.integer(2, 64)), kernel_size=3)


AMOUNTS: dict[str, Any] = {
    "params": lambda net: net.cost(INPUT).params,
    "macs": lambda net: net.cost(INPUT).macs,
    "activations": lambda net: net.cost(INPUT).activations,
    "training_memory": lambda net: kb.training_memory(net, INPUT, 8),
    "inference_memory": lambda net: kb.inference_memory(net, INPUT),
}


@pytest.mark.parametrize("kind", AMOUNTS)
def test_least_and_most_are_kept_by_samples_and_repairs(kind: str) -> None:
    amount = AMOUNTS[kind]
    low, high = (amount(plain_net((n, n))) for n in (12, 16))
    bounded = space().within(INPUT, kb.Budget(**{kind: high, f"min_{kind}": low, "batch_size": 8}))
    seen = set()
    for seed in range(25):
        values = bounded.sample(seed)
        seen.add(str(values))
        assert low <= amount(bounded.build(values)) <= high
    assert len(seen) > 10
    for filters in ((2, 2), (64, 64), (2, 64)):
        start = {"filters[0]": filters[0], "filters[1]": filters[1]}
        assert low <= amount(bounded.build(bounded.repair(start))) <= high


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_params": 0}, "`min_params` must be a positive number"),
        ({"training_memory": -1}, "`training_memory` must be a positive number"),
        ({"min_macs": 20, "macs": 10}, "`min_macs` must be at most 10. Received"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
    ],
)
def test_bad_limits_are_refused(limits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        kb.Budget(**limits)


def test_a_budget_shows_what_is_limited() -> None:
    assert repr(kb.Budget(params=3e6, min_macs=5)) == "Budget(params=3_000_000, min_macs=5)"
    budget = kb.Budget(training_memory="9k", batch_size=8)
    assert repr(budget) == "Budget(training_memory=9_000, batch_size=8)"
    assert eval(repr(budget), dict(vars(kb))) == budget


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (kb.Budget(inference_memory=100), r"inference_memory=768 \(7.68 times its limit\)"),
        (kb.Budget(min_params=10**6), r"params=38,082 \(1/26.26 of min_params\)"),
    ],
)
def test_nothing_fits_names_the_limit_and_the_nearest(budget: kb.Budget, told: str) -> None:
    """The smallest network holds 64 x (1 + 2) numbers.

    The largest has 9 x 64 + 9 x 64 x 64 weights, 2 x 4 x 64 of norms and 65 x 2 of the head.
    """
    with pytest.raises(ValueError, match=f"Nothing in this space fits.*{told}"):
        space().within(INPUT, budget)


# --- sampling ------------------------------------------------------------------------------


def wide() -> kb.Space:
    """Four widths of which the product decides: only small ones together fit."""
    return kb.Space(
        plain_net,
        filters=kb.per_stage(4, kb.integer(4, 67)),
        blocks=(1, 1, 1, 1),
        strides=(1, 1, 1, 1),
    )


@pytest.mark.slow
def test_where_one_in_a_thousand_fits_samples_still_fit_and_differ() -> None:
    free, random = wide(), Random(0)
    costs = sorted(free.build(free.sample(random)).cost(INPUT).macs for _ in range(4000))
    bounded = free.within(INPUT, kb.Budget(macs=costs[4]))
    drawn = [bounded.sample(seed) for seed in range(300)]
    assert all(bounded.build(values).cost(INPUT).macs <= costs[4] for values in drawn)
    assert len({str(values) for values in drawn}) > 250
    assert drawn == [free.within(INPUT, kb.Budget(macs=costs[4])).sample(s) for s in range(300)]


def test_rare_samples_are_not_bought_with_many_networks() -> None:
    """Plainly it would take a thousand for each."""
    made = []

    def counted(**arguments: Any) -> kb.Architecture:
        made.append(1)
        return plain_net(**arguments)

    free, random = wide(), Random(0)
    costs = sorted(free.build(free.sample(random)).cost(INPUT).macs for _ in range(4000))
    bounded = kb.Space(counted, **free._arguments).within(INPUT, kb.Budget(macs=costs[4]))
    bounded.sample(0)
    before = len(made)
    for seed in range(100):
        bounded.sample(seed)
    assert len(made) - before < 100 * 30


@pytest.mark.slow
def test_the_learned_law_does_not_forget_large_networks() -> None:
    """The mean cost of its samples, against the points that fit, all of them drawn equally."""
    options = (4, 8, 12, 16, 24, 32, 48, 64)
    free = kb.Space(
        plain_net, filters=kb.per_stage(3, kb.choice(*options)), blocks=(1,) * 3, strides=(1,) * 3
    )
    every = [(a, b, c) for a in options for b in options for c in options]
    costs = {p: plain_net(p, (1,) * 3, strides=(1,) * 3).cost(INPUT).macs for p in every}
    limit = sorted(costs.values())[len(every) // 25]
    fitting = {point for point in every if costs[point] <= limit}
    bounded = free.within(INPUT, kb.Budget(macs=limit))
    drawn = [tuple(bounded.sample(seed).values()) for seed in range(1500)]
    assert set(drawn) == fitting
    even = np.mean([costs[point] for point in fitting])
    assert np.mean([costs[point] for point in drawn]) == pytest.approx(even, rel=0.15)


def test_wide_integers_are_repaired_with_few_networks() -> None:
    made = []

    def counted(**arguments: Any) -> kb.Architecture:
        made.append(1)
        return plain_net(**arguments)

    free = kb.Space(
        counted, filters=kb.per_stage(4, kb.integer(16, 512)), blocks=(1,) * 4, strides=(1, 2, 2, 2)
    )
    start = {f"filters[{stage}]": 500 for stage in range(4)}
    limit = plain_net((20, 20, 40, 40), (1,) * 4, strides=(1, 2, 2, 2)).cost(INPUT).macs
    bounded = free.within(INPUT, kb.Budget(macs=limit))
    made.clear()
    found = bounded.repair(start)
    assert len(made) < 400
    assert bounded.build(found).cost(INPUT).macs <= limit
    for name in found:  # no wider than it is in any one place
        larger = {**found, name: found[name] + 1}
        assert bounded.build(larger).cost(INPUT).macs > limit


# --- latency -------------------------------------------------------------------------------


def test_latency_is_the_median_of_single_calls(monkeypatch: Any) -> None:
    model = plain_net((2, 2)).model(INPUT)
    assert 1e-5 < kb.latency(model, repeats=5) < 5
    now = iter(np.cumsum([0, 1, 0, 9, 0, 2, 0, 3, 0, 2.5]).tolist())  # runs of 1, 9, 2, 3, 2.5
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    monkeypatch.setattr(model, "predict_on_batch", lambda x: x)
    assert kb.latency(model, repeats=5) == 2.5


def test_latency_runs_the_batch_it_is_asked_for(monkeypatch: Any) -> None:
    model = plain_net((2, 2), head={"pool": "avg"}).model((None, None, 1))
    shapes = []
    monkeypatch.setattr(model, "predict_on_batch", lambda x: shapes.append(x.shape))
    kb.latency(model, 3, input_shape=(9, 7, 1), repeats=2, warm=1)
    assert shapes == [(3, 9, 7, 1)] * 3
    with pytest.raises(ValueError, match=r"size of the input. Received: \(None"):
        kb.latency(model)
    with pytest.raises(ValueError, match=r"`repeats` must be an integer from 1. Received: 0"):
        kb.latency(model, repeats=0)
    keras.backend.clear_session()
