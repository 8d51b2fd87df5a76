"""Plots of the choices: their importance and their effects."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
from optuna.distributions import CategoricalDistribution

from kblocks.tuner.reporting import figures as plots
from kblocks.tuner.reporting.importance import Importance, importance, is_numeric
from kblocks.tuner.reporting.text import clean, plain
from kblocks.tuner.reporting.view import OBJECTIVES, Shown, View, spread

_BARS = 20
_LITTLE = 0.2  # R² below which importance says little
_FEW = 8  # up to so many different numbers are drawn as options, more as a range
_WIDE = 30  # a range without a distribution is logarithmic if its high end is so many times the low
_OPTIONS = 12
_DOTS = 250  # the most points in one effect plot
_EFFECTS = 36
_NAME, _OPTION = 26, 22  # the most characters of a choice and of an option


def importances(view: View) -> tuple[plots.Section | None, list[Importance]]:
    """A bar chart of the choices' importance for each objective, and the importances themselves."""
    made, figures = [], []
    for index, objective in enumerate(view.objectives[:OBJECTIVES]):
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
        caption += " R², the share that is foretold, is small here: read these bars with care."
    columns = 1 if len(figures) == 1 else 2
    return plots.Section("importance", "Which choices matter", caption, figures, columns), made


def _bars(title: str, name: str, found: Importance) -> plots.Figure:
    shown = list(found.shares.items())[:_BARS]
    rows = [{"c": clean(choice, _NAME), "v": share} for choice, share in shown]
    widest = max(0.05, *(1.15 * row["v"] for row in rows))
    shares = alt.Axis(title="share of the variance", format="~%", tickCount=4)
    choices = alt.Axis(title=None, labelLimit=190, ticks=False)
    share = alt.Tooltip("v:Q", title="share", format=".1%")
    bars = alt.Chart(plots.named(name)).encode(
        x=alt.X("v:Q", axis=shares, scale=alt.Scale(domain=[0, widest], nice=False)),
        y=alt.Y("c:N", sort=None, axis=choices),
        tooltip=[alt.Tooltip("c:N", title="choice"), share],
    )
    texts = bars.mark_text(align="left", dx=5, style="label")
    texts = texts.encode(text=alt.Text("v:Q", format=".1%"))
    chart = bars.mark_bar(style="bar", cornerRadiusEnd=3, height={"band": 0.66}) + texts
    return plots.Figure(title, chart, {name: rows}, height=24 * len(rows) + 46, width=300)


def effects(view: View, made: Sequence[Importance]) -> plots.Section | None:
    """A plot of the first objective against each choice, the most important choice first."""
    names = _by_importance(view, made) if len(view.scored) > 1 else []
    figures = [_effect(view, name, f"effect{i}") for i, name in enumerate(names[:_EFFECTS])]
    if not figures:
        return None
    caption = (
        f"{view.objectives[0].name} of the trials by the value of one choice: points are trials, "
        "lines are medians, bands the middle half. Trials that did not have the choice are left "
        "out. A choice that is drawn in logarithm has a logarithmic axis."
    )
    if len(names) > _EFFECTS:
        caption += f" {_EFFECTS} of {len(names)} choices are shown."
    return plots.Section("effects", "The effect of each choice", caption, figures, columns=3)


def _by_importance(view: View, made: Sequence[Importance]) -> list[str]:
    """The choices that had more than one value or option, the most important first."""
    names = dict.fromkeys((*(made[0].shares if made else ()), *view.choices))
    values = {n: {plain(t.values[n]) for t in view.scored if n in t.values} for n in names}
    return [n for n in names if len(values[n]) > 1 or len(_scale_of(view, n)) > 1]


class _Range(NamedTuple):
    """The range of a numeric choice: its ends, and whether its axis is logarithmic."""

    low: float
    high: float
    log: bool


def _scale_of(view: View, name: str) -> _Range | list[str]:
    """A numeric choice's range; of others, and integers of few values, the options in order.

    Without a known distribution, as in another program's table, the values of the trials decide.
    """
    values = [trial.values[name] for trial in view.scored if name in trial.values]
    kind: Any = view.distributions.get(name)
    if isinstance(kind, CategoricalDistribution):
        values += [view.named(name, option) for option in kind.choices]
    elif kind is not None and not kind.single():
        steps = round((kind.high - kind.low) / kind.step) if kind.step else _FEW
        if steps >= _FEW:
            return _Range(kind.low, kind.high, kind.log)
        values += [kind.low + index * kind.step for index in range(steps + 1)]
    numeric = is_numeric(values)
    if numeric and len(set(values)) > _FEW:
        low, high = min(values), max(values)
        return _Range(low, high, low > 0 and high > _WIDE * low)
    texts = {plain(value, _OPTION): value for value in values}
    return sorted(texts, key=(lambda text: texts[text]) if numeric else str)


