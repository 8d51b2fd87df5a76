"""Private attributes of other libraries: each is used in one place, and still means what it did."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import keras
import optuna
import pytest

import kblocks as kb
from kblocks.common import keras_graph
from kblocks.tuner.records import identity_of

PACKAGE = Path(kb.__file__).parent
# Attribute or module, and the one file that may use it.
PLACES = {
    "_keras_history": "common/keras_graph.py",
    "_inbound_nodes": "common/keras_graph.py",
    "_nodes_by_depth": "common/keras_graph.py",
    "_registry": "common/backend.py",
    "tensorflow.python": "common/backend.py",
    "_momentums": "training/preparing.py",
    "_velocities": "training/preparing.py",
    "_get_variable_index": "training/preparing.py",
    "_trial_id": "tuner/records.py",
    "_fixed_params": "search_space/recording.py",
    "_params": "search_space/recording.py",
}


@functools.cache
def parsed() -> dict[Path, list[ast.AST]]:
    """The nodes of each file."""
    files = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    return {path: list(ast.walk(ast.parse(text))) for path, text in files.items()}


@pytest.mark.parametrize("name", PLACES)
def test_private_names_are_used_in_one_place(name: str) -> None:
    users = set()
    for path, nodes in parsed().items():
        for node in nodes:
            used = getattr(node, "attr", None) == name and ast.unparse(node.value) != "self"
            named = isinstance(node, ast.Constant) and node.value == name
            module = "." in name and str(getattr(node, "module", "")).startswith(name)
            if used or named or module:
                users.add(str(path.relative_to(PACKAGE)))
    assert users == {PLACES[name]}


def test_the_graph_of_a_model_is_walked() -> None:
    """A layer called twice, on two inputs, with the results added."""
    one, other = keras.Input((3,), name="one"), keras.Input((3,), name="other")
    shared = keras.layers.Dense(3)
    first, second = shared(one), shared(other)
    model = keras.Model([one, other], keras.layers.Add(name="sum")([first, second]))
    assert keras_graph.maker_of(first) is keras_graph.maker_of(second) is shared
    assert [keras_graph.call_number(x) for x in (first, second)] == [0, 1]
    assert [node.input_tensors[0] for node in keras_graph.calls_to(shared)] == [one, other]
    calls = keras_graph.calls_of(model)
    assert [node.operation for node in calls] == [shared, shared, model.get_layer("sum")]
    depths = keras_graph.depths_of(model)
    assert [depths[node] for node in calls] == [1, 1, 0]
    assert len(depths) == 5
    assert sorted(depths.values(), reverse=True) == list(depths.values())


def test_a_storage_knows_a_trial_by_its_identity() -> None:
    study = optuna.create_study()
    study.ask()
    trial = study.ask()
    assert study._storage.get_trial(identity_of(trial)).number == 1
    (_, frozen) = study.get_trials()
    assert identity_of(frozen) == identity_of(trial)
