"""The graph of a Keras model: the calls of its layers."""

from collections.abc import Iterator
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


def layers_inside(layer: Any) -> Iterator[Any]:
    """All layers of a model or block, at any depth."""
    for inner in getattr(layer, "layers", ()):
        yield inner
        yield from layers_inside(inner)


def refuse_altered(model: Any, *, lora: bool = False, quantized: bool = False) -> None:
    """Raises ValueError if a layer has LoRA or is quantized, unless these are allowed."""
    for layer in layers_inside(model):
        how = ""
        if getattr(layer, "lora_enabled", False) and not lora:
            how = "with LoRA (a saved and loaded model has it in its kernels)"
        elif layer.quantization_mode and not quantized:
            how = "quantized (quantize last; LiteRT has an int8 of its own, see kb.export)"
        if how:
            raise ValueError(f"`model` must not be {how}. Received: {model.name} with {layer.path}")


# Keras has no public way to walk a model's graph. The functions below are the only users of its
# private attributes; `tests/test_keras_graph.py` fails when Keras changes them.


def calls_of(model: Any) -> list[Any]:
    """The calls of a functional model's layers, as Keras' nodes, in order."""
    return [node for node in depths_of(model) if not node.is_input]


def depths_of(model: Any) -> dict[Any, int]:
    """All calls of a functional model, inputs first, each with its distance from the outputs."""
    depths = sorted(model._nodes_by_depth, reverse=True)
    return {node: depth for depth in depths for node in model._nodes_by_depth[depth]}


def calls_to(layer: Any) -> list[Any]:
    """The calls of one layer, in any model, in the order in which they were made."""
    return layer._inbound_nodes


def maker_of(tensor: Any) -> Any:
    """The layer that puts out a Keras tensor."""
    return tensor._keras_history.operation


def call_number(tensor: Any) -> int:
    """Which of the calls of its layer puts out a Keras tensor."""
    return tensor._keras_history.node_index
