"""A job on its way to another machine: all that it needs there, and no password on any disk."""

from __future__ import annotations

import io
import pickle
from typing import Any

from kblocks.tuner.running.jobs import Job
from kblocks.tuner.running.trial import Fit

# What the machine's tuner has from the one here: its own environment may tell it otherwise.
_SAME = ("storage_url", "checkpoint_directory", "patience", "growth", "_joins")


class Sent(Job):
    """A job as other machines get it, with the storage and the checkpoints of this one's tuner.

    Attributes:
        content: the job, which anyone may see.
        apart: texts that were left out of it, since they may tell a password.
        own: settings of the tuner, the storage's URL among them.

    Args:
        job: that is sent, with what a script has defined itself.
        tuner: what it has made here.
        until: when `hours` are over, in seconds since the epoch.

    Raises:
        ValueError: if it cannot be sent.
    """

    def __init__(self, job: Job, tuner: Any, until: float | None) -> None:
        from ray import cloudpickle

        class Pickler(cloudpickle.Pickler):
            """Leaves out URLs, which may tell a password."""

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
        """The same on another machine."""
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
        """As the job does."""
        self._opened().enter()

    def tuner(self) -> Any:
        """The job's tuner for a worker."""
        made = self._opened().tuner()
        vars(made).update(self.own)
        return made

    def fit(self) -> Fit:
        """The job's."""
        return self._opened().fit()
