"""Signals that end a process: deferred during a database call, and remembered."""

import contextlib
import functools
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

# Signals that end a search: SIGTERM, a closed terminal (SIGHUP, not on Windows), and Ctrl-C.
REQUESTS = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
_ENDING = (signal.SIGINT, *REQUESTS)
_raised: list[BaseException] = []  # exceptions of signal handlers in `remembered`


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Defers Ctrl-C, SIGTERM and SIGHUP to the end of the block; a second signal acts at once.

    If an exception interrupts SQLAlchemy at an arbitrary point, its lock on the database may stay.
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
    """Records the exceptions that signal handlers raise, for `check`."""

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
    """Raises again what a signal handler has raised, in case other code has swallowed it.

    C++ code that a signal interrupts may swallow the exception or turn it into another: TensorFlow
    has turned one into a RuntimeError. A KeyboardInterrupt, the exception of a trial, is raised
    too, unless this is a worker process, which Ctrl-C never reaches.
    """
    if _raised:
        raise _raised[-1]
    if isinstance(error, KeyboardInterrupt) and multiprocessing.parent_process() is None:
        raise error


@contextlib.contextmanager
def _heard_by(hear: Callable[[Callable[..., Any], int, Any], None]) -> Iterator[None]:
    """In the main thread, calls `hear(handler, number, frame)` in place of each Python handler.

    Other handlers stay: the default one ends the process, which releases all that it holds.
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
