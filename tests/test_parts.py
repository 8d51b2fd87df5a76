"""Parts of a finished network: `extract`, `replace`, other inputs, and a look inside."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import kblocks as kb

Images = Callable[..., np.ndarray]


def small(channels: int = 3, **changes: Any) -> keras.Model:
    """A residual network of three stages, its batch norms not at their start."""
    model = kb.resnet20(classes=4, **changes).model((16, 16, channels))
    numbers = np.random.default_rng(1)
    for weight in model.weights:
        if weight.name in ("gamma", "beta", "moving_mean", "moving_variance"):
            weight.assign(numbers.uniform(0.5, 1.5, weight.shape))
    return model


def run(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return np.asarray(model(x, training=False))


# --- extract -----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["stem", "stage1", "stage2", "stage3", "head"])
def test_a_part_is_the_model_up_to_the_end_of_a_stage(stage: str, images: Images) -> None:
    """What the layers give when they are called one after another."""
    model = small()
    part = kb.extract(model, stage)
    x = images(2, 16, 16, 3)
    expected: Any = x
    for layer in model.layers[1:]:
        expected = layer(expected, training=False)
        behind = model.layers[model.layers.index(layer) + 1 :]
        if layer.name.startswith(stage) and not any(b.name.startswith(stage) for b in behind):
            break
    np.testing.assert_array_equal(run(part, x), np.asarray(expected))
    shapes = dict(kb.resnet20(classes=4).stages((16, 16, 3)))
    assert part.output_shape[1:] == shapes[stage].output_shape


def test_pyramid_outputs_are_those_of_the_stages(images: Images) -> None:
    """He et al. 2015, Table 1: the last map of each stage; not those of a head."""
    net = kb.resnet18(head=kb.Segmenter(3))
    model = net.model((64, 64, 3), prefix="rgb_")
    found = kb.pyramid_outputs(model)
    assert {name: tuple(x.shape[1:]) for name, x in found.items()} == {
        f"P{n}": (2 ** (6 - n), 2 ** (6 - n), 2 ** (n + 4)) for n in (2, 3, 4, 5)
    }
    pyramid, x = keras.Model(model.input, found), images(1, 64, 64, 3)
    last = kb.extract(model, "rgb_stage2")
    np.testing.assert_array_equal(np.asarray(pyramid(x)["P3"]), run(last, x))


def test_a_pyramid_of_other_layers_too() -> None:
    x = start = keras.Input((None, None, 3))
    x = kb.ConvBlock(4, strides=4)(keras.layers.Rescaling(1 / 255)(x))
    x = kb.ConvBlock(8, strides=2)(keras.layers.ReLU()(x))
    found = kb.pyramid_outputs(keras.Model(start, keras.layers.GlobalAveragePooling2D()(x)))
    assert {name: x.shape[-1] for name, x in found.items()} == {"P2": 4, "P3": 8}
    with pytest.raises(ValueError, match="a map at stride 4, 8, 16 or 32"):
        kb.pyramid_outputs(keras.Sequential([start, keras.layers.MaxPooling2D(4)]))
    with pytest.raises(AttributeError, match=r"kb\.pyramid_outputs\(net\.model"):
        _ = kb.resnet18().pyramid_outputs
    with pytest.raises(AttributeError, match=r"kb\.replace_head\(net\.model\(.*Classifier\(5\)"):
        _ = kb.resnet18().replace_head


def test_a_part_shares_its_weights() -> None:
    model = small()
    part = kb.extract(model, "stage2")
    assert {id(w) for w in part.weights} < {id(w) for w in model.weights}


def test_a_part_may_end_at_a_block_and_at_an_auxiliary_head() -> None:
    model = kb.googlenet(classes=4).model((64, 64, 3), aux=True)
    assert kb.extract(model, "stage2_block1").output_shape == (None, 4, 4, 512)
    assert kb.extract(model, "aux1").output_shape == (None, 4)
    assert kb.extract(model, "stage2").output_shape == (None, 4, 4, 832)


def test_shared_weights_and_sequential_models_are_extracted_from() -> None:
    net = kb.Architecture(
        [("stage1", kb.ConvBlock.Spec(3)), ("again", "stage1", "stage1")], head=kb.Classifier(2)
    )
    part = kb.extract(net.model((8, 8, 3)), "stage1")
    assert part.output_shape == (None, 8, 8, 3)
    model = keras.Sequential([keras.Input((8, 8, 3)), kb.ConvBlock(4, name="stem")])
    assert kb.extract(model, "stem").output_shape == (None, 8, 8, 4)


@pytest.mark.parametrize("stage", ["stage2", "stage1_block2/main_act"])
@pytest.mark.parametrize("around", ["", "resnet20/", "inner/resnet20/"])
def test_networks_inside_models_are_extracted_from(stage: str, around: str, images: Images) -> None:
    """The part of the network alone, on what the layers before it make of the input."""
    net = small()
    x = images(2, 16, 16, 3)
    expected = run(kb.extract(net, stage), x / 4)
    layers = [keras.Input((16, 16, 3)), keras.layers.Rescaling(0.5)]
    inner = keras.Sequential([*layers, net, keras.layers.Softmax()], name="inner")
    whole = keras.Sequential([*layers, inner, keras.layers.Softmax()])
    np.testing.assert_allclose(run(kb.extract(whole, around + stage), x), expected, atol=1e-5)
    np.testing.assert_allclose(run(kb.extract(whole, "inner"), x), run(inner, x / 2), atol=1e-6)


def test_an_unknown_stage_is_refused_with_those_there_are() -> None:
    inner = keras.Sequential([keras.Input((16, 16, 3)), small()], name="inner")
    with pytest.raises(ValueError, match=r"inner/resnet20/stem, inner/resnet20/st.*'stage4'"):
        kb.extract(keras.Sequential([keras.Input((16, 16, 3)), inner]), "stage4")
    with pytest.raises(ValueError, match=r"stem, stage1, stage2, stage3, head.*'stage4'"):
        kb.extract(small(), "stage4")
    with pytest.raises(ValueError, match="functional or sequential"):
        kb.extract(keras.Sequential([kb.ConvBlock(4)]), "stem")


# --- replace -----------------------------------------------------------------------------


def rows(net: kb.Architecture) -> dict[str, Any]:
    return {row.name: (row.spec, row.inputs) for row in net.rows}


def test_a_replaced_row_leaves_all_others() -> None:
    net = kb.resnet20()
    block = kb.MBConvBlock.Spec(32)
    new = net.replace("stage2_block2", block, (32, 32, 3))
    changed = {name for name, row in rows(new).items() if row != rows(net)[name]}
    assert changed == {"stage2_block2"}
    assert rows(new)["stage2_block2"] == (block, ("stage2_block1",))
    assert list(rows(new)) == list(rows(net))
    assert (new.outputs, new.name, new.weights) == (net.outputs, net.name, ())
    old = rows(net)["stage2_block2"][0].cost((16, 16, 32)).params
    difference = new.cost((32, 32, 3)).params - net.cost((32, 32, 3)).params
    assert difference == block.cost((16, 16, 32)).params - old
    assert new.model((32, 32, 3)).count_params() == new.cost((32, 32, 3)).params


def test_a_replaced_stage_takes_one_block_or_several() -> None:
    net = kb.resnet20()
    block = kb.DenseBlock.Spec(8, depth=2)
    one = net.replace("stage2", block, (32, 32, 3))
    assert rows(one)["stage2"] == (block, ("stage1_block3",))
    assert rows(one)["stage3_block1"][1] == ("stage2",)
    assert len(one.rows) == len(net.rows) - 2
    several = net.replace("stage2", [block] * 5)
    names = [name for name in rows(several) if name.startswith("stage2")]
    assert names == [f"stage2_block{number}" for number in range(1, 6)]
    assert rows(several)["stage2_block1"][1] == ("stage1_block3",)
    assert rows(several)["stage3_block1"][1] == ("stage2_block5",)
    assert kb.Architecture.from_json(several.to_json()) == several


def test_replacing_the_head_and_a_last_stage_keeps_the_outputs() -> None:
    net = kb.resnet20().replace("head", kb.Classifier.Spec(7, pool="concat"))
    assert net.cost((32, 32, 3)).output_shape == (7,)
    body = kb.Architecture([[kb.ConvBlock.Spec(4), kb.ConvBlock.Spec(5)]])
    changed = body.replace("stage1", kb.ConvBlock.Spec(6))
    assert changed.outputs == {"features": "stage1"}


def test_a_replaced_row_passes_its_weights_on() -> None:
    shared = kb.Architecture([("a", kb.ConvBlock.Spec(3)), ("b", "a"), ("c", "b")])
    new = shared.replace("a", kb.ConvBlock.Spec(3, 5))
    assert new.cost((8, 8, 3)).params == kb.ConvBlock.Spec(3, 5).cost((8, 8, 3)).params


def test_what_cannot_be_replaced_is_refused() -> None:
    net = kb.resnet20()
    with pytest.raises(ValueError, match=r"stem, stage1, stage2, stage3, head.*'stage9'"):
        net.replace("stage9", kb.ConvBlock.Spec(4))
    with pytest.raises(ValueError, match="a list of them"):
        net.replace("stage1_block1", [kb.ConvBlock.Spec(4)])
    with pytest.raises(ValueError, match="a list of them"):
        net.replace("stage1", [])
    with pytest.raises(ValueError, match="stage1 must be a block's Spec"):
        net.replace("stage1", 3)
    with pytest.raises(ValueError, match="aux1 reads stage2_block1, which would not be there"):
        kb.googlenet().replace("stage2", kb.ConvBlock.Spec(8, strides=2))
    with pytest.raises(kb.InputTooSmallError, match="stage3_block1"):
        net.replace("stage3_block1", kb.ConvBlock.Spec(64, 17, padding="valid"), (32, 32, 3))
    # A block that the next one cannot add its input to.
    grouped = kb.Architecture([kb.ConvBlock.Spec(4), kb.ConvBlock.Spec(4, groups=2)])
    with pytest.raises(ValueError, match=r"stage2.*groups"):
        grouped.replace("stage1", kb.ConvBlock.Spec(3), (8, 8, 3))


# --- other channels ----------------------------------------------------------------------


def timms_rule(kernel: np.ndarray, channels: int) -> np.ndarray:
    """`adapt_input_conv` of timm, by its text, on torch's layout (out, in, height, width)."""
    if channels == 1:
        return kernel.sum(axis=1, keepdims=True)
    repeat = math.ceil(channels / 3)
    repeated = np.concatenate([kernel] * repeat, axis=1)[:, :channels]
    return repeated * (3 / channels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_first_kernels_follow_timms_rule(channels: int, images: Images) -> None:
    model = small()
    before = [w.copy() for w in model.get_weights()]
    adapted = kb.adapt_input(model, channels)
    assert adapted.input_shape == (None, 16, 16, channels)
    first = np.asarray(model.weights[0]).transpose(3, 2, 0, 1)
    found = np.asarray(adapted.weights[0]).transpose(3, 2, 0, 1)
    np.testing.assert_allclose(found, timms_rule(first, channels), rtol=1e-6, atol=1e-7)
    for old, new in zip(before[1:], adapted.get_weights()[1:], strict=True):
        np.testing.assert_array_equal(old, new)
    assert run(adapted, images(2, 16, 16, channels)).shape == (2, 4)
    assert not {id(w) for w in adapted.weights} & {id(w) for w in model.weights}
    for old, same in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, same)


