"""A search on many machines: PostgreSQL as the storage, processes that die, a server that does."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import keras
import keras_tuner
import numpy as np
import optuna
import postgres
import psutil
import pytest
from searching import command_line

import kblocks as kb
from kblocks.tuner.records import SURPLUS
from kblocks.tuner.storing import owners
from kblocks.tuner.storing.storage import open_storage, url_of

pytestmark = pytest.mark.system

PASSWORD = "Geheim/7 @%:wörtlich"
FORMS = (PASSWORD, quote(PASSWORD), quote(PASSWORD, safe=""), "wörtlich", "rtlich")


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    found = postgres.installed()
    if isinstance(found, str):
        pytest.skip(found)
    with postgres.running(found, PASSWORD) as server:
        yield server


@pytest.fixture
def url(server: postgres.Server) -> str:
    return server.url(quote(PASSWORD, safe=""))


def is_told(text: str) -> bool:
    """Whether the password can be read in a text."""
    return any(form in text for form in FORMS)


def small() -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


class Toy(keras_tuner.HyperModel):
    """Scores a number; calls what it is given before that."""

    def __init__(self, then: Callable[[int], None] = lambda count: None) -> None:
        super().__init__()
        self.then = then
        self.fitted: list[float] = []
        self.model = small()

    def build(self, hp: Any) -> keras.Model:
        hp.Float("x", 0, 1)
        return self.model

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        self.fitted.append(hp.get("x"))
        self.then(len(self.fitted))
        return {"val_loss": (hp.get("x") - 0.3) ** 2}


def made(hypermodel: Any, folder: Path, url: str, **settings: Any) -> kb.tuner.Tuner:
    own = {"trials": 6, "workers": 0, "directory": folder, "project_name": folder.name}
    return kb.tuner.Tuner(hypermodel, "val_loss", storage=url, **{**own, **settings})


def test_a_search_outlives_its_database(
    server: postgres.Server, url: str, tmp_path: Path, caplog: Any
) -> None:
    """The server is away for two seconds, in the middle of the third trial."""

    def crash(count: int) -> None:
        if count == 3:
            server.crash()
            threading.Timer(2, server.start).start()

    caplog.set_level(logging.DEBUG)
    hypermodel = Toy(crash)
    run = made(hypermodel, tmp_path, url, sampler="random").search(np.zeros((4, 2)), verbose=0)
    assert [trial.state for trial in run.trials] == ["completed"] * 6
    assert [trial.values["x"] for trial in run.trials] == hypermodel.fitted
    assert "cannot be used, trying again" in caplog.text
    assert not is_told(caplog.text)
    assert server.query("select count(*) from trials where state != 'COMPLETE'") == [(0,)]


def test_trials_go_on_although_their_database_was_away(
    server: postgres.Server, url: str, tmp_path: Path
) -> None:
    """With a scheduler: its crash is in the first trial that goes on from another one."""

    def crash(count: int) -> None:
        if count == 3:
            server.crash()
            threading.Timer(1, server.start).start()

    hypermodel = Toy(crash)
    tuner = made(hypermodel, tmp_path, url, sampler="random", scheduler="asha", trials=4)
    run = tuner.search(np.zeros((4, 2)), epochs=4, verbose=0)
    assert [trial.state for trial in run.trials] == ["completed"] * len(run.trials)
    assert [trial.values["x"] for trial in run.trials] == hypermodel.fitted
    gone_on = [trial.continues for trial in run.trials]
    assert gone_on.count(None) == run.tried == 4
    assert gone_on[2] is not None
    assert any(gone_on[number] is not None for number in gone_on if number is not None)


def test_the_password_may_come_from_the_environment(
    server: postgres.Server, monkeypatch: Any
) -> None:
    plain = f"postgresql://kblocks@127.0.0.1:{server.port}/kblocks"
    with pytest.raises(ConnectionError, match="no password"):
        open_storage(url_of(plain, Path()))
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    open_storage(url_of(plain, Path())).get_all_studies()


WRONG: dict[str, tuple[Callable[[str, postgres.Server], str], type[Exception]]] = {
    "password": (lambda url, server: server.url("wrong"), ConnectionError),
    "user": (lambda url, server: url.replace("//kblocks:", "//other:"), ConnectionError),
    "database": (lambda url, server: url.replace("/kblocks", "/none", 2), ConnectionError),
    "port": (lambda url, server: url.replace(str(server.port), "1"), ConnectionError),
    "driver": (lambda url, server: url.replace("+psycopg", "+nothing"), ConnectionError),
    "package": (lambda url, server: url.replace("+psycopg", "+psycopg2"), ImportError),
    "option": (lambda url, server: url + "?none=1", ConnectionError),
    "text": (lambda url, server: url.replace("://", ":"), ValueError),
    "port in words": (lambda url, server: url.replace(str(server.port), "many"), ValueError),
    "unquoted": (lambda url, server: server.url(PASSWORD), ValueError),
    "as an option": (
        lambda url, server: (
            url.replace(f":{quote(PASSWORD, safe='')}@", "@") + f"?password={quote('wörtlich')}"
        ),
        ConnectionError,
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_no_error_tells_the_password(
    server: postgres.Server, url: str, case: str, caplog: Any
) -> None:
    """Nor does its traceback, nor do the log lines."""
    caplog.set_level(logging.DEBUG)
    change, expected = WRONG[case]
    changed = change(url, server)
    assert changed != url
    with pytest.raises(expected) as caught:
        open_storage(url_of(changed, Path()), patience=1)
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert not is_told(told)
    assert "wrong" not in told
    if expected is not ValueError:
        assert "127.0.0.1" in str(caught.value)  # it says which database


def test_what_is_wrong_for_good_is_not_tried_again(server: postgres.Server, url: str) -> None:
    storage = open_storage(url)
    started = time.monotonic()
    with pytest.raises(ConnectionError, match="authentication failed"):
        open_storage(server.url("wrong"))
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    with pytest.raises(optuna.exceptions.StorageInternalError):  # 512 characters are allowed
        storage.set_trial_user_attr(trial._trial_id, "a" * 600, 1)
    assert time.monotonic() - started < 20


def test_eight_at_once_make_the_tables(server: postgres.Server, url: str) -> None:
    import psycopg

    with psycopg.connect(
        host="127.0.0.1", port=server.port, user="kblocks", password=PASSWORD, dbname="kblocks"
    ) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    failed: list[Exception] = []

    def opened() -> None:
        try:
            open_storage(url)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=opened) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert server.query("select count(*) from alembic_version") == [(1,)]


def test_a_trial_is_given_back_once(
    server: postgres.Server, url: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """Two watchers see the same dead process; one has a stale look when a third takes over."""
    tuner = made(Toy(), tmp_path, url)
    tuner._begin(((), {}), {})
    search = tuner.make_search()
    trial = search.study.ask()
    dead = f"{owners.node()}|{_ended()}|1.00"
    search.storage.set_trial_user_attr(trial._trial_id, owners.OWNER, dead)
    seen = search.study.get_trials(deepcopy=False)[0]
    assert owners.give_back(search.study, search.storage, seen)
    taken = search.study.ask()
    assert taken.number == trial.number
    # Who has taken it stands in it at once: nobody may believe that its process is the dead one.
    assert search.study.get_trials(deepcopy=False)[0].user_attrs[owners.OWNER] == owners.owner()
    assert not owners.give_back(search.study, search.storage, seen)
    assert search.study.get_trials(deepcopy=False)[0].state is optuna.trial.TrialState.RUNNING


def _ended() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


# --- several machines --------------------------------------------------------------------

RUN = """
import json, logging, os, time
import keras, keras_tuner, numpy as np
import kblocks as kb
from kblocks.tuner.storing import owners
from kblocks.tuner.storing import storage

