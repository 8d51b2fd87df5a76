"""`Data`: the images of a search in three parts; `load` makes it from a name or a path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kblocks.heads.task import shape_of
from kblocks.tuner.images import sources
from kblocks.tuner.images.checking import check_channels, check_labels, check_pair
from kblocks.tuner.images.image_files import ImageFiles


@dataclass(frozen=True)
class Data:
    """Training, validation and test data of a search, which never sees the test part.

    Args:
        train: `(x, y)` arrays: channels-last images and integer or one-hot labels, or targets in
            the form that the model's head takes; one float an image is a target of regression
            unless there are `class_names`. Or anything else that `model.fit` takes as `x` alone,
            such as a tf.data.Dataset.
        validation: data in one of the same forms.
        test: data in one of the same forms, or None. `fit_arguments` leaves it out.
        fit: further arguments of `model.fit`, such as epochs and batch_size.
        class_names: the names of the classes in the order of the labels, or None.
        scale: what the values of the source's images were divided by, such as 255 for image
            files: a model that is to take the source's own values divides by it first.

    Raises:
        ValueError: if x and y differ in length, x is empty or not of rank 4, holds NaN or
            infinity or has its channels first, if labels are no numbers, negative, NaN, leave a
            number out or have no name, or if `scale` is not positive or x is not divided by it.
    """

    train: Any
    validation: Any
    test: Any = None
    fit: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"`scale` must be a positive number. Received: scale={self.scale!r}")
        if self.class_names is not None:  # maybe a list or an array
            object.__setattr__(self, "class_names", tuple(map(str, self.class_names)))
        for name, part in self.parts().items():
            if isinstance(part, (tuple, list)):
                _check(name, part, self.scale)
                object.__setattr__(self, name, tuple(part))
            elif hasattr(part, "element_spec"):
                images = keras.tree.flatten(part.element_spec)[0]
                check_channels(name, shape_of(images) or ())
        check_labels(self._labels(), self.class_names, floats=self.class_names is not None)

    def parts(self) -> dict[str, Any]:
        """The parts by name, without "test" if there is no test part."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    def fit_arguments(self) -> dict[str, Any]:
        """Keyword arguments for `tuner.search` and `model.fit`, without the test part."""
        is_pair = isinstance(self.train, tuple)
        x = dict(zip("xy", self.train, strict=True)) if is_pair else {"x": self.train}
        return {**x, "validation_data": self.validation, **self.fit}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(height, width, channels) of an image."""
        if isinstance(self.train, tuple):
            return tuple(self.train[0].shape[1:])
        if isinstance(self.train, ImageFiles):
            return self.train.image_shape
        return tuple(self.train.element_spec[0].shape[1:])

    @property
    def classes(self) -> int:
        """The number of classes.

        Raises ValueError if there are no `class_names` and no part is arrays, or labels of floats
        name no classes.
        """
        if self.class_names is not None:
            return len(self.class_names)
        labels = self._labels()
        if not labels:
            raise ValueError("`class_names` must be given with a dataset. Received: None")
        check_labels(labels, None)
        return max(map(_classes, labels.values()))

    def _labels(self) -> dict[str, np.ndarray]:
        parts = self.parts().items()
        return {name: np.asarray(part[1]) for name, part in parts if isinstance(part, tuple)}


def load(
    source: str,
    *,
    seed: int = 0,
    validation: float = 0.2,
    test: float = 0.2,
    image_size: tuple[int, int] | None = None,
    limit: int | None = None,
    batch_size: int = 32,
) -> Data:
    """Loads and splits images by name or from a path: channels-last float32 in [0, 1].

    Args:
        source: "digits"; a built-in set of Keras ("mnist", "fashion_mnist", "cifar10",
            "cifar100"); an `.npz` file of x and y, or of x_train and y_train with or without x_val,
            y_val, x_test and y_test, and with or without class_names; a folder of idx files in
            MNIST's format; or a folder with one folder of images a class, which are read while
            training: BMP, GIF, JPEG, PNG, TIFF and WebP files whose name does not begin with a
            dot, turned upright as their EXIF data say (`keras.utils.load_img` does not do that).
        seed: the seed of the split, which is stratified by class.
        validation: the share of the non-test images that becomes the validation part. A source's
            own validation part is used instead if it has one.
        test: the share of all images that becomes the test part. A source's own test part is
            used instead if it has one.
        image_size: (height, width) to resize to. None keeps the size of arrays, and is (256, 256)
            for a folder of images.
        limit: the most images in training and validation together; the test part stays whole.
        batch_size: the batch size of a folder of images; `model.fit` batches arrays.

    Raises:
        ValueError: if the source is unknown, its images or labels cannot be used, or another
            argument is out of range.
    """
    for name, share in (("validation", validation), ("test", test)):
        if not 0 < share < 1:
            raise ValueError(f"`{name}` must be between 0 and 1. Received: {name}={share!r}")
    for name, count in (("limit", limit), ("batch_size", batch_size)):
        if count is not None and count < 1:
            raise ValueError(f"`{name}` must be a positive number. Received: {name}={count!r}")
    size: Any = image_size
    if size is not None and (np.shape(size) != (2,) or min(size) < 1):
        raise ValueError(f"`image_size` must be (height, width). Received: image_size={size!r}")
    path = Path(source).expanduser()
    if path.is_dir() and not sources.has_idx(path):
        whole = ImageFiles.found(path, image_size or (256, 256), batch_size, seed)
        found = sources.Found({"train": whole}, whole.class_names, 255)
    else:
        found = sources.prepared(sources.read(source, path), image_size)
    parts = _split(found, seed, validation, test, limit)
    return Data(**parts, class_names=found.class_names, scale=found.scale or 1)


def _split(
    found: sources.Found, seed: int, validation: float, test: float, limit: int | None
) -> dict[str, Any]:
    """Adds the parts that a source lacks by splitting its training part."""
    own, pool = found.parts, found.parts["train"]
    labels = pool.labels if isinstance(pool, ImageFiles) else pool[1]
    kept = 1 if "validation" in own else 2  # of each class, once the test part is drawn
    check_classes(labels, kept + ("test" not in own), found.class_names)
    random = np.random.default_rng(seed)
    rows = {"train": np.arange(len(labels))}
    if "test" not in own:
        rows["test"], rows["train"] = drawn(labels, rows["train"], test, random, left=kept)
    if limit is not None and limit < len(rows["train"]):
        share = limit / len(rows["train"])
        rows["train"], _ = drawn(labels, rows["train"], share, random, least=kept, left=0)
    if "validation" not in own:
        rows["validation"], rows["train"] = drawn(labels, rows["train"], validation, random)
    made = {name: _taken(pool, taken, name) for name, taken in rows.items()}
    return {**own, **made}


def _taken(pool: Any, rows: np.ndarray, name: str) -> Any:
    if isinstance(pool, ImageFiles):
        return pool.taken(rows, shuffle=name == "train")
    return pool[0][rows], pool[1][rows]


def _check(name: str, part: Sequence[Any], scale: float) -> None:
    if len(part) != 2 or not all(hasattr(array, "shape") for array in part):
        kinds = ", ".join(type(array).__name__ for array in part)
        raise ValueError(f"`{name}` must be (x, y) arrays. Received: {kinds or 'none'}")
    x, y = part
    check_pair(name, x, y)
    low, high = float(np.min(x)), float(np.max(x))  # min and max both pass on NaN
    if not np.isfinite((low, high)).all():
        raise ValueError(
            f"`{name}` must have images of finite numbers. Received: values from {low} to {high}"
        )
    most = max(1, 255 / scale)
    if scale != 1 and not -0.1 * most <= low <= high <= 1.1 * most:  # resampling overshoots
        raise ValueError(
            "`scale` must be what the images, from 0 on, have been divided by already. Received: "
            f"scale={scale:g}, and {name} from {low:g} to {high:g}"
        )


def _classes(labels: np.ndarray) -> int:
    """The number of classes that labels of one part show."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        return labels.shape[1]
    return int(labels.max()) + 1


def check_classes(labels: np.ndarray, parts: int, class_names: Sequence[str] | None = None) -> None:
    """Raises ValueError for fewer than two classes, or a class with fewer images than `parts`."""
    found, counts = np.unique(labels, return_counts=True)
    named = [class_names[label] if class_names else label for label in found.tolist()]
    if len(named) < 2:
        raise ValueError(f"There must be at least two classes. Received: only {named}")
    if counts.min() < parts:
        raise ValueError(
            f"Every class must have at least {parts} images, one for each part. Received: "
            f"class {named[counts.argmin()]} with {counts.min()}"
        )


def drawn(
    labels: np.ndarray,
    rows: np.ndarray,
    share: float,
    random: np.random.Generator,
    *,
    least: int = 1,
    left: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows in two by class: a random share of each class, and the remaining rows.

    Of each class at least `least` rows are drawn, and at least `left` remain.
    """
    chosen = []
    for label in np.unique(labels[rows]):
        own = rows[labels[rows] == label]
        count = min(max(least, round(share * len(own))), len(own) - left)
        chosen.append(random.permutation(own)[:count])
    first = np.sort(np.concatenate(chosen))
    return first, np.setdiff1d(rows, first)
