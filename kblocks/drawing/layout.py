"""Lays out boxes, chains and forks around an axis: each knows its size, then draws itself.

The axis is the vertical line on which the data enters at the top and leaves at the bottom.
`left` and `right` are how far a piece reaches to either side of it.
"""

from collections.abc import Sequence

from kblocks.drawing.canvas import FAINT, INK, LINE, Canvas, text_width
from kblocks.drawing.labels import COLORS, Label

GAP, TIGHT = 18.0, 2.0  # between boxes joined by an arrow, and in a stack
_LARGE, _SMALL = 26.0, 15.0
_NARROWEST, _PADDING = 92.0, 9.0
_BETWEEN = 20.0  # between branches side by side
_FORK, _JOIN = 20.0, 18.0
_CURVE = 26.0
_LINE = 20.0  # the height of a title
_RADII = {"add": 10.0, "multiply": 10.0, "concat": 18.0}
_SIGNS = {"add": "+", "multiply": "×", "concat": "concat"}


class Piece:
    """A part of a figure, on an axis; `entered` is whether an arrow may end at its top."""

    left = right = height = 0.0
    entered = True

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        """Draws the piece with its axis at `x` and its top at `y`."""


class Stack(Piece):
    """Boxes that belong together, one under the other: an op and small boxes around it."""

    def __init__(self, boxes: Sequence[tuple[Label, str]]) -> None:
        self.boxes = boxes
        self.widen(max(_NARROWEST, *(box_width(label) for label, _ in boxes)))
        heights = [_box_height(label) for label, _ in boxes]
        self.height = sum(heights) + TIGHT * (len(boxes) - 1)

    def widen(self, width: float) -> None:
        self.left = self.right = width / 2

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        for label, path in self.boxes:
            height = _box_height(label)
            draw_box(canvas, x, y, 2 * self.left, height, label, path)
            y += height + TIGHT


def draw_box(
    canvas: Canvas, x: float, y: float, width: float, height: float, label: Label, path: str
) -> None:
    """Draws a labelled box with its axis at `x` and its top at `y`."""
    fill, stroke = COLORS[label.kind]
    kind = f"op {label.kind}"
    canvas.box(x - width / 2, y, width, height, fill, stroke, kind=kind, path=path)
    canvas.text(x, y + height / 2, label.text, font_size(label))


class Line(Piece):
    """A plain line: the data passes unchanged."""


