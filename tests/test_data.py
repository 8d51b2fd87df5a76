"""Data of a search: where images come from, how they are split, and what is refused."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from kblocks.tuner.images.data import Data, load
from kblocks.tuner.images.image_files import ImageFiles, _pillow
from kblocks.tuner.images.sources import BUILT_IN
from kblocks.tuner.storing import identity

Array = np.ndarray


def sized(number: int, *shape: int, high: int = 256) -> Array:
    """Bytes, the same in each test, of which every image is its own."""
    return np.random.default_rng(3).integers(0, high, (number, *shape), dtype="uint8")


def labels(*counts: int) -> Array:
    """So many of class 0, so many of class 1, ..., mixed."""
    ordered = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(4).permutation(ordered)


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path / "set.npz", **arrays)
    return str(path / "set.npz")


def images_of(data: Data) -> dict[str, set[bytes]]:
    return {name: {image.tobytes() for image in part[0]} for name, part in data.parts().items()}


def test_digits_are_split_in_three_of_every_class() -> None:
    """1,797 images of 8x8 with values from 0 to 16, as scikit-learn documents them."""
    data = load("digits")
    assert data.input_shape == (8, 8, 1)
    assert data.classes == 10
    assert data.class_names == tuple("0123456789")
    sizes = {name: len(part[0]) for name, part in data.parts().items()}
    assert sum(sizes.values()) == 1797
    assert sizes["test"] == pytest.approx(0.2 * 1797, abs=5)
    assert sizes["validation"] == pytest.approx(0.2 * 0.8 * 1797, abs=5)
    for x, y in data.parts().values():
        assert x.dtype == "float32"
        assert (x.min(), x.max()) == (0, 1)
        assert np.bincount(y) == pytest.approx(len(y) / 10, rel=0.1)


def test_the_same_seed_gives_the_same_split_and_another_another() -> None:
    first, again, other = load("digits"), load("digits"), load("digits", seed=1)
    assert identified(first) == identified(again)
    assert identified(first)["test"] != identified(other)["test"]


def identified(data: Data) -> dict[str, Any]:
    """What identifies the parts of data, as a search records it."""
    return identity.fingerprint(data.parts())


@pytest.mark.parametrize("limit", [None, 40])
def test_the_parts_share_no_image_and_the_search_is_not_given_the_test(
    tmp_path: Path, limit: int | None
) -> None:
    x, y = sized(300, 5, 6, 3), labels(150, 100, 50)
    data = load(npz(tmp_path, x=x, y=y), limit=limit)
    found = images_of(data)
    everything = {(image / np.float32(255)).tobytes() for image in x}
    assert found["train"] | found["validation"] | found["test"] <= everything
    assert sum(map(len, found.values())) == len(set().union(*found.values()))
    assert len(found["test"]) == 60
    if limit:
        assert len(found["train"] | found["validation"]) == pytest.approx(limit, abs=2)
    given = data.fit_arguments()
    assert set(given) == {"x", "y", "validation_data"}
    seen = {image.tobytes() for image in (*given["x"], *given["validation_data"][0])}
    assert seen & found["test"] == set()


def test_a_class_has_its_share_of_every_part(tmp_path: Path) -> None:
    data = load(npz(tmp_path, x=sized(300, 5, 6), y=labels(150, 100, 50)))
    counts = {name: np.bincount(part[1]).tolist() for name, part in data.parts().items()}
    assert counts == {"test": [30, 20, 10], "validation": [24, 16, 8], "train": [96, 64, 32]}


def test_three_images_of_a_class_are_one_for_each_part(tmp_path: Path) -> None:
    data = load(npz(tmp_path, x=sized(103, 5, 6), y=labels(100, 3)), test=0.9, validation=0.9)
    assert [np.bincount(part[1])[1] for part in data.parts().values()] == [1, 1, 1]


def test_parts_of_an_npz_are_kept(tmp_path: Path) -> None:
    x, y = sized(60, 4, 4), labels(20, 20, 20)
    own = {"x_train": x[:30], "x_val": x[30:40], "x_test": x[40:]}
    own |= {"y_train": y[:30], "y_val": y[30:40], "y_test": y[40:]}
    data = load(npz(tmp_path, **own))
    for part, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        found, expected = data.parts()[part], own[f"x_{name}"]
        np.testing.assert_allclose(found[0][..., 0] * 255, expected, atol=1e-4)
        np.testing.assert_array_equal(found[1], own[f"y_{name}"])


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file of ours where Keras keeps MNIST once it was downloaded."""
    folder = tmp_path / "datasets"
    folder.mkdir()
    x, y = sized(200, 28, 28), labels(*[20] * 10)
    np.savez(folder / "mnist.npz", x_train=x[:150], y_train=y[:150], x_test=x[150:], y_test=y[150:])

    def get_file(fname: str, **_: Any) -> str:
        return str(folder / fname)

    monkeypatch.setattr("keras.src.datasets.mnist.get_file", get_file)
    return folder / "mnist.npz"


