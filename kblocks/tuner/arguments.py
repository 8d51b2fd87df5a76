"""Checks the arguments of `Tuner` and converts them to the form that it works with."""

from __future__ import annotations

import math
import re
from pathlib import PureWindowsPath
from typing import Any

import keras_tuner
import optuna

from kblocks.search_space.budget import Budget
from kblocks.tuner.bridge import HyperModel
from kblocks.tuner.records import COST_NAMES, Objective

PRUNERS = ("hyperband", "median")
_ACCURACIES = ("accuracy", "val_accuracy")  # Keras Tuner makes the metric, which may take a GPU
_LONGEST = 200  # bytes of `project_name`; file systems allow 255 for a file name


def objectives_of(objective: Any) -> tuple[Objective, ...]:
    """Objectives from names or Keras Tuner objectives.

    Raises:
        ValueError: if there is none, a name occurs twice, or a direction is not known.
    """
    several = objective if isinstance(objective, (list, tuple)) else [objective]
    found = [_objective(one) for one in several]
    if not found or len({o.name for o in found}) < len(found):
        raise ValueError(f"`objective` must be one or several. Received: {objective!r}")
    return tuple(found)


def _objective(one: Any) -> Objective:
    if isinstance(one, Objective):
        return one
    if isinstance(one, str) and one in COST_NAMES:
        return Objective(one, "min")
    if isinstance(one, str) and one in _ACCURACIES:
        return Objective(one, "max")
    try:
        theirs = keras_tuner.Oracle(objective=one).objective
        return Objective(theirs.name, theirs.direction)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`objective` must be the name of a known metric or a keras_tuner.Objective(name, "
            f"'min' or 'max'). Received: objective={one!r}"
        ) from error


def pruner_of(pruner: Any) -> optuna.pruners.BasePruner:
    """The Optuna pruner of that name; a pruner is returned as it is, and None never prunes.

    Raises:
        ValueError: if it is none of these.
    """
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


def check_numbers(**numbers: float | None) -> None:
    """Raises ValueError unless each is positive and finite, or None; `trials` is an integer."""
    for name, value in numbers.items():
        kind, types = ("integer", int) if name == "trials" else ("number", (int, float))
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


def check_counts(**counts: int) -> None:
    """Raises ValueError unless each is an integer from 0."""
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"`{name}` must be an integer from 0. Received: {name}={value!r}")
