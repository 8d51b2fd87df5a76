"""What a head is trained on: its loss, its metrics, and the form of its targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kblocks.common import backend
from kblocks.common.keras_graph import maker_of

LOGITS = "logits"


class TargetLoss(keras.losses.Loss):
    """A loss that knows the form of its targets and refuses others when a step is traced.

    A subclass has `target`, the form in words; `fits`, whether two shapes are of that form; and
    `values`, the loss of each sample, or of each of its pixels. `geometry` is what the targets are
    in an image, which decides how augmentation moves them with it: "class" (not at all), "mask",
    "box", "objects" or "points"; None is not known.
    """

    target: str
    geometry: str | None = None

    def fits(self, targets: tuple[Any, ...], outputs: tuple[Any, ...]) -> bool:
        """Whether targets of this shape, with the batch, go with outputs of that one."""
        raise NotImplementedError

    def values(self, y_true: Any, y_pred: Any) -> Any:
        """The loss before it is averaged over the batch."""
        raise NotImplementedError

    def problem(self, targets: np.ndarray) -> str | None:
        """What is wrong with the targets' values or shape, as far as they alone tell."""
        raise NotImplementedError

    def example(self, output: Any) -> Any:
        """Some targets of the form for this output, which `kb.prepare` builds metrics with."""
        return keras.ops.zeros_like(output)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        shape = shape_of(sample_weight) if sample_weight is not None else None
        if shape is not None and not all(agree(size, 1) for size in shape[1:]):
            raise ValueError(f"Sample weights must be one a sample. Received: shape {shape}")
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        self.refuse(y_true, y_pred)
        return self.values(y_true, y_pred)

    def refuse(self, y_true: Any, y_pred: Any) -> None:
        """Raises ValueError if targets of this shape do not go with outputs of that one."""
        targets, outputs = shape_of(y_true), shape_of(y_pred)
        if targets is not None and outputs is not None and not self.fits(targets, outputs):
            raise ValueError(
                f"Targets must be {self.target}. "
                f"Received: targets of shape {targets} for outputs of shape {outputs}"
            )

    def classes_of(self, labels: Any, classes: int, counts: Any = None) -> tuple[Any, Any]:
        """Labels as integers (0 for no class), and what to multiply losses by: 1, NaN for no class.

        Args:
            labels: any shape.
            classes: how many there are; labels are from 0 on.
            counts: of that shape, whether a label must be one of them; None is all.

        Raises:
            ValueError: as `backend.demand`, if one is not.
        """
        ops: Any = keras.ops
        kinds = ops.cast(labels, "int32")
        known = ops.logical_and(kinds >= 0, kinds < classes)
        one_of_them = ops.where(known, kinds, ops.zeros_like(kinds))  # PyTorch counts no others
        if labels.dtype != kinds.dtype:
            known = ops.logical_and(known, ops.cast(kinds, labels.dtype) == labels)
        if counts is not None:
            known = ops.logical_or(known, ops.logical_not(counts))
        wrong = ops.reshape(ops.where(known, ops.zeros_like(labels), labels), (-1,))
        extremes = (ops.min(wrong, initial=0), ops.max(wrong, initial=0))
        backend.demand(ops.all(known), f"Targets must be {self.target}.", extremes)
        return one_of_them, ops.where(known, 1.0, math.nan)

    def check(self, targets: Any) -> None:
        """Refuses targets of another form, their values included.

        Raises:
            ValueError: with the form that fits.
        """
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
    """A function of targets and outputs, averaged as Keras averages it."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self._function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._function(y_true, y_pred)


def shape_of(tensor: Any) -> tuple[Any, ...] | None:
    """A tensor's shape; None where not even the rank is known."""
    try:
        return tuple(tensor.shape)
    except ValueError:
        return None


def agree(first: Any, second: Any) -> bool:
    """Whether two sizes may be equal; None is unknown."""
    return first is None or second is None or first == second


def outside(values: np.ndarray, least: float, most: float) -> str | None:
    """What to say of values that are not within these bounds."""
    if values.size and not (values.min() >= least and values.max() <= most):  # NaN neither
        return f"values from {values.min()} to {values.max()}"
    return None


