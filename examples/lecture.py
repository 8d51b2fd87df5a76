"""python examples/lecture.py    (about 8 minutes; --short 35 seconds)

The networks of a lecture on convolutional networks, one by one: the new idea, the cost of the
published network, its block as a figure, and a small network of the same family that learns to
classify clothes. The families' own functions make the small networks, which cost about the same, 5
to 7 million multiply-adds for an image of 28x28. Each runs once, so half a percent may be chance.

Data: Fashion-MNIST (arXiv:1708.07747) if Debian's package dataset-fashion-mnist is installed, else
and with --short scikit-learn's digits.
"""

import sys
import time
from pathlib import Path
from typing import NamedTuple

import altair as alt
import keras
from pages import page_of, save_png

import kblocks as kb

SHORT = "--short" in sys.argv
FASHION = Path("/usr/share/datasets/fashion-mnist")
EPOCHS = 1 if SHORT else 4
INPUT = (28, 28, 1)
POOLED_STEM = {"filters": 16, "kernel_size": 3, "strides": 1, "pool_size": 2, "pool_padding": 0}
INCEPTION_STEM = {"kernel_size": 3, "padding": "symmetric", "pool": "max"}


class Network(NamedTuple):
    """One network of the lecture.

    Attributes:
        name, year, paper, idea: the text of a slide.
        published: the network's name in `kb.architectures()`.
        row: the row of the published network to draw.
        small: a network of the same family for 28x28 grey images.
        size: the side of the published network's images in pixels.
    """

    name: str
    year: int
    paper: str
    idea: str
    published: str
    row: str
    small: kb.Architecture
    size: int = 224


LECTURE = [
    Network(
        "AlexNet",
        2012,
        "arXiv:1404.5997",  # its one-tower form; the paper of 2012 is not on arXiv
        "Convolutions, ReLU and dropout, trained end to end on a million images, beat features "
        "made by hand.",
        "alexnet",
        "stem",
        kb.alexnet(
            blocks=(1, 1, 1),
            filters=(32, 48, 48),
            kernel_size=(5, 3, 3),
            stem={"filters": 24, "kernel_size": 5, "strides": 1, "padding": "same"},
            head={"classes": 10, "pool_size": None, "hidden": (256,)},
        ),
    ),
    Network(
        "VGG-16",
        2014,
        "arXiv:1409.1556",
        "Depth from small kernels: a stack of 3x3 sees as far as one large kernel, with fewer "
        "weights and more non-linearities.",
        "vgg16",
        "stage3",
        kb.vgg(
            blocks=(1, 2, 2),
            filters=(16, 32, 64),
            head={"classes": 10, "pool_size": None, "hidden": (256,)},
        ),
    ),
    Network(
        "GoogLeNet",
        2014,
        "arXiv:1409.4842",
        "Kernels of several sizes side by side, each behind a 1x1 convolution that keeps it cheap, "
        "and no large dense layers.",
        "googlenet",
        "stage1_block1",
        kb.googlenet(10, blocks=(1, 3), width=0.25, stem={"filters": 64, **INCEPTION_STEM}),
    ),
    Network(
        "ResNet-50",
        2015,
        "arXiv:1512.03385",
        "A block learns what to add to its input, so that gradients pass and a hundred layers can "
        "be trained.",
        "resnet50",
        "stage1_block2",
        kb.resnet(10, blocks=(2, 2, 2), filters=(16, 32, 64), stem=POOLED_STEM),
    ),
    Network(
        "Inception-v3",
        2015,
        "arXiv:1512.00567",
        "A large kernel in factors: 7x7 as 1x7 and 7x1, for two sevenths of the multiply-adds.",
        "inception_v3",
        "stage2_block1",
        kb.inception_v3(10, blocks=(2, 2, 1), width=0.125, stem={"filters": 128, **INCEPTION_STEM}),
        299,
    ),
    Network(
        "Inception-v4",
        2016,
        "arXiv:1602.07261",
        "One plain scheme of modules A, B and C with reductions between them, deeper and wider, "
        "still without shortcuts.",
        "inception_v4",
        "stage3_block1",
        kb.inception_v4(10, blocks=(1, 1, 1), width=0.125, stem={"filters": 128, **INCEPTION_STEM}),
        299,
    ),
    Network(
        "Inception-ResNet-v2",
        2016,
        "arXiv:1602.07261",
        "Inception branches as the residual of a shortcut, scaled down before they are added: it "
        "learns sooner.",
        "inception_resnet_v2",
        "stage2_block1",
        kb.inception_resnet(
            10, blocks=(2, 2, 2), width=0.125, stem={"filters": 192, **INCEPTION_STEM}
        ),
        299,
    ),
    Network(
        "ResNeXt-50",
        2016,
        "arXiv:1611.05431",
        "Cardinality: many narrow paths of one shape, which a grouped convolution computes at "
        "once, as a third size beside depth and width.",
        "resnext50_32x4d",
        "stage1_block2",
        kb.resnext(
            10,
            blocks=(1, 2, 1),
            filters=(64, 128, 256),
            cardinality=8,
            group_width=4,
            stem=POOLED_STEM,
        ),
    ),
    Network(
        "DenseNet-121",
        2016,
        "arXiv:1608.06993",
        "Each layer reads all maps before it and adds a few of its own: features are used again.",
        "densenet121",
        "stage1_block1",
        kb.densenet(10, blocks=(4, 4, 4), growth_rate=10, stem={**POOLED_STEM, "filters": 20}),
    ),
    Network(
        "EfficientNet-B0",
        2019,
        "arXiv:1905.11946",
        "Depth, width and resolution grow together by one coefficient, from a base that a search "
        "found.",
        "efficientnet_b0",
        "stage2_block2",
        kb.efficientnet(
            10,
            blocks=(1, 2, 2),
            filters=(16, 24, 40),
            kernel_size=(3, 3, 5),
            strides=(1, 2, 2),
            expansion=(1, 6, 6),
            stem={"filters": 16, "strides": 1},
            top={"filters": 128},
        ),
    ),
    Network(
        "TResNet-M",
        2020,
        "arXiv:2003.13630",
        "A residual network made for the speed of GPUs: space to depth, blurred strides, gates "
        "where they pay.",
        "tresnet_m",
        "stage3_block1",
        kb.tresnet(
            10,
            block=("basic", "basic", "bottleneck"),
            blocks=(1, 1, 1),
            filters=(24, 48, 48),
            strides=(1, 2, 2),
            stem={"block_size": 2},
        ),
    ),
]


