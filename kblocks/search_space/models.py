"""The Keras models of a space whose builder returns such; each is built once to learn its cost."""

from collections.abc import Mapping
from typing import Any

import keras

from kblocks.networks.model_costs import cost_of_model
from kblocks.plans.cost import Cost
from kblocks.search_space.budget import Budget
from kblocks.search_space.tree import Point


class OverBudgetError(ValueError):
    """The Keras model of a point does not fit the input and the budget of its space."""


class Models:
    """The costs of the models of all points so far, and the model that was built last."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Cost, list[str], Any] | str] = {}
        self._last: Mapping[Any, keras.Model] = {}

    def cost(self, point: Point, input_shape: Any, budget: Budget) -> Cost:
        """The cost of the model of a point, whose input must have this shape, without the batch.

        Raises ValueError if the builder does, or a measure that the budget limits is not known.
        """
        key = _key(point)
        if key not in self._known:
            try:
                model = self.look(point)
                shapes = [tuple(x.shape[1:]) for x in getattr(model, "inputs", None) or ()]
                self._known[key] = (*cost_of_model(model), shapes)
            except ValueError as error:
                self._known[key] = str(error)
        known = self._known[key]
        if isinstance(known, str):
            raise ValueError(known)
        cost, unknown, shapes = known
        if shapes != [input_shape]:
            raise ValueError(
                f"`input_shape` must be that of the model's only input, {shapes}. "
                f"Received: input_shape={input_shape}"
            )
        limits = [limit for limit in budget.limits() if not limit.endswith("params")]
        if unknown and limits:
            raise ValueError(
                "`budget` can limit only the params of a model with layers of unknown cost. "
                f"Received: {limits[0]}; {', '.join(unknown)}"
            )
        return cost

    def exceeded(self, point: Point, input_shape: Any, budget: Budget) -> dict[str, float]:
        """What the model of a point breaks, as `Budget.exceeded` says it.

        Nothing if its builder raises anything but a ValueError, which the point's trial reports.
        """
        try:
            return budget.exceeded(self.cost(point, input_shape, budget))
        except ValueError:
            raise
        except Exception:
            return {}

    @staticmethod
    def check(budget: Budget) -> None:
        """Raises ValueError if a budget has limits to which no Keras model can be held."""
        memory = [name for name in budget.limits() if "memory" in name]
        if memory:
            raise ValueError(
                "`budget` can limit Keras models to params, macs and activations; memory is "
                f"estimated for Architectures alone. Received: a limit on {memory[0]}"
            )

    def look(self, point: Point) -> keras.Model:
        """The model of a point to read from, not to train."""
        key = _key(point)
        if key not in self._last:
            self._last = {}  # freed before the next one is built
            self._last = {key: point.bound.model}
        return self._last[key]

    def take(self, point: Point) -> keras.Model:
        """The model of a point, which is the caller's alone."""
        model = self.look(point)
        self.forget()
        return model

    def forget(self) -> None:
        """Frees the model that was built last."""
        self._last = {}


def _key(point: Point) -> Any:
    """The point, and the dtypes with which its model is built."""
    return *point.recorded.items(), keras.config.dtype_policy().name
