"""What a search leaves behind: a model that takes images as they are, and says what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from test_export import RUN, SUFFIXES, need

import kblocks as kb
from kblocks.command import cli, final
from kblocks.command.stored import opened
from kblocks.tuner.delivering import facts, model_of, record_of
from kblocks.tuner.files import facts_of, save
from kblocks.tuner.records import Objective, Record, Run

NAMES = ["cat", "dog", "owl"]


def net(channels: int, **head: Any) -> tuple[kb.Architecture, keras.Model]:
    """A small network and its model, whose weights are not those of the beginning."""
    rows = [kb.ConvBlock.Spec(4), kb.ConvBlock.Spec(4, strides=2)]
    made = kb.Architecture(rows, head=kb.Classifier(3, **head))
    model = made.model((8, 6, channels))
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.01, 0.2, w.shape) for w in model.get_weights()])
    return made, model


def delivered(scale: float, channels: int = 3, **head: Any) -> tuple[Any, keras.Model, dict]:
    """The model of arrays as it was trained, the delivered one, and the facts about it."""
    made, model = net(channels, **head)
    images = {"scale": scale, "value_range": [0.0, 1.0], "class_names": NAMES}
    settings = {
        "input_shape": [8, 6, channels],
        "job": {"images": images},
        "versions": {"kblocks": "0.1.0", "keras": keras.__version__},
    }
    best = Record(4, "completed", (0.75,), network=made.to_json())
    run = Run("pets", (Objective("val_accuracy", "max"),), settings, (best,), "abc")
    found = model_of(run, best, model.get_weights())
    return model, found, facts(run, best, found)


def integers(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, "uint8")


def error(found: Any, wanted: Any) -> float:
    wanted = np.asarray(wanted)
    return float(abs(np.asarray(found) - wanted).max() / abs(wanted).max())


# --- scaling -------------------------------------------------------------------------------


def test_the_model_divides_what_files_hold(tmp_path: Path) -> None:
    """Integers, floats and arrays of a loaded file give what the trained model gave."""
    model, found, _ = delivered(255)
    save(found, tmp_path / "best.keras")
    x = integers(5, 8, 6, 3)
    wanted = np.asarray(model(x / np.float32(255)))
    loaded: Any = keras.models.load_model(tmp_path / "best.keras")
    for one in (found, loaded):
        for given in (x, x.astype("float32")):
            assert error(one(given), wanted) < 3e-6
            assert error(one.predict(given, verbose=0), wanted) < 3e-6
    assert [layer.name for layer in found.layers][2:] == [layer.name for layer in model.layers][1:]
    assert [layer.name for layer in delivered(1)[1].layers] == [
        layer.name for layer in model.layers
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", SUFFIXES)
def test_exports_divide_and_say_what_they_are(name: str, tmp_path: Path) -> None:
    need(name)
    model, found, known = delivered(255)
    path = kb.export(kb.fuse(found), tmp_path / f"m{SUFFIXES[name]}", metadata=known)
    x = integers(2, 8, 6, 3)
    assert error(RUN[name](path, x.astype("float32")), model(x / np.float32(255))) < 1e-5
    if name == "onnx":
        import onnxruntime

        read = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["kblocks"]
        assert json.loads(read) == known
    elif name == "savedmodel":
        assert json.loads((path / "metadata.json").read_text()) == {"kblocks": known}
    else:
        assert facts_of(path) == known


def test_what_a_model_says_of_itself() -> None:
    known = delivered(255)[2]
    assert known["input_shape"] == [8, 6, 3]
    assert known["value_range"] == [0, 255]
    assert known["class_names"] == NAMES
    assert known["scores"] == {"val_accuracy": 0.75}
    assert known["versions"] == {"kblocks": "0.1.0", "keras": keras.__version__}
    assert delivered(1)[2]["value_range"] == [0, 1]


@pytest.mark.parametrize(
    ("low", "high", "told"), [(0, 0.9, [0, 1]), (0, 254, [0, 255]), (-2, 2.5, [-2, 2.5])]
)
def test_the_range_of_arrays(low: float, high: float, told: list[float]) -> None:
    x = np.array([low, high], "float32").reshape(2, 1, 1, 1)
    data = kb.tuner.Data((x, np.arange(2)), (x, np.arange(2)), class_names=("a", "b"))
    assert record_of(data) == {"scale": 1, "value_range": told, "class_names": ["a", "b"]}


def test_a_scale_is_what_images_were_divided_by() -> None:
    """A model that divides once more would be wrong."""
    x, y = np.array([0, 255], "float32").reshape(2, 1, 1, 1), np.arange(2)
    halves = kb.tuner.Data((x / 127.5, y), (x / 127.5, y), scale=127.5)
    assert record_of(halves)["value_range"] == [0, 2]
    with pytest.raises(ValueError, match=r"divided by already\. Received: scale=255"):
        kb.tuner.Data((x, y), (x, y), scale=255)


# --- predictor -----------------------------------------------------------------------------


def softmax(logits: Any) -> np.ndarray:
    powers = np.exp(np.asarray(logits, "float64"))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L")])
def test_paths_pillow_and_arrays_are_predicted_alike(
    channels: int, mode: str, tmp_path: Path
) -> None:
    model, found, known = delivered(255, channels)
    save(found, tmp_path / "best.keras", known)
    x = integers(2, 8, 6, channels)
    pictures = [Image.fromarray(one.squeeze()) for one in x]
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.convert("RGB").save(path)
        assert picture.mode == mode
    wanted = softmax(model(x / np.float32(255)))
    predict = kb.tuner.predictor(tmp_path)
    for given in (paths, list(map(str, paths)), pictures, x, list(x), x.astype("float32")):
        shares = predict(given)
        assert [[one[name] for name in NAMES] for one in shares] == [
            pytest.approx(row, rel=1e-5) for row in wanted.tolist()
        ]
        assert all(list(one.values()) == sorted(one.values(), reverse=True) for one in shares)
    assert predict(paths[0]) == predict(pictures[0]) == predict(paths[:1])
    assert list(predict(x[0])[0]) == list(predict(paths[0])[0])
    for wrong in (x[:, :, :5], x[0, :, :5]):
        with pytest.raises(ValueError, match=r"\(8, 6, .\) arrays. Received: \(8, 5, .\)"):
            predict(wrong)


@pytest.mark.parametrize("wrong", [1 / 255, -1, 2, np.nan])
def test_arrays_of_another_range_are_refused(wrong: float, tmp_path: Path) -> None:
    _, found, known = delivered(255)
    save(found, tmp_path / "m.keras", known)
    predict = kb.tuner.predictor(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"from 0 to 255. Received: one from"):
        predict(integers(1, 8, 6, 3) * np.float32(wrong))
    dark = np.ones((1, 8, 6, 3), "float32")
    assert predict(dark) == predict(dark.astype("uint8")) == predict(iter(dark))


def test_digits_are_given_as_scikit_learn_has_them(tmp_path: Path) -> None:
    model, found, known = delivered(16, 1)
    save(found, tmp_path / "m.keras", known)
    x = np.random.default_rng(0).integers(0, 17, (3, 8, 6)).astype(float)
    shares = kb.tuner.predictor(tmp_path / "m.keras")(x)
    wanted = softmax(model(x[..., None] / 16))
    assert [one["owl"] for one in shares] == pytest.approx(wanted[:, 2].tolist(), rel=1e-5)


def test_several_labels_have_a_probability_each(tmp_path: Path) -> None:
    model, found, known = delivered(255, multi_label=True)
    save(found, tmp_path / "best.keras", known)
    x = integers(1, 8, 6, 3)
    (shares,) = kb.tuner.predictor(tmp_path)(x)
    logits = np.asarray(model(x / np.float32(255)), "float64")[0]
    assert shares["dog"] == pytest.approx(1 / (1 + np.exp(-logits[1])), rel=1e-5)


def test_a_model_without_a_record_takes_arrays_alone(tmp_path: Path) -> None:
    """As an earlier version of kblocks delivered it; its classes have numbers."""
    model = net(3)[1]
    save(model, tmp_path / "best.keras", {"trial": 0, "retrained": False})
    Image.new("RGB", (6, 8)).save(tmp_path / "a.png")
    predict, x = kb.tuner.predictor(tmp_path), np.ones((8, 6, 3))
    assert predict(x)[0]["2"] == pytest.approx(softmax(model(x[None]))[0, 2], rel=1e-5)
    with pytest.raises(ValueError, match="takes arrays as in its training"):
        predict(tmp_path / "a.png")


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run's folder with best"):
        kb.tuner.predictor(tmp_path)
    made = kb.Architecture([kb.ConvBlock.Spec(4)], head=kb.Localizer(3))
    save(made.model((8, 8, 3)), tmp_path / "best.keras")
    with pytest.raises(ValueError, match="classifies"):
        kb.tuner.predictor(tmp_path)


# --- the command ---------------------------------------------------------------------------


def test_predict_prints_a_line_an_image(tmp_path: Path, capsys: Any) -> None:
    model, found, known = delivered(255)
    save(found, tmp_path / "best.keras", known)
    (tmp_path / "new" / "deep").mkdir(parents=True)
    paths = [tmp_path / "new" / "b.jpg", tmp_path / "new" / "deep" / "a.png"]
    for path in paths:
        Image.new("RGB", (6, 8), (200, 10, 90)).save(path)
    assert cli.main(["predict", str(tmp_path), str(tmp_path / "new"), str(paths[0])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [*map(str, paths), str(paths[0])]
    shares = softmax(model(np.full((1, 8, 6, 3), (200, 10, 90)) / np.float32(255)))[0]
    best = int(shares.argmax())
    assert lines[1].split("  ")[1].startswith(f"{NAMES[best]} {shares[best]:.3f}, ")
    assert lines[1].count(",") == 2
    assert cli.main(["predict", str(tmp_path), str(tmp_path / "none.png")]) == 1
    assert "none.png" in capsys.readouterr().err
    assert cli.main(["predict", str(tmp_path / "new"), str(paths[0])]) == 1
    assert "RUN must be a run's folder" in capsys.readouterr().err


RUN_FILE = """
from dataclasses import replace
import numpy as np
import kblocks as kb

