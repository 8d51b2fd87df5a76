"""The numbers that blocks compute, against NumPy and against Keras' own layers put together.

Padding and its modes, pools, shortcuts, `valid` padding inside merges, and the five orders of
He et al. 2016.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from conformance import ORDERS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_plans import sparsemax
from numpy_reference import (
    PAD_MODES,
    Pads,
    adaptive_average,
    conv,
    pad,
    pair,
    pool,
    same_pads,
)

import kblocks as kb
from kblocks.plans.ops import Chain, Conv, Merge

Images = Callable[..., np.ndarray]
both_formats = pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])


def close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def output(layer: Any, x: np.ndarray) -> np.ndarray:
    """In inference, channels last, whatever the layer's data format."""
    if layer.data_format == "channels_last":
        return np.asarray(layer(x, training=False))
    outputs = np.asarray(layer(x.transpose(0, 3, 1, 2), training=False))
    return outputs.transpose(0, 2, 3, 1) if outputs.ndim == 4 else outputs


def bare(filters: int, kernel_size: Any = 3, strides: Any = 1, **arguments: Any) -> Any:
    """A ConvBlock that is one convolution."""
    return kb.ConvBlock(
        filters, kernel_size, strides, activation=None, normalization=None, **arguments
    )


def pads_of(padding: Any, size: Any, kernel: Any, strides: Any, dilation: Any) -> Pads:
    """What each `padding` stands for, by its definition in the papers' code and in Keras."""
    if padding == "same":
        return same_pads(size, kernel, strides, dilation)
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "symmetric":
        sides = [d * (k - 1) // 2 for k, d in zip(pair(kernel), pair(dilation), strict=True)]
    else:
        sides = pair(padding)
    return (sides[0], sides[0]), (sides[1], sides[1])


# --- convolutions ------------------------------------------------------------------------

PADDINGS = ["same", "valid", "symmetric", 2, (0, 1)]


@pytest.mark.thin(6)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("strides", [1, 2, (2, 1), 3])
@pytest.mark.parametrize("kernel", [1, 3, 5, (1, 7)])
@pytest.mark.parametrize("mode", PAD_MODES)
def test_convolution_pads_as_its_definition_says(
    mode: str, kernel: Any, strides: Any, padding: Any, images: Images
) -> None:
    for size in ((9, 8), (8, 11)):
        x = images(2, *size, 3)
        layer = bare(4, kernel, strides, padding=padding, padding_mode=mode)
        outputs = output(layer, x)
        weights, bias = layer.get_weights()
        padded = pad(x, pads_of(padding, size, kernel, strides, 1), PAD_MODES[mode])
        close(outputs, conv(padded, weights, strides) + bias)


@pytest.mark.parametrize("padding", [*PADDINGS, 3])
@pytest.mark.parametrize("dilation", [2, (1, 3)])
@pytest.mark.parametrize("mode", PAD_MODES)
@both_formats
def test_dilated_convolution(
    data_format: str, mode: str, dilation: Any, padding: Any, images: Images
) -> None:
    x = images(2, 9, 12, 4)
    layer = bare(
        6,
        dilation_rate=dilation,
        padding=padding,
        padding_mode=mode,
        groups=2,
        data_format=data_format,
    )
    outputs = output(layer, x)
    weights, bias = layer.get_weights()
    padded = pad(x, pads_of(padding, (9, 12), 3, 1, dilation), PAD_MODES[mode])
    close(outputs, conv(padded, weights, 1, dilation, groups=2) + bias)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("strides", [1, 2])
def test_grouped_convolution(groups: int, strides: int, images: Images) -> None:
    x = images(2, 9, 8, 6)
    layer = bare(12, 3, strides, groups=groups, padding="symmetric", bias_initializer="ones")
    outputs = output(layer, x)
    weights, bias = layer.get_weights()
    assert weights.shape == (3, 3, 6 // groups, 12)
    padded = pad(x, ((1, 1), (1, 1)))
    close(outputs, conv(padded, weights, strides, groups=groups) + bias)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7, (1, 7), (4, 3)])
