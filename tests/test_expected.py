"""The linear model of a search's first trials, which proposes the next ones."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

import kblocks as kb
from kblocks.search_space.tree import Point
from kblocks.tuner.choosing.expected import Expected, standing
from kblocks.tuner.choosing.point_sampler import chooser
from kblocks.tuner.choosing.points import Points
from kblocks.tuner.records import CONTINUES, Objective

INPUT = (8, 8, 1)
SPACE = kb.Space(
    kb.resnet,
    classes=3,
    blocks=[1, kb.choice(1, 2)],
    filters=[kb.choice(4, 8), kb.choice(8, 16)],
    kernel_size=kb.choice(3, 5),
    stem={"filters": 4, "kernel_size": 3, "strides": 1, "pool": None},
).within(INPUT)
RECIPE = kb.Recipe(
    learning_rate=kb.real(1e-4, 1e-1, log=True, default=1e-3),
    augmentation=kb.choice(None, "flip", "flip+shift"),
    label_smoothing=kb.choice(0.0, 0.1),
)
HYPERMODEL = kb.tuner.HyperModel(SPACE, RECIPE, latency=False)
POINTS = Points(HYPERMODEL)
AUGMENTATION = (None, "flip", "flip+shift")


def numbers(point: Point) -> list[float]:
    """A point as numbers, written out for the space above."""
    values = point.values
    found: list[float] = []
    for name, options in (
        ("blocks[1]", (1, 2)),
        ("filters[0]", (4, 8)),
        ("filters[1]", (8, 16)),
        ("kernel_size", (3, 5)),
    ):
        found += [(values[name] == option) - 1 / len(options) for option in options]
    rate = 2 * (np.log10(values["recipe.learning_rate"]) + 4) / 3 - 1
    found += [rate, rate**2 - 1 / 3]
    found += [(values["recipe.augmentation"] == o) - 1 / 3 for o in AUGMENTATION]
    found += [(values["recipe.label_smoothing"] == option) - 1 / 2 for option in (0.0, 0.1)]
    size = Point(SPACE.tree, point.positions).network.cost(INPUT).macs
    return [*found, np.log(size)]


def drawn(count: int, seed: int = 0) -> list[Point]:
    random = Random(seed)
    return [POINTS.random(random) for _ in range(count)]


@pytest.mark.parametrize("count", [2, 5, 40])
def test_it_is_bayesian_linear_regression(count: int) -> None:
    """The same as by the textbook's formula, which solves for the coefficients (Bishop 3.53)."""
    tried, others = drawn(count), drawn(10, seed=1)
    scores = np.random.default_rng(0).normal(0.7, 0.1, count)
    rows = np.array([numbers(one) for one in [*tried, *others]])
    x = rows[:count] - rows[:count].mean(0)
    y = scores - scores.mean()  # of rows around 0, the mean of the scores changes nothing
    before = np.zeros(x.shape[1])
    before[-1] = 0.5
    precision = np.eye(x.shape[1]) / 0.5**2 + x.T @ x / 0.3
    slopes = np.linalg.solve(precision, before / 0.5**2 + x.T @ y / 0.3)
    expected = Expected(POINTS, tried, list(scores))
    found = np.array([expected(one) for one in others])
    np.testing.assert_allclose(found, rows[count:] @ slopes, rtol=1e-9, atol=1e-9)


def test_it_learns_nothing_from_equal_scores() -> None:
    """Then a larger network is expected to be better."""
    expected = Expected(POINTS, drawn(5), [0.5] * 5)
    others = drawn(20, seed=1)
    best = max(others, key=expected)
    assert POINTS.macs(best) == max(map(POINTS.macs, others))


def search(direction: Any, trials: int, **attributes: Any) -> list[optuna.trial.FrozenTrial]:
    """A search in which only the augmentation matters; `attributes` are those of each trial."""
    study = optuna.create_study(direction=direction)
    objective = Objective("val_accuracy", "max" if direction == "maximize" else "min")
    sampler = study.sampler = chooser("tpe", 3, 0, HYPERMODEL, study, [objective])
    for _ in range(trials):
        trial = study.ask()
        sampler.settle(trial, lambda owner: False)
        quality = AUGMENTATION.index(POINTS.point(trial.params).values["recipe.augmentation"])
        score = float(quality if direction == "maximize" else -quality)
        study.tell(trial, score)
        for name, value in attributes.items():
            study.add_trial(
                optuna.trial.create_trial(
                    value=-100.0 * score,  # which would mislead
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs={name: value},
                )
            )
    return study.get_trials()


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_once_it_has_seen_the_best_option_it_proposes_that(direction: Any) -> None:
    """In three of four trials; what continues a trial on a higher rung does not count."""
    for attributes in ({}, {CONTINUES: 0}):
        trials = [t for t in search(direction, 16, **attributes) if not t.user_attrs]
        chosen = [POINTS.point(t.params).values["recipe.augmentation"] for t in trials]
        assert set(chosen[:3]) == set(AUGMENTATION)  # a recipe unlike those before
        later = [option for number, option in enumerate(chosen) if number > 8 and number % 4]
        assert later == ["flip+shift"] * len(later)


