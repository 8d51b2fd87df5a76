"""A search's database that is only read, is empty, or is not what it was."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from searching import Toy, cleared

import kblocks as kb
from kblocks.command import cli
from kblocks.command.stored import opened
from kblocks.common.atomic import whole
from kblocks.tuner.running.ends import AwayError
from kblocks.tuner.storing import patience
from kblocks.tuner.storing.checkpoints import Checkpoints
from kblocks.tuner.storing.diagnosis import diagnosis
from kblocks.tuner.storing.storage import EmptyError, open_storage, url_of

pytestmark = pytest.mark.system


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with five trials."""
    folder = tmp_path / "run"
    folder.mkdir()
    study = optuna.create_study(storage=f"sqlite:///{folder / 'study.db'}", study_name="run")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
    return folder


# --- reading -----------------------------------------------------------------------------


@pytest.fixture
def read_only(run: Path) -> Iterator[Path]:
    """The folder where nothing can be written; root may write into any that is not mounted so."""
    if os.geteuid():
        run.chmod(0o555)
        (run / "study.db").chmod(0o444)
        yield run
        run.chmod(0o755)
        return
    place = run.with_name("mounted")
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True
    ).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    shutil.copy(run / "study.db", place / "study.db")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_run_that_cannot_be_written_is_read(read_only: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"ead-only|denied"):
        (read_only / "other").touch()
    assert len(opened(str(read_only)).trials) == 5
    tuner = kb.tuner.Tuner(
        lambda hp: None,
        directory=tmp_path,
        project_name="run",
        storage=f"sqlite:///{read_only / 'study.db'}",
    )
    assert len(tuner.run().trials) == 5
    assert cli.main(["status", str(read_only)]) == 0
    assert cli.main(["report", str(read_only), "--output", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "report.html").is_file()


def test_reading_writes_nothing(run: Path) -> None:
    def state() -> Any:
        return sorted((p.name, p.stat().st_mtime_ns, p.read_bytes()) for p in run.iterdir())

    before = state()
    assert len(opened(str(run)).trials) == 5
    assert state() == before


@pytest.mark.parametrize("kind", ["no bytes", "tables of another program", "no study"])
def test_an_empty_database_is_told_and_stays_empty(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.db"
    path.touch()
    if kind == "tables of another program":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE other (a)")
    if kind == "no study":
        optuna.storages.RDBStorage(f"sqlite:///{path}")
    before = path.read_bytes()
    assert cli.main(["status", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "no search in" in told
    assert str(path) in told
    assert "none" not in told
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="no search in"):
        opened("run", f"sqlite:///{path}")


def test_a_tuner_that_only_looks_writes_nothing(tmp_path: Path) -> None:
    tuner = kb.tuner.Tuner(lambda hp: None, directory=tmp_path, project_name="run")
    (tmp_path / "run" / "study.db").touch()
    with pytest.raises(KeyError, match="there is no search in"):
        tuner.run()
    assert (tmp_path / "run" / "study.db").read_bytes() == b""


def test_a_worker_makes_no_tables(tmp_path: Path) -> None:
    (tmp_path / "study.db").touch()
    with pytest.raises(EmptyError, match="empty"):
        open_storage(f"sqlite:///{tmp_path / 'study.db'}", create=False)


def test_a_variable_that_is_set_but_empty_is_none(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KBLOCKS_STORAGE", "")
    assert len(opened(str(run)).trials) == 5
    assert cli.main(["status", "nowhere"]) == 1
    assert "RUN must be the folder of a run" in capsys.readouterr().err
    monkeypatch.chdir(run.parent)
    family = ["search", "--family", "resnet", "--data", "digits", "--limit", "40"]
    assert cli.main([*family, "--macs", "9"]) == 2
    assert "Nothing in this space" in capsys.readouterr().err  # and not its storage
    with pytest.raises(ValueError, match="Received: an empty text"):
        url_of("", run)


# --- databases that are not what they were -----------------------------------------------


def deleted(path: Path, older: bytes) -> None:
    path.unlink()


def emptied(path: Path, older: bytes) -> None:
    os.truncate(path, 0)


def overwritten(path: Path, older: bytes) -> None:
    path.write_bytes(b"hello world " * 2000)


def damaged(path: Path, older: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xff" * 30 * 4096)


def older_copy(path: Path, older: bytes) -> None:
    path.write_bytes(older)


HAPPENED = [
    (deleted, "is not there any more"),
    (emptied, "has been emptied"),
    (overwritten, "is damaged ("),
    (damaged, "is damaged ("),
    (older_copy, "is an older copy, with 2 trials of"),
]


@pytest.mark.parametrize(("happens", "told"), HAPPENED)
def test_what_has_happened_to_a_database(
    happens: Callable[..., None], told: str, run: Path, tmp_path: Path
) -> None:
    path, url = run / "study.db", f"sqlite:///{run / 'study.db'}"
    assert diagnosis(url, "run", 5, "weights") is None
    other = f"sqlite:///{tmp_path / 'older.db'}"
    study = optuna.create_study(storage=other, study_name="run")
    study.optimize(lambda trial: 0.0, n_trials=2)
    happens(path, (tmp_path / "older.db").read_bytes())
    found = diagnosis(url, "run", 5, "weights")
    assert found is not None
    assert told in found
    assert str(path) in found
    assert "Put it back, or a copy of it, and run the same again" in found


def test_a_database_of_others_or_none_on_this_disk(run: Path) -> None:
    url = f"sqlite:///{run / 'study.db'}"
    assert "without 'mine'" in str(diagnosis(url, "mine", 1))
    assert diagnosis("postgresql+psycopg://me@host/name", "mine", 1) is None
    assert diagnosis("sqlite://", "mine", 1) is None
    with contextlib.closing(sqlite3.connect(run / "study.db")) as connection:
        connection.execute("BEGIN EXCLUSIVE")  # which is no damage
        assert diagnosis(url, "run", 9) is None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """No transaction runs meanwhile: another process holds the lock, as ours would lose its own.

    (Closing any descriptor of a file ends all locks that the process has on it.)
    """
    lock = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=30)"
    lock += "; c.execute('BEGIN EXCLUSIVE'); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", lock, str(path)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        yield
        child.communicate()


def test_an_older_copy_between_two_trials_is_noticed(run: Path, tmp_path: Path) -> None:
    """Nothing else is amiss then: the next trial would get the number of one that was lost."""
    path = run / "study.db"
    storage = open_storage(f"sqlite:///{path}", patience=60)
    (summary,) = storage.get_all_studies()
    study = optuna.load_study(study_name=summary.study_name, storage=storage)
    older = path.read_bytes()
    study.tell(study.ask(), 0.5)
    older_copy(path, older)
    began = time.monotonic()
    with pytest.raises(StorageInternalError) as caught:
        study.ask()
    assert patience.why(caught.value) == "it has fewer trials than before"
    assert time.monotonic() - began < 30  # waiting does not help


@pytest.mark.slow
@pytest.mark.parametrize(("happens", "told"), HAPPENED)
def test_a_search_tells_what_has_happened_to_its_database(
    happens: Callable[..., None], told: str, tmp_path: Path
) -> None:
    settings = {"trials": 60, "workers": 1, "storage_patience": 2}
    search = Toy(tmp_path / "runs", {"seconds": 0.2}, settings)
    with cleared(search):
        search.start()
        search.wait_for("end 1")
        with locked(search.database):
            older = search.database.read_bytes()
        search.wait_for("end 4")
        with locked(search.database):
            happens(search.database, older)
        code, out, err = search.ends(90)
    assert code == 1, out
    lines = [line for line in err.splitlines() if line.startswith("ConnectionError")]
    assert len(lines) == 1, err
    number = re.compile(r"\d+ trials")  # one more if the next trial was begun in the older copy
    assert number.sub("", told) in number.sub("", lines[0])
    assert "Nothing that was finished is lost" not in err
    assert err.count("trying again") <= 2  # once in each process


@pytest.mark.parametrize("left", ["deleted", "emptied"])
def test_a_search_whose_database_is_gone_begins_no_other(left: str, tmp_path: Path) -> None:
    tuner = kb.tuner.Tuner(lambda hp: None, workers=0, directory=tmp_path)
    kept = Checkpoints(tuner.checkpoint_directory)
    kept.mark("the search's")
    kept.save_best(0, [])
    path = tuner.folder / "study.db"
    if left == "emptied":
        path.touch()
    with pytest.raises(ValueError, match=r"no search in that database.* put it back"):
        tuner.search([1], verbose=0)
    assert path.exists() == (left == "emptied")
    assert left == "deleted" or path.stat().st_size == 0


def test_an_outage_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """However many threads wait for its end; and that it is over."""
    clock, calls = itertools.count(), itertools.count()
    monkeypatch.setattr(patience.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(patience, "_outage", patience._Outage())

    def away() -> None:
        if next(calls) < 60:
            raise StorageInternalError from RuntimeError("disk is full")

    def wait() -> None:
        patience.patiently(away, lambda: 1e6)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    with caplog.at_level("WARNING", "kblocks"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2, lines
    assert "cannot be used, trying again: disk is full" in lines[0]
    assert "can be used again" in lines[1]


def test_what_a_worker_says_of_its_database_is_told_with_it() -> None:
    from kblocks.tuner.running.ends import ending, raise_ending

    def work() -> None:
        raise StorageInternalError from RuntimeError("gone")

    event, value = ending(work)
    with pytest.raises(AwayError, match="gone"):
        raise_ending(event, value)


# --- names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/../x", "", " ", ".", "..", "a\0b", "a\nb", "x" * 400, "a\\..\\b", "C:x", 7],
)
def test_a_project_name_is_refused_at_the_door(name: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`project_name`") as caught:
        kb.tuner.Tuner(lambda hp: None, directory=tmp_path / "runs", project_name=name)
    assert "Received" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_other_project_names_are_taken(tmp_path: Path) -> None:
    for name in ("cifar10", "a b", "größe", "group/one", "x.y"):
        tuner = kb.tuner.Tuner(lambda hp: None, directory=tmp_path, project_name=name)
        assert tuner.folder == tmp_path / name


# --- files -------------------------------------------------------------------------------


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/dev/full` answers every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")

    def fill() -> None:
        with whole(tmp_path / "best.keras"), open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    with pytest.raises(OSError, match=r"No space left on device: .*best\.keras"):
        fill()
    kept = Checkpoints(tmp_path / "checkpoints")
    full = Path("/dev/full")
    monkeypatch.setattr(kept._files, "open", lambda *_: full.open("wb", buffering=0))
    with pytest.raises(OSError, match=r"No space left on device: .*trial-000003/best\.npz"):
        kept.save_best(3, [])
