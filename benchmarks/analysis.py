"""python benchmarks/analysis.py    (about 1 minute)

How long kblocks takes to sample, make and analyse a candidate of the size of ResNet-50, against
building the Keras model of the same candidate and counting. All candidates differ, and nothing
is cached from one to the next. Rounds are interleaved; the table shows medians.
"""

from __future__ import annotations

import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import kblocks as kb

INPUT = (224, 224, 3)
ROUNDS, CANDIDATES, BUILDS = 7, 1000, 2


def space() -> kb.Space:
    """Bottleneck networks with the depth of ResNet-50: 16 blocks, 16 choices."""
    return kb.Space(
        kb.resnet,
        block="bottleneck",
        blocks=(3, 4, 6, 3),
        filters=kb.per_stage(4, kb.integer(32, 512, step=8)),
        kernel_size=kb.per_stage(4, kb.choice(3, 5, 7, (1, 7))),
        strides=[1, *kb.per_stage(3, kb.choice(2, (2, 1)))],
        padding=kb.per_stage(4, kb.choice("symmetric", "same")),
        stem={"filters": kb.integer(16, 64, step=4)},
    )


def main() -> None:
    """Times both sides in turn."""
    searched = space()
    seed = 0
    analysed, built, seen = [], [], set()
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CANDIDATES):
            net = searched.build(searched.sample(seed))
            cost = net.cost(INPUT)
            seed += 1
        analysed.append((time.perf_counter() - start) / CANDIDATES)
        start = time.perf_counter()
        for offset in range(BUILDS):
            model = searched.build(searched.sample(seed - 1 - offset)).model(INPUT)
            params = model.count_params()
            if offset == 0:
                assert params == cost.params, (params, cost.params)
            keras.backend.clear_session()
        built.append((time.perf_counter() - start) / BUILDS)
        seen.update(str(searched.sample(s)) for s in range(seed - CANDIDATES, seed))
    assert len(seen) == seed, "candidates must differ"
    fast, slow = statistics.median(analysed), statistics.median(built)
    print("| side | time for a candidate | candidates a second |")
    print("|---|---|---|")
    print(f"| sampled and analysed by kblocks | {fast * 1e6:.0f} µs | {1 / fast:,.0f} |")
    print(f"| Keras model built and counted | {slow * 1e3:.0f} ms | {1 / slow:.2f} |")
    print(f"\nratio {slow / fast:,.0f}; {ROUNDS} rounds of {CANDIDATES:,} and {BUILDS} candidates")


if __name__ == "__main__":
    main()
