"""A search on a Ray cluster: processes, machines, drivers that die, and who sees the password."""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import keras
import numpy as np
import optuna
import postgres
import psutil
import pytest
from searching import PACKAGE, Toy, cleared, command_line, family, told_to_end, until

import kblocks as kb
from kblocks.command import cli
from kblocks.command.ready import RunFile
from kblocks.tuner.running.jobs import ObjectJob
from kblocks.tuner.running.on_ray import Cluster, _find
from kblocks.tuner.running.sending import Sent
from kblocks.tuner.storing.storage import open_storage

pytestmark = pytest.mark.system

pytest.importorskip("ray", reason="the extra `ray` is not installed")

PASSWORD = "Geheim/7 @%:wörtlich"
FORMS = (PASSWORD, quote(PASSWORD), quote(PASSWORD, safe=""), "wörtlich", "rtlich")
LIGHT = os.pathsep.join((str(PACKAGE), str(PACKAGE / "tests" / "runs" / "anywhere")))
MakeToy = Callable[..., Toy]


class Nodes:
    """Ray's nodes on this machine, which end with the test, and a folder for all that it writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # a short one: Ray's sockets are in it
        self.environment = {
            "RAY_TMPDIR": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "PYTHONPATH": LIGHT,
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *, gpus: int) -> subprocess.Popen[bytes]:
        """One more node with one CPU; the first is the head."""
        where = ["--head", f"--port={_free_port()}", "--include-dashboard=false"]
        if self.processes:
            where = [f"--address={self.environment['RAY_ADDRESS']}"]
        else:
            self.environment["RAY_ADDRESS"] = f"127.0.0.1:{where[1].partition('=')[2]}"
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        needs = ["--node-ip-address=127.0.0.1", "--num-cpus=1", f"--num-gpus={gpus}"]
        own = {k: v for k, v in self.environment.items() if k != "RAY_ADDRESS"}
        with (self.folder / f"node{len(self.processes)}.out").open("wb") as out:
            node = subprocess.Popen(
                [*ray, *where, *needs],
                env={**os.environ, **own},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.processes.append(node)
        until(lambda: any("raylet/raylet" in command_line(p) for p in family(node.pid)))
        return node

    def left(self) -> list[psutil.Process]:
        """Processes of Ray's, and those that they have begun, which still run."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RAY_TMPDIR") == str(self.folder):
                    found.append(process)
        return [process for process in found if process.pid != os.getpid()]

    def texts(self) -> Iterator[tuple[str, str]]:
        """All files that Ray has written."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                yield str(path), path.read_bytes().decode("utf-8", "replace")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def kill_whole(node: subprocess.Popen[bytes]) -> None:
    """What a loss of power is to a machine: nothing in it does anything any more."""
    whole = [*family(node.pid), psutil.Process(node.pid)]
    for process in whole:
        process.suspend()
    for process in whole:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    node.wait()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    folder = Path(tempfile.mkdtemp(prefix="kb", dir="/tmp"))
    made = Nodes(folder)
    try:
        yield made
    finally:
        for process in made.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for node in made.processes:
            node.wait()
        shutil.rmtree(folder)


@pytest.fixture
def toy(tmp_path: Path, nodes: Nodes) -> Iterator[MakeToy]:
    """Makes a toy search on Ray."""
    with contextlib.ExitStack() as stack:

        def make(plan: dict[str, Any], needs: dict[str, Any] | None = None, **own: Any) -> Toy:
            settings = {"ray": needs or {"num_cpus": 0.5}, **own}
            made = Toy(tmp_path / "runs", plan, settings, nodes.environment)
            return stack.enter_context(cleared(made))

        yield make


def workers_of(nodes: Nodes) -> list[psutil.Process]:
    """The processes in which Ray runs our tasks."""
    return [p for p in nodes.left() if "kblocks worker" in command_line(p)]


# --- as a whole --------------------------------------------------------------------------


def test_a_search_on_ray_is_the_same_search(toy: MakeToy, nodes: Nodes) -> None:
    """One that begins and ends a cluster of this machine, and outlives a trial that kills."""
    search = toy({"1": "kill", "seconds": 0.05}, trials=4)
    out = search.finish()
    assert "On Ray: 1 node, " in out
    search.check(4)
    kinds = [trial.failure and trial.failure.kind for trial in search.trials()]
    assert kinds == [None, "killed", None, None]
    assert sorted(search.begun()) == [0, 1, 1, 1, 2, 3]
    until(lambda: not nodes.left(), 20)


@pytest.mark.slow
def test_trials_go_on_on_ray(toy: MakeToy, nodes: Nodes) -> None:
    """With a scheduler: also after the process of the first that goes on has been killed."""
    search = toy({"2": "kill", "faulty_epoch": 2, "epochs": 4}, trials=4, scheduler="asha")
    search.finish()
    run = search.run()
    assert run.tried == 4
    assert (run.trials[2].continues, run.trials[2].status) != (None, "completed")
    assert max(len(trial.history["loss"]) for trial in run.completed()) == 4
    until(lambda: not nodes.left(), 20)


@pytest.mark.slow
def test_it_outlives_its_workers_and_its_driver(toy: MakeToy, nodes: Nodes) -> None:
    nodes.start(gpus=0)
    plan = {"4": "grow", "5": "grow", "6": "grow", "7": "grow", "seconds": 0.4, "epochs": 4}
    search = toy(plan, trials=8, growth=1 << 27)
    main = search.start()
    search.wait_for("epoch 0 1", 150)
    [worker] = workers_of(nodes)
    below = family(worker.pid)
    worker.kill()  # in the third epoch
    again = search.wait_for("begin 0 2", 150)
    until(lambda: not any(process.is_running() for process in below), 20)
    assert again[3] not in [str(process.pid) for process in below]
    search.wait_for("epoch 2 1", 150)
    finished = search.trials()[:2]
    main.kill()
    main.wait()
    until(lambda: not workers_of(nodes), 20)
    search.finish()
    search.check(8)
    assert search.trials()[:2] == finished
    assert [trial.state for trial in search.trials()] == ["completed"] * 8
    assert sorted(search.begun()) == [0, 0, 1, 2, 2, 3, 4, 5, 6, 7]
    grown = [note[3] for note in search.notes() if note[0] == "begin" and note[1] in "4567"]
    assert len(set(grown)) > 1
    until(lambda: not workers_of(nodes), 20)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ctrl-c", "sigterm"])
def test_it_is_told_to_end(toy: MakeToy, nodes: Nodes, how: str) -> None:
    search = toy({"seconds": 0.3, "epochs": 4}, trials=3, workers=2)
    search.start()
    search.wait_for("epoch 1 1", 150)
    told_to_end(search, how, 15)
    until(lambda: not nodes.left(), 20)
    assert [t.state for t in search.trials() if t.state == "running"] == []
    search.finish()
    search.check(3)
    assert [trial.attempts for trial in search.trials()] == [1, 1, 1]


@pytest.mark.slow
def test_it_outlives_a_machine_and_nobody_sees_the_password(toy: MakeToy, nodes: Nodes) -> None:
    """Two nodes with a GPU each, of which one dies in mid-trial."""
    found = postgres.installed()
    if isinstance(found, str):
        pytest.skip(found)
    with postgres.running(found, PASSWORD) as server:
        url = server.url(quote(PASSWORD, safe=""))
        nodes.start(gpus=1)
        second = nodes.start(gpus=1)
        plan = {"seconds": 0.4, "epochs": 5}
        search = toy(plan, {"num_gpus": 1, "num_cpus": 0.5}, trials=8, workers=2)
        search.environment["KBLOCKS_TOY_STORAGE"] = url
        search.start()
        here = until(lambda: [w for w in workers_of(nodes) if w in family(second.pid)], 150)

        def busy() -> list[str]:
            pids = {str(process.pid) for process in family(here[0].pid)}
            epochs = [n[1] for n in search.notes() if n[:1] == ["epoch"] and n[3] in pids]
            return [n for n in epochs if epochs.count(n) == 2 and epochs[-1] == n]

        number = until(busy, 150)[0]
        listed = [command_line(process) for process in nodes.left()]
        kill_whole(second)
        code, out, err = search.ends(240)
        assert code == 0, f"{out}\n{err}"
        assert "A worker on Ray has died and is begun again" in out
        study = optuna.load_study(study_name="search", storage=open_storage(url))
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 8
        begun = search.begun()
        assert [begun.count(n) for n in range(8)] == [1 + (str(n) == number) for n in range(8)]
        gpus = {note[4] for note in search.notes() if note[0] == "begin"}
        assert gpus == {"0"}  # each of its own machine
    told = [(name, text) for name, text in nodes.texts()]
    assert any("raylet.out" in name for name, _ in told)
    assert len(listed) > 6
    for name, text in [*told, ("command lines", "\n".join(listed)), ("output", out + err)]:
        assert not any(form in text for form in FORMS), name


SCRIPT = """
import sys
import keras, keras_tuner, numpy as np
import kblocks as kb

