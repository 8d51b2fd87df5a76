"""Finds options with which no network can be made, since such an option is a mistake."""

from collections.abc import Iterable
from random import Random
from typing import Any

from kblocks.plans.geometry import InputTooSmallError
from kblocks.search_space.choices import Choice, Real, Searchable
from kblocks.search_space.conditions import name_of
from kblocks.search_space.tree import Dimension, Point, Tree

_CONTEXTS = 20  # random points at which to check that an option works
_TRIED = 100  # about how many positions of an integer to check


def refuse_dead_options(tree: Tree) -> None:
    """Raises if an option works at none of the points tried: the default and random ones."""
    random = Random(0)
    contexts = [tree.default(), *(tree.draw(random) for _ in range(_CONTEXTS))]
    if not tree.dimensions:
        _ = contexts[0].network
    left = {(n, position) for n, d in tree.dimensions.items() for position in _tried(d.kind)}
    for context in contexts:  # one network proves that all its options work
        shown = {(d.name, context[d.name]) for d in context.active} & left
        try:
            if shown and _failure(context) is None:
                left -= shown
        except Exception:  # builders may raise anything for incompatible options
            continue
    for name, dimension in tree.dimensions.items():
        for position in _tried(dimension.kind):
            if (name, position) in left:
                _refuse_dead(dimension, position, contexts)


def _refuse_dead(dimension: Dimension, position: Any, contexts: list[Point]) -> None:
    first: ValueError | None = None
    for context in contexts:
        parents = dict(max(dimension.conditions, key=len))
        failure = _failure(context.moved({dimension.name: position, **parents}))
        if failure is None or isinstance(failure, InputTooSmallError):
            return
        first = first or failure
    label = dimension.kind.label(position)
    raise ValueError(f"No network can be made with {dimension.name}={label!r}: {first}") from first


def _failure(point: Point) -> ValueError | None:
    """The error that the builder raises at a point; None if it makes a network."""
    try:
        _ = point.network
    except ValueError as error:
        return error
    except TypeError as error:
        raise TypeError(f"{name_of(point.bound.builder)}: {error}") from error
    return None


def _tried(kind: Searchable) -> Iterable[Any]:
    """The positions to check: all of a choice, the ends of a range, some integers between."""
    if isinstance(kind, Choice):
        return range(kind.size)
    if isinstance(kind, Real):
        return kind.low, kind.high
    return {*range(0, kind.size, max(kind.size // _TRIED, 1)), kind.size - 1}