def test_a_built_in_set_keeps_its_own_test_part(cached: Path) -> None:
    data = load("mnist")
    assert data.input_shape == (28, 28, 1)
    with np.load(cached) as file:
        np.testing.assert_allclose(data.test[0][..., 0] * 255, file["x_test"], atol=1e-4)
        np.testing.assert_array_equal(data.test[1], file["y_test"])
    assert len(data.train[0]) + len(data.validation[0]) == 150
    assert len(load("mnist", limit=50).test[0]) == 50


def test_labels_of_cifar_lose_their_second_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sized(60, 32, 32, 3), labels(30, 30)[:, np.newaxis]
    parts = ((x[:40], y[:40]), (x[40:], y[40:]))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: parts)
    data = load("cifar10")
    assert data.test[1].shape == (20,)
    assert data.class_names[2] == "bird"
    assert data.scale == 255


def test_the_fine_classes_of_cifar_100_are_in_alphabetical_order() -> None:
    """As its page lists them: https://www.cs.toronto.edu/~kriz/cifar.html."""
    names = BUILT_IN["cifar100"]
    assert list(names) == sorted(set(names))
    assert [names[n] for n in (0, 1, 19, 49, 52, 99)] == [
        *("apple", "aquarium_fish", "cattle", "mountain", "oak_tree", "worm"),
    ]
    assert len(names) == 100


def test_what_cannot_be_downloaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.datasets.cifar100, "load_data", fails)
    with pytest.raises(ValueError, match="'cifar100' could not be loaded: URL fetch failure"):
        load("cifar100")


def idx(array: Array) -> bytes:
    """As the format's description has it, written by struct."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(tmp_path: Path, packed: bool) -> None:
    x, y = sized(60, 7, 9), labels(30, 30).astype("uint8")
    for part, rows in (("train", slice(40)), ("t10k", slice(40, 60))):
        for name, array in ((f"{part}-images-idx3-ubyte", x), (f"{part}-labels-idx1-ubyte", y)):
            content = idx(array[rows])
            path = tmp_path / (name + ".gz" * packed)
            path.write_bytes(gzip.compress(content) if packed else content)
    data = load(str(tmp_path))
    assert data.input_shape == (7, 9, 1)
    np.testing.assert_allclose(data.test[0][..., 0] * 255, x[40:], atol=1e-4)
    np.testing.assert_array_equal(data.test[1], y[40:])
    path.write_bytes(gzip.compress(content[:-1]) if packed else content[:-1])
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte.*idx file of bytes"):
        load(str(tmp_path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten red and ten blue images of 12x10."""
    for name, color in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (10, 12), color).save(tmp_path / "set" / name / f"{number}.png")
    return tmp_path / "set"


