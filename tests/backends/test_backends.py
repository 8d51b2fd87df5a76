"""The conformance table and golden logits on JAX and PyTorch: `pytest -m backends`.

Each needs an environment of its own, in `.venv-jax` and `.venv-torch` (the README has the lines
that make them) or where KBLOCKS_JAX_PYTHON and KBLOCKS_TORCH_PYTHON, paths of interpreters, say.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import CASES

CHECK = Path(__file__).parent / "check.py"
ROOT = CHECK.parent.parent.parent
PARTS = 2  # processes at once; JAX compiles every operation, on one core


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
    variable = f"KBLOCKS_{backend.upper()}_PYTHON"
    python = os.environ.get(variable) or str(ROOT / f".venv-{backend}" / "bin" / "python")
    if variable not in os.environ and not Path(python).exists():
        pytest.skip(f"no {python}: the README has the lines that make it")
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
