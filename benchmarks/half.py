"""python benchmarks/half.py    (about 6 minutes; --rounds)

Training steps under `mixed_bfloat16` against float32, the two in turn, of one network at a time.
CPUs with bfloat16 instructions (AVX-512 BF16, AMX) gain; others lose.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kblocks as kb

NETWORKS = (  # name, side of the images, images in a batch
    ("vgg11_bn", 64, 8),
    ("resnet20", 32, 32),
    ("resnet50", 64, 8),
    ("resnet50", 224, 4),
    ("resnext50_32x4d", 64, 8),
    ("densenet121", 64, 8),
    ("inception_v3", 96, 8),
    ("efficientnet_b0", 64, 8),
    ("efficientnet_b0", 224, 4),
)


def ratio(name: str, side: int, batch: int, rounds: int) -> tuple[float, float, float]:
    """Seconds of a step in float32 and in mixed bfloat16, and the median of the pairs' ratios."""
    images = np.random.default_rng(0).uniform(size=(batch, side, side, 3)).astype("float32")
    pair = keras.ops.convert_to_tensor(images), keras.ops.zeros(batch, "int32")
    models = []
    for dtype in ("float32", "mixed_bfloat16"):
        model = kb.architecture(name).model((side, side, 3), dtype=dtype)
        kb.Recipe().compile(model)
        model.train_on_batch(*pair)
        models.append(model)
    took = []
    for _ in range(rounds):
        times = []
        for model in models:
            began = time.perf_counter()
            for _ in range(3):
                model.train_on_batch(*pair)
            times.append((time.perf_counter() - began) / 3)
        took.append(times)
    plain, half = (statistics.median(side) for side in zip(*took, strict=True))
    keras.backend.clear_session()
    return plain, half, statistics.median(b / a for a, b in took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print("| network, side, batch | float32 | mixed_bfloat16 | ratio |\n|---|---|---|---|")
    for name, side, batch in NETWORKS:
        plain, half, share = ratio(name, side, batch, rounds)
        row = f"| {name}, {side}, {batch} | {plain * 1e3:.0f} ms | {half * 1e3:.0f} ms |"
        print(f"{row} {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
