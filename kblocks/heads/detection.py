"""The loss and metric of a detector's map, and the assignment of objects to cells."""

import math
from typing import Any

import keras
import numpy as np

from kblocks.heads.boxes import box_problem, in_shares, overlap
from kblocks.heads.task import Configured, TargetLoss, agree, channels_last, is_channels_first

_ops: Any = keras.ops  # its functions are annotated as if they could return None

_ALPHA, _GAMMA = 0.25, 2.0  # arXiv:1708.02002, Sec. 5.1


def focal_loss(truth: Any, logits: Any) -> Any:
    """Cross-entropy of each logit, weighted down where the prediction is already right.

    Reference: Lin et al. 2017, arXiv:1708.02002, Eq. 5.
    """
    shares = _ops.sigmoid(logits)
    entropy = _ops.softplus(logits) - logits * truth
    right = truth * shares + (1 - truth) * (1 - shares)
    weight = truth * _ALPHA + (1 - truth) * (1 - _ALPHA)
    return weight * _ops.power(1 - right, _GAMMA) * entropy


def centres(height: Any, width: Any) -> Any:
    """The centres (y, x) of all cells, in cells: (height * width, 2)."""
    rows = _ops.cast(_ops.arange(height), "float32") + 0.5
    columns = _ops.cast(_ops.arange(width), "float32") + 0.5
    y, x = _ops.meshgrid(rows, columns, indexing="ij")
    return _ops.reshape(_ops.stack([y, x], -1), (-1, 2))


class _Cells:
    """Assigns objects to cells as `kb.DetectionMap` says, the smallest first; lengths in cells."""

    def __init__(self, y_true: Any, y_pred: Any, spec: Any) -> None:
        ops = _ops
        y_pred = channels_last(y_pred)
        shape = ops.shape(y_pred)
        height, width = shape[1], shape[2]
        y_pred = ops.reshape(y_pred, (-1, height * width, spec.classes + 4))
        self.logits, sides = y_pred[..., : spec.classes], y_pred[..., spec.classes :]
        places = centres(height, width)
        self.found = ops.concatenate([places - sides[..., :2], places + sides[..., 2:]], -1)
        size = ops.cast(ops.stack([height, width, height, width]), "float32")
        if not y_true.shape[1]:  # a batch without objects, or an unknown number of them
            y_true = ops.pad(y_true, ((0, 0), (0, 1), (0, 0)), constant_values=-1)
        boxes, kinds = y_true[..., 1:] * size, y_true[..., 0]
        self.objects = ops.sum(ops.cast(kinds >= 0, "float32"), -1)
        longer = ops.max(boxes[..., 2:] - boxes[..., :2], -1)
        here = ops.logical_and(longer > spec.smallest, longer <= spec.largest)
        here = ops.logical_and(here, kinds >= 0)[:, None, :]
        middles = 0.5 * (boxes[:, None, :, :2] + boxes[:, None, :, 2:])
        away = ops.max(ops.abs(places[None, :, None] - middles), -1)
        below = ops.all(places[None, :, None] > boxes[:, None, :, :2], -1)
        above = ops.all(places[None, :, None] < boxes[:, None, :, 2:], -1)
        inside = ops.logical_and(ops.logical_and(below, above), away < spec.radius)
        matches = ops.logical_or(inside, away <= 0.5)
        matches = ops.logical_and(matches, here)
        area = ops.prod(boxes[..., 2:] - boxes[..., :2], -1)[:, None, :]
        chosen = ops.argmin(ops.where(matches, area, math.inf), -1)
        self.positive = ops.cast(ops.any(matches, -1), "float32")
        self.truth = ops.take_along_axis(boxes, chosen[..., None], 1)
        kind = ops.cast(ops.take_along_axis(kinds, chosen, 1), "int32")
        one_hot = ops.one_hot(ops.maximum(kind, 0), spec.classes, dtype="float32")
        self.kinds = one_hot * self.positive[..., None]


@keras.saving.register_keras_serializable("kblocks")
class DetectionLoss(TargetLoss):
    """The loss of `kb.DetectionMap`: focal of all cells, GIoU of cells with an object."""

    geometry = "objects"

    def __init__(
        self,
        classes: int,
        smallest: float = 0.0,
        largest: float = math.inf,
        radius: float = 1.5,
        box_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.classes, self.smallest, self.largest = classes, smallest, largest
        self.radius, self.box_weight = radius, box_weight

    @property
    def target(self) -> str:  # type: ignore[override]
        return (
            "objects (class, y1, x1, y2, x2), (batch, objects, 5): classes from 0 to "
            f"{self.classes - 1} or -1 to fill up, corners from 0 to 1 with y1 < y2 and x1 < x2"
        )

    def fits(self, targets: tuple[Any, ...], outputs: tuple[Any, ...]) -> bool:
        channels = outputs[1 if is_channels_first() else -1]
        known = len(targets) == 3 and agree(targets[2], 5)
        return known and agree(channels, self.classes + 4)

    def problem(self, targets: np.ndarray) -> str | None:
        if targets.ndim != 3 or targets.shape[2] != 5:
            return "another form"
        objects = targets[targets[..., 0] != -1]
        kinds = objects[:, 0]
        if np.any(kinds != np.floor(kinds)):  # true for NaN too
            return "classes that are fractions"
        if kinds.size and (kinds.min() < 0 or kinds.max() >= self.classes):
            return f"classes from {kinds.min()} to {kinds.max()}"
        return box_problem(objects[:, 1:])

    def example(self, output: Any) -> Any:
        return _ops.zeros((output.shape[0], 1, 5))

    def values(self, y_true: Any, y_pred: Any) -> Any:
        kinds, boxes = y_true[..., 0], y_true[..., 1:]
        known = self.classes_of(kinds, self.classes, kinds != -1)[1]
        in_shares(boxes, self.target)
        cells = _Cells(y_true, y_pred, self)
        focal = _ops.sum(focal_loss(cells.kinds, cells.logits), (1, 2))
        wrong = (1.0 - overlap(cells.truth, cells.found)[1]) * cells.positive
        total = focal + self.box_weight * _ops.sum(wrong, 1)
        wrong_kinds = _ops.sum(known - 1.0, 1)  # 0, or NaN
        return wrong_kinds + total / _ops.maximum(cells.objects, 1.0)


@keras.saving.register_keras_serializable("kblocks")
class CellIoU(Configured, keras.metrics.Mean):
    """The mean IoU of the boxes of all cells that an object belongs to; see `kb.DetectionMap`."""

    def __init__(
        self,
        classes: int,
        smallest: float = 0.0,
        largest: float = math.inf,
        radius: float = 1.5,
        name: str = "iou",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.classes, self.smallest, self.largest, self.radius = classes, smallest, largest, radius

    def update_state(  # type: ignore[override]
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> Any:
        y_true, y_pred = (_ops.cast(y, "float32") for y in (y_true, y_pred))
        cells = _Cells(y_true, y_pred, self)
        weights = cells.positive
        if sample_weight is not None:
            weights = weights * _ops.cast(sample_weight, "float32")[:, None]
        return super().update_state(overlap(cells.truth, cells.found)[0], weights)
