"""`convolutionize`: turns a classifier of fixed input size into one for images of any size."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers

from kblocks.blocks.block import Block
from kblocks.common.keras_graph import ends_of, maker_of
from kblocks.model_tools.fused_block import FusedBlock
from kblocks.plans import ops
from kblocks.plans.cost import walk
from kblocks.plans.ops import Chain, Merge, Op


def convolutionize(model: keras.Model) -> keras.Model:
    """The fully convolutional form of a classifier, which outputs a map of logits.

    The first dense layer behind a flattened map becomes a convolution with a kernel as large as
    that map; the others become 1x1 convolutions. A global pool without `keepdims` becomes a pool
    with strides 1 whose window has the size of its map. An adaptive pool becomes a pool with the
    windows that it has at the model's input size, and is dropped if the map has the output size.

    Args:
        model: a functional or sequential model with a known input size, made of blocks of kblocks
            or Keras' own layers, such as `kb.vgg16().model((224, 224, 3))` or
            `keras.applications.VGG16()`.

    Returns:
        A model with copies of the weights, whose input has no fixed height and width. On images
        of the original size it outputs the same logits, (batch, 1, 1, classes); on larger ones
        (batch, rows, columns, classes).

    Raises:
        ValueError: if the model is not of that kind, or a layer, which the message names, has no
            convolutional form.

    Example:
        >>> model = kb.convolutionize(kb.vgg16().model((224, 224, 3)))
        >>> model.compute_output_shape((1, 288, 256, 3))
        (1, 3, 2, 1000)

    Reference: Long et al. 2014, arXiv:1411.4038, Sec. 3.1; Sermanet et al. 2013, arXiv:1312.6229.
    """
    inputs = getattr(model, "inputs", None)
    if not inputs or len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise ValueError(
            "`model` must be a functional or sequential model of one map. "
            f"Received: model={model!r}"
        )
    graph = keras.Model(inputs[0], ends_of(model)[1], name=model.name)
    if None in inputs[0].shape[1:]:
        raise ValueError(
            "`model` must have an input of known height, width and channels, at which its logits "
            f"are to stay the same. Received: input of shape {tuple(inputs[0].shape)}"
        )
    counterparts: dict[int, Any] = {}
    channels_last = keras.config.image_data_format() == "channels_last"
    free = (None, None, inputs[0].shape[3]) if channels_last else (inputs[0].shape[1], None, None)
    start = keras.Input(free, name=inputs[0].name)

    def counterpart(layer: Any) -> Any:
        counterparts[id(layer)] = made = _counterpart(layer)
        return made

    made = keras.models.clone_model(
        graph, input_tensors=start, clone_function=counterpart, call_function=_called
    )
    for layer in graph.layers:
        other = counterparts.get(id(layer))
        if other is not None and layer.weights:
            other.set_weights(_weights(layer, other))
    return made


def _called(layer: Any, *args: Any, **kwargs: Any) -> Any:
    return args[0] if isinstance(layer, _Nothing) else layer(*args, **kwargs)


class _Nothing(layers.Layer):
    """Replaces a layer that is dropped; `_called` skips it."""

    def call(self, inputs: Any) -> Any:
        return inputs


def _counterpart(layer: Any) -> Any:
    """The convolutional form of a layer."""
    if isinstance(layer, Block):
        return _block(layer)
    several = isinstance(layer.input, (list, tuple))
    if not isinstance(layer, layers.Layer) or isinstance(layer, (layers.Reshape, layers.Permute)):
        raise _formless(layer)
    if several and any(_flattened(x) for x in layer.input):
        raise ValueError(
            f"{layer.name} joins maps that were flattened, which has no convolutional form"
        )
    shape = () if several else tuple(getattr(layer.input, "shape", ()))
    common = {"name": layer.name, "dtype": layer.dtype_policy, "trainable": layer.trainable}
    match layer:
        case layers.Flatten():
            return _Nothing(name=layer.name)
        case layers.GlobalAveragePooling2D() | layers.GlobalMaxPooling2D():
            return _window(layer, shape, common)
        case layers.Dense() if len(shape) == 2:
            return _convolution(layer, common)
        case keras.Model() if not isinstance(layer, Block):
            raise ValueError(f"{layer.name} is a model in a model, which cannot be told apart")
    config = layer.get_config()
    if len(shape) == 2:
        if not isinstance(layer, _ELEMENTWISE):
            raise _formless(layer)
        if "axis" in config and _flattened(layer.input):
            raise ValueError(
                f"{layer.name} normalizes a flattened map, which has no convolutional form"
            )
        if "axis" in config:
            config["axis"] = -1 if keras.config.image_data_format() == "channels_last" else 1
    return type(layer).from_config(config)


def _formless(layer: Any) -> ValueError:
    kind = type(layer).__name__
    return ValueError(f"{layer.name}, a {kind}, has no convolutional form behind or before maps")


_ELEMENTWISE = (
    *(layers.Activation, layers.BatchNormalization, layers.Dropout, layers.Identity),
    *(layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Softmax, layers.Rescaling),
)


def _window(layer: Any, shape: Any, common: dict[str, Any]) -> Any:
    average = isinstance(layer, layers.GlobalAveragePooling2D)
    if layer.keepdims:  # the pool of a gate, which sees the whole image
        return type(layer).from_config(layer.get_config())
    kind = layers.AveragePooling2D if average else layers.MaxPooling2D
    last = layer.data_format == "channels_last"
    size = shape[1:3] if last else shape[2:4]
    return kind(size, strides=1, padding="valid", data_format=layer.data_format, **common)


def _convolution(layer: Any, common: dict[str, Any]) -> Any:
    """A dense layer as a convolution over the map that it reads flattened, or of 1x1."""
    flat = _flattened(layer.input)
    return layers.Conv2D(
        layer.units,
        flat or 1,
        padding="valid",
        activation=layer.activation,
        use_bias=layer.use_bias,
        kernel_initializer=layer.kernel_initializer,
        bias_initializer=layer.bias_initializer,
        kernel_regularizer=layer.kernel_regularizer,
        bias_regularizer=layer.bias_regularizer,
        **common,
    )


def _flattened(x: Any) -> Any:
    """Height and width of the map that was flattened to `x`; None if none was, or of 1x1."""
    before: Any = maker_of(x)
    while isinstance(before, _ELEMENTWISE):
        source: Any = before.input
        before = maker_of(source)
    if not isinstance(before, layers.Flatten):
        return None
    flattened: Any = before.input
    shape = tuple(flattened.shape)
    size = shape[1:3] if before.data_format == "channels_last" else shape[2:4]
    return None if size == (1, 1) else size


def _weights(layer: Any, other: Any) -> list[Any]:
    """A layer's weights in the shapes of its counterpart: dense kernels become windows."""
    return [
        value.reshape(weight.shape)
        for value, weight in zip(layer.get_weights(), other.weights, strict=True)
    ]


