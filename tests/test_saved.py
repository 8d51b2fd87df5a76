"""What version 0.1.0 saved still loads, gives the same numbers, and goes on (`saved/make.py`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from saved.make import outputs_of, search, tuner

import kblocks as kb

SAVED = Path(__file__).parent / "saved"
NETWORKS: dict[str, Any] = json.loads((SAVED / "networks.json").read_text())


@pytest.mark.parametrize("name", ["blocks", "heads", "fused"])
def test_models_load_and_compute_the_same(name: str) -> None:
    expected = np.load(SAVED / "outputs.npz")
    outputs = outputs_of(keras.models.load_model(SAVED / f"{name}.keras"))
    assert len(outputs) == sum(key.rstrip("0123456789") == name for key in expected)
    for index, output in enumerate(outputs):
        np.testing.assert_allclose(output, expected[f"{name}{index}"], rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_load_and_cost_the_same(name: str) -> None:
    net = kb.Architecture.from_json(NETWORKS[name]["text"])
    assert net.cost((299, 299, 3)).params == NETWORKS[name]["params"]
    if not name.startswith("with_"):
        assert net == kb.architecture(name)


LOAD = """
import sys
import kblocks
import keras
print(len(keras.models.load_model(sys.argv[1]).layers))
"""


@pytest.mark.system
def test_a_process_that_touches_nothing_of_kblocks_loads_a_model(
    fresh_process: Callable[..., str],
) -> None:
    assert int(fresh_process(LOAD, str(SAVED / "blocks.keras")).split()[-1]) > 30


def test_a_search_that_was_stopped_goes_on(tmp_path: Path) -> None:
    shutil.copytree(SAVED / "run", tmp_path / "run")
    resumed = tuner(tmp_path)
    before = {record.number: record for record in resumed.run().trials}
    assert before[0].state == "completed"
    run = search(resumed)
    assert [record.state for record in run.trials] == ["completed"] * 3
    assert run.trials[0].scores == before[0].scores
    assert run.trials[0].values == before[0].values
    assert run.trials[1].values == before[1].values
    assert len(run.trials[1].history["val_loss"]) == 4
