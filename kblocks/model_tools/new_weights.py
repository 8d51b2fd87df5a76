"""Sets the weights of layers that a trained network is copied to."""

import math
from typing import Any

import keras
import numpy as np

from kblocks.model_tools.folding import Part
from kblocks.model_tools.matching import LINEAR
from kblocks.plans import ops
from kblocks.plans.ops import Merge


class NewWeights:
    """Sets variables, and counts in `numbers` how much of each is a copy of the parent's."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}

    def set(self, variable: Any, value: Any, numbers: int = 0) -> None:
        """Sets a variable to a value, of which so many numbers are the parent's."""
        variable.assign(value)
        if numbers:
            self.numbers[id(variable)] = int(numbers)

    def set_kernel(self, layer: Any, kernel: np.ndarray, numbers: int = 0) -> None:
        """Sets an effective kernel; where a normalized one is zero, its gain is."""
        kernel = kernel.reshape(layer.kernel.shape)
        if hasattr(layer, "gain"):
            sizes = np.sqrt(np.square(kernel).sum(tuple(range(kernel.ndim - 1))))
            self.set(layer.gain, sizes, len(sizes) if numbers else 0)
            kernel = np.where(sizes > 0, kernel, array_of(layer.kernel))
        self.set(layer.kernel, kernel, numbers)

    def multiply(self, layer: Any, factor: float) -> bool:
        """Multiplies what a convolution or normalization puts out, if its weights can do that."""
        kernel = "gain" if hasattr(layer, "gain") else "kernel"
        weights = [one for one in layer.weights if one.name in ("gamma", "beta", kernel, "bias")]
        if not {"gamma", kernel} & {weight.name for weight in weights}:
            return False
        for weight in weights:
            weight.assign(array_of(weight) * factor)
        return True

    def silence(self, chain: Any, offset: float) -> float:
        """Makes a new branch put out one number everywhere, and returns it; infinity if it cannot.

        It is zero, or what the activations at the end of the branch make of `offset`.
        """
        behind: list[Any] = []
        for step in reversed(chain):
            if isinstance(step, Merge):
                if step.mode == "multiply":
                    continue  # gates leave zeros
                return max(self.silence(branch, offset) for _, branch in step.branches)
            op, layer = step.op, layer_of(step)
            if isinstance(op, ops.Activation):
                behind.insert(0, layer)
            if isinstance(op, LINEAR) or (isinstance(op, ops.Norm) and op.scale):
                break
        else:
            return math.inf
        if isinstance(op, ops.Norm):
            self.set(layer.gamma, np.zeros(layer.gamma.shape))
        else:
            self.set_kernel(layer, np.zeros(layer.kernel.shape))
        shift = getattr(layer, "beta" if isinstance(op, ops.Norm) else "bias", None)
        value = 0.0 if shift is None or not behind else offset
        if shift is not None:
            self.set(shift, np.full(shift.shape, value))
        for activation in behind:
            value = float(array_of(activation(np.full((1, 1, 1, 1), value, "float32"))).ravel()[0])
        return value


def layer_of(part: Part) -> Any:
    """The Keras layer of a part of a block."""
    owner, path = part.sources[0]
    return getattr(owner, path)


def kernel_of(layer: Any) -> np.ndarray:
    """An effective kernel as (height, width, inputs of a group, outputs)."""
    kernel = array_of(layer.effective_kernel())
    return kernel if kernel.ndim == 4 else kernel[None, None]


def array_of(value: Any) -> np.ndarray:
    """A variable's value in float32."""
    # The backend casts, since NumPy has no bfloat16.
    found: Any = keras.ops.convert_to_numpy(keras.ops.cast(value, "float32"))
    return found
