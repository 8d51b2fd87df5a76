"""`fuse`: a model for inference, with batch normalisations folded into the layers beside them."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers

from kblocks.blocks.block import Block
from kblocks.common.keras_graph import call_number, calls_of, calls_to, ends_of, is_graph, maker_of
from kblocks.layers.grouped import GroupedConv2D
from kblocks.model_tools import folding
from kblocks.model_tools.fused_block import replaced_by
from kblocks.plans import ops
from kblocks.plans.ops import Chain, Op


def fuse(model: keras.Model) -> keras.Model:
    """The same model for inference: batch normalisations folded into convolutions, no dropout.

    Merges each batch normalisation beside a convolution or dense layer into its kernel and bias:
    inside blocks, between blocks, and between Keras' own layers. Merges constant factors and
    weight normalisation likewise. A normalisation stays if an activation, a merge or zero padding
    lies between. Dropout and stochastic depth are dropped.

    Args:
        model: a functional or sequential model, such as `Architecture.model` returns, also with
            such models as layers. It is not changed.

    Returns:
        A functional model with the same names of layers, inputs and outputs, which can be saved,
        exported and run like any other. Changed blocks become `FusedBlock`s, and layers with
        nothing left to do are dropped. Layers other than blocks and Keras' convolutions, dense
        layers and batch normalisations are shared with `model`, weights included, and so are
        layers called with `training=True` in the graph. Fusing again changes nothing.

    Raises:
        ValueError: if `model` is not of the kind above or not built.

    Example:
        >>> model = kb.resnet50().model((224, 224, 3))
        >>> model.count_params() - kb.fuse(model).count_params()
        79680

    Reference: Jacob et al. 2017, arXiv:1712.05877, Sec. 3.2.
    """
    if not is_graph(model) or not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must be a functional or sequential Keras model with an input, such as "
            f"Architecture.model(input_shape) gives. Received: model={model!r}"
        )
    graph = keras.Model(*ends_of(model), name=model.name)
    plain = _plainly_called(graph)
    chains: dict[int, Chain] = {}
    for run in _runs(graph, plain):
        kept = folding.folded(*(chain for _, chain in run))
        chains |= {id(layer): chain for (layer, _), chain in zip(run, kept, strict=True)}
    last = {id(maker_of(x)) for x in graph.outputs}
    rebuilt: dict[int, Any] = {}

    def counterpart(layer: Any) -> Any:
        if id(layer) in plain and is_graph(layer):
            return fuse(layer)
        if id(layer) not in chains:
            return layer
        if chains[id(layer)]:
            rebuilt[id(layer)] = _reduced(layer, chains[id(layer)])
            return rebuilt[id(layer)]
        if id(layer) not in last:
            return None
        return layers.Identity(name=layer.name, dtype=layer.dtype_policy.name)  # the output's name

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, layers.Identity):
            return layer(_only_input(args, kwargs))  # without `training=False` and the like
        return _only_input(args, kwargs) if layer is None else layer(*args, **kwargs)

    fused = keras.models.clone_model(graph, clone_function=counterpart, call_function=call)
    for key, layer in rebuilt.items():
        _fill(layer, chains[key])
    return fused


def _only_input(args: Any, kwargs: Any) -> Any:
    """The input of a call whose other arguments are all None or False; None for other calls."""
    given = [x for x in (*args, *kwargs.values()) if x is not None and x is not False]
    return given[0] if len(given) == 1 and given[0] is not True else None


def _plainly_called(graph: Any) -> set[int]:
    """The layers of which no call has arguments besides the input, such as `training=True`."""
    calls = [(id(node.operation), node.arguments) for node in calls_of(graph)]
    others = {layer for layer, given in calls if _only_input(given.args, given.kwargs) is None}
    return {layer for layer, _ in calls} - others


def _runs(graph: Any, plain: set[int]) -> Iterator[list[tuple[Any, Chain]]]:
    """Runs of layers to fold together: each feeds the next and nothing else; with their parts."""
    nodes = calls_of(graph)
    calls = Counter(id(node.operation) for node in nodes)
    readers = Counter(id(x) for node in nodes for x in node.input_tensors)
    readers.update(id(x) for x in graph.outputs)
    runs: dict[int, list[tuple[Any, Chain]]] = {}  # by the layer that ends each
    for node in nodes:
        layer, inputs = node.operation, node.input_tensors
        chain = _chain_of(layer) if id(layer) in plain else None
        if chain is None or id(layer) in runs:
            continue
        before = maker_of(inputs[0])
        goes_on = (
            len(inputs) == readers[id(inputs[0])] == calls[id(layer)] == calls[id(before)] == 1
            and id(before) in runs
            and _axis_in(layer, inputs[0]) == _axis_out(inputs[0])
            and layer.dtype_policy == before.dtype_policy
        )
        runs[id(layer)] = [*(runs.pop(id(before)) if goes_on else []), (layer, chain)]
    yield from runs.values()


_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D, GroupedConv2D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_VANISHING = (
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise, layers.Identity),
)


def _chain_of(layer: Any) -> Chain | None:
    """The parts of a layer; None if its kind stays as it is."""
    kind, source = type(layer), ((layer, ""),)
    if isinstance(layer, Block) and kind.call is Block.call:
        quantized = any(part.quantization_mode for part in layer.layers)
        return None if quantized else folding.parted(layer._plan, layer)
    if kind in _VANISHING:
        return Chain()
    if kind is layers.BatchNormalization and not getattr(layer, "renorm", False):
        return Chain(folding.Part(ops.Norm(), source))
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return None
    if kind is layers.Dense:
        op: Op = ops.Dense(layer.units, layer.use_bias)
    elif kind in (*_CONVOLUTIONS, *_DEPTHWISE):
        padding = "valid" if layer.padding == "valid" else "same"
        op = ops.Conv(0, layer.kernel_size, padding=padding, use_bias=layer.use_bias)
    elif kind in (*_SEPARABLE, *_TRANSPOSED):
        # As if padded: their last kernel cannot take over a normalisation before them.
        op = ops.Conv(0, (0, 0), padding="same", use_bias=layer.use_bias)
    else:
        return None
    linear = layer.activation is keras.activations.linear
    ending = None if linear else folding.Part(ops.Activation("ending"), source)
    return Chain(folding.Part(op, source), ending)


def _axis_in(layer: Any, x: Any) -> int:
    """The channel axis of `x` for a layer that reads it."""
    rank = len(x.shape)
    if isinstance(layer, _VANISHING):
        return _axis_out(x)
    if isinstance(layer, layers.BatchNormalization):
        return layer.axis % rank
    return 1 if getattr(layer, "data_format", "") == "channels_first" and rank > 2 else rank - 1


def _axis_out(x: Any) -> int:
    """The channel axis of `x` for the layer that outputs it."""
    layer = maker_of(x)
    if isinstance(layer, (*_VANISHING, layers.BatchNormalization)):
        return _axis_in(layer, calls_to(layer)[call_number(x)].input_tensors[0])
    return _axis_in(layer, x)


def _reduced(layer: Any, chain: Chain) -> Any:
    """A new, unbuilt layer that computes what is left of `layer`."""
    if isinstance(layer, Block) and _changed(layer, chain):
        return replaced_by(layer, folding.planned(chain))
    kind: Any = type(layer)
    config = layer.get_config()
    if not isinstance(layer, (Block, layers.BatchNormalization)):
        config["use_bias"] = chain[0].op.use_bias
    return kind.from_config(config)


def _changed(layer: Any, chain: Chain) -> bool:
    before = [part.sources for part in folding.leaves(folding.parted(layer._plan, layer))]
    normed = any(getattr(op, "weight_norm", False) for _, op in ops.parts(layer._plan))
    return normed or before != [part.sources for part in folding.leaves(chain)]


def _fill(layer: Any, chain: Chain) -> None:
    """Sets the weights of a built layer from the parts that its own parts replace."""
    block = isinstance(layer, Block)
    paths = [path for path, _ in ops.parts(folding.planned(chain))] if block else [""]
    for path, part in zip(paths, folding.leaves(chain), strict=False):
        target: Any = _layer_at(layer, path)
        sources = [_layer_at(*source) for source in part.sources]
        linear = [s for s in sources if hasattr(s, "kernel") or isinstance(s, _SEPARABLE)]
        if not linear:
            target.set_weights(sources[0].get_weights())
            continue
        kernel, bias = folding.merged([_piece(source) for source in sources])
        if isinstance(target, _TRANSPOSED):
            kernel = np.swapaxes(kernel, -1, -2)
        _kernel(target).assign(kernel.reshape(_kernel(target).shape))
        if target.use_bias:
            offset: Any = target.bias
            offset.assign(bias)
        if isinstance(target, _SEPARABLE):
            depthwise: Any = target.depthwise_kernel
            depthwise.assign(linear[0].depthwise_kernel)


def _layer_at(owner: Any, path: str) -> Any:
    return getattr(owner, path) if path else owner


def _piece(layer: Any) -> folding.Linear | folding.Affine:
    """The weights of a convolution, dense layer, normalisation or factor as arrays."""
    if isinstance(layer, layers.Rescaling):
        return folding.Affine(np.array(layer.scale), np.array(0.0))
    if isinstance(layer, layers.BatchNormalization):
        factor = 1 / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
        factor = factor * _array(layer.gamma) if layer.scale else factor
        offset = -_array(layer.moving_mean) * factor
        return folding.Affine(factor, offset + _array(layer.beta) if layer.center else offset)
    kernel = _array(_kernel(layer))
    if isinstance(layer, _TRANSPOSED):
        kernel = np.swapaxes(kernel, -1, -2)
    if isinstance(layer, _DEPTHWISE):  # one input channel a group
        kernel = kernel.reshape(*kernel.shape[:-2], 1, -1)
    bias = _array(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1])
    return folding.Linear(kernel, bias)


def _kernel(layer: Any) -> Any:
    if isinstance(layer, _SEPARABLE):
        return layer.pointwise_kernel
    return layer.effective_kernel() if hasattr(layer, "effective_kernel") else layer.kernel


def _array(variable: Any) -> np.ndarray:
    # The backend casts, since NumPy has no bfloat16; JAX may stop at float32.
    wide: Any = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float64"))
    return wide.astype("float64")
