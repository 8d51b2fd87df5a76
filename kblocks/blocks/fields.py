"""Types for the fields of blocks, each with a check.

The check runs once, when a block or Spec is made, and the Spec keeps what the check returns: pairs
for sizes, configs for initializers.
"""

import functools
import json
import math
import numbers
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import keras
import numpy as np

from kblocks.plans.ops import Norm

# The most repeats in a block, such as its convolutions: far more than any network has, and few
# enough to make a plan of them.
_MOST_REPEATS = 10_000


@dataclass(frozen=True)
class Check:
    """The check of a field: what is `expected`, in words, and two functions of the value.

    `normalise` returns the value in the form that Specs keep and raises TypeError or ValueError if
    it is invalid; `serialise` turns that form into JSON types.
    """

    expected: str
    normalise: Callable[[Any], Any]
    serialise: Callable[[Any], Any] = lambda value: value


class FrozenConfig(dict):
    """A Keras config that can be a field of a hashable Spec."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(json.dumps(self, sort_keys=True, default=str))


def _integer(value: Any, least: int, most: float = math.inf) -> int:
    if type(value) is int and least <= value <= most:
        return value
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or not least <= int(value) <= most:
        raise ValueError
    return int(value)


def _pair(value: Any, least: int = 1) -> tuple[int, int]:
    if isinstance(value, (tuple, list)):
        first, second = value
        return _integer(first, least), _integer(second, least)
    value = _integer(value, least)
    return value, value


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or math.isnan(value):
        raise ValueError
    return float(value)


def _number(fits: Callable[[float], bool]) -> Callable[[Any], float]:
    def normalise(value: Any) -> float:
        value = _real(value)
        if not fits(value):
            raise ValueError
        return value

    return normalise


def _boolean(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError
    return bool(value)


def _one_of(options: tuple[Any, ...], value: Any) -> Any:
    if value not in options:
        raise ValueError
    return value


def _padding(value: Any) -> str | tuple[int, int]:
    if isinstance(value, str):
        return _one_of(("same", "valid", "symmetric"), value.lower())  # as Keras takes "SAME"
    return _pair(value, 0)


def _pool_kind(value: Any) -> str:
    return _one_of(("max", "avg", "min"), "avg" if value == "average" else value)


_NORMS = ("batch", "layer", "group", "weight")


def _norm(value: Any) -> Norm:
    if isinstance(value, str):
        value = Norm(_one_of(_NORMS, value))
    elif isinstance(value, Mapping):
        value = Norm(**value)
    elif not isinstance(value, Norm):
        raise ValueError
    groups = value.groups
    if value.kind not in _NORMS or value.epsilon <= 0 or not 0 <= value.momentum <= 1:
        raise ValueError
    if not all(isinstance(flag, bool) for flag in (value.scale, value.center, value.synchronized)):
        raise ValueError
    if value.synchronized and value.kind != "batch":
        raise ValueError
    if groups is not None and (value.kind != "group" or _integer(groups, 1) != groups):
        raise ValueError
    return value


def _norm_config(norm: Norm) -> Any:
    default = Norm(norm.kind)
    changed = {k: v for k, v in asdict(norm).items() if v != getattr(default, k)}
    return {"kind": norm.kind, **changed} if changed else norm.kind


@functools.lru_cache
def _activation_name(name: str) -> str:
    # Not element-wise functions of one argument: glu halves the channels, threshold needs more.
    if name in ("glu", "threshold") or keras.activations.get(name) is None:
        raise ValueError
    return name


def _activation(value: Any) -> Any:
    if isinstance(value, str):
        return _activation_name(value)
    if isinstance(value, FrozenConfig):
        return value
    if isinstance(value, Mapping):
        value = keras.saving.deserialize_keras_object(dict(value))
    if isinstance(value, keras.Layer):
        config: Any = keras.saving.serialize_keras_object(value)
        return _activation_layer(config)
    if not isinstance(value, types.FunctionType):
        raise ValueError
    name = keras.activations.serialize(value)
    return _activation_name(name) if isinstance(name, str) else value


def _activation_layer(config: dict[str, Any]) -> FrozenConfig:
    """A layer's config without its name, dtype and trainable, which each block sets itself."""
    own = {k: v for k, v in config["config"].items() if k not in ("name", "dtype", "trainable")}
    config = {**config, "config": own}
    layer = keras.saving.deserialize_keras_object(config)
    map_ = keras.KerasTensor((1, 4, 4, 6))
    if layer(map_).shape != map_.shape or layer.weights:  # which costs leave out
        raise ValueError
    return FrozenConfig(config)


def _activation_config(value: Any) -> Any:
    return value if isinstance(value, (str, Mapping)) else keras.activations.serialize(value)


def leaky_relu(negative_slope: float) -> FrozenConfig:
    """The config of `keras.layers.LeakyReLU`, without making the layer, which takes time."""
    return FrozenConfig(
        module="keras.layers",
        class_name="LeakyReLU",
        config={"negative_slope": negative_slope},
        registered_name=None,
    )


