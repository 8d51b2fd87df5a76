"""Searches that never trained: real networks of a small space with invented scores."""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import cache
from random import Random
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

import kblocks as kb
from kblocks.tuner import records
from kblocks.tuner.records import Run

INPUT = (32, 32, 3)
START = datetime(2026, 11, 20, 18, 0, 0)
EPOCHS = 12
TRACEBACK = """Traceback (most recent call last):
  File "/home/me/run.py", line 41, in build
    model = net.model(shape)
tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM when allocating"""


@cache
def space() -> kb.Space:
    """Choices of all kinds, one of them conditional."""
    return kb.Space(
        kb.resnet,
        classes=10,
        blocks=kb.per_stage(3, kb.choice(1, 2, 3)),
        filters=[kb.choice(16, 24, 32), kb.choice(32, 48, 64), kb.choice(64, 96, 128)],
        kernel_size=kb.per_stage(3, kb.choice(3, 5, (1, 3))),
        padding=kb.choice("same", "valid"),
        stem={"filters": kb.choice(16, 32), "kernel_size": 3, "strides": 1, "pool": None},
        head=kb.choice({"pool": "avg"}, {"pool": "concat", "dropout": kb.real(0.05, 0.5)}),
    ).within(INPUT, kb.Budget(macs=60e6))


@cache
def networks(count: int, seed: int = 0) -> tuple[tuple[dict[str, Any], dict[str, Any], str], ...]:
    """Values, distributions and the JSON of the network, of that many random trials."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    made = []
    for _ in range(count):
        trial = study.ask()
        net = space().suggest(trial)
        made.append((trial.params, trial.distributions, net.to_json()))
    return tuple(made)


def accuracy(values: dict[str, Any], macs: int, rate: float, noise: float) -> float:
    """Better with the cost, with learning rates near 3e-3 and with `same` padding."""
    found = 0.93 - 0.35 * math.exp(-macs / 9e6) - 0.06 * math.log10(rate / 3e-3) ** 2
    return found - 0.05 * (values["padding"] == "valid") + 0.012 * noise


def study(trials: int = 60, seed: int = 0, objectives: int = 1) -> optuna.Study:
    """A study as our Tuner leaves it: completed, pruned, failed and running trials."""
    random = Random(seed)
    directions = ["maximize", "minimize", "minimize"][:objectives]
    names = ["val_accuracy", "macs", "params"][:objectives]
    made = optuna.create_study(study_name="digits", directions=directions)
    arguments = {name: space().tree.dimensions[name].kind for name in space().names()}
    made.set_user_attr(
        records.RUN,
        {
            "format": 1,
            "objectives": [
                {"name": n, "direction": d[:3]} for n, d in zip(names, directions, strict=True)
            ],
            "input_shape": list(INPUT),
            "space": {name: str(getattr(kind, "labels", kind)) for name, kind in arguments.items()},
            "budget": {"macs": 60e6},
            "recipe": {"optimizer": "adam", "learning_rate": "1e-4 to 1e-1, in logarithm"},
            "data": {
                "train": {"images": 1437, "shape": [32, 32, 3], "classes": ["zero", "one", "two"]},
                "validation": {"images": 360},
            },
            "epochs": EPOCHS,
            "trials": trials,
            "sampler": "tpe",
            "versions": {"kblocks": kb.__version__, "keras": "3.15.1", "optuna": "5.0.0"},
        },
    )
    clock = START
    for number, (values, distributions, network) in enumerate(networks(min(trials, 200), seed)):
        clock += timedelta(seconds=5)
        made.add_trial(_trial(random, number, values, distributions, network, clock, objectives))
        clock = made.trials[-1].datetime_complete or clock
    return made


def _trial(
    random: Random,
    number: int,
    values: dict[str, Any],
    distributions: dict[str, Any],
    network: str,
    begun: datetime,
    objectives: int,
) -> FrozenTrial:
    rate = 10 ** random.uniform(-4, -1)
    values = {**values, "learning_rate": rate, "optimizer": random.choice(["adam", "sgd"])}
    distributions = {
        **distributions,
        "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
        "optimizer": CategoricalDistribution(["adam", "sgd"]),
    }
    cost = kb.Architecture.from_json(network).cost(INPUT)
    best = accuracy(values, cost.macs, rate, random.gauss(0, 1))
    state = TrialState.COMPLETE
    attributes: dict[str, Any] = {
        records.NETWORK: network,
        records.EPOCHS: EPOCHS,
        records.OWNER: f"worker-{number % 2}",
    }
    length = EPOCHS
    if number % 17 == 5:
        length = 3
        kind, message = ("memory", "OOM when allocating tensor with shape[64,32,32,512]")
        if number % 2:
            kind, message = "diverged", "val_loss is NaN in epoch 3"
        failure = records.Failure(kind, message, TRACEBACK)
        attributes[records.FAILURE] = asdict(failure)
        state = records.ended((), failure, several=objectives > 1)
    elif number % 11 == 7:
        state, length = TrialState.PRUNED, 4
    elif number % 59 == 58:
        state, length = TrialState.RUNNING, 2
    pace = random.uniform(1.5, 5)
    curve = [best - 0.5 * math.exp(-epoch / pace) for epoch in range(length - 1)] + [best]
    attributes[records.HISTORY] = {
        "val_accuracy": curve,
        "val_loss": [2.3 * (1 - value) + 0.05 for value in curve],
    }
    if records.FAILURE not in attributes:
        attributes[records.COSTS] = {
            "params": cost.params,
            "macs": cost.macs,
            "activations": cost.activations,
            "latency": 2e-4 + cost.macs * 2e-10 * random.uniform(0.9, 1.2),
        }
    scores = [best, float(cost.macs), float(cost.params)][:objectives]
    trial = create_trial(
        state=state,
        values=scores if state is TrialState.COMPLETE else None,
        params=values,
        distributions=distributions,
        user_attrs=attributes,
    )
    trial.datetime_start = begun
    spent = timedelta(seconds=(20 + cost.macs / 1e6) * length / EPOCHS)
    trial.datetime_complete = None if state is TrialState.RUNNING else begun + spent
    return trial


def run(trials: int = 60, seed: int = 0, objectives: int = 1) -> Run:
    """`study` as what shows a run reads it."""
    return records.read(study(trials, seed, objectives))
