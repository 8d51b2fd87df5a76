"""Plots of the choices: their importance and their effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from kblocks.tuner.reporting.figures import (
    Figure,
    Rows,
    Section,
    apart,
    named,
    position,
    score_channel,
    tooltip,
    with_texts,
)
from kblocks.tuner.reporting.importance import Importance, importance, is_numeric
from kblocks.tuner.reporting.text import clean, plain
from kblocks.tuner.reporting.view import Shown, View, spread

_OBJECTIVES = 3  # the most objectives that get plots
_BARS = 20
_LITTLE = 0.2  # R² below which importance says little
_FEW = 8  # up to so many different numbers are drawn as options, more as a range
_OPTIONS = 12
_DOTS = 250  # the most points in one effect plot
_EFFECTS = 36
_NAME, _OPTION = 26, 22  # the most characters of a choice and of an option


def importances(view: View) -> tuple[Section | None, list[Importance]]:
    """A bar chart of the choices' importance for each objective, and the importances themselves."""
    made, figures = [], []
    for index, objective in enumerate(view.objectives[:_OBJECTIVES]):
        found = importance(view.scored, index)
        if found is not None:
            made.append(found)
            title = f"{objective.name} (R² {found.explained:.2f})"
            figures.append(_bars(title, f"importance{index}", found))
    if not made:
        return None, []
    caption = (
        "The share of the variance of the scores' ranks that a choice accounts for, alone and "
        "together with others: by how much a forest of regression trees is worse at trials that "
        "it did not learn from once the choice's values are shuffled among the trials that had "
        f"it (permutation importance, 5-fold cross-validation, {made[0].trials:,} trials). "
        "A choice that only some trials had is not credited with what its parent does. It is the "
        "drawn values that count, also where the network was repaired."
    )
    if min(found.explained for found in made) < _LITTLE:
        caption += (
            " R², the share that is foretold at all, is small here: read these bars with care."
        )
    columns = 1 if len(figures) == 1 else 2
    return Section("importance", "Which choices matter", caption, figures, columns), made


def _bars(title: str, name: str, found: Importance) -> Figure:
    shown = list(found.shares.items())[:_BARS]
    rows = [{"c": clean(choice, _NAME), "v": share} for choice, share in shown]
    widest = max(0.05, *(1.15 * row["v"] for row in rows))
    bars = alt.Chart(named(name)).encode(
        x=alt.X(
            "v:Q",
            axis=alt.Axis(title="share of the variance", format="~%", tickCount=4),
            scale=alt.Scale(domain=[0, widest], nice=False),
        ),
        y=alt.Y("c:N", sort=None, axis=alt.Axis(title=None, labelLimit=190, ticks=False)),
        tooltip=[
            alt.Tooltip("c:N", title="choice"),
            alt.Tooltip("v:Q", title="share", format=".1%"),
        ],
    )
    texts = bars.mark_text(align="left", dx=5, style="label").encode(
        text=alt.Text("v:Q", format=".1%")
    )
    chart = bars.mark_bar(style="bar", cornerRadiusEnd=3, height={"band": 0.66}) + texts
    return Figure(title, chart, {name: rows}, height=24 * len(rows) + 46, width=300)


def effects(view: View, made: Sequence[Importance]) -> Section | None:
    """A plot of the first objective against each choice, the most important choice first."""
    names = by_importance(view, made)
    figures = [_effect(view, name, f"effect{i}") for i, name in enumerate(names[:_EFFECTS])]
    if not figures:
        return None
    caption = (
        f"{view.objectives[0].name} of the trials by the value of one choice: points are trials, "
        "lines are medians, bands the middle half. Trials that did not have the choice are left "
        "out."
    )
    if len(names) > _EFFECTS:
        caption += f" {_EFFECTS} of {len(names)} choices are shown."
    return Section("effects", "The effect of each choice", caption, figures, columns=3)


def by_importance(view: View, made: Sequence[Importance]) -> list[str]:
    """The choices that had more than one value, the most important first."""
    first = list(made[0].shares) if made else []
    return [
        name
        for name in dict.fromkeys((*first, *view.choices))
        if len({plain(trial.values[name]) for trial in view.scored if name in trial.values}) > 1
    ]


def _effect(view: View, name: str, data: str) -> Figure:
    had = [trial for trial in view.scored if name in trial.values]
    values = [trial.values[name] for trial in had]
    many = is_numeric(values) and len(set(values)) > _FEW
    return (_of_range if many else _of_options)(view, name, had, data)


