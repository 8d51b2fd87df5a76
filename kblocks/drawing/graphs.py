"""The rows to draw for any Keras model: blocks by their plans, other layers by their arguments."""

from collections import Counter
from dataclasses import replace
from typing import Any

import keras

from kblocks.blocks.block import Block
from kblocks.blocks.spec import channels_of
from kblocks.common.keras_graph import as_functional, calls_of, depths_of, is_graph
from kblocks.drawing.labels import Label, by, function_name, strides_text
from kblocks.drawing.rows import Chip, DrawnRow, alike, chips_of
from kblocks.networks.architecture import INPUT
from kblocks.networks.model_costs import cost_of_call, shape_of
from kblocks.plans.cost import Cost

_KINDS = (
    ("conv", ("Conv", "Separable")),
    ("dense", ("Dense", "Einsum")),
    ("pool", ("Pool", "UpSampling")),
    ("norm", ("Normalization",)),
    ("act", ("Activation", "ReLU", "Softmax", "ELU", "GELU")),
)


def rows_of_model(model: keras.Model, input_shape: Any = None) -> tuple[list[DrawnRow], list[str]]:
    """The rows of a model, and the names of its outputs; ValueError for another input shape."""
    if input_shape is not None:
        raise ValueError(
            f"A model has an input of its own. Received: input_shape={input_shape} with {model!r}"
        )
    if not is_graph(model) or not model.built:
        return _as_chain(model), []
    model = as_functional(model)
    rows: list[DrawnRow] = []
    names: dict[int, str] = {}  # of the rows that put out each tensor
    for start in model.inputs if len(model.inputs) > 1 else ():  # show which goes where
        names[id(start)] = name = f"{INPUT}_1" if start.name == INPUT else start.name
        chips = ((Label(start.name, "other"), 1),)
        cost = Cost(tuple(start.shape[1:]), 0)
        rows.append(DrawnRow(name, chips, (INPUT,), "InputLayer", cost))
    numbers: Counter[int] = Counter()
    for node in _in_order(model):
        layer = node.operation
        numbers[id(layer)] += 1
        again = f" ({numbers[id(layer)]})" if numbers[id(layer)] > 1 else ""
        name = f"{layer.name}{again}"
        names |= {id(x): name for x in node.output_tensors}
        inputs = dict.fromkeys(names.get(id(x), INPUT) for x in node.input_tensors)
        row = _row(layer, name, tuple(inputs), node)
        if again and row.cost is not None:  # its weights are counted already
            row = replace(row, cost=replace(row.cost, params=0, trainable_params=0))
        rows.append(row)
    return rows, [names.get(id(x), INPUT) for x in model.outputs]


def _as_chain(model: keras.Model) -> list[DrawnRow]:
    """The layers of a model whose graph is not known, as a chain in their order."""
    rows: list[DrawnRow] = []
    for layer in model.layers:
        before = rows[-1].name if rows else INPUT
        rows.append(DrawnRow(layer.name, _chips(layer), (before,), type(layer).__name__))
    return rows


def _in_order(model: Any) -> list[Any]:
    """The calls of layers, each behind those it reads: readers of the last one first."""
    waiting = calls_of(model)
    depths = depths_of(model)
    missing = {id(x) for node in waiting for x in node.output_tensors}
    last: set[int] = set()  # the outputs of the call before
    ordered: list[Any] = []
    while waiting:
        reads = {node: set(map(id, node.input_tensors)) for node in waiting}
        ready = [node for node in waiting if not reads[node] & missing]
        node = max(ready, key=lambda n: (not reads[n].isdisjoint(last), depths[n]))
        waiting.remove(node)
        ordered.append(node)
        last = set(map(id, node.output_tensors))
        missing -= last
    return ordered


def _row(layer: Any, name: str, inputs: tuple[str, ...], node: Any) -> DrawnRow:
    shapes = [shape_of(layer, x) for x in node.input_tensors]
    output = shape_of(layer, node.output_tensors[0])
    params = layer.count_params() if isinstance(layer, keras.Layer) else 0
    kind, known = type(layer).__name__, cost_of_call(node)
    cost = known or Cost(output, params)
    row = DrawnRow(name, _chips(layer), inputs, kind, cost, worked_out=known is not None)
    if not isinstance(layer, Block):
        return row
    shape = shapes if len(shapes) > 1 else shapes[0]
    plan = layer.spec.plan(channels_of(shape))
    chips = chips_of(Label(kind, "block"), plan, shape, output)
    return replace(row, chips=chips, plan=plan, shape=shape, key=alike(layer.spec))


def _chips(layer: Any) -> tuple[Chip, ...]:
    return ((Label(_text(layer), _kind(layer)), 1),)


def _kind(layer: Any) -> str:
    name = type(layer).__name__
    if isinstance(layer, Block):
        return "block"
    if isinstance(layer, keras.Model):
        return "network"
    found = (kind for kind, parts in _KINDS if any(part in name for part in parts))
    return next(found, "other")


def _text(layer: Any) -> str:
    kind = type(layer).__name__
    kernel = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    filters = getattr(layer, "filters", None) or getattr(layer, "units", None)
    strides = getattr(layer, "strides", None) or 1
    words = {"Conv2D": "conv", "DepthwiseConv2D": "depthwise", "MaxPooling2D": "max pool"}
    words |= {"AveragePooling2D": "avg pool", "BatchNormalization": "batch norm", "Dense": "dense"}
    name = words.get(kind, kind)
    if kind == "Activation":
        name = function_name(layer.activation)
    if kernel is not None:
        name = f"{by(kernel)} {name}"
    if filters is not None:
        name += f", {filters}"
    return name + strides_text(strides if isinstance(strides, (tuple, list)) else (strides,))
