"""A search whose training is played: it sleeps, calls back, notes what it does, and can go wrong.

    python tests/runs/toy.py '{"directory": "runs", "trials": 6, "workers": 2}'

A trial notes its lines in the file that KBLOCKS_TOY_NOTES names: `begin <number> <epoch>` and
`end <number>`. What goes wrong is in KBLOCKS_TOY, as JSON: {"<number>": "raise"} and so on;
{"seconds": 0.1, "epochs": 3} are of all trials; {"node": "a"} is its machine's name; with
{"gpu": true} the backend claims to train on a GPU.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

if "keras" not in sys.modules:
    sys.path.insert(0, str(Path(__file__).parent))
    import light  # noqa: F401

import keras
import numpy as np

import kblocks as kb
from kblocks.command.ready import RunFile
from kblocks.tuner.running import devices
from kblocks.tuner.running import epochs as training
from kblocks.tuner.storing import owners

SPACE = kb.Space(
    kb.resnet,
    classes=10,
    blocks=(1, 1),
    filters=kb.per_stage(2, kb.choice(*range(8, 40, 4))),
    kernel_size=kb.choice(3, 5),
)


def note(text: str) -> None:
    """A line, written at once."""
    file = os.open(os.environ["KBLOCKS_TOY_NOTES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(file, f"{text}\n".encode())
    finally:
        os.close(file)


def plan() -> dict[str, Any]:
    """What the trials do."""
    return json.loads(os.environ.get("KBLOCKS_TOY", "{}"))


training._SHARE = 0  # a checkpoint after each epoch, however long a busy machine takes for it
if "gpu" in plan():
    devices.has_accelerator = lambda: True
if "node" in plan():
    owners.node = lambda: plan()["node"]
    owners.BEAT_SECONDS, owners.GRACE_SECONDS = 1.0, 3.0


class Toy(kb.tuner.HyperModel):
    """Networks of a space whose training is played with another, tiny model."""

    def build(self, hp: Any) -> keras.Model:
        kb.tuner.suggest(hp, self.space)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(plan().get("width", 3))])
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
        return model

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        watcher = kwargs["callbacks"][-1]
        number, first = watcher.number, kwargs.get("initial_epoch", 0)
        fault, epochs = plan().get(str(number)), kwargs["epochs"]
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "-")
        note(f"begin {number} {first} {os.getpid()} {gpus}")
        watcher.set_model(model)
        watcher.set_params({"epochs": epochs})
        history = keras.callbacks.History()
        history.history = {"loss": [], "val_accuracy": []}
        for epoch in range(first, epochs):
            time.sleep(plan().get("seconds", 0.05))
            loss = 1.0 / (epoch + 1)
            if fault is not None and epoch + 1 == plan().get("faulty_epoch", 1):
                loss = _wrong(fault)
            model.set_weights([np.full_like(w, epoch + 1) for w in model.get_weights()])
            score = (number * 7 % 13 + epoch / 10) / 20
            watcher.on_epoch_end(epoch, {"loss": loss, "val_accuracy": score})
            history.history["loss"].append(loss)
            history.history["val_accuracy"].append(score)
            note(f"epoch {number} {epoch} {os.getpid()}")
        note(f"end {number}")
        return history


def _wrong(fault: str) -> float:
    """Does what a trial does that goes wrong; the loss, if it goes on."""
    match fault:
        case "raise":
            raise ValueError("a fault of this <architecture>")
        case "exit":
            sys.exit(2)
        case "nan" | "inf":
            return float(fault)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(3600)
        case "grow":
            KEPT.append(np.ones(1 << 25))  # 256 MiB
        case "memory":
            import resource

            used = 1024 * int(_status("VmData").split()[0])
            resource.setrlimit(resource.RLIMIT_DATA, (used + (1 << 28), -1))
            try:
                np.ones(1 << 28)
            finally:
                resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))
    return 1.0


KEPT: list[Any] = []


def _status(name: str) -> str:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(line.partition(":")[2] for line in lines if line.startswith(f"{name}:"))


def tuner(**settings: Any) -> kb.tuner.Tuner:
    """What every run file has."""
    own = {name: settings.pop(name) for name in ("storage_patience", "growth") if name in settings}
    space = SPACE.within((16, 16, 3))
    made = kb.tuner.Tuner(Toy(space, latency=False), **{"sampler": "random", **settings})
    for name, value in own.items():
        setattr(made, name, value)
    return made


def data() -> kb.tuner.Data:
    """What every run file has."""
    return kb.tuner.Data(np.zeros((4, 2)), None, fit={"epochs": plan().get("epochs", 3)})


def main(settings: dict[str, Any]) -> None:
    """Searches until the end."""
    verbose = settings.pop("verbose", 1)
    if "KBLOCKS_TOY_STORAGE" in os.environ:  # its URL may have a password
        settings["storage"] = os.environ["KBLOCKS_TOY_STORAGE"]
    run = tuner(**settings).run_job(RunFile(__file__, settings), verbose=verbose)
    print(f"completed {len(run.completed())} of {len(run.trials)}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
