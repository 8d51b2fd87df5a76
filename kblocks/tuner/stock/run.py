"""`search`: runs a tuner of Keras Tuner, shows its progress and saves the results."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from kblocks.common.atomic import whole
from kblocks.common.backend import custom_gradients, forget_gradients
from kblocks.common.quantities import quantity
from kblocks.networks.architecture import Architecture
from kblocks.tuner.bridge import NETWORK, HyperModel, costs_of, network_of
from kblocks.tuner.files import save, write_table
from kblocks.tuner.stock.progress import Display, EpochCallback


@dataclass(frozen=True)
class Result:
    """The result of `kb.tuner.search`.

    Attributes:
        model: the best trial's model with the weights of its best epoch.
        network: the architecture of `model`; None if kblocks did not build it.
        values: the best trial's hyperparameters, as the tuner drew them.
        score: the best trial's objective.
        trials: a dict for each trial: number, status, objective, cost, seconds and values.
    """

    model: keras.Model
    network: Architecture | None
    values: dict[str, Any]
    score: float
    trials: list[dict[str, Any]]


def search(
    tuner: keras_tuner.Tuner,
    *fit_args: Any,
    folder: str | os.PathLike[str],
    verbose: int = 1,
    **fit_kwargs: Any,
) -> Result:
    """Runs `tuner.search`, shows progress and time left, and writes the results to files.

    With a `kb.tuner.HyperModel` the first trial is the default point, whatever the tuner draws.

    Args:
        tuner: any of Keras Tuner's tuners, usually over a `kb.tuner.HyperModel`.
        fit_args, fit_kwargs: arguments of `model.fit`, as `tuner.search` takes them.
        folder: the folder for `trials.csv` (rewritten after each trial, with the trials of an
            earlier run), `best.json` (only of a network of kblocks) and `best.keras`. Each file is
            written whole or not at all.
        verbose: 0 shows nothing.

    Returns:
        The best model, its architecture, values and score, and the table of trials.

    Raises:
        ValueError: if the targets' form fits no trial of a `kb.tuner.HyperModel`.
        RuntimeError: if no trial was completed; the message has the first error.
    """
    if isinstance(tuner.hypermodel, HyperModel):
        tuner.hypermodel.check_targets(fit_args, fit_kwargs)
    folder = Path(folder)
    table = _Table(tuner, folder / "trials.csv")
    done = len(table.rows())
    display = Display(getattr(tuner.oracle, "max_trials", None), done, quiet=verbose == 0)
    callbacks = [*(fit_kwargs.pop("callbacks", None) or ()), EpochCallback(display)]
    with display, _Hooks(tuner, display, table), _default_first(tuner), _frozen():
        tuner.search(*fit_args, callbacks=callbacks, verbose=0, **fit_kwargs)
    best = _best_trial(tuner)
    model = tuner.get_best_models(1)[0]
    save(model, folder / "best.keras", {"trial": best.trial_id, "retrained": False})
    network = None
    if NETWORK in best.hyperparameters.values:
        network = network_of(best.hyperparameters)
        with whole(folder / "best.json") as path:
            path.write_text(network.to_json(indent=2), encoding="utf-8")
    return Result(model, network, _values(best), best.score, table.rows())


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """Excludes existing objects from the garbage collection that Keras Tuner runs per trial."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _default_first(tuner: keras_tuner.Tuner) -> Iterator[None]:
    """Makes the default point the first trial, through the oracle's public `populate_space`."""
    oracle: Any = tuner.oracle
    draw = oracle.populate_space

    def populate_space(trial_id: str) -> dict[str, Any]:
        drawn = draw(trial_id)  # always called: Hyperband counts its trials there
        if oracle.trials or drawn["status"] != "RUNNING":
            return drawn
        space = oracle.get_space()
        defaults = {hp.name: hp.default for hp in space.space if space.is_active(hp)}
        own = {k: v for k, v in drawn["values"].items() if k.startswith("tuner/")}
        return {**drawn, "values": {**defaults, **own}}

    if isinstance(tuner.hypermodel, HyperModel):
        oracle.populate_space = populate_space
    try:
        yield
    finally:
        vars(oracle).pop("populate_space", None)


