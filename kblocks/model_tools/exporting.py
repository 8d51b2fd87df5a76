"""`export`: writes a model in the formats of other programs, whole or not at all."""

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kblocks.common import backend
from kblocks.common.atomic import whole
from kblocks.common.keras_graph import layers_inside, refuse_altered
from kblocks.common.overriding import overridden
from kblocks.layers.export_mode import writing
from kblocks.model_tools.accelerating import rewritten
from kblocks.model_tools.formats import FORMATS, OTHER_NAMES, refuse_missing

_FOREIGN = {".h5", ".hdf5", ".pb", ".pt", ".pth", ".safetensors", ".json", ".lite"}
METADATA = "metadata.json"  # in a `.keras` or `.tflite` file, which both are zip archives too
OURS = "kblocks"  # the key of a model's metadata in it, and in an ONNX file
# Under PyTorch, Keras' optimizers have classes of their own, with the same arguments and variables.
_TORCH_OPTIMIZERS = "keras.src.backend.torch.optimizers"


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    format: str | None = None,
    representative: Any = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model to a file or folder for another program, and returns its path.

    LiteRT files need only the runtime's built-in ops. Keras writes invalid files for some layers
    without an error, so an ONNX or LiteRT file appears at `path` only after its runtime has loaded
    it. Both formats compute in float32, even if the model computes in float16 or bfloat16.

    Args:
        model: a built model, such as `Architecture.model` or `kb.fuse` returns.
        path: the file, which is replaced, or for a SavedModel the folder, which must be new.
        format: "keras", "onnx", "litert" (a `.tflite` file) or "savedmodel"; None takes the
            format of the suffix, and a SavedModel for any other path.
        representative: typical inputs, which make "litert" write an int8 model: an array of a
            hundred or more, or batches of them (with or without labels), such as a
            `tf.data.Dataset`. Inputs and outputs of the file stay float32. The model must have
            one input of known size.
        metadata: facts about the model, as JSON can hold them. The file keeps their JSON as the
            entry "kblocks": of `metadata.json` in a `.keras` file, a `.tflite` file (both are zip
            archives too) or a SavedModel's folder; of the metadata of an ONNX file.

    Raises:
        ValueError: if an argument is not of the form above, a weight is not finite, the runtime
            cannot load the file, or the backend is not TensorFlow (which only "keras" does not
            need).
        ImportError: if a package is missing; the message names its extra.
        FileExistsError: if the folder of a SavedModel exists.

    Example:
        >>> kb.export(kb.fuse(model), "digits.tflite", representative=images[:200])
        PosixPath('digits.tflite')
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"`model` must be a built Keras model. Received: model={model!r}")
    wrong = not_finite(model)
    if wrong is not None:
        raise ValueError(f"`model` must have finite weights. Received: NaN or infinity in {wrong}")
    path = Path(path)
    name = format_of(path, format)
    if representative is not None and name != "litert":
        raise ValueError(f"`representative` goes with format='litert'. Received: format={name!r}")
    if name != "keras" and backend.name() != "tensorflow":
        raise ValueError(
            f"format={name!r} needs the TensorFlow backend: write a .keras file and export that "
            f"under KERAS_BACKEND=tensorflow. Received: backend={backend.name()!r}"
        )
    refuse_missing(name)
    if name == "litert":
        refuse_altered(model, lora=True)  # its kernels have no such product of int8
    if name in ("onnx", "litert"):
        model = _in_float32(model)
    if name == "savedmodel" and path.exists():
        raise FileExistsError(f"`path` of a SavedModel must be new. Received: path={str(path)!r}")
    options: dict[str, Any] = {}
    if name == "litert":
        samples = None if representative is None else _samples(model, representative)
        options = backend.lite_options(samples)
    with writing(name if representative is None else "int8"), whole(path) as written:
        if name == "keras":
            save_keras(model, written, metadata)
        else:
            options |= {"format": FORMATS[name].keras_name, "input_signature": _signature(model)}
            model.export(written, verbose=False, **options)
            if metadata is not None:
                _add_metadata(written, name, metadata)
        if name == "onnx":
            _refuse_invalid(written)
        if name == "litert":
            _refuse_invalid_lite(model, written)
    return path


def save_keras(model: keras.Model, path: Path, metadata: Mapping[str, Any] | None) -> None:
    """Saves a `.keras` file that every backend can load, with facts where Keras ignores them."""
    with portable(model):
        model.save(path)
    if metadata is None:
        return
    plain = path.rename(path.with_name(f"plain-{path.name}"))
    with zipfile.ZipFile(plain) as before, zipfile.ZipFile(path, "w") as after:
        for part in before.infolist():
            with before.open(part) as old, after.open(part.filename, "w", force_zip64=True) as new:
                if part.filename == METADATA:
                    new.write(json.dumps({**json.load(old), OURS: dict(metadata)}).encode())
                else:
                    shutil.copyfileobj(old, new, 1 << 20)


