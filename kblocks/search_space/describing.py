"""A space's choices as a table."""

from __future__ import annotations

import math
from itertools import groupby

from kblocks.search_space.choices import Choice, Integer, Searchable
from kblocks.search_space.counting import size
from kblocks.search_space.tree import Dimension, Tree

_WIDEST = 60


def table(tree: Tree) -> str:
    """One line a choice: its name, its options (the default first), and when it is active."""
    head = ("choice", "options", "only where")
    rows = [head] + [
        (n, _short(options_of(d.kind)), _when(tree, d)) for n, d in tree.dimensions.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows]
    count = len(tree.dimensions)
    choices = f"{count} choice{'' if count == 1 else 's'}"
    return "\n".join([*lines, f"{choices}, {_networks(size(tree))}"])


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


def _when(tree: Tree, dimension: Dimension) -> str:
    """The direct parents of a choice and the options at which it is active."""
    if dimension.always:
        return ""
    asked = sorted({condition[-1] for condition in dimension.conditions})
    parents = []
    for parent, found in groupby(asked, key=lambda pair: pair[0]):
        labels = [str(tree.dimensions[parent].kind.label(index)) for _, index in found]
        parents.append(f"{parent} is {' or '.join(labels)}")
    return "; ".join(parents)


def _networks(count: float) -> str:
    if math.isinf(count):
        return "infinitely many networks"
    return f"{count:,} network{'' if count == 1 else 's'}"
