"""Compares the plans of two blocks: which parts correspond, and which weights of their kernels."""

from typing import Any

import numpy as np

from kblocks.model_tools.folding import leaves
from kblocks.plans import ops
from kblocks.plans.geometry import of_axis, same_padding, side
from kblocks.plans.ops import Chain, Merge

LINEAR = (ops.Conv, ops.Dense)


def linears(step: Any) -> int:
    """The number of convolutions and linear layers in a part, a merge or a chain of these."""
    return sum(isinstance(part.op, LINEAR) for part in leaves(Chain(step)))


def aligned(own: Chain, other: Chain, of_head: bool) -> list[tuple[Any, Any]]:
    """The steps of two chains side by side, None where one chain has no counterpart.

    As many as possible are matched, and of these the first; `of_head`: also the last linear ones.
    What has no effect in inference is left out.
    """
    one, two = ([step for step in chain if _label(step)] for chain in (own, other))
    a, b = (_labels(steps, of_head) for steps in (one, two))
    most = np.zeros((len(a) + 1, len(b) + 1), int)  # pairs among the steps from (i, j) on
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            skipped = max(most[i + 1, j], most[i, j + 1])
            most[i, j] = most[i + 1, j + 1] + 1 if a[i] == b[j] else skipped
    pairs: list[tuple[Any, Any]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            pairs.append((one[i], two[j]))
            i, j = i + 1, j + 1
        elif most[i + 1, j] >= most[i, j + 1]:
            pairs.append((one[i], None))
            i += 1
        else:
            pairs.append((None, two[j]))
            j += 1
    return [*pairs, *((step, None) for step in one[i:]), *((None, step) for step in two[j:])]


def _labels(steps: list[Any], of_head: bool) -> list[str]:
    last = [i for i, step in enumerate(steps) if linears(step)][-1:] if of_head else []
    return [_label(step) + " last" * (i in last) for i, step in enumerate(steps)]


def _label(step: Any) -> str:
    """What must agree for two steps to correspond; "" for those without effect in inference."""
    if isinstance(step, Merge):
        return f"{step.mode} {step.branches[0][0]}"
    if isinstance(step.op, (ops.Dropout, ops.DropPath)):
        return ""
    depthwise = isinstance(step.op, ops.Conv) and step.op.groups == step.op.filters > 1
    return "depthwise" if depthwise else step.op.label


def weights_in_common(
    shape: tuple[int, ...],
    other: tuple[int, ...],
    groups: tuple[int, int],
    sources: np.ndarray,
    out: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Which weight of another kernel each weight of a kernel corresponds to, at any pixel.

    The kernels are of shape (height, width, inputs of a group, outputs). `sources` has for each
    input channel that of the other kernel, or -1, `out` for each output. Returns the other kernel's
    input, counted within its group, and whether there is such a weight, for (input, output).
    """
    group = np.arange(shape[3]) // (shape[3] // groups[0])
    read = sources[group * shape[2] + np.arange(shape[2])[:, None]]
    within = read - out // (other[3] // groups[1]) * other[2]
    valid = (read >= 0) & (out >= 0) & (within >= 0) & (within < other[2])
    return np.where(valid, within, 0), valid


def pixels_in_common(
    op: Any, other: Any, shape: Any, before: Any, axis: int
) -> tuple[list[int], list[int]]:
    """The positions along an axis at which kernels on maps of these shapes read the same pixel."""
    if not isinstance(op, ops.Conv):
        return [0], [0]
    own, others = _offsets(op, shape[axis], axis), _offsets(other, before[axis], axis)
    both = [offset for offset in own if offset in others]
    return [own.index(offset) for offset in both], [others.index(offset) for offset in both]


def _offsets(op: Any, size: Any, axis: int) -> list[int]:
    """The pixels that a kernel reads along an axis, relative to the output's place."""
    kernel, dilation = op.kernel_size[axis], op.dilation_rate[axis]
    padding = of_axis(op.padding, axis)
    if padding == "same":
        before = same_padding(size or kernel * dilation, kernel, op.strides[axis], dilation)[0]
    else:
        before = side(kernel, padding, dilation)
    return [dilation * i - before for i in range(kernel)]


def pixels_of(shape: Any, other: Any) -> np.ndarray:
    """For each pixel of a map of a shape the number of the pixel at its place in another map."""
    rows, columns = (np.arange(shape[axis]) * other[axis] // shape[axis] for axis in (0, 1))
    return (rows[:, None] * other[1] + columns).ravel()
