"""The learning rate of each step: the schedules of a recipe as callbacks for `fit`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras

_ops: Any = keras.ops  # its functions are annotated as if they could return None
SCHEDULES = ("cosine", "one-cycle", "linear", "steps")
# Corners: (share of all steps, factor of the highest learning rate).
_ONE_CYCLE = ((0.0, 0.1), (0.45, 1.0), (0.9, 0.1), (1.0, 0.0))
_STEPS = ((0.5, 1.0), (0.5, 0.1), (0.75, 0.1), (0.75, 0.01))


@keras.saving.register_keras_serializable("kblocks")
class PiecewiseLinear(keras.optimizers.schedules.LearningRateSchedule):
    """Straight lines between points of (step, learning rate); constant before and after them.

    Of two points at the same step, the second holds from that step on.
    """

    def __init__(self, points: Sequence[Sequence[float]]) -> None:
        self.points = [[float(step), float(rate)] for step, rate in points]

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step, counted from 0."""
        step = _ops.cast(step, "float32")
        rate = _ops.zeros_like(step) + self.points[0][1]
        for (start, low), (end, high) in itertools.pairwise(self.points):
            share = _ops.clip((step - start) / max(end - start, 1e-3), 0.0, 1.0)
            rate = _ops.where(step >= start, low + (high - low) * share, rate)
        end, last = self.points[-1]
        return _ops.where(step >= end, last, rate)

    def get_config(self) -> dict[str, Any]:
        return {"points": self.points}


@keras.saving.register_keras_serializable("kblocks")
class Delayed(keras.optimizers.schedules.LearningRateSchedule):
    """Another schedule that begins at a step other than 0."""

    def __init__(self, schedule: Any, begin: int) -> None:
        self.schedule, self.begin = schedule, begin

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step, counted from 0."""
        return self.schedule(_ops.maximum(step - self.begin, 0))

    def get_config(self) -> dict[str, Any]:
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "begin": self.begin}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Delayed:
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]), config["begin"])


def schedule_of(kind: str | None, rate: float, warmup: float, steps: int) -> Any:
    """The Keras schedule of a training, by the arguments of `Recipe`.

    Args:
        kind: one of `SCHEDULES`, or None.
        rate: the highest learning rate.
        warmup: the share of the steps in which the rate rises from zero.
        steps: how many steps the whole training has.
    """
    warm = int(warmup * steps)
    if kind == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            0.0, steps - warm, warmup_target=rate, warmup_steps=warm
        )
    corners: Any = _ONE_CYCLE
    if kind != "one-cycle":
        after = {"linear": ((1.0, 0.0),), "steps": _STEPS, None: ()}[kind]
        end = warm / steps
        corners = ((0.0, 0.0), (end, 1.0), *((max(at, end), factor) for at, factor in after))
    return PiecewiseLinear([(share * steps, factor * rate) for share, factor in corners])


class Scheduled(keras.callbacks.Callback):
    """Gives the optimizer its schedule when `fit` knows how many steps an epoch has.

    The optimizer counts the steps, and its counter is part of a checkpoint, so a resumed training
    has the rates that it would have had.
    """

    def __init__(self, kind: str | None, rate: float, warmup: float, epochs: int) -> None:
        super().__init__()
        self._arguments, self._epochs = (kind, rate, warmup), epochs
        self._begun = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Notes that the next epoch is the first of this call of `fit`."""
        self._begun = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Sets the schedule before the first step of this call of `fit`."""
        if self._begun:
            return
        self._begun = True
        model: Any = self.model
        steps = (self.params or {}).get("steps")
        if steps is None:
            raise ValueError(
                "`schedule` and `warmup` need the number of steps in an epoch: give "
                "`steps_per_epoch` to fit. Received: data of unknown length"
            )
        plan = schedule_of(*self._arguments, self._epochs * steps)
        counter = getattr(model.optimizer, "inner_optimizer", model.optimizer).iterations
        begin = int(_ops.convert_to_numpy(counter)) - epoch * steps  # not 0 in a second fit
        model.optimizer.learning_rate = Delayed(plan, begin) if begin else plan
        model.make_train_function(force=True)  # for a step traced with an earlier schedule


def first_rate(kind: str | None, rate: Any, warmup: float) -> Any:
    """The optimizer's learning rate until `fit` begins: a schedule where one will replace it."""
    replaced = (kind or warmup) and not _is_by_epoch(kind, warmup)
    return PiecewiseLinear([(0, rate)]) if replaced else rate


def _is_by_epoch(kind: str | None, warmup: float) -> bool:
    return kind == "cosine" and not warmup


def callbacks_of(
    kind: str | None, rate: float, warmup: float, epochs: int
) -> list[keras.callbacks.Callback]:
    """The callbacks that `fit` needs for a schedule."""
    if _is_by_epoch(kind, warmup):
        return [keras.callbacks.LearningRateScheduler(partial(_cosine, rate, epochs))]
    return [Scheduled(kind, rate, warmup, epochs)] if kind or warmup else []


def _cosine(start: float, epochs: int, epoch: int, rate: float = 0.0) -> float:
    """The learning rate of an epoch; the current one, `rate`, has no effect."""
    return start * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
