"""python tests/backends/check.py FOLDER PART PARTS: TensorFlow's numbers, on another backend.

No test runner, so that an environment needs nothing but kblocks and the backend. FOLDER holds what
`test_backends.py` wrote: for each case of the conformance table its weights, input and output.
Every PARTS-th case, network and training is checked, from PART (0 is the first) on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import keras  # noqa: E402
import numpy as np  # noqa: E402
from conformance import CASES  # noqa: E402
from golden import images, load  # noqa: E402
from mixtures import COLOURED, NUMBER, WEIGHTS, Seen, X, Y, classifier, cross_entropy  # noqa: E402
from scenes import LAYERS, VOID, compare, fitted  # noqa: E402

import kblocks as kb  # noqa: E402
from kblocks.layers.primitives import BatchNormalization  # noqa: E402

NETWORKS = ("resnet18", "vgg11_bn", "resnext50_32x4d")


def error_of(found: Any, expected: np.ndarray) -> float:
    """The largest difference in units of the expected values' spread."""
    found = keras.ops.convert_to_numpy(found)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.abs(found - expected).max() / (expected.std() or 1.0))


def case_is_wrong(file: Path, name: str, case: Any) -> bool:
    data = np.load(file)
    layer = case.layer()
    layer.build((None, *case.shape))
    kept = [w for w in layer.weights if "seed_generator" not in w.path]
    for number, weight in enumerate(kept):
        weight.assign(data[f"w{number}"])
    error = error_of(layer(data["x"], training=False), data["y"])
    trained = keras.ops.convert_to_numpy(layer(data["x"], training=True))
    if error < 1e-4 and np.all(np.isfinite(trained)):
        return False
    print(f"{name}: {error:.1e} of the spread, training finite: {np.isfinite(trained).all()}")
    return True


def network_is_wrong(name: str) -> bool:
    size = int(np.load(TESTS / "data" / "golden" / f"{name}.npz")["size"])
    model = kb.architecture(name).model((size, size, 3))
    logits = load(model, name)["logits"]
    error = error_of(model(images(size), training=False), logits)
    print(f"{name}: {error:.1e} of the spread")
    return not error < 1e-4


def training_is_wrong() -> bool:
    """`fit` with an auxiliary classifier learns the brighter half of an image."""
    quick: Any = {"normalization": kb.Norm("batch", momentum=0.5)}
    aux: Any = {"filters": (4,), "pool_size": None, "grid": 2, "hidden": (), "dropout": 0.0}
    rows = [
        kb.ConvBlock.Spec(8, strides=2, **quick),
        ("aux", kb.AuxiliaryClassifier.Spec(2, **aux, **quick)),
        ("body", kb.ResNeXtBlock.Spec(8, cardinality=2, group_width=4, **quick), "stage1"),
    ]
    model = kb.Architecture(rows, head=kb.Classifier(2), auxiliary=["aux"]).model(
        (8, 8, 3), aux=True
    )
    kb.Recipe(optimizer="adam", learning_rate=0.01).compile(model)
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    y = np.arange(64) % 2
    x[y == 1, :4] += 1
    model.fit(x, y, epochs=8, batch_size=16, verbose=0)
    accuracy = float(np.mean(np.argmax(kb.strip_aux(model).predict(x, verbose=0), 1) == y))
    print(f"training: accuracy {accuracy:.2f}")
    return accuracy < 0.9


def moving_is_wrong() -> bool:
    """A step of `fit` is told what it sees, by layers of ours and of Keras."""
    layers = {
        "flip+shift": (),
        **dict.fromkeys(
            ("zoom", *["rotation"] * (keras.backend.backend() != "torch")), (2.5, VOID)
        ),
    }
    wrong = []
    for name, slack in layers.items():
        try:
            compare(*fitted(LAYERS[name]() if name in LAYERS else name), *slack)
        except AssertionError as error:
            wrong.append(f"{name}: {error}")
    print("\n".join(["targets move", *wrong]))
    return bool(wrong)


