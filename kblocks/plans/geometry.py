"""The sizes of maps: all arithmetic of padding and strides.

One formula serves all paddings: with `reach`, the pixels by which an axis would shrink at
stride 1, the output has `(size - 1 - reach) // stride + 1` pixels. Ops one after another have a
common stride and reach, so `Merge.crops` can align branches of inputs of any size.
"""

import math
from collections.abc import Callable
from typing import Any

Pair = tuple[int, int]
Pixels = Any  # a Pair, or a name of padding; checkers see a block's field as `int | Pair`
Op = Any  # a primitive of `ops`, a Chain or a Merge
Shape = tuple[Any, ...]  # (height, width, channels) or (features,); None is an unknown size
Geometry = tuple[int, int, int, int]  # strides (height, width), reach (height, width)
Pads = tuple[Pair, Pair]  # pixels to add: (top, bottom), (left, right)
Crop = Pads  # pixels to cut


class InputTooSmallError(ValueError):
    """Raised where a map would have no pixels. `missing` is the number of pixels that its input
    lacks; if an architecture raises it, those that the architecture's input lacks."""

    def __init__(self, message: str, missing: float) -> None:
        super().__init__(message)
        self.missing = missing

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.missing)


_LARGEST_INPUT = 1 << 14
_MISFITS = 32  # sizes in a row that may be refused for other reasons, such as a division


def reach(kernel_size: int, padding: str | int, dilation_rate: int = 1) -> int:
    """The pixels by which one axis shrinks at stride 1; negative where padding lets it grow."""
    span = dilation_rate * (kernel_size - 1)
    if padding == "valid":
        return span
    if padding == "same":
        return 0
    return span - 2 * side(kernel_size, padding, dilation_rate)


def side(kernel_size: int, padding: str | int, dilation_rate: int = 1) -> int:
    """The pixels that `padding` adds on each side of one axis; not for "same"."""
    if padding == "symmetric":
        return (dilation_rate * (kernel_size - 1) + 1) // 2
    return 0 if padding == "valid" else int(padding)


