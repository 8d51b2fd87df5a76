"""The export format being traced; some layers then use an equivalent computation."""

import contextlib
import contextvars
from collections.abc import Iterator

_FORM: contextvars.ContextVar[str] = contextvars.ContextVar("form", default="")


@contextlib.contextmanager
def writing(form: str) -> Iterator[None]:
    """Sets the export format in this context: "onnx", "litert", "int8", "savedmodel" or "keras"."""
    token = _FORM.set(form)
    try:
        yield
    finally:
        _FORM.reset(token)


def written_as(form: str) -> bool:
    """Whether a model is being exported in this format."""
    return _FORM.get() == form
