"""Export of more than a classifier of one image: outputs keep their names and values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from small_networks import spread
from test_export import PACKAGES, SUFFIXES, interpreter_of, run_litert, run_onnx

import kblocks as kb
from kblocks.layers.spatial import SoftArgmax
from kblocks.plans import ops

tf = pytest.importorskip("tensorflow")

INPUT = (32, 32, 3)
BODY = [
    kb.ConvBlock.Spec(8, strides=2, pool="max", pool_size=3, pool_strides=2, pool_padding="same"),
    kb.ResNeXtBlock.Spec(8, cardinality=2, group_width=4, strides=2),
]


def of(head: Any, shape: Any = INPUT) -> keras.Model:
    return kb.Architecture(BODY, head=head).model(shape)


def with_aux() -> keras.Model:
    aux = kb.AuxiliaryClassifier.Spec(3, filters=(4,), pool_size=None, grid=2, hidden=())
    rows = [BODY[0], ("aux", aux), ("stage2", BODY[1], "stage1")]
    net = kb.Architecture(rows, head=kb.Classifier(5), auxiliary=["aux"])
    return net.model(INPUT, aux=True)


def in_precision(policy: str, make: Callable[[], keras.Model]) -> keras.Model:
    keras.config.set_dtype_policy(policy)
    model = make()
    keras.config.set_dtype_policy("float32")
    return model


def amid_others() -> keras.Model:
    """A network between Keras' layers, beside a second input."""
    image, age = keras.Input(INPUT, name="image"), keras.Input((4,), name="age")
    found = of(kb.Classifier(5))(keras.layers.Rescaling(1 / 255)(image))
    mixed = keras.layers.Dense(3)(keras.layers.concatenate([found, age]))
    return keras.Model({"image": image, "age": age}, {"mixed": mixed, "found": found})


KINDS: dict[str, Callable[[], keras.Model]] = {
    "localizer": lambda: of(kb.Localizer(5)),
    "detector": lambda: of(kb.Detector(5, strides=(4, 8))),
    "segmenter": lambda: of(kb.Segmenter(5, stride=8)),
    "keypoints": lambda: of(kb.Keypoints(5)),
    "aux": with_aux,
    "fused aux": lambda: kb.fuse(with_aux()),
    "features": lambda: kb.Architecture(BODY, head=kb.Classifier(5)).features(INPUT, [4, 8]),
    "unknown size": lambda: of(kb.Classifier(5), (None, None, 3)),
    "unknown size, segmenter": lambda: of(kb.Segmenter(5, stride=8), (None, None, 3)),
    "unknown size, fused": lambda: kb.fuse(of(kb.Classifier(5), (None, None, 3))),
    "amid others": amid_others,
}
FAST = {("localizer", "onnx"), ("segmenter", "litert"), ("amid others", "keras")}


def made(make: Callable[[], keras.Model]) -> keras.Model:
    """All weights off the values they start with."""
    model, random = make(), np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith(("bias", "beta", "moving_mean")):
            weight.assign(random.normal(size=weight.shape) * 0.1)
        elif not weight.path.endswith(("kernel", "seed_generator_state")):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    return model


def inputs_of(model: Any) -> Any:
    random = np.random.default_rng(1)

    def drawn(x: Any) -> np.ndarray:
        shape = (2, *(32 if n is None else n for n in x.shape[1:]))
        return random.normal(size=shape).astype("float32")

    return keras.tree.map_structure(drawn, model.input)


def by_name(outputs: Any) -> dict[str, Any]:
    return outputs if isinstance(outputs, dict) else {"output_0": outputs}


def loaded_and_run(name: str, path: Path, x: Any) -> dict[str, Any]:
    named = x if isinstance(x, dict) else {"input": x}
    match name:
        case "keras":
            return by_name(keras.models.load_model(path)(x, training=False))
        case "savedmodel":
            loaded = tf.saved_model.load(str(path))  # which owns the variables
            return by_name(loaded.serve(x))
        case "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            found = session.run(None, named)
            names = [output.name for output in session.get_outputs()]
            return dict(zip(names, found, strict=True)) if len(found) > 1 else by_name(found[0])
    return interpreter_of(path).get_signature_runner()(**named)


def assert_near(found: dict[str, Any], expected: dict[str, Any], most: float) -> None:
    assert found.keys() == expected.keys()
    for output, values in expected.items():
        assert spread(found[output], np.asarray(values, "float32")) < most, output


def with_slow(pairs: list[tuple[str, str]]) -> list[Any]:
    return [pytest.param(*pair, marks=() if pair in FAST else pytest.mark.slow) for pair in pairs]


@pytest.mark.parametrize(("kind", "name"), with_slow([(k, n) for k in KINDS for n in SUFFIXES]))
def test_outputs_stay(kind: str, name: str, tmp_path: Path) -> None:
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    model = made(KINDS[kind])
    x = inputs_of(model)
    path = kb.export(model, tmp_path / f"m{SUFFIXES[name]}")
    assert_near(loaded_and_run(name, path, x), by_name(model(x, training=False)), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith(("unknown", "amid"))])
def test_int8_stays_near(kind: str, tmp_path: Path) -> None:
    model = made(KINDS[kind])
    x = inputs_of(model)
    path = kb.export(model, tmp_path / "m.tflite", representative=x)
    assert_near(loaded_and_run("litert", path, x), by_name(model(x, training=False)), 0.5)


