"""What a search tries in its first trials: what it has not tried, then what promises most.

With few trials this finds good points sooner than samplers that need many
(`benchmarks/search_worlds.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from kblocks.search_space.choices import Choice
from kblocks.search_space.tree import Point, Positions
from kblocks.tuner.choosing.points import Points

# For scores with mean 0 and standard deviation 1:
_SPREAD = 0.5  # the standard deviation of each coefficient before the first trial
_NOISE = 0.3  # the variance of what no coefficient explains
_LARGER = 0.5  # how much better a network with e times as many multiply-adds is expected to be


class Expected:
    """Predicts the scores of points with a linear model.

    It adds up effects of the options of each choice, of numbers and their squares, and of the
    multiply-adds.

    Args:
        points: the points of the search.
        tried: some of them.
        scores: their scores, higher is better, as `standing` returns them.
    """

    def __init__(self, points: Points, tried: Sequence[Point], scores: Sequence[float]) -> None:
        self._points = points
        numbers = np.array([[*self._numbers(point), self._size(point)] for point in tried])
        self._slopes = slopes(numbers, scores)

    def of_choices(self, point: Point) -> float:
        """What the values of a point add to its predicted score."""
        return float(self._slopes[:-1] @ self._numbers(point))

    def __call__(self, point: Point) -> float:
        """The predicted score of a point, up to a constant."""
        return self.of_choices(point) + float(self._slopes[-1]) * self._size(point)

    def _size(self, point: Point) -> float:
        return math.log(max(self._points.macs(point), 1))

    def _numbers(self, point: Point) -> list[float]:
        """The values of a point as numbers; those of an inactive choice are as of no option."""
        active = {dimension.name for dimension in point.active}
        found: list[float] = []
        for name, kind in self._points.kinds.items():
            if isinstance(kind, Choice):
                place = point[name] if name in active else None
                found += [(index == place) - 1 / kind.size for index in range(kind.size)]
            else:
                share = 2 * kind.share(point[name], 0.5) - 1 if name in active else 0.0
                found += [share, share**2 - 1 / 3]
        return found


def slopes(numbers: np.ndarray, scores: Sequence[float]) -> np.ndarray:
    """The coefficient of each column; the last one is the logarithm of the multiply-adds.

    By Bayesian linear regression (Bishop 2006, "Pattern Recognition and Machine Learning", section
    3.3).

    Args:
        numbers: one row for each trial.
        scores: of the trials, as `standing` returns them.
    """
    around = numbers - numbers.mean(0)
    before = np.zeros(numbers.shape[1])
    before[-1] = _LARGER
    covariance = _SPREAD**2 * around @ around.T + _NOISE * np.eye(len(around))
    surprise = np.linalg.solve(covariance, np.array(scores) - around @ before)
    return before + _SPREAD**2 * around.T @ surprise


def standing(scores: Sequence[float]) -> list[float]:
    """The scores by their ranks, as quantiles of the normal distribution: no outlier decides.

    Equal scores get equal numbers; the middle is 0.
    """
    known, ordered = np.array(scores), np.sort(scores)
    ranks = np.searchsorted(ordered, known) + np.searchsorted(ordered, known, side="right")
    return [NormalDist().inv_cdf(float(rank) / (2 * len(known))) for rank in ranks]


def least_tried(tried: Sequence[Point], recipes: Sequence[Positions]) -> Positions:
    """The first of the recipes whose options were tried least often; real numbers do not count."""

    def often(recipe: Positions) -> int:
        options = [(n, place) for n, place in recipe.items() if isinstance(place, int)]
        return sum(point[name] == place for point in tried for name, place in options)

    return min(recipes, key=often)
