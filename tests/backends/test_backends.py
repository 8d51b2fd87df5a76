"""The conformance table and golden logits on JAX and PyTorch: `pytest -m backends`.

Each needs an environment of its own, named by KBLOCKS_JAX_PYTHON and KBLOCKS_TORCH_PYTHON (the
path of its interpreter).
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
    python = os.environ.get(f"KBLOCKS_{backend.upper()}_PYTHON")
    if not python:
        pytest.skip(f"KBLOCKS_{backend.upper()}_PYTHON names no interpreter with {backend}")
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(
        [python, str(CHECK), str(folder)], capture_output=True, text=True, env=environment
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
