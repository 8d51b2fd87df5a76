"""python tests/small_convolutions.py --way eager --layers keras --cases 1000

Small convolutions, forward and both gradients, against sums in NumPy; prints what is wrong.

A convolution that writes over memory ends its process or spoils another's values, so all run in
child processes, and a child writes which case it begins before it does. A case is a number, the
same convolution everywhere; `--one NUMBER` runs it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy_reference import same_pads

# How a convolution is run: the backend, and what its process finds in the environment.
WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "eager": ("tensorflow", {}),
    "graph": ("tensorflow", {}),
    "without oneDNN": ("tensorflow", {"TF_ENABLE_ONEDNN_OPTS": "0"}),
    "XLA": ("tensorflow", {}),
    "jax": ("jax", {}),
    "torch": ("torch", {}),
}
ROOT = Path(__file__).parent.parent
REPEATS = 3  # of each case: not every write over memory shows at once
_AT_ONCE = 500  # cases for one child, whose memory grows by every function that it compiles


# --- cases and what is right ------------------------------------------------------------------


def case_of(number: int, dtypes: Iterable[str] = ("float32", "bfloat16", "float16")) -> Any:
    """The convolution of that number; every second one is 1x1 with strides."""
    draw = random.Random(number)
    channels = draw.randint(1, 17)
    divisors = [n for n in range(1, channels + 1) if not channels % n]
    groups = draw.choice([1, 1, draw.choice(divisors), channels])
    if number % 2:
        kernel, strides, dilation = (1, 1), draw.choice([(2, 2), (2, 2), (3, 3), (1, 2), (3, 1)]), 1
    else:
        k, s = draw.randint(1, 5), draw.randint(1, 3)
        kernel = draw.choice([(k, k), (k, k), (k, draw.randint(1, 5))])
        strides, dilation = (s, s), draw.choice([1, 2, 3]) if s == 1 else 1
        if draw.random() < 0.2 and dilation == 1:
            strides = (s, draw.randint(1, 3))
    least = [dilation * (k - 1) + 1 for k in kernel]
    padding = draw.choice(["same", "valid"])
    return {
        "batch": draw.randint(1, 9),
        "size": [draw.randint(n, 40) for n in least],
        "channels": channels,
        "filters": groups * draw.randint(1, max(17 // groups, 1)),
        "kernel": kernel,
        "strides": strides,
        "dilation": dilation,
        "groups": groups,
        "padding": padding,
        "dtype": draw.choice(list(dtypes)),
        "data_format": draw.choice(["channels_last"] * 4 + ["channels_first"]),
    }


def arrays_of(case: Any, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input, kernel and gradient of the outputs: small integers, of which halves have no error."""
    values = np.random.default_rng(number)
    kernel, channels = case["kernel"], case["channels"]
    shape = (case["batch"], *case["size"], channels)
    x = values.integers(-2, 3, shape).astype("float64")
    k = values.integers(-2, 3, (*kernel, channels // case["groups"], case["filters"]))
    outputs = right(case, x, k.astype("float64"))[0]
    return x, k.astype("float64"), values.integers(-2, 3, outputs.shape).astype("float64")


def right(
    case: Any, x: np.ndarray, k: np.ndarray, g: np.ndarray | None = None
) -> tuple[np.ndarray, ...]:
    """The outputs, and with `g` the gradients of input and kernel: sums over the kernel's taps."""
    (kh, kw), (sh, sw), d = case["kernel"], case["strides"], case["dilation"]
    pads = ((0, 0), (0, 0))
    if case["padding"] == "same":
        pads = same_pads(x.shape[1:3], case["kernel"], case["strides"], d)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = padded.shape[1:3]
    rows = (height - d * (kh - 1) - 1) // sh + 1
    columns = (width - d * (kw - 1) - 1) // sw + 1
    groups, own = case["groups"], case["channels"] // case["groups"]
    each = case["filters"] // groups
    outputs = np.zeros((len(x), rows, columns, case["filters"]))
    to_input, to_kernel = np.zeros_like(padded), np.zeros(k.shape)
    for n in range(groups):
        ins, outs = slice(n * own, (n + 1) * own), slice(n * each, (n + 1) * each)
        for i in range(kh):
            for j in range(kw):
                down = slice(i * d, i * d + (rows - 1) * sh + 1, sh)
                across = slice(j * d, j * d + (columns - 1) * sw + 1, sw)
                seen = padded[:, down, across, ins]
                outputs[..., outs] += seen @ k[i, j][:, outs]
                if g is not None:
                    to_input[:, down, across, ins] += g[..., outs] @ k[i, j][:, outs].T
                    to_kernel[i, j][:, outs] = np.tensordot(
                        seen, g[..., outs], ([0, 1, 2], [0, 1, 2])
                    )
    if g is None:
        return (outputs,)
    (top, _), (left, _) = pads
    to_input = to_input[:, top : top + x.shape[1], left : left + x.shape[2]]
    return outputs, to_input, to_kernel


# --- a child ----------------------------------------------------------------------------------


def layer_of(case: Any, layers: str) -> Any:
    """The layer of Keras or of ours that computes a case."""
    import keras

    common: dict[str, Any] = {"use_bias": False}
    how = {"data_format": case["data_format"], "dtype": case["dtype"]}
    if layers == "keras":
        common |= {"strides": case["strides"], "padding": case["padding"], **how}
        common["dilation_rate"] = case["dilation"]
        vertical, horizontal = case["strides"]
        if case["groups"] == case["channels"] > 1 and vertical == horizontal:  # else Keras has none
            multiplier = case["filters"] // case["channels"]
            return keras.layers.DepthwiseConv2D(
                case["kernel"], depth_multiplier=multiplier, **common
            )
        return keras.layers.Conv2D(case["filters"], case["kernel"], groups=case["groups"], **common)
    from kblocks.layers.primitives import layer_for
    from kblocks.plans import ops

    op = ops.Conv(
        case["filters"],
        case["kernel"],
        strides=case["strides"],
        padding=case["padding"],
        groups=case["groups"],
        dilation_rate=(case["dilation"],) * 2,
        **common,
    )
    return layer_for(op, None, case["channels"], case["data_format"], "conv", "", case["dtype"])


def computed(case: Any, way: str, layers: str, arrays: Any) -> list[list[np.ndarray]]:
    """Outputs and gradients by a backend, several times, as `right` has them."""
    import keras

    x, k, g = arrays
    first = case["data_format"] == "channels_first"
    if first:
        x, g = x.transpose(0, 3, 1, 2), g.transpose(0, 3, 1, 2)
    layer = layer_of(case, layers)
    layer.build(x.shape)
    variable = layer.kernel
    k = k.reshape(variable.shape)

    def call(x: Any, k: Any) -> Any:
        with keras.StatelessScope(state_mapping=[(variable, k)]):
            return layer(x)

    step = _STEPS[keras.backend.backend()](call, way)
    tensors = [keras.ops.convert_to_tensor(value, dtype=case["dtype"]) for value in (x, k, g)]
    all_found = []
    for _ in range(REPEATS):
        found = [
            np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(value, "float32")), "float64")
            for value in step(*tensors)
        ]
        if first:
            found[:2] = [value.transpose(0, 2, 3, 1) for value in found[:2]]
        all_found.append(found)
    return all_found


