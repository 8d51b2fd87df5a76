"""Published networks against published numbers, and architectures of one's own."""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden
import keras
import numpy as np
import pytest
from conformance import CASES, ORDERS, Case
from counting import as_count, counted
from user_blocks import Fire, Join, Squeeze, WideFire, twice

import kblocks as kb

Images = Callable[..., np.ndarray]

# Counted from torchvision 0.28 and timm 1.0.31; the CIFAR ones re-implemented from the papers.
REFERENCE = json.loads((Path(__file__).parent / "data" / "architectures.json").read_text())
# He et al. 2016, as timm (ImageNet), the authors' resnet-1k-layers and Zagoruyko & Komodakis
# (CIFAR) have it: no variants here yet, but what the general function gives for the rule.
_CIFAR_STEM = {"filters": 16, "kernel_size": 3, "strides": 1, "pool": None}
PREACTIVATED: dict[str, dict[str, Any]] = {
    "preresnet50": {"block": "bottleneck", "blocks": (3, 4, 6, 3)},
    "preresnet152": {"block": "bottleneck", "blocks": (3, 8, 36, 3)},
    "preresnet110": {"blocks": (18,) * 3, "filters": (16, 32, 64), "stem": _CIFAR_STEM},
    "wrn28_10": {"blocks": (4,) * 3, "filters": (160, 320, 640), "stem": _CIFAR_STEM},
    "preresnet1001": {
        "block": "bottleneck",
        "blocks": (111,) * 3,
        "filters": (16, 32, 64),
        "strides_on": "first",
        "stem": _CIFAR_STEM,
    },
}


def network(name: str) -> kb.Architecture:
    if name in PREACTIVATED:
        classes = REFERENCE[name]["classes"]
        return kb.resnet(classes, order="full_preactivation", **PREACTIVATED[name])
    return kb.architecture(name)


def reference_stages(name: str) -> dict[str, tuple[int, ...]]:
    """Our stages' names with the shapes that the reference has for its own."""
    shapes = {stage: tuple(shape) for stage, shape in REFERENCE[name]["stages"]}
    if name.startswith("vgg"):
        pooled = [shape for shape in shapes.values() if len(shape) == 3 and shape[0] < 224]
        by_size = {shape[0]: shape for shape in pooled if True}
        first = {}
        for shape in pooled:
            first.setdefault(shape[0], shape)
        assert list(by_size) == [112, 56, 28, 14, 7]
        found = {f"stage{i}": shape for i, shape in enumerate(first.values(), 1)}
        return {**found, "head": shapes["classifier"]}
    ours = {"maxpool": "stem", "fc": "head", "head": "head", "bn1": "stem", "stem": "stem"}
    found = {}
    for stage, shape in shapes.items():
        if stage.startswith("layer"):
            found[stage.replace("layer", "stage")] = shape
        elif stage.startswith("stages."):
            found[f"stage{int(stage[-1]) + 1}"] = shape
        elif stage in ours:
            found[ours[stage]] = shape
    return found


# --- published networks ------------------------------------------------------------------

NAMES = [
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"resnet{depth}" for depth in (20, 32, 44, 56, 110)),
    *(f"vgg{depth}{norm}" for norm in ("", "_bn") for depth in (11, 13, 16, 19)),
]

# Parameters and, in units of 1e9, MACs as torchvision's documentation has them for those that
# the reference leaves out.
PUBLISHED = {
    "resnet34": (21_797_672, 3.664),
    "resnet101": (44_549_160, 7.801),
    "vgg13": (133_047_848, 11.308),
    "vgg19_bn": (143_678_248, 19.632),
}


def test_names() -> None:
    assert set(kb.architectures()) >= set(NAMES)
    assert len(kb.architectures()) == len(set(kb.architectures()))
    unchecked = set(NAMES) - set(REFERENCE) - set(PUBLISHED)
    assert unchecked == {"resnet110"}  # Table 6 of the paper, below


@pytest.mark.parametrize("name", REFERENCE)
def test_counts_and_shapes_of_the_reference(name: str) -> None:
    facts = REFERENCE[name]
    net, shape = network(name), tuple(facts["input"])
    cost = net.cost(shape)
    assert cost.trainable_params == facts["trainable"]
    assert cost.params == facts["trainable"] + facts["non_trainable"]
    assert cost.macs == facts["macs"]
    assert cost.output_shape == (facts["classes"],)
    stages = {stage: c.output_shape for stage, c in net.stages(shape)}
    expected = reference_stages(name)
    assert len(expected) >= 4
    assert {stage: stages[stage] for stage in expected} == expected


@pytest.mark.parametrize(("name", "numbers"), PUBLISHED.items())
def test_counts_of_torchvisions_documentation(name: str, numbers: tuple[int, float]) -> None:
    cost = kb.architecture(name).cost((224, 224, 3))
    assert cost.trainable_params == numbers[0]
    assert round(cost.macs / 1e9, 3) == numbers[1]


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_cifar_networks_of_table_6(depth: int, millions: float) -> None:
    """He et al. 2015: 6n + 2 layers with weights, and the number of parameters."""
    net = kb.architecture(f"resnet{depth}")
    digits = 1 if depth == 110 else 2
    assert round(net.cost((32, 32, 3)).trainable_params / 1e6, digits) == millions
    model = net.model((32, 32, 3))
    layers = [part for block in model.layers for part in getattr(block, "layers", ())]
    weighted = [p for p in layers if isinstance(p, (keras.layers.Conv2D, keras.layers.Dense))]
    assert len(weighted) == depth


