"""`search`: runs a tuner of Keras Tuner, shows its progress and saves the results."""

import contextlib
import csv
import functools
import gc
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from kblocks.common.atomic import whole
from kblocks.common.backend import custom_gradients, forget_gradients
from kblocks.networks.architecture import Architecture
from kblocks.search_space.names import NETWORK, START
from kblocks.training.precision import compute_in
from kblocks.tuner.delivering import MODEL, facts
from kblocks.tuner.files import save, table_of, write_trials
from kblocks.tuner.hypermodel import HyperModel
from kblocks.tuner.records import Objective, Run
from kblocks.tuner.running.live import Live
from kblocks.tuner.running.trial import epochs_of
from kblocks.tuner.stock.trials import Trials
from kblocks.tuner.storing.identity import settings_of
from kblocks.tuner.suggesting import network_of
from kblocks.tuner.terminal import log


@dataclass(frozen=True)
class Result:
    """The result of `kb.tuner.search`.

    Attributes:
        model: the best trial's model with the weights of its best epoch.
        network: the architecture of `model`; None if kblocks did not build it.
        values: the best trial's hyperparameters, as the tuner drew them.
        score: the best trial's objective.
        run: the settings and all trials, as `kb.tuner.Tuner.search` returns them; also for
            `kb.tuner.report`.
    """

    model: keras.Model
    network: Architecture | None
    values: dict[str, Any]
    score: float
    run: Run

    @property
    def trials(self) -> list[dict[str, Any]]:
        """The rows of `trials.csv`, a dict for each trial."""
        return table_of(self.run)


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

    Raises:
        ValueError: if the targets' form fits no trial of a `kb.tuner.HyperModel`.
        RuntimeError: if no trial was completed; the message has the first error.
    """
    if isinstance(tuner.hypermodel, HyperModel):
        tuner.hypermodel.check_targets(fit_args, fit_kwargs)
    folder = Path(folder)
    trials = Trials(tuner, _settings(tuner, fit_args, fit_kwargs))
    _set_aside(folder / "trials.csv")
    known = set(custom_gradients())

    def ended(trial: Any) -> None:
        forget_gradients(known)
        trials.end(trial)
        write_trials(trials.run(), folder / "trials.csv")

    begin, end = _then(tuner.on_trial_begin, trials.begin), _then(tuner.on_trial_end, ended)
    callbacks = [*(fit_kwargs.pop("callbacks", None) or ()), trials]
    with (
        Live(trials.run, tuner.oracle.max_trials, verbose=verbose),
        _replaced(tuner, on_trial_begin=begin, on_trial_end=end),
        _default_first(tuner),
        _frozen(),
    ):
        tuner.search(*fit_args, callbacks=callbacks, verbose=0, **fit_kwargs)
    run = trials.run()
    best = run.best()
    if best is None:
        reasons = (t.failure.traceback or t.failure.message for t in run.trials if t.failure)
        reason = next(reasons, "no trial ran")
        raise RuntimeError(f"No trial was completed. The first error was:\n{reason}")
    trial = tuner.oracle.get_trial(tuner.oracle.start_order[best.number])
    model: Any = tuner.load_model(trial)
    compute_in(model, "float32")  # the recipe may have another precision
    save(model, folder / MODEL, facts(run, best, model))
    found, network = trial.hyperparameters.values, None
    if NETWORK in found:
        network = network_of(found)
        with whole(folder / "best.json") as path:
            path.write_text(network.to_json(indent=2), encoding="utf-8")
    values = {name: value for name, value in found.items() if not name.startswith((NETWORK, START))}
    return Result(model, network, values, best.scores[0], run)


def _settings(tuner: keras_tuner.Tuner, args: Any, kwargs: Any) -> dict[str, Any]:
    """The settings of the search, as `kb.tuner.Tuner` records them."""
    objective: Any = tuner.oracle.objective
    objectives = (Objective(objective.name, objective.direction),)
    others = {"trials": tuner.oracle.max_trials, "sampler": type(tuner).__name__}
    fit = (args, kwargs)
    return settings_of(tuner.hypermodel, objectives, fit, epochs=epochs_of(fit), **others)


def _set_aside(path: Path) -> None:
    """Renames a `trials.csv` of an earlier version of kblocks, whose columns are others."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        if "failure" in next(csv.reader(file), ()):
            return
    names = (path.with_name(f"trials-{count}.csv") for count in itertools.count(1))
    other = next(name for name in names if not name.exists())
    path.rename(other)
    log.warning("%s is of an earlier version of kblocks: it is %s now", path, other)


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

    is_ours = isinstance(tuner.hypermodel, HyperModel)
    with _replaced(oracle, populate_space=populate_space) if is_ours else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _replaced(owner: Any, **methods: Callable[..., Any]) -> Iterator[None]:
    """Replaces methods of one object until the block ends."""
    own = {name: vars(owner)[name] for name in methods if name in vars(owner)}
    vars(owner).update(methods)
    try:
        yield
    finally:
        for name in methods:
            del vars(owner)[name]
        vars(owner).update(own)


def _then(method: Callable[[Any], None], told: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(method)
    def both(trial: Any) -> None:
        try:
            method(trial)
        finally:  # the tuner ends the search by raising when too many trials have failed
            told(trial)

    return both
