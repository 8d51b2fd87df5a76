"""Signals that end a process: held back while a step is done whole, and kept in mind."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM)
_raised: list[BaseException] = []  # what signals have raised in `remembered`


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Ctrl-C and SIGTERM are heard when this is over; who insists is heard at once.

    A call of SQLAlchemy that an exception leaves at any point may keep its lock on the database.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = _handlers()
    heard: list[int] = []

    def note(number: int, frame: Any) -> None:
        heard.append(number)
        if len(heard) > 1:
            handlers[signal.Signals(number)](number, frame)

    for number in handlers:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if len(heard) == 1:
            signal.raise_signal(heard[0])


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """What Ctrl-C and SIGTERM raise is kept for `check`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _handlers()

    def hear(number: int, frame: Any) -> None:
        try:
            before[signal.Signals(number)](number, frame)
        except BaseException as error:
            _raised.append(error)
            raise

    for number in before:
        signal.signal(number, hear)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _raised.clear()


def check() -> None:
    """Raises what a signal has raised, if this process goes on all the same.

    An exception that a signal raises in the midst of C++ may be lost there, or come out as another:
    TensorFlow has made a RuntimeError of it.
    """
    if _raised:
        raise _raised[-1]


def _handlers() -> dict[signal.Signals, Any]:
    """Python's; one that is not ends the process, and with it all that it holds."""
    found = {number: signal.getsignal(number) for number in _ENDING}
    return {number: handler for number, handler in found.items() if callable(handler)}
