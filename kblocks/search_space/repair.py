"""Repairs a point of a space that does not fit: searches for a point near it that does.

A point fits if its network can be built for the input and keeps the budget. The search changes
one choice at a time, in the order in which changes hurt least: fewer filters, fewer blocks,
smaller kernels, `same` padding, anything else. It descends long ranges in large steps first.
Finally it undoes what it changed more than needed. In a space with so many choices that each step
would try too many networks, it instead copies choices from a point that fits: as few as needed,
those that help most.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from kblocks.search_space.choices import Choice, Integer, Real, Searchable
from kblocks.search_space.tree import Dimension, Point, Tree

# (reason, amount): reason 1 breaks the budget, 2 needs a larger input, 3 is no allowed network.
Violation = tuple[int, float]
Measure = Callable[[Point], Violation | None]

_STARTS = 100  # random starts to try until one leads to a point that fits
_ALIKE = 8  # starts to try where all of them need the same larger input
_ENOUGH = 20  # starts to try where the best point only breaks the budget
_LONG = 16  # a choice of more options is descended in steps of more than one
_SHARES = (1 / 8, 1 / 64, 1 / 512)  # such steps as shares of its length, and so on; at last 1

_ORDER = (
    re.compile(r"filters|branches|width|units|hidden|expansion|growth"),
    re.compile(r"blocks|convolutions|depth|stages"),
    re.compile(r"kernel_size|pool_size|dilation_rate"),
    re.compile(r"padding"),
)
_ALL = range(len(_ORDER) + 1)


@dataclass(frozen=True)
class Ladder:
    """The steps along one dimension."""

    rank: int  # the place of its arguments' names in `_ORDER`
    order: Sequence[int]  # the positions from small to large; empty if they have no such order
    positions: Sequence[int]  # all of them; none of a real, which steps leave alone

    def steps(self, position: Any, share: float, grow: bool) -> list[Any]:
        """The positions that one step may lead to.

        That is down, with `grow` up too; any other position if there is no order or the rank is
        the last one. In a long dimension a step covers `share` of it, or leads to a random sample.
        """
        is_long = len(self.positions) > _LONG
        anywhere = self.rank == len(_ORDER) or not self.order
        if anywhere and not is_long:
            return [other for other in self.positions if other != position]
        if not self.order:
            drawn = Random(position).sample(self.positions, _LONG)
            return [other for other in drawn if other != position]
        step, last = self.order.index(position), len(self.order) - 1
        far = max(1, int(share * len(self.order))) if is_long else 1
        down = [self.order[max(step - far, 0)]] if step else []
        up = [self.order[min(step + far, last)]] if step < last else []
        return down + (up if grow or anywhere else [])

    def between(self, start: Any, found: Any) -> Sequence[Any]:
        """The positions from `start` to just before `found`."""
        if start == found:
            return []
        if not self.order:
            return [start]
        first, last = self.order.index(start), self.order.index(found)
        return self.order[first:last] if first < last else self.order[first:last:-1]


class Repair:
    """Searches a tree for points that fit.

    `measure` returns how far a point is from fitting, None if it fits. With `grow` a network can be
    too small, so that steps may enlarge it. Without `steps` none are taken: measuring a Keras model
    takes too long for many of them.
    """

    def __init__(
        self, tree: Tree, measure: Measure, grow: bool = False, steps: bool = True
    ) -> None:
        self._tree, self._measure, self._grow, self._steps = tree, measure, grow, steps
        self._ladders = {name: _ladder(d) for name, d in tree.dimensions.items()}
        self._shares = _shares(max((len(one.order) for one in self._ladders.values()), default=0))

    def nearest(self, start: Point, anchor: Point) -> Point:
        """A fitting point near `start`; `anchor` is any point that is known to fit."""
        if self._measure(start) is None:
            return start
        if self._tree.is_large:
            return self._restore(start, self._towards(start, anchor))
        found = self._descend(start)
        return self._restore(start, found if self._measure(found) is None else anchor)

    def _towards(self, start: Point, anchor: Point) -> Point:
        """`start` with as few choices as needed copied from `anchor`.

        Copies choices of low rank first, and among these the ones that bring the point nearest.
        """

        def after(name: str) -> tuple[int, Violation]:
            amount = self._measure(start.moved({name: anchor[name]}))
            return self._ladders[name].rank, amount or (0, 0.0)

        def copied(number: int) -> Point:
            return start.moved({name: anchor[name] for name in order[:number]})

        either = dict.fromkeys(d.name for d in (*start.active, *anchor.active))
        names = [name for name in self._ladders if name in either]
        order = sorted((name for name in names if start[name] != anchor[name]), key=after)
        few, many = 0, len(order)  # assumes that copying more choices never breaks the fit
        while few < many - 1:
            middle = (few + many) // 2
            fits = self._measure(copied(middle)) is None
            few, many = (few, middle) if fits else (middle, many)
        return copied(many)

    def closest(self) -> tuple[Violation | None, Point]:
        """The best point found, behind how far it is from fitting: None if it fits."""
        if self._tree.is_large:
            for start in self._starts():
                if self._measure(start) is None:
                    return None, start
        best: tuple[Violation, Point] | None = None
        lacking: set[Violation] = set()
        for number, start in enumerate(self._starts()):
            if number >= _ENOUGH and best and best[0][0] == 1:
                break
            if number >= _ALIKE and len(lacking) == 1 and best and best[0][0] == 2:
                break  # the input is too small, which no choice changes
            found = self._descend(start)
            amount = self._measure(found)
            if amount is None:
                return None, found
            lacking.add(amount)
            if best is None or amount < best[0]:
                best = amount, found
        assert best is not None
        return best

    def _starts(self) -> Iterator[Point]:
        default = self._tree.default()
        yield default
        ordered = {name: ladder.order for name, ladder in self._ladders.items() if ladder.order}
        for end in (0, -1) if self._grow else (0,):
            yield default.moved({name: order[end] for name, order in ordered.items()})
        random = Random(0)
        for _ in range(_STARTS if self._ladders else 0):
            yield self._tree.draw(random)

    def _descend(self, start: Point, ranks: range = _ALL) -> Point:
        """Takes greedy steps, each the best of its rank, as long as they bring the point nearer.

        A large step that leads to a point that fits is taken back, and smaller ones go on.
        """
        point, now = start, self._measure(start)
        if now is None or not self._steps:
            return start
        for share in self._shares:
            before = point
            moved = True
            while now is not None and moved:
                moved = False
                for rank in ranks:
                    while now and (better := self._best_step(point, now, rank, share)):
                        before, point, now = point, *better
                        moved = True
            if now is None and share != self._shares[-1]:
                point, now = before, self._measure(before)
        return point

    def _best_step(
        self, point: Point, now: Violation, rank: int, share: float
    ) -> tuple[Point, Violation | None] | None:
        best: tuple[Point, Violation | None] | None = None
        for dimension in point.active:
            name, ladder = dimension.name, self._ladders[dimension.name]
            if ladder.rank != rank:
                continue
            for position in ladder.steps(point[name], share, self._grow):
                moved = point.moved({name: position})
                amount = self._measure(moved)
                if amount is None:
                    return moved, None
                if amount < (best[1] if best and best[1] else now):
                    best = moved, amount
        return best

    def _restore(self, start: Point, found: Point) -> Point:
        """Undoes changes, those of the highest rank first, where lower ranks can replace them."""
        point = found
        for name in sorted(self._ladders, key=lambda name: -self._ladders[name].rank):
            ladder = self._ladders[name]
            way = ladder.between(start[name], point[name])
            if len(way) > _LONG or self._tree.is_large:
                point = self._bisected(point, name, way)
                continue
            for position in way:
                moved = self._moved(point, name, position)
                if self._measure(moved) is None:
                    point = moved
                    break
        return point

    def _bisected(self, point: Point, name: str, way: Sequence[Any]) -> Point:
        """`point` with the first position of `way` that fits, if all later ones fit too."""
        low, high, best = 0, len(way), point
        while low < high:
            middle = (low + high) // 2
            moved = self._moved(point, name, way[middle])
            if self._measure(moved) is None:
                high, best = middle, moved
            else:
                low = middle + 1
        return best

    def _moved(self, point: Point, name: str, position: Any) -> Point:
        """`point` with one change, and unless the tree is large a descent in lower ranks."""
        moved = point.moved({name: position})
        if self._tree.is_large:
            return moved
        return self._descend(moved, range(self._ladders[name].rank))


def _shares(longest: int) -> list[float]:
    """The lengths of steps as shares of a choice's length, ever smaller; 0 for single steps."""
    if longest <= _LONG:
        return [0.0]
    shares = list(_SHARES)
    while shares[-1] * longest > 1:
        shares.append(shares[-1] / 8)
    return [*shares, 0.0]


def _ladder(dimension: Dimension) -> Ladder:
    kind = dimension.kind
    ranks = [
        next((i for i, pattern in enumerate(_ORDER) if pattern.search(path)), len(_ORDER))
        for path in dimension.paths
    ]
    positions = range(0) if isinstance(kind, Real) else range(kind.size)
    return Ladder(max(ranks), _ordered(kind), positions)


def _ordered(kind: Searchable) -> Sequence[int]:
    """The positions of a choice from small to large; empty if it has no such order."""
    if isinstance(kind, Integer):
        return range(kind.size)
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
    """How large an option is, None if it is no size; a pair counts as the square of its area."""
    if isinstance(option, (int, float)) and not isinstance(option, bool):
        return float(option)
    if isinstance(option, tuple) and option and all(isinstance(item, int) for item in option):
        return float(math.prod(option)) ** (1 / len(option))
    return None