# --- blocks ------------------------------------------------------------------------------


def _block(layer: Any) -> Any:
    """The convolutional form of a block; a plain copy if nothing in its plan changes."""
    if isinstance(layer.input, list):
        return type(layer).from_config(layer.get_config())
    shape = layer._spatial_last(layer.input.shape)
    plan = layer._plan
    try:
        changed, _ = _convolved(plan, shape, shape)
    except ValueError as error:
        raise ValueError(f"{layer.name}: {error}") from error
    if changed == plan:
        return type(layer).from_config(layer.get_config())
    return FusedBlock(
        changed,
        name=layer.name,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
        data_format=layer.data_format,
    )


def _convolved(op: Op, shape: Any, whole: Any) -> tuple[Op, Any]:
    """A plan in convolutional form, and the shape of the map that its output is the flat form of.

    Args:
        op: the plan.
        shape: the shape of its input at the model's input size.
        whole: the shape of the map that was flattened to the input; (1, 1, features) behind
            linear layers.
    """
    match op:
        case Chain():
            steps = []
            for step in op:
                changed, whole = _convolved(step, shape, whole)
                steps.append(changed)
                shape = walk(step, shape)
            return Chain(*steps), whole
        case Merge():
            return _merge(op, shape, whole)
        case ops.Flatten():
            return Chain(), shape if len(shape) == 3 else whole
        case ops.Dense():
            return _linear(op, whole), (1, 1, op.units)
        case ops.GlobalPool(keepdims=False):
            return ops.Pool(op.kind, shape[:2], (1, 1)), (1, 1, shape[2])
        case ops.AdaptivePool():
            return _windows(op, shape), walk(op, shape)
        case ops.Reshape() | ops.SoftArgmax() | ops.Corners():
            raise ValueError(f"{op.label} has no convolutional form")
    made = walk(op, shape)
    return op, made if len(made) == 3 else whole


def _merge(op: Merge, shape: Any, whole: Any) -> tuple[Op, Any]:
    sources = op.sources(shape)
    branches = [
        (name, _convolved(branch, source, source if len(source) == 3 else whole))
        for (name, branch), source in zip(op.branches, sources, strict=True)
    ]
    made = walk(op, shape)
    changed = Merge(op.mode, **{name: branch for name, (branch, _) in branches})
    return changed, made if len(made) == 3 else (1, 1, made[0])


def _linear(op: ops.Dense, whole: Any) -> ops.Conv:
    return ops.Conv(
        op.units,
        tuple(whole[:2]),
        padding="valid",
        use_bias=op.use_bias,
        kernel_initializer=op.kernel_initializer,
        bias_initializer=op.bias_initializer,
        kernel_regularizer=op.kernel_regularizer,
        bias_regularizer=op.bias_regularizer,
        weight_norm=op.weight_norm,
    )


def _windows(op: ops.AdaptivePool, shape: Any) -> Op:
    """An adaptive pool as a pool with equal windows; raises if its windows are not equal."""
    steps = [size / wanted for size, wanted in zip(shape[:2], op.output_size, strict=True)]
    if all(step == 1 for step in steps):
        return Chain()
    if any(step != math.floor(step) for step in steps):
        raise ValueError(
            f"the windows of a pool of a map of {shape[:2]} to {op.output_size} are not equal: "
            "give the model an input for which they are"
        )
    size = tuple(int(step) for step in steps)
    return ops.Pool("avg", size, size)