@pytest.mark.thin(6)
@pytest.mark.parametrize("name", NAMES)
def test_built_model_is_what_was_counted(name: str, images: Images) -> None:
    small = {"head": {"pool": "avg", "hidden": ()}} if name.startswith("vgg") else {}
    net = kb.architecture(name, classes=7, **small)
    assert as_count(net.cost((32, 32, 3))) == counted(net.model((32, 32, 3)), images(1, 32, 32, 3))


@pytest.mark.slow
def test_the_largest_head_is_what_was_counted() -> None:
    model = kb.vgg11().model((224, 224, 3))
    assert model.count_params() == REFERENCE["vgg11"]["trainable"]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11_bn"])
def test_batch_norms_are_as_published(name: str) -> None:
    facts = REFERENCE[name]["bn"]
    small = {"head": {"pool": "avg", "hidden": ()}} if name.startswith("vgg") else {}
    model = kb.architecture(name, **small).model((32, 32, 3))
    parts = [part for block in model.layers for part in getattr(block, "layers", ())]
    norms = [part for part in parts if isinstance(part, keras.layers.BatchNormalization)]
    assert len(norms) > 7
    assert {part.epsilon for part in norms} == set(facts["eps"])
    assert {part.momentum for part in norms} == set(facts["keras_momentum"])
    assert {(part.scale, part.center) for part in norms} == {(facts["scale"], facts["center"])}


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "vgg11_bn",
        pytest.param("vgg16", marks=pytest.mark.slow),
    ],
)
def test_golden_logits(name: str) -> None:
    """Same weights, same images, same logits: float32 rounding gives at most 7e-6 here."""
    size = int(np.load(golden.GOLDEN / f"{name}.npz")["size"])
    model = kb.architecture(name).model((size, size, 3))
    expected = golden.load(model, name)["logits"]
    logits = np.asarray(model(golden.images(size), training=False))
    assert np.abs(logits - expected).max() / expected.std() < 1e-4


def test_golden_logits_see_a_wrong_padding() -> None:
    """The test above can fail: Keras' "same" at stride 2 shifts the grid by a pixel."""
    model = kb.resnet18(padding="same", stem={"padding": "same"}).model((64, 64, 3))
    expected = golden.load(model, "resnet18")["logits"]
    logits = np.asarray(model(golden.images(64), training=False))
    assert np.abs(logits - expected).max() / expected.std() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_golden_logits_channels_first(name: str) -> None:
    keras.config.set_image_data_format("channels_first")
    model = kb.architecture(name).model((64, 64, 3))
    assert model.input_shape == (None, 3, 64, 64)
    expected = golden.load(model, name)["logits"]
    logits = np.asarray(model(golden.images(64).transpose(0, 3, 1, 2), training=False))
    assert np.abs(logits - expected).max() / expected.std() < 1e-4


def test_architecture_by_name() -> None:
    assert kb.architecture("resnet50", classes=10) == kb.resnet50(classes=10)
    assert kb.architecture("resnet50", classes=10) != kb.resnet50()
    assert kb.resnet20(7) == kb.resnet20(classes=7)
    assert kb.resnet50(7).cost((64, 64, 3)).output_shape == (7,)
    assert kb.vgg16(7).cost((64, 64, 3)).output_shape == (7,)
    assert kb.architecture("vgg16").name == "vgg16"
    assert kb.resnet50.__name__ == "resnet50"


# --- per-stage arguments -----------------------------------------------------------------


def specs(net: kb.Architecture, start: str = "stage") -> dict[str, Any]:
    return {row.name: row.spec for row in net.rows if row.name.startswith(start)}


def test_resnet_takes_one_value_a_stage() -> None:
    net = kb.resnet(
        5,
        blocks=[1, 2, 1],
        filters=[8, 16, 24],
        kernel_size=[3, (1, 7), 5],
        strides=[(2, 1), 1, 3],
        padding=["same", "valid", 1],
        activation=["relu", "gelu", None],
        normalization=["batch", "layer", None],
        shortcut=["zero_pad", "projection", "projection"],
        order=[ORDERS[0], ORDERS[1], ORDERS[2]],
        groups=[1, 2, 4],
        stem={"filters": 8},
    )
    found = specs(net)
    assert list(found) == ["stage1_block1", "stage2_block1", "stage2_block2", "stage3_block1"]
    first, second, third, fourth = found.values()
    assert [s.filters for s in found.values()] == [8, 16, 16, 24]
    assert [s.kernel_size for s in found.values()] == [(3, 3), (1, 7), (1, 7), (5, 5)]
    assert [s.strides for s in found.values()] == [(2, 1), (1, 1), (1, 1), (3, 3)]
    assert [s.padding for s in found.values()] == ["same", "valid", "valid", (1, 1)]
    assert [s.activation for s in found.values()] == ["relu", "gelu", "gelu", None]
    assert (first.normalization.kind, second.normalization.kind) == ("batch", "layer")
    assert fourth.normalization is None
    assert [s.shortcut for s in found.values()] == ["zero_pad"] + ["projection"] * 3
    assert third.order == ORDERS[1]
    assert [s.groups for s in found.values()] == [1, 2, 2, 4]
    x = np.zeros((1, 96, 192, 3), "float32")
    assert as_count(net.cost((96, 192, 3))) == counted(net.model((96, 192, 3)), x)


def test_resnet_takes_one_value_for_all_stages() -> None:
    net = kb.resnet(blocks=(1, 1, 2), filters=8, kernel_size=(3, 5), strides=2, padding=(0, 1))
    for name, spec in specs(net).items():
        assert spec.filters == 8
        assert spec.kernel_size == (3, 5)
        assert spec.padding == (0, 1)
        assert spec.strides == ((1, 1) if name == "stage3_block2" else (2, 2))
    pairs = specs(kb.resnet(blocks=(1, 1), filters=(8, 16), kernel_size=(3, 5)))
    assert [s.kernel_size for s in pairs.values()] == [(3, 3), (5, 5)]
    assert [s.filters for s in pairs.values()] == [8, 16]
    assert [s.strides for s in pairs.values()] == [(1, 1), (2, 2)]


