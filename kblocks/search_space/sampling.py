"""Random points of a tree of which only few fit: a law is learned under which more do.

Every dimension is drawn on its own, from equal parts of its range with weights. The
weights move towards those points of a round that fit, or that come nearest to fitting,
until a good share of what is drawn fits: the cross-entropy method (Rubinstein 1999,
"The Cross-Entropy Method for Combinatorial and Continuous Optimization").

A range of which the budget leaves less than such a part is drawn from by slice sampling (Neal
2003, "Slice Sampling"): from all of the range, then from what lies between the last draw that
did not fit and a point that does. So are all choices where these are too many for a law.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from kblocks.search_space.choices import Choice, Integer, Real, Searchable
from kblocks.search_space.tree import Assignment, Tree

Shortfall = Callable[[Assignment], tuple[int, float] | None]

_PARTS = 16  # of a range; a choice of no more options has a part for each
_ROUNDS, _DRAWN, _ELITE = 12, 200, 30
_ENOUGH = 0.2  # the share that fits with which learning ends
_KEPT, _EVEN = 0.3, 0.1  # of the old weights, and of even ones: nothing becomes impossible
_PLAIN, _BY_LAW = 8, 200  # draws that may fail
_ALONE = 64  # choices of a large tree that are redrawn alone
_SHRUNK = 100  # draws from a range that becomes smaller


class Law:
    """Weights of equal parts of each dimension's range.

    Attributes:
        helps: whether points drawn by it were seen to fit.
    """

    def __init__(self, weights: dict[str, list[float]]) -> None:
        self.weights = weights
        self.helps = False
        self._sums = {name: list(itertools.accumulate(own)) for name, own in weights.items()}

    def draw(self, tree: Tree, random: Random) -> tuple[Assignment, dict[str, int]]:
        """A point, and the part of its range that each position was drawn from."""
        point: Assignment = {}
        parts: dict[str, int] = {}
        for name, dimension in tree.dimensions.items():
            sums = self._sums[name]
            part = bisect.bisect_right(sums, random.random() * sums[-1], hi=len(sums) - 1)
            parts[name] = part
            point[name] = dimension.kind.at((part + random.random()) / len(sums))
        return point, parts


def learned(tree: Tree, shortfall: Shortfall) -> Law:
    """The law under which a good share of the points of a tree fits, if one is found.

    Args:
        tree: whose points are drawn.
        shortfall: how far a point is from fitting; None if it fits.
    """
    random = Random(0)
    law = Law({name: [1.0] * _parts(d.kind) for name, d in tree.dimensions.items()})
    for _ in range(_ROUNDS):
        drawn = [law.draw(tree, random) for _ in range(_DRAWN)]
        scored = [(shortfall(point) or (0, 0.0), parts) for point, parts in drawn]
        fitting = [parts for amount, parts in scored if not amount[0]]
        if len(fitting) >= _ENOUGH * _DRAWN:
            law.helps = True
            break
        scored.sort(key=lambda pair: pair[0])
        law = _moved(law, [parts for _, parts in scored[:_ELITE]])
        law.helps = bool(fitting)
    return law


def _moved(law: Law, elite: list[dict[str, int]]) -> Law:
    weights = {}
    for name, own in law.weights.items():
        total, parts = sum(own), len(own)
        counts = [0] * parts
        for one in elite:
            counts[one[name]] += 1
        mixed = (
            _KEPT * weight / total + (1 - _KEPT) * count / len(elite)
            for weight, count in zip(own, counts, strict=True)
        )
        weights[name] = [(1 - _EVEN) * weight + _EVEN / parts for weight in mixed]
    return Law(weights)


def _parts(kind: Searchable) -> int:
    return kind.size if isinstance(kind, Choice) else _PARTS


def drawn(
    tree: Tree,
    fits: Callable[[Assignment], bool],
    law: Callable[[], Law],
    random: Random,
) -> Any:
    """A random point that fits: plain draws first, then draws by the law; None if all failed."""
    for _ in range(_PLAIN):
        point = tree.draw(random)
        if fits(point):
            return point
    if tree.is_large:
        return None
    found = law()
    for _ in range(_BY_LAW if found.helps else 0):
        point, _ = found.draw(tree, random)
        if fits(point):
            return point
    return None


def wide(tree: Tree) -> list[str]:
    """The choices of which a law draws parts that hold more than one position."""

    def is_wide(kind: Searchable) -> bool:
        return isinstance(kind, Real) or (isinstance(kind, Integer) and kind.size > _PARTS)

    return [name for name, dimension in tree.dimensions.items() if is_wide(dimension.kind)]


def redrawn(
    tree: Tree, fits: Callable[[Assignment], bool], start: Assignment, random: Random
) -> Assignment:
    """A random point that fits, from one that does.

    Redraws what the parts of a law do not tell apart: of a large tree everything, first at once
    and then some choices alone, else each wide range.
    """
    kinds = {name: dimension.kind for name, dimension in tree.dimensions.items()}
    if tree.is_large:
        start = _sliced(kinds, fits, start, random)
        names = random.sample(list(kinds), _ALONE)
    else:
        names = wide(tree)
        random.shuffle(names)
    for name in names:
        if tree.dimensions[name].is_active(start):
            start = _sliced({name: kinds[name]}, fits, start, random)
    return start


def _sliced(
    kinds: Mapping[str, Searchable],
    fits: Callable[[Assignment], bool],
    start: Assignment,
    random: Random,
) -> Assignment:
    """The start with these dimensions redrawn at once, by slice sampling with shrinkage."""
    own = {name: kind.share(start[name], random.random()) for name, kind in kinds.items()}
    bounds = dict.fromkeys(kinds, (0.0, 1.0))
    for _ in range(_SHRUNK):
        shares = {
            name: low + random.random() * (high - low) for name, (low, high) in bounds.items()
        }
        point = {**start, **{name: kinds[name].at(min(s, _LAST)) for name, s in shares.items()}}
        if point == start or fits(point):
            return point
        for name, share in shares.items():
            low, high = bounds[name]
            bounds[name] = (share, high) if share < own[name] else (low, share)
    return start


_LAST = 1 - 2**-53  # the largest share
