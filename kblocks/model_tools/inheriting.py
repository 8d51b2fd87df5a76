"""`inherit`: copies the weights of a trained network into a larger or otherwise changed one.

Every tensor of the child is compared with the parent's tensor at the same place. `_Flow` says which
of its channels equal which of the parent's; the others are new, and whoever reads them gets zero
weights for them. One rule for each op carries this along the plans, so there is none for a family.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from kblocks.blocks.block import Block
from kblocks.common.keras_graph import calls_of, ends_of, is_graph, refuse_altered
from kblocks.model_tools.folding import Part, leaves, parted, planned
from kblocks.plans import ops
from kblocks.plans.geometry import of_axis, same_padding, side
from kblocks.plans.ops import Chain, Merge

_ALIVE = 1e-6  # at exactly 0 a ReLU has no gradient, and a silent branch would never learn
_IDEMPOTENT = ("relu", "relu6")
_LINEAR = (ops.Conv, ops.Dense)
_IDENTITY = ops.Conv(1)


def inherit(child: keras.Model, parent: keras.Model) -> dict[str, Any]:
    """Copies weights of a trained model into a changed one, which then computes the same function.

    Blocks are matched by name (`stage2_block1`), their parts by their order in the block. More
    filters, groups, growth, expansion or units, larger kernels, more blocks with a shortcut, more
    branches, layers of dense blocks and hidden layers leave the model's outputs in inference as
    they are. New channels begin with fresh weights, and whatever reads them with zeros; a new
    block's last normalization begins with zeros.

    Not exact are:

    - fewer filters (those with the largest kernels are kept), blocks or branches, smaller kernels;
    - other strides, pool sizes, activations, block classes, orders, and padding that gives another
      map size (such as "valid" with a larger kernel);
    - more channels under layer or group normalization;
    - new blocks, layers or convolutions whose last activation does not leave the input as it is:
      all but ReLU and ReLU6 behind the same; new Inception modules;
    - a new projection shortcut with order="full_preactivation"; a new expansion in an inverted
      bottleneck, or one that loses or gains its shortcut; `shortcut="zero_pad"` where the padded
      channels are too few; numbers of groups of which the old is no multiple or divisor.

    Additional convolutions without a shortcut (as in VGG) are exact in inference alone: the
    training of their batch normalization begins with statistics of its own. The same holds for new
    projection shortcuts and order="norm_after_addition".

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
        if not is_graph(model) or not any(isinstance(one, Block) for one in model.layers):
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
    if not {one.name for one in child.layers if isinstance(one, Block)} & {
        one.name for one in parent.layers if isinstance(one, Block)
    }:
        raise ValueError(
            "`child` and `parent` must have blocks of the same names, such as stage1_block1. "
            f"Received: {child.name} and {parent.name}, which have none in common"
        )
    return _Inheritance(child, parent).done()


class _Flow(NamedTuple):
    """What a tensor of the child has in common with the parent's at the same place.

    Attributes:
        shape: of the child's tensor, without the batch, channels last.
        before: of the parent's.
        sources: for each channel of the child's the channel of the parent's that it equals; -1 for
            a new one.
        scale: the child's channels are this many times the parent's.
        ended: the function of the activation whose range the values have, or None.
        maker: the convolution or normalization that puts it out, or None.
    """

    shape: Any
    before: Any
    sources: np.ndarray
    scale: float = 1.0
    ended: Any = None
    maker: Any = None

    @property
    def is_same(self) -> bool:
        """Whether all channels are the parent's, in order."""
        return np.array_equal(self.sources, np.arange(self.before[-1]))


