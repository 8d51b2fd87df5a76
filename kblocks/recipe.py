"""`Recipe`: how a network is trained, with choices where arguments stand."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import keras

from kblocks.augmentation import augment, is_augmentation
from kblocks.choices import Choice, Integer, Real
from kblocks.heads import Tasks, tasks_of
from kblocks.heads.classification import ClassLoss
from kblocks.training import prepare
from kblocks.tree import Tree

_UNDECAYED = ["bias", "gamma", "beta"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What `compile` is given; each argument may be a choice, searched along with the network.

    Args:
        optimizer: the name of a Keras optimizer ("sgd" takes Nesterov momentum 0.9).
        learning_rate: of the optimizer.
        weight_decay: decoupled decay a step of all kernels; norms and biases have none. None is
            the optimizer's own.
        schedule: "cosine" lowers the learning rate to zero along a half cosine over the epochs
            (Loshchilov & Hutter 2016, arXiv:1608.03983); None keeps it.
        label_smoothing: from 0 up to but not including 1.
        augmentation: of the training images, in the training step alone: "flip" (left to right,
            every second image), "shift" (by up to an eighth of height and width, edges
            repeated), "flip+shift", one of Keras' preprocessing layers such as
            `keras.layers.RandomRotation(0.1)` that leaves labels as they are, or a list of
            such; None changes nothing.
        loss: "head" is that of the model's head (see `kb.Tasks`), and "sparse" for a classifier or
            a model without one of kblocks; "sparse" for integer labels, "categorical" for one-hot
            ones, both on logits.
        metrics: as `compile` takes them, each model gets its own; "head" is those of the head.
        loss_weights: in place of the head's own, by output: `{"box": kb.real(0.1, 10, log=True)}`.

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

    def __post_init__(self) -> None:
        for name, (expected, fits) in _FORMS.items():
            for option in _options(getattr(self, name)):
                if not fits(option):
                    raise ValueError(f"`{name}` must be {expected}. Received: {name}={option!r}")

    def tree(self) -> Tree:
        """The choices in this recipe, named `recipe.learning_rate` and so on."""
        return Tree({f.name: getattr(self, f.name) for f in fields(self)}, prefix="recipe.")

    def compile(self, model: keras.Model, **chosen: Any) -> None:
        """Compiles `model`; `chosen` are plain values in place of choices."""
        plain = self._with(chosen)
        model.compile(optimizer=plain._made_optimizer(), **plain._objective(model))
        augment(model, plain.augmentation)
        prepare(model)

    def suggest(self, trial: Any) -> dict[str, Any]:
        """Plain arguments from a trial of Optuna, for `compile` and `callbacks`.

        Asks for the active choices alone, under the names that `tree` gives them.
        """
        tree = self.tree()
        return tree.resolve(tree.suggest(trial))

    def callbacks(self, epochs: int, **chosen: Any) -> list[keras.callbacks.Callback]:
        """What `fit` needs for the schedule; `chosen` are plain values in place of choices."""
        plain = self._with(chosen)
        if plain.schedule is None:
            return []
        return [
            keras.callbacks.LearningRateScheduler(
                functools.partial(_cosine, plain.learning_rate, epochs)
            )
        ]

    def _with(self, chosen: Mapping[str, Any]) -> Recipe:
        return Recipe(**{**{f.name: getattr(self, f.name) for f in fields(self)}, **chosen})

    def _objective(self, model: keras.Model) -> dict[str, Any]:
        """Loss, metrics and weights of losses."""
        tasks = tasks_of(model) if self.loss == "head" else Tasks({})
        told: dict[str, Any] = {"loss": self._made_loss(), "metrics": ["accuracy"]}
        if not _is_classifier(tasks):
            if self.label_smoothing:
                raise ValueError(
                    "`label_smoothing` is for classifiers. "
                    f"Received: label_smoothing={self.label_smoothing} for {', '.join(tasks)}"
                )
            told = tasks.training(self.loss_weights)
        elif self.loss_weights is not None:
            raise ValueError(
                "`loss_weights` are for models of several outputs. "
                f"Received: loss_weights={self.loss_weights!r}"
            )
        if self.metrics != "head":
            named = [self.metrics] if isinstance(self.metrics, str) else self.metrics
            told["metrics"] = fresh(named)
        return told

    def _made_optimizer(self) -> Any:
        config: dict[str, Any] = {"learning_rate": self.learning_rate}
        if self.weight_decay is not None:
            config["weight_decay"] = self.weight_decay
        if self.optimizer.lower() == "sgd":
            config |= {"momentum": 0.9, "nesterov": True}
        made: Any = keras.optimizers.get({"class_name": self.optimizer, "config": config})
        made.exclude_from_weight_decay(var_names=_UNDECAYED)
        return made

    def _made_loss(self) -> Any:
        smoothing = self.label_smoothing
        if self.loss == "categorical":
            return keras.losses.CategoricalCrossentropy(True, label_smoothing=smoothing)
        if not smoothing:
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return SmoothedSparseCrossentropy(smoothing)


def _cosine(start: float, epochs: int, epoch: int) -> float:
    return start * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def _is_classifier(tasks: Tasks) -> bool:
    """Whether one class is right, or nothing is known, which is taken for the same."""
    if not tasks:
        return True
    losses = list(tasks.losses().values())
    return len(losses) == 1 and isinstance(losses[0], ClassLoss) and not losses[0].multi_label


def fresh(metrics: Any) -> Any:
    """The same metrics with variables of their own: those of one model are no other's."""
    if isinstance(metrics, keras.Metric):
        return type(metrics).from_config(metrics.get_config())
    if isinstance(metrics, Mapping):
        return {name: fresh(metric) for name, metric in metrics.items()}
    if isinstance(metrics, (list, tuple)):
        return [fresh(metric) for metric in metrics]
    return metrics


def _options(value: Any) -> Iterator[Any]:
    """What may come to stand for an argument; of a range its ends."""
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
    try:
        return isinstance(value, str) and bool(keras.optimizers.get(value))
    except (ValueError, TypeError):
        return False


def _is_rate(value: Any) -> bool:
    schedule = keras.optimizers.schedules.LearningRateSchedule
    return isinstance(value, schedule) or (_is_number(value, 0) and value > 0)


_FORMS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "optimizer": ("the name of a Keras optimizer", _is_optimizer),
    "learning_rate": ("a positive number", _is_rate),
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
        "'head', 'sparse' or 'categorical'",
        lambda v: v in ("head", "sparse", "categorical"),
    ),
    "loss_weights": (
        "a dict of numbers of 0 or more by output, or None",
        lambda v: v is None or _are_weights(v),
    ),
}


@keras.saving.register_keras_serializable("kblocks")
class SmoothedSparseCrossentropy(keras.losses.Loss):
    """Cross-entropy of logits with integer labels, smoothed.

    Args:
        label_smoothing: the weight of the even distribution in the target.

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