@pytest.mark.parametrize("strides", [1, 2, (2, 1), (1, 3)])
def test_same_and_valid_are_those_of_keras(kernel: Any, strides: Any, images: Images) -> None:
    for padding in ("same", "valid"):
        for size in ((9, 8), (12, 11)):
            x = images(2, *size, 3)
            layer = bare(4, kernel, strides, padding=padding)
            outputs = output(layer, x)
            own = keras.layers.Conv2D(4, kernel, strides, padding=padding)
            own.build(x.shape)
            own.set_weights(layer.get_weights())
            close(outputs, own(x))


def test_symmetric_differs_from_same_only_at_strides_on_even_sizes(images: Images) -> None:
    """ARCHITECTURES.md, general 4: at stride 2 and even sizes the grid shifts by a pixel."""

    def differs(size: int, strides: int) -> bool:
        same, symmetric = (bare(4, 3, strides, padding=p) for p in ("same", "symmetric"))
        x = images(1, size, size, 3)
        same.build(x.shape), symmetric.build(x.shape)
        symmetric.set_weights(same.get_weights())
        return not np.allclose(same(x), symmetric(x), atol=1e-5)

    assert {(size, s): differs(size, s) for size in (8, 9) for s in (1, 2)} == {
        (8, 1): False,
        (9, 1): False,
        (8, 2): True,
        (9, 2): False,
    }


@both_formats
def test_a_bias_is_added_to_its_channel_where_the_map_is_as_wide(
    data_format: str, images: Images
) -> None:
    """`keras.ops.add` on TensorFlow takes (1, n, 1, 1) for a bias of the last axis of n pixels."""
    layer = bare(5, 1, kernel_initializer="zeros", data_format=data_format)
    x = images(5, 5, 5, 5)
    layer.build(x.shape)
    layer.conv.bias.assign(np.arange(5))
    close(output(layer, x), np.broadcast_to(np.arange(5), x.shape))


# --- pools -------------------------------------------------------------------------------

POOLS = [
    (size, strides, padding)
    for size, strides in [(2, None), (3, 2), (3, 1), ((3, 2), (1, 2)), (2, 3)]
    for padding in ("valid", "same", "symmetric", 1, (1, 0))
    if padding != "symmetric" or size == 3  # even ones are refused: see test_errors.py
]


@pytest.mark.thin(4)
@pytest.mark.parametrize(("size", "strides", "padding"), POOLS)
@pytest.mark.parametrize("kind", ["max", "avg", "min"])
@both_formats
def test_pools_see_no_padding(
    data_format: str, kind: str, size: Any, strides: Any, padding: Any, images: Images
) -> None:
    for shape in ((9, 8), (7, 10)):
        x = images(2, *shape, 3) - 5  # all negative: padding with zeros would win a maximum
        if kind == "min":
            x = -x
        layer = kb.ConvBlock(
            3,
            1,
            activation=None,
            normalization=None,
            use_bias=False,
            kernel_initializer="zeros",
            pool=kind,
            pool_size=size,
            pool_strides=strides,
            pool_padding=padding,
            data_format=data_format,
        )
        layer.build((None, *shape, 3) if data_format == "channels_last" else (None, 3, *shape))
        layer.conv.kernel.assign(np.eye(3)[None, None])
        steps = size if strides is None else strides
        pads = pads_of(padding, shape, size, steps, 1)
        expected = pool(x, kind, size, steps, pads)
        close(output(layer, x), expected)
        if kind == "min":
            alone = kb.MinPooling2D(size, strides, padding=padding, data_format=data_format)
            close(output(alone, x), expected)


@both_formats
def test_global_concat_pooling_is_averages_then_maxima(data_format: str, images: Images) -> None:
    x = images(2, 7, 5, 3) - 5
    expected = np.concatenate([x.mean((1, 2)), x.max((1, 2))], axis=-1)
    close(output(kb.GlobalConcatPooling2D(data_format=data_format), x), expected)
    close(output(kb.Features("concat", data_format=data_format), x), expected)


