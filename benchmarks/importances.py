"""python benchmarks/importances.py    (about 2 minutes)

How often the choice that decides the score is ranked first, in 12 invented studies with five
choices, of which only some trials have one, `momentum`: by Optuna's PED-ANOVA (all choices), by its
fANOVA (the choices that all trials have, as it takes no others) and by the report of kblocks. In
the first rows one of the four other choices decides, in the last rows `momentum` itself.
"""

from __future__ import annotations

import warnings
from random import Random

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import (
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import create_trial

from kblocks.tuner.records import read
from kblocks.tuner.reporting.importance import importance
from kblocks.tuner.reporting.view import View

CHOICES = {
    "optimizer": CategoricalDistribution(["sgd", "adam", "lion"]),
    "depth": IntDistribution(1, 6),
    "rate": FloatDistribution(0.0, 1.0),
    "pool": CategoricalDistribution(["max", "avg"]),
    "momentum": FloatDistribution(0.0, 1.0),  # only under optimizer="sgd"
}
STUDIES, TRIALS, NOISE = 12, (12, 20, 50), 0.1
QUANTILES = (0.1, 0.25, 0.5)  # of PED-ANOVA: the share of trials that count as good; 0.1 is usual


def made(decides: str, trials: int, seed: int) -> optuna.Study:
    """A study of random points, scored by the value of one choice, from 0 to 1, and noise."""
    random, study = Random(seed), optuna.create_study(direction="maximize")
    for _ in range(trials):
        places = {name: random.random() for name in CHOICES}
        points = {name: _value(name, place) for name, place in places.items()}
        if points["optimizer"] != "sgd":
            del points["momentum"]
        place = places[decides] if decides in points else 0.5
        study.add_trial(
            create_trial(
                params=points,
                distributions={name: CHOICES[name] for name in points},
                value=place + random.gauss(0, NOISE),
            )
        )
    return study


def _value(name: str, place: float) -> object:
    kind = CHOICES[name]
    if isinstance(kind, CategoricalDistribution):
        return kind.choices[int(place * len(kind.choices))]
    return int(1 + 6 * place) if isinstance(kind, IntDistribution) else place


def firsts(study: optuna.Study) -> list[str | None]:
    """The choice that each measure ranks first; None if it ranks nothing."""
    judges = [PedAnovaImportanceEvaluator(target_quantile=share) for share in QUANTILES]
    found: list[str | None] = []
    for judge in (*judges, FanovaImportanceEvaluator(seed=0)):
        shares = get_param_importances(study, evaluator=judge)
        found.append(max(shares, key=lambda name: shares[name], default=None))
    ours = importance(View(read(study)).scored)
    return [*found, None if ours is None else next(iter(ours.shares))]


def main() -> None:
    """Prints a row for each number of trials."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(
        f"| decides | trials | {' | '.join(f'PED-ANOVA {q}' for q in QUANTILES)} | fANOVA | ours |"
    )
    print(f"|{'---|' * (len(QUANTILES) + 4)}")
    others = [name for name in CHOICES if name != "momentum"]
    for label, deciding in (("another", others), ("momentum", ["momentum"])):
        for trials in TRIALS:
            right = [0] * (len(QUANTILES) + 2)
            for seed in range(STUDIES):
                decides = deciding[seed % len(deciding)]
                for place, first in enumerate(firsts(made(decides, trials, seed))):
                    right[place] += first == decides
            print(f"| {label} | {trials} | {' | '.join(map(str, right))} |", flush=True)


if __name__ == "__main__":
    main()
