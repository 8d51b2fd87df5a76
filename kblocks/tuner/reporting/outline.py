"""A network's blocks as short text (`2 × ResidualBlock 32, 5×5, strides 2`), and as a figure."""

import json
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from kblocks.blocks.stages import stage_of
from kblocks.drawing.figures import draw
from kblocks.networks.architecture import Architecture
from kblocks.tuner.reporting.text import clean, escaped
from kblocks.tuner.reporting.view import View

# The most characters of JSON (ResNet-152 has 10,000) and of a figure, and the largest number in it.
_LARGEST = 1_000_000
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


def drawing(view: View) -> str:
    """HTML of the best trial's network: its figure, and its blocks in words."""
    best = view.best
    if best is None:
        return ""
    title = f"Trial {best.number}: {', '.join(view.scores_of(best))}."
    if best.record.started_from:
        title += f" Its weights started from {best.record.started_from}."
    words = outline_table(best.record.network)
    svg = _figure(best.record.network, view.run.input_shape)
    if svg:
        body = (
            f'<div class="scroll">{svg}</div><details><summary>In words</summary>{words}</details>'
        )
    else:
        body = words or '<p class="empty">Its network was not kept, or cannot be read here.</p>'
    head = f"<h2>The best network</h2><p>{escaped(title, 400)}</p>"
    return f'<section id="network">{head}{body}</section>'


def _figure(network: Any, input_shape: Any) -> str:
    """The SVG of a network; "" if it is unknown."""
    try:
        _refuse_endless(network)
        svg = draw(Architecture.from_json(network), input_shape=input_shape)
    except Exception:
        # In a run folder of unknown origin any block may fail on any argument; the report then
        # omits this one drawing.
        return ""
    return clean(svg, _LARGEST) if len(svg) < _LARGEST else ""


def _refuse_endless(text: Any) -> None:
    """Raises ValueError for huge numbers: a few characters of JSON can ask for 10**9 layers."""

    def bounded(digits: str) -> int:
        if len(digits) > 7 or int(digits) > _LARGEST:
            raise ValueError(digits[:20])
        return int(digits)

    if not isinstance(text, str) or len(text) > _LARGEST:
        raise ValueError("`network` must be the JSON of an architecture")
    json.loads(text, parse_int=bounded)
