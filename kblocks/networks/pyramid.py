"""The feature pyramid of a network: which row has a map at which stride."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from kblocks.blocks.spec import channels_of
from kblocks.networks.rows import INPUT, Row, walk_rows
from kblocks.plans.cost import walk
from kblocks.plans.ops import Pair

STRIDES = (4, 8, 16, 32)
_SIDE = 1 << 12  # side of an input so large that no map vanishes
_CHANNELS = (3, 1, 4, 840)  # to try where the input is unknown; 840 has many divisors


class Level(NamedTuple):
    """A map of a network: the name of its row, its stride in input pixels, its shape."""

    row: str
    stride: Any  # an integer, or a pair where height and width differ
    shape: Any


def strides_of(
    rows: Sequence[Row], needed: Collection[str], input_shape: Any
) -> tuple[dict[str, Pair], dict[str, Any]]:
    """The strides (vertical, horizontal) and the output shape of each needed row.

    Rows without strides, such as those after a global pool, are left out of the strides.
    """
    shapes: dict[str, Any] = {INPUT: tuple(input_shape)}
    strides: dict[str, Pair] = {INPUT: (1, 1)}
    for row, _, spec, source in walk_rows(rows, shapes, needed):
        if any(name not in strides for name in row.inputs):
            continue
        try:
            plan = spec.plan(channels_of(source))
            shapes[row.name], own = walk(plan, source), plan.geometry()
        except ValueError:
            continue
        before = {strides[name] for name in row.inputs}
        if own is not None and len(before) == 1:
            down, right = before.pop()
            strides[row.name] = (down * own[0], right * own[1])
    strides.pop(INPUT)
    return strides, shapes


def levels_of(rows: Sequence[Row], needed: Collection[str]) -> Callable[[], dict[int, str]]:
    """A function that finds the last of the needed rows at each stride, for an unknown input."""

    @functools.cache
    def levels() -> dict[int, str]:
        inputs = ((_SIDE, _SIDE, channels) for channels in _CHANNELS)
        tried = (strides_of(rows, needed, shape)[0] for shape in inputs)
        return _by_stride(max(tried, key=len))

    return levels


def _by_stride(strides: Mapping[str, Pair]) -> dict[int, str]:
    """The last row at each stride that is equal for height and width."""
    return {down: name for name, (down, right) in strides.items() if down == right}


def chosen_levels(
    rows: Sequence[Row], needed: Collection[str], input_shape: Any, levels: Any
) -> tuple[dict[str, Level], list[int]]:
    """The chosen levels, by `stride4`, ... or by name, and the usual strides that do not exist."""
    strides, shapes = strides_of(rows, needed, input_shape)
    by_stride = _by_stride(strides)
    if isinstance(levels, (str, int)):
        levels = (levels,)
    found: dict[str, Level] = {}
    missing = []
    for level in STRIDES if levels is None else levels:
        if not isinstance(level, str) and level not in by_stride:
            missing.append(level)
            continue
        name = _row_named(level, strides) if isinstance(level, str) else by_stride[level]
        down, right = strides[name]
        key = level if isinstance(level, str) else f"stride{level}"
        found[key] = Level(name, down if down == right else (down, right), shapes[name])
    if not found or (missing and levels is not None):
        known = [f"stride{2**power}" for power in range(10) if 2**power in by_stride]
        raise ValueError(
            f"`levels` must be of {', '.join(known) or 'a network with maps'}. "
            f"Received: levels={levels!r}"
        )
    return found, missing


def _row_named(name: str, strides: Mapping[str, Pair]) -> str:
    """The row of that name, or the last row of the stage of that name."""
    rows = [row for row in strides if row == name or row.startswith(f"{name}_")]
    if not rows:
        stages = dict.fromkeys(row.split("_")[0] for row in strides)
        raise ValueError(
            f"`levels` must be strides, rows or stages ({', '.join(stages)}). Received: {name!r}"
        )
    return rows[-1]
