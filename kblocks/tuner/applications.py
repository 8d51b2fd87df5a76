"""Keras Tuner's applications under their own constructors, over the ready spaces of kblocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import keras_tuner

from kblocks.families import ready_spaces
from kblocks.families.small_images import for_size
from kblocks.heads.classification import Features
from kblocks.search_space.choices import choice
from kblocks.tuner.hypermodel import HyperModel
from kblocks.tuner.suggesting import suggest


class Application(HyperModel):
    """Base class of `HyperResNet`, `HyperEfficientNet` and `HyperXception`: see `_DOC`."""

    family = ""  # the name of a function in `kb.spaces`
    model_name = ""

    def __init__(
        self,
        include_top: bool = True,
        input_shape: Sequence[int] | None = None,
        input_tensor: Any = None,
        classes: int | None = None,
        augmentation_model: keras.Model | keras_tuner.HyperModel | None = None,
        *,
        tunable: bool = True,
        latency: bool = True,
        name: str | None = None,
    ) -> None:
        if include_top and not classes:
            raise ValueError(
                f"`classes` must be given with include_top=True. Received: classes={classes!r}"
            )
        given: Any = input_shape if input_tensor is None else input_tensor.shape[1:]
        if given is None:
            raise ValueError("`input_shape` or `input_tensor` must be given. Received: neither")
        augments = isinstance(augmentation_model, (keras.Model, keras_tuner.HyperModel))
        if augmentation_model is not None and not augments:
            raise ValueError(
                "`augmentation_model` must be a keras.Model, a keras_tuner.HyperModel or None. "
                f"Received: augmentation_model={augmentation_model!r}"
            )
        shape = tuple(given)
        if keras.config.image_data_format() == "channels_first":
            shape = (*shape[1:], shape[0])
        features = choice(*(Features.Spec(pool) for pool in ("avg", "max", "concat")))
        top = {"classes": classes} if include_top else {"head": features}
        space = getattr(ready_spaces, self.family)(**for_size(self.family, shape), **top)
        super().__init__(space.within(shape), compile=self._compile, latency=latency, name=name)
        self.tunable = tunable
        self.include_top, self.classes = include_top, classes
        self.input_shape, self.input_tensor = input_shape, input_tensor
        self.augmentation_model = augmentation_model

    def declare_hyperparameters(self, hp: Any) -> None:
        """Declares all choices of the space, unless `tunable` is False."""
        if self.tunable:
            super().declare_hyperparameters(hp)

    def build(self, hp: Any) -> keras.Model:
        """Builds the model of the point in `hp`, and compiles it if it has a top."""
        x = keras.Input(self.input_shape) if self.input_tensor is None else self.input_tensor
        augmentation: Any = self.augmentation_model
        if isinstance(augmentation, keras_tuner.HyperModel):
            augmentation = augmentation.build(hp)
        if augmentation is not None:
            x = augmentation(x)
        net: Any = suggest(hp, self.space)
        how = {"input_tensor": x, "name": self.model_name}
        if not self.include_top:
            return net.model(self.space.input_shape, **how)
        model = net.model(self.space.input_shape, classifier_activation="softmax", **how)
        return self.compiled(model, hp)

    def _compile(self, model: keras.Model, hp: Any) -> None:
        """Compiles a model; a subclass may replace this, as with Keras Tuner's."""
        rate = hp.Choice("learning_rate", [0.1, 0.01, 0.001], default=0.01)  # as Keras Tuner's
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
        model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])


_DOC = """`keras_tuner.applications.{name}` over `kb.spaces.{family}`: only the import changes.

    Models return the probabilities of classes (features with include_top=False), and are compiled
    for one-hot labels, with SGD and a choice of `learning_rate`.

    Args:
        include_top: whether to include the classifier; without it models return pooled features,
            and are not compiled.
        input_shape: the shape of images, such as (32, 32, 3).
        input_tensor: a Keras tensor to build on, in place of `input_shape`.
        classes: the number of classes.
        augmentation_model: a `keras.Model` or `keras_tuner.HyperModel` for the images, such as
            `keras_tuner.applications.HyperImageAugment(input_shape=...)`.
        tunable: whether the choices are searched; else the space's default is taken, or what the
            tuner's `hyperparameters` have.
        latency, name: as for `kb.tuner.HyperModel`.

    Raises:
        ValueError: if an argument is missing or no network fits the input.

    Example:
        >>> hypermodel = kb.tuner.{name}(input_shape=(32, 32, 3), classes=10)
        >>> hypermodel = hypermodel.within(kb.Budget(macs=40e6))  # optional
        >>> tuner = keras_tuner.RandomSearch(hypermodel, objective="val_accuracy", max_trials=3)
    """


class HyperResNet(Application):
    __doc__ = _DOC.format(name="HyperResNet", family="resnet")
    family, model_name = "resnet", "ResNet"


class HyperXception(Application):
    __doc__ = _DOC.format(name="HyperXception", family="xception")
    family, model_name = "xception", "Xception"


class HyperEfficientNet(Application):
    __doc__ = _DOC.format(name="HyperEfficientNet", family="efficientnet")
    family, model_name = "efficientnet", "EfficientNet"

    def __init__(
        self,
        input_shape: Sequence[int] | None = None,
        input_tensor: Any = None,
        classes: int | None = None,
        augmentation_model: keras.Model | keras_tuner.HyperModel | None = None,
        include_top: bool = True,
        **kwargs: Any,
    ) -> None:
        given = (include_top, input_shape, input_tensor, classes, augmentation_model)
        super().__init__(*given, **kwargs)
