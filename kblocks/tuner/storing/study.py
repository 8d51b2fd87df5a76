"""The study of a search: found by its name, in its newest extension."""

import uuid

import optuna
from optuna.storages import BaseStorage

from kblocks.tuner.records import EXTENDED, EXTENDS, IDENTITY
from kblocks.tuner.storing.patience import PatientStorage
from kblocks.tuner.storing.storage import loaded


def find(storage: BaseStorage, name: str) -> optuna.Study:
    """The study of a search, in its newest extension; raises KeyError if there is none."""
    while True:
        study = loaded(storage, name)
        newer = study.user_attrs.get(EXTENDED)
        if newer is None:
            return study
        name = newer


def identity(storage: PatientStorage, study: optuna.Study) -> str:
    """The unique id of a search, in all its extensions; its checkpoints are marked with it."""
    number = storage.get_study_id_from_name(study.study_name)
    return str(storage.once(number, IDENTITY, uuid.uuid4().hex))


def names(storage: BaseStorage) -> list[str]:
    """The names of the searches in a storage."""
    return sorted(name for name, first in studies(storage).items() if name == first)


def delete(storage: BaseStorage, name: str) -> None:
    """Deletes a search with all its extensions."""
    own = [one for one, first in studies(storage).items() if first == name]
    for one in sorted(own, key=lambda one: one == name):  # the first last: it leads to the others
        optuna.delete_study(study_name=one, storage=storage)


def studies(storage: BaseStorage) -> dict[str, str]:
    """By study, the name under which its search began."""
    summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
    return {one.study_name: one.user_attrs.get(EXTENDS, one.study_name) for one in summaries}
