"""Freezing up to a stage, and learning rates that differ by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb

INPUT = (8, 8, 3)
NET = kb.Architecture(
    [
        ("stem", kb.ConvBlock.Spec(4)),
        [kb.ResidualBlock.Spec(4), kb.ResidualBlock.Spec(4)],
        [kb.ResidualBlock.Spec(6, strides=2)],
    ],
    head=kb.Classifier(3),
)
RATES = {"stem": 0.1, "stage2": 0.5, "stage2_block2": 3.0, "head/dense/bias": 0.0}


def made(optimizer: Any, **compiled: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = NET.model(INPUT)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **compiled)
    return model


def batch() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(8, *INPUT)).astype("float32"), random.integers(0, 3, 8)


def weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}


# --- freezing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("upto", "still"),
    [
        ("stem", {"stem"}),
        ("stage2", {"stem", "stage2_block1", "stage2_block2"}),
        ("stage2_block1", {"stem", "stage2_block1"}),
        ("head", {"stem", "stage2_block1", "stage2_block2", "stage3_block1", "head"}),
        (None, set()),
    ],
)
@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_only_what_comes_after_learns(upto: str | None, still: set[str]) -> None:
    """Kernels and statistics of frozen layers stay to the bit, all others move."""
    model = kb.freeze(NET.model(INPUT), upto)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = weights(model)
    model.fit(*batch(), verbose=0)
    for path, value in weights(model).items():
        assert np.array_equal(value, before[path]) == (path.split("/")[0] in still), path


def test_frozen_normalisations_use_their_statistics() -> None:
    model = kb.freeze(NET.model(INPUT), "head")
    x, _ = batch()
    np.testing.assert_array_equal(model(x, training=True), model(x, training=False))
    kb.freeze(model, "stage3")
    np.testing.assert_array_equal(model(x, training=True), model(x, training=False))
    kb.freeze(model, "stage2")
    assert not np.allclose(model(x, training=True), model(x, training=False))


def test_all_normalisations_can_stay_while_the_rest_learns() -> None:
    """And learn again after another call, which holds for what was frozen by hand too."""
    model = kb.freeze(NET.model(INPUT), "stem", norms=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for norms in (True, False):
        model.compile("sgd", loss)
        before = weights(kb.freeze(model, None, norms=norms))
        model.fit(*batch(), verbose=0)
        for path, value in weights(model).items():
            stays = norms and "norm" in path.rsplit("/", 2)[1]
            assert np.array_equal(value, before[path]) == stays, path


def test_freezing_a_model_that_has_trained_needs_no_luck() -> None:
    """Without a new `compile`, too: the traced step is not used again."""
    model = made("sgd")
    model.fit(*batch(), verbose=0)
    before = weights(kb.freeze(model, "stage2"))
    model.fit(*batch(), verbose=0)
    changed = {
        p.split("/")[0] for p, v in weights(model).items() if not np.array_equal(v, before[p])
    }
    assert changed == {"stage3_block1", "head"}


def test_a_saved_model_stays_frozen(tmp_path: Path) -> None:
    model = kb.freeze(made("sgd"), "stage2")
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert [w.path for w in loaded.trainable_weights] == [w.path for w in model.trainable_weights]


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def test_frozen_norms_stay_so_when_saved_and_cloned(tmp_path: Path) -> None:
    """As `trainable` of the layers of an equal Keras model does."""
    model = kb.freeze(made("sgd"), "stem", norms=True)
    learning = [weight.path for weight in model.trainable_weights]
    assert {path.rsplit("/", 1)[1] for path in learning} == {"kernel", "bias"}
    model.compile("sgd", LOSS)
    model.save(tmp_path / "m.keras")
    loaded: Any = keras.models.load_model(tmp_path / "m.keras")
    for other in (loaded, keras.models.clone_model(model)):
        assert [weight.path for weight in other.trainable_weights] == learning
    block = model.get_layer("stage3_block1")
    unbuilt = type(block).from_config(block.get_config())
    assert unbuilt.get_config() == block.get_config()
    before = weights(loaded)
    loaded.fit(*batch(), verbose=0)
    assert {p for p, v in weights(loaded).items() if np.any(v != before[p])} == {*learning}


def test_an_unfrozen_model_is_saved_as_before() -> None:
    model = kb.freeze(kb.freeze(NET.model(INPUT), "stage2", norms=True), None)
    assert model.to_json() == NET.model(INPUT).to_json()


def test_an_unknown_stage_is_told_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"`upto` must name a stage \(stem, stage2, stage3, head\)"
    ):
        kb.freeze(NET.model(INPUT), "stage4")
    many: Any = 5
    with pytest.raises(ValueError, match=r"`upto` must name a stage .*upto=5"):
        kb.freeze(NET.model(INPUT), many)


# --- learning rates ------------------------------------------------------------------------


def multiplier(path: str) -> float:
    """By hand, what `RATES` say."""
    known = {"stem": 0.1, "stage2_block1": 0.5, "stage2_block2": 3.0}
    return 0.0 if path == "head/dense/bias" else known.get(path.split("/")[0], 1.0)


@pytest.mark.thin(8)
@pytest.mark.parametrize("eagerly", [False, True])
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        *("SGD", "Adam"),
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("AdamW", "RMSprop", "Nadam", "Lion")),
    ],
)
def test_a_step_is_as_many_times_as_long(name: str, prepared: bool, eagerly: bool) -> None:
    """The first step of the plain optimizer, times the multiplier, decoupled decay included."""
    if eagerly and name not in ("SGD", "AdamW"):
        pytest.skip("one with and one without slots are enough")
    own = {"weight_decay": 0.1} if name == "AdamW" else {}

    def step(scaled: bool) -> dict[str, np.ndarray]:
        optimizer = getattr(keras.optimizers, name)(0.01, **own)
        if scaled:
            optimizer = kb.learning_rate_multipliers(optimizer, RATES)
        model = made(optimizer, run_eagerly=eagerly)
        if prepared:
            kb.prepare(model)
        before = weights(model)
        model.train_on_batch(*batch())
        return {
            w.path: keras.ops.convert_to_numpy(w) - before[w.path] for w in model.trainable_weights
        }

    plain, scaled = step(False), step(True)
    assert all(np.abs(moved).max() > 1e-6 for moved in plain.values())
    for path, moved in scaled.items():
        expected = plain[path] * multiplier(path)
        np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-6, err_msg=path)


@pytest.mark.slow
def test_what_is_not_to_decay_does_not() -> None:
    """Neither by name nor as one variable, also where it was said of the plain optimizer."""

    def moved(excluded: bool) -> dict[str, np.ndarray]:
        model = made("sgd")
        optimizer = keras.optimizers.AdamW(0.01, weight_decay=5.0)
        if excluded:
            kernel = next(w for w in model.trainable_weights if "kernel" in w.path)
            optimizer.exclude_from_weight_decay([kernel], ["gamma"])
        model.compile(kb.learning_rate_multipliers(optimizer, RATES), model.loss)
        before = weights(model)
        model.train_on_batch(*batch())
        return {
            w.path: keras.ops.convert_to_numpy(w) - before[w.path] for w in model.trainable_weights
        }

    plain = moved(False)
    kernels = [path for path in plain if "kernel" in path]
    differ = {p for p, v in moved(True).items() if np.abs(v - plain[p]).max() > 1e-4}
    gammas = {path for path in plain if "gamma" in path}
    assert differ == {kernels[0], *gammas}


@pytest.mark.slow
def test_rates_are_saved_and_loaded(tmp_path: Path) -> None:
    """A loaded model goes on as the one that was saved."""
    model = made(kb.learning_rate_multipliers("adam", RATES))
    model.fit(*batch(), epochs=2, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.optimizer.multipliers == RATES
    for one in (model, loaded):
        one.fit(*batch(), epochs=2, verbose=0, shuffle=False)
    for mine, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_callbacks_set_the_one_learning_rate() -> None:
    model = made(kb.learning_rate_multipliers(keras.optimizers.SGD(0.1), RATES))
    before = weights(model)
    model.fit(
        *batch(), verbose=0, callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: 0.0)]
    )
    for weight in model.trainable_weights:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), before[weight.path])


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"`optimizer` must be a new one of SGD.*Muon"):
        kb.learning_rate_multipliers(keras.optimizers.Muon(), {})
    with pytest.raises(ValueError, match=r"numbers of 0 or more\. Received: 'stem': -1"):
        kb.learning_rate_multipliers("sgd", {"stem": -1})
    model = made(kb.learning_rate_multipliers("sgd", {"stage9": 0.1}))
    with pytest.raises(ValueError, match=r"`multipliers` must name a stage \(stem, stage2"):
        model.fit(*batch(), verbose=0)


# --- models in models ------------------------------------------------------------------------


def backbone(name: str) -> keras.Model:
    return NET.model(INPUT, include_top=False, pooling="avg", name=name)


def two_backbones() -> keras.Model:
    """Both have layers of the same names, whose weights have the same paths."""
    image = keras.Input(INPUT)
    both = keras.layers.Concatenate()([backbone("one")(image), backbone("two")(image)])
    return keras.Model(image, keras.layers.Dense(3, name="top")(both))


def in_a_sequential() -> keras.Model:
    layers = [layer.spec.layer(name=layer.name) for layer in NET.model(INPUT).layers[1:]]
    return keras.Sequential([keras.Input(INPUT), *layers], name="net")


def under_a_scope() -> keras.Model:
    with keras.name_scope("rgb"):
        return NET.model(INPUT)


def behind_a_scale(net: str = "net") -> keras.Sequential:
    scale = keras.layers.Rescaling(1 / 255)
    return keras.Sequential([keras.Input(INPUT), scale, NET.model(INPUT, name=net)], name="inner")


def two_deep() -> keras.Model:
    image = keras.Input(INPUT)
    first = keras.layers.Conv2D(3, 1, name="first")(image)
    return keras.Model(image, keras.layers.Dense(3, name="last")(behind_a_scale()(first)))


def free(model: keras.Model, around: str = "") -> set[str]:
    """The layers that learn, each after the models around it."""
    found: set[str] = set()
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found |= free(layer, f"{around}{layer.name}/")
        elif layer.trainable_weights:
            found.add(f"{around}{layer.name}")
    return found


BODY = ("stem", "stage2_block1", "stage2_block2", "stage3_block1")


@pytest.mark.parametrize(
    ("make", "upto", "still"),
    [
        (behind_a_scale, "stage2", {f"net/{name}" for name in BODY[:3]}),
        (behind_a_scale, "net/stage2_block1", {f"net/{name}" for name in BODY[:2]}),
        (behind_a_scale, "net", {f"net/{name}" for name in (*BODY, "head")}),
        (two_deep, "stage2", {"first", *(f"inner/net/{name}" for name in BODY[:3])}),
        (two_deep, "net/stem", {"first", "inner/net/stem"}),
        (two_deep, "inner/net/stem", {"first", "inner/net/stem"}),
        (two_deep, "first", {"first"}),
        (two_deep, "inner", {"first", *(f"inner/net/{name}" for name in (*BODY, "head"))}),
        (two_backbones, "one", {f"one/{name}" for name in BODY}),
        (two_backbones, "two/stage2", {f"two/{name}" for name in BODY[:3]}),
        (two_backbones, "top", {"top", *(f"{net}/{n}" for net in ("one", "two") for n in BODY)}),
    ],
)
def test_networks_inside_models_are_frozen(make: Any, upto: str, still: set[str]) -> None:
    """With all that they depend on in the models around them, and nothing else."""
    model = make()
    every = free(model)
    assert free(kb.freeze(model, upto)) == every - still
    assert free(kb.freeze(model, None)) == every


def moved(model: keras.Model, multipliers: Any, asked: Any) -> list[np.ndarray]:
    """The first step of each weight, in the model's order."""
    optimizer = kb.learning_rate_multipliers(keras.optimizers.SGD(0.1), multipliers, asked)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    before = [keras.ops.convert_to_numpy(w) for w in model.trainable_weights]
    model.train_on_batch(*batch())
    return [
        keras.ops.convert_to_numpy(w) - b
        for w, b in zip(model.trainable_weights, before, strict=True)
    ]


