"""Into which form a model is being written: for some a layer computes the same in another way."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_FORM: contextvars.ContextVar[str] = contextvars.ContextVar("form", default="")


@contextlib.contextmanager
def writing(form: str) -> Iterator[None]:
    """What is traced in here is written as "onnx", "litert", "int8", "savedmodel" or "keras"."""
    token = _FORM.set(form)
    try:
        yield
    finally:
        _FORM.reset(token)


def written_as(form: str) -> bool:
    """Whether a model is being written in this form."""
    return _FORM.get() == form
