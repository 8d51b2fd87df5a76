"""`FusedBlock`: a block whose only argument is its plan, which it saves as data."""

import dataclasses
from typing import Annotated, Any

from kblocks.blocks.block import Block
from kblocks.blocks.fields import ActivationLike, Check, check_of
from kblocks.plans import ops
from kblocks.plans.ops import Chain, Merge, Op

_ACTIVATION = check_of(ActivationLike)


def data_of(op: Op) -> Any:
    """A plan as data for JSON; leaves out fields at their default."""
    if isinstance(op, Chain):
        return [data_of(step) for step in op]
    if isinstance(op, Merge):
        return {"merge": op.mode, "branches": [[name, data_of(b)] for name, b in op.branches]}
    if isinstance(op, ops.Activation):
        return {"op": "Activation", "function": _ACTIVATION.serialise(op.function)}
    if isinstance(op, ops.Norm):
        values, defaults = dataclasses.asdict(op), dataclasses.asdict(ops.Norm())
    else:
        values, defaults = op._asdict(), op._field_defaults
    changed = {k: v for k, v in values.items() if k not in defaults or v != defaults[k]}
    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in changed.items()}
    return {"op": type(op).__name__, **lists}


def plan_of(data: Any) -> Op:
    """The plan of what `data_of` returned; returns a plan unchanged."""
    if isinstance(data, (Chain, Merge)):
        return data
    if isinstance(data, list):
        return Chain(*map(plan_of, data))
    if "merge" in data:
        return Merge(data["merge"], **{name: plan_of(branch) for name, branch in data["branches"]})
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k != "op"}
    if data["op"] == "Activation":
        values = {"function": _ACTIVATION.normalise(values["function"])}
    return ops.PRIMITIVES[data["op"]](**values)


class FusedBlock(Block):
    """What `kb.fuse` makes of a block: the steps of its plan that inference needs.

    Args:
        steps: a plan, or its data as in `get_config`.
        replaces_head: whether it replaces the block that ends a network.

    Input shape and output shape: those of the block that it replaces.
    """

    steps: Annotated[Any, Check("a plan", plan_of, data_of)]
    replaces_head: bool = False

    @property
    def is_head(self) -> bool:
        return self.replaces_head

    def plan(self, channels: Any) -> Op:
        return self.steps


def replaced_by(block: Block, plan: Op) -> FusedBlock:
    """A new block with another plan in place of `block`."""
    own = {name: getattr(block, name) for name in ("name", "trainable", "data_format")}
    return FusedBlock(plan, block.is_head, dtype=block.dtype_policy, **own)
