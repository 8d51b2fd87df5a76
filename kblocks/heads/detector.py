"""`Detector`: an anchor-free detector of all objects of an image, on one or several levels."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY
from functools import partial
from typing import Any

from kblocks.blocks.block import Block
from kblocks.blocks.convolution import ConvBlock
from kblocks.blocks.fields import Count, InitializerLike, Positive
from kblocks.heads.attaching import Attached, Head, Place
from kblocks.heads.boxes import constant
from kblocks.heads.detection import CellIoU, DetectionLoss
from kblocks.heads.pyramid import top_down
from kblocks.heads.task import Task
from kblocks.plans.ops import Activation, Chain, Conv, Merge, Norm, Op

OBJECTS = "objects"
_PRIOR = 0.01  # initial probability of an object in a cell (arXiv:1708.02002, Sec. 4.1)
_CELLS = 2.0  # initial distances to a box's sides, before softplus


class DetectionMap(Block):
    """Predicts for each cell of a map the logits of the classes and a box around its centre.

    Args:
        classes: number of classes.
        smallest, largest: which objects this map detects: those whose longer side, in cells, is
            over `smallest` and at most `largest`; `largest` 0 is no bound.
        radius: an object belongs to the cells in its box whose centres are less than this from
            its own, in cells, and to the cell of its centre.
        box_weight: factor of the box loss, which is added to the focal loss.
        loss_weight: factor of this output's loss in the total of several outputs.
        kernel_initializer: Keras initializer of both convolutions, by name or as an object.

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
        """The task: focal loss and generalized IoU loss."""
        arguments = (self.classes, self.smallest, self.largest or math.inf, self.radius)
        return Task(
            partial(DetectionLoss, *arguments, self.box_weight),
            (partial(CellIoU, *arguments),),
            self.loss_weight,
            OBJECTS,
        )

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
        self.maps = {
            stride: DetectionMap.Spec(
                classes,
                smallest=0.0 if finer is None else largest * finer / stride,
                largest=0.0 if stride == self.strides[-1] else largest,
                radius=radius,
                box_weight=box_weight,
                loss_weight=loss_weight,
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