def test_resnet_defaults_follow_the_number_of_stages() -> None:
    found = specs(kb.resnet(blocks=(1, 1, 1, 1, 1)))
    assert [s.filters for s in found.values()] == [64, 128, 256, 512, 1024]
    assert [s.strides[0] for s in found.values()] == [1, 2, 2, 2, 2]


def test_stochastic_depth_rises_linearly() -> None:
    """Huang et al. 2016, Eq. 4: block l of L is dropped at l / L of the last one's rate."""
    found = specs(kb.resnet(blocks=(1, 2, 1), stochastic_depth=0.4))
    assert [s.stochastic_depth for s in found.values()] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [s.strides[0] for s in found.values()] == [1, 2, 1, 2]
    assert {s.stochastic_depth for s in specs(kb.resnet18()).values()} == {0.0}


@pytest.mark.parametrize("family", [kb.resnet18, kb.resnet20])
def test_a_mapping_for_the_stem_replaces_some_of_its_arguments(family: Any) -> None:
    before = specs(family(), "stem")["stem"]
    after = specs(family(stem={"kernel_size": 5}), "stem")["stem"]
    assert after == before.replace(kernel_size=5)


def test_stem_and_head_by_spec_by_block_and_by_mapping() -> None:
    spec = kb.ConvBlock.Spec(8, 3, 2)
    assert specs(kb.resnet18(stem=spec), "stem")["stem"] == spec
    assert specs(kb.resnet18(stem=kb.ConvBlock(8, 3, 2)), "stem")["stem"] == spec
    head = kb.Classifier.Spec(5, pool="max")
    for given in (head, kb.Classifier(5, pool="max"), {"classes": 5, "pool": "max"}):
        assert specs(kb.resnet18(head=given), "head")["head"] == head
        assert specs(kb.vgg11(head=given), "head")["head"].classes == 5


def test_the_stem_follows_the_blocks() -> None:
    given = {"activation": "gelu", "normalization": "layer", "use_bias": True}
    net = kb.resnet18(**given, kernel_initializer="glorot_uniform", padding_mode="replicate")
    stem = specs(net, "stem")["stem"]
    assert stem.activation == "gelu"
    assert stem.normalization == kb.Norm("layer")
    assert stem.use_bias is True
    assert stem.kernel_initializer == "glorot_uniform"
    assert stem.padding_mode == "replicate"


@pytest.mark.parametrize("order", ORDERS)
def test_networks_of_every_order(order: str) -> None:
    """Pre-activated ones end in what their blocks leave out, in front of the head."""
    net = kb.resnet(5, blocks=(1, 1), filters=(8, 16), order=order)
    ending = [spec for name, spec in specs(net).items() if name.endswith("norm")]
    parts = ending[0].plan(16) if ending else ()
    expected = {"relu_only_preactivation": ["act"], "full_preactivation": ["norm", "act"]}
    assert [part.label for part in parts] == expected.get(order, [])
    stem = [part.label for part in specs(net, "stem")["stem"].plan(3)]
    assert stem == (["conv"] if order == ORDERS[4] else ["conv", "norm", "act"]) + ["pooling"]
    x = np.zeros((1, 32, 32, 3), "float32")
    assert as_count(net.cost((32, 32, 3))) == counted(net.model((32, 32, 3)), x)


def test_dilation_begins_behind_the_block_with_strides() -> None:
    net = kb.resnet(blocks=(1, 2), strides=(1, 2), dilation_rate=2)
    stages = [row.spec for row in net.rows if row.name.startswith("stage")]
    assert [(s.strides[0], s.dilation_rate[0]) for s in stages] == [(1, 2), (2, 1), (1, 2)]


def test_inception_modules_of_other_filters_pools_and_branches() -> None:
    """GoogLeNet's Table 1 has 3a: 64, 96-128, 16-32, pool-32; 4a: 192, 96-208, 16-48, pool-64."""
    filters = [[0.5, (0.25, 1.5), None, 2], (0.25, 0.75), 1]
    net = kb.googlenet(filters=filters, pool=["avg", None, None], kept=[None, (2, 4), None])
    found = {row.name: row.spec for row in net.rows}
    assert found["stage1_block1"].branches == ((32,), (24, 192), (16, 32), ("avg", 64))
    assert found["stage2_block1"].branches == ((24, 160), ("max", 48))  # 156 is 19.5 times 8
    assert found["stage2_block1"].kernel_size == ((3, 3), (3, 3))
    assert found["stage3_block1"] in [row.spec for row in kb.googlenet().rows]
    for kept in (5, (), (5,)):
        with pytest.raises(
            ValueError, match=r"stage 1: `kept` must be .* 1 to 4.* Received: kept="
        ):
            kb.googlenet(kept=[kept, None, None])


def test_stems_of_other_inception_networks_and_changes_to_them() -> None:
    stem = [row for row in kb.inception_v4().rows if row.name.startswith("stem")]
    assert [*kb.googlenet(stem={"form": "inception_v4"}).rows[: len(stem)]] == stem
    changed = {"form": "inception_v3", "filters": 0.5, "strides": [1, 2, 1]}
    shape = dict(kb.inception_v3(stem=changed).stages((96, 96, 3)))["stem"].output_shape
    assert shape == (41, 41, 96)  # 96 - 2 - 2, halved by 3x3 to 45, - 2 - 2; half of 192
    for wrong in ({"form": "v3"}, {"form": "googlenet", "colour": 1}):
        with pytest.raises(ValueError, match="must be one of"):
            kb.inception_v3(stem=wrong)


