"""Replaces methods of one object, which keeps its class, and so is saved as before."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


def override(instance: Any, name: str, function: Callable[..., Any]) -> None:
    """Calls `function(instance, plain, ...)` in place of a method, `plain(...)`."""
    plain = getattr(instance, name)

    def method(*args: Any, **kwargs: Any) -> Any:
        return function(instance, plain, *args, **kwargs)

    setattr(instance, name, method)


def restore(instance: Any, *names: str) -> None:
    """Brings back the methods of the object's class."""
    for name in names:
        vars(instance).pop(name, None)


@contextlib.contextmanager
def overridden(instance: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """`override` for the time of a `with` statement; an earlier replacement then comes back."""
    before = vars(instance).get(name)
    override(instance, name, function)
    try:
        yield
    finally:
        restore(instance, name)
        if before is not None:
            setattr(instance, name, before)
