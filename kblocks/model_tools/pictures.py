"""Feature maps and first-layer filters as pictures."""

import math
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kblocks.common.atomic import whole
from kblocks.common.keras_graph import layers_inside
from kblocks.model_tools.surgery import extract

_TILE = 64  # the least height and width of a tile in pixels
_BETWEEN = 2


def feature_maps(
    model: keras.Model,
    image: Any,
    stage: str | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    most: int = 64,
) -> np.ndarray:
    """The feature maps, (height, width, channels), of a stage for an image; maybe as a picture.

    Args:
        model: such as `Architecture.model` returns.
        image: (height, width, channels), preprocessed for the model.
        stage: the name of a stage or layer that outputs a map; None is the first layer.
        path: a file ending in ".png" for a grid of the first `most` channels, row by row, each
            from black at its smallest value to white at its largest; None writes nothing.
        most: the largest number of tiles in the grid.

    Raises:
        ValueError: if the image does not fit, there is no such stage, its output is not a map, or
            `path` does not end in ".png".
        ImportError: if `path` is given and Pillow is missing.
    """
    _check_path(path)
    first = next(layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer))
    part = extract(model, first.name if stage is None else stage)
    if len(part.output_shape) != 4:
        raise ValueError(
            "`stage` must put out a map of (height, width, channels). "
            f"Received: stage={stage!r}, which puts out {tuple(part.output_shape[1:])}"
        )
    flip = getattr(first, "data_format", None) == "channels_first"
    pixels = np.asarray(image, "float32")
    expected = tuple(part.input_shape[1:])
    expected = (*expected[1:], expected[0]) if flip else expected
    pairs = zip(expected, pixels.shape, strict=False)
    if pixels.ndim != 3 or any(wanted not in (None, found) for wanted, found in pairs):
        raise ValueError(f"`image` must be of shape {expected}. Received: {pixels.shape}")
    batch = (pixels.transpose(2, 0, 1) if flip else pixels)[None]
    maps = _in_float32(part(batch, training=False)[0])
    maps = maps.transpose(1, 2, 0) if flip else maps
    if path is not None:
        _write(path, [_stretched(maps[..., i]) for i in range(min(most, maps.shape[-1]))])
    return maps


def first_filters(model: keras.Model, path: str | os.PathLike[str] | None = None) -> np.ndarray:
    """The first convolution's kernels, (filters, height, width, channels); maybe as a picture.

    Args:
        model: a model with a convolution, of which it takes the first in the order of layers.
        path: a file ending in ".png" for a grid of the filters: in colour for three input
            channels, else as the mean over them, each filter from black at its smallest value to
            white at its largest; None writes nothing.

    Raises:
        ValueError: if the model has no convolution, or `path` does not end in ".png".
        ImportError: if `path` is given and Pillow is missing.
    """
    _check_path(path)
    filters = _first_kernel(model).transpose(3, 0, 1, 2)
    if path is not None:
        color = filters.shape[-1] == 3
        _write(path, [_stretched(one if color else one.mean(-1)) for one in filters])
    return filters


def _first_kernel(model: Any) -> np.ndarray:
    for layer in layers_inside(model):
        if len(getattr(getattr(layer, "kernel", None), "shape", ())) == 4:
            effective = getattr(layer, "effective_kernel", None)
            return _in_float32(effective() if effective else layer.kernel)
    raise ValueError(f"`model` must have a convolution. Received: model={model!r}")


def _in_float32(values: Any) -> Any:
    return keras.ops.convert_to_numpy(keras.ops.cast(values, "float32"))


def _check_path(path: Any) -> None:
    if path is not None and Path(path).suffix != ".png":
        raise ValueError(f"`path` must end in .png. Received: path={str(path)!r}")


def _stretched(tile: np.ndarray) -> np.ndarray:
    """Scales a tile's smallest to largest value to 0 to 255; a constant tile is black."""
    low, high = float(tile.min()), float(tile.max())
    span = high - low if high > low else 1.0
    return np.round((tile - low) * (255 / span)).astype("uint8")


def _write(path: str | os.PathLike[str], tiles: list[np.ndarray]) -> None:
    """Writes equal tiles as a PNG: an about square grid on white."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("PNGs need Pillow: pip install 'kblocks[report]'", name="PIL") from error
    factor = math.ceil(_TILE / min(tiles[0].shape[:2]))
    tiles = [tile.repeat(factor, 0).repeat(factor, 1) for tile in tiles]
    height, width, *color = tiles[0].shape
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    down, right = height + _BETWEEN, width + _BETWEEN
    page = np.full((rows * down + _BETWEEN, columns * right + _BETWEEN, *color), 255, "uint8")
    for number, tile in enumerate(tiles):
        y, x = _BETWEEN + number // columns * down, _BETWEEN + number % columns * right
        page[y : y + height, x : x + width] = tile
    with whole(Path(path)) as written:
        Image.fromarray(page).save(written, "png")
