"""`inherit`: copies the weights of a trained network into a larger or otherwise changed one.

Every tensor of the child is compared with the parent's tensor at the same place. `_Flow` says which
of its channels equal which of the parent's; the others are new, and whoever reads them gets zero
weights for them. One rule for each op carries this along the plans, so there is none for a family.
"""

import math
from typing import Any, NamedTuple

import keras
import numpy as np

from kblocks.blocks.block import Block
from kblocks.common.keras_graph import calls_of, is_graph, refuse_altered
from kblocks.model_tools import matching
from kblocks.model_tools.folding import Part, parted, planned
from kblocks.model_tools.new_weights import NewWeights, array_of, kernel_of, layer_of
from kblocks.plans import ops
from kblocks.plans.ops import Chain, Merge

_ALIVE = 1e-7  # at exactly 0 a ReLU has no gradient, and a silent branch would never learn
_IDEMPOTENT = ("relu", "relu6")
_IDENTITY = ops.Conv(1)


def inherit(child: keras.Model, parent: keras.Model) -> dict[str, Any]:
    """Copies a trained model's weights into a changed one, so that both compute the same.

    Blocks are matched by name (`stage2_block1`), their parts by their order. More filters, units,
    expansion or growth, larger kernels, more blocks with a shortcut, more layers of dense blocks,
    more branches, more groups with their filters, new gates and new hidden layers leave the outputs
    in inference as they are. New channels begin with fresh weights, and whatever reads them with
    zeros; a new branch or block ends in zeros, from which it learns.

    Weights are copied where they fit, but the outputs differ, after:

    - fewer filters (those with the largest kernels stay), blocks or branches, smaller kernels;
    - other strides, pools, activations, block classes or orders, more groups of as many filters,
      and padding that moves the map or changes its size (such as "valid" with a larger kernel);
    - more channels under layer or group normalization, or a norm of another kind or epsilon;
    - new blocks, convolutions or hidden layers that end in an activation, unless it is ReLU or
      ReLU6 and the same stands before them, or have fewer filters or units than they read; new
      Inception modules; new blocks where the last one differs from the others
      (Inception-ResNet-v2);
    - new 1x1 convolutions in a block: of a dense block's `bottleneck`, of an expansion that was 1;
    - a new projection shortcut with order="full_preactivation", and an inverted bottleneck that
      gains or loses its shortcut;
    - a number of groups that is no multiple of the old one.

    Exact in inference alone, as their batch normalizations begin with statistics that training
    replaces, are new convolutions without a shortcut (as in VGG), new projection shortcuts, and new
    blocks with order="norm_after_addition".

    Args:
        child: a new model from `Architecture.model`, which gets the weights.
        parent: a model from `Architecture.model` for the same input; it is not changed.

    Returns:
        What was done, as JSON: "exact", whether both models give the same outputs in inference;
        "blocks", for each block of the child "exact" or "approximate" (its function, given its
        inputs) or "new" (nothing was copied); "arrays" and "numbers", how many arrays and weights
        hold any of the parent's, of how many. A head for other classes stays new.

    Raises:
        ValueError: if a model is not of this kind, is quantized or has LoRA, the inputs differ, or
            no block has a name in common.

    Example:
        >>> small = kb.resnet18(filters=(16, 32, 64, 128)).model((64, 64, 3))
        >>> wide = kb.resnet18(filters=(24, 32, 64, 128), blocks=(2, 3, 2, 2)).model((64, 64, 3))
        >>> kb.inherit(wide, small)["exact"]
        True

    Reference: Chen et al. 2015, arXiv:1511.05641; Elsken et al. 2017, arXiv:1711.04528.
    """
    for name, model in (("child", child), ("parent", parent)):
        if not is_graph(model) or not _blocks(model):
            raise ValueError(
                f"`{name}` must be a model from Architecture.model. Received: {name}={model!r}"
            )
        refuse_altered(model)
    shapes = [[_shape(x, model) for x in model.inputs] for model in (child, parent)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "`child` must have the input of `parent`, (height, width, channels). "
            f"Received: {shapes[0]} and {shapes[1]}"
        )
    if not {block.name for block in _blocks(child)} & {block.name for block in _blocks(parent)}:
        raise ValueError(
            "`child` and `parent` must have blocks of the same names, such as stage1_block1. "
            f"Received: {child.name} and {parent.name}, which have none in common"
        )
    return _Inheritance(parent).copied_to(child)


