"""`kb.fuse`: the same outputs without batch norms, for all families and for users' models."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conformance import CASES
from keras import layers
from user_blocks import Join, WideFire, twice

import kblocks as kb
from kblocks.model_tools.fused_block import FusedBlock
from kblocks.networks.catalog import by_family
from kblocks.plans import ops

Images = Callable[..., np.ndarray]

# Rounding gives 1e-7 to 8e-6 of the standard deviation in float32, 4e-5 in TResNet-M, and at
# most 1e-14 in float64; a forgotten epsilon of 1e-3 gives 1e-3.
ROUNDING, DEEP_ROUNDING, DOUBLE_ROUNDING = 3e-5, 1e-4, 1e-11


def shaken(model: Any, seed: int = 0) -> Any:
    """The model with statistics, factors and offsets that are far from doing nothing."""
    random = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.name in ("gamma", "moving_variance", "gain"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(0.3 * random.standard_normal(variable.shape))
    return model


array = keras.ops.convert_to_numpy


def difference(model: Any, other: Any, x: Any) -> float:
    """The largest one over all outputs, in units of the output's standard deviation."""
    expected, found = model(x, training=False), other(x, training=False)
    if not isinstance(expected, dict):
        expected, found = {"": expected}, {"": found}
    assert list(expected) == list(found)
    errors = []
    for name, value in expected.items():
        both = [
            keras.ops.convert_to_numpy(keras.ops.cast(v, "float64")) for v in (value, found[name])
        ]
        assert np.isfinite(both[0]).all()
        assert both[0].std() > 0, "this proves nothing"
        errors.append(np.abs(both[0] - both[1]).max() / both[0].std())
    return max(errors)


def norms(model: Any) -> list[Any]:
    """All batch normalisations in a model, however deep."""
    return [
        layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)
    ]


# --- an independent count --------------------------------------------------------------------


def chains(op: Any) -> list[list[Any]]:
    """All straight lines of a plan, the branches of a merge each their own."""
    lines: list[list[Any]] = [[]]
    for step in op if isinstance(op, ops.Chain) else [op]:
        lines[0].append(step)
        if isinstance(step, ops.Merge):
            lines += [line for _, branch in step.branches for line in chains(branch)]
    return lines


def is_norm(op: Any) -> bool:
    return isinstance(op, ops.Norm) and op.kind == "batch"


def counted(net: kb.Architecture, shape: Any, aux: bool) -> tuple[int, int]:
    """How many batch normalisations follow a convolution directly, and the parameters without."""
    left_out = set() if aux else {net.outputs[name] for name in net.auxiliary}
    rows = [row for row in net.rows if row.name not in left_out]
    shapes: dict[str, Any] = {"input": shape}
    plans: dict[str, list[Any]] = {}
    for row in rows:
        spec = row.spec
        shapes[row.name] = spec.cost(shapes[row.inputs[0]]).output_shape
        plans[row.name] = chains(spec.plan(shapes[row.inputs[0]][-1]))
    readers = [name for row in rows for name in row.inputs] + list(net.outputs.values())
    lines = []
    for row in rows:
        first, *others = plans[row.name]
        lines += others
        if row.inputs[0] in plans and readers.count(row.inputs[0]) == 1:
            first = [*plans[row.inputs[0]][0][-1:], *first]  # what ends the row before
        lines.append(first)
    gone, params = 0, net.cost(shape, aux=aux).params
    for line in lines:
        kept = [op for op in line if not isinstance(op, (ops.Dropout, ops.DropPath))]
        for before, op in itertools.pairwise(kept):
            if isinstance(before, ops.Conv) and is_norm(op):
                gone += 1
                params -= before.filters * (2 + op.scale + op.center - (not before.use_bias))
    return gone, params


