"""python benchmarks/graph_optimizers.py    (about 3 minutes; --networks, --steps)

How much of the first run of a traced training step is TensorFlow's graph optimisers, and what they
save in later steps. The step is traced once and then run with all of them, with each left out, and
with none, as each setting has the graph prepared anew. CPU seconds; batch 8, Adam, `kb.prepare`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

OPTIMIZERS = (
    "constant_folding",
    "layout_optimizer",
    "remapping",
    "arithmetic_optimization",
    "dependency_optimization",
    "loop_optimization",
    "function_optimization",
    "shape_optimization",
    "implementation_selector",
)


def main() -> None:
    """Prints a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["preresnet164:32", "resnet50:64"])
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    none = {"disable_meta_optimizer": True}
    settings: list[tuple[str, dict[str, bool]]] = [("all", {}), ("none", none)]
    settings += [(f"all but {name}", {name: False}) for name in OPTIMIZERS]
    settings += [("all, again", {}), ("none, again", none)]
    for network in options.networks:
        name, size = network.split(":")
        traced(name, int(size), settings, options.steps)


def traced(name: str, size: int, settings: list[tuple[str, dict[str, bool]]], steps: int) -> None:
    import keras
    import tensorflow as tf

    import kblocks as kb

    model = getattr(kb, name)().model((size, size, 3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    kb.prepare(model)
    images, labels = tf.random.normal((8, size, size, 3)), tf.zeros(8, "int32")
    step: Any = tf.function(lambda x, y: model.train_step((x, y)), autograph=False)
    tracing, step = seconds(lambda: step.get_concrete_function(images, labels))
    count = len(step.graph.get_operations())
    print(f"\n{name}, {size}x{size}: {count:,} operations, traced in {tracing:.1f} s\n")
    print("| graph optimisers | first run | later steps |")
    print("|---|---|---|")
    defaults = {**dict.fromkeys(OPTIMIZERS, True), "disable_meta_optimizer": False}
    for nodes, (label, changed) in enumerate(settings):
        # Another number each time, which changes nothing else, so that no setting is cached.
        unique = {"min_graph_nodes": 4 + nodes}
        tf.config.optimizer.set_experimental_options({**defaults, **changed, **unique})
        times = [seconds(lambda: step(images, labels)["loss"].numpy())[0] for _ in range(steps)]
        later = statistics.median(times[1:])
        print(f"| {label} | {times[0]:.2f} s | {1e3 * later:.0f} ms |", flush=True)


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds that the function takes, and what it returns."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


if __name__ == "__main__":
    main()
