"""`Classifier`, from a map to logits, and `Features`, pooling alone."""

from dataclasses import KW_ONLY
from typing import Any, Literal

from kblocks.blocks import fields
from kblocks.blocks.block import Block
from kblocks.blocks.convolution import act, dense
from kblocks.blocks.pooling import concat_pool
from kblocks.heads.classification import classification
from kblocks.heads.task import Task
from kblocks.plans.ops import AdaptivePool, Chain, Dropout, Flatten, GlobalPool, Op, Pixels


def pooled(pool: str, pool_size: Pixels | None = None) -> Op:
    """The plan from a map to features: the arguments `pool` and `pool_size` of heads."""
    if pool == "concat":
        return concat_pool()
    if pool == "flatten":
        return Chain(pool_size and AdaptivePool(pool_size), Flatten())
    return GlobalPool(pool)


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
        hidden: units of each hidden linear layer.
        activation: activation after each hidden layer: a Keras activation by name, a function, an
            activation layer without weights, or None.
        dropout: dropout rate after each hidden layer, or before the logits if there is none.
        dropout_first: whether dropout comes before each hidden layer instead.
        multi_label: whether a sample may have any number of the classes, not exactly one.
        loss_weight: factor of this output's loss in the total of several outputs.
        use_bias: whether the linear layers have a bias.
        kernel_initializer: Keras initializer of the kernels, by name or as an object.
        bias_initializer: Keras initializer of the biases, by name or as an object.
        kernel_regularizer: Keras regularizer of the kernels, by name or as an object, or None.
        bias_regularizer: Keras regularizer of the biases, by name or as an object, or None.

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
        """The task: cross-entropy and accuracy."""
        return classification(self.classes, self.multi_label, self.loss_weight)

    def plan(self, channels: int) -> Op:
        drop = Dropout(self.dropout) if self.dropout else None
        before, behind = (drop, None) if self.dropout_first else (None, drop)
        *hidden, logits = (dense(self, n, self.use_bias) for n in (*self.hidden, self.classes))
        steps = [Chain(before, layer, act(self), behind) for layer in hidden]
        return Chain(pooled(self.pool, self.pool_size), *(steps or [drop]), logits)


class Features(Block):
    """Global pooling in place of a head; `model(include_top=False, pooling=...)` uses it.

    Args:
        pool: "avg", "max" or "concat" (both).

    Output shape: (batch, channels), or twice the channels for "concat".
    """

    pool: Literal["avg", "max", "concat"] = "avg"

    def plan(self, channels: int) -> Op:
        return pooled(self.pool)