STEM = {"filters": 4}
FAMILIES: dict[str, tuple[Callable[..., kb.Architecture], dict[str, Any], int]] = {
    "alexnet": (
        kb.alexnet,
        {"filters": [4, 6, 4, 4], "normalization": "batch", "stem": STEM, "head": {"hidden": (8,)}},
        64,
    ),
    "vgg_bn": (
        kb.vgg,
        {"filters": [4, 6, 8], "blocks": (1, 2, 1), "normalization": "batch", "use_bias": True},
        32,
    ),
    "resnet": (kb.resnet, {"filters": [4, 6], "blocks": (2, 1), "stem": STEM}, 32),
    "preresnet": (kb.preresnet, {"filters": [4, 6], "blocks": (2, 1), "stem": STEM}, 32),
    "resnext": (
        kb.resnext,
        {"filters": [8, 16], "blocks": (2, 1), "cardinality": 2, "stem": STEM},
        32,
    ),
    "densenet": (kb.densenet, {"blocks": (2, 3), "growth_rate": 4}, 32),
    "googlenet": (kb.googlenet, {"width": 0.05, "blocks": (1, 5, 1)}, 64),
    "inception_v3": (kb.inception_v3, {"width": 0.05}, 299),
    "inception_v4": (kb.inception_v4, {"width": 0.05, "blocks": (2, 2, 2)}, 96),
    "inception_resnet": (kb.inception_resnet, {"width": 0.05, "blocks": (2, 2, 2)}, 96),
    "efficientnet": (kb.efficientnet, {"width": 0.25, "depth": 0.5}, 64),
    "xception": (
        kb.xception,
        {"filters": [4, 6], "blocks": (2, 1), "top": {"filters": 9, "width": 8}},
        32,
    ),
    "tresnet": (kb.tresnet, {"filters": [8, 8, 12, 12], "blocks": (1, 1, 1, 1)}, 64),
}


def test_every_family_is_in_the_table() -> None:
    assert {build.__name__ for build, *_ in FAMILIES.values()} >= set(by_family())


@pytest.mark.thin(4)
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, images: Images, tmp_path: Path) -> None:
    """In float64, where rounding hides nothing."""
    keras.config.set_dtype_policy("float64")
    build, arguments, size = FAMILIES[family]
    net = build(classes=5, **arguments)
    aux = bool(net.auxiliary)
    shape = (size, size, 3)
    model = shaken(net.model(shape, aux=aux))
    fused = kb.fuse(model)
    x = images(3, *shape).astype("float64")
    # Keras' Rescaling rounds its factor to float32 whatever the dtype.
    exact = 1e-7 if family == "inception_resnet" else DOUBLE_ROUNDING
    assert difference(model, fused, x) < exact
    gone, params = counted(net, shape, aux)
    assert gone > 0
    assert len(norms(fused)) == len(norms(model)) - gone
    assert fused.count_params() == params
    assert fused.output_names == model.output_names
    assert [i.name for i in fused.inputs] == [i.name for i in model.inputs]
    if family not in ("densenet", "preresnet"):  # there activations stand behind norms
        assert not norms(fused)
    fused.save(tmp_path / "fused.keras")
    loaded = keras.models.load_model(tmp_path / "fused.keras")
    assert difference(fused, loaded, x) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet50", 96),
        ("preresnet164", 32),
        ("densenet121", 96),
        ("inception_v3", 299),
        ("inception_resnet_v2", 160),
        ("efficientnet_b0", 96),
        ("tresnet_m", 96),
        ("vgg16_bn", 64),
        ("resnext50_32x4d", 96),
    ],
)
def test_published_sizes(name: str, size: int, images: Images) -> None:
    net, shape = kb.architecture(name), (size, size, 3)
    model = shaken(net.model(shape))
    fused = kb.fuse(model)
    assert difference(model, fused, images(2, *shape)) < DEEP_ROUNDING
    gone, params = counted(net, shape, aux=False)
    assert len(norms(model)) - len(norms(fused)) == gone > 10
    assert fused.count_params() == params


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ResNet50", "MobileNetV2", "Xception", "EfficientNetB0", "InceptionV3", "VGG16"]
)
def test_models_of_keras(name: str, images: Images) -> None:
    """In all of these each batch normalisation follows a convolution."""
    model = shaken(getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3)))
    fused = kb.fuse(model)
    assert difference(model, fused, images(2, 96, 96, 3)) < DEEP_ROUNDING
    assert not norms(fused)


