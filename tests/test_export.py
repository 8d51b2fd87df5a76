"""Networks leave Keras with their logits, as whole files."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits
from small_networks import SMALL, small_model, spread

import kblocks as kb
from kblocks.networks.catalog import _VARIANTS

tf = pytest.importorskip("tensorflow")

SUFFIXES = {"keras": ".keras", "savedmodel": "", "onnx": ".onnx", "litert": ".tflite"}
PACKAGES = {"onnx": ("onnxruntime", "tf2onnx")}


def run_keras(path: Path, x: np.ndarray) -> Any:
    return keras.models.load_model(path, safe_mode=True)(x, training=False)


def run_saved_model(path: Path, x: np.ndarray) -> Any:
    loaded = tf.saved_model.load(str(path))  # which owns the variables
    served = loaded.serve(x)
    layer = keras.layers.TFSMLayer(path, call_endpoint="serve")
    np.testing.assert_allclose(layer(x), served, rtol=1e-4)
    return served


def run_onnx(path: Path, x: np.ndarray) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def run_litert(path: Path, x: np.ndarray) -> Any:
    interpreter = interpreter_of(path)
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def interpreter_of(path: Path) -> Any:
    if importlib.util.find_spec("ai_edge_litert"):  # TensorFlow's own will go
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter(model_path=str(path))
    return tf.lite.Interpreter(model_path=str(path))


RUN: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "keras": run_keras,
    "savedmodel": run_saved_model,
    "onnx": run_onnx,
    "litert": run_litert,
}


def need(name: str) -> None:
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)


@pytest.mark.thin(4, 4)
@pytest.mark.parametrize("name", SUFFIXES)
@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f == "resnext" else pytest.mark.slow) for f in SMALL]
)
def test_logits_stay(family: str, name: str, tmp_path: Path) -> None:
    need(name)
    model, x = small_model(family)
    path = kb.export(model, tmp_path / f"m{SUFFIXES[name]}")
    assert spread(RUN[name](path, x), model(x, training=False)) < 1e-4
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["onnx", "litert"])
def test_a_fused_network_too(name: str, tmp_path: Path) -> None:
    need(name)
    model, x = small_model("resnext")
    path = kb.export(kb.fuse(model), tmp_path / f"m{SUFFIXES[name]}")
    assert spread(RUN[name](path, x), model(x, training=False)) < 1e-4


def test_every_family_is_there() -> None:
    families = {make().name for make, _ in SMALL.values()}
    assert families == {_VARIANTS[name].family.__name__ for name in kb.architectures()}


# --- int8 ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> tuple[Any, np.ndarray, np.ndarray]:
    """A network trained on two thirds of scikit-learn's digits, and the images of both parts."""
    keras.utils.set_random_seed(0)
    data = load_digits()
    x, y = (data.images[..., np.newaxis] / 16).astype("float32"), data.target
    rows = [
        kb.ConvBlock.Spec(16),
        kb.ResNeXtBlock.Spec(32, strides=2, cardinality=4, group_width=4),
        kb.MBConvBlock.Spec(32),
    ]
    model = kb.Architecture(rows, head=kb.Classifier(10)).model((8, 8, 1))
    kb.Recipe(learning_rate=3e-3).compile(model)
    model.fit(x[:1200], y[:1200], batch_size=32, epochs=12, verbose=0)
    assert (model.predict(x[1200:], verbose=0).argmax(1) == y[1200:]).mean() > 0.9
    return model, x[:1200], x[1200:]


@pytest.mark.slow
@pytest.mark.parametrize("fuse", [False, True])
def test_int8_chooses_the_same_digits(digits: Any, fuse: bool, tmp_path: Path) -> None:
    """On images that neither training nor calibration saw."""
    model, known, unseen = digits
    sent = kb.fuse(model) if fuse else model
    path = kb.export(sent, tmp_path / "m.tflite", representative=known[:200])
    kept, found = model.predict(unseen, verbose=0), run_litert(path, unseen)
    assert (found.argmax(1) == kept.argmax(1)).mean() >= 0.98
    details = interpreter_of(path).get_tensor_details()
    kernels = [d for d in details if len(d["shape"]) == 4 and d["dtype"] == np.int8]
    assert len(kernels) >= 8  # convolutions run on int8, not on what was rounded to it


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f == "resnext" else pytest.mark.slow) for f in SMALL]
)
def test_int8_keeps_the_logits_near(family: str, tmp_path: Path) -> None:
    """Within half their spread; a pool padded with infinite numbers gave ten times that."""
    model, x = small_model(family)
    path = kb.export(model, tmp_path / "m.tflite", representative=x)
    assert spread(run_litert(path, x), model(x, training=False)) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("labels", [False, True])
def test_int8_from_batches(labels: bool, tmp_path: Path) -> None:
    """Equal to the byte with the same images as an array, as `tf.data` gives them with labels."""
    model, _ = small_model("resnext")
    x = np.random.default_rng(1).normal(size=(12, *model.input_shape[1:])).astype("float32")
    one = kb.export(model, tmp_path / "one.tflite", representative=x)
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros(12)) if labels else x).batch(5)
    other = kb.export(model, tmp_path / "other.tflite", representative=data)
    whole = kb.export(model, tmp_path / "whole.tflite")
    assert spread(run_litert(one, x), run_litert(other, x)) == 0
    assert one.stat().st_size < 0.7 * whole.stat().st_size


