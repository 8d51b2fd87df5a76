"""`summary`: the stages of a network and their costs as a table of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from kblocks.blocks.stages import stage_of
from kblocks.drawing.labels import shape_text
from kblocks.networks.architecture import Architecture
from kblocks.plans.cost import Cost

_BAR = 20
_ALIGNED = "<><>>><"  # the columns: names and shapes left, numbers right


def summary(net: Architecture, input_shape: Any, print_fn: Callable[[str], Any] = print) -> None:
    """Prints the stages of a network: blocks, output, cost and share of the multiply-adds.

    Args:
        net: an architecture; its auxiliary heads are left out.
        input_shape: (height, width, channels).
        print_fn: receives each line.

    Raises:
        InputTooSmallError, ValueError: if the network does not fit the input.
        TypeError: if `net` is not an Architecture.
    """
    if not isinstance(net, Architecture):
        raise TypeError(f"`net` must be an Architecture. Received: net={net!r}")
    costs = net.costs(input_shape)
    blocks = Counter(map(stage_of, costs))
    total = net.cost(input_shape)
    head = ("stage", "blocks", "output", "parameters", "MACs", "activations", "share of MACs")
    rows: list[tuple[str, ...]] = [head]
    for stage, cost in net.stages(input_shape):
        share = cost.macs / total.macs if total.macs else 0.0
        bar = f"{'#' * round(_BAR * share):<{_BAR}} {share:6.1%}"
        shape = shape_text(cost.output_shape)
        rows.append((stage, str(blocks[stage]), shape, *_counts(cost), bar))
    rows.append(("total", str(len(costs)), "", *_counts(total), ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    ruler = "-" * (sum(widths) + 2 * (len(widths) - 1))
    print_fn(f"{net.name}, input {shape_text(tuple(input_shape))}")
    for number, row in enumerate(rows):
        if number in (1, len(rows) - 1):
            print_fn(ruler)
        cells = zip(row, _ALIGNED, widths, strict=True)
        print_fn("  ".join(f"{cell:{side}{width}}" for cell, side, width in cells).rstrip())


def _counts(cost: Cost) -> list[str]:
    return [f"{n:,}" for n in (cost.params, cost.macs, cost.activations)]