def test_a_folder_of_class_folders(folder: Path) -> None:
    data = load(str(folder), image_size=(8, 6), batch_size=4)
    assert data.class_names == ("blue", "red")
    assert (data.classes, data.input_shape) == (2, (8, 6, 3))
    assert [len(part.names) for part in data.parts().values()] == [12, 4, 4]
    names = [set(part.names) for part in data.parts().values()]
    assert len(set().union(*names)) == 20
    for part in data.parts().values():
        assert np.bincount(part.labels).tolist() == [len(part.names) / 2] * 2
        for x, y in part:
            assert x.shape[1:] == (8, 6, 3)
            assert x.dtype == "float32"
            np.testing.assert_array_equal(x[:, 0, 0, 0], y)  # red is class 1
            np.testing.assert_array_equal(x[:, 0, 0, 2], 1 - y)


def test_a_folder_is_trained_on_in_another_order_each_epoch(folder: Path) -> None:
    train = load(str(folder), image_size=(8, 6), batch_size=12).train
    orders = []
    for _ in range(3):
        orders.append(train[0][1].tolist())
        train.on_epoch_end()
    assert len({str(order) for order in orders}) > 1
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_images_are_read_as_keras_reads_them(folder: Path, mode: str) -> None:
    path = folder / "red" / "0.png"
    Image.effect_noise((20, 14), 60).convert(mode).save(path)
    files = ImageFiles(folder, ["red/0.png"], np.array([0]), ("red",), (9, 11))
    known = keras.utils.load_img(path, target_size=(9, 11), interpolation="bilinear")
    np.testing.assert_array_equal(files[0][0][0], np.asarray(known, "float32") / 255)


@pytest.mark.parametrize("name", ["0.png", "0.tiff"])
def test_grey_images_of_16_bits_keep_their_shades(folder: Path, name: str) -> None:
    shades = np.linspace(0, 65535, 12 * 10).astype("uint16").reshape(12, 10)
    Image.fromarray(shades).save(folder / name)
    expected = np.repeat((shades / 65535)[..., None], 3, axis=-1)
    np.testing.assert_allclose(image(folder, name, 12, 10), expected, atol=1e-5)


# Which sides of the picture the first row and the first column hold: EXIF 2.3, tag 0x0112.
SIDES = "top-left top-right bottom-right bottom-left left-top right-top right-bottom left-bottom"


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("deep", [False, True])
def test_photos_are_turned_upright(folder: Path, name: str, deep: bool) -> None:
    if deep and name == "a.webp":
        pytest.skip("WebP has 8 bits")
    upright = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype("uint8")
    upright = upright[..., 0].astype("uint16") * 257 if deep else upright
    for orientation, sides in enumerate(SIDES.split(), 1):
        row, column = sides.split("-")
        stored = upright.swapaxes(0, 1) if row in ("left", "right") else upright
        stored = stored[::-1] if row in ("bottom", "right") else stored
        stored = stored[:, ::-1] if column in ("bottom", "right") else stored
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(stored)).save(folder / name, exif=exif, lossless=True)
        expected = upright[..., None] / 65535 if deep else upright / 255
        np.testing.assert_allclose(image(folder, name, 5, 7), expected + np.zeros(3), atol=1e-5)


def test_damaged_exif_data_leave_an_image_as_it_lies(folder: Path) -> None:
    Image.new("RGB", (6, 4), "red").save(folder / "a.png", exif=b"Exif\0\0no TIFF header")
    assert image(folder, "a.png", 4, 6)[..., 0].min() == 1


def test_hidden_files_and_folders_are_skipped(folder: Path) -> None:
    before = identified(load(str(folder)))
    deeper = folder / "red" / "more" / ".cache"
    for hidden in (folder / ".git", folder / "red" / ".ipynb_checkpoints", deeper):
        hidden.mkdir(parents=True)
        Image.new("RGB", (5, 5)).save(hidden / "0-checkpoint.png")
    (folder / "blue" / "._0.png").write_bytes(b"Mac OS X")
    assert identified(load(str(folder))) == before


