"""Searches whose networks start from published weights: which, how much, and how they learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file
from test_delivering import pictures, right_in
from test_search import Stops

import kblocks as kb
from kblocks.command import cli
from kblocks.command.ready import published_space
from kblocks.command.stored import opened
from kblocks.command.tables import of_run
from kblocks.networks import starting, torch_weights
from kblocks.tuner.delivering import model_of
from kblocks.tuner.records import Record
from kblocks.tuner.reporting.outline import drawing
from kblocks.tuner.reporting.view import View
from kblocks.tuner.storing import identity

INPUT = (8, 8, 3)
SMALL: dict[str, Any] = {"blocks": (1, 1, 1), "stem": {"filters": 4}}
RNG = np.random.default_rng(0)
X, Y = RNG.random((24, *INPUT), dtype="float32"), np.arange(24) % 3
FIT: dict[str, Any] = {"validation_data": (X, Y), "batch_size": 8, "verbose": 0}
# Of torchvision's weights for ResNet-18, as its documentation says.
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

Make = Callable[..., kb.tuner.HyperModel]


@pytest.fixture
def state() -> dict[str, np.ndarray]:
    """Weights of a network of five classes that has learned a little, by torchvision's names."""
    model = kb.resnet20(5, filters=[4, 4, 4], **SMALL).model(INPUT)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.set_weights([w + 0.01 * RNG.random(w.shape) for w in model.get_weights()])
    return kb.to_torch_state_dict(model)


@pytest.fixture
def make(state: dict[str, np.ndarray], tmp_path: Path) -> Make:
    """Hypermodels over small networks that start from a file of `state`."""
    save_file(state, tmp_path / "small.safetensors")

    def hypermodel(shape: Any = INPUT, filters: Any = 4, **arguments: Any) -> kb.tuner.HyperModel:
        space = kb.Space(kb.resnet20, classes=3, filters=[4, 4, filters], **SMALL)
        given = {"weights": str(tmp_path / "small.safetensors"), "latency": False, **arguments}
        return kb.tuner.HyperModel(space.within(shape), **given)

    return hypermodel


def built(hypermodel: kb.tuner.HyperModel, **values: Any) -> tuple[Any, dict[str, Any]]:
    hp = keras_tuner.HyperParameters()
    hypermodel.declare_hyperparameters(hp)
    hp.values |= values
    model = hypermodel.build(hp)
    return model, json.loads(hp.values["kblocks/start"])


def error(found: Any, wanted: Any) -> float:
    return float(abs(np.asarray(found) - np.asarray(wanted)).max())


# --- which network, and which weights ------------------------------------------------------


def test_a_space_chooses_among_published_networks() -> None:
    names = "resnet18", "resnet50", "efficientnet_lite0"
    space = kb.Space(kb.architecture, name=kb.choice(*names), classes=10)
    for name in names:
        assert space.build({"name": name}) == kb.architecture(name, classes=10)
    assert kb.architecture("resnet18", name="mine").name == "mine"
    with pytest.raises(ValueError, match="name of an architecture"):
        kb.architecture(classes=10)


@pytest.mark.parametrize(
    ("net", "weights", "named"),
    [
        (kb.resnet18(5, filters=[8, 8, 8, 8]), "imagenet", "resnet18 tv_in1k"),
        (kb.resnet(5, blocks=(3, 4, 6, 3)), "tv_in1k", "resnet34 tv_in1k"),
        (kb.resnet(5, block="bottleneck", blocks=(3, 4, 9, 3)), "imagenet", "resnet101 tv_in1k"),
        (kb.efficientnet_lite0(5), "imagenet", "efficientnet_lite0 package_in1k"),
    ],
)
def test_the_most_similar_network_of_the_family(
    net: kb.Architecture, weights: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_weights, "is_installed", lambda source: "package" in source)
    assert starting.starts_of(net, weights)[0].name == named


def test_families_and_names_without_weights_are_refused() -> None:
    space = kb.Space(kb.preresnet, classes=10, blocks=[1, kb.choice(1, 2), 1]).within((32, 32, 3))
    with pytest.raises(ValueError, match="None: none are published for this 'preresnet'"):
        kb.tuner.HyperModel(space, weights="imagenet")
    space = kb.Space(kb.resnet18, classes=10).within((32, 32, 3))
    with pytest.raises(ValueError, match=r"one of \['imagenet', 'tv_in1k'\]. Received.*'gone.pth'"):
        kb.tuner.HyperModel(space, weights="gone.pth")
    with pytest.raises(ValueError, match="None: none are published for this 'resnet20'"):
        kb.resnet20().model((32, 32, 3), weights="imagenet")


