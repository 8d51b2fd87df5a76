"""`freeze`, and learning rates that differ by stage: for networks that have learned already."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import keras

from kblocks.blocks.stages import stage_of, unknown_stage
from kblocks.common.keras_graph import calls_to, maker_of

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
    for node in calls_to(layer):
        yield from map(maker_of, node.input_tensors)


def learning_rate_multipliers(
    optimizer: Any, multipliers: Mapping[str, float], model: keras.Model | None = None
) -> Any:
    """The same optimizer with steps of another length for some stages.

    The learning rate of each weight is multiplied, decoupled weight decay with it. Everything
    else stays one: the learning rate, which callbacks and schedules set, clipping, averages.
    (`keras.optimizers.MultiOptimizer` has none that a callback could set.)

    Args:
        optimizer: of Keras, or its name; not yet used.
        multipliers: by stage (`"stage1"`), layer (`"stage1_block2"`) or start of a weight's path
            (`"head/dense/bias"`), 0 or more; the longest name that fits counts, and 1 where none
            does.
        model: that will be trained, whose layers are then asked for their weights. Those of a
            model in it are named with it: `"backbone/stage1"`. None goes by the weights' paths,
            which do not tell two models in one apart.

    Raises:
        ValueError: if an argument is not of the form above; and when training starts, if no
            weight that learns belongs to a name, or those of several models do.

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
    # Past Keras' tracking, which would take the weights for the optimizer's own.
    made.__dict__["_places"] = None if model is None else _places_in(model)
    for name in _UNDECAYED:
        if hasattr(optimizer, name):
            setattr(made, name, getattr(optimizer, name))
    return made


class _Scaled:
    """What makes an optimizer of Keras multiply its learning rate by the weight's place."""

    def __init__(
        self: Any, *args: Any, multipliers: Mapping[str, float], factors: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.multipliers = dict(multipliers)
        self._factors = tuple(factors or ())
        self._decayed_by = 1.0
        self.__dict__["_places"] = None

    def build(self: Any, variables: Any) -> None:
        super().build(variables)  # type: ignore[misc]
        if len(self._factors) == len(variables):  # loaded: they go by the order, as the slots do
            return
        places = _placed(variables, self.__dict__["_places"], self.multipliers)
        for name in self.multipliers:
            own = [place for place in places if _fits(name, place)]
            if not own:
                raise unknown_stage("multipliers", name, [place.split("/")[0] for place in places])
            if len(set(own)) < len(own):
                raise ValueError(
                    "`multipliers` must be for one model, or `model` be given to tell several in "
                    f"it apart. Received: multipliers={self.multipliers!r}, of which {name!r} is "
                    "in more than one"
                )
        self._factors = tuple(_factor(self.multipliers, place) for place in places)

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
        own = {"multipliers": self.multipliers, "factors": list(self._factors) or None}
        return {**super().get_config(), **own}  # type: ignore[misc]


def _places_in(model: keras.Model, around: str = "") -> dict[int, tuple[Any, str]]:
    """By its id each weight and its place: the models and the layer that it is in, its name."""
    found: dict[int, tuple[Any, str]] = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found |= _places_in(layer, f"{around}{layer.name}/")
            continue
        for weight in layer.weights:
            path = weight.path.split("/")
            inside = path[path.index(layer.name) + 1 :] if layer.name in path else path[-1:]
            found[id(weight)] = weight, "/".join([f"{around}{layer.name}", *inside])
    for weight in model.weights:  # of a class of one's own, which may have some outside its layers
        found.setdefault(id(weight), (weight, f"{around}{weight.name}"))
    return found


def _placed(
    variables: Any, known: Mapping[int, tuple[Any, str]] | None, names: Collection[str]
) -> list[str]:
    """The places of weights; without a model their paths, from where the names fit on.

    The paths of a sequential model and those of layers made under a name scope begin with its name.
    """
    if known is not None:
        if any(id(variable) not in known for variable in variables):
            raise ValueError(
                "`model` of learning_rate_multipliers must be the one that is trained. "
                "Received: another, or one that has got new layers since"
            )
        return [known[id(variable)][1] for variable in variables]
    whole = inner = [variable.path for variable in variables]
    while not all(any(_fits(name, path) for path in inner) for name in names):
        outer = {path.partition("/")[0] for path in inner}
        if len(outer) > 1 or not all("/" in path for path in inner):
            return whole
        inner = [path.partition("/")[2] for path in inner]
    return inner


def _fits(name: str, place: str) -> bool:
    """Whether a name is the start of a place, or that of a stage in it."""
    *around, last = place.split("/")[: name.count("/") + 1]
    return name in ("/".join([*around, last]), "/".join([*around, stage_of(last)]))


def _factor(multipliers: Mapping[str, float], place: str) -> float:
    fitting = [name for name in multipliers if _fits(name, place)]
    return float(multipliers[max(fitting, key=len)]) if fitting else 1.0


def _made(name: str) -> Any:
    plain = getattr(keras.optimizers, name)
    made = type(f"Scaled{name}", (_Scaled, plain), {"__module__": __name__, "plain": plain})
    return keras.saving.register_keras_serializable("kblocks")(made)


_SCALED: dict[str, Any] = {name: _made(name) for name in _KINDS}
globals().update({kind.__name__: kind for kind in _SCALED.values()})  # where pickle looks for them
