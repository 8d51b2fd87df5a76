"""Restores the process-wide state that one trial may have changed for the next."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import keras

_STREAMS = ("stdin", "stdout", "stderr")


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Restores the working directory, standard streams, signal handlers and Keras' settings."""
    with _folder(), _descriptors(), _streams(), _signals(), _keras():
        yield


@contextlib.contextmanager
def _folder() -> Iterator[None]:
    before = None
    with contextlib.suppress(OSError):  # it has been removed
        before = os.getcwd()
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(OSError):
                os.chdir(before)


@contextlib.contextmanager
def _descriptors() -> Iterator[None]:
    """Restores descriptors 0 to 2; if they stayed closed, `print` could write to a trial's file."""
    with contextlib.ExitStack() as copies:
        before: dict[int, int] = {}
        for number in range(len(_STREAMS)):
            with contextlib.suppress(OSError):  # a process without a console has none
                before[number] = os.dup(number)
                copies.callback(_close, before[number])
        try:
            yield
        finally:
            for number, copy in before.items():
                with contextlib.suppress(OSError):  # the trial has closed the copy too
                    os.dup2(copy, number)


def _close(number: int) -> None:
    with contextlib.suppress(OSError):
        os.close(number)


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    before = {name: getattr(sys, name) for name in _STREAMS}
    try:
        yield
    finally:
        for number, (name, stream) in enumerate(before.items()):
            if getattr(stream, "closed", False):
                stream = os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Restores the handlers of the main thread, and cancels an alarm that the trial has set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    has_timer = hasattr(signal, "setitimer")  # not on Windows
    rings = has_timer and signal.getitimer(signal.ITIMER_REAL)[0] > 0
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        if has_timer and not rings:
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def _keras() -> Iterator[None]:
    config: Any = keras.config
    before = config.floatx(), config.image_data_format(), config.dtype_policy()
    try:
        yield
    finally:
        config.set_floatx(before[0])
        config.set_image_data_format(before[1])
        config.set_dtype_policy(before[2])