def data():
    x = np.random.default_rng(0).random((12, 8, 8, 1), "float32")
    parts = {"train": (x, np.arange(12) % 2), "validation": (x, np.arange(12) % 2)}
    return kb.tuner.Data(**parts, scale=255, class_names=("a", "b"), fit={"epochs": 2})

def tuner(**settings):
    filters = {"stem": {"filters": 4}, "filters": [4, 4, kb.choice(4, 8)]}
    net = kb.Space(kb.resnet20, classes=2, blocks=(1, 1, 1), **filters)
    model = kb.tuner.HyperModel(net.within((8, 8, 1)), latency=False)
    return kb.tuner.Tuner(model, **{"project_name": "tiny", "workers": 0, "trials": 1, **settings})
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_last_training_is_shown_and_can_be_interrupted(
    is_terminal: bool, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"tiny{is_terminal}.py").write_text(RUN_FILE, encoding="utf-8")
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    show, begun = final._Shown.__call__, ["search", f"tiny{is_terminal}.py", "--retrain"]

    def interrupted(self: Any, epoch: int, logs: Any) -> None:
        show(self, epoch, logs)
        raise KeyboardInterrupt

    monkeypatch.setattr(final._Shown, "__call__", interrupted)
    assert cli.main(begun) == 130
    told = capsys.readouterr().out
    assert "epoch 1 of 2   accuracy " in told
    assert "left" in told
    assert "best.keras is missing. The same command trains the network once more" in told
    assert not Path("runs/tiny/best.keras").exists()
    assert json.loads(Path("runs/tiny/best.json").read_text())["name"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert cli.main(begun) == 0
    assert 'predict = kb.tuner.predictor("runs/tiny")' in capsys.readouterr().out
    known = json.loads(Path("runs/tiny/best.json").read_text())["model"]
    assert known == facts_of(Path("runs/tiny/best.keras"))
    assert (known["value_range"], known["class_names"]) == ([0, 255], ["a", "b"])
    assert opened("runs/tiny").settings["job"]["images"]["scale"] == 255


def test_data_that_cannot_be_put_together_are_refused_before_the_search(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    more = "\nwhole = data\ndef data():\n    return replace(whole(), validation=None)\n"
    (tmp_path / "half.py").write_text(RUN_FILE + more, encoding="utf-8")
    assert cli.main(["search", "half.py", "--retrain"]) == 2
    told = "--retrain needs arrays or a folder of images, or `final` in the run file. Received: "
    assert f"{told}tuple and, to validate, NoneType" in capsys.readouterr().err
    assert not list(Path().rglob("study.db"))


# --- from a folder of images to names ------------------------------------------------------


def picture(shape: str, random: np.random.Generator) -> Image.Image:
    """A bright square, cross or ring of random size and place on noise, 40x40."""
    x, y = np.mgrid[:40, :40] - random.uniform(15, 25, (2, 1, 1))
    size = random.uniform(8, 13)
    far, near = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    drawn = {
        "square": far < size,
        "cross": (near < 2) & (far < size),
        "ring": abs(np.hypot(x, y) - size) < 2,
    }[shape]
    noise = random.uniform(0, 90, (40, 40, 3))
    return Image.fromarray((noise + 150 * drawn[..., None]).astype("uint8"))


def pictures(folder: Path, count: int, seed: int, name: Callable[[str, int], str]) -> list[Path]:
    random, paths = np.random.default_rng(seed), []
    for shape in ("cross", "ring", "square"):
        for i in range(count):
            paths.append(folder / f"{name(shape, i)}.{('jpg', 'png')[i % 2]}")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            picture(shape, random).save(paths[-1])
    return paths


def right_in(printed: str, count: int) -> int:
    """How many of so many pictures `kblocks predict` has named as their files are called."""
    lines = [line.split("  ") for line in printed.splitlines()]
    assert len(lines) == count
    return sum(Path(path).name.startswith(named.split()[0]) for path, named in lines)


@pytest.mark.system
def test_a_folder_of_images_becomes_a_command_that_names_others(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """With nothing but the run's folder, moved elsewhere."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "shapes", 20, 0, lambda shape, i: f"{shape}/{i}")
    typed = "--family resnet --data shapes --image-size 32x32 --trials 2 --epochs 16 --seed 1"
    more = ["--batch-size", "8", "--macs", "4e6", "--workers", "0", "--retrain"]
    assert cli.main(["search", *typed.split(), *more]) == 0
    assert 'print(predict(["image.png"]))' in capsys.readouterr().out
    shutil.rmtree("shapes")
    shutil.copytree("runs/resnet_shapes", "elsewhere")
    shutil.rmtree("runs")
    new = pictures(tmp_path / "new", 20, 9, lambda shape, i: f"{shape}{i}")
    assert cli.main(["predict", "elsewhere", "new"]) == 0
    assert right_in(capsys.readouterr().out, len(new)) > 0.7 * len(new)
