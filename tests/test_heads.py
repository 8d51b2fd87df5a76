"""Heads on architectures: the pyramid, rows and outputs, static cost, files, bad input."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from counting import as_count, counted

import kblocks as kb
from kblocks.heads.pyramid import ResizeLike

Images = Callable[..., np.ndarray]
INPUT = (64, 48, 3)
BODY: dict[str, Any] = {"blocks": (1, 1, 1, 1), "filters": (8, 12, 16, 20)}


def network(head: Any) -> kb.Architecture:
    return kb.resnet(3, **BODY, head=head)


# By name: a head, and the shape of each output for INPUT.
HEADS: dict[str, tuple[Callable[[], Any], Any]] = {
    "classifier": (lambda: kb.Classifier(5), (5,)),
    "box": (lambda: kb.BoxRegressor(hidden=(7,)), (4,)),
    "localizer": (lambda: kb.Localizer(5), {"class": (5,), "box": (4,)}),
    "heatmaps": (lambda: kb.Keypoints(6, filters=8), (6, 2)),
    "coordinates": (lambda: kb.Keypoints(6, "coordinates", hidden=(7,)), (6, 2)),
    "FCN-32s": (lambda: kb.Segmenter(5, None), (64, 48, 5)),
    "FCN-16s": (lambda: kb.Segmenter(5, 16), (64, 48, 5)),
    "FCN-8s": (lambda: kb.Segmenter(5, 8), (64, 48, 5)),
    "one level": (lambda: kb.Detector(3, 16, filters=8), (4, 3, 7)),
    "three levels": (
        lambda: kb.Detector(3, (32, 8, 16), filters=8, depth=2),
        {
            "objects_stride8": (8, 6, 7),
            "objects_stride16": (4, 3, 7),
            "objects_stride32": (2, 2, 7),
        },
    ),
    "several": (
        lambda: {
            "kind": kb.Classifier(5),
            "corners": kb.Keypoints(2, filters=8),
            "found": kb.Detector(3, (8, 16), filters=8),
            "where": kb.Localizer(4),
            "mask": kb.Segmenter(4, 16),
        },
        {
            "kind": (5,),
            "corners": (2, 2),
            "found_stride8": (8, 6, 7),
            "found_stride16": (4, 3, 7),
            "where_class": (4,),
            "where_box": (4,),
            "mask": (64, 48, 4),
        },
    ),
}
each_head = pytest.mark.parametrize(
    ("make", "shape"), HEADS.values(), ids=[name.replace(" ", "_") for name in HEADS]
)


@each_head
def test_cost_and_outputs_are_those_of_the_model(
    make: Callable[[], Any], shape: Any, images: Images
) -> None:
    net = network(make())
    cost = net.cost(INPUT)
    assert cost.output_shape == shape
    assert as_count(cost) == counted(net.model(INPUT), images(1, *INPUT))
    assert sum(one.params for _, one in net.stages(INPUT)) == cost.params


@each_head
def test_json_keeps_heads_with_their_tasks_and_targets(make: Callable[[], Any], shape: Any) -> None:
    net = network(make())
    again = kb.Architecture.from_json(json.loads(json.dumps(net.to_json())))
    assert again == net
    assert again.targets == net.targets
    assert again.head.targets == net.head.targets
    assert again.head.loss_weights() == net.head.loss_weights()


@pytest.mark.thin(4)
@each_head
def test_a_size_unknown_when_traced(make: Callable[[], Any], shape: Any, images: Images) -> None:
    """Where the head does not flatten a map."""
    net = network(make())
    if any(
        "Regressor" in row.spec._block.__name__ for row in net.rows if hasattr(row.spec, "_block")
    ):
        with pytest.raises(ValueError, match=r"known|given"):
            net.model((None, None, 3))
        return
    free, known = net.model((None, None, 3)), net.model(INPUT)
    known.set_weights(free.get_weights())
    x = images(2, *INPUT)
    predicted = keras.tree.flatten(free.predict(x, verbose=0))
    for one, other in zip(predicted, keras.tree.flatten(known(x)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.thin(4)
@each_head
def test_saved_models_load_with_their_tasks(
    make: Callable[[], Any], shape: Any, tmp_path: Path, images: Images
) -> None:
    """Compiled with the head's losses and metrics, as `fit` leaves them."""
    net = network(make())
    model = net.model(INPUT)
    model.compile("sgd", **net.head.training())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert kb.tasks_of(loaded).targets == net.head.targets
    x = images(1, *INPUT)
    pairs = zip(keras.tree.flatten(loaded(x)), keras.tree.flatten(model(x)), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.thin(4)
@each_head
def test_fused_models_give_the_same(make: Callable[[], Any], shape: Any, images: Images) -> None:
    model, x = network(make()).model(INPUT), images(1, *INPUT)
    pairs = zip(keras.tree.flatten(kb.fuse(model)(x)), keras.tree.flatten(model(x)), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_levels_share_the_tower_and_no_more() -> None:
    """Of 8 filters: two convolutions of 3x3 and two group norms; a map of its own each."""
    one, three = (network(kb.Detector(3, s, filters=8, depth=2)) for s in (8, (8, 16, 32)))
    more = three.cost(INPUT).params - one.cost(INPUT).params
    own_map = 9 * 8 * 7 + 7
    assert more == 2 * own_map


@pytest.mark.slow
def test_heads_of_every_family(images: Images) -> None:
    """Also where auxiliary heads stand beside, which are told classes."""
    heads = {"mask": kb.Segmenter(3), "logits": kb.Classifier(1000)}
    nets = [
        kb.googlenet(head=heads, width=0.1),
        kb.densenet(growth_rate=4, head=kb.Localizer(3)),
        kb.vgg(filters=(4, 6, 8, 8, 8), head=kb.Keypoints(3)),
    ]
    shape = (96, 96, 3)
    for net in nets:
        for aux in {False, bool(net.auxiliary)}:
            found = counted(net.model(shape, aux=aux), images(1, *shape))
            assert as_count(net.cost(shape, aux=aux)) == found


def test_searched_heads() -> None:
    """Weights of losses in a recipe; arguments of a head in a space."""
    space = kb.Space(kb.resnet, **BODY, head=kb.choice(kb.Localizer(3), kb.Classifier.Spec(3)))
    nets = [space.build(space.sample(seed=i)) for i in range(8)]
    assert {len(net.outputs) for net in nets} == {1, 2}

    def build(box_weight: float) -> kb.Architecture:
        return network(kb.Localizer(3, box_weight=box_weight))

    weighted = kb.Space(build, box_weight=kb.real(0.5, 5.0))
    found = weighted.build(weighted.sample(seed=1)).head.loss_weights()
    assert found["class"] == 1.0
    assert 0.5 <= found["box"] <= 5.0
    model = network(kb.Localizer(3, box_weight=3.0)).model(INPUT)
    recipe = kb.Recipe(loss_weights={"box": kb.real(0.5, 5.0)})
    assert list(recipe.tree().dimensions) == ["recipe.loss_weights.box"]
    recipe.compile(model, loss_weights={"box": 2.0})
    x, y = np.zeros((2, *INPUT), "float32"), {"class": [0, 1], "box": [[0.1, 0.1, 0.6, 0.7]] * 2}
    y = {name: np.array(value, "float32") for name, value in y.items()}
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(logs["class_loss"] + 2 * logs["box_loss"], rel=1e-5)
    with pytest.raises(ValueError, match="label_smoothing"):
        kb.Recipe(label_smoothing=0.1).compile(model)


# --- the pyramid ---------------------------------------------------------------------------


def test_pyramid_of_published_networks() -> None:
    """Rows and sizes as the papers' tables have them (He et al. 2015, Table 1)."""
    levels = kb.resnet50().pyramid((224, 224, 3))
    assert [tuple(level) for level in levels] == [
        ("stage1_block3", 4, (56, 56, 256)),
        ("stage2_block4", 8, (28, 28, 512)),
        ("stage3_block6", 16, (14, 14, 1024)),
        ("stage4_block3", 32, (7, 7, 2048)),
    ]
    # Szegedy et al. 2015, Table 1: valid padding, so that sizes are no multiples.
    sizes = {level.stride: level.shape[:2] for level in kb.inception_v3().pyramid((299, 299, 3))}
    assert sizes == {4: (71, 71), 8: (35, 35), 16: (17, 17), 32: (8, 8)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "efficientnet_b0"),
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("densenet121", "tresnet_m")),
    ],
)
def test_features_are_the_maps_of_the_model(name: str, images: Images) -> None:
    net = kb.architecture(name)
    shape = (64, 64, 3)
    features = net.features(shape)
    assert list(features.output) == ["stride4", "stride8", "stride16", "stride32"]
    model = net.model(shape)
    for layer in features.layers:
        model.get_layer(layer.name).set_weights(layer.get_weights())
    x = images(1, *shape)
    for level, found in zip(net.pyramid(shape), features(x).values(), strict=True):
        assert found.shape == (1, *level.shape)
        inner = keras.Model(model.input, model.get_layer(level.row).output)
        np.testing.assert_allclose(found, inner(x), rtol=1e-4, atol=1e-4)