NETWORKS: dict[str, Any] = {
    "resnet": lambda c: kb.resnet20(classes=4).model((16, 16, c)),
    "space to depth": lambda c: kb.tresnet_m(classes=4).model((64, 64, c)),
    "weight norm": lambda c: kb.resnet20(classes=4, normalization="weight").model((16, 16, c)),
    "bottleneck first": lambda c: keras.Sequential(
        [keras.Input((8, 8, c)), kb.BottleneckBlock(4), kb.ConvBlock(3)]
    ),
    "Keras' own": lambda c: keras.Sequential(
        [keras.Input((8, 8, c)), keras.layers.Conv2D(4, 3), keras.layers.GlobalMaxPooling2D()]
    ),
}


@pytest.mark.thin(5)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_grey_image_gives_what_its_copy_in_three_channels_gave(name: str, images: Images) -> None:
    """Which holds for the sum over channels and for no other rule."""
    model = NETWORKS[name](3)
    grey = images(2, *model.input_shape[1:3], 1)
    one, six = kb.adapt_input(model, 1), kb.adapt_input(model, 6)
    expected = run(model, np.repeat(grey, 3, -1))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(run(one, grey), expected, atol=2e-5 * scale)
    color = images(2, *model.input_shape[1:3], 3, seed=1)
    twice = np.concatenate([color, color], -1)
    np.testing.assert_allclose(run(six, twice), run(model, color), atol=2e-5 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["channels", "size"])
