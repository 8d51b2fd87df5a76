"""The losses that a recipe takes: by the kind of labels, of Keras, or the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import keras

from kblocks.heads import Tasks
from kblocks.heads.task import takes_probabilities
from kblocks.search_space.tree import options_in

STANDARD = ("head", "sparse", "categorical")


def standard(kind: str, label_smoothing: float) -> Any:
    """The cross-entropy of logits with labels of a kind: "sparse" (and "head") or "categorical"."""
    if kind == "categorical":
        return keras.losses.CategoricalCrossentropy(True, label_smoothing=label_smoothing)
    if not label_smoothing:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return SmoothedSparseCrossentropy(label_smoothing)


def own_loss(given: Any, tasks: Tasks, head: Any) -> Any:
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
        losses = {name: own_loss(loss, own[name], None) for name, loss in given.items()}
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


def is_loss(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(
            not isinstance(one, Mapping) and not is_one_of(one, STANDARD) and is_loss(one)
            for loss in value.values()
            for one in options_in(loss)
        )
    if not isinstance(value, str):
        return isinstance(value, keras.losses.Loss) or inspect.isfunction(value)
    try:
        return value in STANDARD or bool(keras.losses.get(value))
    except ValueError:
        return False


def is_one_of(value: Any, names: Collection[str]) -> bool:
    return isinstance(value, str) and value in names


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
