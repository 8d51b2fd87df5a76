"""Finds runs in a folder or a storage for the command line."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kblocks.command.typed import DATABASE, STORAGE
from kblocks.tuner.records import Record, Run, read
from kblocks.tuner.storing.diagnosis import file_of
from kblocks.tuner.storing.owners import as_it_is
from kblocks.tuner.storing.storage import find, names, open_storage, shown, url_of

if TYPE_CHECKING:
    from kblocks.networks.architecture import Architecture

_PATIENCE = 10.0  # seconds that a command waits for a database


def folder_of(run: str, storage: str | None) -> Path | None:
    """The run's folder; None if `run` names no folder with a study.db or `storage` is given."""
    folder = Path(run)
    return folder if not storage and (folder / DATABASE).is_file() else None


def opened(run: str, storage: str | None = None) -> Run:
    """Reads a run from its folder, or by its name from a storage (a SQLAlchemy URL).

    With `storage` None that is study.db in the folder `run` or, if there is none, the database
    whose URL is in the environment variable KBLOCKS_STORAGE.
    """
    folder = folder_of(run, storage)
    if folder is not None:
        return _read(url_of(None, folder), folder.resolve().name)
    storage = storage or os.environ.get(STORAGE)
    if not storage:
        raise ValueError(
            f"RUN must be the folder of a run, with {DATABASE} in it, or go with --storage or "
            f"{STORAGE}. Received: {run}"
        )
    return _read(url_of(storage, Path()), run)


def _read(url: str, name: str) -> Run:
    path = file_of(url)
    if path is not None and not path.is_file():
        raise ValueError(
            f"There is no search in {shown(url)} yet: `kblocks search` begins one, --storage names "
            "another database"
        )
    storage = open_storage(url, _PATIENCE, create=False)
    known = names(storage)
    if not known:
        raise ValueError(f"There is no search in {shown(url)}")
    if name not in known and len(known) == 1 and url.startswith("sqlite"):
        name = known[0]  # the run's folder was renamed
    if name not in known:
        raise ValueError(f"RUN must be one of {', '.join(known)}. Received: {name}")
    return as_it_is(read(find(storage, name)))


def best_of(run: Run) -> Record:
    """The best completed trial of a run; ValueError if there is none."""
    best = run.best()
    if best is None:
        raise ValueError(f"RUN must have a completed trial. Received: {run.name} without one")
    return best


def best_network(run: Run) -> "tuple[Record, Architecture]":
    """The best completed trial of a run, and its network rebuilt from the record's JSON."""
    from kblocks.networks.architecture import Architecture

    best = best_of(run)
    if best.network is None or run.input_shape is None:
        raise ValueError(
            f"RUN must be of networks of kblocks. Received: trial {best.number} of {run.name}, "
            "which keeps no architecture"
        )
    return best, Architecture.from_json(best.network)
