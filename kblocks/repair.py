"""From a point of a space that does not fit to the nearest one that does.

A point fits if its network can be built for the input and keeps the budget. Steps go one
option at a time in the order in which they hurt least: fewer filters, fewer blocks,
smaller kernels, `same` padding, anything else. At the end what was changed more than
needed is changed back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from random import Random
from typing import TYPE_CHECKING, Any

from kblocks.choices import Assignment, Choice, Dimension, Integer, Real, Tree
from kblocks.geometry import InputTooSmallError
from kblocks.network import Architecture

if TYPE_CHECKING:
    from kblocks.space import Space

# (kind, amount): kind 1 breaks the budget, 2 needs a larger input, 3 cannot be built.
Violation = tuple[int, float]
Measure = Callable[[Assignment], Violation | None]

_STARTS = 100

_ORDER = (
    re.compile(r"filters|branches|width|units|hidden|expansion|growth"),
    re.compile(r"blocks|convolutions|depth"),
    re.compile(r"kernel_size|pool_size|dilation_rate"),
    re.compile(r"padding"),
)


def violation(
    make: Callable[[Assignment], Architecture],
    assignment: Assignment,
    input_shape: tuple[int, int, int],
    exceeded: Callable[[Any], dict[str, float]],
) -> Violation | None:
    """How far a point is from fitting; None if it fits."""
    try:
        net = make(assignment)
    except ValueError:
        return 3, 0.0
    try:
        ratios = exceeded(net.cost(input_shape))
    except InputTooSmallError as error:
        return 2, error.missing
    except ValueError:
        return 3, 0.0
    return (1, sum(math.log(ratio) for ratio in ratios.values())) if ratios else None


def nearest(tree: Tree, measure: Measure, start: Assignment, anchor: Assignment) -> Assignment:
    """A fitting point near `start`: the way back to it from where steps lead, or from `anchor`.

    `anchor` is a point that fits for certain, for where no step brings a point nearer.
    """
    if measure(start) is None:
        return start
    found = _descend(tree, measure, start)
    return _restore(tree, measure, start, found if measure(found) is None else anchor)


def anchor(space: Space) -> Assignment:
    """A point of the space that fits.

    Raises:
        ValueError: if none was found, with the nearest and what it breaks.
    """
    best: tuple[Violation, Assignment] | None = None
    for start in _starts(space.tree):
        found = _descend(space.tree, space.violation, start)
        amount = space.violation(found)
        if amount is None:
            return found
        if best is None or amount < best[0]:
            best = amount, found
    assert best is not None
    raise ValueError(
        f"Nothing in this space fits an input of {space.input_shape} and {space.budget}. "
        f"The nearest that was found, {space.tree.values(best[1])}, {_reason(space, best[1])}"
    )


def _reason(space: Space, assignment: Assignment) -> str:
    try:
        cost = space.build(space.tree.values(assignment)).cost(space.input_shape)
    except ValueError as error:
        return f"fails: {error}"
    broken = space.budget.exceeded(cost)
    return "has " + ", ".join(
        f"{n}={getattr(cost, n):,} ({r:.2f} times its limit)" for n, r in broken.items()
    )


def _starts(tree: Tree) -> Iterator[Assignment]:
    default = tree.default()
    yield default
    yield {n: _ranked(d)[0] if _ranked(d) else default[n] for n, d in tree.dimensions.items()}
    random = Random(0)
    for _ in range(_STARTS if tree.dimensions else 0):
        yield tree.draw(random)


def _rank(dimension: Dimension) -> int:
    """The place of a choice in the order of steps, by the arguments it stands for."""
    ranks = [
        next((i for i, pattern in enumerate(_ORDER) if pattern.search(path)), len(_ORDER))
        for path in dimension.paths
    ]
    return max(ranks)


def _ranked(dimension: Dimension) -> list[int]:
    """The positions of a choice from small to large; empty where it has no such order."""
    kind = dimension.kind
    if isinstance(kind, Integer):
        return list(range(kind.size))
    if not isinstance(kind, Choice):
        return []
    if {"same", "symmetric"} & {o for o in kind.options if isinstance(o, str)}:
        wanted = {"same": 0, "symmetric": 1, "valid": 3}
        return sorted(range(kind.size), key=lambda i: wanted.get(str(kind.options[i]), 2))
    extents = [_extent(option) for option in kind.options]
    if any(extent is None for extent in extents):
        return []
    return sorted(range(kind.size), key=lambda i: extents[i])  # type: ignore[arg-type,return-value]


def _extent(option: Any) -> float | None:
    """A pair is as large as the square of equal area: (1, 3) is less than 3, which is (3, 3)."""
    if isinstance(option, (int, float)) and not isinstance(option, bool):
        return float(option)
    if isinstance(option, tuple) and option and all(isinstance(item, int) for item in option):
        return float(math.prod(option)) ** (1 / len(option))
    return None


def _steps(dimension: Dimension, position: Any) -> list[Any]:
    """Where one step may lead: one smaller, or anywhere where nothing is ordered."""
    kind = dimension.kind
    if isinstance(kind, Real):
        return []
    order = _ranked(dimension)
    if _rank(dimension) == len(_ORDER) or not order:
        return [index for index in range(kind.size) if index != position]
    place = order.index(position)
    return [order[place - 1]] if place else []


_ALL = range(len(_ORDER) + 1)


def _descend(tree: Tree, measure: Measure, start: Assignment, ranks: range = _ALL) -> Assignment:
    """Greedy steps, each the best of its rank, as long as they bring the point nearer."""
    point, now = start, measure(start)
    moved = True
    while now is not None and moved:
        moved = False
        for rank in ranks:
            while now is not None:
                better = _best_step(tree, measure, point, now, rank)
                if better is None:
                    break
                point, now = better
                moved = True
    return point


def _best_step(
    tree: Tree, measure: Measure, point: Assignment, now: Violation, rank: int
) -> tuple[Assignment, Violation | None] | None:
    best: tuple[Assignment, Violation | None] | None = None
    active = tree.values(point)
    for name, dimension in tree.dimensions.items():
        if name not in active or _rank(dimension) != rank:
            continue
        for position in _steps(dimension, point[name]):
            candidate = {**point, name: position}
            amount = measure(candidate)
            if amount is None:
                return candidate, None
            if amount < (best[1] if best and best[1] else now):
                best = candidate, amount
    return best


def _restore(tree: Tree, measure: Measure, start: Assignment, found: Assignment) -> Assignment:
    """Back towards `start`, dearest changes first, wherever cheaper ones do in their place."""
    point = found
    for name in sorted(tree.dimensions, key=lambda name: -_rank(tree.dimensions[name])):
        cheaper = range(_rank(tree.dimensions[name]))
        for position in _between(tree.dimensions[name], start[name], point[name]):
            candidate = _descend(tree, measure, {**point, name: position}, cheaper)
            if measure(candidate) is None:
                point = candidate
                break
    return point


def _between(dimension: Dimension, start: Any, found: Any) -> list[Any]:
    """The positions from `start` to just before `found`."""
    if start == found:
        return []
    order = _ranked(dimension)
    if not order:
        return [start]
    first, last = order.index(start), order.index(found)
    return order[first:last] if first < last else order[first:last:-1]
