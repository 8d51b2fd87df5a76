"""Reports how a worker's part of a search ended, and raises its errors in the first process."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from keras_tuner.errors import FatalRuntimeError, FatalTypeError, FatalValueError
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from kblocks.tuner.running.failures import reason
from kblocks.tuner.running.loop import HopelessError
from kblocks.tuner.storing.identity import ChangedError
from kblocks.tuner.storing.patience import why


class AwayError(Exception):
    """A worker process could no longer use the search's database; with the database's error."""


OVER = "over"  # the work ended without an error
_ERRORS = {
    **{"hopeless": HopelessError, "changed": ChangedError, "unreachable": ConnectionError},
    **{kind.__name__: kind for kind in (FatalTypeError, FatalValueError, FatalRuntimeError)},
}


def ending(work: Callable[[], object]) -> tuple[str, str]:
    """Calls `work`; returns how it ended, an event and a text, for `raise_ending` elsewhere."""
    try:
        work()
    except (StorageInternalError, SQLAlchemyError) as error:
        return "away", why(error)
    except Exception as error:
        for event, kind in _ERRORS.items():
            if isinstance(error, kind):
                return event, str(error)
        return "raised", f"{reason(error)}\n{traceback.format_exc()}"
    return OVER, ""


def raise_ending(event: str, text: str) -> None:
    """Raises the error with which work has ended in another process, if there was one.

    Raises:
        HopelessError, ChangedError: as raised by the work.
        AwayError: if the database could not be used.
        ConnectionError: if the checkpoints could not be reached.
        FatalTypeError, FatalValueError, FatalRuntimeError: Keras Tuner's, which end a search.
        RuntimeError: for anything else.
    """
    if event in _ERRORS:
        raise _ERRORS[event](text)
    if event == "away":
        raise AwayError(text)
    if event == "raised":
        raise RuntimeError(f"A worker process cannot go on: {text}")
