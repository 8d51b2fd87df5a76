"""Checkpoints of trials: the weights of the best epochs, and the state of training."""

import contextlib
import io
import re
import uuid
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import fsspec
import keras
import numpy as np

_BEARS = "search"  # the file with the identity of the search that owns them
_STATE = re.compile(r"/(?:execution-(\d+)-)?epoch-(\d+)\.npz$")


@dataclass
class State:
    """The training state of a model: the values of its variables and its optimizer's."""

    epoch: int  # how many epochs are done
    weights: list[np.ndarray]
    optimizer: list[np.ndarray] = field(default_factory=list)
    best: list[np.ndarray] = field(default_factory=list)  # the weights of the trial's best epoch
    execution: int = 0  # which of the trial's trainings it is; earlier ones are done

    @classmethod
    def of(cls, model: keras.Model, epoch: int, best: list[np.ndarray], execution: int = 0) -> Self:
        """The state of a model after `epoch` epochs, with the weights of the best one."""
        optimizer = getattr(model, "optimizer", None)
        variables = [] if optimizer is None else optimizer.variables
        values = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]
        return cls(epoch, model.get_weights(), values, best, execution)

    def restore(self, model: keras.Model) -> None:
        """Restores variables of a model and its optimizer; ValueError if they are others."""
        model.set_weights(self.weights)
        optimizer: Any = getattr(model, "optimizer", None)
        if optimizer is None or not self.optimizer:
            return
        optimizer.build(model.trainable_variables)
        for variable, value in zip(optimizer.variables, self.optimizer, strict=True):
            variable.assign(value)


