"""The GPUs and cores of this machine: found without starting a framework, dealt out to workers."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from itertools import takewhile
from typing import Any

from kblocks.common.backend import has_accelerator
from kblocks.tuner.running.jobs import is_helping

_VISIBLE = "CUDA_VISIBLE_DEVICES"  # ROCm reads it too
_ORDER = "CUDA_DEVICE_ORDER"
_NAME = r"\d+|(GPU|MIG)-.+"  # an index, or a UUID
_SECONDS = 10  # that `nvidia-smi` may take
_MEMORY = 1 << 31  # bytes of this machine for each worker, at least
# Else the first process on a GPU takes most of its memory. PyTorch takes what it needs anyway.
SHARING = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def checked(gpus: Any, workers: int, ray: Any) -> Any:
    """Checks `Tuner(gpus=...)`.

    Raises:
        ValueError: if this machine does not have these GPUs, or no worker process here gets them.
    """
    if gpus is None:
        return None
    if ray is not None or not workers:
        raise ValueError(
            "`gpus` is for worker processes of this machine, so it needs `workers` of at least 1 "
            "and no `ray`, which deals out GPUs by ray={'num_gpus': 1}. Received: "
            f"gpus={gpus!r}, workers={workers}, ray={ray!r}"
        )
    if not is_helping():  # a worker sees only its own GPU
        _chosen(gpus)
    return gpus


def counted(workers: Any, gpus: Any, ray: Any, trials: int | None) -> Any:
    """The number of worker processes that `Tuner(workers=...)` asks for.

    "auto" is one for each GPU, or without one for each core: trials side by side, each on a core of
    its own, are faster than one after the other on all (`benchmarks/workers.py`).

    Raises:
        ValueError: if it is another text, or "auto" is for a cluster.
    """
    if not isinstance(workers, str):
        return workers
    if workers != "auto" or ray is not None:
        raise ValueError(
            "`workers` must be an integer from 0, or without `ray` 'auto'. "
            f"Received: workers={workers!r}, ray={ray!r}"
        )
    found = len(_visible() if gpus is None else _chosen(gpus))
    if not found and hasattr(os, "sysconf"):
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MEMORY
        found = max(1, min(cores(), found))
    return max(1, found if trials is None else min(found, trials))


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def variables(gpus: Any, seat: int) -> dict[str, str]:
    """The environment variables that give a worker its GPU; {} on a machine without GPUs.

    Args:
        gpus: as for `Tuner`.
        seat: the worker's place among those of the search, which its replacement gets too.

    Raises:
        ValueError: if this machine does not have these GPUs.
    """
    names = _visible() if gpus is None else _chosen(gpus)
    if not names:
        return {} if gpus is None else {_VISIBLE: "-1"}
    found = {_VISIBLE: names[seat % len(names)]}
    if _VISIBLE not in os.environ:  # the indices are those of `nvidia-smi`, not by speed
        found[_ORDER] = os.environ.get(_ORDER, "PCI_BUS_ID")
    return found


def own() -> str:
    """The GPU on which this process trains, such as "GPU 0", or its UUID; "" without one."""
    name = next(iter(_visible()), "")
    if not name or not has_accelerator():
        return ""
    return f"GPU {name}" if name.isdigit() else name


def _chosen(gpus: Any) -> list[str]:
    there = _visible()
    indices: Any = [] if type(gpus) is int and gpus == 0 else gpus
    is_list = isinstance(indices, (list, tuple)) and all(type(one) is int for one in indices)
    if not is_list or len(set(indices)) < len(indices) or not set(indices) <= {*range(len(there))}:
        listed = f", {_VISIBLE}={os.environ[_VISIBLE]}" if _VISIBLE in os.environ else ""
        raise ValueError(
            "`gpus` must be None for all GPUs, 0 for none, or a list of their indices from 0, such "
            f"as [0, 2]. Received: gpus={gpus!r}, on a machine with {len(there)} GPUs{listed}"
        )
    return [there[index] for index in indices]


def _visible() -> list[str]:
    """The GPUs that this process may use, by their indices or UUIDs."""
    listed = os.environ.get(_VISIBLE)
    if listed is None:
        return [str(index) for index in range(_installed())]
    names = (name.strip() for name in listed.split(","))
    return list(takewhile(lambda name: re.fullmatch(_NAME, name), names))  # as CUDA reads it


@functools.cache
def _installed() -> int:
    """How many GPUs `nvidia-smi` lists; 0 if there is no such program, or it does not answer."""
    try:
        command = ("nvidia-smi", "-L")
        found = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in found.stdout.splitlines())
