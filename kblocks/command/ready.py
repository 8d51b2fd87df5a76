"""Searches by the name of a family: its ready space, adapted to the size of the images."""

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from kblocks.command.listing import FAMILIES
from kblocks.command.typed import check_known
from kblocks.families import ready_spaces as spaces
from kblocks.families.small_images import for_size
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import architecture, by_family
from kblocks.networks.starting import Start, loadable, starts_of
from kblocks.networks.torch_weights import is_source
from kblocks.search_space.budget import Budget
from kblocks.search_space.choices import choice, real
from kblocks.search_space.space import Space
from kblocks.training.recipe import NAMED, Recipe
from kblocks.training.transfer import FineTuning
from kblocks.tuner.delivering import record_of
from kblocks.tuner.hypermodel import HyperModel
from kblocks.tuner.images.data import Data, load
from kblocks.tuner.images.image_files import ImageFiles
from kblocks.tuner.records import Objective
from kblocks.tuner.running.fitting import Fit
from kblocks.tuner.running.jobs import Job, run_file_function
from kblocks.tuner.tuner import Tuner

TRIALS, EPOCHS, BATCH = 20, 15, 64  # the defaults; with a scheduler 10 trials of up to 60 epochs
# With one of these options a new search has no scheduler unless one is typed.
_WITHOUT_SCHEDULER = {"objective", "pruner", "folds", "storage", "ray", "trial_seconds"}
_WITHOUT_SCHEDULER |= {"epochs", "weights"}
_MACS = 40_000  # per pixel, as ResNet-20 on 32x32
Options = Mapping[str, Any] | None


def space(
    family: str, input_shape: tuple[int, ...], classes: int, budget: Budget | None = None
) -> Space:
    """The ready space of a family of `kb.spaces`, with a stem for the images' size, under a budget.

    None allows 40,000 MACs a pixel, as many as ResNet-20 needs at 32x32.
    """
    check_known("--family", family, FAMILIES)
    height, width, _ = input_shape
    ready = getattr(spaces, family)(classes=classes, **for_size(family, input_shape))
    return ready.within(input_shape, budget or Budget(macs=_MACS * height * width))


def published_space(
    family: str, input_shape: tuple[int, ...], classes: int, budget: Budget | None, weights: str
) -> Space:
    """The published networks of a family that can start from weights, the smallest first.

    The budget None allows as many MACs as in `space`, or those of the smallest. From a file only
    the network starts for which it has most numbers.
    """
    check_known("--family", family, FAMILIES)
    nets = [architecture(name, classes=classes) for name in by_family()[family]]
    if is_source(weights):
        found = [_network_in(starts_of(nets[0], weights)[0], nets, input_shape)]
    else:
        named = [net for net in nets if weights in [one.name for one in net.weights]]
        found = [net for net in nets if net.weights] if weights == "imagenet" else named
        starts_of((found or nets)[0], weights)  # raises if there are none
    costs = {net.name: net.cost(input_shape) for net in found}
    names = sorted(costs, key=lambda name: costs[name].macs)
    if budget is None:
        budget = Budget(macs=max(_MACS * math.prod(input_shape[:2]), costs[names[0]].macs))
    kept = [name for name in names if not budget.exceeded(costs[name], {})] or names
    named = choice(*kept) if len(kept) > 1 else kept[0]
    return Space(architecture, name=named, classes=classes).within(input_shape, budget)


def _network_in(start: Start, nets: list[Architecture], input_shape: tuple[int, ...]) -> Any:
    """The network for which a file has most numbers, the smallest of several."""
    size = sum(math.prod(array.shape) for array in start.tensors().values())
    params = {net.name: net.cost((299, 299, 3)).params for net in nets}
    best, most = nets[0], 0
    for net in sorted(nets, key=lambda net: -params[net.name]):
        if most <= params[net.name] < 1.2 * size:  # others cannot have more
            count = loadable(net, input_shape, start)
            best, most = (net, count) if count >= most else (best, most)
    return best


class NamedJob(Job):
    """A job of the command line, whose typed options override its own; loads its data once."""

    def __init__(self, settings: Options = None, fitting: Options = None) -> None:
        super().__init__()
        self.settings, self.fitting = dict(settings or {}), dict(fitting or {})
        self._loaded: Data | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loaded": None}

    def named(self) -> dict[str, Any]:
        """The arguments of `fit` that the user gave, and what the images are."""
        return {"fitting": self.fitting, "images": record_of(self.data())}

    def joining(self, known: Mapping[str, Any]) -> Self:
        """A copy that takes what was not typed from `known`, the settings of the search to join."""
        joined = copy.copy(self)
        joined.settings = {"trials": known.get("trials"), **self.settings}
        fitting = known.get("job", {}).get("fitting", {})
        joined.fitting = {**fitting, "epochs": known.get("epochs", 1), **self.fitting}
        return joined

    def data(self) -> Data:
        """The data with the arguments of `fit`; loaded on the first call."""
        if self._loaded is None:
            self._loaded = self.load()
        return replace(self._loaded, fit={**self._loaded.fit, **self.fitting})

    def load(self) -> Data:
        raise NotImplementedError

    def fit(self) -> Fit:
        """The arguments of `model.fit`, without the test part."""
        return (), self.data().fit_arguments()


