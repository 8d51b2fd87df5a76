"""Checks the arguments of `Tuner` and converts them to the form that it works with."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any, TypedDict

import keras_tuner
import optuna

from kblocks.search_space.budget import Budget
from kblocks.training.precision import PRECISIONS, is_precision
from kblocks.tuner.choosing.rungs import Asha
from kblocks.tuner.hypermodel import HyperModel
from kblocks.tuner.records import COST_NAMES, DEFAULT_OBJECTIVE, Objective
from kblocks.tuner.storing.checkpoints import Checkpoints

PRUNERS = ("hyperband", "median")
# For other names Keras Tuner makes the metric, which may take a GPU.
_DIRECTIONS = {**dict.fromkeys(COST_NAMES, "min"), "accuracy": "max", "val_accuracy": "max"}
# Public methods of Keras Tuner's tuners that a search never calls.
_NEVER_CALLED = ("save", "reload", "save_model", "get_state", "set_state")


class KerasTunerArguments(TypedDict, total=False):
    """Arguments that `Tuner` takes as Keras Tuner's tuners do."""

    max_trials: int | None
    max_model_size: int | None
    max_retries_per_trial: int
    max_consecutive_failed_trials: int | None
    hyperparameters: keras_tuner.HyperParameters | None
    tune_new_entries: bool
    allow_new_entries: bool
    optimizer: Any
    loss: Any
    metrics: Any
    distribution_strategy: Any


_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(KerasTunerArguments.__annotations__),
    **{"max_retries_per_trial": 0, "tune_new_entries": True, "allow_new_entries": True},
}


def completed(
    given: Mapping[str, Any], hypermodel: Any, trials: int | None, budget: Budget | None
) -> dict[str, Any]:
    """All of `KerasTunerArguments` with their defaults, and our own `trials` and `budget`."""
    if unknown := sorted(set(given) - set(_DEFAULTS)):
        raise TypeError(f"Tuner() got an unexpected keyword argument {unknown[0]!r}")
    found: dict[str, Any] = {**_DEFAULTS, **given}
    names = ("max_trials", "max_model_size", "max_consecutive_failed_trials")
    check_numbers(trials=trials, **{name: found[name] for name in names})
    check_counts(max_retries_per_trial=found["max_retries_per_trial"])
    size = found["max_model_size"]
    ours = hypermodel.space.budget if isinstance(hypermodel, HyperModel) else Budget()
    limit = None if size is None else replace(ours, params=size)
    found["trials"] = _one_of(trials=trials, max_trials=found.pop("max_trials"))
    found["budget"] = _one_of(budget=budget, max_model_size=limit)
    opens = found["tune_new_entries"] and found["allow_new_entries"]
    if not opens and found["hyperparameters"] is None:
        raise ValueError(
            "`hyperparameters` must be given with tune_new_entries=False or "
            "allow_new_entries=False. Received: hyperparameters=None"
        )
    for name in ("hyperparameters", "optimizer", "loss", "metrics"):
        if found[name] is not None and isinstance(hypermodel, HyperModel):
            raise ValueError(
                f"`{name}` is for other HyperModels: a kb.tuner.HyperModel has its space and its "
                f"recipe, such as kb.Recipe(loss=...). Received: {name}={found[name]!r}"
            )
    return found


def _one_of(**named: Any) -> Any:
    """The value that is given of an argument with two names."""
    given = {name: value for name, value in named.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"Give `{'` or `'.join(named)}`, which are the same. Received: {given}")
    return next(iter(given.values()), None)


def check_methods(kind: type, ours: type) -> None:
    """Raises ValueError if a subclass of `ours` replaces a method that a search never calls."""
    for name in dir(keras_tuner.Tuner):
        replaced = inspect.getattr_static(kind, name) is not inspect.getattr_static(ours, name)
        is_private = name.startswith("_") and not name.startswith("__")
        if replaced and (is_private or name in _NEVER_CALLED):
            raise ValueError(
                f"A subclass of kb.tuner.Tuner cannot replace `{name}`, which no search calls: the "
                f"storage keeps everything, and `run_trial` trains. Received: {kind.__qualname__}"
            )


_LONGEST = 200  # bytes of `project_name`; file systems allow 255 for a file name


def objectives_of(
    objective: Any, hypermodel: keras_tuner.HyperModel, own_run_trial: bool
) -> tuple[Objective, ...]:
    """Objectives from names or Keras Tuner objectives.

    None means "val_accuracy". For a HyperModel that is not ours, with a `fit` (or a tuner with a
    `run_trial`) of its own, it means what Keras Tuner does: the number returned, to be minimized.
    """
    if objective is None:
        is_own = own_run_trial or type(hypermodel).fit is not keras_tuner.HyperModel.fit
        if is_own and not isinstance(hypermodel, HyperModel):
            return (Objective(DEFAULT_OBJECTIVE, "min"),)
        objective = "val_accuracy"
    several = objective if isinstance(objective, (list, tuple)) else [objective]
    found = [_objective(one) for one in several]
    if not found or len({o.name for o in found}) < len(found):
        raise ValueError(f"`objective` must be one or several. Received: {objective!r}")
    return tuple(found)


