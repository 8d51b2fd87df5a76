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

from kblocks.search_space.choices import Real, Searchable, recorded
from kblocks.search_space.tree import Assignment, Tree
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
        self._recipe = Tree({}) if hypermodel.compile is not None else hypermodel.recipe.tree()
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

    def default(self) -> Assignment:
        """The default point of space and recipe, repaired if it does not fit."""
        own = self._space.tree.assignment(self._space.default())
        return {**own, **self._recipe.default()}

    def random(self, random: Random) -> Assignment:
        """A random point that fits."""
        own = self._space.tree.assignment(self._space.sample(random))
        return {**own, **self._recipe.draw(random)}

    def fits(self, point: Assignment) -> bool:
        """Whether the network of a point fits."""
        return self._space.violation(self._of_space(point)) is None

    def repaired(self, point: Assignment) -> Assignment:
        """The nearest point that fits."""
        values = self._space.repair(self._space.tree.values(self._of_space(point)))
        return {**point, **self._space.tree.assignment(values)}

    def all(self) -> Iterator[Assignment]:
        """All points that fit; a real-valued choice takes ten values of its range."""
        for own in _all(self._space.tree):
            if self.fits(own):
                for recipe in _all(self._recipe):
                    yield {**own, **recipe}

    def drawn(self, sampler: BaseSampler, study: Any, trial: FrozenTrial) -> Assignment:
        """A point drawn by an Optuna sampler; it may not fit."""
        together = sampler.infer_relative_search_space(study, trial)
        drawn = sampler.sample_relative(study, trial, together) if together else {}
        point: Assignment = {}
        for tree in (self._space.tree, self._recipe):
            found = tree.default()
            for name, dimension in tree.dimensions.items():
                if dimension.always or dimension.is_active(found):
                    known = self.distributions[name]
                    if name in drawn and together.get(name) == known:
                        value = drawn[name]
                    else:
                        value = sampler.sample_independent(study, trial, name, known)
                    found[name] = dimension.kind.index(value)
            point |= found
        return point

    def written(self, point: Assignment) -> dict[str, Any]:
        """The active values of a point, as the storage records them."""
        found = {}
        for tree in (self._space.tree, self._recipe):
            for name in tree.values(point):
                found[name] = recorded(tree.dimensions[name].kind, point[name])
        return found

    def key(self, point: Assignment) -> Hashable:
        """Equal for points with equal networks and recipes; unique if `compile` is a function."""
        if not self._is_whole:
            return object()
        values = self._space.tree.values(self._of_space(point))
        recipe = tuple(sorted(self._recipe.values(point).items(), key=lambda item: item[0]))
        return self._space.key(values), str(recipe)

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
                except (KeyError, ValueError):  # not all of its values are written
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
        except KeyError:
            return False
        return True

    def _read(self, params: Mapping[str, Any]) -> Assignment:
        point: Assignment = {}
        for tree in (self._space.tree, self._recipe):
            own = tree.default()
            for name, dimension in tree.dimensions.items():
                if name in params:
                    own[name] = dimension.kind.index(params[name])
                elif dimension.is_active(own):
                    raise KeyError(name)
            point |= own
        return point

    def _of_space(self, point: Assignment) -> Assignment:
        return {name: point[name] for name in self._space.tree.dimensions}


def _all(tree: Tree, found: Assignment | None = None, left: Any = None) -> Iterator[Assignment]:
    """Every point of a tree; inactive choices stay at their default."""
    found = tree.default() if found is None else found
    names = list(tree.dimensions) if left is None else left
    if not names:
        yield dict(found)
        return
    dimension, rest = tree.dimensions[names[0]], names[1:]
    if not (dimension.always or dimension.is_active(found)):
        yield from _all(tree, found, rest)
        return
    for index in _positions(dimension.kind):
        yield from _all(tree, {**found, names[0]: index}, rest)


def _positions(kind: Searchable) -> Iterable[Any]:
    if isinstance(kind, Real):
        return [kind.low, *(kind.at(i / 9) for i in range(1, 9)), kind.high]
    return range(kind.size)