def _tensorflow_step(call: Any, way: str) -> Any:
    import tensorflow as tf

    def step(x: Any, k: Any, g: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, k])
            outputs = call(x, k)
        return [outputs, *tape.gradient(outputs, [x, k], output_gradients=g)]

    if way in ("graph", "XLA"):
        return tf.function(step, jit_compile=way == "XLA")
    return step


def _jax_step(call: Any, way: str) -> Any:
    import jax

    @jax.jit
    def step(x: Any, k: Any, g: Any) -> Any:
        outputs, backward = jax.vjp(call, x, k)
        return [outputs, *backward(g)]

    return step


def _torch_step(call: Any, way: str) -> Any:
    import torch

    def step(x: Any, k: Any, g: Any) -> Any:
        x, k = x.detach().requires_grad_(), k.detach().requires_grad_()
        outputs = call(x, k)
        return [outputs.detach(), *torch.autograd.grad(outputs, [x, k], g)]

    return step


_STEPS = {"tensorflow": _tensorflow_step, "jax": _jax_step, "torch": _torch_step}
_PRECISION = {"float32": 1e-5, "bfloat16": 2**-7, "float16": 2**-10}


def verdict(case: Any, number: int, way: str, layers: str) -> str:
    """What is wrong with a case, "" if nothing."""
    arrays = arrays_of(case, number)
    expected = right(case, *arrays)
    scales = right(case, *map(np.abs, arrays))  # what sums of rounded terms may be off by
    try:
        all_found = computed(case, way, layers, arrays)
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        return f"refused: {type(error).__name__}: {lines[0][:100]}"
    for found in all_found:
        for name, own, value, scale in zip(
            ("outputs", "input gradient", "kernel gradient"), found, expected, scales, strict=True
        ):
            error = abs(own.reshape(value.shape) - value)
            if not (error <= _PRECISION[case["dtype"]] * scale + 1e-6).all():
                return f"wrong: {name} by {np.nanmax(error):.3g} of {abs(value).max():.3g}"
    return ""


