"""Counts the points of a tree without listing them."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping

from kblocks.search_space.choices import Real, Searchable
from kblocks.search_space.tree import Condition, Tree

Conditions = Mapping[str, tuple[Condition, ...]]  # by choice; it is active if one of them holds


def size(tree: Tree) -> float:
    """The number of different dicts of values; infinite if there is a real among them."""
    kinds = {name: d.kind for name, d in tree.dimensions.items()}
    return _count(kinds, {n: _shortest(d.conditions) for n, d in tree.dimensions.items()})


def _count(kinds: Mapping[str, Searchable], conditions: Conditions) -> float:
    """The number of points of these dimensions: the product over independent groups."""
    return math.prod(_count_group(kinds, group) for group in _groups(conditions))


def _count_group(kinds: Mapping[str, Searchable], group: Conditions) -> float:
    """The sum over the options of a choice that is always active."""
    first = next(name for name, own in group.items() if () in own)
    kind = kinds[first]
    rest = {name: own for name, own in group.items() if name != first}
    if isinstance(kind, Real):
        return math.inf
    asked = {index for own in rest.values() for c in own for name, index in c if name == first}
    others = kind.size - len(asked)
    counts = [_count(kinds, _given(rest, first, index)) for index in asked]
    return sum(counts) + (others * _count(kinds, _given(rest, first, None)) if others else 0)


def _given(conditions: Conditions, name: str, index: int | None) -> Conditions:
    """The conditions left once `name` takes option `index`; drops what cannot be active then."""
    left = {}
    for other, own in conditions.items():
        kept = {
            tuple(pair for pair in c if pair[0] != name)
            for c in own
            if all(position == index for parent, position in c if parent == name)
        }
        if kept:
            left[other] = _shortest(kept)
    return left


def _shortest(conditions: Collection[Condition]) -> tuple[Condition, ...]:
    """The conditions, or the empty one alone if it is among them: it always holds."""
    return ((),) if () in conditions else tuple(conditions)


def _groups(conditions: Conditions) -> list[Conditions]:
    """Groups of dimensions that depend on each other, directly or through others."""
    joined: list[set[str]] = []
    for name, own in conditions.items():
        bound = {name, *(parent for c in own for parent, _ in c)}
        touching = [group for group in joined if group & bound]
        joined = [group for group in joined if not group & bound]
        joined.append(functools.reduce(set.union, touching, bound))
    return [{name: conditions[name] for name in conditions if name in group} for group in joined]