def same_padding(size: int, kernel_size: int, strides: int, dilation_rate: int = 1) -> Pair:
    """The pixels that Keras' "same" adds (before, after) one axis."""
    outputs = -(-size // strides)
    total = max((outputs - 1) * strides + dilation_rate * (kernel_size - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def conv_output_size(
    size: Any, kernel_size: Any, strides: Any = 1, padding: Any = "valid", dilation_rate: Any = 1
) -> Any:
    """The size of a map after a convolution or pool.

    Args:
        size: pixels of one axis, or the pair (height, width); None, an unknown size, stays None.
        kernel_size: pixels; integer, or a pair for a pair of sizes.
        strides: pixels; integer, or a pair for a pair of sizes.
        padding: "same" (as Keras), "valid", "symmetric" (equal on both sides), or the pixels added
            on each side; one of these, or a pair of them for a pair of sizes.
        dilation_rate: pixels; integer, or a pair for a pair of sizes.

    Returns:
        The output's pixels: an integer, or a pair for a pair.

    Raises:
        InputTooSmallError: (a ValueError) if the output would have no pixels.
        ValueError: if an argument is not of the form above.
    """
    if isinstance(size, (tuple, list)):
        columns = []
        for value in (kernel_size, strides, padding, dilation_rate):
            pair = value if isinstance(value, (tuple, list)) else [value] * len(size)
            if len(pair) != len(size):
                raise ValueError(f"Expected one value for each of size={size}. Received: {value!r}")
            columns.append(pair)
        return tuple(conv_output_size(n, *(c[i] for c in columns)) for i, n in enumerate(size))
    counts = {"size": 1 if size is None else size, "kernel_size": kernel_size, "strides": strides}
    for name, value in {**counts, "dilation_rate": dilation_rate}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    pixels = isinstance(padding, int) and not isinstance(padding, bool) and padding >= 0
    if not pixels and padding not in ("same", "valid", "symmetric"):
        raise ValueError(
            "`padding` must be 'same', 'valid', 'symmetric' or a number of pixels. "
            f"Received: padding={padding!r}"
        )
    return _output_size(size, kernel_size, strides, padding, dilation_rate)


def _output_size(size: Any, kernel_size: int, strides: int, padding: Any, dilation: int) -> Any:
    if size is None:
        return None
    left = size - 1 - reach(kernel_size, padding, dilation)
    if left < 0:
        raise InputTooSmallError(
            f"{size} pixels are too few for a kernel of {kernel_size} with padding={padding!r}, "
            f"dilation_rate={dilation}: {-left} more are needed",
            missing=-left,
        )
    return left // strides + 1


def window(op: Op, height: Any, width: Any, kernel: Pair, dilation: Pair = (1, 1)) -> Shape:
    """The output's (height, width) of an op with `strides` and `padding`."""
    vertical, horizontal = op.strides
    rows, columns = (0, 0) if op.padding == "same" else op_reach(op, kernel, dilation)
    if height is None or width is None or height <= rows or width <= columns:
        return tuple(
            _output_size(size, kernel[i], op.strides[i], of_axis(op.padding, i), dilation[i])
            for i, size in enumerate((height, width))
        )
    return (height - 1 - rows) // vertical + 1, (width - 1 - columns) // horizontal + 1


def op_reach(op: Op, kernel: Pair, dilation: Pair = (1, 1)) -> Pair:
    """`reach` of both axes of an op with `padding`."""
    padding = op.padding
    if padding == "same" or (padding == "symmetric" and kernel[0] % 2 and kernel[1] % 2):
        return 0, 0
    return (
        reach(kernel[0], of_axis(padding, 0), dilation[0]),
        reach(kernel[1], of_axis(padding, 1), dilation[1]),
    )


def of_axis(padding: Any, axis: int) -> Any:
    return padding[axis] if type(padding) is tuple else padding


def check_input_shape(shape: Any, unknown: bool = False) -> None:
    """Refuses all but (height, width, channels); with `unknown` the first two may be None."""
    sizes = shape if isinstance(shape, (tuple, list)) else ()
    last = len(sizes) - 1
    if len(sizes) != 3 or any(
        not (unknown and size is None and axis != last) and not (isinstance(size, int) and size > 0)
        for axis, size in enumerate(sizes)
    ):
        known = "" if unknown else " all known,"
        raise ValueError(
            f"`input_shape` must be (height, width, channels),{known} positive integers. "
            f"Received: input_shape={shape!r}"
        )


def pool_reach(op: Op) -> Pair:
    """`reach` of a pool; with `ceil_mode` a window counts if it begins before the edge."""
    rows, columns = op_reach(op, op.pool_size)
    if not op.ceil_mode or op.padding == "same":
        return rows, columns
    above, left = (side(op.pool_size[axis], of_axis(op.padding, axis)) for axis in (0, 1))
    return max(rows - op.strides[0] + 1, -above), max(columns - op.strides[1] + 1, -left)


def ceiled(size: int, reached: int, stride: int) -> int:
    """The output's pixels along one axis of a pool with `ceil_mode`, from its `pool_reach`."""
    if size <= reached:
        raise InputTooSmallError(
            f"{size} pixels are too few for a pool that reaches {reached} of them",
            reached + 1 - size,
        )
    return (size - 1 - reached) // stride + 1


def cropped(shape: Shape, cut: Crop) -> Shape:
    height, width, channels = shape
    sizes = []
    for size, (before, after) in ((height, cut[0]), (width, cut[1])):
        if size is not None and size <= before + after:
            missing = before + after + 1 - size
            raise InputTooSmallError(
                f"{size} pixels are too few to cut {before + after} off for a branch that is "
                f"joined to one with valid padding: {missing} more are needed",
                missing,
            )
        sizes.append(None if size is None else size - before - after)
    return (*sizes, channels)


def missing_pixels(walk: Callable[[int], Any]) -> float:
    """The least `added` for which `walk(added)` succeeds; infinity if there is none."""

    def fitting(least: int) -> float:
        """The first number from `least` on that `walk` accepts; 0 if it finds it too small."""
        for added in range(least, least + _MISFITS):
            try:
                walk(added)
            except InputTooSmallError:
                return 0
            except ValueError:
                continue
            return added
        return math.inf

    low, high = 0, 1
    while not fitting(high):
        low, high = high, 2 * high
        if high > _LARGEST_INPUT:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fitting(middle) else (middle, high)
    return fitting(high)
