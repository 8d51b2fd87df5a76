"""Optuna's samplers by name, and the one of a search, which begins with the default point."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
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

from kblocks.tuner.records import CONTINUES, COSTS, EXHAUSTED, SURPLUS

STARTUP = 10  # random trials before a sampler that learns is asked
_POPULATION = 16

SAMPLERS = ("tpe", "random", "grid", "nsga2")


class ExhaustedError(Exception):
    """No untried network was found in the space; the argument is the number of the trial."""


class RepeatedError(Exception):
    """The point of a trial was tried before; the argument is the number of the trial."""


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
                    n_startup_trials=STARTUP,
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


class Choosing(BaseSampler):
    """Wraps an Optuna sampler: the default point comes first."""

    def __init__(self, inner: BaseSampler, study: optuna.Study, seed: int | None = None) -> None:
        self.inner = inner
        self.repeats = 0  # so many trials in a row had points that were tried before
        self.is_finite = True  # whether all ranges asked for after a repeat have an end of values
        self._untried, self._any = sampler_of("grid", seed), sampler_of("random", seed)
        self._study = study  # the whole one; a pruner may show its sampler only a part of it
        self._defaults: dict[str, Any] = {}
        self.needs_lists = is_grid(inner)  # whether ranges must become lists of values

    @property
    def is_listed(self) -> bool:
        """Whether the user gave the inner sampler all of its points."""
        return isinstance(self.inner, optuna.samplers.GridSampler)

    def ask(
        self, trial: optuna.Trial, name: str, distribution: BaseDistribution, default: Any
    ) -> Any:
        """Suggests the value of a hyperparameter to `Asking`."""
        self._defaults[name] = default
        return suggested(trial, name, distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Raises ExhaustedError if every point of a grid has been tried."""
        is_finite = is_grid(self.inner) or self.is_listed
        is_new = not trial.params and CONTINUES not in trial.user_attrs
        if is_finite and is_new and self._study.user_attrs.get(EXHAUSTED):
            raise ExhaustedError(trial.number)
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """What the inner sampler draws jointly; nothing in the first trial."""
        is_free = trial.number > 0 and not self.repeats
        return self.inner.infer_relative_search_space(study, trial) if is_free else {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The default in the first trial, otherwise a draw; after a repeat one among the rest."""
        default = self._defaults.get(param_name)
        is_first = trial.number == 0 and not self.is_listed
        if is_first and _contains(param_distribution, default):
            return default
        if not self.repeats:
            return self.inner.sample_independent(study, trial, param_name, param_distribution)
        try:
            asked = self._study, trial, param_name, param_distribution
            return self._untried.sample_independent(*asked)
        except ValueError:  # a range has no end of values
            self.is_finite = False
        return self._any.sample_independent(study, trial, param_name, param_distribution)

    def refuse_repeated(self, number: int, params: Mapping[str, Any]) -> None:
        """Raises RepeatedError if another trial has these values, and no more.

        Of running trials those count that were begun earlier and have built their model: others
        may yet ask for more values.
        """
        for other in self._study.get_trials(deepcopy=False):
            is_built = other.number < number and COSTS in other.user_attrs
            is_tried = other.state.is_finished() or (other.state is TrialState.RUNNING and is_built)
            if is_tried and SURPLUS not in other.user_attrs and other.params == params:
                raise RepeatedError(number)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Tells the inner sampler how the trial ended."""
        try:
            self.inner.after_trial(study, trial, state, values)
        except RuntimeError as error:
            if "Study.stop" not in str(error):  # at its end, a grid stops Optuna's own loop
                raise
            self._study.set_user_attr(EXHAUSTED, True)

    def reseed_rng(self) -> None:
        self.inner.reseed_rng()

    def settle(self, trial: optuna.Trial, is_gone: Callable[[str], bool]) -> bool:
        """Writes the point chosen for a trial; False if an earlier trial has the same point.

        Args:
            trial: a trial that has begun.
            is_gone: called with an owner; whether that process has ended.
        """
        return True  # a third-party HyperModel chooses while it builds and fits


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return value in choices
        case IntDistribution(low=low, high=high) | FloatDistribution(low=low, high=high):
            return value is not None and low <= value <= high
    return False


def suggested(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """The value that a trial suggests for a hyperparameter."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(name, low, high, step=step, log=log)
