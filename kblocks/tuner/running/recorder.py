"""Records a trial's progress and its end in the storage."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from kblocks.search_space.names import NETWORK, START
from kblocks.tuner.records import (
    ATTEMPTS,
    CONTINUES,
    COST_NAMES,
    COSTS,
    DEVICE,
    EPOCHS,
    EXECUTIONS,
    FAILURE,
    HISTORY,
    OWNER,
    SHAPES,
    Failure,
    Objective,
    ended,
    identity_of,
)
from kblocks.tuner.running import devices
from kblocks.tuner.running.search import Search


class LostError(Exception):
    """Another process has claimed the trial, as this one was silent for too long."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: completed with scores and weights, pruned, or failed with a reason."""

    scores: tuple[float, ...] = ()
    weights: list[np.ndarray] = field(default_factory=list)
    failure: Failure | None = None


@dataclass
class Progress:
    """The logged figures of a trial's epochs so far."""

    history: dict[str, list[float]] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return max(map(len, self.history.values()), default=0)

    def add(self, figures: Mapping[str, float]) -> None:
        """Adds the figures of the next epoch; NaN stands for those of epochs without one."""
        epochs = self.epochs
        for name, value in figures.items():
            past = self.history.setdefault(name, [])
            past.extend([math.nan] * (epochs - len(past)))
            past.append(value)

    def best(self, objectives: Sequence[Objective]) -> tuple[int, tuple[float, ...]] | None:
        """The best epoch and its objectives; None if no epoch has them all.

        Epochs are compared by the first objective that is not a cost, as costs never change.
        """
        first = leading(objectives)
        found: tuple[int, tuple[float, ...]] | None = None
        columns = [self.history.get(objective.name, ()) for objective in objectives]
        for epoch, values in enumerate(zip(*columns, strict=False)):
            if any(map(math.isnan, values)):
                continue  # not in that epoch's logs, as with `validation_freq`
            if found is None or objectives[first].better(values[first], found[1][first]):
                found = epoch, tuple(map(float, values))
        return found


def leading(objectives: Sequence[Objective]) -> int:
    """The index of the first objective that is not a cost; 0 if all are costs."""
    return next((i for i, one in enumerate(objectives) if one.name not in COST_NAMES), 0)


class Recorder:
    """Records a running trial in the storage as long as the trial is this process's."""

    def __init__(self, search: Search, trial: optuna.Trial) -> None:
        self._search, self._trial = search, trial
        self.number, attributes = trial.number, trial.user_attrs
        self.continues: int | None = attributes.get(CONTINUES)  # the trial whose state it takes
        # Else an earlier process has begun it, or the trial that it continues.
        self.is_new = not trial.params and self.continues is None
        self.latest: dict[str, list[float]] = {}  # what this process has recorded of epochs
        # What earlier processes have recorded: each epoch, and with what shapes `fit` has built.
        self.history: Mapping[str, Sequence[float]] = attributes.get(HISTORY, {})
        self.shapes: Mapping[str, Any] | None = attributes.get(SHAPES)
        # Of a trial of several trainings: what was recorded of those that are done.
        self.executions: list[Mapping[str, Any]] = list(attributes.get(EXECUTIONS, ()))
        self.costs: dict[str, float] = {}
        self._reported = set(search.storage.get_trial(identity_of(trial)).intermediate_values)
        trial.set_user_attr(ATTEMPTS, attributes.get(ATTEMPTS, 0) + 1)
        self.device = devices.own()
        if self.device != attributes.get(DEVICE, ""):
            trial.set_user_attr(DEVICE, self.device)

    def current(self) -> FrozenTrial | None:
        """The trial as the storage has it; None if it has ended or belongs to another process."""
        known = self._search.storage.get_trial(identity_of(self._trial))
        is_mine = known.user_attrs.get(OWNER) == self._search.storage.owner
        return known if known.state is TrialState.RUNNING and is_mine else None

    def _write(self, attributes: Mapping[str, Any]) -> None:
        """Writes attributes; raises LostError if the trial is no longer this process's."""
        if not self._search.storage.write(identity_of(self._trial), attributes):
            self.current()  # raises KeyError if the storage has no such trial any more
            raise LostError

    def built(
        self, network: str | None, costs: Mapping[str, float], start: Mapping[str, Any]
    ) -> None:
        """Records the network of the model, its costs, and the weights from which it starts."""
        self.costs = dict(costs)
        found = {NETWORK: network, START: dict(start) or None, COSTS: self.costs}
        self._write({key: value for key, value in found.items() if value is not None})

    def built_by_fit(self, shapes: Mapping[str, Any]) -> None:
        """Records the input shapes with which `fit` has built the model."""
        self._trial.set_user_attr(SHAPES, dict(shapes))

    def epoch(self, progress: Progress, epochs: int) -> bool:
        """Records the progress of so many epochs; returns whether the pruner ends the trial."""
        objectives = self._search.objectives
        left_out = set(COST_NAMES) - {objective.name for objective in objectives}
        self.latest = {k: v for k, v in progress.history.items() if k not in left_out}
        attributes: dict[str, Any] = {HISTORY: self.latest}
        latency = progress.history.get("latency")
        if latency and "latency" not in self.costs:
            self.costs["latency"] = latency[-1]
            attributes[COSTS] = self.costs
        if progress.epochs == 1 or not self.history:
            attributes[EPOCHS] = epochs
        self._write(attributes)
        best = progress.best(objectives)
        if len(objectives) > 1 or best is None:
            return False
        step = len(self.executions) * epochs + progress.epochs
        if step not in self._reported:  # else it is trained once more
            self._reported.add(step)
            earlier = [one["scores"][0] for one in self.executions]
            self._trial.report(fmean([*earlier, best[1][0]]), step)  # its score if it ended now
        return self._trial.should_prune()

    def execution(self, scores: Sequence[float], history: Mapping[str, Sequence[float]]) -> None:
        """Records that one of several trainings is done."""
        self.executions.append({"scores": list(scores), "history": dict(history)})
        self._write({EXECUTIONS: self.executions})

    def improves(self, scores: Sequence[float]) -> bool:
        """Whether a training with these scores is better than all that are done."""
        first = leading(self._search.objectives)
        better = self._search.objectives[first].better
        return all(better(scores[first], one["scores"][first]) for one in self.executions)

    def end(self, outcome: Outcome) -> None:
        """Records how the trial ended."""
        failure = outcome.failure
        state = ended(outcome.scores, failure, several=len(self._search.objectives) > 1)
        if self.current() is None:
            return
        if failure is not None:
            self._trial.set_user_attr(FAILURE, asdict(failure))
        values = list(outcome.scores) or None
        with contextlib.suppress(UpdateFinishedTrialError, ValueError):
            self._search.study.tell(self._trial, values, state=state, skip_if_finished=True)
