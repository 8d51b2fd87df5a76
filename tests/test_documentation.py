"""README and examples run as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(code: list[str], folder: Path) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, *code],
        cwd=folder,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_code_of_the_readme_runs(tmp_path: Path) -> None:
    """The three uses, in order, in one process."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    assert code.count("import kblocks") == 1
    (tmp_path / "readme.py").write_text(code, encoding="utf-8")
    printed = run(["readme.py"], tmp_path)
    assert "stage4 (7, 7, 2048)" in printed


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_each_example_runs(example: Path, tmp_path: Path) -> None:
    """To its end, and with something to say."""
    assert run([str(example)], tmp_path).strip()


def test_ci_runs_the_command_of_the_readme() -> None:
    """A green CI means that the README's test command works."""
    tests = next(command for command in COMMANDS if "pytest" in command)
    assert tests in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_files_that_the_readme_names_exist() -> None:
    """Links and commands point somewhere."""
    named = [*re.findall(r"\]\(([^)#]+)\)", README), "tuning/digits.py"]
    assert len(named) > 4
    for name in named:
        assert (ROOT / name).exists(), name
