"""Explains why a search's database cannot be used, and what the user can do about it."""

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import quote

import sqlalchemy

_PUT_BACK = "Put it back, or a copy of it, and run the same again to go on"
_ALONE = "the trials are known nowhere else"


def diagnosis(url: str, name: str = "", seen: int = 0, checkpoints: str = "") -> str | None:
    """What is wrong with the SQLite file of a search; None if nothing is, or for other databases.

    `seen` is how many trials this process has seen in it; `name` may be "".
    """
    path = file_of(url)
    if path is None:
        return None
    kept = f" The weights of the best trials are still in {checkpoints}." if checkpoints else ""
    back = f"{_ALONE}. {_PUT_BACK}.{kept}"
    if not path.is_file():
        return f"{path} is not there any more; {back}"
    if path.stat().st_size == 0:
        return f"{path} has been emptied; {back}"
    try:
        has = _trials(path, name)
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):  # locked, or too many files are open
            return None
        has = None
    except sqlite3.DatabaseError as error:
        return (
            f"{path} is damaged ({' '.join(str(error).split())}); {back} Without a copy, `sqlite3 "
            f"{path.name} .recover | sqlite3 recovered.db` saves what can still be read."
        )
    if has is None and name:
        return f"{path} is another database, without {name!r}; {back}"
    if has is not None and has < seen:
        return (
            f"{path} is an older copy, with {has} trials of {seen}; the others are known nowhere "
            f"else. {_PUT_BACK}; with the older copy it goes on after those {has}."
        )
    return None


def file_of(url: str) -> Path | None:
    """The file that an SQLite URL names; None for other URLs and for a database in memory."""
    parts = sqlalchemy.make_url(url)
    path = (parts.database or "").removeprefix("file:")  # with the option `uri=true`
    is_in_memory = path in ("", ":memory:") or parts.query.get("mode") == "memory"
    return Path(path) if parts.get_backend_name() == "sqlite" and not is_in_memory else None


def _trials(path: Path, name: str) -> int | None:
    """The number of trials in the study of that name, None without one; or DatabaseError."""
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
        damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise sqlite3.DatabaseError(damage)
        study = "SELECT study_id FROM studies WHERE study_name = ?"
        found = connection.execute(study, (name,)).fetchone()
        counted = "SELECT COUNT(*) FROM trials WHERE study_id = ?"
        return connection.execute(counted, found).fetchone()[0] if found else None
