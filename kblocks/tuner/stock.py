"""`search`: runs one of Keras Tuner's own tuners, shows its progress and saves the results."""

import contextlib
import csv
import functools
import gc
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.hyperparameters import Fixed

from kblocks.common.atomic import whole
from kblocks.common.backend import custom_gradients, forget_gradients
from kblocks.networks.architecture import Architecture
from kblocks.search_space.names import NETWORK, START
from kblocks.training.precision import compute_in
from kblocks.tuner.choosing.asking import distribution_of
from kblocks.tuner.delivering import MODEL, facts
from kblocks.tuner.files import save, table_of, write_table
from kblocks.tuner.hypermodel import HyperModel, costs_of
from kblocks.tuner.records import COST_NAMES, Failure, Objective, Record, Run
from kblocks.tuner.running.live import Live
from kblocks.tuner.running.trial import epochs_of
from kblocks.tuner.storing.identity import settings_of
from kblocks.tuner.suggesting import OVER_BUDGET, network_of
from kblocks.tuner.terminal import log

_NOTES = "kblocks.json"  # beside Keras Tuner's trial.json: fields of a Record that it lacks


@dataclass(frozen=True)
class Result:
    """The result of `kb.tuner.search`.

    Attributes:
        model: the best trial's model with the weights of its best epoch.
        network: the architecture of `model`; None if kblocks did not build it.
        values: the best trial's hyperparameters, as the tuner drew them.
        score: the best trial's objective.
        run: the settings and all trials, as `kb.tuner.Tuner.search` returns them; also for
            `kb.tuner.report`.
    """

    model: keras.Model
    network: Architecture | None
    values: dict[str, Any]
    score: float
    run: Run

    @property
    def trials(self) -> list[dict[str, Any]]:
        """The rows of `trials.csv`, a dict for each trial."""
        return table_of(self.run)


def search(
    tuner: keras_tuner.Tuner,
    *fit_args: Any,
    folder: str | os.PathLike[str],
    verbose: int = 1,
    **fit_kwargs: Any,
) -> Result:
    """Runs `tuner.search`, shows progress and time left, and writes the results to files.

    With a `kb.tuner.HyperModel` the first trial is the default point, whatever the tuner draws.

    Args:
        tuner: any of Keras Tuner's tuners, usually over a `kb.tuner.HyperModel`.
        fit_args, fit_kwargs: arguments of `model.fit`, as `tuner.search` takes them.
        folder: the folder for `trials.csv` (rewritten after each trial, with the trials of an
            earlier run), `best.json` (only of a network of kblocks) and `best.keras`. Each file is
            written whole or not at all.
        verbose: 0 shows nothing.

    Raises:
        ValueError: if the targets' form fits no trial of a `kb.tuner.HyperModel`.
        RuntimeError: if no trial was completed; the message has the first error.
    """
    if isinstance(tuner.hypermodel, HyperModel):
        tuner.hypermodel.check_targets(fit_args, fit_kwargs)
    folder = Path(folder)
    trials = Trials(tuner, _settings(tuner, fit_args, fit_kwargs))
    _set_aside(folder / "trials.csv")
    known = set(custom_gradients())

    def ended(trial: Any) -> None:
        forget_gradients(known)
        trials.end(trial)
        write_table(folder / "trials.csv", table_of(trials.run()))

    begin, end = _then(tuner.on_trial_begin, trials.begin), _then(tuner.on_trial_end, ended)
    callbacks = [*(fit_kwargs.pop("callbacks", None) or ()), trials]
    with (
        Live(trials.run, tuner.oracle.max_trials, verbose=verbose),
        _replaced(tuner, on_trial_begin=begin, on_trial_end=end),
        _replaced(tuner.oracle, **_default_first(tuner)),
        _frozen(),
    ):
        tuner.search(*fit_args, callbacks=callbacks, verbose=0, **fit_kwargs)
    run = trials.run()
    best = run.best()
    if best is None:
        reasons = (t.failure.traceback or t.failure.message for t in run.trials if t.failure)
        reason = next(reasons, "no trial ran")
        raise RuntimeError(f"No trial was completed. The first error was:\n{reason}")
    trial = tuner.oracle.get_trial(tuner.oracle.start_order[best.number])
    model: Any = tuner.load_model(trial)
    compute_in(model, "float32")  # the recipe may have another precision
    save(model, folder / MODEL, facts(run, best, model))
    found, network = trial.hyperparameters.values, None
    if NETWORK in found:
        network = network_of(found)
        with whole(folder / "best.json") as path:
            path.write_text(network.to_json(indent=2), encoding="utf-8")
    values = {name: value for name, value in found.items() if not name.startswith((NETWORK, START))}
    return Result(model, network, values, best.scores[0], run)


def _settings(tuner: keras_tuner.Tuner, args: Any, kwargs: Any) -> dict[str, Any]:
    """The settings of the search, as `kb.tuner.Tuner` records them."""
    objective: Any = tuner.oracle.objective
    objectives = (Objective(objective.name, objective.direction),)
    others = {"trials": tuner.oracle.max_trials, "sampler": type(tuner).__name__}
    fit = (args, kwargs)
    return settings_of(tuner.hypermodel, objectives, fit, epochs=epochs_of(fit), **others)


def _set_aside(path: Path) -> None:
    """Renames a `trials.csv` of an earlier version of kblocks, whose columns are others."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        if "failure" in next(csv.reader(file), ()):
            return
    names = (path.with_name(f"trials-{count}.csv") for count in itertools.count(1))
    other = next(name for name in names if not name.exists())
    path.rename(other)
    log.warning("%s is of an earlier version of kblocks: it is %s now", path, other)


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """Excludes existing objects from the garbage collection that Keras Tuner runs per trial."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _default_first(tuner: keras_tuner.Tuner) -> dict[str, Callable[..., Any]]:
    """The oracle's `populate_space`, with the default point of our HyperModel as first trial."""
    if not isinstance(tuner.hypermodel, HyperModel):
        return {}
    oracle: Any = tuner.oracle
    draw = oracle.populate_space

    def populate_space(trial_id: str) -> dict[str, Any]:
        drawn = draw(trial_id)  # always called: Hyperband counts its trials there
        if oracle.trials or drawn["status"] != "RUNNING":
            return drawn
        space = oracle.get_space()
        defaults = {hp.name: hp.default for hp in space.space if space.is_active(hp)}
        own = {k: v for k, v in drawn["values"].items() if k.startswith("tuner/")}
        return {**drawn, "values": {**defaults, **own}}

    return {"populate_space": populate_space}


@contextlib.contextmanager
def _replaced(owner: Any, **methods: Callable[..., Any]) -> Iterator[None]:
    """Replaces methods of one object until the block ends."""
    own = {name: vars(owner)[name] for name in methods if name in vars(owner)}
    vars(owner).update(methods)
    try:
        yield
    finally:
        for name in methods:
            del vars(owner)[name]
        vars(owner).update(own)


def _then(method: Callable[[Any], None], told: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(method)
    def both(trial: Any) -> None:
        try:
            method(trial)
        finally:  # the tuner ends the search by raising when too many trials have failed
            told(trial)

    return both


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
