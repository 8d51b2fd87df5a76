"""The tasks of heads: loss, metrics, and the form of the targets."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kblocks.common import backend
from kblocks.common.keras_graph import maker_of

LOGITS = "logits"
_OF_PROBABILITIES = (  # Keras' losses that have no form for logits
    *("categorical_generalized_cross_entropy", "dice", "kl_divergence", "poisson", "tversky"),
)


def is_channels_first() -> bool:
    """Whether Keras' current data format is channels first."""
    return keras.config.image_data_format() == "channels_first"


def channels_last(maps: Any) -> Any:
    """Maps in Keras' current data format as (batch, height, width, channels)."""
    return keras.ops.transpose(maps, (0, 2, 3, 1)) if is_channels_first() else maps


class Configured:
    """A mixin for losses and metrics that keep each argument of `__init__` as an attribute.

    It registers them with Keras under the name of their package.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        keras.saving.register_keras_serializable(cls.__module__.split(".")[0])(cls)

    def get_config(self) -> dict[str, Any]:
        names = [name for name in inspect.signature(type(self)).parameters if name != "kwargs"]
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own}  # type: ignore[misc]


class TargetLoss(Configured, keras.losses.Loss):
    """A loss that checks the form of its targets and raises for other forms when a step is traced.

    A subclass defines `target`, the form in words; `fits`, whether two shapes have that form; and
    `values`, the loss of each sample. `geometry` says how augmentation moves the targets with the
    image: "class" (not at all), "mask", "box", "objects" or "points"; None is unknown. `of_logits`
    says whether the outputs are logits of classes.
    """

    target: str
    geometry: str | None = None
    of_logits = False

    def fits(self, targets: tuple[Any, ...], outputs: tuple[Any, ...]) -> bool:
        """Whether targets of one shape fit outputs of another; both shapes include the batch."""
        raise NotImplementedError

    def values(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each sample, before it is averaged over the batch."""
        raise NotImplementedError

    def problem(self, targets: np.ndarray) -> str | None:
        """Says what is wrong with the shape or the values of targets, or None."""
        raise NotImplementedError

    def example(self, output: Any) -> Any:
        """Example targets for this output, with which `kb.prepare` builds metrics."""
        return keras.ops.zeros_like(output)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        shape = None if sample_weight is None else shape_of(sample_weight)
        if not all(agree(size, 1) for size in (shape or ())[1:]):
            raise ValueError(f"Sample weights must be one a sample. Received: shape {shape}")
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        self.refuse(y_true, y_pred)
        return self.values(y_true, y_pred)

    def refuse(self, y_true: Any, y_pred: Any) -> None:
        """Raises ValueError if the shape of the targets does not fit that of the outputs."""
        targets, outputs = shape_of(y_true), shape_of(y_pred)
        if targets is not None and outputs is not None and not self.fits(targets, outputs):
            raise ValueError(
                f"Targets must be {self.target}. "
                f"Received: targets of shape {targets} for outputs of shape {outputs}"
            )

    def classes_of(self, labels: Any, classes: int, counts: Any = None) -> tuple[Any, Any]:
        """Classes as integers, and a factor for their losses; `backend.demand` checks them.

        Invalid ones become 0 with the factor NaN (1 where `counts` is False).
        """
        ops: Any = keras.ops
        kinds = ops.cast(labels, "int32")
        known = ops.logical_and(kinds >= 0, kinds < classes)
        one_of_them = ops.where(known, kinds, ops.zeros_like(kinds))  # for PyTorch's one_hot
        if labels.dtype != kinds.dtype:
            known = ops.logical_and(known, ops.cast(kinds, labels.dtype) == labels)
        if counts is not None:
            known = ops.logical_or(known, ops.logical_not(counts))
        wrong = ops.reshape(ops.where(known, ops.zeros_like(labels), labels), (-1,))
        extremes = (ops.min(wrong, initial=0), ops.max(wrong, initial=0))
        backend.demand(ops.all(known), f"Targets must be {self.target}.", extremes)
        return one_of_them, ops.where(known, 1.0, math.nan)

    def check(self, targets: Any) -> None:
        """Raises ValueError, with the form that fits, for a wrong dtype, shape or value."""
        try:
            array = np.asarray(targets)
            if array.dtype.kind not in "biuf":
                raise ValueError(f"values of the dtype {array.dtype}")
        except ValueError as error:  # ragged, text or objects
            raise ValueError(f"Targets must be {self.target}. Received: {error}") from error
        problem = self.problem(array)
        if problem is not None:
            raise ValueError(
                f"Targets must be {self.target}. Received: {problem}, shape {array.shape}"
            )


