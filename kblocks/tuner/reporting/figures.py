"""Shared parts of all plots: data, axes, scales and tooltips; sections of plots as PNG."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

from kblocks.tuner.reporting.outline import outline
from kblocks.tuner.reporting.text import clean, cost, plain
from kblocks.tuner.reporting.theme import LIGHT, config
from kblocks.tuner.reporting.view import COSTS, Shown, View

TRIALS = "trials"  # the name of the data that most plots share
# A Vega expression that writes 1200000 as "1.2 M".
_LABEL = (
    "abs(datum.value) < 1000 ? format(datum.value, '.4~g') : "
    "replace(format(datum.value, '.3~s'), regexp('([a-zA-Z])$'), '\u00a0$1')"
)
_TEXTS = {"ts": "score", "tc": "cost", "tn": "network", "tv": "choices"}
_WIDE = 50  # a loss whose highest value is so many times its lowest gets a log axis

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Figure:
    """A plot."""

    title: str
    chart: Any  # Altair's, without a size
    data: dict[str, Rows]  # by name, all that the chart refers to except `TRIALS`
    height: int = 280  # pixels
    width: int = 260  # the least; the plot scrolls on a narrower page


@dataclass(frozen=True)
class Section:
    """Plots under one heading, and in one PNG."""

    name: str  # of the PNG file and of the page's anchor
    title: str
    caption: str  # what the plots show, and what they leave out
    figures: list[Figure]
    columns: int = 2  # the most, in the PNG and on the page

    opened = 12  # how many of the first figures are unfolded; only these are in the PNG


def trial_rows(view: View) -> Rows:
    """A row for each drawn trial: number, scores, costs, end, and the tooltip's texts."""
    unit, _ = time_unit(view)
    rows = []
    for trial in view.drawn:
        row: dict[str, Any] = {"n": trial.number, **told(view, trial)}
        row |= {f"s{index}": value for index, value in enumerate(trial.scores)}
        row |= {name: drawn_cost(name, value) for name, value in trial.costs.items()}
        if trial.ended is not None:
            row["e"] = trial.ended / unit
        rows.append(row)
    return rows


def told(view: View, trial: Shown) -> dict[str, str]:
    """The texts of a trial's tooltip: scores, costs, network and choices."""
    costs = [
        cost(name, value) + ("" if name == "latency" else f" {COSTS[name]}")
        for name, value in trial.costs.items()
    ]
    network = outline(trial.record.network)
    return {
        "ts": "\n".join(view.scores_of(trial)),
        "tc": ", ".join(costs) or "–",
        "tn": clean("\n".join(f"{stage}: {blocks}" for stage, blocks in network), 700) or "–",
        "tv": clean("\n".join(f"{k} = {plain(v)}" for k, v in trial.values.items()), 900) or "–",
    }


def drawn_cost(name: str, value: float) -> float:
    """A cost in the unit of its axis: a latency in milliseconds."""
    return 1000 * value if name == "latency" else value


def tooltip() -> list[Any]:
    """The tooltip with `told`'s texts. Titles are constants, since Vega interprets some words."""
    return [alt.Tooltip(f"{f}:N", title=t) for f, t in {"n": "trial", **_TEXTS}.items()]


def time_unit(view: View) -> tuple[float, str]:
    """The unit of a run's time axis: its seconds and its name."""
    last = max((t.ended for t in view.trials if t.ended is not None), default=0.0)
    for seconds, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if last > 2 * seconds:
            return seconds, name
    return 1.0, "seconds"


def axis(title: str | None, values: Sequence[float] = (), **more: Any) -> Any:
    """A linear axis; labels are short ("1.2 M") if a value reaches 1000."""
    if max(map(abs, values), default=0) >= 1000:
        more = {"labelExpr": _LABEL, **more}
    return alt.Axis(title=title, **{"tickCount": 5, **more})


def log_ticks(low: float, high: float) -> list[float]:
    """At most six round values for a logarithmic axis, so that labels do not overlap."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [step * 10.0**n for n in decades for step in steps]
        ticks = [tick for tick in ticks if low * 0.98 <= tick <= high * 1.02]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / 6)] if ticks else [low]


def position(
    channel: Any,
    field: str,
    title: str | None,
    values: Sequence[float],
    log: bool,
    domain: Sequence[float] | None = None,
    **more: Any,
) -> Any:
    """A quantitative x or y channel with a little room on both sides of its domain or values."""
    made = axis(title, values, **more)
    if log:
        ticks = log_ticks(*(domain or (min(values), max(values))))
        made = alt.Axis(title=title, values=ticks, labelExpr=_LABEL, **more)
    scale: dict[str, Any] = {"type": "log"} if log else {"zero": False}
    if domain is not None:
        scale["domain"] = list(domain)
    shown = alt.Scale(nice=False, padding=10, **scale)
    return channel(f"{field}:Q", axis=made, scale=shown)


def score_channel(channel: Any, view: View, index: int, title: bool = True) -> Any:
    """An x or y channel of an objective: linear, or logarithmic for a loss that varies widely."""
    objective = view.objectives[index]
    values = [trial.scores[index] for trial in view.scored]
    low, high = min(values), max(values)
    log = objective.direction == "min" and low > 0 and high > _WIDE * low
    name = objective.name if title else None
    return position(channel, f"s{index}", name, values, log, titleLimit=240)


def apart(place: int, width: float) -> float:
    """A deterministic offset, at most half of `width`; those of successive places lie far apart."""
    return width * (place * 0.6180339887 % 1) - width / 2  # multiples of the golden ratio


def named(name: str) -> Any:
    """A reference to data that the page holds once, by name."""
    return alt.NamedData(name=name)


def with_texts(chart: Any) -> Any:
    """A chart whose rows name a trial by `n`, with the tooltip's texts from the shared rows."""
    texts = alt.LookupData(data=named(TRIALS), key="n", fields=list(_TEXTS))
    return chart.transform_lookup(lookup="n", from_=texts)


_WIDTHS = {1: 860, 2: 440, 3: 270}  # pixels of a plot, by the number of columns
_LETTERS = 140  # in a line of the caption
_FONT = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"


def image(section: Section, trials: Rows) -> bytes:
    """Renders the unfolded plots of a section to a PNG at double resolution."""
    figures = section.figures[: section.opened]
    columns = min(section.columns, len(figures))
    charts = [
        figure.chart.properties(width=_WIDTHS[columns], height=figure.height, title=figure.title)
        for figure in figures
    ]
    caption = textwrap.wrap(section.caption, _LETTERS)
    title = alt.Title(section.title, subtitle=caption, fontSize=18, offset=20)
    chart = alt.concat(*charts, columns=columns, spacing=36, title=title)
    chart = chart.resolve_scale(color="independent")  # so that each plot has its legend
    spec: dict[str, Any] = chart.to_dict()
    data = {name: rows for figure in figures for name, rows in figure.data.items()}
    spec["datasets"] = {TRIALS: trials, **data}
    spec["config"] = {**config(LIGHT, _FONT), "background": "white", "padding": 24}
    return vl_convert.vegalite_to_png(spec, scale=2)
