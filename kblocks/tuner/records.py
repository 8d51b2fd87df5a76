"""What a search leaves in its storage, read back as plain data: the only truth about a run.

Nothing here loads Keras or runs what it reads: a storage of unknown origin is only data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from kblocks.search_space.space import NETWORK

# The names of user attributes in Optuna's storage: of a trial,
COSTS = "kblocks/costs"  # {"params": ..., "macs": ..., "activations": ..., "latency": ...}
SHAPES = "kblocks/shapes"  # what `fit` built the model of, where `build` had not
HISTORY = "kblocks/history"  # {metric: [value of each epoch]}
EPOCHS = "kblocks/epochs"  # how many the trial was to train for
FIXED = "kblocks/fixed"  # {name: value} of what was not searched: `hp.Fixed`, further networks
FAILURE = "kblocks/failure"  # {"kind": ..., "message": ..., "traceback": ...}
ATTEMPTS = "kblocks/attempts"  # how often it was begun
OWNER = "kblocks/owner"  # the process that runs it
BEAT = "kblocks/beat"  # counts up while it runs
SURPLUS = "kblocks/surplus"  # that nobody needs it: it was begun when there were enough
# and of the study.
IDENTITY = "kblocks/identity"  # that its checkpoints bear, drawn at random
RUN = "kblocks/run"  # what the search is: objectives, space, recipe, data
RANGES = "kblocks/ranges"  # of the hyperparameters that a HyperModel of another's has asked for
EXHAUSTED = "kblocks/exhausted"  # that a grid of them was gone through
EXTENDED = "kblocks/extended"  # the name of the study that goes on with more choices
EXTENDS = "kblocks/extends"  # of that study: the name under which the search began

# What a network costs, in a trial's costs and logs; as objectives all are to be small.
COST_NAMES = ("params", "macs", "activations", "latency")

_STATES = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Objective:
    """A figure of a trial's logs, and whether it is to be large ("max") or small ("min")."""

    name: str
    direction: str

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is better than `other`."""
        return one > other if self.direction == "max" else one < other


# Why a trial failed, by kind, in words that follow "3 trials".
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
        message: one line.
        traceback: where, if it is known.
    """

    kind: str
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class Record:
    """A trial.

    Attributes:
        number: from 0, in the order in which trials were begun.
        state: "completed", "pruned", "failed", "running" or "waiting", as the sampler is told it:
            a failure that it is to learn from is "pruned". `status` is what people are told.
        scores: its objectives, of its best epoch; empty unless it is completed.
        values: of its hyperparameters, by name.
        network: the JSON of the architecture that was built, or None.
        costs: params, macs, activations and latency (seconds for an image), where known.
        history: every logged figure by epoch.
        epochs: how many it was to train for.
        failure: why it failed, or None.
        attempts: how often it was begun.
        owner: the process that runs or ran it.
        started, ended: when.
        shapes: what `fit` built its model of, where `build` had not.
        fixed: values of hyperparameters that are not searched (`hp.Fixed`), by name, and the
            JSON of networks with names of their own.
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
    started: datetime | None = None
    ended: datetime | None = None
    shapes: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state in ("completed", "pruned", "failed")

    @property
    def has_failed(self) -> bool:
        """Whether it has failed, for a reason that may not be known."""
        return self.failure is not None or self.state == "failed"

    @property
    def status(self) -> str:
        """Its state, and "failed" for every failure."""
        return "failed" if self.has_failed else self.state

    @property
    def seconds(self) -> float | None:
        """How long it took, of its last attempt; None while it runs.

        None too where the clock was set back meanwhile.
        """
        if self.started is None or self.ended is None or self.ended < self.started:
            return None
        return (self.ended - self.started).total_seconds()


@dataclass(frozen=True)
class Run:
    """A search: what it looks for, and its trials in the order of their numbers.

    Attributes:
        name: of the search.
        objectives: one or several.
        settings: what it is: "space", "recipe", "data", "input_shape" and so on, as JSON has it.
        trials: all of them.
        identity: what its checkpoints bear; "" where they bear nothing.
    """

    name: str
    objectives: tuple[Objective, ...]
    settings: Mapping[str, Any]
    trials: tuple[Record, ...]
    identity: str = ""

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """(height, width, channels) of the networks, where the search knows it."""
        shape = self.settings.get("input_shape")
        return tuple(shape) if shape else None

    def told(self, trial: Record) -> str:
        """A completed trial's scores in words."""
        pairs = zip(self.objectives, trial.scores, strict=True)
        return ", ".join(f"{objective.name} {score:.4f}" for objective, score in pairs)

    def completed(self) -> list[Record]:
        """The completed trials."""
        return [trial for trial in self.trials if trial.state == "completed"]

    def ranked(self) -> list[Record]:
        """The completed trials, best first; with several objectives those of the front first."""
        objective = self.objectives[0]
        sign = -1 if objective.direction == "max" else 1
        found = sorted(self.completed(), key=lambda trial: sign * trial.scores[0])
        if len(self.objectives) == 1:
            return found
        front = {trial.number for trial in self.front()}
        return sorted(found, key=lambda trial: trial.number not in front)

    def best(self) -> Record | None:
        """The best completed trial."""
        return next(iter(self.ranked()), None)

    def front(self) -> list[Record]:
        """The Pareto front: the completed trials that no other beats in every objective.

        By the first objective, best first. Of equal trials the earliest is there.
        """
        signs = [-1 if objective.direction == "max" else 1 for objective in self.objectives]
        points = {
            trial.number: tuple(s * v for s, v in zip(signs, trial.scores, strict=True))
            for trial in self.completed()
        }
        ordered = sorted(self.completed(), key=lambda t: (points[t.number], t.number))
        front: list[Record] = []
        for trial in ordered:  # whatever beats a trial comes before it
            point = points[trial.number]
            rivals = (points[other.number] for other in front)
            if not any(all(a <= b for a, b in zip(r, point, strict=True)) for r in rivals):
                front.append(trial)
        return front