def test_shared_targets_are_those_of_the_new_model_too(what: str) -> None:
    """Of a detector with several levels and of auxiliary classifiers."""

    def adapted(model: keras.Model) -> Any:
        return kb.adapt_input(model, 1) if what == "channels" else kb.resize_input(model, (96, 96))

    net = kb.resnet(3, blocks=(1, 1), filters=(4, 4), head=kb.Detector(3, (4, 8), filters=4))
    model = adapted(net.model((64, 64, 3)))
    model.compile("sgd", **net.head.training())
    x, y = np.zeros((2, *model.input_shape[1:])), np.array([[[1, 0.1, 0.1, 0.5, 0.5]]] * 2)
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()
    aux = adapted(kb.googlenet(3, width=0.1).model((64, 64, 3), aux=True))
    assert kb.strip_aux(aux).output_shape == (None, 3)
    model.compile("sgd", **net.head.training())


def nested(channels: int) -> keras.Model:
    """Keras' own usual form: a scaling, a network in a network, a head."""
    body = kb.Architecture([kb.ConvBlock.Spec(4), kb.ResidualBlock.Spec(6, strides=2)])
    inner = keras.Sequential(
        [keras.Input((16, 16, channels)), body.model((16, 16, channels), name="body")], name="inner"
    )
    top = keras.Sequential(
        [keras.Input((8, 8, 6)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    )
    return keras.Sequential(
        [keras.Input((16, 16, channels)), keras.layers.Rescaling(0.5), inner, top]
    )


@pytest.mark.parametrize("channels_first", [False, True])
def test_models_in_models_are_adapted_and_resized(channels_first: bool, images: Images) -> None:
    """As the same layers without models around them would be: by equal weights, equal outputs."""
    if channels_first:
        keras.config.set_image_data_format("channels_first")
        body = kb.Architecture([kb.ConvBlock.Spec(4)], kb.Classifier(3)).model((16, 16, 3))
        model = keras.Sequential([keras.Input((3, 16, 16)), keras.layers.Rescaling(0.5), body])
        assert kb.adapt_input(model, 1).input_shape == (None, 1, 16, 16)
        assert kb.resize_input(model, (8, 12)).input_shape == (None, 3, 8, 12)
        return
    model = nested(3)
    before = [keras.ops.convert_to_numpy(w) for w in model.weights]
    grey = images(2, 16, 16, 1)
    one = kb.adapt_input(model, 1)
    expected = run(model, np.repeat(grey, 3, -1))
    np.testing.assert_allclose(run(one, grey), expected, atol=2e-5 * np.abs(expected).max())
    large = kb.resize_input(model, (24, 20))
    x = 0.5 * images(2, 24, 20, 3)
    for block in model.layers[1].layers[0].layers[1:]:  # what the layers one by one give
        x = run(block, x)
    expected = run(model.layers[2].layers[1], x.mean((1, 2)))
    np.testing.assert_allclose(run(large, images(2, 24, 20, 3)), expected, atol=1e-5)
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(new))
    assert not {id(w) for w in [*one.weights, *large.weights]} & {id(w) for w in model.weights}


def test_a_model_in_a_model_whose_weights_belong_to_one_size_is_refused() -> None:
    body = kb.Architecture([kb.ConvBlock.Spec(4)]).model((8, 8, 3))
    top = keras.Sequential([keras.Input((256,)), keras.layers.Dense(3)], name="top")
    model = keras.Sequential([keras.Input((8, 8, 3)), body, keras.layers.Flatten(), top])
    with pytest.raises(ValueError, match=r"top takes an input of shape \(256,\).*\(400,\)"):
        kb.resize_input(model, 10)
    assert kb.adapt_input(model, 1).output_shape == (None, 3)


def test_a_mean_for_each_channel_is_refused() -> None:
    image = keras.Input((8, 8, 3))
    known = keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 1.0, 1.0])
    model = keras.Model(image, keras.layers.Conv2D(4, 3)(known(image)))
    with pytest.raises(ValueError, match="one mean for all channels"):
        kb.adapt_input(model, 1)


