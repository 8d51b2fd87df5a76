"""Describes the exceptions of trials: in one line, and as a `Failure`."""

from __future__ import annotations

import traceback

from kblocks.search_space.models import OverBudgetError
from kblocks.tuner.records import Failure
from kblocks.tuner.storing import interrupts

# Names of TensorFlow's and PyTorch's errors, and words of JAX', PyTorch's on a CPU and CUDA's.
_NO_MEMORY = ("ResourceExhaustedError", "OutOfMemoryError")
_WORDS = ("out of memory", "resource_exhausted", "cannot allocate memory", "status_alloc_failed")

_BOLD = "\x1b[1m"


class FailedError(Exception):
    """A trial must end, for a reason that is not an error of its code."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind  # one of `records.KINDS`


def failure_from(error: BaseException) -> Failure:
    """Why a trial failed that raised an exception."""
    if isinstance(error, FailedError):
        kind, message = error.kind, str(error)
    elif isinstance(error.__cause__, OverBudgetError):
        kind, message = "budget", str(error)
    else:
        name, text = type(error).__name__, _text(error).lower()
        is_memory = isinstance(error, MemoryError) or name in _NO_MEMORY
        is_memory |= any(words in text for words in _WORDS)
        kind, message = "memory" if is_memory else "error", reason(error)
    # Python strings may have lone surrogates, but databases and terminals refuse them.
    message, trace = (t.encode(errors="replace").decode() for t in (message, _trace(error)))
    return Failure(kind, message[:500], trace[-8000:])


def reason(error: BaseException) -> str:
    """An exception in one line."""
    line = _line_that_helps(_text(error).strip())
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _text(error: BaseException) -> str:
    """The message of an exception; its `__str__` may be a user's, and raise."""
    try:
        return str(error)
    except BaseException as another:
        interrupts.check(another)
        return f"(its __str__ raises {type(another).__name__})"


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # its attributes are not those of Python's own exceptions
        return ""


def _line_that_helps(text: str) -> str:
    """The first line of an error message that says what is wrong.

    In an error of a TensorFlow graph, indented lines before it say where in the graph and in the
    code it arose.
    """
    _, is_of_layer, cause = text.partition(_BOLD)  # Keras' own lines before it name a layer
    if text.startswith("Exception encountered when calling") and is_of_layer:
        text = cause.partition(_BOLD[:2])[0]
    lines = text.splitlines() or [""]
    if lines[0] != "Graph execution error:":
        return lines[0]
    where = (" ", "\t", "Detected at", "<stack traces", "defined at")
    telling = [line for line in lines[1:] if line and not line.startswith(where)]
    if telling and "root error(s) found" in telling[0]:  # then take the first of a numbered list
        telling = [line.strip() for line in lines if line.startswith("  (0)")] or telling
    return (telling or lines)[0]
