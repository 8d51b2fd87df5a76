"""How a process's work for a search ended: told there, and raised where the search was begun."""

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
    """A worker process could not use the search's database any more; with what that said."""


OVER = "over"  # there is nothing left to do


def told(work: Callable[[], object]) -> tuple[str, str]:
    """Works, and returns how that ended, in words that another process can be sent."""
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
    """Raises what `told` has caught.

    Raises:
        HopelessError, ChangedError: as there.
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
