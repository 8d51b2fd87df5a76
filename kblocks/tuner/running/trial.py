"""Trains the model of one trial: builds it, fits it as often as asked, and returns its scores."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.trial import Trial

from kblocks.search_space.names import NETWORK, START
from kblocks.training.precision import compute_in
from kblocks.tuner.choosing.sampler import RepeatedError
from kblocks.tuner.hypermodel import HyperModel, costs_of, named
from kblocks.tuner.records import Record, folder_name
from kblocks.tuner.running.epochs import Epochs, PrunedError, TimedEpochs, hooks
from kblocks.tuner.running.failures import FailedError, failure_from
from kblocks.tuner.running.fitting import Fit, of_training
from kblocks.tuner.running.recorder import LostError, Outcome, Progress, Recorder
from kblocks.tuner.running.results import figures_of, scores_of
from kblocks.tuner.running.search import Search
from kblocks.tuner.running.surroundings import without_forks
from kblocks.tuner.storing import interrupts
from kblocks.tuner.storing.checkpoints import State
from kblocks.tuner.storing.patience import ForkedError
from kblocks.tuner.suggesting import network_of
from kblocks.tuner.terminal import log

# What ends the search or the trial without being a failure of the trial.
_NO_FAILURES = (keras_tuner.errors.FatalError, ForkedError, LostError, RepeatedError)


class Attempt(Trial):
    """A trial while this process trains it, in the form in which Keras Tuner's methods get it."""

    hyperparameters: Any

    def __init__(
        self, search: Search, recorder: Recorder, hp: Any, clean: Callable[[], None]
    ) -> None:
        super().__init__(hp, str(recorder.number))
        self.search, self.recorder, self.clean = search, recorder, clean
        self.began = search.clock()
        self.weights: list[Any] = []  # of the best epoch of all its trainings

    def execute(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Trains as often as the search asks for; returns what each `fit` has returned.

        Of trainings that an earlier process has done, it returns the objectives.
        """
        search, recorder, tuner = self.search, self.recorder, self.search.tuner
        names = [objective.name for objective in search.objectives]
        done = recorder.executions
        returned: list[Any] = [dict(zip(names, one["scores"], strict=True)) for one in done]
        state = self._state()
        self.weights = state.best if state else []
        for index in range(len(done), tuner.trainings):
            if returned and search.is_late:
                break  # the trial counts as it is
            fit = of_training((args, kwargs), tuner.folds, index)
            kind = Epochs if search.tuner.trial_seconds is None else TimedEpochs
            epochs, state = kind(self, index, state), None
            returned.append(self._trained(epochs, index, fit))
            if tuner.trainings > 1:
                scores = scores_of(returned[-1], search, "HyperModel.fit", recorder.costs)
                recorder.execution(scores, epochs.progress.history)
                self.save_state(State(0, [], best=self.weights, execution=index + 1))
                for callback in (epochs, returned[-1]):  # so that the model is freed
                    if isinstance(callback, keras.callbacks.Callback):
                        callback.set_model(None)
                self.clean()
        return returned

    def save_state(self, state: State) -> None:
        """Saves a checkpoint, without which the trial would start anew if its process ended."""
        try:
            self.search.checkpoints.save_state(self.recorder.number, state)
        except OSError as error:
            log.warning("No checkpoint of trial %s: %s", self.trial_id, error)

    def _state(self) -> State | None:
        checkpoints, before = self.search.checkpoints, self.recorder.continues
        try:
            state = checkpoints.state(self.recorder.number)
            if state is None and before is not None:
                state = checkpoints.state(before)
                if state is None:
                    log.warning(
                        "Trial %s starts anew: trial %s has no state", self.trial_id, before
                    )
            return state
        except OSError as error:
            log.warning("Trial %s starts anew, its checkpoint is away: %s", self.trial_id, error)
            return None

    def _trained(self, epochs: Epochs, index: int, fit: Fit) -> Any:
        search, hp = self.search, self.hyperparameters
        model: Any = search.tuner.build(hp)
        if search.policy is not None:
            compute_in(model, search.policy)

        def built() -> None:
            start = json.loads(hp.values.get(START, "{}"))
            self.recorder.built(hp.values.get(NETWORK), _costs(search, hp, model), start)
            if self.recorder.is_new and index == 0:
                asked = {name: hp.values[name] for name in hp.asked}
                search.sampler.refuse_repeated(self.recorder.number, asked)

        if build_as(model, self.recorder.shapes):
            built()
            epochs.resume(model)
        else:
            epochs.when_built = built
        part = f"execution{index}" if search.tuner.trainings > 1 else ""
        return epochs.finish(_fitted(self, model, fit, epochs, part), model)

    def ended(self, outcome: Outcome) -> None:
        """Notes how the trial ended, for `on_trial_end`."""
        self.status = "COMPLETED" if outcome.scores else "FAILED" if outcome.failure else "STOPPED"
        self.score = outcome.scores[0] if outcome.scores else None
        self.message = outcome.failure.message if outcome.failure else None


def train(trial: Attempt, fit: Fit) -> Outcome:
    """Builds and trains the model of a trial; an interrupted one resumes from its checkpoint."""
    left = trial.search.tuner.max_retries_per_trial
    while True:
        try:
            with without_forks():
                return _run(trial, fit)
        except PrunedError:
            return Outcome()
        except _NO_FAILURES:
            raise
        except BaseException as error:  # `sys.exit` among them, as `argparse` calls it
            interrupts.check(error)
            failure = failure_from(error)
            is_final = isinstance(error, keras_tuner.errors.FailedTrialError)
            if left == 0 or is_final or failure.kind in ("budget", "timeout"):
                return Outcome(failure=failure)
            left -= 1
            log.warning("Trial %s is tried again: %s", trial.trial_id, failure.message)
            with contextlib.suppress(OSError):
                trial.search.checkpoints.drop(trial.recorder.number)
        trial.clean()  # the failed model still has its memory


def _run(trial: Attempt, fit: Fit) -> Outcome:
    search, recorder, hp = trial.search, trial.recorder, trial.hyperparameters
    tuner, is_replaced = search.tuner, search.tuner.replaces("run_trial")
    tuner.hypermodel.declare_hyperparameters(hp)
    if tuner.replaces("on_trial_begin"):
        if not isinstance(tuner.hypermodel, HyperModel) and not is_replaced:
            tuner.hypermodel.build(hp)  # asks for the values, which the method may read
        tuner.on_trial_begin(trial)
    returned = tuner.run_trial(trial, *fit[0], **fit[1])
    scores = scores_of(returned, search, "Tuner.run_trial", recorder.costs)
    if is_replaced:
        figures = figures_of(returned, search, "Tuner.run_trial", recorder.costs)
        progress = Progress({**recorder.latest, **figures})
        recorder.epoch(progress, progress.epochs)
        several = returned if isinstance(returned, list) and len(returned) > 1 else ()
        for one in () if recorder.executions else several:
            recorder.execution(scores_of(one, search, "Tuner.run_trial", recorder.costs), {})
    return Outcome(scores, trial.weights)


def _fitted(trial: Attempt, model: keras.Model, fit: Fit, epochs: Epochs, part: str) -> Any:
    """Calls the HyperModel's `fit` with copies of the user's callbacks and `epochs`.

    `part` is the subfolder of this training in the trial's folder for TensorBoard.
    """
    hp: Any = trial.hyperparameters
    args, kwargs = fit[0], dict(fit[1])
    own = copy.deepcopy(list(kwargs.pop("callbacks", None) or ()))
    added: list[Any] = []
    for callback in own:
        if isinstance(callback, keras.callbacks.TensorBoard):
            from kblocks.tuner.reporting.tensorboard import Values

            run = folder_name(trial.recorder.number)
            callback.log_dir = os.path.join(str(callback.log_dir), run, part)
            values = {
                name: value for name, value in hp.values.items() if name not in (NETWORK, START)
            }
            added.append(Values(callback.log_dir, run, values))
    kwargs["callbacks"] = [*own, *added, *hooks(trial), epochs]
    kwargs.setdefault("verbose", 0)
    if epochs.first:
        kwargs["initial_epoch"] = epochs.first
    return trial.search.tuner.hypermodel.fit(hp, model, *args, **kwargs)


def model_with(tuner: Any, record: Record, hp: Any, weights: Any) -> keras.Model:
    """The model of a trial's hyperparameters `hp`, in float32, with these weights.

    Raises:
        ValueError: if `build` now makes a model that they do not fit.
    """
    starts = getattr(tuner.hypermodel, "starts", None)
    with contextlib.nullcontext() if starts is None else starts.unread():
        model: Any = tuner.build(hp)
    build_as(model, record.shapes)
    compute_in(model, "float32")
    try:
        model.set_weights(weights)
    except ValueError as error:
        raise ValueError(
            f"The weights of trial {record.number} do not fit the model that `build` makes of "
            f"its hyperparameters: the code is not that of the search. {error}"
        ) from error
    return model


def build_as(model: keras.Model, shapes: Mapping[str, Any] | None) -> bool:
    """Builds a model that `fit` would build, if `fit` has built it with known shapes before.

    The shapes are as JSON holds them. Returns whether the model is built.
    """
    if not model.built and shapes:
        model.build_from_config({name: _tuples(shape) for name, shape in shapes.items()})
        return True
    return model.built


def _tuples(shape: Any) -> Any:
    """Restores the tuples of shapes, which JSON turns into lists."""
    if isinstance(shape, Mapping):
        return {name: _tuples(one) for name, one in shape.items()}
    is_shape = isinstance(shape, list) and all(n is None or isinstance(n, int) for n in shape)
    return tuple(shape) if is_shape else shape


def _costs(
    search: Search, hp: keras_tuner.HyperParameters, model: keras.Model
) -> Mapping[str, float]:
    """The costs of a trial's network; refuses a third-party model that is outside the budget."""
    if isinstance(search.tuner.hypermodel, HyperModel):
        net = network_of(hp) if NETWORK in hp.values else model
        return costs_of(net, search.tuner.hypermodel.model_shape(hp))
    # Like `model.count_params`, which takes some built models for unbuilt.
    params = sum(math.prod(weight.shape) for weight in model.weights)
    limits = search.tuner.budget.limits() if search.tuner.budget else {}
    if not limits.get("min_params", 0) <= params <= limits.get("params", math.inf):
        message = f"the model has {params:,} parameters, which {search.tuner.budget} excludes"
        raise FailedError("budget", message)
    return {"params": params}


def epochs_of(fit: Fit) -> int:
    """How many epochs `fit` is called for."""
    return int(named(*fit).get("epochs", 1))