def _config_of(module: Any) -> Callable[[Any], Any]:
    """A `normalise` that keeps names and turns objects into configs, from which all are new."""

    @functools.lru_cache
    def known(name: str) -> str:
        module.get(name)
        return name

    def normalise(value: Any) -> Any:
        if isinstance(value, str):
            return known(value)
        found = module.get(value)
        if found is None or isinstance(found, type):
            raise ValueError
        config = FrozenConfig(module.serialize(found))
        module.get(dict(config))  # what Keras cannot load fails here, not in build
        return config

    return normalise


def _each(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)):
        raise ValueError
    return tuple(_integer(item, 1) for item in value)


def _branch(value: Any) -> tuple[int | str, ...]:
    first, *filters = value if isinstance(value, (tuple, list)) else (value,)
    first = _pool_kind(first) if isinstance(first, str) else _integer(first, 1)
    return (first, *_each(filters))


def _some(item: Callable[[Any], Any], value: Any) -> tuple[Any, ...]:
    """A sequence of one or more values, each normalised by `item`."""
    if not isinstance(value, (tuple, list)) or not value:
        raise ValueError
    return tuple(item(inner) for inner in value)


def _sizes(value: Any) -> tuple[tuple[int, int], ...]:
    return _some(_pair, value if isinstance(value, (tuple, list)) else (value,))


Count = Annotated[int, Check("a positive integer", lambda value: _integer(value, 1))]
_REPEATS = f"an integer from 1 to {_MOST_REPEATS:,}"
Repeats = Annotated[int, Check(_REPEATS, lambda value: _integer(value, 1, _MOST_REPEATS))]
Counts = Annotated[tuple[int, ...], Check("a sequence of positive integers", _each)]
Size = Annotated[
    int | tuple[int, int], Check("a positive integer or a pair of them (height, width)", _pair)
]
Sizes = Annotated[
    int | Sequence[int | tuple[int, int]],
    Check("a positive integer, or a sequence of such and of pairs (height, width)", _sizes),
]
Branches = Annotated[
    Sequence[Any],
    Check(
        "a sequence with an entry for each branch: positive integers, behind the name of a pool "
        "('max', 'avg' or 'min') if it begins with one",
        lambda value: _some(_branch, value),
    ),
]
Padding = Annotated[
    Literal["same", "valid", "symmetric"] | int | tuple[int, int],
    Check("'same', 'valid', 'symmetric', or a number of pixels or a pair of them", _padding),
]
PaddingMode = Literal["zeros", "reflect", "replicate"]
PoolKind = Annotated[
    Literal["max", "avg", "average", "min"], Check("'max', 'avg' or 'min'", _pool_kind)
]
Rate = Annotated[
    float, Check("a number from 0 up to but not including 1", _number(lambda v: 0 <= v < 1))
]
Fraction = Annotated[float, Check("a number over 0 and up to 1", _number(lambda v: 0 < v <= 1))]
Positive = Annotated[float, Check("a number over 0", _number(lambda v: 0 < v < math.inf))]
ActivationLike = Annotated[
    Any,
    Check(
        "the name of a Keras activation, a function, or an activation layer without weights",
        _activation,
        _activation_config,
    ),
]
NormLike = Annotated[
    str | Norm,
    Check("'batch', 'layer', 'group', 'weight', a kblocks.Norm or None", _norm, _norm_config),
]
InitializerLike = Annotated[
    Any, Check("a Keras initializer, registered if your own", _config_of(keras.initializers))
]
RegularizerLike = Annotated[
    Any, Check("a Keras regularizer, registered if your own", _config_of(keras.regularizers))
]

_ANYTHING = Check("anything", lambda value: value)
_PLAIN = {
    int: Check("an integer", lambda value: _integer(value, -(2**63))),
    float: Check("a number", _real),
    bool: Check("True or False", _boolean),
    str: Check("a string", lambda value: _one_of((str(value),), value)),
}


def check_of(annotation: Any) -> Check:
    """The check of an annotated field; of an unknown type, one that accepts anything."""
    if get_origin(annotation) is Annotated:
        return next((m for m in annotation.__metadata__ if isinstance(m, Check)), _ANYTHING)
    members = get_args(annotation)
    if get_origin(annotation) is Literal:
        listed = ", ".join(map(repr, members))
        return Check(f"one of {listed}", functools.partial(_one_of, members))
    if type(None) in members:
        others = [member for member in members if member is not type(None)]
        return _or_none(check_of(others[0])) if len(others) == 1 else _ANYTHING
    return _PLAIN.get(annotation, _ANYTHING)


def _or_none(check: Check) -> Check:
    return Check(
        check.expected if "None" in check.expected else f"{check.expected} or None",
        lambda value: None if value is None else check.normalise(value),
        lambda value: None if value is None else check.serialise(value),
    )


def positive(name: str, value: Any) -> float:
    """An argument that is no field: `value`, or ValueError unless it is a number over 0."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be a number over 0. Received: {name}={value!r}")
    return value
