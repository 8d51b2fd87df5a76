"""The model that a search delivers, what its file says about it, and `predictor`, which uses it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kblocks.heads.classification import ClassLoss
from kblocks.heads.task import tasks_of
from kblocks.networks.architecture import Architecture
from kblocks.networks.starting import SCALING, model_on_images
from kblocks.training.precision import compute_in
from kblocks.tuner.files import facts_of
from kblocks.tuner.images.data import Data
from kblocks.tuner.images.image_files import ImageFiles, pixels, read_image
from kblocks.tuner.records import Record, Run

MODEL = "best.keras"  # the file of the delivered model, in the run's folder
_BATCH = 32  # images


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


def predictor(path: str | os.PathLike[str]) -> Predictor:
    """The delivered model of a search as a function from images to class names.

    Args:
        path: a run's folder, of which only `best.keras` is read, or such a file.

    Raises:
        ValueError: if there is no such file, or its model does not classify images.

    Example:
        >>> predict = kb.tuner.predictor("runs/flowers")
        >>> predict(["a.png"])
        [{'rose': 0.98, 'tulip': 0.02}]
    """
    file = Path(path) / MODEL if Path(path).is_dir() else Path(path)
    if file.suffix != ".keras" or not file.is_file():
        raise ValueError(
            f"`path` must be a run's folder with {MODEL} in it, which a search writes at its end "
            f"(before that: kblocks best RUN --export keras), or a .keras file. Received: {path}"
        )
    model: Any = keras.models.load_model(file, compile=False)
    if not classifies(model):
        raise ValueError(f"`path` must have a model that classifies images. Received: {file}")
    return Predictor(model, facts_of(file))


def classifies(model: Any) -> bool:
    """Whether a model has one input, of images, and one output, a number for each class."""
    shapes: list[Any] = [getattr(model, f"{end}_shape", None) for end in ("input", "output")]
    if [len(s) if isinstance(s, tuple) else 0 for s in shapes] != [4, 2]:
        return False
    losses = tasks_of(model).losses().values()
    return all(isinstance(loss, ClassLoss) for loss in losses) if losses else shapes[1][1] > 1


class Predictor:
    """A model with the facts about it; `kb.tuner.predictor` makes it.

    Args:
        model: a model that `classifies`.
        facts: what its file says of it; of them `value_range` and `class_names` are used.

    Attributes:
        class_names: the names of the classes; numbers if the search did not know names.
    """

    def __init__(self, model: keras.Model, facts: Mapping[str, Any]) -> None:
        self.model: Any = model
        self.facts = facts
        self._shape = self.model.input_shape[1:]
        names, count = facts.get("class_names") or (), self.model.output_shape[1]
        self.class_names = tuple(map(str, names if len(names) == count else range(count)))

    def __call__(self, images: Any) -> list[dict[str, float]]:
        """The probability of each class, the most probable first, for each image.

        Args:
            images: one image or several: paths of files, images of Pillow, or arrays of the
                model's input shape with the values in `facts["value_range"]`. Files and images of
                Pillow are resized as the search resized files.

        Raises:
            ValueError: if an image cannot be read or has another shape or range, such as floats
                up to 1 in place of 255, or the model was trained on arrays that are not those of
                image files.
        """
        several = [images] if self._is_one(images) else list(images)
        found = []
        for start in range(0, len(several), _BATCH):
            batch = np.stack([self._read(image) for image in several[start : start + _BATCH]])
            for shares in self._probabilities(batch):
                order = np.argsort(-shares)
                found.append({self.class_names[i]: float(shares[i]) for i in order})
        return found

    def _is_one(self, images: Any) -> bool:
        shape = tuple(getattr(images, "shape", ()))
        if len(shape) == 3:  # (number, height, width) are several
            return shape[1:] != self._shape[:2]
        is_file = isinstance(images, (str, os.PathLike)) or hasattr(images, "convert")
        return is_file or len(shape) == 2

    def _read(self, image: Any) -> np.ndarray:
        height, width, channels = self._shape
        if isinstance(image, (str, os.PathLike)):
            return read_image(Path(image), (height, width), channels) * self._white()
        if hasattr(image, "convert"):
            return pixels(image, (height, width), channels) * self._white()
        given = np.asarray(image)
        array = (given[..., None] if given.ndim == 2 else given).astype("float32")
        if array.shape != self._shape:
            raise ValueError(f"Images must be {self._shape} arrays. Received: {array.shape}")
        least, most = self.facts.get("value_range") or (None, 1)
        low, high = array.min(), array.max()
        is_scaled = high <= 1 < most and (array % 1).any()
        fits = -0.1 * most <= low <= high <= 1.1 * most  # resampling overshoots
        if least == 0 and (is_scaled or not fits):
            raise ValueError(
                f"Arrays must be images from 0 to {most:g}. Received: one from {low:g} to {high:g}"
            )
        return array

    def _white(self) -> float:
        """The value of a white pixel."""
        known = self.facts.get("value_range")
        if known and known[0] == 0:
            return known[1]
        values = "" if not known else f", with values from {known[0]:g} to {known[1]:g}"
        raise ValueError(
            f"The model takes arrays as in its training{values}: image files become these in a way "
            "that is not recorded. Received: an image"
        )

    def _probabilities(self, batch: np.ndarray) -> np.ndarray:
        scores = np.asarray(self.model.predict_on_batch(batch), "float32")
        losses: list[Any] = list(tasks_of(self.model).losses().values())
        if not losses and scores.min() >= 0 and np.allclose(scores.sum(-1), 1, atol=1e-3):
            return scores  # the model ends in a softmax
        shares: Any = keras.ops.sigmoid if losses and losses[0].multi_label else keras.ops.softmax
        return np.asarray(keras.ops.convert_to_numpy(shares(scores)))
