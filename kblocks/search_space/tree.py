"""Finds and names the choices in a tree of arguments, and the points that they span."""

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from kblocks.networks.architecture import Architecture
from kblocks.search_space import choices
from kblocks.search_space.conditions import Bound
from kblocks.search_space.recording import suggested

_MANY = 64  # with more choices a tree is large: to try each of them at every step takes too long
Condition = tuple[tuple[str, int], ...]  # (choice, position of its option): all must hold
Positions = Mapping[str, Any]  # by choice
Resolve = Callable[[Positions], Any]


@dataclass
class Dimension:
    """One choice of a tree: its name, the paths of its arguments, and when it is active."""

    name: str
    kind: choices.Searchable
    paths: list[str] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)  # one must hold

    def is_active(self, positions: Positions) -> bool:
        for condition in self.conditions:  # plain loops: each sampled network asks every choice
            for name, index in condition:
                if positions[name] != index:
                    break
            else:
                return True
        return False


@dataclass(frozen=True)
class Point:
    """One option of each choice of a tree."""

    tree: "Tree"
    positions: Positions  # of inactive choices too, without effect; of a `kb.real` the number

    def __getitem__(self, name: str) -> Any:
        return self.positions[name]

    def moved(self, changes: Positions) -> "Point":
        """A copy with other positions for some choices."""
        return replace(self, positions={**self.positions, **changes})

    @functools.cached_property
    def active(self) -> list[Dimension]:
        """The active choices."""
        return [d for d in self.tree.dimensions.values() if d.is_active(self.positions)]

    @property
    def values(self) -> dict[str, Any]:
        """The plain values of the active choices: a point as users see it."""
        return {d.name: d.kind.label(self[d.name]) for d in self.active}

    @property
    def recorded(self) -> dict[str, Any]:
        """The values of the active choices as tuners record them."""
        return {d.name: d.kind.recorded(self[d.name]) for d in self.active}

    @property
    def arguments(self) -> dict[str, Any]:
        """The builder's arguments, with plain values in place of choices."""
        varied = {key: resolve(self.positions) for key, resolve in self.tree.varied.items()}
        return {**self.tree.fixed, **varied}

    @property
    def bound(self) -> Bound:
        """The space's builder with these arguments, made anew: a network takes much memory."""
        assert self.tree.bind is not None
        return self.tree.bind(self.arguments)

    @property
    def network(self) -> Architecture:
        """The network that the builder makes, whether it fits or not."""
        return self.bound.network

    def key(self, input_shape: Any) -> Hashable:
        """Equal for points with equal networks, on inputs of this shape if it is not None."""
        net = self.network
        return net if input_shape is None else net.canonical(input_shape)


