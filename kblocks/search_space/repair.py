"""From a point of a space that does not fit to the nearest one that does.

A point fits if its network can be built for the input and keeps the budget. Steps go one
option at a time in the order in which they hurt least: fewer filters, fewer blocks,
smaller kernels, `same` padding, anything else. Wide ranges are gone down in large steps
first. At the end what was changed more than needed is changed back. Where choices are so
many that each step would try too many networks, those that help most become at once what
they are in a point that fits, as many as needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from kblocks.search_space.choices import Choice, Integer, Real
from kblocks.search_space.tree import Assignment, Dimension, Tree

# (kind, amount): kind 1 breaks the budget, 2 needs a larger input, 3 cannot be built.
Violation = tuple[int, float]
Measure = Callable[[Assignment], Violation | None]

_STARTS = 100  # that are tried until one leads to a point that fits
_ALIKE = 8  # where all of them lack the same
_ENOUGH = 20  # where all that is missing is budget
_LONG = 16  # options from which a choice is gone down in steps of more than one
_SHARES = (1 / 8, 1 / 64, 1 / 512)  # of its length, and so on; at last one option at a time

_ORDER = (
    re.compile(r"filters|branches|width|units|hidden|expansion|growth"),
    re.compile(r"blocks|convolutions|depth|stages"),
    re.compile(r"kernel_size|pool_size|dilation_rate"),
    re.compile(r"padding"),
)
_ALL = range(len(_ORDER) + 1)


@dataclass(frozen=True)
class Ladder:
    """How steps go along one dimension: its place in their order, and its positions in theirs.

    `order` has positions from small to large; it is empty where they have no such order.
    """

    rank: int
    order: Sequence[int]
    positions: Sequence[int]  # none of a real, which is left alone

    def steps(self, position: Any, share: float, grow: bool) -> list[Any]:
        """Where one step may lead: down, up too if things may grow, anywhere if unordered."""
        is_long = len(self.positions) > _LONG
        anywhere = self.rank == len(_ORDER) or not self.order
        if anywhere and not is_long:
            return [other for other in self.positions if other != position]
        if not self.order:
            drawn = Random(position).sample(self.positions, _LONG)
            return [other for other in drawn if other != position]
        place, last = self.order.index(position), len(self.order) - 1
        far = max(1, int(share * len(self.order))) if is_long else 1
        down = [self.order[max(place - far, 0)]] if place else []
        up = [self.order[min(place + far, last)]] if place < last else []
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
    """Steps through a tree by what `measure` says of its points.

    Args:
        tree: whose points are repaired.
        measure: how far a point is from fitting; None if it fits.
        grow: whether a network can be too small, so that steps may enlarge it.
    """

    def __init__(self, tree: Tree, measure: Measure, grow: bool = False) -> None:
        self._tree, self._measure, self._grow = tree, measure, grow
        self._ladders = {name: _ladder(d) for name, d in tree.dimensions.items()}
        self._shares = _shares(max((len(one.order) for one in self._ladders.values()), default=0))

    def nearest(self, start: Assignment, anchor: Assignment) -> Assignment:
        """A fitting point near `start`: the way back to it from where steps lead, or from `anchor`.

        `anchor` is a point that fits for certain, for where no step brings a point nearer.
        """
        if self._measure(start) is None:
            return start
        if self._tree.is_large:
            return self._restore(start, self._towards(start, anchor))
        found = self._descend(start)
        return self._restore(start, found if self._measure(found) is None else anchor)

    def _towards(self, start: Assignment, anchor: Assignment) -> Assignment:
        """The start with as few choices as needed changed to what they are in `anchor`.

        Cheaper ones first, and of these the ones that bring it nearer; fewer of them do if more
        of them would.
        """

        def after(name: str) -> tuple[int, Violation]:
            amount = self._measure({**start, name: anchor[name]})
            return self._ladders[name].rank, amount or (0, 0.0)

        dimensions = self._tree.dimensions
        order = sorted(
            (
                name
                for name, dimension in dimensions.items()
                if start[name] != anchor[name]
                and (dimension.is_active(start) or dimension.is_active(anchor))
            ),
            key=after,
        )
        few, many = 0, len(order)
        while few < many - 1:
            middle = (few + many) // 2
            fits = self._measure(_changed(start, anchor, order[:middle])) is None
            few, many = (few, middle) if fits else (middle, many)
        return _changed(start, anchor, order[:many])

    def closest(self) -> tuple[Violation | None, Assignment]:
        """A point that fits, or, where none is found, the one that lacks least."""
        if self._tree.is_large:
            for start in self._starts():
                if self._measure(start) is None:
                    return None, start
        best: tuple[Violation, Assignment] | None = None
        lacking: set[Violation] = set()
        for number, start in enumerate(self._starts()):
            if number >= _ENOUGH and best and best[0][0] == 1:
                break
            if number >= _ALIKE and len(lacking) == 1 and best and best[0][0] == 2:
                break  # pixels of the input, which no choice changes
            found = self._descend(start)
            amount = self._measure(found)
            if amount is None:
                return None, found
            lacking.add(amount)
            if best is None or amount < best[0]:
                best = amount, found
        assert best is not None
        return best

    def _starts(self) -> Iterator[Assignment]:
        default = self._tree.default()
        yield default
        for end in (0, -1) if self._grow else (0,):
            ordered = {name: ladder.order for name, ladder in self._ladders.items() if ladder.order}
            yield {**default, **{name: order[end] for name, order in ordered.items()}}
        random = Random(0)
        for _ in range(_STARTS if self._ladders else 0):
            yield self._tree.draw(random)

    def _descend(self, start: Assignment, ranks: range = _ALL) -> Assignment:
        """Greedy steps, each the best of its rank, as long as they bring the point nearer.

        Where a large step leads to a point that fits, smaller ones take over before it.
        """
        point, now = start, self._measure(start)
        if now is None:
            return start
        for share in self._shares:
            before = point
            moved = True
            while now is not None and moved:
                moved = False
                for rank in ranks:
                    while now is not None:
                        better = self._best_step(point, now, rank, share)
                        if better is None:
                            break
                        before, point, now = point, *better
                        moved = True
            if now is None and share != self._shares[-1]:
                point, now = before, self._measure(before)
        return point

    def _best_step(
        self, point: Assignment, now: Violation, rank: int, share: float
    ) -> tuple[Assignment, Violation | None] | None:
        best: tuple[Assignment, Violation | None] | None = None
        for name, dimension in self._tree.dimensions.items():
            ladder = self._ladders[name]
            if ladder.rank != rank or not dimension.is_active(point):
                continue
            for position in ladder.steps(point[name], share, self._grow):
                candidate = {**point, name: position}
                amount = self._measure(candidate)
                if amount is None:
                    return candidate, None
                if amount < (best[1] if best and best[1] else now):
                    best = candidate, amount
        return best

    def _restore(self, start: Assignment, found: Assignment) -> Assignment:
        """Back towards `start`, dearest changes first, wherever cheaper ones do in their place."""
        point = found
        for name in sorted(self._ladders, key=lambda name: -self._ladders[name].rank):
            ladder = self._ladders[name]
            way = ladder.between(start[name], point[name])
            if len(way) > _LONG or self._tree.is_large:
                point = self._bisected(point, name, way)
                continue
            for position in way:
                candidate = self._with(point, name, position)
                if self._measure(candidate) is None:
                    point = candidate
                    break
        return point

    def _bisected(self, point: Assignment, name: str, way: Sequence[Any]) -> Assignment:
        """The point with the first position of a long way that does, if the later ones do too."""
        low, high, best = 0, len(way), point
        while low < high:
            middle = (low + high) // 2
            candidate = self._with(point, name, way[middle])
            if self._measure(candidate) is None:
                high, best = middle, candidate
            else:
                low = middle + 1
        return best

    def _with(self, point: Assignment, name: str, position: Any) -> Assignment:
        """A point with one change, and what cheaper changes make of it if these are few."""
        if self._tree.is_large:
            return {**point, name: position}
        return self._descend({**point, name: position}, range(self._ladders[name].rank))


def _changed(start: Assignment, anchor: Assignment, names: Sequence[str]) -> Assignment:
    return {**start, **{name: anchor[name] for name in names}}


def _shares(longest: int) -> list[float]:
    """Of a choice's length, how far steps go: ever less, until one option at a time."""
    if longest <= _LONG:
        return [0.0]
    shares = list(_SHARES)
    while shares[-1] * longest > 1:
        shares.append(shares[-1] / 8)
    return [*shares, 0.0]


def _ladder(dimension: Dimension) -> Ladder:
    kind = dimension.kind
    positions = range(0) if isinstance(kind, Real) else range(kind.size)
    return Ladder(_rank(dimension), _ranked(kind), positions)


def _rank(dimension: Dimension) -> int:
    """The place of a choice in the order of steps, by the arguments it stands for."""
    ranks = [
        next((i for i, pattern in enumerate(_ORDER) if pattern.search(path)), len(_ORDER))
        for path in dimension.paths
    ]
    return max(ranks)


def _ranked(kind: Any) -> Sequence[int]:
    """The positions of a choice from small to large; empty where it has no such order."""
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
    """A pair is as large as the square of equal area: (1, 3) is less than 3, which is (3, 3)."""
    if isinstance(option, (int, float)) and not isinstance(option, bool):
        return float(option)
    if isinstance(option, tuple) and option and all(isinstance(item, int) for item in option):
        return float(math.prod(option)) ** (1 / len(option))
    return None
