"""The settings of a search as JSON, compared before a process resumes or joins it."""

import hashlib
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np

from kblocks.networks.architecture import Architecture
from kblocks.search_space.choices import Choice
from kblocks.search_space.conditions import name_of
from kblocks.search_space.describing import options_of, words_of
from kblocks.training.recipe import Recipe
from kblocks.tuner.hypermodel import HyperModel, named
from kblocks.tuner.records import Objective
from kblocks.tuner.terminal import log

_FORMAT = 1
_HASHED = 1 << 26  # bytes of an array that are hashed, evenly spaced in a larger one
# Settings that must stay the same for trials to be comparable; others may change between runs.
_BINDING = (
    *("objectives", "input_shape", "builder", "space", "fixed", "budget", "recipe", "data"),
    *("executions_per_trial", "folds", "hyperparameters", "optimizer", "loss", "metrics"),
    *("weights", "finetuning", "value_range", "scheduler"),
)
# Fields that `Recipe` got later; they are not written at their default, as in older searches.
_NEWER = ("warmup", "ema", "clip", "precision")
_LATER = {f.name: f.default for f in fields(Recipe) if f.name in _NEWER}
_GROWING = ("space", "recipe", "finetuning")  # those of them to which choices may be added
_WAYS_OUT = "Give it another `project_name`, undo the change, or start anew with overwrite=True"
_EXTENDABLE = " (added choices can be allowed: extend=True)"
_FOLDERS = (  # only folders of images are recorded with a `hash` of their own
    "(the folder of images may be unchanged: kblocks now skips files and folders whose name begins "
    "with a dot, reads WebP and TIFF, and turns photos upright as their EXIF data say)"
)
_PASSING = {"callbacks", "verbose", "validation_freq"}  # arguments of `fit` that may change


class ChangedError(ValueError):
    """The settings differ from those with which the search began."""


def settings_of(
    hypermodel: Any,
    objectives: Sequence[Objective],
    fit: tuple[Sequence[Any], Mapping[str, Any]],
    **others: Any,
) -> dict[str, Any]:
    """The settings of a search; `others` are recorded but never compared."""
    settings: dict[str, Any] = {
        "format": _FORMAT,
        "objectives": [asdict(objective) for objective in objectives],
        "data": _data(fit),
        "versions": versions(),
        **others,
    }
    if not isinstance(hypermodel, HyperModel):
        return settings | {"builder": name_of(getattr(hypermodel, "function", type(hypermodel)))}
    space = hypermodel.space
    training = hypermodel.recipe if hypermodel.compile is None else hypermodel.compile
    choices = hypermodel.dimensions()
    plain = training.tree().fixed if isinstance(training, Recipe) else {"compile": training}
    if hypermodel.weights is not None:
        plain |= hypermodel.finetuning.tree().fixed
        settings["weights"] = _weights(hypermodel.weights)
        settings["finetuning"] = text_of(hypermodel.finetuning)
        settings["value_range"] = text_of(hypermodel.value_range)
    return settings | {
        "builder": name_of(space.builder),
        "input_shape": list(space.input_shape or ()),
        "space": {name: options_of(kind) for name, kind in choices.items()},
        # The words for options that trials record by their positions.
        "options": {
            name: list(map(words_of, kind.options))
            for name, kind in choices.items()
            if isinstance(kind, Choice) and "#" in "".join(map(str, kind.written))
        },
        "fixed": {name: text_of(value) for name, value in space.tree.fixed.items()},
        "budget": {k: v for k, v in asdict(space.budget).items() if v is not None},
        "recipe": text_of(training),
        # The arguments of the recipe that contain no choice.
        "plain": {k: text_of(v, isinstance(training, Recipe)) for k, v in plain.items()},
    }


def _weights(weights: Any) -> Any:
    """Identifies weights by their name, a file by its name and size."""
    is_path = not isinstance(weights, Mapping)
    if is_path and (path := Path(weights)).is_file():
        return f"{path.name} of {path.stat().st_size} bytes"
    return str(weights) if is_path else fingerprint(weights)


def limits_and_methods(tuner: Any) -> dict[str, Any]:
    """What a search records of its tuner, and what may change between its runs."""
    methods = {"sampler": tuner.sampler, "pruner": tuner.pruner}
    named = {k: v if isinstance(v, str | None) else type(v).__name__ for k, v in methods.items()}
    return {"trials": tuner.trials, "hours": tuner.hours, **named}


def unusual(tuner: Any) -> dict[str, str]:
    """What else must stay the same in a search, where it is not as by default.

    `patience` may change.
    """
    names = ("folds", "hyperparameters", "optimizer", "loss", "metrics", "patience", "scheduler")
    found = {name: getattr(tuner, name) for name in names}
    found["executions_per_trial"] = tuner.executions_per_trial if tuner.trainings > 1 else None
    if tuner.hyperparameters is not None:
        found["hyperparameters"] = tuner.hyperparameters.get_config()
    texts = {name: text_of(value, True) for name, value in found.items() if value is not None}
    policy = keras.config.dtype_policy().name
    if tuner.precision is not None:  # these two may change: see `running.precision`
        texts["precision"] = tuner.precision
    elif policy != "float32":
        texts["policy"] = policy
    return texts


def versions() -> dict[str, str]:
    """The versions of the packages in use; they may differ when the search is resumed."""
    backend = keras.config.backend()
    loaded = {one: getattr(sys.modules.get(one), "__version__", "") for one in ("kblocks", backend)}
    packages = ("keras", "keras-tuner", "optuna", "numpy")
    return {
        "kblocks": loaded["kblocks"],
        "python": platform.python_version(),
        "backend": f"{backend} {loaded[backend]}".strip(),
        **{name: metadata.version(name) for name in packages},
    }


