"""Faster copies of models that use Keras' own layers."""

import warnings
from collections.abc import Callable
from typing import Any

import keras

from kblocks.common.keras_graph import layers_inside
from kblocks.layers.grouped import Convolving


def accelerate(model: keras.Model) -> keras.Model:
    """A copy of a model in which `GroupedConv2D` replaces slow or faulty convolutions of Keras.

    It replaces grouped convolutions, and 1x1 ones with strides, whose gradient may write over
    memory on a CPU (see the guide). The weights are copied.

    Args:
        model: any layers that Keras can serialise, also nested and wrapped ones.

    Returns:
        A new model, compiled as `model` is but with a new optimizer. If the loss or metrics are
        not registered with Keras, it warns and does not compile the copy.

    Raises:
        ValueError: if it cannot replace a grouped convolution, because a subclass of
            `keras.Model` creates it itself; the message names it.
    """
    described: Any = keras.saving.serialize_keras_object(model)
    described.pop("compile_config", None)
    regrouped = rewritten(described, _regrouped)
    copy: Any = keras.saving.deserialize_keras_object(regrouped, safe_mode=False)
    convolutions = (c for c in layers_inside(copy) if isinstance(c, keras.layers.Conv2D))
    left = [c.name for c in convolutions if c.groups > 1 and not isinstance(c, Convolving)]
    if left:
        raise ValueError(
            "`model` must be a functional or Sequential model, or its class use kb.GroupedConv2D "
            f"itself. Received: model={model!r}, whose {left[0]!r} is out of reach"
        )
    copy.set_weights(model.get_weights())
    if model.compiled:
        try:
            copy.compile_from_config(model.get_compile_config())
        except (TypeError, ValueError) as error:
            warnings.warn(f"The copy must be compiled by hand: {error}", stacklevel=2)
    return copy


def rewritten(config: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A serialised object with all dicts in it changed, the innermost first, in their order."""
    if isinstance(config, list):
        return [rewritten(item, change) for item in config]
    if isinstance(config, dict):  # `keras.tree.traverse` would sort its keys
        return change({key: rewritten(value, change) for key, value in config.items()})
    return config


def _regrouped(config: dict[str, Any]) -> dict[str, Any]:
    """A serialised convolution of Keras as `GroupedConv2D` where that helps."""
    if (config.get("module"), config.get("class_name")) != ("keras.layers", "Conv2D"):
        return config
    own = config["config"]
    if own["groups"] == 1 and not max(own["kernel_size"]) == 1 < max(own["strides"]):
        return config
    ours = {"module": "kblocks.layers.grouped", "registered_name": "kblocks>GroupedConv2D"}
    return {**config, "class_name": "GroupedConv2D", **ours}
