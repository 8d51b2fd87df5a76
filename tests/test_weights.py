"""Published weights from every source, into every kind of model, and back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

import kblocks as kb

INPUT = (32, 32, 3)


def small(**arguments: Any) -> kb.Architecture:
    return kb.resnet18(5, filters=[4, 8, 8, 16], **arguments)


@pytest.fixture
def state() -> dict[str, np.ndarray]:
    """Random weights by torchvision's names; the sums tell that none was left at its default."""
    model = small().model(INPUT)
    random = np.random.default_rng(0)
    return {
        name: random.uniform(0.5, 1.5, value.shape).astype("float32")
        for name, value in kb.to_torch_state_dict(model).items()
    }


def assert_holds(model: keras.Model, state: dict[str, np.ndarray], prefix: str = "") -> None:
    back = kb.to_torch_state_dict(model, prefix=prefix)
    assert back.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_a_mapping_and_a_safetensors_file(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Counters of batches, which torch keeps, are passed over."""
    model = small().model(INPUT)
    kb.load_torch_weights(model, {**state, "bn1.num_batches_tracked": np.array(7)})
    assert_holds(model, state)
    save_file(state, tmp_path / "w.safetensors")
    assert_holds(small().model(INPUT, weights=str(tmp_path / "w.safetensors")), state)


def test_a_file_of_what_a_model_gives_back(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    """As given: safetensors writes an array's memory, and transposed views have another order."""
    model = small().model(INPUT)
    kb.load_torch_weights(model, state)
    given = kb.to_torch_state_dict(model)
    save_file(given, tmp_path / "w.safetensors")
    assert_holds(small().model(INPUT, weights=str(tmp_path / "w.safetensors")), state)
    kb.load_torch_weights(model, {name: value + 1 for name, value in state.items()})
    np.testing.assert_array_equal(given["conv1.weight"], state["conv1.weight"])


@pytest.mark.parametrize("ending", ["pth", "pt", "bin"])
def test_a_file_of_torch(state: dict[str, np.ndarray], tmp_path: Path, ending: str) -> None:
    """Tensors, parameters and batch counters; bfloat16 too, which NumPy lacks."""
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    tensors["fc.bias"] = torch.nn.Parameter(tensors["fc.bias"])
    tensors["bn1.num_batches_tracked"] = torch.tensor(7)
    path = tmp_path / f"weights.{ending}"
    torch.save(tensors, path)
    assert_holds(small().model(INPUT, weights=path), state)
    torch.save({name: tensor.bfloat16() for name, tensor in tensors.items()}, path)
    model = small().model(INPUT, weights=str(path))
    for name, value in kb.to_torch_state_dict(model).items():
        np.testing.assert_allclose(value, state[name], rtol=2**-8, err_msg=name)


@pytest.mark.parametrize("holds", [{"state_dict": {}, "epoch": 3}, [1, 2]])
def test_a_file_of_torch_that_holds_no_state_dict(tmp_path: Path, holds: Any) -> None:
    torch = pytest.importorskip("torch")
    torch.save(holds, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=r"state_dict.*Received: (\['state_dict', 'epoch'\]|list)"):
        kb.load_torch_weights(small().model(INPUT), tmp_path / "checkpoint.pth")


def test_a_file_of_torch_needs_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="pip install torch"):
        kb.load_torch_weights(small().model(INPUT), tmp_path / "weights.pth")


