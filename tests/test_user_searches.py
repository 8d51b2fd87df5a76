"""`kb.tuner.Tuner` with a HyperModel, data, callbacks and samplers as Keras Tuner's users have."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import optuna
import pytest
from searching import Toy, cleared

import kblocks as kb
from kblocks.tuner.storing.identity import ChangedError

pytestmark = pytest.mark.system

RNG = np.random.default_rng(0)
X = RNG.random((64, 5), dtype="float32")
Y = RNG.integers(0, 3, 64)
SIZE = 16

Make = Callable[..., kb.tuner.Tuner]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def tuner(hypermodel: Any, objective: Any = "val_loss", **settings: Any) -> Any:
        settings = {"workers": 0, "directory": tmp_path, "seed": 1, **settings}
        return kb.tuner.Tuner(hypermodel, objective, **settings)

    return tuner


def unbuilt(hp: Any) -> keras.Model:
    """As in Keras Tuner's own guide: no `Input`, so that `fit` builds it."""
    hidden = keras.layers.Dense(hp.Int("units", 2, 8), activation="relu")
    return compiled(keras.Sequential([hidden, keras.layers.Dense(3)]))


def compiled(model: keras.Model) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


class Played(keras_tuner.HyperModel):
    """Hyperparameters that a function asks for, and a `fit` that calls back with given scores."""

    def __init__(self, asks: Callable[[Any], Any], epochs: int = 1, score: Any = None) -> None:
        super().__init__()
        self.asks, self.epochs, self.score = asks, epochs, score

    def build(self, hp: Any) -> keras.Model:
        self.asks(hp)
        return compiled(keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]))

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        watcher = kwargs["callbacks"][-1]
        history = keras.callbacks.History()
        watcher.set_model(model)
        watcher.set_params({"epochs": self.epochs})
        for epoch in range(self.epochs):
            score = self.score(watcher.number, epoch) if self.score else 0.5
            logs = {"loss": 1.0, "val_loss": score, "val_accuracy": score}
            watcher.on_epoch_end(epoch, logs)
            for name, value in logs.items():
                history.history.setdefault(name, []).append(value)
        return history


# --- data --------------------------------------------------------------------------------


class Sequence(keras.utils.PyDataset):
    def __len__(self) -> int:
        return len(X) // SIZE

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(SIZE * index, SIZE * (index + 1))
        return X[rows], Y[rows]


def endless() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for index in itertools.count():
        yield Sequence()[index % len(Sequence())]


def tensors() -> Any:
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(SIZE)


DATA: dict[str, Callable[[], dict[str, Any]]] = {
    "tf.data": lambda: {"x": tensors(), "validation_data": tensors()},
    "endless tf.data": lambda: {
        **{"x": tensors().repeat(), "validation_data": tensors().repeat()},
        **{"steps_per_epoch": 4, "validation_steps": 4},
    },
    "PyDataset": lambda: {"x": Sequence(), "validation_data": Sequence()},
    "generator": lambda: {
        **{"x": endless(), "steps_per_epoch": 4},
        **{"validation_data": Sequence()},
    },
    "validation_split": lambda: {"x": X, "y": Y, "validation_split": 0.25, "batch_size": SIZE},
    "sample weights": lambda: {
        **{"x": X, "y": Y, "sample_weight": np.ones(64)},
        **{"validation_data": (X, Y, np.ones(64)), "batch_size": SIZE},
    },
}


@pytest.mark.parametrize("kind", DATA)
def test_any_data_that_fit_takes(make: Make, kind: str) -> None:
    """Twice: a search goes on with the same, and the weights are those of the scores."""
    make(unbuilt, trials=2).search(**DATA[kind](), epochs=2, verbose=0)
    tuner = make(unbuilt, trials=3)
    run = tuner.search(**DATA[kind](), epochs=2, verbose=0)
    assert [(t.state, t.failure) for t in run.trials] == [("completed", None)] * 3
    rows = slice(48, None) if kind == "validation_split" else slice(None)
    for model, record in zip(tuner.get_best_models(3), run.ranked(), strict=True):
        found = model.evaluate(X[rows], Y[rows], verbose=0, return_dict=True)
        assert found["loss"] == pytest.approx(record.scores[0], rel=1e-5)
        assert record.costs["params"] == model.count_params()


