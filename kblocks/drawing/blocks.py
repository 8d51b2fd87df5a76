"""Draws a block's plan as a figure, as papers do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from kblocks.drawing.labels import Label, label_of, shape_text
from kblocks.drawing.layout import Fork, Line, Piece, Repeat, Series, Stack, Titled
from kblocks.plans import ops
from kblocks.plans.cost import walk
from kblocks.plans.geometry import Crop
from kblocks.plans.ops import Chain, Merge, Op

_FOLDED = 3  # from so many equal forks in a row on, one is drawn with their number


def figure(plan: Op, shape: Any, *titles: str) -> Titled:
    """The figure of a plan; `shape` is its input shape, None if unknown."""
    shapes = Shapes(plan, shape)
    before = "input" if shape is None else _told(shape)
    after = "output" if shapes.output is None else _told(shapes.output)
    pieces = _pieces(straightened(plan), _placed(plan, shapes))
    return Titled(titles, Series(pieces) if pieces else Line(), before, after)


def _told(shape: Any) -> str:
    if isinstance(shape, list):
        return ", ".join(map(shape_text, shape))
    if len(shape) == 3 and shape[:2] == (None, None):
        return f"{shape[2]} channels"
    return shape_text(shape)


class Shapes:
    """The known shapes in a plan: its output shape and the input channels of each op."""

    def __init__(self, plan: Op, shape: Any) -> None:
        self.channels: dict[int, Any] = {}  # by the number of the op in its plan
        self._number = itertools.count()
        self.output = self._follow(plan, shape)

    def _follow(self, op: Op, shape: Any) -> Any:
        if isinstance(op, Chain):
            for step in op:
                shape = self._follow(step, shape)
            return shape
        if isinstance(op, Merge):
            several = isinstance(shape, list) and len(shape) == len(op.branches)
            sources = shape if several else [shape] * len(op.branches)
            for (_, branch), source in zip(op.branches, sources, strict=True):
                self._follow(branch, source)
        else:
            self.channels[next(self._number)] = None if shape is None else shape[-1]
        try:
            return None if shape is None else walk(op, shape)
        except ValueError:  # it needs sizes that are unknown
            return None


def straightened(plan: Op) -> Chain:
    """A plan as a chain, in which a merge of a single branch is replaced by that branch."""
    if isinstance(plan, Merge) and len(plan.branches) == 1:
        plan = plan.branches[0][1]
    if not isinstance(plan, Chain):
        return Chain(plan)
    return Chain(*(straightened(op) if isinstance(op, Merge) else op for op in plan))


class _Step(NamedTuple):
    """A primitive's path in the plan and the label of its box."""

    path: str
    label: Label


def _placed(plan: Op, shapes: Shapes) -> Iterator[_Step]:
    for number, (path, op) in enumerate(ops.parts(plan)):
        yield _Step(path, label_of(op, shapes.channels.get(number)))


def _pieces(chain: Chain, steps: Iterator[_Step]) -> list[Piece]:
    """The pieces of a chain: stacks of boxes, forks, and frames around repeated forks."""
    pieces: list[Piece] = []
    for merges, run in itertools.groupby(chain, key=lambda op: isinstance(op, Merge)):
        members = list(run)
        if not merges:
            pieces.extend(_stacks([next(steps) for _ in members]))
            continue
        for _, equal in itertools.groupby(members, key=_nameless):
            same = list(equal)
            forks = [_fork(merge, steps) for merge in same]  # each consumes its steps
            folds = len(forks) >= _FOLDED
            pieces.extend([Repeat(forks[0], len(forks))] if folds else forks)
    return pieces


def _nameless(op: Op) -> Any:
    """A key, equal for plans that differ only in the names of branches."""
    if isinstance(op, Merge):
        return op.mode, tuple(_nameless(branch) for _, branch in op.branches)
    return tuple(map(_nameless, op)) if isinstance(op, Chain) else op


def _fork(merge: Merge, steps: Iterator[_Step]) -> Fork:
    try:
        cuts = merge.crops()
    except ValueError:
        cuts = [None] * len(merge.branches)
    branches: list[Piece] = []
    for (_, branch), cut in zip(merge.branches, cuts, strict=True):
        pieces = _pieces(straightened(branch), steps)
        if cut is not None:
            pieces.insert(0, Stack([(Label(_cropping(cut), "other", small=True), "")]))
        branches.append(Series(pieces) if pieces else Line())
    return Fork(merge.mode, branches)


def _cropping(cut: Crop) -> str:
    (top, bottom), (left, right) = cut
    return f"crop {top + bottom} x {left + right}"


def _stacks(steps: list[_Step]) -> list[Piece]:
    """Groups steps into stacks with one large box each.

    Small boxes belong to the large box before them. In a chain that begins with small ones, as
    with pre-activation, they belong to the one behind them.
    """
    leading = steps[0].label.small
    stacks: list[list[_Step]] = [[]]
    for step in steps:
        full = any(not s.label.small for s in stacks[-1])
        if full and (leading or not step.label.small):
            stacks.append([])
        stacks[-1].append(step)
    if leading and len(stacks) > 1 and all(step.label.small for step in stacks[-1]):
        tail = stacks.pop()
        stacks[-1].extend(tail)
    return [Stack([(step.label, step.path) for step in stack]) for stack in stacks]
