"""The command line: what it shows, what it exports, and how it fails."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from PIL import Image
from typer.testing import CliRunner

import kblocks as kb
from kblocks.command import cli
from kblocks.command.listing import FAMILIES
from kblocks.command.ready import FamilyJob, space
from kblocks.command.stored import opened
from kblocks.command.typed import masked
from kblocks.tuner import records
from kblocks.tuner.files import save
from kblocks.tuner.storing.checkpoints import Checkpoints
from kblocks.tuner.storing.identity import fingerprint

INPUT = (8, 8, 1)
NET = kb.resnet20(classes=3, blocks=(1, 1, 1), filters=(4, 8, 8), stem={"filters": 4})
ROOT = Path(__file__).parent.parent
SECRET = "s3cr&t@word"


def shown(*arguments: str) -> str:
    """What a command prints that goes well."""
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`failing("show", "x")`: a command's exit code and its one line on stderr."""

    def run(*arguments: str) -> tuple[int, str]:
        code = cli.main(list(arguments))
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1, captured.err
        assert captured.err.startswith("kblocks: ")
        return code, captured.err

    return run


def trial(number: int, score: float | None, **attributes: Any) -> Any:
    own = {records.NETWORK: NET.to_json(), records.COSTS: {"params": 12_345, "macs": 67_890}}
    return create_trial(
        state=TrialState.FAIL if score is None else TrialState.COMPLETE,
        value=score,
        params={"x": number},
        distributions={"x": optuna.distributions.IntDistribution(0, 9)},
        user_attrs={**own, **attributes},
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder: three completed trials, one failed, one running; the second is the best."""
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    storage = f"sqlite:///{folder / 'study.db'}"
    study = optuna.create_study(storage=storage, study_name="mine", direction="maximize")
    study.set_user_attr(
        records.RUN,
        {
            "format": 1,
            "objectives": [{"name": "val_accuracy", "direction": "max"}],
            "input_shape": list(INPUT),
            "trials": 9,
        },
    )
    failure = {"kind": "memory", "message": "[red]no\x1b[31m room\nat all", "traceback": ""}
    study.add_trials([trial(0, 0.5), trial(1, 0.9), trial(2, 0.7)])
    study.add_trial(trial(3, None, **{records.FAILURE: failure}))
    running = study.ask()
    running.set_user_attr(records.EPOCHS, 20)
    running.set_user_attr(records.HISTORY, {"val_accuracy": [0.1, 0.625]})
    return folder


# --- list and show -------------------------------------------------------------------------


def test_list_has_every_architecture() -> None:
    lines = shown("list").splitlines()[1:]
    assert [line.split()[0] for line in lines] == kb.architectures()


def test_list_of_a_family_with_the_figures_of_others() -> None:
    """ResNet-50: torchvision's 25,557,032 parameters, and two statistics of 26,560 channels."""
    lines = shown("list", "--family", "resnet").splitlines()[1:]
    rows = {line.split()[0]: line.split() for line in lines}
    assert rows["resnet50"][1:4] == ["resnet", "224x224x3", f"{25_557_032 + 2 * 26_560:,}"]
    assert round(int(rows["resnet50"][4].replace(",", "")) / 1e9, 2) == 4.09  # torchvision's
    assert rows["resnet50"][5:] == ["tv_in1k", "(hf://timm/resnet50.tv_in1k)"]
    assert rows["resnet20"][2] == "32x32x3"
    assert rows["resnet20"][5] == "-"


@pytest.mark.parametrize(
    ("name", "side"),
    [("inception_v3", 299), ("efficientnet_b7", 600), ("alexnet", 224), ("wrn28_10", 32)],
)
def test_show_takes_the_input_that_a_network_was_made_for(name: str, side: int) -> None:
    assert f"input {side}x{side}x3" in shown("show", name)


def test_show_has_the_stages_and_their_sum() -> None:
    table = [re.split(r"  +", line.strip()) for line in shown("show", "resnet50").splitlines()]
    rows = {row[0]: row[1:] for row in table[1:]}
    assert list(rows) == ["stem", "stage1", "stage2", "stage3", "stage4", "head", "resnet50"]
    assert rows["stage4"][0] == "7x7x2048"
    for column in (1, 2):
        figures = [int(row[column].replace(",", "")) for row in rows.values()]
        assert sum(figures[:-1]) == figures[-1]
    shares = [float(row[3].rstrip("%")) for name, row in rows.items() if name != "resnet50"]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    lengths = {name: len(row[4]) for name, row in rows.items() if len(row) > 4}
    assert max(lengths, key=lambda name: lengths[name]) in ("stage3", "resnet50")


def test_show_takes_classes_input_and_files(tmp_path: Path) -> None:
    assert "2,049" not in shown("show", "resnet50", "--classes", "7")
    assert "28x28x256" in shown("show", "resnet50", "--input", "112X112x3")
    (tmp_path / "net.json").write_text(NET.to_json())
    text = shown("show", str(tmp_path / "net.json"), "--input", "8x8x1")
    assert f"{NET.cost(INPUT).macs:,}" in text
    found = {**json.loads(NET.to_json()), "model": {"input_shape": INPUT}}  # as in best.json
    (tmp_path / "net.json").write_text(json.dumps(found))
    assert shown("show", str(tmp_path / "net.json")) == text


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("show", "resnet5"), 2, "Did you mean 'resnet"),
        (("show", "resnet50", "--input", "224x224"), 2, "HEIGHTxWIDTHxCHANNELS. Received: 224x224"),
        (("show", "resnet50", "--input", "axbxc"), 2, "Received: axbxc"),
        (("show", "inception_v3", "--input", "32x32x3"), 1, "(75, 75, 3)"),
        (("show", "none.json"), 2, "none.json"),
        (("show", "resnet50", "--classes", "0"), 2, "--classes"),
        (("list", "--family", "resnets"), 2, "Did you mean resnet? Received: resnets"),
        (("lst",), 2, "lst"),
        (("status", "nowhere"), 1, "study.db"),
        (("status", "x", "--storage", "sqlite:///nowhere.db"), 1, "nowhere.db"),
        (("status", "x", "--storage", "nonsense"), 1, "URL"),
        (("best", "nowhere", "--export", "gif"), 2, "keras, savedmodel, onnx, litert"),
        (("predict", "nowhere", "a.png"), 1, "a run's folder with best.keras"),
        (("predict", "nowhere", "."), 2, "IMAGES must have images"),
        (("search",), 2, "either a run file"),
        (("search", "a.py", "--family", "vgg", "--data", "digits"), 2, "either a run file"),
        (("search", "--family", "vgg"), 2, "either a run file"),
        (("search", "nowhere.py"), 2, "nowhere.py"),
        (("search", "nowhere.py", "--limit", "9"), 2, "--limit"),
        (("search", "nowhere.py", "--recipe", "plain"), 2, "--recipe"),
        (("search", "nowhere.py", "--seed", "-1"), 2, "'--seed'"),
        (("search", "--family", "vg", "--data", "digits"), 2, "--family must be one of alexnet"),
        (("search", "--family", "vgg", "--data", "digit"), 2, "--data must be one of digits"),
        (("search", "--family", "vgg", "--data", "digits", "--image-size", "8"), 2, "HEIGHTxWIDTH"),
        (("search", "--family", "vgg", "--data", "digits", "--macs", "-1"), 2, "macs"),
        (
            ("search", "--family", "vgg", "--data", "digits", "--trial-seconds", "-1"),
            2,
            "--trial-seconds must be a positive number or None. Received: -1",
        ),
        (("search", "--family", "vgg", "--data", "digits", "--max-trials", "1"), 2, "--trials"),
        (("search", "--family", "vgg", "--data", "digits", "--macs", "9"), 2, "Nothing in this"),
        (("search", "--family", "vgg", "--data", "digits", "--sampler", "x"), 2, "sampler"),
        (("search", "--family", "vgg", "--data", "digits", "--recipe", "x"), 2, "plain, strong"),
        (("search", "--family", "vgg", "--data", "digits", "--objective", "a:b"), 2, "NAME:min"),
        (("search", "--family", "vgg", "--data", "digits", "--trials", "x"), 2, "--trials"),
    ],
)
def test_errors_are_one_line(
    arguments: tuple[str, ...], code: int, told: str, failing: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found, line = failing(*arguments)
    assert told in line
    assert found == code
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []  # nor was anything begun


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--debug", "show", "resnet5"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_traceback_of_a_trial_is_for_debugging(failing: Any, monkeypatch: Any) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError(
            "None was completed. The last:\nTraceback (most recent call last):\n at x"
        )

    monkeypatch.setattr("kblocks.command.stored.opened", fails)
    told = "None was completed. The last: (kblocks --debug shows where)\n"
    assert failing("status", "x") == (1, f"kblocks: {told}")


