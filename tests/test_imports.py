"""Which package of kblocks may import which, and what `import kblocks` loads."""

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

# From the ground up: the packages that each package may import, and so what these import.
PACKAGES: dict[str, set[str]] = {
    "common": set(),
    "plans": set(),
    "layers": {"common", "plans"},
    "blocks": {"layers", "plans"},
    "heads": {"blocks"},
    "networks": {"heads", "blocks"},
    "search_space": {"networks"},
    "model_tools": {"networks"},
    "training": {"search_space"},
    "families": {"search_space", "networks"},
    "drawing": {"model_tools", "networks"},
    "tuner": {"drawing", "families", "training"},
    "command": {"tuner"},
}
# What lies beside the packages.
ROOT = {"__init__", "__main__", "exports", "fields", "ops"}
# The same inside the tuner.
IN_TUNER: dict[str, set[str]] = {
    "terminal": set(),
    "records": set(),
    "files": {"records"},
    "suggesting": set(),
    "hypermodel": {"suggesting"},
    "applications": {"hypermodel"},
    "images": set(),
    "delivering": {"files", "images"},
    "choosing": {"hypermodel", "records"},
    "storing": {"choosing", "terminal"},
    "reporting": {"records"},
    "running": {"reporting", "storing"},
    "stock": {"delivering", "files", "running"},
    "oracle": {"choosing"},
    "arguments": {"storing"},
    "tuner": {"arguments", "oracle", "running"},
}
# Packages of others, each beside those of the packages below.
OUTSIDE: dict[str, set[str]] = {
    "common": {"keras"},
    "layers": {"keras", "numpy"},
    "model_tools": {"PIL", "onnx", "onnxruntime"},
    "tuner": {
        *("PIL", "altair", "fsspec", "keras_tuner", "optuna", "psutil", "ray", "rich", "sklearn"),
        *("sqlalchemy", "tensorboard", "vl_convert"),
    },
    "command": {"typer"},
}


def below(table: dict[str, set[str]], name: str) -> set[str]:
    """The packages that one may import: those of its row, and theirs."""
    return set().union(*({other} | below(table, other) for other in table[name]))


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


INSIDE = [path for path in FILES if room_of(path) not in ROOT]


@pytest.mark.parametrize("path", INSIDE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    room = room_of(path)
    assert room in PACKAGES, "a new package: give it a row in PACKAGES"
    named = [name.split(".") for name in imports(path, inside_functions=True)]
    inside = {parts[1] for parts in named if parts[0] == "kblocks" and parts[1:]}
    assert inside - below(PACKAGES, room) - {room} == set()
    outside = {parts[0] for parts in named} - {"kblocks", "__future__"} - sys.stdlib_module_names
    allowed = set().union(*(OUTSIDE.get(name, set()) for name in {room} | below(PACKAGES, room)))
    backends = (
        {"jax", "tensorflow", "torch"} if path.stem == "backend" else set()
    )  # asked in one place
    assert outside - allowed - backends == set()


TUNER = PACKAGE / "tuner"
TUNER_FILES = [path for path in INSIDE if TUNER in path.parents and path != TUNER / "__init__.py"]


@pytest.mark.parametrize("path", TUNER_FILES, ids=lambda path: str(path.relative_to(TUNER)))
def test_arrows_point_down_in_the_tuner(path: Path) -> None:
    room = path.relative_to(TUNER).parts[0].removesuffix(".py")
    named = [name.split(".") for name in imports(path, inside_functions=True)]
    inside = {parts[2] for parts in named if parts[:2] == ["kblocks", "tuner"]}
    assert inside - below(IN_TUNER, room) - {room} == set()


@pytest.mark.parametrize("table", [PACKAGES, IN_TUNER], ids=["kblocks", "tuner"])
def test_the_packages_are_in_order(table: dict[str, set[str]]) -> None:
    order = list(table)
    for name, others in table.items():
        assert all(order.index(other) < order.index(name) for other in others), name


def test_every_package_is_there() -> None:
    assert {room_of(path) for path in FILES} == {*PACKAGES, *ROOT}
    names = {path.relative_to(TUNER).parts[0].removesuffix(".py") for path in TUNER_FILES}
    assert names == set(IN_TUNER)


def test_no_modules_import_each_other() -> None:
    """There is no circle, within a package either."""
    modules = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in FILES
    }
    arrows = {
        name: {target for target in imports(path) if target in modules and target != name}
        for name, path in modules.items()
    }
    while free := {name for name, targets in arrows.items() if not targets & set(arrows)}:
        arrows = {name: targets for name, targets in arrows.items() if name not in free}
    assert set(arrows) == set()


def test_the_reader_of_imports_sees_them() -> None:
    found = set(imports(PACKAGE / "networks" / "architecture.py"))
    assert {"keras", "kblocks.plans.geometry", "kblocks.blocks.block", "warnings"} <= found
    assert "tensorflow" in set(imports(PACKAGE / "common" / "backend.py", inside_functions=True))
    assert "tensorflow" not in set(imports(PACKAGE / "common" / "backend.py"))
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


@pytest.mark.system
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
    modules = {path.stem for path in PACKAGE.iterdir()} - {"tuner"}
    functions = {name for name in kb.__all__ if callable(getattr(kb, name))}
    assert len(functions) > 20
    assert functions & modules == set()
    lower = {name.lower() for name in functions if name.islower()}
    assert lower & {module.lower() for module in modules} == set()


def test_all_names_what_is_public() -> None:
    assert sorted(set(kb.__all__)) == sorted(kb.__all__)
    assert dir(kb) == kb.__all__
    assert all(hasattr(kb, name) for name in kb.__all__)
    assert {re.sub(r"\W", "", name) for name in kb.architectures()} <= set(kb.__all__)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short(path: Path) -> None:
    """STYLE.md: a file is one idea; past about 250 lines, ask which two it holds."""
    assert len(path.read_text().splitlines()) < 500
