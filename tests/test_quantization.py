"""Keras' `quantize` and LoRA on models of blocks give what they give on equal Keras models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb

pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize")

INPUT = (8, 8, 3)
NET = kb.Architecture(
    [("stem", kb.ConvBlock.Spec(4)), [kb.ResidualBlock.Spec(4)]],
    head=kb.Classifier(3, hidden=(6,)),
)


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, *INPUT)).astype("float32")


def of_keras(model: keras.Model) -> keras.Model:
    """The body of the model, with Keras' own layers in place of its head."""
    body = kb.extract(model, "stage2")
    x: Any = keras.layers.GlobalAveragePooling2D()(body.output)
    x = keras.layers.Dense(6, "relu")(x)
    other = keras.Model(body.input, keras.layers.Dense(3)(x))
    for layer, part in zip(other.layers[-2:], (p for p in head(model) if p.weights), strict=True):
        layer.set_weights(part.get_weights())
    return other


def head(model: keras.Model) -> list[Any]:
    return model.get_layer("head").layers


@pytest.mark.parametrize(
    "mode", ["int8", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("int4", "float8"))]
)
def test_linear_layers_are_quantized_as_those_of_keras(mode: str, tmp_path: Path) -> None:
    model = NET.model(INPUT)
    other, before = of_keras(model), model.predict(images(), verbose=0)
    other.quantize(mode)
    model.quantize(mode)
    expected = other.predict(images(), verbose=0)
    assert not np.array_equal(expected, before)
    np.testing.assert_array_equal(model.predict(images(), verbose=0), expected)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "m.keras")
    for copy in (loaded, clone, kb.fuse(model)):
        assert copy.get_layer("head").layers[1].quantization_mode == mode
        np.testing.assert_allclose(copy.predict(images(), verbose=0), expected, atol=1e-5)


def test_a_config_of_ones_own_is_kept(tmp_path: Path) -> None:
    """Here the inputs stay as they are, and the weights alone are quantized."""
    config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    model = NET.model(INPUT)
    other = of_keras(model)
    for one in (other, model):
        one.quantize(config=config)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for one in (model, loaded):
        np.testing.assert_allclose(one.predict(images()), other.predict(images()), atol=1e-6)


def test_a_learned_norm_is_not_quantized() -> None:
    """Keras knows nothing of it: it says so, and leaves the layer."""
    model = keras.Sequential([keras.Input((4,)), kb.ResidualDense(3, normalization="weight")])
    before = model.predict(np.eye(4), verbose=0)
    with pytest.warns(UserWarning, match="does not have a `quantize"):
        model.quantize("int8")
    np.testing.assert_array_equal(model.predict(np.eye(4), verbose=0), before)


def test_lora_trains_additions_alone(tmp_path: Path) -> None:
    model = kb.freeze(NET.model(INPUT), "stage2")
    before = model.predict(images(), verbose=0)
    dense = [part for part in head(model) if part.weights]
    kernels = [keras.ops.convert_to_numpy(part.kernel) for part in dense]
    model.get_layer("head").enable_lora(2, lora_alpha=4)
    np.testing.assert_array_equal(model.predict(images(), verbose=0), before)
    names = {"lora_kernel_a", "lora_kernel_b", "bias"}
    assert {weight.name for weight in model.trainable_weights} == names
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images(), np.arange(5) % 3, epochs=3, verbose=0)
    plain = of_keras(NET.model(INPUT))
    plain.layers[1].set_weights(model.layers[1].get_weights())
    plain.layers[2].set_weights(model.layers[2].get_weights())
    for layer, part, kernel in zip(plain.layers[-2:], dense, kernels, strict=True):
        added = 2 * np.asarray(part.lora_kernel_a) @ np.asarray(part.lora_kernel_b)
        assert np.abs(added).max() > 1e-5
        layer.set_weights([kernel + added, part.bias])
    expected = plain.predict(images(), verbose=0)
    np.testing.assert_allclose(model.predict(images(), verbose=0), expected, atol=1e-5)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.predict(images(), verbose=0), expected, atol=1e-5)
    assert {weight.name for weight in loaded.trainable_weights} == {"kernel", "bias"}


def test_convolutions_take_lora_too_and_blocks_without_kernels_say_so() -> None:
    model = NET.model(INPUT)
    before = model.predict(images(), verbose=0)
    model.get_layer("stage2_block1").enable_lora(2)
    np.testing.assert_allclose(model.predict(images(), verbose=0), before, atol=1e-6)
    with pytest.raises(ValueError, match="must be built and have kernels for LoRA"):
        kb.NormAct().enable_lora(2)


def test_what_takes_plain_kernels_alone_says_so(tmp_path: Path) -> None:
    low_rank, int8 = NET.model(INPUT), NET.model(INPUT, dtype="mixed_bfloat16")
    low_rank.get_layer("head").enable_lora(2)
    for use in (kb.to_torch_state_dict, kb.convolutionize, lambda m: kb.resize_input(m, 16)):
        with pytest.raises(ValueError, match=r"must not be with LoRA .* with head/dense1"):
            use(low_rank)
    int8.quantize("int8")
    for suffix in ("onnx", "tflite"):
        with pytest.raises(ValueError, match=r"must not be quantized .* with head/dense1"):
            kb.export(int8, tmp_path / f"net.{suffix}")
    with pytest.raises(ValueError, match=r"must not be quantized"):
        kb.convolutionize(int8)
