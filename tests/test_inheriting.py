"""Weights of a trained network in a changed one: `kb.inherit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb

STAGES: Any = {"blocks": (1, 1), "filters": (8, 12)}
STEM = {"filters": 8, "kernel_size": 3, "strides": 2}
BLOCK: Any = {**STAGES, "stem": STEM}
NARROW: Any = {"blocks": (1, 1, 1), "width": 0.125}
DEEPER: dict[str, Any] = {"blocks": (2, 3)}
WIDER: dict[str, Any] = {"filters": (12, 16)}
LARGER: dict[str, Any] = {"kernel_size": [5, (3, 7)]}
STEMMED = {"stem": {"filters": 10, "kernel_size": 5, "strides": 2}}
ALL = {**DEEPER, **WIDER, **LARGER, **STEMMED}
WIDE_STEM = {"stem": {**STEM, "filters": 12}}

Growths = tuple[Callable[..., kb.Architecture], int, dict[str, Any], list[dict[str, Any]]]
# By name: the family, the size of images, the parent's arguments, and those that grow it exactly.
GROWING: dict[str, Growths] = {
    "resnet": (kb.resnet, 32, BLOCK, [ALL, DEEPER, WIDER, {"filters": (8, 13)}, WIDE_STEM]),
    "bottleneck": (
        kb.resnet,
        32,
        {**BLOCK, "block": "bottleneck", "width": (4, 6)},
        [ALL, {"width": (6, 9)}, {"expansion": 5}],
    ),
    "groups": (
        kb.resnet,
        32,
        {**BLOCK, "groups": 2, "activation": "relu6"},
        [{**DEEPER, **WIDER, **LARGER}],
    ),
    "b": (kb.resnet, 32, {**BLOCK, "order": "norm_after_addition"}, [ALL, DEEPER]),
    "c": (kb.resnet, 32, {**BLOCK, "order": "relu_before_addition"}, [ALL, DEEPER]),
    "d": (kb.resnet, 32, {**BLOCK, "order": "relu_only_preactivation"}, [ALL, DEEPER]),
    "preresnet": (
        kb.preresnet,
        32,
        BLOCK,
        [{**DEEPER, **LARGER, "filters": (8, 16)}, {"filters": (8, 20)}],
    ),
    "no norm": (kb.resnet, 32, {**BLOCK, "normalization": None}, [ALL]),
    "weight norm": (kb.resnet, 32, {**BLOCK, "normalization": "weight"}, [ALL]),
    "layer norm": (kb.resnet, 32, {**BLOCK, "normalization": "layer"}, [{**DEEPER, **LARGER}]),
    "group norm": (kb.resnet, 32, {**BLOCK, "normalization": "group"}, [{**DEEPER, **LARGER}]),
    "silu": (kb.resnet, 32, {**BLOCK, "activation": "silu"}, [{**WIDER, **LARGER}]),
    "reflect": (kb.resnet, 33, {**BLOCK, "padding_mode": "reflect"}, [{**DEEPER, **LARGER}]),
    "same": (kb.resnet, 33, {**BLOCK, "padding": "same"}, [ALL]),
    "valid": (kb.resnet, 64, {**BLOCK, "padding": "valid"}, [WIDER]),
    "zero_pad": (
        kb.resnet,
        32,
        {"blocks": (1, 1), "filters": (8, 16), "shortcut": "zero_pad", "stem": STEM},
        [{**WIDE_STEM, "filters": (12, 24)}, {"filters": (8, 20), **DEEPER}],
    ),
    "resnext": (
        kb.resnext,
        32,
        {**BLOCK, "cardinality": 4, "group_width": 2},
        [ALL, {"cardinality": 8}, {"group_width": 3}, {**ALL, "cardinality": 8, "group_width": 4}],
    ),
    "densenet": (
        kb.densenet,
        32,
        {"blocks": (2, 1), "growth_rate": 6, "groups": 2, "stem": STEM},
        [
            {"blocks": (3, 3), "growth_rate": 8, "compression": 0.7, **LARGER},
            {"bottleneck": 6, **WIDE_STEM},
        ],
    ),
    "efficientnet": (
        kb.efficientnet,
        32,
        {**BLOCK, "top": {"filters": 20}},
        [
            {"filters": (8, 16), **DEEPER, **LARGER, "expansion": (1, 8), "squeeze_ratio": 0.5},
            {"top": {"filters": 30}},
        ],
    ),
    "new gates": (kb.efficientnet, 32, {**BLOCK, "squeeze_ratio": None}, [{"squeeze_ratio": 0.5}]),
    "tresnet": (
        kb.tresnet,
        32,
        {
            **STAGES,
            "block": ["basic", "bottleneck"],
            "least_squeeze": 4,
            "squeeze_ratio": [0.25, None],
        },
        [{**DEEPER, **WIDER, **LARGER}, {"least_squeeze": 8, "expansion": 6}],
    ),
    "tresnet's new gates": (
        kb.tresnet,
        32,
        {**STAGES, "least_squeeze": 4, "squeeze_ratio": None, "block": ["basic", "bottleneck"]},
        [{"squeeze_ratio": 0.5}, {"squeeze_ratio": 0.5, **DEEPER}],
    ),
    "vgg": (
        kb.vgg,
        16,
        {**STAGES, "normalization": "batch", "head": {"hidden": (16,)}},
        [{**DEEPER, **WIDER, **LARGER}, {"head": {"hidden": (16, 20)}}],
    ),
    "alexnet": (kb.alexnet, 95, {**STAGES, "head": {"hidden": (8,)}}, [{**DEEPER, **WIDER}]),
    "xception": (
        kb.xception,
        32,
        {**STAGES, "strides": 2, "convolutions": 2, "top": {"filters": 16, "width": 12}},
        [{**DEEPER, **WIDER, **LARGER}, {"top": {"filters": 20, "width": 16}}],
    ),
    "separable": (
        kb.xception,
        32,
        {**STAGES, "strides": 2, "order": "conv_norm_act", "convolutions": 1},
        [{"convolutions": 2, **DEEPER}],
    ),
    "googlenet": (
        kb.googlenet,
        64,
        NARROW,
        [
            {"width": 0.25},
            {
                "branches": [
                    [(8, (12, 16), (2, 4), ("max", 4), (4, 4))],
                    [(24, (12, 26), (2, 6), ("max", 8))],
                    [(32, (20, 40), (4, 16), ("max", 16))],
                ],
                "width": 1,
                "kernel_size": [(1, 5, 3, 3, 3), 5, 3],
            },
        ],
    ),
    "inception_v3": (kb.inception_v3, 96, NARROW, [{"width": 0.25, "kernel_size": (5, 9, 5)}]),
    "inception_v4": (kb.inception_v4, 96, NARROW, [{"width": 0.25, "kernel_size": (5, 9, 5)}]),
    "inception_resnet": (
        kb.inception_resnet,
        96,
        {**NARROW, "last": {}},
        [{"width": 0.2, "blocks": (2, 1, 2), "kernel_size": (5, 9, 5)}],
    ),
    "flat head": (
        kb.resnet,
        32,
        {**BLOCK, "head": {"pool": "flatten", "hidden": (7,)}},
        [{**WIDER, "head": {"pool": "flatten", "hidden": (9, 9)}}],
    ),
    "grid": (kb.resnet, 32, {**BLOCK, "head": {"pool": "flatten", "pool_size": 2}}, [WIDER]),
    "concat head": (
        kb.resnet,
        32,
        {**BLOCK, "head": {"pool": "concat"}},
        [{**WIDER, "head": {"pool": "concat", "hidden": (40,)}}],
    ),
}
SHORT = ("resnet", "resnext", "densenet", "new gates", "flat head")


def varied(model: Any) -> Any:
    """The model with statistics, factors and offsets off the values they start with."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith(("bias", "beta", "moving_mean")):
            weight.assign(random.normal(size=weight.shape) * 0.1)
        elif weight.path.endswith(("gamma", "gain", "moving_variance")):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    return model


