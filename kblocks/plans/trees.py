"""`Chain` and `Merge`, which make a plan of ops: in sequence and in branches, as ops themselves."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from kblocks.plans.cost import Tally
from kblocks.plans.geometry import Crop, Geometry, Op, Shape, cropped


class Chain(tuple):
    """Ops in sequence. `Chain(a, None, Chain(b, c))` is `Chain(a, b, c)`; `Chain()`: identity."""

    __slots__ = ()

    def __new__(cls, *ops: Op) -> "Chain":
        flat: list[Op] = []
        for op in ops:
            if type(op) is Chain:
                flat.extend(op)
            elif op is not None:
                flat.append(op)
        return tuple.__new__(cls, flat)

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self))})"

    def walk(self, shape: Any, tally: Tally | None) -> Shape:
        for step in self:
            shape = step.walk(shape, tally)
        return shape

    def geometry(self) -> Geometry | None:
        down, right, rows, columns = 1, 1, 0, 0
        for step in self:
            inner = step.geometry()
            if inner is None:
                return None
            rows += down * inner[2]
            columns += right * inner[3]
            down *= inner[0]
            right *= inner[1]
        return down, right, rows, columns


class _Branches(NamedTuple):
    mode: str
    branches: tuple[tuple[str, Op], ...]


class Merge(_Branches):
    """Named branches from one input, joined by `mode`: "add", "concat" (of channels), "multiply".

    A branch of "multiply" may be a gate of one pixel. Where "valid" padding makes branches shrink
    differently, the inputs of those that shrink less are cropped to their centre (`crops`).
    """

    __slots__ = ()

    def __new__(cls, mode: str, **branches: Op) -> "Merge":
        return tuple.__new__(cls, (mode, tuple(branches.items())))

    def walk(self, shape: Any, tally: Tally | None) -> Shape:
        sources = self.sources(shape)
        branches = zip(self.branches, sources, strict=True)
        shapes = [branch.walk(source, tally) for (_, branch), source in branches]
        first = shapes[0]
        if self.mode == "add" and shapes.count(first) == len(shapes):
            return first
        if self.mode == "multiply":
            gate = (1, 1, first[-1])
            maps = [other for other in shapes if other != gate] or [gate]
            if maps.count(maps[0]) == len(maps) and maps[0][-1] == first[-1]:
                return maps[0]
        if self.mode == "concat" and all(other[:-1] == first[:-1] for other in shapes):
            return (*first[:-1], sum(other[-1] for other in shapes))
        if self.mode not in ("add", "concat", "multiply"):
            raise ValueError(
                f"A Merge's mode is 'add', 'concat' or 'multiply'. Received: mode={self.mode!r}"
            )
        named = zip(self.branches, shapes, strict=True)
        described = ", ".join(f"{name}: {own}" for (name, _), own in named)
        raise ValueError(f"Branches do not fit for {self.mode!r}. Received: {described}")

    def geometry(self) -> Geometry | None:
        return self._geometries()[0]

    def _geometries(self) -> tuple[Geometry | None, list[Geometry | None]]:
        """The geometry of the whole, and of each branch."""
        branches: list[Geometry | None] = [branch.geometry() for _, branch in self.branches]
        first = branches[0]
        if branches.count(first) == len(branches):
            return first, branches
        known = [branch for branch in branches if branch is not None]
        if self.mode == "multiply" and len(known) == 1:
            return known[0], [known[0]] * len(branches)  # gates of one pixel need no alignment
        if len(known) < len(branches) or any(branch[:2] != known[0][:2] for branch in known):
            described = ", ".join(
                f"{name}: {'size of its own' if inner is None else inner[:2]}"
                for (name, _), inner in zip(self.branches, branches, strict=True)
            )
            raise ValueError(
                f"Branches joined by {self.mode!r} must have equal strides. Received: {described}"
            )
        rows, columns = max(branch[2] for branch in known), max(branch[3] for branch in known)
        return (*known[0][:2], rows, columns), branches

    def crops(self) -> list[Crop | None]:
        """The pixels to crop off each branch's input: then all outputs have one size and centre."""
        whole, branches = self._geometries()
        cuts: list[Crop | None] = []
        for branch in branches:
            if branch is None or whole is None or branch == whole:
                cuts.append(None)
                continue
            rows, columns = whole[2] - branch[2], whole[3] - branch[3]
            cuts.append(((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)))
        return cuts

    def sources(self, shape: Any) -> list[Shape]:
        """The input shape of each branch, from one shape or a list of one for each."""
        if not isinstance(shape, list):
            return [shape if cut is None else cropped(shape, cut) for cut in self.crops()]
        if len(shape) != len(self.branches):
            raise ValueError(f"Expected {len(self.branches)} inputs. Received: {len(shape)} inputs")
        return shape


def parts(op: Op, prefix: str = "") -> Iterator[tuple[str, Op]]:
    """The primitives in order, each with its path: branches, kind, and number if there are more."""
    chain = op if isinstance(op, Chain) else (op,)
    labels = [step.label for step in chain if not isinstance(step, Merge)]
    seen: dict[str, int] = {}
    for step in chain:
        if isinstance(step, Merge):
            for name, branch in step.branches:
                yield from parts(branch, f"{prefix}{name}_")
        else:
            label = step.label
            seen[label] = seen.get(label, 0) + 1
            number = str(seen[label]) if labels.count(label) > 1 else ""
            yield f"{prefix}{label}{number}", step
