"""Opens the storage of a search: Optuna's tables in a database, with retries; its studies."""

import contextlib
import os
import re
import sqlite3
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import Engine, exc

from kblocks.tuner.records import EXTENDED, EXTENDS, IDENTITY, Objective
from kblocks.tuner.storing.diagnosis import diagnosis, file_of
from kblocks.tuner.storing.interrupts import held
from kblocks.tuner.storing.owners import owner
from kblocks.tuner.storing.patience import PATIENCE, PatientStorage, patiently, why

_BUSY = 5.0  # seconds for which SQLite waits for a lock by itself, deaf to signals


class EmptyError(ValueError):
    """The database has no tables of a search."""


def url_of(storage: str | None, folder: Path) -> str:
    """The URL of a search's storage; without one, that of an SQLite file in the run's folder.

    Raises ValueError if it is no SQLAlchemy URL, or has a user or password that must be quoted.
    """
    if storage is None:
        path = str((folder / "study.db").resolve())
        return sqlalchemy.URL.create("sqlite", database=path).render_as_string(False)
    # The driver that `postgresql://` stands for depends on the version of SQLAlchemy.
    storage = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", storage)
    # The errors neither show the URL nor chain another error: both may contain a password.
    before, at, _ = storage.partition("://")[2].rpartition("@")
    if at and not storage.startswith("sqlite") and set("/?@") & set(before):
        raise ValueError(
            "In the URL of `storage` a user and a password must be quoted by "
            "urllib.parse.quote(text, safe=''). Received: one with /, ? or @ in it"
        )
    try:
        sqlalchemy.make_url(storage)
    except (exc.ArgumentError, ValueError):
        raise ValueError(
            "`storage` must be a URL of SQLAlchemy such as sqlite:///runs/study.db or "
            "postgresql://user@host/name. "
            f"Received: {'something else' if storage.strip() else 'an empty text'}"
        ) from None
    return storage


def is_in_memory(url: str) -> bool:
    """Whether it is an SQLite database in memory: each opening creates another one."""
    return url.startswith("sqlite") and file_of(url) is None


def is_blank(url: str) -> bool:
    """Whether it names an SQLite file that does not exist or is empty."""
    path = file_of(url)
    return path is not None and (not path.is_file() or path.stat().st_size == 0)


def shown(url: str) -> str:
    """An SQLite file's path; other URLs without password and options, which may contain one."""
    path = file_of(url)
    if path is not None:
        return str(path)
    return sqlalchemy.make_url(url).set(query={}).render_as_string(hide_password=True)


def open_storage(url: str, patience: float = PATIENCE, create: bool = True) -> PatientStorage:
    """Opens the storage at a URL; the database may be unusable for `patience` seconds, at most 60.

    Without `create`, which creates a missing SQLite file and missing tables, the file may be
    read-only, and opening writes nothing. Raises ConnectionError if the database still cannot be
    used after that time, EmptyError if it has no tables, without `create`, and ImportError if the
    package for this kind of database is missing.
    """
    arguments: dict[str, Any] = {"pool_pre_ping": True, "pool_events": _CLOSED_BY_OTHERS}
    if url.startswith("sqlite"):
        arguments["connect_args"] = {"timeout": _BUSY}
        path = file_of(url)
        if path is not None and not sqlalchemy.make_url(url).query:
            arguments = _file(path, create)
    try:
        own, engine = patiently(lambda: _opened(url, arguments, create), lambda: min(patience, 60))
    except (exc.SQLAlchemyError, StorageInternalError) as error:
        found = diagnosis(url)
        message = f"{shown(url)} cannot be used: {why(error)}" + (f". {found}" if found else "")
        raise ConnectionError(message) from None
    except ImportError as error:
        missing = error.name or getattr(error.__cause__, "name", None) or "a package"
        raise ImportError(
            f"{shown(url)} needs {missing}; for PostgreSQL: pip install 'kblocks[postgresql]'",
            name=missing,
        ) from error
    return PatientStorage(own, engine, owner(), patience)  # type: ignore[abstract]


