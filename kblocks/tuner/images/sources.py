"""Reads images as arrays from scikit-learn, Keras, `.npz` files and idx files."""

import gzip
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import psutil

from kblocks.tuner.images.checking import check_labels, check_pair

_DIGITS = tuple("0123456789")
_CLOTHES = "t-shirt or top,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot"
_THINGS = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
_FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
BUILT_IN = {
    "mnist": _DIGITS,
    "fashion_mnist": tuple(_CLOTHES.split(",")),
    "cifar10": tuple(_THINGS.split(",")),
    "cifar100": tuple(_FINE.split()),
}
NAMES = ("digits", *BUILT_IN)
_IDX = {"train": "train", "test": "t10k"}
_RESIZED = 1000  # images that are resized at once


class Found(NamedTuple):
    """The images of a source: "train", and "validation" and "test" if the source has them.

    `scale` is what makes them images from 0 to 1, as in `Data`; None where their dtype says it.
    """

    parts: dict[str, Any]
    class_names: tuple[str, ...] | None = None
    scale: float | None = None


def read(source: str, path: Path) -> Found:
    """Reads the images of a source unchanged; ValueError, with the known ones, for others."""
    if source == "digits":
        return _digits()
    if source in BUILT_IN:
        return _built_in(source)
    if path.is_dir():
        arrays = ("images-idx3-ubyte", "labels-idx1-ubyte")
        pairs = {p: [_idx(path, f"{n}-{a}") for a in arrays] for p, n in _idx_parts(path).items()}
        return Found(pairs)
    if path.suffix == ".npz" and path.is_file():
        return _npz(path)
    raise ValueError(
        f"`source` must be one of {', '.join(NAMES)}, a folder or an .npz file that exists. "
        f"Received: {source!r}"
    )


def prepared(found: Found, image_size: tuple[int, int] | None) -> Found:
    """Converts images to float32 in [0, 1] with a channel axis, resizes them, and checks labels.

    Raises ValueError if images or labels cannot be used.
    """
    made, scales = {}, {}
    for name, (images, labels) in found.parts.items():
        images = images[..., np.newaxis] if images.ndim == 3 else images
        check_pair(name, images, labels)
        images, scales[name] = _scaled(name, images, found.scale)
        if labels.size != len(labels):
            raise ValueError(
                "Labels must be one number an image; of one-hot labels np.argmax(y, axis=1). "
                f"Received: {name} of shape {labels.shape}"
            )
        made[name] = _resized(images, image_size), labels.reshape(-1)  # CIFAR's are (number, 1)
    check_labels({name: labels for name, (_, labels) in made.items()}, found.class_names)
    shapes = {name: images.shape[1:] for name, (images, _) in made.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"Images of all parts must have one shape. Received: {shapes}")
    parts = {name: (images, labels.astype("int32")) for name, (images, labels) in made.items()}
    return Found(parts, found.class_names, scales["train"])


def has_idx(folder: Path) -> bool:
    return any(folder.glob("*-images-idx3-ubyte*"))


def _digits() -> Found:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("`digits` needs scikit-learn: pip install 'kblocks[tune]'") from error
    digits: Any = load_digits()
    return Found({"train": (digits.images, digits.target)}, _DIGITS, 16)


def _built_in(name: str) -> Found:
    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception where it cannot download
        raise ValueError(f"{name!r} could not be loaded: {error}") from error
    if keras.config.image_data_format() == "channels_first" and train[0].ndim == 4:
        train, test = ((np.moveaxis(x, 1, -1), y) for x, y in (train, test))
    return Found({"train": train, "test": test}, BUILT_IN[name])


def _npz(path: Path) -> Found:
    try:
        headers = _headers(path)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _no_arrays(path, error) from error
    endings = {"train": "_train", "validation": "_val", "test": "_test"}
    if "x_train" not in headers:
        endings = {"train": ""}
    parts = {part: (f"x{ending}", f"y{ending}") for part, ending in endings.items()}
    wanted = {p: pair for p, pair in parts.items() if p == "train" or set(pair) & set(headers)}
    named = [name for pair in wanted.values() for name in pair]
    if any(name not in headers for name in named):
        raise ValueError(
            f"{path} must have arrays x and y, or x_train and y_train, with or without those of "
            f"_val and _test. Received: {sorted(headers)}"
        )
    _check_memory(path, [headers[name] for name in named])
    has_names = "class_names" in headers and headers["class_names"][1].kind in "US"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in named}
            names = tuple(file["class_names"].astype(str).tolist()) if has_names else None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _no_arrays(path, error) from error
    return Found({part: (arrays[x], arrays[y]) for part, (x, y) in wanted.items()}, names)


def _no_arrays(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read as an .npz of arrays: {error}")


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Reads shape and dtype of each array in an .npz from its header; skips other members."""
    found = {}
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            if not name.endswith(".npy"):
                continue
            with file.open(name) as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0
                if version != (1, 0):
                    read = np.lib.format.read_array_header_2_0
                shape, _, dtype = read(member)
            found[name.removesuffix(".npy")] = shape, dtype
    return found


def _check_memory(path: Path, headers: list[tuple[tuple[int, ...], np.dtype]]) -> None:
    """Raises ValueError if the arrays, whose images become float32, do not fit into memory."""
    size = sum(math.prod(shape) * max(dtype.itemsize, 4) for shape, dtype in headers)
    free = psutil.virtual_memory().available
    if size > free:
        raise ValueError(
            f"{path} must fit into memory. Received: arrays of {size / 1e9:,.1f} GB, as images of "
            f"float32, where {free / 1e9:,.1f} GB are free"
        )


def _idx_parts(folder: Path) -> dict[str, str]:
    parts = {p: name for p, name in _IDX.items() if any(folder.glob(f"{name}-images-idx3-ubyte*"))}
    if list(parts) == ["test"]:
        parts = {"train": parts["test"]}  # the only part becomes the training part, which is split
    return parts


def _idx(folder: Path, name: str) -> np.ndarray:
    """Reads an array of bytes from an idx file.

    Its format: two zero bytes, the type (8 for bytes), the rank, the sizes, the data.

    Reference: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
    """
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise ValueError(f"{folder} must have {name} or {name}.gz. Received: neither")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from error
    rank = data[3] if data[:3] == b"\0\0\x08" else 0
    sizes = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    start = 4 + 4 * rank
    if not rank or len(data) != start + np.prod(sizes):
        raise ValueError(f"{path} must be an idx file of bytes. Received: {len(data)} bytes")
    return np.frombuffer(data, "uint8", offset=start).reshape(sizes)


def _scaled(name: str, images: np.ndarray, scale: float | None) -> tuple[np.ndarray, float]:
    """The images from 0 to 1, and what they were divided by."""
    if images.dtype.kind not in "uif":
        raise ValueError(f"Images must be numbers. Received: {name} of dtype {images.dtype}")
    kind, own = ("floats", 1.0) if images.dtype.kind == "f" else ("integers", 255.0)
    scale = scale or own
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= scale):  # NaN fails both comparisons
        raise ValueError(
            f"Images of {kind} must be from 0 to {scale:g}. Received: {name} from {low:g} to "
            f"{high:g}"
        )
    return images.astype("float32") / scale, scale


def _resized(images: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or tuple(size) == images.shape[1:3]:
        return images
    resize: Any = keras.ops.image.resize
    parts = (
        resize(images[i : i + _RESIZED], size, antialias=True, data_format="channels_last")
        for i in range(0, len(images), _RESIZED)
    )
    found = np.concatenate([np.asarray(keras.ops.convert_to_numpy(part)) for part in parts])
    return np.clip(found, 0, 1)
