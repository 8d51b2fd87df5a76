"""Keras Tuner hyperparameters whose values an Optuna trial suggests (define-by-run)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras_tuner
from keras_tuner.engine import hyperparameters as kinds
from keras_tuner.errors import FatalRuntimeError
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from kblocks.search_space.names import NETWORK, START

_PLAIN = (bool, int, float, str, type(None))  # value types that Keras Tuner allows
_GRID = 10  # values into which a grid splits a range without a step


class Asking(keras_tuner.HyperParameters):
    """Hyperparameters whose values are suggested when `build` or `fit` first asks for them.

    The calls may stand in loops and conditions; no model is built beforehand to find them.
    Hyperparameters in an inactive scope are not suggested.

    Args:
        ask: called with a name, its distribution and its default; returns the value.
        listed: whether ranges without a step become lists of values, for a grid.
        known: hyperparameters that are asked for first; their ranges hold.
        tunes_others, allows_others: whether hyperparameters that are not in `known` are suggested
            (else they have their default), and whether they may be there at all.
    """

    def __init__(
        self,
        ask: Callable[[str, BaseDistribution, Any], Any],
        listed: bool = False,
        known: keras_tuner.HyperParameters | None = None,
        tunes_others: bool = True,
        allows_others: bool = True,
    ) -> None:
        super().__init__()
        self._ask = ask
        self._listed = listed
        self._tunes, self._allows = tunes_others, allows_others
        self.asked: dict[str, BaseDistribution] = {}
        for one in known.space if known else ():
            self.merge([one])
            if self.is_active(one) and not isinstance(one, kinds.Fixed):
                self._suggest(one.name, one)

    # These take the arguments of `keras_tuner.HyperParameters`.

    def Int(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        return self._chosen(super().Int, args, kwargs)

    def Float(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        return self._chosen(super().Float, args, kwargs)

    def Choice(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        return self._chosen(super().Choice, args, kwargs)

    def Boolean(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        return self._chosen(super().Boolean, args, kwargs)

    def unasked(self) -> dict[str, Any]:
        """Values that `build` and `fit` set without a suggestion, as `hp.Fixed` does."""
        return {
            name: value
            for name, value in self.values.items()
            if name not in self.asked and name not in (NETWORK, START) and isinstance(value, _PLAIN)
        }

    def _chosen(self, declare: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        known = len(self.space)
        value = declare(*args, **kwargs)
        if value is None:
            return None  # inactive
        alone = _alone(declare.__name__, args, kwargs)
        name = alone.name if len(self.space) == known else self.space[-1].name
        if name not in self.asked:  # otherwise the first range holds, as in Keras Tuner
            if len(self.space) == known:
                return value  # declared before, under a name scope
            if not self._allows:
                raise FatalRuntimeError(
                    f"`hyperparameters` must have {name!r}, which the model asks for, or "
                    f"allow_new_entries must be True. Received: {sorted(self.asked)}"
                )
            if self._tunes:
                self._suggest(name, alone)
        return self.values[name]

    def _suggest(self, name: str, declared: Any) -> None:
        self.asked[name] = distribution = distribution_of(declared, self._listed)
        self.values[name] = self._ask(name, distribution, declared.default)


def declare_as(hp: keras_tuner.HyperParameters, name: str, distribution: BaseDistribution) -> None:
    """Declares a hyperparameter of Keras Tuner's with the values of an Optuna distribution."""
    match distribution:
        case CategoricalDistribution(choices=choices) if set(map(type, choices)) == {bool}:
            hp.Boolean(name)
        case CategoricalDistribution(choices=choices):
            hp.Choice(name, list(choices))
        case IntDistribution(low=low, high=high) | FloatDistribution(low=low, high=high):
            kind = hp.Int if isinstance(distribution, IntDistribution) else hp.Float
            how: dict[str, Any] = (
                {"sampling": "log"} if distribution.log else {"step": distribution.step}
            )
            kind(name, low, high, **how)


def _alone(kind: str, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """The hyperparameter that a call declares, without the scopes around it."""
    free = {k: v for k, v in kwargs.items() if k not in ("parent_name", "parent_values")}
    scratch = keras_tuner.HyperParameters()
    getattr(scratch, kind)(*args, **free)
    return scratch.space[-1]


def distribution_of(declared: Any, listed: bool = False) -> BaseDistribution:
    """The Optuna distribution of a Keras Tuner hyperparameter."""
    match declared:
        case kinds.Choice():
            return CategoricalDistribution(list(declared.values))
        case kinds.Boolean():
            return CategoricalDistribution([True, False])
        case kinds.Int() | kinds.Float():
            return _range(declared, isinstance(declared, kinds.Int), listed)
    raise TypeError(f"`hp` must declare an Int, Float, Choice or Boolean. Received: {declared!r}")


def _range(declared: Any, whole: bool, listed: bool) -> BaseDistribution:
    low, high, step = declared.min_value, declared.max_value, declared.step
    log = declared.sampling == "log"
    if log and step and step > 1 and (not whole or step != 1):
        count = math.floor(math.log(high / low) / math.log(step) + 1e-9) + 1
        return CategoricalDistribution([low * step**i for i in range(count)])
    if whole:
        step = 1 if log else step or 1
        high = low + (high - low) // step * step
        return IntDistribution(low, high, log=log, step=step)
    if step:
        high = min(high, low + math.floor((high - low) / step + 1e-9) * step)
        return FloatDistribution(low, high, step=step)
    if listed:
        shares = [i / (_GRID - 1) for i in range(_GRID)]
        values = [low * (high / low) ** s if log else low + s * (high - low) for s in shares]
        return CategoricalDistribution([*values[:-1], high])
    return FloatDistribution(low, high, log=log)