def test_an_image_that_is_too_large_for_pillow_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 120 pixels: it warns from its limit on, which would fail this test, and then refuses."""
    _pillow.cache_clear()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert len(load(str(folder)).train[0][1]) == 12
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ValueError, match=r"blue/0\.png: Image size \(120 pixels\) exceeds limit"):
        load(str(folder))


def test_a_class_that_is_too_small_is_named(folder: Path) -> None:
    (folder / "green").mkdir()
    Image.new("RGB", (6, 4)).save(folder / "green" / "0.png")
    with pytest.raises(ValueError, match="class green with 1"):
        load(str(folder))


def test_floats_in_a_tiff_file_are_refused(folder: Path) -> None:
    Image.new("F", (6, 4)).save(folder / "red" / "a.tif")
    with pytest.raises(ValueError, match=r"red/a\.tif: its pixels are floats"):
        load(str(folder))


def image(folder: Path, name: str, height: int, width: int) -> Array:
    """One file as it is read."""
    return ImageFiles(folder, [name], np.array([0]), ("red",), (height, width))[0][0][0]


def test_keras_trains_on_a_folder(folder: Path) -> None:
    data = load(str(folder), image_size=(8, 6), batch_size=4)
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input(data.input_shape), *head])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.1), loss, metrics=["accuracy"])
    history = model.fit(**data.fit_arguments(), epochs=10, verbose=0).history
    assert history["val_accuracy"][-1] == 1
    assert model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"] == 1


def test_fingerprint_of_a_folder_is_of_names_and_sizes(folder: Path) -> None:
    def hashes() -> set[str]:
        return {part["hash"] for part in identified(load(str(folder))).values()}

    first = hashes()
    assert hashes() == first
    Image.new("RGB", (99, 99), (255, 0, 0)).save(folder / "red" / "3.png")
    assert len(hashes() & first) == 2  # the parts without that image


def test_a_search_on_a_folder_is_told_what_kblocks_itself_has_changed(folder: Path) -> None:
    """A photo that is now turned is another image, though its file is the same."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 12), "red").save(folder / "red" / "a.jpg", exif=exif)
    files = ImageFiles(folder, ["red/a.jpg"], np.array([0]), ("red",), (12, 10))
    size = (folder / "red" / "a.jpg").stat().st_size
    before = hashlib.blake2b(f"red/a.jpg\0{size}\0".encode(), digest_size=8).hexdigest()
    now = {"data": {"x": files.fingerprint()}}
    known = {"data": {"x": {**files.fingerprint(), "hash": before}}}
    with pytest.raises(identity.ChangedError, match=r"x: hash was .*\n.*EXIF data"):
        identity.check(known, now)
    del exif[0x0112]
    Image.new("RGB", (10, 12), "red").save(folder / "red" / "a.jpg")
    size = (folder / "red" / "a.jpg").stat().st_size
    before = hashlib.blake2b(f"red/a.jpg\0{size}\0".encode(), digest_size=8).hexdigest()
    assert files.fingerprint()["hash"] == before


def test_a_search_knows_a_folder_by_its_fingerprint(folder: Path) -> None:
    """What `resume` compares."""
    train = load(str(folder)).train
    assert identity.fingerprint(train) == train.fingerprint()


def test_datasets_of_keras_are_taken(folder: Path) -> None:
    """Two of `image_dataset_from_directory`, of which only their form tells them from others."""
    both: Any = keras.utils.image_dataset_from_directory(
        folder, validation_split=0.2, subset="both", seed=1, image_size=(8, 6), verbose=False
    )
    data = Data(*both, class_names=tuple(both[0].class_names))
    assert (data.input_shape, data.classes) == ((8, 6, 3), 2)
    assert data.fit_arguments() == {"x": both[0], "validation_data": both[1]}
    assert re.match(r"dataset of 1 x .*8, 6, 3", identified(data)["train"])
    with pytest.raises(ValueError, match="class_names"):
        _ = Data(*both).classes


def test_resizing(tmp_path: Path) -> None:
    x = np.stack([np.full((8, 8), value, "uint8") for value in range(60)])
    data = load(npz(tmp_path, x=x, y=labels(30, 30)), image_size=(5, 4))
    assert data.input_shape == (5, 4, 1)
    found = np.concatenate([part[0] for part in data.parts().values()])
    means = found.mean((1, 2, 3)) * 255  # of an even image any resizing leaves it
    np.testing.assert_allclose(np.sort(means), np.arange(60), atol=1e-3)


