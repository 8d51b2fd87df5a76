"""Converts the points of a space to Optuna's parameters and back."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from random import Random
from typing import Any

from optuna.distributions import BaseDistribution

from kblocks.search_space.choices import Real, Searchable
from kblocks.search_space.tree import Point, Positions, Tree
from kblocks.tuner.choosing.asking import Asking
from kblocks.tuner.hypermodel import HyperModel
from kblocks.tuner.suggesting import declare


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
        _, self._recipe = hypermodel.trees()
        self._both = self._space.tree.joined(self._recipe)
        # A `compile` function may ask for more hyperparameters, which no point contains.
        self._is_whole = not callable(hypermodel.compile)
        self.can_repair = not self._space.is_of_models
        self.kinds = hypermodel.dimensions()
        self.distributions = distributions_of(hypermodel)

    def default(self) -> Point:
        """The default point of space and recipe, repaired if it does not fit."""
        return self._joined(self._space.default_point(), self._recipe.default())

    def random(self, random: Random) -> Point:
        """A random point that fits."""
        return self._joined(self._space.sample_point(random), self._recipe.draw(random))

    def recipe(self, random: Random) -> Positions:
        """The positions of the active choices of a random recipe."""
        drawn = self._recipe.draw(random)
        return {dimension.name: drawn[dimension.name] for dimension in drawn.active}

    def fits(self, point: Point) -> bool:
        """Whether the network of a point fits."""
        return self._space.violation(self._of_space(point)) is None

    def macs(self, point: Point) -> int:
        """The multiply-adds of the network of a point that fits."""
        return self._of_space(point).network.cost(self._space.input_shape).macs

    def repaired(self, point: Point) -> Point:
        """The nearest point that fits."""
        return point.moved(self._space.nearest(self._of_space(point)).positions)

    def all(self) -> Iterator[Point]:
        """All points that fit; a real-valued choice takes ten values of its range."""
        for own in _all(self._space.tree):
            if self.fits(own):
                for recipe in _all(self._recipe):
                    yield self._joined(own, recipe)

    def asked(self, value: Callable[[str], Any]) -> Point:
        """The point whose active choices have the values that a function returns by name."""
        return self._both.ask(value)

    def point(self, params: Mapping[str, Any]) -> Point:
        """The point that the storage has recorded.

        Raises:
            ValueError: if the value of an active choice is missing or unknown.
        """
        return self._both.read({n: v for n, v in params.items() if n in self._both.dimensions})

    def is_whole(self, params: Mapping[str, Any]) -> bool:
        """Whether the storage has recorded all active values of a point."""
        try:
            self.point(params)
        except ValueError:
            return False
        return True

    def key(self, point: Point) -> Hashable:
        """Equal for points with equal networks and recipes; unique if `compile` is a function."""
        if not self._is_whole:
            return object()
        recipe = sorted(
            Point(self._recipe, point.positions).values.items(), key=lambda item: item[0]
        )
        return self._space.key_of(self._of_space(point)), str(tuple(recipe))

    def _joined(self, own: Point, recipe: Point) -> Point:
        return Point(self._both, {**own.positions, **recipe.positions})

    def _of_space(self, point: Point) -> Point:
        return Point(self._space.tree, point.positions)


def _all(tree: Tree) -> Iterator[Point]:
    """Every point of a tree; inactive choices stay at their default."""

    def completed(point: Point, names: list[str]) -> Iterator[Point]:
        if not names:
            yield point
            return
        dimension, rest = tree.dimensions[names[0]], names[1:]
        if not dimension.is_active(point.positions):
            yield from completed(point, rest)
            return
        for position in _positions(dimension.kind):
            yield from completed(point.moved({dimension.name: position}), rest)

    return completed(tree.default(), list(tree.dimensions))


def _positions(kind: Searchable) -> Iterable[Any]:
    if isinstance(kind, Real):
        return [kind.low, *(kind.at(i / 9) for i in range(1, 9)), kind.high]
    return range(kind.size)
