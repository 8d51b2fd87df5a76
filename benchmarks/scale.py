"""python benchmarks/scale.py    (about 6 minutes; --speedup: 2 workers against 1, 4 more)

What a trial costs outside `build` and `fit`, as a search grows: after 100, 1,000 and 10,000
trials, for `kb.tuner.Tuner` on SQLite, for Optuna alone with the same sampler on the same kind
of storage (the lower bound for any loop), and for Keras Tuner's own tuners. `build` returns one
small model made before, and `fit` a number. Earlier trials are written into the storage, or into
Keras Tuner's oracle, without running; then some trials run, and the table shows medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_tuner
import numpy as np
import optuna
from keras_tuner.engine.trial import Trial

import kblocks as kb
from kblocks.tuner.choosing.sampler import sampler_of

VALUES, RUNS, STEPS = 10, 15, (100, 1_000, 10_000)
SPACE = {f"x{i}": optuna.distributions.FloatDistribution(0, 1) for i in range(VALUES)}


class Cached(keras_tuner.HyperModel):
    """A HyperModel of ten numbers that does no work; it notes when each `fit` ends."""

    def __init__(self) -> None:
        super().__init__()
        self.model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        self.model.compile("sgd", "mse")
        self.ends: list[float] = []

    def build(self, hp: Any) -> keras.Model:
        self.values = [hp.Float(name, 0, 1) for name in SPACE]
        return self.model

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        self.ends.append(time.perf_counter())
        return {"val_loss": sum((value - 0.3) ** 2 for value in self.values)}

    def median(self) -> float:
        """The median of the seconds from the end of one `fit` to the next: all but training."""
        gaps = [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]
        return statistics.median(gaps)


def fill(url: str, name: str, count: int) -> None:
    """Writes completed trials into the storage, without running, up to the wanted number."""
    study = optuna.load_study(study_name=name, storage=optuna.storages.RDBStorage(url))
    random = Random(count)
    for _ in range(count - len(study.get_trials(deepcopy=False))):
        params = {key: random.random() for key in SPACE}
        score = sum((value - 0.3) ** 2 for value in params.values())
        made = optuna.trial.create_trial(
            params=params,
            distributions=SPACE,
            value=score,
            user_attrs={
                "kblocks/history": {"val_loss": [score]},
                "kblocks/costs": {"params": 3},
                "kblocks/owner": "nobody",
                "kblocks/attempts": 1,
            },
        )
        study.add_trial(made)


def ours(sampler: str, folder: Path, count: int) -> float:
    """Seconds for a trial of `kb.tuner.Tuner` after `count` trials."""
    hypermodel = Cached()
    tuner = kb.tuner.Tuner(
        hypermodel,
        "val_loss",
        sampler=sampler,
        trials=1,
        workers=0,
        checkpoints=0,
        directory=folder,
        project_name=sampler,
        seed=1,
    )
    data = np.zeros((4, 2))
    tuner.search(data, verbose=0)
    fill(tuner.storage_url, sampler, count)
    hypermodel.ends.clear()
    tuner.trials = count + RUNS
    tuner.search(data, verbose=0)
    return hypermodel.median()


def alone(sampler: str, folder: Path, count: int) -> float:
    """Seconds for a trial of Optuna alone: ask, suggest, tell."""
    url = f"sqlite:///{folder / f'{sampler}-alone.db'}"
    study = optuna.create_study(
        storage=url, study_name=sampler, sampler=sampler_of(sampler, 1), load_if_exists=True
    )
    fill(url, sampler, count)
    took = []
    for _ in range(RUNS):
        start = time.perf_counter()
        trial = study.ask()
        values = [trial.suggest_float(name, 0, 1) for name in SPACE]
        study.tell(trial, sum((value - 0.3) ** 2 for value in values))
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def theirs(make: Callable[..., Any], runs: int) -> Callable[[str, Path, int], float]:
    """Seconds for a trial of one of Keras Tuner's tuners."""

    def measure(sampler: str, folder: Path, count: int) -> float:
        hypermodel = Cached()
        objective = keras_tuner.Objective("val_loss", "min")
        tuner = make(
            hypermodel,
            objective=objective,
            max_trials=count + runs,
            directory=folder,
            project_name=f"theirs-{sampler}-{count}",
        )
        oracle, random = tuner.oracle, Random(count)
        for number in range(count):
            hp = oracle.hyperparameters.copy()
            hp.values = {name: random.random() for name in SPACE}
            trial = Trial(hp, f"{number:05d}", "COMPLETED")
            trial.score = sum((value - 0.3) ** 2 for value in hp.values.values())
            oracle.trials[trial.trial_id] = trial
            oracle.start_order.append(trial.trial_id)
            oracle.end_order.append(trial.trial_id)
        hypermodel.ends.clear()
        tuner.search(np.zeros((4, 2)), verbose=0)
        return hypermodel.median()

    return measure


