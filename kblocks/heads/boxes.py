"""Heads for one object an image: its box (`BoxRegressor`), or its class and box (`Localizer`).

Boxes are corners (y1, x1, y2, x2) as fractions of the image's height and width.
"""

from dataclasses import KW_ONLY
from functools import partial
from typing import Any, Literal

import keras
import numpy as np

from kblocks.blocks import fields
from kblocks.blocks.block import Block
from kblocks.blocks.convolution import act
from kblocks.common import backend
from kblocks.heads.attaching import Attached, Head, Place, only
from kblocks.heads.classification import Classifier, check_pooled, pooled
from kblocks.heads.task import TargetLoss, TargetMetric, Task, agree, outside
from kblocks.plans.ops import Activation, Chain, Corners, Dense, Dropout, Merge, Op

_ops: Any = keras.ops  # its functions are annotated as if they could return None

_HALF = -0.43275  # softplus(_HALF) = 0.5
BoxKind = Literal["smooth_l1", "giou"]


def overlap(first: Any, second: Any) -> tuple[Any, Any]:
    """The IoU and the generalized IoU of pairs of boxes (..., 4).

    Reference: Rezatofighi et al. 2019, arXiv:1902.09630, Algorithm 1.
    """
    start, end = first[..., :2], first[..., 2:]
    other_start, other_end = second[..., :2], second[..., 2:]
    inside = _area(_ops.maximum(start, other_start), _ops.minimum(end, other_end))
    around = _area(_ops.minimum(start, other_start), _ops.maximum(end, other_end))
    union = _area(start, end) + _area(other_start, other_end) - inside
    tiny = keras.config.epsilon()
    iou = inside / _ops.maximum(union, tiny)
    return iou, iou - (around - union) / _ops.maximum(around, tiny)


def _area(start: Any, end: Any) -> Any:
    sides = _ops.maximum(end - start, 0.0)
    return sides[..., 0] * sides[..., 1]


def smooth_l1(y_true: Any, y_pred: Any, beta: float) -> Any:
    """The sum over the last axis of an error that is quadratic below `beta`, and linear from it on.

    Reference: Girshick 2015, arXiv:1504.08083, Eq. 3.
    """
    distance = _ops.abs(y_true - y_pred)
    square = 0.5 * _ops.square(distance) / beta
    return _ops.sum(_ops.where(distance < beta, square, distance - 0.5 * beta), -1)


