"""The graph of a Keras model: the calls of its layers."""

from __future__ import annotations

from typing import Any

import keras


def is_graph(layer: Any) -> bool:
    """Whether a layer is a functional or sequential model with Keras' own `call`."""
    call = getattr(type(layer).call, "__qualname__", "") if isinstance(layer, keras.Model) else ""
    return call in ("Functional.call", "Sequential.call")


def ends_of(model: Any) -> tuple[Any, Any]:
    """Inputs and outputs of a model, in the structure that the model was made with."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def as_functional(model: Any) -> Any:
    """A sequential model that has an input as a functional one; other models stay."""
    if isinstance(model, keras.Sequential):
        return keras.Model(*ends_of(model), name=model.name)
    return model


def calls_of(model: Any) -> list[Any]:
    """The calls of a functional model's layers, as Keras' nodes, in order."""
    depths = sorted(model._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in model._nodes_by_depth[depth] if not node.is_input]
