"""The labels of ops in figures, the colours of their boxes, and shapes as text."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kblocks.plans import ops
from kblocks.plans.ops import Op


class Label(NamedTuple):
    """The text and kind of a box. Small boxes are drawn close to a large one."""

    text: str
    kind: str
    small: bool = False


# Fill and border of a box.
COLORS = {
    "conv": ("#d6e6f7", "#4f86bf"),
    "dense": ("#e2dbf3", "#8268bd"),
    "pool": ("#d9eed9", "#5b9c5b"),
    "norm": ("#eef0f2", "#b3bac2"),
    "act": ("#fdecc8", "#d9a94a"),
    "other": ("#f6ddd8", "#c9806f"),
    "block": ("#fbe3cc", "#d08a48"),
    "network": ("#e6e9ed", "#6b7785"),
}


def label_of(op: Op, channels: Any = None) -> Label:
    """The label of a primitive; known input `channels` identify depthwise convolutions."""
    match op:
        case ops.Conv():
            return Label(_conv(op, channels), "conv")
        case ops.Dense():
            return Label(f"dense, {op.units}", "dense")
        case ops.Pool():
            single = op.pool_size == (1, 1)
            name = "subsample" if single else f"{by(op.pool_size)} {op.kind} pool"
            usual = "same" if op.strides == (1, 1) else "valid"
            return Label(name + strides_text(op.strides) + _padding(op.padding, usual), "pool")
        case ops.GlobalPool():
            return Label(f"global {op.kind} pool", "pool")
        case ops.AdaptivePool():
            return Label(f"avg pool to {by(op.output_size)}", "pool")
        case ops.Blur():
            return Label(f"{op.size}x{op.size} blur{strides_text(op.strides)}", "pool")
        case ops.SpaceToDepth():
            return Label(f"space to depth, {op.block}", "other")
        case ops.PadChannels():
            return Label(f"zeros to {op.filters} channels", "other")
        case ops.Norm():
            return Label(f"{op.kind} norm", "norm", small=True)
        case ops.Activation():
            return Label(function_name(op.function), "act", small=True)
        case ops.Scale():
            return Label(f"times {op.factor:g}", "other", small=True)
        case ops.Flatten():
            return Label("flatten", "other", small=True)
        case ops.Dropout():
            return Label(f"dropout {op.rate:g}", "other", small=True)
        case ops.DropPath():
            return Label(f"drop path {op.rate:g}", "other", small=True)
    return Label(str(getattr(op, "label", type(op).__name__)).replace("_", " "), "other")


def _conv(op: ops.Conv, channels: Any) -> str:
    depthwise = op.groups > 1 and op.groups == channels
    name = f"{by(op.kernel_size)} {'depthwise' if depthwise else 'conv'}, {op.filters}"
    groups = f", {op.groups} groups" if op.groups > 1 and not depthwise else ""
    dilation = f", dilation {by(op.dilation_rate)}" if op.dilation_rate != (1, 1) else ""
    padding = _padding(op.padding, "same") if op.kernel_size != (1, 1) else ""
    return name + strides_text(op.strides) + groups + dilation + padding


def _padding(padding: Any, usual: str) -> str:
    """The padding as text; empty if it is the usual one or keeps the size."""
    if padding in (usual, "same", "symmetric"):
        return ""
    return f", {padding}" if isinstance(padding, str) else f", pad {by(padding)}"


def strides_text(strides: Sequence[int]) -> str:
    """Strides as `, /2`; empty if they are 1."""
    steps = set(strides)
    return "" if steps == {1} else f", /{by(strides) if len(steps) > 1 else steps.pop()}"


def by(pair: Any) -> str:
    """A pair as `3x3`; a number as it is."""
    return "x".join(map(str, pair)) if isinstance(pair, (tuple, list)) else str(pair)


def function_name(function: Any) -> str:
    """The name of an activation: of Keras' own, of a function, or of a layer's config."""
    if isinstance(function, Mapping):
        function = function.get("class_name", "function")
    name = function if isinstance(function, str) else getattr(function, "__name__", "function")
    return name.split(">")[-1]


def shape_text(shape: Any) -> str:
    """A shape as `56 x 56 x 256`; unknown sizes of a map are named."""
    if not shape:
        return "a number"
    if len(shape) == 1:
        return f"{'?' if shape[0] is None else shape[0]} features"
    names = ("height", "width", "channels") if len(shape) == 3 else ("?",) * len(shape)
    sizes = zip(shape, names, strict=True)
    return " x ".join(name if size is None else str(size) for size, name in sizes)
