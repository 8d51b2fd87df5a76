"""The formats in which a model can be exported; no import of Keras, for quick help texts."""

import importlib.util
from typing import NamedTuple


class Format(NamedTuple):
    """An export format: Keras' name for it, its suffix, and the packages and extra it needs."""

    keras_name: str
    suffix: str
    packages: tuple[str, ...] = ()
    extra: str = ""


OTHER_NAMES = {"tflite": "litert", "lite": "litert"}
OTHER_NAMES |= {"saved_model": "savedmodel", "tf": "savedmodel"}
FORMATS = {
    "keras": Format("keras", ".keras"),
    "savedmodel": Format("tf_saved_model", "", ("tensorflow",), "tensorflow"),
    "onnx": Format("onnx", ".onnx", ("onnxruntime", "tf2onnx"), "export"),
    "litert": Format("litert", ".tflite", ("tensorflow",), "tensorflow"),
}


def refuse_missing(name: str) -> None:
    """Raises ImportError, with the extra to install, if a format's packages are missing."""
    wanted = FORMATS[name]
    for package in wanted.packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"format={name!r} needs {package}: pip install 'kblocks[{wanted.extra}]'",
                name=package,
            )
