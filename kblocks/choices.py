"""Choices that stand where an argument stands, and the named dimensions a tree of them spans."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any


@dataclass(frozen=True)
class Choice:
    """One of several options; made by `choice` and `boolean`."""

    options: tuple[Any, ...]
    name: str | None = None

    @property
    def size(self) -> int:
        return len(self.options)

    @functools.cached_property
    def labels(self) -> tuple[Any, ...]:
        """What names each option in a dict of values: itself, or its position where it is long."""
        return tuple(o if _is_plain(o) else f"#{i}" for i, o in enumerate(self.options))

    @functools.cached_property
    def _positions(self) -> dict[Any, int]:
        return {_keyed(label): index for index, label in enumerate(self.labels)}

    def label(self, index: int) -> Any:
        return self.labels[index]

    def index(self, value: Any) -> int:
        """The position of an option by its label; ValueError if it is none."""
        try:
            return self._positions[_keyed(_tuples(value))]
        except (KeyError, TypeError) as error:  # TypeError: what has no hash is no option either
            raise ValueError(f"one of {list(self.labels)}") from error


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`; made by `integer`."""

    low: int
    high: int
    step: int = 1
    log: bool = False
    name: str | None = None

    @property
    def size(self) -> int:
        return (self.high - self.low) // self.step + 1

    def label(self, index: int) -> int:
        return self.low + index * self.step

    def index(self, value: Any) -> int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not self.low <= value <= self.high or (value - self.low) % self.step:
            raise ValueError(f"an integer from {self.low} to {self.high} by {self.step}")
        return (int(value) - self.low) // self.step


@dataclass(frozen=True)
class Real:
    """A number from `low` to `high`; made by `real`. Its position is the number itself."""

    low: float
    high: float
    log: bool = False
    name: str | None = None

    def label(self, index: float) -> float:
        return index

    def index(self, value: Any) -> float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:
            raise ValueError(f"a number from {self.low} to {self.high}")
        return float(value)


Searchable = Choice | Integer | Real


def choice(*options: Any, name: str | None = None) -> Any:
    """One of `options`, the first being the default.

    Args:
        options: numbers, strings, pairs, None, or anything that a builder takes; also lists
            and dicts that contain further choices, which are then conditional on this one.
        name: None names the choice by the path of the argument it stands for, and every place
            it stands in is a choice of its own; choices of one name are one choice.

    Raises:
        ValueError: if there are no options or two are equal.
    """
    if not options:
        raise ValueError("`choice` must have options. Received: none")
    for index, option in enumerate(options):
        if any(_equal(option, other) for other in options[:index]):
            raise ValueError(f"`choice` must have different options. Received: {option!r} twice")
    return Choice(options, _checked_name(name))


def boolean(name: str | None = None) -> Any:
    """False or True."""
    return Choice((False, True), _checked_name(name))


def integer(low: int, high: int, step: int = 1, log: bool = False, name: str | None = None) -> Any:
    """A whole number from `low` (the default) to `high` by `step`, drawn evenly or in logarithm.

    Raises:
        ValueError: if the bounds are not whole or not in order, or `log` has a bound below 1.
    """
    for label, value in (("low", low), ("high", high), ("step", step)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"`{label}` must be an integer. Received: {label}={value!r}")
    if low > high or step < 1 or (log and (low < 1 or step != 1)):
        raise ValueError(
            "`integer` must have low <= high and step >= 1; with log, low >= 1 and step 1. "
            f"Received: low={low}, high={high}, step={step}, log={log}"
        )
    return Integer(low, high - (high - low) % step, step, log, _checked_name(name))


def real(low: float, high: float, log: bool = False, name: str | None = None) -> Any:
    """A number from `low` (the default) to `high`, drawn evenly or in logarithm.

    Raises:
        ValueError: if the bounds are not finite or not in order, or `log` has a bound of 0 or less.
    """
    for label, value in (("low", low), ("high", high)):
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ValueError(f"`{label}` must be a finite number. Received: {label}={value!r}")
    if low >= high or (log and low <= 0):
        raise ValueError(
            "`real` must have low < high and, with log, low > 0. "
            f"Received: low={low}, high={high}, log={log}"
        )
    return Real(float(low), float(high), log, _checked_name(name))


