"""Several steps of `fit` in one execution: the same training with less time between steps."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from kblocks.common import backend
from kblocks.common.overriding import overridden
from kblocks.training.preparing import prepare

_MACS = 2e9  # of the forward passes in one execution, which then takes less than a second
_KNOWN = {"x", "y", "batch_size", "epochs", "initial_epoch", "shuffle", "verbose", "callbacks"}
_KNOWN |= {"validation_data", "validation_batch_size", "validation_freq"}


@contextlib.contextmanager
def joined(model: keras.Model, given: dict[str, Any], macs: float | None) -> Iterator[Any]:
    """The arguments of `fit` with which several steps run in one execution, where they can.

    They can on a CPU under TensorFlow, for arrays, and where no callback asks for each batch. So
    can the validation after each epoch, if its data are arrays too. The results are those of `fit`
    to rounding.

    Args:
        model: a compiled model, whose `fit` is called inside the `with` statement.
        given: the arguments of `fit` by name.
        macs: multiply-adds of the model for one image; None if they are unknown.
    """
    batch = given.get("batch_size") or 32
    together = int(_MACS // (batch * macs)) if macs else 1
    if not macs or together < 2 or not _can_join(model, given):
        yield given
        return
    prepare(model, given["y"])
    others = {name: value for name, value in given.items() if name not in ("y", "batch_size")}
    others["callbacks"] = [_Steps(-(-len(given["x"]) // batch)), *given["callbacks"]]
    arrays, shuffle = (given["x"], given["y"]), given.get("shuffle", True)
    train, executions, numbers = backend.steps_together(
        model, model.train_step, arrays, batch, together, shuffle
    )
    others |= {"x": numbers, "steps_per_epoch": executions, "shuffle": False}

    def make_train_function(model: Any, plain: Any, force: bool = False) -> None:
        model.train_function = train

    with overridden(model, "make_train_function", make_train_function):  # also of `augment`
        try:
            with _validated(model, given, batch, macs) as validation:
                yield {**others, **validation}
        finally:
            model.train_function = None


@contextlib.contextmanager
def _validated(
    model: keras.Model, given: dict[str, Any], batch: int, macs: float
) -> Iterator[dict[str, Any]]:
    """The arguments of `fit` about its validation, as in `joined`."""
    data: Any = given.get("validation_data")
    batch = given.get("validation_batch_size") or batch
    is_plain = type(model).test_step is keras.Model.test_step and isinstance(data, tuple)
    if not is_plain or not _are_arrays(*data) or _look_at(("test_batch",), given):
        yield {"validation_batch_size": batch}
        return
    together = max(int(_MACS // (batch * macs)), 1)
    test, executions, numbers = backend.steps_together(
        model, model.test_step, data, batch, together, shuffle=False
    )

    def make_test_function(model: Any, plain: Any, force: bool = False) -> None:
        if model.test_function is None or force:
            plain(force)
            usual: Any = model.test_function  # for other data, which a callback may evaluate
            model.test_function = lambda iterator: (
                test if backend.gives_numbers(iterator) else usual
            )(iterator)

    model.test_function = None
    with overridden(model, "make_test_function", make_test_function):
        try:
            yield {"validation_data": numbers, "validation_steps": executions}
        finally:
            model.test_function = None


class _Steps(keras.callbacks.Callback):
    """Tells the callbacks, schedules among them, the steps of an epoch, not the executions."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    def on_train_begin(self, logs: Any = None) -> None:
        shared: Any = self.params  # of all callbacks
        shared["steps"] = self._steps


def _can_join(model: Any, given: dict[str, Any]) -> bool:
    if backend.name() != "tensorflow" or backend.has_accelerator():
        return False
    is_plain = type(model).train_step is keras.Model.train_step and hasattr(model, "output")
    is_plain = is_plain and not (model.run_eagerly or model.jit_compile)
    is_plain = is_plain and model.steps_per_execution == 1 and backend.has_update_kernels()
    if not is_plain or not set(given) <= _KNOWN:
        return False
    if given.get("verbose") or given.get("shuffle") == "batch":
        return False
    are_arrays = _are_arrays(given.get("x"), given.get("y"))
    return are_arrays and not _look_at(("batch", "train_batch"), given)


def _are_arrays(*data: Any) -> bool:
    """Whether these are images and labels in arrays, equally many."""
    are_two = len(data) == 2 and all(isinstance(one, np.ndarray) for one in data)
    return are_two and len(data[0]) == len(data[1]) > 0


def _look_at(what: Sequence[str], given: dict[str, Any]) -> bool:
    """Whether a callback has a hook for batches that must not be called once an execution."""
    names, base = [f"on_{one}_{end}" for one in what for end in ("begin", "end")], keras.callbacks
    return any(
        name in vars(callback)
        or getattr(type(callback), name, None) is not getattr(base.Callback, name)
        for callback in given["callbacks"]
        if not getattr(callback, "looks_at_the_clock", False)
        for name in names
    )
