"""The trials of one of Keras Tuner's own tuners as records."""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.hyperparameters import Fixed

from kblocks.common.atomic import whole
from kblocks.search_space.names import NETWORK, START
from kblocks.tuner.choosing.asking import distribution_of
from kblocks.tuner.hypermodel import HyperModel, costs_of
from kblocks.tuner.records import COST_NAMES, Failure, Objective, Record, Run
from kblocks.tuner.suggesting import OVER_BUDGET, network_of

_NOTES = "kblocks.json"  # beside Keras Tuner's trial.json: fields of a Record that it lacks


class Trials(keras.callbacks.Callback):
    """Follows the trials of a stock tuner, whose oracle knows their values, states and scores.

    What the oracle does not know (times, attempts, costs, history) is noted here, and saved in the
    trial's folder when it ends, for a later run of the same search.
    """

    def __init__(self, tuner: keras_tuner.Tuner, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self._tuner, self._settings = tuner, settings
        objective: Any = tuner.oracle.objective
        self.objective = Objective(objective.name, objective.direction)
        self._notes: dict[str, dict[str, Any]] = {}
        self._now: dict[str, Any] = {}  # the notes of the trial that runs
        self._ended: dict[str, Record] = {}
        for trial_id in tuner.oracle.end_order:
            self._notes[trial_id] = self._saved(trial_id)
            self._ended[trial_id] = self._record(trial_id, has_ended=True)

    def __deepcopy__(self, memo: Any) -> "Trials":
        return self  # Keras Tuner copies callbacks for each trial

    def run(self) -> Run:
        """The search so far."""
        begun = list(self._tuner.oracle.start_order)
        records = tuple(self._ended.get(name) or self._record(name) for name in begun)
        asked = [one for one in self._tuner.oracle.hyperparameters.space if _is_choice(one)]
        distributions = {one.name: distribution_of(one) for one in asked}
        name, objectives = self._tuner.project_name, (self.objective,)
        return Run(name, objectives, self._settings, records, distributions=distributions)

    def begin(self, trial: Any) -> None:
        """Notes that a trial begins, maybe once more."""
        before = self._notes.get(trial.trial_id, {"attempts": 0})
        self._now = {"attempts": before["attempts"] + 1, "started": datetime.now()}
        self._notes[trial.trial_id] = self._now

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Notes the number of parameters; a second call of `fit` begins a new history."""
        model: Any = self.model
        self._now["costs"] = {"params": sum(math.prod(weight.shape) for weight in model.weights)}
        self._now["history"] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the metrics of an epoch, and how many epochs there are to be."""
        logs = logs or {}
        costs = {name: logs[name] for name in COST_NAMES if name in logs}
        self._now["costs"] = {**self._now.get("costs", {}), **costs}
        self._now["epochs"] = (self.params or {}).get("epochs") or 1
        history = {**self._now.get("history", {})}
        for name in logs:
            if name not in COST_NAMES or name == self.objective.name:
                past = [*history.get(name, ())]
                unknown = [math.nan] * (epoch - len(past))  # as Hyperband goes on after some epochs
                history[name] = [*past, *unknown, float(logs[name])]
        self._now["history"] = history  # replaced at once, as another thread may read it

    def end(self, trial: Any) -> None:
        """Notes that a trial has ended, unless Keras Tuner will try it again."""
        trial_id = trial.trial_id
        if trial_id not in self._tuner.oracle.end_order:
            return
        self._now["ended"] = datetime.now()
        self._ended[trial_id] = self._record(trial_id, has_ended=True)
        with whole(self._file(trial_id)) as path:
            path.write_text(json.dumps(self._now, default=datetime.isoformat), encoding="utf-8")

    def _file(self, trial_id: str) -> Path:
        return Path(self._tuner.get_trial_dir(trial_id)) / _NOTES

    def _saved(self, trial_id: str) -> dict[str, Any]:
        """The notes of a trial of an earlier run; {} if there are none."""
        try:
            found = json.loads(self._file(trial_id).read_text(encoding="utf-8"))
            times = {name: datetime.fromisoformat(found[name]) for name in ("started", "ended")}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return {**found, **times}

    def _record(self, trial_id: str, has_ended: bool = False) -> Record:
        oracle: Any = self._tuner.oracle
        trial = oracle.get_trial(trial_id)
        found = trial.hyperparameters.values.copy()
        network, start = found.pop(NETWORK, None), json.loads(found.pop(START, "{}"))
        fixed = {one.name for one in trial.hyperparameters.space if not _is_choice(one)}
        fixed |= {name for name in found if _is_internal(name)}
        state = "running"
        if has_ended:
            state = "completed" if trial.status == "COMPLETED" else "failed"
        notes = dict(self._notes.get(trial_id, {}))
        notes["costs"] = {**self._costs(network), **notes.get("costs", {})}
        return Record(
            number=oracle.start_order.index(trial_id),
            state=state,
            scores=(float(trial.score),) if state == "completed" else (),
            values={name: value for name, value in found.items() if name not in fixed},
            network=network,
            start=start,
            failure=self._failure(trial) if state == "failed" else None,
            fixed={name: found[name] for name in fixed if name in found},
            **notes,
        )

    def _costs(self, network: str | None) -> dict[str, int]:
        model = self._tuner.hypermodel
        if network is None or not isinstance(model, HyperModel):
            return {}
        return costs_of(network_of({NETWORK: network}), model.space.input_shape)

    def _failure(self, trial: Any) -> Failure:
        if trial.score is not None and math.isnan(trial.score):
            return Failure("diverged", f"{self.objective.name} is {trial.score}")
        lines = (trial.message or "").strip().splitlines() or [f"{trial.status}, no reason given"]
        kind = "budget" if f"FailedTrialError: {OVER_BUDGET}" in lines[-1] else "error"
        return Failure(kind, lines[-1][:500], "\n".join(lines)[-8000:])


def _is_choice(declared: Any) -> bool:
    return not isinstance(declared, Fixed) and not _is_internal(declared.name)


def _is_internal(name: str) -> bool:
    """Whether a value is no choice of the search, such as Hyperband's "tuner/epochs"."""
    return name.startswith((NETWORK, "tuner/"))
