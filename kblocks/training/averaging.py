"""Moving averages of the weights: what is evaluated and kept, while training goes on without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

# The attribute of a model that holds averages: the values with which its training goes on.
_TRAINED = "_kblocks_trained"


class Averaged(keras.callbacks.Callback):
    """Evaluates, saves and delivers the averages that an optimizer with `use_ema` computes.

    From the validation after an epoch until the next epoch begins, the model's weights are the
    averages; they stay when training ends, also when it ends early. (Keras' `SwapEMAWeights` keeps
    them only after the last epoch, and on TensorFlow swaps with rounding errors.) Statistics of
    batch norms, which are averages already, are not changed.
    """

    def on_test_begin(self, logs: Any = None) -> None:
        """Puts the averages into the model."""
        self._average()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Puts the averages into the model."""
        self._average()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Puts the trained weights back."""
        _assign(self.model, vars(self.model).pop(_TRAINED, None))

    def on_train_end(self, logs: Any = None) -> None:
        """Leaves the averages in the model."""
        vars(self.model).pop(_TRAINED, None)

    def _average(self) -> None:
        model: Any = self.model
        if _TRAINED not in vars(model):
            vars(model)[_TRAINED] = _values(model)
            model.optimizer.finalize_variable_values(model.trainable_variables)


@contextlib.contextmanager
def as_trained(model: Any) -> Iterator[None]:
    """Inside, a model that holds averages has the weights with which its training goes on."""
    trained = vars(model).get(_TRAINED)
    averages = _values(model) if trained else None
    _assign(model, trained)
    try:
        yield
    finally:
        _assign(model, averages)


def _values(model: Any) -> list[Any]:
    return [
        np.array(keras.ops.convert_to_numpy(variable)) for variable in model.trainable_variables
    ]


def _assign(model: Any, values: list[Any] | None) -> None:
    for variable, value in zip(model.trainable_variables, values or (), strict=False):
        variable.assign(value)
