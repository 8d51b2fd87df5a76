"""The systems that `search_quality.py` compares; one run of one system in its own process."""

from __future__ import annotations

import argparse
import gzip
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
from search_quality import note, rows

IMAGES = Path("/usr/share/datasets/fashion-mnist")
INPUT, CLASSES = (28, 28, 1), 10
TRAIN, VALIDATION = 12_000, 2_000
BATCH, EPOCHS = 64, 8
MARGIN = 10.0  # seconds before the end in which ours starts no epoch, as one may take so long


def network_space() -> Any:
    """A space of small residual networks, at half the images' size from the first stage on.

    Its default point has 309,000 parameters and 10 million multiply-adds.
    """
    import kblocks as kb

    space = kb.Space(
        kb.resnet,
        classes=CLASSES,
        blocks=kb.per_stage(3, kb.choice(1, 2)),
        filters=[kb.choice(32, 24, 48), kb.choice(64, 48, 96), kb.choice(128, 96, 192)],
        kernel_size=kb.choice(3, 5),
        strides=[1, 2, 2],
        stem={
            "filters": kb.choice(32, 16),
            "kernel_size": kb.choice(3, 5),
            "strides": 1,
            "pool": "max",
            "pool_size": 2,
            "pool_strides": 2,
            "pool_padding": "same",
        },
        head={"pool": kb.choice("avg", "concat"), "dropout": kb.choice(0.0, 0.2)},
    )
    return space.within(INPUT, kb.Budget(macs=15e6))


def recipe() -> Any:
    """AdamW with cosine decay. The defaults train the default network to 0.91 in 8 epochs."""
    import kblocks as kb

    return kb.Recipe(
        optimizer="adamw",
        weight_decay=kb.choice(0.05, 0.01, 0.2),
        learning_rate=kb.real(1e-3, 1e-2, log=True, default=3e-3),
        schedule="cosine",
        label_smoothing=kb.choice(0.0, 0.1),
        augmentation=kb.choice(None, "flip", "flip+shift"),
    )


# --- a run of a system ---------------------------------------------------------------------


@dataclass
class Race:
    """One run of a system.

    Attributes:
        seed: the system's seed.
        started: the start of its process, in the seconds of `time.time`.
        seconds: its time limit, counted from `started`.
        path: the path of its CSV.
        data: {part: (images from 0 to 1, labels)} of "train", "validation" and "test".
    """

    seed: int
    started: float
    seconds: float
    path: Path
    data: dict[str, tuple[np.ndarray, np.ndarray]]

    @property
    def elapsed(self) -> float:
        """Seconds since the start of the process."""
        return time.time() - self.started

    @property
    def left(self) -> float:
        """Seconds until the time is over."""
        return self.seconds - self.elapsed

    def without_data(self) -> Race:
        """A copy without the data, to send to another process."""
        return replace(self, data={})

    @property
    def scratch(self) -> str:
        """A folder for this run alone."""
        return str(self.path.with_suffix(""))


class OverError(BaseException):
    """Raised when the time is over; no tuner catches it as the failure of a trial."""


WINNER: dict[str, Any] = {}  # the model of the best epoch so far, and its weights


class Watch(keras.callbacks.Callback):
    """Writes each better validation accuracy to the run's CSV, from any process.

    Args:
        race: the run.
        ends: whether this callback keeps the best model and ends the search when the time is
            over; if not, the system itself does.
    """

    def __init__(self, race: Race, ends: bool = True) -> None:
        super().__init__()
        self._race, self._ends = race.without_data(), ends

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a better validation accuracy and keeps the model."""
        self._hold()
        race, found = self._race, float((logs or {})["val_accuracy"])
        before = [row.accuracy for row in rows(race.path)]
        if race.left > 0 and found > max(before, default=0.0):
            note(race.path, "validation", race.elapsed, found)
            if self._ends:
                model: Any = self.model
                WINNER.update(model=model, weights=model.get_weights())

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Looks at the clock."""
        self._hold()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Looks at the clock."""
        self._hold()

    def _hold(self) -> None:
        if self._ends and self._race.left < 0:
            raise OverError


def fit_arguments(race: Race, one_hot: bool = False) -> dict[str, Any]:
    """The `fit` arguments for every tuner with Keras Tuner's interface."""
    coded = np.eye(CLASSES, dtype="float32")
    (x, y), held = race.data["train"], race.data["validation"]
    if one_hot:
        y, held = coded[y], (held[0], coded[held[1]])
    return {"x": x, "y": y, "validation_data": held, "epochs": EPOCHS, "batch_size": BATCH}


