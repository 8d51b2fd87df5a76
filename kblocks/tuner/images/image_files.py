"""A folder with one folder of images a class, read while training."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import keras
import numpy as np

_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")  # those of image_dataset_from_directory
_READERS = 4  # threads
_BILINEAR = 2  # Pillow's number of it


class ImageFiles(keras.utils.PyDataset):
    """Image files in batches, for `model.fit` on any backend.

    Unlike `keras.utils.image_dataset_from_directory` it is split by class and in three, needs no
    TensorFlow, and names a file that it cannot read.

    Args:
        folder: that the names are relative to.
        names: of the files.
        labels: of each.
        class_names: in the order of the labels.
        image_size: (height, width) that images are resized to.
        batch_size: the last batch may be smaller.
        seed: of the order.
        shuffle: whether each epoch has an order of its own.
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
        """All images in the folders of a folder, in the order of their names.

        Raises:
            ValueError: if there are none, or one of them is no image.
        """
        if isinstance(image_size, int) or len(image_size) != 2 or min(image_size) < 1:
            raise ValueError(f"`image_size` must be (height, width). Received: {image_size!r}")
        class_names = tuple(sorted(p.name for p in folder.iterdir() if _is_class(p)))
        names, labels = [], []
        for label, class_name in enumerate(class_names):
            own = (p for p in (folder / class_name).rglob("*") if p.suffix.lower() in _ENDINGS)
            own_names = sorted(path.relative_to(folder).as_posix() for path in own)
            if not own_names:
                raise ValueError(
                    f"`source` must have images in the folder of every class. Received: none in "
                    f"{folder / class_name}"
                )
            names += own_names
            labels += [label] * len(own_names)
        if not names:
            raise ValueError(
                "`source` must be a folder with one folder of images a class, or of idx files. "
                f"Received: {folder}, without images"
            )
        made = cls(folder, names, np.array(labels), class_names, image_size, batch_size, seed)
        for name in names:
            made.check(name)
        return made

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (*self.image_size, 3)

    @property
    def num_batches(self) -> int:
        """How many batches an epoch has."""
        return -(-len(self.names) // self.batch_size)

    def on_epoch_end(self) -> None:
        """Draws the next epoch's order."""
        if self.shuffle:
            self._order = self._random.permutation(len(self.names))

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        return np.stack([self._read(self.names[row]) for row in rows]), self.labels[rows]

    def taken(self, rows: np.ndarray, shuffle: bool) -> ImageFiles:
        """Some of these, of which each epoch is in an order of its own if they are to train on."""
        names = [self.names[row] for row in rows]
        how = (self.class_names, self.image_size, self.batch_size, self.seed, shuffle)
        return ImageFiles(self.folder, names, self.labels[rows], *how)

    def with_those_of(self, other: ImageFiles) -> ImageFiles:
        """These and others of the same folder, to train on."""
        labels = np.concatenate([self.labels, other.labels])
        how = (self.class_names, self.image_size, self.batch_size, self.seed, True)
        return ImageFiles(self.folder, self.names + other.names, labels, *how)

    def fingerprint(self) -> dict[str, Any]:
        """What tells these files from others: a hash of their names and sizes."""
        found = hashlib.blake2b(digest_size=8)
        for name in self.names:
            found.update(f"{name}\0{(self.folder / name).stat().st_size}\0".encode())
        return {
            "shape": [len(self.names), *self.image_shape],
            "dtype": "float32",
            "classes": len(self.class_names),
            "hash": found.hexdigest(),
        }

    def check(self, name: str) -> None:
        """Refuses a file that does not begin as an image does."""
        image = _pillow()
        try:
            with image.open(self.folder / name):
                pass
        except (OSError, ValueError) as error:
            raise _unreadable(self.folder / name, error) from error

    def _read(self, name: str) -> np.ndarray:
        path = self.folder / name
        height, width = self.image_size
        try:
            with _pillow().open(path) as file:
                is_deep = file.mode.startswith("I")  # 16 bits, which "RGB" would cut off at 255
                image = file.convert("I" if is_deep else "RGB").resize((width, height), _BILINEAR)
        except (OSError, ValueError, SyntaxError) as error:  # Pillow raises all of these
            raise _unreadable(path, error) from error
        values = np.asarray(image, "float32")
        if is_deep:
            return np.repeat(np.clip(values / 65535, 0, 1)[..., None], 3, axis=-1)
        return values / 255


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"`source` must hold images that can be read. Received: {path}: {error}")


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Folders of images need Pillow: pip install 'kblocks[tune]'") from error
    return Image
