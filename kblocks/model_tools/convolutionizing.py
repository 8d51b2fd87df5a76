"""`convolutionize`: turns a classifier of fixed input size into one for images of any size."""

import math
from typing import Any

import keras
from keras import layers

from kblocks.blocks.block import Block
from kblocks.common.keras_graph import ends_of, maker_of, refuse_altered
from kblocks.heads.task import is_channels_first
from kblocks.model_tools.fused_block import replaced_by
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
    refuse_altered(model)
    counterparts: list[tuple[Any, Any]] = []
    channels = inputs[0].shape[1 if is_channels_first() else 3]
    free = (channels, None, None) if is_channels_first() else (None, None, channels)
    start = keras.Input(free, name=inputs[0].name)

    def replaced(layer: Any) -> Any:
        counterparts.append((layer, _counterpart(layer)))
        return counterparts[-1][1]

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return args[0] if layer is None else layer(*args, **kwargs)

    how = {"clone_function": replaced, "call_function": call}
    convolutional = keras.models.clone_model(graph, start, **how)
    for layer, other in counterparts:
        if layer.weights:  # kernels of dense layers become windows
            pairs = zip(layer.get_weights(), other.weights, strict=True)
            other.set_weights([value.reshape(weight.shape) for value, weight in pairs])
    return convolutional


def _counterpart(layer: Any) -> Any:
    """The convolutional form of a layer; None for one that is dropped."""
    if isinstance(layer, Block):
        return _block(layer)
    several = isinstance(layer.input, (list, tuple))
    if not isinstance(layer, layers.Layer) or isinstance(layer, (layers.Reshape, layers.Permute)):
        raise _formless(layer)
    if several and any(_flattened(x) for x in layer.input):
        raise ValueError(f"{layer.name} joins flattened maps, which has no convolutional form")
    shape = () if several else tuple(getattr(layer.input, "shape", ()))
    common = {"name": layer.name, "dtype": layer.dtype_policy, "trainable": layer.trainable}
    match layer:
        case layers.Flatten():
            return None
        # With `keepdims` it is the pool of a gate, which sees the whole image.
        case layers.GlobalAveragePooling2D(keepdims=False):
            return layers.AveragePooling2D(_size(layer), 1, data_format=layer.data_format, **common)
        case layers.GlobalMaxPooling2D(keepdims=False):
            return layers.MaxPooling2D(_size(layer), 1, data_format=layer.data_format, **common)
        case layers.Dense() if len(shape) == 2:
            own = {name: getattr(layer, name) for name in ("activation", *_LINEAR)}
            return layers.Conv2D(layer.units, _flattened(layer.input) or 1, **own, **common)
        case keras.Model():
            raise ValueError(f"{layer.name} is a model in a model, which cannot be told apart")
    config = layer.get_config()
    if len(shape) == 2:
        if not isinstance(layer, _ELEMENTWISE):
            raise _formless(layer)
        if "axis" in config:
            if _flattened(layer.input):
                raise ValueError(
                    f"{layer.name} normalizes a flattened map, which has no convolutional form"
                )
            config["axis"] = 1 if is_channels_first() else -1
    return type(layer).from_config(config)


def _formless(layer: Any) -> ValueError:
    kind = type(layer).__name__
    return ValueError(f"{layer.name}, a {kind}, has no convolutional form behind or before maps")


_ELEMENTWISE = (
    *(layers.Activation, layers.BatchNormalization, layers.Dropout, layers.Identity),
    *(layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Softmax, layers.Rescaling),
)

# Arguments that dense layers and convolutions share, both Keras' and ours.
_LINEAR = (
    *("use_bias", "kernel_initializer", "bias_initializer"),
    *("kernel_regularizer", "bias_regularizer"),
)


def _size(layer: Any) -> tuple[int, int]:
    """Height and width of the map that a layer reads."""
    shape = tuple(layer.input.shape)
    return shape[1:3] if layer.data_format == "channels_last" else shape[2:4]


def _flattened(x: Any) -> Any:
    """Height and width of the map that was flattened to `x`; None if none was, or of 1x1."""
    before: Any = maker_of(x)
    while isinstance(before, _ELEMENTWISE):
        before = maker_of(before.input)
    size = _size(before) if isinstance(before, layers.Flatten) else (1, 1)
    return None if size == (1, 1) else size


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
    return replaced_by(layer, changed)


def _convolved(op: Op, shape: Any, whole: Any) -> tuple[Op, Any]:
    """A plan in convolutional form, and the shape of the map that its output is the flat form of.

    `shape` is that of its input at the model's input size, `whole` that of the map that was
    flattened to the input: (1, 1, features) behind linear layers.
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
            own = {name: getattr(op, name) for name in (*_LINEAR, "weight_norm")}
            convolution = ops.Conv(op.units, tuple(whole[:2]), padding="valid", **own)
            return convolution, (1, 1, op.units)
        case ops.GlobalPool(keepdims=False):
            return ops.Pool(op.kind, shape[:2], (1, 1)), (1, 1, shape[2])
        case ops.AdaptivePool():
            return _windows(op, shape), walk(op, shape)
        case ops.Reshape() | ops.SoftArgmax() | ops.Corners():
            raise ValueError(f"{op.label} has no convolutional form")
    output = walk(op, shape)
    return op, output if len(output) == 3 else whole


def _merge(op: Merge, shape: Any, whole: Any) -> tuple[Op, Any]:
    sources = op.sources(shape)
    branches = [
        (name, _convolved(branch, source, source if len(source) == 3 else whole))
        for (name, branch), source in zip(op.branches, sources, strict=True)
    ]
    output = walk(op, shape)
    changed = Merge(op.mode, **{name: branch for name, (branch, _) in branches})
    return changed, output if len(output) == 3 else (1, 1, output[0])


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
