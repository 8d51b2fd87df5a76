"""A search with a scheduler: which trials go on, from what, and after kills at any moment."""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import keras
import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console
from searching import Toy, cleared

import kblocks as kb
from kblocks.command.tables import of_run
from kblocks.tuner.choosing.rungs import Rungs
from kblocks.tuner.files import table_of
from kblocks.tuner.records import CONTINUES, EPOCHS, SURPLUS, Objective, Record, Run
from kblocks.tuner.reporting.tables import trials as report_table
from kblocks.tuner.reporting.view import View
from kblocks.tuner.storing.ledger import Ledger

LOWEST = Objective("val_loss", "min")


@pytest.mark.parametrize(
    ("scheduler", "epochs", "expected"),
    [
        (kb.tuner.Asha(), 8, (2, 4, 8)),
        (kb.tuner.Asha(), 15, (4, 8, 15)),
        (kb.tuner.Asha(), 2, (1, 2)),
        (kb.tuner.Asha(factor=3), 9, (1, 3, 9)),
        (kb.tuner.Asha(factor=4, shortest=2), 8, (2, 8)),
        (kb.tuner.Asha(shortest=1), 8, (1, 2, 4, 8)),
    ],
)
def test_rungs_end_after(scheduler: Any, epochs: int, expected: tuple[int, ...]) -> None:
    assert scheduler.rungs(epochs) == expected


class Storage(optuna.storages.InMemoryStorage):
    owner = "this process"


def promoted(scores: dict[int, list[tuple[float, int]]], eta: int, gone_on: set[int]) -> int | None:
    """`get_job` of Algorithm 2 in arXiv:1810.05934, by rung: (loss, configuration) of each."""
    for rung in sorted(scores, reverse=True)[1:]:
        top = [name for _, name in sorted(scores[rung])[: math.floor(len(scores[rung]) / eta)]]
        promotable = [name for name in top if name not in gone_on]
        if promotable:
            return promotable[0]
    return None


@pytest.mark.parametrize("eta", [2, 3])
def test_the_trials_that_go_on_are_those_of_the_paper(eta: int) -> None:
    """Trials of four processes end in any order, some of them failed or surplus."""
    random, storage = Random(eta), Storage()
    study = optuna.create_study(storage=storage)
    rungs = Rungs(study, kb.tuner.Asha(factor=eta), eta**2, LOWEST)
    ledger = Ledger(study, (LOWEST,), kept=3)
    scores: dict[int, list[tuple[float, int]]] = {1: [], eta: [], eta**2: []}
    gone_on: set[int] = set()
    running: list[tuple[optuna.Trial, int]] = []
    fresh = 0
    for _ in range(200):
        if len(running) < 4:
            expected, trial = promoted(scores, eta, gone_on), rungs.go_on(storage, ends=False)
            if expected is None:
                assert trial is None
                running.append((study.ask(), 1))
                fresh += 1
                continue
            assert trial is not None
            assert trial.user_attrs[CONTINUES] == expected
            gone_on.add(expected)
            running.append((trial, trial.user_attrs[EPOCHS]))
            continue
        trial, epochs = running.pop(random.randrange(4))
        match random.random():
            case share if share < 0.1:
                study.tell(trial, state=TrialState.FAIL)
            case share if share < 0.15:
                trial.set_user_attr(SURPLUS, True)
                study.tell(trial, state=TrialState.FAIL)
                gone_on.discard(trial.user_attrs.get(CONTINUES, -1))
                fresh -= CONTINUES not in trial.user_attrs
            case loss:
                study.tell(trial, loss)
                scores[epochs].append((loss, trial.number))
        ledger.look()
        assert ledger.counted == fresh
    assert min(len(own) for own in scores.values()) > 3


def test_at_the_end_the_best_of_each_rung_goes_on() -> None:
    storage = Storage()
    study = optuna.create_study(storage=storage)
    rungs = Rungs(study, kb.tuner.Asha(factor=4, shortest=2), 8, LOWEST)
    first, second = study.ask(), study.ask()
    study.tell(first, 0.5)
    assert rungs.go_on(storage, ends=False) is None
    assert rungs.go_on(storage, ends=True) is None  # the second may be better
    study.tell(second, 0.4)
    trial = rungs.go_on(storage, ends=True)
    assert trial is not None
    assert trial.user_attrs[CONTINUES] == second.number
    copy = storage.create_new_trial(0, study.get_trials()[trial.number])  # of another process
    assert rungs.is_first(trial)
    assert not rungs.is_first(optuna.Trial(study, copy))
    study.tell(3, state=TrialState.FAIL)
    assert rungs.paused() == {first.number, second.number}
    assert rungs.is_settled()
    study.tell(trial, 0.3)
    assert rungs.paused() == {first.number}


