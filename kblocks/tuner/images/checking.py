"""The checks of images and labels, wherever they come from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def check_pair(name: str, x: Any, y: Any) -> None:
    """Raises ValueError for x that is no images (number, height, width, channels), or other y."""
    shape = tuple(x.shape)
    if len(shape) != 4 or 0 in shape:
        raise ValueError(
            f"`{name}` must have images of (height, width, channels); grey ones get their channel "
            f"by x[..., np.newaxis]. Received: x of shape {shape}"
        )
    check_channels(name, shape)
    count = y.shape[0] if len(y.shape) else 1
    if count != len(x):
        raise ValueError(
            f"`{name}` must have a label for each image. Received: {len(x)} images and {count} "
            "labels"
        )


def check_channels(name: str, shape: Sequence[int | None]) -> None:
    """Raises ValueError for images with channels first, whose width would be taken for channels.

    These have 1, 3 or 4 rows, more than 4 columns, and about as many "channels" as columns.
    """
    known = [size for size in shape[2:] if size is not None]
    if len(shape) != 4 or shape[1] not in (1, 3, 4) or len(known) != 2:
        return
    small, large = sorted(known)
    if small > 4 and large <= 4 * small:
        raise ValueError(
            "Images must be (number, height, width, channels), the channels last: "
            f"np.moveaxis(x, 1, -1). Received: {name} of shape {tuple(shape)}"
        )


def check_labels(
    parts: Mapping[str, np.ndarray], class_names: Sequence[str] | None, *, floats: bool = True
) -> None:
    """Refuses labels that do not count the classes from 0, in all parts together.

    Those of more than one number an image, such as one-hot labels and masks, need only be numbers.
    `class_names` are those of all classes, of which some may have no image. Without `floats`,
    labels of floats may be any numbers. Raises ValueError if labels are no numbers, NaN, negative
    or not whole, have no name, or leave a number out.
    """
    found = set[int]()
    for name, labels in parts.items():
        kind = labels.dtype.kind
        if kind not in "biuf":
            raise ValueError(
                "Labels must be numbers; `names, y = np.unique(y, return_inverse=True)` makes "
                f"them of texts. Received: {name} of dtype {labels.dtype}"
            )
        if labels.ndim != 1 and labels.shape[1:] != (1,):
            continue
        is_free = kind == "f" and not floats
        counts = (labels >= 0) & (labels == np.floor(labels))
        fits = np.isfinite(labels) & (counts | is_free)
        if not fits.all():
            raise ValueError(
                "Labels must count from 0 in whole numbers. Received: "
                f"{name} with {labels[~fits][0]}"
            )
        if not is_free:
            found.update(map(int, np.unique(labels)))
    most = max(found, default=0)
    if class_names is not None and most >= len(class_names):
        raise ValueError(
            "`class_names` must name the class of every label. Received: "
            f"{len(class_names)} names and the label {most}"
        )
    if class_names is None and most >= len(found) > 0:
        missing = next(label for label in range(most) if label not in found)
        raise ValueError(
            "Labels must count from 0 without a gap. Renumber them, all parts at once, by "
            "`np.unique(y, return_inverse=True)[1]`, or give `class_names` if a class has no "
            f"image. Received: no label {missing}, but {most}"
        )
