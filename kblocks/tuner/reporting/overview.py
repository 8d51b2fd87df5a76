"""The head of a report (objectives, best figures, trial states) and the search's settings."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from kblocks.tuner.reporting.text import clean, cost, duration, escaped, score, short
from kblocks.tuner.reporting.view import COSTS, View

_STATES = ("completed", "pruned", "failed", "running", "waiting")
_LABELS = {"input_shape": "input", "space": "choices"}
_LABELS |= {"trials": "trials asked for", "hours": "hours allowed"}
_LEFT_OUT = ("format", "objectives", "options")
# What identifies data, and tells a reader nothing.
_HASH = re.compile(r",? ?(hash: )?\b(?=\d*[a-f])[0-9a-f]{16}\b")
_LONG = 400  # the most characters of one setting
_MANY = 60  # the most settings in one group


def head(view: View) -> str:
    """HTML of the title, the main figures and the number of trials in each state."""
    objectives = ", ".join(f"{o.name} ({o.direction})" for o in view.objectives)
    tiles = "".join(
        f'<div class="tile"><span>{escaped(label)}</span><b>{escaped(value)}</b>'
        f"<small>{escaped(note)}</small></div>"
        for label, value, note in _tiles(view)
    )
    return (
        f'<header><p class="kicker">Architecture search</p><h1>{escaped(view.run.name, 120)}</h1>'
        f'<p class="lead">Objective: {escaped(objectives, 400)}</p></header>'
        f'<div class="tiles">{tiles}</div>{_states(view)}'
    )


def _tiles(view: View) -> list[tuple[str, str, str]]:
    tiles = []
    best = view.best
    if best is not None:
        note = f"trial {best.number}"
        if len(view.objectives) > 1:
            note += f", first of a front of {len(view.front)}"
        first = "best " if len(view.objectives) == 1 else ""
        pairs = list(zip(view.objectives, best.scores, strict=True))[:2]
        tiles += [(f"{first}{o.name}", score(v), note) for o, v in pairs]
        for name in ("params", "macs", "latency"):
            if name in best.costs:
                note = "of the best network" + (", one image" if name == "latency" else "")
                tiles.append((COSTS[name], cost(name, best.costs[name]), note))
    asked = view.settings.get("trials")
    of = f"of {asked:,} asked for" if type(asked) is int else "ended"
    tiles.append(("trials", f"{view.run.tried:,}", of))
    ended = [t.ended for t in view.trials if t.ended is not None]
    if ended:
        work = sum(t.record.seconds or 0 for t in view.trials)
        tiles.append(("time", duration(max(ended)), f"{duration(work)} in trials"))
    return tiles


def _states(view: View) -> str:
    counts = Counter(trial.record.status for trial in view.trials)
    if not counts:
        return '<p class="empty">No trial has begun yet.</p>'
    known = [(state, counts[state]) for state in _STATES if counts[state]]
    shares = "".join(f'<i class="{s}" style="flex-grow:{count}"></i>' for s, count in known)
    legend = "".join(f'<li><i class="{s}"></i>{count:,} {s}</li>' for s, count in known)
    return f'<div class="states"><div class="bar">{shares}</div><ul>{legend}</ul></div>'


def settings(view: View) -> str:
    """HTML of the settings that the search stored."""
    found = dict(view.settings)
    space = found.get("space")
    if isinstance(space, Mapping):
        found["space"] = {name: view.options_of(name) or text for name, text in space.items()}
    found["computes in"] = view.run.precision
    rows = []
    for name, value in found.items():
        if name in _LEFT_OUT or value is None or value in ({}, [], ""):
            continue
        label = _LABELS.get(name, str(name).replace("_", " "))
        rows.append(f"<dt>{escaped(label, 60)}</dt><dd>{_value(value)}</dd>")
    if not rows:
        rows = ["<dt>settings</dt><dd>none were kept: another program made this study</dd>"]
    return (
        '<section id="settings"><h2>What is searched</h2>'
        f'<dl class="settings">{"".join(rows)}</dl></section>'
    )


def _value(value: Any) -> str:
    if not isinstance(value, Mapping):
        return _text(value)
    shown = list(value.items())[:_MANY]
    rows = "".join(f"<tr><th>{escaped(k, 80)}</th><td>{_text(v)}</td></tr>" for k, v in shown)
    if len(value) > _MANY:
        rows += f"<tr><td colspan=2>and {len(value) - _MANY:,} more</td></tr>"
    table = f"<table>{rows}</table>"
    if len(shown) <= 8:
        return table
    return f"<details><summary>{len(value):,} entries</summary>{table}</details>"


def _text(value: Any) -> str:
    """A setting as HTML: large numbers in short form, data without their hashes."""
    if type(value) is int and abs(value) < 1e6:
        value = f"{value:,}"
    elif type(value) in (int, float) and abs(value) >= 1e4:
        value = short(value)
    return escaped(_HASH.sub("", clean(value, _LONG)), _LONG)