def test_vgg_takes_one_value_a_stage() -> None:
    net = kb.vgg(
        5,
        blocks=[1, 2],
        filters=[8, 16],
        kernel_size=[(1, 7), 5],
        strides=[2, 1],
        padding=["valid", "same"],
        activation=["relu", "tanh"],
        pool=["avg", None],
        dropout=[0.1, 0.2],
        head={"hidden": (9,), "pool": "concat"},
    )
    first, second = specs(net).values()
    assert (first.convolutions, second.convolutions) == (1, 2)
    assert (first.kernel_size, second.kernel_size) == ((1, 7), (5, 5))
    assert (first.strides, second.strides) == ((2, 2), (1, 1))
    assert (first.padding, second.padding) == ("valid", "same")
    assert (first.activation, second.activation) == ("relu", "tanh")
    assert (first.pool, second.pool) == ("avg", None)
    assert (first.dropout, second.dropout) == (0.1, 0.2)
    x = np.zeros((1, 64, 64, 3), "float32")
    assert as_count(net.cost((64, 64, 3))) == counted(net.model((64, 64, 3)), x)


@pytest.mark.parametrize("pool", ["avg", "max", "concat", "flatten"])
@pytest.mark.parametrize(
    ("family", "stem"),
    [(kb.resnet18, {}), (kb.resnet20, {"stem": kb.ConvBlock.Spec(8)}), (kb.vgg11, {})],
)
def test_every_head_pool(family: Any, stem: dict[str, Any], pool: str) -> None:
    net = family(classes=5, filters=8, head={"pool": pool, "hidden": (8,)}, **stem)
    x = np.zeros((1, 48, 40, 3), "float32")
    assert as_count(net.cost((48, 40, 3))) == counted(net.model((48, 40, 3)), x)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (28, 28)])
def test_channels_and_sizes(size: tuple[int, int], channels: int) -> None:
    net, shape = kb.resnet18(5, filters=[8, 16, 24, 32]), (*size, channels)
    x = np.zeros((1, *shape), "float32")
    assert as_count(net.cost(shape)) == counted(net.model(shape), x)


# --- rows --------------------------------------------------------------------------------


def test_unnamed_rows_are_stages() -> None:
    block = kb.ConvBlock.Spec(8)
    net = kb.Architecture([block, [block, block], ("neck", block), block], head=Squeeze.Spec())
    assert [row.name for row in net.rows] == [
        "stage1",
        "stage2_block1",
        "stage2_block2",
        "neck",
        "stage4",
        "head",
    ]
    assert [row.inputs for row in net.rows] == [
        (before,) for before in ("input", *(row.name for row in net.rows[:-1]))
    ]
    assert [name for name, _ in net.stages((9, 9, 3))] == [
        "stage1",
        "stage2",
        "neck",
        "stage4",
        "head",
    ]
    assert net.outputs == {"logits": "head"}
    assert kb.Architecture([block]).outputs == {"features": "stage1"}


def test_stages_add_up() -> None:
    net = kb.resnet50()
    stages = net.stages((224, 224, 3))
    assert [name for name, _ in stages] == ["stem", "stage1", "stage2", "stage3", "stage4", "head"]
    total = net.cost((224, 224, 3))
    for field in ("params", "trainable_params", "macs", "activations"):
        assert sum(getattr(cost, field) for _, cost in stages) == getattr(total, field)
    assert stages[-1][1].output_shape == total.output_shape


def test_blocks_may_stand_in_place_of_their_specs() -> None:
    by_block = kb.Architecture([kb.ConvBlock(8), [Fire(4)]], head=kb.Classifier(10))
    by_spec = kb.Architecture([kb.ConvBlock.Spec(8), [Fire.Spec(4)]], head=kb.Classifier.Spec(10))
    assert by_block == by_spec
    assert by_block.model((8, 8, 3)).get_layer("stage1").filters == 8


def test_one_layer_a_row() -> None:
    model = kb.resnet18(classes=5).model((32, 32, 3))
    rows = [row.name for row in kb.resnet18().rows]
    assert [layer.name for layer in model.layers] == ["input", *rows]
    assert model.name == "resnet18"
    assert model.get_layer("stage2_block1").shortcut_conv.strides == (2, 2)


def shared() -> kb.Architecture:
    """Two towers with the same weights, of which one more convolution sees the first again."""
    block = kb.ConvBlock.Spec(8, kernel_initializer="ones")
    return kb.Architecture(
        [
            ("neck", kb.ConvBlock.Spec(8)),
            ("first", block),
            ("second", "first", "neck"),
            ("third", "second", "second"),
            ("joined", Join.Spec("concat"), ("first", "third")),
        ],
        head=kb.Classifier.Spec(3),
    )


def test_a_row_that_names_another_shares_its_weights(images: Images) -> None:
    net = shared()
    model = net.model((9, 8, 3))
    x = images(1, 9, 8, 3)
    assert as_count(net.cost((9, 8, 3))) == counted(model, x)
    assert [layer.name for layer in model.layers] == ["input", "neck", "first", "joined", "head"]
    one = kb.ConvBlock.Spec(8).cost((9, 8, 8))
    costs = dict(net.stages((9, 8, 3)))
    assert costs["first"] == one
    assert costs["second"].macs == costs["third"].macs == one.macs
    assert costs["second"].params == costs["third"].params == 0


