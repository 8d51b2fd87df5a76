"""Progress of a running search: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from kblocks.tuner.terminal import plain, tell


class Display:
    """Shows trials as they begin, train and end, with an estimate of the time left.

    Args:
        total: the number of trials; None if the tuner decides.
        done: how many of these an earlier run of the same search did.
        console: where to write; None is the standard output.
        quiet: whether to show nothing.
    """

    def __init__(
        self,
        total: int | None,
        done: int = 0,
        console: Console | None = None,
        quiet: bool = False,
    ) -> None:
        self.console = console or Console(soft_wrap=True, highlight=False, quiet=quiet)
        self.total = total
        self._earlier = self._done = done
        self._started = self._trial_started = time.monotonic()
        self._share = 0.0  # the finished part of the running trial, from 0 to 1
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
        )
        self._bar = Progress(*columns, console=self.console, transient=True)
        self._live = self.console.is_terminal and not quiet
        self._task = self._bar.add_task("search", total=total, state="")

    def __enter__(self) -> Display:
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._bar.stop()

    def begin(self) -> None:
        """Shows that a trial begins."""
        self._trial_started = time.monotonic()
        self._share = 0.0
        self._refresh("starting")

    def epoch(self, number: int, epochs: int, logs: dict[str, Any]) -> None:
        """Shows that the running trial has finished epoch `number` of `epochs`."""
        self._share = number / epochs
        shown = logs.get("val_accuracy", logs.get("val_loss", logs.get("loss")))
        self._refresh(f"epoch {number}/{epochs}" + (f" {shown:.3f}" if shown is not None else ""))

    def end(self, done: int, text: str) -> None:
        """Writes a line for a trial that ended; `done` trials have ended, repeats counted once."""
        self._done = done
        self._share = 0.0
        seconds = time.monotonic() - self._trial_started
        line = plain(f"{self._count()}  {text}  {seconds:.0f} s{self._left()}")
        tell(line, self.console)
        self._refresh("")

    def _count(self) -> str:
        return f"trial {self._done}" + (f"/{self.total}" if self.total else "")

    def _left(self) -> str:
        finished = self._done - self._earlier + self._share
        left = (self.total or 0) - self._earlier - finished
        if not finished or left <= 0:
            return ""
        seconds = (time.monotonic() - self._started) / finished * left
        return f"  about {int(seconds) // 60}:{int(seconds) % 60:02d} left"

    def _refresh(self, state: str) -> None:
        if self._live:
            finished = self._done + self._share
            label = f"trial {self._done + 1}" + (f"/{self.total}" if self.total else "")
            state += self._left()
            self._bar.update(self._task, completed=finished, description=label, state=state)


class EpochCallback(keras.callbacks.Callback):
    """Reports every epoch to a display. Keras Tuner copies callbacks; this one copies to itself."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display = display

    def __deepcopy__(self, memo: Any) -> EpochCallback:
        return self

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._display.epoch(epoch + 1, (self.params or {}).get("epochs") or 1, logs or {})
