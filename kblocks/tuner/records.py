"""Reads a search from its storage as plain data: `Run`, `Record`, `Objective` and `Failure`.

Nothing here loads Keras or executes what it reads, so a storage of unknown origin is safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import stdev
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from kblocks.common.quantities import quantity
from kblocks.common.showing import html_table
from kblocks.search_space.names import NETWORK, START

# Keys of user attributes in Optuna's storage. Of a trial:
COSTS = "kblocks/costs"  # {"params": ..., "macs": ..., "activations": ..., "latency": ...}
SHAPES = "kblocks/shapes"  # the build config of a model that `fit` built because `build` had not
HISTORY = "kblocks/history"  # {metric: [value of each epoch]}
EPOCHS = "kblocks/epochs"  # how many epochs the trial was to train for
EXECUTIONS = "kblocks/executions"  # [{"scores": [...], "history": {...}}] of several trainings
FIXED = "kblocks/fixed"  # {name: value} that was not searched: `hp.Fixed`, JSON of further networks
CONTINUES = "kblocks/continues"  # the number of the trial from whose state it goes on
FAILURE = "kblocks/failure"  # {"kind": ..., "message": ..., "traceback": ...}
ATTEMPTS = "kblocks/attempts"  # how many times the trial was begun
OWNER = "kblocks/owner"  # the process that runs the trial
DEVICE = "kblocks/device"  # the GPU on which the trial runs or ran
BEAT = "kblocks/beat"  # a counter that the running process raises as its heartbeat
SURPLUS = "kblocks/surplus"  # true of a trial that was begun although there were enough
# Those whose values are the fields of a `Record`.
_FIELDS = (
    *(NETWORK, COSTS, SHAPES, HISTORY, EPOCHS, EXECUTIONS, FIXED, CONTINUES, ATTEMPTS, OWNER),
    *(DEVICE, START),
)
# Of the study:
IDENTITY = "kblocks/identity"  # a random name, which the study's checkpoints carry too
RUN = "kblocks/run"  # the settings of the search: objectives, space, recipe, data
RANGES = "kblocks/ranges"  # {name: range} of the hyperparameters of a third-party HyperModel
PRECISION = "kblocks/precision"  # {"policy": ..., "ratio": its share of float32's time, if known}
EXHAUSTED = "kblocks/exhausted"  # true once every point of a grid or a finite space was tried
EXTENDED = "kblocks/extended"  # the name of the study that continues this one with more choices
EXTENDS = "kblocks/extends"  # the name of the first study, of which this one is an extension

# The objective where none is given and `fit` is the user's own, as Keras Tuner calls it.
DEFAULT_OBJECTIVE = "default_objective"

# Costs of a network, as a trial's costs and logs name them. As objectives all are minimized.
COST_NAMES = ("params", "macs", "activations", "latency")

_SHOWN = 20  # the most trials that a notebook shows

_STATES = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Objective:
    """A metric in a trial's logs and its direction.

    Attributes:
        name: the metric's name in the logs, such as "val_accuracy" or "macs".
        direction: "max" or "min".
    """

    name: str
    direction: str

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is better than `other`."""
        return one > other if self.direction == "max" else one < other


# The kinds of failure, each with words that complete "3 trials ...".
KINDS = {
    "error": "raised an error",
    "memory": "ran out of memory",
    "diverged": "diverged to NaN or infinity",
    "budget": "built a model outside the budget",
    "timeout": "went over the limit of time",
    "killed": "lost its process, three times",
}


