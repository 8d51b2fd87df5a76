"""What all plots share: their data, axes, scales and what is shown over a point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt

from kblocks.tuner.reporting.outline import outline
from kblocks.tuner.reporting.text import clean, plain, score, short
from kblocks.tuner.reporting.view import Shown, View

TRIALS = "trials"  # the data that most plots share
COST_NAMES = {  # in a title, and on an axis
    "macs": ("MACs", "multiply-adds (MACs)"),
    "params": ("parameters", "parameters"),
    "latency": ("latency", "milliseconds for one image"),
}
_SHORT = {"macs": "MACs", "params": "parameters"}
# 1200000 as "1.2 M"
_LABEL = (
    "abs(datum.value) < 1000 ? format(datum.value, '.4~g') : "
    "replace(format(datum.value, '.3~s'), regexp('([a-zA-Z])$'), '\u00a0$1')"
)
_TEXTS = {"ts": "score", "tc": "cost", "tn": "network", "tv": "choices"}
_WIDE = 50  # times that a loss varies before its axis is logarithmic

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        title: plain text.
        chart: of Altair, without a size.
        data: the rows of what it names, but for `TRIALS`.
        height: in pixels.
        width: below which it is not drawn; a narrower page scrolls.
    """

    title: str
    chart: Any
    data: dict[str, Rows] = field(default_factory=dict)
    height: int = 280
    width: int = 260


@dataclass(frozen=True)
class Section:
    """Plots under one heading, and the PNG they make together.

    Attributes:
        name: of the PNG, and the anchor.
        title: plain text.
        caption: what is to be seen, and what was left out.
        figures: in order.
        columns: of the PNG; a page has as many as there is room for.
        folded: how many of the first figures are in the open.
    """

    name: str
    title: str
    caption: str
    figures: list[Figure]
    columns: int = 2
    opened: int = 12


def trial_rows(view: View) -> Rows:
    """The drawn trials: `n`umber, `s`cores, costs, `e`nd, and the text shown over a point."""
    front = {trial.number for trial in view.front}
    unit, _ = time_unit(view)
    rows = []
    for trial in view.drawn:
        row: dict[str, Any] = {"n": trial.number, "f": trial.number in front, **told(view, trial)}
        row |= {f"s{index}": value for index, value in enumerate(trial.scores)}
        row |= {name: _scaled(name, value) for name, value in trial.costs.items()}
        if trial.ended is not None:
            row["e"] = trial.ended / unit
        rows.append(row)
    return rows


def told(view: View, trial: Shown) -> dict[str, str]:
    """What is shown over a trial's point, in lines."""
    pairs = zip(view.objectives, trial.scores, strict=True)
    costs = [f"{short(v)} {_SHORT[name]}" for name, v in trial.costs.items() if name in _SHORT]
    if "latency" in trial.costs:
        costs.append(f"{1000 * trial.costs['latency']:.3g} ms")
    network = outline(trial.record.network)
    return {
        "ts": "\n".join(f"{objective.name} {score(value)}" for objective, value in pairs),
        "tc": ", ".join(costs) or "–",
        "tn": clean("\n".join(f"{stage}: {blocks}" for stage, blocks in network), 700) or "–",
        "tv": clean("\n".join(f"{k} = {plain(v)}" for k, v in trial.values.items()), 900) or "–",
    }


def _scaled(name: str, value: float) -> float:
    return 1000 * value if name == "latency" else value


def tooltip() -> list[Any]:
    """The lines of `told`; the titles are ours, since some words have a meaning to Vega."""
    shown = {"n": "trial", **_TEXTS}
    return [alt.Tooltip(field=f, type="nominal", title=title) for f, title in shown.items()]


def time_unit(view: View) -> tuple[float, str]:
    """Seconds in the unit of a run's axis of time, and its name."""
    last = max((t.ended for t in view.trials if t.ended is not None), default=0.0)
    for seconds, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if last > 2 * seconds:
            return seconds, name
    return 1.0, "seconds"


def axis(title: str | None, values: Sequence[float] = (), **more: Any) -> Any:
    """An axis for these values: with numbers as "1.2 M" where they are large."""
    if max(map(abs, values), default=0) >= 1000:
        more = {"labelExpr": _LABEL, **more}
    return alt.Axis(title=title, **{"tickCount": 5, **more})


def log_axis(title: str | None, values: Sequence[float], **more: Any) -> Any:
    """An axis in logarithm, with round numbers that do not stand in each other's way."""
    low, high = min(values), max(values)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [step * 10.0**n for n in decades for step in steps]
        ticks = [tick for tick in ticks if low * 0.98 <= tick <= high * 1.02]
        if len(ticks) >= 3:
            break
    ticks = ticks[:: math.ceil(len(ticks) / 6)] or [low]
    return alt.Axis(title=title, values=ticks, labelExpr=_LABEL, **more)


def position(
    channel: Any, field: str, title: str | None, values: Sequence[float], log: bool, **more: Any
) -> Any:
    """A position by numbers, with a little room on both sides."""
    made = (log_axis if log else axis)(title, values, **more)
    scale: dict[str, Any] = {"type": "log"} if log else {"zero": False}
    return channel(
        field=field,
        type="quantitative",
        axis=made,
        scale=alt.Scale(nice=False, padding=10, **scale),
    )


def score_channel(channel: Any, view: View, index: int, title: bool = True) -> Any:
    """A position by an objective: linear, but for a loss that varies widely."""
    objective = view.objectives[index]
    values = [trial.scores[index] for trial in view.scored]
    low, high = min(values), max(values)
    log = objective.direction == "min" and low > 0 and high > _WIDE * low
    name = objective.name if title else None
    return position(channel, f"s{index}", name, values, log, titleLimit=240)


def named(name: str) -> Any:
    """Data that the page holds once, by name."""
    return alt.NamedData(name=name)


def with_texts(chart: Any) -> Any:
    """A chart of rows that name a trial, `n`, with the scores and texts of the shared rows."""
    texts = alt.LookupData(data=named(TRIALS), key="n", fields=list(_TEXTS))
    return chart.transform_lookup(lookup="n", from_=texts)
