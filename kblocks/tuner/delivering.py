"""The model that a search delivers, and what its file says about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from kblocks.networks.architecture import Architecture
from kblocks.networks.starting import SCALING, model_on_images
from kblocks.training.precision import compute_in
from kblocks.tuner.images.data import Data
from kblocks.tuner.images.image_files import ImageFiles
from kblocks.tuner.records import Record, Run

MODEL = "best.keras"  # the file of the delivered model, in the run's folder


def record_of(data: Data) -> dict[str, Any]:
    """What a search records of its images, as JSON: scale, range of values, class names."""
    values = [0.0, 1.0]  # of image files, and of a dataset that is known to be scaled
    if isinstance(data.train, tuple):
        low, high = float(data.train[0].min()), float(data.train[0].max())
        if low < 0 or high > max(1, 255 / data.scale):
            values = [low, high]
        elif high > 1:  # from 0 to 255 before they were scaled
            values = [0.0, 255 / data.scale]
    elif not isinstance(data.train, ImageFiles) and data.scale == 1:
        values = []
    names = None if data.class_names is None else list(data.class_names)
    return {"scale": float(data.scale), "value_range": values, "class_names": names}


def facts(run: Run, trial: Record, model: Any, retrained: Data | None = None) -> dict[str, Any]:
    """The facts about a delivered model that its file stores, as JSON.

    `retrained` are the data of the last training; None if it has the trial's own weights.
    """
    images = _images(run)
    shapes = [list(x.shape[1:]) for x in getattr(model, "inputs", None) or ()]
    known: dict[str, Any] = {
        "run": run.name,
        "search": run.identity,
        "trial": trial.number,
        "scores": dict(zip((o.name for o in run.objectives), trial.scores, strict=True)),
        "retrained": retrained is not None,
        "input_shape": shapes[0] if len(shapes) == 1 else shapes,
        "value_range": images.get("value_range") or None,
        "class_names": images.get("class_names"),
        "versions": {k: run.settings.get("versions", {}).get(k) for k in ("kblocks", "keras")},
    }
    if trial.started_from:
        known["started_from"] = trial.started_from
    if any(layer.name == SCALING for layer in model.layers):
        known["value_range"] = [value * images["scale"] for value in images["value_range"]]
    count = None if retrained is None else images_of(retrained.train)
    return known if count is None else {**known, "images": count}


def images_of(part: Any) -> int | None:
    """The number of images in a part of `Data`, or None if it is unknown."""
    if isinstance(part, ImageFiles):
        return len(part.names)
    return len(part[0]) if isinstance(part, tuple) else None


def model_of(run: Run, trial: Record, weights: Any) -> keras.Model:
    """A trial's network in float32 as a model that takes images with the values of their source.

    A layer divides them by what the data were divided by for the search, such as 255 for files;
    if the trial began with published weights, others resize and normalize them as in the trial.
    """
    assert trial.network is not None
    assert run.input_shape is not None
    net, scale = Architecture.from_json(trial.network), _images(run).get("scale", 1)
    model = model_on_images(net, run.input_shape, trial.start, scale)
    compute_in(model, "float32")
    model.set_weights(weights)
    return model


def _images(run: Run) -> Mapping[str, Any]:
    """What `record_of` recorded; {} of a search in Python or by an earlier version of kblocks."""
    return run.settings.get("job", {}).get("images", {})
