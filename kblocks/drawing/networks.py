"""Draws a network as a table of stages with blocks, shapes and costs, beside blocks in detail."""

import itertools
from collections.abc import Sequence
from typing import Any

from kblocks.common.quantities import quantity
from kblocks.drawing.blocks import figure
from kblocks.drawing.canvas import FAINT, INK, Canvas, text_width
from kblocks.drawing.labels import Label, shape_text
from kblocks.drawing.layout import Piece, box_width, draw_box
from kblocks.drawing.rows import DrawnRow, folded, kinds_of
from kblocks.networks.architecture import INPUT
from kblocks.plans.receptive_field import receptive_fields

_CHIP, _STEP, _PAD, _BAND = 24.0, 14.0, 9.0, 6.0  # heights
_LANE, _SPACE = 11.0, 22.0  # between lines beside the chips, and between columns
_BAR, _PERCENT = 90.0, 42.0
_ASPECT = 2.0  # the largest width of a page by its height, if possible
_DETAILS = 8  # the most blocks that are drawn beside the table


def page(title: str, rows: Sequence[DrawnRow], input_shape: Any, outputs: Sequence[str]) -> Canvas:
    """The table of a network, and one block of each kind beside it."""
    canvas = Canvas()
    fields = receptive_fields(((row.name, row.plan, row.inputs) for row in rows), INPUT)
    table = _Table(folded(rows, outputs), input_shape, fields)
    canvas.text(0, 0, title, 16, anchor="start", bold=True)
    canvas.text(0, 20, table.totals, 11, anchor="start", color=FAINT)
    table.draw(canvas, table.left, 44)
    kinds = kinds_of(rows)
    figures = [figure(row.plan, row.shape, row.kind, row.name) for row in kinds[:_DETAILS]]
    x, y = table.left + table.right + 2 * _SPACE, 4.0
    for shelf in _packed(figures, x, 44 + table.height):
        left = x
        for piece in shelf:
            piece.draw(canvas, left + piece.left, y)
            left += _width(piece)
        y += _height(shelf)
    return canvas


def _packed(figures: Sequence[Piece], left: float, height: float) -> list[list[Piece]]:
    """Packs figures into shelves beside a table of `left` by `height`, for the smallest page."""

    def paper(shelves: list[list[Piece]]) -> float:
        width = left + max(sum(map(_width, shelf)) for shelf in shelves)
        return width * max(height, sum(map(_height, shelves)), width / _ASPECT)

    widths = itertools.accumulate(map(_width, figures))
    return min((_shelves(figures, width) for width in widths), default=[], key=paper)


def _shelves(figures: Sequence[Piece], width: float) -> list[list[Piece]]:
    shelves: list[list[Piece]] = []
    for piece in figures:
        if not shelves or sum(map(_width, shelves[-1])) + _width(piece) > width:
            shelves.append([])
        shelves[-1].append(piece)
    return shelves


def _width(piece: Piece) -> float:
    return piece.left + piece.right + 2 * _SPACE


def _height(shelf: Sequence[Piece]) -> float:
    return max(piece.height for piece in shelf) + 2 * _SPACE


