"""`Tuner`: a resumable search over any HyperModel, on one machine or many."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import keras
import keras_tuner
import optuna
from keras_tuner.engine.tuner import maybe_distribute
from keras_tuner.errors import FatalTypeError
from optuna.distributions import BaseDistribution

from kblocks.search_space.budget import Budget
from kblocks.tuner.arguments import (
    KerasTunerArguments,
    check_counts,
    check_methods,
    check_name,
    check_numbers,
    completed,
    hypermodel_of,
    objectives_of,
    place_of_checkpoints,
    precision_of,
    pruner_of,
    scheduler_of,
)
from kblocks.tuner.choosing.asking import Asking
from kblocks.tuner.choosing.point_sampler import chooser
from kblocks.tuner.choosing.points import distributions_of
from kblocks.tuner.choosing.rungs import Asha, Rungs
from kblocks.tuner.choosing.sampler import is_grid, sampler_of
from kblocks.tuner.hypermodel import HyperModel, recompile
from kblocks.tuner.oracle import Oracle, hyperparameters, space_of
from kblocks.tuner.records import RUN, Record, Run
from kblocks.tuner.running import devices, on_ray
from kblocks.tuner.running.fitting import Fit, check
from kblocks.tuner.running.jobs import Job, ObjectJob, Role, is_helping
from kblocks.tuner.running.loop import HopelessError, without_result
from kblocks.tuner.running.precision import settle
from kblocks.tuner.running.search import Search
from kblocks.tuner.running.supervising import alone, supervise
from kblocks.tuner.running.trial import Attempt, epochs_of, model_with
from kblocks.tuner.storing.identity import check_joining, limits_and_methods, settings_of, unusual
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
            `hp` that returns a compiled model. A subclass with its own `run_trial` needs none.
        objective: the name of a metric or cost in the logs, a `keras_tuner.Objective`, or a list
            of them; with several, the search looks for the Pareto front. None means
            "val_accuracy"; for a HyperModel that is not ours and has its own `fit`, the number
            that `fit` returns, to be minimized.
        sampler: "tpe", "random", "grid", "nsga2", or an Optuna sampler. "tpe" begins
            with 20 points for a kb.tuner.HyperModel: untried options and large networks, then those
            of which a linear model of the trials expects most. With a cost among the objectives,
            and for other models, it begins with ten random ones.
        pruner: "hyperband", "median", an Optuna pruner, or None. Ends unpromising trials early;
            only with one objective.
        scheduler: "asha" or a `kb.tuner.Asha`: trials begin with few epochs and the best go on from
            there, each as a trial of its own that `trials` does not count. None trains each trial
            for all epochs. It goes with one objective, one training of each trial, and no pruner.
        budget: a `kb.Budget` for the networks. For a HyperModel that is not ours, it can limit
            only the number of parameters.
        trials: the total number of trials, those of earlier runs included; None sets no limit.
        hours: time after which no trial begins, and running ones end after their current epoch;
            None sets no limit.
        workers: the number of processes that train, which share the machine's cores. "auto" is one
            for each GPU, or without GPUs one for each core. 0 trains in this process, which then
            ends if a trial crashes. It also trains where no worker can begin, as in a script
            without `if __name__ == "__main__":`.
        storage: an SQLAlchemy URL of the database; None means an SQLite file in the run's folder.
        directory, project_name: the run's folder is `directory/project_name`.
        patience: the search ends when so many trials have not improved on the best; None sets no
            limit.
        executions_per_trial: how often each trial trains its model. Its score is their mean.
        folds: into how many parts the data are cut for k-fold cross-validation: a trial trains
            once for each part, on all others, and its score is the mean over the parts; None
            trains once, with the validation data of `search`.
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
        precision: as in `kb.Recipe`, one for all trials. "auto" tries the network of the default
            point before the first trial; the storage keeps the result for all processes and later
            runs. None is that of the recipe, or of an earlier run of the search.
        extend: whether to resume an earlier search although choices were added to its space.
        overwrite: whether to delete an earlier search of that name.
        ray: the resources of each worker, as options of a Ray task, such as
            {"num_cpus": 4, "num_gpus": 1}; the workers then run on a Ray cluster (extra `ray`).
            None runs them on this machine without Ray.
        gpus: which of this machine's GPUs the workers get in turn, one each: a list of indices from
            0, None for all, 0 or [] for none.
        theirs: Keras Tuner's `max_trials` (our `trials`), `max_model_size` (`kb.Budget(params=)`),
            `max_retries_per_trial`, `max_consecutive_failed_trials`, `distribution_strategy`, and
            for a HyperModel that is not ours `hyperparameters`, `tune_new_entries`,
            `allow_new_entries`, `optimizer`, `loss`, `metrics`.

    Raises:
        ValueError: if an argument is invalid, or a subclass replaces a method that no search calls.
        ImportError: if fsspec needs another package for `checkpoint_directory`.
        ConnectionError: if `checkpoint_directory` cannot be reached.

    Example:
        >>> tuner = kb.tuner.Tuner(hypermodel, trials=50, workers=2, project_name="cifar")
        >>> run = tuner.search(x, y, validation_split=0.2, epochs=20)
        >>> model = tuner.get_best_models()[0]
    """

    budget: Budget | None
    max_retries_per_trial: int
    max_consecutive_failed_trials: int | None
    hyperparameters: keras_tuner.HyperParameters | None
    tune_new_entries: bool
    allow_new_entries: bool

    def __init__(
        self,
        hypermodel: Any = None,
        objective: Any = None,
        *,
        sampler: str | optuna.samplers.BaseSampler = "tpe",
        pruner: str | optuna.pruners.BasePruner | None = None,
        scheduler: str | Asha | None = None,
        budget: Budget | None = None,
        trials: int | None = None,
        hours: float | None = None,
        workers: int | str = 1,
        storage: str | None = None,
        directory: Any = "runs",
        project_name: str = "search",
        patience: int | None = None,
        executions_per_trial: int = 1,
        folds: int | None = None,
        trial_seconds: float | None = None,
        checkpoints: int = 3,
        checkpoint_directory: Any = None,
        tensorboard: Any = None,
        seed: int | None = None,
        precision: str | None = None,
        extend: bool = False,
        overwrite: bool = False,
        ray: Mapping[str, Any] | None = None,
        gpus: Sequence[int] | int | None = None,
        **theirs: Unpack[KerasTunerArguments],
    ) -> None:
        check_methods(type(self), Tuner)
        given = completed(theirs, hypermodel, trials, budget)
        check_numbers(hours=hours, trial_seconds=trial_seconds, patience=patience)
        check_counts(1, executions_per_trial=executions_per_trial)
        check_counts(2, folds=2 if folds is None else folds)
        processes: int = devices.counted(workers, gpus, ray, given["trials"])
        check_counts(workers=processes, checkpoints=checkpoints, seed=0 if seed is None else seed)
        check_name(project_name)
        if hypermodel is None and self.replaces("run_trial"):
            hypermodel = keras_tuner.HyperModel()
        model = hypermodel_of(hypermodel, given["budget"])
        own_run = self.replaces("run_trial")
        self.precision, model = precision_of(precision, model, own_run)
        self.has_objective = objective is not None
        self.objectives = objectives_of(objective, model, own_run)
        self.trials, self.gpus = given["trials"], devices.checked(gpus, processes, ray)
        own = {"executions_per_trial": executions_per_trial, "project_name": project_name}
        super().__init__(Oracle(self), hypermodel=None, directory=str(directory), **own)
        vars(self).update(given)
        self.hypermodel, self.hours, self.workers = model, hours, processes
        self.trial_seconds, self.checkpoints, self.seed = trial_seconds, checkpoints, seed
        self.patience, self.folds = patience, folds
        self.trainings = executions_per_trial * (folds or 1)  # of each trial
        self.sampler, self.pruner, self.ray = sampler, pruner, on_ray.checked(ray, processes)
        _ = sampler_of(sampler, seed), pruner_of(pruner, len(self.objectives) > 1)  # both may raise
        self.scheduler = scheduler_of(scheduler, self)
        self.extend, self.overwrite = extend, overwrite
        self.folder = Path(directory) / project_name
        self.storage_url = url_of(storage, self.folder)
        self.tensorboard = None if tensorboard is None else str(tensorboard)
        self.checkpoint_directory = place_of_checkpoints(
            checkpoint_directory, self.folder, project_name, processes
        )
        self.role = Role()
        self.storage_patience = PATIENCE  # seconds for which the storage may be unusable
        self.growth = float(1 << 30)  # bytes; a worker process that grows by more is replaced
        if overwrite and not is_helping():
            with contextlib.suppress(RuntimeError), alone(self.storage_url, project_name):
                self.store.clear()
                self.overwrite = False

    @cached_property
    def store(self) -> Store:
        """Where the search is kept."""
        create = not self.role.serves  # to a worker, a missing storage is an outage
        where = self.storage_url, self.checkpoint_directory, self.project_name
        return Store(*where, self.storage_patience, create)

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
                completed, with the last error; or if another thread of this process runs this
                search.
            ConnectionError: if the storage or the checkpoints cannot be reached.
        """
        return self.run_job(ObjectJob(self, fit_args, fit_kwargs), verbose=verbose)

    def run_job(self, job: Job, verbose: int = 1) -> Run:
        """Runs the search of a `Job`, which creates the tuner and the data in worker processes."""
        with alone(self.storage_url, self.project_name):
            self.store.checkpoints.check()
            fit = job.fit()
            check(fit, self.folds)
            if isinstance(self.hypermodel, HyperModel):
                self.hypermodel.check_targets(*fit)
                self.hypermodel.check_weights(*fit)
            self._begin(fit, job.named())
            self.on_search_begin()
            supervise(self, job, fit, verbose)
            self.on_search_end()
        run = self.run()
        helps = self.role.joins or self.role.serves  # other processes may still complete a trial
        if not helps and not run.completed() and any(trial.failure for trial in run.trials):
            raise HopelessError(without_result(run))
        return run

    def join(self) -> None:
        """Makes `search` work for the search in the storage, which must have the same settings."""
        number = zlib.crc32(owner().encode())  # other machines' processes count from 0 too
        self.role = replace(self.role, worker=number, joins=True)

    def serve(self, worker: int) -> None:
        """Makes this the tuner of a worker process."""
        self.role = replace(self.role, worker=worker, serves=True)

    def _begin(self, fit: Fit, named: Mapping[str, Any]) -> None:
        if not self.overwrite:
            self._take_objectives()
        if self.scheduler is not None:
            _ = self.scheduler.rungs(epochs_of(fit))  # raises if there is only one
            if self.role.joins or self.role.serves:
                self.store.check_shared()
        settings = settings_of(
            self.hypermodel,
            self.objectives,
            fit,
            epochs=epochs_of(fit),
            **limits_and_methods(self),
            job=dict(named),
        ) | unusual(self)
        if self.role.joins:
            before = self.store.study().user_attrs.get(RUN)
            if before is not None:  # else another process is just creating it
                check_joining(before, settings)
        else:
            self.store.begin(self.objectives, settings, self._asks, self.extend, self.overwrite)
            self.overwrite = False  # the next call resumes this search
        settle(self.store.storage, self.store.study(), self.precision)

    def _take_objectives(self) -> None:
        """Without `objective`, those of the search in the storage hold, if it has begun."""
        if not self.has_objective:
            with contextlib.suppress(KeyError):
                run = self.run()
                self.objectives = run.objectives if run.settings else self.objectives

    def _asks(self) -> Mapping[str, BaseDistribution]:
        if isinstance(self.hypermodel, HyperModel):
            return distributions_of(self.hypermodel)
        return self.asked().asked

    def asking(self, ask: Callable[[str, BaseDistribution, Any], Any]) -> Asking:
        """Hyperparameters whose values a function suggests, in the way that the search does."""
        is_ours = isinstance(self.hypermodel, HyperModel)
        listed = not is_ours and is_grid(sampler_of(self.sampler, self.seed))
        others = self.tune_new_entries, self.allow_new_entries
        return Asking(ask, listed, self.hyperparameters, *others)

    def asked(self) -> Asking:
        """The hyperparameters that the HyperModel asks for at its defaults; builds that model."""
        asking = self.asking(lambda name, distribution, default: default)
        self.hypermodel.build(asking)
        return asking

    def replaces(self, method: str) -> bool:
        """Whether a subclass, or this tuner alone, has its own method of that name."""
        own = getattr(self, method)
        return getattr(own, "__func__", own) is not getattr(Tuner, method)

    def make_search(self, deadline: float | None = None) -> Search:
        """What this process needs to work for the search: study, sampler, pruner, limits.

        Args:
            deadline: when the search ends, in seconds of `time.monotonic`; None without a limit.
        """
        self._take_objectives()
        study = self.store.study()
        own = self.sampler, self.seed, self.role.worker, self.hypermodel
        study.sampler = chooser(*own, study, self.objectives)
        study.pruner = pruner_of(self.pruner)
        places = self.store.storage, self.store.checkpoints
        search = Search(self, study, *places, self.objectives, self.trials, deadline)
        if self.scheduler is not None:
            epochs = study.user_attrs[RUN]["epochs"]
            search.rungs = Rungs(study, self.scheduler, epochs, self.objectives[0])
        return search

    def deadline(self) -> float | None:
        """When `hours` are over, in seconds of `time.monotonic`; None without a limit."""
        if self.role.until is not None:
            return time.monotonic() + self.role.until - time.time()
        return None if self.hours is None else time.monotonic() + 3600 * self.hours

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        """Builds and trains the model of a trial; returns what `fit` returns, in a search a list.

        Only in a search is training recorded and resumed. A subclass may do something else.
        """
        if isinstance(trial, Attempt):
            return trial.execute(*args, **kwargs)
        model = self.build(trial.hyperparameters)
        return self.hypermodel.fit(trial.hyperparameters, model, *args, **kwargs)

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The model of hyperparameters, as trials train it.

        Raises:
            keras_tuner.errors.FatalTypeError: if the HyperModel builds no Keras model.
        """
        given = {name: getattr(self, name) for name in ("optimizer", "loss", "metrics")}
        if self.distribution_strategy is not None and isinstance(self.hypermodel, HyperModel):
            self.hypermodel.space.forget()  # a model that was built outside of the strategy
        with maybe_distribute(self.distribution_strategy):
            model: Any = self.hypermodel.build(hp)
            if not isinstance(model, keras.Model):
                raise FatalTypeError(f"`build` must return a keras.Model. Received: {model!r}")
            if any(value is not None for value in given.values()):
                recompile(model, **{k: v for k, v in given.items() if v is not None})
        return model

    def on_trial_end(self, trial: Any) -> None:
        """Called after the end of a trial was recorded; does nothing."""

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
        best = self._ranked()[:num_trials]
        return [hyperparameters(record, space_of(self, record.number)) for record in best]

    def get_best_models(self, num_models: int = 1) -> list[keras.Model]:
        """The compiled models of the best trials, with the weights of their best epochs.

        They compute in float32, whatever the `precision` of the search.

        Only the `checkpoints` best trials keep their weights. If more models are asked for, fewer
        are returned, and a warning in the log says how many.

        Raises:
            ValueError: if none of these trials has kept its weights, or `build` now makes a model
                that they do not fit.
            RuntimeError: if no trial was completed, with the reason of the last failure.
        """
        records = self._ranked()[:num_models]
        if self.replaces("load_model"):
            return [self.load_model(trial) for trial in self.oracle.get_best_trials(num_models)]
        weights = self.store.weights_of(*(record.number for record in records))
        lost = [record.number for record in records if weights[record.number] is None]
        kept = [record for record in records if record.number not in lost]
        if lost:
            message = f"{self._unkept(*lost)} {len(kept)} of {len(records)} models are there"
            if not kept:
                raise ValueError(message)
            log.warning("%s", message)
        return [self.model_of(record, weights[record.number]) for record in kept]

    def _ranked(self) -> list[Record]:
        run = self.run()
        if not run.completed():
            raise RuntimeError(without_result(run))
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
        return model_with(self, record, hyperparameters(record), weights)

    def _unkept(self, *numbers: int) -> str:
        return (
            f"No weights are kept of trial {', '.join(map(str, numbers))}; of the "
            f"{self.checkpoints} best they are (`checkpoints`). Its hyperparameters are there: "
            "build it and train it."
        )

    def load_model(self, trial: Any) -> keras.Model:
        """The model of a Keras Tuner trial, with the weights of its best epoch."""
        number = int(trial.trial_id)
        return self.model_of(next(t for t in self.run().trials if t.number == number))

    def results_summary(self, num_trials: int = 10) -> None:
        """Prints the best trials: their scores and hyperparameters."""
        run = self.run()
        tell(f"Search {plain(run.name)} in {shown(self.storage_url)}")
        for record in run.ranked()[:num_trials]:
            tell(f"\nTrial {record.number}: {plain(run.told(record))}")
            for name, value in record.values.items():
                tell(plain(f"  {name} = {value}"))

    def search_space_summary(self, extended: bool = False) -> None:
        """Prints the choices of the search."""
        if isinstance(self.hypermodel, HyperModel):
            self.hypermodel.space.describe(tell)
        else:
            super().search_space_summary(extended)

    def save(self) -> None:
        """Does nothing: the storage has everything."""

    def reload(self) -> None:
        """Opens the storage anew."""
        vars(self).pop("store", None)
