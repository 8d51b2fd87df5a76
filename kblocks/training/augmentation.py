"""Random changes to training images, made inside the training step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import keras

from kblocks.blocks.block import Block
from kblocks.common import backend
from kblocks.common.keras_graph import layers_inside
from kblocks.common.overriding import override, restore
from kblocks.training.mixing import METHODS, MIXING, Mixture, Parts, check_mixes, mixed
from kblocks.training.moving import Moved, check_moves, for_targets, kinds_of, moved, moves_targets

_keras: Any = keras  # its annotations are narrower than what it takes
# The names of augmentations in the order in which "+" joins them; images have values from 0 to 1.
NAMES: dict[str, Any] = {
    "flip": None,
    "shift": None,
    "randaugment": lambda: OneAtATime(value_range=(0, 1), factor=0.1),
    "erasing": lambda: keras.layers.RandomErasing(value_range=(0, 1)),
    "mixup": lambda: keras.layers.MixUp(dtype="float32"),
    "cutmix": lambda: _keras.layers.CutMix((1.0, 1.0), dtype="float32"),
}
# Layers of which XLA lacks some ops.
_UNCOMPILED = (keras.layers.RandAugment, keras.layers.AugMix, *MIXING)
_STEP = "train_step", "make_train_function"  # methods of a model
_DRAWS = 1024  # states of the generator for each step, so that steps do not share any


def is_augmentation(value: Any) -> bool:
    """Whether `augment` accepts this value."""
    if isinstance(value, (list, tuple)):
        return all(map(is_augmentation, value))
    if isinstance(value, str):
        return value.split("+") == [name for name in NAMES if name in value.split("+")]
    return value is None or isinstance(value, keras.layers.Layer)


def augment(model: keras.Model, augmentation: Any) -> None:
    """Makes the training steps of a compiled model change the images, and targets with them.

    Masks, boxes and points move with the images; labels stay, but with MixUp and CutMix the loss is
    that of all labels in an image (see `Mixture`). Since augmentation is part of the training step
    and not of the model, it works with every form of data that `fit` takes and does not affect
    evaluation, prediction, saved files or costs. The random numbers depend only on the seed
    (`keras.utils.set_random_seed`) and the number of the step. Compiling the model again removes
    the augmentation.

    Args:
        model: a compiled model.
        augmentation: as `Recipe` takes it.

    Raises:
        ValueError: if a layer would move the images and cannot move the targets, or mix targets
            that cannot be mixed, or the model has another data format than Keras' setting.
    """
    restore(model, *_STEP, *METHODS)
    kinds = kinds_of(model)
    has_places = any(kind.geometry != "class" for kind in kinds.values())
    layers = list(_layers(augmentation, has_places))
    for layer in layers:
        if isinstance(layer, MIXING):
            check_mixes(layer, kinds, model)
        else:
            check_moves(layer, kinds)
    if not layers:
        return
    usual = keras.config.image_data_format()
    blocks = (layer for layer in layers_inside(model) if isinstance(layer, Block))
    if getattr(next(blocks, None), "data_format", usual) != usual:
        raise ValueError(
            f"`augmentation` needs a model in Keras' data format, {usual!r} "
            "(keras.config.set_image_data_format changes it). "
            f"Received: augmentation={augmentation!r} for a model in the other"
        )
    if backend.name() == "tensorflow" and not all(map(_compiles, layers)):
        model.jit_compile = False  # else the step fails on a GPU
    optimizer: Any = model.optimizer
    variables: list[Any] = [variable for layer in layers for variable in layer.variables]
    states = [variable for variable in variables if variable.name == "seed_generator_state"]
    seeds: list[Any] = [keras.ops.convert_to_numpy(state) for state in states]
    starts = [seed[0] for seed in seeds]

    mixture = Mixture()
    if any(isinstance(layer, MIXING) for layer in layers):
        mixture.attach(model)

    def augmented(data: Any, step: Any) -> tuple[Any, Parts | None]:
        parts: Parts | None = None
        batch = keras.utils.unpack_x_y_sample_weight(data)
        # So no backend has to carry the layers' random state from step to step.
        drawn = [
            (state, keras.ops.stack([start, keras.ops.cast(step * _DRAWS, state.dtype)]))
            for state, start in zip(states, starts, strict=True)
        ]
        with keras.StatelessScope(drawn):
            for layer in layers:
                if isinstance(layer, MIXING):
                    batch, parts = mixed(batch, layer, parts)
                else:
                    batch = moved(batch, layer, kinds)
        return keras.utils.pack_x_y_sample_weight(*batch), parts

    def step(model: Any, plain: Any, data: Any) -> Any:
        batch, parts = augmented(data, keras.ops.convert_to_tensor(optimizer.iterations))
        with mixture.of(parts):
            return plain(batch)

    def stateless_step(model: Any, plain: Any, state: Any, data: Any) -> Any:
        position = [v is optimizer.iterations for v in optimizer.variables].index(True)
        batch, parts = augmented(data, state[2][position])
        with mixture.of(parts):
            return plain(state, batch)

    def make_train_function(model: Any, plain: Any, force: bool = False) -> Any:
        if model.optimizer is not optimizer:  # compiled again
            restore(model, *_STEP, *METHODS)
        return plain(force)

    override(model, "train_step", stateless_step if backend.name() == "jax" else step)
    override(model, "make_train_function", make_train_function)


def _layers(augmentation: Any, has_places: bool) -> Iterator[keras.layers.Layer]:
    """New copies of the layers, so that models do not share random numbers."""
    if isinstance(augmentation, str):
        names = augmentation.split("+")
        moves = {name: name in names for name in ("flip", "shift")}
        if any(moves.values()):
            yield Moved(**moves)
        yield from (make() for name, make in NAMES.items() if make and name in names)
    elif isinstance(augmentation, (keras.Sequential, keras.layers.Pipeline)):
        yield from _layers(augmentation.layers, has_places)
    elif isinstance(augmentation, (list, tuple)):
        for one in augmentation:
            yield from _layers(one, has_places)
    elif has_places and moves_targets(augmentation):
        yield for_targets(augmentation)
    elif augmentation is not None:
        kind = type(augmentation)
        kind = OneAtATime if kind is keras.layers.RandAugment else kind
        exact = {"dtype": "float32"} if isinstance(augmentation, MIXING) else {}
        yield kind.from_config({**_config(augmentation), **exact})


def _config(layer: Any) -> dict[str, Any]:
    """A layer's configuration; that of RandomShear is changed to one that the layer accepts."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.RandomShear):
        for name in ("x_factor", "y_factor"):
            low, high = config[name]
            config[name] = high if low < 0 else (low, high)
    return config


def _compiles(layer: Any) -> bool:
    """Whether XLA compiles a layer of Keras, as far as is known."""
    return layer.supports_jit and not isinstance(layer, _UNCOMPILED)


class OneAtATime(keras.layers.RandAugment):
    """Computes only the operations that it has drawn, where Keras' layer computes all of them."""

    def transform_images(self, images: Any, transformation: Any, training: bool = True) -> Any:
        """The images after the drawn operations, as Keras' layer makes them."""
        images = _keras.ops.cast(images, self.compute_dtype)
        changes = [partial(self._changed, *pair) for pair in transformation["transforms"].items()]
        for number in range(self.num_ops):
            images = _keras.ops.switch(transformation["layer_idxes"][number], changes, images)
        return images

    def _changed(self, name: str, transformation: Any, images: Any) -> Any:
        changed = getattr(self, name).transform_images(images, transformation)
        return _keras.ops.cast(changed, self.compute_dtype)
