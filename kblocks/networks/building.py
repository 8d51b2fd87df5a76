"""Builds the Keras layers of an architecture's rows, and finds the losses of its outputs."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras

from kblocks.blocks.block import Block, checked_data_format
from kblocks.heads.task import Task
from kblocks.networks.rows import INPUT, Row, walk_rows


def layer_arguments(dtype: Any, data_format: str | None) -> dict[str, Any]:
    """Arguments of all layers of a model; None leaves one to Keras, ValueError for a wrong one."""
    try:
        policy: Any = keras.dtype_policies.get(dtype)
    except (TypeError, ValueError):
        policy = None
    kinds = [str(getattr(policy, name, None)) for name in ("compute_dtype", "variable_dtype")]
    fits = all("float" in kind for kind in kinds) and policy.quantization_mode is None
    if dtype is not None and not fits:
        raise ValueError(
            "`dtype` must be a Keras dtype policy of floats or its name, such as "
            f"'mixed_bfloat16', or None. Received: dtype={dtype!r}"
        )
    checked_data_format(data_format)
    given = {"dtype": dtype and policy, "data_format": data_format}
    return {name: value for name, value in given.items() if value is not None}


def input_of(input_shape: Sequence[Any], prefix: str, shared: Mapping[str, Any]) -> Any:
    """A new Keras input of (height, width, channels); `shared` is as in `tensors_of`."""
    height, width, channels = input_shape
    first = checked_data_format(shared.get("data_format")) == "channels_first"
    if first and height in (1, 3) and min(width or 0, channels) > 4:
        warnings.warn(
            "`input_shape` is (height, width, channels) in both data formats. "
            f"Received: input_shape={tuple(input_shape)}, so images of {channels} channels",
            stacklevel=4,
        )
    shape = (channels, height, width) if first else (height, width, channels)
    return keras.Input(shape, name=f"{prefix}{INPUT}")


def tensors_of(
    rows: Sequence[Row],
    needed: Collection[str],
    known: Mapping[str, Any],
    prefix: str,
    shared: Mapping[str, Any],
) -> dict[str, Any]:
    """The outputs of needed rows, from layers with the `shared` arguments, and `known` tensors."""
    layers: dict[str, Block] = {}
    tensors = dict(known)
    for row, origin, spec, inputs in walk_rows(rows, tensors, needed):
        if origin not in layers:
            layers[origin] = spec.layer(name=f"{prefix}{origin}", **shared)
        tensors[row.name] = layers[origin](inputs)
    return tensors


def activated(
    outputs: Mapping[str, Any],
    tasks: Mapping[str, Task | None],
    activation: Any,
    prefix: str,
    dtype: Any,
) -> dict[str, Any]:
    """The outputs, with an activation after those that are logits, in the dtype of the weights."""
    found, dtype = dict(outputs), keras.dtype_policies.get(dtype).variable_dtype
    for output, tensor in outputs.items():
        task = tasks[output]
        if task is None or task.gives_logits:
            name = f"{prefix}{output}_activation"
            found[output] = keras.layers.Activation(activation, name=name, dtype=dtype)(tensor)
    return found


def refuse_other_format(
    outputs: Mapping[str, Any], tasks: Mapping[str, Task | None], data_format: str | None
) -> None:
    """Refuses another data format than Keras' setting, which losses of maps read, for such maps."""
    usual = keras.config.image_data_format()
    maps = [name for name, x in outputs.items() if tasks.get(name) and len(x.shape) == 4]
    if maps and data_format not in (None, usual):
        raise ValueError(
            f"`data_format` must be Keras' setting, {usual!r}, as the loss of {maps[0]} reads maps "
            "in it (keras.config.set_image_data_format changes it). "
            f"Received: data_format={data_format!r}"
        )


def auxiliary_losses(
    auxiliary: Sequence[str], tasks: Mapping[str, Task | None], targets: Mapping[str, str]
) -> dict[str, tuple[str, float]]:
    """For each auxiliary output the main output whose loss it uses, and the weight of that loss."""
    main = [output for output in tasks if output not in auxiliary]
    found = {}
    for output in auxiliary:
        task, target = tasks[output], targets.get(output, output)
        like = [name for name in main if targets.get(name, name) == target]
        # If none has its target, one that has its kind of loss.
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
