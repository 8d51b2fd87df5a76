"""Float32 and bfloat16: how heads end, what `precision` sets, and one precision for a search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from rich.console import Console

import kblocks as kb
from kblocks.command.tables import of_run
from kblocks.training import precision
from kblocks.tuner.reporting.overview import settings
from kblocks.tuner.reporting.view import View

INPUT = (8, 8, 3)
RNG = np.random.default_rng(0)
X = RNG.random((16, *INPUT), dtype="float32")
Y = RNG.integers(0, 3, 16)
ROWS = [kb.ConvBlock.Spec(8, activation="relu"), kb.ConvBlock.Spec(8, strides=2)]
HEADS: dict[str, Any] = {
    "classifier": kb.Classifier(3, hidden=(8,), dropout=0.1),
    "box": kb.BoxRegressor(hidden=(8,)),
    "localizer": kb.Localizer(3),
    "segmenter": kb.Segmenter(3, stride=2),
    "detector": kb.Detector(3, strides=2, filters=8),
    "keypoints": kb.Keypoints(2, stride=2, filters=8),
    "coordinates": kb.Keypoints(2, "coordinates"),
}


def net(head: Any = None) -> kb.Architecture:
    return kb.Architecture(ROWS, head=head or kb.Classifier(3))


def dtypes(model: Any) -> set[str]:
    return {layer.compute_dtype for layer in model.layers[1:]}


# --- heads ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", HEADS)
def test_heads_end_in_float32(name: str, policy: str, tmp_path: Path) -> None:
    """As symbols and arrays, fused and loaded; with the numbers of float32 up to rounding."""
    plain = net(HEADS[name]).model(INPUT)
    model = net(HEADS[name]).model(INPUT, dtype=policy)
    model.set_weights(plain.get_weights())
    assert {x.dtype for x in keras.tree.flatten(model.output)} == {"float32"}
    assert model.layers[1].compute_dtype == policy.removeprefix("mixed_")
    model.save(tmp_path / "m.keras")
    wanted = keras.tree.flatten(plain(X))
    for one in (model, kb.fuse(model), keras.models.load_model(tmp_path / "m.keras")):
        for array, other in zip(map(np.asarray, keras.tree.flatten(one(X))), wanted, strict=True):
            assert array.dtype == "float32"
            assert np.abs(array - other).max() < 0.05 * np.abs(other).max()


def test_logits_are_not_rounded() -> None:
    """They are what NumPy computes in float32 of the features, which are bfloat16."""
    model = net().model(INPUT, dtype="mixed_bfloat16")
    inside = kb.extract(model, "head/global_pooling")(X)
    features = np.asarray(keras.ops.cast(inside, "float32"))
    kernel, bias = model.layers[-1].get_weights()
    assert keras.backend.standardize_dtype(inside.dtype) == "bfloat16"
    np.testing.assert_allclose(model(X), features @ kernel + bias, rtol=1e-5, atol=1e-6)


def test_auxiliary_heads_and_a_softmax_end_in_float32() -> None:
    how = {"dtype": "mixed_bfloat16", "classifier_activation": "softmax", "aux": True}
    model = kb.googlenet(3).model((32, 32, 3), **how)
    assert {x.dtype for x in model.output.values()} == {"float32"}
    assert model.get_layer("aux1")._ends == {"dense2"}


# --- a recipe's precision ------------------------------------------------------------------


def test_a_recipe_sets_the_precision_of_a_model(tmp_path: Path) -> None:
    """As a model made with that policy computes; and back."""
    model, made = net().model(INPUT), net().model(INPUT, dtype="mixed_bfloat16")
    made.set_weights(model.get_weights())
    plain = model.predict(X, verbose=0)
    kb.Recipe(precision="bfloat16").compile(model)
    assert dtypes(model) == {"bfloat16"}
    np.testing.assert_array_equal(model.predict(X, verbose=0), made.predict(X, verbose=0))
    model.save(tmp_path / "m.keras")
    loaded: Any = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), made.predict(X, verbose=0))
    assert {w.dtype for w in model.optimizer.variables[1:]} == {"float32"}  # 0 counts steps
    kb.Recipe(precision="float32").compile(model)
    np.testing.assert_array_equal(model.predict(X, verbose=0), plain)


def test_models_of_keras_keep_images_and_outputs_in_float32() -> None:
    layers: Any = keras.layers
    parts = [layers.Rescaling(1 / 255), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)]
    inner = keras.Sequential([keras.Input((6, 6, 4)), layers.Conv2D(4, 3)])
    model = keras.Sequential([keras.Input(INPUT), *parts[:2], inner, *parts[2:]])
    kb.Recipe(precision="bfloat16").compile(model)
    found = [layer.compute_dtype for layer in (*parts, inner.layers[0])]
    assert found == ["float32", "bfloat16", "bfloat16", "float32", "float32"]
    assert model.predict(X, verbose=0).dtype == "float32"


@pytest.mark.parametrize(
    ("ratio", "dtype"), [(0.5, "bfloat16"), (0.9, "bfloat16"), (0.91, "float32")]
)
def test_auto_is_bfloat16_if_ten_percent_are_won(
    ratio: float, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fake(ratio, monkeypatch)
    for _ in range(2):
        model = net().model(INPUT)
        before = model.get_weights()
        kb.Recipe(precision="auto", augmentation="flip").compile(model)
        assert dtypes(model) == {dtype}
        assert all(map(np.array_equal, before, model.get_weights()))
    assert asked == [("float32", "bfloat16")]  # once for the network


def fake(ratio: float, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Lets steps in bfloat16 take `ratio` of the time; returns the precisions that were tried."""
    asked: list[Any] = []

    def measured(plain: Any, half: Any) -> float:
        asked.append(tuple(step.func.__self__.layers[1].compute_dtype for step in (plain, half)))
        return ratio

    monkeypatch.setattr(precision, "_ratio", measured)
    monkeypatch.setattr(precision, "_measured", {})
    return asked


