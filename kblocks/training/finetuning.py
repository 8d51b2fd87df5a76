"""Fine-tuning of trained networks: `freeze`, and learning rates by stage."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import keras

from kblocks.blocks.stages import stage_of, unknown_stage
from kblocks.common.keras_graph import calls_to, layers_inside, maker_of
from kblocks.networks.places import chains_in, chains_named, full_name, place_of

_KINDS = (
    *("SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax", "Adafactor"),
    *("Nadam", "Ftrl", "Lion", "Lamb"),
)
# Where Keras keeps the arguments of `exclude_from_weight_decay`, which `get_config` leaves out.
_UNDECAYED = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")


def freeze(model: keras.Model, upto: str | None, *, norms: bool = False) -> keras.Model:
    """Freezes a stage and all layers that it depends on.

    These layers keep their weights, and their batch normalisations keep their statistics. All
    other layers become trainable, also those that were frozen before, so that a network can be
    unfrozen step by step. Compile the model afterwards.

    Args:
        model: a functional or sequential model, such as `Architecture.model` returns; also with
            such models as layers.
        upto: the last stage (`"stage3"`) or layer to freeze, where several models in the model
            have it with the model's name (`"backbone/stage3"`); None freezes no layer.
        norms: whether to freeze the statistics and weights of all other batch normalisations too:
            with few images, the statistics of a batch are worse estimates.

    Returns:
        The same model. What is frozen stays so when the model is saved, loaded or cloned.

    Raises:
        ValueError: if the model has no such stage or layer (the message lists those it has), or
            several models in it have.
    """
    chains, part = ([], "") if upto is None else chains_named(model, "upto", upto)
    if part:
        raise ValueError(f"`upto` must name a stage or layer, not a part. Received: upto={upto!r}")
    frozen: set[int] = set()
    for *around, layer in chains:
        _add_sources([layer, *itertools.chain(*map(_sources, around))], frozen)
    model.trainable = False  # Keras passes True on to inner layers only if it was False
    model.trainable = True
    for chain in chains_in(model):
        if id(chain[-1]) in frozen:
            chain[-1].trainable = False
    for layer in layers_inside(model) if norms else ():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    model.train_function = None  # else `fit` would reuse the step it traced
    return model


def _sources(layer: Any) -> list[Any]:
    """The layers whose outputs a layer reads."""
    return [maker_of(tensor) for call in calls_to(layer) for tensor in call.input_tensors]


def _add_sources(layers: list[Any], found: set[int]) -> None:
    """Adds the ids of layers, and of all layers that they depend on, to `found`."""
    for layer in layers:
        if id(layer) not in found:
            found.add(id(layer))
            _add_sources(_sources(layer), found)


def learning_rate_multipliers(
    optimizer: Any, multipliers: Mapping[str, float], model: keras.Model | None = None
) -> Any:
    """A copy of an optimizer with other learning rates for some stages.

    Multiplies the learning rate of each weight, and with it decoupled weight decay. The optimizer
    keeps one base learning rate, which callbacks and schedules set (that of
    `keras.optimizers.MultiOptimizer` cannot be set), and clips and averages all weights alike.

    Args:
        optimizer: a new Keras optimizer, or its name.
        multipliers: factors of 0 or more by stage (`"stage1"`), layer (`"stage1_block2"`) or start
            of a weight's path (`"head/dense/bias"`). The longest name that fits a weight counts;
            other weights have factor 1.
        model: the model to train, in which the weights are found by their layers; where several
            models in it have a stage, it is named with the model's name: `"backbone/stage1"`.
            None finds weights by their paths, which do not distinguish two nested models.

    Returns:
        A Keras optimizer, of a subclass of the class of `optimizer`.

    Raises:
        ValueError: if an argument is not of the form above, or a name fits several models in
            `model`; when training starts, if a name fits no trainable weight, or weights of
            several models.

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
    if model is not None:
        multipliers = {full_name(model, "multipliers", k): v for k, v in multipliers.items()}
    scaled = kind.from_config({**optimizer.get_config(), "multipliers": dict(multipliers)})
    # Bypasses Keras' tracking, which would take the weights for the optimizer's own.
    scaled.__dict__["_places"] = None if model is None else _places_in(model)
    for name in _UNDECAYED:
        if hasattr(optimizer, name):
            setattr(scaled, name, getattr(optimizer, name))
    return scaled


class _Scaled:
    """A mixin for Keras optimizers that multiplies the learning rate of each weight."""

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
        if len(self._factors) == len(variables):  # loaded: ordered as the variables are
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
        """The factor of a weight's learning rate."""
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


def _places_in(model: keras.Model) -> dict[int, tuple[Any, str]]:
    """Each weight and its place, by the weight's id; a place is "model/layer/part/weight"."""
    found: dict[int, tuple[Any, str]] = {}
    for chain in chains_in(model):
        layer = chain[-1]
        for weight in layer.weights:
            path = weight.path.split("/")
            # A subclassed model may have weights outside its layers.
            inside = not isinstance(layer, keras.Model) and layer.name in path
            names = path[path.index(layer.name) + 1 :] if inside else path[-1:]
            found.setdefault(id(weight), (weight, "/".join([place_of(chain), *names])))
    for weight in model.weights:
        found.setdefault(id(weight), (weight, weight.name))
    return found


def _placed(
    variables: Any, known: Mapping[int, tuple[Any, str]] | None, names: Collection[str]
) -> list[str]:
    """The places of weights; without a model, their paths from the part on that names fit.

    For paths may begin with the name of a sequential model or of a name scope.
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
    """Whether a name is the start of a place, where a stage may stand for its layers."""
    *around, last = place.split("/")[: name.count("/") + 1]
    return name in ("/".join([*around, last]), "/".join([*around, stage_of(last)]))


def _factor(multipliers: Mapping[str, float], place: str) -> float:
    fitting = [name for name in multipliers if _fits(name, place)]
    return float(multipliers[max(fitting, key=len)]) if fitting else 1.0


def _scaled_class(name: str) -> Any:
    plain = getattr(keras.optimizers, name)
    scaled = type(f"Scaled{name}", (_Scaled, plain), {"__module__": __name__, "plain": plain})
    return keras.saving.register_keras_serializable("kblocks")(scaled)


_SCALED: dict[str, Any] = {name: _scaled_class(name) for name in _KINDS}
globals().update({kind.__name__: kind for kind in _SCALED.values()})  # where pickle looks for them
