"""Starts networks from published weights: finds these, and loads the arrays whose shapes agree."""

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kblocks.networks import torch_weights
from kblocks.networks.architecture import Architecture
from kblocks.networks.building import input_of
from kblocks.networks.catalog import architecture, by_family
from kblocks.networks.published import WEIGHT_SETS, WeightSet
from kblocks.networks.rows import is_of_head
from kblocks.plans.cost import Cost

_COMPARED = (299, 299, 3)  # the input on which networks of a family are compared; all fit it
SCALING = "source_scaling"  # the layer that divides images by the data's scale
_KEPT = 4  # the most files that a process keeps in memory


@dataclass(frozen=True)
class Start:
    """Weights from which a network can start."""

    name: str  # in reports, such as "resnet18 tv_in1k"
    source: Any  # as `kb.load_torch_weights` takes it, or a `.keras` file
    images: WeightSet  # says how images are normalized

    def tensors(self) -> Mapping[str, Any]:
        """The arrays by name, read once a process; errors as of `kb.load_torch_weights`."""
        return self.source if isinstance(self.source, Mapping) else _read(str(self.source))

    def input(
        self, channels: int, value_range: Sequence[float] | None, size: int | None
    ) -> dict[str, Any]:
        """What `model_on_images` does to images before the network, as JSON; None leaves it out."""
        known: dict[str, Any] = {} if size is None else {"size": size}
        if size is not None:
            known["interpolation"] = self.images.interpolation
        if value_range is not None:
            low, high = value_range
            both = np.array([self.images.mean, self.images.std], float)
            if channels != 3:  # each gets the mean over the three
                both = both.mean(1, keepdims=True).repeat(channels, 1)
            mean, std = both
            known["mean"] = (low + (high - low) * mean).tolist()
            known["variance"] = (((high - low) * std) ** 2).tolist()
        return known


@functools.lru_cache(_KEPT)
def _read(source: str) -> Mapping[str, Any]:
    if source.endswith(".keras"):
        model: Any = keras.models.load_model(source, compile=False)
        return {weight.path: np.asarray(weight) for weight in model.weights}
    if source.endswith(".h5"):
        raise ValueError(
            "`weights` must be a file in which arrays have names, of `model.save` (.keras) or of "
            f"PyTorch. Received: weights={source!r}"
        )
    return torch_weights.opened(source)


def starts_of(net: Architecture, weights: Any) -> list[Start]:
    """The weights from which a network can start, the first that can be read being the one.

    Those in an installed package come before others. A published network starts from its own
    weights, also if arguments were changed; another one of its family (found by its name) from
    those of the published network with which it has most in common. `weights` is "imagenet", the
    name of a published set, a file or a source as `Architecture.model` takes it; ValueError if
    there are none.
    """
    names = [names for family, names in by_family().items() if net.name in (family, *names)]
    known = [name for name in names[0] if name in WEIGHT_SETS] if names else []
    nearest = net.name if net.name in known else max(known, key=_shared_with(net), default="")
    sets = WEIGHT_SETS.get(nearest, ())
    if isinstance(weights, Mapping) or torch_weights.is_source(weights):
        name = "a mapping" if isinstance(weights, Mapping) else os.path.basename(str(weights))
        return [Start(name, weights, sets[0] if sets else WeightSet("", "", "", 0))]
    own = [one for one in sets if weights in ("imagenet", one.name)]
    if not own:
        labels = [*(["imagenet"] if sets else []), *(one.name for one in sets)]
        raise torch_weights.no_such_weights(net.name, labels, weights)
    own.sort(key=lambda one: not torch_weights.is_installed(one.source))
    return [Start(f"{nearest} {one.name}", one.source, one) for one in own]


def _shared_with(net: Architecture) -> Any:
    """Counts the parameters of the rows that `net` and a published network have in common."""

    def costs(network: Architecture) -> dict[str, Cost]:
        try:
            return network.costs(_COMPARED)
        except ValueError:
            return {}

    own = costs(net)

    def shared(name: str) -> int:
        theirs = costs(architecture(name))
        rows = [row for row in own if row in theirs and not is_of_head(row)]
        return sum(own[row].params for row in rows if own[row].params == theirs[row].params)

    return shared


def found(starts: Iterable[Start]) -> Start:
    """The first of these weights that can be read; raises the error of the first if none can."""
    errors: list[Exception] = []
    for start in starts:
        try:
            start.tensors()
        except (OSError, ImportError, ValueError) as error:
            errors.append(error)
        else:
            return start
    raise errors[0]


def loadable(net: Architecture, input_shape: Any, start: Start) -> int:
    """How many of a network's numbers these weights have; makes no weight of a model."""
    tensors = start.tensors()
    with keras.StatelessScope():  # variables have shapes, but no values
        pairs = torch_weights.fitting(net.model(input_shape), tensors)
    return sum(value.size for _, value in pairs)


def check(net: Architecture, input_shape: Any, starts: Iterable[Start]) -> None:
    """Raises ValueError for weights of which no array fits a network, and as `found` does."""
    start = found(starts)
    if not loadable(net, input_shape, start):
        raise ValueError(
            f"`weights` must have arrays that fit {net.name!r}. Received: {start.name}, of which "
            "none does"
        )


def load(model: keras.Model, start: Start) -> dict[str, Any]:
    """Loads all arrays that fit a model; returns which weights they are and how many, as JSON."""
    pairs = torch_weights.fitting(model, start.tensors())
    for variable, value in pairs:
        variable.assign(value)
    sizes = [int(np.prod(weight.shape)) for weight in model.weights]
    return {
        "weights": start.name,
        "arrays": [len(pairs), len(sizes)],
        "numbers": [sum(value.size for _, value in pairs), sum(sizes)],
    }


def model_on_images(
    net: Architecture, input_shape: Any, known: Mapping[str, Any], scale: float = 1
) -> keras.Model:
    """A network behind layers that divide images by `scale` and do what `Start.input` says."""
    height, width, channels = input_shape
    tensor = input_of(input_shape, "", {})
    exact: Any = {"dtype": "float32"}  # integers and fractions under any dtype policy
    if scale != 1:
        tensor = keras.layers.Rescaling(1 / scale, name=SCALING, **exact)(tensor)
    if size := known.get("size"):
        height = width = size
        how = size, size, known["interpolation"]
        layer = keras.layers.Resizing(*how, antialias=True, name="source_resizing", **exact)
        # Its own default, True, would hold for all layers behind it where a caller says nothing.
        tensor = layer(tensor, training=False)
    if "mean" in known:
        moments = {name: known[name] for name in ("mean", "variance")}
        axis = 1 if keras.config.image_data_format() == "channels_first" else -1
        exact |= {"name": "source_normalization"}
        tensor = keras.layers.Normalization(axis, **moments, **exact)(tensor)
    return net.model((height, width, channels), input_tensor=tensor)
