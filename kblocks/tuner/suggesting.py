"""Choices as Keras Tuner hyperparameters, and the networks that trials have of them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import keras_tuner

from kblocks.networks.architecture import Architecture
from kblocks.search_space.choices import Choice, Integer, Real, Searchable
from kblocks.search_space.models import OverBudgetError
from kblocks.search_space.names import NETWORK, START, network_key, prefix_of
from kblocks.search_space.recording import check_recordable
from kblocks.search_space.space import Space
from kblocks.search_space.tree import Point, Tree

OVER_BUDGET = "over budget"  # begins the message of a trial whose Keras model does not fit


def suggest(hp: Any, space: Space, name: str | None = None) -> Architecture | Any:
    """The network, the new layer or the Keras model of a trial's point, for your own `build(hp)`.

    Declares the space's choices in `hp`. A point that does not fit (see `space.within`) is
    repaired, but a Keras model over the budget fails the trial. `hp.values["kblocks/network"]`
    holds the JSON of the network.

    Args:
        hp: the trial's `keras_tuner.HyperParameters`.
        space: a `kb.Space`.
        name: the name of this network or block, needed if a trial has several, as in
            `kb.Space.suggest`.

    Raises:
        ValueError: if this trial has a network or block of that name from another space, or `hp`
            holds a value that the space does not have.
        keras_tuner.errors.FailedTrialError: if a Keras model does not fit.

    Example:
        >>> block = kb.Space(kb.ResidualBlock, filters=kb.choice(16, 32), strides=kb.choice(1, 2))
        >>> def build(hp):
        ...     inputs = x = keras.Input((28, 28, 1))
        ...     for number in range(hp.Int("blocks", 1, 4)):
        ...         x = kb.tuner.suggest(hp, block, name=f"block{number}")(x)
        ...     model = keras.Model(inputs, kb.Classifier(10)(x))
        ...     model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        ...     return model
    """
    point = read_point(hp, space.tree, prefix_of(name, space.is_of_blocks))
    try:
        made, network = space.made(space.nearest(point), name)
    except OverBudgetError as error:
        raise keras_tuner.errors.FailedTrialError(f"{OVER_BUDGET}: {error}") from error
    text = network.to_json() if network is not None else ""
    _refuse_other(hp, name, space, point.values, text)
    if text:
        hp.values = Values({**hp.values, network_key(name): text})
    return made


# By a network's name: its space's choices, their values, and the network's JSON.
_Suggested = dict[str | None, tuple[dict[str, Any], dict[str, Any], str]]
_SUGGESTED: WeakKeyDictionary[Any, _Suggested] = WeakKeyDictionary()


def _refuse_other(
    hp: Any, name: str | None, space: Space, values: dict[str, Any], net: str
) -> None:
    """Raises if another space has already suggested a network of this name.

    The same space may do so again: Keras Tuner builds a trial's model several times.
    """
    earlier = _SUGGESTED.setdefault(hp, {})
    dimensions = space.tree.dimensions.items()
    # Options by their labels: those of a space made in each `build` may be other objects.
    kinds = {n: d.kind.written if isinstance(d.kind, Choice) else d.kind for n, d in dimensions}
    now = kinds, values, net
    before, known, network = earlier.setdefault(name, now)
    if before != kinds or (known == values and network != net):
        raise ValueError(
            "Each space of a trial must have a name of its own: kb.tuner.suggest(hp, space, "
            f"name='teacher'). Received: name={name!r} for a second space"
        )
    earlier[name] = now


class Values(dict[str, Any]):
    """A trial's values and networks; `keys` leaves out the networks.

    Keras Tuner recognizes a point that it has drawn before by a hash over `keys`, which it takes
    again at the end of a trial. If the networks were in it, a point could be drawn repeatedly.
    """

    def keys(self) -> Any:
        return [name for name in self if not name.startswith((NETWORK, START))]


def network_of(hp: Any, name: str | None = None) -> Architecture:
    """The network that was built for a trial, even if its space has changed since.

    A block is the only row of a network.

    Args:
        hp: the trial's `keras_tuner.HyperParameters`, or their dict of values.
        name: the name of the network, if `suggest` was given one.

    Raises:
        ValueError: if `hp` holds no network of that name.
    """
    values = hp if isinstance(hp, Mapping) else hp.values
    key = network_key(name)
    if key not in values:
        of = "" if name is None else f" of the name {name!r}"
        raise ValueError(f"`hp` must be of a trial that built a network{of}. Received: {values!r}")
    return Architecture.from_json(values[key])


def read_point(hp: Any, tree: Tree, prefix: str = "") -> Point:
    """The point of a tree that `hp` holds; declares the choices that `hp` lacks.

    In `hp`, the names of choices begin with `prefix`.
    """

    def value_of(name: str) -> Any:
        if f"{prefix}{name}" not in hp:
            declare_all(hp, tree, prefix)
        return hp.get(f"{prefix}{name}")

    return tree.ask(value_of)


def declare_all(hp: Any, tree: Tree, prefix: str = "") -> None:
    """Declares every choice of a tree in the scopes of its conditions.

    Keras Tuner notes each conditional scope that it meets, in order to build the model once more
    for it. All choices inside are declared here, so these notes are removed again.
    """
    seen = len(hp.active_scopes), len(hp.inactive_scopes)
    for name, dimension in tree.dimensions.items():
        with contextlib.ExitStack() as scopes:
            for parent, labels in _scopes(tree, name):
                scopes.enter_context(hp.conditional_scope(f"{prefix}{parent}", labels))
            declare(hp, f"{prefix}{name}", dimension.kind)
    del hp.active_scopes[seen[0] :], hp.inactive_scopes[seen[1] :]


def _scopes(tree: Tree, name: str) -> list[tuple[str, list[Any]]]:
    """The conditional scopes in which a choice is declared, each a parent and some of its values.

    Keras Tuner loses the value of a name declared under two stacks of scopes, so all places of a
    choice share one stack. If they have different parents, it is the common beginning of their
    stacks: the choice is then active more often than needed.
    """
    positions: dict[str, set[int]] = {}
    for condition in tree.dimensions[name].conditions:
        if not condition:
            return []
        positions.setdefault(condition[-1][0], set()).add(condition[-1][1])
    stacks = []
    for parent, found in positions.items():
        kind = tree.dimensions[parent].kind
        values = [kind.recorded(position) for position in sorted(found)]
        stacks.append([*_scopes(tree, parent), (parent, values)])
    levels = zip(*stacks, strict=False)
    common = itertools.takewhile(lambda level: level.count(level[0]) == len(level), levels)
    return [level[0] for level in common]


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
