"""A builder with its bound arguments, and the `where` conditions on them."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from kblocks.blocks.block import Block
from kblocks.heads.attaching import Head
from kblocks.networks.architecture import Architecture

_OF_KERAS = ("name", "dtype", "trainable", "data_format")  # a block's arguments without a field
_NETWORK = "network"  # a condition's parameter of this name receives the architecture


class Condition:
    """A `where` function of a space's arguments or its `network`; TypeError for any other."""

    def __init__(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        if not callable(function):
            raise TypeError(f"`where` must be a function. Received: where={function!r}")
        self._function = function
        self._names: list[str] = []
        self._asks_network = self._asks_all = False
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                self._asks_all = True
            elif name in arguments:
                self._names.append(name)
            elif name == _NETWORK:
                self._asks_network = True
            elif parameter.default is parameter.empty:
                raise TypeError(
                    f"`where` asks for {name!r}, which is neither 'network' nor an argument of "
                    f"this space ({', '.join(arguments) or 'it has none'})"
                )

    def holds(self, bound: "Bound") -> bool:
        """Whether the function returns true for these arguments and their network."""
        given = bound.arguments
        asked = dict(given) if self._asks_all else {name: given[name] for name in self._names}
        if self._asks_network:
            asked[_NETWORK] = bound.network
        return bool(self._function(**asked))


@dataclass(frozen=True)
class Bound:
    """A builder with its plain arguments and the conditions on them."""

    builder: Any
    arguments: dict[str, Any]
    conditions: tuple[Condition, ...] = ()

    @functools.cached_property
    def network(self) -> Architecture:
        """The network that the builder makes, whether allowed or not; of a block one of one row."""
        if self.is_block:
            own = {k: value for k, value in self.arguments.items() if k not in _OF_KERAS}
            return Architecture([("block", self.builder.Spec(**own))], name=name_of(self.builder))
        net = self.product
        if isinstance(net, keras.Model):
            raise TypeError(
                f"{name_of(self.builder)} returns Keras models, which have no Architecture, and so "
                "no JSON, no repair and no `network` for `where`; its default point must build"
            )
        if not isinstance(net, Architecture):
            raise TypeError(
                "The builder must be a block's class, or must return an Architecture or a Keras "
                f"model. Received: {net!r}"
            )
        return net

    @functools.cached_property
    def product(self) -> Any:
        return self.builder(**self.arguments)

    @property
    def model(self) -> keras.Model:
        """The Keras model that the builder returns."""
        if not isinstance(self.product, keras.Model):
            raise TypeError(
                f"{name_of(self.builder)} must return a Keras model, as the default of its space "
                f"does. Received: {self.product!r}"
            )
        return self.product

    @property
    def is_block(self) -> bool:
        """Whether the builder is a block's class."""
        return isinstance(self.builder, type) and issubclass(self.builder, Block)

    def made(self, name: str | None = None) -> Any:
        """What users get: the network, or a new layer, called `name` unless the space names it."""
        return self.builder(**{"name": name, **self.arguments}) if self.is_block else self.network

    def with_arguments(
        self, arguments: Mapping[str, Any], conditions: tuple[Condition, ...]
    ) -> "Bound":
        """A copy with more conditions and arguments; new arguments replace old ones."""
        every = {**self.arguments, **arguments}
        return Bound(self.builder, every, (*self.conditions, *conditions))

    def is_allowed(self) -> bool:
        """Whether all conditions hold."""
        return all(condition.holds(self) for condition in self.conditions)


def name_of(builder: Any) -> str:
    """The name of a builder, or of its type if it has none."""
    return str(getattr(builder, "__name__", type(builder).__name__))


def check_builder(source: Any) -> None:
    """Raises TypeError unless networks, blocks or models can be made by calling `source`."""
    if isinstance(source, type) and issubclass(source, Head):
        name = name_of(source)
        raise TypeError(
            f"`builder` must not be a head of several rows, which read the maps of a network: "
            f"kb.Space(kb.resnet, head=kb.{name}(...)) has one. Received: builder=kb.{name}"
        )
    if not callable(source) or isinstance(source, Architecture):
        raise TypeError(f"`builder` must be a function or a Space. Received: builder={source!r}")
