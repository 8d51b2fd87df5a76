"""What holds for every exported block layer, over the table in `conformance.py`."""

from __future__ import annotations

import copy
import json
import pickle
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance import CASES, ORDERS, Case, exported_layers

import kblocks as kb
from kblocks.plans import ops

Images = Callable[..., np.ndarray]
KERAS_OWN = {"name", "trainable", "dtype", "data_format"}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
each_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=pytest.mark.slow if case.more else ())
        for name, case in CASES.items()
    ],
)


def first_of_each_block() -> dict[str, Case]:
    found: dict[type, str] = {}
    for name, case in CASES.items():
        found.setdefault(case.block, name)
    return {name: CASES[name] for name in found.values()}


one_case_a_block = pytest.mark.parametrize(
    "case", first_of_each_block().values(), ids=first_of_each_block().keys()
)


def randomised(layer: Any) -> Any:
    """The layer with all weights moved off the values they start with."""
    rng = np.random.default_rng(7)
    for weight in layer.weights:
        if weight.path.endswith(("kernel", "bias", "beta", "moving_mean")):
            value = rng.normal(size=weight.shape) * 0.3
        else:
            value = rng.uniform(0.5, 1.5, weight.shape)
        weight.assign(value)
    return layer


def forward_and_gradients(
    layer: Any, x: Any, training: bool, turned: bool = False
) -> tuple[Any, list[Any], Any]:
    """Outputs, the gradient of each trainable weight and of the input, of a random projection.

    A plain sum would not do: behind batch normalization its gradient is zero. `turned`
    tells that maps are channels first, so that the projection stays the same.
    """
    x = tf.convert_to_tensor(x)
    if not layer.built:
        layer.build(x.shape)
    weights = [weight.value for weight in layer.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=training)
        seen = tf.cast(outputs, "float64")
        seen = tf.transpose(seen, (0, 2, 3, 1)) if turned and len(seen.shape) == 4 else seen
        loss = tf.reduce_sum(seen * np.random.default_rng(5).normal(size=seen.shape))
    *gradients, into_x = tape.gradient(loss, [*weights, x])
    return outputs, gradients, into_x


# --- the table ---------------------------------------------------------------------------


def test_every_exported_layer_is_in_the_table() -> None:
    missing = set(exported_layers()) - {case.block for case in CASES.values()}
    assert not missing


def test_the_search_for_exported_layers_finds_them() -> None:
    named = {"ConvBlock", "ResidualBlock", "BottleneckBlock", "GlobalConcatPooling2D"}
    assert named | {"MinPooling2D", "Classifier"} <= {b.__name__ for b in exported_layers()}
    assert all(issubclass(block, keras.Layer) for block in exported_layers())


# --- config ------------------------------------------------------------------------------


@every_case
def test_config_round_trip(case: Case) -> None:
    layer = case.layer(name="one", dtype="mixed_bfloat16", data_format="channels_first")
    config = layer.get_config()
    again = case.block.from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config
    assert again.spec == layer.spec
    assert hash(again.spec) == hash(layer.spec)
    assert again.data_format == "channels_first"
    assert again.dtype_policy.name == "mixed_bfloat16"


@every_case
def test_config_and_attributes_cover_every_field(case: Case) -> None:
    layer, spec = case.layer(), case.spec()
    names = set(spec.config())
    assert set(layer.get_config()) == names | KERAS_OWN
    assert set(case.kwargs) <= names
    for name in names:
        assert getattr(layer, name) == getattr(spec, name)


@every_case
def test_a_spec_makes_its_layer_and_the_layer_its_spec(case: Case) -> None:
    spec = case.spec()
    layer = spec.layer(name="one")
    assert type(layer) is case.block
    assert layer.spec == spec
    assert layer.name == "one"
    assert layer.plan(case.shape[-1]) == spec.plan(case.shape[-1])
    assert pickle.loads(pickle.dumps(spec)) == spec
    with pytest.raises((AttributeError, TypeError)):
        spec.name = "changed"


# --- shapes ------------------------------------------------------------------------------


