"""The points of a space as Optuna knows them."""

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
    """The distribution of every choice of a hypermodel of ours, active or not."""
    asking = Asking(lambda name, distribution, default: default)
    for name, kind in hypermodel.dimensions().items():
        declare(asking, name, kind)
    return asking.asked


class Points:
    """The points of our hypermodel: the assignments of its space and its recipe as one."""

    def __init__(self, hypermodel: HyperModel) -> None:
        self._space = hypermodel.space
        self._recipe = Tree({}) if hypermodel.compile is not None else hypermodel.recipe.tree()
        # Where `compile` is a function it may ask for more, which no point knows.
        self._is_whole = not callable(hypermodel.compile)
        self.kinds = hypermodel.dimensions()
        self.distributions = distributions_of(hypermodel)
        self._keys: dict[Hashable, int] = {}  # each with the first trial that has it
        self._keyed: set[int] = set()  # trials whose keys are there
        self._ended = 0  # trials from the first on that have ended, which are not looked at again

    def knows(self, name: str) -> bool:
        """Whether a choice of that name is one of its dimensions."""
        return name in self.distributions

    def default(self) -> Assignment:
        """The space's default, repaired where it does not fit, with the recipe's."""
        own = self._space.tree.assignment(self._space.default())
        return {**own, **self._recipe.default()}

    def random(self, random: Random) -> Assignment:
        """A random point that fits."""
        own = self._space.tree.assignment(self._space.sample(random))
        return {**own, **self._recipe.draw(random)}

    def fits(self, point: Assignment) -> bool:
        """Whether its network fits."""
        return self._space.violation(self._of_space(point)) is None

    def repaired(self, point: Assignment) -> Assignment:
        """The nearest point that fits."""
        values = self._space.repair(self._space.tree.values(self._of_space(point)))
        return {**point, **self._space.tree.assignment(values)}

    def all(self) -> Iterator[Assignment]:
        """All points that fit, ranges without steps by ten values."""
        for own in _all(self._space.tree):
            if self.fits(own):
                for recipe in _all(self._recipe):
                    yield {**own, **recipe}

    def drawn(self, sampler: BaseSampler, study: Any, trial: FrozenTrial) -> Assignment:
        """A point as a sampler of Optuna draws it, fitting or not."""
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
        """Its active values as a storage keeps them."""
        found = {}
        for tree in (self._space.tree, self._recipe):
            for name in tree.values(point):
                found[name] = recorded(tree.dimensions[name].kind, point[name])
        return found

    def key(self, point: Assignment) -> Hashable:
        """Equal for points of equal networks and recipes; None where that is not known."""
        if not self._is_whole:
            return object()
        values = self._space.tree.values(self._of_space(point))
        recipe = tuple(sorted(self._recipe.values(point).items(), key=lambda item: item[0]))
        return self._space.key(values), str(recipe)

    def first(self, trials: list[FrozenTrial], params: Mapping[str, Any]) -> int | None:
        """The number of the first trial with a point's network and recipe, if that is known."""
        return self.tried(trials, -1).get(self.key(self._read(params)))

    def open_before(self, trials: list[FrozenTrial], number: int) -> Iterator[FrozenTrial]:
        """The trials before one whose processes may still be about to write their points."""
        for trial in trials[self._ended : number]:
            runs = trial.state is TrialState.RUNNING and SURPLUS not in trial.user_attrs
            if runs and not self.is_whole(trial.params):
                yield trial

    def tried(self, trials: list[FrozenTrial], but: int) -> dict[Hashable, int]:
        """The keys of what was tried, but by one trial; each is computed once."""
        for trial in trials[self._ended :]:
            if trial.number not in self._keyed and trial.number != but and trial.params:
                try:
                    key = self.key(self._read(trial.params))
                except (KeyError, ValueError):  # interrupted while its values were written
                    continue
                self._keys[key] = min(trial.number, self._keys.get(key, trial.number))
                self._keyed.add(trial.number)
        while self._ended < len(trials) and trials[self._ended].state.is_finished():
            self._keyed.discard(self._ended)
            self._ended += 1
        return self._keys

    def is_whole(self, params: Mapping[str, Any]) -> bool:
        """Whether a storage has all values of a point."""
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
    """Every assignment of the active dimensions; the others stay at their first."""
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
