"""Parts of a finished model, and the same weights for another input."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from kblocks.blocks.block import Block
from kblocks.blocks.stages import members, unknown_stage
from kblocks.common.keras_graph import as_functional, calls_of, is_graph
from kblocks.heads.shared_targets import SharedTargets


def extract(model: keras.Model, stage: str) -> keras.Model:
    """The model from its input to the end of a stage; its layers and weights are shared.

    Args:
        model: such as `Architecture.model` gives.
        stage: `stem`, `stage1`, ..., `head`, or the name of a layer, such as `stage2_block1`, or
            behind it that of a part of it, such as `stage2_block1/main_act1`.

    Raises:
        ValueError: if the model has no such stage, or the block no such part, with those it has.

    Example:
        >>> model = kb.resnet50().model((224, 224, 3))
        >>> kb.extract(model, "stage3").output_shape
        (None, 14, 14, 1024)
    """
    graph = _checked(model)
    calls = calls_of(graph)
    names = [call.operation.name for call in calls]
    place, _, part = stage.partition("/")
    found = members(place, names)
    if not found:
        raise unknown_stage("stage", stage, names)
    end = max(number for number, name in enumerate(names) if name == found[-1])
    output = calls[end].output_tensors[0]
    if part:
        inputs = calls[end].input_tensors
        inside = Inside(calls[end].operation, part, name=f"{found[-1]}_{part}")
        output = inside(inputs if len(inputs) > 1 else inputs[0])
    return keras.Model(graph.input, output, name=f"{model.name}_{stage.replace('/', '_')}")


@keras.saving.register_keras_serializable("kblocks")
class Inside(keras.layers.Layer):
    """A block up to one of its parts, whose map it puts out; the weights are the block's.

    Args:
        block: the block.
        part: the path of a part, such as `main_conv2`.

    Raises:
        ValueError: if the block is built and has no such part, with those it has.
    """

    def __init__(self, block: Any, part: str, **kwargs: Any) -> None:
        super().__init__(**{"dtype": getattr(block, "dtype_policy", None), **kwargs})
        if not isinstance(block, Block) or (block.built and part not in block._paths):
            parts = ", ".join(getattr(block, "_paths", ())) or "no parts of kblocks"
            raise ValueError(
                f"`stage` must name a part of {block.name}, which has {parts}. "
                f"Received: stage='{block.name}/{part}'"
            )
        self.block, self.part = block, part

    def build(self, input_shape: Any) -> None:
        if not self.block.built:
            self.block.build(input_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.block._up_to(self.part, inputs, training)

    def get_config(self) -> dict[str, Any]:
        block = keras.saving.serialize_keras_object(self.block)
        return {**super().get_config(), "block": block, "part": self.part}

    @classmethod
    def from_config(cls, config: Any) -> Any:
        config = {**config, "block": keras.saving.deserialize_keras_object(config["block"])}
        return cls(**config)


def adapt_input(model: keras.Model, channels: int) -> keras.Model:
    """The same model for images of other channels, its first kernels made from those it has.

    One channel takes the sum of a kernel over its channels, so that a grey image gives what its
    copy in all channels gave. More than one take the channels again and again, scaled by the
    old number of them over the new. This is timm's rule (`adapt_input_conv`).

    Args:
        model: functional or sequential, with an image as its one input; left as it is. Models in
            it are taken likewise.
        channels: of the new input.

    Returns:
        A new model with weights of its own.

    Raises:
        ValueError: if more than the input channels of convolutions would change.

    Example:
        >>> grey = kb.adapt_input(kb.resnet18().model((64, 64, 3)), 1)
        >>> grey.input_shape
        (None, 64, 64, 1)
    """
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        raise ValueError(f"`channels` must be a positive integer. Received: channels={channels!r}")
    graph = _checked(model)
    return _rebuilt(graph, (*_image_shape(graph)[:2], channels))


def resize_input(model: keras.Model, size: Any) -> keras.Model:
    """The same model and weights for images of another size.

    Args:
        model: functional or sequential, with an image as its one input; left as it is. Models in
            it are taken likewise.
        size: (height, width), or an integer for both; None is an unknown size, which only
            models that pool globally take.

    Returns:
        A new model with weights of its own, equal to those of `model`.

    Raises:
        ValueError: if weights belong to one size, as those behind a flattened map do.

    Example:
        >>> kb.resize_input(kb.resnet18().model((64, 64, 3)), 96).input_shape
        (None, 96, 96, 3)
    """
    sizes = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sizes) != 2 or not all(n is None or (isinstance(n, int) and n > 0) for n in sizes):
        raise ValueError(f"`size` must be (height, width) or an integer. Received: size={size!r}")
    graph = _checked(model)
    return _rebuilt(graph, (*sizes, _image_shape(graph)[2]))


def _checked(model: Any) -> Any:
    if not is_graph(model) or not getattr(model, "inputs", None) or len(model.inputs) != 1:
        raise ValueError(
            "`model` must be a functional or sequential Keras model with one input, such as "
            f"Architecture.model(input_shape) gives. Received: model={model!r}"
        )
    return as_functional(model)


def _channels_first(graph: Any) -> bool:
    """Whether the first layer that tells where its channels are, in a model too, has them first."""
    for call in calls_of(graph):
        layer = call.operation
        if is_graph(layer):
            return _channels_first(as_functional(layer))
        if hasattr(layer, "data_format"):
            return layer.data_format == "channels_first"
    return False


def _image_shape(graph: Any) -> tuple[Any, ...]:
    """(height, width, channels) of the input."""
    shape = tuple(graph.inputs[0].shape[1:])
    if len(shape) != 3:
        raise ValueError(f"`model` must take an image. Received: an input of shape {shape}")
    return (shape[1], shape[2], shape[0]) if _channels_first(graph) else shape


def _rebuilt(graph: Any, shape: tuple[Any, ...]) -> keras.Model:
    """The model on an input of (height, width, channels), with the weights of the old one."""
    height, width, channels = shape
    before = _image_shape(graph)[2]
    for layer in graph.layers if channels != before else ():
        known = getattr(layer, "input_mean", None)
        if known is not None and np.size(known) > 1:
            raise ValueError(
                f"{layer.name} must have one mean for all channels, or stand before the model, not "
                f"a mean for each of {before}. Received: channels={channels}"
            )
    sizes = (channels, height, width) if _channels_first(graph) else shape
    old = graph.inputs[0]
    start = keras.Input(sizes, name=old.name, dtype=old.dtype)
    inner: dict[int, keras.Model] = {}  # the models in it on what they are now given

    def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_graph(layer):
            return layer(*args, **kwargs)
        if id(layer) not in inner:
            inner[id(layer)] = _on_input(layer, args[0])
        return inner[id(layer)](*args, **kwargs)

    new = keras.models.clone_model(
        graph, input_tensors=start, clone_function=_copied, call_function=called
    )
    if isinstance(graph, SharedTargets):
        graph.share_with(new)
    for source, target in zip(graph.layers, new.layers, strict=True):
        if not is_graph(source):
            _fill(source, target, before, channels)
    return new


def _on_input(model: Any, given: Any) -> keras.Model:
    """A model in the model, on maps of the size and channels that it is now given."""
    graph = _checked(model)
    before, now = tuple(graph.inputs[0].shape[1:]), tuple(given.shape[1:])
    if len(now) != 3:
        if now != before:
            raise ValueError(
                f"{model.name} takes an input of shape {before} and would have to take {now}: its "
                "weights belong to one size and number of channels"
            )
        copy = keras.models.clone_model(graph, clone_function=_copied)
        copy.set_weights(graph.get_weights())
        return copy
    return _rebuilt(graph, (now[1], now[2], now[0]) if _channels_first(graph) else now)


def _copied(layer: Any) -> Any:
    if is_graph(layer):  # which `called` of `_rebuilt` copies when it knows the input
        return layer
    copy = layer.__class__.from_config(layer.get_config())
    if isinstance(layer, Block):
        copy.remat = layer.remat
    return copy


def _fill(source: Any, target: Any, before: int, channels: int) -> None:
    """Gives a layer the weights of its original, the first kernels for their new channels."""
    gains: dict[str, np.ndarray] = {}
    for old, new in zip(source.variables, target.variables, strict=True):
        value: Any = keras.ops.convert_to_numpy(old)
        owner = old.path.rpartition("/")[0]
        if old.name == "gain" and owner in gains:  # of weight normalisation
            value = value * gains[owner]
        elif tuple(old.shape) != tuple(new.shape):
            adapted = _adapted(value, before, channels) if old.name == "kernel" else value
            if adapted.shape != tuple(new.shape):
                raise ValueError(
                    f"{old.path} is {tuple(old.shape)} and would have to be {tuple(new.shape)}: "
                    "these weights belong to one size and number of channels. A head that pools "
                    "globally, or flattens a map of fixed size (pool_size), takes any size"
                )
            gains[owner] = _norms(adapted) / _norms(value)
            value = adapted
        new.assign(value)


def _adapted(kernel: np.ndarray, before: int, channels: int) -> np.ndarray:
    """timm's rule; a space-to-depth stem has the channels of several pixels one after another."""
    if kernel.ndim != 4 or kernel.shape[2] % before:
        return kernel
    height, width, inputs, filters = kernel.shape
    pixels = kernel.reshape(height, width, inputs // before, before, filters)
    if channels == 1:
        pixels = pixels.sum(3, keepdims=True)
    else:
        repeats = math.ceil(channels / before)
        pixels = np.tile(pixels, (1, 1, 1, repeats, 1))[:, :, :, :channels] * (before / channels)
    return pixels.reshape(height, width, -1, filters)


def _norms(kernel: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(np.square(kernel), axis=tuple(range(kernel.ndim - 1))))