class Series(Piece):
    """Pieces one below another, with boxes of equal width."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        stacks = [piece for piece in pieces if isinstance(piece, Stack)]
        width = max((2 * stack.left for stack in stacks), default=0)
        for stack in stacks:
            stack.widen(width)
        self.pieces = pieces
        self.left = max(piece.left for piece in pieces)
        self.right = max(piece.right for piece in pieces)
        self.height = sum(piece.height for piece in pieces) + GAP * (len(pieces) - 1)
        self.entered = pieces[0].entered

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        for i, piece in enumerate(self.pieces):
            if i:
                canvas.line([(x, y), (x, y + GAP)], arrow=piece.entered)
                y += GAP
            piece.draw(canvas, x, y)
            y += piece.height


class Repeat(Piece):
    """A frame around a piece that repeats, with the number of times."""

    _PAD = 12.0

    def __init__(self, inner: Piece, times: int) -> None:
        self.inner = inner
        self.times, self.label = times, f"x {times}"
        self.left = inner.left + self._PAD
        self.right = inner.right + self._PAD + 8 + text_width(self.label, 13, bold=True)
        self.height = inner.height + 2 * GAP

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        inner = self.inner
        width = inner.left + inner.right + 2 * self._PAD
        frame = {"fill": "#fafbfc", "stroke": "#94a3b8", "radius": 8, "dashed": True}
        canvas.box(x - self.left, y, width, self.height, **frame, kind="frame", times=self.times)
        canvas.line([(x, y), (x, y + GAP)], arrow=inner.entered)
        inner.draw(canvas, x, y + GAP)
        canvas.line([(x, y + GAP + inner.height), (x, y + self.height)])
        right = x + inner.right + self._PAD + 6
        middle = y + self.height / 2
        canvas.text(right, middle, self.label, 13, anchor="start", bold=True)


class Fork(Piece):
    """Branches side by side, from one point to the joint that merges them.

    Concatenated branches keep their order and end at the same height. Otherwise, or if a branch
    is the input itself, the longest branch is on the axis (for a gate the input itself), and the
    others are at its sides.
    """

    entered = False

    def __init__(self, mode: str, branches: Sequence[Piece]) -> None:
        self.mode = mode
        self.branches = branches
        self.radius = _RADII.get(mode, 10.0)
        lines = [branch for branch in branches if isinstance(branch, Line)]
        self.in_order = mode == "concat" and not lines
        gate = lines[0] if mode == "multiply" and len(lines) == 1 else None
        aside = not self.in_order and len(branches) > 1
        self.offsets = _beside(branches, gate) if aside else _spread(branches)
        self.inner = max(*(branch.height for branch in branches), 24.0)
        self.height = _FORK + self.inner + _JOIN + 2 * self.radius
        ends = list(zip(branches, self.offsets, strict=True))
        self.left = max(self.radius, *(branch.left - offset for branch, offset in ends))
        self.right = max(self.radius, *(branch.right + offset for branch, offset in ends))

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        middle = y + self.height - self.radius
        for branch, offset in zip(self.branches, self.offsets, strict=True):
            self._draw_branch(canvas, branch, x, x + offset, y, middle)
        if len(self.branches) > 1:
            canvas.circle(x, y, 2, LINE, "none", "fork")
        canvas.circle(x, middle, self.radius, "white", LINE, f"joint {self.mode}")
        sign = _SIGNS.get(self.mode, self.mode)
        canvas.text(x, middle, sign, 9 if self.mode == "concat" else 15)

    def _draw_branch(
        self, canvas: Canvas, branch: Piece, axis: float, x: float, y: float, middle: float
    ) -> None:
        outward = (x > axis) - (x < axis)
        edge = (axis + outward * self.radius, middle if outward else middle - self.radius)
        if isinstance(branch, Line):
            corners = [(axis, y), (x, y), (x, middle), edge] if outward else [(axis, y), edge]
            canvas.line(corners, radius=_CURVE, arrow=True)
            return
        free = self.inner - branch.height
        top = y + _FORK + (free if self.in_order else free / 2)
        bottom = top + branch.height
        canvas.line([(axis, y), (x, y), (x, top)], radius=10, arrow=branch.entered)
        branch.draw(canvas, x, top)
        canvas.line([(x, bottom), (x, edge[1]), edge], radius=10, arrow=True)


def _spread(branches: Sequence[Piece]) -> list[float]:
    """Offsets of branches in their order, the middle one (or the middle gap) on the axis."""
    offsets, cursor = [], 0.0
    for branch in branches:
        offsets.append(cursor + branch.left)
        cursor += branch.left + branch.right + _BETWEEN
    half = len(branches) // 2
    middle = offsets[half]
    if len(branches) % 2 == 0:
        middle -= branches[half].left + _BETWEEN / 2
    return [offset - middle for offset in offsets]


def _beside(branches: Sequence[Piece], straight: Piece | None) -> list[float]:
    """Offsets with one branch on the axis, each other one at the side that reaches less far."""
    center = straight or max(branches, key=lambda branch: branch.height)
    left, right = (max(side, 10.0) for side in (center.left, center.right))
    offsets = []
    for branch in branches:
        if branch is center:
            offsets.append(0.0)
        elif right <= left:
            offsets.append(right + _BETWEEN + branch.left)
            right = offsets[-1] + branch.right
        else:
            offsets.append(-left - _BETWEEN - branch.right)
            left = branch.left - offsets[-1]
    return offsets


class Titled(Piece):
    """A piece below its titles, between the labels of its input and output."""

    def __init__(self, titles: Sequence[str], inner: Piece, before: str, after: str) -> None:
        self.titles, self.inner, self.before, self.after = titles, inner, before, after
        widths = [text_width(title, 13, bold=True) for title in titles]
        half = max(*widths, *(text_width(text, 10) for text in (before, after))) / 2
        self.left, self.right = max(inner.left, half), max(inner.right, half)
        self.height = inner.height + 2 * GAP + _LINE * len(titles) + 2 * 14

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        for number, title in enumerate(self.titles):
            size, color = (11, FAINT) if number else (13, INK)
            canvas.text(x, y + 8, title, size, bold=not number, color=color)
            y += _LINE
        canvas.text(x, y + 6, self.before, 10, color=FAINT)
        top = y + 14 + GAP
        canvas.line([(x, y + 14), (x, top)], arrow=self.inner.entered)
        self.inner.draw(canvas, x, top)
        bottom = top + self.inner.height
        canvas.line([(x, bottom), (x, bottom + GAP)], arrow=True)
        canvas.text(x, bottom + GAP + 8, self.after, 10, color=FAINT)


def font_size(label: Label) -> float:
    return 9.5 if label.small else 12.0


def box_width(label: Label) -> float:
    return text_width(label.text, font_size(label)) + 2 * _PADDING


def _box_height(label: Label) -> float:
    return _SMALL if label.small else _LARGE
