"""`summary`: the stages of a network and their costs as a table of text."""

from collections.abc import Callable
from typing import Any

import keras

from kblocks.drawing.graphs import rows_of_model
from kblocks.drawing.labels import shape_text
from kblocks.networks.architecture import Architecture
from kblocks.networks.costs import by_stage
from kblocks.plans.cost import Cost, total

_BAR = 20
_ALIGNED = "<><>>><"  # the columns: names and shapes left, numbers right


def summary(net: Any, input_shape: Any = None, print_fn: Callable[[str], Any] = print) -> None:
    """Prints the stages of a network: blocks, output, cost and share of the multiply-adds.

    Args:
        net: an architecture, whose auxiliary heads are left out; or a model of blocks and layers
            of Keras.
        input_shape: (height, width, channels) for an architecture; a model has its own.
        print_fn: receives each line.

    Raises:
        InputTooSmallError, ValueError: if the network does not fit the input, or the costs of a
            model are not known: its input has no fixed size, or a layer with weights is neither a
            block, nor such a model, nor one of Keras' convolutions, `Dense`, `PReLU` and batch,
            layer and group normalization.
        TypeError: if `net` is neither.
    """
    if isinstance(net, Architecture):
        costs = net.costs(input_shape)
    elif isinstance(net, keras.Model):
        input_shape, costs = _of_model(net, input_shape)
    else:
        raise TypeError(f"`net` must be an Architecture or a Keras model. Received: net={net!r}")
    whole = total(costs.values(), None)
    head = ("stage", "blocks", "output", "parameters", "MACs", "activations", "share of MACs")
    rows: list[tuple[str, ...]] = [head]
    for stage, parts in by_stage(costs).items():
        cost = total(parts, parts[-1].output_shape)
        share = cost.macs / whole.macs if whole.macs else 0.0
        bar = f"{'#' * round(_BAR * share):<{_BAR}} {share:6.1%}"
        shape = shape_text(cost.output_shape)
        rows.append((stage, str(len(parts)), shape, *_counts(cost), bar))
    rows.append(("total", str(len(costs)), "", *_counts(whole), ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    ruler = "-" * (sum(widths) + 2 * (len(widths) - 1))
    print_fn(f"{net.name}, input {shape_text(tuple(input_shape))}")
    for number, row in enumerate(rows):
        if number in (1, len(rows) - 1):
            print_fn(ruler)
        cells = zip(row, _ALIGNED, widths, strict=True)
        print_fn("  ".join(f"{cell:{side}{width}}" for cell, side, width in cells).rstrip())


def _of_model(model: keras.Model, input_shape: Any) -> tuple[Any, dict[str, Cost]]:
    """The input shape of a model, and the cost of each layer that is more than an input."""
    if input_shape is not None:
        raise ValueError(
            f"A model has an input of its own. Received: input_shape={input_shape} with {model!r}"
        )
    rows, _ = rows_of_model(model)
    unknown = [row.name for row in rows if row.cost is None or not row.worked_out]
    inputs = getattr(model, "inputs", None) or []
    if unknown or len(inputs) != 1:
        raise ValueError(
            "`net` must be a model of blocks and layers of known cost with one input of fixed size "
            "(kb.resize_input fixes it; for a model in it: kb.summary(model.get_layer(name))). "
            f"Received: {model!r}, layers without costs: {unknown}"
        )
    return inputs[0].shape[1:], {row.name: row.cost for row in rows if row.cost}


def _counts(cost: Cost) -> list[str]:
    return [f"{n:,}" for n in (cost.params, cost.macs, cost.activations)]
