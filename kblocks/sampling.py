"""Random points of a tree of which only few fit: a law is learned under which more do.

Every dimension is drawn on its own, from equal parts of its range with weights. The
weights move towards those points of a round that fit, or that come nearest to fitting,
until a good share of what is drawn fits: the cross-entropy method (Rubinstein 1999,
"The Cross-Entropy Method for Combinatorial and Continuous Optimization").
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable
from random import Random
from typing import Any

from kblocks.choices import Choice, Searchable
from kblocks.tree import Assignment, Tree

Shortfall = Callable[[Assignment], tuple[int, float] | None]

_PARTS = 16  # of a range; a choice of no more options has a part for each
_ROUNDS, _DRAWN, _ELITE = 12, 200, 30
_ENOUGH = 0.2  # the share that fits with which learning ends
_KEPT, _EVEN = 0.3, 0.1  # of the old weights, and of even ones: nothing becomes impossible


class Law:
    """Weights of equal parts of each dimension's range."""

    def __init__(self, weights: dict[str, list[float]]) -> None:
        self.weights = weights
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
            break
        scored.sort(key=lambda pair: pair[0])
        law = _moved(law, [parts for _, parts in scored[:_ELITE]])
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
    found = law()
    for _ in range(_BY_LAW):
        point, _ = found.draw(tree, random)
        if fits(point):
            return point
    return None


_PLAIN, _BY_LAW = 8, 200
