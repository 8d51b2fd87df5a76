"""How the processes of a search begin: at any moment one may end, or be the wrong one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest
from searching import PACKAGE, command_line, family, until

import kblocks as kb
from kblocks.tuner.records import Record
from kblocks.tuner.running.ends import ending, raise_ending

pytestmark = pytest.mark.system

SCRIPT = """
import sys
import light
import keras, keras_tuner, numpy as np
import kblocks as kb

class Own(keras_tuner.HyperModel):
    def build(self, hp):
        hp.Float("x", 0, 1)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    def fit(self, hp, model, x, **kwargs):
        return {"val_loss": hp.get("x") + x.sum()}

own = {"trials": 3, "sampler": "random", "overwrite": True, "workers": int(sys.argv[2])}
tuner = kb.tuner.Tuner(Own(), "val_loss", directory=sys.argv[1], **own)
x = np.zeros((1000, 100))  # more than a pipe holds
"""
UNGUARDED = SCRIPT + "print(len(tuner.search(x).completed()), 'completed')\n"
GUARDED = SCRIPT + (
    "if __name__ == '__main__':\n    print(len(tuner.search(x).completed()), 'completed')\n"
)
Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Begins a script, which ends with the test."""
    begun = []

    def make(script: str, workers: int) -> subprocess.Popen[str]:
        path = tmp_path / "script.py"
        path.write_text(script, encoding="utf-8")
        paths = os.pathsep.join((str(PACKAGE), str(PACKAGE / "tests" / "runs")))
        begun.append(
            subprocess.Popen(
                [sys.executable, str(path), str(tmp_path / "runs"), str(workers)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": paths, "KERAS_BACKEND": "numpy"},
            )
        )
        return begun[-1]

    yield make
    for process in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_script_without_its_guard_searches_in_its_own_process(begin: Begin) -> None:
    """Its workers import it, and must neither begin the search again nor delete what is there."""
    out, err = begin(UNGUARDED, 1).communicate(timeout=120)
    assert "3 completed" in out, err
    assert "A script needs `if __name__ == '__main__':`" in out
    assert err.count("RuntimeError: A process that a search has begun imports this script") == 2


def test_a_worker_that_is_killed_before_it_has_read_its_job_is_replaced(begin: Begin) -> None:
    search = begin(GUARDED, 2)

    def workers() -> list[Any]:
        return [p for p in family(search.pid) if "spawn_main" in command_line(p)]

    for process in until(workers, 60):
        process.kill()
    out, err = search.communicate(timeout=120)
    assert "3 completed" in out, err
    assert search.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_search_whose_worker_stands_still_at_its_job_can_be_ended(
    begin: Begin, number: int
) -> None:
    search = begin(GUARDED.replace("(1000, 100)", "(1000, 100, 100)"), 1)
    worker = until(lambda: [p for p in family(search.pid) if "spawn_main" in command_line(p)], 60)
    worker[0].suspend()
    with contextlib.suppress(subprocess.TimeoutExpired):
        search.wait(3)
    os.kill(search.pid, number)
    out, _ = search.communicate(timeout=30)
    assert "Interrupted." in out


# --- what is refused ---------------------------------------------------------------------


class Own(keras_tuner.HyperModel):
    """Whose training is a function."""

    def __init__(self, train: Callable[[], float]) -> None:
        super().__init__()
        self.train = train

    def build(self, hp: Any) -> keras.Model:
        hp.Float("x", 0, 1)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        return {"val_loss": self.train()}


def made(train: Callable[[], float], folder: Path, **settings: Any) -> kb.tuner.Tuner:
    own = {"trials": 2, "workers": 0, "sampler": "random", "directory": folder}
    return kb.tuner.Tuner(Own(train), "val_loss", **{**own, **settings})


def test_a_second_thread_cannot_run_the_same_search(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def train() -> float:
        begun.set()
        assert go_on.wait(60)
        return 1.0

    x = np.zeros((4, 2))
    thread = threading.Thread(target=lambda: made(train, tmp_path).search(x, verbose=0))
    thread.start()
    try:
        assert begun.wait(60)
        for overwrite in (False, True):
            other = made(train, tmp_path, overwrite=overwrite)
            with pytest.raises(RuntimeError, match="Another thread of this process runs"):
                other.search(x, verbose=0)
    finally:
        go_on.set()
        thread.join(60)
    run = made(train, tmp_path).run()
    assert [trial.state for trial in run.trials] == ["completed"] * 2
    assert [trial.attempts for trial in run.trials] == [1, 1]
    assert len(made(train, tmp_path, trials=3).search(x, verbose=0).trials) == 3


def test_a_search_in_which_nothing_was_completed_says_why(tmp_path: Path) -> None:
    def train() -> float:
        raise KeyError("there is no <such> key")

    tuner = made(train, tmp_path)
    reason = "None of the 2 trials .* completed. The last failure: error: KeyError: 'there is no <"
    with pytest.raises(RuntimeError, match=reason):
        tuner.search(np.zeros((4, 2)), verbose=0)
    for get in (tuner.get_best_models, tuner.get_best_hyperparameters):
        with pytest.raises(RuntimeError, match=reason):
            get()
    again = made(lambda: 1.0, tmp_path, trials=3).search(np.zeros((4, 2)), verbose=0)
    assert [trial.state for trial in again.trials] == ["failed", "failed", "completed"]


def test_what_stops_a_worker_is_said_first() -> None:
    """As the variable that a machine of Ray's lacks: its traceback is long, and comes after it."""

    def work() -> None:
        os.environ["KBLOCKS_TEST_OF_WHAT_LACKS"]

    event, value = ending(work)
    reason = r"^A worker process cannot go on: KeyError: 'KBLOCKS_TEST_OF_WHAT_LACKS'\nTraceback"
    with pytest.raises(RuntimeError, match=reason):
        raise_ending(event, value)


def test_a_clock_that_was_set_back_gives_no_time() -> None:
    now = datetime(2026, 11, 27, 12)
    assert Record(0, "completed", started=now, ended=now + timedelta(seconds=3)).seconds == 3.0
    assert Record(0, "completed", started=now, ended=now - timedelta(seconds=3)).seconds is None