def check(before: Mapping[str, Any], now: Mapping[str, Any], extend: bool = False) -> None:
    """Raises ChangedError if settings changed, but for choices that were added, with `extend`."""
    differences = _all_differences(before, now, _GROWING if extend else ())
    if extend:
        space = before.get("space", {})
        chosen = {k for k in _LATER if any(name.startswith(f"recipe.{k}") for name in space)}
        known = {k: text_of(v) for k, v in _LATER.items() if k not in chosen}
        was, found = {**known, **before.get("plain", {})}, now.get("plain", {})
        both = [name for name in was if name in found]  # the others have become choices
        for name in both:
            differences += _differences(f"recipe: {name}", was[name], found[name])
    if differences:
        raise ChangedError(
            "The search has changed since it began; its trials could not be compared:"
            f"{_list(differences)}.\n{_WAYS_OUT}{'' if extend else _EXTENDABLE}."
        )


def check_joining(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ChangedError if a process has other settings than the search that it joins."""
    differences = _all_differences(before, now)
    if differences:
        raise ChangedError(
            f"This is another search than the one to be joined:{_list(differences)}\n"
            "Give the same that it was begun with."
        )


def _list(lines: Sequence[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)


def has_changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the choices of the space or the recipe differ."""
    return any(before.get(key) != now.get(key) for key in _GROWING)


def _all_differences(
    before: Mapping[str, Any], now: Mapping[str, Any], but: Sequence[str] = ()
) -> list[str]:
    policies = [settings.get("policy", "float32") for settings in (before, now)]
    if policies[0] != policies[1] and "precision" not in {*before, *now}:
        log.warning("Trials may differ in precision: Keras' dtype policy was %s, is %s", *policies)
    keys = (key for key in _BINDING if key not in but)
    lines = [line for key in keys for line in _differences(key, before.get(key), now.get(key))]
    if any(line.startswith("data: ") and ": hash was" in line for line in lines):
        lines.append(_FOLDERS)
    return lines


def _differences(path: str, before: Any, now: Any) -> list[str]:
    if before == now:
        return []
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        names = dict.fromkeys([*before, *now])
        return [
            line
            for name in names
            for line in _differences(f"{path}: {name}", before.get(name), now.get(name))
        ]
    return [f"{path} was {_text(before)}, is {_text(now)}"]


def _text(value: Any) -> str:
    return "not there" if value is None else str(value)


def text_of(value: Any, losses: bool = False) -> str:
    """A value as text, the same in every process; with `losses` these with their configuration."""
    losses = losses or isinstance(value, Recipe)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {text_of(v, losses)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(text_of(v, losses) for v in value) + "]"
    if is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in fields(value) if not one.name.startswith("_")]
        own = {name: getattr(value, name) for name in names}
        if isinstance(value, Recipe):
            own = {k: v for k, v in own.items() if k not in _LATER or v != _LATER[k]}
        parts = (f"{k}={text_of(v, losses)}" for k, v in own.items())
        return f"{type(value).__name__}({', '.join(parts)})"
    configurable = (keras.layers.Layer, keras.optimizers.Optimizer)
    if isinstance(value, configurable) or (losses and isinstance(value, keras.losses.Loss)):
        # Without the name, which counts up within a process.
        config = {k: v for k, v in value.get_config().items() if k != "name"}
        return f"{type(value).__name__}({text_of(config, losses)})"
    if isinstance(value, Architecture):  # whose `repr` says more
        return f"<Architecture {value.name!r} of {len(value.rows)} rows>"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _data(fit: tuple[Sequence[Any], Mapping[str, Any]]) -> dict[str, Any]:
    return {
        name: fingerprint(value)
        for name, value in sorted(named(*fit).items())
        if name not in _PASSING and value is not None
    }


def fingerprint(value: Any) -> Any:
    """Identifies data: type, shape and hash of an array, size and element types of a dataset."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {_hash(value)}"
    if isinstance(value, (list, tuple)):
        return [fingerprint(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): fingerprint(item) for key, item in value.items()}
    if hasattr(value, "element_spec"):  # a TensorFlow dataset, whose `fingerprint` is a tensor
        size = int(value.cardinality()) if hasattr(value, "cardinality") else "unknown"
        return f"dataset of {size} x {value.element_spec}"
    if isinstance(value, keras.utils.PyDataset):
        own: Any = getattr(value, "fingerprint", None)  # image files: names and sizes
        if own is not None:
            return own()
        return f"{type(value).__qualname__} of {value.num_batches}"
    if hasattr(value, "__array__"):
        return fingerprint(np.asarray(value))
    return type(value).__qualname__


def _hash(array: np.ndarray) -> str:
    if array.dtype.hasobject:
        return "objects"
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if content.size > _HASHED:
        content = np.ascontiguousarray(content[:: content.size // _HASHED + 1])
    return hashlib.blake2b(content.data, digest_size=8).hexdigest()


class SpaceChangedError(keras_tuner.errors.FatalError, ChangedError):
    """A HyperModel asks for other hyperparameters or ranges than when its search began."""


def refuse_change(name: str, before: str | None, now: str | None) -> None:
    """Raises SpaceChangedError if a hyperparameter has another range; None if it is not there."""
    if before != now:
        raise SpaceChangedError(
            f"The search has changed since it began: {name} was {_text(before)}, is {_text(now)}. "
            f"{_WAYS_OUT}{_EXTENDABLE}."
        )