class BoxLoss(TargetLoss):
    """The loss for one box an image: "giou", or "smooth_l1" of the corners, linear from `beta`."""

    target = "corners (y1, x1, y2, x2) from 0 to 1, y1 < y2 and x1 < x2, (batch, 4)"
    geometry = "box"

    def __init__(self, kind: str = "giou", beta: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind
        self.beta = beta

    def fits(self, targets: tuple[Any, ...], outputs: tuple[Any, ...]) -> bool:
        return len(targets) == 2 and agree(targets[1], 4) and agree(outputs[-1], 4)

    def problem(self, targets: np.ndarray) -> str | None:
        if not self.fits(targets.shape, (None, 4)):
            return "another form"
        return box_problem(targets)

    def values(self, y_true: Any, y_pred: Any) -> Any:
        in_shares(y_true, self.target)
        if self.kind == "giou":
            return 1.0 - overlap(y_true, y_pred)[1]
        return smooth_l1(y_true, y_pred, self.beta)


def box_problem(boxes: np.ndarray) -> str | None:
    """Says what is wrong with boxes (n, 4), or None: outside the image, or empty."""
    slack = 1e-3  # for rounding errors of boxes that reach the edge
    if outside(boxes, -slack, 1 + slack):
        return f"values from {boxes.min()} to {boxes.max()} (are they in pixels?)"
    wrong = np.flatnonzero(np.any(boxes[:, 2:] <= boxes[:, :2], axis=1))
    return f"y2 <= y1 or x2 <= x1 in {boxes[wrong[0]].tolist()}" if wrong.size else None


def in_shares(boxes: Any, target: str) -> None:
    """Refuses boxes in pixels: coordinates over 2, as augmentation moves boxes past the edge."""
    largest = _ops.max(_ops.reshape(boxes, (-1,)), initial=0.0)
    backend.demand(largest <= 2.0, f"Targets must be {target} (are they in pixels?).", (largest,))


class BoxIoU(TargetMetric):
    """The mean IoU of predicted and true boxes, one box an image."""

    label = "iou"

    def values(self, y_true: Any, y_pred: Any) -> Any:
        return overlap(y_true, y_pred)[0]


class Regressor(Block, kw_only=True, abstract=True):
    """The arguments of heads that predict numbers from a whole map.

    Args:
        pool: how the map becomes features: "flatten", which keeps positions; "avg" or "max"
            (global), or "concat" (both).
        pool_size: size to which the map is averaged adaptively before "flatten"; integer, pair
            or None.
        hidden: units of each hidden linear layer, which `activation` follows.
        dropout: dropout rate after each hidden layer.
    """

    pool: Literal["avg", "max", "concat", "flatten"] = "flatten"
    pool_size: fields.Size | None = None
    hidden: fields.Counts = ()
    activation: fields.ActivationLike | None = "relu"
    dropout: fields.Rate = 0.0
    loss_weight: fields.Positive = 1.0
    kernel_initializer: fields.InitializerLike = "glorot_uniform"
    kernel_regularizer: fields.RegularizerLike | None = None

    def check(self) -> None:
        check_pooled(self)


def features(spec: Any) -> Op:
    """The plan from a map to the features that the last linear layer reads."""
    drop = Dropout(spec.dropout) if spec.dropout else None
    hidden = [Chain(linear(spec, units), act(spec), drop) for units in spec.hidden]
    return Chain(pooled(spec.pool, spec.pool_size), *hidden)


def linear(spec: Any, units: int, start: float = 0.0) -> Dense:
    """A linear layer with a regressor's arguments and a bias that starts at `start`."""
    return Dense(
        units,
        kernel_initializer=spec.kernel_initializer,
        bias_initializer=constant(start) if start else "zeros",
        kernel_regularizer=spec.kernel_regularizer,
    )


def constant(value: float) -> Any:
    """The serialized `keras.initializers.Constant(value)`."""
    config: Any = keras.initializers.serialize(keras.initializers.Constant(value))
    return fields.FrozenConfig(config)


class BoxRegressor(Regressor):
    """Predicts the box of one object: its centre and size by regression, converted to corners.

    Before training the box lies around the middle of the image and has half its size. Centre and
    size are unbounded, so no gradient vanishes.

    Args:
        box_loss: "giou" (generalized IoU) or "smooth_l1" of the corners.

    Output shape: (batch, 4): (y1, x1, y2, x2) as fractions of the image; corners may lie outside.
    Targets: of the same form, (batch, 4). Loss: `box_loss`. Metric: intersection over union.

    Reference: Sermanet et al. 2013, arXiv:1312.6229, Sec. 4, for boxes by regression;
        Rezatofighi et al. 2019, arXiv:1902.09630, for the loss.
    """

    _: KW_ONLY
    box_loss: BoxKind = "giou"

    def task(self) -> Task:
        return Task(partial(BoxLoss, self.box_loss), (BoxIoU,), self.loss_weight, "box")

    def plan(self, channels: int) -> Op:
        size = Chain(linear(self, 2, _HALF), Activation("softplus"))
        both = Merge("concat", centre=linear(self, 2, 0.5), size=size)
        return Chain(features(self), both, Corners())


class Localizer(Head):
    """Predicts the class and the box of one object an image: a classifier and a box regressor.

    Args:
        classes: number of classes.
        class_weight, box_weight: factors of the two losses in their sum.
        classifier: a dict of further arguments of `kb.Classifier`, or its Spec.
        regressor: a dict of arguments of `kb.BoxRegressor`, or its Spec.

    Outputs: `class`, logits (batch, classes), and `box`, (batch, 4): (y1, x1, y2, x2) as
        fractions of the image. Targets: a dict of both, `class` as integers (batch,). Loss: the
        weighted sum of cross-entropy and the box loss. Metrics: accuracy, intersection over union.

    Raises:
        ValueError, TypeError: if an argument is not as described above.
    """

    def __init__(
        self,
        classes: int,
        *,
        class_weight: float = 1.0,
        box_weight: float = 1.0,
        classifier: Any = None,
        regressor: Any = None,
    ) -> None:
        weights = {"classes": classes, "loss_weight": fields.positive("class_weight", class_weight)}
        self.classifier = only(Classifier, "classifier", classifier, weights)
        own = {"loss_weight": fields.positive("box_weight", box_weight)}
        self.regressor = only(BoxRegressor, "regressor", regressor, own)

    def attach(self, place: Place) -> Attached:
        parts = {"class": self.classifier, "box": self.regressor}
        rows = [(place.row(part), spec, (place.body,)) for part, spec in parts.items()]
        return Attached(rows, {place.output(part): place.row(part) for part in parts})