class _Inheritance:
    """The copying of one model's weights."""

    def __init__(self, child: Any, parent: Any) -> None:
        self._values: dict[int, tuple[Any, np.ndarray]] = {}  # by the child's variable
        self._copied: dict[int, int] = {}  # numbers of the parent in it
        self._exact = True  # of the block at hand
        self._child, self._parent = child, parent
        self._from_end = False
        blocks = [one for one in parent.layers if isinstance(one, Block)]
        convs = [op for one in blocks for _, op in ops.parts(one._plan) if isinstance(op, ops.Conv)]
        # Channels are laid out so that those of one group stay in one group, wherever they are read.
        self._parts = math.lcm(*(op.groups for op in convs if op.groups < op.filters))

    def done(self) -> dict[str, Any]:
        """Copies all; returns what was done."""
        child, parent = self._child, self._parent
        theirs = _numbered(parent)
        flows = {}  # by the child's tensor: with the parent's tensor to which it is compared
        for x, other in zip(child.inputs, parent.inputs, strict=True):
            shape = _shape(x, child)
            flows[id(x)] = _Flow(shape, shape, np.arange(shape[-1])), other
        blocks: dict[str, str] = {}
        exact = True
        for call, node in _numbered(child).items():
            layer, other = node.operation, theirs.get(call)
            given = [flows[id(x)] for x in node.input_tensors]
            self._exact = True
            inputs = self._aligned_inputs(given, other)
            count = len(self._copied)
            outputs = node.output_tensors
            if isinstance(layer, Block):
                flow = self._block(layer, other and other.operation, inputs)
                known = "exact" if self._exact else "approximate"
                blocks[layer.name] = known if len(self._copied) > count else "new"
            else:
                shapes = _shape(outputs[0], child), _shape((other or node).output_tensors[0], parent)
                flow = inputs[0]._replace(shape=shapes[0], before=shapes[1], ended=None, maker=None)
                if other:
                    self._layer(layer, other.operation)
            exact &= self._exact
            for number, x in enumerate(outputs):
                flows[id(x)] = flow, other.output_tensors[number] if other else given[0][1]
        for x, wanted in zip(child.outputs, parent.outputs, strict=False):
            flow, found = flows[id(x)]
            exact &= found is wanted and flow.is_same
        exact &= len(child.outputs) == len(parent.outputs)
        for variable, value in self._values.values():
            variable.assign(value)
        sizes = [int(np.prod(weight.shape)) for weight in child.weights]
        return {
            "exact": bool(exact),
            "blocks": blocks,
            "arrays": [len(self._copied), len(sizes)],
            "numbers": [sum(self._copied.values()), sum(sizes)],
        }

    def _aligned_inputs(self, given: Sequence[Any], other: Any) -> list[_Flow]:
        """The flows into a layer, compared with what the parent's layer reads."""
        if other is None:
            return [flow for flow, _ in given]
        flows = []
        for (flow, found), x in zip(given, other.input_tensors, strict=False):
            if found is not x:  # the parent has layers between, which the child has not
                self._exact = False
                before = _shape(x, self._parent)
                known = np.where(flow.sources < before[-1], flow.sources, -1)
                flow = flow._replace(before=before, sources=known)
            flows.append(flow)
        return flows

    def _layer(self, layer: Any, other: Any) -> None:
        """Copies a layer that is no block."""
        pairs = list(zip(layer.weights, other.weights, strict=False))
        for weight, source in pairs:
            if weight.shape == source.shape:
                self._set(weight, _array(source), int(np.prod(weight.shape)))

    def _block(self, layer: Any, other: Any, flows: list[_Flow]) -> _Flow:
        flow: Any = flows if len(flows) > 1 else flows[0]
        own, spec = parted(layer._plan, layer), layer.spec
        if type(other) is type(layer):
            classes = getattr(spec, "classes", None)
            self._from_end = classes is not None
            fresh = classes != getattr(other.spec, "classes", None)
            return self._chain(own, parted(other._plan, other), flow, None, fresh)
        if other is None and len(flows) == 1:
            return self._chain(own, None, flow)
        self._exact = False
        shape = planned(own).walk([f.shape for f in flows] if len(flows) > 1 else flow.shape, None)
        before = [f.before for f in flows] if len(flows) > 1 else flow.before
        before = other._plan.walk(before, None) if isinstance(other, Block) else flows[0].before
        return _Flow(shape, before, self._layout(before[-1], shape[-1]))

    # --- plans: what corresponds to what ---------------------------------------------------

    def _chain(
        self, own: Chain, parent: Chain | None, flow: Any, ending: Any = None, fresh: bool = False
    ) -> Any:
        """The flow behind a chain; without a parent it is to be the identity.

        Args:
            ending: the sources that the output is to have, or None.
            fresh: whether the last linear part keeps its weights.
        """
        pairs = _aligned(own, parent, self._from_end)
        makers = [i for i, (step, _) in enumerate(pairs) if step is not None and _linears(step)]
        for i, (step, other) in enumerate(pairs):
            last = i in makers[-1:]
            if step is None:
                flow = self._dropped(other, flow)
            elif isinstance(step, Merge):
                flow = self._merge(step, other, flow, ending if last else None)
            elif isinstance(step.op, _LINEAR):
                flow = self._linear(step, other, flow, ending if last else None, fresh and last)
            elif isinstance(step.op, ops.Norm):
                flow = self._norm(step, other, flow)
            else:
                flow = self._other(step, other, flow)
        return flow

    def _dropped(self, parent: Any, flow: Any) -> _Flow:
        """The flow behind a part that the parent alone has."""
        self._exact = False
        flow = flow[0] if isinstance(flow, list) else flow
        before = planned(parent).walk(flow.before, None)
        if before[-1] == flow.before[-1]:
            return flow._replace(before=before, ended=None)
        sources = self._layout(before[-1], len(flow.sources))
        return flow._replace(before=before, sources=sources, ended=None)

    def _merge(self, own: Merge, parent: Merge | None, flow: Any, ending: Any) -> _Flow:
        old = dict(parent.branches) if parent else {}
        names = [name for name, _ in own.branches]
        if isinstance(flow, list):
            flows = dict(zip(names, flow, strict=True))
        else:
            shapes = planned(own)[0].sources(flow.shape)
            befores = planned(parent)[0].sources(flow.before) if parent else []
            known = dict(zip(old, befores, strict=True))
            flows = {
                name: flow._replace(shape=shape, before=known.get(name, flow.before))
                for name, shape in zip(names, shapes, strict=True)
            }
        if own.mode == "concat":
            return self._concat(own, old, flows)
        by_work = sorted(own.branches, key=lambda branch: _linears(branch[1]))
        kept, *others = by_work
        joined = self._chain(kept[1], old.get(kept[0]), flows[kept[0]], ending)
        scale = 1.0
        for name, branch in others:
            if name in old:
                found = self._chain(branch, old[name], flows[name], joined.sources)
                self._exact &= np.array_equal(found.sources, joined.sources)
                self._exact &= found.scale == joined.scale == 1
            elif own.mode == "add":
                self._exact &= abs(self._silenced(branch, _ALIVE)) < 1e-5
            else:
                scale *= self._silenced(branch, 0.0)
        if scale == 1 or not scale:
            self._exact &= scale == 1
            return joined._replace(ended=None, maker=None)
        if joined.maker is not None and self._multiply(joined.maker, 1 / scale):
            return joined._replace(ended=None)
        return joined._replace(ended=None, scale=joined.scale * scale)

    def _concat(self, own: Merge, old: dict[str, Any], flows: dict[str, _Flow]) -> _Flow:
        offsets, count = {}, 0
        for name, branch in old.items():
            offsets[name] = count
            source = flows[name] if name in flows else next(iter(flows.values()))
            count += planned(branch).walk(source.before, None)[-1]
        kept = "" if old else min(own.branches, key=lambda branch: len(branch[1]))[0]
        if kept and planned(dict(own.branches)[kept]):
            self._exact = False  # no branch passes the input on
        found = []
        for name, branch in own.branches:
            if name in old or name == kept:
                flow = self._chain(branch, old.get(name), flows[name])
                moved = np.where(flow.sources < 0, -1, flow.sources + offsets.get(name, 0))
                found.append(flow._replace(sources=moved))
            else:
                shape = planned(branch).walk(flows[name].shape, None)
                found.append(flows[name]._replace(shape=shape, sources=np.full(shape[-1], -1)))
        first = found[0]
        sources = np.concatenate([flow.sources for flow in found])
        ended = first.ended if all(flow.ended == first.ended for flow in found) else None
        self._exact &= all(flow.scale == 1 for flow in found)
        before = next(f.before for (n, _), f in zip(own.branches, found, strict=True) if n in old or n == kept)
        before = (*before[:-1], count or before[-1])
        return _Flow((*first.shape[:-1], len(sources)), before, sources, 1.0, ended)

    # --- primitives ------------------------------------------------------------------------

    def _linear(self, own: Part, parent: Any, flow: _Flow, ending: Any, fresh: bool) -> _Flow:
        """A convolution or linear layer; without a parent it becomes the identity."""
        layer, op = _layer_of(own), own.op
        kernel, shape, before = _kernel(layer), op.walk(flow.shape, None), flow.before
        theirs, bias, old = np.ones((1, 1, 1, before[-1])), None, _IDENTITY
        if parent:
            before, old, source = parent.op.walk(before, None), parent.op, _layer_of(parent)
            theirs, bias = _kernel(source), _array(source.bias) if old.use_bias else None
        groups = getattr(op, "groups", 1), getattr(old, "groups", 1) if parent else before[-1]
        if groups[0] == shape[-1] == flow.shape[-1] > 1:
            out = flow.sources  # one channel a group
        elif ending is not None:
            out = ending
        else:
            out = self._layout(before[-1], shape[-1], np.sqrt(np.square(theirs).sum((0, 1, 2))))
        result = _Flow(shape, before, out, maker=layer)
        if fresh or not (flow.sources >= 0).any():
            self._exact = False
            return result
        known = out >= 0
        inputs, valid = _picked(kernel, theirs, groups, flow.sources, out)
        rows, columns = (_common(op, old, flow, axis) for axis in (0, 1))
        self._exact &= (
            shape[:-1] == before[:-1]
            and getattr(op, "strides", (1, 1)) == getattr(old, "strides", (1, 1))
            and (len(rows[1]), len(columns[1]), theirs.shape[2])
            == (*theirs.shape[:2], *set(valid.sum(0)[known]))
            and (bias is None or layer.use_bias)
        )
        picked = np.where(valid, theirs[:, :, inputs, np.maximum(out, 0)], 0) / flow.scale
        new = np.zeros(kernel.shape)
        new[np.ix_(rows[0], columns[0])] = picked[np.ix_(rows[1], columns[1])]
        taps = len(rows[0]) * len(columns[0]) if parent else 0
        self._set_kernel(layer, np.where(known, new, kernel), taps * int(valid.sum()))
        if layer.use_bias:
            given = 0.0 if bias is None else bias[out]
            numbers = 0 if bias is None else int(known.sum())
            self._set(layer.bias, np.where(known, given, _array(layer.bias)), numbers)
        return result

    def _norm(self, own: Part, parent: Any, flow: _Flow) -> _Flow:
        layer, op = _layer_of(own), own.op
        result = flow._replace(ended=None, maker=layer)
        self._exact &= flow.scale == 1
        if parent is None:  # mean 0 and variance 1 are that of a new layer
            if op.kind == "batch":
                self._set(layer.moving_variance, np.full(flow.shape[-1], 1 - op.epsilon), 0)
            else:
                self._exact = False
            return result
        old = {weight.name: weight for weight in _layer_of(parent).weights}
        known = flow.sources >= 0
        for weight in layer.weights:
            if weight.name in old:
                value = np.where(known, _array(old.pop(weight.name))[flow.sources], _array(weight))
                self._set(weight, value, int(known.sum()))
        self._exact &= not old and (op.kind, op.epsilon) == (parent.op.kind, parent.op.epsilon)
        self._exact &= op.kind == "batch" or (flow.is_same and op.groups == parent.op.groups)
        return result

    def _other(self, own: Part, parent: Any, flow: Any) -> _Flow:
        """A part without weights."""
        op = own.op
        several = isinstance(flow, list)
        shape = op.walk([f.shape for f in flow] if several else flow.shape, None)
        befores = [f.before for f in flow] if several else flow.before
        flow = flow[0] if several else flow
        before = parent.op.walk(befores, None) if parent else flow.before
        function = getattr(op, "function", None)
        if parent:
            self._exact &= op == parent.op
        elif not (isinstance(op, ops.Pool) and op.pool_size == op.strides == (1, 1)):
            self._exact &= function in _IDEMPOTENT and function == flow.ended
        if isinstance(op, ops.Activation):
            self._exact &= flow.scale == 1 or function == "relu"
            self._exact &= flow.is_same or "softmax" not in str(function)
            return flow._replace(ended=function, maker=None)
        sources, scale = flow.sources, flow.scale
        count = flow.before[-1]
        match op:
            case ops.Flatten() if len(flow.shape) == 3:
                pixels = np.zeros(math.prod(flow.shape[:2]), int)
                if parent and len(flow.before) == 3:
                    (high, wide), (rows, columns) = flow.before[:2], flow.shape[:2]
                    places = np.arange(rows) * high // rows, np.arange(columns) * wide // columns
                    pixels = (places[0][:, None] * wide + places[1]).ravel()
                    self._exact &= flow.before[:2] == flow.shape[:2]
                else:
                    scale *= len(pixels)  # the parent has the average
                sources = _tiled(sources, pixels, count)
            case ops.SpaceToDepth():
                squares = np.arange(op.block**2)
                sources = _tiled(sources, squares, count)
                sources = np.where(sources < before[-1], sources, -1)
            case ops.PadChannels():
                padded = np.arange(count, before[-1])[: shape[-1] - len(sources)]
                sources = np.concatenate([sources, padded])
                sources = np.pad(sources, (0, shape[-1] - len(sources)), constant_values=-1)
            case ops.Reshape() | ops.SoftArgmax() | ops.Corners() | ops.Flatten():
                self._exact &= flow.is_same and shape == before
                sources = self._layout(before[-1], shape[-1])
        self._exact &= op.label != "scaling" or parent is not None
        ended = None if isinstance(op, ops.Scale) else flow.ended
        return _Flow(shape, before, sources, scale, ended)

    def _silenced(self, chain: Any, offset: float) -> float:
        """Makes a branch put out the returned number everywhere; `offset` if before activations."""
        behind: list[Any] = []
        for step in reversed(chain):
            if isinstance(step, Merge):
                if step.mode == "multiply":
                    continue
                return [self._silenced(branch, offset) for _, branch in step.branches][0]
            op, layer = step.op, _layer_of(step)
            if isinstance(op, ops.Activation):
                behind.insert(0, layer)
            if not isinstance(op, _LINEAR) and not (isinstance(op, ops.Norm) and op.scale):
                continue
            value = offset if behind else 0.0
            if isinstance(op, ops.Norm):
                self._set(layer.gamma, np.zeros(layer.gamma.shape), 0)
                shift = layer.beta if op.center else None
            else:
                self._set_kernel(layer, np.zeros(layer.kernel.shape), 0)
                shift = layer.bias if op.use_bias else None
            value = 0.0 if shift is None else value
            if shift is not None:
                self._set(shift, np.full(shift.shape, value), 0)
            for layer in behind:
                x = np.full((1, 1, 1, 1), value, "float32")
                value = float(_array(layer(x)).ravel()[0])
            return value
        self._exact = False
        return 0.0

    # --- weights ---------------------------------------------------------------------------

    def _layout(self, before: int, filters: int, sizes: Any = None) -> np.ndarray:
        """The sources of `filters` channels in place of `before`: the parent's first, then new ones.

        This holds within each part of the channels (see `_parts`). Of too many those stay whose
        `sizes` are largest.
        """
        parts = math.gcd(self._parts, before, filters)
        sources = np.arange(before).reshape(parts, -1)
        width = filters // parts
        if filters < before:
            order = np.zeros(before) if sizes is None else -sizes
            kept = np.argsort(order.reshape(parts, -1), kind="stable")[:, :width]
            return np.take_along_axis(sources, np.sort(kept), 1).ravel()
        return np.pad(sources, ((0, 0), (0, width - sources.shape[1])), constant_values=-1).ravel()

    def _set(self, variable: Any, value: np.ndarray, numbers: int) -> None:
        self._values[id(variable)] = variable, value
        if numbers:
            self._copied[id(variable)] = numbers

    def _set_kernel(self, layer: Any, kernel: np.ndarray, numbers: int) -> None:
        """Sets an effective kernel; of a normalized one of zeros the gain is 0."""
        if hasattr(layer, "gain"):
            sizes = np.sqrt(np.square(kernel.reshape(-1, kernel.shape[-1])).sum(0))
            self._set(layer.gain, sizes, numbers and len(sizes))
            kernel = np.where(sizes > 0, kernel, _kernel(layer).reshape(kernel.shape))
        self._set(layer.kernel, kernel.reshape(layer.kernel.shape), numbers)

    def _multiply(self, layer: Any, factor: float) -> bool:
        """Multiplies what a convolution or normalization puts out, if its weights can."""
        if hasattr(layer, "gamma") and layer.gamma is None:
            return False
        names = ("gamma", "beta") if hasattr(layer, "gamma") else ("gain",) if hasattr(layer, "gain") else ("kernel",)
        for name in (*names, "bias"):
            variable = getattr(layer, name, None)
            if variable is not None:
                _, value = self._values.get(id(variable), (variable, _array(variable)))
                self._values[id(variable)] = variable, value * factor
        return True


