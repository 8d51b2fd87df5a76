"""The static cost, held against what Keras builds and does: shapes, parameters, MACs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest
from conformance import CASES, ORDERS, Case
from counting import as_count, counted
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import THOROUGH

import kblocks as kb
from kblocks.plans.ops import (
    Activation,
    Chain,
    Conv,
    GlobalPool,
    Merge,
    Norm,
    PadChannels,
    Pool,
)

Images = Callable[..., np.ndarray]

KERNELS = [1, 3, 5, 7, (1, 7)]
STRIDES = [1, 2, (2, 1)]
PADDINGS = ["same", "valid", "symmetric", 1, (0, 2)]


def check(spec: Any, *shapes: tuple[int, int, int]) -> None:
    """The cost on each shape is what a new layer does with one image of it."""
    for shape in shapes:
        x = np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")
        assert as_count(spec.cost(shape)) == counted(spec.layer(), x)


# --- blocks ------------------------------------------------------------------------------


@pytest.mark.thin(4)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=pytest.mark.slow if case.more else ())
        for name, case in CASES.items()
    ],
)
def test_cost_of_every_case(case: Case) -> None:
    height, width, channels = case.shape
    check(case.spec(), case.shape, (height + 2, width + 3, channels))


BLOCKS = {
    "conv": lambda *args, **kwargs: kb.ConvBlock.Spec(8, *args, convolutions=2, **kwargs),
    "residual": lambda *args, **kwargs: kb.ResidualBlock.Spec(8, *args, **kwargs),
    "bottleneck": lambda *args, **kwargs: kb.BottleneckBlock.Spec(4, *args, **kwargs),
}
each_block = pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS.keys())


@pytest.mark.thin(8, 4)
@each_block
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_strides_and_paddings(
    kernel: Any, strides: Any, padding: Any, make: Callable[..., Any]
) -> None:
    check(make(kernel, strides, padding=padding), (31, 30, 4), (24, 27, 4))


@pytest.mark.thin(8, 2)
@each_block
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dilation", [2, (1, 3)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_dilations_and_groups(
    groups: int, dilation: Any, padding: Any, make: Callable[..., Any]
) -> None:
    spec = make(3, dilation_rate=dilation, groups=groups, padding=padding)
    check(spec, (21, 20, 4))


@pytest.mark.thin(8, 2)
@pytest.mark.parametrize("padding", ["same", "valid", "symmetric", 1, (0, 2)])
@pytest.mark.parametrize("strides", [None, 1, 2, (2, 1), 4])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("kind", ["max", "avg", "min"])
def test_pools(kind: str, size: Any, strides: Any, padding: Any) -> None:
    pooled = kb.ConvBlock.Spec(
        4, pool=kind, pool_size=size, pool_strides=strides, pool_padding=padding
    )
    check(pooled, (11, 10, 3), (12, 9, 3))
    if kind == "min":
        check(kb.MinPooling2D.Spec(size, strides, padding=padding), (11, 10, 3), (12, 9, 3))


@pytest.mark.thin(300, 15)
@pytest.mark.parametrize("shortcut", ["projection", "zero_pad"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("kernel", [*KERNELS, (4, 2)])
@pytest.mark.parametrize("block", [kb.ResidualBlock, kb.BottleneckBlock])
def test_residual_grid(
    block: Any, kernel: Any, strides: Any, padding: Any, order: str, shortcut: str
) -> None:
    if padding == "symmetric" and kernel == (4, 2):
        padding = 3
    spec = block.Spec(4, kernel, strides, padding=padding, order=order, shortcut=shortcut)
    check(spec, (31, 30, 3), (24, 27, 3))


# --- random blocks and plans -------------------------------------------------------------

sizes = st.integers(1, 5) | st.tuples(st.integers(1, 5), st.integers(1, 5))
steps = st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3))
paddings = st.sampled_from(["same", "valid", "symmetric"]) | st.integers(0, 3)
ARGUMENTS = {
    "kernel_size": sizes,
    "strides": steps,
    "padding": paddings,
    "dilation_rate": st.integers(1, 3),
    "groups": st.sampled_from([1, 1, 2, 4]),
    "normalization": st.sampled_from(["batch", "layer", "group", None]),
    "use_bias": st.sampled_from([None, True, False]),
    "activation": st.sampled_from(["relu", "gelu", None]),
    "padding_mode": st.sampled_from(["zeros", "zeros", "reflect", "replicate"]),
}
OF_CONV_BLOCKS = {
    "convolutions": st.integers(1, 3),
    "order": st.sampled_from(["conv_norm_act", "norm_act_conv", "norm_last"]),
    "pool": st.sampled_from([None, "max", "avg", "min"]),
    "pool_size": sizes,
    "pool_strides": st.none() | steps,
    "pool_padding": paddings,
    "dropout": st.sampled_from([0.0, 0.5]),
}
OF_RESIDUAL_BLOCKS = {
    "order": st.sampled_from(ORDERS),
    "shortcut": st.sampled_from(["projection", "zero_pad", "identity"]),
    "stochastic_depth": st.sampled_from([0.0, 0.5]),
}
random_blocks = st.one_of(
    st.tuples(st.just(block), st.fixed_dictionaries({}, optional={**ARGUMENTS, **own}))
    for block, own in (
        (kb.ConvBlock, OF_CONV_BLOCKS),
        (kb.ResidualBlock, OF_RESIDUAL_BLOCKS),
        (kb.BottleneckBlock, {**OF_RESIDUAL_BLOCKS, "expansion": st.integers(1, 3)}),
    )
)
random_shapes = st.tuples(st.integers(1, 24), st.integers(1, 24), st.sampled_from([4, 8]))


def costs_what_it_does_or_is_refused(
    block: Any, arguments: dict[str, Any], shape: tuple[int, int, int]
) -> bool:
    """Whatever the arguments: refused when made, refused by cost and layer alike, or right."""
    try:
        spec = block.Spec(8, **arguments)
    except ValueError:
        return False
    try:
        spec.cost(shape)
    except ValueError as error:
        with pytest.raises(type(error)):
            spec.layer()(np.zeros((1, *shape), "float32"))
        with pytest.raises(type(error)):
            spec.layer().compute_output_shape((None, *shape))
        return False
    check(spec, shape)
    return True


@settings(max_examples=150)
@given(drawn=random_blocks, shape=random_shapes)
def test_random_blocks(drawn: tuple[Any, dict[str, Any]], shape: tuple[int, int, int]) -> None:
    costs_what_it_does_or_is_refused(*drawn, shape)


@pytest.mark.slow
@settings(max_examples=3000 if THOROUGH else 800, derandomize=False)
@given(drawn=random_blocks, shape=random_shapes)
def test_many_random_blocks(drawn: tuple[Any, dict[str, Any]], shape: tuple[int, int, int]) -> None:
    costs_what_it_does_or_is_refused(*drawn, shape)


def test_most_plain_arguments_are_not_refused() -> None:
    """The property above would hold of a library that refuses everything."""
    accepted = [
        costs_what_it_does_or_is_refused(
            block, {"kernel_size": k, "strides": s, "padding": p}, (24, 24, 8)
        )
        for block in (kb.ConvBlock, kb.ResidualBlock, kb.BottleneckBlock)
        for k, s, p in [(3, 2, "valid"), (5, (2, 1), 1), ((1, 5), 3, "symmetric"), (4, 2, "same")]
    ]
    assert all(accepted)


class Planned(kb.Block):
    """Any plan as a block."""

    ops: Any

    def plan(self, channels: int) -> Any:
        return self.ops


kernels = st.tuples(*[st.sampled_from([1, 2, 3, 5])] * 2)


@st.composite
def primitives(draw: Any) -> Any:
    kind = draw(st.sampled_from(["conv", "conv", "pool", "norm", "act"]))
    if kind == "conv":
        return Conv(
            filters=draw(st.sampled_from([4, 8])),
            kernel_size=draw(kernels),
            padding=draw(st.sampled_from(["same", "valid", (0, 0), (1, 2)])),
            dilation_rate=draw(st.sampled_from([(1, 1), (2, 1), (2, 2)])),
            groups=draw(st.sampled_from([1, 4])),
            use_bias=draw(st.booleans()),
        )
    if kind == "pool":
        pooled = draw(st.sampled_from(["max", "avg", "min"]))
        return Pool(pooled, draw(kernels), (1, 1), draw(st.sampled_from(["same", "valid"])))
    return Norm("batch") if kind == "norm" else Activation("relu")


@st.composite
def strided(draw: Any) -> Conv:
    by = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    return Conv(8, draw(kernels), by, draw(st.sampled_from(["same", "valid", (1, 1)])))


chains = st.lists(primitives(), max_size=4).map(lambda ops: Chain(*ops))


def merged(inner: Any) -> Any:
    """Branches of equal strides, one of which may be the identity; concatenated or added."""

    def joined(mode: str, a: Any, b: Any, step: Conv | None) -> Any:
        if mode == "concat":
            merge = Merge("concat", left=Chain(step, a), right=Chain(step, b))
        else:
            last = Conv(8, (3, 3), padding="valid")
            merge = Merge("add", left=Chain(step, a, last), right=Chain(step, b, Conv(8)))
        return Chain(merge, Activation("relu"))

    return st.builds(
        joined, st.sampled_from(["concat", "add"]), inner, inner, st.none() | strided()
    )


def distinct(op: Any, number: Iterator[int]) -> Any:
    """The plan with a name of its own for each branch, since paths must differ."""
    if isinstance(op, Chain):
        return Chain(*(distinct(step, number) for step in op))
    if isinstance(op, Merge):
        branches = {f"b{next(number)}": distinct(b, number) for _, b in op.branches}
        return Merge(op.mode, **branches)
    return op


plans = st.recursive(chains, lambda inner: merged(inner) | st.builds(Chain, inner, inner))


@settings(max_examples=120)
@given(plan=plans, size=st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_random_plans(plan: Any, size: tuple[int, int]) -> None:
    """Chains and merges inside merges: predicted and eager shapes, parameters and MACs."""
    shape, plan = (*size, 4), distinct(plan, itertools.count())
    try:
        Planned.Spec(plan).cost(shape)
    except ValueError as error:
        with pytest.raises(type(error)):
            Planned(plan)(np.zeros((1, *shape), "float32"))
        return
    check(Planned.Spec(plan), shape)


def test_plans_of_other_sizes_of_their_own_are_refused_in_a_merge() -> None:
    plan = Merge("concat", map=Conv(4), vector=GlobalPool("avg"))
    with pytest.raises(ValueError, match="concat"):
        Planned.Spec(plan).cost((8, 8, 4))
    plan = Merge("add", fast=Conv(4, strides=(2, 2)), slow=Chain())
    with pytest.raises(ValueError, match=r"equal strides.*fast: \(2, 2\).*slow: \(1, 1\)"):
        Planned.Spec(plan).cost((8, 8, 4))
    plan = Merge("add", wide=Conv(5), narrow=PadChannels(6))
    with pytest.raises(ValueError, match=r"wide: \(8, 8, 5\).*narrow: \(8, 8, 6\)"):
        Planned.Spec(plan).cost((8, 8, 4))


def test_no_keras_object_is_made() -> None:
    with mock.patch.object(keras.Layer, "__new__", side_effect=AssertionError("a layer")):
        net = kb.resnet50(padding="valid", stem={"padding": "same"})
        assert net.cost((640, 512, 3)).params > 25e6
        assert len(net.stages((640, 512, 3))) == 6


# --- conv_output_size --------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("strides", "dilation"), [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
def test_conv_output_size_is_that_of_keras_layers(
    kernel: int, strides: int, dilation: int, padding: str
) -> None:
    conv = keras.layers.Conv1D(1, kernel, strides, padding, dilation_rate=dilation)
    pool = keras.layers.MaxPooling1D(kernel, strides, padding)
    for size in range(1, 30):
        if padding == "valid" and size < dilation * (kernel - 1) + 1:
            with pytest.raises(kb.InputTooSmallError):
                kb.conv_output_size(size, kernel, strides, padding, dilation)
            continue
        computed = kb.conv_output_size(size, kernel, strides, padding, dilation)
        assert computed == conv.compute_output_shape((None, size, 1))[1]
        if dilation == 1:
            assert computed == pool.compute_output_shape((None, size, 1))[1]


@pytest.mark.parametrize("size", [7, 8, 32, 33])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("pixels", [0, 1, 2, 3, "symmetric"])
def test_conv_output_size_of_explicit_padding(
    size: int, kernel: int, strides: int, dilation: int, pixels: Any
) -> None:
    """The formula of PyTorch's Conv2d documentation."""
    added = dilation * (kernel - 1) // 2 if pixels == "symmetric" else pixels
    expected = math.floor((size + 2 * added - dilation * (kernel - 1) - 1) / strides + 1)
    if expected < 1:
        with pytest.raises(kb.InputTooSmallError):
            kb.conv_output_size(size, kernel, strides, pixels, dilation)
    else:
        assert kb.conv_output_size(size, kernel, strides, pixels, dilation) == expected


