"""Reports how a worker's part of a search ended, and raises its errors in the first process."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from kblocks.tuner.running.loop import HopelessError
from kblocks.tuner.running.trial import reason
from kblocks.tuner.storing.identity import ChangedError
from kblocks.tuner.storing.patience import why


class AwayError(Exception):
    """A worker process could no longer use the search's database; with the database's error."""


OVER = "over"  # the work ended without an error


def told(work: Callable[[], object]) -> tuple[str, str]:
    """Calls `work` and returns how it ended: an event, and a text for another process to raise."""
    try:
        work()
    except HopelessError as error:
        return "hopeless", str(error)
    except ChangedError as error:
        return "changed", str(error)
    except (StorageInternalError, SQLAlchemyError) as error:
        return "away", why(error)
    except ConnectionError as error:
        return "unreachable", str(error)
    except Exception as error:
        return "raised", f"{reason(error)}\n{traceback.format_exc()}"
    return OVER, ""


def raise_told(event: str, value: str) -> None:
    """Raises the error that `told` has reported, if there was one.

    Raises:
        HopelessError, ChangedError: as raised by the work.
        AwayError: if the database could not be used.
        ConnectionError: if the checkpoints could not be reached.
        RuntimeError: for anything else.
    """
    match event:
        case "hopeless":
            raise HopelessError(value)
        case "changed":
            raise ChangedError(value)
        case "away":
            raise AwayError(value)
        case "unreachable":
            raise ConnectionError(value)
        case "raised":
            raise RuntimeError(f"A worker process cannot go on: {value}")
