"""Converts the points of a space to Optuna's parameters and back."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from optuna.distributions import BaseDistribution

from kblocks.search_space.choices import Real, Searchable, recorded
from kblocks.search_space.tree import Assignment, Tree
from kblocks.tuner.bridge import HyperModel, declare
from kblocks.tuner.choosing.asking import Asking


def distributions_of(hypermodel: HyperModel) -> dict[str, BaseDistribution]:
    """The Optuna distribution of every choice of a `kb.tuner.HyperModel`, active or not."""
    asking = Asking(lambda name, distribution, default: default)
    for name, kind in hypermodel.dimensions().items():
        declare(asking, name, kind)
    return asking.asked


class Points:
    """The points of a `kb.tuner.HyperModel`, over the choices of its space and its recipe."""

    def __init__(self, hypermodel: HyperModel) -> None:
        self._space = hypermodel.space
        self._recipe = Tree({}) if hypermodel.compile is not None else hypermodel.recipe.tree()
        # A `compile` function may ask for more hyperparameters, which no point contains.
        self._is_whole = not callable(hypermodel.compile)
        self.kinds = hypermodel.dimensions()
        self.distributions = distributions_of(hypermodel)

    def default(self) -> Assignment:
        """The default point of space and recipe, repaired if it does not fit."""
        return self._space.tree.assignment(self._space.default()) | self._recipe.default()

    def random(self, random: Random) -> Assignment:
        """A random point that fits."""
        own = self._space.tree.assignment(self._space.sample(random))
        return own | self._recipe.draw(random)

    def fits(self, point: Assignment) -> bool:
        """Whether the network of a point fits."""
        return self._space.violation(point) is None

    def repaired(self, point: Assignment) -> Assignment:
        """The nearest point that fits."""
        tree = self._space.tree
        return point | tree.assignment(self._space.repair(tree.values(point)))

    def all(self) -> Iterator[Assignment]:
        """All points that fit; a real-valued choice takes ten values of its range."""
        for own in _all(self._space.tree):
            if self.fits(own):
                for recipe in _all(self._recipe):
                    yield own | recipe

    def asked(self, value: Callable[[str], Any]) -> Assignment:
        """The point whose active choices have the values that a function returns by name."""
        point = self._space.tree.default() | self._recipe.default()
        for name in self._active(point):
            point[name] = self.kinds[name].index(value(name))
        return point

    def _active(self, point: Assignment) -> Iterator[str]:
        """The names of a point's active choices; earlier choices may be set meanwhile."""
        for tree in (self._space.tree, self._recipe):
            for name, dimension in tree.dimensions.items():
                if dimension.is_active(point):
                    yield name

    def params(self, point: Assignment) -> dict[str, Any]:
        """The active values of a point, as the storage records them."""
        return {name: recorded(self.kinds[name], point[name]) for name in self._active(point)}

    def point(self, params: Mapping[str, Any]) -> Assignment:
        """The point that the storage has recorded.

        Raises:
            ValueError: if the value of an active choice is missing or unknown.
        """
        found: Assignment = {}
        for tree in (self._space.tree, self._recipe):
            found |= tree.assignment({n: params[n] for n in tree.dimensions if n in params})
        return found

    def is_whole(self, params: Mapping[str, Any]) -> bool:
        """Whether the storage has recorded all active values of a point."""
        try:
            self.point(params)
        except ValueError:
            return False
        return True

    def key(self, point: Assignment) -> Hashable:
        """Equal for points with equal networks and recipes; unique if `compile` is a function."""
        if not self._is_whole:
            return object()
        recipe = sorted(self._recipe.values(point).items(), key=lambda item: item[0])
        return self._space.key(self._space.tree.values(point)), str(recipe)


def _all(tree: Tree) -> Iterator[Assignment]:
    """Every point of a tree; inactive choices stay at their default."""

    def completed(point: Assignment, names: Sequence[str]) -> Iterator[Assignment]:
        if not names:
            yield point
            return
        dimension = tree.dimensions[names[0]]
        is_active = dimension.is_active(point)
        for position in _positions(dimension.kind) if is_active else [point[names[0]]]:
            yield from completed({**point, names[0]: position}, names[1:])

    return completed(tree.default(), list(tree.dimensions))


def _positions(kind: Searchable) -> Iterable[Any]:
    if isinstance(kind, Real):
        return [kind.low, *(kind.at(i / 9) for i in range(1, 9)), kind.high]
    return range(kind.size)
