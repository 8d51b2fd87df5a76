"""Augmentation moves what lies in images with them; NumPy says where it lies."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import scenes
from scenes import HEADS, HEIGHT, LAYERS, NUMBER, VOID, WIDTH, Seen, compare, fitted, network

import kblocks as kb
from kblocks.training.augmentation import augment
from kblocks.training.moving import Kind, Moved, for_targets, kinds_of, moved

layers: Any = keras.layers
NAMES = ["flip", "shift", "flip+shift"]
SHAPE = (HEIGHT, WIDTH, 3)


def numpy(structure: Any) -> Any:
    return keras.tree.map_structure(keras.ops.convert_to_numpy, structure)


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_keras_move_all_targets(kind: str) -> None:
    """What a layer uncovers is void."""
    x, y = scenes.scenes()
    kinds = kinds_of(network(HEADS).model(SHAPE))
    weights = {"mask": y["mask"] + 0.5, "label": np.ones(NUMBER)}
    batch = moved((x, y, weights), for_targets(LAYERS[kind]()), kinds)
    found, targets, weights = numpy(batch)
    assert np.mean(np.any(found != x, axis=(1, 2, 3))) > 0.4
    np.testing.assert_array_equal(targets["label"], y["label"])
    compare(found, targets, *((0,) if kind == "flip" else (2.5, VOID)))
    expected = np.where(targets["mask"] == VOID, 0, targets["mask"] + 0.5)
    np.testing.assert_allclose(weights["mask"], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_what_a_step_of_fit_is_told_is_what_it_sees(name: str, compiled: bool) -> None:
    if compiled and name != "flip+shift":
        pytest.skip("by XLA once")
    x, y = fitted(name, compiled)
    compare(x, y)
    share = np.mean(np.any(x != scenes.scenes()[0], axis=(1, 2, 3)))
    assert 0.3 < share < (0.7 if name == "flip" else 1.1)


@pytest.mark.slow
def test_a_layer_of_keras_in_fit() -> None:
    x, y = fitted([layers.RandomBrightness(0.0), layers.Pipeline([LAYERS["rotation"]()])])
    compare(x, y, 2.5, VOID)


@pytest.mark.slow
def test_a_size_that_the_model_does_not_know() -> None:
    x, y = fitted("flip+shift", sizes=(None, None))
    assert len(np.unique(x[..., 0])) == 3
    np.testing.assert_array_equal(y["mask"], x[..., 0])


def test_a_size_that_no_batch_tells() -> None:
    """As of a generator, or of a dataset of images of many sizes."""
    tf = pytest.importorskip("tensorflow")
    x, y = scenes.scenes()
    form = (tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None, None, None), "int32"))
    data = tf.data.Dataset.from_generator(lambda: [(x, y["mask"])], output_signature=form)
    start = keras.Input((None, None, 3))
    seen = Seen(NUMBER, SHAPE)
    model: Any = network(kb.Segmenter(3, 2)).model((None, None, 3), input_tensor=seen(start))
    kb.Recipe(augmentation="flip+shift", metrics=[scenes.Told(y["mask"].shape)]).compile(model)
    model.fit(data.repeat(), steps_per_epoch=1, shuffle=False, verbose=0)
    (told,) = (v for v in model.metrics_variables if v.name == "last")
    np.testing.assert_array_equal(told, seen.last[..., 0])
    assert not np.array_equal(told, y["mask"])


def test_channels_first() -> None:
    keras.config.set_image_data_format("channels_first")
    x, y = scenes.scenes()
    kinds = kinds_of(network(HEADS).model(SHAPE))
    first = x.transpose(0, 3, 1, 2)
    for layer, slack in ((Moved(True, True), ()), (for_targets(LAYERS["zoom"]()), (2.5, VOID))):
        told = {**y, "mask": y["mask"][..., None]}
        found, targets, _ = numpy(moved((first, told, None), layer, kinds))
        compare(found.transpose(0, 2, 3, 1), {**targets, "mask": targets["mask"][..., 0]}, *slack)


def test_an_object_at_the_edge_reaches_it_where_the_edge_is_repeated() -> None:
    """By hand: 8 columns, moved by one to the right; the first column is shown twice."""
    image = np.zeros((200, 8, 8, 1), "float32")
    image[:, 2:4, :3] = 1
    box = np.tile(np.array([[2 / 8, 0, 4 / 8, 3 / 8]], "float32"), (200, 1))
    x, y, _ = numpy(moved((image, box, None), Moved(shift=True), {"box": Kind("box")}))
    found = set()
    for shown, told in zip(x, y, strict=True):
        rows, columns = np.nonzero(shown[..., 0])
        corners = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        np.testing.assert_allclose(told * 8, corners, atol=1e-5)
        found.add(tuple(map(int, corners)))
    assert found == {(2 + d, 0, 4 + d, 3 + r) for d in (-1, 0, 1) for r in (-1, 0, 1)}


def test_places_that_leave_the_image_are_not_to_be_seen() -> None:
    """Unless the targets have no way to say so: then they stay at its edge."""
    x = np.zeros((NUMBER, 8, 8, 3), "float32")
    x[:, 0, 4] = 1
    place = np.tile(np.array([[[0.5 / 8, 4.5 / 8, 1], [np.nan, np.nan, 0]]], "float32"), (40, 1, 1))
    kinds = kinds_of(network(kb.Keypoints(2, stride=2)).model((8, 8, 3)))
    for count in (2, 3):
        keras.utils.set_random_seed(1)
        batch = (x, place[..., :count], None)
        _, y, _ = numpy(moved(batch, Moved(shift=True), kinds))
        rows = y[:, 0, 0] * 8
        assert set(np.round(rows, 2)) == {0.0, 0.5, 1.5}  # up, where it was, down
        if count == 3:
            np.testing.assert_array_equal(y[:, 0, 2] == 1, rows > 0.1)
            assert not y[:, 1, 2].any()


@pytest.mark.parametrize("inputs", ["table", "two images", "dict"])
def test_images_among_other_inputs(inputs: str) -> None:
    x, y = scenes.scenes()
    table = np.arange(NUMBER, dtype="float32")[:, None]
    given: Any = {"table": (x, table), "two images": [x, x[..., :1]]}.get(inputs)
    given = given or {"picture": x, "row": table}
    kinds = kinds_of(network(HEADS).model(SHAPE))
    for layer in (Moved(True, True), for_targets(LAYERS["translation"]())):
        found, targets, _ = numpy(moved((given, y, None), layer, kinds))
        kept = dict(zip("ab", found, strict=True)) if inputs != "dict" else found
        first, second = kept.values()
        compare(first, targets, *((0,) if isinstance(layer, Moved) else (2.5, VOID)))
        np.testing.assert_array_equal(second, first[..., :1] if inputs == "two images" else table)
        assert not np.array_equal(first, x)


def test_images_and_a_table_in_fit() -> None:
    picture, row = keras.Input((8, 16, 2), name="picture"), keras.Input((3,), name="row")
    both = layers.Concatenate()([layers.GlobalAveragePooling2D()(picture), row])
    model: Any = keras.Model({"picture": picture, "row": row}, layers.Dense(2)(both))
    kb.Recipe(augmentation=["flip+shift", layers.RandomBrightness(0.1)]).compile(model)
    x = {"picture": np.ones((8, 8, 16, 2)), "row": np.ones((8, 3))}
    assert np.isfinite(model.fit(x, np.arange(8) % 2, verbose=0).history["loss"][0])


def test_what_is_no_batch_of_images_is_refused_by_name() -> None:
    x, y = scenes.scenes()
    kinds = kinds_of(network(HEADS).model(SHAPE))
    for batch, message in (
        ((np.ones((4, 3)), y, None), "`augmentation` needs images, inputs of"),
        (([x, x[:, ::2]], y, None), "images of one size"),
    ):
        with pytest.raises(ValueError, match=message):
            moved(batch, Moved(flip=True), kinds)
    with pytest.raises(ValueError, match="can move masks of the images' size"):
        moved((x, y["mask"][:, ::2], None), Moved(flip=True), {})


class Own(keras.layers.Layer):
    """A layer of somebody's."""

    def call(self, images: Any) -> Any:
        """Other values."""
        return images + 1.0