def ours(epochs: int = EPOCHS, **settings: Any) -> Callable[[Race], Any]:
    """Runs `kb.tuner.Tuner` with these arguments; returns the model with the best weights."""

    def run(race: Race) -> Any:
        import kblocks as kb

        hypermodel = kb.tuner.HyperModel(network_space(), recipe(), latency=False)
        tuner = kb.tuner.Tuner(
            hypermodel,
            hours=(race.left - MARGIN) / 3600,
            directory=race.scratch,
            project_name="ours",
            checkpoints=1,
            seed=race.seed,
            overwrite=True,
            **settings,
        )
        fit = {**fit_arguments(race), "epochs": epochs}
        tuner.search(**fit, callbacks=[Watch(race, ends=False)], verbose=1)
        return tuner.get_best_models(1)[0]

    return run


def trained_on(changes: bool) -> Callable[[Race], Any]:
    """Trains the default network, then the best model so far again and again.

    Each time with a recipe that is drawn anew, for half as many epochs at a third of the rate; with
    `changes` as another network, which starts from its parent's weights: of three with one or two
    choices drawn anew the one with the most multiply-adds.
    """

    def run(race: Race) -> Any:
        import random

        import keras_tuner

        import kblocks as kb

        space, draws = network_space(), random.Random(race.seed)
        hypermodel = kb.tuner.HyperModel(space, recipe(), latency=False)
        known, score, parent = space.default(), 0.0, None

        def changed() -> dict[str, Any]:
            names = draws.sample(sorted(known), draws.choice((1, 2)))
            drawn = space.sample(draws)
            return space.repair({**known, **{n: drawn[n] for n in names if n in drawn}})

        while True:
            values, epochs, hp = known, EPOCHS, keras_tuner.HyperParameters()
            if parent is not None:
                if changes:
                    drawn = [changed() for _ in range(3)]
                    values = max(drawn, key=lambda one: space.build(one).cost(INPUT).macs)
                epochs = EPOCHS // 2
                hp.values = {
                    "recipe.learning_rate": 1e-3,
                    "recipe.weight_decay": draws.choice((0.05, 0.01, 0.2)),
                    "recipe.label_smoothing": draws.choice((0.0, 0.1)),
                    "recipe.augmentation": draws.choice(("None", "flip", "flip+shift")),
                }
            hp.values |= values
            model = hypermodel.build(hp)
            if parent is not None:
                kb.inherit(model, parent)
            fit = {**fit_arguments(race), "epochs": epochs, "verbose": 0}
            found = hypermodel.fit(hp, model, **fit, callbacks=[Watch(race)])
            reached = max(found.history["val_accuracy"])
            if reached > score:
                known, score, parent = values, reached, model

    return run


def tpe_alone(race: Race) -> Any:
    """Runs `kb.tuner.Tuner` with the same TPE, which compares no sizes of networks."""
    import optuna

    known = {"multivariate": True, "group": True, "constant_liar": True}
    return ours(sampler=optuna.samplers.TPESampler(seed=race.seed, **known))(race)


def default_network(race: Race) -> Any:
    """Trains the default network all the time: a cosine over `EPOCHS`, again and again."""
    import keras_tuner

    import kblocks as kb

    hypermodel = kb.tuner.HyperModel(network_space(), recipe(), latency=False)
    hp = keras_tuner.HyperParameters()
    model = hypermodel.build(hp)
    while True:
        hypermodel.fit(hp, model, **fit_arguments(race), callbacks=[Watch(race)], verbose=0)


def stock(race: Race, hypermodel: Any, kind: str, one_hot: bool) -> Any:
    """Runs one of Keras Tuner's tuners until the time is over."""
    import keras_tuner

    common = {"objective": "val_accuracy", "seed": race.seed, "overwrite": True}
    common |= {"directory": race.scratch, "project_name": kind}
    match kind:
        case "random":
            tuner = keras_tuner.RandomSearch(hypermodel, max_trials=1000, **common)
        case "bayesian":
            tuner = keras_tuner.BayesianOptimization(hypermodel, max_trials=1000, **common)
        case "hyperband":
            tuner = keras_tuner.Hyperband(
                hypermodel, max_epochs=EPOCHS, hyperband_iterations=100, **common
            )
    tuner.search(**fit_arguments(race, one_hot), callbacks=[Watch(race)], verbose=0)
    return None


def same(race: Race) -> Any:
    """Runs our networks and recipe under Keras Tuner's Bayesian search."""
    import kblocks as kb

    hypermodel = kb.tuner.HyperModel(network_space(), recipe(), latency=False)
    return stock(race, hypermodel, "bayesian", one_hot=False)


def hyperresnet(kind: str) -> Callable[[Race], Any]:
    """Runs Keras Tuner's ready residual networks under one of its tuners."""

    def run(race: Race) -> Any:
        import keras_tuner

        hypermodel = keras_tuner.applications.HyperResNet(input_shape=INPUT, classes=CLASSES)
        return stock(race, hypermodel, kind, one_hot=True)

    return run


