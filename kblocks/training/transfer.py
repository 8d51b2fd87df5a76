"""Networks of a space that start from published weights: which these are, and `FineTuning`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import keras
import numpy as np

from kblocks.blocks.block import Block
from kblocks.blocks.stages import stage_of
from kblocks.common.showing import call_of
from kblocks.networks import starting
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import architectures
from kblocks.networks.rows import is_of_head
from kblocks.search_space.choices import Call, Choice
from kblocks.search_space.space import Space
from kblocks.search_space.tree import Tree, check_options
from kblocks.training.finetuning import freeze


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How a network that starts from published weights is trained; any argument may be a choice.

    The choices are named `finetuning.freeze` and so on.

    Args:
        freeze: the last stage that keeps its weights, with all before it, such as "stage2" (see
            `kb.freeze`); None trains all.
        norms: whether all batch normalizations keep their statistics and weights, whose estimates
            from few images are worse.
        decay: the learning rate of each stage as a share of the next one's, more than 0 and at
            most 1; the head has the full rate (Howard & Ruder 2018, arXiv:1801.06146, Sec. 3.2).
        head_epochs: epochs in which the head is trained alone, before the stages that are not
            frozen are trained too, with a new optimizer.
        image_size: the side in pixels to which the model resizes its images; None leaves them. The
            space's budget counts images as they come, the recorded costs those of this size.

    Raises:
        ValueError: if an argument, or an option of its choice, is not of the form above.
    """

    freeze: Any = None
    norms: Any = False
    decay: Any = 1.0
    head_epochs: Any = 0
    image_size: Any = None

    def __repr__(self) -> str:
        return call_of(self)

    def __post_init__(self) -> None:
        check_options(self, _FORMS)

    def tree(self) -> Tree:
        """The choices among the arguments."""
        return Tree({f.name: getattr(self, f.name) for f in fields(self)}, prefix="finetuning.")

    def set_up(self, model: keras.Model, head_only: bool) -> dict[str, float]:
        """Freezes what is to be frozen; returns the factor of the learning rate of each stage.

        Args:
            model: a model from `Architecture.model`; no argument of this object is a choice.
            head_only: whether only the head is to be trained.

        Raises:
            ValueError: if the model has no stage called `freeze`.
        """
        layers = [one for one in model.layers if isinstance(one, Block)]
        rows = [one for one in layers if not is_of_head(str(one.name))]
        stages = list(dict.fromkeys(stage_of(str(row.name)) for row in rows))
        freeze(model, self.freeze, norms=self.norms)  # raises if there is no such stage
        if head_only:
            freeze(model, stages[-1], norms=self.norms)
        trained = {stage_of(str(row.name)) for row in rows if row.trainable_weights}
        depths = {stage: len(stages) - place for place, stage in enumerate(stages)}
        rates = {stage: self.decay**depth for stage, depth in depths.items() if stage in trained}
        return {} if self.decay == 1 else rates


