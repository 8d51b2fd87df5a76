"""What a network needs of memory, estimated from its plans: in training and in use.

A network is written down as steps in the order in which they run, each with the tensors
that it reads and the one it makes. From that follow the tensors alive at any time, and
those that the backward pass needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kblocks import ops
from kblocks.cost import walk
from kblocks.geometry import Shape, crops, of_axis, side
from kblocks.network import INPUT, Architecture, check_input_shape
from kblocks.ops import Chain, Merge, Op

_FLOAT = 4  # bytes
# Done where its input lies, or as part of the step before, unless the input is needed again.
_IN_PLACE = (ops.Activation, ops.Norm, ops.Scale, ops.Flatten)


@dataclass
class Step:
    """One operation: the tensors it reads, by number, and the one it makes."""

    op: Any
    inputs: tuple[int, ...]
    output: int


@dataclass
class Steps:
    """A network as steps, and the number of elements of each tensor for one image."""

    steps: list[Step] = field(default_factory=list)
    elements: list[int] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    params: int = 0
    trainable_params: int = 0

    def tensor(self, shape: Shape) -> int:
        """A new tensor's number."""
        self.elements.append(math.prod(shape))
        return len(self.elements) - 1

    def add(self, op: Any, inputs: Sequence[int], shape: Shape) -> int:
        """A step that makes a tensor of this shape."""
        output = self.tensor(shape)
        self.steps.append(Step(op, tuple(inputs), output))
        return output


def inference_memory(net: Architecture, input_shape: Any, itemsize: int = _FLOAT) -> int:
    """Bytes of the largest set of tensors alive at once for one image: what must be held in RAM.

    Weights, which a microcontroller reads from flash, and the scratch space of kernels are
    not counted. Normalizations and activations are done in place or by the convolution
    before them, as converters do, unless their input is needed again.

    Args:
        net: the architecture.
        input_shape: (height, width, channels).
        itemsize: bytes of an element: 4 for float32, 1 for int8.

    Raises:
        InputTooSmallError: (a ValueError) if a map would vanish.
    """
    traced = _traced(net, input_shape)
    owner = list(range(len(traced.elements)))  # the tensor in whose place a tensor lies
    last = _last_uses(traced)
    ends = list(last)
    for time, step in enumerate(traced.steps):
        source = step.inputs[0]
        if isinstance(step.op, _IN_PLACE) and last[source] == time:
            owner[step.output] = owner[source]
            ends[owner[source]] = last[step.output]
    born = {step.output: time for time, step in enumerate(traced.steps)}
    changes = [0] * (len(traced.steps) + 2)
    for tensor, elements in enumerate(traced.elements):
        if owner[tensor] == tensor:
            changes[born.get(tensor, 0)] += elements
            changes[ends[tensor] + 1] -= elements
    most = alive = 0
    for change in changes:
        alive += change
        most = max(most, alive)
    return most * itemsize


def training_memory(
    net: Architecture, input_shape: Any, batch_size: int = 32, slots: int = 2
) -> int:
    """Bytes that a training step needs in float32: weights, their gradients and the
    optimizer's slots; what the forward pass keeps for the backward one; and the largest
    gradients of maps at one time. What the framework itself takes is not counted.

    Args:
        net: the architecture.
        input_shape: (height, width, channels).
        batch_size: images in a step.
        slots: numbers that the optimizer keeps for each weight: 2 of Adam, 1 of momentum.

    Raises:
        InputTooSmallError: (a ValueError) if a map would vanish.
    """
    traced = _traced(net, input_shape, training=True)
    kept: set[int] = set()
    flowing = 0
    for step in traced.steps:
        kept.update(_kept(step))
        gradients = {*step.inputs, step.output}
        flowing = max(flowing, sum(traced.elements[tensor] for tensor in gradients))
    maps = sum(traced.elements[tensor] for tensor in kept) + flowing
    weights = traced.params + (1 + slots) * traced.trainable_params
    return _FLOAT * (weights + batch_size * maps)


def _kept(step: Step) -> tuple[int, ...]:
    """The tensors that the gradient of a step asks for."""
    op = step.op
    if isinstance(op, (ops.Conv, ops.Dense, ops.Norm, ops.Blur)):
        return step.inputs
    if isinstance(op, ops.Activation):
        return (step.output,) if op.function == "relu" else step.inputs
    if isinstance(op, ops.Pool):
        return (*step.inputs, step.output) if op.kind != "avg" else ()
    if isinstance(op, Merge) and op.mode == "multiply":
        return step.inputs
    if isinstance(op, ops.Dropout):
        return (step.output,)  # the mask, as large as what it masks
    return ()


