"""Plots of the trials: the best so far over time, the fronts, and the learning curves."""

from itertools import islice
from typing import Any

import altair as alt
import numpy as np

from kblocks.tuner.reporting import figures as plots
from kblocks.tuner.reporting.text import clean
from kblocks.tuner.reporting.view import COSTS, OBJECTIVES, POINTS, Shown, View, spread

_CURVES = 6
_RUG = 300
_LOST = ("failed", "pruned")
_AXES = {  # titles of the costs' axes
    "macs": "multiply-adds (MACs)",
    "params": "parameters",
    "latency": "milliseconds for one image",
}


def progress(view: View) -> plots.Section | None:
    """Scores over time: trials as points, the best so far as a line, failures as ticks below."""
    if not view.scored:
        return None
    is_timed = any(trial.ended is not None for trial in view.scored)
    orders = ("ended", "number") if is_timed else ("number",)
    objectives = range(len(view.objectives[:OBJECTIVES]))
    figures = [_over(view, index, order) for index in objectives for order in orders]
    caption = "Each completed trial is a point; the line is the best so far."
    if any(trial.record.status in _LOST for trial in view.trials):
        caption += " Ticks at the bottom are trials that failed or were pruned."
    return plots.Section("progress", "The best over time", caption + _thinned(view), figures)


def _over(view: View, index: int, order: str) -> plots.Figure:
    """An objective over trials (`order` "number") or over time ("ended")."""
    timed = order == "ended"
    unit, name = plots.time_unit(view) if timed else (1.0, "")
    best, lost = f"best_{order}{index}", f"lost_{order}"
    at = {t.number: getattr(t, order) / unit for t in view.trials if getattr(t, order) is not None}
    improved = view.improvements(index, order)
    steps = [{"x": at[t.number], "s": t.scores[index]} for t in improved]
    last = max(at[t.number] for t in view.trials if t.record.is_finished and t.number in at)
    steps.append({"x": last, "s": steps[-1]["s"]})
    marks = [
        {"x": at[trial.number], "n": trial.number, "w": _why(trial)}
        for trial in view.trials
        if trial.record.status in _LOST and trial.number in at
    ]
    label = f"{name} since the start" if timed else "trial"
    ruler = plots.axis(label, [last], grid=False, tickMinStep=1 if unit == 1 else 0.01)
    x = alt.X("e:Q" if timed else "n:Q", axis=ruler)
    points = alt.Chart(plots.named(plots.TRIALS)).mark_circle(size=44, style="trial")
    line = alt.Chart(plots.named(best)).mark_line(interpolate="step-after", style="bestline")
    ticks = alt.Chart(plots.named(lost)).mark_tick(
        orient="vertical", size=9, thickness=1.5, style="failure", yOffset=-5
    )
    reason = alt.Tooltip("w:N", title="reason")
    number = alt.Tooltip("n:N", title="trial")
    layers = [
        line.encode(x="x:Q", y="s:Q"),
        points.encode(x=x, y=plots.score_channel(alt.Y, view, index), tooltip=plots.tooltip()),
    ]
    if marks:
        layers.append(ticks.encode(x="x:Q", y=alt.value("height"), tooltip=[number, reason]))
    title = f"{view.objectives[index].name} over {'time' if timed else 'trials'}"
    return plots.Figure(title, alt.layer(*layers), {best: steps, lost: spread(marks, _RUG)})


def _why(trial: Shown) -> str:
    failure = trial.record.failure
    if failure is None:
        return trial.record.status
    return f"{clean(failure.kind, 40)}: {clean(failure.message, 200)}"


def fronts(view: View) -> plots.Section | None:
    """One objective against each cost, or the first of several against each other one."""
    figures = []
    others = view.objectives[1 : OBJECTIVES + 1] if view.scored else ()
    for index, other in enumerate(others, 1):
        values = {trial.number: trial.scores[index] for trial in view.scored}
        # With two objectives a step line bounds what is attainable; more have no such line.
        line = "step-after" if other.direction == "min" else "step-before"
        line = line if len(view.objectives) == 2 else None
        figures.append(
            _front(view, f"s{index}", (other.name, other.name), values, view.front, line)
        )
    for name, label in () if others else _AXES.items():
        costs = {
            t.number: plots.drawn_cost(name, t.costs[name]) for t in view.scored if name in t.costs
        }
        words, front = (COSTS[name], label), view.cost_front(name)
        if costs:
            figures.append(_front(view, name, words, costs, front, "step-after"))
    if not figures:
        return None
    what = "in every objective" if others else "at the same cost or less"
    caption = f"The marked networks are the front: none is better {what}. Hover to see a network."
    columns = 3 if len(figures) == 3 else 2
    return plots.Section("front", "The Pareto front", caption + _thinned(view), figures, columns)


