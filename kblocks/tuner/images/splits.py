"""Splitting images by class: every part has all classes, in the same shares."""

from __future__ import annotations

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]


def check(labels: np.ndarray, parts: int) -> None:
    """Refuses classes with fewer images than there are parts to be made."""
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"There must be at least two classes. Received: only {classes.tolist()}")
    if counts.min() < parts:
        few = classes[counts.argmin()]
        raise ValueError(
            f"Every class must have at least {max(parts, 1)} images, one for each part. Received: "
            f"class {few} with {counts.min()}"
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
    """A share of the rows and the others, each with its share of every class, both in order.

    Args:
        labels: of all images.
        rows: of those to be split.
        share: between 0 and 1.
        random: to draw from.
        least: how many of a class are drawn at least.
        left: how many of a class are left at least.
    """
    chosen = []
    for label in np.unique(labels[rows]):
        own = rows[labels[rows] == label]
        count = min(max(least, round(share * len(own))), len(own) - left)
        chosen.append(random.permutation(own)[:count])
    first = np.sort(np.concatenate(chosen))
    return first, np.setdiff1d(rows, first)
