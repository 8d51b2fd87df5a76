"""`HyperModel`: the networks of a space and how they are trained, for any tuner of Keras Tuner."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import keras_tuner

from kblocks.heads import tasks_of
from kblocks.model_tools.timing import latency as measured_latency
from kblocks.networks.architecture import Architecture
from kblocks.networks.model_costs import cost_of_model
from kblocks.search_space.budget import Budget
from kblocks.search_space.choices import Searchable
from kblocks.search_space.names import NETWORK, START
from kblocks.search_space.recording import check_recordable
from kblocks.search_space.space import Space
from kblocks.search_space.tree import Tree
from kblocks.training.averaging import Averaged
from kblocks.training.preparing import prepare
from kblocks.training.recipe import Recipe, fresh
from kblocks.training.stepping import joined
from kblocks.training.transfer import FineTuning, Starts, fit_head_first
from kblocks.tuner.suggesting import Values, declare_all, network_of, read_point, suggest


class HyperModel(keras_tuner.HyperModel):
    """Builds and trains the networks of a space, for any tuner of Keras Tuner.

    If a tuner draws a point that does not fit, `build` repairs it first. `hp` keeps the drawn
    values, and `hp.values["kblocks/network"]` holds the JSON of the network that was built.

    Args:
        space: a `kb.Space` of networks or Keras models with an input shape:
            `space.within(input_shape, budget)`.
        recipe: a `kb.Recipe`, whose choices are searched too; None means `kb.Recipe()`.
        compile: replaces the recipe: a dict of arguments for `model.compile`, or a function
            of the model and `hp` that compiles the model.
        latency: whether to measure the latency of each trial's model, which takes about a
            second.
        name: the name of the hypermodel.
        weights: weights from which each trial's network starts, loaded where shapes agree:
            "imagenet" or the name of another published set (those of the network or, in a space
            around no published network, of the most similar one of its family), a file or a source
            as `Architecture.model` takes it. None starts from fresh weights.
        finetuning: a `kb.FineTuning`, whose choices are searched too; goes with `weights`. None
            means `kb.FineTuning()`.
        value_range: the lowest and highest value of the images, which the model normalizes as the
            weights expect it: (0, 1) as `kb.tuner.load` returns them, or (0, 255). None for images
            that are normalized already.

    `hp.values["kblocks/start"]` holds as JSON how many arrays were loaded. The logs of every epoch
    contain `params`, `macs`, `activations` and, if measured, `latency` (seconds for one image, see
    `kb.latency`). Each can be an objective: `keras_tuner.Objective("macs", "min")`.

    Raises:
        ValueError: if the space has no input shape or is of blocks, `recipe` is no `kb.Recipe`,
            both `recipe` and `compile` are given, `finetuning` is given without `weights` or
            with `compile`, no weights are published for a network of the space, or a bound of an
            integer choice is beyond 2**53, up to which tuners record integers exactly.
    """

    def __init__(
        self,
        space: Space,
        recipe: Recipe | None = None,
        compile: Mapping[str, Any] | Callable[[keras.Model, Any], None] | None = None,
        latency: bool = True,
        name: str | None = None,
        weights: Any = None,
        finetuning: FineTuning | None = None,
        value_range: tuple[float, float] | None = (0, 1),
    ) -> None:
        super().__init__(name=name)
        if not isinstance(space, Space) or space.input_shape is None:
            raise ValueError(
                "`space` must be a kblocks.Space that knows its input: space.within(input_shape). "
                f"Received: space={space!r}"
            )
        if space.is_of_blocks:
            raise ValueError(
                "`space` must be of networks; a block is for a build(hp) of your own, through "
                f"kb.tuner.suggest(hp, space, name='block1'). Received: space={space!r}"
            )
        if recipe is not None and compile is not None:
            raise ValueError("`recipe` and `compile` exclude each other. Received: both")
        if recipe is not None and not isinstance(recipe, Recipe):
            raise ValueError(f"`recipe` must be a kblocks.Recipe. Received: recipe={recipe!r}")
        self.space = space
        self.recipe = recipe or Recipe()
        self.compile = compile
        self.latency = latency
        if finetuning is not None and (weights is None or compile is not None):
            raise ValueError(
                "`finetuning` goes with `weights` and a recipe. "
                f"Received: weights={weights!r}, compile={compile!r}"
            )
        if weights is not None and space.is_of_models:
            raise ValueError(
                "`weights` go with a space of networks; a function that returns a Keras model "
                f"loads them itself. Received: weights={weights!r}, space={space!r}"
            )
        self.weights, self.finetuning = weights, finetuning or FineTuning()
        self.value_range = value_range
        self.starts = None if weights is None else Starts(space, weights, value_range)
        for own, kind in self.dimensions().items():
            check_recordable(own, kind)

    def declare_hyperparameters(self, hp: Any) -> None:
        """Declares all choices at once, so that no model is built to find them."""
        for tree in self.trees():
            declare_all(hp, tree)

    def within(self, budget: Budget) -> HyperModel:
        """A copy of this hypermodel over the networks within a `kb.Budget`."""
        other = self.changed(space=self.space.within(self.space.input_shape, budget))
        if self.starts is not None:
            other.starts = Starts(other.space, self.weights, self.value_range)
        return other

    def changed(self, **attributes: Any) -> HyperModel:
        """A copy of this hypermodel with other attributes."""
        other = copy.copy(self)
        del other.build  # Keras Tuner's wrapper of this one's method
        keras_tuner.HyperModel.__init__(other, self.name, self.tunable)
        vars(other).update(attributes)
        return other

    def trees(self) -> tuple[Tree, Tree]:
        """The space's tree of choices and that of the training: of recipe and fine-tuning.

        The latter is empty if `compile` replaces the recipe.
        """
        if self.compile is not None:
            return self.space.tree, Tree({})
        return self.space.tree, self.recipe.tree().joined(self.finetuning.tree())

    def dimensions(self) -> dict[str, Searchable]:
        """The choices of both trees, by name."""
        return {name: d.kind for tree in self.trees() for name, d in tree.dimensions.items()}

    def build(self, hp: Any) -> keras.Model:
        """Builds and compiles the model of the point in `hp`, repaired if it does not fit."""
        made, shape = suggest(hp, self.space), self.space.input_shape
        if self.starts is None:
            return self.compiled(made if self.space.is_of_models else made.model(shape), hp)
        model, known = self.starts.model(made, self.chosen(hp).image_size)
        hp.values = Values({**hp.values, START: json.dumps(known)})
        return self.compiled(model, hp, epoch=hp.values.get("tuner/initial_epoch", 0))

    def chosen(self, hp: Any) -> FineTuning:
        """The fine-tuning of the point in `hp`, without choices."""
        is_own = self.weights is not None and self.compile is None
        return (
            FineTuning(**read_point(hp, self.finetuning.tree()).arguments)
            if is_own
            else FineTuning()
        )

    def model_shape(self, hp: Any) -> tuple[int, int, int]:
        """The input shape of the network of the point in `hp`."""
        shape: Any = self.space.input_shape
        size = self.chosen(hp).image_size
        return shape if size is None else (size, size, shape[2])

    def compiled(self, model: keras.Model, hp: Any, epoch: int | None = None) -> keras.Model:
        """Compiles a model of the point in `hp`, and returns it.

        Args:
            model, hp: the model and the point.
            epoch: the epoch from which it is trained next, which may be one of `head_epochs`; None
                is a later one.
        """
        if self.compile is None:
            factors: dict[str, float] = {}
            if self.starts is not None:
                chosen = self.chosen(hp)
                alone = epoch is not None and epoch < chosen.head_epochs
                factors = chosen.set_up(model, alone)
            self.recipe.compile(model, factors, **read_point(hp, self.recipe.tree()).arguments)
            return model  # already prepared by the recipe
        if isinstance(self.compile, Mapping):
            model.compile(**_fresh(self.compile))
        else:
            self.compile(model, hp)
        return prepare(model) if model.compiled else model

    def check_targets(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Checks that trials can be trained on the targets among the arguments of `fit`.

        Looks at arrays, and at the shapes of TensorFlow datasets. Nothing is checked where
        `compile` replaces the recipe, or a subclass replaces `build` or `fit`.

        Args:
            args, kwargs: the positional and keyword arguments of `fit`.

        Raises:
            ValueError: with the argument, the form that was expected and what was received.
        """
        kind = type(self)
        if self.compile is not None or (kind.build, kind.fit) != (HyperModel.build, HyperModel.fit):
            return
        found = self.space.look()
        tasks = tasks_of(found) if self.space.is_of_models else found.head
        for name, value in named(args, kwargs).items():
            targets = value
            if name in ("x", "validation_data"):
                pair = getattr(value, "element_spec", value if name != "x" else None)
                targets = pair[1] if isinstance(pair, (tuple, list)) and len(pair) > 1 else None
            if name in ("x", "y", "validation_data") and targets is not None:
                try:
                    self.recipe.check(tasks, targets)
                except ValueError as error:
                    raise ValueError(f"`{name}` of fit: {error}") from error

    def check_weights(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Reads the weights from which trials start, and checks the range of arrays of images.

        Args:
            args, kwargs: the positional and keyword arguments of `fit`.

        Raises:
            ValueError: if the images have not the `value_range`, or no array fits a network.
            OSError, ImportError: if weights cannot be read; the message says what to bring.
        """
        if self.starts is not None:
            self.starts.check(named(args, kwargs).get("x"))

    def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        """Calls `model.fit` with the recipe's schedule and the network's costs in the logs.

        Where `head_epochs` come first, it is called twice; the History has all epochs.
        """
        net = network_of(hp) if NETWORK in hp.values else model
        given = named(args, kwargs)
        added: list[Any] = []
        if self.compile is None:
            chosen = read_point(hp, self.recipe.tree()).arguments
            added = self.recipe.callbacks(given.get("epochs", 1), **chosen)
        costs = CostLogs(net, self.model_shape(hp), self.latency)
        averaged = [one for one in added if isinstance(one, Averaged)]
        schedules = [one for one in added if one not in averaged]
        # First, so that the tuner's own callbacks find the costs in the logs and averaged weights.
        given["callbacks"] = [costs, *averaged, *(given.get("callbacks") or ()), *schedules]
        again = partial(self.compiled, model, hp)
        epochs, fit = self.chosen(hp).head_epochs, partial(super().fit, hp, model)
        macs = None if epochs else costs.known.get("macs")
        with joined(model, given, macs) as arguments:
            return fit_head_first(epochs, fit, again, arguments)


def named(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `model.fit` by name, positional ones too."""
    names = [name for name in inspect.signature(keras.Model.fit).parameters if name != "self"]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def costs_of(net: Architecture | keras.Model, input_shape: Any) -> dict[str, int]:
    """The costs of a network, under the names that they have in logs and records.

    Of a Keras model with layers of unknown cost, the parameters alone.
    """
    cost, unknown = (
        cost_of_model(net) if isinstance(net, keras.Model) else (net.cost(input_shape), [])
    )
    names = ("params",) if unknown else ("params", "macs", "activations")
    return {name: getattr(cost, name) for name in names}


class CostLogs(keras.callbacks.Callback):
    """A Keras callback that adds the costs of a network to the logs of every epoch.

    The logs get `params`, `macs`, `activations` and, if measured, `latency` (seconds for one
    image).

    Args:
        net: the `kb.Architecture` of the model that is trained, or the model, which may have
            layers of unknown cost: then only `params` is added.
        input_shape: (height, width, channels).
        latency: whether to measure the model's latency, once before training.
    """

    def __init__(self, net: Any, input_shape: Any, latency: bool = True) -> None:
        super().__init__()
        self.known: dict[str, float] = {**costs_of(net, input_shape)}
        self._timed = latency

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Measures the latency of the model."""
        model: Any = self.model
        if self._timed and "latency" not in self.known:  # `fit` may be called twice
            self.known["latency"] = measured_latency(model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the costs to the logs."""
        if logs is not None:
            logs.update(self.known)


def recompile(model: keras.Model, **given: Any) -> None:
    """Compiles a model with other arguments, of which it gets copies; the rest stays."""
    kept: dict[str, Any] = {}
    if model.compiled:
        own = {"optimizer": model.optimizer, "loss": model.loss}
        known: Any = model.get_compile_config()
        known = {name: known[name] for name in known if name not in (*own, *given)}
        kept = {**keras.saving.deserialize_keras_object(known), **own}
    model.compile(**{**kept, **_fresh(given)})


def _fresh(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Copies the arguments of `compile`, since an optimizer or a metric serves one model only."""
    copies = dict(arguments)
    optimizer: Any = copies.get("optimizer")
    if isinstance(optimizer, keras.optimizers.Optimizer):
        copies["optimizer"] = type(optimizer).from_config(optimizer.get_config())
    for name in {"metrics", "weighted_metrics"} & set(copies):
        copies[name] = fresh(copies[name])
    return copies