# --- whole or not at all -------------------------------------------------------------------


def test_what_onnx_runtime_cannot_load_is_not_written(tmp_path: Path) -> None:
    """Keras' own grouped convolution, of which Keras writes an invalid file in silence."""
    need("onnx")
    layers = [keras.layers.Conv2D(8, 3, groups=4)]
    model = keras.Sequential([keras.Input((8, 8, 8)), *layers])
    path = tmp_path / "m.onnx"
    path.write_text("before")
    with pytest.raises(ValueError, match=r"kb\.accelerate"):
        kb.export(model, path)
    assert [found.name for found in tmp_path.iterdir()] == ["m.onnx"]
    assert path.read_text() == "before"
    kb.export(kb.accelerate(model), path)
    x = np.ones((1, 8, 8, 8), "float32")
    assert spread(run_onnx(path, x), model(x)) < 1e-4


@pytest.mark.parametrize("name", SUFFIXES)
def test_a_failure_leaves_nothing(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """A full disk, say, after half of it was written."""
    need(name)
    model, _ = small_model("resnext")

    def fails(path: Any, *args: Any, **kwargs: Any) -> None:
        Path(path).write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(model, "save", fails)
    monkeypatch.setattr(model, "export", fails)
    with pytest.raises(OSError, match="No space"):
        kb.export(model, tmp_path / f"m{SUFFIXES[name]}")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_and_a_folder_is_not(tmp_path: Path) -> None:
    model, x = small_model("resnext")
    for _ in range(2):
        kb.export(model, str(tmp_path / "new" / "m.keras"))
    assert spread(run_keras(tmp_path / "new" / "m.keras", x), model(x, training=False)) < 1e-6
    kb.export(model, tmp_path / "model-1.2")
    with pytest.raises(FileExistsError, match=r"must be new.*model-1\.2"):
        kb.export(model, tmp_path / "model-1.2")


# --- what is refused -----------------------------------------------------------------------


def test_wrong_arguments(tmp_path: Path) -> None:
    model, x = small_model("resnext")
    path = tmp_path / "m.tflite"
    for wrong in (keras.Sequential([keras.layers.Dense(1)]), kb.resnet18()):
        with pytest.raises(ValueError, match="`model` must be a built Keras model"):
            kb.export(wrong, path)
    with pytest.raises(ValueError, match=r"`format` must be one of .*'litert'.*'coreml'"):
        kb.export(model, path, "coreml")
    with pytest.raises(ValueError, match=r"`path` must end in '.onnx' for format='onnx'"):
        kb.export(model, path, "onnx")
    with pytest.raises(ValueError, match="`path` must be a folder"):
        kb.export(model, path, "savedmodel")
    with pytest.raises(ValueError, match=r"`representative` goes with format='litert'.*'keras'"):
        kb.export(model, tmp_path / "m.keras", representative=x)
    with pytest.raises(ValueError, match=r"shape \(32, 32, 3\).*shape \(2, 16, 32, 3\)"):
        kb.export(model, path, representative=x[:, :16])
    with pytest.raises(ValueError, match="Received: none"):
        kb.export(model, path, representative=[])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_told_with_its_extra(tmp_path: Path, monkeypatch: Any) -> None:
    model, _ = small_model("vgg")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name)
    )
    if not find("onnxruntime"):
        pytest.skip("needs ONNX Runtime, which is asked for first")
    with pytest.raises(ImportError, match=r"tf2onnx: pip install 'kblocks\[export\]'"):
        kb.export(model, tmp_path / "m.onnx")


def test_another_backend_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    model, _ = small_model("vgg")
    monkeypatch.setattr("kblocks.common.backend.name", lambda: "jax")
    with pytest.raises(ValueError, match=r"'onnx' needs the TensorFlow backend.*'jax'"):
        kb.export(model, tmp_path / "m.onnx")
    assert kb.export(model, tmp_path / "m.keras").exists()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_told(wrong: float, tmp_path: Path) -> None:
    """Refused by what exports; what saves at the end of a search warns, as nothing may be lost."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="last")])
    model.layers[0].bias.assign([0.0, wrong])
    with pytest.raises(ValueError, match=r"`model` must have finite weights.*last/bias"):
        kb.export(model, tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())
    with pytest.warns(
        UserWarning, match=r"model\.keras: NaN or infinity in the model's .*last/bias"
    ):
        kb.tuner.save(model, tmp_path / "model.keras")
    assert (tmp_path / "model.keras").exists()


def test_a_file_names_an_optimizer_that_every_backend_has(tmp_path: Path) -> None:
    """Under PyTorch, Keras' optimizers are of classes in a module that others cannot import."""

    class Adam(keras.optimizers.Adam):
        pass

    Adam.__module__ = "keras.src.backend.torch.optimizers.torch_adam"
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.LossScaleOptimizer(Adam(0.25)), "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    loaded: Any = keras.models.load_model(kb.export(model, tmp_path / "model.keras"))
    inner = loaded.optimizer.inner_optimizer
    assert type(inner) is keras.optimizers.Adam
    assert float(inner.learning_rate) == 0.25
    assert int(inner.iterations) == int(model.optimizer.inner_optimizer.iterations) == 1
    assert "get_compile_config" not in vars(model)
