"""Restores the process-wide state that a trial may have changed, and frees what it has left."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras

from kblocks.common.backend import custom_gradients, forget_gradients, free_cached
from kblocks.tuner.storing.owners import is_busy

_STREAMS = ("stdin", "stdout", "stderr")
_REFREEZE = 200  # trials between two garbage collections of all objects


@contextlib.contextmanager
def cleaning() -> Iterator[Callable[[], None]]:
    """Yields a function that frees what a trial has left.

    The garbage collection leaves out the objects that existed before. Every 200 trials it goes
    through everything and then leaves out what has survived, so its time does not grow.
    """
    count = 0
    known = set(custom_gradients())

    def clean() -> None:
        nonlocal count
        count += 1
        with restored():  # `clear_session` resets the dtype policy as well
            keras.utils.clear_session(free_memory=False)
        if not is_busy():  # a trial in another thread may still need its gradients
            forget_gradients(known)
        if count % _REFREEZE == 0:
            gc.unfreeze()
        gc.collect()
        if count % _REFREEZE == 0:
            gc.freeze()
        free_cached()

    gc.freeze()
    try:
        yield clean
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Restores the working directory, standard streams, signal handlers and Keras' settings."""
    with _folder(), _descriptors(), _streams(), _signals(), _keras():
        yield


@contextlib.contextmanager
def without_forks() -> Iterator[None]:
    """Ends a child that the block has made by `fork` when it leaves the block, however it does."""
    process = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != process:
            os._exit(1)


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
