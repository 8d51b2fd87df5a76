"""The cost of a Keras model of blocks and Keras' own layers, counted call by call."""

import math
from dataclasses import replace
from typing import Any

import keras

from kblocks.blocks.block import Block
from kblocks.common.keras_graph import as_functional, calls_of, is_graph
from kblocks.plans.cost import Cost, total

_OF_KERAS: Any = keras.layers
_NORMS = tuple(getattr(_OF_KERAS, f"{n}Normalization") for n in ("Batch", "Layer", "Group", ""))
_TRANSPOSED = tuple(getattr(_OF_KERAS, f"Conv{rank}DTranspose") for rank in (1, 2, 3))
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
_LINEAR = (
    *(_OF_KERAS.Conv1D, _OF_KERAS.Conv2D, _OF_KERAS.Conv3D, _OF_KERAS.Dense, *_TRANSPOSED),
    *(_OF_KERAS.DepthwiseConv1D, _OF_KERAS.DepthwiseConv2D),
    *(_OF_KERAS.SeparableConv1D, _OF_KERAS.SeparableConv2D),
)


def cost_of_model(model: keras.Model) -> tuple[Cost, list[str]]:
    """The cost of a model, and the layers of which only the parameters are known and counted.

    These have weights and are neither blocks, nor models of known cost, nor convolutions, linear
    layers or norms of Keras; or their input has no fixed size. Of a subclass of `keras.Model` with
    its own `call` and of a model without an input only the parameters are known.
    """
    is_known = is_graph(model) and bool(getattr(model, "inputs", None))
    nodes = calls_of(as_functional(model)) if is_known else []
    costs = [(node.operation.name, cost_of_call(node)) for node in nodes]
    unknown = [name for name, cost in costs if cost is None] if is_known else [model.name]
    whole = total((cost for _, cost in costs if cost), None)
    every, trained = map(_count, (model.weights, model.trainable_weights))
    return replace(whole, params=every, trainable_params=trained), unknown


def cost_of_call(node: Any) -> Cost | None:
    """The cost of one call of a layer, a node of a model's graph; None if it is not known."""
    layer = node.operation
    inputs: list[Any] = [shape_of(layer, x) for x in node.input_tensors]
    output = shape_of(layer, node.output_tensors[0])
    params = layer.count_params() if isinstance(layer, keras.Layer) else 0
    is_fixed = all(None not in shape for shape in (*inputs, output))
    if isinstance(layer, Block) and is_fixed:
        return layer.spec.cost(inputs if len(inputs) > 1 else inputs[0])
    if not params or not is_fixed:
        return None if params else Cost(output)
    if is_graph(layer):
        whole, unknown = cost_of_model(layer)
        is_same = inputs == [tuple(x.shape[1:]) for x in layer.inputs]
        return replace(whole, output_shape=output) if is_same and not unknown else None
    known = Cost(output, params, _count(layer.trainable_weights))
    if not isinstance(layer, _LINEAR):
        return known if isinstance(layer, (*_NORMS, _OF_KERAS.PReLU)) else None
    kernels = [getattr(layer, name).shape for name in _KERNELS if hasattr(layer, name)]
    # Each kernel is multiplied at every pixel of the output, of a transposed one of the input.
    pixels = math.prod((inputs[0] if isinstance(layer, _TRANSPOSED) else output)[:-1])
    macs = pixels * sum(map(math.prod, kernels))
    elements = math.prod(output)
    if len(kernels) == 2:  # separable: also the output of the depthwise convolution
        elements += pixels * math.prod(kernels[0][-2:])
    return replace(known, macs=macs, activations=elements)


def shape_of(layer: Any, x: Any) -> tuple[Any, ...]:
    """The shape of a tensor without the batch, with the channels last."""
    sizes = list(x.shape[1:])
    if len(sizes) > 1 and getattr(layer, "data_format", None) == "channels_first":
        sizes.append(sizes.pop(0))
    return tuple(sizes)


def _count(weights: Any) -> int:
    return sum(math.prod(weight.shape) for weight in weights)
