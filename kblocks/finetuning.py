"""`freeze`, and learning rates that differ by stage: for networks that have learned already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from kblocks.stages import stage_of, unknown_stage

_KINDS = (
    *("SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax", "Adafactor"),
    *("Nadam", "Ftrl", "Lion", "Lamb"),
)
# Where Keras keeps what `exclude_from_weight_decay` was told, which no configuration holds.
_UNDECAYED = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")


def freeze(model: keras.Model, upto: str | None, *, norms: bool = False) -> keras.Model:
    """Lets only what comes after a stage learn.

    The stage and all layers that it is made from keep their weights, and their batch
    normalisations the statistics that they have. All other layers learn, also those that were
    frozen before: a network thaws by one call after another. Compile afterwards.

    Args:
        model: functional, such as `Architecture.model` gives.
        upto: a stage (`"stage3"`) or a layer of the model; None freezes nothing.
        norms: whether the batch normalisations that come after keep their statistics and weights
            too: with few images, those of a batch are a worse guess. A saved model does not
            remember it.

    Returns:
        The same model.

    Raises:
        ValueError: if the model has no such stage or layer, with the names of those it has.
    """
    names = [layer.name for layer in model.layers if layer.weights]
    last = [layer for layer in model.layers if upto in (layer.name, stage_of(layer.name))]
    if upto is not None and not last:
        raise unknown_stage("upto", upto, names)
    frozen: set[int] = set()
    _add_sources(last, frozen)
    model.trainable = False  # to what is True already, Keras would not say it again inside
    model.trainable = True
    for layer in model.layers:
        layer.trainable = id(layer) not in frozen
    for norm in _norms_of(model) if norms else ():
        norm.trainable = False
    model.train_function = None  # else `fit` would go on with the step it has traced
    return model


def _norms_of(layer: Any) -> Iterator[keras.layers.BatchNormalization]:
    """Those of a block or model, and of the blocks and models in it."""
    for part in getattr(layer, "layers", ()):
        if isinstance(part, keras.layers.BatchNormalization):
            yield part
        yield from _norms_of(part)


def _add_sources(layers: list[Any], found: set[int]) -> None:
    """Adds layers and all that they read to what was found."""
    for layer in layers:
        if id(layer) not in found:
            found.add(id(layer))
            _add_sources(list(_read_by(layer)), found)


def _read_by(layer: Any) -> Iterator[Any]:
    for node in layer._inbound_nodes:
        yield from (x._keras_history.operation for x in node.input_tensors)


def learning_rate_multipliers(optimizer: Any, multipliers: Mapping[str, float]) -> Any:
    """The same optimizer with steps of another length for some stages.

    The learning rate of each weight is multiplied, decoupled weight decay with it. Everything
    else stays one: the learning rate, which callbacks and schedules set, clipping, averages.
    (`keras.optimizers.MultiOptimizer` has none that a callback could set.)

    Args:
        optimizer: of Keras, or its name; not yet used.
        multipliers: by stage (`"stage1"`), layer (`"stage1_block2"`) or start of a weight's path,
            0 or more; the longest name that fits counts, and 1 where none does.

    Raises:
        ValueError: if an argument is not of the form above; and when training starts, if no
            weight that learns belongs to a name.

    Example:
        >>> rates = kb.learning_rate_multipliers("adam", {"stem": 0.1, "stage1": 0.3})
        >>> model.compile(rates, "mse")

    Reference: Howard & Ruder 2018, arXiv:1801.06146, Sec. 3.2.
    """
    optimizer = keras.optimizers.get(optimizer)
    kind = next((_SCALED[n] for n in _KINDS if type(optimizer).__name__ == n), None)
    if kind is None or optimizer.built:
        raise ValueError(
            f"`optimizer` must be a new one of {', '.join(_KINDS)}. Received: {optimizer!r}"
        )
    for name, value in multipliers.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
            raise ValueError(
                f"`multipliers` must be numbers of 0 or more. Received: {name!r}: {value!r}"
            )
    made = kind.from_config({**optimizer.get_config(), "multipliers": dict(multipliers)})
    for name in _UNDECAYED:
        if hasattr(optimizer, name):
            setattr(made, name, getattr(optimizer, name))
    return made


class _Scaled:
    """What makes an optimizer of Keras multiply its learning rate by the weight's place."""

    def __init__(self: Any, *args: Any, multipliers: Mapping[str, float], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.multipliers = dict(multipliers)
        self._decayed_by = 1.0

    def build(self: Any, variables: Any) -> None:
        super().build(variables)  # type: ignore[misc]
        paths = [variable.path for variable in variables]
        for name in self.multipliers:
            if not any(_fits(name, path) for path in paths):
                raise unknown_stage("multipliers", name, [path.split("/")[0] for path in paths])
        self._factors = tuple(_factor(self.multipliers, path) for path in paths)

    def multiplier_of(self: Any, variable: Any) -> float:
        """By what the learning rate of a weight is multiplied."""
        return self._factors[self._get_variable_index(variable)]

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = learning_rate * self.multiplier_of(variable)
        super().update_step(gradient, variable, rate)  # type: ignore[misc]

    def _apply_weight_decay(self: Any, variables: Any) -> None:
        for factor in sorted(set(self._factors)):
            self._decayed_by = factor
            own = [variable for variable in variables if self.multiplier_of(variable) == factor]
            super()._apply_weight_decay(own)  # type: ignore[misc]
        self._decayed_by = 1.0

    def _get_current_learning_rate(self: Any) -> Any:
        return super()._get_current_learning_rate() * self._decayed_by  # type: ignore[misc]

    def get_config(self: Any) -> dict[str, Any]:
        return {**super().get_config(), "multipliers": self.multipliers}  # type: ignore[misc]


def _fits(name: str, path: str) -> bool:
    layer = path.split("/")[0]
    return name in (layer, stage_of(layer)) or path.startswith(f"{name}/") or path == name


def _factor(multipliers: Mapping[str, float], path: str) -> float:
    fitting = [name for name in multipliers if _fits(name, path)]
    return float(multipliers[max(fitting, key=len)]) if fitting else 1.0


def _made(name: str) -> Any:
    plain = getattr(keras.optimizers, name)
    made = type(f"Scaled{name}", (_Scaled, plain), {"__module__": __name__, "plain": plain})
    return keras.saving.register_keras_serializable("kblocks")(made)


_SCALED: dict[str, Any] = {name: _made(name) for name in _KINDS}