@pytest.mark.thin(6, 3)
@each_case
@pytest.mark.parametrize(("batch", "more"), [(2, 0), (1, 1)])
def test_predicted_shape_is_symbolic_is_eager(
    case: Case, batch: int, more: int, images: Images
) -> None:
    height, width, channels = case.shape
    shape = (height + more, width + more, channels)
    layer = case.layer()
    predicted = layer.compute_output_shape((None, *shape))
    assert predicted[0] is None
    assert layer.compute_output_shape((batch, *shape)) == (batch, *predicted[1:])
    assert case.spec().cost(shape).output_shape == predicted[1:]
    assert layer(keras.Input(shape)).shape == predicted
    assert layer(images(batch, *shape)).shape == (batch, *predicted[1:])


@pytest.mark.thin(8, 4)
@each_case
def test_parts_predict_their_shapes_too(case: Case, images: Images) -> None:
    """Also of a part on its own, as a drawing or an extractor of features would call it."""
    layer = case.layer()
    layer(images(2, *case.shape))
    convolutions = [part for part in layer.layers if isinstance(part, keras.layers.Conv2D)]
    for part in convolutions:
        channels = part.kernel.shape[2] * part.groups
        x = images(2, *case.shape[:2], channels)
        assert part(keras.Input((*case.shape[:2], channels))).shape[1:] == part(x).shape[1:]


@pytest.mark.thin(10, 8)
@each_case
def test_unknown_size(case: Case, images: Images) -> None:
    """Traced with no size known, the numbers are those of known sizes."""
    channels = case.shape[-1]
    if not case.unknown_size:
        with pytest.raises(ValueError, match=r"known|given"):
            case.layer()(keras.Input((None, None, channels)))
        return
    layer = case.layer()
    model = keras.Model(inputs := keras.Input((None, None, channels)), layer(inputs))
    randomised(layer)
    traced = tf.function(model, input_signature=[tf.TensorSpec((None, None, None, channels))])
    for more in (0, 3):
        height, width = case.shape[0] + more, case.shape[1] + more
        x = images(2, height, width, channels)
        outputs = traced(x)
        assert outputs.shape == layer.compute_output_shape(x.shape)
        np.testing.assert_allclose(outputs, layer(x), rtol=1e-4, atol=1e-5)


# --- training ----------------------------------------------------------------------------


@pytest.mark.thin(10, 8)
@each_case
def test_gradients_reach_every_weight(case: Case, images: Images) -> None:
    layer = case.layer()
    x = images(8, *case.shape)
    _, gradients, into_x = forward_and_gradients(layer, x, training=True)
    assert len(gradients) == len(layer.trainable_weights)
    for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
        assert gradient is not None, weight.path
        assert np.all(np.isfinite(gradient)), weight.path
        # A bias in front of a normalization over the same channels has no effect.
        if not weight.path.endswith("bias"):
            assert np.any(gradient), weight.path
    assert np.any(into_x)


# Policy, dtype of the weights, dtype of the outputs, error against float32 in units of spread.
POLICIES = [
    ("mixed_float16", "float32", "float16", 0.03),
    ("mixed_bfloat16", "float32", "bfloat16", 0.25),
    ("float64", "float64", "float64", 1e-5),
]


@pytest.mark.thin(15, 10)
@each_case
def test_dtype_policies(case: Case, images: Images) -> None:
    """A training step in each, and in inference the numbers of float32, to its precision."""
    x = images(4, *case.shape)
    reference = case.layer()
    expected = randomised_outputs(reference, x)
    for policy, variables, computes, tolerance in POLICIES:
        layer = case.layer(dtype=policy)
        outputs, gradients, _ = forward_and_gradients(layer, x, training=True)
        is_head = hasattr(layer.spec, "task")
        assert outputs.dtype == (variables if is_head else computes)
        assert layer(keras.Input(case.shape)).dtype == outputs.dtype
        parts = {part.dtype_policy.name for part in layer.layers}
        assert parts <= {policy, variables} if is_head else parts == {policy}
        assert np.all(np.isfinite(tf.cast(outputs, "float32"))), policy
        for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
            assert (weight.dtype, gradient.dtype.name) == (variables, variables)
            assert np.all(np.isfinite(gradient)), (policy, weight.path)
        layer.set_weights(reference.get_weights())
        error = np.abs(np.asarray(tf.cast(layer(x, training=False), "float64")) - expected)
        assert error.max() / expected.std() < tolerance, policy


