"""Records the trainings that `search_table.py` replays: one JSON line for each.

`prepare` writes the images, `record` trains (on a GPU or CPU, with Keras on JAX), `time` measures
CPU seconds on this machine. `record` and `time` skip what the file already has:

    python benchmarks/search_table_record.py prepare --data images.npz
    KERAS_BACKEND=jax python benchmarks/search_table_record.py record --data images.npz \\
        --part 0/16 --output table-0.jsonl
    python benchmarks/search_table_record.py time --data images.npz --output times.jsonl

Fashion-MNIST at 14x14 pixels: 4,000 images to train on, 5,000 for validation, 10,000 to test.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

INPUT, CLASSES = (14, 14, 1), 10
TRAIN, VALIDATION, BATCH = 4_000, 5_000, 125
SHORT, MIDDLE, FULL = 2, 4, 8  # epochs
RATE, WARMUP = 3e-3, 0.05  # `kb.Recipe.named("plain")`
PLAIN, EDGE = 200, 100  # networks drawn at random, and drawn anywhere and repaired
LARGEST, TIGHT = 12e6, 3e6  # budgets of these two kinds, in multiply-adds
PART = 1000  # images for which accuracy is computed at once


def networks() -> list[dict[str, Any]]:
    """The points of the table in the order of recording: any first part of them is a table."""
    import kblocks as kb

    space = kb.Space(
        kb.resnet,
        classes=CLASSES,
        blocks=kb.per_stage(3, kb.choice(1, 2, 3)),
        filters=[
            kb.choice(16, 8, 24, 32),
            kb.choice(32, 16, 48, 64),
            kb.choice(64, 32, 96, 128),
        ],
        kernel_size=kb.choice(3, 1, 5),
        strides=[1, 2, 2],
        activation=kb.choice("relu", "swish", "tanh"),
        normalization=kb.choice("batch", "layer", None),
        stem={
            "filters": kb.choice(16, 8, 32),
            "kernel_size": kb.choice(3, 5),
            "strides": kb.choice(1, 2),
            "pool": None,
        },
        head={"pool": kb.choice("avg", "max"), "dropout": kb.choice(0.0, 0.3)},
    )
    wide = space.within(INPUT, kb.Budget(macs=LARGEST))
    tight = space.within(INPUT, kb.Budget(macs=TIGHT))
    chance = random.Random(0)
    plain, edge = [wide.default_point()], []
    seen = {wide.key_of(plain[0])}
    while len(plain) < PLAIN or len(edge) < EDGE:
        is_plain = len(plain) < PLAIN
        drawn = wide.sample_point(chance) if is_plain else space.tree.draw(chance)
        if not is_plain:
            if tight.violation(drawn) is None:
                continue
            drawn = tight.nearest(drawn)
        if (key := wide.key_of(drawn)) not in seen:
            seen.add(key)
            (plain if is_plain else edge).append(drawn)
    found = []
    for kind, points in (("plain", plain), ("edge", edge)):
        for point in points:
            cost = point.network.cost(INPUT)
            found.append(
                {
                    "kind": kind,
                    "values": point.recorded,
                    "macs": cost.macs,
                    "params": cost.params,
                    "activations": cost.activations,
                    "layers": len(point.network.rows),
                    "network": point.network,
                }
            )
    for number, one in enumerate(found):
        one["id"] = number  # 0 is the default
    chance.shuffle(found)
    return found


def prepare(path: Path) -> None:
    """Writes the images and labels of all parts, each class equally often in training."""
    import search_systems

    x, y = (search_systems.idx(f"train-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    test = [search_systems.idx(f"t10k-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")]
    chance = np.random.default_rng(0)
    order = [chance.permutation(np.flatnonzero(y == label)) for label in range(CLASSES)]
    ends = TRAIN // CLASSES, (TRAIN + VALIDATION) // CLASSES
    train = chance.permutation(np.concatenate([places[: ends[0]] for places in order]))
    held = np.concatenate([places[ends[0] : ends[1]] for places in order])

    def small(images: np.ndarray) -> np.ndarray:
        return images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).round().astype("uint8")[..., None]

    np.savez_compressed(
        path,
        x=small(x[train]),
        y=y[train],
        held_x=small(np.concatenate([x[held], test[0]])),  # validation, then test
        held_y=np.concatenate([y[held], test[1]]),
    )


def rate_at(step: int, steps: int) -> float:
    """The learning rate of the recipe's warm-up and half cosine, as Keras' `CosineDecay`."""
    warm = int(WARMUP * steps)
    if step < warm:
        return RATE * step / warm
    return RATE * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


class Training:
    """Trains one network on JAX: an epoch, or a part of one, is one compiled call.

    Args:
        network: the architecture.
        images: the arrays that `prepare` wrote.
    """

    def __init__(self, network: Any, images: dict[str, np.ndarray]) -> None:
        import jax
        import keras
        from jax import numpy as jnp

        keras.utils.set_random_seed(0)
        with jax.default_device(jax.devices("cpu")[0]):  # compiles faster, and it is done once
            model = network.model(INPUT)
            optimizer = keras.optimizers.Adam(RATE)
            optimizer.build(model.trainable_variables)
        groups = model.trainable_variables, model.non_trainable_variables, optimizer.variables
        self._fresh = [[np.asarray(variable.value) for variable in group] for group in groups]
        self._data = tuple(
            jnp.asarray(images[name], "float32") / 255
            if name.endswith("x")
            else jnp.asarray(images[name], "int32")
            for name in ("x", "y", "held_x", "held_y")
        )
        self.steps = len(images["x"]) // BATCH  # of an epoch; what is left over waits
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        places = [v.path.split("/")[-1] for v in optimizer.variables]
        rate_place = places.index("learning_rate")

        def loss_of(weights: Any, others: Any, x: Any, y: Any) -> Any:
            logits, others = model.stateless_call(weights, others, x, training=True)
            return loss(y, logits), others

        def step(state: Any, now: Any) -> Any:
            weights, others, moments, x, y = state
            places, rate = now
            slope, others = jax.grad(loss_of, has_aux=True)(weights, others, x[places], y[places])
            moments = list(moments)
            moments[rate_place] = rate  # the others are the counter and Adam's averages
            weights, moments = optimizer.stateless_apply(moments, slope, weights)
            return (weights, others, moments, x, y), None

        def train(state: Any, data: Any, order: Any, rates: Any) -> Any:
            return jax.lax.scan(step, (*state, *data[:2]), (order, rates))[0][:3]

        def test(state: Any, data: Any) -> Any:
            def right(_: Any, part: Any) -> Any:
                logits, _ = model.stateless_call(*state[:2], part[0], training=False)
                return None, (logits.argmax(-1) == part[1]).sum()

            x, y = (one.reshape(-1, PART, *one.shape[1:]) for one in data[2:])
            return jax.lax.scan(right, None, (x, y))[1]

        self._train, self._test = jax.jit(train), jax.jit(test)

    def start(self, seed: int) -> Any:
        """Fresh weights and the optimizer's zeros: another order of the numbers that Keras drew."""
        chance = np.random.default_rng(seed)
        return tuple(
            [chance.permutation(one.reshape(-1)).reshape(one.shape) for one in group]
            for group in self._fresh
        )

    def train(self, state: Any, rates: list[float], chance: np.random.Generator) -> Any:
        """Trains one step for each learning rate: whole epochs at a time, then single halves."""
        from jax import numpy as jnp

        half = self.steps // 2
        assert len(rates) % half == 0
        order = np.concatenate(
            [
                chance.permutation(TRAIN)[: self.steps * BATCH].reshape(-1, BATCH)
                for _ in range(-(-len(rates) // self.steps))
            ]
        )[: len(rates)]
        for begin in range(0, len(rates), half):  # one size, so one compilation
            part = slice(begin, begin + half)
            now = jnp.asarray(order[part]), jnp.asarray(rates[part], "float32")
            state = self._train(state, self._data, *now)
        return state

    def scores(self, state: Any, is_last: bool = True) -> list[float]:
        """Accuracy on the validation and on the test images."""
        right = np.asarray(self._test(state, self._data))
        held = VALIDATION // PART
        parts = right[:held], right[held:]
        return [round(float(part.sum()) / (PART * len(part)), 4) for part in parts]


class PlainTraining:
    """The same on any backend, by Keras' own steps: faster than `Training` on a CPU."""

    def __init__(self, network: Any, images: dict[str, np.ndarray]) -> None:
        import keras

        keras.utils.set_random_seed(0)
        self._data = [
            images[name].astype("float32") / 255 if name.endswith("x") else images[name]
            for name in ("x", "y", "held_x", "held_y")
        ]
        self.steps = TRAIN // BATCH
        self._model = network.model(INPUT)
        self._optimizer = keras.optimizers.Adam(RATE)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._model.compile(optimizer=self._optimizer, loss=loss)
        self._optimizer.build(self._model.trainable_variables)
        self._fresh = self._values()

    def _variables(self) -> list[Any]:
        return [*self._model.variables, *self._optimizer.variables]

    def _values(self) -> list[np.ndarray]:
        import keras

        return [keras.ops.convert_to_numpy(variable.value).copy() for variable in self._variables()]

    def start(self, seed: int) -> Any:
        """As that of `Training`."""
        chance = np.random.default_rng(seed)
        return [chance.permutation(one.reshape(-1)).reshape(one.shape) for one in self._fresh]

    def _load(self, state: Any) -> None:
        for variable, value in zip(self._variables(), state, strict=True):
            variable.assign(value)

    def train(self, state: Any, rates: list[float], chance: np.random.Generator) -> Any:
        """Trains one step for each learning rate."""
        self._load(state)
        for begin in range(0, len(rates), self.steps):
            order = chance.permutation(TRAIN)[: self.steps * BATCH].reshape(-1, BATCH)
            for places, rate in zip(order, rates[begin : begin + self.steps], strict=False):
                self._optimizer.learning_rate = rate
                self._model.train_on_batch(self._data[0][places], self._data[1][places])
        return self._values()

    def scores(self, state: Any, is_last: bool = True) -> list[float | None]:
        """As those of `Training`; on the test images only at the end of a training."""
        self._load(state)
        images, labels = (part[: None if is_last else VALIDATION] for part in self._data[2:])
        parts = [
            self._model.predict_on_batch(images[begin : begin + PART]).argmax(-1)
            for begin in range(0, len(images), PART)
        ]
        right = np.concatenate(parts) == labels
        held = round(float(right[:VALIDATION].mean()), 4)
        return [held, round(float(right[VALIDATION:].mean()), 4) if is_last else None]


def epochs(training: Training, length: int, seed: int, until: list[int]) -> list[list[float]]:
    """Scores after each epoch of a cosine of its own."""
    steps, chance = training.steps, np.random.default_rng(seed)
    state, found = training.start(seed), []
    rates = [rate_at(step, length * steps) for step in range(length * steps)]
    for epoch in range(length):
        state = training.train(state, rates[epoch * steps : (epoch + 1) * steps], chance)
        found.append(training.scores(state, epoch == length - 1))
    return found


def restarted(training: Training, length: int, seed: int, until: list[int]) -> list[list[float]]:
    """Scores at the end of each rung, which goes on from the last by a cosine of half the rate."""
    steps, chance = training.steps, np.random.default_rng(seed)
    state, found, begun = training.start(seed), [], 0
    for end in until:
        own = (end - begun) * steps
        factor = 0.5 if begun else 1.0
        state = training.train(state, [factor * rate_at(s, own) for s in range(own)], chance)
        found.append(training.scores(state))
        begun = end
    return found


def branched(training: Training, length: int, seed: int, until: list[int]) -> list[list[float]]:
    """Scores at the end of each rung: a constant rate, and a line to zero in its last quarter.

    The next rung goes on from where the line began (a warm-up, a stable rate and a decay).
    """
    steps, chance = training.steps, np.random.default_rng(seed)
    state, found, begun = training.start(seed), [], 0
    warm = max(int(WARMUP * until[0] * steps), 1)
    for end in until:
        turn = int(0.75 * end * steps)
        turn -= turn % (steps // 2)
        own = [RATE * min(1.0, step / warm) for step in range(begun, turn)]
        state, begun = training.train(state, own, chance), turn
        left = end * steps - turn
        down = training.train(state, [RATE * (1 - step / left) for step in range(left)], chance)
        found.append(training.scores(down))
    return found


JOBS: list[tuple[str, Callable[..., Any], int, list[int]]] = [
    ("short", epochs, SHORT, []),
    ("middle", epochs, MIDDLE, []),
    ("full", epochs, FULL, []),
    ("restarted", restarted, FULL, [SHORT, MIDDLE, FULL]),
    ("branched", branched, FULL, [SHORT, MIDDLE, FULL]),
]
_ONE_SEED = ("restarted", "branched")


def jobs() -> Iterator[tuple[str, int, Callable[[Training], list[list[float]]]]]:
    """Every training of a network: its kind, its seed, and the function that makes it."""
    for seed in (0, 1):
        for number, (kind, way, length, until) in enumerate(JOBS):
            if seed == 0 or kind not in _ONE_SEED:
                own = 10 * seed + number  # trainings of a network share no weights

                def made(
                    t: Training, a: Any = way, n: int = length, s: int = own, u: Any = until
                ) -> Any:
                    return a(t, n, s, u)

                yield kind, seed, made


def written(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; the last may be torn."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def append(path: Path, line: dict[str, Any]) -> None:
    """Adds a line at once, so that a killed process loses no more than its last training."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def record(
    path: Path, data: Path, part: str, limit: int | None, seconds: float, schedules: list[str]
) -> None:
    """Trains this part's networks, each with all schedules and seeds, until the time is over."""
    import keras

    is_fast = keras.backend.backend() == "jax"
    began = time.time()
    images = dict(np.load(data))
    own, count = map(int, part.split("/"))
    done = {(line["id"], line["schedule"], line["seed"]) for line in written(path)}
    for one in networks()[own::count][:limit]:
        asked = [job for job in jobs() if not schedules or f"{job[0]}-{job[1]}" in schedules]
        left = [job for job in asked if (one["id"], *job[:2]) not in done]
        if not left:
            continue
        network = one.pop("network")
        training = (Training if is_fast else PlainTraining)(network, images)
        for schedule, seed, train in left:
            if time.time() - began > seconds:
                return
            start = time.time()
            scores = train(training)
            line = {**one, "schedule": schedule, "seed": seed, "scores": scores}
            append(path, {**line, "wall": round(time.time() - start, 2)})
        print(f"{one['id']}: {scores[-1]}, {time.time() - began:.0f} s", flush=True)


def measure(path: Path, data: Path, limit: int) -> None:
    """CPU seconds, on TensorFlow and by Keras' `fit`, of the first networks.

    "begin" is what a trial needs before its second step, "step" a training step, and "image" the
    evaluation of one image.
    """
    import keras

    import kblocks as kb

    images = dict(np.load(data))
    x, y = images["x"].astype("float32") / 255, images["y"].astype("int32")
    done = {line["id"] for line in written(path)}
    for one in networks()[:limit]:
        if one["id"] in done:
            continue
        begin = time.process_time()
        model = one.pop("network").model(INPUT)
        kb.Recipe.named("plain", schedule=None, warmup=0.0).compile(model)
        model.fit(x[:BATCH], y[:BATCH], batch_size=BATCH, verbose=0)
        model.evaluate(x[:500], y[:500], batch_size=500, verbose=0)
        line = {**one, "begin": time.process_time() - begin}
        count = 8
        begin = time.process_time()
        model.fit(x[: count * BATCH], y[: count * BATCH], batch_size=BATCH, verbose=0)
        line["step"] = (time.process_time() - begin) / count
        begin = time.process_time()
        model.evaluate(x[:2000], y[:2000], batch_size=500, verbose=0)
        line["image"] = (time.process_time() - begin) / 2000
        append(path, line)
        keras.backend.clear_session()


def main() -> None:
    """Runs one of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["prepare", "record", "time"])
    parser.add_argument("--output", type=Path, help="the file of JSON lines")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--part", default="0/1", help="which share of the networks: i/n")
    parser.add_argument("--limit", type=int, help="at most so many networks")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no training after this")
    parser.add_argument("--only", nargs="*", default=[], help="schedules with seeds: full-0")
    options = parser.parse_args()
    if options.command == "prepare":
        prepare(options.data)
    elif options.command == "record":
        record(
            options.output, options.data, options.part, options.limit, options.seconds, options.only
        )
    else:
        measure(options.output, options.data, options.limit or 300)


if __name__ == "__main__":
    main()
