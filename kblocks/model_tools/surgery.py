"""Extracts parts of a model, and adapts a model to another input with the same weights."""

import math
from typing import Any

import keras
import numpy as np

from kblocks.blocks.block import Block
from kblocks.common.keras_graph import as_functional, calls_of, is_graph, refuse_altered
from kblocks.heads.shared_targets import SharedTargets
from kblocks.networks.places import Chain, chains_named
from kblocks.networks.rows import INPUT, is_of_head


def extract(model: keras.Model, stage: str) -> keras.Model:
    """The model from its input to the end of a stage, with shared layers and weights.

    Args:
        model: a functional or sequential model with one input, such as `Architecture.model`
            returns; also with such models as layers.
        stage: a stage (`stem`, `stage1`, ..., `head`), a layer, such as `stage2_block1`, or a
            part of a block, such as `stage2_block1/main_act1`. Where several models in the model
            have it, with the model's name: `backbone/stage1`.

    Raises:
        ValueError: if the model has no such stage or layer, or several models in it have, or the
            block has no such part; the message lists those that there are.

    Example:
        >>> model = kb.resnet50().model((224, 224, 3))
        >>> kb.extract(model, "stage3").output_shape
        (None, 14, 14, 1024)
    """
    graph = checked_graph(model)
    output = _end(graph, *chains_named(graph, "stage", stage))
    return keras.Model(graph.input, output, name=f"{model.name}_{stage.replace('/', '_')}")


def _end(graph: Any, chains: list[Chain], part: str) -> Any:
    """The output of the last of these layers, or of its part."""
    outermost = {id(chain[0]) for chain in chains}
    call = [call for call in calls_of(graph) if id(call.operation) in outermost][-1]
    layer, inputs = call.operation, call.input_tensors
    if within := [chain[1:] for chain in chains if chain[0] is layer and chain[1:]]:
        inner = checked_graph(layer)
        layer = keras.Model(inner.input, _end(inner, within, part), name=layer.name)
    elif part:
        layer = Inside(layer, part, name=f"{layer.name}_{part}")
    else:
        return call.output_tensors[0]
    return layer(inputs if len(inputs) > 1 else inputs[0])


def pyramid_outputs(model: keras.Model) -> dict[str, Any]:
    """The last map at each stride, as `pyramid_outputs` of KerasHub's backbones has them.

    Args:
        model: a functional or sequential model of blocks with one input, such as
            `Architecture.model` returns. Its head is left out.

    Returns:
        Keras tensors of `model`: "P2" at stride 4, "P3" at 8, "P4" at 16 and "P5" at 32, as far as
        the model has them.

    Raises:
        ValueError: if the model has none of them.

    Example:
        >>> body = kb.resnet50().model((224, 224, 3), include_top=False)
        >>> kb.pyramid_outputs(body)["P3"].shape
        (None, 28, 28, 512)
        >>> pyramid = keras.Model(body.input, kb.pyramid_outputs(body))
    """
    graph = checked_graph(model)
    start = graph.inputs[0]
    prefix = start.name.removesuffix(INPUT)
    strides: dict[int, Any] = {id(start): (1, 1)}
    last: dict[Any, Any] = {}
    for call in calls_of(graph):
        before: set[Any] = {strides.get(id(x)) for x in call.input_tensors}
        own, output = _strides_of(call.operation), call.output_tensors[0]
        if own is None or len(before) != 1 or None in before or len(output.shape) != 4:
            continue
        down, right = before.pop()
        strides[id(output)] = found = (down * own[0], right * own[1])
        if not is_of_head(call.operation.name.removeprefix(prefix)):
            last[found] = output
    pyramid = {f"P{n}": last[2**n, 2**n] for n in range(2, 6) if (2**n, 2**n) in last}
    if not pyramid:
        raise ValueError(
            "`model` must have a map at stride 4, 8, 16 or 32 (for a model in it: "
            f"kb.pyramid_outputs(model.get_layer(name))). Received: {model!r}"
        )
    return pyramid


def _strides_of(layer: Any) -> Any:
    """The strides of a block, or 1 of another layer; None if they are not known."""
    if not isinstance(layer, Block):
        is_known = not (is_graph(layer) or hasattr(layer, "strides") or hasattr(layer, "size"))
        return (1, 1) if is_known else None
    try:
        geometry = layer._plan.geometry()
    except ValueError:
        return None
    return geometry and geometry[:2]


@keras.saving.register_keras_serializable("kblocks")
class Inside(keras.layers.Layer):
    """Runs a block up to one of its parts, at a path such as `main_conv2`; shares its weights."""

    def __init__(self, block: Any, part: str, **kwargs: Any) -> None:
        if isinstance(block, dict):
            block = keras.saving.deserialize_keras_object(block)
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


