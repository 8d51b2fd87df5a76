"""Finishes a search: saves its best model and a table of trials, and tests the model."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console, Group
from rich.live import Live

from kblocks.common.atomic import whole
from kblocks.training.precision import compute_in
from kblocks.tuner import terminal
from kblocks.tuner.delivering import MODEL, classifies, facts, images_of, model_of
from kblocks.tuner.files import facts_of, save, table_of, write_table
from kblocks.tuner.hypermodel import HyperModel
from kblocks.tuner.images.data import Data
from kblocks.tuner.images.image_files import ImageFiles
from kblocks.tuner.records import PRECISION, Record, Run
from kblocks.tuner.running.fitting import of_training
from kblocks.tuner.running.live import bar, duration, scored
from kblocks.tuner.terminal import cell, plain

_NEIGHBOURS = 5_000  # the most images for the nearest-neighbour baseline
_LINES = 10  # the most about the last training where there is no terminal


def finish(
    tuner: Any,
    data: Data,
    retrain: Callable[[Data], Data] | None,
    verbose: bool = True,
    keep: bool = False,
) -> None:
    """Writes `trials.csv`, `best.json` and `best.keras` to the run's folder, and tests the model.

    `best.keras` takes the values that the data's source has; it and `best.json` say which, and of
    which trial it is. `retrain` makes the data for a last training of the best network, which
    starts as the trials did; None keeps the best trial's weights, and with `keep` also a
    `best.keras` that an earlier call retrained from the same trial.
    """
    console = Console(soft_wrap=True, highlight=False, quiet=not verbose)
    tell = partial(terminal.tell, console=console)
    run: Run = tuner.run()
    folder = Path(tuner.folder)
    write_table(folder / "trials.csv", table_of(run))
    best = run.best()
    if best is None:
        raise ValueError(f"No trial of {run.name} was completed")
    tell(f"\nbest trial: {best.number}, {plain(scored(run.objectives, best))} with")
    for name, value in best.values.items():
        tell(plain(f"  {name} = {value}"))
    if best.started_from:
        tell(plain(f"  started from {best.started_from}"))
    path = folder / MODEL
    known = facts_of(path)
    if retrain is None and keep and known.get("retrained") and is_of(known, run, best):
        tell(f"{path} stays the model that is delivered: {origin(known)}")
        delivered: Any = keras.models.load_model(path)
        model = tuner.model_of(best, delivered.get_weights())
    else:
        _write_network(folder, best, {})  # a last training may take long
        last = None if retrain is None else retrain(data)
        model = tuner.model_of(best) if last is None else _retrained(tuner, best, last, console)
        delivered = model
        if type(tuner.hypermodel).build is HyperModel.build and best.network is not None:
            delivered = model_of(run, best, model.get_weights())
            tuner.hypermodel.compiled(delivered, tuner.get_best_hyperparameters()[0])
        if path.exists():
            tell(f"{path} is replaced; it was of {origin(known)}")
        known = facts(run, best, delivered, last)
        save(delivered, path, known)
    _write_network(folder, best, known)
    if data.test is not None:
        _judge(model, data, tell)
    network = "best.json, " if best.network is not None else ""
    tell(f"written to {folder}: {MODEL}, {network}trials.csv; the model is of {origin(known)}")
    if classifies(delivered):
        tell(_use(folder, known))


def _use(folder: Path, known: Mapping[str, Any]) -> str:
    """The lines of Python that use the delivered model."""
    low, high = known.get("value_range") or (None, None)
    size, given = "x".join(map(str, known.get("input_shape", ()))), "images"
    what = f"arrays of {size}" if low is None else f"arrays of {size} from {low:g} to {high:g}"
    if low == 0:
        given, what = '["image.png"]', f"or {what}"
    path = json.dumps(str(folder), ensure_ascii=False)
    return (
        "the model in Python:\n  import kblocks as kb\n"
        f"  predict = kb.tuner.predictor({path})\n  print(predict({given}))  # {what}"
    )


def is_of(known: Mapping[str, Any], run: Run, trial: Record) -> bool:
    """Whether a file's facts name this trial of this search."""
    return (known.get("search"), known.get("trial")) == (run.identity, trial.number)


def origin(known: Mapping[str, Any]) -> str:
    """A file's facts as text."""
    if "trial" not in known:
        return "a trial that the file does not name"
    if not known.get("retrained"):
        return f"trial {known['trial']}, with the weights of its best epoch"
    on = f" on {known['images']} images" if known.get("images") else ""
    return f"trial {known['trial']}, trained once more{on}"


def _write_network(folder: Path, best: Record, known: Mapping[str, Any]) -> None:
    """Writes `best.json`: the architecture, with the facts of the model unless they are empty."""
    if best.network is None:
        return
    with whole(folder / "best.json") as path:
        own = {"model": dict(known)} if known else {}
        path.write_text(json.dumps(json.loads(best.network) | own), encoding="utf-8")


