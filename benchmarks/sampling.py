"""python benchmarks/sampling.py    (about 3 minutes)

How many fitting points a second `space.sample` gives, against drawing random points until one fits,
under budgets that 50 %, 1 % and 0.1 % of random points keep. Both run in turn in the same rounds;
the table shows medians. `sample` learns in its first call, which is timed separately.
"""

from __future__ import annotations

import os
import statistics
import time
from random import Random

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import kblocks as kb

INPUT = (64, 64, 3)
DRAWS, ROUNDS, SECONDS = 20_000, 5, 3.0


def main() -> None:
    """Prints a row for each share."""
    space = kb.spaces.resnet(classes=10).within(INPUT)
    random = Random(1)
    macs = []
    while len(macs) < DRAWS:
        macs.append(space.build(space.sample(random)).cost(INPUT).macs)
    macs.sort()
    print("| fits | `sample`, a second | plainly, a second | ratio | first call |")
    print("|---|---|---|---|---|")
    for share in (0.5, 0.01, 0.001):
        limit = macs[int(share * DRAWS)]
        bounded = space.within(INPUT, kb.Budget(macs=limit))
        start = time.perf_counter()
        bounded._learned()
        first = time.perf_counter() - start
        ours, plain = [], []
        for _ in range(ROUNDS):
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < SECONDS:
                bounded.sample(random)
                count += 1
            ours.append(count / (time.perf_counter() - start))
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < SECONDS or not count:
                values = space.tree.draw(random)
                count += bounded._fits(values)
            plain.append(count / (time.perf_counter() - start))
        fast, slow = statistics.median(ours), statistics.median(plain)
        told = f"{fast:.0f} | {slow:.1f} | {fast / slow:.1f} | {first * 1e3:.0f} ms"
        print(f"| {share:.1%} | {told} |", flush=True)


if __name__ == "__main__":
    main()
