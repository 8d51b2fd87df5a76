"""Mean average precision of detections over a whole data set."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kblocks.heads.decoding import Detections, overlaps


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