def per_stage(stages: int, value: Any) -> list[Any]:
    """`value` once for each stage; a choice in it is made anew for each, unless it is named.

    Raises:
        ValueError: if `stages` is not a positive integer.
    """
    if not isinstance(stages, int) or isinstance(stages, bool) or stages < 1:
        raise ValueError(f"`stages` must be a positive integer. Received: stages={stages!r}")
    return [value] * stages


def _checked_name(name: str | None) -> str | None:
    if name is not None and (not isinstance(name, str) or not name):
        raise ValueError(f"`name` must be a word or None. Received: name={name!r}")
    return name


def _tuples(value: Any) -> Any:
    """Lists as tuples, which is what JSON makes of pairs."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _is_plain(option: Any) -> bool:
    """Whether an option can name itself: a number, a string, None, or a tuple of these."""
    if isinstance(option, tuple):
        return all(_is_plain(item) for item in option)
    if isinstance(option, str):
        return not option.startswith("#")  # which is how positions are written
    return option is None or isinstance(option, (int, float))


def _keyed(value: Any) -> Any:
    """True and 1 are options of their own, though Python holds them equal."""
    return isinstance(value, bool), value


def _equal(first: Any, second: Any) -> bool:
    return bool(_keyed(first) == _keyed(second))


def _alike(first: Searchable, second: Searchable) -> bool:
    """Whether two choices of one name have the same options."""
    if isinstance(first, Choice) and isinstance(second, Choice):
        same = map(_equal, first.options, second.options)
        return first.size == second.size and all(same)
    return first == second


# --- the dimensions of a tree ------------------------------------------------------------

Condition = tuple[tuple[str, int], ...]  # (name of a choice, position of its option), all true
Assignment = dict[str, Any]  # the position of every dimension, active or not


@dataclass
class Dimension:
    """One choice of a tree: its name, the paths it stands at, and when it is active."""

    name: str
    kind: Searchable
    paths: list[str] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)  # any of them

    def is_active(self, assignment: Mapping[str, Any]) -> bool:
        return any(
            all(assignment[name] == index for name, index in condition)
            for condition in self.conditions
        )


class Tree:
    """Arguments with choices anywhere in them, and the dimensions these span.

    A dict of values has the plain value of each active dimension by its name. Parents come
    before the choices that depend on them.
    """

    def __init__(self, arguments: Mapping[str, Any], prefix: str = "") -> None:
        self.dimensions: dict[str, Dimension] = {}
        self._fixed: dict[str, Any] = {}
        self._varied: dict[str, Callable[[Assignment], Any]] = {}
        for key, node in arguments.items():
            found = self._collect(node, f"{prefix}{key}", ())
            if found is None:
                self._fixed[key] = node
            else:
                self._varied[key] = found
        self.dimensions = _parents_first(self.dimensions)

    def _collect(
        self, node: Any, path: str, condition: Condition
    ) -> Callable[[Assignment], Any] | None:
        """How to resolve a node, whose choices become dimensions; None if it has none."""
        if isinstance(node, Searchable):
            return self._collect_choice(node, path, condition)
        if isinstance(node, Mapping):
            return self._collect_items(
                node, {k: self._collect(n, f"{path}.{k}", condition) for k, n in node.items()}
            )
        if isinstance(node, (list, tuple)):
            positions = dict(enumerate(node))
            items = self._collect_items(
                positions,
                {i: self._collect(n, f"{path}[{i}]", condition) for i, n in positions.items()},
            )
            kind = list if isinstance(node, list) else tuple
            return items and (lambda assignment: kind(items(assignment).values()))
        return None

    def _collect_choice(
        self, node: Searchable, path: str, condition: Condition
    ) -> Callable[[Assignment], Any]:
        name = node.name or path
        known = self.dimensions.setdefault(name, Dimension(name, node))
        if not _alike(known.kind, node):
            raise ValueError(
                f"Choices of one name must be alike. Received: {name!r} as {known.kind!r} at "
                f"{known.paths[0]} and as {node!r} at {path}"
            )
        known.paths.append(path)
        if condition not in known.conditions:
            known.conditions.append(condition)
        if not isinstance(node, Choice):
            return lambda assignment: node.label(assignment[name])
        inner = [
            self._collect(option, f"{path}#{index}", (*condition, (name, index)))
            for index, option in enumerate(node.options)
        ]
        if not any(inner):
            return lambda assignment: node.options[assignment[name]]

        def resolve(assignment: Assignment) -> Any:
            index = assignment[name]
            found = inner[index]
            return node.options[index] if found is None else found(assignment)

        return resolve

    @staticmethod
    def _collect_items(
        node: Mapping[Any, Any], found: dict[Any, Callable[[Assignment], Any] | None]
    ) -> Callable[[Assignment], dict[Any, Any]] | None:
        if not any(found.values()):
            return None
        return lambda assignment: {
            key: child if found[key] is None else found[key](assignment)  # type: ignore[misc]
            for key, child in node.items()
        }

    def default(self) -> Assignment:
        """The first option of every dimension."""
        return {
            n: d.kind.low if isinstance(d.kind, Real) else 0 for n, d in self.dimensions.items()
        }

    def draw(self, random: Random) -> Assignment:
        """A random option of every dimension, each on its own."""
        return {name: _draw(d.kind, random) for name, d in self.dimensions.items()}

    def values(self, assignment: Mapping[str, Any]) -> dict[str, Any]:
        """The plain values of the active dimensions."""
        return {
            name: dimension.kind.label(assignment[name])
            for name, dimension in self.dimensions.items()
            if dimension.is_active(assignment)
        }

    def assignment(self, values: Mapping[str, Any]) -> Assignment:
        """The positions of all dimensions from the values of the active ones.

        Raises:
            ValueError: if a value is unknown, missing or no option of its choice.
        """
        unknown = sorted(set(values) - set(self.dimensions))
        if unknown:
            raise ValueError(
                f"`values` must be for {', '.join(self.dimensions) or 'no choice'}. "
                f"Received: {unknown[0]!r}"
            )
        found = self.default()
        for name, value in values.items():
            try:
                found[name] = self.dimensions[name].kind.index(value)
            except ValueError as error:
                raise ValueError(f"`{name}` must be {error}. Received: {name}={value!r}") from error
        for name in self.values(found):
            if name not in values:
                raise ValueError(f"`values` must have {name!r}. Received: {dict(values)!r}")
        return found

    def resolve(self, assignment: Assignment) -> dict[str, Any]:
        """The arguments with plain values in place of choices."""
        varied = {key: resolve(assignment) for key, resolve in self._varied.items()}
        return {**self._fixed, **varied}


def _parents_first(dimensions: dict[str, Dimension]) -> dict[str, Dimension]:
    """In the order of the arguments, but for names shared by places whose parents come later."""
    ordered: dict[str, Dimension] = {}

    def add(name: str) -> None:
        if name not in ordered:
            for condition in dimensions[name].conditions:
                for parent, _ in condition:
                    add(parent)
            ordered[name] = dimensions[name]

    for name in dimensions:
        add(name)
    return ordered


def _draw(kind: Searchable, random: Random) -> Any:
    if isinstance(kind, Real):
        if kind.log:
            drawn = math.exp(random.uniform(math.log(kind.low), math.log(kind.high)))
            return min(max(drawn, kind.low), kind.high)
        return random.uniform(kind.low, kind.high)
    if isinstance(kind, Integer) and kind.log:
        drawn = math.exp(random.uniform(math.log(kind.low - 0.5), math.log(kind.high + 0.5)))
        return min(max(round(drawn), kind.low), kind.high) - kind.low
    return int(random.random() * kind.size)
