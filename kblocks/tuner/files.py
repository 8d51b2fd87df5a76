"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to in place of `path`, moved there when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        written = Path(folder) / path.name
        yield written
        os.replace(written, path)


def save(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """`model.save`, whole or not at all."""
    with whole(Path(path)) as written:
        model.save(written)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as CSV; the columns are all keys in the order in which they first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with whole(path) as written, written.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
