"""Counts and ranks the trials of a study without reading all of them after each trial."""

from collections.abc import Sequence
from datetime import datetime
from itertools import takewhile

import optuna
from optuna.trial import FrozenTrial, TrialState

from kblocks.tuner.records import CONTINUES, SURPLUS, Objective, Record, Run, failure_of


class Ledger:
    """Running totals over a study: the finished prefix is summed once and not read again.

    Surplus trials, which were begun when there were enough, are not counted, nor are those that
    go on from another one. The `kept` best trials by the objectives are remembered.
    """

    def __init__(self, study: optuna.Study, objectives: tuple[Objective, ...], kept: int) -> None:
        self._study, self._objectives, self._kept = study, objectives, kept
        self._done = 0  # so many leading trials have ended and are in the totals below
        self._uncounted: list[int] = []
        self._best: tuple[Record, ...] = ()
        self._errors: list[FrozenTrial] | None = []
        self._tail: list[FrozenTrial] = []

    def look(self) -> None:
        """Reads the storage and updates the totals."""
        trials = self._study.get_trials(deepcopy=False)
        done = self._done
        while done < len(trials) and trials[done].state.is_finished():
            done += 1
        for trial in trials[self._done : done]:
            if not _is_counted(trial):
                self._uncounted.append(trial.number)
            if SURPLUS in trial.user_attrs:
                continue
            if not _is_error(trial):
                self._errors = None
            elif self._errors is not None:
                self._errors.append(trial)
        self._best = self._ranked([*self._best, *_completed(trials[self._done : done])])
        self._done, self._tail = done, trials[done:]

    @property
    def open(self) -> list[FrozenTrial]:
        """The trials that have not ended."""
        return [t for t in self._tail if not t.state.is_finished() and SURPLUS not in t.user_attrs]

    @property
    def counted(self) -> int:
        """How many trials there are."""
        return self.counted_before(self._done + len(self._tail))

    def counted_before(self, number: int) -> int:
        """How many trials were begun before trial `number`."""
        others = [*self._uncounted, *(t.number for t in self._tail if not _is_counted(t))]
        return number - sum(other < number for other in others)

    def is_finished(self, number: int) -> bool:
        if number < self._done:
            return True
        return any(t.number == number and t.state.is_finished() for t in self._tail)

    def best(
        self, count: int, number: int | None = None, scores: tuple[float, ...] = ()
    ) -> list[int]:
        """The numbers of the completed trials that are, or may yet become, the `count` best.

        With several objectives these are the Pareto front and the best by the first objective: a
        new trial can push others off the front, and older trials then move up in the ranking.
        `number` and `scores` are those of a trial that is about to be completed.
        """
        own = [_completed_record(t, scores) for t in self._tail if t.number == number]
        ranked = self._ranked([*self._best, *_completed(self._tail), *own])
        several = len(self._objectives) > 1 and count > 0
        return [record.number for record in (ranked if several else ranked[:count])]

    def errors(self) -> list[FrozenTrial] | None:
        """The trials that have ended, if every one of them raised an error; else None."""
        ended = [t for t in self._tail if t.state.is_finished() and SURPLUS not in t.user_attrs]
        if self._errors is None or not all(map(_is_error, ended)):
            return None
        return [*self._errors, *ended]

    def last_failures(self) -> list[FrozenTrial]:
        """The failed trials that ended after the last other one, in the order of their ends."""
        trials = self._study.get_trials(deepcopy=False)
        ended = [t for t in trials if t.state.is_finished() and SURPLUS not in t.user_attrs]
        ended.sort(key=lambda trial: trial.datetime_complete or datetime.min)
        return [*takewhile(_has_failed, reversed(ended))][::-1]

    def without_improvement(self) -> int:
        """How many trials have ended that were begun after the last one to improve on the best."""
        best = Run("", self._objectives, {}, (*self._best, *_completed(self._tail))).front()
        last = max((record.number for record in best), default=-1)
        still_open = sum(trial.number > last and _is_counted(trial) for trial in self.open)
        return self.counted - self.counted_before(last + 1) - still_open

    def _ranked(self, records: Sequence[Record]) -> tuple[Record, ...]:
        """The `kept` best, in order; with several objectives also the whole Pareto front."""
        run = Run("", self._objectives, {}, tuple(sorted(records, key=lambda r: r.number)))
        if len(self._objectives) == 1:
            return tuple(run.ranked()[: max(self._kept, 1)])
        first = Run("", self._objectives[:1], {}, run.trials).ranked()[: self._kept]
        wanted = {record.number for record in [*run.front(), *first]}
        return tuple(record for record in run.ranked() if record.number in wanted)


def _completed(trials: Sequence[FrozenTrial]) -> list[Record]:
    return [
        _completed_record(trial, trial.values)
        for trial in trials
        if trial.state is TrialState.COMPLETE and SURPLUS not in trial.user_attrs
    ]


def _completed_record(trial: FrozenTrial, scores: Sequence[float]) -> Record:
    before = trial.user_attrs.get(CONTINUES)
    return Record(trial.number, "completed", tuple(scores), continues=before)


def _is_counted(trial: FrozenTrial) -> bool:
    return SURPLUS not in trial.user_attrs and CONTINUES not in trial.user_attrs


def _has_failed(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.FAIL or failure_of(trial) is not None


def _is_error(trial: FrozenTrial) -> bool:
    failure = failure_of(trial)
    return failure is not None and failure.kind == "error"