class Harmless(Own):
    """One that says that it moves nothing."""

    moves_pixels = False


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.RandomCrop(8, 8),
        lambda: layers.RandomElasticTransform(),
        lambda: layers.RandAugment(),
        lambda: layers.RandomShear(0.2),
        lambda: [layers.RandomBrightness(0.1), Own()],
        lambda: layers.Pipeline([layers.Resizing(8, 8)]),
    ],
)
@pytest.mark.parametrize("head", HEADS)
def test_what_cannot_move_targets_is_refused_by_compile(layer: Any, head: str) -> None:
    model = network(HEADS[head]).model(SHAPE)
    if head == "label":
        kb.Recipe(augmentation=layer()).compile(model)
        return
    with pytest.raises(ValueError, match=rf"`augmentation` must move .*for targets of {head}"):
        kb.Recipe(augmentation=layer()).compile(model)


def test_a_map_of_another_library_is_moved_too() -> None:
    x, y = scenes.scenes()
    start = keras.Input(SHAPE)
    model = keras.Model(start, layers.Conv2D(3, 1)(start))
    with pytest.raises(ValueError, match="`augmentation` must move"):
        kb.Recipe(augmentation=layers.RandomCrop(8, 8)).compile(model)
    for target in (y["mask"], x):  # classes, and what an autoencoder is told
        found, told, _ = numpy(moved((x, target, None), Moved(True, True), kinds_of(model)))
        np.testing.assert_array_equal(told, found[..., 0] if target.ndim == 3 else found)


