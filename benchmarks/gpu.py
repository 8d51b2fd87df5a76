"""python benchmarks/gpu.py [--output FILE]    (at most --seconds 460; needs one GPU)

On JAX and PyTorch: training steps of kblocks' networks against `keras.applications` and, beside
those on PyTorch, torchvision; grouped convolutions; published logits; a search of 8 trials.

A step is one of Keras' `fit` (SGD with momentum), whose batches lie on the device: compiled by XLA
on JAX, eager on PyTorch, as Keras does unless told otherwise. torchvision trains in its own loop,
channels last, with autocast for bfloat16; it is compiled (a minute each) at batch 256 alone. In
float32, convolutions may use TF32. The sides of a row run in turn in one process; the tables show
medians of three rounds. Each case is a process of its own, the most useful first; what there is no
time for is listed. `--small` runs the same code on a CPU, on tiny inputs.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
Side = Callable[[int], Any]  # runs so many steps, and waits for the device

KERAS = {"resnet50": "ResNet50", "efficientnet_b0": "EfficientNetB0", "densenet121": "DenseNet121"}
LARGE, FIRST = (256, "bfloat16", "last"), (256, "bfloat16", "first")  # batch, dtype, channels
HALF, SINGLE = (64, "bfloat16", "last"), (64, "float32", "last")
OTHERS = ("resnext50_32x4d", "efficientnet_b0", "densenet121")
CASES = [  # what is measured, the backend, arguments
    *(("steps", backend, "resnet50", *LARGE) for backend in ("jax", "torch")),
    *((kind, backend) for kind in ("logits", "groups") for backend in ("jax", "torch")),
    ("steps", "torch", "resnet50", *FIRST),
    *(("search", backend, 2) for backend in ("jax", "torch")),
    *(("steps", backend, name, *LARGE) for name in OTHERS for backend in ("jax", "torch")),
    *(("search", backend, 0) for backend in ("jax", "torch")),
    *(
        ("steps", backend, name, *setting)
        for setting in (SINGLE, HALF)
        for name in ("resnet50", *OTHERS)
        for backend in ("jax", "torch")
    ),
]
SMALL = [
    (kind, backend, *arguments)
    for backend in ("jax", "torch")
    for kind, *arguments in (
        *(("steps", "resnet50", 2, "bfloat16", "last"), ("groups",), ("logits",)),
        *(("search", 0), ("search", 2)),
    )
]
HEADS = {
    "steps": "backend | network | batch | dtype | channels | kblocks | keras.applications | ratio "
    "| torchvision, eager | ratio | torchvision, compiled | ratio | first step of each, s",
    "groups": "backend | 3x3 in 32 groups, bfloat16, with gradients | kblocks | Keras | ratio "
    "| split | ratio",
    "logits": "backend | network | largest error, of the logits' spread | below 1e-3",
    "search": "backend | workers | trials | seconds | best accuracy | MB on the GPU, each process",
}


def main() -> None:
    """Runs the cases while there is time, then prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=460)
    parser.add_argument("--output", type=Path, help="a file for the tables")
    parser.add_argument("--backends", nargs="+", default=["jax", "torch"])
    parser.add_argument("--kinds", nargs="+", default=list(HEADS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        kind, backend, *arguments = json.loads(options.case)
        globals()[kind](options.small, backend, *arguments)
        return
    ends = time.monotonic() + options.seconds
    rows: dict[str, list[str]] = {kind: [] for kind in HEADS}
    missing: list[str] = []
    for case in SMALL if options.small else CASES:
        if case[0] in options.kinds and case[1] in options.backends:
            left = ends - time.monotonic()
            problem = run(case, left, options.small, rows[case[0]]) if left > 10 else "no time"
            missing += [f"- not run: {' '.join(map(str, case))}: {problem}"] if problem else []
    text = "\n".join([about(), *tables(rows), "", *missing])
    print(f"\n{text}")
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


def run(case: Any, seconds: float, small: bool, rows: list[str]) -> str:
    """Runs a case in a process, adds its rows, each printed at once; returns what went wrong."""
    command = [sys.executable, __file__, "--case", json.dumps(case), *["--small"] * small]
    own = {"KERAS_BACKEND": case[1], "TF_CPP_MIN_LOG_LEVEL": "3"}
    if small:
        own["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    if case[0] == "logits":
        own |= {"NVIDIA_TF32_OVERRIDE": "0", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    with tempfile.TemporaryFile("w+") as log:
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": log, "text": True}
        process = subprocess.Popen(command, **pipes, env={**os.environ, **own})
        end = threading.Timer(seconds, process.kill)
        end.start()
        for line in process.stdout or ():
            print(line, end="", flush=True)
            rows += [line.strip()] if line.startswith("| ") else []
        code = process.wait()
        end.cancel()
        log.seek(0)
        lines = [line for line in log.read().splitlines() if line.strip()] if code else []
    print(*lines[-15:], sep="\n", end="\n" * bool(lines))
    late = f"ended after {seconds:.0f} s"
    return late if code == -signal.SIGKILL else " ".join(lines[-1:]) or "failed" * bool(code)


def told(*cells: Any) -> None:
    """Prints a row of the table, which the parent reads."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def tables(rows: dict[str, list[str]]) -> Iterator[str]:
    for kind, head in HEADS.items():
        if rows[kind]:
            yield f"\n| {head} |\n{'|---' * (head.count(' | ') + 1)}|"
            yield from rows[kind]


def smi(query: str) -> list[str]:
    """The lines with which `nvidia-smi` answers; none without it."""
    command = ["nvidia-smi", f"--query-{query}", "--format=csv,noheader,nounits"]
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return []


def about() -> str:
    """The card and the versions."""
    packages = {d.name: d.version for d in importlib.metadata.distributions()}
    names = [name for name in ("keras", "jax", "torch", "torchvision") if name in packages]
    card = smi("gpu=name,driver_version") or ["no GPU"]
    return ", ".join([*card, *(f"{name} {packages[name]}" for name in names)])


def timed(sides: dict[str, Side | None], small: bool) -> tuple[list[str], str]:
    """Cells of our time and of each other side's with our share of it; the first calls' seconds."""
    firsts: list[str] = []
    steps: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in sides}
    errors: dict[str, str] = {}
    for turn, (name, side) in itertools.product(range(2 if small else 5), sides.items()):
        if side is None or name in errors:
            continue
        count, start = 1 if small else steps.get(name, 2), time.perf_counter()
        try:
            side(count)
        except Exception as error:  # one side may need more memory than there is
            short = "memory" in str(error).lower()
            errors[name] = "too little memory" if short else type(error).__name__
            print(f"{name}: {type(error).__name__}: {error}"[:1000])
            continue
        seconds = time.perf_counter() - start
        if turn == 0:
            firsts.append(f"{seconds:.1f}")
        elif turn == 1:
            steps[name] = min(max(int(count / seconds), 5), 200)  # about a second a round
        if turn + small > 1:
            times[name].append(1e3 * seconds / count)
    medians = {name: statistics.median(found) for name, found in times.items() if found}
    ours, *others = sides
    cells = []
    for name in sides:
        cells.append(f"{medians[name]:.2f} ms" if name in medians else errors.get(name, "-"))
        if name in others:
            both = name in medians and ours in medians
            cells.append(f"{medians[ours] / medians[name]:.2f}" if both else "-")
    return cells, ", ".join(firsts)


# --- cases ------------------------------------------------------------------------------------


def steps(small: bool, backend: str, network: str, batch: int, dtype: str, channels: str) -> None:
    """A training step of one network."""
    import keras

    import kblocks as kb

    keras.config.set_dtype_policy("mixed_bfloat16" if dtype == "bfloat16" else dtype)
    keras.config.set_image_data_format(f"channels_{channels}")
    size = 32 if small else 224
    shape = (size, size, 3) if channels == "last" else (3, size, size)
    x = keras.random.normal((batch, *shape), seed=0, dtype="float32")
    y = keras.random.randint((batch,), 0, 1000, seed=0)
    sides: dict[str, Side | None] = dict.fromkeys(("kblocks", "keras", "eager", "compiled"))
    sides["kblocks"] = fitting(lambda: getattr(kb, network)().model((size, size, 3)), x, y)
    if network in KERAS:
        published: Any = getattr(keras.applications, KERAS[network])
        plain: Any = {"weights": None, "classifier_activation": None, "input_shape": shape}
        sides["keras"] = fitting(lambda: published(**plain), x, y)
    if backend == "torch" and channels == "last":
        with suppress(ImportError):
            sides |= torchvision_sides(network, x.movedim(-1, 1), y.long(), dtype == "bfloat16")
    if batch == 64:
        sides["compiled"] = None  # it takes a minute to compile
    cells, firsts = timed(sides, small)
    told(backend, network, batch, dtype, channels, *cells, firsts)


def fitting(make: Callable[[], Any], x: Any, y: Any) -> Side:
    """`fit` of a model, which is made at the first call."""
    import keras

    @functools.cache
    def model() -> Any:
        made = make()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        made.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
        return made

    def side(count: int) -> None:
        batches = ((x, y) for _ in itertools.repeat(None))
        model().fit(batches, steps_per_epoch=count, verbose=0)
        keras.ops.convert_to_numpy(model().trainable_variables[0].value)  # waits for the device

    return side


def torchvision_sides(network: str, x: Any, y: Any, half: bool) -> dict[str, Side]:
    import torch
    import torchvision

    device, last = x.device.type, torch.channels_last
    model = getattr(torchvision.models, network)().to(device, memory_format=last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def side(count: int, net: Any) -> None:
        for _ in range(count):
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = torch.nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        next(model.parameters()).detach().cpu()  # waits for the device

    nets = {"eager": model, "compiled": torch.compile(model, dynamic=False)}
    return {name: functools.partial(side, net=net) for name, net in nets.items()}


def groups(small: bool, backend: str) -> None:
    """Ours and Keras' layer; "split" is what ours does under XLA on a CPU."""
    import keras

    import kblocks as kb
    from kblocks.layers import grouped

    layers = ((8, 64),) if small else ((56, 128), (28, 256), (14, 512))

    def always_split(*_: Any) -> str:
        return "split"

    split = mock.patch.object(grouped, "way_of", always_split)
    for size, channels in layers:
        shape = (2 if small else 64, size, size, channels)
        x = keras.random.normal(shape, seed=0, dtype="bfloat16")
        sides: dict[str, Side | None] = {}
        for name in ("kblocks", "keras", "split"):
            kind: Any = keras.layers.Conv2D if name == "keras" else kb.GroupedConv2D
            layer = kind(channels, 3, padding="same", groups=32, use_bias=False, dtype="bfloat16")
            layer.build(shape)
            sides[name] = gradients(layer, x)
        sides["split"] = split(sides["split"])  # JAX traces the layer in the first call
        told(backend, f"{shape[0]} x {size}x{size}x{channels}", *timed(sides, small)[0])


def gradients(layer: Any, x: Any) -> Side:
    """A layer's outputs, and the gradients of half their squares for kernel and inputs."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        x = x.detach().requires_grad_()

        def side(count: int) -> None:
            for _ in range(count):
                outputs = layer(x)
                found = torch.autograd.grad(outputs, [layer.kernel.value, x], outputs.detach())
            found[0].cpu()  # waits for the device

        return side
    import jax

    def half_square(kernel: Any, x: Any) -> Any:
        outputs = layer.stateless_call([kernel], [], x)[0].astype("float32")
        return (outputs**2).sum() / 2

    step, kernel = jax.jit(jax.grad(half_square, (0, 1))), layer.kernel.value
    return lambda count: jax.block_until_ready([step(kernel, x) for _ in range(count)][-1])


def logits(small: bool, backend: str) -> None:
    """Ours against those that torchvision and timm give in float64: see `tests/golden.py`."""
    from golden import GOLDEN, images, tensor

    import kblocks as kb

    for name in ("resnet50", *OTHERS[:2])[: 1 if small else 3]:
        data = np.load(GOLDEN / f"{name}.npz")
        shapes, gain = map(json.loads, map(str, data["shapes"])), float(data["gain"])
        pairs = zip(map(str, data["names"]), shapes, strict=True)
        x = images(int(data["size"]))
        model = kb.architecture(name).model(x.shape[1:])
        kb.load_torch_weights(model, {n: tensor(n, s, gain).astype("float32") for n, s in pairs})
        found = model.predict(x, verbose=0)
        error = np.abs(found - data["logits"]).max() / data["logits"].std()
        told(backend, name, f"{error:.1e}", "yes" if error < 1e-3 else "NO")


def search(small: bool, backend: str, workers: int) -> None:
    """Small residual networks on scikit-learn's digits."""
    from sklearn.datasets import load_digits

    import kblocks as kb

    digits: Any = load_digits()
    x, y = (digits.images[..., None] / 16).astype("float32"), digits.target.astype("int32")
    stem = {"filters": 8, "kernel_size": 3, "strides": 1, "pool": None}
    filters = kb.per_stage(2, kb.choice(8, 16, 24, 32))
    space = kb.Space(kb.resnet, classes=10, blocks=(1, 1), filters=filters, stem=stem)
    space = space.within((8, 8, 1))
    trials, epochs = (2, 1) if small else (8, 5)
    used: dict[str, int] = {}
    threading.Thread(target=watch, args=(used,), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        own: Any = {"trials": trials, "workers": workers, "directory": folder, "seed": 0}
        tuner = kb.tuner.Tuner(kb.tuner.HyperModel(space), **own)
        start = time.perf_counter()
        done = tuner.search(x, y, validation_split=0.2, epochs=epochs, verbose=0).completed()
        seconds = f"{time.perf_counter() - start:.0f}"
    best = f"{max(trial.scores[0] for trial in done):.3f}"
    told(backend, workers, len(done), seconds, best, ", ".join(map(str, used.values())) or "-")


def watch(used: dict[str, int]) -> None:
    """Notes the most memory that each process takes on the GPU, in MB."""
    while True:
        for line in smi("compute-apps=pid,used_memory"):
            process, _, size = line.partition(",")
            used[process] = max(int(size) if size.strip().isdigit() else 0, used.get(process, 0))
        time.sleep(0.5)


if __name__ == "__main__":
    main()