class Own(keras_tuner.HyperModel):
    def build(self, hp):
        hp.Float("x", 0, 1)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    def fit(self, hp, model, x, **kwargs):
        return {"val_loss": score(hp.get("x"), x)}

half = 0.5
score = lambda x, data: (x - half) ** 2 + float(data.sum())

if __name__ == "__main__":
    own = {"trials": 3, "directory": sys.argv[1], "sampler": "random", "ray": {"num_cpus": 0.5}}
    tuner = kb.tuner.Tuner(Own(), "val_loss", **own)
    run = tuner.search(np.zeros((4, 2)), verbose=0)
    print([trial.scores[0] == (trial.values["x"] - 0.5) ** 2 for trial in run.trials])
"""


@pytest.mark.slow
def test_what_a_script_defines_itself_goes_along(tmp_path: Path, nodes: Nodes) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "runs")],
        env={**os.environ, **nodes.environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines()[-1:] == ["[True, True, True]"], done.stderr[-3000:]


# --- in parts ----------------------------------------------------------------------------


def build(hp: Any) -> keras.Model:
    hp.Float("x", 0, 1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def made(folder: Path, **settings: Any) -> kb.tuner.Tuner:
    own = {"trials": 2, "directory": folder, "ray": {}}
    return kb.tuner.Tuner(build, "val_loss", **{**own, **settings})


def test_a_password_travels_apart(tmp_path: Path) -> None:
    """The content of a job may be written to a disk; the texts beside it are not."""
    url = f"postgres://me:{quote(PASSWORD, safe='')}@host/name"
    tuner = made(tmp_path, storage=url, ray={"num_cpus": 2}, hours=1)
    x = np.arange(6.0)
    for job in (ObjectJob(tuner, (x,), {}), RunFile("a.py", {"storage": url})):
        sent = Sent.of(job, tuner, until=None)
        content = sent.content.decode("utf-8", "replace")
        assert not any(form in content for form in FORMS)
        assert "host" not in content
    sent = Sent.of(ObjectJob(tuner, (x,), {}), tuner, until=time.time() + 60)
    there = pickle.loads(pickle.dumps(sent))
    got = there.tuner()
    assert got.storage_url == tuner.storage_url
    assert quote(PASSWORD, safe="") in got.storage_url
    assert (got.ray, got.workers, got.trials) == (None, 1, 2)
    assert 55 < got.deadline() - time.monotonic() <= 60
    np.testing.assert_array_equal(there.fit()[0][0], x)


def test_what_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    tuner = made(tmp_path)
    with pytest.raises(ValueError, match=r"run file. Received: TypeError: .*generator"):
        Sent.of(ObjectJob(tuner, ((n for n in range(3)),), {}), tuner, None)


def test_a_file_is_no_storage_for_several_machines(tmp_path: Path) -> None:
    tuner = made(tmp_path, ray={"num_gpus": 2})
    search = tuner_search(tuner)
    names = (socket.gethostname(), "other")
    nodes = [
        {"Alive": True, "NodeManagerHostname": name, "Resources": {"CPU": 4.0, "GPU": 1.0}}
        for name in names
    ]
    said: list[str] = []
    cluster = Cluster(tuner, ObjectJob(tuner, (), {}), search, said.append)
    with pytest.raises(ValueError, match=r"must be a database that all machines.*other"):
        cluster._look(SimpleNamespace(nodes=lambda: nodes))
    cluster._look(SimpleNamespace(nodes=lambda: nodes[:1]))
    assert said == [
        "On Ray: 1 node, 4 CPUs, 1 GPUs; 1 workers",
        "No node has as yet what a worker needs, {'num_gpus': 2}: waiting for one",
    ]


def tuner_search(tuner: kb.tuner.Tuner) -> Any:
    tuner._begin(((), {}), {})
    return tuner.make_search()


def test_an_address_without_a_cluster_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "auto", "local", ""):
            _find(address, 0)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    told = f"No Ray cluster answers at RAY_ADDRESS=127.0.0.1:{port} .*refused"
    with pytest.raises(ConnectionError, match=told):
        made(tmp_path).search(np.zeros((4, 2)), verbose=0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ray": {"gpus": 1}}, r"`ray` must be None or what a worker needs.*gpus"),
        ({"ray": "auto"}, "Received: ray='auto'"),
        ({"ray": {}, "workers": 0}, "`workers` must be at least 1"),
    ],
)
def test_arguments(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        made(tmp_path, **settings)


def test_the_command_line_takes_needs(capsys: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["search", "--family", "vgg", "--data", "digits", "--ray"]
    for wrong in ("gpus=1", "num_cpus=a", "", "num_cpus=1,"):
        assert cli.main([*line, wrong]) == 2
        assert "--ray must be what a worker needs" in capsys.readouterr().err
    seen: list[Any] = []
    monkeypatch.setattr(kb.tuner.Tuner, "run_job", lambda self, job, verbose: seen.append(self.ray))
    cli.main([*line, "num_cpus=4,num_gpus=0.5"])
    assert seen == [{"num_cpus": 4, "num_gpus": 0.5}]


def test_without_ray_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'kblocks\[ray\]'"):
        made(tmp_path).search(np.zeros((4, 2)), verbose=0)
