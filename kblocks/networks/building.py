"""Builds the Keras layers of an architecture's rows, and finds the losses of its outputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras

from kblocks.blocks.block import Block
from kblocks.heads.task import Task
from kblocks.networks.rows import INPUT, Row, walk_rows


def input_of(input_shape: Sequence[Any], prefix: str) -> Any:
    """A new Keras input of (height, width, channels), in Keras' data format."""
    height, width, channels = input_shape
    first = keras.config.image_data_format() == "channels_first"
    shape = (channels, height, width) if first else (height, width, channels)
    return keras.Input(shape, name=f"{prefix}{INPUT}")


def tensors_of(
    rows: Sequence[Row], needed: Collection[str], known: Mapping[str, Any], prefix: str
) -> dict[str, Any]:
    """The output of each needed row from new layers, and the `known` tensors that rows read."""
    layers: dict[str, Block] = {}
    tensors = dict(known)
    for row, origin, spec, inputs in walk_rows(rows, tensors, needed):
        if origin not in layers:
            layers[origin] = spec.layer(name=f"{prefix}{origin}")
        tensors[row.name] = layers[origin](inputs)
    return tensors


def activated(
    outputs: Mapping[str, Any], tasks: Mapping[str, Task | None], activation: Any, prefix: str
) -> dict[str, Any]:
    """The outputs, with an activation after those that are logits."""
    found = dict(outputs)
    for output, tensor in outputs.items():
        task = tasks[output]
        if task is None or task.gives_logits:
            name = f"{prefix}{output}_activation"
            found[output] = keras.layers.Activation(activation, name=name)(tensor)
    return found


def auxiliary_losses(
    auxiliary: Sequence[str], tasks: Mapping[str, Task | None], targets: Mapping[str, str]
) -> dict[str, tuple[str, float]]:
    """For each auxiliary output the main output whose loss it uses, and the weight of that loss.

    It is the first main output with the same target, else with the same kind of loss.

    Raises:
        ValueError: if no main output is trained on what an auxiliary output is trained on.
    """
    main = [output for output in tasks if output not in auxiliary]
    found = {}
    for output in auxiliary:
        task, target = tasks[output], targets.get(output, output)
        like = [name for name in main if targets.get(name, name) == target]
        if not like and (task is None or not any(tasks[name] for name in main)):
            like = main
        elif not like and task is not None:
            losses = {name: type(other.loss()) for name in main if (other := tasks[name])}
            like = [name for name, loss in losses.items() if loss is type(task.loss())]
            if not like:
                raise ValueError(
                    "`aux` needs a head that is trained on what the auxiliary outputs are trained "
                    f"on: {task.target}. Received: a head with {', '.join(main)}"
                )
        found[output] = like[0], 1.0 if task is None else task.weight
    return found