def test_missing_strides_are_told_and_left_out() -> None:
    with pytest.warns(UserWarning, match="resnet20 has no map at stride 8, 16, 32"):
        model = kb.resnet20().features((32, 32, 3))
    assert list(model.output) == ["stride4"]
    assert [level.stride for level in kb.resnet20().pyramid((32, 32, 3))] == [4]


def test_features_by_name_and_on_a_tensor() -> None:
    inputs = keras.Input((None, None, 3))
    net = kb.resnet18()
    model = net.features(
        (None, None, 3), ["stem", "stage2", "stage4_block1", 8], input_tensor=inputs
    )
    assert list(model.output) == ["stem", "stage2", "stage4_block1", "stride8"]
    assert model.output["stage2"] is model.output["stride8"]
    assert [lev.row for lev in net.pyramid((64, 64, 3), ["stage2"])] == ["stage2_block2"]


def test_a_stride_that_differs_by_axis_is_a_pair() -> None:
    net = kb.Architecture(
        [kb.ConvBlock.Spec(4, strides=(2, 1)), kb.ConvBlock.Spec(4, strides=(1, 2))]
    )
    assert [level.stride for level in net.pyramid((8, 8, 3), ["stage1", "stage2"])] == [(2, 1), 2]


@pytest.mark.parametrize("levels", [["stage9"], ["logits"], [3], [64], ["head"]])
def test_unknown_levels_are_refused_with_those_that_fit(levels: Any) -> None:
    with pytest.raises(ValueError, match=r"`levels` must be .*(stage1|stride4).*Received"):
        kb.resnet18().features((64, 64, 3), levels)


