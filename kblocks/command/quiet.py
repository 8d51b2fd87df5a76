"""Keeps what other packages write to the standard error off the terminal, in a log file."""

import atexit
import contextlib
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, TextIO

LOG = "kblocks.log"  # in the folder of a run
_diverted: list[Path] = []  # the log file of this process, if it has one


def divert() -> None:
    """Points file descriptor 2 of this process, and so of its workers, at a temporary log file.

    TensorFlow's C++ code writes there before any of its settings are read. Errors and prints of
    Python still reach the terminal; logs and warnings of other packages go to the file.
    """
    if sys.stderr is None or sys.stderr is not sys.__stderr__ or "--debug" in sys.argv:
        return
    sys.stderr.flush()
    number, path = tempfile.mkstemp(prefix="kblocks-", suffix=".log")
    terminal = os.dup(2)
    os.dup2(number, 2)
    os.close(number)
    log = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = os.fdopen(
        terminal, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace"
    )
    logging.basicConfig(stream=log)
    own = logging.getLogger("kblocks")
    own.addHandler(logging.StreamHandler(sys.stderr))
    own.propagate = False
    _divert_warnings(log)
    _diverted.append(Path(path))
    atexit.register(_remove_temporary)


def keep_in(folder: str | os.PathLike[str]) -> None:
    """Moves the log file into the folder of a run; what follows is appended there."""
    if not _diverted or _diverted[0].parent == Path(folder):
        return
    path = Path(folder) / LOG
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        log.write(_diverted[0].read_bytes())
        log.flush()
        os.dup2(log.fileno(), 2)
    _remove_temporary()
    _diverted[:] = [path]


def kept() -> Path | None:
    """The log file in the folder of a run; None if there is none or it is empty."""
    path = _diverted[0] if _diverted else None
    if path is None or path.name != LOG or not path.is_file():
        return None
    return path if path.stat().st_size else None


def _remove_temporary() -> None:
    if _diverted and _diverted[0].name != LOG:
        with contextlib.suppress(OSError):
            _diverted[0].unlink()


def _divert_warnings(log: TextIO) -> None:
    """Writes warnings of installed packages other than kblocks to the log."""
    show, own = warnings.showwarning, str(Path(__file__).parents[1])

    def showwarning(message: Any, category: Any, filename: str, *more: Any, **options: Any) -> None:
        foreign = "-packages" in filename and not filename.startswith(own)
        if foreign:
            log.write(warnings.formatwarning(message, category, filename, *more[:1]))
        else:
            show(message, category, filename, *more, **options)

    warnings.showwarning = showwarning