def test_arguments_of_fit_are_passed_on() -> None:
    x, y = np.zeros((4, 8, 8, 1)), np.array([0, 1, 2, 1])
    data = Data((x, y), (x, y), fit={"epochs": 3})
    assert data.fit_arguments() == {"x": x, "y": y, "validation_data": (x, y), "epochs": 3}
    assert data.classes == 3
    assert type(Data([x, y], [x, y]).validation) is tuple
    with pytest.raises(ValueError, match=r"arrays\. Received: ndarray, nd"):
        Data((x, y, y), (x, y))
    assert Data((x, np.eye(4)), (x, np.eye(4))).classes == 4


GOOD = {"x": sized(40, 6, 6), "y": labels(20, 20)}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "lengths": ({**GOOD, "y": labels(20, 19)}, "`train`.*40 images and 39 labels"),
    "one of a class": ({**GOOD, "y": labels(39, 1)}, "at least 3 images.*class 1 with 1"),
    "one class": ({**GOOD, "y": labels(40)}, "at least two classes"),
    "rank": ({**GOOD, "x": sized(40, 6)}, r"`train`.*x of shape \(40, 6\)"),
    "rank 5": ({**GOOD, "x": sized(40, 6, 6, 3, 1)}, "`train`.*x of shape"),
    "labels": ({**GOOD, "y": labels(20, 20) / 2}, "whole numbers.*train with 0.5"),
    "one-hot": ({**GOOD, "y": np.eye(2)[labels(20, 20)]}, r"argmax\(y, axis=1\).*\(40, 2\)"),
    "channels first": ({**GOOD, "x": sized(40, 3, 32, 48)}, r"channels last.*\(40, 3, 32, 48\)"),
    "NaN": ({**GOOD, "x": np.full((40, 6, 6), np.nan)}, "from nan to nan"),
    "range": ({**GOOD, "x": sized(40, 6, 6) * 1.0}, "floats must be from 0 to 1.*255"),
    "high": ({**GOOD, "x": sized(40, 6, 6) * np.int64(9)}, "from 0 to 255"),
    "none": ({"x": sized(0, 6, 6), "y": labels()}, "shape"),
    "names": ({"images": GOOD["x"], "y": GOOD["y"]}, r"arrays x and y.*\['images', 'y'\]"),
    "shapes": (
        {
            **{f"{name}_train": array for name, array in GOOD.items()},
            **{"x_test": sized(40, 7, 7), "y_test": GOOD["y"]},
        },
        "one shape.*7, 7",
    ),
}


