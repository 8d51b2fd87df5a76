"""The choices that stand in place of arguments; `tree` finds and names them."""

import functools
import math
import numbers
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from kblocks.common.showing import call_of


@dataclass(frozen=True)
class Choice:
    """One of several options; made by `choice` and `boolean`."""

    options: tuple[Any, ...]
    name: str | None = None
    first: ClassVar[int] = 0  # the position of the default

    def __repr__(self) -> str:
        name = "" if self.name is None else f", name={self.name!r}"
        return f"choice({', '.join(map(repr, self.options))}{name})"

    @property
    def size(self) -> int:
        return len(self.options)

    def at(self, share: float) -> int:
        """The position at `share`, in [0, 1), of a range that all options divide equally."""
        return int(share * self.size)

    def share(self, position: int, within: float) -> float:
        """The inverse of `at`: the share at `within`, in [0, 1), of the option's own part."""
        return (position + within) / self.size

    @functools.cached_property
    def labels(self) -> tuple[Any, ...]:
        """The label of each option in a dict of values.

        Numbers, strings and None label themselves; a list becomes a tuple; a function or block
        goes by its name. An option without a label, such as a dict, or with the same label as
        another goes by its position: "#2".
        """
        labels = [label_of(option) for option in self.options]
        counts = Counter(map(_keyed, labels))
        return tuple(
            f"#{i}" if label is _UNNAMED or counts[_keyed(label)] > 1 else label
            for i, label in enumerate(labels)
        )

    @functools.cached_property
    def written(self) -> tuple[Any, ...]:
        """The labels in a form that tuners can store: all integers, all floats or all strings."""
        labels = self.labels
        if len({type(label) for label in labels}) == 1 and type(labels[0]) in (int, float, str):
            return labels
        pairs = [isinstance(label, tuple) and len(label) > 1 for label in labels]
        both = zip(labels, pairs, strict=True)
        written = ["x".join(map(str, o)) if is_pair else str(o) for o, is_pair in both]
        if len(set(written)) < len(written):
            return tuple(f"#{index}" for index in range(len(labels)))
        return tuple(written)

    @functools.cached_property
    def _positions(self) -> dict[Any, int]:
        both = (*enumerate(self.written), *enumerate(self.labels))
        return {_keyed(name): index for index, name in both}

    def label(self, position: int) -> Any:
        """The value of an option in a dict of values."""
        return self.labels[position]

    def recorded(self, position: int) -> Any:
        """The value of an option as tuners record it."""
        return self.written[position]

    def index(self, value: Any) -> int:
        """The position of the option with this label or recorded value; ValueError if none has."""
        try:
            return self._positions[_keyed(_plain(value))]
        except (KeyError, TypeError) as error:  # TypeError: not hashable, so no option
            raise ValueError(f"one of {list(self.labels)}") from error


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`; made by `integer`."""

    low: int
    high: int
    step: int = 1
    log: bool = False
    name: str | None = None
    first: ClassVar[int] = 0  # the position of the default

    def __repr__(self) -> str:
        return call_of(self, "integer")

    @property
    def size(self) -> int:
        return (self.high - self.low) // self.step + 1

    def at(self, share: float) -> int:
        """The position at `share`, in [0, 1), of the range, or of its logarithm with `log`."""
        if not self.log:
            return int(share * self.size)
        low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        drawn = round(math.exp(low + share * (high - low)))
        return min(max(drawn, self.low), self.high) - self.low

    def share(self, position: int, within: float) -> float:
        if not self.log:
            return (position + within) / self.size
        low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        return (math.log(self.low + position - 0.5 + within) - low) / (high - low)

    def label(self, position: int) -> int:
        return self.low + position * self.step

    recorded = label

    def index(self, value: Any) -> int:
        value = _plain(value)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and self.log and value == self.high + 1:
            value = self.high  # Keras Tuner samples the log up to `high + 1` and rounds down
        if not whole or not self.low <= value <= self.high or (value - self.low) % self.step:
            raise ValueError(f"an integer from {self.low} to {self.high} by {self.step}")
        return (value - self.low) // self.step


@dataclass(frozen=True)
class Real:
    """A number from `low` to `high`; made by `real`. Its position is the number itself."""

    low: float
    high: float
    log: bool = False
    name: str | None = None
    default: float | None = None

    def __repr__(self) -> str:
        return call_of(self, "real")

    @property
    def first(self) -> float:
        return self.low if self.default is None else self.default

    def at(self, share: float) -> float:
        """The position at `share`, in [0, 1), of the range, or of its logarithm with `log`."""
        if not self.log:
            return self.low + share * (self.high - self.low)
        low, high = math.log(self.low), math.log(self.high)
        return min(max(math.exp(low + share * (high - low)), self.low), self.high)

    def share(self, position: float, within: float) -> float:
        """The inverse of `at`; `within` has no effect, as a number has no part of the range."""
        if not self.log:
            return (position - self.low) / (self.high - self.low)
        return math.log(position / self.low) / math.log(self.high / self.low)

    def label(self, position: float) -> float:
        return position

    recorded = label

    def index(self, value: Any) -> float:
        value = _plain(value)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # Keras Tuner exceeds the end of a range by a rounding error.
        if number and self.high < value <= self.high + 1e-9 * (self.high - self.low):
            value = self.high
        if not number or not self.low <= value <= self.high:
            raise ValueError(f"a number from {self.low} to {self.high}")
        return float(value)


Searchable = Choice | Integer | Real

_LARGEST = 2**62  # limit on an integer's bounds and number of values, which `len` can count


def position_of(name: str, kind: Searchable, value: Any) -> Any:
    """The position of a value, in either form; ValueError if it is no option of the choice."""
    try:
        return kind.index(value)
    except ValueError as error:
        raise ValueError(f"`{name}` must be {error}. Received: {name}={value!r}") from error


@dataclass(frozen=True)
class Fixed:
    """An argument, or a part of one, that is not searched; made by `fixed`."""

    value: Any


@dataclass(frozen=True)
class Stages:
    """A list whose length is a choice; made by `per_stage`."""

    number: Choice | Integer
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Call:
    """A call of `function` whose arguments may hold choices; `name` is its label."""

    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    name: str


def choice(*options: Any, name: str | None = None) -> Any:
    """A choice between `options`; the first is the default.

    Args:
        options: numbers, strings, pairs, None, or anything that a builder takes. Lists and dicts
            may contain further choices, which are active only when their option is chosen.
        name: choices with the same name are one choice. None names the choice by the path of
            its argument, such as "filters[0]", so that each place has its own.

    Raises:
        ValueError: if there are no options, two are equal, they cannot be compared, or `name` is
            not a non-empty string.
    """
    if not options:
        raise ValueError("`choice` must have options. Received: none")
    _refuse_equal(options)
    return Choice(options, _checked_name(name))


def boolean(name: str | None = None) -> Any:
    """A choice between False, the default, and True; `name` is as in `kb.choice`."""
    return Choice((False, True), _checked_name(name))


def integer(low: int, high: int, step: int = 1, log: bool = False, name: str | None = None) -> Any:
    """A choice of an integer.

    Args:
        low: the smallest value and the default.
        high: the upper bound, included where `step` reaches it.
        step: the distance between neighbouring values.
        log: whether to sample uniformly in the logarithm; needs `step=1`.
        name: as in `kb.choice`.

    Raises:
        ValueError: if a number is not an integer or beyond 2**62, `low` exceeds `high`, `step` is
            below 1, or `log` has `low` below 1 or another `step`. Tuners refuse bounds beyond
            2**53.
    """
    for label, value in (("low", low), ("high", high), ("step", step)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"`{label}` must be an integer. Received: {label}={value!r}")
        if abs(value) > _LARGEST:
            raise ValueError(
                f"`{label}` must be an integer from -2**62 to 2**62. Received: {label}={value!r}"
            )
    many = (high - low) // max(step, 1) >= _LARGEST
    if low > high or step < 1 or many or (log and (low < 1 or step != 1)):
        raise ValueError(
            "`integer` must have low <= high, step >= 1 and no more than 2**62 values; with log, "
            "low >= 1 and step 1. "
            f"Received: low={low}, high={high}, step={step}, log={log}"
        )
    return Integer(low, high - (high - low) % step, step, log, _checked_name(name))


def real(
    low: float,
    high: float,
    log: bool = False,
    name: str | None = None,
    default: float | None = None,
) -> Any:
    """A choice of a real number.

    Args:
        low, high: the bounds, both included.
        log: whether to sample uniformly in the logarithm.
        name: as in `kb.choice`.
        default: a number between the bounds; None is `low`.

    Raises:
        ValueError: if the bounds or their difference are not finite, `low` is not below `high`,
            `log` has a bound of 0 or less, or the default is not a number between the bounds.
    """
    for label, value in (("low", low), ("high", high)):
        if not _is_finite(value):
            raise ValueError(f"`{label}` must be a finite number. Received: {label}={value!r}")
    if low >= high or (log and low <= 0) or math.isinf(float(high) - float(low)):
        raise ValueError(
            "`real` must have low < high, a finite range and, with log, low > 0. "
            f"Received: low={low}, high={high}, log={log}"
        )
    if default is not None and not (_is_finite(default) and low <= default <= high):
        raise ValueError(
            f"`default` must be a number from {low} to {high}. Received: default={default!r}"
        )
    default = None if default is None else float(default)
    return Real(float(low), float(high), log, _checked_name(name), default)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        return is_number and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def fixed(value: Any) -> Any:
    """Takes an argument, or a part of one, out of the search: choices in it keep their default."""
    return Fixed(value)


def per_stage(stages: Any, *values: Any) -> Any:
    """A list with one value for each stage, and a separate choice for each unless it is named.

    Args:
        stages: the number of stages, or a choice of it. A choice without a name is called
            "stages", so that all lists of a space share it. Choices of stages beyond the number
            chosen are inactive.
        values: one value for all stages, or as many as the largest number of stages.

    Raises:
        ValueError: if `stages` is neither a positive integer nor a choice of such, or the number
            of values is wrong.

    Example:
        >>> n = kb.choice(4, 3, 5)
        >>> space = kb.Space(
        ...     kb.resnet,
        ...     blocks=kb.per_stage(n, kb.choice(2, 1)),
        ...     filters=kb.per_stage(n, 32, 64, 128, 256, kb.choice(256, 512)),
        ... )
    """
    options = stages.options if isinstance(stages, Choice) else (stages,)
    if isinstance(stages, Integer):
        options = stages.low, stages.high
    if not all(isinstance(o, int) and not isinstance(o, bool) and o > 0 for o in options):
        raise ValueError(
            f"`stages` must be a positive integer, or a choice of such. Received: stages={stages!r}"
        )
    most = max(options)
    if len(values) not in (1, most):
        raise ValueError(
            f"`values` must be one or {most}, one for each stage. Received: {len(values)} values"
        )
    values = values if len(values) == most else values * most
    if isinstance(stages, int):
        return list(values)
    return Stages(replace(stages, name=stages.name or "stages"), values)


def _checked_name(name: str | None) -> str | None:
    if name is not None and (not isinstance(name, str) or not name):
        raise ValueError(f"`name` must be a word or None. Received: name={name!r}")
    return name


def _plain(value: Any) -> Any:
    """Turns NumPy scalars into Python numbers, and lists into tuples, since JSON has no tuples."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return tuple(map(_plain, value)) if isinstance(value, list) else value


_UNNAMED = object()


def label_of(option: Any) -> Any:
    """The label of an option; `_UNNAMED` if it has none."""
    if isinstance(option, Fixed):
        return label_of(option.value)
    if isinstance(option, str):
        return _UNNAMED if option.startswith("#") else option  # as positions are written
    if option is None or isinstance(option, (int, float)):
        return option
    if isinstance(option, Call):
        return option.name
    if isinstance(option, (tuple, list)):
        inner = tuple(map(label_of, option))
        return _UNNAMED if any(label is _UNNAMED for label in inner) else inner
    name = getattr(option, "__name__", None)  # of a function or class
    if isinstance(name, str):
        return name
    spec = getattr(option, "spec", option)
    if hasattr(spec, "changes"):
        given = ", ".join(f"{key}={value!r}" for key, value in spec.changes().items())
        return f"{type(spec).__name__.removesuffix('.Spec')}({given})"
    return _UNNAMED


def _keyed(value: Any) -> Any:
    """A key that distinguishes True from 1, which are equal in Python."""
    return isinstance(value, bool), value


def _refuse_equal(options: tuple[Any, ...]) -> None:
    """Raises if two options are equal: compares hashes, and unhashable options pairwise."""
    seen: set[Any] = set()
    unhashable: list[Any] = []
    for option in options:
        try:
            key = _keyed(_hashable(option))
            is_known = key in seen
            seen.add(key)
        except TypeError:
            is_known = any(_keyed(option) == _keyed(other) for other in unhashable)
            unhashable.append(option)
        if is_known:
            raise ValueError(f"`choice` must have different options. Received: {option!r} twice")


def _hashable(option: Any) -> Any:
    """A key, equal for equal options; that of a list or dict has a hash if all its items have."""
    if isinstance(option, (list, tuple)):
        return isinstance(option, list), tuple(map(_hashable, option))
    if isinstance(option, Mapping):
        return dict, frozenset((key, _hashable(value)) for key, value in option.items())
    if hasattr(option, "__array__") and getattr(option, "shape", None) != ():
        raise ValueError(
            "`choice` must have options that `==` compares, such as numbers, strings, tuples and "
            f"blocks; an array becomes one by its `tolist()`. Received: {option!r}"
        )
    return option


def alike(first: Searchable, second: Searchable) -> bool:
    """Whether two choices with the same name also have the same options."""
    if isinstance(first, Choice) and isinstance(second, Choice):
        return list(map(_keyed, first.options)) == list(map(_keyed, second.options))
    return first == second