logging.basicConfig(level=logging.DEBUG)
owners.node = lambda: os.environ["NODE"]  # another machine than all others here
owners.BEAT_SECONDS, owners.GRACE_SECONDS = 0.5, 4.0
storage._LONGEST = 1.0

def note(**said):
    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps({**said, "time": time.time(), "pid": os.getpid()}) + "\\n")

class Toy(keras_tuner.HyperModel):
    def build(self, hp):
        hp.Float("x", 0, 1)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    def fit(self, hp, model, *args, **kwargs):
        note(event="begin", x=hp.get("x"))
        for _ in range(5):
            time.sleep(0.2)
        note(event="end", x=hp.get("x"))
        return {"val_loss": (hp.get("x") - 0.3) ** 2}

def tuner(**settings):
    own = {"sampler": "random", "trials": 40, "directory": os.environ["FOLDER"]}
    own["storage"] = os.environ["STORAGE"]
    return kb.tuner.Tuner(Toy(), "val_loss", **{**own, **settings})

def data():
    return kb.tuner.Data(np.zeros((4, 2)), None)
"""

MACHINE = """
import sys
from kblocks.command.ready import RunFile

if __name__ == "__main__":
    path, workers, joins = sys.argv[1:]
    job = RunFile(path, {"workers": int(workers)})
    tuner = job.tuner()
    if int(joins):
        tuner.join()
    print(len(tuner.run_job(job).completed()), "completed")
