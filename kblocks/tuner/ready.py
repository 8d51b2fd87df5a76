"""A good search by name: of a family's ready space, for images of a given size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kblocks import spaces
from kblocks.budget import Budget
from kblocks.choices import choice, per_stage, real
from kblocks.recipe import Recipe
from kblocks.space import Space
from kblocks.tuner.bridge import HyperModel
from kblocks.tuner.data import Data, load
from kblocks.tuner.image_files import ImageFiles
from kblocks.tuner.jobs import FileJob, Job
from kblocks.tuner.training import Fit
from kblocks.tuner.tuner import Tuner

FAMILIES = tuple(spaces.__all__)
TRIALS, EPOCHS, BATCH = 20, 15, 64  # where nothing else is said
_SMALL = 64  # pixels a side, up to which stems keep the size
_MACS = 40_000  # a pixel: what ResNet-20 takes of an image of 32x32


def space(
    family: str, input_shape: tuple[int, ...], classes: int, budget: Budget | None = None
) -> Space:
    """The ready space of a family, with a stem that suits the images, under a budget.

    Args:
        family: one of `kb.spaces`.
        input_shape: (height, width, channels).
        classes: of the classifier.
        budget: None is 40,000 MACs a pixel, as many as ResNet-20 takes of an image of 32x32.

    Raises:
        ValueError: if there is no such family, or nothing in it fits the images.
    """
    if family not in FAMILIES:
        raise ValueError(f"--family must be one of {', '.join(FAMILIES)}. Received: {family}")
    height, width, _ = input_shape
    opened = _for_small(family, min(height, width)) if max(height, width) <= _SMALL else {}
    made = getattr(spaces, family)(classes=classes, **opened)
    return made.within(input_shape, budget or Budget(macs=_MACS * height * width))


def tuner(family: str, data: Data, *, budget: Budget | None = None, **settings: Any) -> Tuner:
    """A search of that space: Adam with its learning rate searched, along a cosine.

    Args:
        family, budget: as for `space`.
        data: what it is for.
        settings: of `kb.tuner.Tuner`.
    """
    made = space(family, data.input_shape, data.classes, budget)
    recipe = Recipe(learning_rate=real(5e-4, 1e-2, log=True), schedule="cosine")
    timed = "latency" in str(settings.get("objective"))
    return Tuner(HyperModel(made, recipe, latency=timed), **{"trials": TRIALS, **settings})


@dataclass
class FamilyJob(Job):
    """A family on data, both by name: what `--family F --data D` stand for.

    Args:
        family: as for `space`.
        source, options: of `kb.tuner.load`.
        fitting: arguments of `model.fit`, over those of the data.
        settings: of `kb.tuner.Tuner`, and `budget`.
    """

    family: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    fitting: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    _loaded: Data | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loaded": None}  # another process loads its own

    def data(self) -> Data:
        """The data, loaded once."""
        if self._loaded is None:
            data = load(self.source, **self.options)
            batch = {} if isinstance(data.train, ImageFiles) else {"batch_size": BATCH}
            self._loaded = replace(data, fit={"epochs": EPOCHS, **batch, **self.fitting})
        return self._loaded

    def tuner(self) -> Tuner:
        """The search."""
        return tuner(self.family, self.data(), **self.settings)

    def fit(self) -> Fit:
        """All but the test part."""
        return (), self.data().fit_arguments()


@dataclass
class RunFile(FileJob):
    """A run file with arguments of `model.fit` over those of its data.

    Args:
        path, settings: as for `FileJob`.
        fitting: the arguments.
    """

    fitting: Mapping[str, Any] = field(default_factory=dict)

    def data(self) -> Data:
        """What the file's `data` returns."""
        data = super().data()
        if not isinstance(data, Data):
            raise ValueError(
                f"`data` of a run file must return a kb.tuner.Data. Received: {data!r}"
            )
        return replace(data, fit={**data.fit, **self.fitting})


def _for_small(family: str, side: int) -> Mapping[str, Any]:
    """What replaces the choices of a space for large images."""
    filters = choice(32, 16, 64)
    match family:
        case "resnet" | "preresnet" | "resnext" | "densenet":
            return {"stem": {"filters": filters, "kernel_size": 3, "strides": 1, "pool": None}}
        case "efficientnet":
            return {"stem": {"filters": filters, "strides": 1}}
        case "tresnet":
            return {"stem": {"filters": filters, "block_size": choice(1, 2)}}
        case "alexnet":
            stem = {"kernel_size": choice(3, 5), "strides": 1, "padding": "same"}
            return {"stem": {"filters": filters, **stem, "pool": choice("max", None)}}
        case "vgg":  # each of its stages halves the map
            stages = min(5, int(math.log2(side)))
            widths = [
                choice(*dict.fromkeys(min(n * 2**stage, 512) for n in (32, 16, 64)))
                for stage in range(stages)
            ]
            return {
                "blocks": per_stage(stages, choice(1, 2)),
                "filters": widths,
                "kernel_size": per_stage(stages, choice(3, 5)),
                "padding": "same",
                "pool": per_stage(stages, choice("max", "avg")),
            }
    return {}
