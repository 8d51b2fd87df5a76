"""A worker process: receives its job, runs trials, and ends when it is no longer needed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait

import psutil

from kblocks.tuner.running.ends import OVER, ending
from kblocks.tuner.running.failures import reason
from kblocks.tuner.running.jobs import helping
from kblocks.tuner.running.loop import work
from kblocks.tuner.running.search import Search
from kblocks.tuner.running.wire import Line, received
from kblocks.tuner.storing.interrupts import REQUESTS
from kblocks.tuner.storing.owners import give_back_all

_LEAVE = 5.0  # seconds to wait for the storage when the first process has ended


def serve(connection: Connection, index: int) -> None:
    """Runs the worker process of that index to its end; the first process is at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides
    handler = _exit_once()
    for number in REQUESTS:
        # The first process sends SIGTERM; SIGHUP stays ignored under `nohup`.
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
    searches: list[Search] = []
    threading.Thread(target=_end_with_parent, args=(searches,), daemon=True).start()
    line = Line(connection)
    try:
        line.tell("hello")
        job, seconds = received(connection)
        job.enter()
        with helping():
            tuner, fit = job.tuner(), job.fit()
        tuner.serve(index)
        deadline = None if seconds is None else time.monotonic() + seconds
        searches.append(search := tuner.make_search(deadline))
        search.is_worker = True
    except (Exception, SystemExit) as error:  # a run file may call `sys.exit`
        line.tell("unable", reason(error))
        raise SystemExit(1) from None
    line.tell("ready")
    sizes: list[int] = []  # of this process in bytes, after each trial

    def tell(event: str, number: int) -> None:
        try:
            line.tell(event, number)
        except OSError:  # no event arrives any more: another process takes this one's place
            os._exit(1)
        if event == "end":
            sizes.append(psutil.Process().memory_info().rss)

    def is_used_up() -> bool:
        return search.needs_room or (bool(sizes) and sizes[-1] - sizes[0] > tuner.growth)

    event, value = ending(lambda: work(search, fit, tell, stop=is_used_up))
    line.tell("replaced" if event == OVER and is_used_up() else event, value)


def _exit_once() -> Callable[..., None]:
    """A signal handler that ends this process; a later signal would only leave a traceback."""
    requests: list[int] = []

    def handler(number: int, _: object) -> None:
        requests.append(number)
        if len(requests) == 1:
            raise SystemExit(0)

    return handler


def _end_with_parent(searches: list[Search]) -> None:
    """Ends this process once its parent has ended; its trial is released, and not blamed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    wait([parent.sentinel])
    with contextlib.suppress(Exception):
        for search in searches:
            search.storage.patience = _LEAVE
            give_back_all(search.study, search.storage, (search.storage.owner,))
    os._exit(1)
