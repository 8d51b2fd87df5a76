"""What users of Keras and timm type first: it works, or the error has the line that does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"weights": "imagenet"}, r"\.model\(\(224, 224, 3\), weights=\"imagenet\"\)"),
        ({"include_top": False}, r"include_top=False\)"),
        ({"pooling": "avg"}, r"pooling=\"avg\"\)"),
        ({"input_shape": (224, 224, 3)}, r"\.model\(\(224, 224, 3\)\)"),
        ({"classifier_activation": "softmax"}, r"classifier_activation=\"softmax\"\)"),
        ({"num_classes": 10}, r"`classes`"),
        ({"pretrained": True}, r'weights="imagenet"'),
        ({"in_chans": 1}, r"\.model\(\(224, 224, 3\)\)"),
        ({"drop_rate": 0.1}, r"kb\.Classifier\(10, dropout="),
        ({"data_format": "channels_first"}, r'data_format="channels_first"'),
        ({"features_only": True}, r"\.features\(\(224"),
    ],
)
@pytest.mark.parametrize("build", [kb.resnet50, kb.vgg16, kb.inception_v3, kb.densenet121])
def test_arguments_of_keras_applications(
    build: Callable[..., Any], arguments: dict[str, Any], line: str
) -> None:
    with pytest.raises(TypeError, match=line):
        build(**arguments)


@pytest.mark.parametrize("name", ["summary", "compile", "fit", "predict", "save", "layers"])
def test_an_architecture_says_how_to_make_the_model(name: str) -> None:
    line = rf"net\.model\(\(height, width, channels\)\)\.{name}"
    with pytest.raises(AttributeError, match=line):
        getattr(kb.resnet18(), name)
    assert not hasattr(kb.resnet18(), name)


def test_an_architecture_is_neither_called_nor_a_builder() -> None:
    with pytest.raises(TypeError, match="`builder` must be a function"):
        kb.Space(kb.resnet18())
    with pytest.raises(TypeError, match=r"net\.model\(\(height, width, channels\)\)"):
        kb.resnet18()(np.zeros((1, 32, 32, 3)))


def test_arguments_of_keras_layers() -> None:
    assert kb.ConvBlock.Spec(8, padding="SAME") == kb.ConvBlock.Spec(8, padding="same")


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        *(("use_batchnorm", "normalization"), ("use_bn", "normalization"), ("act", "activation")),
        *(("activation_fn", "activation"), ("n_filters", "filters"), ("stride", "strides")),
        *(("kernel", "kernel_size"), ("dilation", "dilation_rate"), ("bias", "use_bias")),
        *(("out_channels", "filters"), ("drop_rate", "dropout"), ("pooling_size", "pool_size")),
    ],
)
def test_words_of_other_libraries_are_answered_with_ours(word: str, ours: str) -> None:
    with pytest.raises(TypeError, match=rf"ConvBlock has no argument '{word}'\. .*[`']{ours}[`']"):
        kb.ConvBlock.Spec(8, **{word: 1})


def test_the_first_block_of_a_sequential_takes_input_shape() -> None:
    """With Keras' own warning, as Keras' own layers do."""
    kinds: list[Any] = [keras.layers.Conv2D, kb.ConvBlock]
    for kind in kinds:
        with pytest.warns(UserWarning, match="Do not pass an `input_shape`"):
            model = keras.Sequential([kind(4, 3, input_shape=(8, 8, 3))])
        assert model.built
        assert model.input_shape == (None, 8, 8, 3)


def test_layers_of_keras_in_an_architecture_are_answered_with_a_block() -> None:
    layer = keras.layers.Conv2D(4, 3)
    with pytest.raises(ValueError, match=r"stage1 must be .*kb\.ConvBlock\.Spec\(32"):
        kb.Architecture([layer])
    with pytest.raises(ValueError, match=r"head must be a number of classes.*kb\.Classifier\(10"):
        kb.Architecture([kb.ConvBlock.Spec(4)], head=keras.layers.Dense(10))


def test_a_number_of_classes_is_a_head() -> None:
    rows = [kb.ConvBlock.Spec(4)]
    assert kb.Architecture(rows, head=10) == kb.Architecture(rows, head=kb.Classifier(10))
    with pytest.raises(
        ValueError, match=r"`head` must be .*classes=7 sets"
    ):  # auxiliary ones have it too
        kb.googlenet(head=7)
    for wrong in (0, True, 2.0):
        with pytest.raises(ValueError, match="must be"):
            kb.Architecture(rows, head=wrong)


NET = kb.Architecture([kb.ConvBlock.Spec(4), kb.ResidualBlock.Spec(8, strides=2)], head=3)


def test_dtype_and_dataformat_of_one_model(tmp_path: Path) -> None:
    """Its outputs are those of a model under Keras' settings with the same weights."""
    usual = NET.model((8, 8, 3), classifier_activation="softmax")
    how = {"dtype": "mixed_bfloat16", "data_format": "channels_first"}
    model = NET.model((8, 8, 3), classifier_activation="softmax", **how)
    model.set_weights(usual.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    found = np.asarray(model(x.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(found.astype("float32"), np.asarray(usual(x)), atol=0.02)
    model.save(tmp_path / "m.keras")
    loaded: Any = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(np.asarray(loaded(x.transpose(0, 3, 1, 2))), found)
    for one in (model, loaded):
        assert one.output.dtype == "float32"  # of a head, with the activation behind it
        assert {layer.dtype_policy.name for layer in one.layers[1:4]} == {"mixed_bfloat16"}
        assert {layer.data_format for layer in one.layers[1:4]} == {"channels_first"}
    assert NET.model((8, 8, 3)).layers[1].dtype_policy.name == "float32"


def test_shapes_of_images_with_channels_first_are_told() -> None:
    with pytest.warns(UserWarning, match=r"is \(height, width, channels\) in both"):
        NET.model((3, 8, 8), data_format="channels_first")


def test_features_take_dtype_and_data_format() -> None:
    policy = keras.DTypePolicy("float16")
    features = NET.features((8, 8, 3), "stage2", dtype=policy, data_format="channels_first")
    output = features.output["stage2"]
    assert (output.dtype, tuple(output.shape)) == ("float16", (None, 8, 4, 4))
    without = NET.model((8, 8, 3), include_top=False, pooling="max", dtype=policy)
    assert without.output.dtype == "float16"


@pytest.mark.parametrize("dtype", ["float", "int32", "int8_from_float32", 16, "mixed"])
def test_dtypes_that_are_none_are_refused(dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"`dtype` must be a Keras dtype policy.*Received: dtype="):
        NET.model((8, 8, 3), dtype=dtype)
    with pytest.raises(ValueError, match=r"`data_format` must be .*Received: data_format='NHWC'"):
        NET.model((8, 8, 3), data_format="NHWC")


def test_losses_and_augmentation_that_read_keras_setting_refuse_another_data_format() -> None:
    with pytest.raises(ValueError, match="`data_format` must be Keras' setting, 'channels_last'"):
        kb.resnet20(head=kb.Segmenter(2, 4)).model((32, 32, 3), data_format="channels_first")
    with pytest.raises(ValueError, match="`augmentation` needs a model in Keras' data format"):
        kb.Recipe(augmentation="flip").compile(NET.model((8, 8, 3), data_format="channels_first"))


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, np.ndarray]:
    """ResNet-18's published set, on the disk: random weights of 1000 classes."""
    from safetensors.numpy import save_file

    state = kb.to_torch_state_dict(kb.resnet18().model((32, 32, 3)))
    path = tmp_path / "model.safetensors"
    save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, path)
    from kblocks.networks import torch_weights

    read = torch_weights.opened
    monkeypatch.setattr(
        torch_weights, "opened", lambda source: read(path if "hf://" in str(source) else source)
    )
    return state


def test_imagenet_is_the_first_published_set(published: dict[str, np.ndarray]) -> None:
    model = kb.resnet18().model((32, 32, 3), weights="imagenet")
    np.testing.assert_array_equal(
        kb.to_torch_state_dict(model)["fc.weight"], published["fc.weight"]
    )


def test_other_classes_get_a_new_head(published: dict[str, np.ndarray]) -> None:
    """As timm's `create_model(..., pretrained=True, num_classes=7)`, and it is said."""
    with pytest.warns(UserWarning, match="has 7 classes and the published one 1000"):
        model = kb.resnet18(classes=7).model((32, 32, 3), weights="imagenet")
    state = kb.to_torch_state_dict(model)
    assert state["fc.weight"].shape == (7, 512)
    for name in ("conv1.weight", "layer4.1.bn2.running_var"):
        np.testing.assert_array_equal(state[name], published[name])


def test_imagenet_of_a_network_without_weights_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match="`weights` must be a file"):
        kb.resnet20().model((32, 32, 3), weights="imagenet")
    assert isinstance(kb.resnet20().model((32, 32, 3)), keras.Model)


