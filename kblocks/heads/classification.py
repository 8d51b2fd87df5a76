"""Classifiers: their blocks, losses and metrics, for one class of several or several labels."""

from dataclasses import KW_ONLY
from functools import partial
from typing import Any, Literal

import keras
import numpy as np

from kblocks.blocks import fields
from kblocks.blocks.block import Block
from kblocks.blocks.convolution import Convolutional, act, check_odd, conv, dense, norm
from kblocks.blocks.pooling import concat_pool
from kblocks.heads.task import TargetLoss, TargetMetric, Task, agree, outside
from kblocks.plans import ops

_ops: Any = keras.ops  # its functions are annotated as if they could return None

_ALONE = "; one class alone is always right: give it multi_label=True, or the head two classes"


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
        how: Any = {"from_logits": True, "label_smoothing": self.label_smoothing}
        if self.multi_label:
            return keras.losses.binary_crossentropy(y_true, y_pred, **how)
        if len(y_true.shape) == 1 or (y_true.shape[1] == 1 and self.classes > 1):
            labels, known = self.classes_of(_ops.reshape(y_true, (-1,)), self.classes)
            y_true = _ops.one_hot(labels, self.classes, dtype=y_pred.dtype)
        else:
            known = _ops.ones_like(y_true[:, 0])
        losses: Any = keras.losses.categorical_crossentropy(y_true, y_pred, **how)
        return losses * known


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


class LabelAccuracy(TargetMetric):
    """The fraction of labels that the sign of their logit predicts correctly."""

    label = "accuracy"

    def values(self, y_true: Any, y_pred: Any) -> Any:
        return _ops.mean(_ops.cast(_ops.equal(y_pred > 0, y_true > 0.5), "float32"), -1)


def classification(classes: int, multi_label: bool = False, weight: float = 1.0) -> Task:
    """The task of a head with logits: cross-entropy and accuracy."""
    accuracy = LabelAccuracy if multi_label else ClassAccuracy
    return Task(partial(ClassLoss, classes, multi_label), (accuracy,), weight)


def pooled(pool: str, pool_size: ops.Pixels | None = None) -> ops.Op:
    """The plan from a map to features: the arguments `pool` and `pool_size` of heads."""
    if pool == "concat":
        return concat_pool()
    if pool == "flatten":
        return ops.Chain(pool_size and ops.AdaptivePool(pool_size), ops.Flatten())
    return ops.GlobalPool(pool)


def check_pooled(spec: Any) -> None:
    """Refuses a `pool_size` without pool="flatten"."""
    if spec.pool_size is not None and spec.pool != "flatten":
        raise ValueError(
            "`pool_size` goes with pool='flatten'. "
            f"Received: pool_size={spec.pool_size}, pool={spec.pool!r}"
        )


class Classifier(Block):
    """Pooling, hidden layers, and a linear layer to the logits.

    Args:
        classes: number of logits.
        pool: "avg" or "max" (global), "concat" (both, twice the features) or "flatten".
        pool_size: size to which the map is averaged adaptively before "flatten", so that any
            input size fits; integer, pair or None.
        hidden: units of each hidden linear layer, which `activation` follows.
        dropout: dropout rate after each hidden layer, or before the logits if there is none.
        dropout_first: whether dropout comes before each hidden layer instead.
        multi_label: whether a sample may have any number of the classes, not exactly one.
        use_bias: whether the linear layers have a bias.

    Output shape: (batch, classes), logits.
    Targets: class indices, (batch,), or probabilities, (batch, classes); with `multi_label` zeros
        and ones, (batch, classes). Loss: cross-entropy. Metric: accuracy.
    """

    classes: fields.Count
    _: KW_ONLY
    pool: Literal["avg", "max", "concat", "flatten"] = "avg"
    pool_size: fields.Size | None = None
    hidden: fields.Counts = ()
    activation: fields.ActivationLike | None = "relu"
    dropout: fields.Rate = 0.0
    dropout_first: bool = False
    multi_label: bool = False
    loss_weight: fields.Positive = 1.0
    use_bias: bool = True
    kernel_initializer: fields.InitializerLike = "glorot_uniform"
    bias_initializer: fields.InitializerLike = "zeros"
    kernel_regularizer: fields.RegularizerLike | None = None
    bias_regularizer: fields.RegularizerLike | None = None

    def check(self) -> None:
        check_pooled(self)

    def task(self) -> Task:
        return classification(self.classes, self.multi_label, self.loss_weight)

    def plan(self, channels: int) -> ops.Op:
        drop = ops.Dropout(self.dropout) if self.dropout else None
        before, behind = (drop, None) if self.dropout_first else (None, drop)
        *hidden, logits = (dense(self, n, self.use_bias) for n in (*self.hidden, self.classes))
        steps = [ops.Chain(before, layer, act(self), behind) for layer in hidden]
        return ops.Chain(pooled(self.pool, self.pool_size), *(steps or [drop]), logits)


