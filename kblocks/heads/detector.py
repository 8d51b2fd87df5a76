"""`Detector`: an anchor-free detector of all objects of an image, its blocks, loss and metric."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY
from functools import partial
from typing import Any

import keras
import numpy as np

from kblocks.blocks.block import Block
from kblocks.blocks.convolution import ConvBlock
from kblocks.blocks.fields import Count, InitializerLike, Positive
from kblocks.heads.attaching import Attached, Head, Place
from kblocks.heads.boxes import box_problem, constant, in_shares, overlap
from kblocks.heads.pyramid import top_down
from kblocks.heads.task import Configured, TargetLoss, Task, agree, channels_last, is_channels_first
from kblocks.plans.ops import Activation, Chain, Conv, Merge, Norm, Op

_ops: Any = keras.ops  # its functions are annotated as if they could return None

OBJECTS = "objects"
_PRIOR = 0.01  # initial probability of an object in a cell (arXiv:1708.02002, Sec. 4.1)
_CELLS = 2.0  # initial distances to a box's sides, before softplus
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

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:  # type: ignore[override]
        y_true, y_pred = (_ops.cast(y, "float32") for y in (y_true, y_pred))
        cells = _Cells(y_true, y_pred, self)
        weights = cells.positive
        if sample_weight is not None:
            weights = weights * _ops.cast(sample_weight, "float32")[:, None]
        return super().update_state(overlap(cells.truth, cells.found)[0], weights)


class DetectionMap(Block):
    """Predicts for each cell of a map the logits of the classes and a box around its centre.

    Args:
        classes: number of classes.
        smallest, largest: which objects this map detects: those whose longer side, in cells, is
            over `smallest` and at most `largest`; `largest` 0 is no bound.
        radius: an object belongs to the cells in its box whose centres are less than this from
            its own, in cells, and to the cell of its centre.
        box_weight: factor of the box loss, which is added to the focal loss.

    Output shape: (batch, height, width, classes + 4): logits, then the distances from the cell's
        centre to the box's top, left, bottom and right, in cells. `kb.detections` decodes them.
    Targets: (batch, objects, 5): class, y1, x1, y2, x2, corners as fractions of the image; rows
        with class -1 are padding. Loss: focal loss of all cells and generalized IoU loss of cells
        with an object, both divided by the image's number of objects.
        Metric: the mean IoU of the boxes of cells with an object.

    Reference: Tian et al. 2019, arXiv:1904.01355, Sec. 3; Lin et al. 2017, arXiv:1708.02002.
    """

    classes: Count
    _: KW_ONLY
    smallest: float = 0.0
    largest: float = 0.0
    radius: Positive = 1.5
    box_weight: Positive = 1.0
    loss_weight: Positive = 1.0
    kernel_initializer: InitializerLike = "he_normal"

    def task(self) -> Task:
        arguments = (self.classes, self.smallest, self.largest or math.inf, self.radius)
        loss = partial(DetectionLoss, *arguments, self.box_weight)
        return Task(loss, (partial(CellIoU, *arguments),), self.loss_weight, OBJECTS)

    def plan(self, channels: int) -> Op:
        def convolution(filters: int, bias: float) -> Conv:
            own = {"kernel_initializer": self.kernel_initializer}
            return Conv(filters, (3, 3), bias_initializer=constant(bias), **own)

        scores = convolution(self.classes, -math.log((1 - _PRIOR) / _PRIOR))
        sides = Chain(convolution(4, _CELLS), Activation("softplus"))
        return Chain(Merge("concat", scores=scores, sides=sides))


class Detector(Head):
    """An anchor-free detector: a feature pyramid, convolutions shared by all levels, and a map of
    classes and boxes at each level.

    Args:
        classes: number of classes.
        strides: strides of the levels, an integer or several.
        largest: the longest side, in cells, of the objects that a level detects; the next level
            detects larger ones, the last level all that remain.
        filters: filters of the pyramid and of the shared convolutions.
        depth: number of shared convolutions.
        radius, box_weight, loss_weight: as in `kb.DetectionMap`.

    Outputs: `objects`, or with several levels `objects_stride8`, `objects_stride16`, ...: maps
        that `kb.detections` decodes to boxes, classes and scores.
    Targets: `objects`, one for all levels: (batch, objects, 5) with class, y1, x1, y2, x2, corners
        as fractions of the image; rows with class -1 are padding. Loss: see `kb.DetectionMap`.

    Raises:
        ValueError: if an argument is not as described above, or the network lacks a stride.

    Reference: Tian et al. 2019, arXiv:1904.01355, without its centre-ness; Lin et al. 2016,
        arXiv:1612.03144.
    """

    def __init__(
        self,
        classes: int,
        strides: int | Sequence[int] = 8,
        *,
        largest: float = 8.0,
        filters: int = 64,
        depth: int = 1,
        radius: float = 1.5,
        box_weight: float = 1.0,
        loss_weight: float = 1.0,
    ) -> None:
        levels: Any = tuple(strides) if isinstance(strides, (list, tuple)) else (strides,)
        if not levels or any(not isinstance(s, int) or s < 1 for s in levels):
            raise ValueError(
                f"`strides` must be a positive integer or several. Received: strides={strides!r}"
            )
        if len(set(levels)) < len(levels):
            raise ValueError(f"`strides` must differ. Received: strides={strides!r}")
        self.strides = tuple(sorted(levels))
        self.filters = filters
        own: Any = {"radius": radius, "box_weight": box_weight, "loss_weight": loss_weight}
        self.maps = {
            stride: DetectionMap.Spec(
                classes,
                smallest=0.0 if finer is None else largest * finer / stride,
                largest=0.0 if stride == self.strides[-1] else largest,
                **own,
            )
            for finer, stride in zip((None, *self.strides), self.strides, strict=False)
        }
        # Group normalization, as in FCOS: all levels share the tower, but their statistics differ.
        self.tower = ConvBlock.Spec(filters, 3, convolutions=depth, normalization=Norm("group"))

    def attach(self, place: Place) -> Attached:
        place.at(self.strides, "Detector")
        rows, levels = top_down(place, "Detector", self.strides[0], self.filters)
        outputs, targets = {}, {}
        target = place.name or OBJECTS
        tower = None
        for stride in self.strides:
            several = f"stride{stride}" if len(self.strides) > 1 else ""
            row = place.row(f"tower{stride}")
            rows.append((row, tower or self.tower, (levels[stride],)))
            tower = tower or row
            rows.append((place.row(several), self.maps[stride], (row,)))
            output = "_".join(filter(None, (target, several)))
            outputs[output], targets[output] = place.row(several), target
        return Attached(rows, outputs, targets)
