"""Sends a job to another machine: everything that it needs there, and no password on any disk."""

from __future__ import annotations

import io
import pickle
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kblocks.tuner.running.fitting import Fit
from kblocks.tuner.running.jobs import Job, Role

if TYPE_CHECKING:
    from kblocks.tuner.tuner import Tuner

# Attributes that a tuner there takes from the one here, as its own environment may differ.
_SAME = ("storage_url", "checkpoint_directory", "storage_patience", "growth")


@dataclass
class Sent(Job):
    """A job for other machines, with the storage and the checkpoints of the tuner here."""

    content: bytes  # the pickled job, which anyone may see
    apart: list[str]  # URLs that were left out of it, since they may contain a password
    own: dict[str, Any]  # attributes of the tuner, among them the storage's URL

    @classmethod
    def of(cls, job: Job, tuner: Tuner, until: float | None) -> Sent:
        """Pickles a job of this machine's tuner, with the classes and functions of its script.

        `until` is when `hours` are over, as `time.time()`. Raises ValueError if the job cannot be
        pickled.
        """
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
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(
                "With `ray` the HyperModel and the data must be ones that can be sent to another "
                f"machine, or be made there by a run file. Received: {cause}"
            ) from None
        own = {name: getattr(tuner, name) for name in _SAME}
        own |= {"ray": None, "workers": 1, "overwrite": False, "extend": False}
        # Plain values alone, as Ray reads them before Keras may be imported there.
        own |= {"role": {**asdict(tuner.role), "until": until}}
        return cls(buffer.getvalue(), apart, own)

    def __getstate__(self) -> dict[str, Any]:
        return {"content": self.content, "apart": self.apart, "own": self.own}

    @cached_property
    def _job(self) -> Job:
        apart = self.apart

        class Unpickler(pickle.Unpickler):
            def persistent_load(self, pid: Any) -> str:
                return apart[pid]

        return Unpickler(io.BytesIO(self.content)).load()

    def enter(self) -> None:
        self._job.enter()

    def tuner(self) -> Tuner:
        tuner = self._job.tuner()
        vars(tuner).update(self.own, role=Role(**self.own["role"]))
        return tuner

    def fit(self) -> Fit:
        return self._job.fit()
