"""Finds points that were tried before, or that another process has chosen at the same time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from kblocks.tuner.choosing.points import Points
from kblocks.tuner.records import OWNER, SURPLUS

_LONGEST = 10.0  # seconds to wait until other processes have written their points


class Duplicates:
    """The keys of the points that the trials of a study have."""

    def __init__(self, points: Points, study: optuna.Study) -> None:
        self._points, self._study = points, study
        self._keys: dict[int, Hashable] = {}  # by number of the trial; each is computed once
        self._first: dict[Hashable, int] = {}  # by key: the first trial with it
        self._ended = 0  # so many leading trials have ended and are not read again

    def keys(self, trials: Sequence[FrozenTrial]) -> dict[Hashable, int]:
        """By key, the first of the trials whose point has it."""
        for trial in trials[self._ended :]:
            number = trial.number
            if number not in self._keys and trial.params:
                with contextlib.suppress(ValueError):  # not all of its values are written
                    key = self._points.key(self._points.point(trial.params))
                    self._keys[number] = key
                    self._first[key] = min(number, self._first.get(key, number))
        while self._ended < len(trials) and trials[self._ended].state.is_finished():
            self._ended += 1
        return self._first

    def unwritten(self, trials: Sequence[FrozenTrial], number: int) -> list[FrozenTrial]:
        """The running trials before trial `number` whose points are not fully written yet."""
        return [
            trial
            for trial in trials[self._ended : number]
            if trial.state is TrialState.RUNNING
            and SURPLUS not in trial.user_attrs
            and not self._points.is_whole(trial.params)
        ]

    def is_first(self, number: int, is_gone: Callable[[str], bool]) -> bool:
        """Whether no trial before trial `number`, whose point is written, has the same point.

        Another process may have chosen the same point while this one did. So this waits, for ten
        seconds at most, until the processes of all earlier trials have written their points or
        ended (`is_gone`, by owner).
        """
        until = time.monotonic() + _LONGEST
        while True:
            trials = self._study.get_trials(deepcopy=False)
            unwritten = self.unwritten(trials, number)
            owners = (trial.user_attrs.get(OWNER, "") for trial in unwritten)
            if all(map(is_gone, owners)) or time.monotonic() > until:
                return self.keys(trials).get(self._keys.get(number), number) == number
            time.sleep(0.02)
