"""The rooms of kblocks: which may import which, and what `import kblocks` brings along."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kblocks as kb

PACKAGE = Path(kb.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up; an arrow only ever points down. A room is a module or a folder.
ROOMS: dict[str, set[str]] = {
    "hiding": set(),
    "files": set(),
    "quantities": set(),
    "stages": set(),
    "ops": set(),
    "geometry": {"ops"},
    "cost": {"geometry", "ops"},
    "fields": {"ops"},
    "spec": {"cost", "fields", "geometry", "ops"},
    "backend": set(),
    "grouped": {"backend"},
    "normalization": {"backend"},
    "writing": set(),
    "places": {"writing"},
    "layers": {"cost", "geometry", "grouped", "normalization", "ops", "places", "writing"},
    "block": {"backend", "cost", "geometry", "layers", "ops", "spec"},
    "folding": {"ops"},
    "fused": {"block", "fields", "ops"},
    "graph": set(),
    "exporting": {"backend", "files", "writing"},
    "finetuning": {"stages"},
    "fusion": {"block", "folding", "fused", "graph", "grouped", "ops"},
    "convolutionizing": {"block", "cost", "fused", "geometry", "graph", "ops"},
    "blocks": {"block", "fields", "ops"},
    "heads": {"backend", "block", "blocks", "fields", "ops"},
    "published": set(),
    "canonical": {"cost", "geometry", "ops", "spec"},
    "rows": {"block"},
    "weights": {"block", "cost", "heads", "ops", "rows"},
    "row_costs": {"cost", "geometry", "rows"},
    "strides": {"cost", "geometry", "ops", "rows", "spec"},
    "shared": {"heads"},
    "network": {
        *("block", "canonical", "cost", "geometry", "heads", "published", "row_costs", "rows"),
        *("shared", "stages", "strides", "weights"),
    },
    "drawing": {
        *("block", "cost", "files", "geometry", "graph", "network", "ops", "quantities", "spec"),
        "stages",
    },
    "parts": {"block", "graph", "shared", "stages"},
    "looking": {"block", "files", "parts"},
    "catalog": {"network", "published"},
    "memory": {"cost", "geometry", "network", "ops"},
    "budget": {"cost", "memory"},
    "timing": set(),
    "choices": set(),
    "tree": {"choices"},
    "describing": {"choices", "tree"},
    "sampling": {"choices", "tree"},
    "repair": {"choices", "tree"},
    "conditions": {"network"},
    "space": {
        *("budget", "choices", "conditions", "describing", "geometry", "network", "repair"),
        *("sampling", "tree"),
    },
    "families": {
        *("blocks", "catalog", "choices", "fields", "heads", "network", "ops", "space", "weights"),
    },
    "spaces": {"families"},
    "training": {"backend"},
    "moving": {"backend", "heads"},
    "augmentation": {"backend", "moving"},
    "recipe": {"augmentation", "choices", "heads", "training", "tree"},
    "tuner": {
        *("backend", "budget", "catalog", "choices", "conditions", "cost", "describing"),
        *(
            "exporting",
            "files",
            "hiding",
            "network",
            "quantities",
            "recipe",
            "space",
            "spaces",
            "stages",
            "timing",
        ),
        *("training", "tree"),
    },
    "__main__": {"tuner"},
}
# The same inside the tuner's room.
TUNER_ROOMS: dict[str, set[str]] = {
    "files": set(),
    "terminal": set(),
    "records": set(),
    "bridge": set(),
    "images": set(),
    "choosing": {"bridge", "records"},
    "storing": {"bridge", "choosing", "records", "terminal"},
    "reporting": {"records"},
    "running": {"bridge", "choosing", "records", "reporting", "storing", "terminal"},
    "stock": {"bridge", "files", "terminal"},
    "oracle": {"choosing", "records"},
    "arguments": {"bridge", "records"},
    "tuner": {
        "arguments",
        "bridge",
        "choosing",
        "oracle",
        "records",
        "running",
        "storing",
        "terminal",
    },
    "command": {
        *("bridge", "files", "images", "records", "reporting", "running", "storing", "terminal"),
        "tuner",
    },
}
KERAS = {"keras"}
OUTSIDE: dict[str, set[str]] = {
    "fields": {"keras", "numpy"},
    **dict.fromkeys(
        ("backend", "block", "drawing", "graph", "grouped", "network", "normalization"), KERAS
    ),
    **dict.fromkeys(("augmentation", "places", "published", "recipe", "rows", "shared"), KERAS),
    "moving": KERAS,
    **dict.fromkeys(("convolutionizing", "finetuning", "spec", "training"), KERAS),
    "exporting": {"keras", "numpy", "onnxruntime"},
    "folding": {"numpy"},
    **{
        room: {"keras", "numpy"}
        for room in ("fusion", "heads", "layers", "looking", "parts", "timing", "weights")
    },
    "tuner": {
        *("PIL", "altair", "fsspec", "keras", "keras_tuner", "numpy", "optuna"),
        *("psutil", "ray", "rich", "sklearn", "sqlalchemy", "tensorboard", "typer", "vl_convert"),
    },
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, inside_functions: bool = False) -> Iterator[str]:
    """Dotted names that a file imports when it is imported; not those for type checkers."""

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{path}: relative import"
                assert child.module
                if child.module == "kblocks":
                    yield from (f"kblocks.{alias.name}" for alias in child.names)
                else:
                    yield child.module
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    yield from visit(other)
            elif inside_functions or not isinstance(child, (ast.FunctionDef, ast.Lambda)):
                yield from visit(child)

    yield from visit(ast.parse(path.read_text()))


INSIDE = [path for path in FILES if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", INSIDE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    room = room_of(path)
    assert room in ROOMS, "a new room: give it a place in ROOMS"
    named = [name.split(".") for name in imports(path, inside_functions=True)]
    inside = {parts[1] for parts in named if parts[0] == "kblocks"}
    assert inside - ROOMS[room] - {room} == set()
    outside = {parts[0] for parts in named} - {"kblocks", "__future__"} - sys.stdlib_module_names
    backends = {"jax", "tensorflow"} if room == "backend" else set()  # asked in one place
    assert outside - OUTSIDE.get(room, set()) - backends == set()


TUNER = PACKAGE / "tuner"
IN_TUNER = [path for path in INSIDE if TUNER in path.parents and path != TUNER / "__init__.py"]


@pytest.mark.parametrize("path", IN_TUNER, ids=lambda path: str(path.relative_to(TUNER)))
def test_arrows_point_down_in_the_tuner(path: Path) -> None:
    room = path.relative_to(TUNER).parts[0].removesuffix(".py")
    named = [name.split(".") for name in imports(path, inside_functions=True)]
    inside = {parts[2] for parts in named if parts[:2] == ["kblocks", "tuner"]}
    assert inside - TUNER_ROOMS[room] - {room} == set()


@pytest.mark.parametrize("rooms", [ROOMS, TUNER_ROOMS], ids=["kblocks", "tuner"])
def test_the_rooms_are_in_order(rooms: dict[str, set[str]]) -> None:
    order = list(rooms)
    for room, below in rooms.items():
        assert all(order.index(other) < order.index(room) for other in below), room


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_there(room: str) -> None:
    assert room in {room_of(path) for path in INSIDE}


def test_the_reader_of_imports_sees_them() -> None:
    found = set(imports(PACKAGE / "network.py"))
    assert {"keras", "kblocks.plans.geometry", "kblocks.blocks.block", "json"} <= found
    assert "tensorflow" in set(imports(PACKAGE / "backend.py", inside_functions=True))
    assert "tensorflow" not in set(imports(PACKAGE / "backend.py"))
    assert "kblocks.tuner" not in set(imports(PACKAGE / "__init__.py"))


FRESH = """
import json, sys
import keras, numpy
before = set(sys.modules)
import kblocks as kb
kb.resnet50().cost((224, 224, 3))
added = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(added - sys.stdlib_module_names)))
print("keras_tuner" in sys.modules, "kblocks.tuner" in sys.modules)
kb.tuner.HyperModel
from kblocks import tuner
print("keras_tuner" in sys.modules, tuner is sys.modules["kblocks.tuner"] is kb.tuner)
"""


def test_import_brings_nothing_but_keras(fresh_process: Callable[..., str]) -> None:
    """Keras itself imports rich and scikit-learn where they are installed; we add nothing."""
    added, before, after = fresh_process(FRESH).splitlines()[-3:]
    assert json.loads(added) == ["kblocks"]
    assert before == "False False"
    assert after == "True True"  # the tuner, when it is first touched


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="tunr"):
        kb.tunr  # noqa: B018


def test_no_module_bears_the_name_of_a_public_function() -> None:
    """`from kblocks import x` must not depend on what was imported before."""
    modules = {path.stem for path in FILES} | {path.name for path in PACKAGE.iterdir()}
    functions = {name for name in kb.__all__ if callable(getattr(kb, name))}
    assert len(functions) > 20
    assert functions & modules == set()
    lower = {name.lower() for name in functions if name.islower()}
    assert lower & {module.lower() for module in modules} == set()


def test_all_names_what_is_public() -> None:
    assert sorted(set(kb.__all__)) == sorted(kb.__all__)
    public = {
        name
        for name, value in vars(kb).items()
        if not name.startswith("_") and str(getattr(value, "__module__", "")).startswith("kblocks")
    }
    assert public <= set(kb.__all__)
    assert all(hasattr(kb, name) for name in kb.__all__)
    assert {re.sub(r"\W", "", name) for name in kb.architectures()} <= set(kb.__all__)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short(path: Path) -> None:
    """STYLE.md: a file is one idea; past about 250 lines, ask which two it holds."""
    assert len(path.read_text().splitlines()) < 500
