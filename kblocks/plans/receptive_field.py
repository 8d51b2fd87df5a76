"""Which part of its input one pixel of an output depends on.

Reference: Araujo et al. 2019, Computing Receptive Fields of Convolutional Neural Networks, Distill,
    doi:10.23915/distill.00021, equation 2.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from kblocks.plans.geometry import Pair
from kblocks.plans.trees import Chain, Merge


def receptive_fields(
    layers: Iterable[tuple[Hashable, Any, Sequence[Hashable]]], start: Hashable
) -> dict[Any, Pair]:
    """The receptive field (height, width) of each layer, in pixels of the input called `start`.

    Layers are (name, plan, names of the layers that it reads), in order. Those whose outputs depend
    on the whole input, and those behind a layer without a plan, are left out.
    """
    strides: dict[Any, Pair] = {start: (1, 1)}
    fields: dict[Any, Pair] = {start: (1, 1)}
    for name, plan, inputs in layers:
        before = {strides.get(other) for other in inputs}
        span = None if plan is None or None in before or len(before) > 1 else _span(plan)
        if plan is not None and span is not None:
            (down, right), own = strides[inputs[0]], plan.geometry()
            strides[name] = (down * own[0], right * own[1])
            heights, widths = zip(*(fields[other] for other in inputs), strict=True)
            fields[name] = (max(heights) + down * span[0], max(widths) + right * span[1])
    return fields


def _span(op: Any) -> Pair | None:
    """The field less one pixel; None if that is the whole map. Gates of one pixel are left out."""
    if isinstance(op, Merge):
        spans = [_span(branch) for _, branch in op.branches]
        known = [span for span in spans if span is not None]
        if not known or (op.mode != "multiply" and len(known) < len(spans)):
            return None
        return max(rows for rows, _ in known), max(columns for _, columns in known)
    if isinstance(op, Chain):
        steps = receptive_fields(((n + 1, step, (n,)) for n, step in enumerate(op)), 0)
        return (steps[len(op)][0] - 1, steps[len(op)][1] - 1) if len(op) in steps else None
    if op.geometry() is None:
        return None
    sides = getattr(op, "kernel_size", None) or getattr(op, "pool_size", None)
    height, width = sides or (getattr(op, "size", None) or getattr(op, "block", 1),) * 2
    down, right = getattr(op, "dilation_rate", (1, 1))
    return down * (height - 1), right * (width - 1)
