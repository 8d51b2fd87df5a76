"""`Budget`: what a network may cost."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from kblocks.networks.memory import inference_memory, training_memory
from kblocks.plans.cost import Cost

_MEMORY = ("training_memory", "inference_memory")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits that a network must keep, each in the unit of the `Cost` it is held against.

    Args:
        params: the most parameters.
        macs: the most multiply-adds, batch 1.
        activations: the most elements that convolutions and linear layers put out, batch 1.
        training_memory: the most bytes in training, by `kb.training_memory`'s estimate.
        inference_memory: the most bytes of tensors alive at once, batch 1, by
            `kb.inference_memory`'s estimate.
        min_params, min_macs, min_activations, min_training_memory, min_inference_memory: the
            least of each.
        batch_size: that `training_memory` is for.

    Raises:
        ValueError: if a limit is not a positive number, or a least is over its most.
    """

    params: float | None = None
    macs: float | None = None
    activations: float | None = None
    training_memory: float | None = None
    inference_memory: float | None = None
    min_params: float | None = None
    min_macs: float | None = None
    min_activations: float | None = None
    min_training_memory: float | None = None
    min_inference_memory: float | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name, limit in self.limits().items():
            if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
                raise ValueError(f"`{name}` must be a positive number. Received: {name}={limit!r}")
            most = getattr(self, name.removeprefix("min_")) or math.inf
            if limit > most:
                raise ValueError(
                    f"`{name}` must not be over its most, {most:,}. Received: {name}={limit:,}"
                )
        size = self.batch_size
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"`batch_size` must be a positive integer. Received: {size!r}")

    def __repr__(self) -> str:
        limits = dict(self._limits)
        if "training_memory" in self._memory_limits:
            limits["batch_size"] = self.batch_size
        return f"Budget({', '.join(f'{name}={limit!r}' for name, limit in limits.items())})"

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

    def memory(self, net: Any, input_shape: Any) -> dict[str, int]:
        """The bytes that a network needs, of those kinds that are limited."""
        found = {}
        for kind in self._memory_limits:
            if kind == "training_memory":
                found[kind] = training_memory(net, input_shape, self.batch_size)
            else:
                found[kind] = inference_memory(net, input_shape)
        return found

    def exceeded(self, cost: Cost, memory: Mapping[str, int] | None = None) -> dict[str, float]:
        """How many times each broken limit is missed, by its name; empty where all are kept.

        Args:
            cost: of the network.
            memory: what `memory` gives; limits of memory are not asked where it is None.
        """
        broken = {}
        for name, limit in self._limits.items():
            kind = name.removeprefix("min_")
            if kind in _MEMORY:
                if memory is None:
                    continue
                amount = memory[kind]
            else:
                amount = getattr(cost, kind)
            if kind == name and amount > limit:
                broken[name] = amount / limit
            elif kind != name and amount < limit:
                broken[name] = limit / max(amount, 1)
        return broken

    @property
    def has_least(self) -> bool:
        """Whether a network can be too small."""
        return any(name.startswith("min_") for name in self.limits())