def _add_metadata(path: Path, name: str, metadata: Mapping[str, Any]) -> None:
    text = json.dumps({OURS: dict(metadata)})
    if name == "onnx":
        import onnx

        model = onnx.load(path)
        onnx.helper.set_model_props(model, {OURS: json.dumps(dict(metadata))})
        onnx.save(model, path)
    elif name == "litert":  # an archive behind the model, as TensorFlow packs a file of labels
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(METADATA, text)
    else:
        (path / METADATA).write_text(text, encoding="utf-8")


def not_finite(model: keras.Model) -> str | None:
    """The path of the first weight that contains NaN or infinity; None if there is none."""
    for weight in model.weights:
        if not bool(keras.ops.all(keras.ops.isfinite(weight))):
            return str(weight.path)
    return None


@contextlib.contextmanager
def portable(model: Any) -> Iterator[None]:
    """A context that saves a model with the class of its optimizer that all backends have."""

    def named(config: dict[str, Any]) -> dict[str, Any]:
        if str(config.get("module")).startswith(_TORCH_OPTIMIZERS):
            return {**config, "module": "keras.optimizers", "registered_name": None}
        return config

    def rewriting(model: Any, plain: Any) -> Any:
        return rewritten(plain(), named)

    with overridden(model, "get_compile_config", rewriting):
        yield


def format_of(path: Path, name: str | None) -> str:
    """The format of that name, or that of the path; ValueError if the two do not go together."""
    suffixes = {known.suffix: key for key, known in FORMATS.items()}
    if name is None:
        if path.suffix in _FOREIGN:
            known = ", ".join(suffix for suffix in suffixes if suffix)
            raise ValueError(
                f"`path` must end in {known}, or be a SavedModel's folder. Received: "
                f"path={str(path)!r}"
            )
        # The dot in a folder's name need not begin a suffix: `model-1.2`.
        return suffixes.get(path.suffix, "savedmodel")
    name = OTHER_NAMES.get(name, name)
    if name not in FORMATS:
        raise ValueError(f"`format` must be one of {list(FORMATS)} or None. Received: {name!r}")
    if suffixes.get(path.suffix, "savedmodel") != name:
        wanted = f"end in {FORMATS[name].suffix!r}" if FORMATS[name].suffix else "be a folder"
        raise ValueError(f"`path` must {wanted} for format={name!r}. Received: path={str(path)!r}")
    return name


def _samples(model: Any, representative: Any) -> Callable[[], Iterator[list[np.ndarray]]]:
    """A function that yields the inputs one by one, each in a list, as the converter needs them."""
    inputs = getattr(model, "inputs", None) or ()
    if len(inputs) != 1:
        raise ValueError(f"`representative` goes with one input. Received: {len(inputs)} inputs")
    expected, dtype = tuple(inputs[0].shape[1:]), keras.backend.standardize_dtype(inputs[0].dtype)
    if None in expected:
        raise ValueError(
            "`representative` goes with models of a known input size, as of "
            f"kb.resize_input(model, (height, width)). Received: a model for {expected}"
        )
    batches = [representative] if hasattr(representative, "shape") else representative
    found = []
    for batch in batches:
        inputs = np.asarray(batch[0] if isinstance(batch, (tuple, list)) else batch)
        if not np.all(np.isfinite(inputs)):
            raise ValueError("`representative` must hold finite values. Received: NaN or infinity")
        if inputs.shape[1:] != expected:
            raise ValueError(
                f"`representative` must be a batch of inputs of shape {expected}, or several. "
                f"Received: one of shape {inputs.shape}"
            )
        found.extend(np.split(inputs.astype(dtype), len(inputs)))
    if not found:
        raise ValueError("`representative` must hold inputs. Received: none")
    return lambda: ([sample] for sample in found)


def _in_float32(model: Any) -> Any:
    """The model, or a float32 copy if it computes in 16 bits: LiteRT and ONNX lack such kernels."""
    layers = (layer for layer in layers_inside(model) if not isinstance(layer, keras.Model))
    if all(layer.compute_dtype not in ("float16", "bfloat16") for layer in layers):
        return model
    refuse_altered(model)

    def copied(layer: Any) -> Any:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    copy: Any = keras.models.clone_model(model, clone_function=copied, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def _signature(model: Any) -> Any:
    """The input signature, which Keras does not find itself for ONNX of a model never called."""
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return None

    def described(x: Any) -> Any:
        return keras.InputSpec(shape=(None, *x.shape[1:]), dtype=x.dtype, name=x.name)

    sequential = isinstance(model, keras.Sequential)
    return [keras.tree.map_structure(described, inputs[0] if sequential else model.input)]


def _refuse_invalid(path: Path) -> None:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession
    try:
        session(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base class
        raise ValueError(
            "`model` has a layer that Keras does not write to ONNX rightly; of grouped "
            f"convolutions of Keras, kb.accelerate(model) is a copy that can be written. {error}"
        ) from error


def _refuse_invalid_lite(model: Any, path: Path) -> None:
    known = all(None not in x.shape[1:] for x in getattr(model, "inputs", None) or ())
    try:
        backend.load_lite(path, allocate=known)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "LiteRT cannot load what TensorFlow wrote of `model`; in int8 that is also so where "
            f"`representative` leaves a layer without a range. {error}"
        ) from error
