"""A run's best network as a model with its weights, and that model in other programs' formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from kblocks.files import whole
from kblocks.network import Architecture
from kblocks.tuner.files import save
from kblocks.tuner.records import Record, Run

# The format by the command line's name: Keras' own name, the file in a run folder, the packages.
FORMATS = {
    "keras": ("keras", "best.keras", ""),
    "onnx": ("onnx", "best.onnx", "kblocks[export]"),
    "savedmodel": ("tf_saved_model", "best_savedmodel", "kblocks[tensorflow]"),
    "litert": ("litert", "best.tflite", "kblocks[tensorflow]"),
}


def best_network(run: Run) -> tuple[Record, Architecture]:
    """The best completed trial of a run and its network, rebuilt from the record's JSON.

    Raises:
        ValueError: if no trial was completed, or it was not built by kblocks.
    """
    best = run.best()
    if best is None:
        raise ValueError(f"RUN must have a completed trial. Received: {run.name} without one")
    if best.network is None or run.input_shape is None:
        raise ValueError(
            f"RUN must be of networks of kblocks. Received: trial {best.number} of {run.name}, "
            "which keeps no architecture"
        )
    return best, Architecture.from_json(best.network)


def export(model: keras.Model, path: Path, kind: str) -> Path:
    """Writes a model whole or not at all, and proves that an ONNX file can be loaded.

    Args:
        model: that ends in logits.
        path: the file, or for "savedmodel" the folder.
        kind: "keras", "onnx", "savedmodel" or "litert".

    Raises:
        ValueError: if `kind` is none of these.
        ImportError: if a package is missing that the format needs, with the extra that has it.
        FileExistsError: if a SavedModel is to replace a folder.
    """
    if kind not in FORMATS:
        raise ValueError(f"--export must be one of {', '.join(FORMATS)}. Received: {kind}")
    name, _, extra = FORMATS[kind]
    if kind == "savedmodel" and path.exists():
        raise FileExistsError(f"{path} is there already: give another --output")
    try:
        if kind == "keras":
            save(model, path)
        else:
            with whole(path) as written:
                model(keras.ops.zeros((1, *model.input_shape[1:])))  # ONNX needs one call
                model.export(written, format=name, verbose=False)
                if kind == "onnx":
                    _load_onnx(written)
    except ImportError as error:
        missing = error.name or error
        raise ImportError(f"--export {kind} needs {missing}: pip install '{extra}'") from error
    return path


def _load_onnx(path: Path) -> None:
    """Keras writes invalid files of some layers without an error."""
    import onnxruntime

    session: Any = onnxruntime.InferenceSession
    session(path, providers=["CPUExecutionProvider"])
