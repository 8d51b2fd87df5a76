"""`Search`: what a process needs to work for a search."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, cast

import optuna

from kblocks.tuner.choosing.rungs import Rungs
from kblocks.tuner.choosing.sampler import Choosing
from kblocks.tuner.records import Objective
from kblocks.tuner.storing.checkpoints import Checkpoints
from kblocks.tuner.storing.ledger import Ledger
from kblocks.tuner.storing.patience import PatientStorage


@dataclass
class Search:
    """What a process needs to work for a search."""

    tuner: Any  # the `Tuner`, whose methods a subclass may have replaced
    study: optuna.Study  # with sampler and pruner
    storage: PatientStorage
    checkpoints: Checkpoints
    objectives: tuple[Objective, ...]
    trials: int | None  # in all
    deadline: float | None  # when the search ends, in seconds of `time.monotonic`
    rungs: Rungs | None = None  # with a `scheduler`: which trials go on, and how far
    is_worker: bool = False  # then the first process releases its trial
    policy: str | None = None  # the dtype policy of all models; None is Keras' setting
    needs_room: bool = False  # a trial has filled its GPU, whose memory frameworks never give back
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.study, self.objectives, self.tuner.checkpoints)

    @property
    def sampler(self) -> Choosing:
        """The sampler of the study."""
        return cast(Choosing, self.study.sampler)

    @property
    def is_late(self) -> bool:
        """Whether the search has reached its deadline."""
        return self.deadline is not None and time.monotonic() > self.deadline

    @property
    def has_stalled(self) -> bool:
        """Whether as many trials as `patience` says have not improved on the best."""
        most = self.tuner.patience
        return most is not None and self.ledger.without_improvement() >= most

    def clock(self) -> float:
        """A clock in seconds that stands still while this thread waits for the storage."""
        return time.monotonic() - self.storage.waited