def test_a_state_is_kept_for_a_bounded_number_of_trials() -> None:
    study = optuna.create_study(storage=Storage())
    rungs = Rungs(study, kb.tuner.Asha(factor=100, shortest=1), 100, LOWEST)
    for number in range(90):
        study.tell(study.ask(), number / 90)
    assert rungs.paused() == set(range(8))


def test_tables_show_how_far_trials_went() -> None:
    """A trial and its continuation are one network, which the ranking has once."""
    trials = [
        Record(0, "completed", (0.5,), epochs=2),
        Record(1, "completed", (0.7,), epochs=2),
        Record(2, "completed", (0.4,), epochs=4, continues=0),
    ]
    run = Run("toy", (LOWEST,), {"trials": 2}, tuple(trials))
    assert ([trial.number for trial in run.ranked()], run.tried) == ([2, 1], 2)
    rows = [(row["trial"], row["epochs"], row["continues"]) for row in table_of(run)]
    assert rows == [(0, 2, None), (1, 2, None), (2, 4, 0)]
    html = report_table(View(run))
    assert ">continues<" in html
    assert ">None<" not in html
    console = Console(width=100, file=io.StringIO())
    console.print(of_run(run))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "toy: 2 of 2 trials ended (2 completed)" in shown
    assert "epochs" in shown
    worse = replace(run, trials=(*trials[:2], replace(trials[2], scores=(0.6,))))
    assert [trial.number for trial in worse.ranked()] == [0, 2, 1]


# --- what is trained ---------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def line(units: int) -> keras.Model:
    inputs = keras.Input((4,))
    values = [keras.initializers.RandomNormal(seed=seed) for seed in (1, 2)]
    hidden = keras.layers.Dense(units, "tanh", kernel_initializer=values[0])(inputs)
    return keras.Model(inputs, keras.layers.Dense(1, kernel_initializer=values[1])(hidden))


def made(folder: Path, schedule: str | None = "cosine", **settings: Any) -> kb.tuner.Tuner:
    space = kb.Space(line, units=kb.choice(5, 6)).within((4,))
    recipe = kb.Recipe(
        optimizer="sgd", learning_rate=0.05, schedule=schedule, loss="mse", metrics=None
    )
    own = {"scheduler": "asha", "trials": 2, "workers": 0, "directory": folder, "seed": 1}
    hypermodel = kb.tuner.HyperModel(space, recipe, latency=False)
    return kb.tuner.Tuner(hypermodel, "val_loss", **{**own, **settings})


def searched(tuner: kb.tuner.Tuner, epochs: int = 8) -> kb.tuner.Run:
    fit = {"epochs": epochs, "batch_size": 16, "shuffle": False, "verbose": 0}
    return tuner.search(X, Y, validation_data=(X, Y), **fit)


