"""Atomic steps on the storage: claim a trial, write to it, release it; set a study attribute once.

Optuna reads a trial's state and writes it in two steps; on SQLite another process can claim the
same trial in between. Nor does Optuna record which process runs a trial.
"""

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import optuna
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from kblocks.tuner.records import ATTEMPTS, OWNER

# The part of Optuna's schema written here. States are literals: PostgreSQL has a type for them.
_BEGAN = sa.column("datetime_start", sa.DateTime)
_TRIALS = sa.table("trials", sa.column("trial_id"), sa.column("state"), _BEGAN)
_ATTRIBUTES = sa.table("trial_user_attributes", *map(sa.column, ("trial_id", "key", "value_json")))
_OF_STUDIES = sa.table("study_user_attributes", *map(sa.column, ("study_id", "key", "value_json")))
_WAITING, _RUNNING = sa.literal_column("'WAITING'"), sa.literal_column("'RUNNING'")


def take(engine: sa.Engine, trial_id: int, owner: str) -> bool:
    """Claims a waiting trial for a process; False if it is no longer waiting."""
    waits = sa.and_(_TRIALS.c.trial_id == trial_id, _TRIALS.c.state == _WAITING)
    with engine.begin() as connection:
        taken = _TRIALS.update().where(waits).values(state=_RUNNING, datetime_start=_now())
        if connection.execute(taken).rowcount != 1:
            return False
        _write(connection, trial_id, OWNER, owner)
    return True


def write(engine: sa.Engine, trial_id: int, owner: str, attributes: Mapping[str, Any]) -> bool:
    """Sets attributes of a running trial, all at once; False if it is not this owner's."""
    with engine.begin() as connection:
        if not _sets_state(connection, trial_id, owner, _RUNNING):
            return False
        for key, value in attributes.items():
            _write(connection, trial_id, key, value)
    return True


def release(engine: sa.Engine, trial_id: int, owner: str, attempts: int) -> bool:
    """Puts a running trial back to waiting, and records the number of attempts at it.

    Returns False if the trial no longer runs or has another owner; "" stands for no owner.
    """
    with engine.begin() as connection:
        if not _sets_state(connection, trial_id, owner, _WAITING):
            return False
        _write(connection, trial_id, OWNER, "")
        _write(connection, trial_id, ATTEMPTS, attempts)
    return True


def once(engine: sa.Engine, study_id: int, key: str, value: Any) -> Any:
    """Sets a study attribute if it is not set yet; returns the stored value."""
    row = sa.and_(_OF_STUDIES.c.study_id == study_id, _OF_STUDIES.c.key == key)
    new = _OF_STUDIES.insert().values(study_id=study_id, key=key, value_json=json.dumps(value))
    with contextlib.suppress(IntegrityError), engine.begin() as connection:
        connection.execute(new)
    with engine.begin() as connection:
        found = connection.execute(sa.select(_OF_STUDIES.c.value_json).where(row)).scalar_one()
    return json.loads(found)


def _sets_state(connection: sa.Connection, trial_id: int, owner: str, state: Any) -> bool:
    """Sets the state of a trial that an owner runs; False if it does not run or is another's."""
    mine = sa.and_(_ATTRIBUTES.c.trial_id == trial_id, _ATTRIBUTES.c.key == OWNER)
    named = _ATTRIBUTES.c.value_json == json.dumps(owner)
    is_owner = sa.exists().where(mine, named) if owner else ~sa.exists().where(mine, ~named)
    runs = sa.and_(_TRIALS.c.trial_id == trial_id, _TRIALS.c.state == _RUNNING, is_owner)
    return connection.execute(_TRIALS.update().where(runs).values(state=state)).rowcount == 1


def _write(connection: sa.Connection, trial_id: int, key: str, value: Any) -> None:
    row = sa.and_(_ATTRIBUTES.c.trial_id == trial_id, _ATTRIBUTES.c.key == key)
    text = json.dumps(value)
    changed = connection.execute(_ATTRIBUTES.update().where(row).values(value_json=text))
    if changed.rowcount == 0:
        new: sa.Insert = _ATTRIBUTES.insert()
        connection.execute(new.values(trial_id=trial_id, key=key, value_json=text))


def _now() -> datetime:
    """The time as Optuna stores it: without a time zone, in UTC since Optuna 5."""
    is_utc = int(optuna.__version__.split(".")[0]) >= 5
    return datetime.now(UTC).replace(tzinfo=None) if is_utc else datetime.now()