def recipe_is_wrong() -> bool:
    """Mixed images have the losses of all their labels, and a strong recipe learns."""
    wrong = []
    for name in ("mixup", "cutmix", "mixup+cutmix"):
        seen = Seen(classifier(), kb.Recipe(augmentation=name), X, Y, sample_weight=WEIGHTS)
        expected = (seen.shares * WEIGHTS * cross_entropy(seen.outputs)).sum() / NUMBER
        if not abs(seen.logs["loss"] - expected) < 1e-3 * expected:
            wrong.append(f"{name}: {seen.logs['loss']}, expected {expected}")
    model = classifier(3)
    names = "flip+shift+randaugment+erasing+mixup"
    recipe = kb.Recipe.named("strong", learning_rate=0.1, ema=0.8, augmentation=names)
    recipe.compile(model)
    kept: list[Any] = []
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: kept.append(model.get_weights()))
    callbacks = [*recipe.callbacks(30), keep]
    model.fit(COLOURED, Y, epochs=30, batch_size=4, callbacks=callbacks, verbose=0)
    accuracy = model.evaluate(COLOURED, Y, verbose=0, return_dict=True)["accuracy"]
    if accuracy < 0.9 or not np.array_equal(kept[-1][0], model.get_weights()[0]):
        wrong.append(f"strong recipe: accuracy {accuracy:.2f}")
    print("\n".join(["recipes", *wrong]))
    return bool(wrong)


def normalization_is_wrong() -> bool:
    """Trained one step in one kernel, as on PyTorch, all weights are as with Keras' own layer."""
    wrong = []
    for dtype, axis, size in product(("float32", "mixed_bfloat16"), (-1, 1), (6, 1)):
        x, y = np.random.default_rng(0).normal(1, 2, (2, size, size, size, 4)).astype("float32")
        kinds = (keras.layers.BatchNormalization, BatchNormalization)
        theirs, mine = (normalized(kind, x, y, dtype, axis) for kind in kinds)
        worst = max(error_of(a, b) for a, b in zip(mine, theirs, strict=True))
        if not worst < (1e-4 if dtype == "float32" else 1e-3):
            wrong.append(f"{dtype}, axis {axis}, size {size}: {worst:.1e} of the spread")
    print("\n".join(["normalization", *wrong]))
    return bool(wrong)


def normalized(kind: Any, x: np.ndarray, y: np.ndarray, dtype: str, axis: int) -> list[Any]:
    """The predictions and the weights after a step."""
    keras.utils.set_random_seed(0)
    data_format = "channels_last" if axis == -1 else "channels_first"
    plain: Any = {"use_bias": False, "data_format": data_format, "dtype": dtype}
    first = keras.layers.Conv2D(x.shape[axis], 1, **plain)
    model = keras.Sequential([keras.Input(x.shape[1:]), first, kind(axis=axis, dtype=dtype)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(x, y)
    outputs = model.predict_on_batch(x).astype("float32")
    return [outputs, *model.get_weights()]


def checks(folder: Path) -> Iterator[Callable[[], bool]]:
    for name in NETWORKS:
        yield partial(network_is_wrong, name)
    yield training_is_wrong
    yield moving_is_wrong
    yield recipe_is_wrong
    if keras.backend.backend() == "torch":
        yield normalization_is_wrong
    for index, (name, case) in enumerate(CASES.items()):
        file = folder / f"{index}.npz"
        assert file.exists(), f"{file} is missing"
        yield partial(case_is_wrong, file, name, case)


if __name__ == "__main__":
    part, parts = map(int, sys.argv[2:])
    chosen = list(checks(Path(sys.argv[1])))[part::parts]
    wrong = sum(check() for check in chosen)
    print(f"{keras.backend.backend()}: {len(chosen) - wrong} passed, {wrong} failed")
    sys.exit(bool(wrong))
