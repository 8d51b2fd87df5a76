"""A password that was typed: `ps` shows it to everyone, and must not."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import postgres
import psutil
import pytest

import kblocks as kb
from kblocks.common.masking import masked

pytestmark = pytest.mark.system

SECRET = "Geheim%7wort"
URL = f"postgresql://me:{quote(SECRET)}@127.0.0.1:1/db"
ROOT = str(Path(kb.__file__).parents[1])
PROC = Path("/proc/self/cmdline")
linux = pytest.mark.skipif(not PROC.exists(), reason="needs Linux's /proc")
SCRIPT = f"""#!{sys.executable}
import sys
from kblocks.__main__ import main
if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.fixture
def ways(tmp_path: Path) -> dict[str, list[str]]:
    """How the command line may be begun."""
    script = tmp_path / "bin" / "kblocks"  # as pip writes it
    script.parent.mkdir()
    script.write_text(SCRIPT)
    script.chmod(0o755)
    return {
        "script": [str(script)],
        "module": [sys.executable, "-m", "kblocks"],
        "options": [sys.executable, "-B", "-X", "utf8", "-mkblocks"],
    }


def environment(*before: Path) -> dict[str, str]:
    path = os.pathsep.join([*map(str, before), ROOT, os.environ.get("PYTHONPATH", "")])
    without = {k: v for k, v in os.environ.items() if k != "KBLOCKS_STORAGE"}
    return {**without, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}


# What is told where the first of the long imports begins.
TELL = f"""
import json, os, pathlib, sys
shown = pathlib.Path("{PROC}").read_text().split("\\0")
print(json.dumps([shown, sys.argv[1:], os.getpid(), sorted(os.environ)]))
sys.exit(0)
"""
SECRETS = {
    "apart": ["status", "run", "--storage", URL],
    "with =": ["status", "run", f"--storage={URL}"],
    "as an option": ["status", "run", "--storage", f"postgresql://me@a/b?password={quote(SECRET)}"],
    "of another": ["best", "a b", "--checkpoints", f"sftp://me:{quote(SECRET)}@a/b", "--debug"],
}


@linux
@pytest.mark.parametrize("way", ["script", "module", "options"])
@pytest.mark.parametrize("case", SECRETS)
def test_it_is_hidden_before_anything_is_imported(
    ways: dict[str, list[str]], way: str, case: str, tmp_path: Path
) -> None:
    """And the command is given what was typed."""
    (tmp_path / "typer.py").write_text(TELL)
    with subprocess.Popen(
        [*ways[way], *SECRETS[case]], env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as process:
        shown, given, pid, names = json.loads(process.communicate()[0])
    assert given == SECRETS[case]
    assert pid == process.pid  # whom a scheduler or a shell sends its signals
    assert "wort" not in str(shown)
    assert "***" in str(shown)
    assert [text for text in SECRETS[case] if "wort" not in text] == [
        text for text in shown if text in SECRETS[case]
    ]
    assert "KBLOCKS_ARGUMENTS" not in names  # nor is it handed to other programs


@linux
def test_another_program_that_imports_us_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "keras.py").write_text(TELL)
    program = tmp_path / "mine.py"
    program.write_text("import kblocks")
    command = [sys.executable, str(program), "--storage", URL]
    own = {**environment(tmp_path), "KBLOCKS_ARGUMENTS": '["other"]'}
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=True)
    shown, given, *_ = json.loads(done.stdout)
    assert shown[:-1] == command
    assert given == ["--storage", URL]


def test_what_has_no_password_stays() -> None:
    for text in ("sqlite:///runs/a.db", "postgresql://me@host/db", "12:30@home", "s3://b/a:1@c"):
        assert masked(text) == text
    assert masked(masked(URL)) == masked(URL) == "postgresql://me:***@127.0.0.1:1/db"


# --- a search ------------------------------------------------------------------------------

RUN = """
import time
from dataclasses import replace
from pathlib import Path
import keras
import kblocks as kb

def build(hp):
    while not Path("go").exists():  # until all processes were seen
        time.sleep(0.1)
    hp.Float("x", 0, 1)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10, "softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model

def tuner(**settings):
    return kb.tuner.Tuner(build, **{"trials": 4, "project_name": "run", **settings})

def data():
    return replace(kb.tuner.load("digits", limit=60), fit={"epochs": 2, "batch_size": 30})
"""
STARTS = 5.0  # seconds in which Python itself may start; nothing of ours is begun in them


def command_lines() -> dict[int, str]:
    """What `ps` shows of all processes."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            is_new = time.time() - process.create_time() < STARTS
            if not (is_new and "spawn_main" not in line):
                assert "wort" not in line
                found[process.pid] = line
    return found


@pytest.fixture
def url() -> Iterator[str]:
    found = postgres.installed()
    if isinstance(found, str):
        pytest.skip(found)
    with postgres.running(found, SECRET) as server:
        yield server.url(quote(SECRET))


class Begun:
    """`kblocks`, begun as it is typed."""

    def __init__(self, folder: Path, name: str, command: list[str]) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env=environment(),
                cwd=folder,
                stdout=log,
                stderr=log,
            )

    def workers(self) -> int:
        """How many there are, after a look at what `ps` shows."""
        assert self.process.poll() is None, self.log.read_text()
        shown = command_lines()
        children = {child.pid for child in psutil.Process(self.process.pid).children()}
        return sum("spawn_main" in shown.get(pid, "") for pid in children)

    def is_masked(self) -> bool:
        return "***" in command_lines().get(self.process.pid, "")


@linux
def test_no_process_of_a_search_shows_it(
    url: str, ways: dict[str, list[str]], tmp_path: Path
) -> None:
    """Neither the search, nor one that joins it, nor their workers, nor what they tell."""
    (tmp_path / "run.py").write_text(RUN)
    begun = []
    try:
        for name, way in (("search", "script"), ("worker", "module")):
            command = [*ways[way], name, "run.py", "--workers", "2", "--storage", url]
            begun.append(Begun(tmp_path, name, command))
            until = time.monotonic() + 90
            while begun[-1].workers() < 2:  # then the search is there, and can be joined
                assert time.monotonic() < until, begun[-1].log.read_text()
                time.sleep(0.1)
        assert all(one.is_masked() for one in begun)
        (tmp_path / "go").touch()
        while any(one.process.poll() is None for one in begun):
            command_lines()
            assert time.monotonic() < until, [one.log.read_text() for one in begun]
        told = "".join(one.log.read_text() for one in begun)
        assert [one.process.returncode for one in begun] == [0, 0], told
        assert "best trial" in told
        assert "wort" not in told
    finally:
        for one in begun:
            one.process.kill()
            one.process.wait()