class FunctionLoss(keras.losses.Loss):
    """A Keras loss from a function of targets and outputs."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self._function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._function(y_true, y_pred)


def takes_probabilities(loss: Any) -> bool:
    """Whether a Keras loss (a name, a function or an object) takes outputs for probabilities."""
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    name = getattr(getattr(loss, "fn", loss), "__name__", "")
    if name in _OF_PROBABILITIES:
        return True
    if inspect.isfunction(loss) and getattr(keras.losses, name, None) is loss:
        return "from_logits" in inspect.signature(loss).parameters
    return getattr(loss, "from_logits", True) is False


def shape_of(tensor: Any) -> tuple[Any, ...] | None:
    """A tensor's shape, or None if even its rank is unknown."""
    try:
        return tuple(tensor.shape)
    except ValueError:
        return None


def agree(first: Any, second: Any) -> bool:
    """Whether two sizes may be equal; None is unknown."""
    return first is None or second is None or first == second


def outside(values: np.ndarray, least: float, most: float) -> str | None:
    """Describes values outside of [least, most]; None if all lie inside."""
    if values.size and not (values.min() >= least and values.max() <= most):  # true for NaN too
        return f"values from {values.min()} to {values.max()}"
    return None


class TargetMetric(Configured, keras.metrics.Mean):
    """The mean over samples of what a subclass computes in `values`; `label` is its usual name."""

    label = "mean"

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name or self.label, **kwargs)

    def values(self, y_true: Any, y_pred: Any) -> Any:
        """The metric of each sample, (batch,)."""
        raise NotImplementedError

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:  # type: ignore[override]
        y_true = keras.ops.cast(y_true, "float32")
        values = self.values(y_true, keras.ops.cast(y_pred, "float32"))
        return super().update_state(values, sample_weight)


@dataclass(frozen=True)
class Task:
    """How one output is trained: functions that make its loss and metrics, and the loss weight.

    The functions are classes or partial calls of classes, so that a task can be pickled.
    """

    loss: Callable[[], Any]
    metrics: Sequence[Callable[[], Any]]
    weight: float = 1.0
    output: str = LOGITS  # the output's name unless the network gives it another

    @property
    def target(self) -> str:
        """The form of the targets, in words."""
        return self.loss().target

    @property
    def gives_logits(self) -> bool:
        """Whether the output is logits of classes."""
        return getattr(self.loss(), "of_logits", False)


