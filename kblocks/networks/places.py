"""Finds the layers of a model, and of the models in it, by the names of stages and layers."""

from collections.abc import Iterator
from typing import Any

import keras

from kblocks.blocks.stages import stage_of, unknown_stage

Chain = tuple[Any, ...]  # a layer, after the models around it


def chains_in(model: Any, around: Chain = ()) -> Iterator[Chain]:
    """Each layer but inputs, after the models around it; a model comes after its layers."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from chains_in(layer, (*around, layer))
        if not isinstance(layer, keras.layers.InputLayer):
            yield (*around, layer)


def place_of(chain: Chain) -> str:
    """The name of a layer after those of the models around it: "backbone/stage1_block1"."""
    return "/".join(layer.name for layer in chain)


def full_name(model: Any, argument: str, name: str) -> str:
    """The name of a stage, layer or part, after those of the models around it."""
    if not isinstance(name, str):
        raise unknown_stage(argument, name, list(map(place_of, chains_in(model))))
    first = name.partition("/")[0]
    found = {
        "/".join([*(outer.name for outer in around), name])
        for *around, layer in chains_in(model)
        if first in (layer.name, stage_of(layer.name))
    }
    if name in found or not found:
        return name
    if len(found) > 1:
        raise ValueError(
            f"`{argument}` must say in which model: {', '.join(sorted(found))}. Received: {name!r}"
        )
    return found.pop()


def chains_named(model: Any, argument: str, name: str) -> tuple[list[Chain], str]:
    """The layers that the name of a stage, a layer or a part of a layer stands for, and the part.

    The names of the models around them may be left out, unless several models have such a layer.
    """
    chains = list(chains_in(model))
    whole = full_name(model, argument, name)
    for own, part in ((whole, ""), whole.rpartition("/")[::2]):
        found = [chain for chain in chains if place_of(chain) == own]
        found = found or [chain for chain in chains if stage_of(place_of(chain)) == own]
        if found:
            return found, part
    raise unknown_stage(argument, name, list(map(place_of, chains)))
