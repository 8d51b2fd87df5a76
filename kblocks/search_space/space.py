"""`Space`: a builder of networks or a block, with choices in its arguments."""

import contextlib
import functools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from kblocks.common.showing import html_table
from kblocks.networks.architecture import Architecture, check_input_shape
from kblocks.plans.geometry import InputTooSmallError
from kblocks.search_space import sampling
from kblocks.search_space.budget import Budget
from kblocks.search_space.choices import Call, Choice, Fixed
from kblocks.search_space.conditions import Bound, Condition, check_builder, name_of
from kblocks.search_space.dead_options import refuse_dead_options
from kblocks.search_space.describing import choice_rows, counts_of, options_of, size, table
from kblocks.search_space.models import Models, OverBudgetError
from kblocks.search_space.names import is_of_others, network_key, prefix_of
from kblocks.search_space.recording import pruned, refuse_second
from kblocks.search_space.repair import Repair, Violation
from kblocks.search_space.tree import Point, Tree

_BUILDER = "builder"  # the name of the choice between builders
_STATE = ("builder", "_source", "_arguments", "_conditions", "input_shape", "budget")
_DRAWS = 100  # random points to try until the Keras model of one fits
_REPEATS = 100  # `samples` ends after so many samples in a row without a new network


class Space:
    """A search space: what `builder` makes with choices among its arguments.

    These are networks, or layers if the builder is a block's class. All that is said here of
    networks holds for blocks too, but `build` and `suggest` return a block as a Keras layer.

    If the builder returns Keras models, so do `build` and `suggest`. A model has no Architecture:
    no JSON, no repair, and equal values are what makes models equal. Its cost is counted from its
    layers once it is built; a point whose model does not fit, or whose builder raises a
    ValueError, is not repaired but drawn anew.

    Args:
        builder: a function that returns an Architecture, such as `kb.resnet`, or a `keras.Model`;
            the class of a block, such as `kb.ResidualBlock`; another Space; or a choice between
            such.
        where: a condition that networks must meet: a function that returns true or false. Its
            parameters have the names of arguments of the space
            (`where=lambda filters: filters[0] <= filters[1]`), or `network` for the architecture.
        arguments: the builder's arguments. `kb.choice(...)` and the other choices may stand in
            place of an argument or anywhere in its lists and dicts. If `builder` is a Space, they
            replace its arguments of the same names.

    Raises:
        ValueError: if choices with the same name differ, an option makes every network fail, or
            no network was found that meets `where`.
        TypeError: if the builder does not take the arguments or returns neither an Architecture
            nor a Keras model, or `where` is not a function of them.

    Example:
        >>> space = kb.Space(kb.resnet, classes=10, filters=kb.per_stage(4, kb.choice(16, 32)))
        >>> space = space.within((32, 32, 3), kb.Budget(macs=20e6))
        >>> space.build(space.sample(seed=0)).cost((32, 32, 3)).macs <= 20e6
        True
        >>> block = kb.Space(kb.ResidualBlock, filters=kb.choice(16, 32), strides=kb.choice(1, 2))
        >>> block.build({"filters": 32, "strides": 2})(keras.Input((8, 8, 3))).shape
        (None, 4, 4, 32)
    """

    def __init__(
        self, builder: Any, *, where: Callable[..., Any] | None = None, **arguments: Any
    ) -> None:
        inherited: tuple[Condition, ...] = ()
        if isinstance(builder, Space):
            source, inherited = _unbounded(builder)._source, builder._conditions
            arguments = {**builder._arguments, **arguments}
        else:
            source = builder
        own = () if where is None else (Condition(where, arguments),)
        self.builder, self._source = builder, source
        self._arguments, self._conditions = arguments, (*inherited, *own)
        self.input_shape: tuple[int, int, int] | None = None
        self.budget = Budget()
        self._span()
        self._models = None if self.is_of_blocks else self._found_models()
        if self._models is None:
            refuse_dead_options(self.tree)
        self._prepare()

    def _found_models(self) -> Models | None:
        """The models of a space whose default is a Keras model, already built; else None."""
        models = Models()
        with contextlib.suppress(Exception):  # `refuse_dead_options` reports it
            models.look(self.tree.default())
            return models
        return None

    @property
    def is_of_models(self) -> bool:
        """Whether the builder returns Keras models."""
        return self._models is not None

    @property
    def _noun(self) -> str:
        return "block" if self.is_of_blocks else "model" if self.is_of_models else "network"

    def _span(self) -> None:
        """Sets up the choices, but not what fits."""
        self._is_searched = isinstance(self._source, (Choice, Fixed))
        searched = {}
        if self._is_searched:
            searched[_BUILDER] = _node(self._source, set(self._arguments))
        else:
            check_builder(self._source)
        self.tree = Tree({**searched, **self._arguments}, bind=self._bind)
        self.is_of_blocks = self.tree.default().bound.is_block

    def __repr__(self) -> str:
        source = self._source
        name = options_of(source) if isinstance(source, Choice) else name_of(source)
        limits = "" if self.input_shape is None else f", within {self.input_shape}, {self.budget}"
        return f"<Space of {name}: {counts_of(self.tree, self._noun)}{limits}>"

    def _repr_html_(self) -> str:
        return html_table(choice_rows(self.tree), repr(self))

    def __getstate__(self) -> dict[str, Any]:
        return {**{k: self.__dict__[k] for k in _STATE}, "_models": self._models and Models()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickles a space, whose options were checked when it was made."""
        self.__dict__.update(state)
        self._span()
        self._prepare()

    def _prepare(self) -> None:
        """Sets up what depends on the input and the budget; raises if no point fits."""
        learn = partial(sampling.learned, self.tree, partial(self.violation, exactly=False))
        self._learned = functools.cache(learn)
        how = {"grow": self.budget.has_least, "steps": not self.is_of_models}
        self._repair = Repair(self.tree, self.violation, **how)
        shortfall, self._anchor = self._repair.closest()
        if shortfall is not None:
            raise ValueError(self._nothing_fits())

    def within(self, input_shape: Any, budget: Budget | None = None) -> "Space":
        """A copy of this space limited to networks that fit an input and a budget.

        A network fits if none of its feature maps vanishes and its cost keeps the budget.

        Args:
            input_shape: (height, width, channels); of Keras models the shape of their only input.
            budget: limits on the cost; None sets none. Keras models can be limited to parameters,
                multiply-adds and activations.

        Raises:
            ValueError: if no network is found that fits, with the nearest and what it breaks.
        """
        if budget is not None and not isinstance(budget, Budget):
            raise ValueError(f"`budget` must be a kblocks.Budget. Received: budget={budget!r}")
        if self._models:
            self._models.check(budget or Budget())
        else:
            check_input_shape(input_shape)
        bounded = object.__new__(Space)
        bounded.__dict__.update(self.__dict__)
        bounded.input_shape = tuple(input_shape)
        bounded.budget = budget or Budget()
        bounded._prepare()
        return bounded

    def names(self) -> list[str]:
        """The names of all choices: their own, or the paths of their arguments."""
        return list(self.tree.dimensions)

    def size(self) -> float:
        """The number of points, whether they fit or not; `math.inf` with a `kb.real`."""
        return size(self.tree)

    def describe(self, print_fn: Callable[[str], Any] = print) -> None:
        """Prints, by `print_fn`, a table of the choices and how many networks they make."""
        print_fn(table(self.tree, self._noun))

    def default(self) -> dict[str, Any]:
        """The point with the default of every choice, repaired if it does not fit.

        Of Keras models it is another point that fits if the default does not.
        """
        return self.default_point().values

    def sample(self, seed: int | Random) -> dict[str, Any]:
        """A random point that fits: the value of each active choice by its name.

        Draws that do not fit are discarded. If nearly all are, later draws follow a distribution
        learned once, under which more fit, and ranges of which the budget leaves little are
        sampled within what it leaves. Every point that fits can occur, but not equally often.

        Args:
            seed: an integer, which always gives the same point, or a `random.Random`.
        """
        return self.sample_point(seed if isinstance(seed, Random) else Random(seed)).values

    def samples(self, seed: int | Random) -> Iterator[dict[str, Any]]:
        """Yields the default, then random points that fit, each with a new network.

        Ends after 100 samples in a row without a new one. The seed is as in `sample`.
        """
        random = seed if isinstance(seed, Random) else Random(seed)
        seen: set[Hashable] = set()
        point, repeats = self.default_point(), 0
        while repeats < _REPEATS:
            key = self.key_of(point)
            if key in seen:
                repeats += 1
            else:
                seen.add(key)
                repeats = 0
                yield point.values
            point = self.sample_point(random)

    def build(self, values: Mapping[str, Any], name: str | None = None) -> Architecture | Any:
        """The network or the new layer at a point, without repair.

        Args:
            values: a point as `sample` returns it, or as a tuner records it (Optuna's
                `best_params`, Keras Tuner's `hp.values`, the values of a `kb.tuner.Record`).
                Entries of a `Recipe`, of other spaces and of the tuner itself are ignored.
            name: the name that `suggest` got for the network or block.

        Raises:
            ValueError: if a value is missing, unknown or no option, or the builder refuses them.
        """
        return self.made(self.point(values, name), name)[0]

    def suggest(self, trial: Any, name: str | None = None) -> Architecture | Any:
        """The network or the new layer at a point that an Optuna trial suggests.

        Asks the trial for active choices only, repairs a point that does not fit, and stores the
        network as JSON in the trial's user attribute "kblocks/network".

        Args:
            trial: an Optuna trial, or an object with the same methods. Values enqueued for it
                (`study.enqueue_trial`) may have the form that `sample` returns.
            name: a name for the network or block if the trial has several. The choices of a
                network are then called "name/choice", those of a block "name.choice", and its
                JSON "kblocks/network/name"; the JSON of a block is that of a network with this
                one row. A block's layer has this name too.

        Raises:
            ValueError: if the trial has a network with that name, an enqueued value is no option,
                or an integer goes beyond 2**53, which Optuna would not record exactly.
            optuna.TrialPruned: if a Keras model does not fit.
        """
        key = network_key(name)
        refuse_second(trial, name)
        drawn = self.tree.suggest(trial, prefix_of(name, self.is_of_blocks))
        try:
            made, network = self.made(self.nearest(drawn), name)
        except OverBudgetError as error:
            raise pruned(error) from error
        if network is not None:
            trial.set_user_attr(key, network.to_json())
        return made

    def repair(self, values: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
        """A point that fits, near the given one; that one itself if it fits already.

        Reduces filters first, then blocks, then kernel sizes, then takes `same` padding, and
        changes anything else last. The same point always has the same repair. The arguments and
        errors are those of `build`; ValueError also if the space is of Keras models.
        """
        if self.is_of_models:
            raise ValueError(
                "`repair` is for spaces of networks and blocks. A Keras model that does not fit is "
                f"drawn anew (space.sample). Received: {self!r}"
            )
        return self.nearest(self.point(values, name)).values

    def key(self, values: Mapping[str, Any]) -> Hashable:
        """A hashable key, equal for points that have equal networks.

        After `within` it is also equal for networks that differ only in arguments without effect
        on an input of that size: see `Architecture.canonical`. The point is as in `build`.
        """
        return self.key_of(self.point(values))

    def key_of(self, point: Point) -> Hashable:
        """`key` of a `Point`; of a Keras model its values."""
        return tuple(point.recorded.items()) if self._models else point.key(self.input_shape)

    def made(self, point: Point, name: str | None = None) -> tuple[Any, Architecture | None]:
        """`build` of a `Point`, and its network, which a Keras model has not."""
        if self._models:
            return self._models.take(point), None
        bound = point.bound
        return bound.made(name), bound.network

    def forget(self) -> None:
        """Frees the Keras model that was built to learn its cost, if one waits for its trial."""
        if self._models:
            self._models.forget()

    def look(self) -> Any:
        """The network or the Keras model of the default point, to read from and not to train."""
        point = self.default_point()
        return self._models.look(point) if self._models else point.network

    def point(self, values: Mapping[str, Any], name: str | None = None) -> Point:
        """The `Point` with these values; arguments and errors are those of `build`."""
        start, tree = prefix_of(name, self.is_of_blocks), self.tree
        arguments = {**tree.fixed, **tree.varied}
        named = {str(key): value for key, value in values.items()}
        own = {
            key.removeprefix(start): value
            for key, value in named.items()
            if key.startswith(start)
            and (start or key in tree.dimensions or not is_of_others(key, arguments))
        }
        return self.tree.read(own)

    def default_point(self) -> Point:
        """`default` as a `Point`."""
        return self._anchor if self._models else self.nearest(self.tree.default())

    def sample_point(self, random: Random) -> Point:
        """`sample` as a `Point`."""
        if self._models:
            drawn = (self.tree.draw(random) for _ in range(_DRAWS))
            return next(filter(self._fits, drawn), self._anchor)
        found = sampling.drawn(self.tree, self._fits, self._learned, random)
        if found is None:
            found = self._anchor
            if not self.tree.is_large:  # `redrawn` samples wide ranges again
                known = {name: found[name] for name in sampling.wide(self.tree)}
                found = self.nearest(self.tree.draw(random).moved(known))
            found = sampling.redrawn(self.tree, self._fits, found, random)
        return found

    def nearest(self, point: Point) -> Point:
        """`repair` of a `Point`; OverBudgetError for one of a Keras model that does not fit."""
        if self._models and not self._fits(point):
            raise OverBudgetError(f"{point.values} {self._reason(point)}")
        return self._repair.nearest(point, self._anchor)

    def violation(self, point: Point, exactly: bool = True) -> Violation | None:
        """How far a point is from fitting; None if it fits. `exactly`: also by how many pixels."""
        shape = self.input_shape
        if shape is None and not (self._is_searched or self._conditions):
            return None
        try:
            bound = point.bound
            if not bound.is_allowed():
                return 3, 0.0
            if self._models:
                broken = self._models.exceeded(point, shape, self.budget) if shape else {}
            else:
                net = bound.network
                if shape is None:
                    return None
                cost = net.cost(shape) if exactly else net.cost_if_alive(shape)
                if cost is None:
                    return 2, 0.0
                broken = self.budget.exceeded(cost, self.budget.memory(net, shape))
        except InputTooSmallError as error:
            return 2, error.missing
        except ValueError:
            return 3, 0.0
        return (1, sum(map(math.log, broken.values()))) if broken else None

    def _fits(self, point: Point) -> bool:
        return self.violation(point, exactly=False) is None

    def _bind(self, arguments: dict[str, Any]) -> Bound:
        if not self._is_searched:
            return Bound(self._source, arguments, self._conditions)
        inner = arguments.pop(_BUILDER)
        return inner.with_arguments(arguments, self._conditions)

    def _nothing_fits(self) -> str:
        """What no point of this space does, and how near the nearest that was found comes."""
        problem = f"Nothing in this space fits an input of {self.input_shape} and {self.budget}"
        if self.input_shape is None:
            problem = "Nothing was found of which `where` is true"
        nearest = self._anchor
        return f"{problem}. The nearest that was found, {nearest.values}, {self._reason(nearest)}"

    def _reason(self, point: Point) -> str:
        try:
            if not point.bound.is_allowed():
                return "is not what `where` asks for"
            if self._models:
                cost, memory = self._models.cost(point, self.input_shape, self.budget), {}
            else:
                cost = point.network.cost(self.input_shape)
                memory = self.budget.memory(point.network, self.input_shape)
        except ValueError as error:
            return f"fails: {error}"
        parts = []
        for name, ratio in self.budget.exceeded(cost, memory).items():
            measure = name.removeprefix("min_")
            amount = memory[measure] if measure in memory else getattr(cost, measure)
            far = f"{ratio:.2f} times its limit" if measure == name else f"1/{ratio:.2f} of {name}"
            parts.append(f"{measure}={amount:,} ({far})")
        return "has " + ", ".join(parts)


def _unbounded(space: Space) -> Space:
    if space.input_shape is not None:
        raise ValueError(
            "`builder` must be a Space before `within`, which goes with the outer one. "
            f"Received: a Space within {space.input_shape}"
        )
    return space


def _node(source: Any, outer: set[str]) -> Any:
    """The node of a builder with its arguments but the `outer` ones; resolves to a `Bound`."""
    match source:
        case Choice(options):
            return replace(source, options=tuple(_node(option, outer) for option in options))
        case Fixed(value):
            return Fixed(_node(value, outer))
        case Space():
            own = {k: v for k, v in _unbounded(source)._arguments.items() if k not in outer}
            inner = {_BUILDER: _node(source._source, outer | set(own)), **own}

            def bind(builder: Bound, **arguments: Any) -> Bound:
                return builder.with_arguments(arguments, source._conditions)

            return Call(bind, inner, name_of(source._source))
    check_builder(source)
    return Call(lambda: Bound(source, {}), {}, name_of(source))