@pytest.mark.parametrize("size", [(7, 7), (14, 7), (8, 9), (1, 3), (2, 20)])
@pytest.mark.parametrize("target", [7, (3, 2), 1])
@both_formats
def test_a_flattening_head_averages_adaptively(
    data_format: str, target: Any, size: tuple[int, int], images: Images
) -> None:
    x = images(2, *size, 3)
    head = kb.Classifier(4, pool="flatten", pool_size=target, data_format=data_format)
    outputs = output(head, x)
    kernel, bias = head.get_weights()
    features = adaptive_average(x, target).reshape(2, -1)  # channels run fastest
    close(outputs, features @ kernel + bias)


@pytest.mark.parametrize(("size", "target"), [((1, 1), 7), ((1, 4), (3, 1)), ((4, 5), 1)])
@both_formats
def test_adaptive_pools_in_a_graph(
    data_format: str, size: tuple[int, int], target: Any, images: Images
) -> None:
    """Where an axis has one pixel, or is to have one, Keras' own builds only outside of graphs."""
    keras.config.set_image_data_format(data_format)
    head = kb.Classifier(4, pool="flatten", pool_size=target)
    net = kb.Architecture([kb.NormAct.Spec(normalization=None)], head)
    model, x = net.model((*size, 3)), images(2, *size, 3)
    kernel, bias = model.get_weights()
    features = adaptive_average(np.maximum(x, 0), target).reshape(2, -1)
    given = x if data_format == "channels_last" else x.transpose(0, 3, 1, 2)
    close(model.predict(given, verbose=0), features @ kernel + bias)


@pytest.mark.parametrize("kind", ["avg", "max", "concat", "flatten"])
def test_a_head_is_pool_hidden_layers_logits(kind: str, images: Images) -> None:
    x = images(3, 4, 5, 6)
    head = kb.Classifier(3, pool=kind, hidden=(8, 7), activation="tanh", dropout=0.5)
    outputs = output(head, x)
    (k1, b1, k2, b2, k3, b3) = head.get_weights()
    pooled = {
        "avg": x.mean((1, 2)),
        "max": x.max((1, 2)),
        "concat": np.concatenate([x.mean((1, 2)), x.max((1, 2))], -1),
        "flatten": x.reshape(3, -1),
    }[kind]
    close(outputs, np.tanh(np.tanh(pooled @ k1 + b1) @ k2 + b2) @ k3 + b3)


# --- activations, norms, the order of parts ----------------------------------------------

ACTIVATIONS = sorted(set(dir(keras.activations)) - {"get", "serialize", "deserialize"})
ELEMENTWISE = [name for name in ACTIVATIONS if name[0] != "_" and name not in ("glu", "threshold")]


@pytest.mark.parametrize("name", ELEMENTWISE)
@both_formats
def test_every_keras_activation(data_format: str, name: str, images: Images) -> None:
    x = images(2, 4, 5, 6)
    # Keras' own sparsemax is wrong: see `test_activations.py`.
    expected = sparsemax(x) if name == "sparsemax" else keras.activations.get(name)(x)
    layer = kb.NormAct(normalization=None, activation=name, data_format=data_format)
    close(output(layer, x), expected)
    function = kb.NormAct(normalization=None, activation=keras.activations.get(name))
    close(output(function, x), expected)


def test_an_activation_layer_keeps_its_arguments(images: Images) -> None:
    x = images(2, 4, 5, 6)
    layer = kb.NormAct(normalization=None, activation=keras.layers.LeakyReLU(0.37))
    close(output(layer, x), np.where(x > 0, x, 0.37 * x))
    assert layer.spec == kb.NormAct.Spec(
        normalization=None, activation=keras.layers.LeakyReLU(0.37)
    )


