"""Chooses the point of each trial of a `kb.tuner.HyperModel`: one that fits and is new."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from kblocks.search_space.recording import record_given
from kblocks.search_space.tree import Point
from kblocks.tuner.choosing.duplicates import Duplicates
from kblocks.tuner.choosing.expected import Expected, least_tried, standing
from kblocks.tuner.choosing.points import Points
from kblocks.tuner.choosing.sampler import (
    STARTUP,
    Choosing,
    ExhaustedError,
    is_grid,
    sampler_of,
    suggested,
)
from kblocks.tuner.hypermodel import HyperModel
from kblocks.tuner.records import CONTINUES, COST_NAMES, Objective

_DRAWS = 4  # points drawn from the inner sampler; then the last one is repaired
_RANDOM = 200  # random points that are drawn in search of a new one
# The first points of a search by `_promising`:
_EXPECTING = 20  # how many there are; then the inner sampler proposes points
_PLAIN_EVERY = 4  # each fourth of them is a plain random one
_KNOWN = 4  # from so many scores on a linear model chooses
_RECIPES, _BEST = 100, 10  # random recipes to choose from, and how many of these are proposed
_COMPARED = 3  # random networks of which the largest is proposed first, without the model
_NETWORKS = 20  # the same with the model


class TornError(Exception):
    """A process ended while it wrote the values of a trial; the argument is its number."""


def chooser(
    sampler: str | BaseSampler,
    seed: int | None,
    worker: int,
    hypermodel: Any,
    study: optuna.Study,
    objectives: Sequence[Objective],
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
    if isinstance(hypermodel, HyperModel):
        of_quality = len(objectives) == 1 and objectives[0].name not in COST_NAMES
        is_known = not hypermodel.space.is_of_models  # a network's size, before it is built
        expects = sampler == "tpe" and of_quality and is_known
        return PointSampler(inner, study, Points(hypermodel), own, expects)
    return Choosing(inner, study, own)


class PointSampler(Choosing):
    """Chooses all values when a trial begins.

    If the inner sampler draws a point that does not fit, it draws again; the last draw is
    repaired, which Keras models are not. A point whose network and recipe were tried is skipped.
    The storage records the values that are built, so the inner sampler learns only from points
    that fit.

    Args:
        expects: whether most of the first points are the best of several random ones: at first a
            recipe of options not tried yet and the network with the most multiply-adds, which are
            known before it is built; then those of which a linear model expects most.
    """

    def __init__(
        self,
        inner: BaseSampler,
        study: optuna.Study,
        points: Points,
        seed: int | None,
        expects: bool = False,
    ) -> None:
        super().__init__(inner, study)
        self._expects = expects
        self.needs_lists = False  # a grid takes some values of each range by itself
        self._points, self._duplicates = points, Duplicates(points, study)
        self._random = Random(seed)
        self._grid = points.all()
        self._chosen: dict[int, dict[str, Any]] = {}  # by number of the trial: its point's params
        self._unsure: set[int] = set()  # trials begun before earlier ones had written their points
        self._lock = threading.Lock()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        super().before_trial(study, trial)
        with self._lock:
            self._chosen[trial.number] = self._choose(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, Any]:
        return {}  # nothing is left to draw

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The chosen point's value; a draw for what only a `compile` function asks for."""
        chosen = self._chosen.get(trial.number, {})
        if param_name in chosen:
            return chosen[param_name]
        if param_name in self._points.kinds:
            return self._defaults.get(param_name)  # inactive: Keras Tuner's scopes are wider
        return super().sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Forgets the trial's point and tells the inner sampler how the trial ended."""
        self._chosen.pop(trial.number, None)
        self._unsure.discard(trial.number)
        if not is_grid(self.inner):
            super().after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        super().reseed_rng()
        self._random = Random()

    def refuse_repeated(self, number: int, params: Mapping[str, Any]) -> None:
        """Does nothing: the point was chosen among those that were not tried."""

    def settle(self, trial: optuna.Trial, is_gone: Callable[[str], bool]) -> bool:
        if trial.params:  # a resumed trial has its point
            return True
        for name in self._chosen[trial.number]:
            record_given(trial, name, self._points.kinds[name])
            suggested(trial, name, self._points.distributions[name])  # by `sample_independent`
        if trial.number not in self._unsure:
            return True
        return self._duplicates.is_first(trial.number, is_gone)

    def _choose(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """The params of the first candidate that was not tried."""
        points = self._points
        if trial.params or CONTINUES in trial.user_attrs:  # begun before: it keeps its point
            if not points.is_whole(trial.params):
                raise TornError(trial.number)
            return dict(trial.params)
        trials = self._study.get_trials(deepcopy=False)
        tried = self._duplicates.keys(trials)
        if self._duplicates.unwritten(trials, trial.number):
            self._unsure.add(trial.number)
        for point in self._candidates(study, trial, trials):
            if points.key(point) not in tried:
                return point.recorded
        raise ExhaustedError(trial.number)

    def _candidates(
        self, study: optuna.Study, trial: FrozenTrial, trials: Sequence[FrozenTrial]
    ) -> Iterator[Point]:
        """Points to try in one of the trials, those first of which most is expected."""
        fresh = [one for one in trials if CONTINUES not in one.user_attrs]
        begun = len(fresh) - 1  # how many such trials began before this one
        if trial.number == 0 and not self.is_listed:
            yield self._points.default()
        if is_grid(self.inner):
            # Not `yield from`, which would close the grid along with this generator.
            while (point := next(self._grid, None)) is not None:
                yield point
            return
        is_random = isinstance(self.inner, optuna.samplers.RandomSampler)
        if not is_random and begun >= (_EXPECTING if self._expects else STARTUP):
            for draw in range(1, _DRAWS + 1):
                point = self._drawn(study, trial)
                if self._points.fits(point):
                    yield point
                if draw == _DRAWS and self._points.can_repair:
                    yield self._points.repaired(point)
        if self._expects and begun < _EXPECTING and begun % _PLAIN_EVERY:
            yield from self._promising(fresh)
        for _ in range(_RANDOM):
            yield self._points.random(self._random)

    def _promising(self, trials: Sequence[FrozenTrial]) -> Iterator[Point]:
        """Random points, those first of which most is expected by what is known of them.

        To the model a trial that runs is in the middle of all, so that several processes do not
        propose the same; one that diverged, or was ended by a pruner, is worse than all others.
        """
        points = self._points
        sign = 1 if self._study.direction is optuna.study.StudyDirection.MAXIMIZE else -1
        tried: list[Point] = []
        running: list[Point] = []
        known: list[Point] = []
        found: list[float] = []
        for trial in trials:
            if not points.is_whole(trial.params):
                continue
            tried.append(points.point(trial.params))
            if trial.state is TrialState.RUNNING:
                running.append(tried[-1])
            elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                is_score = trial.state is TrialState.COMPLETE and math.isfinite(trial.value or 0.0)
                known.append(tried[-1])
                found.append(sign * (trial.value or 0.0) if is_score else -math.inf)
        recipes = [points.recipe(self._random) for _ in range(_RECIPES)]
        if len(known) < _KNOWN:
            drawn = [points.random(self._random) for _ in range(_COMPARED)]
            recipe = least_tried(tried, recipes)
            yield from (one.moved(recipe) for one in sorted(drawn, key=points.macs, reverse=True))
            return
        scores = [*standing(found), *[0.0] * len(running)]
        expected = Expected(points, [*known, *running], scores)
        drawn = [points.random(self._random) for _ in range(_NETWORKS)]
        drawn.sort(key=expected, reverse=True)
        by_score = {expected.of_choices(drawn[0].moved(recipe)): recipe for recipe in recipes}
        for score in sorted(by_score, reverse=True)[:_BEST]:
            yield from (one.moved(by_score[score]) for one in drawn)

    def _drawn(self, study: optuna.Study, trial: FrozenTrial) -> Point:
        """A point drawn by the inner sampler; it may not fit."""
        jointly = self.inner.infer_relative_search_space(study, trial)
        drawn = self.inner.sample_relative(study, trial, jointly) if jointly else {}

        def value(name: str) -> Any:
            known = self._points.distributions[name]
            if name in drawn and jointly[name] == known:
                return drawn[name]
            return self.inner.sample_independent(study, trial, name, known)

        return self._points.asked(value)
