"""Files that are written whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = ".writing-"  # of the folder in which a file is written


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path, moved to `path` if the block ends without error; OSError names `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=_PREFIX) as folder:
            written = Path(folder) / path.name
            yield written
            os.replace(written, path)
    except OSError as error:
        if error.filename is not None and _PREFIX not in str(error.filename):
            raise  # it names a path that the caller knows
        if error.errno is None:  # from HDF5 or TensorFlow, whose text tells the cause
            raise OSError(f"{path} cannot be written: {error}") from error
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
