"""Samples points that fit from a tree in which only few points do.

A distribution is learned under which more points fit, the `Law`. It draws each dimension
independently, from equal parts of its range with weights. Each round moves the weights towards
the points that fit, or come nearest to fitting, until a good share of the draws fits: the
cross-entropy method (Rubinstein 1999, "The Cross-Entropy Method for Combinatorial and Continuous
Optimization").

A range of which the budget leaves less than one part is sampled by slice sampling (Neal 2003,
"Slice Sampling"): first from the whole range, then from between the last draw that did not fit
and a point that does. So are all choices of a tree that has too many of them for a law.
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import numpy as np

from kblocks.search_space.choices import Choice, Integer, Real, Searchable
from kblocks.search_space.tree import Point, Tree

Shortfall = Callable[[Point], tuple[int, float] | None]  # None for a point that fits
Fits = Callable[[Point], bool]
Law = dict[str, list[float]]  # the weights of equal parts of each dimension's range

_PARTS = 16  # of a range of numbers; a choice between options has a part for each
_ROUNDS, _DRAWN, _ELITE = 12, 200, 30
_ENOUGH = 0.2  # learning ends when this share of the draws fits
_KEPT, _EVEN = 0.3, 0.1  # shares of the old and of equal weights: no part becomes impossible
_PLAIN, _BY_LAW = 8, 200  # draws to try without and with a law
_ALONE = 64  # choices of a large tree to redraw one by one
_SHRUNK = 100  # draws to try while slice sampling shrinks the range


def _by_law(law: Law, tree: Tree, random: Random) -> tuple[Point, dict[str, int]]:
    """A random point, and the part of its range that each position was drawn from."""
    positions: dict[str, Any] = {}
    parts: dict[str, int] = {}
    for name, dimension in tree.dimensions.items():
        weights = law[name]
        (parts[name],) = random.choices(range(len(weights)), weights)
        positions[name] = dimension.kind.at((parts[name] + random.random()) / len(weights))
    return Point(tree, positions), parts


def learned(tree: Tree, shortfall: Shortfall) -> Law | None:
    """A law under which a good share of points fits; None if no point of its last round does."""
    random = Random(0)
    kinds = {name: dimension.kind for name, dimension in tree.dimensions.items()}
    parts = {name: k.size if isinstance(k, Choice) else _PARTS for name, k in kinds.items()}
    law = {name: [1.0] * number for name, number in parts.items()}
    fitting = 0
    for _ in range(_ROUNDS):
        points = [_by_law(law, tree, random) for _ in range(_DRAWN)]
        scored = [(shortfall(point) or (0, 0.0), parts) for point, parts in points]
        scored.sort(key=lambda pair: pair[0])
        fitting = sum(not amount[0] for amount, _ in scored)
        if fitting >= _ENOUGH * _DRAWN:
            break
        law = _moved(law, [parts for _, parts in scored[:_ELITE]])
    return law if fitting else None


def _moved(law: Law, elite: list[dict[str, int]]) -> Law:
    moved = {}
    for name, weights in law.items():
        counts = np.bincount([parts[name] for parts in elite], minlength=len(weights))
        kept = _KEPT * np.array(weights) / sum(weights)
        mixed = kept + (1 - _KEPT) * counts / len(elite)
        moved[name] = ((1 - _EVEN) * mixed + _EVEN / len(weights)).tolist()
    return moved


def drawn(tree: Tree, fits: Fits, law: Callable[[], Law | None], random: Random) -> Point | None:
    """A random point that fits: from plain draws, then from draws by the law; None if all fail."""
    for _ in range(_PLAIN):
        point = tree.draw(random)
        if fits(point):
            return point
    if not tree.is_large and (found := law()) is not None:
        for _ in range(_BY_LAW):
            point, _ = _by_law(found, tree, random)
            if fits(point):
                return point
    return None


def wide(tree: Tree) -> list[str]:
    """The choices of so many positions that a part in a law holds more than one."""

    def is_wide(kind: Searchable) -> bool:
        return isinstance(kind, Real) or (isinstance(kind, Integer) and kind.size > _PARTS)

    return [name for name, dimension in tree.dimensions.items() if is_wide(dimension.kind)]


def redrawn(tree: Tree, fits: Fits, start: Point, random: Random) -> Point:
    """A random point that fits, made from another one by slice sampling.

    Of a large tree it redraws all choices at once and then some one by one. Of others it redraws
    the wide ranges, since a law does not distinguish the positions in a part.
    """
    kinds = {name: dimension.kind for name, dimension in tree.dimensions.items()}
    if tree.is_large:
        start = _sliced(kinds, fits, start, random)
        names = random.sample(list(kinds), _ALONE)
    else:
        names = wide(tree)
        random.shuffle(names)
    for name in names:
        if tree.dimensions[name].is_active(start.positions):
            start = _sliced({name: kinds[name]}, fits, start, random)
    return start


def _sliced(kinds: Mapping[str, Searchable], fits: Fits, start: Point, random: Random) -> Point:
    """`start` with these dimensions redrawn together, by slice sampling with shrinkage."""
    own = {name: kind.share(start[name], random.random()) for name, kind in kinds.items()}
    ends = dict.fromkeys(kinds, (0.0, 1.0))
    for _ in range(_SHRUNK):
        shares = {name: low + random.random() * (high - low) for name, (low, high) in ends.items()}
        point = start.moved({name: kinds[name].at(min(s, _LAST)) for name, s in shares.items()})
        if point == start or fits(point):
            return point
        for name, share in shares.items():
            low, high = ends[name]
            ends[name] = (share, high) if share < own[name] else (low, share)
    return start


_LAST = 1 - 2**-53  # the largest float below 1