@pytest.mark.slow
def test_a_trial_that_went_on_is_trained_as_without_a_pause(tmp_path: Path) -> None:
    """By Keras alone, with the rates that `Asha` tells: each rung's part of a cosine of its own."""
    tuner = made(tmp_path, trials=1, scheduler=kb.tuner.Asha(shortest=3))
    run = searched(tuner)
    best = run.best()
    assert best is not None
    assert [(t.number, t.continues, t.epochs) for t in run.trials] == [
        (0, None, 4),
        (1, 0, 8),
    ]
    assert best.epochs == len(best.history["val_loss"]) == 8
    rates = [
        0.05 * 0.5 * (1 + math.cos(math.pi * epoch / end))
        for begin, end in ((0, 4), (4, 8))
        for epoch in range(begin, end)
    ]
    model = line(int(best.values["units"]))
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True), "mse")
    rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: rates[epoch])
    fit = {"epochs": 8, "batch_size": 16, "shuffle": False, "verbose": 0}
    history = model.fit(X, Y, validation_data=(X, Y), callbacks=[rate], **fit).history
    assert best.history["val_loss"] == pytest.approx(history["val_loss"], rel=1e-5)
    assert min(history["val_loss"]) == pytest.approx(best.scores[0], rel=1e-5)
    for one, other in zip(tuner.get_best_models()[0].weights, model.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scheduler": "halving"}, "`scheduler` must be 'asha', a kb.tuner.Asha, or None"),
        ({"pruner": "median"}, "`scheduler` does not go with `pruner`"),
        ({"executions_per_trial": 2}, "does not go with several trainings of each trial"),
        ({"objective": ["val_loss", "params"]}, "does not go with several objectives"),
    ],
)
def test_refused_at_the_door(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    objective = settings.pop("objective", "val_loss")
    with pytest.raises(ValueError, match=told):
        kb.tuner.Tuner(
            lambda hp: line(3), objective, directory=tmp_path, **{"scheduler": "asha", **settings}
        )
    with pytest.raises(ValueError, match="`factor` must be an integer from 2"):
        kb.tuner.Asha(factor=1)


def test_one_epoch_has_no_rungs_and_another_scheduler_is_another_search(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`scheduler` needs `epochs` of search for at least two"):
        searched(made(tmp_path), epochs=1)
    searched(made(tmp_path, trials=1), epochs=2)
    with pytest.raises(ValueError, match="scheduler was Asha"):
        searched(made(tmp_path, scheduler=None), epochs=2)


# --- processes that are killed -----------------------------------------------------------


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    """A search of six trials in rungs of 1, 2 and 4 epochs, whose processes end with the test."""
    settings = {"trials": 6, "workers": 1, "scheduler": "asha"}
    with cleared(Toy(tmp_path / "runs", {"seconds": 0.15, "epochs": 4}, settings)) as search:
        yield search


def check(search: Toy) -> None:
    """What holds of every such search: all ended, every epoch is there, weights of the best."""
    run = search.run()
    assert run.tried == 6
    assert all(trial.state == "completed" for trial in run.trials)
    gone_on = [trial.continues for trial in run.trials if trial.continues is not None]
    assert len(gone_on) == len(set(gone_on))
    for epochs in (1, 2):
        ended = sorted((t for t in run.trials if t.epochs == epochs), key=lambda t: -t.scores[0])
        assert {t.number for t in ended[: len(ended) // 2]} <= set(gone_on)
    for trial in run.trials:
        assert trial.history["loss"] == [1 / (epoch + 1) for epoch in range(trial.epochs)]
    best = {f"trial-{trial.number:06d}/best.npz" for trial in run.ranked()[:3]}
    assert {name for name in search.files() if name.endswith("best.npz")} == best


def trained(search: Toy) -> list[tuple[int, int]]:
    """The trial and the number of each epoch that was trained to its end."""
    return [(int(note[1]), int(note[2])) for note in search.notes() if note[0] == "epoch"]


@pytest.mark.system
def test_a_killed_trial_goes_on_where_it_was_and_no_epoch_is_trained_twice(toy: Toy) -> None:
    toy.start()
    first = toy.wait_for("begin 2 1")  # the first that goes on: from the epoch of another one
    os.kill(int(first[3]), signal.SIGKILL)
    toy.wait_for("begin 2 1")
    main = toy.process
    toy.wait_for("end 4")
    main.kill()
    main.wait()
    toy.finish()
    check(toy)
    by_number = {trial.number: trial for trial in toy.trials()}
    assert by_number[2].attempts == 2  # its kill; that it went on is no attempt
    for number, trial in by_number.items():
        before = 0 if trial.continues is None else by_number[trial.continues].epochs
        own = [epoch for other, epoch in trained(toy) if other == number]
        assert sorted(set(own)) == list(range(before, trial.epochs))


@pytest.mark.system
def test_three_kills_end_the_trial_that_went_on_and_another_one_goes_on(toy: Toy) -> None:
    toy.plan |= {"2": "kill", "faulty_epoch": 2}
    out = toy.finish()
    assert "killed: its process ended 3 times" in out
    run = toy.run()
    failed = run.trials[2]
    assert (failed.status, failed.attempts) == ("failed", 3)
    assert run.tried == 6
    assert max(len(t.history["loss"]) for t in run.completed()) == 4
    assert failed.continues in {t.number for t in run.ranked()}


@pytest.mark.system
@pytest.mark.slow
def test_two_workers_and_kills_at_random_moments(toy: Toy) -> None:
    chance = Random(18)
    toy.settings["workers"] = 2
    for _ in range(6):
        main = toy.start(subprocess.DEVNULL)
        toy.wait_for("begin")
        with contextlib.suppress(subprocess.TimeoutExpired):
            main.wait(chance.uniform(2, 5))
        main.kill()
        main.wait()
    toy.finish()
    check(toy)
