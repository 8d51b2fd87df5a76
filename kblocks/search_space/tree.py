"""Finds and names the choices in a tree of arguments: the dimensions of a space."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from kblocks.search_space.choices import (
    Call,
    Choice,
    Fixed,
    Integer,
    Real,
    Searchable,
    Stages,
    alike,
    check_recordable,
    recorded,
)

_MANY = 64  # with more choices a tree is large: to try each of them at every step takes too long
Condition = tuple[tuple[str, int], ...]  # (choice, position of its option): all must hold
Assignment = dict[str, Any]  # a point: the position of every dimension, active or not
Resolve = Callable[[Assignment], Any]


@dataclass
class Dimension:
    """One choice of a tree: its name, the paths of its arguments, and when it is active."""

    name: str
    kind: Searchable
    paths: list[str] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)  # one must hold

    def is_active(self, assignment: Mapping[str, Any]) -> bool:
        return any(
            all(assignment[name] == index for name, index in condition)
            for condition in self.conditions
        )

    @property
    def always(self) -> bool:
        """Whether it is active at every point."""
        return () in self.conditions


class Tree:
    """A builder's arguments with choices anywhere in them, and the dimensions that these span.

    A point has two forms: an `Assignment`, and a dict with the plain value of each active
    dimension. Dimensions come behind those that they depend on.
    """

    def __init__(self, arguments: Mapping[str, Any], prefix: str = "") -> None:
        self.dimensions: dict[str, Dimension] = {}
        self.fixed: dict[str, Any] = {}  # the arguments without a choice
        self._varied: dict[str, Resolve] = {}
        for key, node in arguments.items():
            found = self._collect(node, f"{prefix}{key}", ())
            if found is None:
                self.fixed[key] = node
            else:
                self._varied[key] = found
        self.dimensions = _parents_first(self.dimensions)
        self._rows = [
            (name, d.kind.label, None if d.always else d.is_active)
            for name, d in self.dimensions.items()
        ]

    def _collect(self, node: Any, path: str, condition: Condition) -> Resolve | None:
        """Adds the choices in a node; returns how to resolve it, None if it stays as it is."""
        match node:
            case Choice() | Integer() | Real():
                return self._collect_choice(node, path, condition)
            case Fixed(value):
                inner = Tree({"value": value})
                plain = inner.resolve(inner.default())["value"]
                return lambda assignment: plain
            case Call(function, arguments):
                found = self._collect(arguments, path, condition)
                if found is None:
                    return lambda assignment: function(**arguments)
                return lambda assignment: function(**found(assignment))
            case Stages():
                return self._collect_stages(node, path, condition)
            case Mapping():
                return _collected(
                    node, {k: self._collect(n, f"{path}.{k}", condition) for k, n in node.items()}
                )
            case list() | tuple():
                positions = dict(enumerate(node))
                items = _collected(
                    positions,
                    {i: self._collect(n, f"{path}[{i}]", condition) for i, n in positions.items()},
                )
                kind = list if isinstance(node, list) else tuple
                return items and (lambda assignment: kind(items(assignment).values()))
        return None

    def _collect_choice(self, node: Searchable, path: str, condition: Condition) -> Resolve:
        name = node.name or path
        known = self.dimensions.setdefault(name, Dimension(name, node))
        if not alike(known.kind, node):
            raise ValueError(
                f"Choices of one name must be alike. Received: {name!r} as {known.kind!r} at "
                f"{known.paths[0]} and as {node!r} at {path}"
            )
        if path not in known.paths:
            known.paths.append(path)
        if condition not in known.conditions:
            known.conditions.append(condition)
        if not isinstance(node, Choice):
            return lambda assignment: node.label(assignment[name])
        inner = [
            self._collect(option, f"{path}#{_called(node, index)}", (*condition, (name, index)))
            for index, option in enumerate(node.options)
        ]
        if not any(inner):
            return lambda assignment: node.options[assignment[name]]

        def resolve(assignment: Assignment) -> Any:
            index = assignment[name]
            found = inner[index]
            return node.options[index] if found is None else found(assignment)

        return resolve

    def _collect_stages(self, node: Stages, path: str, condition: Condition) -> Resolve:
        number = node.number
        resolve = self._collect_choice(number, "stages", condition)
        name = str(number.name)
        stages: list[Resolve | None] = []
        for stage, value in enumerate(node.values):
            found = None
            there = [index for index in range(number.size) if number.label(index) > stage]
            if len(there) == number.size:
                found = self._collect(value, f"{path}[{stage}]", condition)
            else:
                for index in there:
                    found = self._collect(value, f"{path}[{stage}]", (*condition, (name, index)))
            stages.append(found)
        return lambda assignment: [
            value if found is None else found(assignment)
            for value, found, _ in zip(
                node.values, stages, range(resolve(assignment)), strict=False
            )
        ]

    @property
    def is_large(self) -> bool:
        """Whether it has too many choices to try each of them at every step."""
        return len(self.dimensions) > _MANY

    def default(self) -> Assignment:
        """The point with the default of every dimension."""
        return {
            n: d.kind.first if isinstance(d.kind, Real) else 0 for n, d in self.dimensions.items()
        }

    def draw(self, random: Random) -> Assignment:
        """A random point; each dimension is drawn independently."""
        return {name: d.kind.at(random.random()) for name, d in self.dimensions.items()}

    def values(self, assignment: Mapping[str, Any]) -> dict[str, Any]:
        """The plain values of a point's active dimensions."""
        return {
            name: label(assignment[name])
            for name, label, is_active in self._rows
            if is_active is None or is_active(assignment)
        }

    def assignment(self, values: Mapping[str, Any]) -> Assignment:
        """The point with these values of its active dimensions; others take their default.

        Each value may have the form that `values` returns or the one that a tuner records.

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
            found[name] = _position(name, self.dimensions[name].kind, value)
        for name, _, is_active in self._rows:
            if name not in values and (is_active is None or is_active(found)):
                raise ValueError(f"`values` must have {name!r}. Received: {dict(values)!r}")
        return found

    def resolve(self, assignment: Assignment) -> dict[str, Any]:
        """The builder's arguments at a point, with plain values in place of choices."""
        varied = {key: resolve(assignment) for key, resolve in self._varied.items()}
        return {**self.fixed, **varied}

    def suggest(self, trial: Any, prefix: str = "") -> Assignment:
        """The point that a trial suggests through Optuna's define-by-run methods.

        Asks for active choices only, by their names after `prefix`; options have the form of
        `Choice.written`.
        """
        found = self.default()
        for name, dimension in self.dimensions.items():
            if dimension.always or dimension.is_active(found):
                found[name] = _suggested(trial, f"{prefix}{name}", dimension.kind)
        return found

    def size(self) -> float:
        """The number of different dicts of values; infinite if there is a real among them."""
        kinds = {name: d.kind for name, d in self.dimensions.items()}
        return _count(kinds, {n: _shortest(d.conditions) for n, d in self.dimensions.items()})


