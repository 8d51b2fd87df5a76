"""Canonical forms: equal for plans that compute the same on maps of a given size.

A form leaves out what has no effect at that size: taps of a kernel that only meet padding, a
stride along an axis with one output, the name of a padding, a pool over single pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kblocks.blocks.spec import channels_of
from kblocks.networks.rows import INPUT, walk_rows
from kblocks.plans import ops
from kblocks.plans.cost import walk
from kblocks.plans.geometry import Shape, cropped, of_axis, same_padding, side
from kblocks.plans.ops import Chain, Merge, Op

Form = tuple[Hashable, ...]  # the steps of a chain; empty if it changes nothing


def form(op: Op, shape: Any) -> tuple[Form, Shape]:
    """The form of a plan on an input of `shape` (a list for several), and its output shape."""
    if type(op) is Chain:
        steps: Form = ()
        for step in op:
            done, shape = form(step, shape)
            steps += done
        return steps, shape
    made = walk(op, shape)
    if type(op) is Merge:
        return _merge(op, shape, made), made
    return _primitive(op, shape, made), made


def _merge(op: Merge, shape: Any, made: Shape) -> Form:
    several = isinstance(shape, list)
    cuts = [None] * len(op.branches) if several else op.crops()
    branches: list[Hashable] = []
    for index, ((_, branch), cut) in enumerate(zip(op.branches, cuts, strict=True)):
        source = shape[index] if several else shape
        before: Form = ()
        if cut is not None and cut != ((0, 0), (0, 0)):
            source = cropped(source, cut)
            before = (("crop", cut),)
        branches.append(before + form(branch, source)[0])
    if len(branches) == 1 and not several:
        return branches[0]  # type: ignore[return-value]
    return ((op.mode, *branches),)


def _primitive(op: Any, shape: Shape, made: Shape) -> Form:
    pixels = shape[:2] == (1, 1)
    match op:
        case ops.Conv():
            return (_conv(op, shape, made),)
        case ops.Pool():
            return _pool(op, shape, made)
        case ops.GlobalPool():
            if pixels:
                return () if op.keepdims else (("flatten",),)
        case ops.AdaptivePool():
            if made == shape:
                return ()
        case ops.Flatten():
            return (("flatten",),)
        case ops.Dropout(rate=0.0) | ops.DropPath(rate=0.0) | ops.Scale(factor=1.0):
            return ()
        case ops.Activation(function="linear"):
            return ()
        case ops.PadChannels() | ops.SpaceToDepth():
            if made == shape:
                return ()
        case ops.Norm():
            if op.kind == "group":
                op = replace(op, groups=op.groups or math.gcd(32, shape[-1]))
            return (("Norm", op),)
    return ((type(op).__name__, *op),)


def _conv(op: ops.Conv, shape: Shape, made: Shape) -> Hashable:
    axes = tuple(_axis(op, axis, shape, made) for axis in (0, 1))
    pads = any(axis[3] for axis in axes)
    mode = op.padding_mode if pads else "zeros"
    taps: Hashable = tuple(axis[:3] for axis in axes)
    # Every tap has an effect with padding other than zeros, weight norm or a regularizer.
    if mode != "zeros" or op.weight_norm or op.kernel_regularizer:
        taps = (op.kernel_size, op.strides, op.padding, op.dilation_rate)
    return ("Conv", op.filters, taps, mode, op.groups, *op[6:7], *op[8:])


def _pool(op: ops.Pool, shape: Shape, made: Shape) -> Form:
    """The form of a pool: the range of pixels in each of its windows."""
    axes, padded = [], False
    for axis in (0, 1):
        size, window, stride = shape[axis], op.pool_size[axis], op.strides[axis]
        before = _before(op, axis, size, window, 1)
        starts = [output * stride - before for output in range(made[axis])]
        padded = padded or starts[0] < 0 or starts[-1] + window > size
        axes.append(tuple((max(start, 0), min(start + window, size)) for start in starts))
    if op.kind == "avg" and op.count_padding and padded:
        return (("Pool", *op),)
    if all(stop - start == 1 for windows in axes for start, stop in windows):
        # Windows of one pixel: max equals mean, and if all pixels are kept the pool does nothing.
        return () if shape == made else (("Pool", "any", *axes),)
    return (("Pool", op.kind, *axes),)


def _before(op: Any, axis: int, size: int, kernel: int, dilation: int) -> int:
    """The number of padded pixels before the first pixel of an axis."""
    padding = of_axis(op.padding, axis)
    if padding == "same":
        return same_padding(size, kernel, op.strides[axis], dilation)[0]
    return side(kernel, padding, dilation)


def _axis(
    op: ops.Conv, axis: int, shape: Shape, made: Shape
) -> tuple[int, int, tuple[int, ...], bool]:
    """The number of outputs, the stride (1 if it has no effect), the taps, and whether any pads.

    Taps that only meet padding are left out. A tap is the pixel that it meets at the first
    output. The last value is whether any tap meets padding at any output.
    """
    size, outputs, stride = shape[axis], made[axis], op.strides[axis]
    kernel, dilation = op.kernel_size[axis], op.dilation_rate[axis]
    before = _before(op, axis, size, kernel, dilation)
    # Taps before met_from and from met_to on only ever meet padding.
    reached = (outputs - 1) * stride
    met_from = max(0, -(-(before - reached) // dilation))
    met_to = min(kernel, (size - 1 + before) // dilation + 1)
    taps, misses = [], met_from > 0 or met_to < kernel
    for tap in range(met_from, met_to):
        first = tap * dilation - before
        last = first + reached
        met = [0 <= pixel < size for pixel in range(first, last + 1, stride)]
        misses = misses or not all(met)
        if any(met):
            taps.append(first)
    return outputs, stride if outputs > 1 else 1, tuple(taps), misses


# --- networks ----------------------------------------------------------------------------


def of_rows(rows: Sequence[Any], outputs: Mapping[str, str], input_shape: Shape) -> Hashable:
    """The form of a network: nodes with their forms, the nodes they read, and shared weights.

    A row that is the only reader of another is merged with it, so that the split of a chain of
    blocks into rows makes no difference.
    """
    uses = Counter(name for row in rows for name in row.inputs)
    uses.update(outputs.values())
    sharing = {row.spec for row in rows if isinstance(row.spec, str)}
    sharing |= {row.name for row in rows if isinstance(row.spec, str)}
    shapes: dict[str, Shape] = {INPUT: input_shape}
    nodes: list[tuple[Form, tuple[int, ...], int | None]] = [((), (), None)]
    places: dict[str, int] = {}
    for row, _, spec, source in walk_rows(rows, shapes):
        steps, shapes[row.name] = form(spec.plan(channels_of(source)), source)
        before = [places.get(name, 0) for name in row.inputs]
        alone = len(before) == 1 and row.name not in sharing
        if alone and not steps:
            places[row.name] = before[0]
        elif alone and before[0] and uses[row.inputs[0]] == 1 and nodes[before[0]][2] is None:
            known, inputs, _ = nodes[before[0]]
            nodes[before[0]] = (known + steps, inputs, None)
            places[row.name] = before[0]
        else:
            origin = row.spec if isinstance(row.spec, str) else row.name
            places[row.name] = len(nodes)
            shared = places[origin] if row.name in sharing else None
            nodes.append((steps, tuple(before), shared))
    shown = list(outputs) if len(outputs) > 1 else None
    return tuple(nodes), tuple(places[row] for row in outputs.values()), tuple(shown or ())
