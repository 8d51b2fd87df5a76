"""Tables of architectures and runs for a terminal."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table

from kblocks.command.listing import listing
from kblocks.tuner.terminal import cell

if TYPE_CHECKING:
    from kblocks.tuner.records import Run

_FAILURES = 10  # the most failures that are shown, newest last
_BAR = 20  # characters of a full bar


def of_architectures(family: str | None) -> Table:
    """A table row for each published architecture: input, parameters, MACs and weights."""
    table = _table("architecture", "family", "input", ">parameters", ">MACs", "weights")
    for name, known in listing()["architectures"].items():
        if family in (None, known["family"]):
            figures = sizes(known["input"]), f"{known['params']:,}", f"{known['macs']:,}"
            table.add_row(name, known["family"], *figures, known["weights"] or "-")
    return table


def of_stages(name: str, found: Mapping[str, Any]) -> Table:
    """A table row for each stage of a network, from its figures as `staged` returns them."""
    table = _table("stage", "output", ">parameters", ">MACs", ">share", "of the MACs")
    for stage, output, params, macs in found["stages"]:
        share = macs / max(found["macs"], 1)
        shown = (sizes(output), f"{params:,}", f"{macs:,}", f"{share:.1%}")
        table.add_row(stage, *shown, bar(share))
    table.add_section()
    shown = (sizes(found["output"]), f"{found['params']:,}", f"{found['macs']:,}")
    table.add_row(name, *shown, "", f"input {sizes(found['input'])}")
    return table


def of_run(run: "Run") -> RenderableType:
    """A run's status: the number of trials by state, the running, the best and the failed ones."""
    wanted = run.settings.get("trials")
    continued = {trial.continues for trial in run.trials}  # a trial counts with its last part
    states = Counter(trial.status for trial in run.trials if trial.number not in continued)
    counts = ", ".join(f"{number} {state}" for state, number in states.most_common())
    of = f" of {wanted}" if wanted else ""
    parts: list[RenderableType] = [
        cell(f"{run.name}: {run.tried}{of} trials ended" + (f" ({counts})" if counts else ""))
    ]
    if run.precision:
        parts.append(cell(f"computes in {run.precision}"))
    running = [trial for trial in run.trials if trial.state == "running"]
    if running:
        devices = ["device"] * any(trial.device for trial in running)
        table = _table(">running", "epoch", "so far", *devices, "process")
        for trial in running:
            epochs = max((len(values) for values in trial.history.values()), default=0)
            known = trial.history.get(run.objectives[0].name, ())
            score = f"{run.objectives[0].name} {known[-1]:.4f}" if known else ""
            where = *(trial.device for _ in devices), trial.owner
            table.add_row(str(trial.number), f"{epochs}/{trial.epochs}", score, *where)
        parts.append(table)
    best = run.front() if len(run.objectives) > 1 else run.ranked()[:5]
    if best:
        scores = [f">{objective.name}" for objective in run.objectives]
        rungs = [">epochs"] * any(trial.continues is not None for trial in run.trials)
        table = _table(">best" if len(run.objectives) == 1 else ">front", *scores, *rungs, *_COSTS)
        for trial in best:
            figures = [f"{score:.4g}" for score in trial.scores]
            figures += [str(trial.epochs) for _ in rungs]
            known = map(trial.costs.get, _COSTS.values())
            figures += ["-" if cost is None else f"{cost:,.0f}" for cost in known]
            table.add_row(str(trial.number), *figures)
        parts.append(table)
        parts += [cell(f"{t.number} started from {t.started_from}") for t in best if t.started_from]
    failed = [trial for trial in run.trials if trial.has_failed]
    if failed:
        table = _table(">failed", "kind", "why")
        for trial in failed[-_FAILURES:]:
            why = trial.failure  # None if another program made the study
            table.add_row(str(trial.number), *((why.kind, why.message) if why else ("unknown", "")))
        parts.append(table)
    return Group(*parts)


_COSTS = {">parameters": "params", ">MACs": "macs"}


def bar(share: float) -> str:
    """A bar; a share of 1 is twenty characters wide."""
    eighths = round(share * _BAR * 8)
    return "█" * (eighths // 8) + ["", *"▏▎▍▌▋▊▉"][eighths % 8]


def sizes(shape: Any) -> str:
    """`(224, 224, 3)` as 224x224x3; a dict of outputs with their names."""
    if isinstance(shape, Mapping):
        return ", ".join(f"{name} {sizes(one)}" for name, one in shape.items())
    return "x".join(map(str, shape))


def file_name(name: str) -> str:
    """A run's name as a valid folder name; other characters become "_"."""
    return "".join(c if c.isalnum() or c in "-_ ." else "_" for c in name).lstrip(".") or "run"


def _table(*columns: str) -> Table:
    """A table; columns whose name begins with > are right-aligned figures. Cells are plain text."""
    table = _PlainTable(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        name, figures = cell(column.removeprefix(">")), column.startswith(">")
        table.add_column(name, justify="right" if figures else "left", no_wrap=figures)
    return table


class _PlainTable(Table):
    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(cell, cells), **options)