def test_weights_are_shared_only_where_they_fit() -> None:
    net = kb.Architecture([("one", kb.ConvBlock.Spec(8)), ("two", "one")])
    with pytest.raises(ValueError, match=r"two.*one"):
        net.cost((9, 9, 3))
    with pytest.raises(ValueError, match="8"):
        net.model((9, 9, 3))


def with_auxiliary() -> kb.Architecture:
    """A graph whose auxiliary head shares its weights with a part of the main path."""
    return kb.Architecture(
        [
            ("stem", kb.ConvBlock.Spec(8)),
            ("aux_conv", kb.ConvBlock.Spec(8, strides=2)),
            ("aux_head", kb.Classifier.Spec(3)),
            ("stage1", "aux_conv", "stem"),
            ("stage2", Fire.Spec(4)),
            ("head", kb.Classifier.Spec(3, pool="max")),
        ],
        outputs={"logits": "head", "aux": "aux_head"},
        auxiliary=["aux"],
    )


@pytest.mark.parametrize("aux", [False, True])
def test_auxiliary_outputs(aux: bool, images: Images) -> None:
    net = with_auxiliary()
    x = images(1, 9, 8, 3)
    model = net.model((9, 8, 3), aux=aux)
    cost = net.cost((9, 8, 3), aux=aux)
    assert as_count(cost) == counted(model, x)
    if aux:
        assert list(cost.output_shape) == ["logits", "aux"]
        assert set(model(x)) == {"logits", "aux"}
        assert [name for name, _ in net.stages((9, 8, 3), aux=True)] == [r.name for r in net.rows]
    else:
        assert model(x).shape == (1, 3)
        assert "aux_head" not in dict(net.stages((9, 8, 3)))


def test_several_outputs(images: Images) -> None:
    """A pyramid: what no output needs is neither built nor counted."""
    block = kb.ConvBlock.Spec(8, strides=2)
    rows = [(f"level{n}", block) for n in range(1, 5)]
    net = kb.Architecture(rows, outputs={"fine": "level1", "coarse": "level3"})
    model = net.model((32, 32, 3))
    assert as_count(net.cost((32, 32, 3))) == counted(model, images(1, 32, 32, 3))
    assert net.cost((32, 32, 3)).output_shape == {"fine": (16, 16, 8), "coarse": (4, 4, 8)}
    assert len(model.layers) == 4


@pytest.mark.parametrize("mode", ["add", "concat"])
@pytest.mark.parametrize("count", [2, 3])
def test_rows_of_several_inputs(mode: str, count: int, images: Images) -> None:
    rows: list[Any] = [
        (f"tower{n}", kb.ConvBlock.Spec(n + 2), "input") for n in range(1, count + 1)
    ]
    towers = tuple(f"tower{n}" for n in range(1, count + 1))
    net = kb.Architecture([*rows, ("joined", Join.Spec(mode), towers)])
    model, x = net.model((9, 8, 3)), images(1, 9, 8, 3)
    assert as_count(net.cost((9, 8, 3))) == counted(model, x)
    assert kb.Architecture.from_json(net.to_json()) == net
    join = model.get_layer("joined")
    parts = [
        np.asarray(part(model.get_layer(tower)(x)))
        for part, tower in zip(join.layers, towers, strict=True)
    ]
    expected = sum(parts) if mode == "add" else np.concatenate(parts, -1)
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="joined"):
        kb.Architecture(
            [("a", kb.ConvBlock.Spec(3, strides=2)), ("joined", Join.Spec(mode), ("a", "input"))]
        ).cost((9, 8, 3))


# --- JSON --------------------------------------------------------------------------------