@pytest.mark.slow
def test_a_dataset_that_no_worker_can_be_sent_is_searched_on_here(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make(unbuilt, trials=2, workers=2).search(**DATA["tf.data"](), epochs=1)
    assert "Searching in this process" in capsys.readouterr().out
    assert [trial.state for trial in run.trials] == ["completed"] * 2


# --- models that `fit` builds ---------------------------------------------------------------


def test_a_model_that_fit_builds_is_held_to_the_budget(make: Make) -> None:
    budget = kb.Budget(params=5 * 4 + 4 + 4 * 3 + 3)  # four units
    tuner = make(unbuilt, trials=8, sampler="random", budget=budget)
    run = tuner.search(X, Y, validation_split=0.25, epochs=1, verbose=0)
    kinds = {trial.values["units"] > 4: trial.failure for trial in run.trials}
    assert kinds[False] is None
    assert kinds[True] is not None
    assert kinds[True].kind == "budget"


class Inputs(keras.Model):
    """Of a class of one's own, with named inputs."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.hidden, self.out = keras.layers.Dense(units), keras.layers.Dense(3)

    def call(self, inputs: Any) -> Any:
        return self.out(self.hidden(inputs["a"]))


def test_a_model_that_fit_builds_goes_on_from_its_last_epoch(make: Make) -> None:
    begun: list[int] = []

    class Interrupted(keras_tuner.HyperModel):
        def build(self, hp: Any) -> keras.Model:
            return compiled(Inputs(hp.Int("units", 2, 8)))

        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            begun.append(kwargs.get("initial_epoch", 0))
            if len(begun) == 1:
                stop = keras.callbacks.LambdaCallback(on_epoch_end=_interrupts(2))
                kwargs["callbacks"] = [*kwargs["callbacks"], stop]
            return super().fit(hp, model, *args, **kwargs)

    arguments = {"x": {"a": X}, "y": Y, "validation_split": 0.25, "epochs": 6, "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        make(Interrupted(), trials=1).search(**arguments)
    tuner = make(Interrupted(), trials=1)
    (trial,) = tuner.search(**arguments).trials
    assert begun[0] == 0
    assert begun[1] > 0
    assert len(trial.history["loss"]) == 6
    (model,) = tuner.get_best_models()
    assert model.evaluate({"a": X[48:]}, Y[48:], verbose=0)[0] == pytest.approx(trial.scores[0])


def _interrupts(last: int) -> Callable[..., None]:
    def end(epoch: int, logs: Any) -> None:
        if epoch == last:
            raise KeyboardInterrupt

    return end


# --- callbacks and the oracle --------------------------------------------------------------


def test_each_trial_has_a_folder_of_tensorboard_of_its_own(make: Make, tmp_path: Path) -> None:
    board = keras.callbacks.TensorBoard(str(tmp_path / "logs"))
    make(unbuilt, trials=2).search(
        X, Y, validation_split=0.25, epochs=1, verbose=0, callbacks=[board]
    )
    found = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert found == ["trial-00000", "trial-00001"]


def test_the_oracle_knows_which_way_a_metric_is_better(make: Make) -> None:
    scores = [0.3, 0.1, 0.2]
    tuner = make(Played(lambda hp: hp.Int("n", 0, 9), 3, lambda n, e: scores[e]), trials=1)
    tuner.search(X, Y, verbose=0)
    (trial,) = tuner.oracle.get_best_trials()
    assert trial.metrics.get_best_value("val_loss") == 0.1
    assert trial.metrics.get_best_value("val_accuracy") == 0.3
    assert (trial.score, trial.best_step) == (0.1, 1)


def test_what_is_not_there_is_not_made(make: Make, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"there is no search in /.*study\.db"):
        make(unbuilt, project_name="mistyped").get_best_models()
    assert not (tmp_path / "mistyped" / "study.db").exists()


def test_a_storage_by_sqlites_own_form_of_urls(make: Make, tmp_path: Path) -> None:
    url = f"sqlite:///file:{tmp_path / 'mine.db'}?uri=true"
    make(Played(lambda hp: hp.Int("n", 0, 9)), trials=1, storage=url).search(X, verbose=0)
    assert len(make(unbuilt, storage=url).run().trials) == 1
    with pytest.raises(KeyError, match="there is no search"):
        make(unbuilt, storage=url.replace("mine", "other")).run()


@pytest.mark.parametrize("name", ["a%20b", "q?x", "ü #&@:1"])
def test_a_search_is_in_the_folder_of_its_name(make: Make, tmp_path: Path, name: str) -> None:
    make(Played(lambda hp: hp.Int("n", 0, 9)), trials=1, project_name=name).search(X, verbose=0)
    assert (tmp_path / name / "study.db").is_file()
    assert len(make(unbuilt, project_name=name).run().trials) == 1


def test_a_seed_is_an_integer_from_0(make: Make) -> None:
    with pytest.raises(ValueError, match=r"`seed` must be an integer from 0\. Received: seed=-1"):
        make(unbuilt, seed=-1)


# --- pruners and samplers -----------------------------------------------------------------


def test_a_trial_that_was_trained_to_its_end_is_not_pruned(make: Make) -> None:
    """Eight that rise to 0.588, and two that were at 0.99 in the middle: these are the best."""

    def score(number: int, epoch: int) -> float:
        if number >= 8:
            return 0.99 if epoch == 4 else 0.4
        return 0.5 + 0.01 * epoch + number / 1000

    model = Played(lambda hp: hp.Float("x", 0, 1), 9, score)
    run = make(model, "val_accuracy", pruner="hyperband", trials=10).search(X, verbose=0)
    assert all(len(t.history["loss"]) < 9 for t in run.trials if t.state == "pruned")
    assert max(t.history["val_accuracy"][-1] for t in run.completed()) < 0.59
    assert run.ranked()[0].scores == (0.99,)


def test_a_trial_that_stops_itself_early_is_not_pruned(make: Make) -> None:
    class Stopping(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = epoch == 1

    class Always(optuna.pruners.BasePruner):
        def prune(self, study: Any, trial: Any) -> bool:
            return trial.last_step >= 2

    run = make(unbuilt, pruner=Always(), trials=1).search(
        X, Y, validation_split=0.25, epochs=5, verbose=0, callbacks=[Stopping()]
    )
    assert [(t.state, len(t.history["loss"])) for t in run.trials] == [("completed", 2)]


def test_a_grid_of_optunas_is_gone_through(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    def asks(hp: Any) -> None:
        hp.Int("n", 1, 2)
        hp.Choice("w", [4, 8])

    sampler = optuna.samplers.GridSampler({"n": [1, 2], "w": [4, 8]}, seed=3)
    run = make(Played(asks), sampler=sampler, trials=20).search(X)
    assert sorted((t.values["n"], t.values["w"]) for t in run.trials) == [
        *((1, 4), (1, 8), (2, 4), (2, 8))
    ]
    assert "has been tried" in capsys.readouterr().out


def test_another_sampler_goes_on_after_a_grid(make: Make) -> None:
    model = Played(lambda hp: hp.Choice("n", [1, 2, 3]))
    assert len(make(model, sampler="grid", trials=2).search(X, verbose=0).trials) == 2
    run = make(model, sampler="random", trials=9).search(X, verbose=0)
    assert sorted(trial.values["n"] for trial in run.trials) == [1, 2, 3]


# --- an edited space ----------------------------------------------------------------------


def narrow(hp: Any) -> None:
    hp.Choice("w", [4, 8])
    hp.Int("n", 1, 9)


def wide(hp: Any) -> None:
    hp.Choice("w", [4, 8, 16])
    hp.Int("n", 1, 9)
    hp.Float("rate", 0.1, 0.5)


def fewer(hp: Any) -> None:
    hp.Choice("w", [4, 8])


class Plain(Played):
    """Whose `fit` is Keras Tuner's, and asks for nothing."""

    fit = keras_tuner.HyperModel.fit


EDITED: dict[str, tuple[type[Played], Callable[[Any], None], str]] = {
    "a wider range": (Played, wide, r"w was .*\(4, 8\)\), is .*\(4, 8, 16\)"),
    "another": (Played, lambda hp: (narrow(hp), hp.Boolean("b")), "b was not there, is"),
    "one less": (Plain, fewer, "n was IntDistribution.*, is not there"),
}


@pytest.mark.parametrize("kind", EDITED)
def test_a_space_that_was_edited_is_refused(make: Make, kind: str) -> None:
    model, asks, told = EDITED[kind]
    arguments = {"x": X, "y": Y, "validation_split": 0.25, "verbose": 0}
    before = make(model(narrow), trials=3).search(**arguments)
    with pytest.raises(ChangedError, match=told):
        make(model(asks), trials=6).search(**arguments)
    assert make(model(narrow), trials=3).run().trials == before.trials
    assert len(make(model(narrow), trials=4).search(**arguments).trials) == 4


def test_a_space_is_extended_on_request(make: Make) -> None:
    before = make(Played(narrow), trials=3).search(X, verbose=0)
    run = make(Played(wide), trials=16, extend=True, sampler="random").search(X, verbose=0)
    assert [t.values for t in run.trials[:3]] == [t.values for t in before.trials]
    assert all("rate" in trial.values for trial in run.trials[3:])
    assert 16 in {trial.values["w"] for trial in run.trials}
    again = make(Played(wide), trials=17, extend=True).search(X, verbose=0)
    assert again.trials[:16] == run.trials
    with pytest.raises(ChangedError, match="may only grow"):
        make(Played(narrow), trials=18, extend=True).search(X, verbose=0)


def test_weights_that_do_not_fit_edited_code_are_told_of(make: Make) -> None:
    make(unbuilt, trials=1).search(X, Y, validation_split=0.25, verbose=0)

    def other(hp: Any) -> keras.Model:
        hidden = keras.layers.Dense(hp.Int("units", 2, 8) + 1)
        return compiled(keras.Sequential([hidden, keras.layers.Dense(3)]))

    with pytest.raises(ValueError, match="weights of trial 0 do not fit the model"):
        make(other).get_best_models()


def test_a_function_that_compiles_may_ask_for_more(make: Make) -> None:
    """Which no point of a space knows, so that one network may come again."""

    def compiles(model: keras.Model, hp: Any) -> None:
        model.compile(keras.optimizers.SGD(hp.Float("rate", 1e-3, 1e-1)), "mse")

    space = kb.Space(
        kb.resnet, classes=3, blocks=(1, 1), filters=(4, kb.choice(4, 8)), kernel_size=3
    ).within((8, 8, 1))
    model = kb.tuner.HyperModel(space, compile=compiles, latency=False)
    x, y = np.zeros((8, 8, 8, 1)), np.zeros((8, 3))
    run = make(model, "loss", trials=5, checkpoints=0).search(x, y, epochs=1, verbose=0)
    assert [trial.state for trial in run.trials] == ["completed"] * 5
    assert len({trial.values["rate"] for trial in run.trials}) == 5


# --- several processes ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_no_network_is_trained_twice_by_processes_that_choose_at_once(
    tmp_path: Path, sampler: str
) -> None:
    """All 128 of the toy's space, each by one of three."""
    settings = {"trials": 140, "workers": 3, "sampler": sampler, "checkpoints": 0}
    with cleared(Toy(tmp_path / "runs", {"seconds": 0.0, "epochs": 1}, settings)) as search:
        assert "has been tried" in search.finish()
        tried = [str(sorted(trial.values.items())) for trial in search.trials()]
        assert len(set(tried)) == len(tried) == 128
        assert len(search.begun()) == 128


