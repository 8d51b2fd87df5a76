"""Runs a search on a Ray cluster: Ray starts tasks on its machines, and dead tasks start again.

Everything else works as on one machine: a Ray task calls `Tuner.run_job`, which starts a worker
process of its own. So a trial that ends its process, hangs or uses too much memory is handled as
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
from typing import TYPE_CHECKING, Any

import keras
from optuna.trial import TrialState

from kblocks.tuner.records import ATTEMPTS
from kblocks.tuner.running.devices import SHARING
from kblocks.tuner.running.ends import OVER, ending, raise_ending
from kblocks.tuner.running.jobs import Job, helping
from kblocks.tuner.running.search import Search
from kblocks.tuner.running.sending import Sent
from kblocks.tuner.storing.owners import Watchman

if TYPE_CHECKING:
    from kblocks.tuner.tuner import Tuner

OPTIONS = (
    *("num_cpus", "num_gpus", "memory", "resources", "accelerator_type", "label_selector"),
    *("scheduling_strategy", "runtime_env"),
)
_POLL = 0.5  # seconds between two looks at the tasks
_LEAVE = 10.0  # seconds in which tasks may end by themselves
_FALSE_STARTS = 5  # the search ends when a task dies so often in a row before a trial begins
_APART = 1000  # between the worker numbers of two tasks; each worker draws its own points
# Prefixes of the environment variables that workers inherit: ours, and those of PostgreSQL.
_TAKEN_ALONG = ("KBLOCKS_", "PG")


def checked(options: Mapping[str, Any] | None, workers: int) -> dict[str, Any] | None:
    """Checks and copies the options of `Tuner(ray=...)`.

    Raises:
        ValueError: if an option is unknown, or there are no workers.
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
    """The tasks of a search on a Ray cluster, each with the tuner and the data of a job."""

    def __init__(self, tuner: Tuner, job: Job, search: Search, say: Callable[[str], None]) -> None:
        self._tuner, self._job, self._search, self._say = tuner, job, search, say
        self._options = dict(tuner.ray or {})
        ends = search.deadline
        self._until = None if ends is None else time.time() + ends - time.monotonic()
        self._watchman = Watchman(search.study, search.storage)
        self._before: dict[int, int] = {}  # by task: attempts at trials before it began
        self._false_starts: dict[int, int] = {}

    def run(self) -> None:
        """Runs tasks until the search is over.

        Raises:
            ImportError: if Ray is missing.
            ConnectionError: if there is no cluster at RAY_ADDRESS.
            ValueError: if the job cannot be sent, or other machines cannot reach the storage.
            RuntimeError: if tasks cannot begin, or keep dying before they begin a trial.
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
        """Prints the cluster's size, and raises if its machines cannot reach the storage."""
        nodes = [node for node in ray.nodes() if node["Alive"]]
        hosts = {node["NodeManagerHostname"] for node in nodes}
        if self._tuner.storage_url.startswith("sqlite") and hosts != {socket.gethostname()}:
            raise ValueError(
                "`storage` must be a database that all machines of the Ray cluster reach, such as "
                f"PostgreSQL. Received: a file of this machine, for {', '.join(sorted(hosts))}"
            )
        has = [node["Resources"] for node in nodes]
        cpus, gpus = (sum(one.get(name, 0) for one in has) for name in ("CPU", "GPU"))
        size = f"{len(nodes)} node{'s' * (len(nodes) > 1)}, {cpus:g} CPUs, {gpus:g} GPUs"
        self._say(f"On Ray: {size}; {self._tuner.workers} workers")
        options = self._options
        needs = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0)}
        needs |= {"memory": options.get("memory", 0), **options.get("resources", {})}
        if not any(all(one.get(n, 0) >= (v or 0) for n, v in needs.items()) for one in has):
            self._say(f"No node has as yet what a worker needs, {options}: waiting for one")

    def _beginner(self, ray: Any) -> Callable[[int], Any]:
        """A function that starts the task of an index."""
        sent = Sent.of(self._job, self._tuner, self._until)
        # Ray may write its store to disk, so nothing with a password is put there.
        content, secret = ray.put(sent.content), sent.apart
        folder, environment = os.getcwd(), _environment(self._options)
        # No actor, since Ray keeps an actor's arguments in its database, and no retries by Ray,
        # which never end. The process ends with its task (`max_calls`) and releases all it holds.
        fixed = {"max_retries": 0, "max_calls": 1, "name": "kblocks worker"}
        task = ray.remote(**self._options, **fixed)(_by_value())

        def begin(index: int) -> Any:
            self._before[index] = self._begun()
            return task.remote(environment, folder, content, secret, sent.own, index)

        return begin

    def _follow(self, ray: Any, begin: Callable[[int], Any], running: dict[Any, int]) -> None:
        is_over = False
        while running:
            time.sleep(_POLL)  # not in `ray.wait`, which turns the exit code of a signal into 1
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
                return  # tasks that still wait for a machine are no longer needed
            self._watchman.look()

    def _heard(self, ray: Any, task: Any) -> str | None:
        """How a task ended: None if nothing is left to do, else the cause of its death."""
        refused = (ray.exceptions.RuntimeEnvSetupError, ray.exceptions.TaskUnschedulableError)
        try:
            event, value = ray.get(task)
        except ray.exceptions.RayTaskError as error:  # before kblocks was running there
            last = str(error).strip().splitlines()[-1]
            raise RuntimeError(f"A worker on Ray cannot begin: {last}\n{error}") from None
        except refused:
            raise
        except ray.exceptions.RayError as error:
            return f"{type(error).__name__}: {error}".splitlines()[0]
        if event != OVER:
            raise_ending(event, value)
        return None

    def _count(self, index: int, death: str) -> None:
        had_begun = self._begun() > self._before[index]
        self._false_starts[index] = 0 if had_begun else self._false_starts.get(index, 0) + 1
        if self._false_starts[index] >= _FALSE_STARTS:
            raise RuntimeError(f"Workers on Ray die before they begin a trial: {death}")
        self._say(f"A worker on Ray has died and is begun again ({death})")

    def _begun(self) -> int:
        """How many attempts at trials have begun."""
        trials = self._search.study.get_trials(deepcopy=False)
        return sum(trial.user_attrs.get(ATTEMPTS, 0) for trial in trials)

    def _is_running(self) -> bool:
        states = (TrialState.RUNNING,)
        return bool(self._search.study.get_trials(deepcopy=False, states=states))