def test_one_channel_grows_to_three(images: Images) -> None:
    grey = images(2, 16, 16, 1)
    model = small(1)
    grown = kb.adapt_input(model, 3)
    expected = run(model, grey)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(run(grown, np.repeat(grey, 3, -1)), expected, atol=2e-5 * scale)


def test_what_depends_on_the_channels_in_another_way_is_refused() -> None:
    dense = keras.Sequential([keras.Input((8, 8, 3)), kb.DenseBlock(4)])
    with pytest.raises(ValueError, match="belong to one size and number of channels"):
        kb.adapt_input(dense, 1)
    with pytest.raises(ValueError, match=r"`channels` must be a positive integer.*channels=0"):
        kb.adapt_input(small(), 0)
    with pytest.raises(ValueError, match="must take an image"):
        kb.adapt_input(keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]), 1)


# --- other sizes -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(24, 40), 9, (None, None)])
def test_weights_stay_at_another_size(size: Any, images: Images) -> None:
    model = small()
    resized = kb.resize_input(model, size)
    sizes = size if isinstance(size, tuple) else (size, size)
    assert resized.input_shape == (None, *sizes, 3)
    for old, new in zip(model.weights, resized.weights, strict=True):
        assert old.path == new.path
        np.testing.assert_array_equal(old, new)
    shape = tuple(n or 21 for n in sizes)
    assert run(resized, images(2, *shape, 3)).shape == (2, 4)
    x = images(2, 16, 16, 3)
    np.testing.assert_array_equal(run(kb.resize_input(model, 16), x), run(model, x))