class _Flow(NamedTuple):
    """What a tensor of the child has in common with the parent's at the same place."""

    shape: Any  # of the child's tensor, without the batch, channels last
    before: Any  # of the parent's
    sources: np.ndarray  # for each channel the parent's channel that it equals; -1 for a new one
    scale: float = 1.0  # the factor by which the channels differ from the parent's
    ended: Any = None  # the function of the activation whose range the values have
    maker: Any = None  # the layer of the convolution or normalization that puts it out

    @property
    def is_same(self) -> bool:
        """Whether all channels are the parent's, in order."""
        return np.array_equal(self.sources, np.arange(self.before[-1]))


class _Inheritance:
    """The copying of weights from one model."""

    def __init__(self, parent: Any) -> None:
        self._parent = parent
        self._new = NewWeights()
        self._exact = True  # whether the block at hand computes what it should
        self._of_head = False
        plans = [ops.parts(block._plan) for block in _blocks(parent)]
        convs = [op for plan in plans for _, op in plan if isinstance(op, ops.Conv)]
        # Channels are laid out so that those of a group stay together, wherever they are read.
        self._parts = math.lcm(*(op.groups for op in convs if op.groups < op.filters))

    def copied_to(self, child: Any) -> dict[str, Any]:
        """Sets the weights of a model; returns what was done."""
        theirs, blocks, exact = _calls(self._parent), {}, True
        flows = {}  # by the child's tensor, with the parent's tensor to which it is compared
        for x, like in zip(child.inputs, self._parent.inputs, strict=True):
            shape = _shape(x, child)
            flows[id(x)] = _Flow(shape, shape, np.arange(shape[-1])), like
        for call, node in _calls(child).items():
            layer, other = node.operation, theirs.get(call)
            given = [flows[id(x)] for x in node.input_tensors]
            read = other.input_tensors if other else [like for _, like in given]
            self._exact = len(read) == len(given)
            inputs = [
                flow if like is x else self._compared(flow, _shape(x, self._parent))
                for (flow, like), x in zip(given, read, strict=False)
            ]
            if isinstance(layer, Block):
                flow = self._block(layer, other and other.operation, inputs)
                copied = any(id(weight) in self._new.numbers for weight in layer.weights)
                known = "exact" if self._exact else "approximate"
                blocks[layer.name] = known if copied or (other and not layer.weights) else "new"
            else:
                flow = self._plain(node, other, inputs[0], child)
            exact &= self._exact
            like = other.output_tensors[0] if other else given[0][1]
            flows[id(node.output_tensors[0])] = flow._replace(maker=None), like
        for x, like in zip(child.outputs, self._parent.outputs, strict=False):
            flow, found = flows[id(x)]
            exact &= found is like and flow.is_same and flow.scale == 1
        sizes, copied = [math.prod(one.shape) for one in child.weights], self._new.numbers
        return {
            "exact": bool(exact) and len(child.outputs) == len(self._parent.outputs),
            "blocks": blocks,
            "arrays": [len(copied), len(sizes)],
            "numbers": [sum(copied.values()), sum(sizes)],
        }

    def _plain(self, node: Any, other: Any, flow: _Flow, child: Any) -> _Flow:
        """The flow behind a layer of Keras, such as one that scales images, or a softmax."""
        shape = _shape(node.output_tensors[0], child)
        before = _shape(other.output_tensors[0], self._parent) if other else flow.before
        self._exact &= bool(other) and node.operation.get_config() == other.operation.get_config()
        kept = (shape[-1], before[-1]) == (flow.shape[-1], flow.before[-1])
        sources = flow.sources if kept else self._layout(before[-1], shape[-1])
        self._exact &= kept and ("softmax" not in str(node.operation.get_config()) or flow.is_same)
        return _Flow(shape, before, sources, flow.scale)

    def _compared(self, flow: _Flow, before: Any) -> _Flow:
        """The flow where the parent has more parts, the last of which puts out another shape."""
        self._exact = False
        if before[-1] != flow.before[-1]:
            flow = flow._replace(sources=self._layout(before[-1], len(flow.sources)))
        return flow._replace(before=before)

    def _block(self, layer: Any, other: Any, flows: list[_Flow]) -> _Flow:
        flow: Any = flows if len(flows) > 1 else flows[0]
        own, classes = parted(layer._plan, layer), getattr(layer.spec, "classes", None)
        shape = planned(own).walk(_each(flow, "shape"), None)
        self._of_head = classes is not None
        if type(other) is type(layer):
            fresh = classes != getattr(other.spec, "classes", None)
            ending = np.full(shape[-1], -1) if fresh else None
            return self._chain(own, parted(other._plan, other), flow, ending)
        if other is None and len(flows) == 1:
            return self._chain(own, None, flow)
        self._exact, before = False, flows[0].before
        if isinstance(other, Block):
            before = planned(parted(other._plan, other)).walk(_each(flow, "before"), None)
        return _Flow(shape, before, self._layout(before[-1], shape[-1]))

    # --- plans -----------------------------------------------------------------------------

    def _chain(self, own: Chain, parent: Chain | None, flow: Any, ending: Any = None) -> Any:
        """The flow behind a chain, which without a parent is to be the identity.

        `ending`: the sources that the chain's output is to have, or None.
        """
        pairs = matching.aligned(own, Chain() if parent is None else parent, self._of_head)
        linear = [i for i, (step, _) in enumerate(pairs) if step and matching.linears(step)]
        for i, (step, other) in enumerate(pairs):
            wanted = ending if [i] == linear[-1:] else None
            if step is None:
                before = planned(other).walk(_each(flow, "before"), None)
                flow = flow[0] if isinstance(flow, list) else flow
                flow = self._compared(flow, before)._replace(ended=None)
            elif isinstance(step, Merge):
                flow = self._merge(step, other, flow, wanted)
            elif isinstance(step.op, matching.LINEAR):
                flow = self._linear(step, other, flow, wanted)
            elif isinstance(step.op, ops.Norm):
                flow = self._norm(step, other, flow)
            else:
                flow = self._other(step, other, flow)
        return flow

    def _merge(self, own: Merge, parent: Merge | None, flow: Any, ending: Any) -> _Flow:
        old, branches = dict(parent.branches if parent else ()), dict(own.branches)
        if isinstance(flow, list):
            flows = dict(zip(branches, flow, strict=True))
        else:
            befores = planned(Chain(parent))[0].sources(flow.before) if parent else []
            known = dict(zip(old, befores, strict=True))
            shapes = zip(branches, planned(Chain(own))[0].sources(flow.shape), strict=True)
            flow = flow if own.mode == "multiply" else flow._replace(maker=None)
            flows = {
                name: flow._replace(shape=shape, before=known.get(name, flow.before))
                for name, shape in shapes
            }
        if own.mode == "concat":
            return self._concat(branches, old, flows)
        # The branch that says which channels there are: a shortcut, or the map of a gate.
        first, *others = sorted(branches, key=lambda name: matching.linears(branches[name]))
        joined, scale = self._chain(branches[first], old.get(first), flows[first], ending), 1.0
        for name in others:
            if name in old:
                found = self._chain(branches[name], old[name], flows[name], joined.sources)
                self._exact &= np.array_equal(found.sources, joined.sources)
                self._exact &= found.scale == joined.scale == 1
            elif own.mode == "add":
                self._exact &= abs(self._new.silence(branches[name], _ALIVE)) < 10 * _ALIVE
            else:
                scale *= self._new.silence(branches[name], 0.0)
        if not 0 < scale < math.inf:
            self._exact, scale = False, 1.0
        if joined.maker is not None and self._new.multiply(joined.maker, 1 / scale):
            scale = 1.0
        ended = joined.ended if own.mode == "add" and not old else None
        return joined._replace(scale=joined.scale * scale, ended=ended, maker=None)

    def _concat(self, branches: Any, old: dict[str, Any], flows: dict[str, _Flow]) -> _Flow:
        kept = "" if old else min(branches, key=lambda name: len(branches[name]))
        self._exact &= not kept or not branches[kept]  # else no branch passes the input on
        offsets, count = {kept: 0}, 0
        for name, branch in old.items():
            source = flows.get(name) or next(iter(flows.values()))
            offsets[name] = count
            count += planned(branch).walk(source.before, None)[-1]
        found, before = [], ()
        for name, branch in branches.items():
            if name in offsets:
                flow = self._chain(branch, old.get(name), flows[name])
                before = (*flow.before[:-1], count or flow.before[-1])
                moved = np.where(flow.sources < 0, -1, flow.sources + offsets[name])
                found.append(flow._replace(sources=moved))
            else:
                shape = planned(branch).walk(flows[name].shape, None)
                found.append(flows[name]._replace(shape=shape, sources=np.full(shape[-1], -1)))
        self._exact &= all(flow.scale == 1 for flow in found)
        sources = np.concatenate([flow.sources for flow in found])
        ended = found[0].ended if all(flow.ended == found[0].ended for flow in found) else None
        return _Flow((*found[0].shape[:-1], len(sources)), before, sources, 1.0, ended)

    # --- primitives ------------------------------------------------------------------------

    def _linear(self, own: Part, parent: Any, flow: _Flow, ending: Any) -> _Flow:
        """A convolution or linear layer; without a parent it becomes the identity."""
        layer, op = layer_of(own), own.op
        kernel, shape, before = kernel_of(layer), op.walk(flow.shape, None), flow.before
        theirs, bias, old = np.ones((1, 1, 1, before[-1])), None, _IDENTITY
        groups = getattr(op, "groups", 1), before[-1]
        if parent:
            old, source = parent.op, layer_of(parent)
            before, groups = old.walk(before, None), (groups[0], getattr(old, "groups", 1))
            theirs, bias = kernel_of(source), array_of(source.bias) if old.use_bias else None
        if groups[0] == shape[-1] == flow.shape[-1] > 1:
            out = flow.sources  # one channel a group
        elif ending is not None:
            out = ending
        else:
            out = self._layout(before[-1], shape[-1], np.sqrt(np.square(theirs).sum((0, 1, 2))))
        result = _Flow(shape, before, out, 1.0, None if parent else flow.ended, layer)
        known = out >= 0
        if not known.any() or not (flow.sources >= 0).any():
            self._exact = False
            return result
        inputs, valid = matching.weights_in_common(
            kernel.shape, theirs.shape, groups, flow.sources, out
        )
        rows, columns = (
            matching.pixels_in_common(op, old, flow.shape, flow.before, axis) for axis in (0, 1)
        )
        self._exact &= (
            shape[:-1] == before[:-1]
            and getattr(op, "strides", (1, 1)) == getattr(old, "strides", (1, 1))
            and (len(rows[1]), len(columns[1])) == theirs.shape[:2]
            and bool((valid.sum(0)[known] == theirs.shape[2]).all())
            and (bias is None or layer.use_bias)
        )
        picked = np.where(valid, theirs[:, :, inputs, np.maximum(out, 0)], 0) / flow.scale
        new = np.zeros(kernel.shape)
        new[np.ix_(rows[0], columns[0])] = picked[np.ix_(rows[1], columns[1])]
        taps = len(rows[0]) * len(columns[0]) if parent else 0
        self._new.set_kernel(layer, np.where(known, new, kernel), taps * int(valid.sum()))
        if layer.use_bias:
            given, numbers = (0.0, 0) if bias is None else (bias[out], known.sum())
            self._new.set(layer.bias, np.where(known, given, array_of(layer.bias)), numbers)
        return result

    def _norm(self, own: Part, parent: Any, flow: _Flow) -> _Flow:
        layer, op = layer_of(own), own.op
        result = flow._replace(ended=None if parent else flow.ended, maker=layer)
        self._exact &= flow.scale == 1
        if parent is None:  # a new layer has mean 0, factor 1 and offset 0
            self._exact &= op.kind == "batch"
            if op.kind == "batch":
                self._new.set(layer.moving_variance, np.full(flow.shape[-1], 1 - op.epsilon))
            return result
        old = {weight.name: weight for weight in layer_of(parent).weights}
        known = flow.sources >= 0
        for weight in layer.weights:
            if weight.name in old:
                value = array_of(old.pop(weight.name))[flow.sources]
                self._new.set(weight, np.where(known, value, array_of(weight)), known.sum())
        self._exact &= not old and (op.kind, op.epsilon) == (parent.op.kind, parent.op.epsilon)
        self._exact &= op.kind == "batch" or (flow.is_same and op.groups == parent.op.groups)
        return result

    def _other(self, own: Part, parent: Any, flow: Any) -> _Flow:
        """A part without weights."""
        op, shape = own.op, own.op.walk(_each(flow, "shape"), None)
        read = _each(flow, "before")
        flow = flow[0] if isinstance(flow, list) else flow
        before = parent.op.walk(read, None) if parent else flow.before
        if isinstance(op, ops.Activation):
            self._exact &= op == parent.op if parent else op.function == flow.ended in _IDEMPOTENT
            self._exact &= flow.scale == 1 or op.function == "relu"
            self._exact &= flow.is_same or "softmax" not in str(op.function)
            return flow._replace(ended=op.function, maker=None)
        ended = None if isinstance(op, ops.Scale) else flow.ended
        self._exact &= parent is not None and (op == parent.op or isinstance(op, ops.PadChannels))
        sources, scale, count = flow.sources, flow.scale, flow.before[-1]
        match op:
            case ops.Flatten() if len(flow.shape) == 3 and len(before) == 1:
                places = matching.pixels_of(flow.shape, flow.before)
                self._exact &= flow.shape[:2] == flow.before[:2]
                sources = np.where(sources < 0, -1, places[:, None] * count + sources).ravel()
            case ops.Flatten() if len(flow.shape) == 3:  # the parent has the average
                pixels = math.prod(flow.shape[:2])
                sources, scale = np.tile(sources, pixels), float(pixels)
            case ops.SpaceToDepth():
                squares = np.arange(op.block**2)[:, None] * count
                sources = np.where(sources < 0, -1, squares + sources).ravel()
                sources = np.where(sources < before[-1], sources, -1)
            case ops.PadChannels():
                added = np.full(shape[-1] - len(sources), -1)
                padded = np.arange(count, before[-1])[: len(added)]
                added[: len(padded)] = padded
                sources = np.concatenate([sources, added])
            case ops.Reshape() | ops.SoftArgmax() | ops.Corners():
                self._exact &= flow.is_same and shape == before
                sources = self._layout(before[-1], shape[-1])
        return _Flow(shape, before, sources, scale, ended)

    def _layout(self, before: int, filters: int, sizes: Any = None) -> np.ndarray:
        """The sources of `filters` channels: all of the parent's, then new ones.

        This holds within each part of the channels (see `_parts`). Of too many, those stay whose
        `sizes` are largest.
        """
        parts = math.gcd(self._parts, before, filters)
        sources, width = np.arange(before).reshape(parts, -1), filters // parts
        if filters < before:
            falling = np.zeros(before) if sizes is None else -sizes
            kept = np.argsort(falling.reshape(parts, -1), kind="stable")[:, :width]
            return np.take_along_axis(sources, np.sort(kept), 1).ravel()
        return np.pad(sources, ((0, 0), (0, width - sources.shape[1])), constant_values=-1).ravel()


def _blocks(model: Any) -> list[Any]:
    return [layer for layer in model.layers if isinstance(layer, Block)]


def _calls(model: Any) -> dict[tuple[str, int], Any]:
    """The calls of a model's layers by the layer's name and the number of the call."""
    found: dict[tuple[str, int], Any] = {}
    for node in calls_of(model):
        name = node.operation.name
        found[name, sum(name == known for known, _ in found)] = node
    return found


def _shape(x: Any, model: Any) -> Any:
    """A tensor's shape without the batch, channels last."""
    return _blocks(model)[0]._spatial_last(x.shape)


def _each(flow: Any, name: str) -> Any:
    """An attribute of a flow, or of each of several."""
    return [getattr(one, name) for one in flow] if isinstance(flow, list) else getattr(flow, name)
