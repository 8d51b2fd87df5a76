"""The cost of a plan by arithmetic: output shape, parameters, multiply-adds, activations."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kblocks.plans.geometry import Op, Shape


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one forward pass of one sample.

    Attributes:
        output_shape: (height, width, channels) or (features,); a dict of them by output where
            there are several.
        params: number of all parameters, as Keras' `count_params` counts them.
        trainable_params: number of the parameters that training changes.
        macs: multiply-adds of convolutions and linear layers.
        activations: number of elements in the outputs of convolutions and linear layers.
        receptive_field: (height, width) of the part of a network's input that one pixel of the
            output depends on, gates such as squeeze-and-excitation left out. Known for rows and
            stages; None after a global pool or a resize. Costs that differ in it alone are equal.
    """

    output_shape: Any
    params: int = 0
    trainable_params: int = 0
    macs: int = 0
    activations: int = 0
    receptive_field: Any = field(default=None, compare=False)

    def __repr__(self) -> str:
        names = ("params", "trainable_params", "macs", "activations")
        counts = ((name, getattr(self, name)) for name in names)
        shown = "".join(f", {name}={count:_}" for name, count in counts if count)
        return f"Cost(output_shape={self.output_shape}{shown})"


class Tally:
    """The running counts of a walk through a plan."""

    __slots__ = ("activations", "macs", "params", "trainable_params")

    def __init__(self) -> None:
        self.params = self.trainable_params = self.macs = self.activations = 0

    def add_kernel(self, op: Op, weights: int, outputs: int, pixels: int = 1) -> None:
        """Counts an op that multiplies with `weights` for each of its output's `pixels`."""
        params = weights + outputs * (op.use_bias + op.weight_norm)
        self.params += params
        self.trainable_params += params
        self.macs += pixels * weights
        self.activations += pixels * outputs


def cost(op: Op, input_shape: Shape | Sequence[Shape]) -> Cost:
    """The cost of a plan on an input of (height, width, channels), all of them known."""
    for shape in input_shape if isinstance(input_shape, list) else (input_shape,):
        if None in shape:
            raise ValueError(f"A cost needs known sizes. Received: input of shape {shape}")
    tally = Tally()
    shape = walk(op, input_shape, tally)
    return Cost(shape, tally.params, tally.trainable_params, tally.macs, tally.activations)


def total(costs: Iterable[Cost], output_shape: Any) -> Cost:
    """The sum of costs, with this output shape."""
    figures = ((one.params, one.trainable_params, one.macs, one.activations) for one in costs)
    return Cost(output_shape, *map(sum, zip(*figures, strict=True)))


def walk(op: Op, shape: Any, tally: Tally | None = None) -> Shape:
    """The output shape (of a list, one input a branch); adds counts to `tally` of known sizes."""
    try:
        return op.walk(shape, tally)
    except AttributeError as error:
        if error.name != "walk":
            raise
        raise TypeError(
            "A plan holds the primitives of kblocks.plans.ops. "
            f"Received: {type(error.obj).__name__}"
        ) from None
