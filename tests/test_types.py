"""A type checker accepts the package and refuses wrong calls of its blocks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

pytest.importorskip("pyright", reason="the extra `dev` brings the type checker")

ROOT = Path(__file__).parent.parent

RIGHT = """\
import kblocks as kb

kb.ResidualBlock(64)
kb.ResidualBlock(64, (1, 7), (2, 1), padding="valid", name="a", dtype="float16")
kb.ConvBlock(32, pool="max", normalization=kb.Norm("batch", epsilon=1e-5))
kb.ResidualBlock.Spec(64, strides=2)
kb.Architecture([kb.ConvBlock.Spec(8)], head=kb.Classifier(10, pool="concat"))


class Pointwise(kb.Block):
    filters: int
    activation: str = "relu"


Pointwise(8, "gelu", name="b")
"""

WRONG = """\
import kblocks as kb

kb.ResidualBlock("a")
kb.ResidualBlock(64, stride=3)
kb.ResidualBlock()
kb.ResidualBlock(64, 3, 1, "same")
kb.ResidualBlock.Spec("a")
kb.ConvBlock(32, padding="sane")
kb.Classifier(10, poo="avg")
"""


def errors(*paths: Path) -> list[int]:
    """The lines, from 1, on which pyright finds an error."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([*command, *map(str, paths)], cwd=ROOT, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] >= 1
    return [
        d["range"]["start"]["line"] + 1
        for d in found["generalDiagnostics"]
        if d["severity"] == "error"
    ]


def test_the_package_passes() -> None:
    """No error in kblocks/."""
    assert errors(ROOT / "kblocks") == []


def test_right_calls_pass(tmp_path: Path) -> None:
    """Calls as the documentation has them are fine."""
    (tmp_path / "right.py").write_text(RIGHT)
    assert errors(tmp_path / "right.py") == []


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    """Each call with a wrong, unknown, missing or misplaced argument is an error."""
    (tmp_path / "wrong.py").write_text(WRONG)
    calls = [n for n, line in enumerate(WRONG.splitlines(), 1) if line.startswith("kb.")]
    assert sorted(set(errors(tmp_path / "wrong.py"))) == calls