def _front(
    view: View,
    field: str,
    words: tuple[str, str],
    values: dict[int, float],
    front: list[Shown],
    line: Any,
) -> plots.Figure:
    """The first objective against `values`, by trial; `words` are the title and the axis' title."""
    low, high, name = min(values.values()), max(values.values()), f"front_{field}"
    rows: plots.Rows = [{"x": values[t.number], "s0": t.scores[0], "n": t.number} for t in front]
    rows.sort(key=lambda row: row["x"])
    log = 0 < 3 * low < high
    x = plots.position(alt.X, field, words[1], [low, high], log, grid=False)
    points = alt.Chart(plots.named(plots.TRIALS)).mark_circle(size=40, style="trial")
    points = points.encode(x=x, y=plots.score_channel(alt.Y, view, 0), tooltip=plots.tooltip())
    marked = alt.Chart(plots.named(name)).encode(x="x:Q", y="s0:Q")
    dots = marked.mark_circle(size=70, style="best").encode(tooltip=plots.tooltip())
    lines = [marked.mark_line(interpolate=line, style="bestline")] if line else []
    shown = points.transform_filter(f"isValid(datum.{field})")
    title = f"{view.objectives[0].name} against {words[0]}"
    chart = alt.layer(shown, *lines, plots.with_texts(dots))
    return plots.Figure(title, chart, {name: rows}, height=300)


def curves(view: View) -> plots.Section | None:
    figures, cut = [], False
    for place, metric in enumerate(_metrics(view)):
        curved = ((t.number, one) for t in view.ranked if (one := t.curve(metric)))
        found = dict(islice(curved, _CURVES))
        ends = _differing(list(found.values()), min if "loss" in metric else max)
        cut = cut or any(not ends[0] <= v <= ends[1] for one in found.values() for _, v in one)
        figures.append(_curve(clean(metric, 60), f"curve{place}", found, ends))
    if not figures:
        return None
    caption = f"The {_CURVES} best trials, the best first."
    if cut:
        caption += " The axis shows where they differ: early epochs may lie outside the picture."
    return plots.Section("curves", "Learning curves of the best trials", caption, figures)


def _differing(found: list[list[tuple[int, float]]], best: Any) -> tuple[float, float]:
    """The ends of the curves' second halves, but for outliers, and of last and best values."""
    late = [value for one in found for _, value in one[len(one) // 2 :]]
    kept = [value for one in found for value in (one[-1][1], best(value for _, value in one))]
    low, high = np.quantile(late, [0.05, 0.95]).tolist()
    return min(low, *kept), max(high, *kept)


def _curve(
    metric: str, name: str, found: dict[int, list[tuple[int, float]]], ends: tuple[float, float]
) -> plots.Figure:
    rows = [
        {"e": epoch, "v": value, "t": f"trial {number}", "n": number}
        for number, one in found.items()
        for epoch, value in (*spread(one[:-1], POINTS // _CURVES), one[-1])
    ]
    log = "loss" in metric and ends[0] > 0 and ends[1] > 20 * ends[0]
    if log:  # a logarithmic axis has no place for others
        rows = [row for row in rows if row["v"] > 0]
    chart = alt.Chart(plots.named(name)).mark_line(
        clip=True, strokeWidth=2, point=alt.OverlayMarkDef(size=26, filled=True, opacity=1)
    )
    epochs = plots.position(alt.X, "e", "epoch", (), False, grid=False, tickMinStep=1, format="d")
    trials = alt.Scale(domain=list(dict.fromkeys(row["t"] for row in rows)))
    legend = alt.Legend(title=None, orient="top", columns=3, symbolType="stroke")
    colour = alt.Color("t:N", scale=trials, legend=legend)
    value = alt.Tooltip("v:Q", title="value", format=".4~f")
    epoch = alt.Tooltip("e:N", title="epoch")
    chart = chart.encode(
        x=epochs,
        y=plots.position(alt.Y, "v", metric, ends, log, domain=ends, titleLimit=240),
        color=colour,
        tooltip=[value, epoch, *plots.tooltip()],
    )
    return plots.Figure(metric, plots.with_texts(chart), {name: rows})


def _metrics(view: View) -> list[str]:
    """At most two metrics: objectives, accuracy, loss; those that vary, if any does."""
    wanted = [objective.name for objective in view.run.objectives]
    wanted += ["val_accuracy", "accuracy", "val_loss", "loss"]
    best = view.ranked[:_CURVES]
    values = {name: [{v for _, v in trial.curve(name)} for trial in best] for name in wanted}
    varied = [name for name, found in values.items() if any(len(one) > 1 for one in found)]
    return (varied or [name for name, found in values.items() if any(found)])[:2]


def _thinned(view: View) -> str:
    if len(view.drawn) == len(view.scored):
        return ""
    return (
        f" {len(view.drawn):,} of {len(view.scored):,} completed trials are drawn: those on a "
        "front, those that were once the best, the 100 best, and the rest at even distances."
    )
