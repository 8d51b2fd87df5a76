"""Which part of its input one pixel of a plan's output depends on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kblocks.plans.geometry import Op, Pair
from kblocks.plans.trees import Chain, Merge


def receptive_fields(
    layers: Iterable[tuple[str, Op | None, Sequence[str]]], start: str
) -> dict[str, Pair]:
    """The receptive field (height, width) of each layer, in pixels of the input called `start`.

    Layers are (name, plan, names of the layers that it reads), in order. Those whose outputs depend
    on the whole input, and those behind a layer without a plan, are left out.
    """
    strides: dict[str, Pair] = {start: (1, 1)}
    fields: dict[str, Pair] = {start: (1, 1)}
    for name, plan, inputs in layers:
        before = {strides[other] for other in inputs if other in strides}
        if plan is None or len(before) != 1 or not all(other in fields for other in inputs):
            continue
        span, geometry = span_of(plan), plan.geometry()
        if span is None or geometry is None:
            continue
        down, right = before.pop()
        strides[name] = (down * geometry[0], right * geometry[1])
        heights, widths = zip(*(fields[other] for other in inputs), strict=True)
        fields[name] = (max(heights) + down * span[0], max(widths) + right * span[1])
    return fields


def span_of(op: Op) -> Pair | None:
    """The side of the receptive field less one pixel, (vertical, horizontal).

    None where every output depends on the whole map, as after a global pool. Gates of one pixel,
    such as squeeze-and-excitation, are left out.

    Reference: Araujo et al. 2019, Computing Receptive Fields of Convolutional Neural Networks,
        Distill, doi:10.23915/distill.00021, equation 2.
    """
    if isinstance(op, Merge):
        spans = [span_of(branch) for _, branch in op.branches]
        known = [span for span in spans if span is not None]
        if not known or (op.mode != "multiply" and len(known) < len(spans)):
            return None
        return max(rows for rows, _ in known), max(columns for _, columns in known)
    if isinstance(op, Chain):
        down, right, rows, columns = 1, 1, 0, 0
        for step in op:
            span, geometry = span_of(step), step.geometry()
            if span is None or geometry is None:
                return None
            rows, columns = rows + down * span[0], columns + right * span[1]
            down, right = down * geometry[0], right * geometry[1]
        return rows, columns
    if op.geometry() is None:
        return None
    field: Any = op
    window = (
        getattr(field, "kernel_size", None)
        or getattr(field, "pool_size", None)
        or (getattr(field, "size", None) or getattr(field, "block", 1),) * 2
    )
    dilation = getattr(field, "dilation_rate", (1, 1))
    return dilation[0] * (window[0] - 1), dilation[1] * (window[1] - 1)