def _objective(one: Any) -> Objective:
    if isinstance(one, Objective):
        return one
    if isinstance(one, str) and one in _DIRECTIONS:
        return Objective(one, _DIRECTIONS[one])
    try:
        theirs = keras_tuner.Oracle(objective=one).objective
        return Objective(theirs.name, theirs.direction)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`objective` must be the name of a known metric or a keras_tuner.Objective(name, "
            f"'min' or 'max'). Received: objective={one!r}"
        ) from error


def pruner_of(pruner: Any, several: bool = False) -> optuna.pruners.BasePruner:
    """The Optuna pruner of that name; a pruner is returned as it is, and None never prunes."""
    if pruner is not None and several:
        raise ValueError("`pruner` is for one objective. Received: several")
    match pruner:
        case None:
            return optuna.pruners.NopPruner()
        case optuna.pruners.BasePruner():
            return pruner
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=1, reduction_factor=3)
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    raise ValueError(
        f"`pruner` must be one of {', '.join(PRUNERS)}, a pruner of Optuna, or None. "
        f"Received: pruner={pruner!r}"
    )


def scheduler_of(scheduler: Any, tuner: Any) -> Asha | None:
    """The scheduler of that name; ValueError if this `Tuner` has what does not go with one."""
    found = Asha() if scheduler == "asha" else scheduler
    if not isinstance(found, Asha | None):
        raise ValueError(
            f"`scheduler` must be 'asha', a kb.tuner.Asha, or None. Received: {scheduler!r}"
        )
    excluded = {
        "several objectives": len(tuner.objectives) > 1,
        "several trainings of each trial": tuner.trainings > 1,
        "`pruner`": tuner.pruner is not None,
        "a `run_trial` of your own": tuner.replaces("run_trial"),
    }
    against = [name for name, is_there in excluded.items() if is_there]
    if found is not None and against:
        raise ValueError(f"`scheduler` does not go with {', '.join(against)}. Received: both")
    return found


class _Function(keras_tuner.HyperModel):
    """A HyperModel that builds by a function of `hp`."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def build(self, hp: Any) -> Any:
        return self.function(hp)


def hypermodel_of(hypermodel: Any, budget: Budget | None) -> Any:
    if isinstance(hypermodel, HyperModel):
        return hypermodel if budget is None else hypermodel.within(budget)
    if budget is not None and set(budget.limits()) - {"params", "min_params"}:
        raise ValueError(
            "`budget` can hold models of a HyperModel that is not kblocks.tuner's to `params` and "
            f"`min_params` alone. Received: {budget}"
        )
    if isinstance(hypermodel, keras_tuner.HyperModel):
        return hypermodel
    if callable(hypermodel):
        return _Function(hypermodel)
    raise ValueError(
        "`hypermodel` must be a keras_tuner.HyperModel or a function of hp. "
        f"Received: hypermodel={hypermodel!r}"
    )


def precision_of(given: Any, hypermodel: Any, own_run_trial: bool) -> tuple[str | None, Any]:
    """The precision of a search, and the HyperModel without one in its recipe.

    A precision that is a choice stays in the recipe: it is searched.
    """
    if not is_precision(given):
        raise ValueError(f"`precision` must be {PRECISIONS}. Received: precision={given!r}")
    own = hypermodel.recipe.precision if isinstance(hypermodel, HyperModel) else None
    if given is not None and (own is not None or own_run_trial):
        where = "its recipe has one" if own is not None else "it has its own `run_trial`"
        raise ValueError(
            f"`precision` cannot be given to a tuner if {where}. Received: precision={given!r}"
        )
    if not isinstance(own, str) or own_run_trial:
        return given, hypermodel
    return own, hypermodel.changed(recipe=replace(hypermodel.recipe, precision=None))


def place_of_checkpoints(given: Any, folder: Path, name: str, workers: int) -> str:
    """Where a search keeps its checkpoints: a folder or a URL. Raises as `Checkpoints` does."""
    place = str(folder / "checkpoints") if given is None else f"{str(given).rstrip('/')}/{name}"
    if not Checkpoints(place).is_shared and workers:
        raise ValueError(
            "`checkpoint_directory` must be one that worker processes share, or workers=0. "
            f"Received: {given}"
        )
    return place


def check_numbers(**numbers: float | None) -> None:
    """Raises ValueError unless each is positive and finite, or None; only times have fractions."""
    for name, value in numbers.items():
        is_time = name in ("hours", "trial_seconds")
        kind, types = ("number", (int, float)) if is_time else ("integer", int)
        is_number = isinstance(value, types) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 < value < math.inf):
            raise ValueError(f"`{name}` must be a positive {kind} or None. Received: {value!r}")


def check_name(name: Any) -> None:
    """Raises ValueError unless `name` can name a folder below another on every system."""
    parts = re.split(r"[/\\]", name) if isinstance(name, str) else [""]
    is_name = all(part.strip() not in ("", ".", "..") and part.isprintable() for part in parts)
    if not is_name or PureWindowsPath(name).drive:
        raise ValueError(
            "`project_name` must be the name of a folder below `directory`. "
            f"Received: project_name={name!r}"
        )
    if len(name.encode()) > _LONGEST:
        raise ValueError(
            f"`project_name` must have at most {_LONGEST} bytes. Received: {len(name.encode())}, "
            f"project_name={name[:40] + '...'!r}"
        )


def check_counts(least: int = 0, **counts: int) -> None:
    """Raises ValueError unless each is an integer from `least`."""
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(
                f"`{name}` must be an integer from {least}. Received: {name}={value!r}"
            )
