"""The rows of an architecture as a figure shows them: chips, which are boxes with labels."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kblocks.blocks.spec import channels_of
from kblocks.blocks.stages import stage_of
from kblocks.drawing.blocks import followed, straightened
from kblocks.drawing.labels import Label, label_of, strides_text
from kblocks.networks.architecture import INPUT, Architecture, Row
from kblocks.networks.rows import walk_rows
from kblocks.plans import ops
from kblocks.plans.cost import Cost, total
from kblocks.plans.geometry import InputTooSmallError
from kblocks.plans.ops import Chain, Merge, Op

Chip = tuple[Label, int]  # the label and the number of times that it repeats


@dataclass(frozen=True)
class DrawnRow:
    """One layer of a network, or several equal ones in a row."""

    name: str  # of the last layer; `inputs` of other rows refer to it
    chips: tuple[Chip, ...]
    inputs: tuple[str, ...]
    kind: str  # the name of the block's or layer's class
    cost: Cost | None = None  # the sum of several layers; None if unknown
    worked_out: bool = True  # whether the cost is complete, not just the parameters
    counted: bool = True  # whether the totals include it; not so for auxiliary heads
    plan: Op | None = None  # of the block, and its input shape, for the figure of its inside
    shape: Any = None
    key: Any = None  # equal for rows that can be drawn as one

    @property
    def stage(self) -> str:
        """Its stage; rows of a stage that follow each other share a band."""
        return stage_of(self.name)


def rows_of(net: Architecture, input_shape: Any = None) -> list[DrawnRow]:
    """The rows of an architecture, auxiliary heads last; they have no costs without a shape.

    Auxiliary heads for which the shape is too small have no costs either.
    """
    costs = {} if input_shape is None else net.costs(input_shape)
    for output in () if input_shape is None else net.auxiliary:
        with contextlib.suppress(InputTooSmallError):
            costs |= net._costs(input_shape, {output: net.outputs[output]})
    shapes: dict[str, Any] = {INPUT: input_shape or (None, None, 3)}
    shown = net.needed(row for name, row in net.outputs.items() if name not in net.auxiliary)
    rows = []
    for row, _, spec, source in walk_rows(net.rows, shapes):
        fits = input_shape is None or row.name in costs
        drawn, shapes[row.name] = _drawn(row, spec, source if fits else None)
        rows.append(replace(drawn, cost=costs.get(row.name), counted=row.name in shown))
    return sorted(rows, key=lambda row: not row.counted)


def _drawn(row: Row, spec: Any, shape: Any) -> tuple[DrawnRow, Any]:
    """The row to draw, and its output shape, None if unknown."""
    kind = type(spec)._block.__name__
    shared = isinstance(row.spec, str)
    chip = Label(f"{kind}, weights of {row.spec}" if shared else kind, "block")
    drawn = DrawnRow(row.name, ((chip, 1),), row.inputs, kind)
    if shape is None or (isinstance(shape, list) and None in shape):
        return drawn, None
    plan = spec.plan(channels_of(shape))
    output = followed(plan, shape)[1]
    if shared:
        return drawn, output
    chips = chips_of(chip, plan, shape, output)
    return replace(drawn, chips=chips, plan=plan, shape=shape, key=alike(spec)), output


def alike(spec: Any) -> Any:
    """A key, equal for Specs that differ at most in the rate of stochastic depth."""
    return spec.replace(stochastic_depth=0.0) if getattr(spec, "stochastic_depth", 0) else spec


def chips_of(chip: Label, plan: Op, shape: Any, output: Any) -> tuple[Chip, ...]:
    """The large boxes of a chain; for other plans one chip with filters and strides."""
    chain = straightened(plan)
    if any(isinstance(op, Merge) for op in chain):
        filters = "" if output is None else f", {output[-1]}"
        return ((chip._replace(text=f"{chip.text}{filters}{_strides(plan)}"), 1),)
    if not chain:
        return ((chip, 1),)
    labels = list(map(label_of, chain, followed(chain, shape)[0]))
    large = [label for label in labels if not label.small]
    if not large:
        large = [Label(", ".join(label.text for label in labels), labels[0].kind)]
    return tuple((label, len(list(run))) for label, run in itertools.groupby(large))


def _strides(plan: Op) -> str:
    try:
        found = plan.geometry()
    except ValueError:
        return ""
    return "" if found is None else strides_text(found[:2])


def folded(rows: Sequence[DrawnRow], outputs: Sequence[str] = ()) -> list[DrawnRow]:
    """Rows with successive equal ones of a stage folded into one."""
    readers = Counter(name for row in rows for name in row.inputs)
    folds: list[DrawnRow] = []
    for row in rows:
        last = folds[-1] if folds else None
        if (
            last is not None
            and row.key is not None
            and (row.key, row.stage, row.inputs) == (last.key, last.stage, (last.name,))
            and readers[last.name] == 1
            and last.name not in outputs
            and len(row.chips) == 1
        ):
            both = [cost for cost in (last.cost, row.cost) if cost is not None]
            cost = total(both, both[-1].output_shape) if len(both) == 2 else None
            (label, times), (_, more) = last.chips[0], row.chips[0]
            folds[-1] = replace(last, name=row.name, cost=cost, chips=((label, times + more),))
        else:
            folds.append(row)
    return folds


def kinds_of(rows: Sequence[DrawnRow]) -> list[DrawnRow]:
    """The first row of each kind of block that is more than a chain.

    Blocks are of one kind if they differ only in widths, strides, dropout and numbers of repeats.
    """
    found: dict[Any, DrawnRow] = {}
    for row in rows:
        if row.plan is not None and any(isinstance(op, Merge) for op in straightened(row.plan)):
            found.setdefault((row.kind, _skeleton(row.plan)), row)
    return list(found.values())


def _skeleton(op: Op) -> Any:
    if isinstance(op, Merge):
        return op.mode, tuple(_skeleton(branch) for _, branch in op.branches)
    if isinstance(op, Chain):
        steps = (_skeleton(s) for s in op if not isinstance(s, (ops.DropPath, ops.Dropout)))
        return tuple(step for step, _ in itertools.groupby(steps))
    size = getattr(op, "kernel_size", None) or getattr(op, "pool_size", None)
    return op.label, getattr(op, "kind", None), size
