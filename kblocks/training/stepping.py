"""Several steps of `fit` in one execution: the same training with less time between steps."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kblocks.common import backend
from kblocks.common.overriding import overridden
from kblocks.training.preparing import prepare

_MACS = 2e9  # of the forward passes in one execution, which then takes less than a second
_KNOWN = {"x", "y", "batch_size", "epochs", "initial_epoch", "shuffle", "verbose", "callbacks"}
_KNOWN |= {"validation_data", "validation_batch_size", "validation_freq"}
_HOOKS = [f"on_{which}batch_{end}" for which in ("", "train_") for end in ("begin", "end")]


@contextlib.contextmanager
def joined(model: keras.Model, given: dict[str, Any], macs: float | None) -> Iterator[Any]:
    """The arguments of `fit` with which several steps run in one execution, where they can.

    They can on a CPU under TensorFlow, for arrays, and where no callback asks for each batch. The
    results are those of `fit` to rounding.

    Args:
        model: a compiled model, whose `fit` is called inside the `with` statement.
        given: the arguments of `fit` by name.
        macs: multiply-adds of the model for one image; None if they are unknown.
    """
    batch = given.get("batch_size") or 32
    together = int(_MACS // (batch * macs)) if macs else 1
    if together < 2 or not _can_join(model, given):
        yield given
        return
    prepare(model, given["y"])
    shuffle = given.get("shuffle", True)
    arrays = given["x"], given["y"]
    step, executions, source = backend.steps_together(model, arrays, batch, together, shuffle)

    def make_train_function(model: Any, plain: Any, force: bool = False) -> None:
        model.train_function = step

    others = {name: value for name, value in given.items() if name not in ("y", "batch_size")}
    others["validation_batch_size"] = given.get("validation_batch_size") or batch
    others["callbacks"] = [_Steps(-(-len(given["x"]) // batch)), *given["callbacks"]]
    try:
        with overridden(model, "make_train_function", make_train_function):  # also of `augment`
            yield {**others, "x": source, "steps_per_epoch": executions, "shuffle": False}
    finally:
        model.train_function = None


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
    x, y = given.get("x"), given.get("y")
    are_arrays = isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and len(x) == len(y)
    return are_arrays and not any(map(_asks_for_batches, given["callbacks"]))


def _asks_for_batches(callback: Any) -> bool:
    """Whether a callback has a hook for batches that must not be called once an execution."""
    if getattr(callback, "looks_at_the_clock", False):
        return False
    base = keras.callbacks.Callback
    own = [n for n in _HOOKS if getattr(type(callback), n, None) is not getattr(base, n)]
    return bool(own) or not set(_HOOKS).isdisjoint(vars(callback))
