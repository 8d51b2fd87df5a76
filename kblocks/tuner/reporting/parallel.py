"""Parallel coordinates: each trial is a line through its choices to its score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import altair as alt

from kblocks.tuner.reporting.choice_charts import by_importance, is_wide, ordered
from kblocks.tuner.reporting.figures import Figure, Section, apart, named, tooltip, with_texts
from kblocks.tuner.reporting.importance import Importance, is_numeric
from kblocks.tuner.reporting.text import clean, plain, score
from kblocks.tuner.reporting.view import Shown, View, spread

_AXES, _LINES, _BEST = 9, 250, 50
_FEW = 8  # up to so many different numbers each get a label
_OPTIONS = 12
_NAME = 26  # the most characters of a choice's name
_NONE = -0.12  # the position, below the axis, of a trial without the choice


def parallel(view: View, made: Sequence[Importance]) -> Section | None:
    """A plot in which each trial is a line through the most important choices to its score."""
    names = by_importance(view, made)[:_AXES]
    if len(view.scored) < 2 or not names:
        return None
    shown = _lines(view)
    places = [*(_places(name, shown) for name in names), _score_places(view, shown)]
    titles = [*(clean(name, _NAME) for name in names), clean(view.objectives[0].name, _NAME)]
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
    rails = [{"a": a, "l": title} for a, title in enumerate(titles)]
    x = alt.X("a:Q", axis=None, scale=alt.Scale(domain=[-0.3, len(places) - 0.3], nice=False))
    has_all = all(_NONE not in at.values() for at, _ in places)
    floor = -0.05 if has_all else _NONE - 0.05
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[floor, 1.12], nice=False))
    # Lines cross the labels, so each label gets an outline in the colour of the page.
    hover = alt.selection_point(
        name="hover", fields=["n"], on="pointerover", clear="pointerout", empty=False
    )
    descending = view.objectives[0].direction == "min"
    lines = with_texts(
        alt.Chart(named("lines"))
        .mark_line(interpolate="monotone")
        .encode(
            x=x,
            y=y,
            detail="n:N",
            color=alt.Color(
                "s:Q",
                scale=alt.Scale(range="ramp", reverse=descending),
                legend=alt.Legend(
                    title=titles[-1],
                    orient="bottom",
                    gradientLength=180,
                    tickCount=3,
                    format=".3~g",
                ),
            ),
            strokeWidth=alt.condition(hover, alt.value(4), alt.value(1.6)),
            opacity=alt.condition(hover, alt.value(1.0), alt.value(0.7)),
            tooltip=tooltip(),
        )
        .add_params(hover)
    )
    rail = (
        alt.Chart(named("rails"))
        .mark_rule(style="rail")
        .encode(x=x, y=alt.Y(datum=0, type="quantitative", axis=None), y2=alt.Y2(datum=1))
    )
    heads = (
        alt.Chart(named("rails"))
        .mark_text(style="name", baseline="bottom", align="center", dy=-2, limit=104)
        .encode(x=x, y=alt.Y(datum=1.04, type="quantitative", axis=None), text="l:N")
    )
    labels = (
        alt.Chart(named("ticks"))
        .mark_text(style="label", align="left", dx=6, limit=100)
        .encode(x=x, y=y, text="l:N")
    )
    halo = labels.mark_text(style="halo", align="left", dx=6, limit=100)
    chart = rail + lines + halo + labels + heads
    data = {"lines": rows, "rails": rails, "ticks": ticks}
    caption = "A line is a trial. A choice that a trial did not have is at “none”, below its axis."
    if len(shown) < len(view.scored):
        others = len(shown) - _BEST
        caption += f" Drawn are the {_BEST} best and {others} others of {len(view.scored):,}."
    if len(view.choices) > len(names):
        caption += f" The {_AXES} most important of {len(view.choices)} choices."
    return Section(
        "parallel",
        "All choices at once",
        caption,
        [Figure("", chart, data, height=380, width=110 * len(places))],
        columns=1,
    )


def _lines(view: View) -> list[Shown]:
    """The trials to draw, the best last and thus on top."""
    best = view.ranked[:_BEST]
    known = {trial.number for trial in best}
    others = [trial for trial in view.drawn if trial.number not in known]
    shown = [*spread(others, _LINES - len(best)), *best]
    falling = view.objectives[0].direction == "min"
    return sorted(shown, key=lambda trial: trial.scores[0], reverse=falling)


def _places(name: str, shown: Sequence[Shown]) -> tuple[dict[int, float], list[tuple[str, float]]]:
    """Where each trial crosses a choice's axis (0 to 1; `_NONE` without it), and labels."""
    values = {t.number: t.values[name] for t in shown if name in t.values}
    distinct = {plain(v, 22): v for v in values.values()}
    if is_numeric(list(distinct.values())):
        low, high = float(min(values.values())), float(max(values.values()))
        log = is_wide(low, high)
        place = _scale(low, high, log)
        at = {n: place(v) for n, v in values.items()}
        marks = [(text, place(v)) for text, v in distinct.items()]
        if len(distinct) > _FEW:
            middle = math.sqrt(low) * math.sqrt(high) if log else (low + high) / 2
            marks = [(plain(v), place(v)) for v in (low, middle, high)]
    else:
        options = ordered(distinct)
        step = 1 / max(len(options) - 1, 1)
        heights = {option: index * step for index, option in enumerate(options)}
        at = {n: heights[plain(v, 22)] for n, v in values.items()}
        marks = list(heights.items()) if len(options) <= _OPTIONS else []
    absent = [t.number for t in shown if t.number not in at]
    if absent:
        marks.append(("none", _NONE))
    return {**dict.fromkeys(absent, _NONE), **at}, marks


def _score_places(
    view: View, shown: Sequence[Shown]
) -> tuple[dict[int, float], list[tuple[str, float]]]:
    low, high = min(t.scores[0] for t in shown), max(t.scores[0] for t in shown)
    up = _scale(low, high, log=False)
    # The best is at the top.
    place = up if view.objectives[0].direction == "max" else lambda value: 1 - up(value)
    marks = [(score(value), place(value)) for value in dict.fromkeys((low, high))]
    return {t.number: place(t.scores[0]) for t in shown}, marks


def _scale(low: float, high: float, log: bool) -> Callable[[float], float]:
    """A function from a value to its height on an axis: 0 for `low`, 1 for `high`."""
    of = math.log if log else float
    return lambda value: (of(value) - of(low)) / ((of(high) - of(low)) or 1.0)
