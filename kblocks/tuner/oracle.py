"""`tuner.oracle`: the trials in the storage, in Keras Tuner's form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras_tuner
from keras_tuner.engine.trial import Trial

from kblocks.search_space.names import NETWORK
from kblocks.tuner.records import Objective, Record

if TYPE_CHECKING:
    from kblocks.tuner.tuner import Tuner


class Oracle(keras_tuner.Oracle):
    """The trials in the storage, for code that reads `tuner.oracle`."""

    def __init__(self, tuner: Tuner) -> None:
        theirs = [keras_tuner.Objective(one.name, one.direction) for one in tuner.objectives]
        super().__init__(objective=theirs[0] if len(theirs) == 1 else theirs)
        self._tuner = tuner

    @property
    def trials(self) -> dict[str, Trial]:
        """All trials by id, which is the trial's number as text."""
        run = self._tuner.run()
        return {str(record.number): _trial(record, run.objectives) for record in run.trials}

    @trials.setter
    def trials(self, value: Any) -> None:
        """Ignores the empty dict that Keras Tuner's constructor sets."""

    def get_trial(self, trial_id: str) -> Trial:
        """A trial by its id."""
        return self.trials[trial_id]

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """The best completed trials; with several objectives the Pareto front comes first."""
        run = self._tuner.run()
        return [_trial(record, run.objectives) for record in run.ranked()[:num_trials]]

    def save(self, fname: Any = None) -> None:
        """Does nothing: the storage has everything."""

    def reload(self, fname: Any = None) -> None:
        """Does nothing: the storage has everything."""


def hyperparameters(record: Record) -> keras_tuner.HyperParameters:
    """A trial's hyperparameters, from which `build` makes its model."""
    hp = keras_tuner.HyperParameters()
    hp.values = {**record.fixed, **record.values}
    if record.network is not None:
        hp.values[NETWORK] = record.network
    return hp


_STATUS = {"completed": "COMPLETED", "running": "RUNNING", "waiting": "IDLE", "failed": "FAILED"}


def _trial(record: Record, objectives: tuple[Objective, ...]) -> Trial:
    directions = {objective.name: objective.direction for objective in objectives}
    trial = Trial(
        hyperparameters(record), str(record.number), _STATUS.get(record.status, "STOPPED")
    )
    trial.score = record.scores[0] if record.scores else None
    trial.message = record.failure.message if record.failure else None
    for name, values in record.history.items():
        for step, value in enumerate(values):
            if not trial.metrics.exists(name):
                trial.metrics.register(name, directions.get(name))  # if None, Keras Tuner infers it
            trial.metrics.update(name, value, step=step)
            if record.scores and value == record.scores[0] and trial.best_step in (None, 0):
                trial.best_step = step
    return trial
