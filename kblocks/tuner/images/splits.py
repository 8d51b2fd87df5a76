"""Stratified splits: every part has all classes, in the same shares."""

from collections.abc import Sequence

import numpy as np


def check(labels: np.ndarray, parts: int, class_names: Sequence[str] | None = None) -> None:
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

    Of each class at least `least` rows are drawn, and at least `left` remain. Both results are in
    ascending order.
    """
    chosen = []
    for label in np.unique(labels[rows]):
        own = rows[labels[rows] == label]
        count = min(max(least, round(share * len(own))), len(own) - left)
        chosen.append(random.permutation(own)[:count])
    first = np.sort(np.concatenate(chosen))
    return first, np.setdiff1d(rows, first)
