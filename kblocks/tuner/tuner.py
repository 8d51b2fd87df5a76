"""`Tuner`: a resumable search over any HyperModel, on one machine or many."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
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
from kblocks.tuner.choosing.point_sampler import chooser
from kblocks.tuner.choosing.points import distributions_of
from kblocks.tuner.choosing.sampler import is_grid, sampler_of
from kblocks.tuner.oracle import Oracle, hyperparameters
from kblocks.tuner.records import RUN, Record, Run
from kblocks.tuner.running import on_ray
from kblocks.tuner.running.jobs import Job, ObjectJob, Role
from kblocks.tuner.running.loop import HopelessError
from kblocks.tuner.running.search import Search
from kblocks.tuner.running.trial import Fit, build_as, epochs_of
from kblocks.tuner.storing.checkpoints import Checkpoints
from kblocks.tuner.storing.identity import check_joining, settings_of
from kblocks.tuner.storing.owners import owner
from kblocks.tuner.storing.patience import PATIENCE
from kblocks.tuner.storing.storage import shown, url_of
from kblocks.tuner.storing.store import Store
from kblocks.tuner.terminal import log, plain, tell


class Tuner(keras_tuner.Tuner):
    """Runs Optuna samplers in worker processes and resumes after crashes and outages.

    The default point is tried first. For a `kb.tuner.HyperModel`, only points that fit are
    tried, and no network twice with the same recipe. The storage holds the whole search.

    Args:
        hypermodel: a `kb.tuner.HyperModel`, another `keras_tuner.HyperModel`, or a function of
            `hp` that returns a compiled model.
        objective: the name of a metric or cost in the logs, a `keras_tuner.Objective`, or a list
            of them; with several, the search looks for the Pareto front.
        sampler: "tpe", "random", "grid", "nsga2", or an Optuna sampler.
        pruner: "hyperband", "median", an Optuna pruner, or None. Ends unpromising trials early;
            only with one objective.
        budget: a `kb.Budget` for the networks. For a HyperModel that is not ours, it can limit
            only the number of parameters.
        trials: the total number of trials, those of earlier runs included; None sets no limit.
        hours: time after which no trial begins, and running ones end after their current epoch;
            None sets no limit.
        workers: the number of processes that train. 0 trains in this process, which then ends if a
            trial crashes.
        storage: an SQLAlchemy URL of the database; None means an SQLite file in the run's folder.
        directory, project_name: the run's folder is `directory/project_name`.
        trial_seconds: seconds after which a trial fails; None sets no limit.
        checkpoints: how many of the best trials keep their weights, and so how many models
            `get_best_models` can return. With several objectives, those of the Pareto front
            keep theirs too.
        tensorboard: a folder for TensorBoard, with a run and its values (HParams) for each
            trial; None writes nothing.
        checkpoint_directory: a folder or an fsspec URL, in which the search uses the subfolder
            `project_name`; None means a folder in the run's folder. If the search runs on
            several machines, all of them must reach it.
        seed: of the sampler; None is random.
        extend: whether to resume an earlier search although choices were added to its space.
        overwrite: whether to delete an earlier search of that name.
        ray: the resources of each worker, as options of a Ray task, such as
            {"num_cpus": 4, "num_gpus": 1}; the workers then run on a Ray cluster (extra `ray`).
            None runs them on this machine without Ray.

    Raises:
        ValueError: if an argument is invalid.
        ImportError: if fsspec needs another package for `checkpoint_directory`.
        ConnectionError: if `checkpoint_directory` cannot be reached.

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
        _ = sampler_of(sampler, seed), pruner_of(pruner)  # both raise on unknown names
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
        self.role = Role()
        self.patience = PATIENCE  # seconds for which the storage may be unusable
        self.growth = float(1 << 30)  # bytes; a worker process that grows by more is replaced

    @cached_property
    def store(self) -> Store:
        """Where the search is kept."""
        create = not self.role.serves  # to a worker, a missing storage is an outage
        where = self.storage_url, self.checkpoint_directory, self.project_name
        return Store(*where, self.patience, create)

    # --- running -------------------------------------------------------------------------

    def search(self, *fit_args: Any, verbose: int = 1, **fit_kwargs: Any) -> Any:
        """Runs trials until `trials` or `hours` is reached; resumes an earlier run of the search.

        Args:
            fit_args, fit_kwargs: the arguments of `model.fit`.
            verbose: 0 shows nothing.

        Returns:
            A `kb.tuner.Run`: the settings and all trials of the search.

        Raises:
            ValueError: if the storage has a different search of this name, with the differences;
                or if trials cannot be trained on the targets, as far as these can be checked.
            RuntimeError: if the first five trials all raise, or some trials failed and none was
                completed, with the last error; if another thread of this process runs this search;
                or if worker processes import a script without `if __name__ == "__main__":`.
            ConnectionError: if the storage or the checkpoints cannot be reached.
        """
        return self.run_job(ObjectJob(self, fit_args, fit_kwargs), verbose=verbose)

    def run_job(self, job: Job, verbose: int = 1) -> Run:
        """Runs the search of a `Job`, which creates the tuner and the data in worker processes."""
        from kblocks.tuner.running.supervising import alone, supervise

        with alone(self.storage_url, self.project_name):
            self.store.checkpoints.check()
            fit = job.fit()
            if isinstance(self.hypermodel, HyperModel):
                self.hypermodel.check_targets(*fit)
            self._begin(fit, job.named())
            supervise(self, job, fit, verbose)
        run = self.run()
        helps = self.role.joins or self.role.serves  # other processes may still complete a trial
        if not helps and not run.completed() and any(trial.failure for trial in run.trials):
            raise HopelessError(_without_result(run))
        return run

    def join(self) -> None:
        """Makes `search` work for the search in the storage, which must have the same settings."""
        number = zlib.crc32(owner().encode())  # other machines' processes count from 0 too
        self.role = replace(self.role, worker=number, joins=True)

    def serve(self, worker: int) -> None:
        """Makes this the tuner of a worker process."""
        self.role = replace(self.role, worker=worker, serves=True)

    def _begin(self, fit: Fit, named: Mapping[str, Any]) -> None:
        settings = settings_of(
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
        if self.role.joins:
            before = self.store.study().user_attrs.get(RUN)
            if before is not None:  # else another process is just creating it
                check_joining(before, settings)
        else:
            self.store.begin(self.objectives, settings, self._asks, self.extend, self.overwrite)
            self.overwrite = False  # the next call resumes this search

    def _asks(self) -> Mapping[str, BaseDistribution]:
        if isinstance(self.hypermodel, HyperModel):
            return distributions_of(self.hypermodel)
        return asked_by(self.hypermodel, is_grid(sampler_of(self.sampler, self.seed))).asked

    def make_search(self, deadline: float | None = None) -> Search:
        """What this process needs to work for the search: study, sampler, pruner, limits.

        Args:
            deadline: when the search ends, in seconds of `time.monotonic`; None without a limit.
        """
        study = self.store.study()
        study.sampler = chooser(self.sampler, self.seed, self.role.worker, self.hypermodel, study)
        study.pruner = pruner_of(self.pruner)
        return Search(
            study,
            self.store.storage,
            self.hypermodel,
            self.objectives,
            self.store.checkpoints,
            self.checkpoints,
            self.trials,
            self.budget,
            self.trial_seconds,
            deadline,
            self.tensorboard,
        )

    def deadline(self) -> float | None:
        """When `hours` are over, in seconds of `time.monotonic`; None without a limit."""
        if self.role.until is not None:
            return time.monotonic() + self.role.until - time.time()
        return None if self.hours is None else time.monotonic() + 3600 * self.hours

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        """Builds and trains the model of a trial's hyperparameters, outside the search."""
        model = self.hypermodel.build(trial.hyperparameters)
        return self.hypermodel.fit(trial.hyperparameters, model, *args, **kwargs)

    def how_to_resume(self) -> str:
        """A message that tells the user how to resume the search."""
        return (
            "Nothing that was finished is lost; run the same again to go on with "
            f"{self.project_name!r} in {shown(self.storage_url)}."
        )

    def __getstate__(self) -> dict[str, Any]:
        # A process that receives this tuner opens the store itself.
        return {k: v for k, v in vars(self).items() if k not in ("store", "oracle")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.oracle = Oracle(self)

    # --- results -------------------------------------------------------------------------

    def run(self) -> Run:
        """The search as the storage has it: its settings and all trials.

        Raises:
            KeyError: if the search has not begun.
            ConnectionError: if the storage cannot be reached.
        """
        return self.store.run()

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[keras_tuner.HyperParameters]:
        """The hyperparameters of the best trials; with several objectives the Pareto front first.

        Raises:
            RuntimeError: if no trial was completed, with the reason of the last failure.
        """
        return [hyperparameters(record) for record in self._ranked()[:num_trials]]

    def get_best_models(self, num_models: int = 1) -> list[keras.Model]:
        """The compiled models of the best trials, with the weights of their best epochs.

        Only the `checkpoints` best trials keep their weights. If more models are asked for, fewer
        are returned, and a warning in the log says how many.

        Raises:
            ValueError: if none of these trials has kept its weights, or `build` now makes a model
                that they do not fit.
            RuntimeError: if no trial was completed, with the reason of the last failure.
        """
        records = self._ranked()[:num_models]
        weights = self.store.weights_of(*(record.number for record in records))
        lost = [record.number for record in records if weights[record.number] is None]
        kept = [record for record in records if record.number not in lost]
        if lost:
            message = f"{self._unkept(*lost)} {len(kept)} of {len(records)} models are there"
            if not kept:
                raise ValueError(message)
            log.warning("%s", message)
        return [self._model(record, weights[record.number]) for record in kept]

    def _ranked(self) -> list[Record]:
        run = self.run()
        if not run.completed():
            raise RuntimeError(_without_result(run))
        return run.ranked()

    def model_of(self, record: Record, weights: Any = None) -> keras.Model:
        """A trial's model with the weights of its best epoch.

        Args:
            record: one of the trials of `run()`.
            weights: weights to take in place of those that the trial has kept.

        Raises:
            ValueError: if the trial has not kept its weights, or `build` now makes a model that
                they do not fit.
        """
        if weights is None:
            weights = self.store.weights_of(record.number)[record.number]
        if weights is None:
            raise ValueError(self._unkept(record.number))
        return self._model(record, weights)

    def _unkept(self, *numbers: int) -> str:
        return (
            f"No weights are kept of trial {', '.join(map(str, numbers))}; of the "
            f"{self.checkpoints} best they are (`checkpoints`). Its hyperparameters are there: "
            "build it and train it."
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

    def load_model(self, trial: Any) -> keras.Model:
        """The model of a Keras Tuner trial, with the weights of its best epoch."""
        number = int(trial.trial_id)
        return self.model_of(next(t for t in self.run().trials if t.number == number))

    def results_summary(self, num_trials: int = 10) -> None:
        """Prints the best trials: their scores and hyperparameters."""
        run = self.run()
        tell(f"Search {plain(run.name)} in {shown(self.storage_url)}")
        for record in run.ranked()[:num_trials]:
            scores = zip(self.objectives, record.scores, strict=True)
            figures = ", ".join(f"{o.name} {score:.6g}" for o, score in scores)
            tell(f"\nTrial {record.number}: {plain(figures)}")
            for name, value in record.values.items():
                tell(plain(f"  {name} = {value}"))

    def search_space_summary(self, extended: bool = False) -> None:
        """Prints the choices of the search."""
        if isinstance(self.hypermodel, HyperModel):
            self.hypermodel.space.describe(tell)
        else:
            hp = keras_tuner.HyperParameters()
            self.hypermodel.build(hp)
            for declared in hp.space:
                tell(declared)

    @property
    def remaining_trials(self) -> int | None:
        """How many trials are still to be run; None without a limit."""
        if self.trials is None:
            return None
        try:
            finished = sum(trial.is_finished for trial in self.run().trials)
        except KeyError:
            finished = 0
        return max(self.trials - finished, 0)

    def save(self) -> None:
        """Does nothing: the storage has everything."""

    def reload(self) -> None:
        """Does nothing: the storage has everything."""


def _without_result(run: Run) -> str:
    """The message for a search without a completed trial."""
    failure = next((t.failure for t in reversed(run.trials) if t.failure is not None), None)
    message = f"None of the {len(run.trials)} trials of the search {run.name!r} was completed"
    if failure is None:
        return message
    last = f"{failure.kind}: {failure.message}\n{failure.traceback}".rstrip()
    return f"{message}. The last failure: {last}"


def _named(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else type(value).__name__
