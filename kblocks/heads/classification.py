"""Losses and metrics of classifiers: one class out of several, or several labels at once."""

from functools import partial
from typing import Any

import keras
import numpy as np

from kblocks.heads.task import TargetLoss, TargetMetric, Task, agree, outside

_ops: Any = keras.ops  # its functions are annotated as if they could return None

_ALONE = "; one class alone is always right: give it multi_label=True, or the head two classes"


@keras.saving.register_keras_serializable("kblocks")
class ClassLoss(TargetLoss):
    """Cross-entropy of logits; targets are class indices, probabilities, or several labels.

    Args:
        classes: number of logits.
        multi_label: whether classes are independent (sigmoid) and not exclusive (softmax).
        label_smoothing: the weight of the uniform distribution in the target, or of 0.5 for each
            label with `multi_label`.

    Reference: Szegedy et al. 2015, arXiv:1512.00567, Sec. 7, for the smoothing.
    """

    geometry = "class"
    of_logits = True

    def __init__(
        self, classes: int, multi_label: bool = False, label_smoothing: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.classes = classes
        self.multi_label = multi_label
        self.label_smoothing = label_smoothing

    @property
    def target(self) -> str:  # type: ignore[override]
        if self.multi_label:
            return f"0 or 1 for each of {self.classes} labels, (batch, {self.classes})"
        return (
            f"classes from 0 to {self.classes - 1}, (batch,) or (batch, 1), or the share of each, "
            f"(batch, {self.classes})" + (_ALONE if self.classes == 1 else "")
        )

    def fits(self, targets: tuple[Any, ...], outputs: tuple[Any, ...]) -> bool:
        if not agree(outputs[-1], self.classes) or (self.classes == 1 and not self.multi_label):
            return False
        if len(targets) == 1:
            return not self.multi_label
        sizes = (self.classes,) if self.multi_label else (self.classes, 1)
        return len(targets) == 2 and targets[1] in sizes  # Keras would broadcast an unknown size

    def problem(self, targets: np.ndarray) -> str | None:
        if not self.fits(targets.shape, (None, self.classes)):
            return "another form"
        of_shares = targets.ndim == 2 and targets.shape[1] == self.classes > 1
        if of_shares or self.multi_label:
            return outside(targets, 0, 1)
        if np.any(targets != np.floor(targets)):
            return "fractions"
        return outside(targets, 0, self.classes - 1)

    def example(self, output: Any) -> Any:
        zeros = _ops.zeros_like(output)
        return zeros if self.multi_label else zeros[:, 0]

    def values(self, y_true: Any, y_pred: Any) -> Any:
        if self.multi_label:
            return keras.losses.binary_crossentropy(
                y_true, y_pred, from_logits=True, label_smoothing=self.label_smoothing
            )
        if len(y_true.shape) == 1 or (y_true.shape[1] == 1 and self.classes > 1):
            labels, known = self.classes_of(_ops.reshape(y_true, (-1,)), self.classes)
            y_true = _ops.one_hot(labels, self.classes, dtype=y_pred.dtype)
        else:
            known = _ops.ones_like(y_true[:, 0])
        losses: Any = keras.losses.categorical_crossentropy(
            y_true, y_pred, from_logits=True, label_smoothing=self.label_smoothing
        )
        return losses * known


@keras.saving.register_keras_serializable("kblocks")
class ClassAccuracy(TargetMetric):
    """The fraction of samples whose largest logit is that of the right class.

    Targets may be class indices in one batch and probabilities in the next. Keras' own "accuracy"
    fixes the form of the targets with the first batch.
    """

    label = "accuracy"

    def values(self, y_true: Any, y_pred: Any) -> Any:
        if len(y_true.shape) == 2 and y_true.shape[1] != 1:
            labels = _ops.argmax(y_true, -1)
        else:
            labels = _ops.reshape(y_true, (-1,))
        found = _ops.cast(_ops.argmax(y_pred, -1), "int32")
        return _ops.cast(_ops.equal(found, _ops.cast(labels, "int32")), "float32")


@keras.saving.register_keras_serializable("kblocks")
class LabelAccuracy(TargetMetric):
    """The fraction of labels that the sign of their logit predicts correctly."""

    label = "accuracy"

    def values(self, y_true: Any, y_pred: Any) -> Any:
        return _ops.mean(_ops.cast(_ops.equal(y_pred > 0, y_true > 0.5), "float32"), -1)


def classification(classes: int, multi_label: bool = False, weight: float = 1.0) -> Task:
    """The task of a head with logits: cross-entropy and accuracy."""
    return Task(
        partial(ClassLoss, classes, multi_label),
        (LabelAccuracy if multi_label else ClassAccuracy,),
        weight,
    )
