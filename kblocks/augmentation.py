"""Random changes to the images that a model is trained on, made inside its training step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from kblocks import backend

_NAMES: dict[str, dict[str, bool]] = {
    "flip": {"flip": True},
    "shift": {"shift": True},
    "flip+shift": {"flip": True, "shift": True},
}
_MIXING = (keras.layers.MixUp, keras.layers.CutMix)  # which would have to change the labels too
_DRAWS = 1024  # random numbers that a layer may ask for in a step, without those of the next


def is_augmentation(value: Any) -> bool:
    """Whether `augment` takes it."""
    if isinstance(value, (list, tuple)):
        return all(map(is_augmentation, value))
    if isinstance(value, keras.layers.Layer):
        return not isinstance(value, _MIXING)
    return value is None or (isinstance(value, str) and value in _NAMES)


def augment(model: keras.Model, augmentation: Any) -> None:
    """Changes the images of every training step of a compiled model, and nothing else.

    As it is a part of the step and not of the model, every form of data that `fit` takes will
    do, and evaluation, prediction, saved files and costs know nothing of it. What is drawn
    depends on the seed (`keras.utils.set_random_seed`) and on the number of the step alone.
    Compiling the model again ends it.

    Args:
        model: compiled.
        augmentation: None, "flip" (left to right, every second image), "shift" (by up to an
            eighth of height and width, edges repeated), "flip+shift", one of Keras'
            preprocessing layers, or a list of such, one after the other.
    """
    _end(model)
    layers = list(_layers(augmentation))
    if not layers:
        return
    optimizer: Any = model.optimizer
    plain_step, plain_make = model.train_step, model.make_train_function
    variables: list[Any] = [variable for layer in layers for variable in layer.variables]
    states = [variable for variable in variables if variable.name == "seed_generator_state"]
    seeds: list[Any] = [keras.ops.convert_to_numpy(state) for state in states]
    starts = [seed[0] for seed in seeds]

    def augmented(data: Any, step: Any) -> Any:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        # Without a state of their own that a backend would have to carry through its steps.
        drawn = [
            (state, keras.ops.stack([start, keras.ops.cast(step * _DRAWS, state.dtype)]))
            for state, start in zip(states, starts, strict=True)
        ]
        with keras.StatelessScope(drawn):
            for layer in layers:
                x = layer(x, training=True)
        return keras.utils.pack_x_y_sample_weight(x, y, weight)

    def step(data: Any) -> Any:
        return plain_step(augmented(data, keras.ops.convert_to_tensor(optimizer.iterations)))

    def stateless_step(state: Any, data: Any) -> Any:
        place = [v is optimizer.iterations for v in optimizer.variables].index(True)
        return plain_step(state, augmented(data, state[2][place]))

    def make_train_function(force: bool = False) -> Any:
        if model.optimizer is not optimizer:  # compiled again
            _end(model)
        return plain_make(force)

    model.train_step = stateless_step if backend.name() == "jax" else step
    model.make_train_function = make_train_function


def _end(model: keras.Model) -> None:
    for name in ("train_step", "make_train_function"):
        model.__dict__.pop(name, None)


def _layers(augmentation: Any) -> Iterator[keras.layers.Layer]:
    """Fresh ones: the random numbers of one model are no other's."""
    if isinstance(augmentation, str):
        yield Moved(**_NAMES[augmentation])
    elif isinstance(augmentation, (list, tuple)):
        for one in augmentation:
            yield from _layers(one)
    elif augmentation is not None:
        yield type(augmentation).from_config(augmentation.get_config())


class Moved(keras.layers.Layer):
    """Images flipped and shifted at random, each in its own way, by one gather of their pixels.

    Args:
        flip: whether every second image is flipped left to right.
        shift: whether images are shifted by up to an eighth of their height and width, at
            least one pixel, with their edges repeated.
    """

    def __init__(self, flip: bool = False, shift: bool = False) -> None:
        super().__init__(autocast=False)
        self.flip = flip
        self.shift = shift
        self.generator = keras.random.SeedGenerator()

    def call(self, images: Any) -> Any:
        """Images of the same shape and dtype."""
        first = keras.config.image_data_format() == "channels_first"
        if first:
            images = keras.ops.transpose(images, (0, 2, 3, 1))
        sizes: Any = keras.ops.shape(images)
        number = sizes[0]
        height, width, channels = images.shape[1:]
        rows, columns = self._places(number, height), self._places(number, width)
        if self.flip:
            flipped = keras.random.uniform((number, 1), seed=self.generator) < 0.5
            columns = keras.ops.where(flipped, keras.ops.flip(columns, axis=1), columns)
        starts = keras.ops.expand_dims(keras.ops.arange(number, dtype="int32"), 1) * height
        rows = keras.ops.expand_dims(starts + rows, 2) * width
        pixels = rows + keras.ops.expand_dims(columns, 1)
        moved = keras.ops.take(keras.ops.reshape(images, (-1, channels)), pixels, axis=0)
        return keras.ops.transpose(moved, (0, 3, 1, 2)) if first else moved

    def _places(self, number: Any, size: int) -> Any:
        """Where each row of each image is taken from; or each column."""
        places = keras.ops.expand_dims(keras.ops.arange(size, dtype="int32"), 0)
        if not self.shift:
            return keras.ops.tile(places, (number, 1))
        most = max(size // 8, 1)
        by = keras.random.randint((number, 1), -most, most + 1, seed=self.generator)
        return keras.ops.clip(places + by, 0, size - 1)