"""


class Machines:
    """Processes, each of which believes that it is alone on its machine."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.notes = folder / "notes"
        self.notes.touch()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "search.py").write_text(RUN)
        (folder / "machine.py").write_text(MACHINE)

    def begin(self, name: str, workers: int = 0, joins: bool = True) -> int:
        own = {"NODE": name, "STORAGE": self.url, "NOTES": str(self.notes)}
        path = [str(Path(kb.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        own |= {"FOLDER": str(self.folder / "runs"), "PYTHONPATH": os.pathsep.join(path)}
        arguments = [str(self.folder / "search.py"), str(workers), str(int(joins))]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, str(self.folder / "machine.py"), *arguments],
                env={**os.environ, **own},
                stdout=log,
                stderr=log,
            )
        return self.processes[name].pid

    def said(self) -> list[dict[str, Any]]:
        lines = self.notes.read_text().splitlines()
        return [json.loads(line) for line in lines]

    def wait(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        until = time.monotonic() + seconds
        while not condition():
            ended = [n for n, p in self.processes.items() if p.poll() not in (None, 0, -9)]
            assert not ended, (self.folder / f"{ended[0]}.log").read_text()[-4000:]
            assert time.monotonic() < until, "too slow"
            time.sleep(0.02)

    def kill_in_a_trial(self, pids: Callable[[], set[int]], name: str = "") -> None:
        """`kill -9` of a process that has begun a trial and not ended it."""

        def busy() -> set[int]:
            last = {said["pid"]: said["event"] for said in self.said()}
            return {pid for pid, event in last.items() if event == "begin"} & pids()

        self.wait(lambda: bool(busy()))
        os.kill(busy().pop(), signal.SIGKILL)
        if name:
            self.processes[name].wait()

    def command_lines(self) -> str:
        """What `ps` shows of all of them, and of what they have begun."""
        shown = []
        for process in self.processes.values():
            if process.poll() is None:
                of = psutil.Process(process.pid)
                shown += [command_line(p) for p in [of, *of.children(recursive=True)]]
        return "\n".join(shown)

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def machines(tmp_path: Path, url: str) -> Iterator[Machines]:
    made = Machines(tmp_path, url)
    yield made
    made.end()


@pytest.mark.slow
def test_machines_die_and_the_database_too(
    server: postgres.Server, machines: Machines, url: str
) -> None:
    """Four machines, three `kill -9` in the middle of trials, one loss of the server."""
    first = machines.begin("first", workers=2, joins=False)
    machines.wait(lambda: bool(machines.said()))
    second, third = machines.begin("second"), machines.begin("third")
    machines.kill_in_a_trial(lambda: {second}, "second")
    listed = machines.command_lines()
    machines.kill_in_a_trial(lambda: {p.pid for p in psutil.Process(first).children()})
    server.crash()
    time.sleep(3)
    server.start()
    machines.kill_in_a_trial(lambda: {third}, "third")
    machines.begin("fourth")
    for name in ("first", "fourth"):
        machines.wait(lambda name=name: machines.processes[name].poll() is not None)
        assert machines.processes[name].returncode == 0
    study = optuna.load_study(study_name="search", storage=open_storage(url))
    trials = [trial for trial in study.trials if SURPLUS not in trial.user_attrs]
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 40
    assert all(trial.state.is_finished() for trial in study.trials)
    ends = {trial.params["x"]: trial.datetime_complete.timestamp() for trial in trials}
    said = machines.said()
    assert {one["x"] for one in said if one["event"] == "end"} == set(ends)
    assert [one for one in said if one["time"] > ends[one["x"]]] == []  # run again when finished
    begun = [one["x"] for one in said if one["event"] == "begin"]
    assert 40 < len(begun) <= 40 + 3 + 4  # those of the killed, at most those of the server's end
    assert "machine.py" in listed
    assert "multiprocessing" in listed
    assert not is_told(listed)
    assert_untold(machines.folder, server)


def assert_untold(folder: Path, server: postgres.Server) -> None:
    """The password is in no file and in no row."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"first.log", "second.log"} <= {path.name for path in files}
    for path in files:
        assert not is_told(path.read_bytes().decode("utf-8", "replace")), path
    tables = server.query("select tablename from pg_tables where schemaname = 'public'")
    assert tables
    for (table,) in tables:
        assert not is_told(str(server.query(f"select * from {table}"))), table
