"""`Space`: an architecture builder with choices in its arguments, and `Budget`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from random import Random
from typing import Any

from kblocks import repair
from kblocks.choices import Assignment, Choice, Real, Searchable, Tree
from kblocks.cost import Cost
from kblocks.geometry import InputTooSmallError
from kblocks.network import Architecture, check_input_shape

_CONTEXTS = 20  # random surroundings in which an option may prove that it works
_TRIED = 100  # positions of an integer that have to prove it
_DRAWS = 200  # draws that `sample` makes before it repairs one


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits that a network must keep, each in the unit of the `Cost` it is held against.

    Args:
        params: the most parameters.
        macs: the most multiply-adds, batch 1.
        activations: the most elements that convolutions and linear layers put out, batch 1.

    Raises:
        ValueError: if a limit is not a positive number.
    """

    params: float | None = None
    macs: float | None = None
    activations: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.limits().items():
            if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
                raise ValueError(f"`{name}` must be a positive number. Received: {name}={limit!r}")

    def limits(self) -> dict[str, float]:
        """The limits that are set, by the name of the cost."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: limit for name, limit in found.items() if limit is not None}

    def exceeded(self, cost: Cost) -> dict[str, float]:
        """How many times over its limit each cost is that breaks one; empty where all are kept."""
        ratios = {name: getattr(cost, name) / limit for name, limit in self.limits().items()}
        return {name: ratio for name, ratio in ratios.items() if ratio > 1}


class Space:
    """The networks that `builder` makes for all values of the choices in its arguments.

    Args:
        builder: a function that returns an Architecture, such as `kb.resnet`.
        arguments: for the builder; `kb.choice(...)` and its like may stand for an argument or
            anywhere in its lists and dicts.

    Raises:
        ValueError: if choices of one name differ, or an option makes every network fail.
        TypeError: if the builder does not take the arguments or returns something else.

    Example:
        >>> space = kb.Space(kb.resnet, classes=10, filters=kb.per_stage(4, kb.choice(16, 32)))
        >>> space = space.within((32, 32, 3), kb.Budget(macs=20e6))
        >>> space.build(space.sample(seed=0)).cost((32, 32, 3)).macs <= 20e6
        True
    """

    def __init__(self, builder: Callable[..., Architecture], **arguments: Any) -> None:
        if not callable(builder):
            raise TypeError(f"`builder` must be a function. Received: builder={builder!r}")
        self.builder = builder
        self.tree = Tree(arguments)
        self.input_shape: tuple[int, int, int] | None = None
        self.budget = Budget()
        self._anchor: Assignment = self.tree.default()
        self._refuse_dead_options()

    def within(self, input_shape: Any, budget: Budget | None = None) -> Space:
        """This space with the knowledge of what fits: maps that stay alive, costs in the budget.

        Args:
            input_shape: (height, width, channels).
            budget: limits, or None.

        Raises:
            ValueError: if nothing in the space fits, with the nearest and the limit it breaks.
        """
        if budget is not None and not isinstance(budget, Budget):
            raise ValueError(f"`budget` must be a kblocks.Budget. Received: budget={budget!r}")
        check_input_shape(input_shape)
        bounded = object.__new__(Space)
        bounded.__dict__.update(self.__dict__)
        bounded.input_shape = tuple(input_shape)
        bounded.budget = budget or Budget()
        bounded._anchor = repair.anchor(bounded)
        return bounded

    def names(self) -> list[str]:
        """The names of all choices: the paths of the arguments they stand for."""
        return list(self.tree.dimensions)

    def default(self) -> dict[str, Any]:
        """The first option of every choice; repaired where that does not fit."""
        return self.tree.values(self._fitted(self.tree.default()))

    def sample(self, seed: int | Random) -> dict[str, Any]:
        """Random values, the same for the same seed; after `within`, only such as fit.

        Args:
            seed: an integer, or a `random.Random` to draw from.
        """
        random = seed if isinstance(seed, Random) else Random(seed)
        drawn = self.tree.draw(random)
        if self.input_shape is None:
            return self.tree.values(drawn)
        for _ in range(_DRAWS):
            if self._fits(drawn):
                return self.tree.values(drawn)
            drawn = self.tree.draw(random)
        return self.tree.values(self._fitted(drawn))

    def build(self, values: Mapping[str, Any]) -> Architecture:
        """The network of these values, as they are.

        Raises:
            ValueError: if a value is missing, unknown or no option, or the builder refuses them.
        """
        return self._made(self.tree.assignment(values))

    def repair(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The nearest values that fit: the same if they do already.

        Takes fewer filters first, then fewer blocks, smaller kernels, `same` padding, and
        anything else last. The same values always give the same.
        """
        return self.tree.values(self._fitted(self.tree.assignment(values)))

    def violation(self, assignment: Assignment) -> repair.Violation | None:
        """How far a point is from fitting; None if it fits."""
        assert self.input_shape is not None
        return repair.violation(self._made, assignment, self.input_shape, self.budget.exceeded)

    def _fits(self, assignment: Assignment) -> bool:
        try:
            cost = self._made(assignment).cost_if_alive(self.input_shape)
        except ValueError:
            return False
        return cost is not None and not self.budget.exceeded(cost)

    def _fitted(self, assignment: Assignment) -> Assignment:
        if self.input_shape is None:
            return assignment
        return repair.nearest(self.tree, self.violation, assignment, self._anchor)

    def _made(self, assignment: Assignment) -> Architecture:
        net = self.builder(**self.tree.resolve(assignment))
        if not isinstance(net, Architecture):
            raise TypeError(f"The builder must return an Architecture. Received: {net!r}")
        return net

    def _refuse_dead_options(self) -> None:
        """Every option must work somewhere; else it is a mistake, told at the door."""
        random = Random(0)
        contexts = [self.tree.default(), *(self.tree.draw(random) for _ in range(_CONTEXTS))]
        for name, dimension in self.tree.dimensions.items():
            for index in _tried(dimension.kind):
                self._refuse_dead(name, index, contexts)
        if not self.tree.dimensions:
            self._made({})

    def _refuse_dead(self, name: str, index: int, contexts: list[Assignment]) -> None:
        dimension = self.tree.dimensions[name]
        first: Exception | None = None
        for context in contexts:
            point = {**context, name: index}
            for parent, option in max(dimension.conditions, key=len):
                point[parent] = option
            try:
                self._made(point)
                return
            except InputTooSmallError:
                return
            except ValueError as error:
                first = first or error
            except TypeError as error:
                builder = getattr(self.builder, "__name__", self.builder)
                raise TypeError(f"{builder}: {error}") from error
        label = dimension.kind.label(index)
        raise ValueError(f"No network can be made with {name}={label!r}: {first}") from first


def _tried(kind: Searchable) -> Iterable[Any]:
    """Every option of a choice; both ends of a range and, of integers, some between."""
    if isinstance(kind, Choice):
        return range(kind.size)
    if isinstance(kind, Real):
        return kind.low, kind.high
    return {*range(0, kind.size, max(kind.size // _TRIED, 1)), kind.size - 1}
