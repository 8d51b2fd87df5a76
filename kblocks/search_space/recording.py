"""How a tuner's trial records the values of choices."""

import sys
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from kblocks.search_space.choices import Choice, Integer, Real, Searchable, position_of

_SUGGESTED: WeakKeyDictionary[Any, set[str | None]] = WeakKeyDictionary()  # names by trial
_EXACT = 2**53  # floats, in which Optuna stores numbers, hold every integer up to here


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


def pruned(error: Exception) -> Exception:
    """What ends an Optuna trial whose model does not fit: Optuna's TrialPruned."""
    return getattr(sys.modules.get("optuna"), "TrialPruned", type(error))(str(error))


def check_recordable(name: str, kind: Searchable) -> None:
    """Raises ValueError for integers beyond 2**53, which tuners do not record exactly."""
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