def _aligned(own: Chain, parent: Chain | None, from_end: bool) -> list[tuple[Any, Any]]:
    """The steps of two chains side by side, None where one chain has no counterpart.

    As many as possible are matched, the first ones (`from_end`: the last ones) first.
    """
    one, other = ([s for s in chain or () if _label(s)] for chain in (own, parent))
    if parent is None:
        return [(step, None) for step in one]
    if from_end:
        one.reverse(), other.reverse()
    most = np.zeros((len(one) + 1, len(other) + 1), int)
    for i in reversed(range(len(one))):
        for j in reversed(range(len(other))):
            same = _label(one[i]) == _label(other[j])
            most[i, j] = most[i + 1, j + 1] + 1 if same else max(most[i + 1, j], most[i, j + 1])
    pairs, i, j = [], 0, 0
    while i < len(one) or j < len(other):
        if i < len(one) and j < len(other) and _label(one[i]) == _label(other[j]):
            pairs.append((one[i], other[j]))
            i, j = i + 1, j + 1
        elif j == len(other) or (i < len(one) and most[i + 1, j] >= most[i, j + 1]):
            pairs.append((one[i], None))
            i += 1
        else:
            pairs.append((None, other[j]))
            j += 1
    return pairs[::-1] if from_end else pairs


def _label(step: Any) -> str:
    """What must agree for two steps to correspond; "" for those without effect in inference."""
    if isinstance(step, Merge):
        return f"{step.mode} {step.branches[0][0]}"
    op = step.op
    if isinstance(op, (ops.Dropout, ops.DropPath)):
        return ""
    depthwise = isinstance(op, ops.Conv) and op.groups == op.filters > 1
    return f"depthwise {op.label}" if depthwise else op.label