# --- bilinear steps --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(6, 10), (5, 7), (3, 4)])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_bilinear_resizing_by_hand(size: Any, data_format: str, images: Images) -> None:
    """Each pixel by its own loop: centres at half pixels, edges repeated."""
    x, (height, width) = images(2, 3, 4, 2), size
    expected = np.zeros((2, height, width, 2))
    for i in range(height):
        for j in range(width):
            y, z = (i + 0.5) * 3 / height - 0.5, (j + 0.5) * 4 / width - 0.5
            y, z = min(max(y, 0), 2), min(max(z, 0), 3)
            a, b = int(y), int(z)
            c, d = min(a + 1, 2), min(b + 1, 3)
            top = (1 - (z - b)) * x[:, a, b] + (z - b) * x[:, a, d]
            low = (1 - (z - b)) * x[:, c, b] + (z - b) * x[:, c, d]
            expected[:, i, j] = (1 - (y - a)) * top + (y - a) * low
    like = np.zeros((2, height, width, 5), "float32")
    turn = (0, 3, 1, 2) if data_format == "channels_first" else (0, 1, 2, 3)
    layer = ResizeLike(data_format=data_format)
    found = np.asarray(layer([x.transpose(turn), like.transpose(turn)]))
    np.testing.assert_allclose(found, expected.transpose(turn), rtol=1e-5, atol=1e-6)
    shapes = [x.transpose(turn).shape, like.transpose(turn).shape]
    assert layer.compute_output_shape(shapes) == found.shape


