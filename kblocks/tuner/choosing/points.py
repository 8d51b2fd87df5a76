"""Converts the points of a space to Optuna's parameters and back."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from random import Random
from typing import Any

from optuna.distributions import (
    BaseDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from kblocks.search_space.choices import Real, Searchable
from kblocks.search_space.tree import Point, Tree
from kblocks.tuner.bridge import HyperModel, declare
from kblocks.tuner.choosing.asking import Asking
from kblocks.tuner.records import SURPLUS


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
        self.kinds = hypermodel.dimensions()
        self.distributions = distributions_of(hypermodel)
        self._keys: dict[Hashable, int] = {}  # by key: the first trial with it
        self._keyed: set[int] = set()  # trials from `_ended` on whose keys are in `_keys`
        self._ended = 0  # so many leading trials have ended and are not read again

    def knows(self, name: str) -> bool:
        """Whether the space or the recipe has a choice of that name."""
        return name in self.distributions

    def default(self) -> Point:
        """The default point of space and recipe, repaired if it does not fit."""
        return self._joined(self._space.default_point(), self._recipe.default())

    def random(self, random: Random) -> Point:
        """A random point that fits."""
        return self._joined(self._space.sample_point(random), self._recipe.draw(random))

    def fits(self, point: Point) -> bool:
        """Whether the network of a point fits."""
        return self._space.violation(self._of_space(point)) is None

    def repaired(self, point: Point) -> Point:
        """The nearest point that fits."""
        return point.moved(self._space.nearest(self._of_space(point)).positions)

    def all(self) -> Iterator[Point]:
        """All points that fit; a real-valued choice takes ten values of its range."""
        for own in _all(self._space.tree):
            if self.fits(own):
                for recipe in _all(self._recipe):
                    yield self._joined(own, recipe)

    def drawn(self, sampler: BaseSampler, study: Any, trial: FrozenTrial) -> Point:
        """A point drawn by an Optuna sampler; it may not fit."""
        together = sampler.infer_relative_search_space(study, trial)
        drawn = sampler.sample_relative(study, trial, together) if together else {}

        def value_of(name: str) -> Any:
            known = self.distributions[name]
            if name in drawn and together.get(name) == known:
                return drawn[name]
            return sampler.sample_independent(study, trial, name, known)

        return self._both.ask(value_of)

    def key(self, point: Point) -> Hashable:
        """Equal for points with equal networks and recipes; unique if `compile` is a function."""
        if not self._is_whole:
            return object()
        recipe = sorted(
            Point(self._recipe, point.positions).values.items(), key=lambda item: item[0]
        )
        return self._of_space(point).key(self._space.input_shape), str(tuple(recipe))

    def first(self, trials: list[FrozenTrial], params: Mapping[str, Any]) -> int | None:
        """The number of the first trial with the same network and recipe; None without one."""
        return self.tried(trials, -1).get(self.key(self._read(params)))

    def open_before(self, trials: list[FrozenTrial], number: int) -> Iterator[FrozenTrial]:
        """The running trials before trial `number` whose points are not fully written yet."""
        for trial in trials[self._ended : number]:
            runs = trial.state is TrialState.RUNNING and SURPLUS not in trial.user_attrs
            if runs and not self.is_whole(trial.params):
                yield trial

    def tried(self, trials: list[FrozenTrial], but: int) -> dict[Hashable, int]:
        """By key, the first trial with it, leaving out trial `but`; computes each key once."""
        for trial in trials[self._ended :]:
            if trial.number not in self._keyed and trial.number != but and trial.params:
                try:
                    key = self.key(self._read(trial.params))
                except ValueError:  # not all of its values are written
                    continue
                self._keys[key] = min(trial.number, self._keys.get(key, trial.number))
                self._keyed.add(trial.number)
        while self._ended < len(trials) and trials[self._ended].state.is_finished():
            self._keyed.discard(self._ended)
            self._ended += 1
        return self._keys

    def is_whole(self, params: Mapping[str, Any]) -> bool:
        """Whether `params` has all active values of a point."""
        try:
            self._read(params)
        except ValueError:
            return False
        return True

    def _read(self, params: Mapping[str, Any]) -> Point:
        return self._both.read({n: v for n, v in params.items() if n in self._both.dimensions})

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