def _called(node: Choice, index: int) -> Any:
    """How a path shows an option: by the name of a `Call`, else by its position."""
    option, label = node.options[index], node.labels[index]
    return label if isinstance(option, Call) and not label.startswith("#") else index


def _collected(
    node: Mapping[Any, Any], found: dict[Any, Resolve | None]
) -> Callable[[Assignment], dict[Any, Any]] | None:
    if not any(found.values()):
        return None
    return lambda assignment: {
        key: child if found[key] is None else found[key](assignment)  # type: ignore[misc]
        for key, child in node.items()
    }


def _parents_first(dimensions: dict[str, Dimension]) -> dict[str, Dimension]:
    """Sorts dimensions so that each comes behind its parents, else keeps their order."""
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


def _position(name: str, kind: Searchable, value: Any) -> Any:
    try:
        return kind.index(value)
    except ValueError as error:
        raise ValueError(f"`{name}` must be {error}. Received: {name}={value!r}") from error


def _suggested(trial: Any, name: str, kind: Searchable) -> Any:
    check_recordable(name, kind)
    record_given(trial, name, kind)
    match kind:
        case Choice():
            return kind.index(trial.suggest_categorical(name, list(kind.written)))
        case Integer(low, high, step, log):
            return kind.index(trial.suggest_int(name, low, high, step=step, log=log))
        case Real(low, high, log):
            return kind.index(trial.suggest_float(name, low, high, log=log))


def record_given(trial: Any, name: str, kind: Searchable) -> None:
    """Converts a value that was enqueued for a trial to the form in which it is suggested.

    Users give `study.enqueue_trial` and `optuna.trial.FixedTrial` values as a space has them, such
    as 3 and (1, 7), but Optuna expects the recorded form, "3" and "1x7". It has no public way to
    change them.
    """
    for attribute in ("_fixed_params", "_params"):  # of a Trial; of a FixedTrial or FrozenTrial
        given = getattr(trial, attribute, None)
        if isinstance(given, Mapping) and name in given:
            value = recorded(kind, _position(name, kind, given[name]))
            setattr(trial, attribute, {**given, name: value})


# --- counting ----------------------------------------------------------------------------

Conditions = Mapping[str, tuple[Condition, ...]]


def _count(kinds: Mapping[str, Searchable], conditions: Conditions) -> float:
    """The number of points of these dimensions: the product over independent groups."""
    total: float = 1
    for group in _groups(conditions):
        total *= _count_group(kinds, group)
    return total


def _count_group(kinds: Mapping[str, Searchable], group: Conditions) -> float:
    first = next(name for name, own in group.items() if () in own)
    kind = kinds[first]
    rest = {name: own for name, own in group.items() if name != first}
    if isinstance(kind, Real):
        return math.inf
    asked = {index for own in rest.values() for c in own for name, index in c if name == first}
    others = kind.size - len(asked)
    counts = [_count(kinds, _given(rest, first, index)) for index in asked]
    return sum(counts) + (others * _count(kinds, _given(rest, first, None)) if others else 0)


def _given(conditions: Conditions, name: str, index: int | None) -> Conditions:
    """The conditions left once `name` takes option `index`; drops what cannot be active then."""
    left = {}
    for other, own in conditions.items():
        kept = {
            tuple(pair for pair in c if pair[0] != name)
            for c in own
            if all(position == index for parent, position in c if parent == name)
        }
        if kept:
            left[other] = _shortest(kept)
    return left


def _shortest(conditions: Collection[Condition]) -> tuple[Condition, ...]:
    """The conditions, or the empty one alone if it is among them: it always holds."""
    return ((),) if () in conditions else tuple(conditions)


def _groups(conditions: Conditions) -> list[Conditions]:
    """Groups of dimensions that depend on each other, directly or through others."""
    joined: list[set[str]] = []
    for name, own in conditions.items():
        bound = {name, *(parent for c in own for parent, _ in c)}
        touching = [group for group in joined if group & bound]
        joined = [group for group in joined if not group & bound]
        joined.append(functools.reduce(set.union, touching, bound))
    return [{name: conditions[name] for name in conditions if name in group} for group in joined]