def read(study: optuna.Study) -> Run:
    """The run that a study of Optuna keeps."""
    settings = study.user_attrs.get(RUN, {})
    objectives = [Objective(o["name"], o["direction"]) for o in settings.get("objectives", ())]
    if not objectives:  # of a study that another program made
        names = study.metric_names or [f"objective {i}" for i in range(len(study.directions))]
        directions = ["max" if d.name == "MAXIMIZE" else "min" for d in study.directions]
        objectives = [Objective(n, d) for n, d in zip(names, directions, strict=True)]
    known = study.get_trials(deepcopy=False)
    trials = tuple(record(trial) for trial in known if SURPLUS not in trial.user_attrs)
    name = study.user_attrs.get(EXTENDS, study.study_name)
    return Run(name, tuple(objectives), settings, trials, study.user_attrs.get(IDENTITY, ""))


def folder_name(number: int) -> str:
    """Of a trial for TensorBoard, which is its name there."""
    return f"trial-{number:05d}"


def ended(scores: Sequence[float], failure: Failure | None, several: bool) -> TrialState:
    """The state in which Optuna is told that a trial ended.

    A model that diverged is to the sampler what a pruned one is, worse than all that were
    completed: a plain failure would teach it nothing, and a score would be invented.

    Args:
        scores: of a completed trial, else empty.
        failure: why it failed, if it did.
        several: whether there are several objectives, for which nothing can be pruned.
    """
    if failure is None:
        return TrialState.COMPLETE if scores else TrialState.PRUNED
    teaches = failure.kind in ("diverged", "budget") and not several
    return TrialState.PRUNED if teaches else TrialState.FAIL


def failure_of(trial: FrozenTrial) -> Failure | None:
    """Why a trial failed; None of one that is run again since, or was completed then."""
    found = trial.user_attrs.get(FAILURE)
    has_failed = trial.state in (TrialState.FAIL, TrialState.PRUNED)
    return Failure(**found) if found and has_failed else None


def identity_of(trial: Any) -> int:
    """The number by which a storage knows a trial, which Optuna keeps in a private attribute."""
    return trial._trial_id


def record(trial: FrozenTrial) -> Record:
    """A trial of Optuna as ours."""
    attributes = trial.user_attrs
    return Record(
        number=trial.number,
        state=_STATES[trial.state],
        scores=tuple(trial.values) if trial.state is TrialState.COMPLETE else (),
        values=dict(trial.params),
        network=attributes.get(NETWORK),
        costs=attributes.get(COSTS, {}),
        history=attributes.get(HISTORY, {}),
        epochs=attributes.get(EPOCHS, 1),
        failure=failure_of(trial),
        attempts=attributes.get(ATTEMPTS, 1),
        owner=attributes.get(OWNER, ""),
        started=trial.datetime_start,
        ended=trial.datetime_complete,
        shapes=attributes.get(SHAPES, {}),
        fixed=attributes.get(FIXED, {}),
    )