def _linears(step: Any) -> int:
    """How many convolutions and linear layers a part or branch has."""
    return sum(isinstance(part.op, _LINEAR) for part in leaves(Chain(step)))


def _layer_of(part: Any) -> Any:
    owner, path = part.sources[0]
    return getattr(owner, path)


def _picked(
    kernel: np.ndarray, old: np.ndarray, groups: tuple[int, int], sources: Any, out: Any
) -> tuple[np.ndarray, np.ndarray]:
    """For each weight of a kernel's pixel the parent's input channel, counted within its group,
    and whether the parent has such a weight; both of shape (inputs of a group, outputs)."""
    inputs, filters = kernel.shape[2:]
    group = np.arange(filters) // (filters // groups[0])
    read = sources[group * inputs + np.arange(inputs)[:, None]]
    within = read - out // (old.shape[3] // groups[1]) * old.shape[2]
    valid = (read >= 0) & (out >= 0) & (within >= 0) & (within < old.shape[2])
    return np.where(valid, within, 0), valid


def _common(op: Any, old: Any, flow: _Flow, axis: int) -> tuple[list[int], list[int]]:
    """The positions in two kernels at which both read the same pixel of an axis."""
    if not isinstance(op, ops.Conv):
        return [0], [0]
    own, their = _offsets(op, flow.shape[axis], axis), _offsets(old, flow.before[axis], axis)
    both = [offset for offset in own if offset in their]
    return [own.index(offset) for offset in both], [their.index(offset) for offset in both]