@pytest.mark.parametrize(("arrays", "message"), BAD.values(), ids=BAD.keys())
def test_bad_arrays(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load(npz(tmp_path, **arrays))


def test_good_arrays_are_taken(tmp_path: Path) -> None:
    """What the bad ones differ from."""
    assert load(npz(tmp_path, **GOOD)).input_shape == (6, 6, 1)


@pytest.mark.parametrize("size", [None, (16, 16)])
def test_channels_that_stand_first_are_refused_at_every_door(
    tmp_path: Path, size: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of arrays, files and Keras' own sets, resized or not; Keras' own are turned."""
    x, y = sized(60, 3, 32, 32), labels(30, 30)
    message = r"channels last: np.moveaxis\(x, 1, -1\)\. Received: .*\(60, 3, 32, 32\)"
    with pytest.raises(ValueError, match=message):
        load(npz(tmp_path, x=x, y=y), image_size=size)
    with pytest.raises(ValueError, match=message):
        Data((x / 255, y), (x / 255, y))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: ((x, y), (x, y)))
    with pytest.raises(ValueError, match=message):
        load("cifar10", image_size=size)
    keras.config.set_image_data_format("channels_first")  # which Keras then gives
    data = load("cifar10", image_size=size)
    assert data.input_shape == (*(size or (32, 32)), 3)
    if size is None:
        np.testing.assert_allclose(data.test[0] * 255, np.moveaxis(x, 1, -1), atol=1e-3)


@pytest.mark.parametrize(
    "shape", [(3, 5, 3), (1, 128, 9), (4, 4, 7), (2, 32, 32), (32, 32, 200), (3, 300, 20)]
)
def test_odd_images_with_the_channels_last_are_taken(shape: tuple[int, ...]) -> None:
    x, y = np.zeros((4, *shape), "float32"), np.array([0, 1, 0, 1])
    assert Data((x, y), (x, y)).input_shape == shape


def test_a_dataset_with_channels_first_is_refused() -> None:
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensors((np.zeros((2, 3, 8, 8)), np.zeros(2)))
    with pytest.raises(ValueError, match=r"moveaxis.*train of shape \(2, 3, 8, 8\)"):
        Data(dataset, None)


NO_CLASSES = {
    "texts": (["cat", "dog"] * 6, r"numbers; .*np.unique.*train of dtype <U3"),
    "below 0": ([0, -1] * 6, "count from 0 in whole numbers.*train with -1"),
    "NaN": ([0, np.nan] * 6, "train with nan"),
    "gaps": ([0, 10, 20, 30] * 3, r"all parts.*np.unique.*no label 1, but 30"),
    "one column": ([[1], [2]] * 6, "no label 0, but 2"),
    "huge": ([0, 3_000_000_000] * 6, "no label 1, but 3000000000"),
}


@pytest.mark.parametrize(("wrong", "message"), NO_CLASSES.values(), ids=NO_CLASSES.keys())
def test_labels_that_are_no_classes_are_refused_at_every_door(
    tmp_path: Path, wrong: list[Any], message: str
) -> None:
    x, y = np.zeros((12, 8, 8, 1), "float32"), np.array(wrong)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        Data((x, y), (x, y))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load(npz(tmp_path, x=x, y=y))
    renumbered = np.unique(y, return_inverse=True)[1]
    assert Data((x, renumbered), (x, renumbered)).classes == len(np.unique(y))


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    x, y = sized(12, 8, 8), np.array([0, 2] * 6)
    names = np.array(["cat", "dog", "owl"])
    data = load(npz(tmp_path, x=x, y=y, class_names=names))
    assert (data.class_names, data.classes) == (("cat", "dog", "owl"), 3)
    with pytest.raises(ValueError, match=r"`class_names`.*2 names and the label 2"):
        load(npz(tmp_path, x=x, y=y, class_names=names[:2]))


TARGETS = {
    "one float": np.array([0.5, -3, 40, 0]),
    "boxes": np.full((4, 4), 0.5),
    "points": np.full((4, 5, 2), -1.0),
    "masks": np.full((4, 8, 8), 255),
    "several labels": np.array([[0, 1, 1]] * 4),
    "objects": np.full((4, 2, 5), -1.0),
    "yes or no": np.array([True, False, True, True]),
}


@pytest.mark.parametrize("y", TARGETS.values(), ids=TARGETS.keys())
def test_targets_that_are_no_labels_are_taken(y: Array) -> None:
    x = np.zeros((4, 8, 8, 3))
    assert Data((x, y), (x, y)).fit_arguments()["y"] is y


def test_floats_are_checked_where_they_are_to_be_classes() -> None:
    x, y = np.zeros((4, 8, 8, 3)), np.array([0.5, 1, 2, 3])
    with pytest.raises(ValueError, match=r"whole numbers.*train with 0\.5"):
        _ = Data((x, y), None).classes
    with pytest.raises(ValueError, match=r"whole numbers.*train with 0\.5"):
        Data((x, y), None, class_names=tuple("abcd"))
    assert Data((x, np.array([1.0, 2, 1, 0])), None).classes == 3


def test_scale_leads_back_to_the_values_of_the_source(tmp_path: Path, folder: Path) -> None:
    """Those of scikit-learn's digits are whole numbers up to 16."""
    x, y = sized(40, 6, 6), labels(20, 20)
    own = npz(tmp_path, x_train=x, y_train=y, x_test=x, y_test=y)
    assert load(own).scale == 255
    np.testing.assert_allclose(load(own).test[0][..., 0] * load(own).scale, x, atol=1e-4)
    assert load(npz(tmp_path, x=x / 255, y=y)).scale == 1
    assert load(str(folder)).scale == 255
    data = dataclasses.replace(load("digits"), fit={"epochs": 1})
    values = data.train[0] * data.scale
    assert (values.max(), (values == values.round()).all()) == (16, True)
    with pytest.raises(ValueError, match=r"`scale` must be a positive number.*0"):
        dataclasses.replace(data, scale=0)


def test_a_member_that_is_no_array(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as file:
        file.writestr("x", "text")
        with file.open("y.npy", "w") as member:
            np.save(member, GOOD["y"])
    with pytest.raises(ValueError, match=r"must have arrays x and y.*Received: \['y'\]"):
        load(str(tmp_path / "set.npz"))
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as file:
        file.writestr("x.npy", "text")
        file.writestr("y.npy", "text")
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz of arrays"):
        load(str(tmp_path / "other.npz"))


def test_arrays_larger_than_memory_are_refused_by_their_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 TB of bytes that a header promises are 8 TB as images of float32; none are read."""
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": (2_000_000, 1000, 1000, 1)}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as file:
        file.writestr("x.npy", header.getvalue())
        with file.open("y.npy", "w") as member:
            np.save(member, GOOD["y"])
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ValueError, match=r"fit into memory\. Received: arrays of 8,000\.0 GB"):
        load(str(tmp_path / "set.npz"))


def test_an_unknown_name_lists_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"digits, mnist, fashion_mnist.*Received: 'digit'"):
        load("digit")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    path = npz(tmp_path, x=np.array([Evil()], object), y=GOOD["y"])
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz"):
        load(path)
    assert not (tmp_path / "ran").exists()
    Path(path).write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz"):
        load(path)


def test_bad_folders(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty, with no folders in it"):
        load(str(tmp_path / "empty"))
    folder.rename(tmp_path / "empty" / "Train")
    with pytest.raises(ValueError, match="empty, with Train in it"):
        load(str(tmp_path / "empty"))
    (tmp_path / "empty" / "Train").rename(folder)
    (folder / "green").mkdir()
    with pytest.raises(ValueError, match=r"none in .*green"):
        load(str(folder))
    (folder / "green" / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"green/a\.png: no image of a kind"):
        load(str(folder))


def test_an_image_that_is_cut_off_is_named_when_it_is_read(folder: Path) -> None:
    """Its head is whole, so that only reading it tells."""
    path = folder / "red" / "5.png"
    Image.effect_noise((100, 100), 50).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    parts: list[ImageFiles] = list(load(str(folder)).parts().values())
    part = next(part for part in parts if "red/5.png" in part.names)
    with pytest.raises(ValueError, match=r"red/5\.png"):
        list(part)


@pytest.mark.parametrize("argument", [{"test": 0}, {"validation": 1.0}, {"limit": 0}])
def test_bad_arguments(argument: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(argument))):
        load("digits", **argument)


BAD_PAIRS = {
    "label": ((np.zeros((4, 8, 8, 1)), np.zeros(3)), "4 images and 3 labels"),
    "number": ((np.zeros((4, 8, 8)), np.zeros(4)), r"\(4, 8, 8\)"),
    "finite": ((np.full((4, 8, 8, 1), np.inf), np.zeros(4)), "finite.*inf"),
    "arrays": (([1, 2], [0, 1]), "arrays"),
}


@pytest.mark.parametrize(("pair", "message"), BAD_PAIRS.values(), ids=BAD_PAIRS.keys())
def test_bad_pairs(pair: Any, message: str) -> None:
    good = (np.zeros((4, 8, 8, 1)), np.zeros(4, int))
    with pytest.raises(ValueError, match=f"`validation`.*{message}"):
        Data(good, pair)