@pytest.mark.thin(4)
@pytest.mark.parametrize(
    ("make", "name", "layers"),
    [
        (two_backbones, "two", ["two"]),
        (two_backbones, "one/stem", ["one", "stem"]),
        (two_backbones, "two/stage2", ["two", "stage2_block1"]),
        (behind_a_scale, "stem", ["net", "stem"]),
        (in_a_sequential, "stem", ["stem"]),
        (under_a_scope, "stage3", ["stage3_block1"]),
        (under_a_scope, "head", ["head"]),
    ],
)
@pytest.mark.parametrize("loaded", [False, True])
def test_only_the_named_layers_of_the_model_stand_still(
    make: Any, name: str, layers: list[str], loaded: bool, tmp_path: Path
) -> None:
    """A multiplier of 0 keeps the weights of the layer that the names lead to, and no others."""
    model = make()
    steps = moved(model, {name: 0.0}, model)
    if loaded:
        model.save(tmp_path / "m.keras")
        model = keras.models.load_model(tmp_path / "m.keras")
        before = [keras.ops.convert_to_numpy(w) for w in model.trainable_weights]
        model.train_on_batch(*batch())
        steps = [
            keras.ops.convert_to_numpy(w) - b
            for w, b in zip(model.trainable_weights, before, strict=True)
        ]
    found: Any = model
    for layer in layers:
        found = found.get_layer(layer)
    own = {id(weight) for weight in found.trainable_weights}
    if name == "two/stage2":
        own |= {id(w) for w in model.get_layer("two").get_layer("stage2_block2").trainable_weights}
    for weight, step in zip(model.trainable_weights, steps, strict=True):
        assert np.any(step) == (id(weight) not in own), weight.path


