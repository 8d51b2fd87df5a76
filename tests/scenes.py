"""Images whose pixels tell all that lies in them, for any backend: no test runner here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import kblocks as kb

layers: Any = keras.layers
HEIGHT, WIDTH, NUMBER = 24, 32, 40
VOID = 7
HEADS: dict[str, Any] = {
    "mask": kb.Segmenter(3, 2, void=VOID),
    "box": kb.BoxRegressor(),
    "objects": kb.Detector(2, 4, filters=4),
    "points": kb.Keypoints(2, stride=2, filters=4),
    "label": kb.Classifier(3),
}
FILLED: dict[str, Any] = {"interpolation": "nearest", "fill_mode": "constant"}
LAYERS: dict[str, Callable[[], Any]] = {
    "flip": lambda: layers.RandomFlip("horizontal_and_vertical"),
    "translation": lambda: layers.RandomTranslation(0.3, 0.3, **FILLED),
    "zoom": lambda: layers.RandomZoom((-0.3, 0.5), (-0.3, 0.5), **FILLED),
    "rotation": lambda: layers.RandomRotation(0.5, **FILLED),
}
Targets = dict[str, np.ndarray]


def network(head: Any, aux: bool = False) -> kb.Architecture:
    """A stem and a body, at strides 2 and 4."""
    rows: list[Any] = [("stem", kb.ConvBlock.Spec(4, strides=2))]
    if aux:
        plain: Any = {"pool_size": None, "grid": 2, "hidden": (), "dropout": 0.0}
        rows.append(("aux", kb.AuxiliaryClassifier.Spec(3, filters=(4,), **plain)))
    rows.append(("body", kb.ConvBlock.Spec(4, strides=2), "stem"))
    return kb.Architecture(rows, head=head, auxiliary=["aux"] if aux else ())


def scenes(number: int = NUMBER) -> tuple[np.ndarray, Targets]:
    """Channel 0 is 1 or 2 in a rectangle and 0 around it; 1 and 2 are 1 at one pixel each."""
    random = np.random.default_rng(3)
    x = np.zeros((number, HEIGHT, WIDTH, 3), "float32")
    y: dict[str, list[Any]] = {name: [] for name in HEADS}
    for image in x:
        top, left = random.integers(0, (HEIGHT - 7, WIDTH - 7))
        bottom, right = np.array([top, left]) + random.integers(4, 8, 2)
        kind = random.integers(1, 3)
        image[top:bottom, left:right, 0] = kind
        corners = np.array([top, left, bottom, right]) / ([HEIGHT, WIDTH] * 2)
        places = random.integers(0, (HEIGHT, WIDTH), (2, 2))
        for channel, (row, column) in enumerate(places, 1):
            image[row, column, channel] = 1
        y["mask"].append(image[..., 0])
        y["box"].append(corners)
        y["objects"].append([[kind - 1, *corners], [-1, 0, 0, 0, 0]])
        y["points"].append(np.c_[(places + 0.5) / (HEIGHT, WIDTH), [1, 1]])
        y["label"].append(kind)
    whole = ("mask", "label")
    return x, {k: np.array(v, "int32" if k in whole else "float32") for k, v in y.items()}


def compare(x: np.ndarray, y: Targets, slack: float = 0.0, filled: int = 0) -> None:
    """Fails where targets are not what the images tell.

    Args:
        x, y: as `scenes` gives them, moved.
        slack: pixels that boxes and places may be off, as pixels have no other places.
        filled: the class of pixels that were in no image.
    """
    scale, slack = np.array([HEIGHT, WIDTH] * 2), slack + 1e-3
    shown, hidden = 0, 0
    for i, image in enumerate(x):
        objects = image[..., 0]
        np.testing.assert_array_equal(np.where(y["mask"][i] == filled, 0, y["mask"][i]), objects)
        box, (first, second) = y["box"][i] * scale, y["objects"][i]
        assert second[0] == -1
        rows, columns = np.nonzero(objects)
        if rows.size:
            np.testing.assert_allclose(first[1:] * scale, box, atol=1e-3)
            corners = np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1])
            cut = slack > 1e-3 and np.any(corners % ([HEIGHT, WIDTH] * 2) == 0)
            if cut:  # of a turned box its corners may be outside, and more is cut off than need be
                assert np.all(np.abs(box - corners) < 6)
            else:  # a turned corner may show no pixel, but no pixel lies outside
                np.testing.assert_allclose(box, corners, atol=slack)
                past = np.concatenate([(box - corners)[:2], (corners - box)[2:]])
                assert past.max() < min(slack, 0.75)
            assert first[0] == objects.max() - 1
            shown += 1
        else:
            assert first[0] == -1 or np.min(first[3:] - first[1:3]) * WIDTH < 2 * slack
        for channel, (row, column, there) in enumerate(y["points"][i], 1):
            found = np.argwhere(image[..., channel]) + 0.5
            if there and len(found) == 1:  # else repeated at an edge, or missed between two pixels
                near = min(slack, 0.75)
                np.testing.assert_allclose([row * HEIGHT, column * WIDTH], found[0], atol=near)
            if not there:
                assert slack > 1e-3 or not len(found)
                hidden += 1
    assert shown > len(x) // 2
    assert hidden < len(x)


class Seen(keras.layers.Layer):
    """Keeps the last images that it met in training, of a batch of this form."""

    def __init__(self, number: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.last = self.add_weight(shape=(number, *shape), trainable=False, autocast=False)

    def call(self, images: Any, training: bool = False) -> Any:
        """The images."""
        if training:
            self.last.assign(images)
        return images


class Told(keras.Metric):
    """Keeps the last targets."""

    def __init__(self, shape: Any, name: str = "told", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.shape = tuple(shape)
        self.last = self.add_variable(self.shape, "zeros", name="last")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Those of this batch; not those that `kb.prepare` guesses."""
        if tuple(y_true.shape[1:]) != self.shape[1:] and None not in y_true.shape[1:]:
            return
        self.last.assign(keras.ops.broadcast_to(keras.ops.cast(y_true, "float32"), self.shape))

    def result(self) -> Any:
        """A number that is not needed."""
        return keras.ops.sum(self.last)

    def reset_state(self) -> None:
        """Nothing to forget."""

    def get_config(self) -> dict[str, Any]:
        """Its shape."""
        return {**super().get_config(), "shape": self.shape}


