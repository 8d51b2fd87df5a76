"""Signals that end a process: held back while a step is done whole, and kept in mind."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

# What ends a search from outside: a request, a closed terminal (which Windows has not), Ctrl-C.
REQUESTS = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
_ENDING = (signal.SIGINT, *REQUESTS)
_raised: list[BaseException] = []  # what signals have raised in `remembered`


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Ctrl-C and SIGTERM are heard when this is over; who insists is heard at once.

    A call of SQLAlchemy that an exception leaves at any point may keep its lock on the database.
    """
    heard: list[int] = []

    def note(handler: Callable[..., Any], number: int, frame: Any) -> None:
        heard.append(number)
        if len(heard) > 1:
            handler(number, frame)

    try:
        with _heard_by(note):
            yield
    finally:
        if len(heard) == 1:
            signal.raise_signal(heard[0])


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """What Ctrl-C and SIGTERM raise is kept for `check`."""

    def keep(handler: Callable[..., Any], number: int, frame: Any) -> None:
        try:
            handler(number, frame)
        except BaseException as error:
            _raised.append(error)
            raise

    try:
        with _heard_by(keep):
            yield
    finally:
        _raised.clear()


def check(error: BaseException | None = None) -> None:
    """Raises what a signal has raised, if this process goes on all the same.

    Args:
        error: what a trial has raised. It is raised too if it is a KeyboardInterrupt, unless this
            is a worker process, which Ctrl-C never reaches.

    An exception that a signal raises in the midst of C++ may be lost there, or come out as another:
    TensorFlow has made a RuntimeError of it.
    """
    if _raised:
        raise _raised[-1]
    if isinstance(error, KeyboardInterrupt) and multiprocessing.parent_process() is None:
        raise error


@contextlib.contextmanager
def _heard_by(hear: Callable[[Callable[..., Any], int, Any], None]) -> Iterator[None]:
    """In the main thread `hear(handler, number, frame)` stands before the handlers that there are.

    One that is not Python's ends the process, and with it all that it holds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in _ENDING}
    before = {number: handler for number, handler in found.items() if callable(handler)}
    for number, handler in before.items():
        signal.signal(number, functools.partial(hear, handler))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