def test_quantities_as_people_write_them() -> None:
    assert kb.Budget(macs="20M", params="1.5 M", min_macs="2k") == kb.Budget(
        macs=20e6, params=1.5e6, min_macs=2e3
    )
    assert kb.Budget(training_memory="4G") == kb.Budget(training_memory=4e9)
    assert kb.Budget(macs="2e7") == kb.Budget(macs=20e6)
    for wrong in ("20 X", "M", "", "-3k", "nan"):
        with pytest.raises(ValueError, match="`macs` must be a positive number"):
            kb.Budget(macs=wrong)


@pytest.mark.parametrize("suffix", [".h5", ".pb", ".pth"])
def test_suffixes_of_other_formats_are_refused(suffix: str, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"must end in \.keras, \.onnx, \.tflite, or be a"):
        kb.export(model, tmp_path / f"model{suffix}")
    assert not list(tmp_path.iterdir())


def test_tflite_is_the_name_of_litert_too() -> None:
    from kblocks.model_tools.exporting import format_of

    assert format_of(Path("m.tflite"), "tflite") == format_of(Path("m.tflite"), None) == "litert"


def net_of(head: Any) -> kb.Architecture:
    return kb.Architecture([kb.ConvBlock.Spec(4, strides=4)], head=head)


OF_SHARES = keras.losses.SparseCategoricalCrossentropy()
OF_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        keras.losses.categorical_crossentropy,
        OF_SHARES,
        keras.losses.BinaryCrossentropy(),
        "kl_divergence",
        [OF_SHARES],
    ],
)
def test_a_loss_of_probabilities_on_logits_is_told_once(loss: Any) -> None:
    model = net_of(kb.Classifier(3)).model((8, 8, 3))
    with pytest.warns(UserWarning, match="output 'logits' of network is logits") as told:
        model.compile("sgd", loss)
    assert len(told) == 1
    assert told[0].filename == __file__