def outputs(model: Any, size: int) -> list[np.ndarray]:
    x = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype("float32")
    return [np.asarray(y) for y in keras.tree.flatten(model(x, training=False))]


def assert_exact(child: Any, parent: Any, size: int) -> None:
    expected = outputs(parent, size)
    known = kb.inherit(child, parent)
    assert known["exact"], known
    assert set(known["blocks"].values()) <= {"exact", "new"}
    for found, wanted in zip(outputs(child, size), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * max(1, np.abs(wanted).max()))


def grown(case: Growths, change: dict[str, Any]) -> None:
    build, size, arguments, _ = case
    parent = varied(build(5, **arguments).model((size, size, 3)))
    child = build(5, **{**arguments, **change}).model((size, size, 3))
    assert_exact(child, parent, size)


@pytest.mark.parametrize("name", SHORT)
def test_a_grown_network_computes_the_same(name: str) -> None:
    grown(GROWING[name], GROWING[name][3][0])


@pytest.mark.slow
def test_all_growths_of_all_families_compute_the_same() -> None:
    for name, case in GROWING.items():
        for change in case[3]:
            print(name, change)
            grown(case, change)


HEADS: list[Callable[[], Any]] = [
    lambda: kb.Segmenter(3, stride=4),
    lambda: kb.Localizer(2),
    lambda: kb.Detector(3),
    lambda: kb.KeypointRegressor(2),
    lambda: {"kind": kb.Classifier(5), "points": kb.Keypoints(2)},
]


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_all_heads_compute_the_same(head: Callable[[], Any]) -> None:
    def net(filters: int, kernel: int, blocks: int) -> Any:
        spec = kb.ResidualBlock.Spec
        rows: list[Any] = [("stem", kb.ConvBlock.Spec(filters, kernel, 2))]
        rows += [[spec(filters, kernel, 2)] + [spec(filters, kernel)] * (blocks - 1)] * 3
        return kb.Architecture(rows, head=head()).model((32, 32, 3))

    assert_exact(net(10, 5, 2), varied(net(8, 3, 1)), 32)


