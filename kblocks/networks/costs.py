"""The cost of an architecture's rows; equal blocks on equal input shapes are computed once."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kblocks.blocks.stages import stage_of
from kblocks.networks.rows import INPUT, Row, walk_rows
from kblocks.plans.cost import Cost, total
from kblocks.plans.geometry import InputTooSmallError, missing_pixels


def costs_of(rows: Sequence[Row], needed: Collection[str], input_shape: Any) -> dict[str, Cost]:
    """The cost of each row in `needed`, by name; raises what `Architecture.cost` does."""
    try:
        return walked(rows, needed, input_shape)
    except InputTooSmallError as error:
        height, width, channels = input_shape
        missing = missing_pixels(lambda n: walked(rows, needed, (height + n, width + n, channels)))
        if math.isinf(missing):
            raise
        larger = (height + missing, width + missing, channels)
        hint = f"an input of {larger} would fit"
        if height == width:
            hint = f"the smallest input that fits is {larger}"
        raise InputTooSmallError(f"{error}; {hint}", missing) from error


def shown_total(costs: Mapping[str, Cost], shown: Mapping[str, str]) -> Cost:
    """The sum of the costs of rows, with the shapes of the outputs `shown`."""
    shapes = {name: costs[row].output_shape for name, row in shown.items()}
    return total(costs.values(), shapes if len(shapes) > 1 else next(iter(shapes.values())))


def by_stage(costs: Mapping[str, Cost]) -> dict[str, list[Cost]]:
    """The costs of the rows of each stage, from those by row."""
    stages: dict[str, list[Cost]] = {}
    for name, cost in costs.items():
        stages.setdefault(stage_of(name), []).append(cost)
    return stages


def walked(rows: Sequence[Row], needed: Collection[str], input_shape: Any) -> dict[str, Cost]:
    """`costs_of`, whose error does not name the smallest input that fits."""
    params: dict[str, int] = {}
    shapes: dict[str, Any] = {INPUT: tuple(input_shape)}
    seen: dict[Any, Cost] = {}
    costs: dict[str, Cost] = {}
    for row, origin, spec, source in walk_rows(rows, shapes, needed):
        key = (_price(spec), str(source) if isinstance(source, list) else source)
        if key not in seen:
            seen[key] = _located(row.name, spec, source)
        found = seen[key]
        if origin in params:
            if found.params != params[origin]:
                raise ValueError(
                    f"{row.name} cannot share the weights of {origin}: on an input of {source} "
                    f"it has {found.params} parameters, not {params[origin]}"
                )
            found = dataclasses.replace(found, params=0, trainable_params=0)
        else:
            params[origin] = found.params
        costs[row.name] = found
        shapes[row.name] = found.output_shape
    return costs


def _price(spec: Any) -> Any:
    """A key for Specs of equal cost: the same Spec, or copies with other stochastic depth."""
    values = spec.__dict__
    if not values.get("stochastic_depth"):
        return id(spec)
    return type(spec), *(id(value) for name, value in values.items() if name != "stochastic_depth")


def _located(name: str, spec: Any, shape: Any) -> Cost:
    try:
        return spec.cost(shape)
    except InputTooSmallError as error:
        raise InputTooSmallError(f"{name}: {error}", error.missing) from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
