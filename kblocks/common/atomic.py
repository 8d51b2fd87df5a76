"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = ".writing-"  # of the folder in which a file is written


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to in place of `path`, moved there when the block ends without an error.

    Raises:
        OSError: if it cannot be written, with its path.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=_PREFIX) as folder:
            written = Path(folder) / path.name
            yield written
            os.replace(written, path)
    except OSError as error:
        if error.filename is not None and _PREFIX not in str(error.filename):
            raise  # it has its own
        if error.errno is None:  # HDF5's and TensorFlow's, whose text has all
            raise OSError(f"{path} cannot be written: {error}") from error
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