class Tree:
    """A builder's arguments with choices anywhere in them, and the dimensions that these span.

    Each comes behind those that it depends on. `bind` returns a builder with plain arguments.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        prefix: str = "",
        bind: Callable[[dict[str, Any]], Bound] | None = None,
    ) -> None:
        self.bind = bind
        self.dimensions: dict[str, Dimension] = {}
        self.fixed: dict[str, Any] = {}  # the arguments without a choice
        self.varied: dict[str, Resolve] = {}  # how to resolve the others
        for key, node in arguments.items():
            found = self._collect(node, f"{prefix}{key}", ())
            if found is None:
                self.fixed[key] = node
            else:
                self.varied[key] = found
        self.dimensions = _parents_first(self.dimensions)

    def _collect(self, node: Any, path: str, condition: Condition) -> Resolve | None:
        """Adds the choices in a node; returns how to resolve it, None if it stays as it is."""
        match node:
            case choices.Choice() | choices.Integer() | choices.Real():
                return self._collect_choice(node, path, condition)
            case choices.Fixed(value):
                plain = Tree({"value": value}).default().arguments["value"]
                return lambda positions: plain
            case choices.Call(function, arguments):
                found = self._collect(arguments, path, condition)
                return lambda positions: function(**_resolved(arguments, found, positions))
            case choices.Stages():
                return self._collect_stages(node, path, condition)
            case Mapping():
                return self._collect_items(node, lambda key: f"{path}.{key}", condition)
            case list() | tuple():
                sequence = list if isinstance(node, list) else tuple
                inner = dict(enumerate(node))
                items = self._collect_items(inner, lambda index: f"{path}[{index}]", condition)
                return items and (lambda positions: sequence(items(positions).values()))
        return None

    def _collect_items(
        self, node: Mapping[Any, Any], path_of: Callable[[Any], str], condition: Condition
    ) -> Resolve | None:
        found = {key: self._collect(item, path_of(key), condition) for key, item in node.items()}
        if not any(found.values()):
            return None
        return lambda positions: {
            key: _resolved(item, found[key], positions) for key, item in node.items()
        }

    def _collect_choice(self, node: choices.Searchable, path: str, condition: Condition) -> Resolve:
        name = node.name or path
        known = self.dimensions.setdefault(name, Dimension(name, node))
        if not choices.alike(known.kind, node):
            raise ValueError(
                f"Choices of one name must be alike. Received: {name!r} as {known.kind!r} at "
                f"{known.paths[0]} and as {node!r} at {path}"
            )
        if path not in known.paths:
            known.paths.append(path)
        if condition not in known.conditions:
            known.conditions.append(condition)
        if not isinstance(node, choices.Choice):
            return lambda positions: node.label(positions[name])
        inner = [
            self._collect(option, f"{path}#{_called(node, index)}", (*condition, (name, index)))
            for index, option in enumerate(node.options)
        ]
        return lambda positions: _resolved(
            node.options[positions[name]], inner[positions[name]], positions
        )

    def _collect_stages(self, node: choices.Stages, path: str, condition: Condition) -> Resolve:
        number = node.number
        resolve = self._collect_choice(number, "stages", condition)
        name = str(number.name)
        stages: list[Resolve | None] = []
        for stage, value in enumerate(node.values):
            there = [index for index in range(number.size) if number.label(index) > stage]
            conditions = [(*condition, (name, index)) for index in there]
            if len(there) == number.size:
                conditions = [condition]
            found = [self._collect(value, f"{path}[{stage}]", one) for one in conditions]
            stages.append(found[-1])
        return lambda positions: [
            _resolved(value, found, positions)
            for value, found, _ in zip(node.values, stages, range(resolve(positions)), strict=False)
        ]

    @property
    def is_large(self) -> bool:
        """Whether it has too many choices to try each of them at every step."""
        return len(self.dimensions) > _MANY

    def default(self) -> Point:
        """The point with the default of every dimension."""
        return Point(self, {name: d.kind.first for name, d in self.dimensions.items()})

    def draw(self, random: Random) -> Point:
        """A random point; each dimension is drawn independently."""
        return Point(self, {n: d.kind.at(random.random()) for n, d in self.dimensions.items()})

    def read(self, values: Mapping[str, Any]) -> Point:
        """The point with these values, in either form; ValueError for unknown or missing ones."""
        unknown = sorted(set(values) - set(self.dimensions))
        if unknown:
            raise ValueError(
                f"`values` must be for {', '.join(self.dimensions) or 'no choice'}. "
                f"Received: {unknown[0]!r}"
            )
        kinds = {name: self.dimensions[name].kind for name in values}
        given = {n: choices.position_of(n, kinds[n], value) for n, value in values.items()}
        point = self.default().moved(given)
        for one in point.active:
            if one.name not in values:
                raise ValueError(f"`values` must have {one.name!r}. Received: {dict(values)!r}")
        return point

    def ask(self, value_of: Callable[[str], Any]) -> Point:
        """The point whose active dimensions, parents first, have the values of `value_of`."""
        positions = dict(self.default().positions)
        for name, dimension in self.dimensions.items():
            if dimension.is_active(positions):
                positions[name] = choices.position_of(name, dimension.kind, value_of(name))
        return Point(self, positions)

    def suggest(self, trial: Any, prefix: str = "") -> Point:
        """The point that an Optuna trial suggests, asked for active choices alone."""
        kinds = self.dimensions
        return self.ask(lambda name: suggested(trial, f"{prefix}{name}", kinds[name].kind))

    def joined(self, other: "Tree") -> "Tree":
        """A tree with the dimensions of both."""
        both = Tree({})
        both.dimensions = {**self.dimensions, **other.dimensions}
        both.fixed, both.varied = {**self.fixed, **other.fixed}, {**self.varied, **other.varied}
        return both


def _resolved(node: Any, resolve: Resolve | None, positions: Positions) -> Any:
    """A node with plain values in place of its choices; with no `resolve` it has none."""
    return node if resolve is None else resolve(positions)


def _called(node: choices.Choice, index: int) -> Any:
    """How a path shows an option: by the name of a `Call`, else by its position."""
    option, label = node.options[index], node.labels[index]
    return label if isinstance(option, choices.Call) and not label.startswith("#") else index


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


def check_options(arguments: Any, forms: Mapping[str, tuple[str, Callable[[Any], bool]]]) -> None:
    """Raises ValueError unless each attribute, and each option of its choice, has its form.

    `forms` has what is expected, in words and as a function.
    """
    for name, (expected, fits) in forms.items():
        for option in options_in(getattr(arguments, name)):
            if not fits(option):
                raise ValueError(f"`{name}` must be {expected}. Received: {name}={option!r}")


def options_in(value: Any) -> Iterator[Any]:
    """The values that an argument can take; of a range its ends."""
    if isinstance(value, choices.Choice):
        for option in value.options:
            yield from options_in(option)
    elif isinstance(value, (choices.Integer, choices.Real)):
        yield from (value.low, value.high)
    elif isinstance(value, (list, tuple)):
        yield [option for inner in value for option in options_in(inner)]
    else:
        yield value
