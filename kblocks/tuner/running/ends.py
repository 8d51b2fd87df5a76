"""How a process's work for a search ended: told there, and raised where the search was begun."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from kblocks.tuner.running.loop import HopelessError
from kblocks.tuner.running.training import reason
from kblocks.tuner.storing.identity import ChangedError
from kblocks.tuner.storing.patience import why

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
        return "away", f"The search's database cannot be used: {why(error)}"
    except ConnectionError as error:
        return "unreachable", str(error)
    except Exception as error:
        return "raised", f"{reason(error)}\n{traceback.format_exc()}"
    return OVER, ""


def raise_told(event: str, value: str, how_to_resume: str) -> None:
    """Raises what `told` has caught.

    Raises:
        HopelessError, ChangedError: as there.
        ConnectionError: if the storage or the checkpoints could not be reached.
        RuntimeError: for anything else.
    """
    match event:
        case "hopeless":
            raise HopelessError(value)
        case "changed":
            raise ChangedError(value)
        case "away":
            raise ConnectionError(f"{value}. {how_to_resume}")
        case "unreachable":
            raise ConnectionError(value)
        case "raised":
            raise RuntimeError(f"A worker process cannot go on: {value}")
