"""A search whose trials do what no trial should, each one thing.

    python tests/runs/nasty.py tensorflow '["nothing", "exits"]' '{"workers": 2}'

The trials do one of the named things each, in their order, with tiny networks. On Keras' numpy
backend, which cannot train, `fit` only plays. Each notes in the file KBLOCKS_NASTY_NOTES what it
finds when it begins.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if "keras" not in sys.modules:
    os.environ["KERAS_BACKEND"] = os.environ.get("KBLOCKS_NASTY_BACKEND", sys.argv[1])
    if os.environ["KERAS_BACKEND"] == "numpy":
        sys.path.insert(0, str(Path(__file__).parent))
        import light  # noqa: F401
    os.environ["KBLOCKS_NASTY_BACKEND"] = os.environ["KERAS_BACKEND"]

import keras
import keras_tuner
import numpy as np

import kblocks as kb

DEEDS: dict[str, Callable[[], object]] = {}


def deed(function: Callable[[], object]) -> Callable[[], object]:
    """Names a deed."""
    DEEDS[function.__name__] = function
    return function


class UnprintableError(Exception):
    """One whose text cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no text")


class TextlessError(Exception):
    """One whose text is none."""

    def __str__(self) -> str:
        return 3  # type: ignore[return-value]


class Base(BaseException):
    """As libraries have them for what `except Exception` shall not catch."""


def raises(error: BaseException) -> object:
    raise error


@deed
def nothing() -> None:
    pass


# --- ends ---
DEEDS["exits"] = lambda: sys.exit(2)
DEEDS["exits_in_words"] = lambda: sys.exit("usage: mine.py [-h]")
DEEDS["closes_generator"] = lambda: raises(GeneratorExit())
DEEDS["interrupts"] = lambda: raises(KeyboardInterrupt())
DEEDS["leaves_at_once"] = lambda: os._exit(0)
DEEDS["is_killed"] = lambda: os.kill(os.getpid(), signal.SIGKILL)
DEEDS["is_told_to_end"] = lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(60))
DEEDS["aborts"] = os.abort

# --- raises ---
DEEDS["raises_base"] = lambda: raises(Base("mine"))
DEEDS["raises_unprintable"] = lambda: raises(UnprintableError())
DEEDS["raises_textless"] = lambda: raises(TextlessError())
DEEDS["raises_surrogate"] = lambda: raises(ValueError("half \ud800 of \x00 a pair"))
DEEDS["raises_long"] = lambda: raises(ValueError("x" * 1_000_000))


@deed
def recurs() -> object:
    return recurs()


# --- leaves ---
@deed
def leaves_thread() -> None:
    threading.Thread(target=time.sleep, args=(3600,)).start()


@deed
def leaves_child() -> None:
    subprocess.Popen(["sleep", "3600"])


@deed
def leaves_fork() -> None:
    if os.fork() == 0:
        time.sleep(3600)
        os._exit(0)


@deed
def forks_and_goes_on() -> None:
    os.fork()


@deed
def outlives_its_fork() -> None:
    child = os.fork()
    if child == 0:
        return
    for _ in range(100):  # it ends with its trial, and does not search on
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 1
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)  # TensorFlow's threads are missing in a child: it may hang
    os.waitpid(child, 0)


@deed
def leaves_alarm() -> None:
    signal.alarm(600)


# --- changes ---
@deed
def goes_elsewhere() -> None:
    os.chdir("/")


@deed
def removes_its_folder() -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)


@deed
def sets_handlers() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, lambda *_: raises(Base("a handler that a trial has left")))


@deed
def changes_keras() -> None:
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    keras.config.set_image_data_format("channels_first")


# --- output ---
@deed
def replaces_stdout() -> None:
    sys.stdout = sys.stderr = io.StringIO()
    sys.stdout.close()


@deed
def takes_stdout_away() -> None:
    sys.stdout = sys.stderr = None  # type: ignore[assignment]


@deed
def closes_stdout() -> None:
    sys.stdout.close()


@deed
def closes_output() -> None:
    os.close(1)
    os.close(2)


@deed
def closes_all() -> None:
    os.closerange(0, 4096)
    # These get the numbers of others.
    KEPT.append([os.open(os.devnull, os.O_RDWR) for _ in range(20)])


# --- memory ---
@deed
def asks_for_too_much() -> None:
    np.ones(1 << 50)


@deed
def fills_memory() -> None:
    used = resource.getrlimit(resource.RLIMIT_AS)
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    size = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmSize:"))
    resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 28), used[1]))
    found = []
    try:
        while True:
            found.append(bytearray(1 << 22))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, used)


KEPT: list[Any] = []


class Doing(keras.callbacks.Callback):
    """Does it in the midst of `fit`."""

    def __init__(self, what: Callable[[], object]) -> None:
        super().__init__()
        self.what = what

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.what()

    def __deepcopy__(self, memo: Any) -> Doing:
        return self


class Nasty(keras_tuner.HyperModel):
    """A tiny network, and one deed a trial."""

    def __init__(self, deeds: list[str]) -> None:
        super().__init__()
        self.deeds = deeds

    def build(self, hp: Any) -> keras.Model:
        hp.Float("rate", 0.001, 0.1)
        model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    def fit(self, hp: Any, model: Any, x: Any, y: Any, callbacks: Any, **kwargs: Any) -> Any:
        number = callbacks[-1].number
        found = {
            "number": number,
            "pid": os.getpid(),
            "rings": signal.getitimer(signal.ITIMER_REAL)[0],
            "folder": os.getcwd(),
            "keras": [
                keras.config.floatx(),
                keras.config.image_data_format(),
                keras.config.dtype_policy().name,
            ],
        }
        with Path(os.environ["KBLOCKS_NASTY_NOTES"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        print(f"trial {number} begins", flush=True)  # which raises where there is no output
        what = DEEDS[self.deeds[number]]
        if keras.backend.backend() != "numpy":
            kwargs["callbacks"] = [Doing(what), *callbacks]
            return super().fit(hp, model, x, y, **kwargs)
        what()
        time.sleep(0.1)
        return {"val_loss": float(number)}


def main() -> None:
    """Searches until the end; a process whose trials leave threads would never end itself."""
    deeds, settings = json.loads(sys.argv[2]), json.loads(sys.argv[3])
    settings = {"trials": len(deeds), "sampler": "random", "seed": 1, **settings}
    tuner = kb.tuner.Tuner(Nasty(deeds), "val_loss", **settings)
    tuner.storage_patience = 20.0
    x = np.zeros((1000, 100), "float32")  # more than a pipe holds
    fit = {"epochs": 1, "batch_size": 1000, "validation_data": (x[:10], x[:10, :1])}
    run = tuner.search(x, x[:, :1], **fit)
    print(f"completed {len(run.completed())} of {len(run.trials)}", flush=True)
    if not settings["workers"]:
        os._exit(0)


if __name__ == "__main__":
    main()
