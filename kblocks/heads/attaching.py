"""How a head becomes rows of an architecture: one, or several with outputs of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kblocks.blocks.block import Block
from kblocks.heads.task import LOGITS, Task, Tasks, task_of


@dataclass(frozen=True)
class Place:
    """Where a head stands.

    Attributes:
        body: the last row of the network before the head.
        levels: the last row at each stride.
        name: of the head among several, or None.
    """

    body: str
    levels: Mapping[int, str]
    name: str | None = None

    def row(self, part: str = "") -> str:
        """The name of a row of this head."""
        return "_".join(filter(None, ("head", self.name, part)))

    def output(self, part: str = "", alone: str = LOGITS) -> str:
        """The name of an output of this head; `alone` where it has no other name."""
        return "_".join(filter(None, (self.name, part))) or alone

    def at(self, strides: Sequence[int], owner: str) -> list[str]:
        """The rows at these strides.

        Raises:
            ValueError: with the strides that there are.
        """
        missing = [stride for stride in strides if stride not in self.levels]
        if missing:
            raise ValueError(
                f"{owner} needs a map at stride {missing[0]}; the network has maps at strides "
                f"{', '.join(map(str, sorted(self.levels)))}"
            )
        return [self.levels[stride] for stride in strides]


@dataclass(frozen=True)
class Attached:
    """A head's rows `(name, spec, inputs)`, the row of each output, the target of each output."""

    rows: list[tuple[str, Any, tuple[str, ...]]]
    outputs: dict[str, str]
    targets: dict[str, str] = field(default_factory=dict)


class Head:
    """A head of several rows. A subclass has `attach`, from its place to its rows."""

    def attach(self, place: Place) -> Attached:
        """The rows, outputs and targets of this head at a place."""
        raise NotImplementedError

    def tasks(self) -> Tasks:
        """What it is trained on, by output."""
        attached = self.attach(Place("body", _Everywhere()))
        return tasks_of_rows({name: spec for name, spec, _ in attached.rows}, attached)

    def losses(self) -> dict[str, Any]:
        """A new loss for each output."""
        return self.tasks().losses()

    def metrics(self) -> dict[str, list[Any]]:
        """New metrics for each output."""
        return self.tasks().metrics()

    def training(self) -> dict[str, Any]:
        """The arguments `loss`, `metrics` and `loss_weights` of `model.compile`."""
        return self.tasks().training()


class _Everywhere(dict[int, str]):
    """A network with a map at every stride: what a head is asked about before it has one."""

    def __init__(self) -> None:
        super().__init__({2**power: f"stride{2**power}" for power in range(6)})


def tasks_of_rows(specs: Mapping[str, Any], attached: Attached) -> Tasks:
    """The tasks of the outputs, of which all must be heads; else none."""
    found: dict[str, Task] = {}
    for output, row in attached.outputs.items():
        task = task_of(specs[row])
        if task is None:
            return Tasks({})
        found[output] = task
    return Tasks(found, attached.targets)


def attached(head: Any, place: Place) -> Attached:
    """The rows of whatever `Architecture` takes as a head: a block, a `Head`, or a dict of them.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(head, Mapping):
        parts = [attached(inner, _named(place, name)) for name, inner in head.items()]
        return Attached(
            [row for part in parts for row in part.rows],
            {output: row for part in parts for output, row in part.outputs.items()},
            {output: target for part in parts for output, target in part.targets.items()},
        )
    if isinstance(head, Head):
        return head.attach(place)
    spec = getattr(head, "spec", head)
    if not isinstance(spec, Block.Spec) or isinstance(head, type):
        raise ValueError(
            f"{place.row()} must be a block's Spec, a block, a head of kblocks or a dict of such "
            f"by output. Received: {head!r}"
        )
    task = task_of(spec)
    output = place.output(alone=task.output if task else LOGITS)
    return Attached([(place.row(), spec, (place.body,))], {output: place.row()})


def _named(place: Place, name: Any) -> Place:
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"The outputs of `head` must be words. Received: {name!r}")
    return Place(place.body, place.levels, "_".join(filter(None, (place.name, name))))


def is_head(value: Any) -> bool:
    """Whether it is a head, or a dict of heads by output, not a dict of arguments."""
    if isinstance(value, Mapping):
        return bool(value) and all(map(is_head, value.values()))
    spec = getattr(value, "spec", value)
    return isinstance(value, Head) or isinstance(spec, Block.Spec)


def only(block: Any, name: str, given: Any, defaults: Mapping[str, Any]) -> Any:
    """A part's Spec: as given, or made of the arguments that are given beside the defaults."""
    if given is None or isinstance(given, Mapping):
        return block.Spec(**{**defaults, **(given or {})})
    spec = getattr(given, "spec", given)
    if not isinstance(spec, block.Spec):
        raise ValueError(
            f"`{name}` must be a dict of {block.__name__}'s arguments, its Spec or None. "
            f"Received: {name}={given!r}"
        )
    return spec
