"""A search on a Ray cluster: Ray begins its processes on the machines, and begins them again.

All else is as on one machine: a task of Ray's is `Tuner.run_job` there, with a worker process of
its own under it, so that a trial that ends its process, hangs or grows is met by what meets it
everywhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from optuna.trial import TrialState

from kblocks.tuner.records import ATTEMPTS
from kblocks.tuner.running.ends import OVER, raise_told, told
from kblocks.tuner.running.jobs import Job
from kblocks.tuner.running.loop import Search
from kblocks.tuner.running.sending import Sent
from kblocks.tuner.storing.owners import Watchman

OPTIONS = (
    *("num_cpus", "num_gpus", "memory", "resources", "accelerator_type", "label_selector"),
    *("scheduling_strategy", "runtime_env"),
)
_POLL = 0.5  # seconds
_LEAVE = 10.0  # seconds in which tasks may end by themselves
_FALSE_STARTS = 5  # of a task in a row, which dies before any trial is begun
_APART = 1000  # the numbers of two tasks' worker processes, each of which draws its own points
# What of this process's environment a worker must have: the names that a database's client reads.
_TAKEN_ALONG = ("KBLOCKS_", "PG")


def checked(options: Mapping[str, Any] | None, workers: int) -> dict[str, Any] | None:
    """The options of `Tuner(ray=...)`.

    Raises:
        ValueError: if Ray's tasks have no such options, or there are no workers.
    """
    if options is None:
        return None
    if not isinstance(options, Mapping) or set(options) - set(OPTIONS):
        raise ValueError(
            "`ray` must be None or what a worker needs, such as {'num_cpus': 4, 'num_gpus': 1}, of "
            f"{', '.join(OPTIONS)}. Received: ray={options!r}"
        )
    if not workers:
        raise ValueError("`workers` must be at least 1 where `ray` is given. Received: workers=0")
    return dict(options)


class Cluster:
    """The tasks of a search on a Ray cluster.

    Args:
        tuner: whose search it is; its `ray` are the options of a task.
        job: what a task makes its tuner and data of.
        search: as this process sees it.
        say: shows a line.
    """

    def __init__(self, tuner: Any, job: Job, search: Search, say: Callable[[str], None]) -> None:
        self._tuner, self._job, self._search, self._say = tuner, job, search, say
        left = None if search.limits.deadline is None else search.limits.deadline - time.monotonic()
        self._until = None if left is None else time.time() + left
        self._watchman = Watchman(search.study, search.storage)
        self._before: dict[int, int] = {}  # by task: trials that were begun before it was
        self._false_starts: dict[int, int] = {}

    def run(self) -> None:
        """Works until the search is over.

        Raises:
            ImportError: if Ray is missing.
            ConnectionError: if there is no cluster at RAY_ADDRESS.
            ValueError: if the job cannot be sent, or the storage is not for several machines.
            RuntimeError: if tasks die before they begin.
        """
        with _connected() as ray:
            self._look(ray)
            begin = self._beginner(ray)
            running: dict[Any, int] = {}
            try:
                for index in range(self._tuner.workers):
                    running[begin(index)] = index
                self._follow(ray, begin, running)
            finally:
                _end(ray, running)

    def _look(self, ray: Any) -> None:
        """Tells which cluster this is; the search may be meant for another."""
        nodes = [node for node in ray.nodes() if node["Alive"]]
        hosts = {node["NodeManagerHostname"] for node in nodes}
        if self._tuner.storage_url.startswith("sqlite") and hosts != {socket.gethostname()}:
            raise ValueError(
                "`storage` must be a database that all machines of the Ray cluster reach, such as "
                f"PostgreSQL. Received: a file of this machine, for {', '.join(sorted(hosts))}"
            )
        has = [node["Resources"] for node in nodes]
        cpus, gpus = (sum(one.get(name, 0) for one in has) for name in ("CPU", "GPU"))
        told = f"{len(nodes)} node{'s' * (len(nodes) > 1)}, {cpus:g} CPUs, {gpus:g} GPUs"
        self._say(f"On Ray: {told}; {self._tuner.workers} workers")
        options = self._tuner.ray
        needs = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0)}
        needs |= {"memory": options.get("memory", 0), **options.get("resources", {})}
        if not any(all(one.get(n, 0) >= (v or 0) for n, v in needs.items()) for one in has):
            self._say(f"No node has as yet what a worker needs, {options}: waiting for one")

    def _beginner(self, ray: Any) -> Callable[[int], Any]:
        """What begins a task by its index."""
        sent = Sent(self._job, self._tuner, self._until)
        # The store may be written to the disk: nothing is put there that tells a password.
        content, secret = ray.put(sent.content), sent.apart
        folder, environment = os.getcwd(), _environment(self._tuner.ray)
        # No actor, whose arguments Ray keeps in its database, and no retries of Ray's own, which
        # never end. The process ends with its task, and so does what it holds.
        fixed = {"max_retries": 0, "max_calls": 1, "name": "kblocks worker"}
        task = ray.remote(**self._tuner.ray, **fixed)(_by_value())

        def begin(index: int) -> Any:
            self._before[index] = self._begun()
            return task.remote(environment, folder, content, secret, sent.own, index)

        return begin

    def _follow(self, ray: Any, begin: Callable[[int], Any], running: dict[Any, int]) -> None:
        is_over = False
        while running:
            time.sleep(_POLL)  # here, where a signal keeps its exit code: `ray.wait` makes it 1
            ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
            for one in ended:
                index = running.pop(one)
                death = self._heard(ray, one)
                if death is None:
                    is_over = True
                elif not is_over:
                    self._count(index, death)
                    running[begin(index)] = index
            if is_over and not self._is_running():
                return  # tasks that still wait for a machine are not needed any more
            self._watchman.look()

    def _heard(self, ray: Any, task: Any) -> str | None:
        """How a task ended: None if there is nothing left to do, else what it died of."""
        refused = (ray.exceptions.RuntimeEnvSetupError, ray.exceptions.TaskUnschedulableError)
        try:
            event, value = ray.get(task)
        except ray.exceptions.RayTaskError as error:  # before there was anything of kblocks
            last = str(error).strip().splitlines()[-1]
            raise RuntimeError(f"A worker on Ray cannot begin: {last}\n{error}") from None
        except refused:
            raise
        except ray.exceptions.RayError as error:
            return f"{type(error).__name__}: {error}".splitlines()[0]
        if event != OVER:
            raise_told(event, value)
        return None

    def _count(self, index: int, death: str) -> None:
        had_begun = self._begun() > self._before[index]
        self._false_starts[index] = 0 if had_begun else self._false_starts.get(index, 0) + 1
        if self._false_starts[index] >= _FALSE_STARTS:
            raise RuntimeError(f"Workers on Ray die before they begin a trial: {death}")
        self._say(f"A worker on Ray has died and is begun again ({death})")

    def _begun(self) -> int:
        """How often trials have been begun."""
        trials = self._search.study.get_trials(deepcopy=False)
        return sum(trial.user_attrs.get(ATTEMPTS, 0) for trial in trials)

    def _is_running(self) -> bool:
        states = (TrialState.RUNNING,)
        return bool(self._search.study.get_trials(deepcopy=False, states=states))


@contextlib.contextmanager
def _connected() -> Iterator[Any]:
    """Ray, connected to the cluster that `ray.init` finds: by RAY_ADDRESS, or on this machine.

    Where there is none, it begins one of this machine, which ends with the search.
    """
    try:
        import ray
    except ImportError as error:
        told = f"a search on Ray needs ray: pip install 'kblocks[ray]' ({error})"
        raise ImportError(told, name="ray") from error
    if ray.is_initialized():
        yield ray
        return
    _find(os.environ.get("RAY_ADDRESS", ""))
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    # Ray would tell its makers of each cluster that is begun.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        if is_main:
            signal.signal(signal.SIGTERM, before)  # which Ray has taken for itself
        yield ray
    finally:
        ray.shutdown()


def _find(address: str, seconds: float = _LEAVE) -> None:
    """Looks whether a cluster may be there, for which Ray itself would wait for minutes.

    Args:
        address: RAY_ADDRESS; one without a port is Ray's to understand.
        seconds: in which a cluster that begins at the same time may come up.

    Raises:
        ConnectionError: if nothing listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    until = time.monotonic() + seconds
    while port.isdecimal():
        try:
            left = max(until - time.monotonic(), 0.1)
            socket.create_connection((host.strip("[]"), int(port)), left).close()
            return
        except OSError as error:
            if time.monotonic() + _POLL > until:
                raise ConnectionError(
                    f"No Ray cluster answers at RAY_ADDRESS={address} ({error}). Start one there "
                    "(`ray start --head`), or unset RAY_ADDRESS for one of this machine's own"
                ) from None
            time.sleep(_POLL)