def adapt_input(model: keras.Model, channels: int) -> keras.Model:
    """A copy of a model, with its own weights, for images with another number of channels.

    Adapts the first kernels by timm's rule (`adapt_input_conv`). For one channel it sums a kernel
    over its channels, so that a grey image gives the output of its copy in all channels. For more
    it repeats the channels in turn and scales them by old over new number of channels.

    Args:
        model: a functional or sequential model whose one input is an image, also with such models
            as layers. It is not changed.
        channels: the number of channels of the new input.

    Raises:
        ValueError: if `model` or `channels` is not of the form above, weights other than the
            kernels of convolutions would change their shape, or a layer subtracts a mean for each
            of the old channels.

    Example:
        >>> grey = kb.adapt_input(kb.resnet18().model((64, 64, 3)), 1)
        >>> grey.input_shape
        (None, 64, 64, 1)
    """
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        raise ValueError(f"`channels` must be a positive integer. Received: channels={channels!r}")
    graph = checked_graph(model)
    return _rebuilt(graph, (*_image_shape(graph)[:2], channels))


def resize_input(model: keras.Model, size: Any) -> keras.Model:
    """A copy of a model, with its own copy of the weights, for images of another size.

    Args:
        model: a functional or sequential model whose one input is an image, also with such models
            as layers. It is not changed.
        size: (height, width), or an integer for both; None is an unknown size, which only models
            that pool globally take.

    Raises:
        ValueError: if `model` or `size` is not of the form above, or the shape of a weight
            depends on the input size, as that of a dense layer behind a flattened map does.

    Example:
        >>> kb.resize_input(kb.resnet18().model((64, 64, 3)), 96).input_shape
        (None, 96, 96, 3)
    """
    sizes = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sizes) != 2 or not all(n is None or (isinstance(n, int) and n > 0) for n in sizes):
        raise ValueError(f"`size` must be (height, width) or an integer. Received: size={size!r}")
    graph = checked_graph(model)
    return _rebuilt(graph, (*sizes, _image_shape(graph)[2]))


def checked_graph(model: Any) -> Any:
    if not is_graph(model) or not getattr(model, "inputs", None) or len(model.inputs) != 1:
        raise ValueError(
            "`model` must be a functional or sequential Keras model with one input, such as "
            f"Architecture.model(input_shape) gives. Received: model={model!r}"
        )
    return as_functional(model)


def _channels_first(graph: Any) -> bool:
    """Whether the first layer with a `data_format`, also in a nested model, has channels first."""
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
    """A copy of the model for an input of (height, width, channels), with its weights."""
    refuse_altered(graph, quantized=True)
    height, width, channels = shape
    before = _image_shape(graph)[2]
    for layer in graph.layers if channels != before else ():
        known = getattr(layer, "input_mean", None)
        if known is not None and np.size(known) > 1:
            raise ValueError(
                f"{layer.name} must have one mean for all channels, or stand before the model, not "
                f"a mean for each of {before}. Received: channels={channels}"
            )
    old = graph.inputs[0]
    sizes = (channels, height, width) if _channels_first(graph) else shape
    start = keras.Input(sizes, name=old.name, dtype=old.dtype)
    inner: dict[int, keras.Model] = {}  # nested models, rebuilt for their new inputs

    def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_graph(layer):
            return layer(*args, **kwargs)
        if id(layer) not in inner:
            inner[id(layer)] = _on_input(layer, args[0])
        return inner[id(layer)](*args, **kwargs)

    new = keras.models.clone_model(graph, start, clone_function=_copied, call_function=called)
    if isinstance(graph, SharedTargets):
        new.share(graph.targets, graph.auxiliary)  # Keras does not copy them
    for source, target in zip(graph.layers, new.layers, strict=True):
        if not is_graph(source):
            _fill(source, target, before, channels)
    return new


def _on_input(model: Any, given: Any) -> keras.Model:
    """A copy of a nested model for the size and channels of its new input."""
    graph = checked_graph(model)
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
    if is_graph(layer):  # `called` in `_rebuilt` copies it once its input is known
        return layer
    copy = layer.__class__.from_config(layer.get_config())
    if isinstance(layer, Block):
        copy.remat = layer.remat
    return copy


def _fill(source: Any, target: Any, before: int, channels: int) -> None:
    """Copies a layer's weights to its copy; adapts first kernels to the new channels."""
    gains: dict[str, np.ndarray] = {}
    for old, new in zip(source.variables, target.variables, strict=True):
        value: Any = keras.ops.convert_to_numpy(old)
        owner = old.path.rpartition("/")[0]
        if old.name == "gain" and owner in gains:  # weight normalisation: follows the kernel's norm
            value = value * gains[owner]
        elif value.shape != tuple(new.shape):
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
    """Adapts a kernel by timm's rule; that of a space-to-depth stem pixel by pixel."""
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
    return np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), axis=0)