def test_a_json_of_another_kind(tmp_path: Path, failing: Any) -> None:
    (tmp_path / "net.json").write_text('{"format": 7}')
    assert failing("show", str(tmp_path / "net.json"))[0] == 1


# --- runs ----------------------------------------------------------------------------------


def test_status_tells_where_a_run_stands(run: Path) -> None:
    text = shown("status", str(run))
    assert "mine: 4 of 9 trials ended (3 completed, 1 failed, 1 running)" in text
    assert re.search(r"4 +2/20 +val_accuracy 0.6250", text)
    best = [line.split() for line in text.splitlines() if "12,345" in line]
    assert [row[:2] for row in best] == [["1", "0.9"], ["2", "0.7"], ["0", "0.5"]]
    assert re.search(r"3 +memory", text)


def test_text_from_a_run_is_not_obeyed(run: Path) -> None:
    text = shown("status", str(run))
    assert "\x1b" not in text
    assert "[red]no [31m room at all" in text


def test_a_front_is_listed_for_several_objectives(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'two.db'}"
    both = ["maximize", "minimize"]
    study = optuna.create_study(storage=storage, study_name="two", directions=both)
    study.add_trials([create_trial(values=values) for values in ((0.9, 50), (0.8, 60), (0.7, 10))])
    rows = [line.split() for line in shown("status", "two", "--storage", storage).splitlines()]
    assert [row[0] for row in rows if len(row) == 5 and row[0].isdigit()] == ["0", "2"]