def _last_uses(traced: Steps) -> list[int]:
    last = [0] * len(traced.elements)
    for time, step in enumerate(traced.steps):
        last[step.output] = time
        for tensor in step.inputs:
            last[tensor] = time
    for tensor in traced.results:
        last[tensor] = len(traced.steps)
    return last


# --- a network as steps ------------------------------------------------------------------


def _traced(net: Architecture, input_shape: Any, training: bool = False) -> Steps:
    check_input_shape(input_shape)
    cost = net.cost(input_shape, aux=training and bool(net.auxiliary))
    traced = Steps(params=cost.params, trainable_params=cost.trainable_params)
    shapes: dict[str, Shape] = {INPUT: tuple(input_shape)}
    tensors = {INPUT: traced.tensor(shapes[INPUT])}
    specs: dict[str, Any] = {}
    shown = [row for name, row in net.outputs.items() if training or name not in net.auxiliary]
    needed = set(shown)
    for row in reversed(net.rows):
        if row.name in needed:
            needed.update(row.inputs)
    for row in net.rows:
        if row.name not in needed:
            continue
        specs[row.name] = spec = specs[row.spec] if isinstance(row.spec, str) else row.spec
        sources = [(tensors[name], shapes[name]) for name in row.inputs]
        channels = [shape[-1] for _, shape in sources]
        plan = spec.plan(channels if len(channels) > 1 else channels[0])
        run = _Trace(traced, training)
        tensors[row.name], shapes[row.name] = run.op(plan, sources)
    traced.results = [tensors[row] for row in shown]
    return traced


Placed = tuple[int, Shape]  # a tensor's number and its shape


@dataclass
class _Trace:
    """Writes ops down as steps."""

    traced: Steps
    training: bool

    def op(self, op: Op, sources: list[Placed]) -> Placed:
        """The tensor that an op makes."""
        match op:
            case Chain():
                for step in op:
                    sources = [self.op(step, sources)]
                return sources[0]
            case Merge():
                return self._merge(op, sources)
            case ops.Dropout() | ops.DropPath() if not self.training:
                return sources[0]
            case ops.Conv() | ops.Pool() | ops.Blur():
                source, shape = sources[0]
                padded = _padded(op, shape)
                if padded != shape:
                    source = self.traced.add("pad", (source,), padded)
                return self._add(op, source, shape)
        return self._add(op, *sources[0])

    def _add(self, op: Op, source: int, shape: Shape) -> Placed:
        made = walk(op, shape)
        return self.traced.add(op, (source,), made), made

    def _merge(self, op: Merge, sources: list[Placed]) -> Placed:
        if len(sources) == 1:
            sources = [self._cropped(sources[0], cut) for cut in crops(op)]
        ends = [
            self.op(branch, [source])
            for (_, branch), source in zip(op.branches, sources, strict=True)
        ]
        made = walk(op, [shape for _, shape in sources])
        return self.traced.add(op, [tensor for tensor, _ in ends], made), made

    def _cropped(self, source: Placed, cut: Any) -> Placed:
        if cut is None:
            return source
        tensor, (height, width, channels) = source
        shape = (height - sum(cut[0]), width - sum(cut[1]), channels)
        return self.traced.add("crop", (tensor,), shape), shape


def _padded(op: Any, shape: Shape) -> Shape:
    """The map with its padding, where that is a step of its own before the op."""
    if isinstance(op, ops.Blur):
        added = [2 * (op.size // 2)] * 2
    elif op.padding in ("same", "valid"):
        return shape
    else:
        pooled = isinstance(op, ops.Pool)
        kernel = op.pool_size if pooled else op.kernel_size
        dilation = (1, 1) if pooled else op.dilation_rate
        sides = [side(kernel[i], of_axis(op.padding, i), dilation[i]) for i in (0, 1)]
        keeps = all(2 * sides[i] == dilation[i] * (kernel[i] - 1) for i in (0, 1))
        if not pooled and keeps and op.strides == (1, 1) and op.padding_mode == "zeros":
            return shape
        added = [2 * pixels for pixels in sides]
    return shape[0] + added[0], shape[1] + added[1], shape[2]
