"""Which values a trial gets: Optuna's samplers, held to what fits and to what is new."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from random import Random
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from kblocks.choices import Real, Searchable, recorded
from kblocks.tree import Assignment, Tree, record_given
from kblocks.tuner.bridge import HyperModel, declare
from kblocks.tuner.choosing.asking import Asking
from kblocks.tuner.records import EXHAUSTED, OWNER, SURPLUS

_STARTUP = 10  # trials at random before a sampler that learns is asked
_TRIES = 4  # of a sampler's points; what does not fit then is repaired
_FRESH = 200  # random points that fit and may be new
_POPULATION = 16
_SETTLED = 10.0  # seconds in which a process that has begun a trial writes its values

SAMPLERS = ("tpe", "random", "grid", "nsga2")


class ExhaustedError(Exception):
    """Every network of the space has been tried: there is none for the trial of that number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"every network of the space has been tried, for trial {number}")
        self.number = number


class TornError(Exception):
    """A process has ended while it wrote the values of the trial of that number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"the values of trial {number} were not all written")
        self.number = number


def sampler_of(sampler: str | BaseSampler, seed: int | None) -> BaseSampler:
    """One of Optuna's samplers by its name, or itself.

    Raises:
        ValueError: if the name is unknown.
    """
    if isinstance(sampler, BaseSampler):
        return sampler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match sampler:
            case "tpe":
                return optuna.samplers.TPESampler(
                    n_startup_trials=_STARTUP,
                    multivariate=True,
                    group=True,
                    constant_liar=True,
                    seed=seed,
                )
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case "grid":
                return optuna.samplers.BruteForceSampler(seed=seed)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(population_size=_POPULATION, seed=seed)
    raise ValueError(
        f"`sampler` must be one of {', '.join(SAMPLERS)}, or a sampler of Optuna. "
        f"Received: sampler={sampler!r}"
    )


def is_grid(sampler: BaseSampler) -> bool:
    """Whether a sampler goes through all points, of which it asks for a list."""
    return isinstance(sampler, optuna.samplers.BruteForceSampler)


def chooser(
    sampler: str | BaseSampler, seed: int | None, worker: int, hypermodel: Any, study: optuna.Study
) -> Choosing:
    """The sampler of one of a search's processes, of which each draws its own points.

    One that goes on after some trials does not draw the same points again.
    """
    begun = len(study.get_trials(deepcopy=False))
    own = None if seed is None else (seed + 100_003 * worker + 101 * begun) % 2**32
    inner = sampler_of(sampler, own)
    if inner is sampler and worker + begun:
        inner.reseed_rng()
    return Choosing(inner, hypermodel, study, own)


class Choosing(BaseSampler):
    """A sampler whose first trial is the default and whose points fit a space of ours.

    All values of our HyperModel are chosen when the trial begins: a point that the inner
    sampler draws and that does not fit is drawn again, and repaired in the end. A point whose
    network and recipe were tried is not chosen again. What the storage keeps as the trial's
    values is what is built, so the sampler learns from points that fit alone.

    Args:
        inner: of Optuna.
        hypermodel: any; of one that is not ours only the default comes first.
        study: all of it, of which a pruner may show its sampler a part.
        seed: of random points.
    """

    def __init__(
        self, inner: BaseSampler, hypermodel: Any, study: optuna.Study, seed: int | None = None
    ) -> None:
        self.inner = inner
        self._study = study
        self._random = Random(seed)
        ours = isinstance(hypermodel, HyperModel)
        self._points = _Points(hypermodel) if ours else None
        self._grid: Iterator[Assignment] | None = None
        self._chosen: dict[int, dict[str, Any]] = {}  # by the trial's number
        self._unsure: set[int] = set()  # trials begun while others had not yet written theirs
        self._defaults: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def is_grid(self) -> bool:
        """Whether it goes through all points."""
        return is_grid(self.inner)

    @property
    def is_listed(self) -> bool:
        """Whether all its points were given to it."""
        return isinstance(self.inner, optuna.samplers.GridSampler)

    @property
    def needs_lists(self) -> bool:
        """Whether ranges have to be lists of values: for Optuna's grid, not for our own points."""
        return self.is_grid and self._points is None

    def ask(self, trial: optuna.Trial, name: str, distribution: Any, default: Any) -> Any:
        """The value of a hyperparameter, as `Asking` wants it."""
        self._defaults[name] = default
        return _suggested(trial, name, distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Chooses the trial's point."""
        if (self.is_grid or self.is_listed) and self._study.user_attrs.get(EXHAUSTED):
            raise ExhaustedError(trial.number)
        self.inner.before_trial(study, trial)
        if self._points is not None:
            with self._lock:
                self._chosen[trial.number] = self._choose(self._points, study, trial)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        """What the inner sampler draws together; nothing, where points were chosen before."""
        if self._points is not None or trial.number == 0:
            return {}
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        """As the inner sampler."""
        if not search_space:
            return {}
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """The value of the chosen point, the default in the first trial, or what is drawn."""
        chosen = self._chosen.get(trial.number, {})
        if param_name in chosen:
            return chosen[param_name]
        default = self._defaults.get(param_name)
        if self._points is not None and self._points.knows(param_name):
            return default  # inactive: Keras Tuner's scopes are wider than ours
        is_first = trial.number == 0 and not self.is_listed
        if is_first and _contains(param_distribution, default):
            return default
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Any, trial: FrozenTrial, state: Any, values: Any) -> None:
        """As the inner sampler."""
        self._chosen.pop(trial.number, None)
        self._unsure.discard(trial.number)
        if self.is_grid and self._points is not None:
            return
        try:
            self.inner.after_trial(study, trial, state, values)
        except RuntimeError as error:
            if "Study.stop" not in str(error):  # which ends a loop of Optuna's own
                raise
            self._study.set_user_attr(EXHAUSTED, True)

    def reseed_rng(self) -> None:
        """As the inner sampler."""
        self.inner.reseed_rng()
        self._random = Random()

    def settle(self, trial: optuna.Trial, is_gone: Callable[[str], bool]) -> bool:
        """Writes the point chosen for a trial; False if a trial before it has the same.

        Another process may choose it before this one has written it. Of two trials the first
        keeps it, so the second waits until all before it are written.

        Args:
            trial: that has begun.
            is_gone: whether the process of that name has ended.
        """
        points = self._points
        if points is None or trial.params:  # the latter is gone on with
            return True
        for name in self._chosen[trial.number]:
            record_given(trial, name, points.kinds[name])
            _suggested(trial, name, points.distributions[name])  # of `sample_independent`
        if trial.number not in self._unsure:
            return True
        until = time.monotonic() + _SETTLED
        while True:
            trials = self._study.get_trials(deepcopy=False)
            first = points.first(trials, trials[trial.number].params)
            open_ones = points.open_before(trials, trial.number)
            lives = any(not is_gone(t.user_attrs.get(OWNER, "")) for t in open_ones)
            if not lives or time.monotonic() > until:
                return first is None or first == trial.number
            time.sleep(0.02)

    def _choose(self, points: _Points, study: Any, trial: FrozenTrial) -> dict[str, Any]:
        if trial.params:  # interrupted in an earlier process: it goes on with what it had
            if not points.is_whole(trial.params):
                raise TornError(trial.number)
            return dict(trial.params)
        known = self._study.get_trials(deepcopy=False)
        tried = points.tried(known, trial.number)
        if any(points.open_before(known, trial.number)):
            self._unsure.add(trial.number)
        for point in self._candidates(points, study, trial, len(known) - 1):
            if points.key(point) not in tried:
                return points.written(point)
        raise ExhaustedError(trial.number)

    def _candidates(
        self, points: _Points, study: Any, trial: FrozenTrial, count: int
    ) -> Iterator[Assignment]:
        if trial.number == 0 and not self.is_listed:
            yield points.default()
        if self.is_grid:
            self._grid = self._grid or points.all()
            # Not `yield from`, which would end the grid with this generator.
            while (point := next(self._grid, None)) is not None:
                yield point
            return
        plain = isinstance(self.inner, optuna.samplers.RandomSampler) or count < _STARTUP
        if not plain:
            drawn = None
            for _ in range(_TRIES):
                drawn = points.drawn(self.inner, study, trial)
                if points.fits(drawn):
                    yield drawn
            assert drawn is not None
            yield points.repaired(drawn)
        for _ in range(_FRESH):
            yield points.random(self._random)


def distributions_of(hypermodel: HyperModel) -> dict[str, BaseDistribution]:
    """The distribution of every choice of a hypermodel of ours, active or not."""
    asking = Asking(lambda name, distribution, default: default)
    for name, kind in hypermodel.dimensions().items():
        declare(asking, name, kind)
    return asking.asked


class _Points:
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


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return value in choices
        case IntDistribution(low=low, high=high) | FloatDistribution(low=low, high=high):
            return value is not None and low <= value <= high
    return False


def _suggested(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(name, low, high, step=step, log=log)