def test_a_repository_of_the_hub(
    state: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is asked for by its repository and name."""
    save_file(state, tmp_path / "model.safetensors")
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert_holds(small().model(INPUT, weights="hf://owner/repo"), state)
    kb.load_torch_weights(small().model(INPUT), "hf://owner/repo/other.safetensors")
    assert asked == [("owner/repo", "model.safetensors"), ("owner/repo", "other.safetensors")]


def test_a_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, with what was asked for and a way round."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(repository: str, file: str) -> str:
        raise LocalEntryNotFoundError("No connection\nand more of it")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(
        OSError, match=r"hf://owner/repo.*No connection\. On a machine.*given by its path"
    ) as e:
        kb.load_torch_weights(small().model(INPUT), "hf://owner/repo")
    assert "\n" not in str(e.value)
    assert e.value.__suppress_context__


def test_a_file_of_a_package(
    state: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that is installed, and is not imported for it."""
    package = tmp_path / "some_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    save_file(state, package / "models" / "small.safetensors")
    monkeypatch.syspath_prepend(tmp_path)
    source = "package://some_weights/models/small.safetensors"
    assert_holds(small().model(INPUT, weights=source), state)
    with pytest.raises(ImportError, match="pip install no_weights"):
        kb.load_torch_weights(small().model(INPUT), "package://no_weights/small.pth")
    with pytest.raises(ValueError, match="file of some_weights"):
        kb.load_torch_weights(small().model(INPUT), "package://some_weights/other.safetensors")


def test_other_classes_and_no_head(state: dict[str, np.ndarray]) -> None:
    """`skip_head` keeps the fresh classifier; a model without a head needs no word."""
    model = kb.resnet18(9, filters=[4, 8, 8, 16]).model(INPUT)
    fresh = keras.ops.convert_to_numpy(model.get_layer("head").weights[0])
    kb.load_torch_weights(model, state, skip_head=True)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(model.get_layer("head").weights[0]), fresh
    )
    np.testing.assert_array_equal(
        kb.to_torch_state_dict(model)["conv1.weight"], state["conv1.weight"]
    )
    body = small().model(INPUT, include_top=False, weights=state)
    assert_holds(body, {n: v for n, v in state.items() if not n.startswith("fc.")})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("layer2.0.conv1.weight"), "missing layer2.0.conv1.weight"),
        (lambda s: s.update({"layer9.weight": np.ones(3)}), "left over layer9.weight"),
        (lambda s: s.update({"fc.bias": np.ones(7)}), r"fc.bias is \(7,\)"),
        (lambda s: s.update({"conv1.weight": np.ones((4, 3, 7, 5))}), "conv1.weight is"),
        (lambda s: s.update({"conv1.weight": np.ones(4 * 3 * 7 * 7)}), "conv1.weight is"),
        (
            lambda s: s.update({"fc.bias": s["fc.bias"].astype(str)}),
            "fc.bias holds no real numbers",
        ),
        (lambda s: s.update({"fc.bias": s["fc.bias"] + 1j}), "fc.bias holds.*complex"),
        (lambda s: s.update({"fc.bias": [None] * len(s["fc.bias"])}), "fc.bias holds.*object"),
        (lambda s: s.update({"fc.bias": None}), "fc.bias holds.*object"),
        (lambda s: s.update({"fc.bias": [[1, 2], [3]]}), "fc.bias is no array"),
        (lambda s: s.update({3: np.ones(2)}), "left over 3"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(
    state: dict[str, np.ndarray], change: Any, words: str
) -> None:
    model = small().model(INPUT)
    before = [keras.ops.convert_to_numpy(w) for w in model.weights]
    change(state)
    with pytest.raises(ValueError, match=words):
        kb.load_torch_weights(model, state)
    for one, other in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(one, keras.ops.convert_to_numpy(other))


def test_the_head_is_found_wherever_the_network_was_built(state: dict[str, np.ndarray]) -> None:
    """Under a name scope, which paths of weights begin with, and beside another network."""
    with keras.name_scope("rgb"):
        model = kb.resnet18(9, filters=[4, 8, 8, 16]).model(INPUT)
    kb.load_torch_weights(model, state, skip_head=True)
    assert model.get_layer("head").weights[0].path.startswith("rgb/")
    one = small().model(INPUT, prefix="one_", weights=state)
    two = small().model(INPUT, prefix="two_")
    both = keras.Model([one.input, two.input], [one.output, two.output])
    fresh = two.get_weights()
    assert_holds(one, state, prefix="one_")
    for old, now in zip(fresh, two.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    kb.load_torch_weights(both, state, prefix="two_")
    assert_holds(both, state, prefix="two_")
    assert kb.extract(two, "two_stage2").output_shape == (None, 4, 4, 8)


@pytest.mark.parametrize(
    "source", ["weights.txt", 3, "hf://owner", "package://name", "package:///file.pth"]
)
def test_an_unknown_source_is_refused(source: Any) -> None:
    with pytest.raises(ValueError, match="`source`"):
        kb.load_torch_weights(small().model(INPUT), source)


def test_weight_sets_are_data_on_the_architecture() -> None:
    """Where a change would leave the published weights no place there are none."""
    known = kb.resnet50().weights[0]
    assert (known.name, known.license, known.top1) == ("tv_in1k", "bsd-3-clause", 76.13)
    assert kb.resnet50(classes=10).weights == kb.resnet50().weights
    assert kb.resnet50(kernel_size=5).weights == ()
    with pytest.raises(ValueError, match="tv_in1k"):
        kb.resnet18().model(INPUT, weights="imagenet22k")


def test_preprocessing_is_the_formula() -> None:
    """Resized, its centre cut out, in [0, 1], mean and deviation of each channel."""
    layer = kb.resnet50().weights[0].preprocessing()
    image = np.full((1, 300, 400, 3), 255.0, "float32")
    image[..., 1] = 0
    found = np.array(layer(image))
    assert found.shape == layer.compute_output_shape(image.shape) == (1, 224, 224, 3)
    expected = (np.array([1, 0, 1]) - [0.485, 0.456, 0.406]) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(found[0, 100, 100], expected, rtol=1e-5)
    again = kb.Preprocessing.from_config(layer.get_config())
    np.testing.assert_array_equal(np.array(again(image)), found)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_preprocessing_takes_one_image_as_it_takes_a_batch(data_format: str) -> None:
    """As Keras' own layers of images do."""
    keras.config.set_image_data_format(data_format)
    layer = kb.Preprocessing(32)
    batch = np.random.default_rng(0).uniform(0, 255, (2, 40, 50, 3)).astype("float32")
    batch = batch if data_format == "channels_last" else batch.transpose(0, 3, 1, 2)
    one = np.array(layer(batch[1]))
    assert one.shape == layer.compute_output_shape(batch[1].shape)
    assert one.shape == ((32, 32, 3) if data_format == "channels_last" else (3, 32, 32))
    np.testing.assert_allclose(one, np.array(layer(batch))[1], atol=1e-6)


def test_the_three_forms_of_resnext_are_equal() -> None:
    """Xie et al. 2016, Fig. 3: added branches (a), concatenated ones (b), groups (c)."""
    cardinality, width, filters = 4, 3, 8
    block = kb.ResNeXtBlock(
        filters, cardinality=cardinality, group_width=width, normalization=None, use_bias=False
    )
    x = np.random.default_rng(0).normal(size=(2, 7, 6, filters)).astype("float32")
    found = np.array(block(x))
    reduce, spatial, expand = (
        keras.ops.convert_to_numpy(part.kernel) for part in block.layers if part.weights
    )
    convolve = keras.ops.conv
    added, concatenated = 0, []
    for group in range(cardinality):
        here = slice(group * width, (group + 1) * width)
        path = keras.ops.relu(convolve(x, reduce[..., here], padding="same"))
        path = keras.ops.relu(convolve(path, spatial[..., here], padding="same"))
        concatenated.append(path)
        added = added + convolve(path, expand[:, :, here], padding="same")
    joined = convolve(keras.ops.concatenate(concatenated, -1), expand, padding="same")
    for form in (added, joined):
        np.testing.assert_allclose(np.array(keras.ops.relu(form + x)), found, atol=1e-5)
