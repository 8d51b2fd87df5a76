"""Chooses the point of each trial: Optuna samplers, limited to points that fit and are new."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
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
from optuna.trial import FrozenTrial

from kblocks.search_space.recording import record_given
from kblocks.search_space.tree import Point
from kblocks.tuner.bridge import HyperModel
from kblocks.tuner.choosing.points import Points
from kblocks.tuner.records import EXHAUSTED, OWNER

_STARTUP = 10  # random trials before a sampler that learns is asked
_TRIES = 4  # points drawn from the sampler, then the last one is repaired
_FRESH = 200  # random points that are drawn in search of a new one
_POPULATION = 16
_SETTLED = 10.0  # seconds to wait until other processes have written their points

SAMPLERS = ("tpe", "random", "grid", "nsga2")


class ExhaustedError(Exception):
    """No untried network was found in the space for trial `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(f"every network of the space has been tried, for trial {number}")
        self.number = number


class TornError(Exception):
    """A process ended while it wrote the values of trial `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(f"the values of trial {number} were not all written")
        self.number = number


def sampler_of(sampler: str | BaseSampler, seed: int | None) -> BaseSampler:
    """The Optuna sampler of that name; a sampler is returned as it is.

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
    """Whether a sampler enumerates all points."""
    return isinstance(sampler, optuna.samplers.BruteForceSampler)


def chooser(
    sampler: str | BaseSampler, seed: int | None, worker: int, hypermodel: Any, study: optuna.Study
) -> Choosing:
    """The sampler of one process of a search.

    Its seed depends on the process and on the number of trials so far: processes draw different
    points, and a resumed search does not repeat its draws.
    """
    begun = len(study.get_trials(deepcopy=False))
    own = None if seed is None else (seed + 100_003 * worker + 101 * begun) % 2**32
    inner = sampler_of(sampler, own)
    if inner is sampler and worker + begun:
        inner.reseed_rng()
    return Choosing(inner, hypermodel, study, own)


class Choosing(BaseSampler):
    """Wraps an Optuna sampler: the default point comes first, and all points fit the space.

    For a `kb.tuner.HyperModel`, all values are chosen when a trial begins. If the inner sampler
    draws a point that does not fit, it draws again; the last draw is repaired. A point whose
    network and recipe were tried is skipped. The storage records the values that are built, so
    the inner sampler learns only from points that fit.

    Args:
        inner: the Optuna sampler.
        hypermodel: any; if it is not ours, only the default point of the first trial is chosen.
        study: the whole study; a pruner may show its sampler only a part of it.
        seed: of the random points; None is random.
    """

    def __init__(
        self, inner: BaseSampler, hypermodel: Any, study: optuna.Study, seed: int | None = None
    ) -> None:
        self.inner = inner
        self._study = study
        self._random = Random(seed)
        ours = isinstance(hypermodel, HyperModel)
        self._points = Points(hypermodel) if ours else None
        self._grid: Iterator[Point] | None = None
        self._chosen: dict[int, dict[str, Any]] = {}  # values by trial number
        self._unsure: set[int] = set()  # trials begun before earlier ones had written their points
        self._defaults: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def is_grid(self) -> bool:
        """Whether the inner sampler enumerates all points."""
        return is_grid(self.inner)

    @property
    def is_listed(self) -> bool:
        """Whether the user gave the inner sampler all of its points."""
        return isinstance(self.inner, optuna.samplers.GridSampler)

    @property
    def needs_lists(self) -> bool:
        """Whether ranges must become lists of values: in a grid over a third-party HyperModel."""
        return self.is_grid and self._points is None

    def ask(self, trial: optuna.Trial, name: str, distribution: Any, default: Any) -> Any:
        """Suggests the value of a hyperparameter to `Asking`."""
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
        """What the inner sampler draws jointly; nothing where the point is chosen already."""
        if self._points is not None or trial.number == 0:
            return {}
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        """Asks the inner sampler."""
        if not search_space:
            return {}
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """The chosen point's value, the default in the first trial, or a draw."""
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
        """Forgets the trial's point and tells the inner sampler how the trial ended."""
        self._chosen.pop(trial.number, None)
        self._unsure.discard(trial.number)
        if self.is_grid and self._points is not None:
            return
        try:
            self.inner.after_trial(study, trial, state, values)
        except RuntimeError as error:
            if "Study.stop" not in str(error):  # at its end, a grid stops Optuna's own loop
                raise
            self._study.set_user_attr(EXHAUSTED, True)

    def reseed_rng(self) -> None:
        """Reseeds the inner sampler and the random points."""
        self.inner.reseed_rng()
        self._random = Random()

    def settle(self, trial: optuna.Trial, is_gone: Callable[[str], bool]) -> bool:
        """Writes the point chosen for a trial; False if an earlier trial has the same point.

        Another process may choose the same point before this one has written it. The earlier
        trial keeps it, so the later one waits, for ten seconds at most, until the processes of
        all earlier trials have written their points or ended.

        Args:
            trial: a trial that has begun.
            is_gone: called with an owner; whether that process has ended.
        """
        points = self._points
        if points is None or trial.params:  # a resumed trial keeps its params
            return True
        for name in self._chosen[trial.number]:
            record_given(trial, name, points.kinds[name])
            _suggested(trial, name, points.distributions[name])  # calls `sample_independent`
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

    def _choose(self, points: Points, study: Any, trial: FrozenTrial) -> dict[str, Any]:
        if trial.params:  # resumed after an interruption: it keeps its point
            if not points.is_whole(trial.params):
                raise TornError(trial.number)
            return dict(trial.params)
        known = self._study.get_trials(deepcopy=False)
        tried = points.tried(known, trial.number)
        if any(points.open_before(known, trial.number)):
            self._unsure.add(trial.number)
        for point in self._candidates(points, study, trial, len(known) - 1):
            if points.key(point) not in tried:
                return point.recorded
        raise ExhaustedError(trial.number)

    def _candidates(
        self, points: Points, study: Any, trial: FrozenTrial, count: int
    ) -> Iterator[Point]:
        if trial.number == 0 and not self.is_listed:
            yield points.default()
        if self.is_grid:
            self._grid = self._grid or points.all()
            # Not `yield from`, which would close the grid along with this generator.
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
