"""The best network as a figure: its stages with shapes and costs, and the inside of its blocks."""

import json
from typing import Any

from kblocks.drawing.figures import draw
from kblocks.networks.architecture import Architecture
from kblocks.tuner.reporting.outline import outline_table
from kblocks.tuner.reporting.text import clean, escaped
from kblocks.tuner.reporting.view import View

_LARGEST = 1_000_000  # the most characters of JSON and of a figure, and the largest number in it


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
