"""Successive halving: trials begin with few epochs, and the best of them go on.

Optuna never reads a finished trial again. So a trial goes on as a new one with the same values,
which names the trial that it continues (`CONTINUES`) and starts from that one's last checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from kblocks.search_space.names import NETWORK, START
from kblocks.tuner.hypermodel import named
from kblocks.tuner.records import (
    CONTINUES,
    COSTS,
    EPOCHS,
    HISTORY,
    OWNER,
    SHAPES,
    SURPLUS,
    Objective,
)

_SPARE = 8  # trials of each rung that keep their state beyond those that are to go on now
_TAKEN_ALONG = (NETWORK, START, COSTS, SHAPES, HISTORY)


@dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving (Li et al. 2018, arXiv:1810.05934), a scheduler of `Tuner`.

    Each trial trains to the end of the first rung, such as 2 of 8 epochs. Of the trials that have
    completed a rung, the best `1 / factor` go on to the next one before new points are drawn. They
    start from the weights and the optimizer with which they stopped, so no epoch is trained twice.
    Once no new points are drawn, the best trial of each rung goes on in any case.

    `schedule` and `warmup` of a recipe are on each rung those of a training with as many epochs as
    the rung ends after, from the epoch at which the rung begins: after 2 epochs of a cosine over 2
    come epochs 3 and 4 of a cosine over 4, which begin at half the rate. A `fit` of your own must
    pass its arguments on to `model.fit`.

    Args:
        factor: how many times as many epochs the next rung ends after; an integer from 2.
        shortest: the fewest epochs of a trial; None is those of `search` divided by `factor`
            squared, for three rungs.

    Raises:
        ValueError: if an argument is invalid.
    """

    factor: int = 2
    shortest: int | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("factor", self.factor, 2), ("shortest", self.shortest, 1)):
            is_count = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if not is_count and (name, value) != ("shortest", None):
                message = f"`{name}` must be an integer from {least}. Received: {name}={value!r}"
                raise ValueError(message)

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """After how many epochs each rung ends, for trials of at most so many.

        Raises:
            ValueError: if there is only one.
        """
        least = self.shortest or epochs / self.factor**2
        found = [epochs]
        while least <= (shorter := math.ceil(found[0] / self.factor)) < found[0]:
            found.insert(0, shorter)
        if len(found) == 1:
            raise ValueError(
                "`scheduler` needs `epochs` of search for at least two rungs. "
                f"Received: scheduler={self!r}, epochs={epochs}"
            )
        return tuple(found)


@dataclass
class _Ladder:
    """The trials of a study by rung, without surplus ones."""

    rungs: dict[int, int]  # by number of the trial
    completed: list[list[FrozenTrial]]  # best first
    open: list[int]  # the rung of each trial that has not ended
    continued: set[int]  # the numbers of the trials that another one continues
    awaited: set[int]  # those of them whose continuation has not ended


class Rungs:
    """Which trials of a study go on, and to which epoch.

    Args:
        study: the study.
        scheduler: of the search.
        epochs: those of `search`.
        objective: the only one of the search.
    """

    def __init__(
        self, study: optuna.Study, scheduler: Asha, epochs: int, objective: Objective
    ) -> None:
        self._study, self._factor = study, scheduler.factor
        self.epochs = scheduler.rungs(epochs)
        self._sign = -1 if objective.direction == "max" else 1

    def of_trial(self, trial: Any, fit: tuple[Any, Any]) -> tuple[Any, dict[str, Any]]:
        """The arguments of `fit`, with the epochs after which a trial's rung ends."""
        return (), {**named(*fit), "epochs": self.epochs[self._ladder().rungs[trial.number]]}

    def go_on(self, storage: Any, ends: bool) -> optuna.Trial | None:
        """Begins the continuation of a trial, which this process runs; None if none is to go on.

        Args:
            storage: of the search.
            ends: whether no more points are drawn.
        """
        rung, parent = self._due(ends) or (0, None)
        if parent is None:
            return None
        known = {key: parent.user_attrs[key] for key in _TAKEN_ALONG if key in parent.user_attrs}
        begun = create_trial(
            state=TrialState.RUNNING,
            params=parent.params,
            distributions=parent.distributions,
            system_attrs=parent.system_attrs,  # a grid of Optuna's counts by these
            user_attrs={
                **known,
                CONTINUES: parent.number,
                EPOCHS: self.epochs[rung + 1],
                OWNER: storage.owner,
            },
        )
        study = storage.get_study_id_from_name(self._study.study_name)
        return optuna.Trial(self._study, storage.create_new_trial(study, begun))

    def is_first(self, trial: optuna.Trial) -> bool:
        """Whether no earlier trial continues the same one: two processes may begin it at once."""
        parent = trial.user_attrs[CONTINUES]
        return not any(
            other.user_attrs.get(CONTINUES) == parent and SURPLUS not in other.user_attrs
            for other in self._study.get_trials(deepcopy=False)[: trial.number]
        )

    def is_settled(self) -> bool:
        """Whether no trial is to go on, if no more points are drawn."""
        return self._due(ends=True) is None

    def paused(self) -> set[int]:
        """The finished trials whose state is needed, or may be when more trials have ended."""
        ladder = self._ladder()
        kept = set(ladder.awaited)
        for ranked in ladder.completed[:-1]:
            may = ranked[: len(ranked) // self._factor + _SPARE]
            kept.update(trial.number for trial in may if trial.number not in ladder.continued)
        return kept

    def _due(self, ends: bool) -> tuple[int, FrozenTrial] | None:
        """The rung and the trial that is to go on from it, of the highest rung that has one."""
        ladder = self._ladder()
        for rung in reversed(range(len(self.epochs) - 1)):
            ranked = ladder.completed[rung]
            count = len(ranked) // self._factor
            if ends and all(other > rung for other in ladder.open):
                count = max(count, 1)
            for trial in ranked[:count]:
                if trial.number not in ladder.continued:
                    return rung, trial
        return None

    def _ladder(self) -> _Ladder:
        found = _Ladder({}, [[] for _ in self.epochs], [], set(), set())
        for trial in self._study.get_trials(deepcopy=False):
            if SURPLUS in trial.user_attrs:
                continue
            parent = trial.user_attrs.get(CONTINUES)
            rung = 0 if parent is None else found.rungs[parent] + 1
            found.rungs[trial.number] = rung
            if parent is not None:
                found.continued.add(parent)
            if trial.state is TrialState.COMPLETE:
                found.completed[rung].append(trial)
            elif not trial.state.is_finished():
                found.open.append(rung)
                found.awaited |= set() if parent is None else {parent}
        for ranked in found.completed:
            ranked.sort(key=lambda trial: (self._sign * (trial.value or 0.0), trial.number))
        return found