# --- joining --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"objective": "val_accuracy"}, "objectives was"),
        ({"x": X + 1}, "data: x was"),
        ({"epochs": 3}, "data: epochs was 1, is 3"),
    ],
    ids=["objective", "data", "epochs"],
)
def test_a_process_joins_the_same_search_only(
    make: Make, changed: dict[str, Any], told: str
) -> None:
    fit = {"x": X, "y": Y, "validation_split": 0.25, "epochs": 1, "verbose": 0}
    before = make(unbuilt, trials=2).search(**fit)
    own = {"objective": changed.pop("objective", "val_loss")}
    joining = make(unbuilt, trials=4, **own)
    joining.join()
    with pytest.raises(ChangedError, match=f"another search than the one to be joined:\n.*{told}"):
        joining.search(**{**fit, **changed})
    assert make(unbuilt).run().trials == before.trials


LEAVES_DEVICES_ALONE = """
import numpy as np, tensorflow as tf
import kblocks as kb
if __name__ == "__main__":
    space = kb.Space(kb.resnet, classes=2, blocks=(1,), filters=(kb.choice(4, 8),))
    x, y = np.zeros((8, 8, 8, 1), "float32"), np.arange(8) % 2
    tuner = kb.tuner.Tuner(kb.tuner.HyperModel(space.within((8, 8, 1))), trials=1)
    assert len(tuner.search(x, y, validation_data=(x, y), epochs=1, verbose=0).completed()) == 1
    tf.config.threading.set_intra_op_parallelism_threads(1)  # raises where a device is in use
"""


def test_the_first_process_leaves_the_gpu_to_its_workers(tmp_path: Path) -> None:
    """TensorFlow and JAX would take most of its memory with the first variable."""
    script = tmp_path / "search.py"
    script.write_text(LEAVES_DEVICES_ALONE, encoding="utf-8")
    found = {**os.environ, "PYTHONPATH": str(Path(kb.__file__).parent.parent)}
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=found, check=True)
