"""Draws a block's plan as a figure, as papers do."""

import itertools
from collections.abc import Iterator
from typing import Any

from kblocks.drawing.labels import Label, label_of, shape_text
from kblocks.drawing.layout import Fork, Line, Piece, Repeat, Series, Stack, Titled
from kblocks.plans import ops
from kblocks.plans.cost import walk
from kblocks.plans.ops import Chain, Merge, Op

_FOLDED = 3  # from so many equal forks in a row on, one is drawn with their number


def figure(plan: Op, shape: Any, *titles: str) -> Titled:
    """The figure of a plan; `shape` is its input shape, None if unknown."""
    channels, output = followed(plan, shape)
    parts = zip(ops.parts(plan), channels, strict=True)
    steps = ((label_of(op, inputs), path) for (path, op), inputs in parts)
    before = "input" if shape is None else _shape_text(shape)
    after = "output" if output is None else _shape_text(output)
    pieces = _pieces(straightened(plan), steps)
    return Titled(titles, Series(pieces) if pieces else Line(), before, after)


def _shape_text(shape: Any) -> str:
    if isinstance(shape, list):
        return ", ".join(map(shape_text, shape))
    if len(shape) == 3 and shape[:2] == (None, None):
        return f"{shape[2]} channels"
    return shape_text(shape)


def followed(op: Op, shape: Any) -> tuple[list[Any], Any]:
    """The input channels of each primitive of a plan, and its output shape; None if unknown."""
    channels: list[Any] = []
    if isinstance(op, Chain):
        for step in op:
            inner, shape = followed(step, shape)
            channels += inner
        return channels, shape
    if isinstance(op, Merge):
        several = isinstance(shape, list) and len(shape) == len(op.branches)
        sources = shape if several else [shape] * len(op.branches)
        for (_, branch), source in zip(op.branches, sources, strict=True):
            channels += followed(branch, source)[0]
    else:
        channels.append(None if shape is None else shape[-1])
    try:
        return channels, None if shape is None else walk(op, shape)
    except ValueError:  # it needs sizes that are unknown
        return channels, None


def straightened(plan: Op) -> Chain:
    """A plan as a chain, in which a merge of a single branch is replaced by that branch."""
    if isinstance(plan, Merge) and len(plan.branches) == 1:
        plan = plan.branches[0][1]
    if not isinstance(plan, Chain):
        return Chain(plan)
    return Chain(*(straightened(op) if isinstance(op, Merge) else op for op in plan))


_Step = tuple[Label, str]  # the label of a primitive's box, and its path in the plan


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
            height, width = map(sum, cut)
            label = Label(f"crop {height} x {width}", "other", small=True)
            pieces.insert(0, Stack([(label, "")]))
        branches.append(Series(pieces) if pieces else Line())
    return Fork(merge.mode, branches)


def _stacks(steps: list[_Step]) -> list[Piece]:
    """Groups steps into stacks with one large box each.

    Small boxes belong to the large box before them. In a chain that begins with small ones, as
    with pre-activation, they belong to the one behind them.
    """
    leading = steps[0][0].small
    stacks: list[list[_Step]] = [[]]
    for step in steps:
        full = any(not label.small for label, _ in stacks[-1])
        if full and (leading or not step[0].small):
            stacks.append([])
        stacks[-1].append(step)
    if leading and len(stacks) > 1 and all(label.small for label, _ in stacks[-1]):
        tail = stacks.pop()
        stacks[-1].extend(tail)
    return [Stack(stack) for stack in stacks]