def test_the_command_takes_the_networks_that_have_weights(
    state: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """The smallest first, within the budget; of a file that network of which it is."""
    images = "efficientnet", (64, 64, 3), 5
    space = published_space(*images, None, "package_in1k")
    names = [space.build({"name": f"efficientnet_lite{n}"}).name for n in range(3)]
    assert [kind.options for kind in (space.tree.dimensions["name"].kind,)] == [tuple(names)]
    space = published_space(*images, kb.Budget(params=6e6), "imagenet")
    assert space.default()["name"] == "efficientnet_lite0"
    assert "efficientnet_lite4" not in space.tree.dimensions["name"].kind.options
    save_file(kb.to_torch_state_dict(kb.resnet20().model((32, 32, 3))), tmp_path / "of.safetensors")
    file = str(tmp_path / "of.safetensors")
    assert published_space("resnet", (32, 32, 3), 5, None, file).tree.fixed["name"] == "resnet20"


# --- what is loaded ------------------------------------------------------------------------


@pytest.mark.parametrize(("filters", "arrays"), [(4, 46), (8, 36)])
def test_arrays_of_equal_shape_are_loaded_and_counted(
    make: Make, state: dict[str, np.ndarray], filters: int, arrays: int
) -> None:
    """Of 4 convolutions before the last stage, 3 in it, as many norms of 4 arrays, and a head."""
    model, start = built(make(filters=filters))
    found = kb.to_torch_state_dict(model)
    same = {name for name in state if np.array_equal(found[name], state[name])}
    assert start["arrays"] == [len(same), len(found)]
    assert start["numbers"] == [
        sum(state[name].size for name in same),
        sum(value.size for value in found.values()),
    ]
    assert not {"fc.weight", "fc.bias"} & same
    told = Record(0, "completed", start=start).started_from
    assert told.startswith(f"{len(same)} of {len(found)} arrays, ")
    assert told.endswith(" weights of small.safetensors")


@pytest.mark.parametrize("value_range", [(0, 1), (0, 255), (-1, 1), None])
def test_images_are_normalized_once(make: Make, value_range: Any) -> None:
    model, _ = built(make(value_range=value_range))
    plain = kb.resnet20(3, filters=[4, 4, 4], **SMALL).model(INPUT)
    plain.set_weights(model.get_weights())
    low, high = value_range or (0, 1)
    normal = X if value_range is None else (X - MEAN) / STD
    assert error(model(low + (high - low) * X), plain(normal.astype("float32"))) < 1e-4


def test_grey_and_resized_images(make: Make, state: dict[str, np.ndarray]) -> None:
    """A grey image gives what its copy in three channels does; Keras' own layer resizes."""
    model, start = built(make((8, 8, 1), finetuning=kb.FineTuning(image_size=16)))
    assert start["arrays"] == [len(state) - 2, len(state)]
    plain = kb.resnet20(3, filters=[4, 4, 4], **SMALL).model((16, 16, 3))
    kb.load_torch_weights(plain, state, skip_head=True)
    plain.get_layer("head").set_weights(model.get_layer("head").get_weights())
    large = keras.layers.Resizing(16, 16, "bilinear", antialias=True)(X[..., :1])
    normal = (np.repeat(large, 3, axis=-1) - MEAN.mean()) / STD.mean()
    assert error(model(X[..., :1]), plain(normal.astype("float32"))) < 1e-4


def test_a_saved_model_and_names_of_layers(make: Make, tmp_path: Path) -> None:
    model, _ = built(make())
    model.save(tmp_path / "own.keras")
    again, start = built(make(filters=kb.choice(4, 8), weights=tmp_path / "own.keras"))
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert start["arrays"] == [len(model.weights)] * 2
    model.save_weights(tmp_path / "own.weights.h5")
    with pytest.raises(ValueError, match=r"`model.save` \(.keras\) or of PyTorch"):
        built(make(weights=tmp_path / "own.weights.h5"))


def test_a_file_is_read_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    opens = torch_weights.opened
    monkeypatch.setattr(torch_weights, "opened", lambda file: (read.append(file), opens(file))[1])
    hypermodel = make()
    hypermodel.check_weights((X, Y), {})
    built(hypermodel)
    built(make())
    assert len(read) == 1


def test_layers_that_resize_leave_norms_in_inference_mode() -> None:
    """Keras' own would put all behind them in training mode where a caller names no mode."""
    net = kb.resnet20(3, filters=[4, 4, 4], **SMALL)
    resizing = {"size": 16, "interpolation": "bilinear"}
    inputs = keras.Input(INPUT)
    published = net.model(
        (16, 16, 3), input_tensor=kb.resnet18().weights[0]._replace(size=16).preprocessing()(inputs)
    )
    for model in (starting.model_on_images(net, INPUT, resizing), published):
        before = model.get_weights()
        model(X)
        for one, other in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        model(X, training=True)
        assert any(
            not np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True)
        )


# --- at the door ---------------------------------------------------------------------------


def test_what_cannot_start_is_refused_before_the_first_trial(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(hypermodel: kb.tuner.HyperModel, x: Any = X) -> None:
        kb.tuner.Tuner(hypermodel, trials=1, workers=0, directory=tmp_path).search(x, Y, **FIT)

    with pytest.raises(ValueError, match=r"`value_range`.*\(0, 1\), and images from 0.* to 25"):
        search(make(), 255 * X)
    with pytest.raises(ValueError, match=r"`value_range`.*\(0, 255\), and images from"):
        search(make(value_range=(0, 255)))
    gone = make()
    (tmp_path / "small.safetensors").unlink()
    with pytest.raises(OSError, match=r"small.safetensors"):
        search(gone)
    save_file({"conv1.weight": np.ones((5, 3, 7, 7), "float32")}, tmp_path / "small.safetensors")
    starting._read.cache_clear()
    with pytest.raises(ValueError, match=r"fit 'resnet20'. Received: small.safetensors, of which"):
        search(make())

    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(repository: str, file: str) -> str:
        raise LocalEntryNotFoundError("No connection")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    space = kb.Space(kb.architecture, name="resnet18", classes=3).within((32, 32, 3))
    with pytest.raises(
        OSError, match=r"`hf download timm/resnet18.tv_in1k model.safetensors` make"
    ):
        search(kb.tuner.HyperModel(space, weights="imagenet"))
    assert not list(tmp_path.rglob("study.db"))


def test_arguments_that_do_not_go_together(make: Make) -> None:
    with pytest.raises(ValueError, match="`finetuning` goes with `weights` and a recipe"):
        make(weights=None, finetuning=kb.FineTuning())
    for wrong in ({"decay": 0}, {"freeze": 3}, {"head_epochs": -1}, {"norms": 1}):
        (name,) = wrong
        with pytest.raises(ValueError, match=rf"`{name}` must be .* Received: {name}="):
            kb.FineTuning(**{name: kb.choice(*wrong.values())})
    with pytest.raises(ValueError, match="must name a stage"):
        built(make(finetuning=kb.FineTuning(freeze="stage9")))


# --- how it is trained on ------------------------------------------------------------------


def test_frozen_stages_and_rates(make: Make) -> None:
    """The head is trained alone at first; then the stage before it has the factor once."""
    finetuning = kb.FineTuning(freeze="stage1", decay=kb.real(0.5, 1), head_epochs=2)
    hypermodel, hp = make(finetuning=finetuning), keras_tuner.HyperParameters()
    hypermodel.declare_hyperparameters(hp)
    hp.values["finetuning.decay"] = 0.5
    model: Any = hypermodel.build(hp)
    assert {weight.path for weight in model.trainable_weights} == {
        *("head/dense/kernel", "head/dense/bias")
    }
    hypermodel.compiled(model, hp)
    rates = {w.path: model.optimizer.multiplier_of(w) for w in model.trainable_weights}
    assert {(path.split("_")[0].split("/")[0], rate) for path, rate in rates.items()} == {
        *(("stage2", 0.25), ("stage3", 0.5), ("head", 1.0))
    }


def searched(make: Make, folder: Path, name: str, *callbacks: Any) -> kb.tuner.Tuner:
    keras.utils.set_random_seed(3)
    finetuning = kb.FineTuning(head_epochs=2, freeze="stem", decay=0.5)
    hypermodel = make(finetuning=finetuning, recipe=kb.Recipe(schedule="cosine"))
    known = {"workers": 0, "trials": 1, "directory": folder, "project_name": name, "seed": 1}
    tuner = kb.tuner.Tuner(hypermodel, "loss", **known)
    tuner.search(X, Y, epochs=4, shuffle=False, callbacks=list(callbacks), **FIT)
    return tuner


class Watch(keras.callbacks.Callback):
    """Notes after which epochs the kernels of stem and first stage have changed."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[tuple[int, bool, bool]] = []

    def __deepcopy__(self, memo: Any) -> Watch:
        return self

    def kernels(self) -> list[np.ndarray]:
        model: Any = self.model
        layers = (model.get_layer(name) for name in ("stem", "stage1_block1"))
        return [layer.get_weights()[0] for layer in layers]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.before = self.kernels()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        pairs = zip(self.before, self.kernels(), strict=True)
        self.moved.append((epoch, *(not np.array_equal(*pair) for pair in pairs)))


@pytest.mark.slow
def test_the_head_is_trained_first_and_the_record_is_whole(make: Make, tmp_path: Path) -> None:
    watch = Watch()
    tuner = searched(make, tmp_path, "whole", watch)
    assert watch.moved == [(0, False, False), (1, False, False), (2, False, True), (3, False, True)]
    run = tuner.run()
    (trial,) = run.trials
    assert [len(trial.history[name]) for name in ("loss", "learning_rate")] == [4, 4]
    assert trial.epochs == 4
    told = trial.started_from
    assert "weights of small.safetensors" in told
    console = Console(width=200)
    with console.capture() as shown:
        console.print(of_run(opened("whole", tuner.storage_url)))
    assert f"0 started from {told}" in shown.get()
    assert told in drawing(View(run))
    assert run.settings["finetuning"].startswith("FineTuning(freeze='stem'")
    # The delivered model normalizes, and needs no file; that of the trial is the same.
    (tmp_path / "small.safetensors").unlink()
    starting._read.cache_clear()
    (model,) = tuner.get_best_models()
    assert error(model_of(run, trial, model.get_weights())(X), model(X)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_interrupted_trial_goes_on_in_its_phase(make: Make, tmp_path: Path, after: int) -> None:
    """Within the epochs of the head, right behind them, and later: to rounding as if whole."""
    whole = searched(make, tmp_path, "whole")
    with pytest.raises(KeyboardInterrupt):
        searched(make, tmp_path, "cut", Stops(after))
    cut = searched(make, tmp_path, "cut")
    expected, found = (tuner.run().trials[0].history["loss"] for tuner in (whole, cut))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_weights_are_part_of_what_a_search_is(make: Make) -> None:
    objectives, fit = (kb.tuner.Objective("val_accuracy", "max"),), ((X, Y), {})
    before, now = (
        identity.settings_of(one, objectives, fit) for one in (make(weights=None), make())
    )
    assert not {"weights", "finetuning", "value_range"} & set(before)
    with pytest.raises(ValueError, match=r"weights was not there, is small.safetensors of \d+ byt"):
        identity.check(before, now)
    grown = make(finetuning=kb.FineTuning(freeze=kb.choice(None, "stem")))
    identity.check(now, identity.settings_of(grown, objectives, fit), extend=True)
    grown = make(finetuning=kb.FineTuning(freeze=kb.choice(None, "stem"), decay=0.5))
    with pytest.raises(ValueError, match=r"decay was 1\.0, is 0\.5"):
        identity.check(now, identity.settings_of(grown, objectives, fit), extend=True)


# --- from a folder of images to names ------------------------------------------------------


@pytest.mark.system
def test_a_folder_of_images_is_fine_tuned_by_the_command(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """From a file of a network that has learned other such images, on two worker processes."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "others", 60, 5, lambda shape, i: f"{shape}/{i}")
    others = kb.tuner.load("others", image_size=(32, 32), batch_size=16)
    normal = {"mean": list(MEAN), "variance": list(STD**2)}
    model = starting.model_on_images(kb.resnet20(3), (32, 32, 3), normal)
    kb.Recipe(learning_rate=3e-3).compile(model)
    model.fit(others.train, epochs=16, verbose=0)
    save_file(kb.to_torch_state_dict(model), "others.safetensors")
    pictures(tmp_path / "shapes", 20, 0, lambda shape, i: f"{shape}/{i}")
    typed = "--family resnet --data shapes --image-size 32x32 --trials 2 --epochs 6 --seed 1"
    more = "--batch-size 8 --workers 2 --weights others.safetensors"
    assert cli.main(["search", *typed.split(), *more.split()]) == 0
    assert " weights of others.safetensors" in capsys.readouterr().out
    Path("others.safetensors").unlink()
    new = pictures(tmp_path / "new", 20, 9, lambda shape, i: f"{shape}{i}")
    assert cli.main(["predict", "runs/resnet_shapes", "new"]) == 0
    assert right_in(capsys.readouterr().out, len(new)) > 0.7 * len(new)
    assert cli.main(["show", "runs/resnet_shapes/best.json"]) == 0
    assert "its weights started from" in capsys.readouterr().out