def test_int8_of_a_model_of_whole_numbers(tmp_path: Path) -> None:
    """Whose input takes images as cameras give them."""
    pixels = keras.Input((16, 16, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 255)(pixels)
    model = keras.Model(pixels, kb.ConvBlock(4)(scaled))
    x = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), "uint8")
    path = kb.export(model, tmp_path / "m.tflite", representative=x)
    assert path.stat().st_size > 0


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = kb.ConvBlock(4)
    image = keras.Input((16, 16, 3))
    model = keras.Model(image, model(image))
    with pytest.raises(ValueError, match="finite values"):
        kb.export(model, tmp_path / "m.tflite", representative=np.full((2, 16, 16, 3), np.nan))


# A file that computes as the model does is as near as some of its last places.
HALVES = {"mixed_float16": 4 * 2.0**-10, "mixed_bfloat16": 4 * 2.0**-7}


@pytest.mark.slow
def test_onnx_of_maps_that_are_not_twice_the_coarser(tmp_path: Path) -> None:
    """10 to 19 pixels: ONNX's sizes are products with a rounded factor, and would be 18."""
    pytest.importorskip("tf2onnx")
    rows = [kb.ConvBlock.Spec(4, strides=2), kb.ConvBlock.Spec(4, strides=2)]
    model = kb.Architecture(rows, head=kb.Segmenter(3, stride=2)).model((38, 38, 3))
    x = np.random.default_rng(0).random((2, 38, 38, 3), "float32")
    path = kb.export(model, tmp_path / "odd.onnx")
    np.testing.assert_allclose(run_onnx(path, x), model.predict(x, verbose=0), atol=1e-5)


def as_int8(head: Any, x: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """What a layer alone gives, and its int8 file."""
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, head(inputs))
    kb.export(model, path, representative=x)
    found = np.concatenate([run_litert(path, image[None]) for image in x])
    return found, model.predict(x, verbose=0)


def test_int8_softplus_keeps_small_sides_beside_large_ones(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-4, 8, (50, 4, 4, 8)).astype("float32")
    found, true = as_int8(
        kb.NormAct(normalization=None, activation="softplus"), x, tmp_path / "s.tflite"
    )
    assert np.abs(found - true).max() < 0.1  # the range is 8, a step 1/32


def test_int8_places_of_heatmaps_are_not_drawn_to_a_corner(tmp_path: Path) -> None:
    """The tails of a softmax are less than its steps of 1/256, and far more of them."""
    random, side = np.random.default_rng(0), np.arange(32) + 0.5
    centres = random.uniform(0.3, 0.7, (20, 2)) * 32
    y, x = centres[:, 0, None, None], centres[:, 1, None, None]
    squares = (side[None, :, None] - y) ** 2 + (side[None, None, :] - x) ** 2
    maps = np.maximum(-squares / 32, -12.0)[..., None].astype("float32")
    found, true = as_int8(
        SoftArgmax(ops.SoftArgmax(), "channels_last"), maps, tmp_path / "k.tflite"
    )
    np.testing.assert_allclose(true[:, 0], centres / 32, atol=0.01)
    assert np.abs(found - true).mean() < 0.005


@pytest.mark.parametrize("name", SUFFIXES)
@pytest.mark.parametrize("policy", HALVES)
@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
@pytest.mark.slow
def test_mixed_precision(policy: str, name: str, fused: bool, tmp_path: Path) -> None:
    """ONNX and LiteRT files are those of the same network in float32, the others as it is."""
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    model = made(lambda: in_precision(policy, with_aux))
    x = inputs_of(model)
    kept = model
    if name in ("onnx", "litert"):
        kept = with_aux()
        kept.set_weights(model.get_weights())
    path = kb.export(kb.fuse(model) if fused else model, tmp_path / f"m{SUFFIXES[name]}")
    expected = by_name(kept(x, training=False))
    most = HALVES[policy] if kept is model else 1e-4
    assert_near(loaded_and_run(name, path, x), expected, most)
    assert {layer.compute_dtype for layer in model.layers[1:]} == {policy.removeprefix("mixed_")}


def test_int8_needs_one_input_of_a_known_size(tmp_path: Path) -> None:
    unknown, several = of(kb.Classifier(5), (None, None, 3)), amid_others()
    x = np.random.default_rng(0).normal(size=(2, *INPUT)).astype("float32")
    with pytest.raises(ValueError, match=r"kb\.resize_input.*a model for \(None, None, 3\)"):
        kb.export(unknown, tmp_path / "m.tflite", representative=x)
    with pytest.raises(ValueError, match=r"one input. Received: 2 inputs"):
        kb.export(several, tmp_path / "m.tflite", representative=x)
    assert list(tmp_path.iterdir()) == []
    known = kb.resize_input(unknown, (32, 32))
    assert kb.export(known, tmp_path / "m.tflite", representative=x).exists()


def test_what_litert_cannot_load_is_not_written(tmp_path: Path, monkeypatch: Any) -> None:
    def broken(path: Any, allocate: bool) -> None:
        raise ValueError("Tensor 75 is invalidly specified in schema")

    monkeypatch.setattr("kblocks.common.backend.load_lite", broken)
    with pytest.raises(ValueError, match=r"LiteRT cannot load.*Tensor 75"):
        kb.export(of(kb.Classifier(5)), tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []
