"""The published architectures by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from kblocks.network import Architecture

Names = Callable[[list[str]], dict[str, str]]

_NAMINGS: dict[str, Names] = {}
_VARIANTS: dict[str, Callable[..., Architecture]] = {}


def variant(
    name: str, family: Callable[..., Architecture], **row: Any
) -> Callable[..., Architecture]:
    """A published member of a family: its row of arguments, any of which a call may replace."""

    def build(*args: Any, **changes: Any) -> Architecture:
        return family(*args, **{"name": name, **row, **changes})

    build.__name__ = build.__qualname__ = name
    build.__module__ = family.__module__
    arguments = ", ".join(f"{key}={value!r}" for key, value in row.items())
    build.__doc__ = f"`{family.__name__}({arguments})`; takes the arguments of `{family.__name__}`."
    _VARIANTS[name] = build
    return build


def architectures() -> list[str]:
    """The names of all published architectures, in the order of their families."""
    return list(_VARIANTS)


def architecture(name: str, **arguments: Any) -> Architecture:
    """The architecture of that name, such as `architecture("resnet50", classes=10)`.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in _VARIANTS:
        close = difflib.get_close_matches(str(name), _VARIANTS, 3)
        hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else "See architectures()."
        raise ValueError(f"`name` must be the name of an architecture. {hint} Received: {name!r}")
    return _VARIANTS[name](**arguments)


def naming(source: str) -> Callable[[Names], Names]:
    """Registers how published weights name the parts of a family.

    The function gets the paths of all parts of a model in order, such as
    "stage1_block1/main_conv1", and returns the published module of each that has weights.
    It raises KeyError or ValueError, or names wrongly, for a model that is not of the family.
    """

    def register(function: Names) -> Names:
        _NAMINGS[source] = function
        return function

    return register


def namings() -> dict[str, Names]:
    """All naming schemes by their source."""
    return dict(_NAMINGS)