@pytest.mark.parametrize("name", ["stem", "net/stem"])
def test_without_a_model_an_outer_name_may_be_left_out(name: str, tmp_path: Path) -> None:
    """And what was trained by either is loaded, where the weights' paths are others."""
    model = in_a_sequential()
    still = [not step.any() for step in moved(model, {name: 0.0}, None)]
    paths = [weight.path for weight in model.trainable_weights]
    assert still == [path.startswith("net/stem/") for path in paths]
    model.save(tmp_path / "m.keras")
    optimizer: Any = keras.models.load_model(tmp_path / "m.keras").optimizer
    factors = [optimizer.multiplier_of(w) for w in optimizer._trainable_variables]
    assert factors == [float(not stands) for stands in still]


def test_names_that_do_not_tell_models_apart_are_refused() -> None:
    model = two_backbones()
    with pytest.raises(ValueError, match="'stem' is in more than one"):
        moved(model, {"stem": 0.1}, None)
    for name in ("stem", "stem/main_conv1/kernel"):
        with pytest.raises(ValueError, match=f"in which model: one/{name}, two/{name}. Received"):
            kb.learning_rate_multipliers("sgd", {name: 0.1}, model)
    with pytest.raises(ValueError, match=r"`upto` must say in which model: one/stage2, two/stage2"):
        kb.freeze(model, "stage2")
    with pytest.raises(ValueError, match=r"must name a stage \(one, two, top\)"):
        moved(model, {"stage9": 0.1}, model)
    with pytest.raises(ValueError, match="must be the one that is trained"):
        moved(model, {"one": 0.1}, two_backbones())