def test_a_map_of_fixed_size_takes_any_size() -> None:
    """As VGG's head does, which flattens an adaptive pool."""
    head = kb.Classifier.Spec(3, pool="flatten", pool_size=2, hidden=(8,))
    model = kb.Architecture([kb.ConvBlock.Spec(4)], head).model((8, 8, 3))
    for old, new in zip(model.get_weights(), kb.resize_input(model, 9).get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_head_that_flattens_is_refused() -> None:
    net = kb.Architecture([kb.ConvBlock.Spec(4)], head=kb.Classifier(3, pool="flatten"))
    model = net.model((8, 8, 3))
    with pytest.raises(ValueError, match=r"head/dense/kernel is \(256, 3\).*\(400, 3\).*pool_size"):
        kb.resize_input(model, 10)
    assert kb.resize_input(model, 8).input_shape == model.input_shape


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="`size` must be"):
        kb.resize_input(small(), (8, 8, 3))
    with pytest.raises(ValueError, match="`size` must be"):
        kb.resize_input(small(), 0)
    two = [keras.Input((4, 4, 3)), keras.Input((4, 4, 3))]
    adds = keras.Model(two, keras.layers.Add()(two))
    with pytest.raises(ValueError, match="one input"):
        kb.resize_input(adds, 8)


# --- pictures ----------------------------------------------------------------------------


def test_feature_maps_are_those_of_the_stage(tmp_path: Path, images: Images) -> None:
    model = small()
    image = images(16, 16, 3)
    found = kb.feature_maps(model, image, "stage2", tmp_path / "maps.png")
    np.testing.assert_allclose(found, run(kb.extract(model, "stage2"), image[None])[0], atol=1e-6)
    pixels = np.asarray(Image.open(tmp_path / "maps.png"))
    # 32 maps of 8 x 8 pixels, each 64 wide, in a grid of 6 columns with 2 pixels between.
    assert pixels.shape == (6 * 66 + 2, 6 * 66 + 2)
    spans = found.max((0, 1)) - found.min((0, 1))
    assert np.count_nonzero(spans) > 10
    for number, span in enumerate(spans):
        top, left = 2 + number // 6 * 66, 2 + number % 6 * 66
        tile = pixels[top : top + 64 : 8, left : left + 64 : 8].astype(float)
        one = found[..., number]
        expected = 255 * (one - one.min()) / span if span else 0 * one  # flat maps are black
        np.testing.assert_allclose(tile, expected, atol=0.51)
    assert (pixels[:2] == 255).all()


def test_the_first_stage_is_shown_unless_told_otherwise(tmp_path: Path, images: Images) -> None:
    maps = kb.feature_maps(small(), images(16, 16, 3), path=tmp_path / "maps.png", most=4)
    assert maps.shape == (16, 16, 16)
    with Image.open(tmp_path / "maps.png") as image:
        assert image.size == (2 * 66 + 2, 2 * 66 + 2)


def test_first_filters_are_shown_in_colour(tmp_path: Path) -> None:
    model = small()
    kernel = np.asarray(model.get_layer("stem").layers[0].kernel)
    found = kb.first_filters(model, tmp_path / "filters.png")
    np.testing.assert_array_equal(found, kernel.transpose(3, 0, 1, 2))
    image = Image.open(tmp_path / "filters.png")
    assert (image.mode, image.size) == ("RGB", (4 * 68 + 2, 4 * 68 + 2))  # 22 pixels for one
    tile = np.asarray(image)[2:68:22, 2:68:22].astype(float)
    one = kernel[..., 0]
    expected = 255 * (one - one.min()) / (one.max() - one.min())
    np.testing.assert_allclose(tile, expected, atol=0.51)