@contextlib.contextmanager
def _connected() -> Iterator[Any]:
    """Connects Ray to the cluster that `ray.init` finds: at RAY_ADDRESS, or on this machine.

    If there is none, Ray starts one on this machine, which ends with the search.
    """
    try:
        import ray
    except ImportError as error:
        message = f"a search on Ray needs ray: pip install 'kblocks[ray]' ({error})"
        raise ImportError(message, name="ray") from error
    if ray.is_initialized():
        yield ray
        return
    _find(os.environ.get("RAY_ADDRESS", ""))
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    # Ray would report each cluster that it starts to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        if is_main:
            signal.signal(signal.SIGTERM, before)  # Ray has replaced the handler
        yield ray
    finally:
        ray.shutdown()


def _find(address: str, seconds: float = _LEAVE) -> None:
    """Raises ConnectionError if no cluster listens, since Ray itself would wait for minutes.

    An address without a port is not checked. A cluster may be starting: this waits some seconds.
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
    """Cancels all tasks as Ctrl-C would, then kills those that do not react."""
    if not running:
        return
    for task in running:
        ray.cancel(task)
    _, left = ray.wait(list(running), num_returns=len(running), timeout=_LEAVE)
    for task in left:
        ray.cancel(task, force=True)


def _environment(options: Mapping[str, Any]) -> dict[str, str]:
    """The variables that a worker's environment gets in addition to those of its machine."""
    variables = {k: v for k, v in os.environ.items() if k.startswith(_TAKEN_ALONG)}
    variables |= {"KERAS_BACKEND": keras.backend.backend(), "TF_CPP_MIN_LOG_LEVEL": "3"}
    cores = str(max(1, int(options.get("num_cpus") or 1)))  # as Ray does for OMP_NUM_THREADS
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    if 0 < (options.get("num_gpus") or 0) < 1:  # several workers on a GPU
        variables |= SHARING
    return variables | {name: os.environ.get(name, cores) for name in names}


def _by_value() -> Callable[..., tuple[str, str]]:
    """The function of a task.

    Ray sends it as code, since its module, and with it Keras, may only be imported once the
    environment is set. The environment comes as an argument, which no dashboard shows.
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
        with contextlib.suppress(OSError):  # the machine may not have this folder
            os.chdir(folder)
        from kblocks.tuner.running.on_ray import serve
        from kblocks.tuner.running.sending import Sent

        return serve(Sent(content, secret, own), index)

    return begin


def serve(job: Sent, index: int) -> tuple[str, str]:
    """Runs a task to its end; returns how it ended, as `ending` does."""

    def work() -> None:
        job.enter()
        with helping():
            tuner = job.tuner()
        tuner.serve(_APART * index)
        tuner.run_job(job, verbose=0)

    return ending(work)
