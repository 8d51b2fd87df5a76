"""Begins a search, goes on with it, or extends it by choices, if it is the same search."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from kblocks.tuner.records import EXTENDED, EXTENDS, IDENTITY, PRECISION, RANGES, RUN, Objective
from kblocks.tuner.storing.identity import ChangedError, check, has_changed
from kblocks.tuner.storing.storage import created, find, studies


def begin(
    storage: BaseStorage,
    name: str,
    objectives: tuple[Objective, ...],
    settings: Mapping[str, Any],
    asks: Callable[[], Mapping[str, BaseDistribution]],
    extend: bool,
) -> optuna.Study:
    """Creates the study of a search, or finds it and checks that the search is the same.

    `asks` returns the distributions of all choices. With `extend` some may have been added. Raises
    ChangedError, with the differences, if it is another search.
    """
    is_there = name in optuna.get_all_study_names(storage)
    study = find(storage, name) if is_there else created(storage, name, objectives)
    before = study.user_attrs.get(RUN)
    if before is None:  # it is new, or a process ended after it had created it
        study.set_user_attr(RUN, dict(settings))
        return study
    check(before, settings, extend)
    changed = has_changed(before, settings)
    ranges = study.user_attrs.get(RANGES, {})  # only of a third-party HyperModel
    known = dict(asks()) if extend and (changed or ranges) else {}
    asked = {name: str(one) for name, one in known.items()} if ranges else {}
    if not changed and {**ranges, **asked} == ranges:
        study.set_user_attr(RUN, {**before, **settings})
        return study
    for trial in study.get_trials(deepcopy=False) if ranges else ():
        known = {**trial.distributions, **known}  # adds what the default point does not ask for
    study = _extend(storage, study, objectives, settings, known)
    if ranges:
        study.set_user_attr(RANGES, {**ranges, **asked})
    return study


def _extend(
    storage: BaseStorage,
    study: optuna.Study,
    objectives: tuple[Objective, ...],
    settings: Mapping[str, Any],
    known: Mapping[str, BaseDistribution],
) -> optuna.Study:
    """Copies trials to a new study, as Optuna fixes a choice's options; the old points to it."""
    first = study.user_attrs.get(EXTENDS, study.study_name)
    taken = studies(storage)
    newer = next(n for i in itertools.count(1) if (n := f"{first} +{i}") not in taken)
    trials = [_moved(trial, known) for trial in study.get_trials(deepcopy=False)]
    extended = created(storage, newer, objectives)
    extended.set_user_attr(EXTENDS, first)
    for key in {IDENTITY, PRECISION} & set(study.user_attrs):
        extended.set_user_attr(key, study.user_attrs[key])
    extended.add_trials(trials)
    extended.set_user_attr(RUN, dict(settings))
    study.set_user_attr(EXTENDED, newer)
    return extended


def _moved(
    trial: optuna.trial.FrozenTrial, known: Mapping[str, BaseDistribution]
) -> optuna.trial.FrozenTrial:
    """A copy of a trial under other distributions; an unfinished one becomes a waiting one."""
    for name, value in trial.params.items():
        try:
            known[name].to_internal_repr(value)
        except (KeyError, ValueError) as error:
            raise ChangedError(
                f"The space may only grow: trial {trial.number} has {name} = {value!r}, which is "
                "no more among its choices"
            ) from error
    state = trial.state if trial.state.is_finished() else TrialState.WAITING
    copy = optuna.trial.create_trial(
        state=state,
        params=trial.params,
        distributions={name: known[name] for name in trial.params},
        values=trial.values if state is TrialState.COMPLETE else None,
        user_attrs=trial.user_attrs,
        system_attrs=trial.system_attrs,
        intermediate_values=trial.intermediate_values,
    )
    copy.datetime_start, copy.datetime_complete = trial.datetime_start, trial.datetime_complete
    return copy
