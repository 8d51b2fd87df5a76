"""Signals that end a process, held back while a step is done whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Ctrl-C and SIGTERM are heard when this is over; who insists is heard at once.

    A call of SQLAlchemy that an exception leaves at any point may keep its lock on the database.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in _ENDING}
    # One that is not Python's ends the process, and with it all that it holds.
    handlers = {number: handler for number, handler in found.items() if callable(handler)}
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