def _effect(view: View, name: str, data: str) -> plots.Figure:
    had = [trial for trial in view.scored if name in trial.values]
    scale, title = _scale_of(view, name), clean(name, 60)
    if isinstance(scale, _Range):
        chart, rows = _of_range(view, name, had, data, scale)
    else:
        chart, rows = _of_options(view, name, had, data, scale)
        if len(scale) > _OPTIONS:
            title += f" ({_OPTIONS} of {len(scale)} options)"
    return plots.Figure(title, chart, rows, height=190, width=220)


def _of_range(
    view: View, name: str, had: list[Shown], data: str, scale: _Range
) -> tuple[Any, dict[str, plots.Rows]]:
    """A numeric choice: points, and median and middle half in groups of equal size."""
    had = sorted(had, key=lambda trial: trial.values[name])
    steps: plots.Rows = []
    for group in np.array_split(np.arange(len(had)), min(max(2, min(8, len(had) // 6)), len(had))):
        at = float(np.median([had[i].values[name] for i in group]))
        steps.append({"x": at, **_quartiles([had[i] for i in group])})
    drawn = [trial for trial in view.drawn if name in trial.values]
    rows = [{"x": t.values[name], **_point(t)} for t in spread(drawn, _DOTS)]
    x = plots.position(alt.X, "x", None, scale[:2], scale.log, domain=scale[:2], grid=False)
    between = alt.Chart(plots.named(f"{data}_middle")).encode(x=x)
    chart = alt.layer(
        between.mark_area(style="range", interpolate="monotone").encode(y="l:Q", y2="h"),
        _dots(view, data).encode(x=x),
        between.mark_line(style="bestline", interpolate="monotone").encode(y="m:Q"),
    )
    return chart, {data: rows, f"{data}_middle": steps}


def _of_options(
    view: View, name: str, had: list[Shown], data: str, options: list[str]
) -> tuple[Any, dict[str, plots.Rows]]:
    """A choice among options: points, median and middle half of each, side by side."""
    groups: dict[str, list[Shown]] = {option: [] for option in options}
    for trial in had:
        groups[plain(trial.values[name], _OPTION)].append(trial)
    most = sorted(groups, key=lambda option: -len(groups[option]))[:_OPTIONS]
    groups = {option: groups[option] for option in groups if option in most}
    known = {plain(t.values[name], _OPTION) for t in view.trials if name in t.values}
    without = [
        {"x": option, "w": "without a score" if option in known else "never tried"}
        for option, members in groups.items()
        if not members
    ]
    filled = [(option, members) for option, members in groups.items() if members]
    middle = [{"x": option, "k": len(members), **_quartiles(members)} for option, members in filled]
    drawn = {trial.number for trial in view.drawn}
    rows = [
        {"p": place + round(plots.apart(trial.number, 0.66), 3), **_point(trial)}
        for place, members in enumerate(groups.values())
        for trial in spread([t for t in members if t.number in drawn], _DOTS // len(groups))
    ]
    angle = -35 if sum(map(len, groups)) > 26 else 0
    axis = alt.Axis(title=None, grid=False, ticks=False, labelAngle=angle, labelLimit=110)
    places = alt.Scale(domain=list(groups), paddingInner=0.28, paddingOuter=0.14)
    x = alt.X("x:N", scale=places, axis=axis)
    tips = [
        alt.Tooltip("x:N", title="option"),
        alt.Tooltip("k:Q", title="trials"),
        alt.Tooltip("m:Q", title="median", format=".4~f"),
    ]
    box = alt.Chart(plots.named(f"{data}_middle")).encode(x=x, tooltip=tips)
    bar = box.mark_bar(style="range", width={"band": 1}, cornerRadius=2)
    line = box.mark_tick(style="middle", orient="horizontal", width={"band": 1}, thickness=2.5)
    words = alt.Chart(plots.named(f"{data}_without"))
    words = words.mark_text(style="label", angle=270, align="left", dx=6)
    # The points have a numeric x axis, on which option i is at i.
    ends = alt.Scale(domain=[-0.5, len(groups) - 0.5], nice=False, zero=False)
    boxes = alt.layer(
        bar.encode(y="l:Q", y2="h"),
        line.encode(y="m:Q"),
        words.encode(x=x, y=alt.value("height"), text="w:N"),
    )
    dots = _dots(view, data).encode(x=alt.X("p:Q", axis=None, scale=ends))
    chart = alt.layer(boxes, dots).resolve_scale(x="independent")
    return chart, {data: rows, f"{data}_middle": middle, f"{data}_without": without}


def _dots(view: View, data: str) -> Any:
    points = alt.Chart(plots.named(data)).mark_circle(size=26, style="trial")
    y = plots.score_channel(alt.Y, view, 0, title=False)
    return plots.with_texts(points.encode(y=y, tooltip=plots.tooltip()))


def _point(trial: Shown) -> dict[str, Any]:
    return {"s0": trial.scores[0], "n": trial.number}


def _quartiles(trials: Sequence[Shown]) -> dict[str, float]:
    """The first objective's quartiles: low, middle, high."""
    found = np.percentile([trial.scores[0] for trial in trials], [25, 50, 75])
    return dict(zip("lmh", map(float, found), strict=True))
