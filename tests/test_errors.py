"""Bad input: each a clear error that names the argument and the place."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from conformance import exported_layers
from user_blocks import Fire

import kblocks as kb
from kblocks.plans.ops import Chain, Conv, Merge, Norm


def refused(call: Callable[[], Any], kind: type[Exception], words: list[str]) -> None:
    """The call raises an error of that kind, itself, whose text holds all the words."""
    with pytest.raises(kind) as caught:
        call()
    assert [word for word in words if word not in str(caught.value)] == []


# --- a block's arguments -----------------------------------------------------------------

# (argument, value, a part of what the message says is expected)
BAD_VALUES: list[tuple[str, Any, str]] = [
    *(("filters", value, "a positive integer") for value in (0, -8, 1.5, "8", None, True, [8])),
    *(
        ("kernel_size", value, "a positive integer or a pair")
        for value in (0, (3, 0), (3, 3, 3), "3", 3.0, None, [True, 1], {"height": 3})
    ),
    *(("strides", value, "a positive integer or a pair") for value in (0, -1, (1,), None)),
    *(
        ("padding", value, "'same', 'valid', 'symmetric'")
        for value in ("full", "SAMES", -1, (1, -1), 0.5, None, True, ((1, 1), (1, 1)))
    ),
    *(("dilation_rate", value, "a positive integer or a pair") for value in (0, (1, -2))),
    *(("groups", value, "a positive integer") for value in (0, -1, (2, 2), 2.0)),
    *(
        ("activation", value, "activation")
        for value in ("rlu", 3, [], "glu", "threshold", keras.layers.ReLU, object())
    ),
    *(
        ("activation", layer, "without weights")
        for layer in (
            keras.layers.PReLU(),
            keras.layers.Dense(8),
            keras.layers.Flatten(),
            keras.layers.MaxPooling2D(),
        )
    ),
    *(
        ("normalization", value, "'batch', 'layer', 'group', 'weight', a kblocks.Norm or None")
        for value in (
            "instance",
            True,
            3,
            Norm("instance"),
            Norm(momentum=1.5),
            Norm(epsilon=0.0),
            Norm(epsilon="small"),
            Norm(scale=2),
            Norm("batch", groups=4),
            Norm("group", groups=0),
            {"kind": "batch", "eps": 1e-5},
        )
    ),
    *(("use_bias", value, "True or False or None") for value in (1, "yes", 0.0)),
    *(("padding_mode", value, "'zeros', 'reflect', 'replicate'") for value in ("edge", None, 0)),
    *(("kernel_initializer", value, "a Keras initializer") for value in ("he", 3, None, object())),
    *(("bias_initializer", value, "a Keras initializer") for value in ("none", [])),
    *(("kernel_regularizer", value, "a Keras regularizer") for value in ("l3", 0.1, object())),
]
OF_CONV_BLOCKS = [
    ("convolutions", 0, "an integer from 1 to 10,000"),
    ("order", "act_norm_conv", "'conv_norm_act', 'norm_act_conv', 'norm_last'"),
    ("pool", "median", "'max', 'avg' or 'min' or None"),
    ("pool_size", 0, "a positive integer or a pair"),
    ("pool_strides", -1, "a positive integer or a pair of them (height, width) or None"),
    ("pool_padding", "full", "'same', 'valid', 'symmetric'"),
    *(("dropout", value, "from 0 up to but not including 1") for value in (1.0, -0.1, "0.5")),
    ("dropout", math.nan, "from 0 up to but not including 1"),
]
OF_RESIDUAL_BLOCKS = [
    ("order", "preactivation", "'full_preactivation'"),
    ("order", None, "'original'"),
    ("shortcut", "conv", "'projection', 'zero_pad', 'identity'"),
    ("stochastic_depth", 1, "from 0 up to but not including 1"),
]
OF_BOTTLENECKS = [
    ("expansion", 0, "a positive integer"),
    ("strides_on", "last", "'spatial', 'first'"),
]
OF_HEADS = [
    ("classes", 0, "a positive integer"),
    ("pool", "mean", "'avg', 'max', 'concat', 'flatten'"),
    ("pool_size", 0, "a positive integer or a pair"),
    *(("hidden", value, "a sequence of positive integers") for value in (8, (8, 0), "88")),
    ("dropout", 1.0, "from 0 up to but not including 1"),
]
BAD = [
    *((kb.ConvBlock, *bad) for bad in (*BAD_VALUES, *OF_CONV_BLOCKS)),
    *((kb.ResidualBlock, *bad) for bad in (*BAD_VALUES, *OF_RESIDUAL_BLOCKS)),
    *((kb.BottleneckBlock, *bad) for bad in (*OF_RESIDUAL_BLOCKS, *OF_BOTTLENECKS)),
    *((kb.Classifier, *bad) for bad in OF_HEADS),
    (kb.MinPooling2D, "pool_size", (2, 0), "a positive integer or a pair"),
    (kb.MinPooling2D, "padding", "full", "'same', 'valid', 'symmetric'"),
    (kb.Features, "pool", "flatten", "'avg', 'max', 'concat'"),
    (kb.NormAct, "normalization", "instance", "'batch', 'layer', 'group'"),
]
GOOD = {  # for what is not a number; as many branches as the default has kernels
    kb.InceptionBlock: {"branches": (4, (3, 6), (2, 5), ("max", 3))},
    kb.InceptionResNetBlock: {"branches": (4, (3, 6), (2, 5))},
}


def needed(block: Any) -> dict[str, Any]:
    """Values for the arguments that have no default."""
    missing = block.Spec._checks.keys() - block.Spec._defaults
    return GOOD.get(block) or dict.fromkeys(missing, 8)


@pytest.mark.parametrize(("block", "name", "value", "expected"), BAD)
def test_a_bad_value_is_refused_at_the_door(
    block: Any, name: str, value: Any, expected: str
) -> None:
    """By the layer and by its Spec, with the argument, what was expected and what came."""
    arguments = {**needed(block), name: value}
    words = [f"`{name}`", block.__name__, expected, f"Received: {name}={value!r}"]
    refused(lambda: block(**arguments), ValueError, words)
    refused(lambda: block.Spec(**arguments), ValueError, words)


JUNK = [
    *(0, 1, -1, 2**70, 1.5, math.inf, math.nan, 1j, True, None, "", "same", "relu", "batch", b"x"),
    *((), [], (1,), (2, 2), [3, 5], (1, 2, 3), ("same", "same"), (None, None), {}, {"a": 1}, {1}),
    *(object(), int, np.int64(3), np.float32(0.5), np.bool_(True), np.array([3, 3])),
    *(np.str_("same"), Norm(), {"kind": "group"}, {"class_name": "ReLU", "config": {}}),
    *(keras.layers.ReLU(), keras.initializers.Zeros(), keras.regularizers.L2(), keras.Input((3,))),
]


@pytest.mark.parametrize(
    ("block", "name"),
    [(block, name) for block in exported_layers() for name in block.Spec._checks],
)
def test_any_value_is_refused_with_its_name_or_kept_in_a_form_for_json(
    block: Any, name: str
) -> None:
    required = needed(block)
    refusals = 0
    for value in JUNK:
        try:
            spec = block.Spec(**{**required, name: value})
        except ValueError as error:
            refusals += 1
            if f"`{name}`" not in str(error):
                raise AssertionError(f"{name}={value!r}") from error
            continue
        again = block.Spec(**json.loads(json.dumps(spec.config())))
        assert again == spec, f"{name}={value!r}"
        assert hash(again) == hash(spec), f"{name}={value!r}"
        assert block.Spec(**{**required, **json.loads(json.dumps(spec.changes()))}) == spec
    assert refusals


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kb.ConvBlock(8, stride=2), ["ConvBlock", "'stride'", "Did you mean 'strides'?"]),
        (lambda: kb.ConvBlock(filter=8), ["'filter'", "Did you mean 'filters'?", "filter=8"]),
        (lambda: kb.ResidualBlock(8, dilation=2), ["'dilation'", "Did you mean 'dilation_rate'"]),
        (lambda: kb.ResidualBlock(8, expansion=2), ["ResidualBlock", "'expansion'"]),
        (lambda: kb.ConvBlock(8, zzz=1), ["'zzz'", "It has", "kernel_size", "zzz=1"]),
        (lambda: kb.ConvBlock(), ["ConvBlock", "'filters'"]),
        (lambda: kb.Classifier(pool="max"), ["Classifier", "'classes'"]),
        (
            lambda: kb.ConvBlock(8, 3, 1, "same"),
            ["ConvBlock", "filters, kernel_size, strides", "keyword", "4"],
        ),
        (lambda: kb.ConvBlock(8, filters=8), ["ConvBlock", "'filters' twice"]),
        (lambda: kb.GlobalConcatPooling2D(2), ["GlobalConcatPooling2D", "by position", "1"]),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], Any], words: list[str]) -> None:
    refused(call, TypeError, words)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kb.ConvBlock(8, groups=3), ["`groups`", "`filters`", "groups=3", "filters=8"]),
        (lambda: kb.BottleneckBlock(8, groups=3), ["`groups`", "`filters`", "groups=3"]),
        (
            lambda: kb.ConvBlock(8, 4, padding="symmetric"),
            ["`padding`='symmetric'", "odd `kernel_size`", "(4, 4)"],
        ),
        (
            lambda: kb.ResidualBlock(8, (3, 2), padding="symmetric"),
            ["`padding`='symmetric'", "odd `kernel_size`", "(3, 2)"],
        ),
        (
            lambda: kb.ConvBlock(8, pool="max", pool_padding="symmetric"),
            ["`pool_padding`", "odd `pool_size`", "(2, 2)"],
        ),
        (
            lambda: kb.ConvBlock(8, pool="avg", pool_padding=2),
            ["`pool_padding`", "less than `pool_size`", "(2, 2)"],
        ),
        (
            lambda: kb.MinPooling2D((3, 2), padding=(0, 2)),
            ["`padding`", "less than `pool_size`", "(0, 2)", "(3, 2)"],
        ),
        (lambda: kb.MinPooling2D(2, padding="symmetric"), ["`padding`", "odd `pool_size`"]),
        (
            lambda: kb.ConvBlock(8, 3, 2, dilation_rate=2),
            ["`strides`", "`dilation_rate`", "strides=(2, 2)", "dilation_rate=(2, 2)"],
        ),
        (
            lambda: kb.ResidualBlock(8, 3, (1, 2), dilation_rate=(2, 1)),
            ["`strides`", "`dilation_rate`", "(1, 2)", "(2, 1)"],
        ),
        (
            lambda: kb.Classifier(3, pool_size=2),
            ["`pool_size`", "pool='flatten'", "pool='avg'"],
        ),
        (
            lambda: kb.ConvBlock(8, data_format="NCHW"),
            ["`data_format`", "'channels_first'", "data_format='NCHW'"],
        ),
    ],
)
def test_arguments_that_do_not_go_together(call: Callable[[], Any], words: list[str]) -> None:
    refused(call, ValueError, words)


# --- a block and its input ---------------------------------------------------------------


def _all_ways(block: Any, shape: Any) -> list[Callable[[], Any]]:
    """Every way in which a block meets an input of a shape (without its batch)."""
    return [
        lambda: block().compute_output_shape((None, *shape)),
        lambda: block()(keras.Input(shape)),
        lambda: block()(np.zeros((1, *shape), "float32")),
        lambda: block().spec.cost(tuple(shape)),
    ]


UNFIT = [
    (lambda: kb.ConvBlock(8, groups=4), (9, 9, 6), ["`groups` (=4)", "channels (=6)", "ConvBlock"]),
    (lambda: kb.ResidualBlock(8, groups=4), (9, 9, 6), ["`groups` (=4)", "channels (=6)"]),
    (
        lambda: kb.NormAct(normalization=Norm("group", groups=4)),
        (9, 9, 6),
        ["`groups` (=4)", "(=6)", "NormAct"],
    ),
    (
        lambda: kb.ResidualBlock(8, shortcut="identity"),
        (9, 9, 6),
        ["shortcut='identity'", "6 channels in, 8 out", "ResidualBlock"],
    ),
    (
        lambda: kb.BottleneckBlock(2, 3, 2, shortcut="identity"),
        (9, 9, 8),
        ["shortcut='identity'", "strides=(2, 2)", "BottleneckBlock"],
    ),
    (
        lambda: kb.ResidualBlock(4, shortcut="zero_pad"),
        (9, 9, 6),
        ["4 channels", "6 channels", "ResidualBlock"],
    ),
    (lambda: kb.ConvBlock(8, 5, padding="valid"), (4, 9, 3), ["4 pixels", "kernel of 5", "1 more"]),
    (lambda: kb.ConvBlock(8, pool="max"), (1, 9, 3), ["1 pixels", "kernel of 2", "ConvBlock"]),
    (lambda: kb.ResidualBlock(8, 5, padding="valid"), (9, 6, 3), ["ResidualBlock", "6 pixels"]),
    (
        lambda: kb.ConvBlock(8, 7, padding=3, padding_mode="reflect"),
        (9, 3, 3),
        ["3 pixels", "reflect 3", "1 more"],
    ),
    (lambda: kb.ConvBlock(8), (9, 9), ["(9, 9)", "ConvBlock"]),
    (lambda: kb.ConvBlock(8), (9,), ["(9,)", "ConvBlock"]),
    (lambda: kb.Classifier(3), (9,), ["(9,)", "Classifier"]),
    (lambda: kb.ConvBlock(8), (9, 9, 9, 3), ["(9, 9, 9, 3)", "ConvBlock"]),
]


@pytest.mark.parametrize("way", range(4))
@pytest.mark.parametrize(("block", "shape", "words"), UNFIT)
def test_an_input_that_does_not_fit(block: Any, shape: Any, words: list[str], way: int) -> None:
    """The same clear error from prediction, symbolic and eager call, and cost."""
    if len(shape) != 3:
        words = words[1:]  # each way says the shape as it got it
    refused(_all_ways(block, shape)[way], ValueError, words)


def test_unknown_channels_are_refused() -> None:
    for layer in (kb.ConvBlock(8), kb.GlobalConcatPooling2D()):
        with pytest.raises(ValueError, match="known number of channels"):
            layer(keras.Input((9, 9, None)))


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (lambda: kb.Classifier(3, pool="flatten"), ["flat features", "height and width"]),
        (lambda: kb.Classifier(3, pool="flatten", pool_size=7), ["known height and width"]),
        (
            lambda: kb.ConvBlock(8, 3, 2, padding_mode="reflect"),
            ["padding_mode='reflect'", "known height and width", "'symmetric'"],
        ),
    ],
)
def test_what_needs_a_known_size_says_so(block: Any, words: list[str]) -> None:
    refused(lambda: block()(keras.Input((None, None, 3))), ValueError, words)


def test_a_built_block_keeps_its_channels() -> None:
    layer = kb.ConvBlock(8, name="mine")
    layer(keras.Input((9, 9, 3)))
    for call in (
        lambda: layer(keras.Input((9, 9, 4))),
        lambda: layer(np.zeros((1, 9, 9, 4), "float32")),
    ):
        refused(call, ValueError, ["mine", "expected axis -1", "value 3"])


def test_several_inputs_must_be_as_many_as_branches() -> None:
    class Two(kb.Block):
        def plan(self, channels: Any) -> Any:
            return Merge("add", left=Chain(), right=Chain())

    map_ = keras.Input((9, 9, 3))
    assert Two()([map_, map_]).shape == (None, 9, 9, 3)
    refused(lambda: Two()([map_] * 3), ValueError, ["2 inputs", "3 inputs", "Two"])
    other = keras.Input((9, 8, 3))
    refused(lambda: Two()([map_, other]), ValueError, ["left: (9, 9, 3)", "right: (9, 8, 3)"])


# --- networks ----------------------------------------------------------------------------


def test_an_input_too_small_for_a_network_says_where() -> None:
    net = kb.vgg11(padding="valid", head={"pool": "avg"})
    with pytest.raises(kb.InputTooSmallError, match=r"stage4: ConvBlock: .*pixels are too few"):
        net.cost((64, 64, 3))
    with pytest.raises(ValueError, match="stage4"):
        net.model((64, 64, 3))
    net = kb.resnet(blocks=(1, 2), kernel_size=7, padding="valid")
    with pytest.raises(kb.InputTooSmallError, match="stage2_block1"):
        net.cost((64, 64, 3))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda: kb.architecture("resnet51"),
            ValueError,
            ["'resnet51'", "Did you mean", "'resnet50'"],
        ),
        (lambda: kb.architecture("vgg_16"), ValueError, ["'vgg_16'", "'vgg16'"]),
        (lambda: kb.architecture("zzz"), ValueError, ["'zzz'", "architectures()"]),
        (lambda: kb.architecture(50), ValueError, ["name", "50"]),
        (
            lambda: kb.resnet(filters=[8, 16]),
            ValueError,
            ["`filters`", "4 stages", "filters=[8, 16]"],
        ),
        (
            lambda: kb.resnet(kernel_size=(3, 5, 7)),
            ValueError,
            ["`kernel_size`", "4 stages", "(3, 5, 7)"],
        ),
        (
            lambda: kb.resnet(padding=["same"] * 5),
            ValueError,
            ["`padding`", "4 stages", "['same', 'same'"],
        ),
        (
            lambda: kb.resnet18(activation=["relu"]),
            ValueError,
            ["`activation`", "4 stages", "['relu']"],
        ),
        (lambda: kb.vgg(strides=[1, 2]), ValueError, ["`strides`", "5 stages", "[1, 2]"]),
        (lambda: kb.vgg(pool=["max"] * 4), ValueError, ["`pool`", "5 stages"]),
        (lambda: kb.resnet(blocks=3), ValueError, ["`blocks`", "sequence", "blocks=3"]),
        (lambda: kb.resnet(blocks=()), ValueError, ["`blocks`", "blocks=()"]),
        (lambda: kb.resnet(blocks=(2, 0)), ValueError, ["`blocks`", "blocks[1]=0"]),
        (lambda: kb.vgg(blocks=(2, True)), ValueError, ["`blocks`", "blocks[1]=True"]),
        (lambda: kb.resnet(block="dense"), ValueError, ["`block`", "'bottleneck'", "'dense'"]),
        (
            lambda: kb.resnet(filters=[64, 128, 0, 512]),
            ValueError,
            ["resnet, stage 3", "`filters`", "filters=0"],
        ),
        (
            lambda: kb.resnet18(kernel_size=[3, 4, 3, 3]),
            ValueError,
            ["resnet18, stage 2", "`padding`='symmetric'", "odd `kernel_size`"],
        ),
        (
            lambda: kb.vgg16(kernel_size=[3, 3, "5", 3, 3]),
            ValueError,
            ["vgg16, stage 3", "`kernel_size`", "'5'"],
        ),
        (
            lambda: kb.resnet18(kernal_size=5),
            TypeError,
            ["resnet18", "'kernal_size'", "Did you mean 'kernel_size'?"],
        ),
        (
            lambda: kb.resnet18(expansion=4),
            TypeError,
            ["resnet18", "ResidualBlock", "'expansion'"],
        ),
        (lambda: kb.resnet18(stochastic_depth=1.5), ValueError, ["`stochastic_depth`", "1.5"]),
        (lambda: kb.resnet18(stochastic_depth=-0.1), ValueError, ["`stochastic_depth`", "-0.1"]),
        (
            lambda: kb.resnet18(stochastic_depth=[0.1] * 4),
            ValueError,
            ["`stochastic_depth`", "[0.1, 0.1"],
        ),
        (lambda: kb.resnet18(stem={"filter": 8}), TypeError, ["stem", "'filter'", "'filters'"]),
        (lambda: kb.resnet18(stem={"filters": 0}), ValueError, ["stem", "`filters`", "filters=0"]),
        (lambda: kb.resnet18(stem=64), ValueError, ["`stem`", "mapping", "stem=64"]),
        (lambda: kb.resnet18(head={"pool": "mean"}), ValueError, ["head", "`pool`", "'mean'"]),
        (lambda: kb.resnet18(head="avg"), ValueError, ["`head`", "mapping", "head='avg'"]),
        (lambda: kb.resnet18(head=kb.Classifier), ValueError, ["head", "Spec"]),
        (lambda: kb.resnet18(stem=kb.ConvBlock), ValueError, ["stem", "Spec"]),
        (lambda: kb.resnet18(classes=0), ValueError, ["head", "`classes`", "classes=0"]),
    ],
)
def test_families_refuse(call: Callable[[], Any], kind: type[Exception], words: list[str]) -> None:
    refused(call, kind, words)


BLOCK = kb.ConvBlock.Spec(8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kb.Architecture([]), ["`rows`", "[]"]),
        (lambda: kb.Architecture([64]), ["stage1", "Spec", "64"]),
        (lambda: kb.Architecture([kb.ConvBlock]), ["stage1", "Spec"]),
        (lambda: kb.Architecture([kb.ConvBlock.Spec]), ["stage1", "Spec"]),
        (lambda: kb.Architecture([keras.layers.Dense(3)]), ["stage1", "Spec"]),
        (lambda: kb.Architecture([BLOCK, ["x"]]), ["stage2_block1", "'x'"]),
        (lambda: kb.Architecture([BLOCK], head="avg"), ["head", "'avg'"]),
        (lambda: kb.Architecture([(BLOCK, "a")]), ["(name, spec)", "rows[0]"]),
        (lambda: kb.Architecture([("a", BLOCK, "input", 1)]), ["(name, spec)", "rows[0]"]),
        (lambda: kb.Architecture([("a", BLOCK), ("a", BLOCK)]), ["name", "once", "'a'"]),
        (lambda: kb.Architecture([("input", BLOCK)]), ["name", "'input'"]),
        (lambda: kb.Architecture([("1a", BLOCK)]), ["name", "'1a'"]),
        (lambda: kb.Architecture([("a/b", BLOCK)]), ["name", "'a/b'"]),
        (lambda: kb.Architecture([("head", BLOCK)], head=kb.Classifier(3)), ["name", "'head'"]),
        (lambda: kb.Architecture([("a", BLOCK, "b"), ("b", BLOCK)]), ["a ", "earlier", "'b'"]),
        (lambda: kb.Architecture([("a", BLOCK, ("input", "c"))]), ["a ", "earlier", "'c'"]),
        (lambda: kb.Architecture([("a", "b")]), ["a ", "earlier", "'b'"]),
        (lambda: kb.Architecture([("a", "a")]), ["a ", "earlier", "'a'"]),
        (lambda: kb.Architecture([("a", "input")]), ["a ", "'input'"]),
        (lambda: kb.Architecture([BLOCK], outputs={"x": "y"}), ["`outputs`", "outputs['x']='y'"]),
        (lambda: kb.Architecture([BLOCK], outputs={"x": "input"}), ["`outputs`", "'input'"]),
        (lambda: kb.Architecture([BLOCK], outputs={}), ["output"]),
        (lambda: kb.Architecture([BLOCK], auxiliary=["x"]), ["`auxiliary`", "'x'"]),
        (lambda: kb.Architecture([BLOCK], auxiliary=["features"]), ["auxiliary", "'features'"]),
        (
            lambda: kb.Architecture([("a", kb.ResidualBlock.Spec(8, shortcut="identity"))]).cost(
                (9, 9, 3)
            ),
            ["a: ResidualBlock", "shortcut='identity'", "(9, 9, 3)"],
        ),
        (
            lambda: kb.Architecture([("a", kb.Classifier(3)), ("b", BLOCK)]).cost((9, 9, 3)),
            ["b: ConvBlock", "(3,)"],
        ),
    ],
)
def test_architectures_refuse(call: Callable[[], Any], words: list[str]) -> None:
    refused(call, ValueError, words)


@pytest.mark.parametrize(
    "shape",
    [32, (32, 32), (32, 32, 3, 1), (0, 32, 3), (32, -1, 3), (32.0, 32, 3), "abc", None, {}],
)
def test_bad_input_shapes(shape: Any) -> None:
    net = kb.Architecture([BLOCK])
    words = ["`input_shape`", "(height, width, channels)", f"input_shape={shape!r}"]
    for call in (net.cost, net.stages, net.model):
        refused(lambda call=call: call(shape), ValueError, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pooling": "avg"}, ["`pooling`", "include_top=False", "pooling='avg'"]),
        ({"pooling": "mean", "include_top": False}, ["`pool`", "pool='mean'"]),
        ({"classifier_activation": "sofmax"}, ["sofmax"]),
        ({"skip_head": True}, ["`skip_head` goes with weights"]),
    ],
)
def test_bad_arguments_of_model(arguments: dict[str, Any], words: list[str]) -> None:
    net = kb.Architecture([BLOCK], head=kb.Classifier(3))
    refused(lambda: net.model((9, 9, 3), **arguments), ValueError, words)


def test_weights_of_another_network_are_refused(tmp_path: Any) -> None:
    kb.Architecture([BLOCK]).model((9, 9, 3)).save_weights(tmp_path / "one.weights.h5")
    other = kb.Architecture([kb.ConvBlock.Spec(16)])
    with pytest.raises(ValueError, match="shape"):
        other.model((9, 9, 3), weights=tmp_path / "one.weights.h5")


# --- a block of one's own ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["name", "dtype", "trainable", "data_format", "spec", "weights", "call", "conv", "norm1"],
)
def test_a_field_cannot_bear_a_name_that_is_taken(name: str) -> None:
    namespace = {"__annotations__": {name: int}, "__module__": __name__}
    refused(lambda: type("Mine", (kb.Block,), namespace), TypeError, ["Mine", f"'{name}'"])


def test_a_default_is_changed_with_an_annotation_only() -> None:
    namespace = {"expand": 8, "__module__": __name__}
    refused(lambda: type("Mine", (Fire,), namespace), TypeError, ["Mine", "'expand'", "annotate"])


def test_a_bad_default_is_refused() -> None:
    with pytest.raises((TypeError, ValueError), match="filters"):

        class Mine(kb.Block):
            filters: kb.fields.Count = 0  # type: ignore[name-defined]


def test_parts_of_a_plan_need_names_of_their_own() -> None:
    class Twice(kb.Block):
        def plan(self, channels: int) -> Any:
            merge = Merge("add", left=Conv(3), right=Conv(3))
            return Chain(merge, merge)

    class Taken(kb.Block):
        @property
        def conv(self) -> Any:
            return Conv(3)

        def plan(self, channels: int) -> Any:
            return Chain(self.conv)

    x = np.zeros((1, 9, 9, 3), "float32")
    refused(lambda: Twice()(x), ValueError, ["Twice", "'left_conv'"])
    refused(lambda: Taken()(x), ValueError, ["Taken", "'conv'"])


def test_a_plan_holds_primitives_only() -> None:
    class Layered(kb.Block):
        def plan(self, channels: int) -> Any:
            return Chain(Conv(3), keras.layers.ReLU())

    class Multiplied(kb.Block):
        def plan(self, channels: int) -> Any:
            return Merge("subtract", left=Conv(3), right=Conv(3))

    x = np.zeros((1, 9, 9, 3), "float32")
    for way in (lambda: Layered()(x), lambda: Layered.Spec().cost((9, 9, 3))):
        refused(way, (TypeError, ValueError), ["ReLU"])
    for way in (lambda: Multiplied()(x), lambda: Multiplied.Spec().cost((9, 9, 3))):
        refused(way, (TypeError, ValueError), ["subtract"])


def test_a_block_has_a_plan_or_is_abstract() -> None:
    with pytest.raises(TypeError, match=r"plan\(self, channels\).*Received: Planless"):

        class Planless(kb.Block):
            filters: int

    class Common(kb.Block, abstract=True):
        filters: kb.fields.Count = 3  # type: ignore[name-defined]

    class Planned(Common):
        def plan(self, channels: int) -> Any:
            return Conv(self.filters)

    class Wider(Planned):
        filters: kb.fields.Count = 5  # type: ignore[name-defined]

    x = np.zeros((1, 9, 9, 3), "float32")
    assert Planned()(x).shape == (1, 9, 9, 3)
    assert Wider()(x).shape == (1, 9, 9, 5)
    refused(lambda: Common()(x), NotImplementedError, ["Common", "plan"])


@pytest.mark.parametrize("value", [{}, [], [1], 2.5, (4, 8), {"a": 1}])
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("auxiliary", lambda v: kb.googlenet(auxiliary=v)),
        ("variant", lambda v: kb.resnet(variant=v)),
        ("version", lambda v: kb.inception_resnet(version=v)),
        ("stride", lambda v: kb.Keypoints(2, stride=v)),
    ],
)
def test_a_bad_value_of_a_family_or_head_is_refused_at_the_door(
    name: str, build: Any, value: Any
) -> None:
    if name == "auxiliary" and not value:
        pytest.skip("no auxiliary heads")
    refused(lambda: build(value), ValueError, [f"`{name}`", f"Received: {name}={value!r}"])


@pytest.mark.parametrize("strides", [None, {}, [], [1.5], 0, "8"])
def test_bad_strides_of_a_detector_are_refused_at_the_door(strides: Any) -> None:
    words = ["`strides`", f"Received: strides={strides!r}"]
    refused(lambda: kb.Detector(2, strides), ValueError, words)


def test_a_pool_that_counts_unknown_padding_is_refused_when_it_is_called() -> None:
    """Keras' "same" pads by the size of the map, which is not known here."""
    pool = kb.InceptionBlock(["avg", 4], [2, 1], 2, pool_count_padding=True)
    words = ["count_padding=True", "known height and width"]
    refused(lambda: pool(keras.Input((None, None, 3))), ValueError, words)
    assert pool.spec.replace(padding="symmetric", kernel_size=[3, 1]).layer()(
        keras.Input((None, None, 3))
    ).shape == (None, None, None, 7)