class Starts:
    """The weights from which the networks of a space start.

    Networks of one name start from the same weights: those for the first of them that was found.

    Args:
        space: a space with an input shape.
        weights: as for `kblocks.networks.starting.starts_of`, which also says what is raised.
        value_range: the lowest and highest value of the images; None if they are normalized.
    """

    def __init__(self, space: Space, weights: Any, value_range: tuple[float, float] | None) -> None:
        self._weights, self._range = weights, value_range
        self._shape: Any = space.input_shape
        self._networks = _networks_in(space)
        nets = self._networks.items()
        self._starts = {name: starting.starts_of(net, weights) for name, net in nets}
        self._reads = True

    def check(self, x: Any) -> None:
        """Reads all weights, and checks the range of images.

        Args:
            x: that of `fit`; only arrays and `keras.utils.PyDataset` are looked at.

        Raises:
            ValueError: if the images have another range.
            OSError, ImportError, ValueError: as `kblocks.networks.starting.check` does.
        """
        images: Any = x[0][0] if isinstance(x, keras.utils.PyDataset) else x
        if self._range is not None and isinstance(images, np.ndarray):
            (least, most), low, high = self._range, float(images.min()), float(images.max())
            slack = 0.1 * (most - least)  # resampling overshoots
            if not least - slack <= low <= high <= most + slack or high <= 1 < most:
                raise ValueError(
                    "`value_range` must be that of the images, such as (0, 1) or (0, 255), or None "
                    f"if they are normalized. Received: value_range={self._range}, and images from "
                    f"{low:g} to {high:g}"
                )
        for name, net in self._networks.items():
            starting.check(net, self._shape, self._starts[name])

    def model(self, net: Architecture, size: int | None) -> tuple[keras.Model, dict[str, Any]]:
        """A network's model with these weights, and what it does to images and was loaded, as JSON.

        Args:
            net: a network of the space.
            size: the side to which the model resizes images, in pixels; None leaves them.
        """
        starts = self._starts.get(net.name) or starting.starts_of(net, self._weights)
        start = starting.found(starts) if self._reads else starts[0]
        known = start.input(self._shape[2], self._range, size)
        model = starting.model_on_images(net, self._shape, known)
        return model, {**known, **(starting.load(model, start) if self._reads else {})}

    @contextlib.contextmanager
    def unread(self) -> Iterator[None]:
        """Models made meanwhile have fresh weights, in whose place those of a trial come."""
        self._reads = False
        try:
            yield
        finally:
            self._reads = True


def fit_head_first(
    head_epochs: int,
    fit: Callable[..., Any],
    thaw: Callable[[], Any],
    arguments: dict[str, Any],
) -> Any:
    """Calls `fit`; where it begins with the head alone twice, and the History has all epochs.

    Args:
        head_epochs: how many epochs train the head alone.
        fit: trains a model, which is compiled for the first epoch to come.
        thaw: compiles the model for the epochs after those.
        arguments: those of `fit`.
    """
    if not arguments.get("initial_epoch", 0) < head_epochs < arguments.get("epochs", 1):
        return fit(**arguments)
    end = _HeadEnd(head_epochs)
    first = fit(**{**arguments, "callbacks": [*arguments["callbacks"], end]})
    if not end.is_reached:
        return first
    thaw()
    last = fit(**{**arguments, "initial_epoch": head_epochs})
    for name, values in last.history.items():
        values[:0] = first.history.get(name, [math.nan] * len(first.epoch))
    last.epoch[:0] = first.epoch
    return last


class _HeadEnd(keras.callbacks.Callback):
    """The last callback; ends `fit` after the epochs in which the head is trained alone."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs, self.is_reached = epochs, False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        model: Any = self.model
        self.is_reached = epoch + 1 == self._epochs and not model.stop_training
        model.stop_training |= self.is_reached


def _networks_in(space: Space) -> dict[str, Architecture]:
    """A network that fits for each name that choices of builders and of names give networks."""
    found: dict[str, Architecture] = {}
    ahead = [space.default_point()]
    while ahead:
        point = ahead.pop()
        net = point.network
        if net.name in found:
            continue
        found[net.name] = net
        for one in point.active:
            options = one.kind.options if isinstance(one.kind, Choice) else ()
            if any(isinstance(option, Call) or option in architectures() for option in options):
                others = [point.moved({one.name: place}) for place in range(len(options))]
                ahead += [other for other in others if space.violation(other) is None]
    return found


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_FORMS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "freeze": ("the name of a stage, or None", lambda v: v is None or isinstance(v, str)),
    "norms": ("True or False", lambda v: isinstance(v, bool)),
    "decay": (
        "more than 0 and at most 1",
        lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and 0 < v <= 1,
    ),
    "head_epochs": ("an integer of 0 or more", lambda v: _is_count(v, 0)),
    "image_size": ("a positive integer, or None", lambda v: v is None or _is_count(v, 1)),
}
