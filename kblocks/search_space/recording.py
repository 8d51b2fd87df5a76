"""How a tuner's trial records a point: the names of choices and networks, and their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from kblocks.search_space.choices import Choice, Integer, Real, Searchable, position_of

NETWORK = "kblocks/network"  # the trial's user attribute that holds the network as JSON
_TUNERS = ("tuner/", "kblocks/")  # prefixes of what Keras Tuner and kblocks record of a trial
_SUGGESTED: WeakKeyDictionary[Any, set[str | None]] = WeakKeyDictionary()  # names by trial
_EXACT = 2**53  # floats, in which Optuna stores numbers, hold every integer up to here


def network_key(name: str | None) -> str:
    """The user attribute of a trial that holds the network called `name` as JSON."""
    return NETWORK if name is None else f"{NETWORK}/{name}"


def prefix_of(name: str | None) -> str:
    """What the names of choices begin with in a trial if their network is called `name`.

    Raises:
        ValueError: if the name is not a word, has a "/" or is reserved.
    """
    if name is None:
        return ""
    if not isinstance(name, str) or not name or "/" in name or f"{name}/" in _TUNERS:
        raise ValueError(
            f"`name` must be a word without '/', not 'tuner' or 'kblocks'. Received: name={name!r}"
        )
    return f"{name}/"


def is_of_others(key: str) -> bool:
    """Whether a recorded entry belongs to a recipe, a named network, or the tuner itself."""
    return "/" in key or key.startswith("recipe.")


def refuse_second(trial: Any, name: str | None) -> None:
    """Raises if a trial suggested a network of this name already: it would be the same again."""
    try:
        names = _SUGGESTED.setdefault(trial, set())
    except TypeError:  # an Optuna-like trial that cannot be a weak key
        return
    if name in names:
        raise ValueError(
            "Each network of a trial must have a name of its own: space.suggest(trial, "
            f"name='teacher'). Received: name={name!r} again"
        )
    names.add(name)


def check_recordable(name: str, kind: Searchable) -> None:
    """Refuses a choice of integers too large for a tuner to record exactly.

    Raises:
        ValueError: if a bound is beyond 2**53.
    """
    if isinstance(kind, Integer) and max(abs(kind.low), abs(kind.high)) > _EXACT:
        raise ValueError(
            f"`{name}` must be from -2**53 to 2**53 for a tuner, which records numbers as floats. "
            f"Received: {name} from {kind.low} to {kind.high}"
        )


def suggested(trial: Any, name: str, kind: Searchable) -> Any:
    """The value that an Optuna trial suggests for a choice."""
    check_recordable(name, kind)
    record_given(trial, name, kind)
    match kind:
        case Choice():
            return trial.suggest_categorical(name, list(kind.written))
        case Integer(low, high, step, log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case Real(low, high, log):
            return trial.suggest_float(name, low, high, log=log)


def record_given(trial: Any, name: str, kind: Searchable) -> None:
    """Converts a value that was enqueued for a trial to the form in which it is suggested.

    Users give `study.enqueue_trial` and `optuna.trial.FixedTrial` values as a space has them, such
    as 3 and (1, 7), but Optuna expects the recorded form, "3" and "1x7". It has no public way to
    change them.
    """
    for attribute in ("_fixed_params", "_params"):  # of a Trial; of a FixedTrial or FrozenTrial
        given = getattr(trial, attribute, None)
        if isinstance(given, Mapping) and name in given:
            value = kind.recorded(position_of(name, kind, given[name]))
            setattr(trial, attribute, {**given, name: value})