def test_the_ratio_is_that_of_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one disturbed measurement of nine, and given up after one pair if it is hopeless."""
    now = [0.0]
    monkeypatch.setattr(precision.time, "perf_counter", lambda: now[0])
    calls = {"plain": 0, "half": 0}

    def step(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls[name] += 1
            now[0] += seconds * (10 if (name, calls[name]) == ("half", 2) else 1)

        return run

    assert precision._ratio(step("plain", 0.2), step("half", 0.1)) == pytest.approx(0.5)
    assert calls == {"plain": 10, "half": 9}
    assert precision._ratio(step("plain", 0.2), step("half", 0.8)) == pytest.approx(4)
    assert calls == {"plain": 12, "half": 10}


def test_auto_stays_at_float32_where_no_step_can_be_tried() -> None:
    model = kb.Architecture(ROWS, head=kb.Classifier(3)).model((None, None, 3))
    with pytest.warns(UserWarning, match="precision='auto' stays at float32"):
        kb.Recipe(precision="auto").compile(model)
    assert dtypes(model) == {"float32"}


def test_a_wrong_precision_is_refused_at_both_doors() -> None:
    for door in (kb.Recipe, lambda **given: kb.tuner.Tuner(hypermodel(), **given)):
        with pytest.raises(ValueError, match=r"`precision` must be .*Received: precision='half'"):
            door(precision="half")


# --- a search ------------------------------------------------------------------------------


class Seeing(kb.tuner.HyperModel):
    """Notes in what its models compute when they are trained."""

    seen: list[Any]

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(dtypes(model))
        return super().fit(hp, model, *args, **kwargs)


def hypermodel(filters: Any = None, **recipe: Any) -> Seeing:
    space = kb.Space(net_of, filters=filters or kb.choice(4, 6, 8, 10)).within(INPUT)
    made = Seeing(space, kb.Recipe(**recipe), latency=False)
    made.seen = []
    return made


def net_of(filters: int) -> kb.Architecture:
    return kb.Architecture([kb.ConvBlock.Spec(filters)], head=kb.Classifier(3))


@pytest.fixture
def search(tmp_path: Path) -> Callable[..., Any]:
    """Runs a search to so many trials; the tuner, the run and what its models computed in."""

    def run(trials: int, recipe: Any = None, **settings: Any) -> Any:
        model = hypermodel(**(recipe or {}))
        folder = {"directory": tmp_path, "project_name": "one"}
        tuner = kb.tuner.Tuner(model, trials=trials, workers=0, seed=1, **folder, **settings)
        found = tuner.search(X, Y, validation_data=(X, Y), batch_size=8, verbose=0)
        return tuner, found, model.seen

    return run


def test_a_search_decides_once_and_delivers_float32(
    search: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fake(0.625, monkeypatch)
    tuner, run, seen = search(1, precision="auto")
    assert seen == [{"bfloat16"}]
    assert asked == [("float32", "bfloat16")]
    told = "mixed_bfloat16 (a step in bfloat16 took 0.625 of the time in float32)"
    assert run.precision == told
    best = tuner.get_best_models()[0]
    assert dtypes(best) == {"float32"}
    weights = tuner.store.weights_of(run.best().number)[run.best().number]
    assert all(map(np.array_equal, best.get_weights(), weights))

    fake(1.0, monkeypatch)  # as on a machine on which bfloat16 is no faster
    _, run, seen = search(2)
    assert (seen, run.precision) == ([{"bfloat16"}], told)
    for same in ("auto", "mixed_bfloat16"):
        assert search(2, precision=same)[1].precision == told
    with pytest.raises(ValueError, match=r"so far, 'mixed_bfloat16'.*precision='float32'"):
        search(4, precision="float32")
    console = Console(width=200)
    with console.capture() as shown:
        console.print(of_run(run))
    assert f"computes in {told}" in shown.get()
    assert told in settings(View(run))


def test_the_precision_of_a_recipe_is_that_of_the_search(search: Any) -> None:
    """It is no part of what identifies the search, so that earlier ones go on."""
    _, run, seen = search(1, {"precision": "bfloat16"})
    assert (seen, run.precision) == ([{"bfloat16"}], "mixed_bfloat16")
    assert "precision" not in run.settings["recipe"]
    with pytest.raises(ValueError, match="cannot be given to a tuner if its recipe has one"):
        search(1, {"precision": "bfloat16"}, precision="auto")


def test_a_search_without_a_precision_is_as_it_was(search: Any) -> None:
    """And goes on as its first trials did, whatever is asked for later."""
    _, run, seen = search(1)
    assert (seen, run.precision) == ([{"float32"}], "")
    assert not {"precision", "policy"} & set(run.settings)
    with pytest.raises(ValueError, match=r"so far, 'float32'.*precision='bfloat16'"):
        search(2, precision="bfloat16")
    _, run, seen = search(2, precision="auto")
    assert (seen, run.precision) == ([{"float32"}], "float32")


def test_a_precision_can_be_searched(search: Any) -> None:
    recipe = {"precision": kb.choice("float32", "bfloat16"), "filters": 4}
    tuner, run, seen = search(2, recipe)
    found = [trial.values["recipe.precision"] for trial in run.trials]
    assert [{name} for name in found] == seen
    assert set(found) == {"float32", "bfloat16"}
    assert all(dtypes(model) == {"float32"} for model in tuner.get_best_models(2))


def test_another_policy_of_keras_is_told(search: Any, caplog: Any) -> None:
    search(1)
    keras.config.set_dtype_policy("mixed_bfloat16")
    _, run, _ = search(2)
    assert "Keras' dtype policy was float32, is mixed_bfloat16" in caplog.text
    assert run.settings["policy"] == "mixed_bfloat16"
