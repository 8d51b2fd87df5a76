"""How a process takes part in a search, and how it gets the tuner and the data: jobs."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from kblocks.tuner.running.fitting import Fit

if TYPE_CHECKING:
    from kblocks.tuner.tuner import Tuner


_HELPS = False  # see `helping`


def is_helping() -> bool:
    """Whether a tuner is made for a search that another process has begun."""
    return _HELPS


@contextlib.contextmanager
def helping() -> Iterator[None]:
    """Marks that tuners made in the block are for a search that another process has begun."""
    global _HELPS
    before, _HELPS = _HELPS, True
    try:
        yield
    finally:
        _HELPS = before


@dataclass(frozen=True)
class Role:
    """How a process takes part in a search."""

    worker: int = 0  # the number of this process in the search; each draws its own points
    joins: bool = False  # a search that another process has begun
    serves: bool = False  # another process, which has started it to work for the search
    until: float | None = None  # when `hours` are over, as `time.time()`, if begun elsewhere


class Job:
    """An object that is sent to a worker process and creates the tuner and the data there."""

    def __init__(self) -> None:
        # Settings of Keras that a script has made in this process, which a new one does not have.
        self.policy = keras.config.dtype_policy().name
        self.floatx = keras.config.floatx()
        self.data_format = keras.config.image_data_format()

    def enter(self) -> None:
        """Sets up Keras as in the process that made the job."""
        keras.config.set_floatx(self.floatx)
        keras.config.set_image_data_format(self.data_format)
        keras.config.set_dtype_policy(self.policy)

    def tuner(self) -> Tuner:
        """The tuner of the search."""
        raise NotImplementedError

    def fit(self) -> Fit:
        """The arguments of `fit`."""
        raise NotImplementedError

    def obstacle(self) -> str | None:
        """Why the job cannot be sent to another process; None if it can."""
        return None

    def named(self) -> dict[str, Any]:
        """Settings that the storage keeps for processes that join the search, as JSON."""
        return {}


class ObjectJob(Job):
    """A tuner and data of this process; other processes get copies.

    It cannot be sent with a lambda, an inner function or a dataset, which cannot be pickled.
    """

    def __init__(self, tuner: Tuner, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self._objects = tuner, args, dict(kwargs)

    def tuner(self) -> Tuner:
        return self._objects[0]

    def fit(self) -> Fit:
        return self._objects[1:]

    def obstacle(self) -> str | None:
        try:
            pickle.Pickler(_Nowhere(), protocol=5).dump(self._objects)
        except Exception as error:  # anything may be among a user's objects
            return f"{type(error).__name__}: {error}".splitlines()[0]
        return None


def run_file_function(path: str, name: str) -> Callable[..., Any]:
    """A function of a run file: a Python file with `tuner(**settings)` and `data()`.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it lacks the function.
    """
    function = getattr(imported(Path(path)), name, None)
    if not callable(function):
        raise ValueError(
            f"A run file must have the functions tuner(**settings) and data(). {path} has no "
            f"{name!r}"
        )
    return function


def imported(path: Path) -> Any:
    """The module of a Python file, imported once per process.

    Raises:
        FileNotFoundError: if the file does not exist.
    """
    path = path.resolve()
    name = f"kblocks_run_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    if not path.is_file():
        raise FileNotFoundError(f"there is no run file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"a run file must be a Python file. Received: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


class _Nowhere(io.RawIOBase):
    """A file that discards what is written to it."""

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        return memoryview(content).nbytes