class Features(Block):
    """Global pooling in place of a head; `model(include_top=False, pooling=...)` uses it.

    Args:
        pool: "avg", "max" or "concat" (both).

    Output shape: (batch, channels), or twice the channels for "concat".
    """

    pool: Literal["avg", "max", "concat"] = "avg"

    def plan(self, channels: int) -> ops.Op:
        return pooled(self.pool)


class AuxiliaryClassifier(Convolutional):
    """A classifier on a map in the middle of a network, whose loss trains the layers before it.

    Initializers and regularizers also apply to the linear layers, which have a bias and no
    normalization.

    Args:
        classes: number of logits.
        filters: filters of each convolution after the average pool.
        kernel_size: kernel of the convolutions, one value or a list with one for each.
        pool_size: window of the average pool, which has no padding; integer or pair.
        pool_strides: strides of the average pool; integer or pair.
        grid: with `pool_size=None`, average adaptively to a map of this size instead, whatever
            the size of the input; integer or pair.
        pool: how the map becomes features after the convolutions, "avg" (global) or "flatten".
        hidden: units of each hidden linear layer.
        dropout: dropout rate after each hidden layer, or before the logits if there is none.
        loss_weight: factor of this output's loss in the total; the default is GoogLeNet's.

    Output shape: (batch, classes), logits.

    Reference: Szegedy et al. 2014, arXiv:1409.4842, Sec. 5 (the defaults); Szegedy et al. 2015,
        arXiv:1512.00567, Fig. 8.
    """

    classes: fields.Count
    _: KW_ONLY
    filters: fields.Counts = (128,)
    kernel_size: fields.Sizes = 1
    padding: fields.Padding = "valid"
    pool_size: fields.Size | None = 5
    pool_strides: fields.Size = 3
    grid: fields.Size | None = None
    pool: Literal["avg", "flatten"] = "flatten"
    hidden: fields.Counts = (1024,)
    dropout: fields.Rate = 0.7
    loss_weight: fields.Positive = 0.3

    def check(self) -> None:
        if (self.pool_size is None) == (self.grid is None):
            raise ValueError(
                "One of `pool_size` and `grid` must be given. "
                f"Received: pool_size={self.pool_size}, grid={self.grid}"
            )
        if len(self.kernels()) != len(self.filters):
            raise ValueError(
                "`kernel_size` must be one for all or one for each of `filters`. "
                f"Received: kernel_size={self.kernel_size}, filters={self.filters}"
            )
        for size in self.kernels():
            check_odd("padding", self.padding, "kernel_size", size)

    def task(self) -> Task:
        return classification(self.classes, weight=self.loss_weight)

    def kernels(self) -> list[ops.Pair]:
        """The kernel size of each convolution."""
        sizes: Any = self.kernel_size
        return list(sizes * len(self.filters) if len(sizes) == 1 else sizes)

    def plan(self, channels: int) -> ops.Op:
        windows = ops.Pool("avg", self.pool_size, self.pool_strides)
        averages = ops.AdaptivePool(self.grid) if self.grid else windows
        pairs, ends = zip(self.filters, self.kernels(), strict=True), (norm(self), act(self))
        convolutions = [ops.Chain(conv(self, filters, size), *ends) for filters, size in pairs]
        drop = ops.Dropout(self.dropout) if self.dropout else None
        hidden = [ops.Chain(dense(self, units, True), act(self), drop) for units in self.hidden]
        logits = dense(self, self.classes, True)
        return ops.Chain(averages, *convolutions, pooled(self.pool), *(hidden or [drop]), logits)