def test_standing_is_by_rank() -> None:
    """Quantiles of the normal distribution (SciPy's `norm.ppf`), the same for equal scores."""
    assert standing([0.9, 1e6, 0.1, 0.5]) == pytest.approx(
        [0.318639, 1.150349, -1.150349, -0.318639], abs=1e-6
    )
    assert standing([0.7, 0.7, -np.inf]) == pytest.approx([0.430727, 0.430727, -0.967422], abs=1e-6)
    assert standing([0.5] * 5) == [0.0] * 5


def rate_of(trial: optuna.trial.FrozenTrial) -> float:
    return POINTS.point(trial.params).values["recipe.learning_rate"]


def test_it_does_not_go_on_to_propose_what_diverges() -> None:
    """The higher the learning rate the better, up to 1e-2, from where each trial diverges."""
    diverged = []
    for seed in range(4):
        study = optuna.create_study(direction="maximize")
        objective = Objective("val_accuracy", "max")
        sampler = study.sampler = chooser("tpe", seed, 0, HYPERMODEL, study, [objective])
        for _ in range(20):
            trial = study.ask()
            sampler.settle(trial, lambda owner: False)
            rate = rate_of(study.get_trials()[-1])
            is_over = rate > 1e-2
            score = None if is_over else float(np.log10(rate))
            study.tell(trial, score, state=TrialState.PRUNED if is_over else None)
        states = [trial.state for trial in study.get_trials()]
        diverged.append(states.count(TrialState.PRUNED))
    assert max(diverged) <= 8  # random points: a third of 20, which is 7


def test_an_exploded_loss_does_not_hide_all_others() -> None:
    study = optuna.create_study(direction="minimize")
    objective = Objective("val_loss", "min")
    sampler = study.sampler = chooser("tpe", 3, 0, HYPERMODEL, study, [objective])
    losses = {None: 1.0, "flip": 0.8, "flip+shift": 0.5}
    for number in range(20):
        trial = study.ask()
        sampler.settle(trial, lambda owner: False)
        option = POINTS.point(trial.params).values["recipe.augmentation"]
        study.tell(trial, 1e4 if number == 0 else losses[option])
    found = [POINTS.point(t.params).values["recipe.augmentation"] for t in study.get_trials()]
    assert found[8:].count("flip+shift") >= 8  # of twelve, of which three are random


def test_processes_that_ask_at_once_propose_different_recipes() -> None:
    study = optuna.create_study(direction="maximize")
    sampler = study.sampler = chooser(
        "tpe", 3, 0, HYPERMODEL, study, [Objective("val_accuracy", "max")]
    )
    random = np.random.default_rng(0)
    for number in range(13):
        trial = study.ask()
        sampler.settle(trial, lambda owner: False)
        if number < 5:
            study.tell(trial, float(random.random()))
    begun = study.get_trials()[5:]
    options = {
        tuple(v for k, v in trial.params.items() if "learning_rate" not in k) for trial in begun
    }
    assert len(options) >= 4


def test_a_recipe_that_was_tried_gives_way_to_the_next() -> None:
    """A space of one network: each of the first 20 points but the plain ones is the model's."""
    one = kb.Space(kb.resnet, classes=3, blocks=[1], filters=[4]).within(INPUT)
    recipe = kb.Recipe(label_smoothing=kb.choice(*(i / 100 for i in range(30))))
    hypermodel = kb.tuner.HyperModel(one, recipe, latency=False)
    study = optuna.create_study(direction="maximize")
    objective = Objective("val_accuracy", "max")
    sampler = study.sampler = chooser("tpe", 3, 0, hypermodel, study, [objective])
    points = Points(hypermodel)
    for _ in range(20):
        trial = study.ask()
        sampler.settle(trial, lambda owner: False)
        smoothing = points.point(trial.params).values["recipe.label_smoothing"]
        study.tell(trial, -smoothing)
    assert len({str(trial.params) for trial in study.get_trials()}) == 20


def test_with_a_cost_among_the_objectives_points_are_random() -> None:
    """As those of a random search, draw by draw."""
    costs = [Objective("val_accuracy", "max"), Objective("macs", "min")]
    studies = [optuna.create_study(directions=["maximize", "minimize"]) for _ in range(2)]
    found = []
    for study, name in zip(studies, ("tpe", "random"), strict=True):
        sampler = study.sampler = chooser(name, 3, 0, HYPERMODEL, study, costs)
        for _ in range(8):
            trial = study.ask()
            sampler.settle(trial, lambda owner: False)
            study.tell(trial, [0.5, 1.0])
        found.append([trial.params for trial in study.get_trials()])
    assert found[0] == found[1]