def _file(path: Path, create: bool) -> dict[str, Any]:
    """The engine's arguments for an SQLite file, which is created only here, never on connecting.

    A connection keeps using the file that it has opened even after that is moved or deleted, and
    its writes would be lost; so it is dropped once another file, or none, has the path.
    """
    path = path.absolute()  # a trial may change the working directory
    if create and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def connect() -> sqlite3.Connection:
        name = f"file:{quote(str(path))}?mode=rw"
        return sqlite3.connect(name, timeout=_BUSY, uri=True, check_same_thread=False)

    def connected(connection: Any, record: Any) -> None:
        record.info["file"] = _inode(path)

    def checked(connection: Any, record: Any, proxy: Any) -> None:
        if record.info.get("file") != _inode(path):
            raise exc.DisconnectionError(f"{path} is not the file that was opened")

    events = [(connected, "connect"), (checked, "checkout"), *_CLOSED_BY_OTHERS]
    return {"creator": connect, "pool_events": events}


def _inode(path: Path | int) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def _marked(connection: Any, record: Any) -> None:
    mark, other = os.pipe()  # no other file of this process has its device and inode
    os.close(other)
    record.info["mark"] = mark, _inode(mark)


def _unmarked(connection: Any, record: Any) -> None:
    mark, identity = record.info.pop("mark", (-1, None))
    if mark >= 0 and _inode(mark) == identity:
        os.close(mark)


def _not_closed(connection: Any, record: Any, proxy: Any) -> None:
    mark, identity = record.info["mark"]
    if _inode(mark) != identity:
        raise exc.DisconnectionError("a trial has closed the descriptors of its process")


# A trial may close all file descriptors, as code that starts a daemon does. A connection would then
# use a closed descriptor, or the file that was opened next under the same number.
_CLOSED_BY_OTHERS = [(_marked, "connect"), (_not_closed, "checkout"), (_unmarked, "close")]


def _opened(url: str, arguments: dict[str, Any], create: bool) -> tuple[BaseStorage, Engine]:
    if not create:
        engine = sqlalchemy.create_engine(url, **arguments)
        try:
            if not sqlalchemy.inspect(engine).has_table("studies"):
                raise EmptyError(f"There is no search in {shown(url)}: the database is empty")
        finally:
            engine.dispose()
    try:
        with held():
            own = RDBStorage(url, engine_kwargs=arguments)
    except (exc.IntegrityError, exc.ProgrammingError):
        time.sleep(0.5)  # another process is creating the same tables
        own = RDBStorage(url, engine_kwargs=arguments)
    return optuna.storages.get_storage(own), own.engine


def created(storage: BaseStorage, name: str, objectives: tuple[Objective, ...]) -> optuna.Study:
    """The study of that name, created if it does not exist."""
    directions: Any = ["maximize" if o.direction == "max" else "minimize" for o in objectives]
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # not its line about a new study
    try:
        return optuna.create_study(
            storage=storage, study_name=name, directions=directions, load_if_exists=True
        )
    finally:
        optuna.logging.set_verbosity(level)


def loaded(storage: BaseStorage, name: str) -> optuna.Study:
    """The study of that name; raises KeyError if there is none, with the names of the others."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        there = ", ".join(optuna.get_all_study_names(storage))
        others = f", but: {there}" if there else ""
        raise KeyError(f"no search of the name {name!r} is there{others}") from None


def find(storage: BaseStorage, name: str) -> optuna.Study:
    """The study of a search, in its newest extension; raises KeyError if there is none."""
    study = loaded(storage, name)
    newer = study.user_attrs.get(EXTENDED)
    return study if newer is None else find(storage, newer)


def identity(storage: PatientStorage, study: optuna.Study) -> str:
    """The unique id of a search, in all its extensions; its checkpoints are marked with it."""
    number = storage.get_study_id_from_name(study.study_name)
    return str(storage.once(number, IDENTITY, uuid.uuid4().hex))


def names(storage: BaseStorage) -> list[str]:
    """The names of the searches in a storage."""
    return sorted(name for name, first in studies(storage).items() if name == first)


def delete(storage: BaseStorage, name: str) -> None:
    """Deletes a search with all its extensions."""
    own = [one for one, first in studies(storage).items() if first == name]
    for one in sorted(own, key=lambda one: one == name):  # the first last: it leads to the others
        optuna.delete_study(study_name=one, storage=storage)


def studies(storage: BaseStorage) -> dict[str, str]:
    """By study, the name under which its search began."""
    summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
    return {one.study_name: one.user_attrs.get(EXTENDS, one.study_name) for one in summaries}
