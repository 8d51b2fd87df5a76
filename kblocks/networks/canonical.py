"""Canonical forms: equal for plans that compute the same on maps of a given size.

A form leaves out what has no effect at that size: taps of a kernel that only meet padding, a
stride along an axis with one output, the name of a padding, a pool over single pixels.
"""

import math
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kblocks.blocks.spec import channels_of
from kblocks.networks.rows import INPUT, Row, origins_of, walk_rows
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
    out = walk(op, shape)
    if type(op) is Merge:
        return _merge(op, shape, out), out
    return _primitive(op, shape, out), out


def _merge(op: Merge, shape: Any, out: Shape) -> Form:
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


def _primitive(op: Any, shape: Shape, out: Shape) -> Form:
    pixels = shape[:2] == (1, 1)
    match op:
        case ops.Conv():
            return (_conv(op, shape, out),)
        case ops.Pool():
            return _pool(op, shape, out)
        case ops.GlobalPool():
            if pixels:
                return () if op.keepdims else (("flatten",),)
        case ops.AdaptivePool():
            if out == shape:
                return ()
        case ops.Flatten():
            return (("flatten",),)
        case ops.Dropout(rate=0.0) | ops.DropPath(rate=0.0) | ops.Scale(factor=1.0):
            return ()
        case ops.Activation(function="linear"):
            return ()
        case ops.PadChannels() | ops.SpaceToDepth():
            if out == shape:
                return ()
        case ops.Norm():
            if op.kind == "group":
                op = replace(op, groups=op.groups or math.gcd(32, shape[-1]))
            return (("Norm", op),)
    return ((type(op).__name__, *op),)


def _conv(op: ops.Conv, shape: Shape, out: Shape) -> Hashable:
    axes = tuple(_axis(op, axis, shape, out) for axis in (0, 1))
    pads = any(axis[3] for axis in axes)
    mode = op.padding_mode if pads else "zeros"
    taps: Hashable = tuple(axis[:3] for axis in axes)
    # Every tap has an effect with padding other than zeros, weight norm or a regularizer.
    if mode != "zeros" or op.weight_norm or op.kernel_regularizer:
        taps = (op.kernel_size, op.strides, op.padding, op.dilation_rate)
    return ("Conv", op.filters, taps, mode, op.groups, *op[6:7], *op[8:])


def _pool(op: ops.Pool, shape: Shape, out: Shape) -> Form:
    """The form of a pool: the range of pixels in each of its windows."""
    axes, padded = [], False
    for axis in (0, 1):
        size, window, stride = shape[axis], op.pool_size[axis], op.strides[axis]
        before = _before(op, axis, size, window, 1)
        starts = [output * stride - before for output in range(out[axis])]
        padded = padded or starts[0] < 0 or starts[-1] + window > size
        axes.append(tuple((max(start, 0), min(start + window, size)) for start in starts))
    if op.kind == "avg" and op.count_padding and padded:
        return (("Pool", *op),)
    if all(stop - start == 1 for windows in axes for start, stop in windows):
        # Windows of one pixel: max equals mean, and if all pixels are kept the pool does nothing.
        return () if shape == out else (("Pool", "any", *axes),)
    return (("Pool", op.kind, *axes),)


def _before(op: Any, axis: int, size: int, kernel: int, dilation: int) -> int:
    """The number of padded pixels before the first pixel of an axis."""
    padding = of_axis(op.padding, axis)
    if padding == "same":
        return same_padding(size, kernel, op.strides[axis], dilation)[0]
    return side(kernel, padding, dilation)


def _axis(op: ops.Conv, axis: int, shape: Shape, out: Shape) -> tuple[int, int, Form, bool]:
    """The number of outputs, the stride (1 if it has no effect), the taps, and whether any pads.

    Taps that only meet padding are left out. A tap is the pixel that it meets at the first
    output. The last value is whether any tap meets padding at any output.
    """
    size, outputs, stride = shape[axis], out[axis], op.strides[axis]
    kernel, dilation = op.kernel_size[axis], op.dilation_rate[axis]
    before = _before(op, axis, size, kernel, dilation)
    # Taps before met_from and from met_to on only ever meet padding: a kernel may be of any size.
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


def of_rows(
    rows: Sequence[Row], needed: Collection[str], outputs: Mapping[str, str], input_shape: Shape
) -> Hashable:
    """The form of a network: the steps of each node, the nodes that it reads, and shared weights.

    A node is one row or several. A row that does nothing adds no node, and the only reader of
    another row is merged with it: the split of a chain of blocks into rows makes no difference.
    """
    origins = origins_of(rows)
    users = Counter(origins[name].name for name in needed if name in origins)
    reads = Counter(name for row in rows if row.name in needed for name in row.inputs)
    reads.update(outputs.values())
    shapes: dict[str, Shape] = {INPUT: input_shape}
    node_of = {INPUT: 0}
    # By node: its steps, the nodes that it reads, the first node with its weights if it shares
    # them, and how often it is read.
    steps: list[Form] = [()]
    inputs: list[tuple[int, ...]] = [()]
    sharing: list[int | None] = [None]
    readers = [reads[INPUT]]
    first_user: dict[str, int] = {}
    for row, origin, spec, source in walk_rows(rows, shapes, needed):
        own, shapes[row.name] = form(spec.plan(channels_of(source)), source)
        before = tuple(node_of[name] for name in row.inputs)
        node, is_shared = before[0], users[origin] > 1
        is_alone = len(before) == 1 and not is_shared
        if is_alone and not own:
            readers[node] += reads[row.name] - 1
        elif is_alone and node and readers[node] == 1 and sharing[node] is None:
            steps[node] += own
            readers[node] = reads[row.name]
        else:
            node = len(steps)
            steps.append(own)
            inputs.append(before)
            sharing.append(first_user.setdefault(origin, node) if is_shared else None)
            readers.append(reads[row.name])
        node_of[row.name] = node
    names = tuple(outputs) if len(outputs) > 1 else ()
    nodes = tuple(zip(steps, inputs, sharing, strict=True))
    return nodes, tuple(node_of[row] for row in outputs.values()), names
