"""A space's choices as a table, and the number of its points."""

import functools
import math
from collections.abc import Collection, Mapping
from itertools import groupby
from typing import Any

from kblocks.search_space.choices import Choice, Integer, Real, Searchable
from kblocks.search_space.tree import Condition, Dimension, Tree

_WIDEST = 60
_FEW = 20  # choices
_COUNTED = 10**15  # larger numbers of networks are rounded
Conditions = Mapping[str, tuple[Condition, ...]]  # by choice; it is active if one of them holds


def choice_rows(tree: Tree) -> list[tuple[str, str, str]]:
    """A row a choice: its name, its options (the default first), and when it is active."""
    dimensions = tree.dimensions.items()
    rows = [(name, _short(options_of(d.kind)), _when(tree, d)) for name, d in dimensions]
    return [("choice", "options", "only where"), *rows]


def table(tree: Tree, noun: str) -> str:
    """The rows as text, what many choices mean for a Bayesian search, and `counts_of`."""
    rows = choice_rows(tree)
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows]
    count = len(tree.dimensions)
    if count > _FEW:  # `num_initial_points` of Keras Tuner's BayesianOptimization
        random = f"A Bayesian search of Keras Tuner draws its first {3 * count} points at random"
        lines.append(f"{random}, 3 for each choice; num_initial_points= changes that")
    return "\n".join([*lines, counts_of(tree, noun)])


def counts_of(tree: Tree, noun: str) -> str:
    """How many choices a space has, and how many networks (or what `noun` says) they make."""
    count, points = len(tree.dimensions), size(tree)
    ends = ["" if number == 1 else "s" for number in (count, points)]
    return f"{count} choice{ends[0]}, {_number(points)} {noun}{ends[1]}"


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 4]} ..."


def options_of(kind: Searchable) -> str:
    """The options or the range of a choice, in words."""
    match kind:
        case Choice(labels=labels):
            return ", ".join(map(str, labels))
        case Integer(low, high, step, log):
            by = f" by {step}" if step > 1 else ""
            return f"{low} to {high}{by}{', in logarithm' if log else ''}"
    return f"{kind.low:g} to {kind.high:g}{', in logarithm' if kind.log else ''}"


def words_of(option: Any) -> str:
    """An option in words, also one without a label, such as a dict."""
    if isinstance(option, Mapping):
        return ", ".join(f"{name} {words_of(value)}" for name, value in option.items())
    if isinstance(option, (Choice, Integer, Real)):
        return options_of(option)
    return str(getattr(option, "name", None) or getattr(option, "__name__", option))


def _when(tree: Tree, dimension: Dimension) -> str:
    """The direct parents of a choice and the options at which it is active."""
    if () in dimension.conditions:
        return ""
    asked = sorted({condition[-1] for condition in dimension.conditions})
    parents = []
    for parent, found in groupby(asked, key=lambda pair: pair[0]):
        labels = [str(tree.dimensions[parent].kind.label(index)) for _, index in found]
        parents.append(f"{parent} is {' or '.join(labels)}")
    return "; ".join(parents)


def _number(count: float) -> str:
    if math.isinf(count):
        return "infinitely many"
    return f"{count:,}" if count < _COUNTED else f"about 10^{round(math.log10(count))}"


def size(tree: Tree) -> float:
    """The number of different dicts of values; infinite if there is a real among them."""
    kinds = {name: d.kind for name, d in tree.dimensions.items()}
    return _count(kinds, {n: _shortest(d.conditions) for n, d in tree.dimensions.items()})


def _count(kinds: Mapping[str, Searchable], conditions: Conditions) -> float:
    """The number of points of these dimensions: the product over independent groups."""
    return math.prod(_count_group(kinds, group) for group in _groups(conditions))


def _count_group(kinds: Mapping[str, Searchable], group: Conditions) -> float:
    """The sum over the options of a choice that is always active."""
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
