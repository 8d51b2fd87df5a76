"""The pipe between the first process of a search and a worker: the job goes down, events come up.

`multiprocessing` would send the job while a process starts, through a pipe whose other end it holds
itself: if that process ends before it has read everything, the sender waits for ever.
"""

from __future__ import annotations

import io
import os
import pickle
import threading
from multiprocessing.connection import Connection
from typing import Any

_PART = 1 << 20  # bytes that are sent at once


class Errand(threading.Thread):
    """A thread that sends an object to a process, which may end at any moment.

    The process calls `received`.
    """

    def __init__(self, connection: Connection, content: Any) -> None:
        super().__init__(daemon=True, name="kblocks-errand")
        self._connection, self._content = connection, content
        self.error: str | None = None  # why sending has failed

    def run(self) -> None:
        """Sends the object; whoever waits for the process notices its end."""
        try:
            pickle.Pickler(_Parts(self._connection), protocol=5).dump(self._content)
        except Exception as error:  # the pipe is closed, or an object cannot be pickled
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self._content = None


class _Parts(io.RawIOBase):
    """A pipe as a file, written or read in parts, so that no object is in memory twice."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._left = connection, memoryview(b"")

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        whole = memoryview(content).cast("B")
        for first in range(0, len(whole), _PART):
            self._connection.send_bytes(whole[first : first + _PART])
        return len(whole)

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = memoryview(self._connection.recv_bytes())
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


def received(connection: Connection) -> Any:
    """The object that an `Errand` sends.

    Raises:
        EOFError: if the other process ends meanwhile.
    """
    return pickle.load(io.BufferedReader(_Parts(connection), _PART))


class Line:
    """A worker's end of the pipe.

    A trial may close it, and another file that is opened then may get its descriptor.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._file = self._identity()

    def tell(self, event: str, value: Any = None) -> None:
        """Sends an event.

        Raises:
            OSError: if the pipe is closed or its descriptor belongs to another file.
        """
        if self._identity() != self._file:
            raise OSError("a trial has closed the pipe to the first process")
        self._connection.send((event, value))

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.fstat(self._connection.fileno())
        except OSError:  # closed; or Windows, where it is no file
            return None
        return found.st_dev, found.st_ino
