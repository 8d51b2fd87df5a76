"""Parallel coordinates: each trial is a line through its choices to its score."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import altair as alt

from kblocks.tuner.reporting.choice_charts import (
    OPTION,
    OPTIONS,
    Range,
    by_importance,
    scale_of,
    tried,
)
from kblocks.tuner.reporting.figures import (
    Figure,
    Rows,
    Section,
    apart,
    named,
    tooltip,
    with_texts,
)
from kblocks.tuner.reporting.importance import Importance
from kblocks.tuner.reporting.text import clean, plain, score
from kblocks.tuner.reporting.view import Shown, View, spread

_AXES, _LINES, _BEST = 9, 250, 50
_NAME = 26  # the most characters of a choice's name
_NONE = -0.12  # the position, below the axis, of a trial without the choice


def parallel(view: View, made: Sequence[Importance]) -> Section | None:
    """A plot in which each trial is a line through the most important choices to its score."""
    names = [name for name in by_importance(view, made) if tried(view, name) > 1][:_AXES]
    if len(view.scored) < 2 or not names:
        return None
    shown = _lines(view)
    titles = [*names, view.objectives[0].name]
    places = [*(_places(view, name, shown) for name in names), _score_places(view, shown)]
    rows = [  # a little apart, so that trials with equal values do not share one line
        {"n": t.number, "a": a, "y": at[t.number] + apart(t.number, 0.03), "s": t.scores[0]}
        for t in shown
        for a, (at, _) in enumerate(places)
    ]
    ticks = [
        {"a": a, "y": y, "l": clean(text, 14)}
        for a, (_, marks) in enumerate(places)
        for text, y in marks
    ]
    rails = [{"a": a, "l": clean(title, _NAME)} for a, title in enumerate(titles)]
    caption = (
        "A line is a trial. A choice that a trial did not have is at “none”, below its axis. "
        "Options in brackets were never tried."
    )
    if len(shown) < len(view.scored):
        others = len(shown) - _BEST
        caption += f" Drawn are the {_BEST} best and {others} others of {len(view.scored):,}."
    if len(view.choices) > len(names):
        caption += f" The {_AXES} most important of {len(view.choices)} choices."
    chart = _chart(rails, min(row["y"] for row in ticks), view.objectives[0].direction)
    data = {"lines": rows, "rails": rails, "ticks": ticks}
    figure = Figure("", chart, data, height=380, width=110 * len(places))
    return Section("parallel", "All choices at once", caption, [figure], columns=1)


def _chart(rails: Rows, floor: float, direction: str) -> Any:
    x = alt.X("a:Q", axis=None, scale=alt.Scale(domain=[-0.3, len(rails) - 0.3], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[floor - 0.05, 1.12], nice=False))
    over = {"on": "pointerover", "clear": "pointerout", "empty": False}
    hover = alt.selection_point(name="hover", fields=["n"], **over)
    name = rails[-1]["l"]
    legend = alt.Legend(title=name, orient="bottom", gradientLength=180, tickCount=3, format=".3~g")
    ramp = alt.Scale(range="ramp", reverse=direction == "min")
    lines = alt.Chart(named("lines")).mark_line(interpolate="monotone")
    lines = lines.encode(
        x=x,
        y=y,
        detail="n:N",
        color=alt.Color("s:Q", scale=ramp, legend=legend),
        strokeWidth=alt.condition(hover, alt.value(4), alt.value(1.6)),
        opacity=alt.condition(hover, alt.value(1.0), alt.value(0.7)),
        tooltip=tooltip(),
    ).add_params(hover)
    of_axes = alt.Chart(named("rails")).encode(x=x)
    rail = of_axes.mark_rule(style="rail").encode(y=_height(0), y2=alt.Y2(datum=1))
    heads = of_axes.mark_text(style="name", baseline="bottom", align="center", dy=-2, limit=104)
    labels = alt.Chart(named("ticks")).encode(x=x, y=y, text="l:N")
    placed = {"align": "left", "dx": 6, "limit": 100}
    # Lines cross the labels, so each label gets an outline in the colour of the page.
    texts = labels.mark_text(style="halo", **placed) + labels.mark_text(style="label", **placed)
    return rail + with_texts(lines) + texts + heads.encode(y=_height(1.04), text="l:N")


def _height(share: float) -> Any:
    return alt.Y(datum=share, type="quantitative", axis=None)


def _lines(view: View) -> list[Shown]:
    """The trials to draw, the best last and thus on top."""
    best = view.ranked[:_BEST]
    known = {trial.number for trial in best}
    others = [trial for trial in view.drawn if trial.number not in known]
    shown = [*spread(others, _LINES - len(best)), *best]
    falling = view.objectives[0].direction == "min"
    return sorted(shown, key=lambda trial: trial.scores[0], reverse=falling)


_Places = tuple[dict[int, float], list[tuple[str, float]]]


def _places(view: View, name: str, shown: Sequence[Shown]) -> _Places:
    """Where each trial crosses a choice's axis (0 to 1; `_NONE` without it), and labels."""
    values = {t.number: t.values[name] for t in shown if name in t.values}
    scale = scale_of(view, name)
    if isinstance(scale, Range):
        low, high, log = scale
        place = _scale(low, high, log)
        at = {n: place(v) for n, v in values.items()}
        middle = math.sqrt(low) * math.sqrt(high) if log else (low + high) / 2
        marks = [(plain(v), place(v)) for v in (low, middle, high)]
    else:
        heights = {option: i / max(len(scale) - 1, 1) for i, option in enumerate(scale)}
        at = {n: heights[plain(v, OPTION)] for n, v in values.items()}
        known = {plain(t.values[name], OPTION) for t in view.trials if name in t.values}
        texts = [(text if text in known else f"({text})", y) for text, y in heights.items()]
        marks = texts if len(texts) <= OPTIONS else []
    absent = [t.number for t in shown if t.number not in at]
    if absent:
        marks.append(("none", _NONE))
    return {**dict.fromkeys(absent, _NONE), **at}, marks


def _score_places(view: View, shown: Sequence[Shown]) -> _Places:
    ends = min(t.scores[0] for t in shown), max(t.scores[0] for t in shown)
    # The best is at the top.
    place = _scale(*(ends if view.objectives[0].direction == "max" else ends[::-1]), log=False)
    marks = [(score(value), place(value)) for value in dict.fromkeys(ends)]
    return {t.number: place(t.scores[0]) for t in shown}, marks


def _scale(low: float, high: float, log: bool) -> Callable[[float], float]:
    """A function from a value to its height on an axis: 0 for `low`, 1 for `high`."""
    of = math.log if log else float
    return lambda value: (of(value) - of(low)) / ((of(high) - of(low)) or 1.0)