def test_filters_of_other_channels_are_shown_in_grey(tmp_path: Path) -> None:
    assert kb.first_filters(small(1), tmp_path / "one.png").shape == (16, 3, 3, 1)
    with Image.open(tmp_path / "one.png") as image:
        assert image.mode == "L"
    plain = keras.Sequential([keras.Input((8, 8, 5)), keras.layers.Conv2D(2, 3)])
    assert kb.first_filters(plain, tmp_path / "five.png").shape == (2, 3, 3, 5)


def test_a_picture_without_pillow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"kblocks\[report\]"):
        kb.first_filters(small(), tmp_path / "filters.png")
    assert kb.first_filters(small()).shape == (16, 3, 3, 3)


def test_maps_of_channels_first_models_are_turned(images: Images) -> None:
    keras.config.set_image_data_format("channels_first")
    model = kb.Architecture([kb.ConvBlock.Spec(4, strides=2)]).model((12, 10, 3))
    assert kb.feature_maps(model, images(12, 10, 3)).shape == (6, 5, 4)
    assert kb.adapt_input(model, 1).input_shape == (None, 1, 12, 10)
    assert kb.resize_input(model, (8, 6)).input_shape == (None, 3, 8, 6)


def test_what_cannot_be_shown_is_refused(tmp_path: Path, images: Images) -> None:
    model = small()
    with pytest.raises(ValueError, match=r"`image` must be of shape \(16, 16, 3\).*\(16, 8, 3\)"):
        kb.feature_maps(model, images(16, 8, 3))
    with pytest.raises(ValueError, match=r"must put out a map.*'head'.*\(4,\)"):
        kb.feature_maps(model, images(16, 16, 3), "head")
    with pytest.raises(ValueError, match="stem, stage1"):
        kb.feature_maps(model, images(16, 16, 3), "stage7")
    with pytest.raises(ValueError, match=r"must end in \.png"):
        kb.first_filters(model, tmp_path / "filters.jpg")
    with pytest.raises(ValueError, match="must have a convolution"):
        kb.first_filters(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    assert list(tmp_path.iterdir()) == []


def test_parts_of_a_block_are_extracted(images: Images, tmp_path: Path) -> None:
    """Of a basic block (He et al. 2015): convolution, norm, activation, as Keras computes them."""
    rows = [kb.ConvBlock.Spec(4), kb.ResidualBlock.Spec(6, strides=2)]
    model = kb.Architecture(rows, kb.Classifier(3)).model((8, 8, 3))
    x = images(2, 8, 8, 3)
    before = kb.extract(model, "stage1")(x, training=False)
    block: Any = model.get_layer("stage2")
    conv = kb.extract(model, "stage2/main_conv1")
    expected = keras.ops.conv(before, block.main_conv1.kernel, 2, "same")
    np.testing.assert_allclose(conv(x), expected, atol=1e-5)
    act = kb.extract(model, "stage2/main_act")
    expected = keras.ops.relu(block.main_norm1(conv(x), training=False))
    np.testing.assert_allclose(act.predict(x, verbose=0), expected, atol=1e-5)
    assert kb.feature_maps(model, x[0], "stage2/main_act").shape == (4, 4, 6)

    act.save(tmp_path / "act.keras")
    loaded: Any = keras.models.load_model(tmp_path / "act.keras")
    np.testing.assert_allclose(loaded(x), act(x), atol=1e-6)
    block.main_conv1.kernel.assign(0 * block.main_conv1.kernel)  # the weights are the model's
    assert not np.any(conv(x))


def test_a_part_that_is_not_there_is_refused_with_those_that_are() -> None:
    model = kb.Architecture([kb.ConvBlock.Spec(4)], kb.Classifier(3)).model((8, 8, 3))
    with pytest.raises(ValueError, match=r"conv, norm, act.*Received: stage='stage1/conv9'"):
        kb.extract(model, "stage1/conv9")
    with pytest.raises(ValueError, match="stage1, head"):
        kb.extract(model, "stage9/conv")
    plain = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2, name="dense")])
    with pytest.raises(ValueError, match="no parts of kblocks"):
        kb.extract(plain, "dense/kernel")