def _offsets(op: Any, size: Any, axis: int) -> list[int]:
    """The pixels that a kernel reads, relative to the output's place."""
    kernel, dilation = op.kernel_size[axis], op.dilation_rate[axis]
    padding = of_axis(op.padding, axis)
    if padding == "same":
        before = same_padding(size or kernel * dilation, kernel, op.strides[axis], dilation)[0]
    else:
        before = side(kernel, padding, dilation)
    return [dilation * i - before for i in range(kernel)]


def _tiled(sources: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """The sources of channels that several places of a map have, place by place."""
    return np.where(sources < 0, -1, places[:, None] * count + sources).ravel()


def _kernel(layer: Any) -> np.ndarray:
    """An effective kernel as (height, width, inputs of a group, outputs)."""
    kernel = _array(layer.effective_kernel())
    return kernel if kernel.ndim == 4 else kernel[None, None]


def _array(value: Any) -> np.ndarray:
    found: Any = keras.ops.convert_to_numpy(keras.ops.cast(value, "float32"))
    return found


def _numbered(model: Any) -> dict[tuple[str, int], Any]:
    """The calls of a model's layers by the layer's name and the call's number."""
    calls: Counter[str] = Counter()
    found = {}
    for node in calls_of(model):
        name = node.operation.name
        found[name, calls[name]] = node
        calls[name] += 1
    return found


def _shape(x: Any, model: Any) -> Any:
    """A tensor's shape without the batch, channels last."""
    shape = tuple(x.shape[1:])
    blocks: Iterator[Any] = (one for one in model.layers if isinstance(one, Block))
    first = next(blocks).data_format == "channels_first"
    return (*shape[1:], shape[0]) if first and len(shape) == 3 else shape