def test_a_run_is_found_by_its_storage(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = f"sqlite:///{run / 'study.db'}"
    by_folder = shown("status", str(run))
    assert shown("status", "mine", "--storage", storage) == by_folder
    monkeypatch.setenv("KBLOCKS_STORAGE", storage)
    assert shown("status", "mine") == by_folder
    run.rename(run.with_name("renamed"))
    assert shown("status", str(run.with_name("renamed"))) == by_folder


def test_an_unknown_name_lists_those_that_are_there(run: Path, failing: Any) -> None:
    storage = f"sqlite:///{run / 'study.db'}"
    optuna.create_study(storage=storage, study_name="other")
    code, line = failing("status", "yours", "--storage", storage)
    assert code == 1
    assert "mine, other" in line


def test_best_shows_the_best_network(run: Path, tmp_path: Path) -> None:
    text = shown("best", str(run), "--output", str(tmp_path / "net.json"))
    assert text.startswith("trial 1: val_accuracy 0.9000\n  x = 1\n")
    assert f"{NET.cost(INPUT).macs:,}" in text
    assert kb.Architecture.from_json((tmp_path / "net.json").read_text()) == NET


@pytest.fixture
def trained(run: Path) -> tuple[Path, keras.Model, np.ndarray]:
    """The run with weights of its best trial, its model, and images."""
    model = NET.model(INPUT)
    random = np.random.default_rng(0)
    weights = [random.uniform(0.2, 1, w.shape).astype("float32") for w in model.get_weights()]
    model.set_weights(weights)
    Checkpoints(run / "checkpoints").save_best(1, weights)
    return run, model, random.random((2, *INPUT), "float32")


def _keras(path: Path, images: np.ndarray) -> Any:
    return keras.models.load_model(path, safe_mode=True)(images)


def _onnx(path: Path, images: np.ndarray) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def _saved_model(path: Path, images: np.ndarray) -> Any:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # its functions do not keep it alive
    return loaded.serve(images)


def _litert(path: Path, images: np.ndarray) -> Any:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_path=str(path))
    [form], [out] = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(form["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(form["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(out["index"])


EXPORTS = [
    ("keras", "best.keras", _keras),
    ("onnx", "best.onnx", _onnx),
    ("savedmodel", "best_savedmodel", _saved_model),
    ("litert", "best.tflite", _litert),
]


@pytest.mark.system
@pytest.mark.parametrize(("kind", "name", "called"), EXPORTS)
def test_export(kind: str, name: str, called: Callable[..., Any], trained: Any) -> None:
    """What is exported gives the logits of the trained model."""
    run, model, images = trained
    assert shown("best", str(run), "--export", kind).endswith(f"written to {run / name}\n")
    expected = np.asarray(model(images))
    error = abs(np.asarray(called(run / name, images)) - expected).max()
    assert error < 1e-4 * abs(expected).max()


def _weights(path: Path) -> list[np.ndarray]:
    model: Any = keras.models.load_model(path, compile=False)
    return model.get_weights()


def _metadata(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("metadata.json"))


@pytest.mark.system
@pytest.mark.usefixtures("file")
def test_the_delivered_model_is_one(failing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A model trained once more stays what it is, and every export is made from it."""
    begun = ["search", "small.py", "--trials", "1", "--epochs", "1", "--seed", "1"]
    assert cli.main([*begun, "--retrain"]) == 0
    assert "trial 0, trained once more on" in capsys.readouterr().out
    _, told = failing("best", "runs/small", "--export", "keras", "--output", "out.h5")
    assert "--output must end in '.keras'" in told
    run, path = Path("runs/small"), Path("runs/small/best.keras")
    delivered, retrained = path.read_bytes(), _weights(path)
    data = kb.tuner.load("digits", limit=60)
    count = len(data.train[0]) + len(data.validation[0])
    for told in (_metadata(path)["kblocks"], json.loads((run / "best.json").read_text())["model"]):
        assert (told["trial"], told["retrained"], told["images"]) == (0, True, count)
    assert _metadata(path)["keras_version"] == keras.__version__
    own = Checkpoints(run / "checkpoints").best(0)
    assert own is not None
    assert max(abs(a - b).max() for a, b in zip(own, retrained, strict=True)) > 1e-3

    expected = np.asarray(keras.models.load_model(path)(data.test[0][:2]))
    for kind, name, called in EXPORTS:
        told = shown("best", str(run), "--export", kind)
        assert f"trained once more on {count} images" in told
        found = np.asarray(called(run / name, data.test[0][:2]))
        assert abs(found - expected).max() < 1e-4 * abs(expected).max(), kind
    assert path.read_bytes() == delivered
    told = shown("best", str(run), "--export", "keras", "--output", "runs/other.keras")
    assert told.endswith(f"written to {Path('runs/other.keras')}\n")
    assert Path("runs/other.keras").read_bytes() == delivered
    assert "onnx is replaced" in shown("best", str(run), "--export", "onnx")

    assert cli.main(begun) == 0  # the same again, which does not train once more
    assert f"{path} stays" in capsys.readouterr().out
    assert path.read_bytes() == delivered
    assert cli.main([*begun, "--no-retrain"]) == 0
    assert f"{path} is replaced; it was of trial 0, trained once more" in capsys.readouterr().out
    assert _metadata(path)["kblocks"]["retrained"] is False
    for found, wanted in zip(_weights(path), own, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_model_of_another_trial_is_not_replaced(trained: Any, failing: Any) -> None:
    """The search has gone on since, as by `kblocks worker`."""
    run, model, images = trained
    facts = {"search": "", "trial": 0, "retrained": True}
    save(NET.model(INPUT), run / "best.keras", facts)
    before = (run / "best.keras").read_bytes()
    code, line = failing("best", str(run), "--export", "keras")
    assert code == 1
    assert "trial 0, trained once more, and the best is trial 1 by now" in line
    assert (run / "best.keras").read_bytes() == before
    told = shown("best", str(run), "--export", "keras", "--output", str(run / "new.keras"))
    assert "trial 1, with the weights of its best epoch" in told
    np.testing.assert_allclose(_keras(run / "new.keras", images), model(images), rtol=1e-5)
    assert _metadata(run / "new.keras")["kblocks"]["trial"] == 1


@pytest.mark.slow
def test_weights_kept_elsewhere_are_found_by_their_folder_or_its_parent(
    trained: Any, tmp_path: Path, failing: Any
) -> None:
    run, _, _ = trained
    (tmp_path / "weights").mkdir()
    (run / "checkpoints").rename(tmp_path / "weights" / "mine")
    assert "--checkpoints" in failing("best", str(run), "--export", "keras")[1]
    assert not (run / "best.keras").exists()
    for place in (tmp_path / "weights" / "mine", tmp_path / "weights"):
        shown("best", str(run), "--export", "keras", "--checkpoints", str(place))
        (run / "best.keras").unlink()


def test_a_saved_model_does_not_replace_a_folder(
    trained: Any, tmp_path: Path, failing: Any
) -> None:
    run, _, _ = trained
    (tmp_path / "there").mkdir()
    where = ("--output", str(tmp_path / "there"))
    assert failing("best", str(run), "--export", "savedmodel", *where)[0] == 1


def test_export_without_weights(run: Path, failing: Any) -> None:
    code, line = failing("best", str(run), "--export", "keras")
    assert code == 1
    assert "no weights of trial 1" in line


def test_a_missing_extra_is_told_before_the_model_is_made(
    run: Path, monkeypatch: Any, failing: Any
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    _, line = failing("best", str(run), "--export", "onnx")
    assert "onnxruntime: pip install 'kblocks[export]'" in line


def test_best_of_nothing(tmp_path: Path, failing: Any) -> None:
    storage = f"sqlite:///{tmp_path / 'a.db'}"
    optuna.create_study(storage=storage, study_name="a")
    assert "a without one" in failing("best", "a", "--storage", storage)[1]


def test_report_is_given_the_run_and_its_folder(
    run: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    given: list[Any] = []
    fake = ModuleType("kblocks.tuner.reporting.report")
    fake.report = lambda *arguments: given.append(arguments) or "report.html"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kblocks.tuner.reporting.report", fake)
    assert shown("report", str(run)) == "written to report.html\n"
    shown("report", str(run), "--output", str(tmp_path))
    assert given == [(opened(str(run)), run), (opened(str(run)), tmp_path)]


# --- passwords -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql+psycopg://me:{SECRET}@host/name cannot be read",
        f"(postgresql://:{SECRET}@host)",
        f"host=a password={SECRET} user=me",
    ],
)
def test_passwords_are_masked(text: str) -> None:
    assert "s3cr" not in masked(text)
    assert "host" in masked(text)


def test_a_password_of_the_environment_is_masked_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KBLOCKS_STORAGE", "postgresql://me:a%2Fb%40c@host/name")
    assert masked("no a%2Fb%40c here, nor a/b@c") == "no *** here, nor ***"


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_storage_that_fails_is_told_without_its_password(
    debug: bool, by: str, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "mysql+nothing://me:pa55word@localhost/runs"
    given = ["--storage", url] if by == "option" else []
    if by == "environment":
        monkeypatch.setenv("KBLOCKS_STORAGE", url)
    assert cli.main([*["--debug"] * debug, "status", "mine", *given]) == 1
    told = capsys.readouterr().err
    assert "pa55word" not in told
    assert "nothing" in told


# --- search and worker ---------------------------------------------------------------------

RUN_FILE = """
from dataclasses import replace
import kblocks as kb

def data():
    return replace(kb.tuner.load("digits", limit=60), fit={"epochs": 4, "batch_size": 30})

def tuner(**settings):
    filters = {"stem": {"filters": 4}, "filters": [4, 4, kb.choice(4, 8, 12, 16)]}
    net = kb.Space(kb.resnet20, blocks=(1, 1, 1), **filters)
    model = kb.tuner.HyperModel(net.within((8, 8, 1)), latency=False)
    return kb.tuner.Tuner(model, **{"project_name": "small", "workers": 0, **settings})
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("small.py").write_text(RUN_FILE)
    return "small.py"


def test_search_then_worker(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is typed goes over what the file says, and the worker takes the search's epochs."""
    assert cli.main(["search", file, "--trials", "1", "--epochs", "2", "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    costs = r"best trial: 0, val_accuracy [\d.]+, [\d.]+ ?[kM]? parameters, [\d.]+ ?[kM]? MACs with"
    assert re.search(costs, printed)
    assert "images the search never saw" in printed
    assert 'predict = kb.tuner.predictor("runs/small")' in printed
    first = opened("runs/small")
    assert [len(trial.history["val_accuracy"]) for trial in first.trials] == [2]
    assert cli.main(["worker", file, "--trials", "2", "--quiet"]) == 0
    second = opened("runs/small")
    assert second.trials[0] == first.trials[0]
    assert [len(trial.history["val_accuracy"]) for trial in second.trials] == [2, 2]
    assert cli.main(["worker", file, "--quiet"]) == 0  # there are as many as the search asked for
    assert len(opened("runs/small").trials) == 2
    Image.new("L", (8, 8)).save("whole.png")
    Path("broken.png").write_bytes(b"no image")
    capsys.readouterr()
    assert cli.main(["predict", "runs/small", "broken.png", "whole.png"]) == 1
    told = capsys.readouterr()
    assert told.out.startswith("whole.png  ")
    assert "broken.png" in told.err
    saved = keras.models.load_model("runs/small/best.keras", safe_mode=True)
    net = kb.Architecture.from_json(Path("runs/small/best.json").read_text())
    assert saved.count_params() == net.cost(INPUT).params == first.trials[0].costs["params"]


def test_a_search_in_bfloat16_delivers_float32(file: str, failing: Any, capsys: Any) -> None:
    typed = [file, "--precision", "bfloat16", "--epochs", "1", "--retrain", "--quiet"]
    assert cli.main(["search", *typed, "--trials", "1"]) == 0
    assert cli.main(["status", "runs/small"]) == 0
    assert "computes in mixed_bfloat16" in capsys.readouterr().out
    saved: Any = keras.models.load_model("runs/small/best.keras")
    assert {layer.compute_dtype for layer in saved.layers} == {"float32"}
    code, line = failing("worker", file, "--precision", "float32", "--trials", "2")
    assert (code, "so far, 'mixed_bfloat16'" in line) == (1, True)


@pytest.mark.system
@pytest.mark.usefixtures("file")
def test_a_worker_for_a_family_takes_what_the_search_was_begun_with(failing: Any) -> None:
    typed = "--family resnet --data digits --objective val_loss --macs 4e5 --limit 80 --seed 3"
    typed += " --recipe plain"
    begun = ["search", *typed.split(), "--batch-size", "16", "--trials", "1", "--epochs", "1"]
    assert cli.main([*begun, "--workers", "0", "--quiet"]) == 0
    same = ["worker", "--family", "resnet", "--data", "digits", "--workers", "0", "--quiet"]
    assert cli.main([*same, "--trials", "3"]) == 0
    run = opened("runs/resnet_digits")
    assert "schedule='cosine', label_smoothing=0.0" in run.settings["recipe"]
    assert run.settings["recipe"].endswith("loss_weights=None, warmup=0.05)")
    assert [trial.state for trial in run.trials] == ["completed"] * 3
    for trial in run.trials:
        assert trial.scores == (min(trial.history["val_loss"]),)
        assert trial.costs["macs"] <= 4e5
    for other in (["--objective", "val_accuracy"], ["--seed", "4"], ["--macs", "5e5"]):
        code, line = failing(*same, "--trials", "4", *other)
        assert code == 1
        assert "another search than the one to be joined" in line
    assert opened("runs/resnet_digits").trials == run.trials


def test_a_run_file_of_another_tuner_is_told(file: str, failing: Any) -> None:
    text = RUN_FILE + "\n\ndef tuner(**settings):\n    return 'RandomSearch'\n"
    Path(file).write_text(text, encoding="utf-8")
    sys.modules.pop("kblocks_run_small", None)
    code, line = failing("search", file)
    assert code == 2
    assert "must return a kb.tuner.Tuner. Received: 'RandomSearch'" in line


def test_a_worker_needs_a_search(file: str, failing: Any) -> None:
    assert failing("worker", file)[0] == 1
    assert not Path("runs/small/study.db").exists()


def test_a_search_is_not_gone_on_with_other_data(file: str, failing: Any, capsys: Any) -> None:
    assert cli.main(["search", file, "--trials", "1", "--epochs", "1", "--quiet"]) == 0
    capsys.readouterr()
    Path(file).write_text(RUN_FILE.replace("limit=60", "limit=70"))
    sys.modules.pop("kblocks_run_small")
    code, line = failing("search", file, "--trials", "2", "--epochs", "1", "--quiet")
    assert code == 1
    assert "data" in line


@pytest.mark.slow
def test_tensorboard_can_be_typed(file: str) -> None:
    typed = ["--trials", "1", "--epochs", "1", "--quiet", "--tensorboard", "board"]
    assert cli.main(["search", file, *typed]) == 0
    assert [path.name for path in Path("board").iterdir()] == ["trial-00000"]


def test_retraining_comes_after_the_hours(file: str, capsys: Any) -> None:
    typed = ["--trials", "1", "--epochs", "1", "--hours", "1", "--retrain"]
    more = ["--class-weight", "balanced", "--patience", "5", "--folds", "2"]
    assert cli.main(["search", file, *typed, *more]) == 0
    found = opened("runs/small")
    settings = found.settings
    assert (settings["data"]["class_weight"], settings["patience"]) == ("balanced", "5")
    assert len(found.trials[0].executions) == 2
    assert "1 epochs (this comes after the `hours` of the search)" in capsys.readouterr().out


@pytest.mark.slow
def test_retraining_is_on_all_but_the_test_part(file: str, capsys: Any) -> None:
    assert cli.main(["search", file, "--trials", "1", "--epochs", "1", "--retrain"]) == 0
    data = kb.tuner.load("digits", limit=60)
    count = len(data.train[0]) + len(data.validation[0])
    assert f"training it once more on {count} images, 1 epochs" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["tuner", "data"])
def test_a_run_file_has_both_functions(file: str, missing: str, failing: Any) -> None:
    Path(file).write_text(RUN_FILE.replace(f"def {missing}(", "def other("))
    sys.modules.pop("kblocks_run_small", None)
    code, line = failing("search", file)
    assert code == 2
    assert repr(missing) in line


@pytest.mark.slow
def test_a_family_on_data_in_a_process_of_its_own(tmp_path: Path) -> None:
    """As it is typed, with a worker process, and nothing that a terminal would obey."""
    command = "search --family resnet --data digits --macs 4e5 --limit 100 --trials 2 --epochs 1"
    done = subprocess.run(
        [sys.executable, "-m", "kblocks", *command.split(), "--seed", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "\x1b" not in done.stdout
    assert "trial 2/2" in done.stdout
    folder = tmp_path / "runs" / "resnet_digits"
    for name in ("best.keras", "best.json", "trials.csv", "study.db"):
        assert (folder / name).is_file()
        assert name in done.stdout or name == "study.db"
    found = opened(str(folder))
    assert [trial.state for trial in found.trials] == ["completed"] * 2
    assert all(0 < trial.costs["macs"] <= 4e5 for trial in found.trials)


@pytest.mark.parametrize(
    ("settings", "workers"),
    [({}, 2), ({"workers": 1}, 1), ({"objective": [kb.tuner.Objective("latency", "min")]}, 1)],
    ids=["as it is", "told", "latency"],
)
def test_a_familys_search_uses_all_cores(
    settings: dict[str, Any], workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is told otherwise, or measures times."""
    monkeypatch.setattr("kblocks.tuner.running.devices.cores", lambda: 2)
    job = FamilyJob("resnet", "digits", {"limit": 100}, {"directory": tmp_path, **settings})
    assert job.tuner().workers == workers


def test_with_a_scheduler_a_trial_may_go_on_for_longer() -> None:
    """Its first rung is as long as a trial without one; half as many trials make up for it."""
    for settings, epochs, trials in (({}, 15, 20), ({"scheduler": "asha"}, 60, 10)):
        job = FamilyJob("resnet", "digits", {"limit": 100}, settings)
        assert job.data().fit["epochs"] == epochs
        assert job.tuner().trials == trials
    assert kb.tuner.Asha().rungs(60) == (15, 30, 60)


@pytest.mark.parametrize(
    ("before", "settings", "fitting", "expected"),
    [
        ({}, {}, {}, ("asha", 10)),
        ({}, {"scheduler": None}, {}, (None, 20)),
        ({}, {"pruner": "median"}, {}, (None, 20)),
        ({}, {"trials": 3}, {}, ("asha", 3)),
        ({}, {}, {"epochs": 5}, (None, 20)),
        ({"trials": 20}, {}, {}, (None, 20)),
        ({"trials": 7, "scheduler": "Asha(factor=2, shortest=None)"}, {}, {}, ("asha", 7)),
        ({"trials": 20}, {"trials": 30}, {}, (None, 30)),
        ({}, {"objective": "val_loss"}, {}, (None, 20)),
        ({}, {"folds": 3}, {}, (None, 20)),
        ({}, {"trial_seconds": 60.0}, {}, (None, 20)),
        ({"trials": 9, "scheduler": "Asha(factor=2)"}, {"folds": 3}, {}, (None, 9)),
    ],
    ids=str,
)
def test_the_scheduler_of_a_familys_search(
    before: dict[str, Any],
    settings: dict[str, Any],
    fitting: dict[str, Any],
    expected: tuple[str | None, int],
) -> None:
    """A new one has rungs, where they go with what was typed; an earlier one goes on as it was."""
    job = FamilyJob("resnet", "digits", {"limit": 100}, settings, fitting)
    job.data()
    begun = job.begun_as(before)
    tuner = begun.tuner()
    scheduler = None if tuner.scheduler is None else "asha"
    assert (scheduler, tuner.trials) == expected
    assert begun.data().fit["epochs"] == fitting.get("epochs", 60 if scheduler else 15)
    assert begun.data().train[0] is job.data().train[0]  # loaded once


@pytest.mark.slow
@pytest.mark.usefixtures("file")
def test_a_familys_search_goes_on_with_the_scheduler_that_it_began_with() -> None:
    """Also one of yesterday without a scheduler, and in a worker that joins."""
    typed = "search --family resnet --data digits --macs 1e5 --limit 60 --seed 1 --quiet"
    small = [*typed.split(), "--workers", "0", "--trials"]
    assert cli.main([*small, "1", "--project-name", "plain", "--scheduler", "none"]) == 0
    assert cli.main([*small, "2", "--project-name", "plain"]) == 0
    plain = opened("runs/plain")
    assert [len(trial.history["loss"]) for trial in plain.trials] == [15, 15]
    assert cli.main([*small, "1"]) == 0
    worker = ["worker", "--family", "resnet", "--data", "digits", "--quiet", "--workers", "0"]
    assert cli.main([*worker, "--trials", "2"]) == 0
    rungs = opened("runs/resnet_digits")
    assert "Asha" in rungs.settings["scheduler"]
    lengths = sorted(len(trial.history["loss"]) for trial in rungs.trials)
    assert lengths[:2] == [15, 15]
    assert lengths[-1] == 60


def test_a_job_takes_no_images_along_to_another_process() -> None:
    job = FamilyJob("resnet", "digits", {"limit": 100})
    before = fingerprint(job.data().parts())
    sent = pickle.dumps(job)
    assert len(sent) < 1000
    assert fingerprint(pickle.loads(sent).data().parts()) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_ready_spaces_suit_small_images(family: str) -> None:
    """28x28, also for Inception networks, whose published strides need 75 pixels and more."""
    found = space(family, (28, 28, 1), 10)
    cost = found.build(found.default()).cost((28, 28, 1))
    assert cost.output_shape == (10,)
    assert cost.macs <= 40_000 * 28 * 28
    assert len(found.names()) > 5


MISSING = """
import sys
sys.modules["typer"] = None
sys.argv = ["kblocks", "list"]
from kblocks.__main__ import main
code = main()
print(code)
"""


@pytest.mark.system
def test_the_extra_is_named_where_it_is_missing(fresh_process: Callable[..., str]) -> None:
    script = MISSING.replace("code =", "sys.stderr = sys.stdout\ncode =")
    told, code = fresh_process(script).splitlines()[-2:]
    assert told == "kblocks: the command line needs typer: pip install 'kblocks[tune]'"
    assert code == "1"


@pytest.mark.system
def test_blocks_of_a_saved_network_are_known(
    tmp_path: Path, fresh_process: Callable[..., str]
) -> None:
    """The command imports no block that it does not need."""
    shutil.copytree(ROOT / "tests" / "saved" / "run", tmp_path / "run")
    script = 'import sys\nsys.argv[0], sys.stderr = "kblocks", sys.stdout\n'
    script += "from kblocks.__main__ import main\nmain()"
    run = str(tmp_path / "run")
    assert "stage1" in fresh_process(script, "best", run)
    assert cli.main(["best", run, "--export", "keras"]) == 0
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    told = fresh_process(script, "predict", run, str(tmp_path / "a.png"))
    assert "The model takes arrays as in its training" in told


def test_help_lists_the_commands() -> None:
    text = shown("--help")
    for command in ("list", "show", "search", "worker", "status", "report", "best", "predict"):
        assert re.search(rf"^ +{command} ", text, re.MULTILINE), command