NETWORKS: dict[str, Callable[[], kb.Architecture]] = {
    **{name: (lambda name=name: kb.architecture(name)) for name in NAMES},
    **{name: (lambda name=name: network(name)) for name in PREACTIVATED},
    "shared": shared,
    "auxiliary": with_auxiliary,
    "user's": lambda: kb.Architecture([Fire(4), WideFire(3, expand=5)], head=Squeeze()),
    "every argument": lambda: kb.resnet(
        5,
        blocks=(1, 2),
        filters=(8, 12),
        kernel_size=[(3, 5), 1],
        padding=[2, "valid"],
        activation=[keras.layers.LeakyReLU(0.3), twice],
        normalization=[kb.Norm("group", groups=2), kb.Norm(momentum=0.5, scale=False)],
        kernel_initializer=keras.initializers.HeNormal(seed=3),
        kernel_regularizer=keras.regularizers.L2(0.01),
        stochastic_depth=0.3,
    ),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
def test_json_round_trip(make: Callable[[], kb.Architecture]) -> None:
    net = make()
    text = net.to_json()
    again = kb.Architecture.from_json(text)
    assert json.loads(text)["format"] == 1
    assert again == net
    assert hash(again) == hash(net)
    assert again.name == net.name
    assert again.to_json() == text
    assert kb.Architecture.from_json(net.to_json(indent=2)) == net
    assert again.cost((64, 64, 3), aux=True) == net.cost((64, 64, 3), aux=True)
    assert pickle.loads(pickle.dumps(net)) == net
    assert make() == net


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_json_of_every_case(case: Case) -> None:
    net = kb.Architecture([case.spec()])
    again = kb.Architecture.from_json(net.to_json())
    assert again == net
    assert again.cost(case.shape) == net.cost(case.shape)


def test_different_architectures_differ() -> None:
    nets = [make() for make in NETWORKS.values()]
    texts = {net.to_json() for net in nets}
    assert len(set(nets)) == len(texts) == len(nets)
    block = kb.ConvBlock.Spec(8)
    assert kb.Architecture([block]) != kb.Architecture([kb.ConvBlock.Spec(8, 1)])
    assert kb.Architecture([("a", block)]) != kb.Architecture([("b", block)])
    rows = [("a", block), ("b", block)]
    assert kb.Architecture(rows) != kb.Architecture(rows, outputs={"features": "a"})
    assert kb.Architecture(rows) != kb.Architecture([rows[0], ("b", block, "input")])
    assert kb.Architecture(rows) != kb.Architecture([rows[0], ("b", "a")])


def test_json_is_as_short_as_its_architecture() -> None:
    net = kb.Architecture([kb.ConvBlock.Spec(8), kb.ConvBlock.Spec(8, 5)], head=kb.Classifier(3))
    rows = json.loads(net.to_json())["rows"]
    assert rows == [
        {"name": "stage1", "block": "ConvBlock", "arguments": {"filters": 8}},
        {
            "name": "stage2",
            "block": "ConvBlock",
            "arguments": {"filters": 8, "kernel_size": [5, 5]},
        },
        {"name": "head", "block": "Classifier", "arguments": {"classes": 3}},
    ]


REBUILD = """
import json, sys
import kblocks as kb
import user_blocks
for text in json.load(open(sys.argv[1])):
    net = kb.Architecture.from_json(text)
    print(net.model((64, 64, 3), aux=True).count_params())
print("keras_tuner" in sys.modules)
"""


@pytest.mark.system
def test_json_rebuilds_in_a_fresh_process(
    tmp_path: Path, fresh_process: Callable[..., str]
) -> None:
    """Without the tuner: an architecture found by a search needs nothing of it."""
    made = [NETWORKS[name]() for name in ("shared", "auxiliary", "user's", "every argument")]
    made.append(kb.resnet20())
    (tmp_path / "texts.json").write_text(json.dumps([net.to_json() for net in made]))
    *counts, loaded = fresh_process(REBUILD, str(tmp_path / "texts.json")).split("\n")[-7:-1]
    assert [int(count) for count in counts] == [
        net.cost((64, 64, 3), aux=True).params for net in made
    ]
    assert loaded == "False"


def _changed(change: Callable[[dict[str, Any]], Any]) -> str:
    data = json.loads(kb.Architecture([kb.ConvBlock.Spec(8)]).to_json())
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", ["JSON"]),
        ("[1, 2]", ["format", "1"]),
        ("null", ["format"]),
        ("{}", ["format", "None"]),
        (_changed(lambda d: d.update(format=2)), ["format", "1", "2"]),
        (_changed(lambda d: d.pop("rows")), ["rows"]),
        (_changed(lambda d: d["rows"][0].update(block="Conv")), ["stage1", "'Conv'", "import"]),
        (_changed(lambda d: d["rows"][0].update(block="other>Conv")), ["other>Conv", "import"]),
        (_changed(lambda d: d["rows"][0].pop("block")), ["block"]),
        (_changed(lambda d: d["rows"][0]["arguments"].update(filters=-1)), ["filters", "-1"]),
        (_changed(lambda d: d["rows"][0]["arguments"].update(filter=1)), ["'filter'", "'filters'"]),
        (_changed(lambda d: d["rows"][0].update(name="a b")), ["'a b'"]),
        (_changed(lambda d: d["rows"][0].update(inputs=["x"])), ["stage1", "'x'"]),
        (_changed(lambda d: d.update(outputs={"logits": "x"})), ["outputs", "'x'"]),
        (_changed(lambda d: d.update(outputs=3)), ["JSON"]),
        (_changed(lambda d: d["rows"].append(3)), ["JSON"]),
        ("[" * 100_000, ["JSON"]),
        ('{"format": 1, "rows": ' + "[" * 900 + "]" * 900 + "}", ["JSON"]),
        ('{"format": 1' + "0" * 5000 + "}", ["JSON"]),
        (None, ["JSON"]),
        *(
            (_changed(lambda d, new={key: value}: d.update(new)), [])
            for key in ("name", "rows", "outputs", "auxiliary", "targets")
            for value in ([1], {"a": {}}, 7, [[]], True)
        ),
        *(
            (_changed(lambda d, new={key: value}: d["rows"][0].update(new)), [])
            for key in ("name", "block", "arguments", "inputs", "weights_of")
            for value in (None, [1], 7, [[]], True)
        ),
        (_changed(lambda d: d.update(outputs=None)), ["JSON"]),
        (_changed(lambda d: d.update(name=None)), ["name"]),
        (_changed(lambda d: d["rows"][0]["arguments"].update(convolutions=10**9)), ["10,000"]),
        (_changed(lambda d: d["rows"][0]["arguments"].update(activation={"class_name": "X"})), []),
    ],
)
def test_bad_json_is_refused(text: Any, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        kb.Architecture.from_json(text)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("block", "argument"),
    [(kb.ConvBlock, "convolutions"), (kb.DenseBlock, "depth"), (kb.ResidualDense, "depth")],
)
def test_what_repeats_in_a_block_is_bounded(block: Any, argument: str) -> None:
    """By far more than any published block has; a plan of 10**9 parts would take hours."""
    assert getattr(block(4, **{argument: 10_000}), argument) == 10_000
    for number in (10_001, 10**9, 10**30):
        with pytest.raises(ValueError, match=f"`{argument}` of .* from 1 to 10,000"):
            block.Spec(4, **{argument: number})


def test_kernels_of_any_size_have_a_form_at_once() -> None:
    """Of a kernel that covers the map for every output, only the taps over the map count."""
    nets = [kb.Architecture([kb.ConvBlock.Spec(4, size)]) for size in (15, 17, 10**9 + 1)]
    assert len({net.canonical((8, 8, 3)) for net in nets}) == 1


# --- model -------------------------------------------------------------------------------