def randomised_outputs(layer: Any, x: np.ndarray) -> np.ndarray:
    layer.build(x.shape)
    return np.asarray(randomised(layer)(x, training=False))


@pytest.mark.thin(8, 3)
@one_case_a_block
@pytest.mark.parametrize(
    "policy",
    ["mixed_float16", *(pytest.param(p, marks=pytest.mark.slow) for p in ("float32", "float64"))],
)
def test_a_compiled_step_of_fit(case: Case, policy: str, images: Images) -> None:
    keras.config.set_dtype_policy(policy)
    layer = case.layer()
    model = keras.Sequential([layer, keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.MeanSquaredError())
    x, y = images(4, *case.shape), images(4, 3, seed=1)
    history = model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))


@pytest.mark.thin(12, 8)
@each_case
def test_channels_first_gives_the_same_numbers(case: Case, images: Images) -> None:
    """Forward, and the gradients of weights and input."""
    x = images(3, *case.shape)
    training = not case.random
    last = case.layer(data_format="channels_last")
    last.build(x.shape)
    randomised(last)
    first = case.layer(data_format="channels_first")
    turned = x.transpose(0, 3, 1, 2)
    first.build(turned.shape)
    first.set_weights(last.get_weights())

    predicted = first.compute_output_shape(turned.shape)
    expected, gradients, into_x = forward_and_gradients(last, x, training)
    outputs, others, into_turned = forward_and_gradients(first, turned, training, turned=True)
    assert outputs.shape == predicted
    assert first(keras.Input(turned.shape[1:])).shape[1:] == predicted[1:]
    if len(outputs.shape) == 4:
        outputs = tf.transpose(outputs, (0, 2, 3, 1))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    scale = max((float(np.abs(one).max()) for one in gradients), default=1.0)
    for weight, one, other in zip(last.trainable_weights, gradients, others, strict=True):
        np.testing.assert_allclose(
            other / scale, one / scale, rtol=1e-3, atol=1e-4, err_msg=weight.path
        )
    into_turned = tf.transpose(into_turned, (0, 2, 3, 1))
    np.testing.assert_allclose(into_turned, into_x, rtol=1e-3, atol=1e-3)
    for weight, other in zip(last.non_trainable_weights, first.non_trainable_weights, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-5, err_msg=weight.path)


@pytest.mark.parametrize(
    "policy",
    [
        "mixed_float16",
        "float64",
        *(pytest.param(p, marks=pytest.mark.slow) for p in ("mixed_bfloat16", "float16")),
    ],
)
@pytest.mark.parametrize(
    "name",
    [
        "ConvBlock-default",
        "ConvBlock-strides 2, symmetric",
        "ConvBlock-groups",
        "ConvBlock-depthwise",
        "ConvBlock-pool avg, 3 / (2, 1), symmetric",
        "ConvBlock-pool min, 3 / 2",
        "ResidualBlock-original, projection",
        "ResidualBlock-groups",
        "BottleneckBlock-full pre-activation",
        "MinPooling2D-3 / 1, symmetric",
        "GlobalConcatPooling2D-default",
        "Classifier-adaptive",
    ],
)
def test_channels_first_trains_in_every_dtype(name: str, policy: str, images: Images) -> None:
    """TensorFlow's CPU has no such convolution in float16 and float64: ours then turns the map."""
    case = CASES[name]
    x = images(2, *case.shape)
    last = case.layer(dtype=policy)
    last.build(x.shape)
    layer = case.layer(data_format="channels_first", dtype=policy)
    outputs, gradients, _ = forward_and_gradients(layer, x.transpose(0, 3, 1, 2), training=True)
    ends_in = layer.variable_dtype if name.startswith("Classifier") else layer.compute_dtype
    assert outputs.dtype == ends_in
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    last.set_weights(layer.get_weights())
    expected = np.asarray(tf.cast(last(x, training=False), "float32"))
    outputs = tf.cast(layer(x.transpose(0, 3, 1, 2), training=False), "float32")
    if len(outputs.shape) == 4:
        outputs = tf.transpose(outputs, (0, 2, 3, 1))
    np.testing.assert_allclose(outputs, expected, atol=0.05 * np.abs(expected).max())


