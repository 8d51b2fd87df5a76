"""Runs as they lie in a folder or a storage, found for the command line."""

from __future__ import annotations

import os
import re
from pathlib import Path

import optuna
from sqlalchemy.exc import SQLAlchemyError

from kblocks.tuner.records import Run, read

DATABASE = "study.db"  # of a run folder
STORAGE = "KBLOCKS_STORAGE"  # the environment's variable with the URL of a storage

_SECRETS = (
    (re.compile(r"(://[^:/?#\s]*):\S*@"), r"\1:***@"),
    (re.compile(r"(?i)\b(password|passwd|pwd|sslpassword)=[^&\s'\"]+"), r"\1=***"),
)


def masked(text: str) -> str:
    """The same without the passwords of URLs, and without the environment's in any form."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    found = re.search(r"://[^:/?#\s]*:(\S*)@", os.environ.get(STORAGE, ""))
    if found and len(found[1]) > 3:  # shorter ones stand in ordinary words
        text = text.replace(found[1], "***")
    return text


def opened(run: str, storage: str | None = None) -> Run:
    """A run by its folder, or by its name in a storage.

    Args:
        run: the folder; with a storage, the name.
        storage: a SQLAlchemy URL. None is the folder's own, or that of the environment's
            KBLOCKS_STORAGE where `run` is no folder of a run.

    Raises:
        ValueError: if there is no such run, with those that are there.
        ConnectionError: if the storage does not answer.
    """
    folder = Path(run)
    if storage is None and not (folder / DATABASE).is_file():
        storage = os.environ.get(STORAGE)
        if storage is None:
            raise ValueError(
                f"RUN must be the folder of a run, with {DATABASE} in it, or go with --storage "
                f"or {STORAGE}. Received: {run}"
            )
    if storage is None:
        return _read(f"sqlite:///{folder.resolve() / DATABASE}", folder.resolve().name, only=True)
    return _read(storage, run, only=False)


def _read(storage: str, name: str, only: bool) -> Run:
    path = storage.removeprefix("sqlite:///")
    if path != storage and not Path(path).is_file():  # it would be made
        raise ValueError(f"--storage must be a database that exists. Received: {storage}")
    try:
        engine = optuna.storages.RDBStorage(storage)
        names = optuna.get_all_study_names(engine)
        if only and len(names) == 1:
            name = names[0]
        if name not in names:
            raise ValueError(f"RUN must be one of {', '.join(names) or 'none'}. Received: {name}")
        return read(optuna.load_study(study_name=name, storage=engine))
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConnectionError(masked(f"{storage} cannot be read: {reason}")) from None
