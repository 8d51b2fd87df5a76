"""What the tests of spaces and of tuners share: trees of choices with a second way to read them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from hypothesis import strategies as st

import kblocks as kb

Values = dict[str, Any]
NUMBERS = {
    "a": kb.integer(2, 11, step=3),
    "b": kb.integer(1, 64, log=True),
    "c": kb.real(0.5, 2),
    "d": kb.real(1e-4, 1, log=True),
}


class Recorder:
    """A builder that notes the arguments of its calls; all its networks are alike."""

    def __init__(self) -> None:
        self.calls: list[Values] = []
        self.net = kb.Architecture([kb.ConvBlock.Spec(2)], head=kb.Classifier(2))

    def __call__(self, **arguments: Any) -> kb.Architecture:
        self.calls.append(arguments)
        return self.net


def seen_by(space: kb.Space, values: Values) -> Values:
    """What the builder of a space over a Recorder is called with for these values."""
    space.build(values)
    return space.builder.calls[-1]


def exact(arguments: Values) -> str:
    """What tells True from 1, which a comparison does not."""
    return repr(sorted(arguments.items()))


# --- trees of choices, read without kblocks ------------------------------------------------


@dataclass(frozen=True)
class One:
    """A choice as a plain description."""

    options: tuple[Any, ...]
    name: str | None = None


def with_choices(node: Any) -> Any:
    """A description with `kb.choice` in place of `One`."""
    if isinstance(node, One):
        return kb.choice(*map(with_choices, node.options), name=node.name)
    if isinstance(node, dict):
        return {key: with_choices(child) for key, child in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(map(with_choices, node))
    return node


def label(node: One, index: int) -> Any:
    """What an option is called: itself, a list of plain things as a tuple, else its place."""

    def called(option: Any) -> Any:
        """A plain option in one form; raises where it holds choices or names."""
        if isinstance(option, (One, dict)):
            raise LookupError
        return tuple(map(called, option)) if isinstance(option, (list, tuple)) else option

    found = []
    for option in node.options:
        try:
            found.append(called(option))
        except LookupError:
            found.append(LookupError)
    own = found[index]
    return f"#{index}" if own is LookupError or [*map(repr, found)].count(repr(own)) > 1 else own


Pick = Callable[[str, One], int]


def resolved(tree: Values, pick: Pick) -> tuple[Values, Values]:
    """The plain arguments of a description and the values of the choices that these use."""
    values: Values = {}
    positions: dict[str, int] = {}

    def read(node: Any, path: str) -> Any:
        if isinstance(node, One):
            name = node.name or path
            if name not in positions:
                positions[name] = pick(name, node)
            index = positions[name]
            option = node.options[index]
            values[name] = label(node, index)
            return read(option, f"{path}#{index}")
        if isinstance(node, dict):
            return {key: read(child, f"{path}.{key}") for key, child in node.items()}
        if isinstance(node, list):
            return [read(child, f"{path}[{index}]") for index, child in enumerate(node)]
        return node

    return {key: read(node, key) for key, node in tree.items()}, values


def first(name: str, node: One) -> int:
    """Picks the first option."""
    return 0


def randomly(random: Random) -> Pick:
    """Picks options at random."""
    return lambda name, node: random.randrange(len(node.options))


def all_points(tree: Values) -> Iterator[tuple[Values, Values]]:
    """Every pair of arguments and values that a description has."""
    waiting: list[tuple[int, ...]] = [()]
    while waiting:
        prefix = waiting.pop()
        counter = itertools.count()
        wider: list[int] = []

        def pick(name: str, node: One, prefix: Any = prefix, counter: Any = counter) -> int:
            place = next(counter)
            if place < len(prefix):
                return prefix[place]
            wider.append(len(node.options))  # noqa: B023
            return 0

        point = resolved(tree, pick)
        if not wider:
            yield point
        else:
            waiting.extend((*prefix, index) for index in range(wider[0]))


leaves = st.one_of(
    st.integers(-4, 9),
    st.booleans(),
    st.sampled_from(["same", "valid", "3x1", "None", None, 0.5]),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
_shared = st.sampled_from(
    [One(("a", "b", "c"), "shared"), One(({"inner": One((1, 2))}, 7), "deep"), One((3,), "alone")]
)


def _choices(nodes: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    plain = st.lists(leaves, min_size=1, max_size=3, unique_by=lambda leaf: (type(leaf), leaf))
    nested = st.one_of(
        st.none(), st.dictionaries(st.sampled_from("uvw"), nodes, min_size=1, max_size=2)
    )
    listed = st.one_of(st.none(), st.lists(nodes, min_size=1, max_size=2))

    def joined(options: Any) -> One:
        alone, *longer = options
        return One((*alone, *(option for option in longer if option is not None)))

    one = st.tuples(plain, nested, listed).map(joined)
    return st.one_of(one, _shared, st.lists(nodes, max_size=2))


nodes = st.recursive(st.one_of(leaves, _shared), _choices, max_leaves=8)
trees = st.dictionaries(st.sampled_from(["a", "b", "c_d"]), nodes, min_size=1, max_size=3)


# --- small spaces of real networks ---------------------------------------------------------


def plain_net(
    filters: Any,
    blocks: Any = (1, 1),
    kernel_size: Any = 3,
    strides: Any = (1, 2),
    padding: Any = "same",
    head: Any = None,
) -> kb.Architecture:
    """Stages of plain convolutions, the smallest family with all kinds of choices."""
    rows = []
    for number, count, step in zip(filters, blocks, strides, strict=True):
        first_block = kb.ConvBlock.Spec(number, kernel_size, step, padding=padding)
        rest = kb.ConvBlock.Spec(number, kernel_size, padding=padding)
        rows.append([first_block, *[rest] * (count - 1)])
    return kb.Architecture(rows, head=kb.Classifier.Spec(2, **(head or {})))
