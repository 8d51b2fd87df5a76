"""Moves images together with their targets: masks, boxes, points and weights of pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras

from kblocks.common import backend
from kblocks.heads import tasks_of
from kblocks.heads.task import agree, channels_last, is_channels_first

_ops: Any = keras.ops  # its functions are annotated as if they could return None
_layers: Any = keras.layers
# Keras' layers that change values and move no pixels.
_KEEPING = tuple(
    getattr(_layers, name)
    for name in (
        *("AlphaDropout", "AutoContrast", "ContrastLimitedAdaptiveHistogramEqualization"),
        *("Dropout", "Equalization", "GaussianDropout", "GaussianNoise", "Identity"),
        *("Normalization", "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter"),
        *("RandomContrast", "RandomErasing", "RandomGaussianBlur", "RandomGrayscale", "RandomHue"),
        *("RandomInvert", "RandomPosterization", "RandomSaturation", "RandomSharpness"),
        *("Rescaling", "Solarization", "SpatialDropout2D"),
    )
    if hasattr(_layers, name)
)
# Keras' layers that move masks and boxes correctly with the images, as a test verifies.
_MOVING = ("RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom")
_MOVES = tuple(getattr(_layers, name) for name in _MOVING)
# These take 0 for the middle of the first pixel and not for its edge, so half a pixel is
# subtracted from corners before the call and added after it.
_BY_MIDDLES = (_layers.RandomRotation, _layers.RandomZoom)
_INSIDE = 0.01  # pixels between a point and the edge, so that a point on the edge has left


class Kind(NamedTuple):
    """How a target lies in an image.

    Attributes:
        geometry: as in `TargetLoss`, or "weights" of pixels; None leaves it to the target's shape.
        void: the label of pixels that do not count, or None.
    """

    geometry: str | None = None
    void: int | None = None


def kinds_of(model: keras.Model) -> dict[Any, Kind]:
    """The kinds of a model's targets, by output (its name or index) and by target.

    Without heads of kblocks, the target of an output with one vector per sample is a label. Empty
    for a model whose outputs are not known.
    """
    tasks = tasks_of(model)
    found: dict[Any, Kind] = {}
    for output, loss in tasks.losses().items():
        kind = Kind(getattr(loss, "geometry", None), getattr(loss, "void", None))
        found[output] = found[tasks.target_of(output)] = kind
    if not found:
        by_name = getattr(model, "output", None)
        outputs = getattr(model, "outputs", None) or []
        pairs = by_name.items() if isinstance(by_name, dict) else enumerate(outputs)
        for key, output in pairs:
            found[key] = Kind("class" if len(output.shape) <= 2 else None)
    return found


def check_moves(layer: Any, kinds: Mapping[Any, Kind]) -> None:
    """Refuses a layer that may move pixels and cannot move the targets with them.

    Raises:
        ValueError: if it is such a layer; the message lists layers that can.
    """
    lying = [str(name) for name, kind in kinds.items() if kind.geometry != "class"]
    if lying and not keeps_places(layer) and not moves_targets(layer):
        raise ValueError(
            "`augmentation` must move the targets with the images, or leave all pixels where they "
            f"are: 'flip', 'shift', 'flip+shift' and Keras' {', '.join(_MOVING)} move both, and a "
            "layer of your own that only changes values says so by an attribute "
            f"`moves_pixels = False`. Received: {type(layer).__name__} for targets of "
            f"{', '.join(dict.fromkeys(lying))}"
        )


def keeps_places(layer: Any) -> bool:
    """Whether a layer only changes values and moves no pixels."""
    return isinstance(layer, _KEEPING) or getattr(layer, "moves_pixels", True) is False


def moves_targets(layer: Any) -> bool:
    """Whether a layer takes a dict of images, masks and boxes and moves all of them alike."""
    if backend.name() == "torch" and isinstance(layer, _layers.RandomRotation):
        return False  # it moves masks and images differently there
    return isinstance(layer, (Moved, *_MOVES))


def for_targets(layer: Any) -> Any:
    """A new copy of a Keras layer that moves targets, with boxes as corners in pixels.

    It computes in float32, as 16 bits would round both boxes and classes.
    """
    config = {**layer.get_config(), "dtype": "float32", "bounding_box_format": "xyxy"}
    return type(layer).from_config(config)


def moved(batch: Any, layer: Any, kinds: Mapping[Any, Kind]) -> Any:
    """A batch (x, y, weights) after a layer has changed its images and moved the targets.

    Images are all inputs of rank 4; those of one sample move alike.

    Raises:
        ValueError: if there are no images, or a target cannot be moved.
    """
    found = keras.tree.flatten_with_path(batch)
    leaves = [leaf for _, leaf in found]
    images = image_places(batch)
    if keeps_places(layer):
        for i in images:
            leaves[i] = layer(leaves[i], training=True)
        return keras.tree.pack_sequence_as(batch, leaves)
    size = _size([leaves[i] for i in images])
    lying = {}
    for i, (path, leaf) in enumerate(found):
        kind = _kind(kinds, path, leaf, size) if path[0] and leaf is not None else Kind("class")
        if kind.geometry != "class":
            lying[i] = kind
    if len(images) == 1 and not lying:
        leaves[images[0]] = layer(leaves[images[0]], training=True)
    else:
        check_moves(layer, {found[i][0][1:] or "y": kind for i, kind in lying.items()})
        _move(layer, leaves, images, lying)
    return keras.tree.pack_sequence_as(batch, leaves)


def image_places(batch: Any) -> list[int]:
    """Which leaves of a batch (x, y, weights) are images: the inputs of rank 4.

    Raises:
        ValueError: if none is.
    """
    found = keras.tree.flatten_with_path(batch)
    images = [i for i, (path, leaf) in enumerate(found) if path[0] == 0 and _rank(leaf) == 4]
    if not images:
        shapes = [getattr(leaf, "shape", None) for _, leaf in found]
        raise ValueError(
            "`augmentation` needs images, inputs of (batch, height, width, channels). "
            f"Received: inputs of shapes {shapes}"
        )
    return images


def _rank(leaf: Any) -> int:
    shape = getattr(leaf, "shape", None)
    return 0 if shape is None else len(shape)


def _size(images: Sequence[Any]) -> tuple[Any, Any]:
    """The height and width that all images have; None for an unknown one."""
    start = 2 if is_channels_first() else 1
    sizes = [tuple(image.shape[start : start + 2]) for image in images]
    for size in sizes:
        if not all(map(agree, size, sizes[0])):
            raise ValueError(
                "`augmentation` needs images of one size to move those of several inputs alike. "
                f"Received: {sizes}"
            )
    return sizes[0]


def _kind(kinds: Mapping[Any, Kind], path: Any, leaf: Any, size: tuple[Any, Any]) -> Kind:
    """The kind of a target or of sample weights; raises if it is unknown."""
    shape = tuple(leaf.shape)
    if path[0] == 2:
        of_pixels = len(shape) > 2 and all(map(agree, shape[1:3], size))
        return Kind("weights" if of_pixels else "class")
    named = kinds.get(path[1]) if len(path) > 1 else None
    alike = set(kinds.values())
    kind = named or (alike.pop() if len(alike) == 1 else Kind())
    if kind.geometry is not None:
        return kind
    start = 2 if is_channels_first() and len(shape) == 4 else 1
    if len(shape) <= 2 or all(length == 1 for length in shape[1:-1]):
        return Kind("class")
    if len(shape) <= 4 and all(map(agree, shape[start : start + 2], size)):
        return Kind("map")
    raise ValueError(
        "`augmentation` must move the targets with the images, and can move masks of the images' "
        f"size, or the targets of a head of kblocks. Received: targets of shape {shape} for "
        f"images of {size[0]}x{size[1]}"
    )


def _move(layer: Any, leaves: list[Any], images: list[int], lying: Mapping[int, Kind]) -> None:
    """Replaces images and targets in `leaves` by moved ones, with one call of the layer."""
    axis = 1 if is_channels_first() else 3
    pictures = [_ops.convert_to_tensor(leaves[i]) for i in images]
    height, width = (_ops.shape(pictures[0])[place] for place in ((2, 3) if axis == 1 else (1, 2)))
    size = _ops.stack([_ops.cast(side, "float32") for side in (width, height, width, height)])
    boxed = {i: kind for i, kind in lying.items() if kind.geometry in ("box", "objects", "points")}
    maps = {i: kind for i, kind in lying.items() if i not in boxed}
    data: dict[str, Any] = {"images": joined(pictures, axis)}
    parts = [_as_map(leaves[i], kind) - _filling(layer, kind) for i, kind in maps.items()]
    pairs = [_as_boxes(leaves[i], kind, size) for i, kind in boxed.items()]
    if maps:
        data["segmentation_masks"] = joined(parts, axis)
    half = 0.5 if isinstance(layer, _BY_MIDDLES) else 0.0
    if boxed:
        boxes, labels = (_ops.concatenate(some, 1) for some in zip(*pairs, strict=True))
        data["bounding_boxes"] = {"boxes": boxes - half, "labels": labels}
    data = layer(data, training=True)
    channels = [picture.shape[axis] for picture in pictures]
    for i, part in zip(images, parted(data["images"], channels, axis), strict=True):
        leaves[i] = part
    if maps:
        widths = [part.shape[axis] for part in parts]
        found = parted(data["segmentation_masks"], widths, axis)
        for (i, kind), part in zip(maps.items(), found, strict=True):
            leaves[i] = _from_map(part + _filling(layer, kind), leaves[i], kind)
    if boxed:
        counts = [_ops.shape(boxes)[1] for boxes, _ in pairs]
        boxes = data["bounding_boxes"]["boxes"]  # clipped at the edges
        boxes = _ops.where(boxes <= 0, 0.0, _ops.minimum(boxes + half, size))
        boxes = parted(boxes / size, counts, 1)
        labels = parted(data["bounding_boxes"]["labels"], counts, 1)
        for (i, kind), some, names in zip(boxed.items(), boxes, labels, strict=True):
            leaves[i] = _from_boxes(some, names, leaves[i], kind)


def joined(parts: Sequence[Any], axis: int) -> Any:
    """Several images, or masks, of each sample as one with the channels of all."""
    if len(parts) == 1:
        return parts[0]
    return _ops.concatenate([_ops.cast(part, "float32") for part in parts], axis)


def parted(whole: Any, lengths: Sequence[Any], axis: int) -> list[Any]:
    """The inverse of `joined`, by the numbers of channels."""
    parts, start = [], 0
    for length in lengths:
        slices = [slice(None)] * axis + [slice(start, start + length)]
        parts.append(whole[tuple(slices)] if len(lengths) > 1 else whole)
        start = start + length
    return parts


def _as_map(leaf: Any, kind: Kind) -> Any:
    """Masks or weights, (batch, height, width) with or without a last axis of 1, as images."""
    values = _ops.cast(leaf, "float32")
    if len(values.shape) == 3:
        return _ops.expand_dims(values, 1 if is_channels_first() else 3)
    turned = is_channels_first() and kind.geometry != "map"
    return _ops.transpose(values, (0, 3, 1, 2)) if turned else values


def _from_map(values: Any, leaf: Any, kind: Kind) -> Any:
    if kind.geometry == "mask":
        values = _ops.round(values)  # undoes rounding errors of `_filling`
    if len(leaf.shape) == 3:
        return _ops.squeeze(values, 1 if is_channels_first() else 3)
    turned = is_channels_first() and kind.geometry != "map"
    return _ops.transpose(values, (0, 2, 3, 1)) if turned else values


def _filling(layer: Any, kind: Kind) -> float:
    """What to subtract from masks and weights before a layer moves them, and to add again after.

    A layer with constant filling fills masks with the same value as images. This turns it into
    void (or 0) for masks, and 0 for weights.
    """
    if kind.geometry == "map" or getattr(layer, "fill_mode", None) != "constant":
        return 0.0
    return (kind.void or 0) - layer.fill_value


def _as_boxes(leaf: Any, kind: Kind, size: Any) -> tuple[Any, Any]:
    """Targets as corners (x1, y1, x2, y2) in pixels, (batch, boxes, 4), and their labels."""
    values = _ops.cast(leaf, "float32")
    if kind.geometry == "box":
        boxes = values[:, None, :]
    elif kind.geometry == "objects":
        boxes = values[..., 1:]
    else:
        places, edge = values[..., :2], _INSIDE / _ops.stack([size[1], size[0]])
        there = _ops.logical_and(places >= 0, places <= 1)
        places = _ops.where(there, _ops.clip(places, edge, 1 - edge), places)
        boxes = _ops.concatenate([places, places], -1)
    labels = values[..., 0] if kind.geometry == "objects" else _ops.zeros_like(boxes[..., 0])
    return _turned(boxes) * size, labels


def _from_boxes(boxes: Any, labels: Any, leaf: Any, kind: Kind) -> Any:
    """Targets in their original form, from corners as fractions of the image's size."""
    boxes = _turned(boxes)
    if kind.geometry == "box":
        return boxes[:, 0]
    if kind.geometry == "objects":
        return _ops.concatenate([_ops.cast(labels, "float32")[..., None], boxes], -1)
    places = boxes[..., :2]
    if leaf.shape[-1] == 2:
        return places
    inside = _ops.all(_ops.logical_and(places > 0, places < 1), -1, keepdims=True)
    seen = _ops.cast(leaf[..., 2:], "float32") * _ops.cast(inside, "float32")
    return _ops.concatenate([places, seen], -1)


