"""The importance of each choice: the share of the scores' variance that it accounts for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kblocks.tuner.reporting.text import number, plain
from kblocks.tuner.reporting.view import Shown, spread

LEAST = 10  # with fewer trials there is no importance
_MOST = 1000  # the most trials that the forests learn from
_FOLDS, _REPEATS, _TREES = 5, 5, 60
_OPTIONS = 30  # the most options of a non-numeric choice; rarer ones count as one


@dataclass(frozen=True)
class Importance:
    """The importance of choices by a random forest."""

    # By choice, the largest first: the share of the variance of the scores' ranks that it accounts
    # for, alone and together with others.
    shares: dict[str, float]
    explained: float  # the share that the forest predicts on unseen trials (R²)
    trials: int  # that were used


def importance(trials: Sequence[Shown], objective: int = 0) -> Importance | None:
    """Permutation importance with cross-validation (Breiman 2001, Random Forests, section 10).

    A choice's share is half the growth of the squared error on unseen trials when the choice's
    values are shuffled. If the score is a sum of functions of one choice each, this is the variance
    of the choice's own term (Gregorutti et al. 2017, arXiv:1310.5726, Proposition 1).

    A choice that only some trials have gets the value "absent" in the others, and is shuffled only
    among the trials that have it, so it gets no credit for its parent's effect. Ranks replace
    scores, so that one diverged loss does not outweigh all others.

    Returns None for fewer than 10 trials, or if all scores or all values are equal.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    trials = spread(trials, _MOST)
    names = list(dict.fromkeys(name for trial in trials for name in trial.values))
    names = [name for name in names if len({_key(trial, name) for trial in trials}) > 1]
    target = _ranks([trial.scores[objective] for trial in trials])
    if len(trials) < LEAST or not names or target.var() == 0:
        return None
    random = np.random.default_rng(0)
    blocks = [_columns(trials, name) for name in names]
    active = [np.array([name in trial.values for trial in trials]) for name in names]
    ends = np.cumsum([block.shape[1] for block in blocks])
    table = np.hstack(blocks)
    error, worse = 0.0, np.zeros(len(names))
    for known, unseen in KFold(_FOLDS, shuffle=True, random_state=0).split(table):
        forest = RandomForestRegressor(_TREES, max_features=0.5, random_state=0)
        forest.fit(table[known], target[known])
        variants = [table[unseen]]
        for end, block, has in zip(ends, blocks, active, strict=True):
            rows = np.flatnonzero(has[unseen])
            for _ in range(_REPEATS):
                shuffled = table[unseen].copy()
                columns = slice(end - block.shape[1], end)
                shuffled[rows, columns] = shuffled[random.permutation(rows), columns]
                variants.append(shuffled)
        told = forest.predict(np.concatenate(variants)).reshape(len(variants), -1)
        errors = ((told - target[unseen]) ** 2).sum(axis=1)
        error += errors[0]
        worse += errors[1:].reshape(len(names), _REPEATS).mean(axis=1) - errors[0]
    total = 2 * target.var() * len(target)
    shares = {name: float(max(w / total, 0.0)) for name, w in zip(names, worse, strict=True)}
    ordered = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return Importance(ordered, float(1 - 2 * error / total), len(trials))


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether all values are finite numbers."""
    return all(number(value) is not None for value in values)


def _key(trial: Shown, name: str) -> Any:
    return plain(trial.values[name]) if name in trial.values else None


def _columns(trials: Sequence[Shown], name: str) -> np.ndarray:
    """The forest's input for a choice: a numeric column, or one 0/1 column for each option.

    Trials without the choice get a number below all others, or only zeros.
    """
    had = [trial.values[name] for trial in trials if name in trial.values]
    if is_numeric(had):
        low, high = float(min(had)), float(max(had))
        absent = low - max(high - low, 1.0)
        return np.array([[float(trial.values.get(name, absent))] for trial in trials])
    found = [_key(trial, name) for trial in trials]
    options = sorted(dict.fromkeys(key for key in found if key is not None), key=found.count)
    options = options[-_OPTIONS:]  # a set's order would differ from process to process
    return np.array([[key == option for option in options] for key in found], float)


def _ranks(scores: Sequence[float]) -> np.ndarray:
    """Ranks from 0 up; equal scores get their mean rank."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[place]
