"""The stems of the Inception families, and changes to their published stems and modules."""

from collections.abc import Mapping
from typing import Any

from kblocks.blocks.fields import positive
from kblocks.families.stage_arguments import by_stage, one_of

_POOL = {"branches": ("max",), "kernel_size": 3, "strides": 2, "padding": "valid"}
_CEIL = {**_POOL, "pool_ceil_mode": True}
_V3 = (
    {"filters": 32, "strides": 2, "padding": "valid"},
    {"filters": 32, "padding": "valid"},
    {"filters": 64},
    _POOL,
    {"filters": 80, "kernel_size": 1},
    {"filters": 192, "padding": "valid"},
    _POOL,
)
STEMS: dict[str, tuple[dict[str, Any], ...]] = {  # in each of them three rows halve the map
    "googlenet": (
        {"filters": 64, "kernel_size": 7, "strides": 2, "padding": "symmetric"},
        _CEIL,
        {"filters": 64, "kernel_size": 1},
        {"filters": 192, "kernel_size": 3},
        _CEIL,
    ),
    "inception_v3": _V3,
    "inception_v4": (
        *_V3[:3],
        {"branches": ("max", 96), "kernel_size": 3, "strides": 2, "padding": "valid"},
        {
            "branches": ((64, 96), (64, 64, 64, 96)),
            "kernel_size": (3, (1, 7)),
            "last_kernel_size": 3,
            "last_padding": "valid",
        },
        {"branches": (192, "max"), "kernel_size": 3, "strides": 2, "padding": "valid"},
    ),
    "inception_resnet_v1": (*_V3[:6], {"filters": 256, "strides": 2, "padding": "valid"}),
    "inception_resnet_v2": (
        *_V3,
        {"branches": (96, (48, 64), (64, 96, 96), ("avg", 64)), "kernel_size": (1, 5, 3, 3)},
    ),
}


def stem_rows(form: str, filters: Any = None, **changes: Any) -> list[dict[str, Any]]:
    """The rows of a published stem; `changes` are for the three rows that halve the map."""
    rows = [dict(row) for row in STEMS[one_of("form", form, STEMS)]]
    strided = [row for row in rows if "strides" in row]
    known: dict[str, Any] = dict.fromkeys(("form", "filters", "kernel_size", "strides", "padding"))
    for name, value in changes.items():
        one_of("stem", name, known)
        for row, own in zip(strided, by_stage(name, value, len(strided), "rows"), strict=True):
            row.update({} if own is None else {name: own})
    for row in rows:
        row["filters"] = filters if "branches" in row else _scaled(row["filters"], filters)
    return rows


def changed_module(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a block of branches, from such and from three more that change the branches.

    Raises ValueError if one of these three has another form.

    Args:
        arguments: those of the block, and perhaps:
            `filters`: factors of the filters in `branches`: one for all branches or one for each;
                a pair of factors is for the convolutions before a branch's last and for its last.
                Products are rounded to multiples of 8; 1 and None change nothing.
            `pool`: the kind of all pools, "max", "avg" or "min".
            `kept`: the numbers, counted from 1, of the branches that the block keeps.
    """
    own = dict(arguments)
    filters, pool, kept = (own.pop(name, None) for name in ("filters", "pool", "kept"))
    table = own.get("branches", ())
    if filters is not None or pool is not None:
        factors = by_stage("filters", filters, len(table), "branches")
        pairs = zip(table, factors, strict=True)
        own["branches"] = [_changed_branch(parts, factor, pool) for parts, factor in pairs]
    if kept is not None:
        known = range(1, len(table) + 1)
        if not isinstance(kept, (list, tuple)) or not kept or not all(n in known for n in kept):
            raise ValueError(
                f"`kept` must be numbers of branches, 1 to {len(table)}. Received: kept={kept!r}"
            )
        for name in ("branches", "kernel_size"):
            column = own.get(name)
            if isinstance(column, (list, tuple)) and len(column) == len(table):
                own[name] = [column[number - 1] for number in kept]
    return own


def _changed_branch(parts: Any, factor: Any, pool: str | None) -> list[Any]:
    *inner, last = parts if isinstance(parts, (list, tuple)) else (parts,)
    before, end = factor if isinstance(factor, (list, tuple)) else (factor, factor)
    pairs = [*((part, before) for part in inner), (last, end)]
    return [(pool or part) if isinstance(part, str) else _scaled(part, own) for part, own in pairs]


def _scaled(filters: int, factor: Any) -> int:
    """`factor` times as many filters as the nearest multiple of 8; 1 and None change nothing."""
    if factor is None or positive("filters", factor) == 1:
        return filters
    return 8 * max(1, round(filters * factor / 8))
