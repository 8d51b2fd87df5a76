"""python tests/backends/check.py FOLDER: what TensorFlow computed, on the backend of this process.

No test runner, so that an environment needs nothing but Keras and the backend. FOLDER holds what
`test_backends.py` wrote: for each case of the conformance table its weights, input and output.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import keras  # noqa: E402
import numpy as np  # noqa: E402
from conformance import CASES  # noqa: E402
from golden import images, load  # noqa: E402

import kblocks as kb  # noqa: E402

NETWORKS = ("resnet18", "vgg11_bn", "resnext50_32x4d")


def error_of(found: Any, expected: np.ndarray) -> float:
    """The largest difference in units of the expected values' spread."""
    found = keras.ops.convert_to_numpy(found)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.abs(found - expected).max() / (expected.std() or 1.0))


def check_cases(folder: Path) -> int:
    wrong = 0
    for index, (name, case) in enumerate(CASES.items()):
        if not (folder / f"{index}.npz").exists():
            continue
        data = np.load(folder / f"{index}.npz")
        layer = case.layer()
        layer.build((None, *case.shape))
        kept = [w for w in layer.weights if "seed_generator" not in w.path]
        for number, weight in enumerate(kept):
            weight.assign(data[f"w{number}"])
        error = error_of(layer(data["x"], training=False), data["y"])
        trained = keras.ops.convert_to_numpy(layer(data["x"], training=True))
        if not error < 1e-4 or not np.all(np.isfinite(trained)):
            wrong += 1
            print(
                f"{name}: {error:.1e} of the spread, training finite: {np.isfinite(trained).all()}"
            )
    return wrong


def check_networks() -> int:
    wrong = 0
    for name in NETWORKS:
        size = int(np.load(TESTS / "data" / "golden" / f"{name}.npz")["size"])
        model = kb.architecture(name).model((size, size, 3))
        logits = load(model, name)["logits"]
        error = error_of(model(images(size), training=False), logits)
        print(f"{name}: {error:.1e} of the spread")
        wrong += not error < 1e-4
    return wrong


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = len(list(folder.glob("*.npz")))
    assert found, f"{folder} is empty"
    wrong = check_cases(folder) + check_networks()
    total = found + len(NETWORKS)
    print(f"{keras.backend.backend()}: {total - wrong} passed, {wrong} failed")
    sys.exit(bool(wrong))
