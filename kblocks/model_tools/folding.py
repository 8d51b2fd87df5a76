"""Folds batch normalisations into the convolutions and dense layers beside them, as data.

`folded` is a pure function from plans to the plans that inference needs, in which each part
lists the original parts that it replaces; `merged` computes its weights. Neither knows Keras.

At inference a batch normalisation multiplies each channel by a factor and adds an offset. A linear
part (convolution or dense layer) can do this exactly: always for a normalisation behind it, and
for one before it only without zero padding, since the zeros are added behind the normalisation
(Jacob et al. 2017, arXiv:1712.05877, Sec. 3.2).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from kblocks.plans import ops
from kblocks.plans.ops import Chain, Merge, Op

_VANISHING = (ops.Dropout, ops.DropPath)


class Part(NamedTuple):
    """A primitive and the original parts that it replaces, in the order of their work."""

    op: Op
    sources: tuple[Any, ...]


class Linear(NamedTuple):
    """A kernel of shape (..., inputs of a group, outputs) and a bias of shape (outputs,)."""

    kernel: np.ndarray
    bias: np.ndarray


class Affine(NamedTuple):
    """A factor and an offset for each channel, or one of each for all channels."""

    factor: np.ndarray
    offset: np.ndarray


def parted(plan: Op, owner: Any) -> Chain:
    """The plan as a tree with a `Part` for each primitive, whose source is `(owner, path)`."""
    paths = (path for path, _ in ops.parts(plan))
    return _mapped(plan, lambda op: Part(op, ((owner, next(paths)),)))


def planned(steps: Chain) -> Chain:
    """The plan of a tree of parts."""
    return _mapped(steps, lambda part: part.op)


def _mapped(tree: Any, change: Callable[[Any], Any]) -> Chain:
    """A tree of chains and merges with all leaves changed, in order."""
    steps = []
    for step in tree if isinstance(tree, Chain) else (tree,):
        if isinstance(step, Merge):
            branches = {name: _mapped(branch, change) for name, branch in step.branches}
            steps.append(Merge(step.mode, **branches))
        else:
            steps.append(change(step))
    return Chain(*steps)


def leaves(steps: Chain) -> Iterator[Part]:
    """The parts of a tree, in the order of `ops.parts` of its plan."""
    for step in steps:
        if isinstance(step, Merge):
            for _, branch in step.branches:
                yield from leaves(branch)
        else:
            yield step


def folded(*chains: Chain) -> list[Chain]:
    """Trees of parts that run one after another, each reduced to what inference needs.

    Merges batch normalisations and constant factors into the linear part before or (if its padding
    allows) behind them, also in another tree; makes weight-normalised kernels plain; drops dropout.
    """
    done: list[tuple[int, Any]] = []
    for index, chain in enumerate(chains):
        for step in chain:
            if isinstance(step, Merge):
                branches = {name: folded(branch)[0] for name, branch in step.branches}
                done.append((index, Merge(step.mode, **branches)))
                continue
            if isinstance(step.op, _VANISHING):
                continue
            owner, part = index, step
            if _is_linear(part.op):
                while done and _is_affine(done[-1][1]) and takes_before(part.op, done[-1][1].op):
                    part = _joined(part, done.pop()[1], part)
                part = part._replace(op=_plain(part.op))
            elif _is_affine(part) and done and _is_linear(getattr(done[-1][1], "op", None)):
                owner, before = done.pop()
                part = _joined(before, before, part)
            done.append((owner, part))
    return [Chain(*(step for owner, step in done if owner == i)) for i in range(len(chains))]


def takes_before(op: Op, affine: Op) -> bool:
    """Whether a linear part can take over the factor and offset that stand before it."""
    if isinstance(op, ops.Dense) or isinstance(affine, ops.Scale) or op.padding_mode != "zeros":
        return True  # reflected or repeated padding consists of normalised pixels
    if isinstance(op.padding, str):
        return op.padding == "valid" or all(size == 1 for size in op.kernel_size)
    return op.padding in (0, (0, 0))


def _is_linear(op: Any) -> bool:
    return isinstance(op, (ops.Conv, ops.Dense))


def _is_affine(step: Any) -> bool:
    op = getattr(step, "op", None)
    return isinstance(op, ops.Scale) or (isinstance(op, ops.Norm) and op.kind == "batch")


def _joined(linear: Part, first: Part, second: Part) -> Part:
    offset = any(isinstance(part.op, ops.Norm) for part in (first, second))
    op = linear.op._replace(use_bias=linear.op.use_bias or offset)
    return Part(op, first.sources + second.sources)


def _plain(op: Op) -> Op:
    """The op without what only training needs; zero initializers, as its weights are set later."""
    zeros = {"kernel_initializer": "zeros", "bias_initializer": "zeros"}
    return op._replace(weight_norm=False, kernel_regularizer=None, bias_regularizer=None, **zeros)


def merged(pieces: Sequence[Linear | Affine]) -> Linear:
    """The linear part that replaces a sequence of pieces, one of which is linear."""
    at = next(i for i, piece in enumerate(pieces) if isinstance(piece, Linear))
    kernel, bias = pieces[at]
    for factor, offset in reversed(pieces[:at]):
        shifted = kernel * _of_inputs(offset, kernel)
        bias = bias + shifted.sum(tuple(range(kernel.ndim - 1)))
        kernel = kernel * _of_inputs(factor, kernel)
    for factor, offset in pieces[at + 1 :]:
        kernel, bias = kernel * factor, bias * factor + offset
    return Linear(kernel, bias)


def _of_inputs(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Values by input channel as a matrix of shape (inputs of a group, outputs)."""
    if not values.ndim:
        return values
    inputs, outputs = kernel.shape[-2:]
    groups = values.reshape(-1, inputs)
    return np.repeat(groups, outputs // len(groups), axis=0).T
