"""Draws shapes at coordinates as SVG."""

import itertools
from collections.abc import Sequence
from html import escape
from typing import Any

from kblocks.common.showing import escaped

Point = tuple[float, float]

INK, FAINT, LINE = "#1f2933", "#64748b", "#475569"
_FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
# Widths of characters in thousandths of the font size, from Helvetica's public metrics.
_WIDTHS = {
    char: width
    for width, chars in (
        *((191, "'"), (222, "ijl"), (260, "|"), (278, " !,./:;I[]\\ft"), (333, "()-`r")),
        *((389, '"*'), (500, "Jcksvxyz"), (584, "+<=>~×"), (611, "FTZ"), (667, "&ABEKPSVXY")),
        *((722, "CDHNRUw"), (778, "GOQ"), (833, "Mm"), (944, "%W"), (1015, "@")),
    )
    for char in chars
}
_OTHER, _WIDEST, _BOLD = 556, 1000, 1.08
_MARGIN = 12


def text_width(text: str, size: float, bold: bool = False) -> float:
    """The width of a text in pixels; assumes that characters beyond ASCII are wide."""
    total = sum(_WIDTHS.get(c, _OTHER if c.isascii() else _WIDEST) for c in text)
    return total * size / 1000 * (_BOLD if bold else 1)


class Canvas:
    """Collects shapes in drawing order, and the space that they take."""

    def __init__(self) -> None:
        self._shapes: list[str] = []
        self._corners: list[Point] = []

    def box(
        self,
        left: float,
        top: float,
        width: float,
        height: float,
        fill: str,
        stroke: str = "none",
        *,
        radius: float = 4,
        dashed: bool = False,
        **named: Any,
    ) -> None:
        """Draws a rectangle; `named` are data attributes of its element, `kind` its class."""
        self._corners += [(left, top), (left + width, top + height)]
        dash = {"stroke-dasharray": "4 3"} if dashed else {}
        data = {"class" if n == "kind" else f"data-{n}": v for n, v in named.items()}
        self._add(
            "rect",
            {"x": left, "y": top, "width": width, "height": height, "rx": radius}
            | {"fill": fill, "stroke": stroke, **dash, **data},
        )

    def circle(self, x: float, y: float, radius: float, fill: str, stroke: str, kind: str) -> None:
        self._corners += [(x - radius, y - radius), (x + radius, y + radius)]
        position = {"cx": x, "cy": y, "r": radius}
        self._add("circle", {**position, "fill": fill, "stroke": stroke, "class": kind})

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 11,
        *,
        anchor: str = "middle",
        color: str = INK,
        bold: bool = False,
    ) -> None:
        """Draws a line of text with its middle at `y`; `anchor` is "start", "middle" or "end"."""
        width = text_width(text, size, bold)
        left = x - {"start": 0, "middle": width / 2, "end": width}[anchor]
        self._corners += [(left, y - size / 2), (left + width, y + size / 2)]
        weight = {"font-weight": "bold"} if bold else {}
        position = {"x": x, "y": y + 0.35 * size, "font-size": size, "text-anchor": anchor}
        self._add("text", {**position, "fill": color, **weight}, escaped(text, 1000))

    def line(self, points: Sequence[Point], *, radius: float = 8, arrow: bool = False) -> None:
        """Draws a line through points, with rounded corners."""
        self._corners += points
        kept = [point for point, _ in itertools.groupby(points)]
        steps = [f"M{_at(kept[0])}"]
        for before, corner, after in zip(kept, kept[1:], kept[2:], strict=False):
            into, out = _towards(corner, before, radius), _towards(corner, after, radius)
            steps.append(f"L{_at(into)} Q{_at(corner)} {_at(out)}")
        steps.append(f"L{_at(kept[-1])}")
        end = {"marker-end": "url(#arrow)"} if arrow else {}
        self._add("path", {"d": " ".join(steps), "fill": "none", "stroke": LINE, **end})

    def svg(self) -> str:
        """The whole picture as SVG text, on white."""
        across, down = zip(*self._corners, strict=True)
        left, top = min(across) - _MARGIN, min(down) - _MARGIN
        width, height = max(across) + _MARGIN - left, max(down) + _MARGIN - top
        view = " ".join(map(_number, (left, top, width, height)))
        size = f'width="{_number(width)}" height="{_number(height)}" viewBox="{view}"'
        arrow = (
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0.8L8 4L0 7.2z" fill="{LINE}"/>'
            "</marker></defs>"
        )
        page = {"x": left, "y": top, "width": width, "height": height, "fill": "white"}
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{_FONT}">'
        background = f"<rect{_attributes({**page, 'class': 'page'})}/>"
        return "\n".join([head, arrow, background, *self._shapes, "</svg>\n"])

    def _add(self, element: str, attributes: dict[str, Any], inner: str | None = None) -> None:
        end = "/>" if inner is None else f">{inner}</{element}>"
        self._shapes.append(f"<{element}{_attributes(attributes)}{end}")


def _attributes(values: dict[str, Any]) -> str:
    return "".join(f' {name}="{escape(_number(value))}"' for name, value in values.items())


def _number(value: Any) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _at(point: Point) -> str:
    return f"{_number(float(point[0]))} {_number(float(point[1]))}"


def _towards(corner: Point, other: Point, radius: float) -> Point:
    """The point at `radius` from a corner towards another, at most halfway there."""
    across, down = other[0] - corner[0], other[1] - corner[1]
    length = max(abs(across), abs(down))
    share = min(radius, length / 2) / length
    return corner[0] + across * share, corner[1] + down * share
