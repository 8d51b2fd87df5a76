"""python benchmarks/memory.py    (about 6 minutes)

How close the estimates of memory come to measurements, each network in a process of its own.

In use: `kb.inference_memory` against the largest set of tensors alive at once in the LiteRT
graph that TensorFlow's converter makes of the model, found operation by operation. In
training: `kb.training_memory` against the rise of the peak of resident memory over the process
before the model is made (a small model has been trained as a warm-up), and what the batch adds to
a batch of 1, in which the framework's own memory cancels.
"""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

IN_USE = [
    ("resnet20", 32),
    ("resnet18", 64),
    ("resnet50", 64),
    ("preresnet110", 32),
    ("vgg11", 64),
    ("densenet40_12", 32),
    ("googlenet", 64),
    ("inception_v3", 96),
    ("efficientnet_b0", 64),
]
IN_TRAINING = [
    ("resnet20", 32, 256),
    ("resnet18", 64, 64),
    ("vgg11_bn", 64, 32),
    ("densenet40_12", 32, 64),
    ("googlenet", 64, 64),
    ("efficientnet_b0", 64, 32),
]


def alive_at_once(net: Any, shape: Any) -> int:
    """Bytes of the largest set of tensors alive in the converted graph."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2 as frozen,
    )

    model = net.model(shape)
    function = tf.function(lambda x: model(x, training=False))
    graph = frozen(function.get_concrete_function(tf.TensorSpec((1, *shape))))
    blob = tf.lite.TFLiteConverter.from_concrete_functions([graph]).convert()
    lite = tf.lite.Interpreter(
        model_content=blob,
        experimental_op_resolver_type=(
            tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
    )
    lite.allocate_tensors()
    size = {d["index"]: 4 * math.prod(map(int, d["shape"])) for d in lite.get_tensor_details()}
    steps = lite._get_ops_details()
    born = {lite.get_input_details()[0]["index"]: 0}
    last = {d["index"]: len(steps) for d in lite.get_output_details()}
    for time, step in enumerate(steps):
        born.update({int(tensor): time for tensor in step["outputs"]})
        for tensor in step["inputs"]:
            last[int(tensor)] = max(last.get(int(tensor), 0), time)
    return max(
        sum(size[tensor] for tensor in born if born[tensor] <= time <= last.get(tensor, time))
        for time in range(len(steps))
    )


def in_training(net: Any, shape: Any, batch_size: int) -> int:
    """Bytes by which the peak of resident memory rises while a model is made and trained."""
    import numpy as np

    import kblocks as kb

    def train(net: Any, shape: Any, batch_size: int) -> None:
        model = net.model(shape)
        kb.Recipe().compile(model)
        images = np.zeros((2 * batch_size, *shape), "float32")
        model.fit(images, np.zeros(2 * batch_size), batch_size=batch_size, epochs=2, verbose=0)

    train(kb.Architecture([kb.ConvBlock.Spec(4)], head=kb.Classifier(2)), (8, 8, 3), 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(net, shape, batch_size)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def measure(name: str, size: str, batch_size: str) -> None:
    """Prints estimate and measurement of one network in this process."""
    import kblocks as kb

    net, shape = kb.architecture(name, classes=10), (int(size), int(size), 3)
    if batch_size == "0":
        print(kb.inference_memory(net, shape), alive_at_once(net, shape))
    else:
        estimated = kb.training_memory(net, shape, int(batch_size))
        print(estimated, in_training(net, shape, int(batch_size)))


def child(name: str, size: int, batch: int) -> tuple[int, int]:
    """Estimate and measurement from a process of its own."""
    command = [sys.executable, __file__, name, str(size), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    estimated, measured = map(int, done.stdout.split()[-2:])
    return estimated, measured


def told(estimated: int, measured: int) -> str:
    """Estimate, measurement and ratio as table cells."""
    ratio = estimated / measured
    return f"{estimated / 1e6:.3g} MB | {measured / 1e6:.3g} MB | {ratio:.2f}"


def main() -> None:
    """Prints both tables; with arguments makes one measurement."""
    if len(sys.argv) > 1:
        measure(*sys.argv[1:])
        return
    print("| in use, one image | estimated | measured | ratio |\n|---|---|---|---|")
    for name, size in IN_USE:
        print(f"| {name}, {size}x{size} | {told(*child(name, size, 0))} |", flush=True)
    columns = "estimated | measured | ratio | batch alone, estimated | measured | ratio"
    print(f"\n| in training | {columns} |\n|---|---|---|---|---|---|---|")
    for name, size, batch in IN_TRAINING:
        whole, one = child(name, size, batch), child(name, size, 1)
        batch_alone = whole[0] - one[0], max(whole[1] - one[1], 1)
        what = f"{name}, {size}x{size}, batch {batch}"
        print(f"| {what} | {told(*whole)} | {told(*batch_alone)} |", flush=True)


if __name__ == "__main__":
    main()
