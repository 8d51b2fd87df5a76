"""`Segmenter`: a fully convolutional head that classifies each pixel."""

from dataclasses import KW_ONLY
from functools import partial
from typing import Any

import keras
import numpy as np

from kblocks.blocks.block import Block
from kblocks.blocks.convolution import ConvBlock
from kblocks.blocks.fields import Count, Positive
from kblocks.heads.attaching import Attached, Head, Place
from kblocks.heads.pyramid import raised, strides_down_to
from kblocks.heads.task import (
    FunctionLoss,
    TargetLoss,
    Task,
    agree,
    channels_last,
    is_channels_first,
    outside,
    shape_of,
)
from kblocks.plans.ops import Op, ResizeLike

_ops: Any = keras.ops  # its functions are annotated as if they could return None

MASK = "mask"


class PixelLoss(TargetLoss):
    """Cross-entropy of each pixel, averaged over the pixels of an image that are not `void`."""

    geometry = "mask"
    of_logits = True

    def __init__(self, classes: int, void: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = classes
        self.void = void

    @property
    def target(self) -> str:  # type: ignore[override]
        if self.classes == 1:
            return "of two classes at least: one alone is always right, give the head two"
        void = " (`void` is a label that does not count)"
        void = void if self.void is None else f" or {self.void} (not counted)"
        return f"classes from 0 to {self.classes - 1}{void}, (batch, height, width)"

    def fits(self, targets: tuple[Any, ...], outputs: tuple[Any, ...]) -> bool:
        if len(targets) == 4 and targets[3] == 1:
            targets = targets[:3]
        if self.classes == 1:
            return False
        height, width, classes = _last(outputs)
        fits = len(targets) == 3 and agree(targets[1], height) and agree(targets[2], width)
        return fits and agree(classes, self.classes)

    def problem(self, targets: np.ndarray) -> str | None:
        if self.classes == 1 or targets.ndim < 3 or targets.shape[3:] not in ((), (1,)):
            return "another form"
        counted = targets if self.void is None else targets[targets != self.void]
        if np.any(counted != np.floor(counted)):
            return "fractions"
        return outside(counted, 0, self.classes - 1)

    def example(self, output: Any) -> Any:
        height, width, _ = _last(tuple(output.shape))
        return _ops.zeros((output.shape[0], height, width))

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Takes sample weights for each pixel, (batch, height, width), or for each image."""
        shape = () if sample_weight is None else shape_of(sample_weight) or ()
        if sample_weight is None or len(shape) < 3:
            return super().__call__(y_true, y_pred, sample_weight)
        weights = sample_weight[..., 0] if len(shape) == 4 else sample_weight
        self.refuse(y_true, y_pred)
        return FunctionLoss(self.of_pixels)(y_true, y_pred, weights)

    def values(self, y_true: Any, y_pred: Any) -> Any:
        return _ops.mean(self.of_pixels(y_true, y_pred), axis=(1, 2))

    def of_pixels(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each pixel, scaled so that an image's mean is that of its counted pixels."""
        y_pred = channels_last(y_pred)
        if len(y_true.shape) == 4:
            y_true = y_true[..., 0]
        counted = None if self.void is None else y_true != self.void
        labels, known = self.classes_of(y_true, self.classes, counted)
        target = _ops.one_hot(labels, self.classes, dtype=y_pred.dtype)
        losses = known * keras.losses.categorical_crossentropy(target, y_pred, from_logits=True)
        if counted is None:
            return losses
        counts = _ops.cast(counted, y_pred.dtype)
        share = _ops.mean(counts, axis=(1, 2), keepdims=True)
        return losses * counts / _ops.maximum(share, keras.config.epsilon())


def _last(shape: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    return (shape[2], shape[3], shape[1]) if is_channels_first() else (shape[1], shape[2], shape[3])


@keras.saving.register_keras_serializable("kblocks")
class PixelIoU(keras.metrics.MeanIoU):
    """Keras' mean IoU in both data formats; Keras' own `axis` fails for channels first."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        y_pred = channels_last(y_pred)
        return super().update_state(y_true, y_pred, sample_weight)


class SegmentationMap(Block):
    """Resizes score maps bilinearly to the height and width of the second input.

    Args:
        classes: channels of the score maps.
        void: the label of pixels to ignore, or None.

    Input shape: a list of (batch, rows, columns, classes) and (batch, height, width, channels).
    Output shape: (batch, height, width, classes), logits.
    Targets: class indices, (batch, height, width). Loss: cross-entropy, averaged over the pixels
        of an image that are not void. Metric: mean intersection over union.
    """

    classes: Count
    _: KW_ONLY
    void: int | None = None
    loss_weight: Positive = 1.0

    def task(self) -> Task:
        iou = {"name": "mean_iou", "ignore_class": self.void, "sparse_y_pred": False}
        metrics = (partial(PixelIoU, self.classes, **iou),)
        return Task(partial(PixelLoss, self.classes, self.void), metrics, self.loss_weight, MASK)

    def plan(self, channels: Any) -> Op:
        if channels[0] != self.classes:
            raise ValueError(
                f"`classes` (={self.classes}) must be the channels of the score maps "
                f"(={channels[0]})"
            )
        return ResizeLike()


class Segmenter(Head):
    """A fully convolutional head: scores at each stride, upsampled, added and sized as the input.

    Args:
        classes: number of classes, including the background.
        stride: stride of the finest scores: 32, 16 and 8 give FCN-32s, FCN-16s and FCN-8s; any
            other stride of the network is possible, such as 2. None is the network's coarsest.
        void: the label of pixels to ignore, or None.
        loss_weight: factor of this output's loss in the total of several outputs.

    Outputs: `mask`, (batch, height, width, classes), logits at the input's size. Targets, loss and
        metric: those of `kb.SegmentationMap`.

    1x1 convolutions compute the scores; those of finer maps are initialized with zeros. All
    upsampling is bilinear.

    Raises:
        ValueError: if an argument is not as described above, or the network lacks the stride.

    Reference: Long et al. 2014, arXiv:1411.4038, Sec. 4 and Fig. 3.
    """

    def __init__(
        self,
        classes: int,
        stride: int | None = 8,
        *,
        void: int | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        self.output: Any = SegmentationMap.Spec(classes, void=void, loss_weight=loss_weight)
        self.stride = stride

    def attach(self, place: Place) -> Attached:
        strides = strides_down_to(place, "Segmenter", self.stride)
        classes = self.output.classes
        plain: dict[str, Any] = {"normalization": None, "activation": None}
        first = ConvBlock.Spec(classes, 1, kernel_initializer="glorot_uniform", **plain)
        rows, found = raised(place, strides, first, classes, "score", "zeros")
        rows.append((place.row(), self.output, (found[strides[-1]], "input")))
        return Attached(rows, {place.output(alone=MASK): place.row()})