@dataclass(frozen=True)
class Failure:
    """Why a trial failed.

    Attributes:
        kind: one of KINDS.
        message: the error in one line.
        traceback: the Python traceback, or "".
    """

    kind: str
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class Record:
    """A trial of a search.

    Attributes:
        number: from 0, in the order in which trials were begun.
        state: "completed", "pruned", "failed", "running" or "waiting", as the sampler sees it. A
            failure that the sampler should learn from is "pruned" here; `status` says "failed".
        scores: the objectives at the best epoch; empty unless the trial is completed. Of several
            trainings (`executions_per_trial`, `folds`) their mean.
        values: {hyperparameter: value}.
        network: the JSON of the architecture that was built, or None.
        costs: params, macs, activations and latency (seconds for one image), where known.
        history: {metric: its value after each epoch}; of several trainings the last one's.
        epochs: how many epochs the trial was to train for.
        failure: why the trial failed, or None.
        attempts: how many times the trial was begun.
        owner: the process that runs or ran the trial.
        device: the GPU on which it does, such as "GPU 0"; "" without one.
        started, ended: when, or None.
        shapes: the build config of a model that `fit` built because `build` had not.
        fixed: {name: value} of hyperparameters that are not searched (`hp.Fixed`), and the JSON
            of further networks by their names.
        executions: {"scores": ..., "history": ...} of each training, if a trial has several.
        start: of a network that started from published weights: their name ("weights"), how many
            of its "arrays" and "numbers" are from them and how many it has, and what the model
            does to images first.
        continues: with a `scheduler`, the number of the trial from which this one went on, or None.
    """

    number: int
    state: str
    scores: tuple[float, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    network: str | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    epochs: int = 1
    failure: Failure | None = None
    attempts: int = 1
    owner: str = ""
    device: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    shapes: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    executions: Sequence[Mapping[str, Any]] = ()
    start: Mapping[str, Any] = field(default_factory=dict)
    continues: int | None = None

    @property
    def started_from(self) -> str:
        """As text: "98 of 102 arrays, 11.2 M of 11.7 M weights of resnet18 tv_in1k", or ""."""
        try:
            (arrays, of), numbers = self.start["arrays"], self.start["numbers"]
            loaded, every = map(quantity, numbers)
            return (
                f"{arrays} of {of} arrays, {loaded} of {every} weights of {self.start['weights']}"
            )
        except (KeyError, TypeError, ValueError):  # none, or by another program
            return ""

    @property
    def spread(self) -> tuple[float, ...]:
        """The sample standard deviation of each score over the trainings; () of fewer than two."""
        columns = zip(*(one["scores"] for one in self.executions), strict=True)
        return tuple(map(stdev, columns)) if len(self.executions) > 1 else ()

    @property
    def machine(self) -> str:
        """The host name of the machine that trains or trained it, or ""."""
        return machine_of(self.owner)

    @property
    def is_finished(self) -> bool:
        """Whether the trial is completed, pruned or failed."""
        return self.state in ("completed", "pruned", "failed")

    @property
    def has_failed(self) -> bool:
        """Whether the trial failed, for a known reason or not."""
        return self.failure is not None or self.state == "failed"

    @property
    def status(self) -> str:
        """`state`, but "failed" for every failure, also one that the sampler sees as pruned."""
        return "failed" if self.has_failed else self.state

    @property
    def seconds(self) -> float | None:
        """Seconds of the last attempt; None until it has ended, or if the clock was set back."""
        if self.started is None or self.ended is None or self.ended < self.started:
            return None
        return (self.ended - self.started).total_seconds()


@dataclass(frozen=True)
class Run:
    """A search with its settings and trials.

    Attributes:
        name: the search's name.
        objectives: one or several.
        settings: what the search was started with, as JSON values: "space", "recipe", "data",
            "input_shape" and others.
        trials: all trials in the order of their numbers.
        identity: the random name that the search's checkpoints carry; "" if they carry none.
        is_exhausted: whether every point of a grid or a finite space was tried.
        distributions: {hyperparameter: its options or range} of those that a trial had.
        precision: in what all trials compute, as text; "" leaves it to Keras' setting.
    """

    name: str
    objectives: tuple[Objective, ...]
    settings: Mapping[str, Any]
    trials: tuple[Record, ...]
    identity: str = ""
    is_exhausted: bool = False
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    precision: str = ""

    def __repr__(self) -> str:
        scores = f", best: {self.told(best)}" if (best := self.best()) else ""
        return f"<Run {self.name!r}: {len(self.trials)} trials{scores}>"

    def _repr_html_(self) -> str:
        """The best trials as a table, which notebooks show."""
        best = self.ranked()[:_SHOWN]
        names = list(dict.fromkeys(name for trial in best for name in trial.values))
        head = ("trial", *(objective.name for objective in self.objectives), *names)
        rows = [(t.number, *t.scores, *(t.values.get(name, "") for name in names)) for t in best]
        return html_table([head, *rows], repr(self))

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """(height, width, channels) of the networks; None if the search does not know it."""
        shape = self.settings.get("input_shape")
        return tuple(shape) if shape else None

    def told(self, trial: Record) -> str:
        """A completed trial's scores as text: "val_accuracy 0.9100"."""
        return ", ".join(told(self.objectives, trial))

    def completed(self) -> list[Record]:
        """The completed trials."""
        return [trial for trial in self.trials if trial.state == "completed"]

    @property
    def tried(self) -> int:
        """How many points were tried: trials that ended, without those that go on from another."""
        return sum(trial.is_finished and trial.continues is None for trial in self.trials)

    def ranked(self) -> list[Record]:
        """The completed trials, best first; with several objectives the Pareto front first.

        Of a trial and its continuation only that one, unless it is worse.
        """
        objective = self.objectives[0]
        sign = -1 if objective.direction == "max" else 1
        found = sorted(self._latest(), key=lambda trial: sign * trial.scores[0])
        if len(self.objectives) == 1:
            return found
        front = {trial.number for trial in self.front()}
        return sorted(found, key=lambda trial: trial.number not in front)

    def _latest(self) -> list[Record]:
        found = {trial.number: trial for trial in self.completed()}
        for trial in list(found.values()):
            before = found.get(-1 if trial.continues is None else trial.continues)
            if before and not self.objectives[0].better(before.scores[0], trial.scores[0]):
                del found[before.number]
        return list(found.values())

    def best(self) -> Record | None:
        """The best completed trial, or None."""
        return next(iter(self.ranked()), None)

    def front(self) -> list[Record]:
        """The Pareto front: the completed trials that no other trial dominates.

        Best first by the first objective. Of trials with equal scores only the earliest is kept.
        """
        signs = [-1 if objective.direction == "max" else 1 for objective in self.objectives]
        points = {
            trial.number: tuple(s * v for s, v in zip(signs, trial.scores, strict=True))
            for trial in self._latest()
        }
        ordered = sorted(self._latest(), key=lambda t: (points[t.number], t.number))
        front: list[Record] = []
        for trial in ordered:  # a trial that dominates another comes before it
            point = points[trial.number]
            rivals = (points[other.number] for other in front)
            if not any(all(a <= b for a, b in zip(r, point, strict=True)) for r in rivals):
                front.append(trial)
        return front


def machine_of(owner: str) -> str:
    """The host name in the name of a process."""
    return owner.partition("|")[0].partition("/")[0]


def told(objectives: Sequence[Objective], trial: Record) -> list[str]:
    """A completed trial's scores as text: "val_accuracy 0.9100", with " ± 0.0120" for a spread."""
    spread = [f" ± {value:.4f}" for value in trial.spread] or [""] * len(trial.scores)
    figures = zip(objectives, trial.scores, spread, strict=True)
    return [f"{objective.name} {score:.4f}{more}" for objective, score, more in figures]


def read(study: optuna.Study) -> Run:
    """Reads the run that an Optuna study stores."""
    settings = study.user_attrs.get(RUN, {})
    objectives = [Objective(o["name"], o["direction"]) for o in settings.get("objectives", ())]
    if not objectives:  # another program made the study
        names = study.metric_names or [f"objective {i}" for i in range(len(study.directions))]
        directions = ["max" if d.name == "MAXIMIZE" else "min" for d in study.directions]
        objectives = [Objective(n, d) for n, d in zip(names, directions, strict=True)]
    known = study.get_trials(deepcopy=False)
    trials = tuple(record(trial) for trial in known if SURPLUS not in trial.user_attrs)
    name = study.user_attrs.get(EXTENDS, study.study_name)
    identity, is_exhausted = (study.user_attrs.get(key) for key in (IDENTITY, EXHAUSTED))
    distributions = {name: one for trial in known for name, one in trial.distributions.items()}
    return Run(
        *(name, tuple(objectives), settings, trials, identity or "", bool(is_exhausted)),
        distributions=distributions,
        precision=_precision(**study.user_attrs.get(PRECISION, {"policy": ""})),
    )


def _precision(policy: str, ratio: float | None = None) -> str:
    took = "" if ratio is None else f" (a step in bfloat16 took {ratio:g} of the time in float32)"
    return policy + took


def folder_name(number: int) -> str:
    """The folder of a trial for TensorBoard, which shows it as the trial's name."""
    return f"trial-{number:05d}"


def ended(scores: Sequence[float], failure: Failure | None, several: bool) -> TrialState:
    """The state that Optuna gets for a trial that ended.

    A diverged model counts as pruned, which samplers rank below every completed trial: they ignore
    failed trials, and any score would be invented. With `several` objectives Optuna cannot prune.
    """
    if failure is None:
        return TrialState.COMPLETE if scores else TrialState.PRUNED
    teaches = failure.kind in ("diverged", "budget") and not several
    return TrialState.PRUNED if teaches else TrialState.FAIL


def failure_of(trial: FrozenTrial) -> Failure | None:
    """Why a trial failed; None if it now runs again or was completed afterwards."""
    found = trial.user_attrs.get(FAILURE)
    has_failed = trial.state in (TrialState.FAIL, TrialState.PRUNED)
    return Failure(**found) if found and has_failed else None


def identity_of(trial: Any) -> int:
    """The number by which a storage knows a trial, which Optuna keeps in a private attribute."""
    return trial._trial_id


def record(trial: FrozenTrial) -> Record:
    """Converts a trial of Optuna to a `Record`."""
    stored = {key.rpartition("/")[2]: trial.user_attrs.get(key) for key in _FIELDS}
    return Record(
        number=trial.number,
        state=_STATES[trial.state],
        scores=tuple(trial.values) if trial.state is TrialState.COMPLETE else (),
        values=dict(trial.params),
        failure=failure_of(trial),
        started=trial.datetime_start,
        ended=trial.datetime_complete,
        **{name: value for name, value in stored.items() if value is not None},
    )