def _end(ray: Any, running: Mapping[Any, int]) -> None:
    """Ends all tasks as Ctrl-C would, then those that do not listen."""
    if not running:
        return
    for task in running:
        ray.cancel(task)
    _, left = ray.wait(list(running), num_returns=len(running), timeout=_LEAVE)
    for task in left:
        ray.cancel(task, force=True)


def _environment(options: Mapping[str, Any]) -> dict[str, str]:
    """What a worker's environment has from this one, beside what its machine gives it."""
    made = {k: v for k, v in os.environ.items() if k.startswith(_TAKEN_ALONG)}
    made |= {"KERAS_BACKEND": keras.backend.backend(), "TF_CPP_MIN_LOG_LEVEL": "3"}
    cores = str(max(1, int(options.get("num_cpus") or 1)))  # as Ray does for OMP_NUM_THREADS
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    return made | {name: os.environ.get(name, cores) for name in names}


def _by_value() -> Callable[..., tuple[str, str]]:
    """The function of a task.

    It comes as its code, since its module, and with it Keras, may only be imported when the
    environment is set; and it is told that in its arguments, which no dashboard shows.
    """

    def begin(
        environment: dict[str, str],
        folder: str,
        content: bytes,
        secret: list[str],
        own: dict[str, Any],
        index: int,
    ) -> tuple[str, str]:
        import contextlib
        import os

        os.environ.update(environment)
        with contextlib.suppress(OSError):  # a machine may have what is named by paths elsewhere
            os.chdir(folder)
        from kblocks.tuner.running.on_ray import serve
        from kblocks.tuner.running.sending import Sent

        return serve(Sent.received(content, secret, own), index)

    return begin


def serve(job: Sent, index: int) -> tuple[str, str]:
    """A task, from its beginning to its end; how that was, as `told` tells it."""

    def work() -> None:
        job.enter()
        tuner = job.tuner()
        tuner.serve(_APART * index)
        tuner.run_job(job, verbose=0)

    return told(work)