def _best_trial(tuner: keras_tuner.Tuner) -> Any:
    completed = [t for t in tuner.oracle.trials.values() if t.status == "COMPLETED"]
    if not completed:
        message = next(
            (t.message for t in tuner.oracle.trials.values() if t.message), "no trial ran"
        )
        raise RuntimeError(f"No trial was completed. The first error was:\n{message}")
    return tuner.oracle.get_best_trials(1)[0]


class _Table:
    """A CSV file with a row for each trial that has ended, rewritten as a whole."""

    def __init__(self, tuner: keras_tuner.Tuner, path: Path) -> None:
        self._tuner, self._path = tuner, path
        earlier = {name: tuner.oracle.get_trial(name) for name in tuner.oracle.end_order}
        self._rows = {name: self._row(trial, None) for name, trial in earlier.items()}

    def ended(self, trial: Any, seconds: float) -> None:
        """Adds the row of a trial that ended and rewrites the file."""
        self._rows[trial.trial_id] = self._row(trial, round(seconds, 1))
        write_table(self._path, self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """The rows, in the order in which the trials ended."""
        return list(self._rows.values())

    def _row(self, trial: Any, seconds: float | None) -> dict[str, Any]:
        return {
            "trial": trial.trial_id,
            "status": trial.status,
            self._tuner.oracle.objective.name: trial.score,
            **self._cost(trial),
            "seconds": seconds,
            **_values(trial),
        }

    def _cost(self, trial: Any) -> dict[str, int | None]:
        model = self._tuner.hypermodel
        if not isinstance(model, HyperModel) or NETWORK not in trial.hyperparameters.values:
            return {"params": None, "macs": None}
        costs = costs_of(network_of(trial.hyperparameters), model.space.input_shape)
        return {"params": costs["params"], "macs": costs["macs"]}


class _Hooks:
    """Listens to a tuner through its public `on_trial_begin` and `on_trial_end`."""

    def __init__(self, tuner: keras_tuner.Tuner, display: Display, table: _Table) -> None:
        self._tuner, self._display, self._table = tuner, display, table
        self._own: dict[str, Any] = {}
        self._began = 0.0
        self._known = set(custom_gradients())

    def __enter__(self) -> None:
        tuner = self._tuner
        for name, told in (("on_trial_begin", self._begin), ("on_trial_end", self._end)):
            if name in vars(tuner):
                self._own[name] = vars(tuner)[name]
            setattr(tuner, name, _then(getattr(tuner, name), told))

    def __exit__(self, *error: object) -> None:
        for name in ("on_trial_begin", "on_trial_end"):
            delattr(self._tuner, name)
        vars(self._tuner).update(self._own)

    def _begin(self, trial: Any) -> None:
        self._began = time.monotonic()
        self._display.begin()

    def _end(self, trial: Any) -> None:
        forget_gradients(self._known)
        trial = self._tuner.oracle.get_trial(trial.trial_id)
        self._table.ended(trial, time.monotonic() - self._began)
        rows = self._table.rows()
        self._display.end(len(rows), self._told(trial, rows))

    def _told(self, trial: Any, rows: list[dict[str, Any]]) -> str:
        objective = self._tuner.oracle.objective
        if trial.status != "COMPLETED":
            lines = (trial.message or "").strip().splitlines()
            reason = lines[-1] if lines else f"{objective.name} is {trial.score}"
            return f"{trial.status.lower()}: {reason}"
        scores = [row[objective.name] for row in rows if row["status"] == "COMPLETED"]
        best = max(scores) if objective.direction == "max" else min(scores)
        size = ""
        row = next(row for row in rows if row["trial"] == trial.trial_id)
        if row["params"] is not None:
            size = f"  {quantity(row['params'])} parameters, {quantity(row['macs'])} MACs"
        return f"{objective.name} {trial.score:.4f} (best {best:.4f}){size}"


def _then(function: Any, told: Any) -> Any:
    @functools.wraps(function)
    def both(trial: Any) -> None:
        try:
            function(trial)
        finally:  # the tuner ends the search by raising when too many trials have failed
            told(trial)

    return both


def _values(trial: Any) -> dict[str, Any]:
    return {k: v for k, v in trial.hyperparameters.values.items() if not k.startswith(NETWORK)}
