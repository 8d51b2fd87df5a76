"""A space's choices as a table, and the number of its points."""

import math
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from kblocks.search_space.choices import Choice, Integer, Real, Searchable
from kblocks.search_space.tree import Condition, Dimension, Tree

_WIDEST = 60
_FEW = 20  # choices
_COUNTED = 10**15  # larger numbers of networks are rounded
_Left = frozenset[tuple[str, Condition]]  # choices to come, each with a condition; one must hold


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
    every = ((name, condition) for name, d in tree.dimensions.items() for condition in d.conditions)
    counts: dict[_Left, float] = {frozenset(every): 1}  # how many points lead to each
    for name, dimension in tree.dimensions.items():
        kind, counts, before = dimension.kind, {}, counts
        for left, count in before.items():
            ways: dict[int | None, float] = {None: 1}  # by the option, None for any other one
            if (name, ()) in left:  # it is active
                ways = {i: 1 for _, pairs in left for parent, i in pairs if parent == name}
                ways[None] = math.inf if isinstance(kind, Real) else kind.size - len(ways)
            for index, number in ways.items():
                if number:
                    then = _given(left, name, index)
                    counts[then] = counts.get(then, 0) + count * number
    return sum(counts.values())


def _given(left: _Left, name: str, index: int | None) -> _Left:
    """The conditions of the other choices that are left once `name` takes option `index`."""
    kept = {
        (other, tuple(pair for pair in condition if pair[0] != name))
        for other, condition in left
        if other != name and all(i == index for parent, i in condition if parent == name)
    }
    return frozenset(pair for pair in kept if pair[1] == () or (pair[0], ()) not in kept)
