"""Shows a running search: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table

from kblocks.common.quantities import quantity
from kblocks.tuner.records import Objective, Record, Run, machine_of, told
from kblocks.tuner.storing.owners import owner
from kblocks.tuner.terminal import cell, plain, tell

_EVERY = 1.0  # seconds between two readings of the run
_LEAVE = 5.0  # seconds to wait for the last reading
_SHARE = 20  # reading all trials may take a twentieth of the time


class Live:
    """Shows the progress of a search, whichever processes work for it, until the block ends.

    Args:
        read: reads the run; also called from another thread.
        trials: the total number of trials, or None.
        hours: how long this search may take, or None.
        verbose: 0 shows nothing.
        console: where to write; None is the standard output.
    """

    def __init__(
        self,
        read: Callable[[], Run],
        trials: int | None = None,
        hours: float | None = None,
        verbose: int = 1,
        console: Console | None = None,
    ) -> None:
        self._read, self._total, self._hours = read, trials, hours
        self.console = console or Console(soft_wrap=True, highlight=False, quiet=not verbose)
        self._is_shown = bool(verbose)
        self._started = time.monotonic()
        self._printed: set[int] = set()
        self._before = 0  # trials finished by earlier runs
        self._ended = 0, self._started  # trials finished since then, and when the last one was seen
        self._live: RichLive | None = None
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="kblocks-live")

    def __enter__(self) -> Live:
        if not self._is_shown:
            return self
        run = self._read()
        self._before = run.tried
        self._printed = {trial.number for trial in run.trials if trial.is_finished}
        if self._before:
            self.say(f"Going on after {self._before} trials")
        if self.console.is_terminal:
            self._live = RichLive(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self._is_shown:
            return
        self._ends.set()
        self._thread.join(_LEAVE)  # it may wait for the storage
        if self._live is not None:
            self._live.stop()
        try:
            run = self._look()
            if error[0] is None and run.is_exhausted:
                self.say("Every network of the space that could be found has been tried.")
        except Exception:
            if error[0] is None:
                raise

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        tell(text, self.console)

    def _follow(self) -> None:
        took = 0.0
        while not self._ends.wait(max(_EVERY, _SHARE * took)):
            started = time.monotonic()
            try:
                self._look()
            except Exception as error:  # the search goes on without a display
                with contextlib.suppress(Exception):  # the trial may have closed the output
                    self.say(f"(progress cannot be read: {type(error).__name__})")
            took = time.monotonic() - started

    def _look(self) -> Run:
        run = self._read()
        best = run.best()
        for trial in run.trials:
            if trial.is_finished and trial.number not in self._printed:
                self._printed.add(trial.number)
                self.say(self._line(run, trial, trial is best))
        if self._live is not None and not self._ends.is_set():
            self._live.update(self._table(run))
        return run

    def _line(self, run: Run, trial: Record, is_best: bool) -> str:
        done = sum(t.number in self._printed and t.continues is None for t in run.trials)
        head = f"trial {done}" + (f"/{self._total}" if self._total else "")
        if trial.continues is not None:
            head = f"trial {trial.continues} goes on as {trial.number} to epoch {trial.epochs}"
        seconds = "" if trial.seconds is None else f"  {trial.seconds:.0f} s"
        left = self._left(run)
        text = ended(run.objectives, trial)
        if is_best:  # its number counts from 0, in the order in which trials began
            text += f" (the best so far, number {trial.number})"
        if trial.machine not in ("", machine_of(owner())):
            text += f" on {trial.machine}"
        return plain(f"{head}  {text}{seconds}{f'  {left} left' if left else ''}")

    def _table(self, run: Run) -> Group:
        finished = run.tried
        head = f"trial {finished}" + (f" of {self._total}" if self._total else "")
        left = self._left(run)
        rows = Table(box=None, pad_edge=False, show_header=False)
        for trial in run.trials:
            if trial.state == "running":
                rows.add_row(*map(cell, (f"  {trial.number}", *running(run.objectives[0], trial))))
        parts: list[Any] = [cell(head + (f"   {left} left" if left else ""), style="bold")]
        if self._total:
            parts.append(bar(finished, self._total))
        best = run.best()
        if best is not None:
            parts.append(cell(f"best: trial {best.number}, {scored(run.objectives, best)}"))
        failures = failures_of(run)
        if failures:
            parts.append(cell(f"failed: {failures}", style="yellow"))
        return Group(*parts, rows)

    def _left(self, run: Run) -> str:
        finished = run.tried - self._before
        now = time.monotonic()
        if finished != self._ended[0]:
            self._ended = finished, now
        guesses = []
        count = max((self._total or 0) - self._before - finished, 0)
        has_rungs = any(trial.continues is not None for trial in run.trials)
        # After the last point some may yet go on to higher rungs, for a time that is not known.
        if self._total and finished > 0 and (count or not has_rungs):
            each = (self._ended[1] - self._started) / finished
            guesses.append(each * count - (now - self._ended[1]))
        if self._hours:
            guesses.append(self._hours * 3600 - (now - self._started))
        return duration(max(min(guesses), 0)) if guesses else ""


def bar(done: int, total: int) -> Table:
    """A bar that shows how much is done."""
    table = Table.grid()  # a bar alone does not end its line
    table.add_row(ProgressBar(total=total, completed=done, width=48))
    return table


def scored(objectives: Sequence[Objective], trial: Record) -> str:
    """A completed trial's scores and costs, in one line."""
    pairs = zip(objectives, told(objectives, trial), strict=True)
    words = {"params": "parameters", "macs": "MACs"}
    known = {key: word for key, word in words.items() if key in trial.costs}
    parts = [text for objective, text in pairs if objective.name not in known]
    parts += [f"{quantity(trial.costs[key])} {word}" for key, word in known.items()]
    return ", ".join(parts)


def ended(objectives: Sequence[Objective], trial: Record) -> str:
    """How a trial ended, in one line."""
    if trial.failure is not None:
        return f"{trial.failure.kind}: {trial.failure.message}"
    if trial.state == "completed":
        return scored(objectives, trial)
    values = trial.history.get(objectives[0].name) or [float("nan")]
    return f"pruned after epoch {len(values)}, {objectives[0].name} {values[-1]:.4f}"


def running(objective: Objective, trial: Record) -> tuple[str, str, str]:
    """A running trial: its epoch, its latest value of the objective, its number of parameters."""
    values = trial.history.get(objective.name, [])
    shown = f"{objective.name} {values[-1]:.4f}" if values else "starting"
    costs = f"{quantity(trial.costs['params'])} parameters" if "params" in trial.costs else ""
    # The number of epochs is known once the first is done.
    return f"epoch {len(values)}/{trial.epochs}" if values else "", shown, costs


def failures_of(run: Run) -> str:
    """How many trials failed, by kind of failure."""
    kinds = Counter(trial.failure.kind for trial in run.trials if trial.failure is not None)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def duration(seconds: float) -> str:
    """A duration as text, such as "2 h 05 min" or "3:20"."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes}:{seconds:02d}"
