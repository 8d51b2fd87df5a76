"""`Recipe`: how to train a network, with choices among its arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import keras

from kblocks.common.showing import call_of
from kblocks.heads import Tasks, tasks_of
from kblocks.heads.classification import ClassLoss
from kblocks.heads.task import shape_of, takes_probabilities
from kblocks.search_space.choices import Choice, Integer, Real
from kblocks.search_space.tree import Tree
from kblocks.training.augmentation import augment, is_augmentation
from kblocks.training.finetuning import learning_rate_multipliers
from kblocks.training.preparing import prepare

_OURS = ("head", "sparse", "categorical")  # losses
_UNDECAYED = ["bias", "gamma", "beta"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to compile and train a network; any argument may be a choice, searched with the network.

    Args:
        optimizer: the name of a Keras optimizer ("sgd" has Nesterov momentum 0.9).
        learning_rate: a positive number, or without `schedule` a Keras schedule.
        weight_decay: decoupled weight decay per step; biases and the weights of norms have none.
            None is the optimizer's default.
        schedule: "cosine" lowers the learning rate to zero along a half cosine over the epochs
            (Loshchilov & Hutter 2016, arXiv:1608.03983); None keeps it.
        label_smoothing: the weight of the uniform distribution in the targets of a classifier,
            from 0 up to but not including 1.
        augmentation: random changes to the images in the training step: "flip" (left to right,
            with probability 0.5), "shift" (by up to an eighth of height and width, edges
            repeated), "flip+shift", one of Keras' preprocessing layers that keep labels, such as
            `keras.layers.RandomRotation(0.1)`, or a list of these; None changes nothing. Masks,
            boxes, points and weights of pixels move with the images; `compile` refuses a layer
            that cannot move them. Objects that leave the image are dropped, and points that leave
            it count as invisible. Points keep their order: after a "flip" the left eye is on the
            right.
        loss: "head" is the loss of the model's head (see `kb.Tasks`), or "sparse" for a classifier
            and for a model without a head of kblocks. "sparse" takes integer labels and
            "categorical" one-hot labels, both with logits. Also the name of a Keras loss (on
            logits if it supports them), a `keras.losses.Loss`, a function of targets and outputs,
            or a dict of these by output.
        metrics: metrics as `compile` takes them, copied for each model; "head" is the head's own.
        loss_weights: weights by output that replace the head's:
            `{"box": kb.real(0.1, 10, log=True)}`.

    Raises:
        ValueError: if an argument, or an option of its choice, is not of the form above.
    """

    optimizer: Any = "adam"
    learning_rate: Any = 1e-3
    weight_decay: Any = None
    schedule: Any = None
    label_smoothing: Any = 0.0
    augmentation: Any = None
    loss: Any = "head"
    metrics: Any = "head"
    loss_weights: Any = None

    def __repr__(self) -> str:
        return call_of(self)

    def __post_init__(self) -> None:
        for name, (expected, fits) in _FORMS.items():
            for option in _options(getattr(self, name)):
                if not fits(option):
                    raise ValueError(f"`{name}` must be {expected}. Received: {name}={option!r}")
        rates = [rate for rate in _options(self.learning_rate) if not _is_number(rate, 0)]
        if rates and "cosine" in _options(self.schedule):
            raise ValueError(
                "`learning_rate` must be a number if `schedule` is 'cosine'. "
                f"Received: learning_rate={rates[0]!r}, schedule={self.schedule!r}"
            )

    def tree(self) -> Tree:
        """The choices in this recipe, named `recipe.learning_rate` and so on."""
        return Tree({f.name: getattr(self, f.name) for f in fields(self)}, prefix="recipe.")

    def compile(
        self, model: keras.Model, multipliers: Mapping[str, float] | None = None, /, **chosen: Any
    ) -> None:
        """Compiles a model, adds the augmentation, and shortens its first step (`kb.prepare`).

        Args:
            model: a built model.
            multipliers: factors of the learning rate by stage, as `kb.learning_rate_multipliers`
                takes them; None leaves it the same for all.
            chosen: plain values for the choices, by argument or as a tuner records them:
                `compile(model, **study.best_params)`. Entries of a space are then ignored.

        Raises:
            ValueError: if a choice has no value, or the recipe does not fit the model's heads.
        """
        plain = self._with(chosen)
        left = next(iter(plain.tree().dimensions), None)
        if left is not None:
            name = left.removeprefix("recipe.")
            raise ValueError(f"Every choice must be given a value. Received: none for `{name}`")
        optimizer = plain._new_optimizer()
        if multipliers:
            optimizer = learning_rate_multipliers(optimizer, multipliers, model)
        model.compile(optimizer=optimizer, **plain._objective(model))
        augment(model, plain.augmentation)
        prepare(model)

    def check(self, tasks: Tasks, targets: Any) -> None:
        """Refuses targets on which this recipe cannot train models with these heads.

        Checks nothing if the loss is a choice, or not "head", "sparse" or "categorical".

        Args:
            tasks: the tasks of the heads: `Architecture.head`.
            targets: an array, or a dict of arrays by target. Of objects that only have a shape,
                such as the `element_spec` of a dataset, it checks the shape.

        Raises:
            ValueError: if the targets do not fit, with the form or the loss that does.
        """
        if not tasks or not _is_one_of(self.loss, _OURS):
            return
        has_values = all(
            not hasattr(leaf, "shape") or hasattr(leaf, "__array__")
            for leaf in keras.tree.flatten(targets)
        )
        if not _is_classifier(tasks):
            if self.loss == "head" and has_values:
                tasks.check(targets)
            return
        shape = shape_of(targets) if hasattr(targets, "shape") else None
        if shape is not None:
            is_one_hot = len(shape) == 2 and shape[1] != 1
            if is_one_hot != (self.loss == "categorical"):
                form, loss = ("One-hot", "categorical") if is_one_hot else ("Integer", "sparse")
                raise ValueError(
                    f'{form} labels need kb.Recipe(loss="{loss}"). '
                    f"Received: labels of shape {shape}, loss={self.loss!r}"
                )
        if has_values:
            tasks.check(targets)

    def suggest(self, trial: Any) -> dict[str, Any]:
        """The plain arguments that an Optuna trial suggests, for `compile` and `callbacks`.

        Asks the trial for active choices only, named as in `tree`.

        Args:
            trial: an Optuna trial, or an object with the same methods.
        """
        return self.tree().suggest(trial).arguments

    def callbacks(self, epochs: int, **chosen: Any) -> list[keras.callbacks.Callback]:
        """The callbacks that `fit` needs for the schedule.

        Args:
            epochs: the number of epochs of the whole training.
            chosen: plain values for the choices, as in `compile`.
        """
        plain = self._with(chosen)
        if plain.schedule is None:
            return []
        start = plain.learning_rate
        return [keras.callbacks.LearningRateScheduler(partial(_cosine, start, epochs))]

    def _with(self, chosen: Mapping[str, Any]) -> Recipe:
        """This recipe with plain values in place of choices, in any form that a tuner records."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {k: _option(own[k], v) if k in own else v for k, v in chosen.items()}
        names = self.tree().dimensions
        if any(name in names or name.startswith("recipe.") for name in chosen):  # in recorded form
            plain = {k: v for k, v in plain.items() if k in own}
            tree = Tree({k: v for k, v in own.items() if k not in plain}, prefix="recipe.")
            of_tree = {k: v for k, v in chosen.items() if k in tree.dimensions}
            plain |= tree.read(of_tree).arguments
        return Recipe(**{**own, **plain})

    def _objective(self, model: keras.Model) -> dict[str, Any]:
        """The arguments of `model.compile` that set the loss, the metrics and the loss weights."""
        tasks = tasks_of(model)
        is_own = not _is_one_of(self.loss, _OURS)
        arguments: dict[str, Any] = {"loss": self._new_loss(), "metrics": ["accuracy"]}
        if not _is_classifier(tasks) and (is_own or self.loss == "head"):
            if self.label_smoothing:
                raise ValueError(
                    "`label_smoothing` is for classifiers. "
                    f"Received: label_smoothing={self.label_smoothing} for {', '.join(tasks)}"
                )
            arguments = tasks.training(self.loss_weights)
        elif self.loss_weights is not None:
            raise ValueError(
                "`loss_weights` are for models of several outputs. "
                f"Received: loss_weights={self.loss_weights!r}"
            )
        if is_own:
            if self.label_smoothing:
                raise ValueError(
                    "`label_smoothing` goes with loss='head', 'sparse' or 'categorical'; give it "
                    f"to the loss. Received: label_smoothing={self.label_smoothing}, "
                    f"loss={self.loss!r}"
                )
            arguments["loss"] = _own_loss(self.loss, tasks, arguments["loss"])
            if not tasks and isinstance(arguments["loss"], Mapping):
                arguments["metrics"] = None  # nothing is known of the outputs
        if self.metrics != "head":
            named = [self.metrics] if isinstance(self.metrics, str) else self.metrics
            arguments["metrics"] = fresh(named)
        return arguments

    def _new_optimizer(self) -> Any:
        config: dict[str, Any] = {"learning_rate": self.learning_rate}
        if self.weight_decay is not None:
            config["weight_decay"] = self.weight_decay
        if self.optimizer.lower() == "sgd":
            config |= {"momentum": 0.9, "nesterov": True}
        optimizer: Any = keras.optimizers.get({"class_name": self.optimizer, "config": config})
        optimizer.exclude_from_weight_decay(var_names=_UNDECAYED)
        return optimizer

    def _new_loss(self) -> Any:
        smoothing = self.label_smoothing
        if self.loss == "categorical":
            return keras.losses.CategoricalCrossentropy(True, label_smoothing=smoothing)
        if not smoothing:
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return SmoothedSparseCrossentropy(smoothing)


def _cosine(start: float, epochs: int, epoch: int, rate: float = 0.0) -> float:
    """The learning rate of an epoch; the current one, `rate`, has no effect."""
    return start * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def _own_loss(given: Any, tasks: Tasks, head: Any) -> Any:
    """The user's loss, or a dict by output, in place of the head's.

    Raises:
        ValueError: if a loss does not take the logits of the head, or is for an unknown output.
    """
    if isinstance(given, Mapping) or len(tasks) > 1:
        if not isinstance(given, Mapping) or (
            tasks and (len(tasks) < 2 or set(given) - set(tasks))
        ):
            form = f"a dict by output, of {', '.join(tasks)}" if len(tasks) > 1 else "one loss"
            raise ValueError(f"`loss` must be {form}. Received: loss={given!r}")
        own = {name: Tasks({name: tasks[name]} if tasks else {}) for name in given}
        losses = {name: _own_loss(loss, own[name], None) for name, loss in given.items()}
        return {**head, **losses} if tasks else losses
    if inspect.isfunction(given) and getattr(keras.losses, given.__name__, None) is given:
        given = given.__name__
    loss = _named_loss(given) if isinstance(given, str) else given
    if any(task.gives_logits for task in tasks.values()) and takes_probabilities(loss):
        raise ValueError(
            f"`loss` must be on logits, which {', '.join(tasks)} are: one with from_logits=True. "
            f"Received: loss={given!r}"
        )
    return loss


def _named_loss(name: str) -> Any:
    """A Keras loss by its name, with `from_logits=True` if it has that argument."""
    found: Any = keras.losses.get(name)
    if not isinstance(found, keras.losses.Loss):  # a function, whose class has the same name
        name = "".join(part.title() for part in name.split("_"))
    kind = getattr(keras.losses, name, None)
    if isinstance(kind, type) and "from_logits" in inspect.signature(kind).parameters:
        return kind(from_logits=True)
    return found


def _is_one_of(value: Any, names: Collection[str]) -> bool:
    return isinstance(value, str) and value in names


def _is_classifier(tasks: Tasks) -> bool:
    """Whether the only task is to predict one class; models of unknown tasks count as such."""
    if not tasks:
        return True
    losses = list(tasks.losses().values())
    return len(losses) == 1 and isinstance(losses[0], ClassLoss) and not losses[0].multi_label


def fresh(metrics: Any) -> Any:
    """Copies of metrics, so that models do not share their variables."""
    if isinstance(metrics, keras.Metric):
        return type(metrics).from_config(metrics.get_config())
    if isinstance(metrics, Mapping):
        return {name: fresh(metric) for name, metric in metrics.items()}
    if isinstance(metrics, (list, tuple)):
        return [fresh(metric) for metric in metrics]
    return metrics


def _option(argument: Any, value: Any) -> Any:
    """The option of a choice that a recorded value names; else the value itself."""
    if not isinstance(argument, Choice):
        return value
    try:
        option = Tree({"option": argument.options[argument.index(value)]})
    except ValueError:
        return value
    return value if option.dimensions else option.default().arguments["option"]


def _options(value: Any) -> Iterator[Any]:
    """The values that an argument can take; of a range its ends."""
    if isinstance(value, Choice):
        for option in value.options:
            yield from _options(option)
    elif isinstance(value, (Integer, Real)):
        yield from (value.low, value.high)
    elif isinstance(value, (list, tuple)):
        yield [option for inner in value for option in _options(inner)]
    else:
        yield value


def _is_number(value: Any, least: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= least


def _are_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _is_number(option, 0) for weight in value.values() for option in _options(weight)
    )


def _is_optimizer(value: Any) -> bool:
    """Looks for the class alone: an object's variables would take a GPU for this process."""
    kinds = {name.lower(): kind for name, kind in vars(keras.optimizers).items()}
    try:
        kind: Any = keras.saving.get_registered_object(value) or kinds[value.lower()]
        inspect.signature(kind).bind()  # it can be made without arguments
        return issubclass(kind, keras.optimizers.Optimizer)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def _is_loss(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(
            not isinstance(one, Mapping) and not _is_one_of(one, _OURS) and _is_loss(one)
            for loss in value.values()
            for one in _options(loss)
        )
    if not isinstance(value, str):
        return isinstance(value, keras.losses.Loss) or inspect.isfunction(value)
    try:
        return value in _OURS or bool(keras.losses.get(value))
    except ValueError:
        return False


def _is_rate(value: Any) -> bool:
    schedule = keras.optimizers.schedules.LearningRateSchedule
    return isinstance(value, schedule) or (_is_number(value, 0) and value > 0)


_FORMS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "optimizer": ("the name of a Keras optimizer", _is_optimizer),
    "learning_rate": ("a positive number or a Keras schedule", _is_rate),
    "weight_decay": ("a number of 0 or more, or None", lambda v: v is None or _is_number(v, 0)),
    "schedule": ("'cosine' or None", lambda v: v in ("cosine", None)),
    "label_smoothing": (
        "a number from 0 up to but not including 1",
        lambda v: _is_number(v, 0) and v < 1,
    ),
    "augmentation": (
        "None, 'flip', 'shift', 'flip+shift', a Keras layer that keeps labels, or a list of such",
        is_augmentation,
    ),
    "loss": (
        "'head', 'sparse', 'categorical', a loss of Keras or its name, a function, or a dict of "
        "losses by output",
        _is_loss,
    ),
    "loss_weights": (
        "a dict of numbers of 0 or more by output, or None",
        lambda v: v is None or _are_weights(v),
    ),
}


@keras.saving.register_keras_serializable("kblocks")
class SmoothedSparseCrossentropy(keras.losses.Loss):
    """Cross-entropy of logits with integer labels and label smoothing.

    Args:
        label_smoothing: the weight of the uniform distribution in the target.

    Reference: Szegedy et al. 2015, arXiv:1512.00567, Sec. 7.
    """

    def __init__(self, label_smoothing: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        labels = keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "int32")
        one_hot = keras.ops.one_hot(labels, y_pred.shape[-1], dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(
            one_hot, y_pred, from_logits=True, label_smoothing=self.label_smoothing
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "label_smoothing": self.label_smoothing}
