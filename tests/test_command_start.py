"""How the command begins: without Keras where it needs none, and without other packages' words."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kblocks as kb
from kblocks.command import cli, listing

KBLOCKS = [sys.executable, "-m", "kblocks"]
HEAVY = ("keras", "tensorflow", "keras_tuner", "numpy", "optuna")


def test_the_stored_listing_is_that_of_the_networks() -> None:
    """After a change: python -m kblocks.command.listing."""
    assert listing.listing() == json.loads(json.dumps(listing.computed()))


def test_the_version_is_shown() -> None:
    assert CliRunner().invoke(cli.app, ["--version"]).output == f"kblocks {kb.__version__}\n"


@pytest.mark.system
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["list"], ["--version"], ["lst"], ["search", "-x"], ["show", "resnet50"]],
)
def test_what_needs_no_keras_does_not_import_it(
    arguments: list[str], fresh_process: Callable[..., str]
) -> None:
    script = f"""
import sys
sys.argv[1:] = {arguments}
sys.argv[0] = "kblocks"
sys.orig_argv = [sys.executable, "kblocks", *sys.argv[1:]]
from kblocks.command.cli import main
main(sys.argv[1:])
print("imported", *[name for name in {HEAVY} if name in sys.modules])
"""
    assert fresh_process(script).splitlines()[-1] == "imported"


@pytest.mark.system
def test_the_status_of_a_run_needs_no_keras(fresh_process: Callable[..., str]) -> None:
    script = f"""
import sys
sys.argv = ["kblocks"]
sys.orig_argv = [sys.executable, "kblocks"]
import kblocks.command.stored, kblocks.command.tables
print("imported", *[name for name in {HEAVY[:3]} if name in sys.modules])
"""
    assert fresh_process(script).splitlines()[-1] == "imported"


@pytest.mark.system
def test_a_search_on_a_terminal_shows_nothing_of_other_packages(tmp_path: Path) -> None:
    """What was held back is in the log file of the run."""
    ours, theirs = pty.openpty()
    arguments = ["search", "--family", "resnet", "--data", "digits", "--limit", "200"]
    budget = ["--macs", "1e6", "--trials", "1", "--epochs", "1", "--workers", "1"]
    process = subprocess.Popen(
        [*KBLOCKS, *arguments, *budget],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "100", "TF_CPP_MIN_LOG_LEVEL": "0"},
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    text = seen.decode()
    assert process.wait() == 0, text
    for word in ("WARNING", "I0000", "E0000", "oneDNN", "CUDA", "Warning"):
        assert word not in text, text
    assert "best trial: 0" in text
    log = (tmp_path / "runs" / "resnet_digits" / "kblocks.log").read_text(encoding="utf-8")
    assert "oneDNN" in log