class Tasks(dict[str, Task]):
    """The tasks of a network's outputs, by output name.

    Args:
        tasks: the `Task` (loss, metrics, weight) of each output.
        targets: the name of the target that each output is compared with, by default the name of
            the output.

    Example:
        >>> net = kb.resnet18(head=kb.Localizer(3))
        >>> model = net.model((64, 64, 3))
        >>> model.compile("adam", **net.head.training())
        >>> net.head.targets
        {'class': '...', 'box': '...'}
    """

    def __init__(self, tasks: Mapping[str, Task], targets: Mapping[str, str] | None = None) -> None:
        super().__init__(tasks)
        self._targets = {output: (targets or {}).get(output, output) for output in tasks}

    @property
    def targets(self) -> dict[str, str]:
        """The form of each target, in words."""
        return {self._targets[output]: task.target for output, task in self.items()}

    def target_of(self, output: str) -> str:
        """The name of the target that an output is compared with."""
        return self._targets[output]

    def losses(self) -> dict[str, Any]:
        """A new loss for each output."""
        return {output: task.loss() for output, task in self.items()}

    def metrics(self) -> dict[str, list[Any]]:
        """New metrics for each output."""
        return {output: [make() for make in task.metrics] for output, task in self.items()}

    def loss_weights(self) -> dict[str, float]:
        """The weight of each output's loss in the sum."""
        return {output: task.weight for output, task in self.items()}

    def training(self, loss_weights: Mapping[str, float] | None = None) -> dict[str, Any]:
        """The arguments `loss`, `metrics` and `loss_weights` of `model.compile`.

        Args:
            loss_weights: weights by output that replace those of the heads, for some or all.

        Raises:
            ValueError: if there are no tasks, or `loss_weights` names an unknown output.
        """
        if not self:
            raise ValueError("The network must end in a head of kblocks for a loss. Received: none")
        weights = self.loss_weights()
        for output in loss_weights or {}:
            if output not in weights:
                raise ValueError(
                    f"`loss_weights` must be for {', '.join(weights)}. Received: {output!r}"
                )
        weights.update(loss_weights or {})
        if len(self) == 1:
            (output,) = self
            alone = {"loss": self.losses()[output], "metrics": self.metrics()[output]}
            return alone if weights[output] == 1 else {**alone, "loss_weights": [weights[output]]}
        return {"loss": self.losses(), "metrics": self.metrics(), "loss_weights": weights}

    def check(self, targets: Any) -> None:
        """Checks the dtype, shape and values of targets before training.

        Args:
            targets: a dict of arrays by target name, or one array if there is only one target; a
                classifier as the only head, with its output unnamed, takes an array only.

        Raises:
            ValueError: if a target does not fit, with its name, the form that fits and what came.
        """
        names = self.targets
        if list(names) == [LOGITS] and isinstance(targets, Mapping):  # `fit` would refuse it
            raise ValueError(f"Targets must be an array. Received: a dict of {', '.join(targets)}")
        is_dict = isinstance(targets, Mapping)
        if not is_dict and len(names) < 2:
            targets = dict.fromkeys(names, targets)
        elif not is_dict or set(targets) != set(names):
            given = ", ".join(targets) if is_dict else type(targets).__name__
            raise ValueError(f"Targets must be a dict of {', '.join(names)}. Received: {given}")
        for output, target in self._targets.items():
            try:
                self[output].loss().check(targets[target])
            except ValueError as error:
                raise ValueError(f"{target}: {error}") from error


def task_of(spec: Any) -> Task | None:
    """The task of a block's Spec; None if the block is not a head."""
    make = getattr(spec, "task", None)
    task: Any = make() if callable(make) else None
    return task


def tasks_of(model: keras.Model) -> Tasks:
    """The tasks of a model's heads; empty if an output comes from any other layer.

    Args:
        model: a functional model, from `Architecture.model` or `keras.models.load_model`; for
            sequential and subclassed models the result is empty.
    """
    if not hasattr(model, "output_names"):  # sequential or subclassed
        return Tasks({})
    outputs: Any = model.output
    if not isinstance(outputs, dict):
        tensors = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        outputs = dict(zip(model.output_names, tensors, strict=True))
    hidden = getattr(model, "auxiliary", {})
    found = {
        name: task_of(getattr(maker_of(tensor), "spec", None))
        for name, tensor in outputs.items()
        if name not in hidden
    }
    if not all(found.values()):
        return Tasks({})
    targets = getattr(model, "targets", None)
    if not isinstance(model.output, dict) and len(found) == 1 and not targets:
        found = {task.output: task for task in found.values() if task}  # not by its layer's name
    return Tasks({k: v for k, v in found.items() if v}, targets)
