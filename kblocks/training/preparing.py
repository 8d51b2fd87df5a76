"""`prepare`: shortens the wait for the first training step of a compiled model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from kblocks.common import backend
from kblocks.common.overriding import override

_SHARED = "_kblocks_shared"  # the attribute of an optimizer during a step
_ADAMS = (keras.optimizers.Adam, keras.optimizers.AdamW)


def prepare(model: keras.Model, labels: Any = None) -> keras.Model:
    """Makes the first step of `fit` start several times sooner, with the same results.

    Keras creates the variables of optimizer and metrics while it traces the training step, and
    then has to trace it again; this creates them beforehand. On TensorFlow, Adam, AdamW and SGD
    also update a variable by one op instead of a dozen.

    Args:
        model: a built and compiled model. Compiling it again undoes this.
        labels: some labels in the form that `fit` will get. None guesses the form from the loss,
            and leaves the metrics to Keras if the guess fails. In a subclass of `keras.Model` that
            is not functional, metrics and optimizer variables are always left to Keras.

    Returns:
        The same model.

    Raises:
        ValueError: if the model is not built or not compiled, or the labels do not fit.
    """
    if not model.built or not model.compiled:
        raise ValueError(f"`model` must be built and compiled. Received: {model!r}")
    sequential = isinstance(model, keras.Sequential)
    output = model.outputs[0] if sequential else getattr(model, "output", None)
    if model.optimizer is not None:
        if output is not None:  # else the first step may add weights
            model.optimizer.build(model.trainable_variables)
        _fuse_updates(getattr(model.optimizer, "inner_optimizer", model.optimizer))
    if output is None:  # a subclassed model, whose outputs are not known
        return model
    outputs = keras.tree.map_structure(_zeros, output)
    if labels is not None:
        _build_metrics(model, keras.tree.map_structure(_first, labels), outputs)
        return model
    try:
        _build_metrics(model, guessed_labels(model, outputs), outputs)
    except Exception:  # third-party metrics may need labels of another form
        model.reset_metrics()
    return model


def _zeros(tensor: Any) -> Any:
    return keras.ops.zeros([size or 1 for size in tensor.shape], tensor.dtype)


def _first(labels: Any) -> Any:
    tensor: Any = keras.ops.convert_to_tensor(labels)
    return tensor[:1]


def _build_metrics(model: keras.Model, labels: Any, outputs: Any) -> None:
    model.compute_loss(y=labels, y_pred=outputs)
    model.compute_metrics(None, labels, outputs)
    model.reset_metrics()


def guessed_labels(model: keras.Model, outputs: Any) -> Any:
    """Zeros of the outputs' shape, without the axis of classes if the loss takes integers."""
    loss: Any = model.loss
    if isinstance(loss, Mapping) and isinstance(outputs, Mapping):
        return {name: _example(loss.get(name), x) for name, x in outputs.items()}
    if hasattr(loss, "example") and not isinstance(outputs, Mapping):
        return _example(loss, outputs)
    maker = loss if inspect.isfunction(loss) else type(loss)
    if maker.__module__.split(".")[0] not in ("builtins", "keras", "kblocks"):
        raise ValueError("the form of the labels of somebody else's loss")
    name = loss if isinstance(loss, str) else type(loss).__name__
    name = getattr(loss, "__name__", name)
    if "sparse" not in name.lower():
        return outputs
    return keras.tree.map_structure(lambda x: keras.ops.zeros(x.shape[:-1], "int32"), outputs)


def _example(loss: Any, output: Any) -> Any:
    return loss.example(output) if hasattr(loss, "example") else output


def _fuse_updates(optimizer: Any) -> None:
    if not backend.has_update_kernels() or "update_step" in vars(optimizer):
        return
    kind: Any = getattr(optimizer, "plain", type(optimizer))  # of `learning_rate_multipliers`
    if kind is keras.optimizers.SGD:
        override(optimizer, "update_step", _sgd_step)
    elif kind in _ADAMS and not optimizer.amsgrad:
        override(optimizer, "apply", _adam_apply)
        override(optimizer, "update_step", _adam_step)


def _sgd_step(
    optimizer: Any, plain: Callable[..., None], gradient: Any, variable: Any, learning_rate: Any
) -> None:
    if not backend.updates_in_place(variable, gradient):
        plain(gradient, variable, learning_rate)
        return
    momentum, nesterov = optimizer.momentum, optimizer.nesterov
    slot = optimizer.momentums[_index(optimizer, variable)] if momentum else None
    rate = _multiplied(keras.ops.convert_to_tensor(learning_rate), optimizer, variable)
    backend.apply_sgd(variable, slot, gradient, rate, momentum, nesterov)


def _adam_apply(
    optimizer: Any, plain: Callable[..., Any], grads: Any, trainable_variables: Any = None
) -> Any:
    """Makes the tensors that variables share once per step, not once per variable."""
    step = keras.ops.cast(optimizer.iterations + 1, "float32")
    powers = [keras.ops.power(beta, step) for beta in (optimizer.beta_1, optimizer.beta_2)]
    vars(optimizer)[_SHARED] = powers, {}
    try:
        return plain(grads, trainable_variables)
    finally:
        del vars(optimizer)[_SHARED]


def _adam_step(
    optimizer: Any, plain: Callable[..., None], gradient: Any, variable: Any, learning_rate: Any
) -> None:
    shared = vars(optimizer).get(_SHARED)
    if shared is None or not backend.updates_in_place(variable, gradient):
        plain(gradient, variable, learning_rate)
        return
    index = _index(optimizer, variable)
    slots = optimizer._momentums[index], optimizer._velocities[index]
    powers, by_dtype = shared
    if (dtype := variable.dtype.name) not in by_dtype:
        constants = optimizer.beta_1, optimizer.beta_2, optimizer.epsilon
        by_dtype[dtype] = [
            *(keras.ops.cast(value, dtype) for value in (learning_rate, *powers)),
            *(keras.ops.convert_to_tensor(value, dtype) for value in constants),
        ]
    rate, *others = by_dtype[dtype]
    backend.apply_adam(variable, slots, gradient, _multiplied(rate, optimizer, variable), *others)


def _multiplied(rate: Any, optimizer: Any, variable: Any) -> Any:
    factor = optimizer.multiplier_of(variable) if hasattr(optimizer, "plain") else 1.0
    return rate if factor == 1 else rate * factor


def _index(optimizer: Any, variable: Any) -> int:
    """The index of a variable's slots; Keras has no public name for it, nor for Adam's slots."""
    return int(optimizer._get_variable_index(variable))