SIDES: list[tuple[str, str, Callable[[str, Path, int], float], int]] = [
    ("random", "kblocks", ours, 10_000),
    ("random", "Optuna alone", alone, 10_000),
    ("random", "Keras Tuner RandomSearch", theirs(keras_tuner.RandomSearch, 10), 10_000),
    ("tpe", "kblocks", ours, 10_000),
    ("tpe", "Optuna alone", alone, 10_000),
    ("tpe", "Keras Tuner BayesianOptimization", theirs(keras_tuner.BayesianOptimization, 4), 1000),
]


def overhead(steps: tuple[int, ...]) -> None:
    """Prints the table of the cost of a trial."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"| sampler | side | {' | '.join(f'{n:,} trials' for n in steps)} |", flush=True)
    print("|---" * (2 + len(steps)) + "|")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as at:
        for sampler, name, measure, most in SIDES:
            told = [
                f"{1e3 * measure(sampler, Path(at), n):.1f} ms" if n <= most else "-" for n in steps
            ]
            print(f"| {sampler} | {name} | {' | '.join(told)} |", flush=True)


# --- the speed-up of two workers -----------------------------------------------------------


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Loads scikit-learn's digits."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8, 1).astype("float32") / 16, labels


def build(hp: Any) -> keras.Model:
    """A small network whose size varies within narrow bounds, so that trials take equally long."""
    net = kb.resnet(
        classes=10,
        blocks=(1, 1),
        filters=(hp.Choice("filters", [24, 28, 32]), 48),
        stem={"filters": 16, "kernel_size": 3, "strides": 1, "pool": None},
    )
    model: Any = net.model((8, 8, 1))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(hp.Float("rate", 1e-3, 2e-3)), loss, metrics=["accuracy"])
    return model


def speedup(rounds: int, trials: int) -> None:
    """Prints the seconds for equally many trials with one worker and with two, in turn."""
    x, y = digits()
    took: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(rounds):
        for workers in (1, 2) if turn % 2 == 0 else (2, 1):
            with tempfile.TemporaryDirectory() as folder:
                tuner = kb.tuner.Tuner(
                    build,
                    sampler="random",
                    trials=trials,
                    workers=workers,
                    directory=folder,
                    seed=turn,
                )
                start = time.perf_counter()
                run = tuner.search(x, y, validation_split=0.2, epochs=12, verbose=0)
                took[workers].append(time.perf_counter() - start)
                assert len(run.completed()) == trials
    print(f"| workers | seconds for {trials} trials | all rounds |\n|---|---|---|")
    for workers, seconds in took.items():
        told = ", ".join(f"{s:.0f}" for s in seconds)
        print(f"| {workers} | {statistics.median(seconds):.0f} | {told} |")
    print(f"\nspeed-up {statistics.median(took[1]) / statistics.median(took[2]):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--speedup", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--most", type=int, default=STEPS[-1])
    given = parser.parse_args()
    if given.speedup:
        speedup(given.rounds, given.trials)
    else:
        overhead(tuple(step for step in STEPS if step <= given.most))
