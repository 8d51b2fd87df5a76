"""The arguments of `fit` for one training of a trial: its fold, and weights of classes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kblocks.tuner.hypermodel import named

Fit = tuple[tuple[Any, ...], Mapping[str, Any]]  # the arguments of `fit`


def check(fit: Fit, folds: int | None) -> None:
    """Checks that trials can be trained with these arguments of `fit`.

    Raises:
        ValueError: if the data cannot be split, a callback cannot be copied, or the classes of
            class_weight="balanced" cannot be counted.
    """
    callbacks = fit[1].get("callbacks") or ()
    for callback in callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]:
        try:
            copy.deepcopy(callback)
        except Exception as error:
            raise ValueError(
                "`callbacks` must be ones that can be copied, as each trial gets its own. "
                f"Received: {callback!r}, which raises {type(error).__name__}: {error}"
            ) from error
    of_training(fit, folds, 0)


def of_training(fit: Fit, folds: int | None, index: int) -> Fit:
    """The arguments of `fit` for the training of that index.

    With `folds`, the validation data are that part of `x` and `y` (and `validation_data`).
    class_weight="balanced" becomes a weight of n / (classes * n_class) for each class.

    Raises:
        ValueError: if that cannot be done with these data.
    """
    weights = fit[1].get("class_weight")
    if folds is None and not isinstance(weights, str):
        return fit
    given = named(*fit)
    if folds is not None:
        given = _folded(given, folds, index % folds)
    if isinstance(weights, str):
        labels = _labels(given)
        if labels is None or weights != "balanced":
            raise ValueError(
                "`class_weight` must be a dict, or 'balanced' with labels that can be counted: "
                f"arrays of integers or one-hot rows. Received: class_weight={weights!r}, "
                f"x={type(given.get('x')).__name__}, y={type(given.get('y')).__name__}"
            )
        classes, counts = np.unique(labels, return_counts=True)
        weights = len(labels) / (len(classes) * counts)
        given["class_weight"] = {int(c): float(w) for c, w in zip(classes, weights, strict=True)}
    return (), given


def _folded(given: dict[str, Any], folds: int, fold: int) -> dict[str, Any]:
    validation: Any = given.pop("validation_data", None)
    x: Any = given.get("x")
    if given.pop("validation_split", None):
        raise ValueError("`validation_split` and `folds` exclude each other. Received: both")
    if hasattr(x, "taken"):  # image files
        whole = x if validation is None else x.with_those_of(validation)
        inside = _split(len(whole.labels), whole.labels, folds) != fold
        rows = np.arange(len(inside))
        held = whole.taken(rows[~inside], shuffle=False)
        return {**given, "x": whole.taken(rows[inside], shuffle=True), "validation_data": held}
    parts: Any = [x, given.get("y"), given.get("sample_weight")]
    parts = parts[: 3 if parts[2] is not None else 2]
    others = parts if validation is None else validation
    alike = isinstance(others, (tuple, list)) and len(others) == len(parts)
    if not alike or not all(map(_is_array, keras.tree.flatten(parts))):
        raise ValueError(
            "`folds` needs arrays as `x`, `y` and, in the same form, `validation_data`, or a "
            f"folder of images. Received: x={type(x).__name__}, y={type(given.get('y')).__name__}, "
            f"validation_data={type(validation).__name__}"
        )
    if validation is not None:
        both = parts, list(validation)
        parts = keras.tree.map_structure(lambda *pair: np.concatenate(pair), *both)
    labels, count = _labels({"y": parts[1]}), len(keras.tree.flatten(parts)[0])
    inside = _split(count, labels, folds) != fold
    train: Any = keras.tree.map_structure(lambda array: np.asarray(array)[inside], parts)
    held: Any = keras.tree.map_structure(lambda array: np.asarray(array)[~inside], parts)
    names = dict(zip(("x", "y", "sample_weight"), train, strict=False))
    return {**given, **names, "validation_data": tuple(held)}


def _is_array(value: Any) -> bool:
    return bool(getattr(value, "shape", ()))


def _split(count: int, labels: np.ndarray | None, folds: int) -> np.ndarray:
    """The fold of each row, always the same; with labels, each fold has its share of each."""
    if count < folds:
        raise ValueError(
            f"`folds` must be at most the number of rows. Received: {folds} of {count}"
        )
    order = np.random.default_rng(0).permutation(count)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(count, int)
    fold[order] = np.arange(count) % folds
    return fold


def _labels(given: Mapping[str, Any]) -> np.ndarray | None:
    """The class of each row; None if the targets are no classes."""
    y = getattr(given.get("x"), "labels", given.get("y"))
    if not hasattr(y, "shape"):
        return None
    found = np.asarray(y)
    if found.ndim == 2 and found.shape[1] > 1 and ((found == 0) | (found == 1)).all():
        return found.argmax(1) if (found.sum(1) == 1).all() else None
    is_column = found.ndim == 1 or (found.ndim == 2 and found.shape[1] == 1)
    return found.reshape(-1) if is_column and found.dtype.kind in "iu" else None