def together(data: Data) -> Data:
    """The data with the validation images added to the training part, which `can_join`."""
    train, validation = data.train, data.validation
    if isinstance(train, ImageFiles):
        return replace(data, train=train.with_those_of(validation))
    pairs = zip(train, validation, strict=True)
    return replace(data, train=tuple(np.concatenate(pair) for pair in pairs))


def can_join(data: Data) -> bool:
    """Whether the parts are arrays, or folders of images, and so can be put together."""
    kinds = {type(data.train), type(data.validation)}
    return kinds in ({tuple}, {ImageFiles})


def _retrained(tuner: Any, best: Record, data: Data, console: Console) -> keras.Model:
    """Trains the network of the best trial anew, and shows how far it is."""
    tell = partial(terminal.tell, console=console)
    given = {k: v for k, v in data.fit_arguments().items() if k != "validation_data"}
    _, found = of_training(((), given), None, 0)
    arguments = dict(found)
    count = images_of(data.train)
    on = f" on {count} images" if count else ""
    hours = "" if tuner.hours is None else " (this comes after the `hours` of the search)"
    tell(f"training it once more{on}, {arguments.get('epochs', 1)} epochs{hours}")
    if tuner.seed is not None:
        keras.utils.set_random_seed(tuner.seed)
    values = tuner.get_best_hyperparameters()[0]
    model = tuner.build(values)
    policy = tuner.store.study().user_attrs.get(PRECISION, {}).get("policy")
    if policy is not None:
        compute_in(model, policy)
    show = _Shown(arguments.get("epochs", 1), tuner.objectives[0].name, console)
    following = keras.callbacks.LambdaCallback(on_epoch_end=show)
    arguments |= {"callbacks": [*(arguments.get("callbacks") or ()), following], "verbose": 0}
    try:
        with show.live if console.is_terminal else nullcontext():
            tuner.hypermodel.fit(values, model, **arguments)
    except KeyboardInterrupt:
        path = Path(tuner.folder) / MODEL
        tell(
            f"Interrupted: {path} {'is the earlier one' if path.exists() else 'is missing'}. The "
            "same command trains the network once more, from the beginning; with --no-retrain it "
            f"saves the model of trial {best.number} with the weights of its best epoch at once."
        )
        raise
    return model if policy is None else tuner.model_of(best, model.get_weights())


class _Shown:
    """Shows the epochs of a training and the time left: live in a terminal, else in ten lines."""

    def __init__(self, epochs: int, objective: str, console: Console) -> None:
        self._epochs, self._metric = epochs, objective.removeprefix("val_")
        self._started = time.monotonic()
        self.live = Live(self._parts(0, "starting"), console=console, transient=True)

    def __call__(self, epoch: int, logs: Mapping[str, float]) -> None:
        done, name = epoch + 1, self._metric if self._metric in logs else "loss"
        left = (time.monotonic() - self._started) / done * (self._epochs - done)
        parts = self._parts(done, f"{name} {logs[name]:.4f}   {duration(left)} left")
        if self.live.is_started:
            self.live.update(parts)
        elif done % -(-self._epochs // _LINES) == 0:
            self.live.console.print(parts.renderables[0])

    def _parts(self, done: int, text: str) -> Group:
        return Group(cell(f"epoch {done} of {self._epochs}   {text}"), bar(done, self._epochs))


def _judge(model: keras.Model, data: Data, tell: Callable[[str], None]) -> None:
    """Evaluates the model on the test part, and a nearest-neighbour baseline on small data."""
    pair = isinstance(data.test, tuple)
    given = dict(zip("xy", data.test, strict=True)) if pair else {"x": data.test}
    judged: Any = model
    found = judged.evaluate(**given, verbose=0, return_dict=True)
    count = images_of(data.test)
    on = "images" if count is None else f"{count} images"
    for name in [name for name in found if name != "loss"] or ["loss"]:
        tell(f"{name} on {on} the search never saw: {found[name]:.4f}")
    if not pair or not isinstance(data.train, tuple) or not isinstance(data.validation, tuple):
        return
    x, y = (np.concatenate(list(both)) for both in zip(data.train, data.validation, strict=True))
    if len(x) <= _NEIGHBOURS and y.ndim == 1 and len(data.test[0]) <= _NEIGHBOURS:
        from sklearn.neighbors import KNeighborsClassifier

        neighbour = KNeighborsClassifier(1).fit(x.reshape(len(x), -1), y)
        images, labels = data.test
        score = neighbour.score(np.reshape(images, (len(images), -1)), labels)
        tell(f"nearest neighbour on the same images: {score:.4f}")
