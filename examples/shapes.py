"""Makes images of coloured circles, squares and triangles on noise with NumPy, and draws on them.

`localise.py`, `keypoints.py`, `segment.py` and `detect.py` share this file; run by itself, it
writes a page of images:    python examples/shapes.py    (about 5 seconds)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from PIL import Image, ImageDraw

KINDS = ("circle", "square", "triangle")
COLOURS = np.array([(230, 60, 60), (60, 200, 60), (70, 110, 250), (240, 200, 40)], "float32")
OUTSIDE = -1
FONT = 14  # the height of letters in pixels


class Scenes(NamedTuple):
    """Images and their true objects, masks and corners.

    Attributes:
        images: (n, size, size, 3) from 0 to 1.
        objects: (n, most, 5): kind, y1, x1, y2, x2 as shares of the image; kind -1 fills up.
        masks: (n, size, size): 0 for background, else the kind plus one.
        corners: (n, most, 3, 2): the corners (y, x) of triangles: top, left, right.
    """

    images: np.ndarray
    objects: np.ndarray
    masks: np.ndarray
    corners: np.ndarray


def scenes(
    number: int, size: int = 64, most: int = 1, kinds: tuple[int, ...] = (0, 1, 2), seed: int = 0
) -> Scenes:
    """Makes images with 1 to `most` shapes each that do not touch."""
    random = np.random.default_rng(seed)
    made = [_scene(random, size, most, kinds) for _ in range(number)]
    images, objects, masks, corners = (np.stack(one) for one in zip(*made, strict=True))
    return Scenes(images, objects, masks, corners)


def _scene(random: np.random.Generator, size: int, most: int, kinds: tuple[int, ...]) -> Scenes:
    image = random.uniform(40, 140, 3) + random.normal(0, 25, (size, size, 3))
    mask = np.zeros((size, size), "int32")
    objects = np.full((most, 5), OUTSIDE, "float32")
    corners = np.zeros((most, 3, 2), "float32")
    places: list[tuple[float, float, float]] = []
    for index in range(random.integers(1, most + 1)):
        place = _free_place(random, size, places)
        if place is None:
            break
        places.append(place)
        kind = int(random.choice(kinds))
        inside, box, corners[index] = _shape(kind, *place, random, size)
        colour = COLOURS[random.integers(len(COLOURS))] + random.normal(0, 12, (size, size, 3))
        image = np.where(inside[..., None], colour, image)
        mask[inside] = kind + 1
        objects[index] = (kind, *(value / size for value in box))
    return Scenes(np.clip(image / 255, 0, 1).astype("float32"), objects, mask, corners / size)


def _free_place(
    random: np.random.Generator, size: int, taken: list[tuple[float, float, float]]
) -> tuple[float, float, float] | None:
    """Centre (y, x) and radius of a shape that touches neither the edge nor other shapes."""
    for _ in range(30):
        radius = random.uniform(0.1, 0.25) * size
        y, x = random.uniform(radius + 1, size - radius - 1, 2)
        if all(np.hypot(y - v, x - u) > radius + other + 2 for v, u, other in taken):
            return y, x, radius
    return None


def _shape(
    kind: int, y: float, x: float, radius: float, random: np.random.Generator, size: int
) -> tuple[np.ndarray, tuple[float, ...], np.ndarray]:
    """The pixels inside a shape, its box (y1, x1, y2, x2) and, for a triangle, its corners."""
    rows, columns = np.mgrid[:size, :size] + 0.5
    corners = np.zeros((3, 2))
    if kind == 0:
        inside = np.hypot(rows - y, columns - x) < radius
        return inside, (y - radius, x - radius, y + radius, x + radius), corners
    if kind == 1:
        half = radius * 0.85
        inside = np.maximum(abs(rows - y), abs(columns - x)) < half
        return inside, (y - half, x - half, y + half, x + half), corners
    lean = random.uniform(-0.6, 0.6) * radius
    corners = np.array(
        [(y - radius, x + lean), (y + 0.8 * radius, x - radius), (y + 0.8 * radius, x + radius)]
    )
    inside = np.ones((size, size), bool)
    for (a, b), (c, d) in zip(corners, np.roll(corners, -1, 0), strict=True):
        inside &= (d - b) * (rows - a) - (c - a) * (columns - b) < 0
    (y1, x1), (y2, x2) = corners.min(0), corners.max(0)
    return inside, (y1, x1, y2, x2), corners


# --- a brush -----------------------------------------------------------------------------


def enlarged(image: np.ndarray, factor: int = 3) -> np.ndarray:
    """Enlarges an image from 0 to 1 and converts it to bytes; each pixel becomes a square."""
    return np.repeat(np.repeat((image * 255).astype("uint8"), factor, 0), factor, 1)


def draw_boxes(
    canvas: np.ndarray, boxes: Sequence[Any], colours: Sequence[Any], words: Sequence[str]
) -> None:
    """Draws outlines of boxes (y1, x1, y2, x2; shares of the canvas), with words beside them."""
    height, width = canvas.shape[:2]
    scale = (height - 2, width - 2, height - 2, width - 2)
    corners = [(np.clip(box, 0, 1) * scale).astype(int) for box in boxes]
    for (y1, x1, y2, x2), colour in zip(corners, colours, strict=True):
        canvas[y1 : y2 + 2, x1 : x1 + 2] = canvas[y1 : y2 + 2, x2 : x2 + 2] = colour
        canvas[y1 : y1 + 2, x1 : x2 + 2] = canvas[y2 : y2 + 2, x1 : x2 + 2] = colour
    picture = Image.fromarray(canvas)
    brush = ImageDraw.Draw(picture)
    places = label_places(corners, words, canvas.shape)
    for (y, x, _, _), colour, text in zip(places, colours, words, strict=True):
        brush.text((x, y), text, fill=colour, font_size=FONT, stroke_width=2, stroke_fill=0)
    canvas[:] = picture


def label_places(
    corners: Sequence[Any], words: Sequence[str], shape: tuple[int, ...]
) -> list[tuple[int, int, int, int]]:
    """Where the words of boxes go (y1, x1, y2, x2), above or below: over as little as possible."""
    placed: list[tuple[int, int, int, int]] = []
    for number, ((y1, x1, y2, x2), text) in enumerate(zip(corners, words, strict=True)):
        high, wide = FONT + 4, 8 * len(text)
        others = [*placed * 10, *corners[:number], *corners[number + 1 :]]  # words weigh more
        rows = (y1 - high - 1, y2 + 1, y1 + 2, y2 - high)
        columns = (x1, x2 - wide, x1 - wide - 3, x2 + 5)
        spots = [(y, x, y + high, x + wide) for y in rows for x in columns]
        inside = [s for s in spots if min(s) >= 0 and s[2] <= shape[0] and s[3] <= shape[1]]
        placed.append(min(inside, key=lambda spot: sum(overlap(spot, one) for one in others)))
    return placed


def overlap(one: Sequence[int], other: Sequence[int]) -> int:
    """The pixels that two boxes (y1, x1, y2, x2) share."""
    down = min(one[2], other[2]) - max(one[0], other[0])
    across = min(one[3], other[3]) - max(one[1], other[1])
    return max(down, 0) * max(across, 0)


def draw_cross(canvas: np.ndarray, place: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Draws a cross at (y, x), shares of the canvas, with an outline for contrast."""
    height, width = canvas.shape[:2]
    y, x = (np.clip(np.asarray(place), 0, 1) * (height - 1, width - 1)).astype(int)
    for paint, thick, long in (((0, 0, 0), 3, 9), (colour, 1, 7)):
        for down, across in ((thick, long), (long, thick)):
            rows, columns = slice(max(y - down, 0), y + down + 1), slice(max(x - across, 0), None)
            canvas[rows, columns][:, : x + across + 1 - columns.start] = paint