class FamilyJob(NamedJob):
    """A family on data, both by name: the job of `--family F --data D`.

    `settings` may also have `budget` and the name of a `recipe`. Networks start from `weights`, or
    fresh if these are None.
    """

    def __init__(
        self,
        family: str,
        source: str,
        options: Options = None,
        settings: Options = None,
        fitting: Options = None,
        weights: str | None = None,
    ) -> None:
        super().__init__(settings, fitting)
        self.family, self.source, self.options = family, source, dict(options or {})
        self.weights = weights

    def load(self) -> Data:
        """Loads the data of the source, with the default batch size."""
        data = load(self.source, **self.options)
        batch = {} if isinstance(data.train, ImageFiles) else {"batch_size": BATCH}
        return replace(data, fit=batch)

    def data(self) -> Data:
        """The data with the arguments of `fit`.

        A trial has 15 epochs by default, or with a scheduler 60, so that its first rung has 15.
        """
        data = super().data()
        longest = EPOCHS if self.settings.get("scheduler") is None else 4 * EPOCHS
        return replace(data, fit={"epochs": longest, **data.fit})

    def begun_as(self, before: Mapping[str, Any]) -> Self:
        """A copy for the search with these settings, or for a new one if they are empty.

        Scheduler and number of trials, if they were not typed, are those of the search. A new one
        has "asha", unless something was typed that does not go with it.
        """
        begun = copy.copy(self)
        begun._loaded = self._loaded
        typed = {*self.settings, *self.fitting, *(["weights"] if self.weights else [])}
        others = {"pruner", "folds"} if before else _WITHOUT_SCHEDULER
        has_rungs = not before or "scheduler" in before
        known = {"trials": before["trials"]} if "trials" in before else {}
        usual = "asha" if has_rungs and not typed & others else None
        begun.settings = {"scheduler": usual, **known, **self.settings}
        return begun

    def named(self) -> dict[str, Any]:
        """The user's options that a joining worker needs: for `fit`, `load` and the tuner."""
        free = ("sampler", "pruner", "scheduler", "patience", "folds", "trial_seconds")
        free = (*free, "checkpoints", "recipe")
        settings = {name: self.settings[name] for name in free if name in self.settings}
        weights = {} if self.weights is None else {"weights": self.weights}
        return {**super().named(), "options": self.options, "settings": settings, **weights}

    def joining(self, known: Mapping[str, Any]) -> Self:
        """A copy that also takes options of `load`, objectives and budget from the search."""
        joined = super().joining(known)
        job = known.get("job", {})
        joined.options = {**job.get("options", {}), **self.options}
        joined._loaded = self._loaded if joined.options == self.options else None
        joined.weights = self.weights or job.get("weights")
        own = {
            "objective": [Objective(**one) for one in known.get("objectives", ())] or None,
            "budget": Budget(**known["budget"]) if known.get("budget") else None,
        }
        given = {name: value for name, value in own.items() if value is not None}
        joined.settings = {**given, **job.get("settings", {}), **joined.settings}
        return joined

    def tuner(self) -> Tuner:
        """A search of `space`, or with weights of `published_space` and of how to train it on.

        With a searched learning rate; Adam and a cosine without `recipe`. Raises ValueError if
        there is no recipe of that name, or the arguments do not fit.
        """
        trials = TRIALS if self.settings.get("scheduler") is None else TRIALS // 2
        data, settings = self.data(), {"trials": trials, **self.settings}
        timed = "latency" in str(settings.get("objective"))
        if not timed and settings.get("ray") is None:
            settings.setdefault("workers", "auto")
        known = self.family, data.input_shape, data.classes, settings.pop("budget", None)
        started: dict[str, Any] = {}
        searched = space(*known) if self.weights is None else published_space(*known, self.weights)
        rates = (5e-4, 1e-2) if self.weights is None else (1e-4, 3e-3)
        if self.weights is not None:
            stages = searched.build(searched.default()).stages(data.input_shape)
            upto = choice(None, "stem", *(f"stage{n}" for n in (1, 2) if n < len(stages) - 2))
            finetuning = FineTuning(freeze=upto, decay=real(0.3, 1), head_epochs=choice(1, 0))
            values = tuple(record_of(data)["value_range"] or (0, 1))
            started = {"weights": self.weights, "finetuning": finetuning, "value_range": values}
        name, rate = settings.pop("recipe", None), real(*rates, log=True)
        if name is not None:
            check_known("--recipe", name, NAMED)
        usual = Recipe(learning_rate=rate, schedule="cosine")
        recipe = usual if name is None else Recipe.named(name, learning_rate=rate)
        return Tuner(HyperModel(searched, recipe, latency=timed, **started), **settings)


class RunFile(NamedJob):
    """A run file, with the options that were typed beside it."""

    def __init__(self, path: str, settings: Options = None, fitting: Options = None) -> None:
        super().__init__(settings, fitting)
        self.path = path

    def load(self) -> Data:
        """Calls the run file's `data`."""
        data = run_file_function(self.path, "data")()
        if not isinstance(data, Data):
            raise ValueError(f"`data` of a run file must return kb.tuner.Data. Received: {data!r}")
        return data

    def tuner(self) -> Tuner:
        """Calls the run file's `tuner` with the typed settings."""
        found = run_file_function(self.path, "tuner")(**self.settings)
        if not isinstance(found, Tuner):
            raise ValueError(
                f"`tuner` of a run file must return a kb.tuner.Tuner. Received: {found!r}"
            )
        return found
