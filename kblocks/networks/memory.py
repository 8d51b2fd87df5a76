"""Estimates of the memory that a network needs in training and in inference, from its plans.

From the steps of a network in their order, each with the tensors that it reads and the one that it
makes, follow the tensors alive at any time, and those that the backward pass needs.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from kblocks.networks.architecture import INPUT, Architecture, check_input_shape
from kblocks.networks.rows import walk_rows
from kblocks.plans import ops
from kblocks.plans.cost import Tally, walk
from kblocks.plans.geometry import Shape, cropped, of_axis, op_reach, pool_reach, side
from kblocks.plans.ops import Chain, Merge, Op

_FLOAT = 4  # bytes
_UPDATE = 2  # copies of a kernel that the optimizer makes in its update
# Ops that converters fuse into the op before, unless another step reads its output too.
_FUSED = {
    ops.Norm: (ops.Conv, ops.Dense),
    ops.Activation: (ops.Conv, ops.Dense, ops.Norm, Merge),
    ops.Flatten: (object,),
}
_FUSED_FUNCTIONS = ("relu", "relu6", "linear")
_GATED = ("silu", "swish", "hard_silu", "hard_swish", "mish")  # x times a function of x


Placed = tuple[int, Shape]  # a tensor's number and its shape


class Step(NamedTuple):
    """One operation: the numbers of the tensors that it reads and of the one that it makes."""

    op: Any
    inputs: tuple[int, ...]
    output: int


def inference_memory(net: Architecture, input_shape: Any, itemsize: int = _FLOAT) -> int:
    """Estimates the RAM for one image, in bytes: the most tensors alive at any one time.

    Weights, which a microcontroller reads from flash, and scratch space are not counted.
    Normalizations and ReLUs are fused into the convolution before them, as converters do, unless
    another step reads its output.

    Args:
        net: an `Architecture`.
        input_shape: (height, width, channels).
        itemsize: bytes of an element: 4 for float32, 1 for int8.

    Raises:
        InputTooSmallError: (a ValueError) if a map would vanish.
    """
    traced = Trace(net, input_shape)
    owner = list(range(len(traced.elements)))  # the tensor whose memory each tensor uses
    last = traced.last_uses()
    ends = list(last)
    makers: dict[int, Any] = {}
    for time, step in enumerate(traced.steps):
        source = step.inputs[0]
        if last[source] == time and _is_fused(step.op, makers.get(source)):
            owner[step.output] = owner[source]
            ends[owner[source]] = last[step.output]
        makers[step.output] = step.op
    born = {step.output: time for time, step in enumerate(traced.steps)}
    changes = [0] * (len(traced.steps) + 2)
    for tensor, elements in enumerate(traced.elements):
        if owner[tensor] == tensor:
            changes[born.get(tensor, 0)] += elements
            changes[ends[tensor] + 1] -= elements
    return max(itertools.accumulate(changes)) * itemsize


def _is_fused(op: Any, maker: Any) -> bool:
    is_plain = not isinstance(op, ops.Activation) or op.function in _FUSED_FUNCTIONS
    return is_plain and isinstance(maker, _FUSED.get(type(op), ()))


def training_memory(
    net: Architecture, input_shape: Any, batch_size: int = 32, slots: int = 2, aux: bool = False
) -> int:
    """Estimates the memory of a training step in float32, in bytes.

    It is the sum of weights, gradients and optimizer slots, and of the larger of two: the maps
    kept for the backward pass with the largest gradients at one time, or the copies of the largest
    kernel during its update. The framework itself is not counted.

    Args:
        net: an `Architecture`.
        input_shape: (height, width, channels).
        batch_size: images in a step.
        slots: numbers that the optimizer keeps for each weight: 2 for Adam, 1 for momentum.
        aux: whether auxiliary heads are trained too.

    Raises:
        InputTooSmallError: (a ValueError) if a map would vanish.
    """
    traced = Trace(net, input_shape, training=True, aux=aux)
    kept = {tensor for step in traced.steps for tensor in _kept(step)}
    gradients = ({*step.inputs, step.output} for step in traced.steps)
    flowing = max((traced.size_of(tensors) for tensors in gradients), default=0)
    maps = batch_size * (traced.size_of(kept) + flowing)
    weights = traced.cost.params + (1 + slots) * traced.cost.trainable_params
    return _FLOAT * (weights + max(maps, _UPDATE * traced.largest_kernel))


def _kept(step: Step) -> tuple[int, ...]:
    """The tensors of the forward pass that the gradient of a step needs."""
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
        return (step.output,)  # the mask has the size of the output
    return ()


class Trace:
    """A network as steps."""

    def __init__(
        self, net: Architecture, input_shape: Any, training: bool = False, aux: bool = False
    ) -> None:
        check_input_shape(input_shape)
        self.cost = net.cost(input_shape, aux)
        self.steps: list[Step] = []  # in the order in which they run
        self.elements: list[int] = []  # of each tensor, for one image
        self.largest_kernel = 0  # the parameters of the op that has most
        self._training = training
        start = tuple(input_shape)
        tensors: dict[str, Placed] = {INPUT: (self._tensor(start), start)}
        shown = [row for name, row in net.outputs.items() if aux or name not in net.auxiliary]
        for row, _, spec, placed in walk_rows(net.rows, tensors, net.needed(shown)):
            sources = placed if isinstance(placed, list) else [placed]
            channels = [shape[-1] for _, shape in sources]
            plan = spec.plan(channels if len(channels) > 1 else channels[0])
            tensors[row.name] = self._op(plan, sources)
        self.results = [tensors[row][0] for row in shown]  # the tensors that are outputs

    def last_uses(self) -> list[int]:
        """By tensor, the last step that makes or reads it; the end for outputs."""
        last = [0] * len(self.elements)
        for time, step in enumerate(self.steps):
            for tensor in (*step.inputs, step.output):
                last[tensor] = time
        for tensor in self.results:
            last[tensor] = len(self.steps)
        return last

    def size_of(self, tensors: Collection[int]) -> int:
        """The number of elements of these tensors together."""
        return sum(self.elements[tensor] for tensor in tensors)

    def _tensor(self, shape: Shape) -> int:
        """Adds a tensor and returns its number."""
        self.elements.append(math.prod(shape))
        return len(self.elements) - 1

    def _step(self, op: Any, inputs: Sequence[int], shape: Shape) -> Placed:
        """Adds a step that makes a tensor of this shape."""
        output = self._tensor(shape)
        self.steps.append(Step(op, tuple(inputs), output))
        return output, shape

    def _op(self, op: Op, sources: list[Placed]) -> Placed:
        """Adds the steps of an op, and returns the tensor that it makes."""
        source, shape = sources[0]
        match op:
            case Chain():
                for step in op:
                    sources = [self._op(step, sources)]
                return sources[0]
            case Merge():
                return self._merge(op, sources)
            case ops.ResizeLike():
                return self._step(op, [source], walk(op, [shape for _, shape in sources]))
            case ops.Dropout() | ops.DropPath() if not self._training:
                return sources[0]
            case ops.Conv() | ops.Pool() | ops.Blur():
                padded = _padded(op, shape)
                if padded != shape:
                    source, _ = self._step("pad", [source], padded)
        tally = Tally()
        out = walk(op, shape, tally)
        self.largest_kernel = max(self.largest_kernel, tally.params)
        if isinstance(op, ops.Activation) and op.function in _GATED and not self._training:
            gate, _ = self._step("gate", [source], out)
            return self._step("multiply", [source, gate], out)
        return self._step(op, [source], out)

    def _merge(self, op: Merge, sources: list[Placed]) -> Placed:
        if len(sources) == 1:
            tensor, whole = sources[0]
            sources = [
                sources[0] if cut is None else self._step("crop", [tensor], cropped(whole, cut))
                for cut in op.crops()
            ]
        pairs = zip(op.branches, sources, strict=True)
        ends = [self._op(branch, [source])[0] for (_, branch), source in pairs]
        return self._step(op, ends, walk(op, [shape for _, shape in sources]))


def _padded(op: Any, shape: Shape) -> Shape:
    """The shape after padding; the input's shape if the op needs no separate padding step."""
    if isinstance(op, ops.Blur):
        added = [2 * (op.size // 2)] * 2
    elif op.padding == "same":
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
        if pooled and op.ceil_mode:  # windows may reach past the edge
            reached = zip(op_reach(op, op.pool_size), pool_reach(op), strict=True)
            added = [n + w - r for n, (w, r) in zip(added, reached, strict=True)]
    return shape[0] + added[0], shape[1] + added[1], shape[2]
