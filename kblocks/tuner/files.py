"""Models and tables, written whole or not at all."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from kblocks.exporting import portable
from kblocks.files import whole


def save(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """`model.save`, whole or not at all, into a file that every backend loads."""
    with whole(Path(path)) as written, portable(model):
        model.save(written)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as CSV; the columns are all keys in the order in which they first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with whole(path) as written, written.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
