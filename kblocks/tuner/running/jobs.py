"""Jobs: how a process that works for a search gets its tuner and its data."""

from __future__ import annotations

import importlib.util
import io
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from kblocks.tuner.running.trial import Fit


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

    def tuner(self) -> Any:
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
    """A tuner and data of this process; other processes get copies."""

    def __init__(self, made: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.made, self.args, self.kwargs = made, args, kwargs

    def tuner(self) -> Any:
        """The tuner itself, or its copy."""
        return self.made

    def fit(self) -> Fit:
        """The arguments themselves, or their copies."""
        return self.args, self.kwargs

    def obstacle(self) -> str | None:
        """The pickling error, as for a lambda, a function in a function or a dataset."""
        try:
            pickle.Pickler(_Nowhere(), protocol=5).dump((self.made, self.args, dict(self.kwargs)))
        except Exception as error:  # anything may be among a user's objects
            return f"{type(error).__name__}: {error}".splitlines()[0]
        return None


class FileJob(Job):
    """A run file: a Python file with the functions `tuner(**settings)` and `data()`.

    Args:
        path: of the file.
        settings: keyword arguments for the file's `tuner`.

    Raises:
        ValueError: on use, if the file lacks one of the two functions.
    """

    def __init__(self, path: str, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.path, self.settings = path, dict(settings or {})

    def tuner(self) -> Any:
        """What the file's `tuner` returns."""
        return self._function("tuner")(**self.settings)

    def fit(self) -> Fit:
        """The arguments of `fit`, from what the file's `data` returns."""
        return (), self.data().fit_arguments()

    def data(self) -> Any:
        """What the file's `data` returns."""
        return self._function("data")()

    def _function(self, name: str) -> Any:
        function = getattr(imported(Path(self.path)), name, None)
        if not callable(function):
            raise ValueError(
                f"A run file must have the functions tuner(**settings) and data(). {self.path} "
                f"has no {name!r}"
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
