"""Positions of parts in Inception modules, from which published names are built."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Position(NamedTuple):
    """The position of a part with weights, counted from 0.

    `step` is its position among the `steps` of its branch, a pool included; `side` is "a" or "b"
    in the pair of convolutions that ends a widened branch; `leaf` is "conv" or "bn".
    """

    row: str
    branch: int
    steps: int
    step: int
    side: str
    leaf: str

    @property
    def number(self) -> str:
        """`.step` if the branch has several steps, else nothing."""
        return f".{self.step}" if self.steps > 1 else ""


_SIDES = {"row_": "a", "column_": "b", "": ""}
_PART = re.compile(r"((\w+)/(?:main_)?branch(\d)_)(row_|column_|)(conv|norm|pooling)(\d?)")


def positions(paths: list[str]) -> Iterator[tuple[str, Position]]:
    """Yields path and position of each part with weights in a branch."""
    parts = [(found[0], *found.groups()) for path in paths if (found := _PART.fullmatch(path))]
    pools = {branch for _, branch, *_, kind, _ in parts if kind == "pooling"}
    ends = {branch for _, branch, _, _, side, *_ in parts if side}
    convolutions = Counter(b for _, b, _, _, side, kind, _ in parts if kind == "conv" and not side)
    for path, branch, row, index, side, kind, number in parts:
        if kind != "pooling":
            before, pooled = convolutions[branch], branch in pools
            step = before if side else int(number or 1) - 1 + pooled
            leaf = "conv" if kind == "conv" else "bn"
            steps = before + pooled + (branch in ends)
            yield path, Position(row, int(index) - 1, steps, step, _SIDES[side], leaf)


def plain(modules: Mapping[str, str]) -> dict[str, str]:
    """The names of the conv and norm of rows that are one convolution, from the rows' names."""
    return {
        f"{row}/{part}": f"{module}.{leaf}"
        for row, module in modules.items()
        for part, leaf in (("conv", "conv"), ("norm", "bn"))
    }