Specs = tuple[Any, Any]
PAIRS: dict[str, Specs] = {
    "gate": (kb.SqueezeExcite.Spec(4), kb.SqueezeExcite.Spec(6)),
    "branches": (
        kb.InceptionBlock.Spec((4, (4, 6), ("max", 3)), (1, 3, 3), wide=True),
        kb.InceptionBlock.Spec((6, (6, 9), ("max", 5), 5), (1, 3, 3, 3), wide=True),
    ),
    "pre-activation": (
        kb.ConvBlock.Spec(8, order="norm_act_conv"),
        kb.ConvBlock.Spec(12, 5, order="norm_act_conv"),
    ),
    "norm last": (
        kb.ConvBlock.Spec(8, order="norm_last", convolutions=2),
        kb.ConvBlock.Spec(12, 5, order="norm_last", convolutions=2),
    ),
    "strides": (kb.ConvBlock.Spec(8, 3, 2, pool="avg"), kb.ConvBlock.Spec(9, 6, 2, pool="avg")),
    "dilation": (kb.ConvBlock.Spec(8, 3, dilation_rate=2), kb.ConvBlock.Spec(8, 5)),
    "transition": (kb.TransitionBlock.Spec(), kb.TransitionBlock.Spec(0.9, 3)),
    "squares": (kb.SpaceToDepthStem.Spec(8), kb.SpaceToDepthStem.Spec(12, 5)),
    "blur": (kb.BlurPooling2D.Spec(), kb.BlurPooling2D.Spec()),
    "minimum": (kb.MinPooling2D.Spec(), kb.MinPooling2D.Spec()),
    "end": (kb.NormAct.Spec(), kb.NormAct.Spec()),
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [16, 17])
def test_all_blocks_compute_the_same(size: int) -> None:
    for name, specs in PAIRS.items():
        print(name)
        parent, child = (
            kb.Architecture(
                [("stem", kb.ConvBlock.Spec(filters)), ("block", spec)],
                head=kb.Classifier(4, pool="flatten"),
            ).model((size, size, 3))
            for filters, spec in zip((6, 10), specs, strict=True)
        )
        assert_exact(child, varied(parent), size)


def conv_net(filters: int = 6, kernel: int = 3, blocks: int = 1, classes: int = 5) -> Any:
    rows: list[Any] = [
        ("stem", kb.ConvBlock.Spec(filters, kernel)),
        [kb.ResidualBlock.Spec(filters, kernel)] * blocks,
    ]
    return kb.Architecture(rows, head=kb.Classifier(classes)).model((8, 8, 3))


