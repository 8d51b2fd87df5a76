"""python benchmarks/search_worlds.py    (about 5 minutes; --runs 100)

How soon samplers find good points where training is only computed: worlds in which a score is the
sum of effects of the options, numbers and multiply-adds of a point of the space of
`search_quality.py`, and noise. It asks the samplers themselves, so that it measures them as they
are; a trial costs nothing, so that hundreds of searches show differences that few real ones hide.

- measured: the effects that a regression over 79 real trials found (images `--moved`, 8 epochs):
  augmentation, learning rate and pooling; they explain .84 of the variance
- size: larger networks are better, all else has small effects
- mixed: each option and each pair of options has a random effect
- pairs: only pairs of options have effects

Printed is the regret of the best trial so far, in percentage points: the true score of the best of
2,000 random points less its own; the mean of all runs and its standard error.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from random import Random
from unittest import mock

import numpy as np
import optuna
from search_systems import network_space, recipe

import kblocks as kb
from kblocks.search_space.choices import Choice
from kblocks.search_space.tree import Point
from kblocks.tuner.choosing import point_sampler
from kblocks.tuner.choosing.point_sampler import chooser
from kblocks.tuner.choosing.points import Points
from kblocks.tuner.choosing.sampler import sampler_of
from kblocks.tuner.records import Objective

MARKS = (3, 4, 6, 8, 10, 15, 20, 30, 40)  # trials
HYPERMODEL = kb.tuner.HyperModel(network_space(), recipe(), latency=False)
POINTS = Points(HYPERMODEL)
NAMES = [
    f"{name}={option}"
    for name, kind in POINTS.kinds.items()
    for option in (kind.options if isinstance(kind, Choice) else ["number"])
] + ["macs"]
MEASURED = {
    "recipe.augmentation=flip": 0.044,
    "recipe.augmentation=flip+shift": 0.065,
    "recipe.learning_rate=number": 0.062,
    "head.pool=concat": -0.023,
}
World = tuple[Callable[[np.ndarray], float], float]  # the true score, and the noise of a trial


def numbers(point: Point) -> np.ndarray:
    """A point as numbers: an option is 1 or 0, less its share; a number from -1 to 1."""
    found: list[float] = []
    for name, kind in POINTS.kinds.items():
        if isinstance(kind, Choice):
            found += [(index == point[name]) - 1 / kind.size for index in range(kind.size)]
        else:
            found.append(2 * kind.share(point[name], 0.5) - 1)
    return np.array([*found, np.log(POINTS.macs(point) / 15e6)])


def world(kind: str, seed: int) -> World:
    """A world of this kind."""
    random, count = np.random.default_rng(seed), len(NAMES)
    single, pairs, noise = np.zeros(count), np.zeros((count, count)), 0.02
    match kind:
        case "measured":
            single = np.array([MEASURED.get(name, 0.0) for name in NAMES])
        case "size":
            single, noise = random.normal(0, 0.006, count), 0.015
            single[-1] = 0.08
        case "mixed":
            single, pairs = random.normal(0, 0.02, count), random.normal(0, 0.008, (count, count))
        case "pairs":
            pairs = random.normal(0, 0.025, (count, count))
    return lambda x: float(x @ single + x @ pairs @ x), noise


BEFORE = "largest of 3, then TPE"  # what `sampler="tpe"` was until then
SAMPLERS: dict[str, Callable[[int], str | optuna.samplers.BaseSampler]] = {
    "random": lambda seed: "random",  # the default point first, as in all
    "TPE": lambda seed: sampler_of("tpe", seed),  # after ten random points
    BEFORE: lambda seed: "tpe",
    "ours": lambda seed: "tpe",
}


def regrets(name: str, found: World, best: float, seed: int) -> list[float]:
    """The regret of one search after each of `MARKS`."""
    (score, noise), random = found, np.random.default_rng(seed)
    study = optuna.create_study(direction="maximize")
    objectives = [Objective("val_accuracy", "max")]
    sampler = chooser(SAMPLERS[name](seed), seed, 0, HYPERMODEL, study, objectives)
    study.sampler = sampler
    true: list[float] = []
    seen: list[float] = []
    for _ in range(MARKS[-1]):
        trial = study.ask()
        sampler.settle(trial, lambda owner: False)
        true.append(score(numbers(POINTS.point(trial.params))))
        seen.append(true[-1] + random.normal(0, noise))
        study.tell(trial, seen[-1])
    return [100 * (best - true[int(np.argmax(seen[:mark]))]) for mark in MARKS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--worlds", nargs="+", default=["measured", "size", "mixed", "pairs"])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    draws = Random(0)
    known = [numbers(POINTS.random(draws)) for _ in range(2_000)]
    print("| world | sampler | " + " | ".join(f"{mark} trials" for mark in MARKS) + " |")
    print("|---" * (len(MARKS) + 2) + "|")
    for kind in options.worlds:
        for name in SAMPLERS:
            runs = []
            old = {"_KNOWN": 10**9, "_EXPECTING": 10, "_RECIPES": 1}
            changed = old if name == BEFORE else {}
            with mock.patch.dict(vars(point_sampler), changed):
                for seed in range(options.runs):
                    found = world(kind, seed)
                    runs.append(regrets(name, found, max(map(found[0], known)), seed))
            cells = [
                f"{statistics.mean(column):.1f} ({statistics.stdev(column) / len(runs) ** 0.5:.1f})"
                for column in zip(*runs, strict=True)
            ]
            print(f"| {kind} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