@pytest.mark.parametrize(
    ("norm", "over"),
    [
        (kb.Norm("batch", momentum=0.0, epsilon=0.1), (0, 1, 2)),
        (kb.Norm("layer", epsilon=0.1), 3),
        (kb.Norm("group", epsilon=0.1, groups=1), (1, 2, 3)),
        (kb.Norm("group", epsilon=0.1, groups=6), (1, 2)),
    ],
)
@both_formats
def test_normalizations(data_format: str, norm: kb.Norm, over: Any, images: Images) -> None:
    """Ioffe & Szegedy 2015; Ba et al. 2016; Wu & He 2018, Eq. 1: the sets that are averaged."""
    x = images(4, 5, 3, 6) * 2 + 1
    layer = kb.NormAct(normalization=norm, activation=None, data_format=data_format)
    layer.build((None, *((5, 3, 6) if data_format == "channels_last" else (6, 5, 3))))
    gamma, beta = np.arange(1.0, 7.0), np.arange(6.0)
    layer.norm.gamma.assign(gamma)
    layer.norm.beta.assign(beta)
    if norm.kind == "batch":
        turned = x if data_format == "channels_last" else x.transpose(0, 3, 1, 2)
        layer(turned, training=True)
    mean, variance = x.mean(over, keepdims=True), x.var(over, keepdims=True)
    close(output(layer, x), (x - mean) / np.sqrt(variance + 0.1) * gamma + beta)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 16), (6, 2), (7, 1)])
def test_group_norm_takes_the_greatest_common_divisor_of_32(channels: int, groups: int) -> None:
    layer = kb.NormAct(normalization="group")
    layer.build((None, 4, 4, channels))
    assert layer.norm.groups == groups


PARTS = {
    ("conv_norm_act", 2): ["conv", "norm", "act", "conv", "norm", "act"],
    ("norm_act_conv", 2): ["norm", "act", "conv", "norm", "act", "conv"],
    ("norm_last", 3): ["conv", "act", "conv", "act", "conv", "norm", "act"],
}


@pytest.mark.parametrize(("order", "convolutions"), PARTS)
def test_order_of_a_conv_block(order: str, convolutions: int, images: Images) -> None:
    layer = kb.ConvBlock(4, 3, 2, order=order, convolutions=convolutions, pool="max", dropout=0.2)
    layer.build((None, 9, 9, 4))
    names = [part.name.rstrip("0123456789") for part in layer.layers]
    assert names == [*PARTS[order, convolutions], "pooling", "drop"]
    strides = [part.strides for part in layer.layers if part.name.startswith("conv")]
    assert strides == [(2, 2)] + [(1, 1)] * (convolutions - 1)
    biases = [part.use_bias for part in layer.layers if part.name.startswith("conv")]
    assert biases == ([True, True, False] if order == "norm_last" else [False, False])


# --- `valid` padding inside merges -------------------------------------------------------


def test_valid_crops_an_identity_shortcut_in_its_centre(images: Images) -> None:
    x = images(2, 9, 8, 4)
    layer = kb.ResidualBlock(
        4, 3, padding="valid", activation=None, normalization=None, use_bias=False
    )
    outputs = output(layer, x)
    first, second = layer.get_weights()
    close(outputs, conv(conv(x, first), second) + x[:, 2:-2, 2:-2])


@pytest.mark.parametrize(
    ("kernel", "cut"),
    # A pixel of the main path sees, of its input, the pixels around (k - 1) / 2 + 2 (k - 1) / 2.
    [(3, (3, 3)), (5, (6, 6)), ((1, 7), (0, 9)), (1, (0, 0))],
)
def test_valid_takes_the_pixels_of_a_strided_shortcut_from_the_main_paths_centres(
    kernel: Any, cut: tuple[int, int], images: Images
) -> None:
    x = images(2, 24, 25, 4)
    layer = kb.ResidualBlock(
        6, kernel, 2, padding="valid", activation=None, normalization=None, use_bias=False
    )
    outputs = output(layer, x)
    weights = {weight.path.split("/")[1]: np.asarray(weight) for weight in layer.weights}
    main = conv(conv(x, weights["main_conv1"], 2), weights["main_conv2"])
    rows, columns = main.shape[1:3]
    seen = x[:, cut[0] :: 2, cut[1] :: 2][:, :rows, :columns]
    close(outputs, main + conv(seen, weights["shortcut_conv"]))


