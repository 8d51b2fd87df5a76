"""The best network stage by stage: output shape, blocks and share of the cost."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from kblocks.networks.architecture import Architecture
from kblocks.plans.cost import Cost
from kblocks.tuner.reporting.outline import outline, outline_table
from kblocks.tuner.reporting.text import escaped, short
from kblocks.tuner.reporting.view import Shown, View

_LARGEST = 1_000_000  # the most characters of JSON, and the largest number in it


def drawing(view: View) -> str:
    """HTML of the best trial's network; without known costs only its blocks."""
    best = view.best
    if best is None:
        return ""
    title = f"Trial {best.number}: {', '.join(view.scores_of(best))}."
    stages = stages_of(best, view.run.input_shape)
    body = _table(view, best, stages) if stages else _words(best)
    head = f"<h2>The best network</h2><p>{escaped(title, 400)}</p>"
    return f'<section id="network">{head}{body}</section>'


def stages_of(trial: Shown, input_shape: Any) -> list[tuple[str, Cost]]:
    """(name, cost) of each stage; empty if the network or its input shape is unknown."""
    try:
        _refuse_endless(trial.record.network)
        return Architecture.from_json(trial.record.network or "").stages(tuple(input_shape))
    except Exception:
        # In a run folder of unknown origin any block may fail on any argument; the report then
        # omits this one drawing.
        return []


def _refuse_endless(text: Any) -> None:
    """Raises ValueError for huge numbers: a few characters of JSON can ask for 10**9 layers."""

    def bounded(digits: str) -> int:
        if len(digits) > 7 or int(digits) > _LARGEST:
            raise ValueError(digits[:20])
        return int(digits)

    if not isinstance(text, str) or len(text) > _LARGEST:
        raise ValueError("`network` must be the JSON of an architecture")
    json.loads(text, parse_int=bounded)


def _words(best: Shown) -> str:
    table = outline_table(best.record.network)
    if not table:
        return '<p class="empty">Its network was not kept, or cannot be read here.</p>'
    return f"<p>Its cost stage by stage is not known here.</p>{table}"


def _table(view: View, best: Shown, stages: list[tuple[str, Cost]]) -> str:
    blocks = dict(outline(best.record.network))
    params = sum(cost.params for _, cost in stages) or 1
    macs = sum(cost.macs for _, cost in stages) or 1
    shape = view.run.input_shape or ()
    largest = max(_side(shape), *(_side(cost.output_shape) for _, cost in stages))
    rows = _row("input", "", shape, largest, "", "")
    for name, cost in stages:
        shares = _share(cost.params, params), _share(cost.macs, macs)
        rows += _row(name, blocks.get(name, ""), cost.output_shape, largest, *shares)
    heads = ("", "stage", "blocks", "output", "parameters", "MACs")
    head = "".join(f"<span>{name}</span>" for name in heads)
    return (
        f'<div class="network"><div class="stage heads">{head}</div>{rows}'
        '<div class="stage total"><span></span><b>total</b><span></span><span></span>'
        f"<span>{short(params)}</span><span>{short(macs)}</span></div></div>"
    )


def _row(name: str, blocks: str, shape: Any, largest: int, params: str, macs: str) -> str:
    icon = _prism(shape, largest)
    return (
        f'<div class="stage"><span class="icon">{icon}</span><b>{escaped(name, 40)}</b>'
        f'<span class="blocks">{escaped(blocks, 400)}</span>'
        f'<span class="shape">{escaped(_shape(shape))}</span>'
        f'<span class="cost" data-of="parameters">{params}</span>'
        f'<span class="cost" data-of="MACs">{macs}</span></div>'
    )


def _share(part: int, whole: int) -> str:
    percent = 100 * part / whole
    told = f"{percent:.0f} %" if percent >= 0.5 or not part else "< 1 %"
    return (
        f'<i style="width:{percent:.1f}%"></i><em>{short(part)}</em><small>{escaped(told)}</small>'
    )


def _shape(shape: Any) -> str:
    if isinstance(shape, dict):
        return "; ".join(f"{name} {_shape(inner)}" for name, inner in shape.items())
    return " × ".join(map(str, shape))


def _side(shape: Any) -> int:
    return max(shape[:2]) if isinstance(shape, tuple) and len(shape) == 3 else 1


def _prism(shape: Any, largest: int) -> str:
    """A feature map as an SVG box: sides by height and width, depth by the log of the channels."""
    if not isinstance(shape, tuple) or len(shape) not in (1, 3):
        return ""
    if len(shape) == 1:
        tall = min(40.0, 8 + 4 * math.log2(1 + shape[0]))
        return _svg(f'<rect class="face" x="32" y="{28 - tall / 2:.1f}" {_sized(8, tall)} rx="2"/>')
    scale = 34 / math.sqrt(largest)
    high, wide = (max(3.0, scale * math.sqrt(side)) for side in shape[:2])
    deep = min(2 + 1.7 * math.log2(1 + shape[2]), 20)
    rise = 0.5 * deep
    left, top = (72 - wide - deep) / 2, (56 - high + rise) / 2
    right, bottom = left + wide, top + high
    lid = ((left, top), (left + deep, top - rise), (right + deep, top - rise), (right, top))
    wall = ((right, top), (right + deep, top - rise), (right + deep, bottom - rise))
    return _svg(
        f'<polygon class="top" points="{_points(lid)}"/>'
        f'<polygon class="side" points="{_points((*wall, (right, bottom)))}"/>'
        f'<rect class="face" x="{left:.1f}" y="{top:.1f}" {_sized(wide, high)}/>'
    )


def _svg(shapes: str) -> str:
    return f'<svg viewBox="0 0 72 56" aria-hidden="true">{shapes}</svg>'


def _sized(wide: float, high: float) -> str:
    return f'width="{wide:.1f}" height="{high:.1f}"'


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
