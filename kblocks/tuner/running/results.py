"""Scores what `HyperModel.fit` or `Tuner.run_trial` returns, as Keras Tuner does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import keras
import numpy as np
from keras_tuner.errors import FatalTypeError, FatalValueError

from kblocks.tuner.hypermodel import HyperModel
from kblocks.tuner.records import DEFAULT_OBJECTIVE
from kblocks.tuner.running.failures import FailedError
from kblocks.tuner.running.recorder import Progress
from kblocks.tuner.running.search import Search

Figures = dict[str, list[float]]  # by metric: a value for each epoch


def scores_of(
    returned: Any, search: Search, source: str, costs: Mapping[str, float]
) -> tuple[float, ...]:
    """The objectives of what `source` has returned: of its best epoch, or the mean of a list.

    The arguments are those of `figures_of`.

    Raises:
        FatalTypeError, FatalValueError: as `figures_of` does.
        FailedError: if an objective is NaN or infinite.
        ValueError: if a History lacks an objective.
    """
    figures = figures_of(returned, search, source, costs)
    best = Progress(figures).best(search.objectives)
    for index, objective in enumerate(search.objectives):
        own = figures.get(objective.name, []) if best is None else [best[1][index]]
        refuse_diverged(objective.name, own)
    if best is None:
        raise ValueError(
            f"the objectives {', '.join(o.name for o in search.objectives)} must be in the logs. "
            f"Received: {sorted(figures) or 'none'}"
        )
    return best[1]


def refuse_diverged(name: str, values: Iterable[float], when: str = "") -> None:
    """Raises FailedError if one of the values is NaN or infinite."""
    for value in values:
        if not math.isfinite(value):
            raise FailedError("diverged", f"{name} is {value}{when}")


def figures_of(returned: Any, search: Search, source: str, costs: Mapping[str, float]) -> Figures:
    """The metrics that `source` has returned.

    Args:
        returned: a number, which is the objective; a dict of metrics; a History; or a list of
            such, which counts as its mean.
        search: the search, with its objectives.
        source: "HyperModel.fit" or "Tuner.run_trial".
        costs: of the network, for objectives that a dict leaves out.

    Raises:
        FatalTypeError: if it is something else, which ends the search.
        FatalValueError: if a dict lacks an objective, which ends the search.
    """
    names = [objective.name for objective in search.objectives]
    # Our own HyperModels have the objective val_accuracy where none is given.
    is_clear = search.tuner.has_objective or not isinstance(search.tuner.hypermodel, HyperModel)
    match returned:
        case [_, *_]:
            each = [scores_of(one, search, source, costs) for one in returned]
            means = map(fmean, zip(*each, strict=True))
            return {name: [mean] for name, mean in zip(names, means, strict=True)}
        case int() | float() | np.number() if len(names) == 1 and is_clear:
            found: Mapping[str, Any] = {names[0]: returned}
        case Mapping():
            found = {**{name: costs[name] for name in names if name in costs}, **returned}
            if missing := [name for name in names if name not in found]:
                raise FatalValueError(
                    f"The dict that {source} returns must have {', '.join(missing)}, as "
                    f"`objective` says. Received: {sorted(found)}"
                )
        case keras.callbacks.History():
            found = returned.history
            if names == [DEFAULT_OBJECTIVE]:
                raise FatalTypeError(
                    f"`objective` must be given where {source} returns a History, such as "
                    f"objective='val_accuracy'. Received: none, and metrics {sorted(found)}"
                )
        case _:
            raise FatalTypeError(
                f"{source} must return a number (of one `objective`, which is given), a dict with "
                f"the objectives, a History, or a list of these. Received: {returned!r}"
            )
    return {name: [float(value) for value in np.ravel(own)] for name, own in found.items()}
