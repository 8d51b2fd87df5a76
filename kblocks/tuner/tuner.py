"""`Tuner`: a search that lasts, on one machine or many, over any HyperModel."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import optuna
from optuna.distributions import BaseDistribution

from kblocks.search_space.budget import Budget
from kblocks.tuner.arguments import (
    check_counts,
    check_name,
    check_numbers,
    hypermodel_of,
    objectives_of,
    pruner_of,
)
from kblocks.tuner.bridge import HyperModel
from kblocks.tuner.choosing.asking import asked_by
from kblocks.tuner.choosing.points import distributions_of
from kblocks.tuner.choosing.sampler import chooser, is_grid, sampler_of
from kblocks.tuner.oracle import Oracle, hyperparameters
from kblocks.tuner.records import IDENTITY, RUN, Record, Run, read
from kblocks.tuner.running import on_ray
from kblocks.tuner.running.loop import HopelessError, Search
from kblocks.tuner.running.trial import Fit, Limits, build_as, epochs_of
from kblocks.tuner.storing import study as studies
from kblocks.tuner.storing.checkpoints import Checkpoints
from kblocks.tuner.storing.identity import check_joining, settings_of
from kblocks.tuner.storing.owners import as_it_is, owner
from kblocks.tuner.storing.patience import PATIENCE
from kblocks.tuner.storing.storage import is_blank, is_missing, open_storage, shown, url_of
from kblocks.tuner.terminal import log, plain, tell


class Tuner(keras_tuner.Tuner):
    """Searches with Optuna's samplers, in processes of its own, and goes on after anything.

    The default point is tried first. Of a `kb.tuner.HyperModel` only networks that fit are
    tried, and none twice. All that is known of the search is in its storage.

    Args:
        hypermodel: a `keras_tuner.HyperModel`, ours or any other, or a function of `hp` that
            returns a compiled model.
        objective: the name of a figure in the logs, a `keras_tuner.Objective`, or a list of
            them, for which the Pareto front is sought.
        sampler: "tpe", "random", "grid", "nsga2", or a sampler of Optuna.
        pruner: "hyperband", "median", a pruner of Optuna, or None. Ends trials that look bad;
            for one objective only.
        budget: what a network may cost. Models that a HyperModel of another's builds are
            held to its `params` alone.
        trials: how many are run in all, those of earlier runs included; None goes on.
        hours: after which no trial is begun, and running ones end with their epoch.
        workers: processes that train. 0 trains in this one, which a trial can then end.
        storage: a URL of SQLAlchemy; None is SQLite in the run's folder.
        directory, project_name: the run's folder is `directory/project_name`.
        trial_seconds: that a trial may take.
        checkpoints: of how many of the best trials weights are kept, and so how many models
            `get_best_models` can give; with several objectives also of those that no other
            beats, which may rise.
        tensorboard: a folder that TensorBoard shows, with a run and its values (HParams) for
            each trial; None writes nothing.
        checkpoint_directory: a folder or any URL of fsspec, in which `project_name` has its own;
            None is in the run's folder. On several machines one that all of them see.
        seed: of the sampler; None is random.
        extend: whether a search goes on if choices were added to its space.
        overwrite: whether an earlier search of that name is deleted.
        ray: what each worker needs of a Ray cluster on which they run (extra `ray`), as Ray's
            tasks are told: {"num_cpus": 4, "num_gpus": 1}; None is this machine without Ray.

    Raises:
        ValueError: if an argument is not of this form.

    Example:
        >>> tuner = kb.tuner.Tuner(hypermodel, trials=50, workers=2, project_name="cifar")
        >>> run = tuner.search(x, y, validation_split=0.2, epochs=20)
        >>> model = tuner.get_best_models()[0]
    """

    def __init__(
        self,
        hypermodel: Any,
        objective: Any = "val_accuracy",
        *,
        sampler: str | optuna.samplers.BaseSampler = "tpe",
        pruner: str | optuna.pruners.BasePruner | None = None,
        budget: Budget | None = None,
        trials: int | None = None,
        hours: float | None = None,
        workers: int = 1,
        storage: str | None = None,
        directory: Any = "runs",
        project_name: str = "search",
        trial_seconds: float | None = None,
        checkpoints: int = 3,
        checkpoint_directory: Any = None,
        tensorboard: Any = None,
        seed: int | None = None,
        extend: bool = False,
        overwrite: bool = False,
        ray: Mapping[str, Any] | None = None,
    ) -> None:
        check_numbers(trials=trials, hours=hours, trial_seconds=trial_seconds)
        check_counts(workers=workers, checkpoints=checkpoints, seed=0 if seed is None else seed)
        check_name(project_name)
        self.objectives = objectives_of(objective)
        oracle = Oracle(self)
        super().__init__(
            oracle, hypermodel=None, directory=str(directory), project_name=project_name
        )
        self.hypermodel = hypermodel_of(hypermodel, budget)
        self.budget, self.trials, self.hours, self.workers = budget, trials, hours, workers
        self.trial_seconds, self.checkpoints, self.seed = trial_seconds, checkpoints, seed
        self.sampler, self.pruner, self.ray = sampler, pruner, on_ray.checked(ray, workers)
        _ = sampler_of(sampler, seed), pruner_of(pruner)  # which refuse what they do not know
        if pruner is not None and len(self.objectives) > 1:
            raise ValueError("`pruner` is for one objective. Received: several")
        self.extend, self.overwrite = extend, overwrite
        self.folder = Path(directory) / project_name
        self.storage_url = url_of(storage, self.folder)
        self.tensorboard = None if tensorboard is None else str(tensorboard)
        self.checkpoint_directory = str(self.folder / "checkpoints")
        if checkpoint_directory is not None:
            self.checkpoint_directory = f"{str(checkpoint_directory).rstrip('/')}/{project_name}"
        if not Checkpoints(self.checkpoint_directory).is_shared and workers:
            raise ValueError(
                "`checkpoint_directory` must be one that worker processes share, or workers=0. "
                f"Received: {checkpoint_directory}"
            )
        self._joins = False
        self._storage: Any = None
        self.worker = 0  # which of a search's processes this is; each draws its own points
        self._serves = False
        self._until: float | None = None  # when its `hours` began elsewhere: their end, as a time
        self.patience = PATIENCE  # seconds that the storage may be away
        self.growth = float(1 << 30)  # bytes that a worker process may grow by, then it is replaced

    # --- running -------------------------------------------------------------------------

    def search(self, *fit_args: Any, verbose: int = 1, **fit_kwargs: Any) -> Any:
        """Runs trials until there are enough; goes on where an earlier run ended.

        Args:
            fit_args, fit_kwargs: for `fit`, as `model.fit` takes them.
            verbose: 0 shows nothing.

        Returns:
            The `Run`: all that is known of the search.

        Raises:
            ValueError: if the search in the storage is another one, with the differences; or if no
                trial could be trained on the targets, as far as they tell.
            RuntimeError: if the first five trials raise, or no trial was completed, with the last
                error; if this process runs this search already, in another thread; or in a
                script without `if __name__ == "__main__":` that a worker process imports.
            ConnectionError: if the storage or the checkpoints cannot be reached.
        """
        from kblocks.tuner.running.jobs import ObjectJob

        return self.run_job(ObjectJob(self, fit_args, fit_kwargs), verbose=verbose)

    def run_job(self, job: Any, verbose: int = 1) -> Run:
        """`search` with a job that worker processes make their tuner and data of."""
        from kblocks.tuner.running.supervising import alone, supervise

        with alone(self.storage_url, self.project_name):
            Checkpoints(self.checkpoint_directory).check()
            fit = job.fit()
            if isinstance(self.hypermodel, HyperModel):
                self.hypermodel.check_targets(*fit)
            if self._joins:
                before = studies.find(self._opened(), self.project_name).user_attrs.get(RUN)
                if before is not None:  # else it has begun this moment
                    check_joining(before, self._settings(fit, job.named()))
            else:
                self._prepare(fit, job.named())
            supervise(self, job, fit, verbose)
        run = self.run()
        helps = self._joins or self._serves  # others may yet complete a trial
        if not helps and not run.completed() and any(trial.failure for trial in run.trials):
            raise HopelessError(_without_result(run))
        return run

    def join(self) -> None:
        """From now on `search` works for the search in the storage, which must be the same."""
        self._joins = True
        self.worker = zlib.crc32(owner().encode())  # other machines' processes count from 0 too

    def serve(self, worker: int) -> None:
        """Makes this the tuner of a worker process."""
        self.worker, self._serves = worker, True

    def _prepare(self, fit: Fit, named: Mapping[str, Any] | None = None) -> None:
        checkpoints = Checkpoints(self.checkpoint_directory)
        if not self.overwrite and checkpoints.bears() is not None and is_blank(self.storage_url):
            raise ValueError(
                f"{self._foreign(checkpoints)} There is no search in that database: if it was "
                "deleted, emptied or moved, put it back, or a copy of it."
            )
        storage = self._opened()
        if self.overwrite:
            studies.delete(storage, self.project_name)
            checkpoints.clear()
            self.overwrite = False  # what it finds next is its own
        settings = self._settings(fit, named or {})
        study = studies.begin(
            storage, self.project_name, self.objectives, settings, self._asks, self.extend
        )
        identity = studies.identity(storage, study)
        is_new = not study.get_trials(deepcopy=False)
        bears = checkpoints.bears()
        if bears is None and not (is_new and checkpoints.numbers()):
            checkpoints.mark(identity)
        elif bears != identity:
            raise self._foreign(checkpoints)

    def _foreign(self, checkpoints: Checkpoints) -> ValueError:
        return ValueError(
            "`checkpoint_directory` must be of the search alone. Received: "
            f"{checkpoints.shown}, with the weights of another search than the one in "
            f"{shown(self.storage_url)}. Name the storage of that one, or give this one another "
            "`project_name`; overwrite=True removes the weights."
        )

    def _asks(self) -> Mapping[str, BaseDistribution]:
        if isinstance(self.hypermodel, HyperModel):
            return distributions_of(self.hypermodel)
        return asked_by(self.hypermodel, is_grid(sampler_of(self.sampler, self.seed))).asked

    def _settings(self, fit: Fit, named: Mapping[str, Any]) -> dict[str, Any]:
        return settings_of(
            self.hypermodel,
            self.objectives,
            fit,
            epochs=epochs_of(fit),
            trials=self.trials,
            hours=self.hours,
            sampler=_named(self.sampler),
            pruner=_named(self.pruner),
            job=dict(named),
        )

    def make_search(self, deadline: float | None = None) -> Search:
        """The search as a process works for it.

        Args:
            deadline: on the clock of `time.monotonic`.
        """
        storage = self._opened()
        found = studies.find(storage, self.project_name)
        found.sampler = chooser(self.sampler, self.seed, self.worker, self.hypermodel, found)
        found.pruner = pruner_of(self.pruner)
        limits = Limits(self.budget, self.trial_seconds, deadline, lambda: storage.waited)
        return Search(
            found,
            storage,
            self.hypermodel,
            self.objectives,
            Checkpoints(self.checkpoint_directory),
            self.checkpoints,
            self.trials,
            limits,
            self.tensorboard,
        )

    def deadline(self) -> float | None:
        """When `hours` are over, on the clock of `time.monotonic`."""
        if self._until is not None:
            return time.monotonic() + self._until - time.time()
        return None if self.hours is None else time.monotonic() + 3600 * self.hours

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        """Builds and trains the model of a trial's hyperparameters, outside the search."""
        model = self.hypermodel.build(trial.hyperparameters)
        return self.hypermodel.fit(trial.hyperparameters, model, *args, **kwargs)

    def how_to_resume(self) -> str:
        """What a person does to go on."""
        return (
            "Nothing that was finished is lost; run the same again to go on with "
            f"{self.project_name!r} in {shown(self.storage_url)}."
        )

    def _opened(self) -> Any:
        if self._storage is None:
            create = not self._serves  # else the storage that it finds missing is away
            self._storage = open_storage(self.storage_url, self.patience, create)
        return self._storage

    def __getstate__(self) -> dict[str, Any]:
        # A process that it is sent to opens the storage itself.
        return {**vars(self), "_storage": None, "oracle": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.oracle = Oracle(self)

    # --- results -------------------------------------------------------------------------

    def run(self) -> Run:
        """All that is known of the search.

        Raises:
            KeyError: if it has not begun.
        """
        url = self.storage_url
        if self._storage is None and (is_missing(url) or is_blank(url)):
            raise KeyError(f"there is no search in {shown(self.storage_url)}")
        return as_it_is(read(studies.find(self._opened(), self.project_name)))

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[keras_tuner.HyperParameters]:
        """Of the best completed trials; with several objectives the Pareto front comes first.

        Raises:
            RuntimeError: if no trial was completed, with the reason of the last failure.
        """
        return [hyperparameters(record) for record in self._ranked()[:num_trials]]

    def get_best_models(self, num_models: int = 1) -> list[keras.Model]:
        """The models of the best trials with the weights of their best epochs, compiled.

        Weights are kept of the `checkpoints` best trials: where more models are asked for, those
        that are there are returned, and a warning in the log says how many.

        Raises:
            ValueError: if weights are kept of none of them.
            RuntimeError: if no trial was completed, with the reason of the last failure.
        """
        records = self._ranked()[:num_models]
        checkpoints = self._own_checkpoints()
        weights = {record.number: checkpoints.best(record.number) for record in records}
        kept = [record for record in records if weights[record.number] is not None]
        if len(kept) < len(records):
            lost = [record for record in records if weights[record.number] is None]
            told = f"{self._unkept(*lost)} {len(kept)} of {len(records)} models are there"
            if not kept:
                raise ValueError(told)
            log.warning("%s", told)
        return [self._model(record, weights[record.number]) for record in kept]

    def _ranked(self) -> list[Record]:
        run = self.run()
        if not run.completed():
            raise RuntimeError(_without_result(run))
        return run.ranked()

    def model_of(self, record: Record) -> keras.Model:
        """A trial's model with the weights of its best epoch."""
        weights = self._own_checkpoints().best(record.number)
        if weights is None:
            raise ValueError(self._unkept(record))
        return self._model(record, weights)

    def _unkept(self, *records: Record) -> str:
        numbers = ", ".join(str(record.number) for record in records)
        return (
            f"No weights are kept of trial {numbers}; of the {self.checkpoints} best they are "
            "(`checkpoints`). Its hyperparameters are there: build it and train it."
        )

    def _model(self, record: Record, weights: Any) -> keras.Model:
        model: Any = self.hypermodel.build(hyperparameters(record))
        build_as(model, record.shapes)
        try:
            model.set_weights(weights)
        except ValueError as error:
            raise ValueError(
                f"The weights of trial {record.number} do not fit the model that `build` makes of "
                f"its hyperparameters: the code is not that of the search. {error}"
            ) from error
        return model

    def _own_checkpoints(self) -> Checkpoints:
        checkpoints = Checkpoints(self.checkpoint_directory)
        study = studies.find(self._opened(), self.project_name)
        if not checkpoints.are_of(study.user_attrs.get(IDENTITY, "")):
            raise self._foreign(checkpoints)
        return checkpoints

    def load_model(self, trial: Any) -> keras.Model:
        """The model of a trial of Keras Tuner's form."""
        number = int(trial.trial_id)
        return self.model_of(next(t for t in self.run().trials if t.number == number))

    def results_summary(self, num_trials: int = 10) -> None:
        """Prints the best trials with their values."""
        run = self.run()
        tell(f"Search {plain(run.name)} in {shown(self.storage_url)}")
        for record in run.ranked()[:num_trials]:
            scores = zip(self.objectives, record.scores, strict=True)
            told = ", ".join(f"{o.name} {score:.6g}" for o, score in scores)
            tell(f"\nTrial {record.number}: {plain(told)}")
            for name, value in record.values.items():
                tell(plain(f"  {name} = {value}"))

    def search_space_summary(self, extended: bool = False) -> None:
        """Prints the choices."""
        if isinstance(self.hypermodel, HyperModel):
            self.hypermodel.space.describe(tell)
        else:
            hp = keras_tuner.HyperParameters()
            self.hypermodel.build(hp)
            for declared in hp.space:
                tell(declared)

    @property
    def remaining_trials(self) -> int | None:
        """How many are still to be run; None if there is no number."""
        if self.trials is None:
            return None
        try:
            finished = sum(trial.is_finished for trial in self.run().trials)
        except KeyError:
            finished = 0
        return max(self.trials - finished, 0)

    def save(self) -> None:
        """Nothing: the storage has everything."""

    def reload(self) -> None:
        """Nothing: the storage has everything."""


def _without_result(run: Run) -> str:
    """Why there is nothing to choose from."""
    failure = next((t.failure for t in reversed(run.trials) if t.failure is not None), None)
    told = f"None of the {len(run.trials)} trials of the search {run.name!r} was completed"
    if failure is None:
        return told
    last = f"{failure.kind}: {failure.message}\n{failure.traceback}".rstrip()
    return f"{told}. The last failure: {last}"


def _named(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else type(value).__name__
