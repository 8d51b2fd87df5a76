"""`Recipe`: how to train a network, with choices among its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import keras

from kblocks.common.showing import call_of
from kblocks.heads import Tasks, tasks_of
from kblocks.heads.classification import ClassLoss
from kblocks.heads.task import shape_of
from kblocks.search_space.choices import Choice
from kblocks.search_space.tree import Tree, check_options, options_in
from kblocks.training.augmentation import NAMES, augment, is_augmentation
from kblocks.training.averaging import Averaged
from kblocks.training.finetuning import learning_rate_multipliers
from kblocks.training.losses import STANDARD, is_loss, is_one_of, own_loss, standard
from kblocks.training.precision import (
    POLICIES,
    PRECISIONS,
    compute_in,
    compute_in_faster,
    is_precision,
)
from kblocks.training.preparing import prepare
from kblocks.training.schedules import SCHEDULES, callbacks_of, first_rate

_PLAIN: dict[str, Any] = {"learning_rate": 3e-3, "schedule": "cosine", "warmup": 0.05}
NAMED: dict[str, dict[str, Any]] = {
    "plain": _PLAIN,
    "strong": {
        **_PLAIN,
        "optimizer": "adamw",
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "augmentation": "shift+erasing+mixup",
        "ema": 0.99,
        "clip": 1.0,
    },
}
_UNDECAYED = ["bias", "gamma", "beta"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to compile and train a network; any argument may be a choice, searched with the network.

    Args:
        optimizer: the name of a Keras optimizer ("sgd" has Nesterov momentum 0.9).
        learning_rate: a positive number, or without `schedule` a Keras schedule.
        weight_decay: decoupled weight decay per step; biases and the weights of norms have none.
            None is the optimizer's default.
        schedule: None keeps the learning rate. "cosine" lowers it to zero along a half cosine
            (Loshchilov & Hutter 2016, arXiv:1608.03983); "linear" along a line; "steps" to a tenth
            after half of the training and again after three quarters (He et al. 2015,
            arXiv:1512.03385, Sec. 4.2). "one-cycle" raises it from a tenth in the first 45 % of
            the steps, lowers it again in the next 45 %, and to zero in the rest (after Smith &
            Topin 2017, arXiv:1708.07120, without cycles of momentum). The rate changes with each
            step; that of "cosine" without `warmup` with each epoch.
        warmup: the share of all steps, from 0 up to but not including 1, in which the learning
            rate rises from zero along a line (Goyal et al. 2017, arXiv:1706.02677); no effect on
            "one-cycle", which rises anyway.
        ema: momentum of a moving average of the weights, such as 0.99, or None. Validation,
            checkpoints of best epochs and the trained model have the averages.
        clip: the largest norm of the gradient of all weights together, or None.
        label_smoothing: the weight of the uniform distribution in the targets of a classifier,
            from 0 up to but not including 1.
        augmentation: random changes to the images in the training step; None changes nothing.
            "flip" (left to right, with probability 0.5), "shift" (by up to an eighth of height and
            width, edges repeated), "mixup" (Zhang et al. 2017, arXiv:1710.09412), "cutmix" (Yun et
            al. 2019, arXiv:1905.04899), and for images with values from 0 to 1 "randaugment"
            (Cubuk et al. 2019, arXiv:1909.13719; of a tenth of the full strength) and "erasing"
            (Zhong et al. 2017, arXiv:1708.04896). Several are joined by "+" in the order "flip",
            "shift", "randaugment", "erasing", "mixup", "cutmix": "flip+shift+mixup". Also one of
            Keras' preprocessing layers, such as `keras.layers.RandomRotation(0.1)`, or a list of
            these. Masks, boxes, points and weights of pixels move with the images; `compile`
            refuses a layer that cannot move them. Objects that leave the image are dropped, and
            points that leave it count as invisible. Points keep their order: after a "flip" the
            left eye is on the right. MixUp and CutMix are for classifiers: each mixed image counts
            with the losses of all its labels, of any form, in their shares, and in metrics with
            the label of the largest share.
        loss: "head" is the loss of the model's head (see `kb.Tasks`), or "sparse" for a classifier
            and for a model without a head of kblocks. "sparse" takes integer labels and
            "categorical" one-hot labels, both with logits. Also the name of a Keras loss (on
            logits if it supports them), a `keras.losses.Loss`, a function of targets and outputs,
            or a dict of these by output.
        metrics: metrics as `compile` takes them, copied for each model; "head" is the head's own.
        loss_weights: weights by output that replace the head's:
            `{"box": kb.real(0.1, 10, log=True)}`.
        precision: in what the layers of the model compute. "bfloat16" is Keras' policy
            "mixed_bfloat16": weights, norms, outputs, loss and optimizer stay float32. "auto" is
            "bfloat16" if a step on random images, in batches of 32, then takes at most 0.9 of the
            time in "float32" on this machine, measured once for a network and process. In a search
            of `kb.tuner.Tuner` it is decided once for all trials. None leaves the model as it is.

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
    warmup: Any = 0.0
    ema: Any = None
    clip: Any = None
    precision: Any = None

    def __repr__(self) -> str:
        return call_of(self)

    def __post_init__(self) -> None:
        check_options(self, _FORMS)
        rates = [rate for rate in options_in(self.learning_rate) if not _is_number(rate, 0)]
        names = [f"{name!r}" for name in options_in(self.schedule) if name]
        if rates and (names or any(options_in(self.warmup))):
            raise ValueError(
                f"`learning_rate` must be a number if `schedule` is {' or '.join(names) or None}"
                f"{'' if names else ' with a warm-up'}. Received: learning_rate={rates[0]!r}, "
                f"schedule={self.schedule!r}, warmup={self.warmup!r}"
            )

    @classmethod
    def named(cls, name: str, **changes: Any) -> Recipe:
        """A ready recipe for classifiers of images with values from 0 to 1.

        "plain" is Adam with a learning rate of 3e-3, a warm-up of 5 % and a cosine. "strong" is for
        long training: plain with AdamW, a weight decay of 0.05, label smoothing of 0.1, the
        augmentation "shift+erasing+mixup", averages with momentum 0.99, and gradients clipped to a
        norm of 1. `benchmarks/README.md` compares both with the default.

        Args:
            name: "plain" or "strong".
            changes: arguments of `Recipe` that replace those of the ready recipe.

        Raises:
            ValueError: if there is no recipe of that name, or an argument is wrong.

        Example:
            >>> kb.Recipe.named("strong", augmentation="flip+mixup", ema=kb.choice(0.99, None))
        """
        if name not in NAMED:
            raise ValueError(f"`name` must be one of {', '.join(NAMED)}. Received: name={name!r}")
        return cls(**{**NAMED[name], **changes})

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
        if plain.precision == "auto":
            compute_in_faster(model, replace(plain, precision=None).compile)
        elif plain.precision is not None:
            compute_in(model, POLICIES[plain.precision])
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
        if not tasks or not is_one_of(self.loss, STANDARD):
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
        """The callbacks that `fit` needs for the schedule and the averages, before any others.

        Args:
            epochs: the number of epochs of the whole training.
            chosen: plain values for the choices, as in `compile`.
        """
        plain = self._with(chosen)
        averaged = [] if plain.ema is None else [Averaged()]
        rate = plain.learning_rate
        return [*averaged, *callbacks_of(plain.schedule, rate, plain.warmup, epochs)]

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
        is_own = not is_one_of(self.loss, STANDARD)
        arguments: dict[str, Any] = {
            "loss": standard(self.loss, self.label_smoothing),
            "metrics": ["accuracy"],
        }
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
            arguments["loss"] = own_loss(self.loss, tasks, arguments["loss"])
            if not tasks and isinstance(arguments["loss"], Mapping):
                arguments["metrics"] = None  # nothing is known of the outputs
        if self.metrics != "head":
            named = [self.metrics] if isinstance(self.metrics, str) else self.metrics
            arguments["metrics"] = fresh(named)
        return arguments

    def _new_optimizer(self) -> Any:
        rate = first_rate(self.schedule, self.learning_rate, self.warmup)
        config: dict[str, Any] = {"learning_rate": rate}
        if self.clip is not None:
            config["global_clipnorm"] = self.clip
        if self.ema is not None:
            config |= {"use_ema": True, "ema_momentum": self.ema}
        if self.weight_decay is not None:
            config["weight_decay"] = self.weight_decay
        if self.optimizer.lower() == "sgd":
            config |= {"momentum": 0.9, "nesterov": True}
        optimizer: Any = keras.optimizers.get({"class_name": self.optimizer, "config": config})
        optimizer.exclude_from_weight_decay(var_names=_UNDECAYED)
        return optimizer


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


def _is_number(value: Any, least: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= least


def _are_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _is_number(option, 0) for weight in value.values() for option in options_in(weight)
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


def _is_rate(value: Any) -> bool:
    schedule = keras.optimizers.schedules.LearningRateSchedule
    return isinstance(value, schedule) or (_is_number(value, 0) and value > 0)


_FORMS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "optimizer": ("the name of a Keras optimizer", _is_optimizer),
    "learning_rate": ("a positive number or a Keras schedule", _is_rate),
    "weight_decay": ("a number of 0 or more, or None", lambda v: v is None or _is_number(v, 0)),
    "schedule": (
        f"{', '.join(map(repr, SCHEDULES))} or None",
        lambda v: v is None or (isinstance(v, str) and v in SCHEDULES),
    ),
    "warmup": (
        "a share of the steps, from 0 up to but not including 1",
        lambda v: _is_number(v, 0) and v < 1,
    ),
    "ema": (
        "a number between 0 and 1, or None",
        lambda v: v is None or (_is_number(v, 0) and 0 < v < 1),
    ),
    "precision": (PRECISIONS, is_precision),
    "clip": ("a positive number or None", lambda v: v is None or (_is_number(v, 0) and v > 0)),
    "label_smoothing": (
        "a number from 0 up to but not including 1",
        lambda v: _is_number(v, 0) and v < 1,
    ),
    "augmentation": (
        f"None, {', '.join(map(repr, NAMES))}, several of these joined by '+' in this order, a "
        "Keras layer, or a list of such",
        is_augmentation,
    ),
    "loss": (
        "'head', 'sparse', 'categorical', a loss of Keras or its name, a function, or a dict of "
        "losses by output",
        is_loss,
    ),
    "loss_weights": (
        "a dict of numbers of 0 or more by output, or None",
        lambda v: v is None or _are_weights(v),
    ),
}
