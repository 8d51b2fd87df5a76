"""`tuner.oracle`: the trials in the storage, in Keras Tuner's form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import keras_tuner
from keras_tuner.engine.trial import Trial

from kblocks.search_space.names import NETWORK
from kblocks.tuner.choosing.asking import declare_as
from kblocks.tuner.hypermodel import HyperModel
from kblocks.tuner.records import Objective, Record, Run

if TYPE_CHECKING:
    from kblocks.tuner.tuner import Tuner


def _view(read: Callable[[Any], Any], doc: str) -> Any:
    """A property that ignores what Keras Tuner's constructor sets."""
    return property(read, lambda self, value: None, doc=doc)


class Oracle(keras_tuner.Oracle):
    """The trials in the storage, for code that reads `tuner.oracle`."""

    def __init__(self, tuner: Tuner) -> None:
        theirs = [keras_tuner.Objective(one.name, one.direction) for one in tuner.objectives]
        one = theirs[0] if len(theirs) == 1 else theirs
        super().__init__(objective=one, max_trials=tuner.trials)
        self._tuner = tuner

    # What Keras Tuner's constructor sets, these read from the storage.
    trials = _view(
        lambda self: {one.trial_id: one for one in _trials(self.run, self.run.trials)},
        "All trials by id, which is the trial's number as text.",
    )
    start_order = _view(lambda self: self.ids("started"), "The ids in the order of their begins.")
    end_order = _view(lambda self: self.ids("ended"), "The ids in the order of their ends.")

    @property
    def run(self) -> Run:
        """The search as the storage has it; empty if it has not begun."""
        try:
            return self._tuner.run()
        except KeyError:
            return Run(self._tuner.project_name, self._tuner.objectives, {}, ())

    def ids(self, moment: str) -> list[str]:
        """The ids of the trials that have "started" or "ended", in that order."""
        found = [trial for trial in self.run.trials if getattr(trial, moment) is not None]
        return [str(t.number) for t in sorted(found, key=lambda trial: getattr(trial, moment))]

    def get_space(self) -> keras_tuner.HyperParameters:
        """The hyperparameters of the search; for a third-party HyperModel those asked for so far.

        Before its first trial these are the ones that it asks for at its defaults.
        """
        return space_of(self._tuner)

    def remaining_trials(self) -> int | None:
        """How many trials are still to be run; None without a limit."""
        if self._tuner.trials is None:
            return None
        return max(self._tuner.trials - self.run.tried, 0)

    def get_trial(self, trial_id: str) -> Trial:
        return self.trials[trial_id]

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """The best completed trials; with several objectives the Pareto front comes first."""
        run = self.run
        return _trials(run, run.ranked()[:num_trials])

    def save(self, fname: Any = None) -> None:
        """Does nothing: the storage has everything."""

    def reload(self, fname: Any = None) -> None:
        """Does nothing: the storage has everything."""


def space_of(tuner: Tuner, number: int | None = None) -> keras_tuner.HyperParameters:
    """The hyperparameters of a trial, or of all; before the first, those that have defaults."""
    hp = keras_tuner.HyperParameters()
    if isinstance(tuner.hypermodel, HyperModel):
        tuner.hypermodel.declare_hyperparameters(hp)
        return hp
    begun = tuner.oracle.start_order
    trials = tuner.store.study().get_trials(deepcopy=False) if begun else []
    for trial in trials:
        for name, distribution in trial.distributions.items():
            if name not in hp and number in (None, trial.number):
                declare_as(hp, name, distribution)
    if not trials:
        hp.merge(tuner.asked())
    return hp


def hyperparameters(
    record: Record, space: keras_tuner.HyperParameters | None = None
) -> keras_tuner.HyperParameters:
    """A trial's hyperparameters, from which `build` makes its model."""
    hp = space or keras_tuner.HyperParameters()
    hp.values = {**record.fixed, **record.values}
    if record.network is not None:
        hp.values[NETWORK] = record.network
    return hp


_STATUS = {"completed": "COMPLETED", "running": "RUNNING", "waiting": "IDLE", "failed": "FAILED"}


def _trials(run: Run, records: Iterable[Record]) -> list[Trial]:
    return [_trial(record, run.objectives) for record in records]


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
