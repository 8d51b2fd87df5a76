"""`Search`: what a process needs to work for a search."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import cast

import keras_tuner
import optuna

from kblocks.search_space.budget import Budget
from kblocks.tuner.choosing.sampler import Choosing
from kblocks.tuner.records import Objective
from kblocks.tuner.storing.checkpoints import Checkpoints
from kblocks.tuner.storing.ledger import Ledger
from kblocks.tuner.storing.patience import PatientStorage


@dataclass
class Search:
    """What a process needs to work for a search.

    Attributes:
        study: Optuna's study, with sampler and pruner.
        storage: the storage of the study.
        hypermodel: builds and fits the models.
        objectives: one or several.
        checkpoints: the files of weights.
        kept: how many of the best trials keep their weights.
        trials: the total number of trials, or None.
        budget: for the models of a third-party HyperModel; ours keeps to its budget by itself.
        trial_seconds: how long a trial may take, or None.
        deadline: when the search ends, in seconds of `time.monotonic`, or None.
        tensorboard: a folder for TensorBoard, or None.
        is_worker: whether this is a worker process, whose trial the first process releases.
        ledger: running totals over the trials.
    """

    study: optuna.Study
    storage: PatientStorage
    hypermodel: keras_tuner.HyperModel
    objectives: tuple[Objective, ...]
    checkpoints: Checkpoints
    kept: int
    trials: int | None
    budget: Budget | None
    trial_seconds: float | None
    deadline: float | None
    tensorboard: str | None
    is_worker: bool = False
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.study, self.objectives, self.kept)

    @property
    def sampler(self) -> Choosing:
        """The sampler of the study."""
        return cast(Choosing, self.study.sampler)

    @property
    def is_late(self) -> bool:
        """Whether the search has reached its deadline."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def clock(self) -> float:
        """A clock in seconds that stands still while this thread waits for the storage."""
        return time.monotonic() - self.storage.waited
