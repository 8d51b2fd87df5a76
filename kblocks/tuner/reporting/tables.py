"""HTML of the failures by kind and of the table of trials."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kblocks.tuner.records import KINDS
from kblocks.tuner.reporting.outline import outline_table
from kblocks.tuner.reporting.text import cost, duration, escaped, number, plain, score
from kblocks.tuner.reporting.view import COSTS, Shown, View

_KINDS = {**KINDS, "unknown": "failed, and no reason was kept"}
_MESSAGES = 30  # the most different messages that are shown of a kind
_EXAMPLES = 5  # the most trials that are shown of one message
_TRACEBACK = 20_000
ROWS = 1000
_COLUMNS = 24  # the most choices that get a column


def failures(view: View) -> str:
    """The failures by kind and message, with the networks of some trials."""
    failed = [trial for trial in view.trials if trial.record.has_failed]
    if not failed:
        return ""
    kinds: dict[str, dict[str, list[Shown]]] = defaultdict(lambda: defaultdict(list))
    for trial in failed:
        failure = trial.record.failure
        kind = str(failure.kind) if failure else "unknown"
        kinds[kind][str(failure.message) if failure else ""].append(trial)
    ordered = sorted(kinds.items(), key=lambda item: -sum(map(len, item[1].values())))
    body = "".join(_kind(kind, found) for kind, found in ordered)
    share = 100 * len(failed) / len(view.trials)
    told = f"{len(failed):,} of {len(view.trials):,} trials failed ({share:.2g} %)."
    return f'<section id="failures"><h2>What failed</h2><p>{told}</p>{body}</section>'


def _kind(kind: str, messages: dict[str, list[Shown]]) -> str:
    ordered = sorted(messages.items(), key=lambda item: -len(item[1]))
    shown = "".join(_message(message, trials) for message, trials in ordered[:_MESSAGES])
    if len(ordered) > _MESSAGES:
        shown += f"<p>and {len(ordered) - _MESSAGES:,} other messages</p>"
    count = sum(map(len, messages.values()))
    what = _KINDS.get(kind, "failed")  # a kind of another program
    return (
        f'<h3><span class="badge">{escaped(kind, 40)}</span> {count:,} '
        f"trial{'s' if count != 1 else ''} {escaped(what, 80)}</h3>{shown}"
    )


def _message(message: str, trials: Sequence[Shown]) -> str:
    numbers = ", ".join(str(trial.number) for trial in trials[:20])
    more = f" and {len(trials) - 20:,} more" if len(trials) > 20 else ""
    inside = "".join(_example(trial) for trial in trials[:_EXAMPLES])
    name = "trial" if len(trials) == 1 else f"{len(trials):,} trials:"
    return (
        f'<details class="failure"><summary><code>{escaped(message or "no message", 600)}</code>'
        f"<small>{name} {numbers}{more}</small></summary>{inside}</details>"
    )


def _example(trial: Shown) -> str:
    record = trial.record
    is_first = number(record.attempts) in (None, 1)
    attempts = "" if is_first else f", begun {record.attempts} times"
    values = ", ".join(f"{name} = {plain(value)}" for name, value in trial.values.items())
    traceback = str(record.failure.traceback) if record.failure else ""
    parts = [
        f"<h4>Trial {trial.number} after {duration(record.seconds)}{escaped(attempts)}</h4>",
        outline_table(record.network) or "<p>No network was kept.</p>",
        f"<p>{escaped(values, 2000)}</p>" if values else "",
        f"<pre>{escaped(traceback[-_TRACEBACK:], _TRACEBACK)}</pre>" if traceback else "",
    ]
    return "".join(parts)


def trials(view: View) -> str:
    """The table of trials: the scored ones, best first, then the others."""
    if not view.trials:
        return ""
    ranked = view.ranked
    scored = {trial.number for trial in ranked}
    ordered = [*ranked, *(trial for trial in view.trials if trial.number not in scored)]
    names = list(dict.fromkeys(name for trial in ordered for name in trial.values))[:_COLUMNS]
    found = {name for trial in ordered for name in trial.costs}
    costs = [name for name in ("params", "macs", "latency") if name in found]
    devices = ["device"] * any(trial.record.device for trial in ordered)
    has_rungs = any(trial.record.continues is not None for trial in ordered)

    def row(trial: Shown) -> list[tuple[str, str]]:
        """The head and the cell of each column."""
        record, had, state = trial.record, trial.costs, escaped(trial.record.status)
        rungs = {"epochs": record.epochs, "continues": record.continues} if has_rungs else {}
        return [
            ("trial", _cell(str(trial.number), trial.number)),
            ("state", f'<td><i class="{state}"></i>{state}</td>'),
            *((o.name, _score(trial, index)) for index, o in enumerate(view.objectives)),
            *((COSTS[n], _cell(cost(n, had[n]) if n in had else "", had.get(n))) for n in costs),
            *((n, _cell("" if at is None else plain(at), at)) for n, at in rungs.items()),
            ("time", _cell(duration(record.seconds), record.seconds)),
            *((name, _cell(plain(record.device), None)) for name in devices),
            *((n, _cell(plain(trial.values.get(n, "")), trial.values.get(n))) for n in names),
        ]

    heads = (escaped(name, 80) for name, _ in row(ordered[0]))
    head = "".join(f'<th scope="col"><button type="button">{n}</button></th>' for n in heads)
    cells = ("".join(cell for _, cell in row(trial)) for trial in ordered[:ROWS])
    rows = "".join(f"<tr>{own}</tr>" for own in cells)
    sorting = "a click on a column's head sorts by it."
    told = f"{len(ordered):,} trials; {sorting}"
    if len(ordered) > ROWS:
        told = f"The first {ROWS:,} of {len(ordered):,} trials, the best first; " + sorting
    return (
        f'<section id="trials"><h2>All trials</h2><p>{told}</p>'
        f'<div class="scroll"><table class="trials"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _score(trial: Shown, index: int) -> str:
    """A score; of several trainings with their spread and each one's score."""
    if not trial.scores:
        return _cell("", None)
    text = score(trial.scores[index])
    if trial.record.spread:
        each = ", ".join(score(one["scores"][index]) for one in trial.record.executions)
        text += f" ± {score(trial.record.spread[index])} ({each})"
    return _cell(text, trial.scores[index])


def _cell(text: str, value: Any) -> str:
    """A cell of the table; a number is also there as one, by which the column is sorted."""
    found = number(value)
    sort = "" if found is None else f' class="n" data-v="{float(found):.9g}"'
    return f"<td{sort}>{escaped(text)}</td>"


def dashboard(study: Path) -> str:
    """How to open the run's database in Optuna's dashboard."""
    command = escaped(f"optuna-dashboard sqlite:///{study}", 1000)
    return (
        "<footer>Optuna's dashboard shows the same trials, also while the search runs: "
        f"<code>pip install optuna-dashboard</code>, then <code>{command}</code></footer>"
    )
