"""`ImageFiles`: a folder with one folder of images a class, read while training."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # no classes
_READERS = 4  # threads
_BILINEAR = 2  # Pillow's constant for bilinear resampling
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names of pixels by their channels
_ORIENTATION = 0x0112  # the EXIF tag


class ImageFiles(keras.utils.PyDataset):
    """Reads image files in batches, for `model.fit` on any backend.

    Unlike `keras.utils.image_dataset_from_directory` it needs no TensorFlow, can be split by class
    into three parts, turns photos upright, and names the file that it cannot read. Names are paths
    relative to `folder`, labels integers, `image_size` is (height, width). With `shuffle` each
    epoch has a new random order.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        labels: np.ndarray,
        class_names: tuple[str, ...],
        image_size: tuple[int, int],
        batch_size: int = 32,
        seed: int = 0,
        shuffle: bool = False,
    ) -> None:
        super().__init__(workers=_READERS)
        self.folder, self.names, self.labels = folder, names, labels
        self.class_names, self.image_size, self.batch_size = class_names, image_size, batch_size
        self.seed, self.shuffle = seed, shuffle
        self._random = np.random.default_rng(seed)
        self._order = np.arange(len(names))
        self.on_epoch_end()

    @classmethod
    def found(cls, folder: Path, image_size: tuple[int, int], batch_size: int, seed: int) -> Any:
        """All images of a folder with one folder a class, sorted by class and name.

        Raises ValueError if a class is empty, none is there, or a file is no image.
        """
        folders = (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        class_names = tuple(sorted(path.name for path in folders))
        names, labels = [], []
        for label, class_name in enumerate(class_names):
            own = images_in(folder / class_name)
            own_names = [path.relative_to(folder).as_posix() for path in own]
            if not own_names:
                raise ValueError(
                    f"`source` must have images in the folder of every class. Received: none in "
                    f"{folder / class_name}"
                )
            names += own_names
            labels += [label] * len(own_names)
        if not names or _PARTS.issuperset(map(str.lower, class_names)):
            raise ValueError(
                "`source` must be a folder with one folder of images a class, or of idx files. "
                f"Received: {folder}, with {', '.join(class_names) or 'no folders'} in it"
            )
        for name in names:
            with _opened(folder / name):  # so that a file that is no image is named at once
                pass
        return cls(folder, names, np.array(labels), class_names, image_size, batch_size, seed)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of each image."""
        return (*self.image_size, 3)

    @property
    def num_batches(self) -> int:
        """The number of batches in an epoch."""
        return -(-len(self.names) // self.batch_size)

    def on_epoch_end(self) -> None:
        """Draws the order of the next epoch if `shuffle` is on."""
        if self.shuffle:
            self._order = self._random.permutation(len(self.names))

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        paths = [self.folder / self.names[row] for row in rows]
        return np.stack([read_image(path, self.image_size) for path in paths]), self.labels[rows]

    def taken(self, rows: np.ndarray, shuffle: bool) -> "ImageFiles":
        """The files with these indices as a new sequence; `shuffle` is that of the new one."""
        names = [self.names[row] for row in rows]
        how = (self.class_names, self.image_size, self.batch_size, self.seed, shuffle)
        return ImageFiles(self.folder, names, self.labels[rows], *how)

    def with_those_of(self, other: "ImageFiles") -> "ImageFiles":
        """These files and those of `other` in the same folder, shuffled for training."""
        labels = np.concatenate([self.labels, other.labels])
        how = (self.class_names, self.image_size, self.batch_size, self.seed, True)
        return ImageFiles(self.folder, self.names + other.names, labels, *how)

    def fingerprint(self) -> dict[str, Any]:
        """Shape, dtype, classes and a hash of names, sizes and turns, to identify these files."""
        found = hashlib.blake2b(digest_size=8)
        for name in self.names:
            path = self.folder / name
            found.update(f"{name}\0{path.stat().st_size}\0".encode())
            if path.suffix.lower() in (".jpeg", ".jpg"):
                with _opened(path) as file:
                    turn = _turn(file)
                found.update(f"{turn}\0".encode() if turn else b"")
        return {
            "shape": [len(self.names), *self.image_shape],
            "dtype": "float32",
            "classes": len(self.class_names),
            "hash": found.hexdigest(),
        }


def read_image(path: Path, image_size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """An image file as (height, width, channels): see `pixels`; ValueError names the file."""
    with _opened(path) as file:
        file.load()
        return pixels(file, image_size, channels)


def pixels(image: Any, image_size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """An image of Pillow, turned upright, as float32 in [0, 1], of shape (height, width, channels).

    There are 1 (grey), 3 (colours) or 4 channels (with opacity). Resizing is bilinear.
    """
    if channels not in _MODES:
        raise ValueError(f"An image has 1, 3 or 4 channels. Received: channels={channels}")
    if _turn(image):
        image = _pillow().ImageOps.exif_transpose(image)
    height, width = image_size
    is_deep = image.mode.startswith("I")  # 16 bits: "RGB" would clip at 255
    image = image.convert("I" if is_deep else _MODES[channels]).resize((width, height), _BILINEAR)
    values = np.asarray(image, "float32").reshape(height, width, -1)
    if is_deep:
        return np.repeat(np.clip(values / 65535, 0, 1), channels, axis=-1)
    return values / 255


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder and the folders in it, sorted; hidden ones are skipped."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    kept = sorted(n for n in names if n.lower().endswith(_ENDINGS) and "/." not in f"/{n}")
    return [folder / name for name in kept]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens an image file; an error in it names the file."""
    image = _pillow().Image
    try:
        # Given a path, Pillow maps uncompressed TIFF files into memory, and turns those wrongly.
        with path.open("rb") as stored, image.open(stored) as file:
            if file.mode == "F":
                raise ValueError("its pixels are floats, of unknown range")
            yield file
    except (OSError, SyntaxError, TypeError, ValueError, image.DecompressionBombError) as error:
        is_other = isinstance(error, _pillow().UnidentifiedImageError)
        why = "no image of a kind that Pillow knows" if is_other else error
        raise ValueError(f"Images must be readable files. Received: {path}: {why}") from error


def _turn(file: Any) -> int:
    """The EXIF orientation of an image, from 2 to 8; 0 if it lies upright."""
    try:
        found = file.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF data, of which Pillow raises many kinds; the image is read
        return 0
    return found if found in range(2, 9) else 0


@cache
def _pillow() -> Any:
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise ImportError("Folders of images need Pillow: pip install 'kblocks[tune]'") from error
    # Images of more than half the size that Pillow refuses are read with this warning, and those
    # whose palette has opacities, which are left out, with the other.
    warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)
    return PIL