def _child(folder: Path, way: str, layers: str) -> None:
    numbers = json.loads((folder / "numbers.json").read_text())
    with (folder / "told.txt").open("a", buffering=1) as told:
        for number in numbers:
            told.write(f"{number} ")  # before it is run: what follows may be the last of this child
            told.flush()
            told.write(f"{verdict(case_of(number), number, way, layers)}\n")
        told.write("end\n")


# --- the parent -------------------------------------------------------------------------------


def sweep(
    numbers: Iterable[int], way: str, layers: str, python: str = sys.executable
) -> dict[int, str]:
    """What is wrong with which case."""
    backend, more = WAYS[way]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(paths),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **more,
    }
    left, found = list(numbers), {}
    while left:
        now, left = left[:_AT_ONCE], left[_AT_ONCE:]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "numbers.json").write_text(json.dumps(now))
            command = [python, __file__, "--child", name, "--way", way, "--layers", layers]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=3600
            )
            path = folder / "told.txt"
            lines = path.read_text().splitlines() if path.exists() else []
        if not lines:
            raise RuntimeError(f"The child did not begin: {done.stderr[-2000:]}")
        for line in lines:
            number, _, told = line.partition(" ")
            if line != "end" and told:
                found[int(number)] = told
        last = lines[-1].partition(" ")
        if lines[-1] != "end":
            number = int(last[0])
            found[number] = f"died: {_reason(done)}"
            left = now[now.index(number) + 1 :] + left
    return found


def _reason(done: Any) -> str:
    words = [line for line in done.stderr.splitlines() if line.strip()]
    return f"status {done.returncode}, {words[-1][:80] if words else ''}"


def main() -> None:
    """Prints what is wrong, case by case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=WAYS, default="eager")
    parser.add_argument("--layers", choices=["keras", "ours"], default="keras")
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--one", type=int)
    parser.add_argument("--child", type=Path)
    asked = parser.parse_args()
    if asked.child:
        _child(asked.child, asked.way, asked.layers)
        return
    numbers = range(asked.cases) if asked.one is None else [asked.one]
    found = sweep(numbers, asked.way, asked.layers)
    for number, told in found.items():
        print(number, told, json.dumps(case_of(number)), flush=True)
    print(f"{len(found)} of {len(numbers)} cases ({asked.way}, {asked.layers})")


if __name__ == "__main__":
    main()
