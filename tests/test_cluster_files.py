"""The recipes in tuning/cluster/: what they type exists, and each machine does its part."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typed_commands import check_options

from kblocks.command.typed import STORAGE

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tuning" / "cluster"
yaml = pytest.importorskip("yaml")  # Optuna brings it along
CLAIM, JOB = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8"))
POD: dict[str, Any] = JOB["spec"]["template"]["spec"]
CONTAINER: dict[str, Any] = POD["containers"][0]
SCRIPTS = {"slurm": (FOLDER / "slurm.sh").read_text(), "kubernetes": CONTAINER["args"][0]}


def typed() -> dict[str, list[str]]:
    """Each line with a command of kblocks, by its place, as a shell takes it apart."""
    lines = {
        f"{name}:{number}": line.split("#")[0] if "#SBATCH" not in line else ""
        for name, script in SCRIPTS.items()
        for number, line in enumerate(script.splitlines(), 1)
    }
    fenced = re.findall(r"```sh\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    joined = "\n".join(fenced).replace("\\\n", " ")  # a command may go over several lines
    for number, line in enumerate(joined.splitlines(), 1):
        lines[f"README:{number}"] = line.split("#")[0]
    found = {}
    for place, line in lines.items():
        command = re.search(r"\bkblocks (?=\w)(.*?)(;|>|&|$)", line)
        if command and "job-name" not in line:
            found[place] = shlex.split(command[1])
    return found


TYPED = typed()


def test_every_recipe_is_looked_at() -> None:
    commands = {(place.partition(":")[0], words[0]) for place, words in TYPED.items()}
    each = {(name, command) for name in SCRIPTS for command in ("search", "status", "worker")}
    assert each | {("README", "best")} <= commands


@pytest.mark.parametrize("place", TYPED)
def test_what_a_recipe_types_exists(place: str) -> None:
    check_options(TYPED[place])
    for word in TYPED[place][1:]:
        assert not word.endswith(".py") or (ROOT / word).is_file()


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_bash_reads_it(script: str) -> None:
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_the_parts_of_the_kubernetes_file_belong_together() -> None:
    named = {entry["name"]: entry for entry in CONTAINER["env"]}
    secret = named[STORAGE]["valueFrom"]["secretKeyRef"]
    text = (FOLDER / "kubernetes.yaml").read_text()
    assert f"create secret generic {secret['name']} " in text
    assert f"#     {secret['key']}=postgresql+psycopg://" in text
    [volume] = POD["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]
    [mount] = CONTAINER["volumeMounts"]
    assert mount["name"] == volume["name"]
    for words in (words for place, words in TYPED.items() if place.startswith("kubernetes")):
        if words[0] in ("search", "worker"):  # what they leave outlives the container
            assert words[words.index("--directory") + 1].startswith(mount["mountPath"])
    assert JOB["spec"]["completionMode"] == "Indexed"


def test_the_image_has_what_the_recipe_needs() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    extras = set(re.search(r"-e \"\.\[(.*)\]\"", text)[1].split(","))  # type: ignore[index]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"tensorflow", "tune", "postgresql"} <= extras <= set(project["optional-dependencies"])
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for word in line.split()]
    assert {"kblocks", "tuning", project["readme"], *project["license-files"]} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert f"WORKDIR {CONTAINER['workingDir']}\n" in text


# --- what each machine does ------------------------------------------------------------------

STAND_IN = """#!/bin/bash
echo "kblocks $*" >> calls
[ "$1" != status ] || [ "$(grep -c status calls)" -gt 2 ]  # there is a search at the third look
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with programs that note how they are called, and a place for secrets."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    sleep = '#!/bin/bash\necho "sleep $*" >> calls\n'
    for name, text in {"kblocks": STAND_IN, "sleep": sleep}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "storage.sh").write_text("export KBLOCKS_STORAGE=sqlite:///a.db\n")
    return tmp_path


def called(folder: Path, script: str, *arguments: str, **environment: str) -> list[str]:
    """What a machine does, in order."""
    (folder / "calls").unlink(missing_ok=True)
    path = f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "KBLOCKS_SECRETS": str(folder / "storage.sh"), **environment}
    command = ["bash", "-c", script, "job", *arguments]
    subprocess.run(command, cwd=folder, env={**os.environ, **own}, check=True)
    return (folder / "calls").read_text().splitlines()


def test_a_task_of_slurm(machine: Path) -> None:
    script = SCRIPTS["slurm"]
    own = {"SLURM_SUBMIT_DIR": str(machine), "SLURM_ARRAY_TASK_MIN": "0"}
    first = called(machine, script, SLURM_ARRAY_TASK_ID="0", **own)
    assert first == ["kblocks search tuning/cluster.py"]
    looks = ["kblocks status cluster", "sleep 10"] * 2 + ["kblocks status cluster"]
    other = called(machine, script, SLURM_ARRAY_TASK_ID="5", **own)
    assert other == [*looks, "kblocks worker tuning/cluster.py"]
    words = ("my/run file.py", "--trials", "9")
    mine = called(machine, script, *words, SLURM_ARRAY_TASK_ID="1", **own)
    assert mine[0] == "kblocks status run file"
    assert mine[-1] == "kblocks worker my/run file.py --trials 9"


def test_a_pod_of_kubernetes(machine: Path) -> None:
    """Its `kblocks` is on the path, and the Job gives it its number."""
    script = SCRIPTS["kubernetes"]
    [first] = called(machine, script, JOB_COMPLETION_INDEX="0")
    assert first.startswith("kblocks search tuning/cluster.py")
    *looks, last = called(machine, script, JOB_COMPLETION_INDEX="7")
    assert looks == ["kblocks status cluster", "sleep 10"] * 2 + ["kblocks status cluster"]
    assert last == first.replace("search", "worker")
