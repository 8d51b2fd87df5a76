"""Plans for inference: what is folded into what, and the arithmetic of folding, without Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kblocks.model_tools.folding import Affine, Linear, folded, leaves, merged, parted, planned
from kblocks.plans.ops import (
    Activation,
    Chain,
    Conv,
    Dense,
    Dropout,
    DropPath,
    Merge,
    Norm,
    Pool,
    Scale,
)

BN, RELU = Norm(), Activation("relu")
ZEROS = {"kernel_initializer": "zeros", "bias_initializer": "zeros"}


def conv(kernel: int = 1, use_bias: bool = False, **more: Any) -> Conv:
    return Conv(4, (kernel, kernel), use_bias=use_bias, **more)


def inferred(kernel: int = 1, use_bias: bool = False, **more: Any) -> Conv:
    """A convolution as inference has it: nothing is drawn, nothing regularised."""
    return conv(kernel, use_bias, **more, **ZEROS)


def fold(plan: Any) -> tuple[Any, list[str]]:
    """The folded plan, and of each of its parts the paths of its sources."""
    (chain,) = folded(parted(plan, "owner"))
    sources = ["+".join(path for _, path in part.sources) for part in leaves(chain)]
    return planned(chain), sources


def test_a_norm_behind_a_convolution_becomes_its_bias() -> None:
    plan = Chain(conv(3), BN, RELU, conv(1), BN)
    expected = Chain(inferred(3, use_bias=True), RELU, inferred(1, use_bias=True))
    assert fold(plan) == (expected, ["conv1+norm1", "act", "conv2+norm2"])


def test_an_activation_or_a_merge_between_keeps_the_norm() -> None:
    merge = Merge("add", main=Chain(conv()), shortcut=Chain())
    for plan in (Chain(conv(), RELU, BN, RELU, conv()), Chain(merge, BN, RELU)):
        assert [type(op) for op in fold(plan)[0]] == [type(op) for op in plan]


def test_only_batch_normalisation_is_constant() -> None:
    for kind in ("layer", "group"):
        plan = Chain(conv(), Norm(kind))
        assert fold(plan)[0] == Chain(inferred(), Norm(kind))


def test_branches_fold_on_their_own() -> None:
    plan = Chain(Merge("add", main=Chain(conv(3), BN), shortcut=Chain()), RELU)
    main = Chain(inferred(3, use_bias=True))
    assert fold(plan)[0] == Chain(Merge("add", main=main, shortcut=Chain()), RELU)


@pytest.mark.parametrize(
    ("taken", "operation"),
    [
        (True, conv(1)),
        (True, conv(1, padding="symmetric")),
        (True, conv(3, padding="valid")),
        (True, conv(3, padding=(0, 0))),
        (True, conv(3, padding_mode="reflect")),
        (True, conv(3, padding_mode="replicate", padding=(1, 1))),
        (False, conv(3)),
        (False, conv(3, padding="symmetric")),
        (False, conv(1, padding=(1, 1))),
        (False, conv(3, padding=(0, 1))),
        (True, Dense(4)),
    ],
)
def test_a_norm_before_goes_in_where_no_zeros_are_padded(taken: bool, operation: Any) -> None:
    plan, sources = fold(Chain(BN, operation))
    label = operation.label
    assert sources == ([f"norm+{label}"] if taken else ["norm", label])
    assert plan[-1].use_bias == (taken or operation.use_bias)


def test_a_factor_needs_no_bias_and_may_be_padded() -> None:
    assert fold(Chain(Scale(0.5), conv(3))) == (Chain(inferred(3)), ["scaling+conv"])
    assert fold(Chain(conv(3), Scale(0.5))) == (Chain(inferred(3)), ["conv+scaling"])


def test_what_only_training_needs_goes() -> None:
    plan = Chain(
        conv(weight_norm=True, kernel_regularizer="l2"), Dropout(0.5), BN, DropPath(0.1), RELU
    )
    assert fold(plan) == (Chain(inferred(use_bias=True), RELU), ["conv+norm", "act"])


def test_norms_on_both_sides_and_in_a_row() -> None:
    assert fold(Chain(BN, conv(), BN, BN))[1] == ["norm1+conv+norm2+norm3"]
    assert fold(Chain(BN, Scale(2.0), conv()))[1] == ["norm+scaling+conv"]


def test_a_pool_between_keeps_the_norm() -> None:
    plan = Chain(conv(), Pool("max", (2, 2), (2, 2)), BN)
    assert fold(plan)[1] == ["conv", "pooling", "norm"]


def test_chains_that_follow_each_other_fold_across() -> None:
    first, second = folded(parted(Chain(RELU, conv()), "a"), parted(Chain(BN, RELU), "b"))
    assert [part.sources for part in leaves(first)] == [
        (("a", "act"),),
        (("a", "conv"), ("b", "norm")),
    ]
    assert planned(second) == Chain(RELU)
    first, second = folded(parted(Chain(RELU, BN), "a"), parted(Chain(conv()), "b"))
    assert planned(first) == Chain(RELU)
    assert [part.sources for part in leaves(second)] == [(("a", "norm"), ("b", "conv"))]


@pytest.mark.parametrize(
    "plan",
    [
        Chain(
            conv(3), BN, RELU, Merge("concat", a=Chain(BN, conv(3)), b=Chain(conv(), Scale(2.0)))
        ),
        Chain(),
        Chain(BN, RELU),
    ],
)
def test_folding_twice_changes_nothing(plan: Any) -> None:
    once, _ = fold(plan)
    assert fold(once)[0] == once


# --- arithmetic ----------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_merged_weights_give_what_the_pieces_give(groups: int) -> None:
    """A grouped 1x1 convolution written as a sum over its definition."""
    random = np.random.default_rng(0)
    inputs, outputs = 6, 12
    kernel = random.normal(size=(1, 1, inputs // groups, outputs))
    bias = random.normal(size=outputs)
    before = [Affine(random.normal(size=inputs), random.normal(size=inputs)) for _ in range(2)]
    after = [Affine(random.normal(size=outputs), random.normal(size=outputs)) for _ in range(2)]
    factor = Affine(np.array(0.3), np.array(0.0))

    def linear(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        y = bias.copy()
        for j in range(outputs):
            group = j // (outputs // groups)
            for i in range(inputs // groups):
                y[j] += x[group * (inputs // groups) + i] * kernel[0, 0, i, j]
        return y

    x = random.normal(size=inputs)
    expected = x
    for piece in (*before, factor):
        expected = expected * piece.factor + piece.offset
    expected = linear(expected, kernel, bias)
    for piece in (*after, factor):
        expected = expected * piece.factor + piece.offset
    found = merged([*before, factor, Linear(kernel, bias), *after, factor])
    np.testing.assert_allclose(linear(x, *found), expected, rtol=1e-12)
