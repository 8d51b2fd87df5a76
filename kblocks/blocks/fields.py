"""The types of a block's arguments, each with its check at the door.

A field is annotated with one of these; `Block` runs the check once, when a block or Spec
is made, and keeps what it returns: pairs for sizes, configs for initializers.
"""

from __future__ import annotations

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

# What repeats in a block, such as its convolutions, each with parts of its own: far more than any
# network has, and few enough for a plan to be made.
_MOST_REPEATS = 10_000


@dataclass(frozen=True)
class Check:
    """What is `expected`, in words, and the function that returns the value's one form.

    `normalise` raises TypeError or ValueError for what it does not take.
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
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError
    if not least <= int(value) <= most:
        raise ValueError
    return int(value)


def _pair(value: Any, least: int) -> tuple[int, int]:
    if isinstance(value, (tuple, list)):
        first, second = value
        return _integer(first, least), _integer(second, least)
    value = _integer(value, least)
    return value, value


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or math.isnan(value):
        raise ValueError
    return float(value)


def _rate(value: Any) -> float:
    value = _real(value)
    if not 0.0 <= value < 1.0:
        raise ValueError
    return value


def _fraction(value: Any) -> float:
    value = _real(value)
    if not 0.0 < value <= 1.0:
        raise ValueError
    return value


def _positive(value: Any) -> float:
    value = _real(value)
    if not 0.0 < value < math.inf:
        raise ValueError
    return value


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
        return _one_of(("same", "valid", "symmetric"), value)
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
    # These two are no functions of one element: glu halves the channels, threshold wants more.
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
    """A layer's config without what each place that it stands in gives it anew."""
    own = {k: v for k, v in config["config"].items() if k not in ("name", "dtype", "trainable")}
    config = {**config, "config": own}
    layer = keras.saving.deserialize_keras_object(config)
    map_ = keras.KerasTensor((1, 4, 4, 6))
    if layer(map_).shape != map_.shape or layer.weights:  # both would escape the cost model
        raise ValueError
    return FrozenConfig(config)


def _activation_config(value: Any) -> Any:
    return value if isinstance(value, (str, Mapping)) else keras.activations.serialize(value)


def leaky_relu(negative_slope: float) -> FrozenConfig:
    """The config of `keras.layers.LeakyReLU`, without the layer, which takes time to make."""
    return FrozenConfig(
        module="keras.layers",
        class_name="LeakyReLU",
        config={"negative_slope": negative_slope},
        registered_name=None,
    )


def _config_of(module: Any) -> Callable[[Any], Any]:
    """Names stay, objects become their config: each variable gets an object of its own."""

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
        module.get(dict(config))  # fails here, not in build, for what Keras could not load either
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
    """A sequence of at least one."""
    if not isinstance(value, (tuple, list)) or not value:
        raise ValueError
    return tuple(item(inner) for inner in value)


def _sizes(value: Any) -> tuple[tuple[int, int], ...]:
    value = value if isinstance(value, (tuple, list)) else (value,)
    return _some(lambda size: _pair(size, 1), value)


Count = Annotated[int, Check("a positive integer", lambda value: _integer(value, 1))]
Repeats = Annotated[
    int,
    Check(
        f"an integer from 1 to {_MOST_REPEATS:,}", lambda value: _integer(value, 1, _MOST_REPEATS)
    ),
]
Counts = Annotated[tuple[int, ...], Check("a sequence of positive integers", _each)]
Size = Annotated[
    int | tuple[int, int],
    Check("a positive integer or a pair of them (height, width)", lambda value: _pair(value, 1)),
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
Rate = Annotated[float, Check("a number from 0 up to but not including 1", _rate)]
Fraction = Annotated[float, Check("a number over 0 and up to 1", _fraction)]
Positive = Annotated[float, Check("a number over 0", _positive)]
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

_PLAIN = {
    int: Check("an integer", lambda value: _integer(value, -(2**63))),
    float: Check("a number", _real),
    bool: Check("True or False", _boolean),
    str: Check("a string", lambda value: _one_of((str(value),), value)),
}


def check_of(annotation: Any) -> tuple[Check | None, bool]:
    """The check that an annotation asks for, and whether None passes."""
    if get_origin(annotation) is Annotated:
        return next((m for m in annotation.__metadata__ if isinstance(m, Check)), None), False
    if get_origin(annotation) is Literal:
        options = get_args(annotation)
        listed = ", ".join(repr(option) for option in options)
        return Check(f"one of {listed}", functools.partial(_one_of, options)), False
    members = get_args(annotation)
    if type(None) in members:
        inner = [member for member in members if member is not type(None)]
        return (check_of(inner[0])[0] if len(inner) == 1 else None), True
    return _PLAIN.get(annotation), False