def test_a_loss_of_probabilities_for_one_of_several_heads() -> None:
    net = net_of(
        {"kind": kb.Classifier(3), "box": kb.Localizer(2), "mask": kb.Segmenter(2, stride=4)}
    )
    losses = {**net.head.losses(), "kind": "sparse_categorical_crossentropy"}
    model = net.model((8, 8, 3))
    with pytest.warns(UserWarning, match="output 'kind'") as told:
        model.compile("sgd", losses)
    assert len(told) == 1
    model.compile("sgd", **net.head.training())


@pytest.mark.parametrize(
    "loss",
    [None, OF_LOGITS, "mse", lambda y, p: keras.ops.mean(p), keras.losses.Hinge(), {"head": "mse"}],
)
def test_other_losses_and_activated_heads_give_no_alarm(loss: Any) -> None:
    """Warnings are errors here."""
    net = net_of(kb.Classifier(3))
    net.model((8, 8, 3)).compile("sgd", loss)
    net.model((8, 8, 3)).compile()
    net.model((8, 8, 3), classifier_activation="softmax").compile("sgd", OF_SHARES)
    net.model((8, 8, 3), include_top=False, pooling="avg").compile("sgd", OF_SHARES)
    net_of(kb.Keypoints(2)).model((8, 8, 3)).compile("sgd", OF_SHARES)
    inner = net.model((8, 8, 3))
    keras.Sequential([inner, keras.layers.Softmax()]).compile("sgd", OF_SHARES)


def test_the_warning_is_no_part_of_a_model(tmp_path: Path) -> None:
    model = net_of(kb.Classifier(3)).model((8, 8, 3))
    model.compile("sgd", OF_LOGITS)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded) is type(model)
    assert copy.deepcopy(model).count_params() == model.count_params()