def small(**more: Any) -> kb.Architecture:
    rows = [("stem", kb.ConvBlock.Spec(6, strides=2)), [kb.ResidualBlock.Spec(8)]]
    return kb.Architecture(rows, head=kb.Classifier.Spec(5), **more)


@pytest.mark.slow
def test_two_networks_in_one_flat_model(tmp_path: Path) -> None:
    """Without a prefix Keras refuses them; with one, freezing and extracting know the stages."""
    net = kb.resnet20(3, head=kb.Localizer(3))
    one, two = net.model((16, 16, 3)), net.model((16, 16, 3))
    with pytest.raises(ValueError, match="unique"):
        keras.Model([one.input, two.input], [one.output, two.output])
    rgb = net.model((16, 16, 3), prefix="rgb_", classifier_activation="softmax")
    depth = net.features((16, 16, 1), [4], prefix="depth_")
    both = keras.Model([rgb.input, depth.input], [rgb.output, depth.output])
    assert all(layer.name.startswith(("rgb_", "depth_")) for layer in both.layers)
    kb.freeze(both, "rgb_stage2")
    still = {layer.name for layer in both.layers if layer.weights and not layer.trainable}
    frozen = [row.name for row in net.rows if row.name.startswith(("stem", "stage1", "stage2"))]
    assert still == {f"rgb_{name}" for name in frozen}
    both.save(tmp_path / "m.keras")
    assert len(keras.models.load_model(tmp_path / "m.keras").layers) == len(both.layers)
    with pytest.raises(ValueError, match=r"`prefix` must be a word.*'a/'"):
        net.model((16, 16, 3), prefix="a/")


def test_without_top(images: Images) -> None:
    net, x = small(), images(2, 9, 8, 3)
    whole = net.model((9, 8, 3))
    body = net.model((9, 8, 3), include_top=False)
    body.set_weights(whole.get_weights()[:-2])
    features = np.asarray(body(x))
    assert features.shape == (2, 5, 4, 8)
    for pooling, expected in (
        ("avg", features.mean((1, 2))),
        ("max", features.max((1, 2))),
        ("concat", np.concatenate([features.mean((1, 2)), features.max((1, 2))], -1)),
    ):
        model = net.model((9, 8, 3), include_top=False, pooling=pooling)
        model.set_weights(body.get_weights())
        np.testing.assert_allclose(model(x), expected, rtol=1e-5)
    headless = kb.Architecture(net.rows[:-1])
    assert headless.model((9, 8, 3)).count_params() == body.count_params()
    assert headless.model((9, 8, 3), include_top=False).output_shape == (None, 5, 4, 8)


@pytest.mark.parametrize("name", ["resnet50", "vgg11"])
def test_without_top_published_networks_fit_any_size(name: str) -> None:
    model = kb.architecture(name).model((None, None, 3), include_top=False, pooling="avg")
    assert model(np.zeros((1, 40, 33, 3), "float32")).shape == (
        1,
        {"resnet50": 2048}.get(name, 512),
    )
    assert model.input_shape == (None, None, None, 3)


