"""Where a search is kept: its study in a database, and its checkpoints."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from kblocks.tuner.records import IDENTITY, RUN, Objective, Run, read
from kblocks.tuner.storing.beginning import begin
from kblocks.tuner.storing.checkpoints import Checkpoints
from kblocks.tuner.storing.owners import as_it_is
from kblocks.tuner.storing.patience import PatientStorage
from kblocks.tuner.storing.storage import delete, find, identity, is_blank, open_storage, shown


class Store:
    """The study and the checkpoints (at `location`) of one search; opens the database when used."""

    def __init__(self, url: str, location: str, name: str, patience: float, create: bool) -> None:
        self._url, self._name = url, name
        self._patience, self._create = patience, create
        self.checkpoints = Checkpoints(location)

    @cached_property
    def storage(self) -> PatientStorage:
        """The database, opened on first use."""
        return open_storage(self._url, self._patience, self._create)

    def study(self) -> optuna.Study:
        """The study; raises KeyError if the search has not begun."""
        return find(self.storage, self._name)

    def run(self) -> Run:
        """The search as the database has it; raises KeyError if it has not begun."""
        if "storage" not in vars(self) and is_blank(self._url):
            raise KeyError(f"there is no search in {shown(self._url)}")
        return as_it_is(read(self.study()))

    def begin(
        self,
        objectives: tuple[Objective, ...],
        settings: Mapping[str, Any],
        asks: Callable[[], Mapping[str, BaseDistribution]],
        extend: bool,
        overwrite: bool,
    ) -> None:
        """Begins the search (see `beginning.begin`), or checks that the one there is the same."""
        checkpoints = self.checkpoints
        if not overwrite and checkpoints.bears() is not None and is_blank(self._url):
            raise ValueError(
                f"{self._foreign()} There is no search in that database: if it was deleted, "
                "emptied or moved, put it back, or a copy of it."
            )
        if overwrite:
            self.clear()
        study = begin(self.storage, self._name, objectives, settings, asks, extend)
        own = identity(self.storage, study)
        is_new = not study.get_trials(deepcopy=False)
        bears = checkpoints.bears()
        if bears is None and not (is_new and checkpoints.numbers()):
            checkpoints.mark(own)
        elif bears != own:
            raise self._foreign()

    def check_shared(self) -> None:
        """Raises ValueError if the process that began the search has its checkpoints elsewhere.

        Trials that go on from the state of another one would not find it.
        """
        has_begun = RUN in self.study().user_attrs
        if has_begun and self.checkpoints.bears() is None:
            raise ValueError(
                "`checkpoint_directory` must be one that all machines of a search with `scheduler` "
                f"reach. Received: {self.checkpoints.shown}, which has nothing of the search"
            )

    def clear(self) -> None:
        """Deletes the search and its checkpoints, if there are any."""
        if not is_blank(self._url):
            delete(self.storage, self._name)
        self.checkpoints.clear()

    def weights_of(self, *numbers: int) -> dict[int, Any]:
        """By trial, the weights of its best epoch, or None; ValueError for another search's."""
        if not self.checkpoints.are_of(self.study().user_attrs.get(IDENTITY, "")):
            raise self._foreign()
        return {number: self.checkpoints.best(number) for number in numbers}

    def _foreign(self) -> ValueError:
        return ValueError(
            "`checkpoint_directory` must be of the search alone. Received: "
            f"{self.checkpoints.shown}, with the weights of another search than the one in "
            f"{shown(self._url)}. Name the storage of that one, or give this one another "
            "`project_name`; overwrite=True removes the weights."
        )