class _Table(Piece):
    """Bands of stages with their chips on the axis and columns of numbers to the right."""

    def __init__(self, rows: Sequence[DrawnRow], input_shape: Any, fields: Any) -> None:
        self.rows, self.input_shape = rows, input_shape
        self.bands = [list(run) for _, run in itertools.groupby(rows, key=lambda row: row.stage)]
        self.lanes = _lanes(rows)
        chips = [chip for row in rows for chip in row.chips]
        self.half = max(box_width(label) for label, _ in chips) / 2
        times = max((text_width(_times(n), 12, bold=True) for _, n in chips), default=0)
        self.names = max(text_width(band[0].stage, 12, bold=True) for band in self.bands)
        lanes = 1 + max(self.lanes.values(), default=-1)
        self.left = self.half + 12 + _LANE * lanes + _SPACE + self.names
        counted = [row.cost for row in rows if row.counted and row.cost is not None]
        known = all(row.worked_out for row in rows)
        self.macs = sum(cost.macs for cost in counted) if known else 0
        self.params = sum(cost.params for cost in counted)
        self.columns = self._columns(self.half + times, fields)
        last = max((x for x, _, _ in self.columns.values()), default=self.half + times)
        self.right = last + (_BAR + _PERCENT if "share of MACs" in self.columns else 0) + 8
        heights = [self._band_height(band) for band in self.bands]
        self.height = 34 + sum(heights) + _BAND * (len(heights) - 1) + (30 if self.columns else 0)

    @property
    def totals(self) -> str:
        if not self.columns:
            return ""
        macs = f", {quantity(self.macs)} multiply-adds" if self.macs else ""
        return f"{quantity(self.params)} parameters{macs}"

    def _columns(self, x: float, fields: Any) -> dict[str, tuple[float, str, list[str]]]:
        """For each column its x, its anchor and the text of each band; `fields` are by row."""
        if all(row.cost is None for row in self.rows):
            return {}
        columns: dict[str, tuple[float, str, list[str]]] = {}
        last = [band[-1] for band in self.bands]
        texts = {
            "output": [
                "" if row.cost is None else shape_text(row.cost.output_shape) for row in last
            ],
            "receptive field": [
                shape_text(field) if (field := fields.get(row.name)) else "" for row in last
            ],
            "parameters": [quantity(_total(band, "params")) for band in self.bands],
        }
        if self.macs:
            texts["MACs"] = [quantity(_total(band, "macs")) for band in self.bands]
        for name, column in texts.items():
            if not any(column):
                continue
            width = max(text_width(text, 11) for text in [name, *column])
            anchor = "start" if name == "output" else "end"
            columns[name] = (x + _SPACE + (0 if anchor == "start" else width), anchor, column)
            x += _SPACE + width
        if self.macs:
            columns["share of MACs"] = (x + _SPACE, "start", [""] * len(self.bands))
        return columns

    def _band_height(self, band: Sequence[DrawnRow]) -> float:
        number = sum(len(row.chips) for row in band)
        return number * _CHIP + (number - 1) * _STEP + 2 * _PAD

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        shape = "input" if self.input_shape is None else shape_text(self.input_shape)
        canvas.text(x, y + 6, shape, 11, color=FAINT)
        for name, (column, anchor, _) in self.columns.items():
            canvas.text(x + column, y + 6, name, 11, anchor=anchor, color=FAINT)
        ends = {INPUT: y + 13}
        before = INPUT
        y += 34
        marks: dict[str, tuple[float, float]] = {INPUT: (y - 28, y - 28)}
        for number, band in enumerate(self.bands):
            height = self._band_height(band)
            width = self.left + self.right
            canvas.box(x - self.left, y, width, height, "#f5f7f9", radius=6, kind="band")
            name = x - self.left + 8
            canvas.text(name, y + height / 2, band[0].stage, 12, anchor="start", bold=True)
            self._draw_numbers(canvas, x, y + height / 2, number)
            y += _PAD
            for row in band:
                if before in row.inputs:
                    canvas.line([(x, ends[before]), (x, y)], arrow=True)
                marks[row.name], y = self._draw_chips(canvas, row, x, y)
                ends[row.name] = y
                before = row.name
                y += _STEP
            y += _PAD - _STEP + _BAND
        self._draw_lanes(canvas, x, marks)
        if self.columns:
            self._draw_totals(canvas, x, y + 10)

    def _draw_chips(
        self, canvas: Canvas, row: DrawnRow, x: float, y: float
    ) -> tuple[tuple[float, float], float]:
        """Draws a row's chips; returns where lines beside them end and begin, and their bottom."""
        first = y + _CHIP / 2
        for number, (label, times) in enumerate(row.chips):
            if number:
                canvas.line([(x, y - _STEP), (x, y)], arrow=True)
            draw_box(canvas, x, y, 2 * self.half, _CHIP, Label(label.text, label.kind), row.name)
            if times > 1:
                side = x + self.half + 6
                canvas.text(side, y + _CHIP / 2, _times(times), 12, anchor="start", bold=True)
            y += _CHIP + _STEP
        return (first, y - _STEP - _CHIP / 2), y - _STEP

    def _draw_numbers(self, canvas: Canvas, x: float, y: float, number: int) -> None:
        band = self.bands[number]
        counted = band[0].counted
        for name, (column, anchor, texts) in self.columns.items():
            if name != "share of MACs":
                color = INK if counted else FAINT
                canvas.text(x + column, y, texts[number], 11, anchor=anchor, color=color)
            elif counted:
                share = _total(band, "macs") / self.macs
                left, top, percent = x + column, y - 5, f"{share:.1%}"
                canvas.box(left, top, _BAR, 10, "#e2e8f0", radius=2, kind="track")
                canvas.box(left, top, _BAR * share, 10, "#4f86bf", radius=2, kind="bar")
                end = left + _BAR + _PERCENT
                canvas.text(end, y, percent, 10, anchor="end", color=FAINT)
            else:
                note = "in training only"
                canvas.text(x + column, y, note, 10, anchor="start", color=FAINT)

    def _draw_lanes(self, canvas: Canvas, x: float, marks: dict[str, tuple[float, float]]) -> None:
        """Draws lines from a row to one that is not the next, to the left of the chips."""
        edge = x - self.half
        for (source, target), lane in self.lanes.items():
            side = edge - 12 - _LANE * lane
            begin = x - 40 if source == INPUT else edge
            points = [(begin, marks[source][1] + 5), (side, marks[source][1] + 5)]
            points += [(side, marks[target][0] - 5), (edge, marks[target][0] - 5)]
            canvas.line(points, arrow=True)

    def _draw_totals(self, canvas: Canvas, x: float, y: float) -> None:
        canvas.line([(x - self.left, y - 8), (x + self.right, y - 8)])
        canvas.text(x - self.left + 8, y + 6, "total", 12, anchor="start", bold=True)
        for name, total in (("parameters", self.params), ("MACs", self.macs)):
            if name in self.columns:
                column, anchor, _ = self.columns[name]
                canvas.text(x + column, y + 6, quantity(total), 11, anchor=anchor, bold=True)


def _times(number: int) -> str:
    return f"x {number}" if number > 1 else ""


def _total(band: Sequence[DrawnRow], part: str) -> int:
    return sum(getattr(row.cost, part) for row in band if row.cost is not None)


def _lanes(rows: Sequence[DrawnRow]) -> dict[tuple[str, str], int]:
    """The lane of each line that skips rows, such that lines in a lane do not overlap."""
    order = {INPUT: -1, **{row.name: number for number, row in enumerate(rows)}}
    before = INPUT
    skips = []
    for row in rows:
        skips += [(name, row.name) for name in row.inputs if name != before]
        before = row.name
    skips.sort(key=lambda pair: order[pair[1]] - order[pair[0]])
    lanes: dict[tuple[str, str], int] = {}
    for source, target in skips:
        taken = {
            lane
            for (s, t), lane in lanes.items()
            if order[s] <= order[target] and order[source] <= order[t]
        }
        lanes[source, target] = next(n for n in itertools.count() if n not in taken)
    return lanes