def save_page(
    canvases: list[np.ndarray], file: str | Path, legend: dict[str, Any], columns: int = 6
) -> None:
    """Writes pictures side by side, above their legend, to a PNG; drops a row that is not full."""
    rows = len(canvases) // columns
    framed = [np.pad(one, ((3, 3), (3, 3), (0, 0)), constant_values=255) for one in canvases]
    page = np.stack(framed[: rows * columns]).reshape(rows, columns, *framed[0].shape)
    pictures = np.concatenate(np.concatenate(page, 1), 1)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    whole = np.concatenate([pictures, drawn_legend(legend, pictures.shape[1])])
    keras.utils.save_img(file, whole, scale=False)


def drawn_legend(legend: dict[str, Any], width: int) -> np.ndarray:
    """Words, each behind a square of its colour, or None for words alone."""
    picture = Image.new("RGB", (width, 30), "white")
    brush, x = ImageDraw.Draw(picture), 6
    for text, colour in legend.items():
        if colour is not None:
            brush.rectangle((x, 9, x + 12, 21), fill=tuple(map(int, colour)), outline=0)
            x += 19
        brush.text((x, 6), text, fill=0, font_size=FONT)
        x += int(brush.textlength(text, font_size=FONT)) + 24
    return np.array(picture)


if __name__ == "__main__":
    found = scenes(12, most=3)
    canvases = [enlarged(image) for image in found.images]
    for canvas, objects in zip(canvases, found.objects, strict=True):
        kinds = [int(kind) for kind in objects[:, 0] if kind >= 0]
        draw_boxes(
            *(canvas, objects[: len(kinds), 1:], [(255, 255, 255)] * len(kinds)),
            [KINDS[kind] for kind in kinds],
        )
    save_page(canvases, "runs/shapes.png", {"the true boxes": (255, 255, 255)})
    print("runs/shapes.png")
