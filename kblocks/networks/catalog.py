"""The catalog of published architectures by name."""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from kblocks.networks.architecture import Architecture
from kblocks.networks.published import WEIGHT_SETS

_KEEP_WEIGHTS = {"classes", "head", "name"}  # arguments with which published weights still fit
_VARIANTS: dict[str, Callable[..., Architecture]] = {}


def variant(
    name: str, family: Callable[..., Architecture], **row: Any
) -> Callable[..., Architecture]:
    """Registers and returns the builder of a published network, `family` with the arguments `row`.

    A call may replace any argument, and of a mapping (a stem's or head's arguments) single entries.
    """

    def build(*classes: Any, **changes: Any) -> Architecture:
        if len(classes) > 1:
            raise TypeError(f"{name} takes only `classes` by position. Received: {classes!r}")
        if classes:
            changes = {"classes": classes[0], **changes}
        given = {
            key: {**row[key], **value}
            if isinstance(value, Mapping) and isinstance(row.get(key), Mapping)
            else value
            for key, value in changes.items()
        }
        net = family(**{"name": name, **row, **given})
        if changes.keys() <= _KEEP_WEIGHTS:
            net.weights = WEIGHT_SETS.get(name, ())
        return net

    build.__name__ = build.__qualname__ = name
    build.__module__ = family.__module__
    build.__signature__ = _signature(family, {"name": name, **row})  # type: ignore[attr-defined]
    arguments = ", ".join(f"{key}={value!r}" for key, value in row.items())
    build.__doc__ = f"`{family.__name__}({arguments})`; takes the arguments of `{family.__name__}`."
    build.row = row  # type: ignore[attr-defined]
    build.family = family  # type: ignore[attr-defined]
    _VARIANTS[name] = build
    return build


def _signature(family: Callable[..., Architecture], row: Mapping[str, Any]) -> inspect.Signature:
    """The family's signature with a row's values as defaults, for `help` and completion."""
    signature = inspect.signature(family, eval_str=True)
    known = signature.parameters
    listed = [p.replace(default=row.get(name, p.default)) for name, p in known.items()]
    further = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
        for name, value in row.items()
        if name not in known
    ]
    return signature.replace(parameters=sorted([*listed, *further], key=lambda p: p.kind))


def member(name: str, family: Callable[..., Architecture]) -> tuple[Any, dict[str, Any]]:
    """The builder of a family's published network and its row of arguments; else ValueError."""
    family = getattr(family, "family", family)  # a namesake wraps its family
    names = [known for known, build in _VARIANTS.items() if build.family is family]  # type: ignore[attr-defined]
    if name not in names:
        raise ValueError(f"`name` must be one of {names}. Received: name={name!r}")
    return _VARIANTS[name], dict(_VARIANTS[name].row)  # type: ignore[attr-defined]


def namesake(family: Callable[..., Architecture]) -> Callable[..., Architecture]:
    """Decorates a family whose defaults are the published network of the same name."""
    return functools.update_wrapper(variant(family.__name__, family), family)


def architectures() -> list[str]:
    """The names of all published architectures, one family after another."""
    return list(_VARIANTS)


def by_family() -> dict[str, list[str]]:
    """The names of all published architectures by family."""
    found: dict[str, list[str]] = {}
    for name, build in _VARIANTS.items():
        found.setdefault(build.family.__name__, []).append(name)  # type: ignore[attr-defined]
    return found


def architecture(name: str | None = None, /, **arguments: Any) -> Architecture:
    """Builds a published architecture by name: `architecture("resnet50", classes=10)`.

    Args:
        name: one of `architectures()`; also as a keyword, so that a space can choose it:
            `kb.Space(kb.architecture, name=kb.choice("resnet18", "resnet50"), classes=10)`.
        **arguments: arguments of its family that replace the published ones.

    Raises:
        ValueError: if there is no architecture of that name; the message suggests close names.
    """
    if name is None:
        name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in _VARIANTS:
        close = difflib.get_close_matches(str(name), _VARIANTS, 3)
        hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else "See architectures()."
        raise ValueError(f"`name` must be the name of an architecture. {hint} Received: {name!r}")
    return _VARIANTS[name](**arguments)
