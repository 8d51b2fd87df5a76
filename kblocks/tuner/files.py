"""Writes models and tables, each whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kblocks.common.atomic import whole
from kblocks.model_tools.exporting import METADATA, OURS, not_finite, save_keras
from kblocks.tuner.records import Run


def save(
    model: keras.Model, path: str | os.PathLike[str], facts: Mapping[str, Any] | None = None
) -> None:
    """Saves a model, whole or not at all, in a file that every backend can load.

    Warns if a weight is NaN or infinite.

    Args:
        model: a Keras model.
        path: the file to write, which ends in `.keras`.
        facts: facts about the model, as JSON can hold them; `facts_of` reads them back.

    Raises:
        OSError: if the file cannot be written.
    """
    wrong = not_finite(model)
    if wrong is not None:
        warnings.warn(f"{path}: NaN or infinity in the model's {wrong}", stacklevel=2)
    with whole(Path(path)) as written:
        save_keras(model, written, facts)


def facts_of(path: Path) -> dict[str, Any]:
    """The facts in a `.keras` or `.tflite` file; {} if there are none or it is unreadable."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = json.loads(archive.read(METADATA)).get(OURS)
    except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile):
        return {}
    return found if isinstance(found, dict) else {}


def table_of(run: Run) -> list[dict[str, Any]]:
    """A row for each trial: number, status, failure, scores, costs, seconds and values.

    Also its machine, if several trained them.
    """
    rows = []
    has_machines = len({trial.machine for trial in run.trials} - {""}) > 1
    has_rungs = any(trial.continues is not None for trial in run.trials)
    for trial in run.trials:
        scores = dict(zip((o.name for o in run.objectives), trial.scores, strict=False))
        seconds = None if trial.seconds is None else round(trial.seconds, 1)
        failure = f"{trial.failure.kind}: {trial.failure.message}" if trial.failure else None
        scores |= dict(
            zip((f"{o.name} spread" for o in run.objectives), trial.spread, strict=False)
        )
        told: dict[str, Any] = {"trial": trial.number, "status": trial.status, "failure": failure}
        if has_rungs:
            told |= {"epochs": trial.epochs, "continues": trial.continues}
        if has_machines:
            told["machine"] = trial.machine
        rows.append({**told, **scores, **trial.costs, "seconds": seconds, **trial.values})
    return rows


# What a spreadsheet takes for the beginning of a formula (OWASP, "CSV Injection").
_FORMULA = tuple("=+-@\t\r\n\0\uff1d\uff0b\uff0d\uff20")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as CSV; the columns are all keys in the order in which they first appear.

    Names and messages may come from anybody: text that a spreadsheet would take for a formula gets
    an apostrophe before it, and all text is in double quotes.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with whole(path) as written, written.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(map(_cell, columns))
        writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, (int, float, np.number)):
        return "" if value is None else value
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
