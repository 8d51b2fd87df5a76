"""A Space's choices as Keras Tuner's hyperparameters, and the network of a trial."""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras
import keras_tuner

from kblocks.model_tools.timing import latency as measured_latency
from kblocks.networks.architecture import Architecture
from kblocks.search_space.budget import Budget
from kblocks.search_space.choices import Choice, Integer, Real, Searchable, check_recordable
from kblocks.search_space.space import NETWORK, Space, network_key, prefix_of
from kblocks.search_space.tree import Assignment, Tree
from kblocks.training.preparing import prepare
from kblocks.training.recipe import Recipe, fresh


class HyperModel(keras_tuner.HyperModel):
    """The networks of a space, for any tuner of Keras Tuner.

    A point that a tuner draws and that does not fit is repaired before anything is built;
    the drawn values stay as they are, and what was built is kept as JSON under
    `hp.values["kblocks/network"]`.

    Args:
        space: a `kb.Space` that knows its input: `space.within(input_shape, budget)`.
        recipe: a `kb.Recipe`; its choices are searched too. None is `kb.Recipe()`.
        compile: in place of a recipe, the arguments of `model.compile` as a dict, or a
            function of the model and `hp` that compiles it.
        latency: whether each trial's model is timed too, which takes about a second.
        name: of the hypermodel.

    The logs of every epoch have `params`, `macs`, `activations` and, where it is measured,
    `latency` (seconds for one image, `kb.latency`): `keras_tuner.Objective("macs", "min")`.

    Raises:
        ValueError: if the space does not know its input, both recipe and compile are given, or
            an integer goes beyond 2**53, which tuners do not record exactly.
    """

    def __init__(
        self,
        space: Space,
        recipe: Recipe | None = None,
        compile: Mapping[str, Any] | Callable[[keras.Model, Any], None] | None = None,
        latency: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        if not isinstance(space, Space) or space.input_shape is None:
            raise ValueError(
                "`space` must be a kblocks.Space that knows its input: space.within(input_shape). "
                f"Received: space={space!r}"
            )
        if recipe is not None and compile is not None:
            raise ValueError("`recipe` and `compile` exclude each other. Received: both")
        if recipe is not None and not isinstance(recipe, Recipe):
            raise ValueError(f"`recipe` must be a kblocks.Recipe. Received: recipe={recipe!r}")
        self.space = space
        self.recipe = recipe or Recipe()
        self.compile = compile
        self.latency = latency
        for own, kind in self.dimensions().items():
            check_recordable(own, kind)

    def declare_hyperparameters(self, hp: Any) -> None:
        """All choices at once, so that no model is built to find them."""
        _declare(hp, self.space.tree)
        if self.compile is None:
            _declare(hp, self.recipe.tree())

    def within(self, budget: Budget) -> HyperModel:
        """The same over the networks of a budget."""
        other = copy.copy(self)
        other.space = self.space.within(self.space.input_shape, budget)
        return other

    def dimensions(self) -> dict[str, Searchable]:
        """All choices by name: those of the space and of the recipe."""
        trees = [self.space.tree] + ([self.recipe.tree()] if self.compile is None else [])
        return {name: d.kind for tree in trees for name, d in tree.dimensions.items()}

    def build(self, hp: Any) -> keras.Model:
        """The compiled model of the values in `hp`, repaired where they do not fit."""
        model = suggest(hp, self.space).model(self.space.input_shape)
        if self.compile is None:
            tree = self.recipe.tree()
            self.recipe.compile(model, **tree.resolve(_read(hp, tree)))
            return model  # which the recipe has prepared
        if isinstance(self.compile, Mapping):
            model.compile(**_fresh(self.compile))
        else:
            self.compile(model, hp)
        return prepare(model) if model.compiled else model

    def check_targets(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Refuses arguments of `fit` whose targets no trial could be trained on.

        Looks at arrays, and at the shapes of TensorFlow's datasets.

        Raises:
            ValueError: with the argument, the form that fits and what came.
        """
        kind = type(self)
        if self.compile is not None or (kind.build, kind.fit) != (HyperModel.build, HyperModel.fit):
            return
        tasks = self.space.build(self.space.default()).head
        for name, value in named(args, kwargs).items():
            targets = value
            if name in ("x", "validation_data"):
                pair = getattr(value, "element_spec", value if name != "x" else None)
                targets = pair[1] if isinstance(pair, (tuple, list)) and len(pair) > 1 else None
            if name in ("x", "y", "validation_data") and targets is not None:
                try:
                    self.recipe.check(tasks, targets)
                except ValueError as error:
                    raise ValueError(f"`{name}` of fit: {error}") from error

    def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        """`model.fit`, with the recipe's schedule and what the network costs in its logs."""
        net = network_of(hp)
        added: list[Any] = []
        if self.compile is None:
            tree = self.recipe.tree()
            chosen = tree.resolve(_read(hp, tree))
            epochs = named(args, kwargs).get("epochs", 1)
            added = self.recipe.callbacks(epochs, **chosen)
        costs = CostLogs(net, self.space.input_shape, self.latency)
        # First, so that the tuner's own callbacks find the costs in the logs.
        kwargs["callbacks"] = [costs, *(kwargs.get("callbacks") or ()), *added]
        return super().fit(hp, model, *args, **kwargs)


def named(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `model.fit` by their names."""
    names = [name for name in inspect.signature(keras.Model.fit).parameters if name != "self"]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def costs_of(net: Architecture, input_shape: Any) -> dict[str, int]:
    """What a network costs, by the names that logs and records have for it."""
    cost = net.cost(input_shape)
    return {"params": cost.params, "macs": cost.macs, "activations": cost.activations}


class CostLogs(keras.callbacks.Callback):
    """Adds what a network costs to the logs of every epoch.

    Args:
        net: the architecture that is trained.
        input_shape: (height, width, channels).
        latency: whether its model is timed, once before training.
    """

    def __init__(self, net: Architecture, input_shape: Any, latency: bool = True) -> None:
        super().__init__()
        self._costs: dict[str, float] = {**costs_of(net, input_shape)}
        self._timed = latency

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Times the model."""
        model: Any = self.model
        if self._timed:
            self._costs["latency"] = measured_latency(model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the costs."""
        if logs is not None:
            logs.update(self._costs)


def suggest(hp: Any, space: Space, name: str | None = None) -> Architecture:
    """The network that a trial's values stand for, for a `build(hp)` of one's own.

    Declares the space's choices in `hp`. Where `space.within` says what fits, values that do
    not are repaired. What comes out is kept as JSON under `hp.values["kblocks/network"]`.

    Args:
        hp: the trial's hyperparameters.
        space: of the network.
        name: of this network, where a trial has several: its choices are then called
            "name/choice", and its JSON "kblocks/network/name".

    Raises:
        ValueError: if another space has given this trial a network of that name.
    """
    key, scoped = network_key(name), prefix_of(name) != ""
    with hp.name_scope(name) if scoped else contextlib.nullcontext():
        values = space.tree.values(_read(hp, space.tree))
    net = space.build(space.repair(values))
    told = net.to_json()
    _refuse_other(hp, name, space, values, told)
    hp.values = _Values({**hp.values, key: told})
    return net


# What was suggested under each name: of which choices, of which values, and the network.
_Suggested = dict[str | None, tuple[list[str], dict[str, Any], str]]
_SUGGESTED: WeakKeyDictionary[Any, _Suggested] = WeakKeyDictionary()


def _refuse_other(
    hp: Any, name: str | None, space: Space, values: dict[str, Any], net: str
) -> None:
    """Raises if another space was asked for a network of this name.

    The same space may be asked again: Keras Tuner builds a trial's model several times.
    """
    earlier = _SUGGESTED.setdefault(hp, {})
    now = space.names(), values, net
    names, known, network = earlier.setdefault(name, now)
    if names != now[0] or (known == values and network != net):
        raise ValueError(
            "Each space of a trial must have a name of its own: kb.tuner.suggest(hp, space, "
            f"name='teacher'). Received: name={name!r} for a second space"
        )
    earlier[name] = now


class _Values(dict[str, Any]):
    """A trial's values and its networks, which `keys` leaves out.

    Keras Tuner knows a point that it has drawn before by a hash over `keys`, taken anew at
    the end of a trial: with the network in it every point could be drawn again and again.
    """

    def keys(self) -> Any:
        return [name for name in self if not name.startswith(NETWORK)]


def network_of(hp: Any, name: str | None = None) -> Architecture:
    """The network that was built for a trial, whatever became of the space since.

    Args:
        hp: the trial's hyperparameters, or their dict of values.
        name: of the network, where `suggest` was given one.

    Raises:
        ValueError: if no network of ours, or none of that name, was built for them.
    """
    values = hp if isinstance(hp, Mapping) else hp.values
    key = network_key(name)
    if key not in values:
        of = "" if name is None else f" of the name {name!r}"
        raise ValueError(f"`hp` must be of a trial that built a network{of}. Received: {values!r}")
    return Architecture.from_json(values[key])


def _fresh(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """compile's arguments for one trial: optimizers and metrics cannot be used twice."""
    made = dict(arguments)
    optimizer: Any = made.get("optimizer")
    if isinstance(optimizer, keras.optimizers.Optimizer):
        made["optimizer"] = type(optimizer).from_config(optimizer.get_config())
    for name in {"metrics", "weighted_metrics"} & set(made):
        made[name] = fresh(made[name])
    return made


def _read(hp: Any, tree: Tree) -> Assignment:
    """The positions of a tree's dimensions from `hp`, where they are declared if they are not."""
    assignment = _found(hp, tree)
    if any(name not in hp for name in tree.values(assignment)):
        _declare(hp, tree)
        assignment = _found(hp, tree)
    return assignment


def _found(hp: Any, tree: Tree) -> Assignment:
    assignment = tree.default()
    for name, dimension in tree.dimensions.items():
        if name in hp:
            value = hp.get(name)
            try:
                assignment[name] = dimension.kind.index(value)
            except ValueError as error:
                raise ValueError(
                    f"`hp` must hold a value of this space for {name!r}. Received: {value!r}"
                ) from error
    return assignment


def _declare(hp: Any, tree: Tree) -> None:
    """Every dimension under its conditions.

    Keras Tuner notes each conditional scope it sees in order to build the model once more for
    it. We have declared what is inside already, so these notes are taken away again.
    """
    seen = len(hp.active_scopes), len(hp.inactive_scopes)
    for name, dimension in tree.dimensions.items():
        with contextlib.ExitStack() as scopes:
            for parent, labels in _scopes(tree, name):
                scopes.enter_context(hp.conditional_scope(parent, labels))
            declare(hp, name, dimension.kind)
    del hp.active_scopes[seen[0] :], hp.inactive_scopes[seen[1] :]


def _scopes(tree: Tree, name: str) -> list[tuple[str, list[Any]]]:
    """The scopes that a dimension is declared in, each a parent and some of its values.

    Keras Tuner loses the value of a name that it meets under two stacks of scopes, so that
    there is one for all places of a choice. Where these have different parents it is what
    their stacks begin with in common: the choice is then active more often than needed.
    """
    positions: dict[str, set[int]] = {}
    for condition in tree.dimensions[name].conditions:
        if not condition:
            return []
        positions.setdefault(condition[-1][0], set()).add(condition[-1][1])
    stacks = []
    for parent, found in positions.items():
        labels = _written(tree.dimensions[parent].kind)
        stacks.append([*_scopes(tree, parent), (parent, [labels[i] for i in sorted(found)])])
    levels = zip(*stacks, strict=False)
    common = itertools.takewhile(lambda level: level.count(level[0]) == len(level), levels)
    return [level[0] for level in common]


def _written(kind: Any) -> list[Any]:
    """What a parent's options are in Keras Tuner."""
    if isinstance(kind, Choice):
        return list(kind.written)
    return [kind.label(index) for index in range(kind.size)]


def declare(hp: Any, name: str, kind: Searchable) -> None:
    """Declares one choice in `hp`."""
    check_recordable(name, kind)
    match kind:
        case Choice():
            hp.Choice(name, list(kind.written), default=kind.written[0])
        case Integer(low, high, step, log):
            sampling = {"sampling": "log"} if log else {"step": step}
            hp.Int(name, low, high, default=low, **sampling)
        case Real(low, high, log):
            sampling = "log" if log else "linear"
            hp.Float(name, low, high, sampling=sampling, default=kind.first)