def test_data_format_none_takes_keras_setting() -> None:
    keras.config.set_image_data_format("channels_first")
    layer = kb.ConvBlock(8)
    assert layer.data_format == "channels_first"
    assert layer.compute_output_shape((None, 3, 9, 7)) == (None, 8, 9, 7)
    keras.config.set_image_data_format("channels_last")
    assert kb.ConvBlock.from_config(layer.get_config()).data_format == "channels_first"


# --- inside models -----------------------------------------------------------------------


class Subclassed(keras.Model):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.block = layer

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.block(inputs, training=training)


@pytest.mark.thin(12, 8)
@each_case
def test_functional_sequential_and_subclassed_models_agree(case: Case, images: Images) -> None:
    x = images(2, *case.shape)
    layer = case.layer()
    expected = randomised_outputs(layer, x)
    inputs = keras.Input(case.shape)
    functional = keras.Model(inputs, case.layer()(inputs))
    sequential = keras.Sequential([case.layer()])
    built = keras.Sequential([keras.Input(case.shape), case.layer()])
    subclassed = Subclassed(case.layer())
    for model in (functional, sequential, built, subclassed):
        model(x)
        assert model.count_params() == layer.count_params()
        model.set_weights(layer.get_weights())
        np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-5, atol=1e-6)
    copied = copy.deepcopy(layer)
    np.testing.assert_allclose(copied(x, training=False), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.thin(10, 8)
@each_case
def test_clone_model(case: Case, images: Images) -> None:
    inputs = keras.Input(case.shape)
    model = keras.Model(inputs, case.layer(name="one")(inputs))
    randomised(model)
    clone = keras.models.clone_model(model)
    assert clone.get_layer("one").get_config() == model.get_layer("one").get_config()
    assert clone.get_layer("one") is not model.get_layer("one")
    clone.set_weights(model.get_weights())
    x = images(2, *case.shape)
    np.testing.assert_array_equal(clone(x, training=False), model(x, training=False))


LOAD = """
import json, sys
import numpy as np, keras
import kblocks
folder = sys.argv[1]
data = np.load(folder + "/data.npz")
wrong = []
for index, name in enumerate(json.loads(sys.argv[2])):
    model = keras.models.load_model(f"{folder}/{index}.keras", safe_mode=True)
    outputs = np.asarray(model(data[f"x{index}"], training=False))
    if not np.allclose(outputs, data[f"y{index}"], rtol=1e-5, atol=1e-6):
        wrong.append(name)
print(json.dumps(wrong))
"""


@pytest.mark.slow
@pytest.mark.parametrize("more", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_keras_files_load_in_a_fresh_process(
    more: bool, tmp_path: Path, images: Images, fresh_process: Callable[..., str]
) -> None:
    """With safe loading, and with the weights and statistics that were saved."""
    data, cases = {}, {name: case for name, case in CASES.items() if case.more == more}
    for index, case in enumerate(cases.values()):
        inputs = keras.Input(case.shape)
        model = keras.Model(inputs, case.layer()(inputs))
        randomised(model)
        model.save(tmp_path / f"{index}.keras")
        x = images(2, *case.shape)
        data[f"x{index}"], data[f"y{index}"] = x, np.asarray(model(x, training=False))
    np.savez(tmp_path / "data.npz", **data)
    printed = fresh_process(LOAD, str(tmp_path), json.dumps(list(cases)))
    assert json.loads(printed.splitlines()[-1]) == []


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_a_saved_model_keeps_dtype_and_data_format(
    data_format: str, tmp_path: Path, images: Images
) -> None:
    layer = kb.ResidualBlock(8, 3, 2, dtype="mixed_bfloat16", data_format=data_format)
    model = keras.Model(inputs := keras.Input((9, 9, 9)), layer(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = images(2, 9, 9, 9)
    assert loaded(x).dtype == "bfloat16"
    np.testing.assert_array_equal(tf.cast(loaded(x), "float32"), tf.cast(model(x), "float32"))


# --- what the interpreter takes for granted of Keras -------------------------------------


@pytest.mark.thin(8, 4)
@each_case
def test_paths_are_names_of_attributes_sublayers_and_weights(case: Case) -> None:
    layer = case.layer(name="one")
    layer.build((None, *case.shape))
    paths = [path for path, _ in ops.parts(case.spec().plan(case.shape[-1]))]
    assert [part.name for part in layer.layers] == paths
    assert all(getattr(layer, path) is part for path, part in zip(paths, layer.layers, strict=True))
    owned = [weight for part in layer.layers for weight in part.weights]
    assert {id(weight) for weight in owned} == {id(weight) for weight in layer.weights}
    for part in layer.layers:
        for weight in part.weights:
            assert weight.path == f"one/{part.name}/{weight.name}"


@one_case_a_block
def test_keras_leaves_the_plan_as_it_is(case: Case) -> None:
    """Keras wraps tuples that are set as attributes; a wrapped Chain would lose its ops."""
    layer = case.layer()
    layer.build((None, *case.shape))
    plan = case.spec().plan(case.shape[-1])
    assert layer._plan == plan
    assert type(layer._plan) is type(plan)


def test_weights_are_stored_under_readable_paths(tmp_path: Path) -> None:
    inputs = keras.Input((9, 9, 3))
    x = kb.ConvBlock(4, convolutions=2)(inputs)
    outputs = kb.Classifier(2)(kb.BottleneckBlock(2, strides=2)(x))
    keras.Model(inputs, outputs).save_weights(tmp_path / "one.weights.h5")
    stored = set()
    with h5py.File(tmp_path / "one.weights.h5") as file:
        file.visititems(lambda name, item: stored.add(name) if hasattr(item, "shape") else None)
    batch_norm = ["vars/0", "vars/1", "vars/2", "vars/3"]
    expected = {
        "layers/conv_block": {"conv1": ["vars/0"], "conv2": ["vars/0"]}
        | {f"norm{n}": batch_norm for n in (1, 2)},
        "layers/bottleneck_block": {f"main_conv{n}": ["vars/0"] for n in (1, 2, 3)}
        | {f"main_norm{n}": batch_norm for n in (1, 2, 3)}
        | {"shortcut_conv": ["vars/0"], "shortcut_norm": batch_norm},
        "layers/classifier": {"dense": ["vars/0", "vars/1"]},
    }
    assert stored == {
        f"{block}/{part}/{variable}"
        for block, parts in expected.items()
        for part, variables in parts.items()
        for variable in variables
    }


# --- how weights start -------------------------------------------------------------------


def equal_kernels(owner: Any) -> list[str]:
    """Pairs of kernels of equal shape and equal values; demands that equal shapes occur."""
    by_shape = defaultdict(list)
    for weight in owner.trainable_weights:
        if weight.name == "kernel":
            by_shape[tuple(weight.shape)].append((weight.path, np.asarray(weight)))
    groups = [group for group in by_shape.values() if len(group) > 1]
    assert groups
    return [
        f"{one} = {other}"
        for group in groups
        for index, (one, a) in enumerate(group)
        for other, b in group[:index]
        if np.array_equal(a, b)
    ]


INITIALIZERS = {
    "a name": lambda: "he_normal",
    "an object": lambda: keras.initializers.HeNormal(),
    "with a seed": lambda: keras.initializers.HeNormal(seed=1),
    "seed 0": lambda: keras.initializers.GlorotUniform(seed=0),
    "with a generator": lambda: keras.initializers.HeNormal(seed=keras.random.SeedGenerator(1)),
    "orthogonal": lambda: keras.initializers.Orthogonal(seed=1),
}
each_initializer = pytest.mark.parametrize("make", INITIALIZERS.values(), ids=INITIALIZERS.keys())


@each_initializer
@pytest.mark.parametrize(
    ("block", "arguments"),
    [
        (kb.ConvBlock, {"filters": 6, "convolutions": 3}),
        (kb.ResidualBlock, {"filters": 6}),
        (kb.BottleneckBlock, {"filters": 6, "expansion": 1}),
        (kb.Classifier, {"classes": 6, "hidden": (6, 6)}),
    ],
)
def test_kernels_of_equal_shape_start_different(
    block: Any, arguments: dict[str, Any], make: Callable[[], Any]
) -> None:
    layer = block(**arguments, kernel_initializer=make())
    layer.build((None, 9, 9, 6))
    assert equal_kernels(layer) == []


@each_initializer
def test_kernels_start_different_across_blocks(make: Callable[[], Any]) -> None:
    initializer = make()
    inputs = x = keras.Input((8, 8, 6))
    for _ in range(3):
        x = kb.ConvBlock(6, kernel_initializer=initializer)(x)
    assert equal_kernels(keras.Model(inputs, x)) == []
    blocks = [kb.ConvBlock.Spec(6, kernel_initializer=initializer) for _ in range(2)]
    net = kb.Architecture([blocks, ("third", blocks[0]), blocks])
    assert equal_kernels(net.model((8, 8, 6))) == []
    assert equal_kernels(kb.resnet20(kernel_initializer=initializer).model((8, 8, 3))) == []


def test_a_seed_and_a_name_give_the_same_start_each_time() -> None:
    def kernels() -> list[np.ndarray]:
        layer = kb.ConvBlock(
            6, convolutions=2, kernel_initializer=keras.initializers.HeNormal(seed=1), name="one"
        )
        layer.build((None, 9, 9, 6))
        return [np.asarray(layer.conv1.kernel), np.asarray(layer.conv2.kernel)]

    np.testing.assert_array_equal(kernels(), kernels())


def test_kernels_follow_their_initializer(images: Images) -> None:
    """He et al. 2015 (arXiv:1502.01852), Eq. 10: a variance of 2 / fan in."""
    layer = kb.ConvBlock(64, 3, groups=2)
    layer.build((None, 9, 9, 64))
    assert np.std(layer.conv.kernel) == pytest.approx(np.sqrt(2 / (9 * 32)), rel=0.02)
    ones = kb.ConvBlock(4, kernel_initializer="ones", bias_initializer="ones", use_bias=True)
    ones.build((None, 9, 9, 4))
    assert np.all(np.asarray(ones.conv.kernel) == 1)
    assert np.all(np.asarray(ones.conv.bias) == 1)


def test_regularizers_reach_each_convolution(images: Images) -> None:
    case = CASES["ConvBlock-bias, initializers, regularizers"]
    layer = case.layer()
    layer(images(1, *case.shape))
    kernels = sum(np.sum(np.asarray(layer.get_weights()[i]) ** 2) for i in _places(layer, "kernel"))
    biases = sum(np.sum(np.abs(layer.get_weights()[i])) for i in _places(layer, "bias"))
    assert len(layer.losses) == 4
    assert sum(float(loss) for loss in layer.losses) == pytest.approx(
        1e-3 * kernels + 0.01 * biases, rel=1e-4
    )


def _places(layer: Any, name: str) -> list[int]:
    return [index for index, weight in enumerate(layer.weights) if weight.name == name]


# --- training and inference --------------------------------------------------------------

RATE = 0.3
SAMPLES = 4000


def within_four_sigma(share: float, rate: float, samples: int) -> bool:
    return abs(share - rate) < 4 * np.sqrt(rate * (1 - rate) / samples)


def test_dropout_zeroes_at_its_rate_and_scales_the_rest() -> None:
    layer = kb.ConvBlock(
        SAMPLES, 1, activation=None, normalization=None, kernel_initializer="ones", dropout=RATE
    )
    ones = np.ones((1, 1, 1, 1), "float32")
    np.testing.assert_array_equal(layer(ones, training=False), np.ones((1, 1, 1, SAMPLES)))
    np.testing.assert_array_equal(layer(ones), np.ones((1, 1, 1, SAMPLES)))
    trained = np.asarray(layer(ones, training=True))
    assert within_four_sigma(np.mean(trained == 0), RATE, SAMPLES)
    np.testing.assert_allclose(trained[trained != 0], 1 / (1 - RATE), rtol=1e-6)
    assert not np.array_equal(trained, layer(ones, training=True))


@pytest.mark.parametrize("block", [kb.ResidualBlock, kb.BottleneckBlock])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_stochastic_depth_drops_whole_main_paths(
    block: Any, data_format: str, images: Images
) -> None:
    """Huang et al. 2016, arXiv:1603.09382; scaled in training, so that inference is plain."""
    layer = block(
        1,
        shortcut="zero_pad",
        order="relu_before_addition",
        activation=None,
        normalization=None,
        kernel_initializer="ones",
        stochastic_depth=RATE,
        data_format=data_format,
    )
    outputs = 1 if block is kb.ResidualBlock else 4
    shape = (2, 2, outputs) if data_format == "channels_last" else (outputs, 2, 2)
    x = np.abs(images(SAMPLES, *shape)) + 1
    main = np.asarray(layer(x, training=False)) - x
    assert np.abs(main).min() > 1
    kept = (np.asarray(layer(x, training=True)) - x) / main
    dropped = np.abs(kept.reshape(SAMPLES, -1)).max(axis=1) < 1e-3
    np.testing.assert_allclose(kept[~dropped], 1 / (1 - RATE), rtol=1e-3)
    assert within_four_sigma(dropped.mean(), RATE, SAMPLES)


@pytest.mark.parametrize("order", ORDERS)
def test_stochastic_depth_leaves_inference_alone(order: str, images: Images) -> None:
    x = images(4, 9, 8, 6)
    plain = kb.ResidualBlock(8, 3, 2, order=order)
    expected = randomised_outputs(plain, x)
    layer = kb.ResidualBlock(8, 3, 2, order=order, stochastic_depth=0.9)
    layer.build(x.shape)
    layer.set_weights(plain.get_weights())
    np.testing.assert_array_equal(layer(x, training=False), expected)
    assert not np.allclose(layer(x, training=True), plain(x, training=True))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_batch_norm_learns_its_statistics_in_training_only(momentum: float, images: Images) -> None:
    layer = kb.NormAct(normalization=kb.Norm("batch", momentum=momentum))
    x = images(64, 3, 3, 5) * 2 + 1
    layer(x, training=False)
    np.testing.assert_array_equal(layer.norm.moving_mean, np.zeros(5))
    layer(x, training=True)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(layer.norm.moving_mean, (1 - momentum) * mean, rtol=1e-4, atol=1e-6)
    expected = momentum + (1 - momentum) * variance
    np.testing.assert_allclose(layer.norm.moving_variance, expected, rtol=1e-4)


@pytest.mark.parametrize("when", ["made", "before build", "after build", "loaded"])
def test_a_frozen_block_keeps_weights_and_statistics(
    when: str, tmp_path: Path, images: Images
) -> None:
    layer = kb.ResidualBlock(4, trainable=when not in ("made", "loaded"))
    if when == "before build":
        layer.trainable = False
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, layer(inputs))
    if when == "after build":
        layer.trainable = False
    if when == "loaded":
        model.save(tmp_path / "frozen.keras")
        model = keras.models.load_model(tmp_path / "frozen.keras")
    before = model.get_weights()
    model(images(16, 8, 8, 4) + 3, training=True)
    assert model.trainable_weights == []
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    model.layers[-1].trainable = True
    model(images(16, 8, 8, 4) + 3, training=True)
    assert model.trainable_weights
    assert not np.array_equal(before[3], model.get_weights()[3])
