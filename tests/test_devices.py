"""GPUs: which process of a search gets which, and what follows when one is too small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import pytest
import tensorflow as tf
from rich.console import Console
from searching import Toy, cleared

import kblocks as kb
from kblocks.command import cli, tables
from kblocks.tuner.records import Objective, Record, Run
from kblocks.tuner.reporting.tables import trials
from kblocks.tuner.reporting.view import View
from kblocks.tuner.running import devices
from kblocks.tuner.running.failures import failure_from
from kblocks.tuner.running.jobs import helping
from kblocks.tuner.running.supervising import _environment

UUIDS = "GPU-8f5b1a7e-0c2d-5c3e-9d4f-1a2b3c4d5e6f", "MIG-3c6f2d1e-7a8b-5c9d-8e0f-2b3c4d5e6f70"
# As NVIDIA's program lists them, with one card that is split (MIG).
LISTED = "".join(
    f"GPU {n}: NVIDIA A100-SXM4-40GB (UUID: {UUIDS[0][:-1]}{n})\n" for n in range(3)
).replace("1)\n", f"1)\n  MIG 1g.5gb     Device  0: (UUID: {UUIDS[1]})\n")
Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this a machine with so many GPUs, by a false `nvidia-smi`."""

    def make(gpus: int, visible: str | None = None, before: str = "") -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        listed = LISTED.partition(f"GPU {gpus}:")[0]
        program = folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{before}\ncat <<END\n{listed}END\n", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", *devices.SHARING):
            monkeypatch.delenv(name, raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        devices._installed.cache_clear()

    monkeypatch.setattr(devices, "_installed", devices._installed)
    return make


def child(workers: int, seat: int, gpus: Any = None) -> dict[str, str]:
    """The environment that a worker process begins with."""
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    with _environment(workers, devices.variables(gpus, seat)):
        return json.loads(subprocess.check_output([sys.executable, "-S", "-c", code]))


def dealt(workers: int, gpus: Any = None) -> list[str | None]:
    """What each worker has as CUDA_VISIBLE_DEVICES."""
    return [devices.variables(gpus, seat).get("CUDA_VISIBLE_DEVICES") for seat in range(workers)]


def test_gpus_are_dealt_out_in_turn(machine: Machine) -> None:
    by_hand = {1: "00000", 2: "01010", 3: "01201"}
    for gpus, expected in by_hand.items():
        machine(gpus)
        for workers in range(1, 6):
            assert dealt(workers) == list(expected[:workers])
    assert dealt(4, [0, 2]) == ["0", "2", "0", "2"]
    assert dealt(2, (1,)) == ["1", "1"]
    for none in (0, []):
        assert dealt(2, none) == ["-1", "-1"]


def test_a_list_of_the_users_is_dealt_out(machine: Machine) -> None:
    """CUDA ignores what follows the first entry that is none, as its programming guide says."""
    for visible, expected in (
        ("2,0", ["2", "0", "2"]),
        (" 1 ", ["1", "1", "1"]),
        (",".join(UUIDS), [UUIDS[0], UUIDS[1], UUIDS[0]]),
        ("1,-1,0", ["1", "1", "1"]),
    ):
        machine(3, visible)
        assert dealt(3) == expected
    for none in ("", "-1", "NoDevFiles"):
        machine(3, none)
        assert dealt(2) == [None, None]
    machine(3, "7,5")
    assert dealt(2, [1]) == ["5", "5"]


def test_a_machine_without_gpus_is_left_alone(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(0)
    assert dealt(2) == [None, None]
    monkeypatch.setenv("PATH", "")
    devices._installed.cache_clear()
    assert dealt(2) == [None, None]
    monkeypatch.setattr(devices, "_SECONDS", 0.05)
    machine(2, before="exec sleep 9")  # a driver that hangs
    assert dealt(2) == [None, None]


def test_what_worker_processes_see(machine: Machine) -> None:
    """The variables by which TensorFlow, JAX and PyTorch choose GPUs and share their memory."""
    machine(2)
    before = dict(os.environ)
    first, second, third = (child(3, seat) for seat in range(3))
    assert [one["CUDA_VISIBLE_DEVICES"] for one in (first, second, third)] == ["0", "1", "0"]
    for one in (first, second, third):
        assert one["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"  # as `nvidia-smi` counts
        assert one["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
        assert one["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    alone = child(1, 0)
    assert alone["CUDA_VISIBLE_DEVICES"] == "0"
    assert "TF_FORCE_GPU_ALLOW_GROWTH" not in alone
    assert dict(os.environ) == before  # the process that begins the search takes them all
    machine(3, "2,1")
    found = child(2, 1)
    assert found["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_DEVICE_ORDER" not in found  # the user's indices may be in another order
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,1"


def test_the_name_of_the_own_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(3, "2")
    assert devices.own() == ""  # TensorFlow has none here
    monkeypatch.setattr(devices, "has_accelerator", lambda: True)
    assert devices.own() == "GPU 2"
    machine(3, UUIDS[1])
    assert devices.own() == UUIDS[1]
    machine(0)
    assert devices.own() == ""  # it may be a TPU


# --- the doors -----------------------------------------------------------------------------


def toy_tuner(folder: Path, **settings: Any) -> kb.tuner.Tuner:
    space = kb.Space(kb.resnet, classes=2, blocks=(1,), filters=(kb.choice(4, 8),))
    hypermodel = kb.tuner.HyperModel(space.within((8, 8, 1)), latency=False)
    return kb.tuner.Tuner(hypermodel, directory=folder, **settings)


def test_other_gpus_are_refused_before_anything_is_written(
    machine: Machine, tmp_path: Path
) -> None:
    machine(2)
    folder = tmp_path / "runs"
    for wrong in ([2], [-1], [0, 0], ["0"], [True], [0.5], "0", 1, True, [[0]], {0}):
        with pytest.raises(ValueError, match="`gpus` must be None") as caught:
            toy_tuner(folder, gpus=wrong)
        assert f"gpus={wrong!r}, on a machine with 2 GPUs" in str(caught.value)
    machine(2, "1")
    with pytest.raises(ValueError, match="with 1 GPUs, CUDA_VISIBLE_DEVICES=1"):
        toy_tuner(folder, gpus=[1])
    for others in ({"workers": 0}, {"ray": {"num_gpus": 1}}):
        with pytest.raises(ValueError, match=r"`gpus` is for worker processes.*gpus=\[0\]"):
            toy_tuner(folder, gpus=[0], **others)
    assert not folder.exists()
    with helping():  # as a worker makes its tuner, which sees one GPU alone
        other = toy_tuner(folder, gpus=[5])
    with pytest.raises(ValueError, match="`gpus` must be None"):  # as `kblocks worker` begins one
        devices.variables(other.gpus, 0)
    assert toy_tuner(folder, gpus=[0]).gpus == [0]


def test_gpus_are_never_ignored(machine: Machine, tmp_path: Path) -> None:
    """Data that no other process can get would be trained on in this one."""
    machine(1)
    tuner = toy_tuner(tmp_path, gpus=[0], trials=1)
    data = tf.data.Dataset.from_tensors((tf.zeros((2, 8, 8, 1)), tf.zeros(2)))
    with pytest.raises(RuntimeError, match="`gpus` is for worker processes, and none can work"):
        tuner.search(data, validation_data=data, verbose=0)


def test_the_command_line_takes_gpus(
    machine: Machine, capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(3)
    monkeypatch.chdir(tmp_path)
    line = ["search", "--family", "vgg", "--data", "digits", "--gpus"]
    for wrong, told in (
        ("0;1", "--gpus must be indices, such as 0,2, or none. Received: 0;1"),
        ("-1", "--gpus must be indices, such as 0,2, or none. Received: -1"),
        ("3", "--gpus must be None for all GPUs"),
    ):
        assert cli.main([*line, wrong]) == 2
        assert told in capsys.readouterr().err
    seen: list[Any] = []
    monkeypatch.setattr(
        kb.tuner.Tuner, "run_job", lambda self, job, verbose: seen.append(self.gpus)
    )
    for given in ("0,2", "none"):
        cli.main([*line, given])
    assert seen == [[0, 2], []]


# --- too little memory ---------------------------------------------------------------------


def error_of(name: str, message: str) -> Exception:
    """An error of a framework that is not installed here."""
    return type(name, (RuntimeError,), {})(message)


NO_MEMORY = [
    tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9]"),
    tf.errors.InternalError(None, None, "CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    # As JAX 0.10 and PyTorch 2.13 told it, of 2^50 bytes on a CPU.
    error_of(
        "JaxRuntimeError", "RESOURCE_EXHAUSTED: Out of memory allocating 4503599627370496 bytes."
    ),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 4503599627370496 bytes. Error code 12 (Cannot allocate memory)"
    ),
    error_of("XlaRuntimeError", "RESOURCE_EXHAUSTED: Failed to allocate request for 2.00GiB"),
    error_of("OutOfMemoryError", "CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


def test_too_little_memory_is_told_as_such() -> None:
    for error in NO_MEMORY:
        assert failure_from(error).kind == "memory", error
    for other in (
        error_of("XlaRuntimeError", "INVALID_ARGUMENT: shapes differ"),
        tf.errors.InvalidArgumentError(None, None, "shapes differ"),
        RuntimeError("CUDA error: device-side assert triggered"),
    ):
        assert failure_from(other).kind == "error"


@pytest.mark.parametrize("error", [NO_MEMORY[0], NO_MEMORY[5]], ids=["tensorflow", "torch"])
def test_the_reason_is_told_where_keras_names_a_layer(error: Exception) -> None:
    class Big(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            raise error

    with pytest.raises(type(error)) as caught:
        Big()(tf.zeros((1, 1)))
    assert str(caught.value).startswith("Exception encountered")
    failure = failure_from(caught.value)
    assert failure.kind == "memory"
    assert failure.message == f"{type(error).__name__}: {error}"


def test_a_model_that_did_not_fit_is_freed_before_the_next(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a GPU, whose memory no framework gives back, a new process would go on."""
    machine(1)
    monkeypatch.setattr(devices, "has_accelerator", lambda: True)
    models: list[Any] = []

    class Big(keras_tuner.HyperModel):
        def build(self, hp: Any) -> keras.Model:
            hp.Float("x", 0, 1)
            assert [one() for one in models] == [None] * len(models)
            model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
            models.append(weakref.ref(model))
            return model

        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> float:
            model.callbacks = kwargs["callbacks"]  # a circle
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    tuner = kb.tuner.Tuner(Big(), directory=tmp_path, workers=0, trials=2, max_retries_per_trial=1)
    with pytest.raises(RuntimeError, match="memory: ResourceExhaustedError: OOM when allocating"):
        tuner.search(0, verbose=0)
    assert len(models) == 4
    assert [trial.device for trial in tuner.run().trials] == ["GPU 0"] * 2


# --- what is shown -------------------------------------------------------------------------


def test_status_and_report_name_the_gpu() -> None:
    def shown(*found: Record) -> tuple[str, str]:
        run = Run("r", (Objective("score", "max"),), {}, found)
        console = Console(record=True, width=160)
        console.print(tables.of_run(run))
        return console.export_text(), trials(View(run))

    running, done = Record(0, "running", owner="host|7|1"), Record(1, "completed", (0.5,))
    status, page = shown(running, done)
    assert "device" not in status + page
    status, page = shown(
        Record(0, "running", owner="host|7|1", device="GPU 1"), done, Record(2, "running")
    )
    assert status.splitlines()[1].split() == ["running", "epoch", "so", "far", "device", "process"]
    assert "GPU 1   host|7|1" in status
    assert ">device</button>" in page
    assert "<td>GPU 1</td>" in page


# --- whole searches ------------------------------------------------------------------------


@pytest.mark.system
def test_a_worker_begun_anew_gets_the_same_gpu(machine: Machine, tmp_path: Path) -> None:
    """One is killed; of another a trial fills the GPU, which a new process then has empty."""
    machine(2)
    plan = {"gpu": True, "seconds": 0.15, "3": "memory"}
    toy = Toy(tmp_path / "runs", plan, {"trials": 16, "workers": 2, "gpus": [0, 1]})
    with cleared(toy):
        toy.start()
        killed = toy.wait_for("epoch 0 1")[3]
        os.kill(int(killed), signal.SIGKILL)
        code, out, err = toy.ends()
        assert code == 0, f"{out}\n{err}"
    begun = [note for note in toy.notes() if note[0] == "begin"]
    gpu_of = {process: gpu for _, _, _, process, gpu in begun}
    full = next(process for _, number, _, process, _ in begun if number == "3")
    assert [number for _, number, _, process, _ in begun if process == full][-1] == "3"
    assert Counter(gpu_of.values()) == Counter(["0", "1", gpu_of[killed], gpu_of[full]])
    found = toy.trials()
    assert {trial.device for trial in found} == {"GPU 0", "GPU 1"}
    assert [t.number for t in found if t.failure and t.failure.kind == "memory"] == [3]


def test_automatic_workers_are_one_a_gpu_or_one_a_core(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def workers(**settings: Any) -> int:
        settings = {"directory": tmp_path, "workers": "auto", **settings}
        return kb.tuner.Tuner(lambda hp: None, **settings).workers

    gigabytes = 32
    known = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": lambda: (gigabytes << 30) // 4096}
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: v() if callable(v := known[name]) else v)
    machine(3)
    assert (workers(), workers(gpus=[1]), workers(trials=2)) == (3, 1, 2)
    assert workers(gpus=0) == 8  # none of them
    machine(0)
    assert (workers(), workers(trials=5)) == (8, 5)
    gigabytes = 7  # 2 and more for each
    assert workers() == 3
    for wrong in ({"workers": "many"}, {"ray": {"num_cpus": 1}}):
        with pytest.raises(ValueError, match="`workers` must be an integer from 0, or without"):
            workers(**wrong)