@keras.saving.register_keras_serializable("kblocks")
class TargetMetric(keras.metrics.Mean):
    """The mean over samples of what a subclass computes in `values`."""

    def values(self, y_true: Any, y_pred: Any) -> Any:
        """One number a sample."""
        raise NotImplementedError

    def update_state(  # type: ignore[override]
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> Any:
        y_true = keras.ops.cast(y_true, "float32")
        values = self.values(y_true, keras.ops.cast(y_pred, "float32"))
        return super().update_state(values, sample_weight)


@dataclass(frozen=True)
class Task:
    """What one output is trained on; losses and metrics are made anew for each model.

    Their makers are classes and partial calls of them, so that a task can be pickled.
    """

    loss: Callable[[], Any]
    metrics: Sequence[Callable[[], Any]]
    weight: float = 1.0
    output: str = LOGITS  # its name where the network has no other

    @property
    def target(self) -> str:
        """The form of the targets, in words."""
        return self.loss().target


class Tasks(Mapping[str, Task]):
    """The tasks of a network's outputs, by their names.

    Args:
        tasks: by output.
        targets: the name of the target that each output is compared with; its own if not named.

    Example:
        >>> net = kb.resnet18(head=kb.Localizer(3))
        >>> model = net.model((64, 64, 3))
        >>> model.compile("adam", **net.head.training())
        >>> net.head.targets
        {'class': '...', 'box': '...'}
    """

    def __init__(self, tasks: Mapping[str, Task], targets: Mapping[str, str] | None = None) -> None:
        self._tasks = dict(tasks)
        self._targets = {output: (targets or {}).get(output, output) for output in tasks}

    def __getitem__(self, output: str) -> Task:
        return self._tasks[output]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def targets(self) -> dict[str, str]:
        """The form of each target, in words."""
        return {self._targets[output]: task.target for output, task in self._tasks.items()}

    def target_of(self, output: str) -> str:
        """The name of the target that an output is compared with."""
        return self._targets[output]

    def losses(self) -> dict[str, Any]:
        """A new loss for each output."""
        return {output: task.loss() for output, task in self._tasks.items()}

    def metrics(self) -> dict[str, list[Any]]:
        """New metrics for each output."""
        return {output: [make() for make in task.metrics] for output, task in self._tasks.items()}

    def loss_weights(self) -> dict[str, float]:
        """The weight of each output's loss in the sum."""
        return {output: task.weight for output, task in self._tasks.items()}

    def training(self, loss_weights: Mapping[str, float] | None = None) -> dict[str, Any]:
        """The arguments `loss`, `metrics` and `loss_weights` of `model.compile`.

        Args:
            loss_weights: in place of the heads' own, for some outputs or all.

        Raises:
            ValueError: if there is no task, or a weight for an output that there is not.
        """
        if not self._tasks:
            raise ValueError(
                "The network must end in a head of kblocks to have a loss. Received: none"
            )
        weights = self.loss_weights()
        for output in loss_weights or {}:
            if output not in weights:
                raise ValueError(
                    f"`loss_weights` must be for {', '.join(weights)}. Received: {output!r}"
                )
        weights.update(loss_weights or {})
        if len(self._tasks) == 1:
            (output,) = self._tasks
            made = {"loss": self.losses()[output], "metrics": self.metrics()[output]}
            return made if weights[output] == 1 else {**made, "loss_weights": [weights[output]]}
        return {"loss": self.losses(), "metrics": self.metrics(), "loss_weights": weights}

    def check(self, targets: Any) -> None:
        """Refuses targets that a head cannot be trained on, their values included.

        Args:
            targets: a dict of arrays by target; of one target an array too, and of a classifier
                alone, whose output nobody named, an array only.

        Raises:
            ValueError: with the target, the form that fits and what came.
        """
        names = self.targets
        if list(names) == [LOGITS] and isinstance(targets, Mapping):  # which `fit` would not take
            raise ValueError(f"Targets must be an array. Received: a dict of {', '.join(targets)}")
        if not isinstance(targets, Mapping):
            if len(names) > 1:
                raise ValueError(
                    f"Targets must be a dict of {', '.join(names)}. "
                    f"Received: {type(targets).__name__}"
                )
            targets = dict.fromkeys(names, targets)
        if set(targets) != set(names):
            raise ValueError(
                f"Targets must be a dict of {', '.join(names)}. Received: {', '.join(targets)}"
            )
        for output, target in self._targets.items():
            try:
                self._tasks[output].loss().check(targets[target])
            except ValueError as error:
                raise ValueError(f"{target}: {error}") from error


def task_of(spec: Any) -> Task | None:
    """What a block's Spec is trained on; None of a block that is no head."""
    make = getattr(spec, "task", None)
    task: Any = make() if callable(make) else None
    return task


def tasks_of(model: keras.Model) -> Tasks:
    """The tasks of the heads that a model ends in; without any where it ends in other layers.

    Args:
        model: functional, such as `Architecture.model` makes or `keras.models.load_model` loads;
            others have no head of ours.
    """
    if not hasattr(model, "output_names"):  # sequential, or of a class of one's own
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
