"""Puts a new head on a trained model."""

from collections.abc import Mapping
from typing import Any

import keras

from kblocks.blocks.block import Block
from kblocks.common.keras_graph import calls_of, maker_of
from kblocks.heads.attaching import Place, attached
from kblocks.heads.shared_targets import SharedTargets, model_of
from kblocks.heads.task import LOGITS
from kblocks.model_tools.surgery import checked_graph
from kblocks.networks.building import tensors_of
from kblocks.networks.places import chains_in
from kblocks.networks.pyramid import levels_of
from kblocks.networks.rows import INPUT, Row, check_prefix, is_of_head


def replace_head(model: keras.Model, head: Any, *, prefix: str = "") -> keras.Model:
    """The model with a new head with fresh weights in place of its own.

    Args:
        model: a model from `Architecture.model`, trained or not, or one loaded from a file; also
            a functional or sequential model with such a model as a layer.
        head: a head in any form that `Architecture` takes, such as `kb.Classifier(5)`.
        prefix: the `prefix` given to `Architecture.model`.

    Returns:
        A functional model that shares the layers before the head, and their weights, with
        `model`. Layers behind the head, such as a softmax, stay; auxiliary outputs do not.

    Raises:
        ValueError: if `model` has no head of kblocks or several models in it have, the network
            does not fit the new head, or layers stand behind one of several outputs.

    Example:
        >>> model = kb.resnet18(classes=10).model((64, 64, 3))
        >>> kb.replace_head(model, kb.Classifier(5)).output_shape
        (None, 5)
    """
    check_prefix(prefix)
    graph = checked_graph(model)
    chains = [chain for chain in chains_in(graph) if _is_of_head(chain[-1], prefix)]
    if len({chain[:-1] for chain in chains}) != 1:
        found = ", ".join("/".join(layer.name for layer in chain) for chain in chains)
        raise ValueError(
            f"`model` must have one head, layers called {prefix}head or {prefix}head_... "
            f"Received: a model with {found or 'none, as with include_top=False'}"
        )
    old = {id(chain[0]) for chain in chains}
    if chains[0][1:]:
        outputs, targets = _inside(graph, chains[0][0], head, prefix)
    else:
        outputs, targets = _attached(graph, old, head, prefix)
    behind = []
    for call in calls_of(graph):
        layer = call.operation
        if id(layer) not in old and any(id(maker_of(x)) in old for x in call.input_tensors):
            behind.append(layer)
            old.add(id(layer))
    if behind and len(graph.outputs) + len(outputs) > 2:
        raise ValueError(
            "`model` must end in its head if there are several outputs. "
            f"Received: {behind[0].name} behind it"
        )
    for layer in behind:
        outputs = {name: layer(x) for name, x in outputs.items()}
    return model_of(graph.inputs[0], outputs, targets, {}, str(model.name))


def _is_of_head(layer: Any, prefix: str) -> bool:
    return layer.name.startswith(prefix) and is_of_head(layer.name.removeprefix(prefix))


def _inside(graph: Any, model: Any, head: Any, prefix: str) -> tuple[dict[str, Any], Any]:
    """The outputs by name, and their targets, of a model in the graph with a new head."""
    inner: Any = replace_head(model, head, prefix=prefix)
    given = [call for call in calls_of(graph) if call.operation is model][-1].arguments
    outputs = inner(*given.args, **given.kwargs)
    if not isinstance(inner, SharedTargets):
        return {LOGITS: outputs}, {}
    if not isinstance(outputs, Mapping):
        outputs = {inner.output_names[0]: outputs}
    return dict(outputs), inner.__dict__["targets"]


def _attached(graph: Any, old: set[int], head: Any, prefix: str) -> tuple[dict[str, Any], Any]:
    """The outputs by name, and their targets, of a new head on what the old one reads."""
    start = graph.inputs[0]
    tensors, rows, read = {INPUT: start}, [], []
    shared: dict[str, Any] = {}  # by the layers of the model, so also by those of the new head
    row_of = {id(start): INPUT}  # of what one of Keras' layers puts out: the row before it
    for number, call in enumerate(calls_of(graph)):
        layer: Any = call.operation
        known = [x for x in call.input_tensors if id(x) in row_of]
        if id(layer) in old:
            read += known
        elif len(known) == len(call.input_tensors):  # else behind the head
            name, *others = [row_of[id(x)] for x in known]
            if isinstance(layer, Block):
                inputs = (name, *others)
                name = str(layer.name).removeprefix(prefix)
                name = f"{name}_{number}" if name in tensors else name  # called before
                rows.append(Row(name, layer.spec, inputs))
                shared["data_format"] = layer.data_format
                if layer.dtype_policy.quantization_mode is None:
                    shared["dtype"] = layer.dtype_policy
            for x in call.output_tensors:
                row_of[id(x)] = name
                tensors.setdefault(name, x)
    order = list(row_of)
    body = max(read, key=lambda x: order.index(id(x)))
    tensors[row_of[id(body)]] = body
    levels = levels_of(rows, [row.name for row in rows])
    end = attached(head, Place(row_of[id(body)], levels))
    new = [Row(*row) for row in end.rows]
    made = tensors_of(new, [row.name for row in new], tensors, prefix, shared)
    return {output: made[row] for output, row in end.outputs.items()}, end.targets