def test_layers_that_change_values_leave_all_targets() -> None:
    x, y = scenes.scenes()
    kinds = kinds_of(network(HEADS).model(SHAPE))
    for layer in (layers.RandomBrightness(0.5), layers.GaussianNoise(1.0), Harmless()):
        found, targets, _ = moved((x, y, None), layer, kinds)
        assert not np.array_equal(found, x)
        assert targets is not None
        for name, told in targets.items():
            assert told is y[name]


@pytest.mark.slow
def test_a_layer_that_xla_cannot_compile_is_not_compiled() -> None:
    """`compile` would do it on a GPU, where the step then failed."""
    x, y = scenes.scenes()
    model: Any = network(HEADS["label"]).model(SHAPE)
    for layer, compiles in (("flip", True), (layers.RandAugment(), False)):
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True), jit_compile=True)
        augment(model, layer)
        assert model.jit_compile is compiles
        model.fit(x, y["label"], verbose=0)


def test_keras_turns_boxes_about_another_middle() -> None:
    """Half a turn of 32x24 pixels by hand; Keras' own result is a pixel off, in each direction.

    Should this fail, `kblocks.training.moving._BY_MIDDLES` has done its duty.
    """
    turn = layers.RandomRotation((0.5, 0.5), bounding_box_format="xyxy")
    boxes = np.array([[[4, 6, 10, 12]]], "float32")
    given = {"boxes": boxes, "labels": np.zeros((1, 1), "float32")}
    data = {"images": np.zeros((1, 24, 32, 1), "float32"), "bounding_boxes": given}
    data = keras.tree.map_structure(keras.ops.convert_to_tensor, data)
    theirs = numpy(turn(data, training=True)["bounding_boxes"]["boxes"])
    np.testing.assert_allclose(theirs[0, 0], [21, 11, 27, 17], atol=1e-3)
    target = boxes[0][:, [1, 0, 3, 2]] / [24, 32, 24, 32]
    batch = (data["images"], target.astype("float32"), None)
    _, ours, _ = numpy(moved(batch, for_targets(turn), {"box": Kind("box")}))
    np.testing.assert_allclose(ours[0] * [24, 32, 24, 32], [12, 22, 18, 28], atol=1e-3)


def test_keras_cannot_read_the_shear_that_it_writes() -> None:
    """Should this fail, `kblocks.training.augmentation._config` has done its duty."""
    shear = layers.RandomShear(0.1, 0.1)
    with pytest.raises(TypeError):
        layers.RandomShear.from_config(shear.get_config())


@pytest.mark.slow
def test_a_segmenter_is_no_worse_for_augmentation() -> None:
    """Mean IoU on new images of a toy: bright shapes of two kinds on noise."""
    random = np.random.default_rng(0)

    def toy(number: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.zeros((number, 32, 32), "int32")
        for mask in y:
            top, left = random.integers(0, 22, 2)
            if random.integers(2):
                mask[top : top + 10, left : left + 4] = 1
            else:
                mask[top : top + 4, left : left + 10] = 2
        x = (y > 0)[..., None] + random.normal(size=(number, 32, 32, 1)) * 0.5
        return x.astype("float32"), y

    data, new = toy(64), toy(256)
    scores = {}
    for name in (None, "flip+shift"):
        found = []
        for seed in range(2):
            keras.utils.set_random_seed(seed)
            rows: list[Any] = [
                kb.ConvBlock.Spec(16),
                kb.ConvBlock.Spec(16, strides=2),
                kb.ConvBlock.Spec(32, strides=2),
            ]
            model: Any = kb.Architecture(rows, head=kb.Segmenter(3, 1)).model((32, 32, 1))
            recipe = kb.Recipe(learning_rate=3e-3, schedule="cosine", augmentation=name)
            recipe.compile(model)
            more = {"epochs": 40, "batch_size": 16, "verbose": 0}
            model.fit(*data, callbacks=recipe.callbacks(40), **more)
            found.append(model.evaluate(*new, verbose=0, return_dict=True)["mean_iou"])
        scores[name] = np.mean(found)
    print(scores)
    assert scores["flip+shift"] > scores[None] - 0.02