def test_input_tensor(images: Images) -> None:
    """On a layer of preprocessing, or on another network's end."""
    x = images(2, 9, 8, 3)
    inputs = keras.Input((9, 8, 3), name="pixels")
    scaled = keras.layers.Rescaling(2.0)(inputs)
    model = small().model((9, 8, 3), input_tensor=scaled)
    plain = small().model((9, 8, 3))
    plain.set_weights(model.get_weights())
    np.testing.assert_allclose(model(x), plain(2 * x), rtol=1e-5, atol=1e-6)
    assert model.inputs[0] is inputs
    direct = small().model((9, 8, 3), input_tensor=inputs)
    direct.set_weights(model.get_weights())
    np.testing.assert_allclose(direct(x), plain(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", keras.activations.softmax])
def test_classifier_activation(activation: Any, images: Images) -> None:
    net, x = small(), images(2, 9, 8, 3)
    model = net.model((9, 8, 3), classifier_activation=activation)
    logits = net.model((9, 8, 3))
    logits.set_weights(model.get_weights())
    expected = keras.activations.get(activation)(keras.ops.convert_to_tensor(logits(x)))
    np.testing.assert_allclose(model(x), expected, rtol=1e-5)
    both = with_auxiliary().model((9, 8, 3), aux=True, classifier_activation="softmax")(x)
    np.testing.assert_allclose([np.sum(y, -1) for y in both.values()], np.ones((2, 2)), rtol=1e-5)


def test_weights_file(tmp_path: Path, images: Images) -> None:
    net, x = small(), images(2, 9, 8, 3)
    model = net.model((9, 8, 3))
    model.save_weights(tmp_path / "own.weights.h5")
    again = net.model((9, 8, 3), weights=tmp_path / "own.weights.h5", name="again")
    np.testing.assert_array_equal(again(x), model(x))
    assert again.name == "again"
    by_text = net.model((9, 8, 3), weights=str(tmp_path / "own.weights.h5"))
    np.testing.assert_array_equal(by_text(x), model(x))


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_a_weights_file_without_its_head(suffix: str, tmp_path: Path) -> None:
    """For other classes: all weights but the head's are those of the file, which are fresh."""
    old = kb.Architecture(small().rows[:-1], kb.Classifier(7)).model((9, 8, 3))
    path = tmp_path / f"old{suffix}"
    (old.save if suffix == ".keras" else old.save_weights)(path)
    net = kb.Architecture(small().rows[:-1], kb.Classifier(4))
    with pytest.raises(ValueError, match="shape"):
        net.model((9, 8, 3), weights=path)
    new = net.model((9, 8, 3), weights=path, skip_head=True)
    assert new.output_shape == (None, 4)
    for before, after in zip(old.layers[1:-1], new.layers[1:-1], strict=True):
        for expected, found in zip(before.get_weights(), after.get_weights(), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.system
def test_keras_file_of_an_architecture(
    tmp_path: Path, images: Images, fresh_process: Callable[..., str]
) -> None:
    """With the user's own blocks, shared weights and two outputs, loaded where they are known."""
    script = """
import sys, numpy as np, keras, user_blocks
model = keras.models.load_model(sys.argv[1] + "/model.keras")
data = np.load(sys.argv[1] + "/data.npz")
outputs = model(data["x"])
print(all(np.allclose(outputs[k], data[k], rtol=1e-5, atol=1e-6) for k in ("logits", "aux")))
"""
    model, x = with_auxiliary().model((9, 8, 3), aux=True), images(2, 9, 8, 3)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=x, **{k: np.asarray(v) for k, v in model(x).items()})
    assert fresh_process(script, str(tmp_path)).split()[-1] == "True"


def test_unknown_size(images: Images) -> None:
    net = small()
    model = net.model((None, None, 3))
    assert model.input_shape == (None, None, None, 3)
    assert model.predict(images(2, 17, 12, 3), verbose=0).shape == (2, 5)
    assert model.predict(images(3, 8, 9, 3), verbose=0).shape == (3, 5)
    assert model.count_params() == net.cost((99, 99, 3)).params


def test_channels_first(images: Images) -> None:
    """`input_shape` stays (height, width, channels), and no part of the architecture changes."""
    net, x = small(), images(2, 9, 8, 3)
    last = net.model((9, 8, 3))
    cost, text = net.cost((9, 8, 3)), net.to_json()
    keras.config.set_image_data_format("channels_first")
    first = net.model((9, 8, 3))
    assert first.input_shape == (None, 3, 9, 8)
    first.set_weights(last.get_weights())
    np.testing.assert_allclose(first(x.transpose(0, 3, 1, 2)), last(x), rtol=1e-4, atol=1e-5)
    assert (net.cost((9, 8, 3)), net.to_json()) == (cost, text)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_network_under_a_policy_ends_in_it(policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    model = small().model((9, 8, 3))
    assert model.dtype_policy.name == policy
    assert {weight.dtype for weight in model.weights} == {"float32"}


def test_a_network_learns(images: Images) -> None:
    """The sign of a patch's mean, by a network with a bit of everything."""
    net = kb.resnet(
        2,
        blocks=(1, 1),
        filters=(8, 16),
        order="full_preactivation",
        padding=["valid", "same"],
        stochastic_depth=0.1,
        stem={"filters": 8, "kernel_size": 3, "strides": 1, "pool": "avg"},
        head={"pool": "concat", "hidden": (8,), "dropout": 0.1},
    )
    x = images(256, 12, 12, 1)
    y = (x[:, 4:8, 4:8].mean((1, 2, 3)) > 0).astype("int32")
    x += (2 * y[:, None, None, None] - 1) * 0.5
    model = net.model((12, 12, 1))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=32, epochs=5, verbose=0)
    assert model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] > 0.95


# --- a block of one's own ----------------------------------------------------------------


def test_a_users_block_is_a_layer_a_spec_and_a_row(images: Images) -> None:
    x = images(1, 9, 8, 3)
    assert as_count(Fire.Spec(4).cost((9, 8, 3))) == counted(Fire(4), x)
    assert Fire(4, 8, activation="tanh").ending.function == "tanh"
    assert Fire.Spec(4).ending.function == "relu"
    assert Fire.Spec(4).cost((9, 8, 3)).params == 3 * 4 + 4 + 4 * 16 + 16 + 9 * 4 * 16 + 16
    outputs = Fire(4)(x)
    assert outputs.shape == (1, 9, 8, 32)
    assert kb.Architecture([Fire(4)], head=Squeeze()).cost((9, 8, 3)).output_shape == (32,)


def test_a_users_block_computes_its_plan(images: Images) -> None:
    x = images(1, 9, 8, 3)
    layer = Fire(4, 5, kernel_size=(1, 5))
    outputs = layer(x)
    squeezed = keras.ops.relu(layer.conv(x))
    narrow, wide = layer.narrow_conv(squeezed), layer.wide_conv(squeezed)
    expected = keras.ops.relu(keras.ops.concatenate([narrow, wide], axis=-1))
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    assert layer.wide_conv.kernel_size == (1, 5)


def test_a_subclass_keeps_its_parents_fields() -> None:
    wide = WideFire(3, activation="tanh")
    assert (wide.squeeze, wide.expand, wide.norm_momentum) == (3, 32, 0.9)
    assert set(WideFire.Spec(3).config()) == set(Fire.Spec(3).config()) | {"norm_momentum"}
    assert Fire.Spec(3).expand == 16
    assert isinstance(WideFire.Spec(3), Fire.Spec)
    wide.build((None, 9, 9, 3))
    assert wide.norm.momentum == 0.9
    assert wide.act.activation is keras.activations.tanh
    config = wide.get_config()
    assert WideFire.from_config(config).get_config() == config


@pytest.mark.parametrize("name", kb.architectures())
def test_signatures_show_the_arguments(name: str) -> None:
    """And the defaults that they show are those of the published network."""
    build = getattr(kb, name)
    shown = inspect.signature(build).parameters.values()
    given = {one.name: one.default for one in shown if one.kind is not one.VAR_KEYWORD}
    assert {"classes", "name"} <= given.keys()
    assert build(**given) == build()


def test_a_last_module_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`last` must be a mapping.*last=True"):
        kb.googlenet(last=True)
