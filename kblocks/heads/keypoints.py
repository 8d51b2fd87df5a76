"""`Keypoints`: positions in an image, by regression or as the soft-argmax of heatmaps."""

from dataclasses import KW_ONLY
from functools import partial
from typing import Any, Literal

import keras
import numpy as np

from kblocks.blocks.convolution import Convolutional, act, conv, norm
from kblocks.blocks.fields import Count, Counts, Padding, Positive, Size
from kblocks.heads.attaching import Attached, Head, Place, only
from kblocks.heads.boxes import Regressor, features, linear, smooth_l1
from kblocks.heads.pyramid import top_down
from kblocks.heads.task import TargetLoss, TargetMetric, Task, agree, outside
from kblocks.plans.ops import Chain, Conv, Op, Reshape, SoftArgmax

_ops: Any = keras.ops  # its functions are annotated as if they could return None

POINTS = "points"


class KeypointLoss(TargetLoss):
    """Smooth L1, linear from `beta` on, averaged over the visible points of an image."""

    geometry = "points"

    def __init__(self, points: int, beta: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.points = points
        self.beta = beta

    @property
    def target(self) -> str:  # type: ignore[override]
        return (
            f"places (y, x) from 0 to 1, (batch, {self.points}, 2), or (y, x, 1 if it is to be "
            f"seen and else 0), (batch, {self.points}, 3)"
        )

    def fits(self, targets: tuple[Any, ...], outputs: tuple[Any, ...]) -> bool:
        known = len(targets) == 3 and targets[2] in (2, 3)  # an unknown size could be 2 or 3
        return known and agree(targets[1], self.points) and agree(outputs[1], self.points)

    def problem(self, targets: np.ndarray) -> str | None:
        if not self.fits(targets.shape, (None, self.points, 2)):
            return "another form"
        seen = targets[targets[..., 2] > 0] if targets.shape[2] == 3 else targets
        return outside(seen[..., :2], 0, 1)

    def values(self, y_true: Any, y_pred: Any) -> Any:
        places, seen = places_and_seen(y_true)
        return _mean_of_seen(smooth_l1(places, y_pred, self.beta), seen)


def places_and_seen(targets: Any) -> tuple[Any, Any]:
    """The positions (batch, points, 2), 0 if invisible, and the visibility (batch, points)."""
    places = targets[..., :2]
    if targets.shape[-1] == 3:
        seen = targets[..., 2]
        return _ops.where(seen[..., None] > 0, places, 0.0), seen
    return places, _ops.ones_like(places[..., 0])


def _mean_of_seen(values: Any, seen: Any) -> Any:
    total = _ops.sum(values * seen, -1)
    return total / _ops.maximum(_ops.sum(seen, -1), 1.0)


class _OfPlaces(TargetMetric):
    """A mean over the images that have a visible point."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:  # type: ignore[override]
        _, seen = places_and_seen(_ops.cast(y_true, "float32"))
        counts = _ops.cast(_ops.any(seen > 0, axis=-1), "float32")
        if sample_weight is not None:
            counts = counts * _ops.reshape(_ops.cast(sample_weight, "float32"), (-1,))
        return super().update_state(y_true, y_pred, counts)


class KeypointDistance(_OfPlaces):
    """The mean distance of predicted and true points, as a fraction of the image."""

    label = "distance"

    def values(self, y_true: Any, y_pred: Any) -> Any:
        places, seen = places_and_seen(y_true)
        squares = _ops.sum(_ops.square(places - y_pred), -1)
        return _mean_of_seen(_ops.sqrt(squares), seen)


class KeypointsWithin(_OfPlaces):
    """The fraction of points that are at most `tolerance` (a fraction of the image) off."""

    def __init__(self, tolerance: float = 0.05, name: str = "within", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.tolerance = tolerance

    def values(self, y_true: Any, y_pred: Any) -> Any:
        places, seen = places_and_seen(y_true)
        squares = _ops.sum(_ops.square(places - y_pred), -1)
        near = _ops.cast(squares <= self.tolerance**2, "float32")
        return _mean_of_seen(near, seen)


def keypoint_task(spec: Any) -> Task:
    metrics = (KeypointDistance, partial(KeypointsWithin, spec.tolerance))
    return Task(partial(KeypointLoss, spec.points), metrics, spec.loss_weight, POINTS)


class KeypointRegressor(Regressor):
    """Predicts the positions of points by regression from a whole map.

    Args:
        points: number of points.
        tolerance: largest error that the metric `within` accepts, as a fraction of the image.

    Output shape: (batch, points, 2): (y, x) as fractions of the image.
    Targets: of the same form, or (y, x, visible) with 1 for visible points and 0 for others.
        Loss: smooth L1 of the visible points. Metrics: mean distance, fraction of points within
        `tolerance`.

    Reference: Toshev & Szegedy 2013, arXiv:1312.4659, Sec. 3.1.
    """

    points: Count
    _: KW_ONLY
    tolerance: Positive = 0.05

    def task(self) -> Task:
        return keypoint_task(self)

    def plan(self, channels: int) -> Op:
        places = linear(self, 2 * self.points, 0.5)
        return Chain(features(self), places, Reshape((self.points, 2)))


class KeypointMaps(Convolutional):
    """Predicts the positions of points as the soft-argmax of heatmaps, one for each point.

    Gradients pass through the soft-argmax, so heatmaps need no targets of their own.

    Args:
        points: number of points.
        filters: filters of each hidden convolution.
        kernel_size: kernel of the hidden convolutions; integer or pair (height, width).
        tolerance: largest error that the metric `within` accepts, as a fraction of the image.

    Output shape: (batch, points, 2): (y, x) as fractions of the image.
    Targets, loss and metrics: those of `KeypointRegressor`.

    Reference: Sun et al. 2017, arXiv:1711.08229, Sec. 2.
    """

    points: Count
    filters: Counts = ()
    kernel_size: Size = 3
    _: KW_ONLY
    padding: Padding = "same"
    tolerance: Positive = 0.05
    loss_weight: Positive = 1.0

    def task(self) -> Task:
        return keypoint_task(self)

    def plan(self, channels: int) -> Op:
        size, ends = self.kernel_size, (norm(self), act(self))
        hidden = [Chain(conv(self, filters, size), *ends) for filters in self.filters]
        maps = Conv(self.points, kernel_initializer=self.kernel_initializer)
        return Chain(*hidden, maps, SoftArgmax())


class Keypoints(Head):
    """Predicts the positions of points, by heatmaps on a feature pyramid or from the last map.

    Args:
        points: number of points.
        mode: "heatmaps" (`kb.KeypointMaps`) or "coordinates" (`kb.KeypointRegressor`).
        stride: stride of the heatmaps, down to which the pyramid upsamples coarser maps.
        filters: filters of the pyramid.
        arguments: further arguments of `kb.KeypointMaps` or `kb.KeypointRegressor`.

    Outputs: `points`, (batch, points, 2): (y, x) as fractions of the image; the centre of pixel i
        of n lies at (i + 0.5) / n. Targets, loss and metrics: those of `kb.KeypointRegressor`.

    Raises:
        ValueError, TypeError: if an argument is not as described above.
    """

    def __init__(
        self,
        points: int,
        mode: Literal["heatmaps", "coordinates"] = "heatmaps",
        *,
        stride: int = 4,
        filters: int = 64,
        **arguments: Any,
    ) -> None:
        if mode not in ("heatmaps", "coordinates"):
            raise ValueError(f"`mode` must be 'heatmaps' or 'coordinates'. Received: mode={mode!r}")
        if not isinstance(stride, int) or stride < 1:
            raise ValueError(f"`stride` must be a positive integer. Received: stride={stride!r}")
        block = KeypointMaps if mode == "heatmaps" else KeypointRegressor
        self.spec_of_output = only(block, "arguments", arguments, {"points": points})
        self.mode, self.stride, self.filters = mode, stride, filters

    def attach(self, place: Place) -> Attached:
        rows, last = [], place.body
        if self.mode == "heatmaps":
            rows, maps = top_down(place, "Keypoints", self.stride, self.filters)
            last = maps[self.stride]
        row = (place.row(), self.spec_of_output, (last,))
        return Attached([*rows, row], {place.output(alone=POINTS): place.row()})
