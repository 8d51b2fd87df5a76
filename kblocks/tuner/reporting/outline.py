"""A network's blocks as short text, from its JSON alone: `2 × ResidualBlock 32, 5×5, strides 2`."""

import json
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from kblocks.blocks.stages import stage_of
from kblocks.tuner.reporting.text import clean, escaped

_LARGEST = 1_000_000  # characters of JSON; ResNet-152 has 10,000
_SAID = ("filters", "kernel_size", "strides", "padding", "pool", "classes")
_HIDDEN = ("normalization", "activation", "initializer", "pool_", "kernel_initializer")
_PARTS = 6  # the most arguments that are shown of a block


def outline(network: Any) -> list[tuple[str, str]]:
    """(name, blocks) of each stage; empty if `network` is not the JSON of an architecture."""
    stages: dict[str, list[str]] = {}
    for row in _rows(network):
        stages.setdefault(stage_of(row["name"]), []).append(_block(row))
    return [(clean(name, 40), clean(_joined(blocks), 300)) for name, blocks in stages.items()]


def outline_table(network: Any) -> str:
    """HTML of an outline; "" for an empty one."""
    rows = "".join(
        f"<tr><th>{escaped(stage)}</th><td>{escaped(blocks, 400)}</td></tr>"
        for stage, blocks in outline(network)
    )
    return f"<table class=plain>{rows}</table>" if rows else ""


def _rows(network: Any) -> list[dict[str, Any]]:
    if not isinstance(network, str) or len(network) > _LARGEST:
        return []
    try:
        rows = json.loads(network)["rows"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
    known = isinstance(rows, list) and all(
        isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows
    )
    return rows if known else []


def _joined(blocks: list[str]) -> str:
    runs = [(text, len(list(same))) for text, same in groupby(blocks)]
    return ", then ".join(text if count == 1 else f"{count} × {text}" for text, count in runs)


def _block(row: Mapping[str, Any]) -> str:
    if "weights_of" in row:
        return f"weights of {clean(row['weights_of'], 40)}"
    arguments = row.get("arguments")
    arguments = dict(arguments) if isinstance(arguments, dict) else {}
    told = [_argument(name, arguments.pop(name)) for name in _SAID if name in arguments]
    others = [name for name in arguments if not name.startswith(_HIDDEN)]
    told += [_argument(name, arguments[name]) for name in others]
    more = " …" if len(told) > _PARTS else ""
    return f"{clean(row.get('block'), 40)} {', '.join(told[:_PARTS])}{more}".strip()


def _argument(name: str, value: Any) -> str:
    text = _size(value)
    if name in ("filters", "kernel_size"):
        return text
    return f"{clean(name, 30).replace('_', ' ')} {text}"


def _size(value: Any) -> str:
    """A value as text of at most 40 characters; a pair of integers such as [3, 3] as 3×3."""
    if isinstance(value, list) and len(value) == 2 and all(type(item) is int for item in value):
        return f"{value[0]}×{value[1]}"
    if isinstance(value, (dict, list)):
        return clean(json.dumps(value), 40)
    return clean(value, 40)