def test_fcn_by_hand(images: Images) -> None:
    """FCN-16s: scores of the deepest map, brought up, plus those of stride 16, brought up."""
    net = network(kb.Segmenter(5, 16))
    model = net.model(INPUT)
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.path.startswith("head"):
            weight.assign(rng.normal(size=weight.shape))
    x = images(1, *INPUT)
    maps = net.features(INPUT, [16, 32])
    for layer in maps.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    fine, coarse = (np.asarray(maps(x)[f"stride{s}"]) for s in (16, 32))
    kernel, bias = model.get_layer("head_score32").get_weights()
    lateral, offset = model.get_layer("head_score16").get_weights()
    scores = keras.ops.image.resize(coarse @ kernel[0, 0] + bias, fine.shape[1:3])
    scores = np.asarray(scores) + fine @ lateral[0, 0] + offset
    expected = keras.ops.image.resize(scores, INPUT[:2])
    np.testing.assert_allclose(model(x), expected, rtol=1e-3, atol=1e-3)


# --- bad input -------------------------------------------------------------------------------


def test_heads_that_do_not_fit_a_network_say_what_does() -> None:
    for head in (kb.Segmenter(3, 2), kb.Keypoints(3, stride=2), kb.Detector(3, (2, 8))):
        with pytest.raises(ValueError, match=r"needs a map at stride 2.*strides 4, 8, 16, 32"):
            network(head)
    for bad in ("Classifier", kb.Classifier, 3.5, True, {"class": 3.5}, {"a b": kb.Classifier(3)}):
        with pytest.raises(ValueError, match=r"head|words"):
            kb.Architecture([kb.ConvBlock.Spec(4)], head=bad)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: kb.Localizer(0), "classes"),
        (lambda: kb.Localizer(3, box_weight=-1), "box_weight"),
        (lambda: kb.Localizer(3, regressor=kb.Classifier(3)), "regressor"),
        (lambda: kb.Keypoints(3, "maps"), "mode"),
        (lambda: kb.Keypoints(0), "points"),
        (lambda: kb.Keypoints(3, pool="avg"), "pool"),
        (lambda: kb.Segmenter(-1), "classes"),
        (lambda: kb.Segmenter(3, void="255"), "void"),
        (lambda: kb.Detector(3, ()), "strides"),
        (lambda: kb.Detector(3, (8, 8)), "strides"),
        (lambda: kb.Detector(3, "8"), "strides"),
        (lambda: kb.BoxRegressor.Spec(pool="avg", pool_size=3), "pool_size"),
    ],
)
def test_bad_arguments_of_heads(make: Callable[[], Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        make()


@pytest.mark.parametrize("name", HEADS)
def test_tasks_are_pickled_and_copied(name: str) -> None:
    """As a search sends them to its workers."""
    tasks = network(HEADS[name][0]()).head

    def told(one: Any) -> Any:  # but for the name, which Keras numbers
        return type(one), {k: v for k, v in one.get_config().items() if k != "name"}

    for again in (pickle.loads(pickle.dumps(tasks)), copy.copy(tasks), copy.deepcopy(tasks)):
        assert again.targets == tasks.targets
        assert again.loss_weights() == tasks.loss_weights()
        for output, loss in tasks.losses().items():
            assert told(again.losses()[output]) == told(loss)
            assert [*map(told, again.metrics()[output])] == [*map(told, tasks.metrics()[output])]


def test_the_activation_of_a_head_is_told_to_be_none_already() -> None:
    """`model.layers[-1].activation = None`, of Keras' Grad-CAM example."""
    model = network(None).model(INPUT)
    with pytest.raises(AttributeError, match=r"'head' gives logits already: leave the line out"):
        model.layers[-1].activation = None
    with pytest.raises(AttributeError, match=r"`strides` of ResidualBlock 'stage2_block1'.*spec"):
        model.get_layer("stage2_block1").strides = 1
    model.layers[-1].trainable = False  # what Keras' layers let one change stays open
    model.layers[-1].name = "top"
