"""Sends a job to another machine: everything that it needs there, and no password on any disk."""

from __future__ import annotations

import io
import pickle
from typing import Any

from kblocks.tuner.running.jobs import Job
from kblocks.tuner.running.trial import Fit

# Attributes that a tuner there takes from the one here, as its own environment may differ.
_SAME = ("storage_url", "checkpoint_directory", "patience", "growth", "_joins")


class Sent(Job):
    """A job for other machines, with the storage and the checkpoints of the tuner here.

    Attributes:
        content: the pickled job, which anyone may see.
        apart: URLs that were left out of it, since they may contain a password.
        own: attributes of the tuner, among them the storage's URL.

    Args:
        job: the job to send, with the classes and functions of its script.
        tuner: the tuner of the search on this machine.
        until: when `hours` are over, in seconds since the epoch; None without a limit.

    Raises:
        ValueError: if the job cannot be pickled.
    """

    def __init__(self, job: Job, tuner: Any, until: float | None) -> None:
        from ray import cloudpickle

        class Pickler(cloudpickle.Pickler):
            """Leaves out URLs, which may contain a password."""

            def persistent_id(self, found: Any) -> int | None:
                if not isinstance(found, str) or "://" not in found:
                    return None
                apart.append(found)
                return len(apart) - 1

        apart: list[str] = []
        buffer = io.BytesIO()
        try:
            Pickler(buffer, protocol=5).dump(job)
        except Exception as error:  # anything may be among a user's objects
            told = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(
                "With `ray` the HyperModel and the data must be ones that can be sent to another "
                f"machine, or be made there by a run file. Received: {told}"
            ) from None
        self.own = {name: getattr(tuner, name) for name in _SAME}
        self.own |= {"ray": None, "workers": 1, "overwrite": False, "extend": False}
        self.own |= {"_until": until}
        self.content, self.apart = buffer.getvalue(), apart
        self._job: Job | None = None

    @classmethod
    def received(cls, content: bytes, apart: list[str], own: dict[str, Any]) -> Sent:
        """The job as it arrives on another machine."""
        made = cls.__new__(cls)
        made.content, made.apart, made.own, made._job = content, apart, own, None
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_job": None}

    def _opened(self) -> Job:
        if self._job is not None:
            return self._job
        apart = self.apart

        class Unpickler(pickle.Unpickler):
            def persistent_load(self, pid: Any) -> str:
                return apart[pid]

        job: Job = Unpickler(io.BytesIO(self.content)).load()
        self._job = job
        return job

    def enter(self) -> None:
        """Sets up Keras as in the process that made the job."""
        self._opened().enter()

    def tuner(self) -> Any:
        """The job's tuner, with the attributes for a worker."""
        made = self._opened().tuner()
        vars(made).update(self.own)
        return made

    def fit(self) -> Fit:
        """The job's arguments of `fit`."""
        return self._opened().fit()