@pytest.mark.thin(6)
@pytest.mark.parametrize("key", [key for key, case in CASES.items() if not case.more])
def test_blocks(key: str, images: Images) -> None:
    """Every block of the conformance table, with weight normalisation, groups and gates."""
    case = CASES[key]
    block = case.layer(name="block")
    inputs = keras.Input(case.shape)
    model = shaken(keras.Model(inputs, block(inputs)))
    fused = kb.fuse(model)
    x = images(2, *case.shape)
    expected, found = model(x, training=False), fused(x, training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert fused.layers[-1].name == "block"
    kept = [type(part) for part in getattr(fused.layers[-1], "layers", [])]
    assert layers.Dropout not in kept
    assert not any(weight.name == "gain" for weight in fused.weights)


# --- models that a user composed ---------------------------------------------------------------


def normed(x: Any, name: str | None = None, **more: Any) -> Any:
    return layers.BatchNormalization(name=name, **more)(x)


PLAIN: dict[str, tuple[tuple[int, ...], list[Any], int]] = {
    "conv 1d": ((9, 4), [layers.Conv1D(6, 3, padding="causal"), None], 0),
    "conv": ((9, 8, 4), [layers.Conv2D(6, 3, strides=2, padding="same"), None], 0),
    "conv without bias": ((9, 8, 4), [layers.Conv2D(6, 3, use_bias=False), None], 0),
    "conv, then its activation": ((9, 8, 4), [layers.Conv2D(6, 3, activation="relu"), None], 1),
    "groups": ((9, 8, 4), [layers.Conv2D(6, 3, groups=2), None], 0),
    "fast groups": ((9, 8, 4), [kb.GroupedConv2D(6, 3, groups=2), None], 0),
    "conv 3d": ((5, 4, 3, 2), [layers.Conv3D(3, 2), None], 0),
    "depthwise": ((9, 8, 4), [layers.DepthwiseConv2D(3, depth_multiplier=2), None], 0),
    "depthwise 1d": ((9, 4), [layers.DepthwiseConv1D(3, depth_multiplier=2), None], 0),
    "separable": ((9, 8, 4), [layers.SeparableConv2D(6, 3, depth_multiplier=2), None], 0),
    "transposed": ((9, 8, 4), [layers.Conv2DTranspose(6, 3, strides=2), None], 0),
    "dense": ((9,), [layers.Dense(6), None], 0),
    "dense on maps": ((9, 8, 4), [layers.Dense(6, use_bias=False), None], 0),
    "dropout between": ((9, 8, 4), [layers.Conv2D(6, 3), layers.SpatialDropout2D(0.5), None], 0),
    "before a valid one": ((9, 8, 4), [None, layers.Conv2D(6, 3, activation="relu")], 0),
    "before groups": ((9, 8, 4), [None, layers.Conv2D(6, 3, groups=2)], 0),
    "before depthwise": ((9, 8, 4), [None, layers.DepthwiseConv2D(3, depth_multiplier=2)], 0),
    "before a padded one": ((9, 8, 4), [None, layers.Conv2D(6, 3, padding="same")], 1),
    "before a separable one": ((9, 8, 4), [None, layers.SeparableConv2D(6, 3)], 1),
    "before a transposed one": ((9, 8, 4), [None, layers.Conv2DTranspose(6, 3)], 1),
    "before dense": ((9,), [None, layers.Dropout(0.5), layers.Dense(6, activation="tanh")], 0),
    "behind an activation": ((9, 8, 4), [layers.Conv2D(6, 3), layers.ReLU(), None], 1),
}


@pytest.mark.parametrize("case", PLAIN)
def test_layers_of_keras(case: str, images: Images) -> None:
    """None stands for a batch normalisation; as a functional and as a sequential model."""
    shape, made, left = PLAIN[case]
    made = [layers.BatchNormalization() if layer is None else layer for layer in made]
    model = shaken(keras.Sequential([keras.Input(shape), *made, layers.Activation("tanh")]))
    fused = kb.fuse(model)
    x = images(4, *shape)
    assert difference(model, fused, x) < ROUNDING
    assert len(norms(fused)) == left
    own = {id(weight) for weight in model.weights}
    assert not own & {id(weight) for weight in fused.weights}


@pytest.mark.parametrize(
    "norm",
    [
        {"scale": False},
        {"center": False},
        {"scale": False, "center": False},
        {"epsilon": 0.3},
    ],
)
def test_forms_of_the_norm(norm: dict[str, Any], images: Images) -> None:
    inputs = keras.Input((9, 8, 4))
    model = shaken(keras.Model(inputs, normed(layers.Conv2D(6, 3)(inputs), **norm)))
    fused = kb.fuse(model)
    assert difference(model, fused, images(2, 9, 8, 4)) < ROUNDING
    assert not norms(fused)


def test_across_blocks_and_layers(images: Images) -> None:
    """A block's last convolution takes up the norm of the next layer, a norm goes into a block."""
    inputs = keras.Input((9, 8, 4))
    x = kb.ConvBlock(6, normalization=None, activation=None, name="bare")(inputs)
    x = normed(x, "norm")
    x = layers.ReLU(name="relu")(x)
    x = kb.NormAct(activation=None, name="normed")(x)
    x = layers.Dropout(0.5)(x)
    x = kb.ConvBlock(4, 3, padding="valid", normalization=None, name="last")(x)
    model = shaken(keras.Model(inputs, x))
    fused = kb.fuse(model)
    assert difference(model, fused, images(2, 9, 8, 4)) < ROUNDING
    assert not norms(fused)
    assert [layer.name for layer in fused.layers[1:]] == ["bare", "relu", "last"]


def test_what_another_layer_reads_stays(images: Images) -> None:
    """The convolution's own output is read beside the norm: by a layer, or as an output."""
    inputs = keras.Input((9, 8, 4))
    x = layers.Conv2D(6, 3)(inputs)
    read = shaken(keras.Model(inputs, layers.Add()([x, normed(x)])))
    shown = shaken(keras.Model(inputs, {"map": x, "normed": normed(x)}))
    for model in (read, shown):
        fused = kb.fuse(model)
        assert difference(model, fused, images(2, 9, 8, 4)) < ROUNDING
        assert len(norms(fused)) == 1


def test_shared_layers_stay_shared(images: Images) -> None:
    """A layer at two places folds what is inside of it, and nothing of what stands beside it."""
    inputs = keras.Input((9, 8, 6))
    block, plain = kb.ConvBlock(6), layers.Conv2D(6, 1)
    x = plain(block(block(inputs)))
    model = shaken(keras.Model(inputs, normed(plain(normed(x)))))
    fused = kb.fuse(model)
    assert difference(model, fused, images(2, 9, 8, 6)) < ROUNDING
    assert len(norms(model)) - len(norms(fused)) == 1
    assert len(fused.layers) == len(model.layers)
    rows = [("a", kb.ConvBlock.Spec(6)), ("b", "a"), ("c", kb.ConvBlock.Spec(4))]
    model = shaken(kb.Architecture(rows, head=kb.Classifier(3)).model((9, 8, 6)))
    fused = kb.fuse(model)
    assert difference(model, fused, images(2, 9, 8, 6)) < ROUNDING
    assert [layer.name for layer in fused.layers] == [layer.name for layer in model.layers]
    assert not norms(fused)


def test_a_norm_over_another_axis_stays(images: Images) -> None:
    inputs = keras.Input((8, 8, 8))
    model = shaken(keras.Model(inputs, normed(layers.Conv2D(8, 1)(inputs), axis=1)))
    fused = kb.fuse(model)
    assert difference(model, fused, images(2, 8, 8, 8)) < ROUNDING
    assert len(norms(fused)) == 1


def test_a_layer_told_to_train_stays(images: Images) -> None:
    """Statistics of the batch, and dropout at inference, are what such a graph asks for."""
    inputs = keras.Input((9, 8, 4))
    x = layers.BatchNormalization()(layers.Conv2D(6, 3)(inputs), training=True)
    x = layers.Dropout(0.5)(x, training=True)
    x = layers.BatchNormalization()(layers.Conv2D(6, 3)(x), training=False)
    model = shaken(keras.Model(inputs, x))
    fused = kb.fuse(model)
    assert len(norms(fused)) == 1
    batch = images(2, 9, 8, 4)
    assert not np.array_equal(array(fused(batch)), array(fused(batch)))  # it still drops


def test_models_in_models(images: Images) -> None:
    inner = keras.Sequential(
        [keras.Input((9, 8, 4)), layers.Conv2D(4, 3, padding="same")], name="inner"
    )
    inner.add(layers.BatchNormalization())
    net = kb.Architecture([kb.ConvBlock.Spec(4)], name="ours")
    inputs = keras.Input((9, 8, 4))
    x = net.model((9, 8, 4))(inner(inner(inputs)), training=False)
    model = shaken(keras.Model(inputs, x, name="outer"))
    fused = kb.fuse(model)
    assert difference(model, fused, images(2, 9, 8, 4)) < ROUNDING
    assert not norms(fused)
    assert fused.name == "outer"
    assert [layer.name for layer in fused.layers[1:]] == ["inner", "ours"]


@keras.saving.register_keras_serializable("test_fusion")
class Doubled(layers.Layer):
    """A layer that kblocks does not know."""

    def build(self, input_shape: Any) -> None:
        self.factor = self.add_weight(shape=(), initializer="ones")

    def call(self, inputs: Any) -> Any:
        return 2 * self.factor * inputs


def test_unknown_layers_are_shared(images: Images, tmp_path: Path) -> None:
    inputs = keras.Input((9, 8, 4))
    x = Doubled(name="mine")(layers.Conv2D(6, 3)(inputs))
    x = keras.ops.sin(normed(x))
    model = shaken(keras.Model(inputs, x))
    fused = kb.fuse(model)
    assert fused.get_layer("mine") is model.get_layer("mine")
    assert len(norms(fused)) == 1
    x = images(2, 9, 8, 4)
    assert difference(model, fused, x) < ROUNDING
    for name, kept in (("before", model), ("fused", fused)):
        kept.save(tmp_path / f"{name}.keras")
        assert difference(kept, keras.models.load_model(tmp_path / f"{name}.keras"), x) == 0


def test_blocks_of_a_user(images: Images, tmp_path: Path) -> None:
    """Several inputs, a block with its own plan, an activation of one's own."""
    inputs = keras.Input((9, 8, 4))
    sides = [kb.ConvBlock(4, activation=twice)(inputs), layers.Conv2D(4, 1)(inputs)]
    x = Join()([sides[0], normed(sides[1])])
    model = shaken(keras.Model(inputs, normed(WideFire(3, 5)(x))))
    fused = kb.fuse(model)
    x = images(2, 9, 8, 4)
    assert difference(model, fused, x) < ROUNDING
    assert len(norms(fused)) == 1  # behind WideFire's last activation
    fused.save(tmp_path / "fused.keras")
    assert difference(fused, keras.models.load_model(tmp_path / "fused.keras"), x) == 0


def test_preprocessing_and_names_stay(images: Images) -> None:
    """Several inputs and outputs by name; an output that comes from a norm keeps its name."""
    first, second = keras.Input((9, 8, 4), name="first"), keras.Input((9, 8, 4), name="second")
    x = layers.Concatenate()([layers.Rescaling(0.1)(first), second])
    outputs = {"a": normed(layers.Conv2D(6, 3)(x), "end"), "b": layers.Dropout(0.5, name="drop")(x)}
    model = shaken(keras.Model({"first": first, "second": second}, outputs))
    fused = kb.fuse(model)
    batch = {"first": images(2, 9, 8, 4), "second": images(2, 9, 8, 4, seed=1)}
    assert difference(model, fused, batch) < ROUNDING
    assert fused.output_names == model.output_names == ["end", "drop"]
    assert not norms(fused)


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_data_formats(data_format: str, images: Images) -> None:
    """As many columns as channels, so that a wrong axis would broadcast."""
    keras.config.set_image_data_format(data_format)
    net = kb.resnet(
        3, filters=[8, 6], blocks=(1, 1), stem={"filters": 8, "pool": None, "strides": 1}
    )
    model = shaken(net.model((9, 8, 8)))
    fused = kb.fuse(model)
    x = images(2, 9, 8, 8) if data_format == "channels_last" else images(2, 8, 9, 8)
    assert difference(model, fused, x) < ROUNDING
    assert not norms(fused)
    assert {block.data_format for block in fused.layers[1:]} == {data_format}


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_float16", 2e-2), ("mixed_bfloat16", 0.1), ("float16", 2e-2)]
)
def test_half_precision(policy: str, tolerance: float, images: Images) -> None:
    """Outputs agree to a few roundings of the half type; mixed kernels to float32's."""
    keras.config.set_dtype_policy(policy)
    net = kb.resnet(3, filters=[4, 6], blocks=(1, 1), stem={"filters": 4})
    model = shaken(net.model((32, 32, 3)))
    fused = kb.fuse(model)
    assert difference(model, fused, images(4, 32, 32, 3)) < tolerance
    assert {layer.dtype_policy.name for layer in fused.layers[1:]} == {policy}
    assert [w.dtype for w in fused.get_layer("stem").weights] == [
        model.get_layer("stem").conv.variable_dtype
    ] * 2