def test_pixels_that_grow_crop_the_main_paths_input(images: Images) -> None:
    """With two pixels around a 3x3 kernel the main path grows; then its own input is cut."""
    x = images(2, 9, 8, 4)
    layer = kb.ResidualBlock(4, 3, padding=2, activation=None, normalization=None, use_bias=False)
    outputs = output(layer, x)
    first, second = layer.get_weights()
    twice = ((2, 2), (2, 2))
    main = conv(pad(conv(pad(x[:, 2:-2, 2:-2], twice), first), twice), second)
    close(outputs, main + x)


# A coordinate is what stays of a ramp under an averaging kernel: so two branches agree in
# their centres if, on a ramp, their outputs are equal.
odd = st.sampled_from([1, 3, 5])


@st.composite
def branches(draw: Any) -> list[list[tuple[int, int, int]]]:
    """Chains of (kernel, strides, dilation) with the same total strides."""
    strides = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3))
    made = []
    for _ in range(draw(st.integers(2, 3))):
        own = draw(st.permutations(strides))
        made.append([(draw(odd), s, draw(odd) // 2 + 1 if s == 1 else 1) for s in own])
    return made


class Ramp(kb.Block):
    """Chains of averaging convolutions, side by side."""

    chains: Any = ()

    def plan(self, channels: int) -> Merge:
        branches = {}
        for letter, steps in zip("abc", self.chains, strict=False):
            branches[letter] = Chain(
                *(Conv(1, (k, k), (s, s), "valid", (d, d), use_bias=False) for k, s, d in steps)
            )
        return Merge("concat", **branches)


@pytest.mark.slow
@settings(max_examples=60)
@given(chains=branches(), more=st.integers(0, 7))
def test_branches_of_any_odd_kernels_agree_in_their_centres(
    chains: list[list[tuple[int, int, int]]], more: int
) -> None:
    reaches = [
        sum(
            d * (k - 1) * math.prod(s for _, s, _ in steps[:i]) for i, (k, _, d) in enumerate(steps)
        )
        for steps in chains
    ]
    size = max(reaches) + 1 + more
    rows, columns = np.mgrid[:size, :size].astype("float32")
    ramp = (rows + 100 * columns)[None, :, :, None] / size
    layer = Ramp(chains)
    layer.build(ramp.shape)
    for part in layer.layers:
        part.kernel.assign(np.full(part.kernel.shape, 1 / math.prod(part.kernel_size)))
    outputs = np.asarray(layer(ramp))
    assert (
        outputs.shape[1:3]
        == ((size - 1 - max(reaches)) // math.prod(s for _, s, _ in chains[0]) + 1,) * 2
    )
    centre = 101 * max(reaches) / 2 / size
    np.testing.assert_allclose(outputs[0, 0, 0], centre, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(outputs, np.repeat(outputs[..., :1], len(chains), -1), rtol=1e-3)


# --- the five orders ---------------------------------------------------------------------

# He et al. 2016, Fig. 4: what stands on the main path and behind the addition, C for a
# convolution, B for batch normalization, R for ReLU.
FIGURE_4 = {
    (kb.ResidualBlock, "original"): ("CBRCB", "R"),
    (kb.ResidualBlock, "norm_after_addition"): ("CBRC", "BR"),
    (kb.ResidualBlock, "relu_before_addition"): ("CBRCBR", ""),
    (kb.ResidualBlock, "relu_only_preactivation"): ("RCBRCB", ""),
    (kb.ResidualBlock, "full_preactivation"): ("BRCBRC", ""),
    (kb.BottleneckBlock, "original"): ("CBRCBRCB", "R"),
    (kb.BottleneckBlock, "norm_after_addition"): ("CBRCBRC", "BR"),
    (kb.BottleneckBlock, "relu_before_addition"): ("CBRCBRCBR", ""),
    (kb.BottleneckBlock, "relu_only_preactivation"): ("RCBRCBRCB", ""),
    (kb.BottleneckBlock, "full_preactivation"): ("BRCBRCBRC", ""),
}
# A projection stands in for the main path's last convolution: it has a normalization where
# that one has it before the addition. In (e) both paths read the first one's (Sec. 4.1).
PROJECTION_NORMED = {"original", "relu_before_addition", "relu_only_preactivation"}


def composed(
    block: Any, order: str, shortcut: str, strides: int, shape: tuple[int, int, int]
) -> tuple[keras.Model, dict[str, list[Any]]]:
    """The block out of Keras' own layers; the layers with weights by their place and kind."""
    kernels = [(3, strides, 8), (3, 1, 8)]
    if block is kb.BottleneckBlock:
        kernels = [(1, 1, 2), (3, strides, 2), (1, 1, 8)]
    layers: dict[str, list[Any]] = {"main_conv": [], "main_norm": [], "norm": [], "shortcut": []}

    def apply(parts: str, x: Any, place: str, todo: list[tuple[int, int, int]]) -> Any:
        for part in parts:
            if part == "R":
                x = keras.layers.ReLU()(x)
                continue
            if part == "C":
                kernel, step, filters = todo.pop(0)
                layer = keras.layers.Conv2D(filters, kernel, step, padding="same", use_bias=False)
                layers["main_conv"].append(layer)
            else:
                layer = keras.layers.BatchNormalization()
                layers[f"{place}norm"].append(layer)
            x = layer(x)
        return x

    main_path, behind = FIGURE_4[block, order]
    start = inputs = keras.Input(shape)
    if shortcut == "projection" and order == "full_preactivation":
        start, main_path = apply("BR", inputs, "", []), main_path[2:]
    main = apply(main_path, start, "main_", kernels)
    aside = start
    if shortcut == "projection":
        layers["shortcut"].append(keras.layers.Conv2D(8, 1, strides, use_bias=False))
        if order in PROJECTION_NORMED:
            layers["shortcut"].append(keras.layers.BatchNormalization())
        for layer in layers["shortcut"]:
            aside = layer(aside)
    elif shortcut == "zero_pad":
        aside = aside[:, ::strides, ::strides]
        zeros = keras.ops.zeros_like(aside)[..., : 8 - shape[-1]]
        aside = keras.ops.concatenate([aside, zeros], axis=-1)
    return keras.Model(inputs, apply(behind, keras.layers.add([main, aside]), "", [])), layers


@pytest.mark.thin(3)
@pytest.mark.parametrize("shortcut", ["identity", "projection", "zero_pad"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("block", [kb.ResidualBlock, kb.BottleneckBlock])
def test_residual_orders_are_those_of_figure_4(
    block: Any, order: str, shortcut: str, images: Images
) -> None:
    changes = shortcut != "identity"
    strides, shape = (2, (9, 8, 5)) if changes else (1, (9, 8, 8))
    model, layers = composed(block, order, shortcut, strides, shape)
    filters = 8 if block is kb.ResidualBlock else 2
    layer = block(filters, 3, strides, order=order, shortcut=shortcut)
    layer.build((None, *shape))
    assert layer.count_params() == model.count_params()
    rng = np.random.default_rng(3)
    for place, own in layers.items():
        parts = [
            p for p in layer.layers if p.weights and re.fullmatch(place + PLACES[place], p.name)
        ]
        assert len(parts) == len(own), place
        for part, theirs in zip(parts, own, strict=True):
            weights = [rng.uniform(0.5, 1.5, w.shape) * rng.choice([-1, 1]) for w in part.weights]
            if len(weights) == 4:
                weights[3] = np.abs(weights[3])
            part.set_weights(weights)
            theirs.set_weights(weights)
    x = images(4, *shape)
    for training in (False, True):
        outputs, expected = layer(x, training=training), np.asarray(model(x, training=training))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(np.asarray(outputs) / scale, expected / scale, atol=1e-5)


PLACES = {"main_conv": r"\d", "main_norm": r"\d?", "norm": "", "shortcut": "_(conv|norm)"}


@pytest.mark.parametrize(("strides_on", "steps"), [("spatial", [1, 2, 1]), ("first", [2, 1, 1])])
def test_where_a_bottleneck_has_its_strides(strides_on: str, steps: list[int]) -> None:
    """ARCHITECTURES.md, ResNet (i): v1.5 on the 3x3, v1 on the first 1x1."""
    layer = kb.BottleneckBlock(4, 3, 2, strides_on=strides_on)
    layer.build((None, 8, 8, 6))
    main = [getattr(layer, f"main_conv{n}") for n in (1, 2, 3)]
    assert [part.strides for part in main] == [(step, step) for step in steps]
    assert [part.kernel_size for part in main] == [(1, 1), (3, 3), (1, 1)]
    assert layer.shortcut_conv.strides == (2, 2)


@pytest.mark.parametrize("strides", [1, 2, (2, 1)])
@both_formats
def test_zero_pad_takes_every_nth_pixel_and_appends_zeros(
    data_format: str, strides: Any, images: Images
) -> None:
    """He et al. 2015, option A: the shortcut has no parameters."""
    x = images(2, 9, 8, 3)
    layer = kb.ResidualBlock(
        5, 3, strides, shortcut="zero_pad", activation=None, data_format=data_format
    )
    layer.build((None, 9, 8, 3) if data_format == "channels_last" else (None, 3, 9, 8))
    layer.main_norm2.gamma.assign(np.zeros(5))
    (down, right) = pair(strides)
    expected = np.concatenate([x, np.zeros((2, 9, 8, 2))], -1)[:, ::down, ::right]
    np.testing.assert_array_equal(output(layer, x), expected)
    assert not any(part.name.startswith("shortcut") for part in layer.layers if part.weights)


@pytest.mark.parametrize("padding", ["valid", "symmetric", 1])
@pytest.mark.parametrize("kind", ["avg", "max", "min"])
def test_pools_that_reach_over_the_edge(kind: str, padding: Any, images: Images) -> None:
    """As PyTorch defines `ceil_mode` and `count_include_pad`, window by window.

    The padding counts as zeros where that is asked for; what lies behind it never does, and a
    window that begins there is none.
    """
    for size, window, stride, counts in itertools.product((3, 6, 7), (2, 3), (2, 3), (True, False)):
        x = images(1, size, size, 2)
        side = {"valid": 0, "symmetric": window // 2, 1: 1}[padding]
        if padding == "symmetric" and window % 2 == 0:
            continue
        block = kb.InceptionBlock(
            [kind],
            [window],
            stride,
            padding=padding,
            pool_count_padding=counts,
            pool_ceil_mode=True,
        )
        number = math.ceil((size + 2 * side - window) / stride) + 1
        number -= (number - 1) * stride >= size + side
        expected = np.zeros((1, number, number, 2))
        for i, j in itertools.product(range(number), repeat=2):
            rows, columns = (
                np.arange(n * stride - side, n * stride - side + window) for n in (i, j)
            )
            seen = [part[(part >= 0) & (part < size)] for part in (rows, columns)]
            pixels = x[0][np.ix_(*seen)].reshape(-1, 2)
            if kind == "avg":
                inside = [np.sum(part < size + side) for part in (rows, columns)]
                expected[0, i, j] = pixels.sum(0) / (np.prod(inside) if counts else len(pixels))
            else:
                expected[0, i, j] = pixels.max(0) if kind == "max" else pixels.min(0)
        close(output(block, x), expected)
