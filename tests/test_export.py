"""A network with grouped convolutions leaves Keras with its logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb

tf = pytest.importorskip("tensorflow")

INPUT = (16, 16, 3)


@pytest.fixture(scope="module")
def model() -> Any:
    rows = [
        kb.ConvBlock.Spec(8, strides=2),
        kb.ResNeXtBlock.Spec(16, cardinality=4, group_width=4, strides=2),
        kb.MBConvBlock.Spec(16),
    ]
    model = kb.Architecture(rows, head=kb.Classifier(5)).model(INPUT)
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.2, 1, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(1).normal(size=(2, *INPUT)).astype("float32")


def assert_same(found: Any, model: Any, images: Any) -> None:
    expected = np.asarray(model(images))
    assert abs(np.asarray(found) - expected).max() / expected.std() < 1e-4


def test_saved_model(model: Any, images: Any, tmp_path: Path) -> None:
    model.export(tmp_path / "m", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "m"))
    assert_same(served.serve(images), model, images)
    layer = keras.layers.TFSMLayer(tmp_path / "m", call_endpoint="serve")
    assert_same(layer(images), model, images)


def test_litert(model: Any, images: Any) -> None:
    converted = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    interpreter = tf.lite.Interpreter(model_content=converted)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert_same(found, model, images)


def test_onnx(model: Any, images: Any, tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    model.export(tmp_path / "m.onnx", format="onnx", verbose=False)
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: images})[0]
    assert_same(found, model, images)