# --- what comes out --------------------------------------------------------------------------


def small() -> Any:
    return shaken(
        kb.resnet(3, filters=[4, 6], blocks=(1, 1), stem={"filters": 4}).model((32, 32, 3))
    )


def test_the_model_is_left_as_it_was(images: Images) -> None:
    """Its weights, its config; and training it on does not reach the fused one."""
    model, x = small(), images(2, 32, 32, 3)
    before, config = model.get_weights(), model.to_json()
    fused = kb.fuse(model)
    assert model.to_json() == config
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    outputs = array(fused(x))
    for weight in model.weights:
        weight.assign(weight + 1)
    np.testing.assert_array_equal(array(fused(x)), outputs)


def test_fusing_twice_changes_nothing() -> None:
    once = kb.fuse(small())
    twice_fused = kb.fuse(once)
    assert twice_fused.to_json() == once.to_json()
    for one, two in zip(once.get_weights(), twice_fused.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_blocks_keep_their_names_and_their_parts() -> None:
    fused = kb.fuse(small())
    block = fused.get_layer("stage1_block1")
    assert isinstance(block, FusedBlock)
    assert [part.name for part in block.layers] == ["main_conv1", "main_act", "main_conv2", "act"]
    lines: list[str] = []
    fused.summary(print_fn=lines.append)
    assert "stage1_block1 (FusedBlock)" in "\n".join(lines)
    assert type(fused.get_layer("head")) is kb.Classifier


@pytest.mark.system
def test_the_loaded_model_needs_no_block_of_the_user(tmp_path: Path, fresh_process: Any) -> None:
    """A fused block knows its plan, so what defined the block need not be there."""
    inputs = keras.Input((9, 8, 4))
    model = shaken(keras.Model(inputs, WideFire(3, 5, name="wide")(inputs)))
    fused = kb.fuse(model)
    fused.save(tmp_path / "fused.keras")
    script = (
        "import sys, keras, numpy as np, kblocks\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "assert 'user_blocks' not in sys.modules\n"
        "print(repr(float(np.abs(np.array(model(np.ones((1, 9, 8, 4), 'float32')))).sum())))"
    )
    printed = fresh_process(script, str(tmp_path / "fused.keras"))
    expected = np.abs(array(fused(np.ones((1, 9, 8, 4), "float32")))).sum()
    assert float(printed.splitlines()[-1]) == pytest.approx(float(expected), rel=1e-6)


def test_export(images: Images, tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    fused, x = kb.fuse(small()), images(2, 32, 32, 3)
    fused.export(str(tmp_path / "saved"), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    served = loaded.serve(x)
    np.testing.assert_allclose(served, fused(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "last",
    [layers.Dropout(0.5), layers.SpatialDropout2D(0.5), layers.GaussianNoise(0.5)],
    ids=lambda layer: type(layer).__name__,
)
def test_a_model_that_ends_in_what_training_alone_needs(
    last: Any, policy: str, images: Images, tmp_path: Path
) -> None:
    """Its output keeps the name, and the fused model is written and cloned as any."""
    last = type(last).from_config({**last.get_config(), "name": "last", "dtype": policy})
    start = keras.Input((9, 8, 4))
    model = shaken(keras.Model(start, last(normed(layers.Conv2D(6, 3)(start)))))
    fused, x = kb.fuse(model), images(2, 9, 8, 4)
    assert fused.output_names == ["last"]
    expected = array(model(x, training=False))
    kb.export(fused, tmp_path / "fused.keras")
    loaded: Any = keras.models.load_model(tmp_path / "fused.keras")
    loaded.save(tmp_path / "again.keras")
    clone = keras.models.clone_model(fused)
    clone.set_weights(fused.get_weights())
    for other in (fused, loaded, keras.models.load_model(tmp_path / "again.keras"), clone):
        assert other.output.dtype == model.output.dtype
        np.testing.assert_allclose(array(other(x)), expected, atol=1e-4)


@pytest.mark.parametrize(
    "wrong", [None, "resnet50", kb.resnet20(), kb.ConvBlock(4), keras.Sequential([layers.Dense(2)])]
)
def test_what_is_no_model_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"`model` must be a functional or sequential.*Received"):
        kb.fuse(wrong)


def test_a_model_with_a_call_of_its_own_is_refused() -> None:
    class Mine(keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs

    with pytest.raises(ValueError, match="functional or sequential"):
        kb.fuse(Mine())