def fitted(
    augmentation: Any, compiled: bool = False, sizes: tuple[Any, Any] = (HEIGHT, WIDTH)
) -> tuple[np.ndarray, Targets]:
    """What a step of `fit` of a network with all heads and an auxiliary one saw and was told.

    Args:
        augmentation: of the recipe.
        compiled: whether by XLA.
        sizes: of the input as the model knows them.
    """
    x, y = scenes()
    seen = Seen(NUMBER, (HEIGHT, WIDTH, 3))
    start = seen(keras.Input((*sizes, 3)))
    heads = dict(HEADS)
    if None in sizes:
        del heads["box"]
    model: Any = network(heads, aux=None not in sizes).model(
        (*sizes, 3), aux=None not in sizes, input_tensor=start
    )
    told = {name: Told(y[name].shape) for name in heads}
    recipe = kb.Recipe(augmentation=augmentation, metrics={k: [v] for k, v in told.items()})
    recipe.compile(model)
    if compiled:
        model.jit_compile = True
    model.fit(x, {name: y[name] for name in heads}, batch_size=NUMBER, shuffle=False, verbose=0)
    found = {}
    for name in heads:
        (variable,) = (
            v for v in model.metrics_variables if v.name == "last" and v.shape == y[name].shape
        )
        found[name] = keras.ops.convert_to_numpy(variable)
    return keras.ops.convert_to_numpy(seen.last), found
