"""A space of one block: layers for a `build(hp)` of one's own, under every tuner and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import optuna
import pytest
from conformance import CASES, exported_layers
from test_any_tuner import KINDS
from test_tuner import INPUT, X, Y, make_tuner

import kblocks as kb

CHOICES: dict[str, Any] = {
    "filters": kb.choice(4, 6),
    "kernel_size": kb.choice(3, 5, (1, 7)),
    "strides": kb.choice(1, 2),
    "activation": kb.choice("relu", None),
}
WANTED = {"filters": 6, "kernel_size": (1, 7), "strides": 2, "activation": None}
RECORDED = {"filters": 6, "kernel_size": "1x7", "strides": 2, "activation": "None"}


def block_space(**changed: Any) -> kb.Space:
    return kb.Space(kb.ResidualBlock, padding="same", **{**CHOICES, **changed})


def is_wanted(layer: Any, name: str | None = None) -> bool:
    expected = {**WANTED, "strides": (2, 2), "padding": "same"}
    assert isinstance(layer, kb.ResidualBlock)
    assert name is None or layer.name == name
    return all(getattr(layer, key) == value for key, value in expected.items())


# --- one layer for one set of values -------------------------------------------------------


def test_by_hand_a_layer_is_built() -> None:
    space = block_space()
    assert space.names() == list(CHOICES)
    assert space.size() == 2 * 3 * 2 * 2
    layer = space.build(WANTED)
    assert is_wanted(layer)
    assert layer(keras.Input((8, 8, 3))).shape == (None, 4, 4, 6)
    assert space.build(space.sample(seed=0)).get_config()["padding"] == "same"
    assert layer is not space.build(WANTED)
    named = {f"b1.{name}": value for name, value in WANTED.items()}
    assert is_wanted(space.build({**named, "b2.filters": 4, "rate": 0.1}, name="b1"), "b1")


@pytest.mark.parametrize("name", [None, "b1"])
def test_optuna_suggests_a_layer(name: str | None) -> None:
    start = "" if name is None else f"{name}."
    study = optuna.create_study()
    study.enqueue_trial({f"{start}{key}": value for key, value in WANTED.items()})
    trial = study.ask()
    assert is_wanted(block_space().suggest(trial, name=name), name)
    assert trial.params == {f"{start}{key}": value for key, value in RECORDED.items()}
    assert is_wanted(block_space().build(trial.params, name), name)
    with pytest.raises(ValueError, match="a name of its own"):
        block_space().suggest(trial, name=name)


def test_hyperparameters_give_a_layer_and_keep_what_was_built() -> None:
    hp = keras_tuner.HyperParameters()
    hp.values = {f"b1.{key}": value for key, value in RECORDED.items()}
    assert is_wanted(kb.tuner.suggest(hp, block_space(), name="b1"), "b1")
    kb.tuner.suggest(hp, block_space(), name="b2")
    assert {one.name for one in hp.space} == {f"b2.{key}" for key in CHOICES}
    (row,) = kb.tuner.network_of(hp, "b1").rows
    assert is_wanted(row.spec.layer())
    assert is_wanted(block_space().build(hp.values, name="b1"), "b1")


def test_choices_within_choices_are_active_where_they_are() -> None:
    block = kb.choice("batch", None, kb.choice("layer", "group"))
    space = kb.Space(kb.ConvBlock, filters=4, normalization=block)
    hp = keras_tuner.HyperParameters()
    hp.values = {"b1.normalization": "#2", "b1.normalization#2": "group"}
    assert kb.tuner.suggest(hp, space, name="b1").normalization.kind == "group"
    fresh = keras_tuner.HyperParameters()
    assert kb.tuner.suggest(fresh, space, name="b1").normalization.kind == "batch"
    assert "b1.normalization#2" not in fresh.values


def own_build(hp: Any) -> keras.Model:
    """A functional model with blocks of ours and layers of Keras."""
    inputs = keras.Input(INPUT)
    x = keras.layers.Conv2D(2, 3, padding="same")(inputs)
    x = kb.tuner.suggest(hp, block_space(), name="b1")(x)
    x = kb.tuner.suggest(hp, kb.Space(kb.ConvBlock, filters=kb.choice(2, 3)), name="b2")(x)
    head = kb.Space(kb.Classifier, classes=4, pool=kb.choice("avg", "max"))
    model = keras.Model(inputs, kb.tuner.suggest(hp, head, name="end")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    return model


OPTIONS = {
    "b1.filters": {4, 6},
    "b1.kernel_size": {"3", "5", "1x7"},
    "b1.strides": {1, 2},
    "b1.activation": {"relu", "None"},
    "b2.filters": {2, 3},
    "end.pool": {"avg", "max"},
}


def check_model(model: Any, values: dict[str, Any]) -> None:
    """The layers have the arguments that a tuner recorded."""
    first, second, end = (model.get_layer(name) for name in ("b1", "b2", "end"))
    kernel = {"3": (3, 3), "5": (5, 5), "1x7": (1, 7)}[values["b1.kernel_size"]]
    assert (first.filters, first.kernel_size) == (values["b1.filters"], kernel)
    assert first.strides == (values["b1.strides"],) * 2
    assert str(first.activation) == values["b1.activation"]
    assert (second.filters, end.pool) == (values["b2.filters"], values["end.pool"])


@pytest.mark.parametrize("kind", KINDS)
def test_stock_tuners_search_blocks(kind: str, tmp_path: Path) -> None:
    tuner = make_tuner(kind, own_build, tmp_path)
    for number in range(2):
        trial = tuner.oracle.create_trial(f"tuner{number}")
        values = dict(trial.hyperparameters.values)
        assert all(values[name] in options for name, options in OPTIONS.items())
        check_model(tuner.hypermodel.build(trial.hyperparameters), values)


class Scored(keras_tuner.HyperModel):
    """Scored without training: fewer parameters are better."""

    def build(self, hp: Any) -> keras.Model:
        return own_build(hp)

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        check_model(model, hp.values)
        return {"size": model.count_params()}


def test_our_tuner_searches_blocks(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"workers": 0, "directory": tmp_path, "seed": 1, "checkpoints": 0}
    objective = keras_tuner.Objective("size", "min")
    tuner = kb.tuner.Tuner(Scored(), objective, trials=4, **settings)
    run = tuner.search(X, Y, verbose=0)
    assert [trial.state for trial in run.trials] == ["completed"] * 4
    for trial in run.trials:
        assert all(trial.values[name] in options for name, options in OPTIONS.items())
    record = run.best()
    assert record is not None
    check_model(own_build(tuner.get_best_hyperparameters()[0]), record.values)


# --- every block ---------------------------------------------------------------------------


@pytest.mark.parametrize("block", exported_layers(), ids=lambda block: block.__name__)
def test_every_block_and_head_has_a_space(block: Any) -> None:
    case = next(case for case in CASES.values() if case.block is block)
    given = dict(zip(block.Spec._positional, case.args, strict=False)) | case.kwargs
    name = next(iter(given), "trainable")
    value = given.pop(name, False)
    space = kb.Space(block, **{**given, name: kb.choice(value)})
    layer = kb.tuner.suggest(keras_tuner.HyperParameters(), space, name="b1")
    assert type(layer) is block
    assert getattr(layer, name) == getattr(block(**given, **{name: value}), name)
    assert space.build(space.default()).spec == layer.spec


def test_a_block_of_features_has_a_space() -> None:
    layer = kb.Space(kb.ResidualDense, units=kb.choice(3, 4)).build({"units": 4})
    assert layer(np.zeros((2, 5), "float32")).shape == (2, 4)


# --- budgets, kinds of blocks, conditions --------------------------------------------------


def test_a_budget_repairs_a_block() -> None:
    """A 3x3 convolution of 2 to f channels on 8x8 pixels: 64 * 9 * 2 * f MACs, f = 4 at most."""
    space = kb.Space(kb.ConvBlock, filters=kb.choice(2, 4, 8), use_bias=False, normalization=None)
    bounded = space.within((8, 8, 2), kb.Budget(macs=64 * 9 * 2 * 4))
    hp = keras_tuner.HyperParameters()
    hp.values = {"b1.filters": 8}
    assert kb.tuner.suggest(hp, bounded, name="b1").filters == 4
    assert kb.tuner.network_of(hp, "b1").rows[0].spec.filters == 4
    assert {values["filters"] for values in bounded.samples(0)} == {2, 4}


def test_the_kind_of_block_is_a_choice() -> None:
    space = kb.Space(
        kb.choice(kb.ResidualBlock, kb.BottleneckBlock),
        filters=kb.choice(4, 8),
        where=lambda filters: filters == 8,
    )
    layer = space.build({"builder": "BottleneckBlock", "filters": 8})
    assert isinstance(layer, kb.BottleneckBlock)
    assert space.sample(0)["filters"] == 8


def test_arguments_of_keras_reach_the_layer() -> None:
    space = kb.Space(kb.ConvBlock, filters=kb.choice(2, 4), name="stem", dtype="float16")
    layer = kb.tuner.suggest(keras_tuner.HyperParameters(), space, name="b1")
    assert (layer.name, layer.dtype_policy.name) == ("stem", "float16")


# --- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [{"filters": kb.choice(4, 8)}, {"padding": "valid"}, {"order": kb.choice("original")}],
)
def test_one_name_with_other_options_is_refused(changed: dict[str, Any]) -> None:
    hp = keras_tuner.HyperParameters()
    kb.tuner.suggest(hp, block_space(), name="b1")
    kb.tuner.suggest(hp, block_space(), name="b1")  # Keras Tuner builds a trial's model twice
    space = kb.Space(kb.ResidualBlock, **{"padding": "same", **CHOICES, **changed})
    with pytest.raises(ValueError, match=r"a name of its own.*name='b1' for a second space"):
        kb.tuner.suggest(hp, space, name="b1")
    kb.tuner.suggest(hp, space, name="b2")


@pytest.mark.parametrize("name", ["", "a/b", "a.b", 3, "tuner", "kblocks", "recipe"])
def test_bad_names_of_blocks_are_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=r"`name` must be a word without '/' and '.'.*Received"):
        kb.tuner.suggest(keras_tuner.HyperParameters(), block_space(), name=name)


def test_spaces_of_blocks_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"`space` must be of networks.*kb.tuner.suggest"):
        kb.tuner.HyperModel(block_space().within(INPUT))
    with pytest.raises(TypeError, match="ResidualBlock has no argument 'filter'"):
        kb.Space(kb.ResidualBlock, filters=4, filter=kb.choice(1, 2))
    with pytest.raises(ValueError, match="No network can be made with strides=0"):
        kb.Space(kb.ResidualBlock, filters=4, strides=kb.choice(1, 0))
    for builder in (kb.Segmenter, kb.choice(kb.Classifier, kb.Segmenter)):
        with pytest.raises(TypeError, match=r"several rows.*head=kb.Segmenter\(...\)\) has one"):
            kb.Space(builder, classes=kb.choice(2, 3))


def test_a_space_of_blocks_speaks_of_blocks() -> None:
    told: list[str] = []
    block_space().describe(told.append)
    assert told[0].endswith("\n4 choices, 24 blocks")
    assert repr(kb.Space(kb.ConvBlock, filters=4)) == "<Space of ConvBlock: 0 choices, 1 block>"


def test_a_network_without_a_name_ignores_named_blocks() -> None:
    net = kb.Space(kb.resnet, classes=3, blocks=[1], stem={"filters": kb.choice(4, 8)})
    hp = keras_tuner.HyperParameters()
    chosen = kb.tuner.suggest(hp, net)
    kb.tuner.suggest(hp, block_space(), name="b1")
    assert net.build(hp.values) == net.build({"stem.filters": 4, "b1.filters": 6}) == chosen
    with pytest.raises(ValueError, match=r"`values` must be for stem.filters. Received: 'stem.f'"):
        net.build({"stem.filters": 4, "stem.f": 6})
