"""Finishes a search: saves its best model and a table of trials, and tests the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kblocks.common.atomic import whole
from kblocks.tuner.files import facts_of, save, write_trials
from kblocks.tuner.images.data import Data
from kblocks.tuner.images.image_files import ImageFiles
from kblocks.tuner.records import Record, Run
from kblocks.tuner.running.fitting import of_training
from kblocks.tuner.terminal import plain

MODEL = "best.keras"  # the file of the delivered model, in the run's folder
_NEIGHBOURS = 5_000  # the most images for the nearest-neighbour baseline


def finish(
    tuner: Any,
    data: Data,
    retrain: Callable[[Data], Data] | None,
    tell: Callable[[str], None],
    keep: bool = False,
) -> None:
    """Writes `trials.csv`, `best.json` and `best.keras` to the run's folder, and tests the model.

    `best.json` and `best.keras` record the trial's number and whether the model was retrained.

    Args:
        tuner: the tuner of the finished search.
        data: the search's data; the test part is used only here.
        retrain: a function that makes the data for a last training of the best network from fresh
            weights; None keeps the best trial's weights.
        tell: is called with each line of output.
        keep: whether, without `retrain`, a `best.keras` that an earlier call retrained from the
            same trial stays.

    Raises:
        ValueError: if no trial was completed.
    """
    run: Run = tuner.run()
    folder = Path(tuner.folder)
    write_trials(run, folder / "trials.csv")
    best = run.best()
    if best is None:
        raise ValueError(f"No trial of {run.name} was completed")
    tell(f"\nbest trial: {best.number}, {plain(run.told(best))} with")
    for name, value in best.values.items():
        tell(plain(f"  {name} = {value}"))
    _write_network(folder, best, {})
    path = folder / MODEL
    before = facts_of(path)
    if retrain is None and keep and before.get("retrained") and is_of(before, run, best):
        tell(f"{path} stays the model that is delivered: {origin(before)}")
        known, model = before, keras.models.load_model(path)
    elif retrain is None:
        known, model = facts(run, best), tuner.model_of(best)
    else:
        last = retrain(data)
        known, model = facts(run, best, last), _retrained(tuner, last, tell)
    if known is not before:
        if path.exists():
            tell(f"{path} is replaced; it was of {origin(before)}")
        save(model, path, known)
    _write_network(folder, best, known)
    if data.test is not None:
        _judge(model, data, tell)
    network = "best.json, " if best.network is not None else ""
    tell(f"written to {folder}: {MODEL}, {network}trials.csv; the model is of {origin(known)}")


def facts(run: Run, trial: Record, data: Data | None = None) -> dict[str, Any]:
    """The facts about a model that its file stores: run, trial, whether it was retrained.

    Args:
        run, trial: the source of the model.
        data: the data of the last training; None if the model has the trial's own weights.
    """
    images = {} if data is None else {"images": _count(data)}
    own = {"run": run.name, "search": run.identity, "trial": trial.number}
    return {**own, "retrained": data is not None, **images}


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
    """The data with the validation images added to the training part.

    Raises:
        ValueError: if the data are neither arrays nor a folder of images.
    """
    train, validation = data.train, data.validation
    if isinstance(train, ImageFiles) and isinstance(validation, ImageFiles):
        return replace(data, train=train.with_those_of(validation))
    if isinstance(train, tuple) and isinstance(validation, tuple):
        pairs = zip(train, validation, strict=True)
        return replace(data, train=tuple(np.concatenate(pair) for pair in pairs))
    raise ValueError(
        "Training once more needs arrays or a folder of images, or `final` in the run file. "
        f"Received: {type(train).__name__}"
    )


def _retrained(tuner: Any, data: Data, tell: Callable[[str], None]) -> keras.Model:
    given = {k: v for k, v in data.fit_arguments().items() if k != "validation_data"}
    _, arguments = of_training(((), given), None, 0)
    count = _count(data)
    on = f" on {count} images" if count else ""
    hours = "" if tuner.hours is None else " (this comes after the `hours` of the search)"
    tell(f"training it once more{on}, {arguments.get('epochs', 1)} epochs{hours}")
    if tuner.seed is not None:
        keras.utils.set_random_seed(tuner.seed)
    values = tuner.get_best_hyperparameters()[0]
    model = tuner.build(values)
    tuner.hypermodel.fit(values, model, **arguments, verbose=0)
    return model


def _count(data: Data) -> int | None:
    """The number of training images, or None if it is unknown."""
    images = data.fit_arguments()["x"]
    if isinstance(images, ImageFiles):
        return len(images.names)
    return len(images) if isinstance(images, np.ndarray) else None


def _judge(model: keras.Model, data: Data, tell: Callable[[str], None]) -> None:
    """Evaluates the model on the test part, and a nearest-neighbour baseline on small data."""
    pair = isinstance(data.test, (tuple, list))
    given = dict(zip("xy", data.test, strict=True)) if pair else {"x": data.test}
    judged: Any = model
    found = judged.evaluate(**given, verbose=0, return_dict=True)
    count = ""
    if pair or isinstance(data.test, ImageFiles):
        count = f"{len(data.test[0]) if pair else len(data.test.names)} "
    for name in [name for name in found if name != "loss"] or ["loss"]:
        tell(f"{name} on {count}images the search never saw: {found[name]:.4f}")
    if not pair or not isinstance(data.train, tuple) or not isinstance(data.validation, tuple):
        return
    x, y = (np.concatenate(list(both)) for both in zip(data.train, data.validation, strict=True))
    if len(x) <= _NEIGHBOURS and y.ndim == 1 and len(data.test[0]) <= _NEIGHBOURS:
        from sklearn.neighbors import KNeighborsClassifier

        neighbour = KNeighborsClassifier(1).fit(x.reshape(len(x), -1), y)
        images, labels = data.test
        score = neighbour.score(np.reshape(images, (len(images), -1)), labels)
        tell(f"nearest neighbour on the same images: {score:.4f}")