@contextlib.contextmanager
def _as_oserror() -> Iterator[None]:
    """Turns the errors of fsspec's packages, which have their own types, into OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


class Checkpoints:
    """Files of weights on any fsspec file system, each written whole or not at all.

    Raises ImportError, ValueError or ConnectionError if the location cannot be used.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        try:
            self._files, root = fsspec.core.url_to_fs(self.location)
        except ImportError as error:
            raise ImportError(
                f"Checkpoints in {self.shown} need another package: {error}", name=error.name
            ) from error
        except ValueError:
            raise ValueError(
                "`checkpoint_directory` must be a folder or a URL of fsspec. "
                f"Received: {self.shown}"
            ) from None
        except Exception as error:  # some file systems connect here, each with its own errors
            raise ConnectionError(f"{self.shown} cannot be reached: {error}") from error
        self._root = root.rstrip("/")

    @property
    def shown(self) -> str:
        """The location without user name and password."""
        return re.sub(r"://[^/@]*@", "://***@", self.location)

    @property
    def is_shared(self) -> bool:
        """Whether other processes can read the files."""
        return self._files.protocol != "memory"

    def check(self) -> None:
        """Writes, reads and removes a test file; ConnectionError if one of these fails."""
        path = f"{self._root}/.check-{uuid.uuid4().hex}"
        expected = np.arange(3)
        try:
            self._write(path, {"w": [expected]})
            groups = self._read(path)
            self._files.rm(path)
        except Exception as error:
            raise ConnectionError(
                f"Checkpoints cannot be kept in {self.shown}: {type(error).__name__}: {error}"
            ) from error
        if groups is None or not np.array_equal(groups["w"][0], expected):
            raise ConnectionError(f"{self.shown} does not give back what was written")

    @_as_oserror()
    def clear(self) -> None:
        """Removes the files of all trials and the identity of their search."""
        for number in self.numbers():
            self.drop(number)
        self._remove([f"{self._root}/{_BEARS}"])

    @_as_oserror()
    def bears(self) -> str | None:
        """The identity of the search that owns the files; None if none is recorded."""
        try:
            with self._files.open(f"{self._root}/{_BEARS}", "rb") as file:
                return str(file.read(100).decode("ascii", "replace").strip())
        except FileNotFoundError:
            return None

    def are_of(self, identity: str) -> bool:
        """Whether that search owns the files; True also if no identity is recorded."""
        return self.bears() in (None, identity)

    @_as_oserror()
    def mark(self, identity: str) -> None:
        """Records the identity of the search that owns the files."""
        self._files.makedirs(self._root, exist_ok=True)
        with self._written(f"{self._root}/{_BEARS}") as file:
            file.write(identity.encode())

    @_as_oserror()
    def save_state(self, number: int, state: State) -> None:
        """Saves the state of a trial and removes its older states."""
        groups = {"w": state.weights, "o": state.optimizer, "b": state.best}
        part = f"execution-{state.execution:03d}-" if state.execution else ""  # sorts after "epoch"
        self._write(self._path(number, f"{part}epoch-{state.epoch:06d}.npz"), groups)
        self._remove(path for path in self._states(number)[:-1])

    @_as_oserror()
    def state(self, number: int) -> State | None:
        """The newest readable state of a trial; None without one."""
        for path in reversed(self._states(number)):
            groups = self._read(path)
            if groups is not None:
                execution, epoch = (int(part or 0) for part in _STATE.findall(path)[-1])
                return State(epoch, groups["w"], groups["o"], groups["b"], execution)
        return None

    @_as_oserror()
    def save_best(self, number: int, weights: list[np.ndarray]) -> None:
        """Saves the weights of a trial's best epoch."""
        self._write(self._path(number, "best.npz"), {"w": weights})

    @_as_oserror()
    def best(self, number: int) -> list[np.ndarray] | None:
        """The weights of a trial's best epoch; None if there are none or they are unreadable."""
        groups = self._read(self._path(number, "best.npz"))
        return None if groups is None else groups["w"]

    @_as_oserror()
    def drop(self, number: int) -> None:
        """Removes the files of a trial."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(self._path(number), recursive=True)

    @_as_oserror()
    def keep(
        self,
        numbers: Iterable[int],
        is_finished: Callable[[int], bool],
        paused: Collection[int] = (),
    ) -> None:
        """Removes the files of finished trials.

        The best weights of those in `numbers` stay, and the newest state of those in `paused`.
        """
        kept = set(numbers)
        for number in self.numbers():
            if not is_finished(number):
                continue
            stays = self._states(number)[-1:] if number in paused else []
            stays += [self._path(number, "best.npz")] if number in kept else []
            if not stays:
                self.drop(number)
                continue
            self._remove(path for path in self._listed(self._path(number)) if path not in stays)

    def numbers(self) -> list[int]:
        """The numbers of the trials that have files."""
        names = [path.rsplit("/", 1)[-1] for path in self._listed(self._root)]
        found = (name.removeprefix("trial-") for name in names if name.startswith("trial-"))
        return sorted(int(number) for number in found if number.isdigit())

    def _path(self, number: int, name: str = "") -> str:
        return f"{self._root}/trial-{number:06d}/{name}".rstrip("/")

    def _states(self, number: int) -> list[str]:
        paths = self._listed(self._path(number))
        return sorted(path for path in paths if _STATE.search(path))

    def _listed(self, folder: str) -> list[str]:
        self._files.invalidate_cache()
        try:
            return [str(path) for path in self._files.ls(folder, detail=False)]
        except FileNotFoundError:
            return []

    def _remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm(path)

    def _write(self, path: str, groups: dict[str, list[np.ndarray]]) -> None:
        arrays = {f"{key}{i:05d}": a for key, own in groups.items() for i, a in enumerate(own)}
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        folder = path.rsplit("/", 1)[0]
        self._files.makedirs(folder, exist_ok=True)
        with self._written(path) as file:
            file.write(content.getbuffer())

    @contextlib.contextmanager
    def _written(self, path: str) -> Iterator[Any]:
        """A temporary file, which becomes `path` if the block ends without an error."""
        unfinished = f"{path.rsplit('/', 1)[0]}/.{uuid.uuid4().hex}.part"
        try:
            with self._files.open(unfinished, "wb") as file:
                yield file
            self._files.mv(unfinished, path)
        except BaseException as error:
            self._remove([unfinished])
            if isinstance(error, OSError) and error.errno and not error.filename:
                raise OSError(error.errno, error.strerror, path) from error
            raise

    def _read(self, path: str) -> dict[str, list[np.ndarray]] | None:
        try:
            with self._files.open(path, "rb") as file:
                content = io.BytesIO(file.read())
        except FileNotFoundError:
            return None
        try:
            groups: dict[str, list[np.ndarray]] = {"w": [], "o": [], "b": []}
            with np.load(content, allow_pickle=False) as arrays:
                for name in sorted(arrays.files):
                    groups.setdefault(name[0], []).append(arrays[name])
            return groups
        except (ValueError, OSError, EOFError, zipfile.BadZipFile):
            return None  # truncated, or no checkpoint