def autokeras(race: Race) -> Any:
    """Runs AutoKeras as its users call it until the time is over."""
    import autokeras

    search = autokeras.ImageClassifier(
        max_trials=1000, directory=race.scratch, seed=race.seed, overwrite=True
    )
    (x, y), held = race.data["train"], race.data["validation"]
    search.fit(x, y, validation_data=held, callbacks=[Watch(race)], verbose=0)
    return None


SYSTEMS: dict[str, Callable[[Race], Any]] = {
    "ours": ours(),
    "ours-long": ours(4 * EPOCHS),
    "ours-asha": ours(scheduler="asha"),
    "ours-asha-long": ours(4 * EPOCHS, scheduler="asha"),
    "default-trained-on": trained_on(changes=False),
    "inheriting": trained_on(changes=True),
    "tpe-alone": tpe_alone,
    "default-network": default_network,
    "same-bayesian": same,
    "hyperresnet-random": hyperresnet("random"),
    "hyperresnet-bayesian": hyperresnet("bayesian"),
    "hyperresnet-hyperband": hyperresnet("hyperband"),
    "autokeras": autokeras,
}


# --- data, and what is left at the end -----------------------------------------------------


def idx(name: str) -> np.ndarray:
    """Reads an array in MNIST's format; the fourth byte is the number of sizes that follow."""
    content = gzip.decompress((IMAGES / name).read_bytes())
    sizes = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(sizes)


def moved(images: np.ndarray) -> np.ndarray:
    """Images turned by up to 60 degrees, shifted by up to 5 pixels, half of them inverted, noisy.

    Always the same for the same number of images.
    """
    from PIL import Image

    random = np.random.default_rng(len(images))
    found = np.empty_like(images)
    for index, image in enumerate(images):
        angle, shift = random.uniform(-60, 60), random.uniform(-5, 5, 2)
        turned = Image.fromarray(image).rotate(
            angle, Image.Resampling.BILINEAR, translate=(int(shift[0]), int(shift[1]))
        )
        values = np.asarray(turned, "float32")
        values = 255 - values if random.random() < 0.5 else values
        noisy = values + random.normal(0, 40, values.shape)
        found[index] = np.clip(noisy, 0, 255).astype("uint8")
    return found


def fashion(images: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Three parts of Fashion-MNIST; those to train on and validate with hold each class equally."""
    x, y = idx("train-images-idx3-ubyte.gz"), idx("train-labels-idx1-ubyte.gz")
    random = np.random.default_rng(0)
    order = [random.permutation(np.flatnonzero(y == label)) for label in range(CLASSES)]
    ends = images // CLASSES, (images + VALIDATION) // CLASSES
    train = random.permutation(np.concatenate([places[: ends[0]] for places in order]))
    validation = np.concatenate([places[ends[0] : ends[1]] for places in order])
    yield x[train], y[train]
    yield x[validation], y[validation]
    yield idx("t10k-images-idx3-ubyte.gz"), idx("t10k-labels-idx1-ubyte.gz")


def digits(images: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Three parts of scikit-learn's digits, enlarged to 28x28.

    The parts share no digit; a digit comes several times within its part (997 of them to train on,
    300 to validate with and 500 to test).
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    small = [Image.fromarray((15 * image).astype("uint8")) for image in found.images]
    x = np.stack([np.asarray(image.resize(INPUT[:2])) for image in small])
    order = np.random.default_rng(0).permutation(len(x))
    for places, count in ((order[800:], images), (order[:300], VALIDATION), (order[300:800], 6000)):
        chosen = np.resize(places, count)
        yield x[chosen], found.target[chosen]


def data(
    images: int, is_moved: bool, is_digits: bool = False
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Loads the parts "train" (of so many images), "validation" and "test", always the same."""

    def part(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pixels = moved(pixels) if is_moved else pixels
        return pixels[..., None].astype("float32") / 255, labels.astype("int32")

    parts = digits(images) if is_digits else fashion(images)
    return {
        name: part(*held) for name, held in zip(("train", "validation", "test"), parts, strict=True)
    }


def main() -> None:
    """Runs one system; the CSV's last line is the test accuracy of the best model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("path", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--started", type=float, required=True)
    parser.add_argument("--images", type=int, default=TRAIN)
    parser.add_argument("--moved", action="store_true")
    parser.add_argument("--digits", action="store_true")
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)
    parts = data(options.images, options.moved, options.digits)
    race = Race(options.seed, options.started, 60 * options.minutes, options.path, parts)
    try:
        model = SYSTEMS[options.system](race)
    except OverError:
        model = None
    if model is None and not WINNER:
        note(race.path, "test", race.elapsed, 0.0)  # no epoch ended in time
        return
    if model is None:
        model = WINNER["model"]
        model.set_weights(WINNER["weights"])
    images, labels = parts["test"]
    found = np.asarray(model.predict(images, batch_size=500, verbose=0)).argmax(-1)
    note(race.path, "test", race.elapsed, float((found == labels).mean()))


if __name__ == "__main__":
    main()
