"""`Budget`: limits on what a network costs."""

import contextlib
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from kblocks.common.quantities import number_of
from kblocks.common.showing import call_of
from kblocks.networks.architecture import Architecture
from kblocks.networks.memory import inference_memory, training_memory
from kblocks.plans.cost import Cost

_MEMORY = ("training_memory", "inference_memory")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Upper and lower limits on the cost of a network, in the units of `kb.Cost`.

    A limit is a number, or a text such as "20M".

    Args:
        params: the largest number of parameters.
        macs: the largest number of multiply-adds, batch 1.
        activations: the largest number of elements that convolutions and linear layers output,
            batch 1.
        training_memory: the most bytes in training, as `kb.training_memory` estimates them.
        inference_memory: the most bytes of tensors alive at once, batch 1, as
            `kb.inference_memory` estimates them.
        min_params, min_macs, min_activations, min_training_memory, min_inference_memory: the
            lower limits.
        batch_size: the images in a batch for `training_memory`.

    Raises:
        ValueError: if a limit is not a positive number, a lower limit exceeds its upper one, or
            `batch_size` is not a positive integer.
    """

    params: float | str | None = None
    macs: float | str | None = None
    activations: float | str | None = None
    training_memory: float | str | None = None
    inference_memory: float | str | None = None
    min_params: float | str | None = None
    min_macs: float | str | None = None
    min_activations: float | str | None = None
    min_training_memory: float | str | None = None
    min_inference_memory: float | str | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        for field in fields(self):
            text = getattr(self, field.name)
            if isinstance(text, str) and field.name != "batch_size":
                with contextlib.suppress(ValueError):  # refused below
                    object.__setattr__(self, field.name, number_of(text))
        for name, limit in self.limits().items():
            if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
                raise ValueError(f"`{name}` must be a positive number. Received: {name}={limit!r}")
            most = getattr(self, name.removeprefix("min_")) or math.inf
            if limit > most:
                raise ValueError(f"`{name}` must be at most {most:,}. Received: {name}={limit:,}")
        size = self.batch_size
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"`batch_size` must be a positive integer. Received: {size!r}")

    def __repr__(self) -> str:
        return call_of(self)

    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return dict(self._limits)

    @functools.cached_property
    def _limits(self) -> dict[str, float]:
        names = [field.name for field in fields(self) if field.name != "batch_size"]
        found = {name: getattr(self, name) for name in names}
        return {name: limit for name, limit in found.items() if limit is not None}

    @functools.cached_property
    def _memory_limits(self) -> list[str]:
        return [kind for kind in _MEMORY if {kind, f"min_{kind}"} & set(self._limits)]

    def memory(self, net: Architecture, input_shape: Any) -> dict[str, int]:
        """The estimated bytes of each kind of memory that the budget limits."""
        return {
            kind: inference_memory(net, input_shape)
            if kind == "inference_memory"
            else training_memory(net, input_shape, self.batch_size)
            for kind in self._memory_limits
        }

    def exceeded(self, cost: Cost, memory: Mapping[str, int] | None = None) -> dict[str, float]:
        """By what factor, above 1, a network misses each limit that it breaks, by the limit's name.

        `memory` is what the method of this name returns; None skips the limits on memory.
        """
        broken = {}
        for name, limit in self._limits.items():
            measure = name.removeprefix("min_")
            if memory is None and measure in _MEMORY:
                continue
            amount = memory[measure] if memory and measure in _MEMORY else getattr(cost, measure)
            if measure == name and amount > limit:
                broken[name] = amount / limit
            elif measure != name and amount < limit:
                broken[name] = limit / max(amount, 1)
        return broken

    @property
    def has_least(self) -> bool:
        """Whether there is a lower limit, so that a network can be too small."""
        return any(name.startswith("min_") for name in self.limits())
