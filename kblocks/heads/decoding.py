"""Decodes a detector's maps to boxes, and measures their mean average precision."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from kblocks.heads.task import is_channels_first


class Detections(NamedTuple):
    """The objects found in one image, by falling score.

    Attributes:
        boxes: corners (y1, x1, y2, x2) as fractions of the image, (n, 4).
        classes: class indices, (n,).
        scores: scores from 0 to 1, (n,).
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def detections(
    predictions: Any, *, score: float = 0.3, iou: float = 0.5, most: int = 100
) -> list[Detections]:
    """Decodes the outputs of a `kb.Detector` to the objects of each image of the batch.

    Args:
        predictions: a map (batch, height, width, classes + 4), or a dict of such maps, one a
            level, without the outputs of other heads.
        score: the lowest score of an object.
        iou: of two boxes of one class whose IoU is higher than this, the one with the higher
            score stays.
        most: the most objects of one image.

    Raises:
        ValueError: if a prediction has another form.
    """
    maps = dict(predictions) if isinstance(predictions, Mapping) else {"": predictions}
    others = [name for name, one in maps.items() if len(one.shape) != 4]
    if others and len(maps) > 1:
        raise ValueError(
            "`predictions` must be the maps of a detector alone. "
            f"Received: {', '.join(others)} beside them"
        )
    arrays: Any = map(keras.ops.convert_to_numpy, maps.values())
    both = zip(*map(_scores_and_boxes, arrays), strict=True)
    scores, boxes = (np.concatenate(levels, 1) for levels in both)
    return [_kept(*image, score, iou, most) for image in zip(scores, boxes, strict=True)]


def _scores_and_boxes(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores (batch, cells, classes) and boxes (batch, cells, 4) of a map."""
    if is_channels_first() and cells.ndim == 4:
        cells = cells.transpose(0, 2, 3, 1)
    if cells.ndim != 4 or cells.shape[3] < 5:
        raise ValueError(
            "`predictions` must be maps (batch, height, width, classes + 4). "
            f"Received: shape {cells.shape}"
        )
    batch, height, width, channels = cells.shape
    cells = cells.astype("float32").reshape(batch, height * width, channels)
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    places = np.stack([y.ravel(), x.ravel()], -1)
    sides = cells[..., -4:]
    corners = np.concatenate([places - sides[..., :2], places + sides[..., 2:]], -1)
    logits = np.clip(cells[..., :-4], -80, 80)
    return 1 / (1 + np.exp(-logits)), corners / (height, width, height, width)


def _kept(scores: np.ndarray, boxes: np.ndarray, score: float, iou: float, most: int) -> Detections:
    cells, classes = np.nonzero(scores >= score)
    sure = scores[cells, classes]
    boxes = np.clip(boxes[cells], 0, 1)
    # An offset for each class keeps boxes of different classes from overlapping.
    apart = boxes + 2.0 * classes[:, None]
    kept = non_maximum_suppression(apart, sure, iou, most)
    return Detections(boxes[kept], classes[kept], sure[kept])


def non_maximum_suppression(
    boxes: Any, scores: Any, iou: float = 0.5, most: int | None = None
) -> np.ndarray:
    """Keeps the boxes that do not overlap a kept box with a higher score.

    Args:
        boxes: corners (y1, x1, y2, x2), (n, 4).
        scores: scores, (n,); of two equal scores the first counts as higher.
        iou: the highest IoU of two kept boxes.
        most: the most boxes to keep; None is no limit.

    Returns:
        Indices into `boxes`, by falling score, (kept,).

    Raises:
        ValueError: if `boxes` or `scores` has another shape.
    """
    boxes, scores = np.asarray(boxes, "float64"), np.asarray(scores)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ValueError(
            "`boxes` must be (n, 4) and `scores` (n,). "
            f"Received: shapes {boxes.shape} and {scores.shape}"
        )
    left = np.argsort(-scores, kind="stable")
    kept = []
    while left.size and (most is None or len(kept) < most):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[overlaps(boxes[best], boxes[left]) <= iou]
    return np.array(kept, dtype="int64")


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The IoU of one box (4,) with others (n, 4), as (n,)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    inside = np.prod(np.maximum(sides, 0), axis=1)
    area, others = np.prod(box[2:] - box[:2]), np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    union = area + others - inside
    return np.divide(inside, union, out=np.zeros(len(boxes)), where=union > 0)


def mean_average_precision(found: Sequence[Detections], targets: Any, *, iou: float = 0.5) -> float:
    """Mean average precision: the area under the precision-recall curve, averaged over classes.

    Args:
        found: the detections of each image, from `kb.detections`; the lower its `score`, the more
            of the curve they cover.
        targets: (images, objects, 5) with class, y1, x1, y2, x2; rows with class -1 are padding.
        iou: the lowest IoU at which a box matches an object.

    By falling score, each box is compared with the object of its class that it overlaps best; a
    second match of an object counts as a false positive. The precision at a recall is the highest
    at that or any higher recall.

    Raises:
        ValueError: if the shapes do not fit.

    Reference: Everingham et al. 2015, IJCV 111:98, Sec. 4.2 (as of VOC 2010: all recalls).
    """
    targets = np.asarray(targets)
    if targets.ndim != 3 or targets.shape[2] != 5 or len(found) != len(targets):
        raise ValueError(
            "`targets` must be (images, objects, 5) for as many images as `found`. "
            f"Received: shape {targets.shape} for {len(found)} images"
        )
    kinds = np.unique(targets[..., 0])
    values = [_average_precision(found, targets, kind, iou) for kind in kinds[kinds >= 0]]
    return float(np.mean(values)) if values else 0.0


def _average_precision(
    found: Sequence[Detections], targets: np.ndarray, kind: float, iou: float
) -> float:
    truth = [objects[objects[:, 0] == kind, 1:] for objects in targets]
    taken = [np.zeros(len(boxes), bool) for boxes in truth]
    claims = [
        (score, image, box)
        for image, one in enumerate(found)
        for box, own, score in zip(one.boxes, one.classes, one.scores, strict=True)
        if own == kind
    ]
    claims.sort(key=lambda claim: -claim[0])
    hits = np.zeros(len(claims))
    for position, (_, image, box) in enumerate(claims):
        shared = overlaps(box, truth[image])
        best = int(np.argmax(shared)) if shared.size else 0
        if shared.size and shared[best] >= iou and not taken[image][best]:
            taken[image][best] = hits[position] = True
    recall = np.cumsum(hits) / sum(map(len, truth))
    precision = np.cumsum(hits) / np.arange(1, len(claims) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))