def _of_range(view: View, name: str, had: list[Shown], data: str) -> Figure:
    """A numeric choice: points, and median and middle half in groups of equal size."""
    had = sorted(had, key=lambda trial: trial.values[name])
    steps: Rows = []
    for group in np.array_split(np.arange(len(had)), max(2, min(8, len(had) // 6))):
        low, middle, high = _quartiles([had[i].scores[0] for i in group])
        at = float(np.median([had[i].values[name] for i in group]))
        steps.append({"x": at, "l": low, "m": middle, "h": high})
    drawn = [trial for trial in view.drawn if name in trial.values]
    rows: Rows = [
        {"x": trial.values[name], "s0": trial.scores[0], "n": trial.number}
        for trial in spread(drawn, _DOTS)
    ]
    ends = [float(had[0].values[name]), float(had[-1].values[name])]
    x = position(alt.X, "x", None, ends, is_wide(*ends), grid=False)
    points = alt.Chart(named(data)).mark_circle(size=26, style="trial")
    between = alt.Chart(named(f"{data}_middle")).encode(x=x)
    band = between.mark_area(style="range", interpolate="monotone")
    line = between.mark_line(style="bestline", interpolate="monotone")
    chart = alt.layer(
        band.encode(y="l:Q", y2="h"),
        with_texts(points.encode(x=x, y=_score(view), tooltip=tooltip())),
        line.encode(y="m:Q"),
    )
    rows_of = {data: rows, f"{data}_middle": steps}
    return Figure(clean(name, 60), chart, rows_of, height=190, width=220)


def is_wide(low: float, high: float) -> bool:
    """Whether a range is wide enough for a logarithmic axis."""
    return low > 0 and high > 30 * low


def _of_options(view: View, name: str, had: list[Shown], data: str) -> Figure:
    """A choice among options: points, median and middle half of each, side by side."""
    values = {plain(trial.values[name], _OPTION): trial.values[name] for trial in had}
    groups: dict[str, list[Shown]] = {option: [] for option in ordered(values)}
    for trial in had:
        groups[plain(trial.values[name], _OPTION)].append(trial)
    if len(groups) > _OPTIONS:
        most = sorted(groups, key=lambda option: -len(groups[option]))[:_OPTIONS]
        groups = {option: groups[option] for option in groups if option in most}
    drawn = {trial.number for trial in view.drawn}
    middle: Rows = []
    rows: Rows = []
    for place, (option, members) in enumerate(groups.items()):
        low, median, high = _quartiles([trial.scores[0] for trial in members])
        middle.append({"x": option, "l": low, "m": median, "h": high, "k": len(members)})
        members = [trial for trial in members if trial.number in drawn]
        rows += [
            {
                "p": place + round(apart(trial.number, 0.66), 3),
                "s0": trial.scores[0],
                "n": trial.number,
            }
            for trial in spread(members, _DOTS // len(groups))
        ]
    chart = alt.layer(
        _boxes(f"{data}_middle", list(groups)), _dots(view, data, len(groups))
    ).resolve_scale(x="independent")
    rows_of = {data: rows, f"{data}_middle": middle}
    return Figure(clean(name, 60), chart, rows_of, height=190, width=220)


def ordered(values: Mapping[str, Any]) -> list[str]:
    """The texts of options, sorted by value if all are numbers, else alphabetically."""
    numeric = is_numeric(list(values.values()))
    return sorted(values, key=(lambda text: values[text]) if numeric else str)


def _boxes(data: str, options: Sequence[str]) -> Any:
    tilted = sum(map(len, options)) > 26
    x = alt.X(
        "x:N",
        scale=alt.Scale(domain=list(options), paddingInner=0.28, paddingOuter=0.14),
        axis=alt.Axis(
            title=None, grid=False, ticks=False, labelAngle=-35 if tilted else 0, labelLimit=110
        ),
    )
    tips = [
        alt.Tooltip("x:N", title="option"),
        alt.Tooltip("k:Q", title="trials"),
        alt.Tooltip("m:Q", title="median", format=".4~f"),
    ]
    chart = alt.Chart(named(data)).encode(x=x, tooltip=tips)
    box = chart.mark_bar(style="range", width={"band": 1}, cornerRadius=2)
    line = chart.mark_tick(style="middle", orient="horizontal", width={"band": 1}, thickness=2.5)
    return alt.layer(box.encode(y="l:Q", y2="h"), line.encode(y="m:Q"))


def _dots(view: View, data: str, options: int) -> Any:
    """The points, on a numeric x axis where option i is at i; the bands have a nominal one."""
    x = alt.X(
        "p:Q", axis=None, scale=alt.Scale(domain=[-0.5, options - 0.5], nice=False, zero=False)
    )
    points = alt.Chart(named(data)).mark_circle(size=24, style="trial")
    return with_texts(points.encode(x=x, y=_score(view), tooltip=tooltip()))


def _score(view: View) -> Any:
    return score_channel(alt.Y, view, 0, title=False)


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)
