"""Networks that compute the same have one canonical form, and no others have."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from spaces import plain_net

import kblocks as kb

PLAIN = {"normalization": None, "activation": None, "use_bias": False}


def net_of(*specs: Any, head: Any = None) -> kb.Architecture:
    return kb.Architecture(list(specs), head=head)


def before(size: int, kernel: int, stride: int, dilation: int, padding: Any) -> int:
    """Zeros in front of an axis, by the documentation of Keras and of `padding`."""
    if padding == "same":
        needed = (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size
        return max(needed, 0) // 2
    if padding == "symmetric":
        return (dilation * (kernel - 1) + 1) // 2
    return 0 if padding == "valid" else padding


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_convolutions_are_equal_if_and_only_if_their_maps_are(size: int) -> None:
    """Every kernel takes its weights from one table by the pixel that a tap meets first.

    So convolutions that are the same function give the same map, and a tap without effect
    may hold anything.
    """
    rng = np.random.default_rng(size)
    table = {pixels: rng.normal() for pixels in itertools.product(range(-9, 10), repeat=2)}
    x = rng.normal(size=(1, size, size, 1)).astype("float32")
    maps: dict[Any, list[np.ndarray]] = defaultdict(list)
    grid = itertools.product((1, 2, 3, 5), (1, 2, 3), (1, 2), ("same", "valid", "symmetric", 1))
    for kernel, stride, dilation, padding in grid:
        if (stride > 1 and dilation > 1) or (padding == "symmetric" and kernel == 2):
            continue
        options = {"padding": padding, "dilation_rate": dilation, **PLAIN}
        net = net_of(kb.ConvBlock.Spec(1, kernel, stride, **options))
        try:
            key = net.canonical((size, size, 1))
        except kb.InputTooSmallError:
            continue
        first = before(size, kernel, stride, dilation, padding)
        places = [tap * dilation - first for tap in range(kernel)]
        weights = np.array([[table[row, column] for column in places] for row in places])
        model = net.model((size, size, 1))
        model.set_weights([weights[:, :, None, None]])
        maps[key].append(np.asarray(model(x)))
    assert len(maps) < sum(map(len, maps.values())), "some are equal"
    for equal in maps.values():
        assert len({found.shape for found in equal}) == 1
        np.testing.assert_allclose(np.stack(equal), np.stack([equal[0]] * len(equal)), atol=1e-5)
    kinds = [equal[0] for equal in maps.values()]
    for one, other in itertools.combinations(kinds, 2):
        assert one.shape != other.shape or np.abs(one - other).max() > 1e-6


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_pools_are_equal_if_and_only_if_their_maps_are(size: int) -> None:
    rng = np.random.default_rng(size)
    x = rng.normal(size=(200, size, size, 1)).astype("float32")  # no windows agree by chance
    maps: dict[Any, list[np.ndarray]] = defaultdict(list)
    grid = itertools.product(
        (None, "max", "avg", "min"), (1, 2, 3), (1, 2, 3), ("same", "valid", "symmetric")
    )
    for pool, pool_size, strides, padding in grid:
        if padding == "symmetric" and pool_size == 2:
            continue
        options = {"pool_size": pool_size, "pool_strides": strides, "pool_padding": padding}
        net = net_of(kb.ConvBlock.Spec(1, 1, pool=pool, **(options if pool else {}), **PLAIN))
        try:
            key = net.canonical((size, size, 1))
        except kb.InputTooSmallError:
            continue
        model = net.model((size, size, 1))
        model.set_weights([np.ones((1, 1, 1, 1))])
        maps[key].append(np.asarray(model(x)))
    for equal in maps.values():
        for found in equal:
            np.testing.assert_allclose(found, equal[0], atol=1e-6)
    for one, other in itertools.combinations([equal[0] for equal in maps.values()], 2):
        assert one.shape != other.shape or np.abs(one - other).max() > 1e-6


def block(**arguments: Any) -> kb.Architecture:
    return net_of(kb.ConvBlock.Spec(4, **{"kernel_size": 3, **arguments}), head=kb.Classifier(2))


def headed(**arguments: Any) -> kb.Architecture:
    return net_of(kb.ConvBlock.Spec(4), head=kb.Classifier(2, **arguments))


ONE, TWO, SIX = (1, 1, 3), (2, 2, 3), (6, 6, 3)
CONV = kb.ConvBlock.Spec(4)
EQUAL = [
    (ONE, block(kernel_size=3), block(kernel_size=7)),
    (ONE, block(kernel_size=1), block(kernel_size=(1, 5))),
    (ONE, block(strides=1), block(strides=3)),
    (ONE, block(dilation_rate=1), block(dilation_rate=2)),
    (ONE, headed(pool="avg"), headed(pool="max")),
    (ONE, headed(pool="avg"), headed(pool="flatten")),
    (TWO, block(kernel_size=3), block(kernel_size=(5, 7))),
    (SIX, block(padding="same"), block(padding="symmetric")),
    (SIX, block(padding=1), block(padding="symmetric", strides=1)),
    (SIX, block(kernel_size=1, padding="valid"), block(kernel_size=1, padding="same")),
    (SIX, block(padding="valid", padding_mode="reflect"), block(padding="valid")),
    (SIX, block(normalization="group"), block(normalization=kb.Norm("group", groups=4))),
    (SIX, net_of(CONV, CONV), net_of(kb.ConvBlock.Spec(4, convolutions=2))),
    (SIX, net_of(("a", CONV)), net_of(("b", CONV))),
    (SIX, net_of(CONV), net_of(kb.ConvBlock(4))),
]
DIFFERENT = [
    (SIX, block(padding="same", strides=2), block(padding="symmetric", strides=2)),
    ((3, 3, 3), block(kernel_size=3), block(kernel_size=5)),
    (TWO, block(kernel_size=3), block(kernel_size=1)),
    (SIX, block(padding_mode="zeros"), block(padding_mode="replicate")),
    (SIX, headed(pool="avg"), headed(pool="max")),
    (ONE, headed(pool="avg"), headed(pool="concat")),
    (SIX, block(), block(activation="gelu")),
    (SIX, block(), block(normalization=kb.Norm("batch", epsilon=1e-5))),
    (SIX, block(), block(use_bias=True)),
    (SIX, block(), block(kernel_initializer="glorot_uniform")),
    (ONE, block(normalization="weight"), block(normalization="weight", kernel_size=5)),
    (SIX, headed(), headed(dropout=0.1)),
    (SIX, net_of(CONV), net_of(CONV, CONV)),
]


@pytest.mark.parametrize(("shape", "one", "other"), EQUAL)
def test_known_equal_networks_are_recognised(shape: Any, one: Any, other: Any) -> None:
    assert one.canonical(shape) == other.canonical(shape)
    assert hash(one.canonical(shape)) == hash(other.canonical(shape))


@pytest.mark.parametrize(("shape", "one", "other"), DIFFERENT)
def test_different_networks_stay_apart(shape: Any, one: Any, other: Any) -> None:
    assert one.canonical(shape) != other.canonical(shape)


def test_shared_weights_count() -> None:
    spec = kb.ConvBlock.Spec(3)
    shared = kb.Architecture([("a", spec), ("b", "a")])
    own = kb.Architecture([("a", spec), ("b", spec)])
    assert shared.canonical((4, 4, 3)) != own.canonical((4, 4, 3))
    renamed = kb.Architecture([("c", spec), ("d", "c")])
    assert shared.canonical((4, 4, 3)) == renamed.canonical((4, 4, 3))


def test_weights_shared_with_a_row_that_no_output_needs_are_its_own() -> None:
    spec = kb.ConvBlock.Spec(3)
    rows = [("unused", spec), ("a", "unused", "input"), ("b", spec)]
    lone = kb.Architecture(rows, outputs={"x": "b"})
    assert lone.canonical((4, 4, 3)) == net_of(spec, spec).canonical((4, 4, 3))
    rows = [("unused", spec), ("a", "unused", "input"), ("b", "a")]
    pair = kb.Architecture(rows, outputs={"x": "b"})
    assert pair.canonical((4, 4, 3)) == net_of(("a", spec), ("b", "a")).canonical((4, 4, 3))


def test_a_row_that_does_nothing_hides_no_other_reader() -> None:
    """c reads a (by way of b, which changes nothing); d reads a in one network, c in the other."""
    spec, nothing = kb.ConvBlock.Spec(3), kb.NormAct.Spec(normalization=None, activation=None)
    rows = [("a", spec), ("b", nothing), ("c", spec)]
    one, other = (
        kb.Architecture([*rows, ("d", spec, read)], outputs={"x": "c", "y": "d"})
        for read in ("a", "c")
    )
    assert one.canonical((4, 4, 3)) != other.canonical((4, 4, 3))


@pytest.mark.parametrize("name", kb.architectures())
def test_every_published_network_has_a_form(name: str) -> None:
    """Equal for the network from its own JSON, and for no other one of them."""
    net = kb.architecture(name)
    found = net.canonical((299, 299, 3))
    assert found == kb.Architecture.from_json(net.to_json()).canonical((299, 299, 3))
    assert found != kb.architecture(name, classes=7).canonical((299, 299, 3))


def test_keys_of_a_space_join_values_of_equal_networks() -> None:
    """Equal costs and, with the weights of one copied to the other, equal outputs."""
    space = kb.Space(
        plain_net,
        filters=[4, kb.choice(4, 8)],
        kernel_size=kb.choice(3, 1),
        padding=kb.choice("same", "symmetric", "valid"),
        head=kb.choice({"pool": "avg"}, {"pool": "max"}, {"pool": "concat"}),
        strides=[kb.choice(4, 1), kb.choice(1, 2)],
    ).within((4, 4, 1))
    groups: dict[Any, list[Any]] = defaultdict(list)
    for seed in range(250):
        values = space.sample(seed)
        if values not in groups[space.key(values)]:
            groups[space.key(values)].append(values)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 1)).astype("float32")
    joined = [group for group in groups.values() if len(group) > 1]
    assert len(joined) > 10
    for first, *others in joined[:12]:
        model = space.build(first).model((4, 4, 1))
        for values in others[:2]:
            other = space.build(values).model((4, 4, 1))
            same = [w.shape == v.shape for w, v in zip(model.weights, other.weights, strict=True)]
            assert all(same)
            other.set_weights(model.get_weights())
            np.testing.assert_allclose(np.asarray(other(x)), np.asarray(model(x)), atol=1e-5)
            assert space.build(values).cost((4, 4, 1)) == space.build(first).cost((4, 4, 1))


def test_an_argument_that_is_not_used_makes_no_difference() -> None:
    def build(depth: int, width: int) -> kb.Architecture:
        return plain_net((4, width)[:depth], (1, 1)[:depth], strides=(1, 2)[:depth])

    space = kb.Space(build, depth=kb.choice(1, 2), width=kb.choice(4, 8)).within((8, 8, 1))
    assert space.key({"depth": 1, "width": 4}) == space.key({"depth": 1, "width": 8})
    assert space.key({"depth": 2, "width": 4}) != space.key({"depth": 2, "width": 8})
    assert len(list(space.samples(0))) == 3


@pytest.mark.parametrize(
    "head",
    [
        kb.BoxRegressor.Spec(),
        kb.KeypointMaps.Spec(2),
        kb.DetectionMap.Spec(3),
        {"kind": kb.Classifier(3), "found": kb.Detector(3, filters=8)},
    ],
    ids=["box", "keypoints", "detection", "several"],
)
def test_networks_of_every_head_have_a_form_to_look_up(head: Any) -> None:
    """A space keeps the forms that it has met in a set."""
    rows = [kb.ConvBlock.Spec(4, strides=2) for _ in range(3)]
    one, other = (net_of(*rows, head=head).canonical((32, 32, 3)) for _ in range(2))
    assert len({one, other, net_of(*rows[:2], rows, head=head).canonical((32, 32, 3))}) == 2
    space = kb.Space(
        lambda filters: net_of(kb.ConvBlock.Spec(filters), *rows, head=head),
        filters=kb.choice(4, 8),
    )
    assert len(list(space.within((32, 32, 3)).samples(0))) == 2