class Clock(keras.callbacks.Callback):
    """Measures the training seconds of each epoch."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)


def figure_of(one: Network) -> str:
    """Draws the typical block of a published network at the input shape it has there, as SVG."""
    net = kb.architecture(one.published)
    costs = net.costs((one.size, one.size, 3))
    names = list(costs)
    before = names.index(one.row) - 1
    shape = (one.size, one.size, 3) if before < 0 else costs[names[before]].output_shape
    spec = next(row.spec for row in net.rows if row.name == one.row)
    return kb.draw(spec, input_shape=shape)


def learned(one: Network, data: kb.tuner.Data) -> dict:
    """Trains the small network and returns its cost, accuracy and time as a table row."""
    keras.utils.set_random_seed(1)
    cost = one.small.cost(INPUT)
    model = one.small.model(INPUT)
    recipe = kb.Recipe(learning_rate=1e-3, schedule="cosine")
    recipe.compile(model)
    clock = Clock()
    fit = {"batch_size": 64, "epochs": EPOCHS, "verbose": 0}
    model.fit(*data.train, **fit, callbacks=[clock, *recipe.callbacks(EPOCHS)])
    found = model.evaluate(*data.test, batch_size=250, verbose=0, return_dict=True)
    return {
        "network": one.name,
        "weights": cost.trainable_params,
        "macs": cost.macs,
        "accuracy": found["accuracy"],
        "seconds": min(clock.seconds),  # the first epoch includes tracing the training step
    }


def chart_of(rows: list[dict]) -> alt.HConcatChart:
    """A chart with three columns of points and a line for each network."""
    published, accuracy = alt.Scale(type="log", domain=[0.1, 100]), alt.Scale(zero=False)
    panels = [
        ("published", "published: billion multiply-adds", ".2f", published, [0.1, 1, 10, 100]),
        ("accuracy", "small: test accuracy", ".3f", accuracy, alt.Undefined),
        ("weights", "small: weights", ",", alt.Scale(), [0, 100_000, 200_000]),
    ]
    names = [row["network"] for row in rows]
    charts = []
    for field, title, form, scale, values in panels:
        axis = alt.Axis(title=title, titleFontSize=14, labelFontSize=12, grid=False, values=values)
        lines = {"ticks": False, "domain": False, "grid": True, "gridColor": "#e5e7eb"}
        side = alt.Axis(title=None, labels=not charts, labelFontSize=14, labelLimit=300, **lines)
        base = alt.Chart(alt.Data(values=rows), width=250, height=360).encode(
            x=alt.X(f"{field}:Q", scale=scale, axis=axis),
            y=alt.Y("network:N", sort=names, axis=side),
        )
        points = base.mark_circle(size=110, color="#2f6db3", opacity=1)
        numbers = base.mark_text(align="left", dx=9, fontSize=13)
        charts.append(points + numbers.encode(text=alt.Text(f"{field}:Q", format=form)))
    return alt.hconcat(*charts, spacing=40).configure_view(stroke=None)


if __name__ == "__main__":
    runs = Path("runs")
    runs.mkdir(exist_ok=True)
    print(f"{'published network':20} {'paper':16} {'weights':>12} {'multiply-adds':>15}")
    published = {}
    for one in LECTURE:
        cost = kb.architecture(one.published).cost((one.size, one.size, 3))
        published[one.name] = cost.macs / 1e9
        print(f"{one.name:20} {one.paper:16} {cost.trainable_params:12,} {cost.macs:15,}")
        print(f"    {one.year}: {one.idea}")
    page = page_of({f"{one.name} ({one.year})": figure_of(one) for one in LECTURE}, width=1330)
    (runs / "lecture_blocks.svg").write_text(page, encoding="utf-8")
    save_png(page, runs / "lecture_blocks.png", scale=1)

    if FASHION.is_dir() and not SHORT:
        data = kb.tuner.load(str(FASHION), limit=15_000)  # 12,000 of these are the training part
    else:
        data = kb.tuner.load("digits", image_size=INPUT[:2], limit=250 if SHORT else None)
    seen, judged = len(data.train[0]), len(data.test[0])
    print(f"\n{EPOCHS} epochs of {seen} images, judged on {judged} others")
    print(
        f"{'small network':20} {'weights':>9} {'multiply-adds':>14} {'accuracy':>9} {'s/epoch':>8}"
    )
    rows = []
    for one in LECTURE:
        row = learned(one, data)
        rows.append({**row, "published": published[one.name]})
        print(
            f"{row['network']:20} {row['weights']:9,} {row['macs']:14,} {row['accuracy']:9.3f} "
            f"{row['seconds']:8.1f}",
            flush=True,
        )
    save_png(chart_of(rows), runs / "lecture.png")
    print("\nruns/lecture.png: this table; runs/lecture_blocks.png, .svg: the blocks")
