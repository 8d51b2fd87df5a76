"""The wheel as pip makes it, installed in an environment with a backend and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import kblocks as kb

pytestmark = pytest.mark.system
ROOT = Path(__file__).parent.parent
USE = """
import kblocks as kb
print(kb.__version__, len(kb.__all__), kb.resnet50().cost((224, 224, 3)).params, kb.__file__)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    made = subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=False)
    if made.returncode:
        pytest.skip("the build's own packages cannot be installed here")
    venv.create(folder / "env", with_pip=False)
    own = folder / "env" / "bin" / "python"
    (wheel,) = folder.glob("kblocks-*.whl")
    subprocess.run([*pip, "--python", own, "install", "-q", f"{wheel}[jax]"], check=True)
    return own


def test_the_wheel_is_used_with_what_it_asks_for(python: Path) -> None:
    """On JAX, the smallest backend: no other is there."""
    done = subprocess.run(
        [python, "-c", USE],
        cwd=python.parent,
        env={"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    version, names, params, file = done.stdout.split()
    assert (version, int(names), int(params)) == (kb.__version__, len(kb.__all__), 25_610_152)
    assert str(python.parents[1]) in file


def test_the_wheel_holds_every_module_and_nothing_else(python: Path) -> None:
    (wheel,) = python.parents[2].glob("kblocks-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tree = {str(path.relative_to(ROOT)) for path in (ROOT / "kblocks").rglob("*")}
    files = {name for name in tree if (ROOT / name).is_file() and "__pycache__" not in name}
    assert packed == files
    assert "kblocks/py.typed" in packed


def test_a_type_checker_knows_the_public_names(python: Path, tmp_path: Path) -> None:
    """`py.typed` promises types; what is not re-exported would be an error here."""
    pytest.importorskip("pyright", reason="the extra `dev` brings the type checker")
    names = "\n".join(f"kb.{name}" for name in kb.__all__ if name != "tuner")
    (tmp_path / "right.py").write_text(f"import kblocks as kb\n{names}\nkb.ResidualBlock(64)\n")
    (tmp_path / "wrong.py").write_text("import kblocks as kb\nkb.ResidualBlock('a')\n")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", str(python)]
    done = subprocess.run([*command, "."], cwd=tmp_path, capture_output=True, text=True)
    errors = [d for d in json.loads(done.stdout)["generalDiagnostics"] if d["severity"] == "error"]
    assert {Path(d["file"]).name for d in errors} == {"wrong.py"}, errors
