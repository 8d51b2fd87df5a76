"""Turns a head into rows of an architecture, with their outputs and targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kblocks.blocks.block import Block
from kblocks.heads.classification import Classifier
from kblocks.heads.task import LOGITS, Tasks, task_of


@dataclass(frozen=True)
class Place:
    """The rows of a network that a head can read, and the head's name."""

    body: str  # the last row before the head
    levels: Callable[[], Mapping[int, str]]  # returns the last row at each stride
    name: str | None = None  # only where a network has several heads

    def row(self, part: str = "") -> str:
        """The name of a row of this head: `head`, or `head_<name>_<part>`."""
        return "_".join(filter(None, ("head", self.name, part)))

    def output(self, part: str = "", alone: str = LOGITS) -> str:
        """The name of an output of this head; `alone` if neither head nor part has a name."""
        return "_".join(filter(None, (self.name, part))) or alone

    def at(self, strides: Sequence[int], owner: str) -> list[str]:
        """The names of the rows at these strides; ValueError if the network lacks one."""
        levels = self.levels()
        missing = [stride for stride in strides if stride not in levels]
        if missing:
            raise ValueError(
                f"{owner} needs a map at stride {missing[0]}; the network has maps at strides "
                f"{', '.join(map(str, sorted(levels)))}"
            )
        return [levels[stride] for stride in strides]


@dataclass(frozen=True)
class Attached:
    """The rows `(name, spec, inputs)` of a head, and the row and the target of each output."""

    rows: list[tuple[str, Any, tuple[str, ...]]]
    outputs: dict[str, str]
    targets: dict[str, str] = field(default_factory=dict)


class Head:
    """Base class of heads with several rows; a subclass defines `attach`."""

    def attach(self, place: Place) -> Attached:
        """The rows, outputs and targets of this head on the network that `place` describes."""
        raise NotImplementedError

    def tasks(self) -> Tasks:
        """The task (loss, metrics, targets) of each output."""
        everywhere = {2**power: f"stride{2**power}" for power in range(6)}
        attached = self.attach(Place("body", lambda: everywhere))
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


def tasks_of_rows(specs: Mapping[str, Any], attached: Attached) -> Tasks:
    """The tasks of the outputs; no tasks if any output's block has none."""
    found = {output: task_of(specs[row]) for output, row in attached.outputs.items()}
    known = {output: task for output, task in found.items() if task}
    return Tasks(known, attached.targets) if len(known) == len(found) else Tasks({})


def attached(head: Any, place: Place) -> Attached:
    """The rows of a head in any form `Architecture` takes; ValueError for any other."""
    if isinstance(head, Mapping):
        parts = [attached(inner, _with_name(place, name)) for name, inner in head.items()]
        return Attached(
            [row for part in parts for row in part.rows],
            {output: row for part in parts for output, row in part.outputs.items()},
            {output: target for part in parts for output, target in part.targets.items()},
        )
    if isinstance(head, Head):
        return head.attach(place)
    if isinstance(head, int) and not isinstance(head, bool):
        head = Classifier.Spec(head)
    spec = getattr(head, "spec", head)
    if not isinstance(spec, Block.Spec) or isinstance(head, type):
        raise ValueError(
            f"{place.row()} must be a number of classes, a block or its Spec, such as "
            f"kb.Classifier(10), a head of kblocks or a dict of such by output. Received: {head!r}"
        )
    task = task_of(spec)
    output = place.output(alone=task.output if task else LOGITS)
    return Attached([(place.row(), spec, (place.body,))], {output: place.row()})


def _with_name(place: Place, name: Any) -> Place:
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"The outputs of `head` must be words. Received: {name!r}")
    return Place(place.body, place.levels, "_".join(filter(None, (place.name, name))))


def is_head(value: Any) -> bool:
    """Whether `value` is a head or a dict of heads by output (a dict of arguments is not)."""
    if isinstance(value, Mapping):
        return bool(value) and all(map(is_head, value.values()))
    spec = getattr(value, "spec", value)
    return isinstance(value, Head) or isinstance(spec, Block.Spec)


def only(block: Any, name: str, given: Any, defaults: Mapping[str, Any]) -> Any:
    """The Spec of a head's part: `given`, or built from the defaults and `given` arguments."""
    if given is None or isinstance(given, Mapping):
        return block.Spec(**{**defaults, **(given or {})})
    spec = getattr(given, "spec", given)
    if not isinstance(spec, block.Spec):
        raise ValueError(
            f"`{name}` must be a dict of {block.__name__}'s arguments, its Spec or None. "
            f"Received: {name}={given!r}"
        )
    return spec