def _turned(boxes: Any) -> Any:
    """(y1, x1, y2, x2) from (x1, y1, x2, y2), and the other way round."""
    return _ops.stack([boxes[..., place] for place in (1, 0, 3, 2)], -1)


class Moved(keras.layers.Layer):
    """Flips and shifts each image at random, by one gather of the batch's pixels.

    Takes images, or a dict as Keras' preprocessing layers do: `images`, `segmentation_masks` and
    `bounding_boxes`, with corners (x1, y1, x2, y2) in pixels. Since edges are repeated, a box that
    reaches an edge still reaches it after a shift inwards.

    Args:
        flip: whether to flip each image left to right with probability 0.5.
        shift: whether to shift each image by up to an eighth of its height and width, or one pixel
            if that is more, and repeat its edges.
    """

    def __init__(self, flip: bool = False, shift: bool = False) -> None:
        super().__init__(autocast=False)
        self.flip = flip
        self.shift = shift
        self.generator = keras.random.SeedGenerator()

    def call(self, data: Any) -> Any:
        """The flipped and shifted images, masks and boxes, in the shapes and dtypes of `data`."""
        if not isinstance(data, Mapping):
            return self.call({"images": data})["images"]
        shape = _ops.shape(data["images"])
        number = shape[0]
        height, width = shape[2:] if is_channels_first() else shape[1:3]
        down, right = self._drawn(number, height), self._drawn(number, width)
        rows, columns = _places(down, height), _places(right, width)
        flipped = None
        if self.flip:
            flipped = keras.random.uniform((number, 1), seed=self.generator) < 0.5
            columns = _ops.where(flipped, _ops.flip(columns, axis=1), columns)
        starts = _ops.expand_dims(_ops.arange(number, dtype="int32"), 1) * height
        rows = _ops.expand_dims(starts + rows, 2) * width
        pixels = rows + _ops.expand_dims(columns, 1)
        names = [name for name in ("images", "segmentation_masks") if name in data]
        result = {name: _gathered(data[name], pixels) for name in names}
        if "bounding_boxes" in data:
            x1, y1, x2, y2 = (data["bounding_boxes"]["boxes"][..., i] for i in range(4))
            y1, y2 = _along(y1, y2, down, height)
            x1, x2 = _along(x1, x2, right, width)
            if flipped is not None:
                last = _ops.cast(width, x1.dtype)
                x1, x2 = _ops.where(flipped, last - x2, x1), _ops.where(flipped, last - x1, x2)
            labels = data["bounding_boxes"]["labels"]
            labels = _ops.where((x2 - x1) * (y2 - y1) > 0, labels, -_ops.ones_like(labels))
            boxes = _ops.stack([x1, y1, x2, y2], -1)
            result["bounding_boxes"] = {"boxes": boxes, "labels": labels}
        return result

    def _drawn(self, number: Any, size: Any) -> Any:
        """A random shift of each image in rows or columns; 0 without `shift`."""
        if not self.shift:
            return _ops.zeros((number, 1), dtype="int32")
        most = max(size // 8, 1) if isinstance(size, int) else _ops.maximum(size // 8, 1)
        return keras.random.randint((number, 1), -most, most + 1, seed=self.generator)


def _places(by: Any, size: Any) -> Any:
    """The row from which each row of a shifted image is taken; likewise for columns."""
    places = _ops.expand_dims(_ops.arange(size, dtype="int32"), 0)
    return _ops.clip(places + by, 0, size - 1)


def _gathered(images: Any, pixels: Any) -> Any:
    """Images of the `pixels` (batch, height, width), numbered through the whole batch."""
    images = channels_last(images)
    found = _ops.take(_ops.reshape(images, (-1, images.shape[-1])), pixels, axis=0)
    return _ops.transpose(found, (0, 3, 1, 2)) if is_channels_first() else found


def _along(start: Any, end: Any, by: Any, size: Any) -> tuple[Any, Any]:
    """Starts and ends of boxes after a shift along an axis, clipped to the image."""
    by, last = _ops.cast(by, start.dtype), _ops.cast(size, start.dtype)
    is_box = end > start  # and not a point
    at_start = _ops.logical_and(is_box, start < 0.5)
    at_end = _ops.logical_and(is_box, end > last - 0.5)
    start = _ops.where(at_start, 0.0, _ops.clip(start - by, 0.0, last))
    return start, _ops.where(at_end, last, _ops.clip(end - by, 0.0, last))