def test_conv_output_size_takes_pairs_and_passes_none() -> None:
    assert kb.conv_output_size((224, 112), (7, 3), 2, "symmetric") == (112, 56)
    assert kb.conv_output_size((32, 33), 3, (2, 1), ("same", 0)) == (16, 31)
    assert kb.conv_output_size((10, 10), 3, dilation_rate=(1, 2)) == (8, 6)
    assert kb.conv_output_size(None, 3, 2) is None
    assert kb.conv_output_size((None, 9), 3, 2, "same") == (None, 5)
    assert kb.conv_output_size(9, 3) == 7  # strides 1 and "valid", as Keras' layers


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("size", {"size": 0}),
        ("size", {"size": 8.0}),
        ("kernel_size", {"kernel_size": 0}),
        ("kernel_size", {"kernel_size": "3"}),
        ("kernel_size", {"kernel_size": (3, 3)}),
        ("strides", {"strides": -1}),
        ("strides", {"strides": True}),
        ("dilation_rate", {"dilation_rate": 1.5}),
        ("padding", {"padding": "SAME"}),
        ("padding", {"padding": -1}),
        ("padding", {"padding": None}),
        ("padding", {"padding": True}),
        (r"\(3,\)", {"size": (8, 8), "kernel_size": (3,)}),
        (r"\(1, 1, 1\)", {"size": (8, 8), "strides": (1, 1, 1)}),
    ],
)
def test_conv_output_size_refuses_what_is_no_size(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*Received|Received.*{name}"):
        kb.conv_output_size(**{"size": 8, "kernel_size": 3, **arguments})


@pytest.mark.parametrize("padding", ["valid", 1])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_missing_is_the_number_of_pixels_that_would_do(
    size: int, dilation: int, padding: Any
) -> None:
    with pytest.raises(kb.InputTooSmallError) as caught:
        kb.conv_output_size(size, 7, 2, padding, dilation)
    enough = size + caught.value.missing
    assert kb.conv_output_size(enough, 7, 2, padding, dilation) == 1
    with pytest.raises(kb.InputTooSmallError):
        kb.conv_output_size(enough - 1, 7, 2, padding, dilation)


def test_a_cost_needs_known_sizes() -> None:
    for spec in (kb.ConvBlock.Spec(8), kb.MinPooling2D.Spec(), kb.Classifier.Spec(3)):
        with pytest.raises(ValueError, match="known"):
            spec.cost((None, 32, 3))
    net = kb.Architecture([kb.ConvBlock.Spec(8)])
    for shape in ((None, None, 3), (32, 32, None)):
        with pytest.raises(ValueError, match="input_shape"):
            net.cost(shape)
