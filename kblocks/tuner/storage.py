"""The storage of a search: Optuna's tables in a database, and patience with that database."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
    SQLAlchemyError,
)

from kblocks.tuner.records import Objective

_log = logging.getLogger("kblocks")

_PATIENCE = 900.0  # seconds that a database may be away
_LONGEST = 10.0  # seconds between two tries
_AWAY = (StorageInternalError, DBAPIError)
_WRONG = (DataError, IntegrityError, NotSupportedError, ProgrammingError)  # not by waiting
_REFUSED = ("password authentication failed", "no password supplied", "does not exist")


class PatientStorage(BaseStorage):
    """A storage that tries again while its database is away, locked or on a full disk.

    Args:
        inner: the storage that is asked.
        patience: seconds after which it gives up and raises what the database says.
    """

    def __init__(self, inner: BaseStorage, patience: float = _PATIENCE) -> None:
        self.inner = inner
        self.patience = patience

    def __getstate__(self) -> Any:
        raise TypeError("a storage holds connections: hand over its URL")


def _patient(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(BaseStorage, name))
    def call(self: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        return patiently(lambda: getattr(self.inner, name)(*args, **kwargs), self.patience)

    return call


for _name, _function in inspect.getmembers(BaseStorage, inspect.isfunction):
    if not _name.startswith("_"):
        setattr(PatientStorage, _name, _patient(_name))
PatientStorage.__abstractmethods__ = frozenset()


def patiently(function: Callable[[], Any], patience: float = _PATIENCE) -> Any:
    """What `function` returns, tried again while its database cannot be used."""
    until, wait = time.monotonic() + patience, 0.1
    while True:
        try:
            return function()
        except _AWAY as error:
            if time.monotonic() + wait > until or _is_wrong(error):
                raise
            if wait > 1:  # a lock that is held for a moment is no news
                _log.warning("The search's database cannot be used, trying again: %s", _why(error))
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST)


def _is_wrong(error: BaseException) -> bool:
    """Whether the database has answered, and would answer the same again."""
    cause = error if isinstance(error, DBAPIError) else error.__cause__
    return isinstance(cause, _WRONG) or any(words in _why(error) for words in _REFUSED)


def _why(error: BaseException) -> str:
    cause = error.__cause__ or error
    origin = getattr(cause, "orig", None) or cause
    return str(origin).strip().splitlines()[0] if str(origin).strip() else type(origin).__name__


def url_of(storage: str | None, folder: Path) -> str:
    """The URL of a search's storage: SQLite in the run's folder unless one is given.

    Raises:
        ValueError: if it is no URL of SQLAlchemy's.
    """
    if storage is None:
        return f"sqlite:///{(folder / 'study.db').resolve()}"
    # `postgresql://` alone means another driver from version to version of SQLAlchemy.
    storage = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", storage)
    # Nothing is chained or quoted here: it may hold a password.
    before, at, _ = storage.partition("://")[2].rpartition("@")
    if at and not storage.startswith("sqlite") and set("/?@") & set(before):
        raise ValueError(
            "In the URL of `storage` a user and a password must be quoted by "
            "urllib.parse.quote(text, safe=''). Received: one with /, ? or @ in it"
        )
    try:
        sqlalchemy.make_url(storage)
    except (ArgumentError, ValueError):
        raise ValueError(
            "`storage` must be a URL of SQLAlchemy such as sqlite:///runs/study.db or "
            "postgresql://user@host/name. Received: something else"
        ) from None
    return storage


def shown(url: str) -> str:
    """A storage's URL without its password, and without its options, which may hold one."""
    return sqlalchemy.make_url(url).set(query={}).render_as_string(hide_password=True)


def open_storage(url: str, patience: float = _PATIENCE) -> PatientStorage:
    """The storage behind a URL, whose tables are made if they are not there.

    Raises:
        ConnectionError: if the database cannot be reached, after `patience` seconds.
    """
    engine: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        engine["connect_args"] = {"timeout": 60}
        path = sqlalchemy.make_url(url).database
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        inner = patiently(lambda: _made(url, engine), min(patience, 60.0))
    except (SQLAlchemyError, StorageInternalError) as error:
        raise ConnectionError(f"{shown(url)} cannot be used: {_why(error)}") from None
    except ImportError as error:
        missing = error.name or getattr(error.__cause__, "name", None) or "a package"
        raise ImportError(
            f"{shown(url)} needs {missing}; for PostgreSQL: pip install 'kblocks[postgresql]'",
            name=missing,
        ) from error
    made: Any = PatientStorage  # whose methods are made below its class
    return made(inner, patience)


def _made(url: str, engine: dict[str, Any]) -> BaseStorage:
    try:
        return optuna.storages.get_storage(RDBStorage(url, engine_kwargs=engine))
    except (IntegrityError, ProgrammingError):
        time.sleep(0.5)  # another process makes the same tables
        return optuna.storages.get_storage(RDBStorage(url, engine_kwargs=engine))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def created(storage: BaseStorage, name: str, objectives: tuple[Objective, ...]) -> optuna.Study:
    """The study of that name, made if it is not there."""
    directions: Any = ["maximize" if o.direction == "max" else "minimize" for o in objectives]
    with _quiet():
        return optuna.create_study(
            storage=storage, study_name=name, directions=directions, load_if_exists=True
        )


def loaded(storage: BaseStorage, name: str) -> optuna.Study:
    """The study of that name.

    Raises:
        KeyError: if there is none; with the names that there are.
    """
    try:
        with _quiet():
            return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        names = ", ".join(optuna.get_all_study_names(storage)) or "none"
        raise KeyError(f"no search of the name {name!r} is there, but: {names}") from None