def test_what_is_new_learns() -> None:
    parent, child = varied(conv_net()), conv_net(9, 5, 2)
    known = kb.inherit(child, parent)
    assert known["blocks"] == {
        **dict.fromkeys(["stem", "stage2_block1", "head"], "exact"),
        "stage2_block2": "new",
    }
    before = [np.array(weight) for weight in child.trainable_weights]
    child.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3))
    child.fit(x, np.arange(4), epochs=2, verbose=0)
    for weight, old in zip(child.trainable_weights, before, strict=True):
        assert np.abs(np.asarray(weight) - old).max() > 0, weight.path


def test_layers_of_keras_stay_where_they_are() -> None:
    """Those that scale images before the network, and a softmax behind it."""

    def net(filters: int, activation: str | None) -> Any:
        start = keras.Input((8, 8, 3))
        rows = [("stem", kb.ConvBlock.Spec(filters, 3))]
        return kb.Architecture(rows, head=kb.Classifier(5)).model(
            (8, 8, 3),
            input_tensor=keras.layers.Rescaling(0.5, name="scaled")(start),
            classifier_activation=activation,
        )

    parent = varied(net(4, "softmax"))
    assert_exact(net(6, "softmax"), parent, 8)
    assert not kb.inherit(net(6, None), parent)["exact"]


def test_counts_what_was_copied() -> None:
    parent = varied(conv_net())
    known = kb.inherit(conv_net(), parent)
    assert known["arrays"] == [len(parent.weights)] * 2
    assert known["numbers"] == [parent.count_params()] * 2
    own = conv_net(filters=9)
    known = kb.inherit(own, parent)
    assert known["arrays"] == [len(own.weights)] * 2
    assert known["numbers"] == [parent.count_params(), own.count_params()]


def test_a_narrower_network_keeps_the_filters_with_the_largest_kernels() -> None:
    parent, child = varied(conv_net(6, 3, 2)), conv_net(4, 3, 1)
    known = kb.inherit(child, parent)
    assert not known["exact"]
    assert set(known["blocks"].values()) == {"exact", "approximate"}
    assert np.isfinite(outputs(child, 8)[0]).all()
    kernel, *norm = parent.get_layer("stem").get_weights()
    kept = np.sort(np.argsort(np.square(kernel).sum((0, 1, 2)))[2:])
    mine = child.get_layer("stem").get_weights()
    np.testing.assert_allclose(mine[0], kernel[..., kept], rtol=1e-6)
    for own, other in zip(mine[1:], norm, strict=True):
        np.testing.assert_array_equal(own, other[kept])


@pytest.mark.slow
def test_any_other_network_of_the_family_gets_finite_weights() -> None:
    """Whatever is changed, and in both directions; an exact one computes the same."""
    for build, size, arguments, changes in GROWING.values():
        nets = [build(5, **{**arguments, **change}) for change in ({}, *changes)]
        for one in nets[1:]:
            parent = varied(one.model((size, size, 3)))
            child = nets[0].model((size, size, 3))
            assert not kb.inherit(child, parent)["exact"]
            assert np.isfinite(outputs(child, size)[0]).all()


def test_a_head_of_other_classes_stays_new() -> None:
    parent, child = varied(conv_net()), conv_net(classes=3)
    fresh = child.get_layer("head").get_weights()
    known = kb.inherit(child, parent)
    assert not known["exact"]
    assert known["blocks"] == {"stem": "exact", "stage2_block1": "exact", "head": "new"}
    for old, new in zip(fresh, child.get_layer("head").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_refuses_what_cannot_inherit() -> None:
    parent = conv_net()
    other = kb.Architecture([("stem", kb.ConvBlock.Spec(4))]).model((9, 9, 3))
    with pytest.raises(ValueError, match=r"`parent` must be a model from Architecture\.model"):
        kb.inherit(parent, keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]))
    with pytest.raises(ValueError, match=r"`child` must have the input of `parent`"):
        kb.inherit(other, parent)
    strange = kb.Architecture([("other", kb.ConvBlock.Spec(4))]).model((8, 8, 3))
    with pytest.raises(ValueError, match=r"blocks of the same names"):
        kb.inherit(strange, parent)
