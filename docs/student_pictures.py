"""The pictures of the pages for students, as SVG; `pictures.py` writes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import keras
import numpy as np

import kblocks as kb

CELL = 22
INK, FAINT, BLUE, ORANGE = "#1f2933", "#cbd5e1", "#2f6db3", "#d9822b"
WASH, GLOW = "#eef3f8", "#f6d7b0"


def svg(width: float, height: float, parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="Helvetica, Arial, sans-serif">\n'
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def text(x: float, y: float, words: str, size: int = 12) -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{INK}">{words}</text>'


def square(x: float, y: float, side: float, fill: str, line: str = "white") -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" fill="{fill}" '
        f'stroke="{line}"/>'
    )


def frame(x: float, y: float, width: float, height: float, line: str) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="none" '
        f'stroke="{line}" stroke-width="2.5"/>'
    )


def step(size: int, kernel: int, strides: int, before: int, after: int, dilation: int) -> str:
    """The input with its padding, the first two places of the kernel, and the output."""
    whole = before + size + after
    span = dilation * (kernel - 1) + 1
    side = (whole - span) // strides + 1
    parts = []
    for row in range(whole):
        for column in range(whole):
            is_image = all(before <= place < before + size for place in (row, column))
            places = range(0, span, dilation)
            seen = row in places and column in places
            fill = GLOW if seen else WASH if not is_image else FAINT
            parts.append(square(column * CELL, row * CELL, CELL, fill))
    parts.append(frame(0, 0, span * CELL, span * CELL, ORANGE))
    parts.append(frame(strides * CELL, 0, span * CELL, span * CELL, BLUE))
    left, top = (whole + 2) * CELL, (whole - side) * CELL / 2
    for row in range(side):
        for column in range(side):
            fill = {0: ORANGE, 1: BLUE}.get(column, FAINT) if row == 0 else FAINT
            parts.append(square(left + column * CELL, top + row * CELL, CELL, fill))
    return f'<g transform="translate(16, 40)">{"".join(parts)}</g>'


def maps() -> str:
    """Six convolutions of a map of five pixels."""
    cases = [
        ("kernel_size=3, padding='valid'", (5, 3, 1, 0, 0, 1)),
        ("kernel_size=3, padding='same'", (5, 3, 1, 1, 1, 1)),
        ("kernel_size=3, strides=2, padding='same'", (5, 3, 2, 1, 1, 1)),
        ("kernel_size=2, strides=2: no overlap", (6, 2, 2, 0, 0, 1)),
        ("strides=2, 'same' on 6 pixels: one side", (6, 3, 2, 0, 1, 1)),
        ("dilation_rate=2, padding='valid'", (7, 3, 1, 0, 0, 2)),
    ]
    parts = []
    for number, (words, case) in enumerate(cases):
        x, y = number % 2 * 390, number // 2 * 215
        drawn = step(*case)
        parts.append(f'<g transform="translate({x}, {y})">{text(16, 26, words)}{drawn}</g>')
    return svg(780, 650, parts)


def matrix() -> str:
    """The matrix of a 3x3 convolution of 5x5 pixels: one colour for each of the nine weights."""
    layer = keras.layers.Conv2D(1, 3, use_bias=False)
    layer.build((None, 5, 5, 1))
    layer.set_weights([np.arange(1.0, 10.0).reshape(3, 3, 1, 1)])
    found = kb.as_matrix(layer, (5, 5, 1)).round().astype(int)
    colours = ("#1d4e89", "#2f6db3", "#7fb2e5", "#1b7f5c", "#45b08c", "#a5dcc6", "#a4501b")
    colours = (*colours, "#d9822b", "#f3c48d")
    parts = [text(20, 26, "The matrix: 9 outputs, 25 inputs. One colour is one weight.")]
    for row, weights in enumerate(found):
        for column, weight in enumerate(weights):
            fill = colours[weight - 1] if weight else "#f5f7f9"
            parts.append(square(20 + column * 20, 40 + row * 20, 20, fill))
    parts.append(text(560, 26, "The kernel"))
    for weight in range(9):
        x, y = 560 + weight % 3 * 20, 40 + weight // 3 * 20
        parts.append(square(x, y, 20, colours[weight]))
    return svg(660, 240, parts)


def receptive_field() -> str:
    """Three 3x3 convolutions, the second with strides 2, along one axis."""
    layers = [(3, 1), (3, 2), (3, 1)]
    seen = [{7}]
    for number, (kernel, _) in enumerate(reversed(layers)):
        half = kernel // 2
        # pixels are placed on the input's grid, whatever the stride
        scale = math.prod(strides for _, strides in layers[: len(layers) - 1 - number])
        seen.append({p + k * scale for p in seen[-1] for k in range(-half, half + 1)})
    parts = []
    names = (
        "after layer 3",
        "after layer 2, strides 2",
        "after layer 1",
        "input: it sees 9 pixels",
    )
    for row, (name, pixels) in enumerate(zip(names, seen, strict=True)):
        scale = math.prod(strides for _, strides in layers[: len(layers) - row])
        parts.append(text(16, 36 + row * 44, name))
        for column in range(7 % scale, 15, scale):
            fill = ORANGE if column in pixels else FAINT
            parts.append(square(190 + column * CELL, 20 + row * 44, CELL, fill))
    return svg(540, 200, parts)


DRAWN: dict[str, Callable[[], str]] = {
    "students/maps.svg": maps,
    "students/matrix.svg": matrix,
    "students/receptive_field.svg": receptive_field,
}
