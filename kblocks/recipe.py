"""`Recipe`: how a network is trained, with choices where arguments stand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import keras
import numpy as np

from kblocks.choices import Tree

_UNDECAYED = ["bias", "gamma", "beta"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What `compile` is given; each argument may be a choice, searched along with the network.

    Args:
        optimizer: the name of a Keras optimizer ("sgd" takes Nesterov momentum 0.9).
        learning_rate: of the optimizer.
        weight_decay: decoupled decay a step of all kernels; norms and biases have none.
        schedule: "cosine" lowers the learning rate to zero along a half cosine over the epochs
            (Loshchilov & Hutter 2016, arXiv:1608.03983); None keeps it.
        label_smoothing: from 0 up to but not including 1.
        loss: "sparse" for integer labels, "categorical" for one-hot ones, both on logits.
        metrics: as `compile` takes them.

    Raises:
        ValueError: from `compile`, if an argument is not of the form above.
    """

    optimizer: Any = "adam"
    learning_rate: Any = 1e-3
    weight_decay: Any = None
    schedule: Any = None
    label_smoothing: Any = 0.0
    loss: Any = "sparse"
    metrics: Any = ("accuracy",)

    def tree(self) -> Tree:
        """The choices in this recipe, named `recipe.learning_rate` and so on."""
        return Tree({f.name: getattr(self, f.name) for f in fields(self)}, prefix="recipe.")

    def compile(self, model: keras.Model, **chosen: Any) -> None:
        """Compiles `model`; `chosen` are plain values in place of choices."""
        plain = self._with(chosen)
        loss = plain._made_loss()
        model.compile(optimizer=plain._made_optimizer(), loss=loss, metrics=list(plain.metrics))
        plain._build_state(model)

    def callbacks(self, epochs: int, **chosen: Any) -> list[keras.callbacks.Callback]:
        """What `fit` needs for the schedule; `chosen` are plain values in place of choices."""
        plain = self._with(chosen)
        if plain.schedule is None:
            return []
        if plain.schedule != "cosine":
            raise ValueError(
                f"`schedule` must be 'cosine' or None. Received: schedule={plain.schedule!r}"
            )
        start = plain.learning_rate
        return [
            keras.callbacks.LearningRateScheduler(
                lambda epoch: start * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
            )
        ]

    def _with(self, chosen: Mapping[str, Any]) -> Recipe:
        return Recipe(**{**{f.name: getattr(self, f.name) for f in fields(self)}, **chosen})

    def _build_state(self, model: keras.Model) -> None:
        """Makes the variables of optimizer and metrics now.

        Keras makes them inside the first trace of the training step, which it then traces
        again: half the time to the first step.
        """
        model.optimizer.build(model.trainable_variables)
        logits = np.zeros((1, *model.output_shape[1:]), "float32")
        labels = np.zeros((1,), "int32") if self.loss == "sparse" else logits
        model.compute_loss(y=labels, y_pred=logits)
        model.compute_metrics(None, labels, logits)
        model.reset_metrics()

    def _made_optimizer(self) -> Any:
        config: dict[str, Any] = {"learning_rate": self.learning_rate}
        if self.weight_decay:
            config["weight_decay"] = self.weight_decay
        if self.optimizer == "sgd":
            config |= {"momentum": 0.9, "nesterov": True}
        try:
            made: Any = keras.optimizers.get({"class_name": self.optimizer, "config": config})
        except (ValueError, TypeError) as error:
            raise ValueError(
                "`optimizer` must be the name of a Keras optimizer, with a learning rate. "
                f"Received: optimizer={self.optimizer!r}, {config!r}"
            ) from error
        if self.weight_decay:
            made.exclude_from_weight_decay(var_names=_UNDECAYED)
        return made

    def _made_loss(self) -> Any:
        smoothing = self.label_smoothing
        if isinstance(smoothing, bool) or not 0 <= smoothing < 1:
            raise ValueError(
                "`label_smoothing` must be from 0 up to but not including 1. "
                f"Received: label_smoothing={smoothing!r}"
            )
        if self.loss == "categorical":
            return keras.losses.CategoricalCrossentropy(True, label_smoothing=smoothing)
        if self.loss != "sparse":
            raise ValueError(
                f"`loss` must be 'sparse' or 'categorical'. Received: loss={self.loss!r}"
            )
        if not smoothing:
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return SmoothedSparseCrossentropy(smoothing)


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
