"""The catalogue: each block and head, and each published network, with its drawing."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from reference_pages import PUBLIC, escaped, linked, paper, path_of, summary

import kblocks as kb
from kblocks.command.listing import listing
from kblocks.networks.catalog import by_family


class Shown(NamedTuple):
    """When one takes a block, its line of code, and the shape of the input that is drawn."""

    when: str
    code: str
    input_shape: tuple[int, ...] = (32, 32, 64)


BLOCKS = {
    "ConvBlock": Shown(
        "The block to begin with: stems, VGG's and AlexNet's stages, plain networks.",
        'kb.ConvBlock(64, 3, convolutions=2, pool="max")',
    ),
    "ResidualBlock": Shown(
        "Networks of more than about ten layers, at up to some 256 channels (ResNet-18 and 34).",
        "kb.ResidualBlock(64, kernel_size=3, strides=2)",
    ),
    "BottleneckBlock": Shown(
        "Deep networks with many channels (ResNet-50 on): the 3x3 works on a quarter of them.",
        "kb.BottleneckBlock(32, strides=2)",
    ),
    "ResNeXtBlock": Shown(
        "As a bottleneck, where accuracy at equal cost matters more than the speed of each step.",
        "kb.ResNeXtBlock(64, cardinality=32)",
    ),
    "MBConvBlock": Shown(
        "Phones and small budgets: few multiply-adds for the accuracy (EfficientNet, MobileNetV2).",
        "kb.MBConvBlock(40, 5, strides=2)",
    ),
    "SeparableConvBlock": Shown(
        "A full convolution costs too much, and an expansion as in `kb.MBConvBlock` is not wanted.",
        'kb.SeparableConvBlock(128, pool="max", strides=2)',
    ),
    "DenseBlock": Shown(
        "Few parameters, with memory to spare: every layer reads all maps before it.",
        "kb.DenseBlock(12, depth=4)",
    ),
    "TransitionBlock": Shown(
        "Between two dense blocks, to halve channels and size.", "kb.TransitionBlock(0.5)"
    ),
    "InceptionBlock": Shown(
        "Objects of different sizes: several kernels read the same map.",
        'kb.InceptionBlock((64, (96, 128), (16, 32), ("max", 32)))',
    ),
    "InceptionResNetBlock": Shown(
        "The same in a deep network, which trains more quickly with shortcuts.",
        "kb.InceptionResNetBlock((32, (32, 32), (32, 32, 32)))",
    ),
    "TResNetBasicBlock": Shown(
        "As a residual block, for a GPU, where shifted images should give equal results.",
        "kb.TResNetBasicBlock(64, strides=2)",
    ),
    "TResNetBottleneckBlock": Shown(
        "The bottleneck of the same family, for its late stages.",
        "kb.TResNetBottleneckBlock(32, strides=2)",
    ),
    "SpaceToDepthStem": Shown(
        "As a stem for large images: a quarter of the side at once, and no pixel is lost.",
        "kb.SpaceToDepthStem(64)",
        (64, 64, 3),
    ),
    "SqueezeExcite": Shown(
        "Behind the convolutions of a block of your own: a little accuracy at hardly any cost.",
        "kb.SqueezeExcite(16)",
    ),
    "NormAct": Shown("At the end of pre-activation stages, before the head.", "kb.NormAct()"),
    "ResidualDense": Shown(
        "On vectors: tables, or behind the pooling of a network.", "kb.ResidualDense(64)", (64,)
    ),
    "BlurPooling2D": Shown(
        "In place of strides, so that a shift of the image changes little.", "kb.BlurPooling2D(3)"
    ),
    "MinPooling2D": Shown(
        "The darkest of the pixels matters, as in ink on paper.", "kb.MinPooling2D(2)"
    ),
    "GlobalConcatPooling2D": Shown(
        "Before a classifier of your own, where average and maximum both tell something.",
        "kb.GlobalConcatPooling2D()",
    ),
}
_LAST = (8, 8, 128)
HEADS = {
    "Classifier": Shown(
        "One class, or with `multi_label` several, for an image.", "kb.Classifier(10)", _LAST
    ),
    "AuxiliaryClassifier": Shown(
        "In the middle of a deep network, so that early layers learn.",
        "kb.AuxiliaryClassifier(10)",
        (14, 14, 128),
    ),
    "Features": Shown(
        "No head: the vector that a network makes of an image.", "kb.Features()", _LAST
    ),
    "Localizer": Shown(
        "The class of an image's one object, and the box around it.", "kb.Localizer(10)"
    ),
    "BoxRegressor": Shown("The box alone.", "kb.BoxRegressor()", _LAST),
    "Keypoints": Shown("Positions of named points, such as eyes or joints.", "kb.Keypoints(5)"),
    "KeypointMaps": Shown("Its heatmaps, as a block.", "kb.KeypointMaps(5)", (16, 16, 128)),
    "KeypointRegressor": Shown(
        "Its regression from the last map, as a block.", "kb.KeypointRegressor(5)", _LAST
    ),
    "Segmenter": Shown("A class for each pixel.", "kb.Segmenter(21)"),
    "Detector": Shown("Classes and boxes of all objects of an image.", "kb.Detector(20)"),
    "DetectionMap": Shown(
        "Its output for one map, as a block.", "kb.DetectionMap(20)", (16, 16, 64)
    ),
}
# Who states a top-1 accuracy: by the set of weights, or by the family where that differs.
TOP1 = {
    "tv_in1k": "torchvision",
    "miil_in1k": "paper",
    "tf_in1k": "TF-slim",
    "efficientnet": "TensorFlow",
}


def pages() -> dict[str, str]:
    """The pages and drawings of the catalogue by their paths in `docs/catalogue/`."""
    made = {"blocks.md": blocks("Blocks", BLOCKS), "heads.md": blocks("Heads", HEADS)}
    for name, shown in {**BLOCKS, **HEADS}.items():
        made[f"{name}.svg"] = drawing(shown)
    about = listing()["architectures"]
    for family, names in by_family().items():
        made[f"{family}.md"] = family_page(family, {name: about[name] for name in names})
    for name, row in about.items():
        made[f"{name}.svg"] = kb.draw(kb.architecture(name), input_shape=tuple(row["input"]))
    made["architectures.md"] = architectures(about)
    return made


def drawing(shown: Shown) -> str:
    """The block at its input, or a head on a small network."""
    thing = eval(shown.code, {"kb": kb})
    if len(shown.input_shape) == 1:
        return kb.draw(keras.Sequential([keras.Input(shown.input_shape), thing]))
    if isinstance(thing, kb.Block):
        return kb.draw(thing.spec, input_shape=shown.input_shape)
    return kb.draw(kb.resnet18(head=thing), input_shape=(128, 128, 3))


ABOUT = {
    "Blocks": "Each is a Keras layer; its `.Spec`, with the same arguments, is the block as data.",
    "Heads": "What ends a network: `kb.resnet18(head=kb.Segmenter(21))`. Those that are a block "
    "are drawn alone, the others on ResNet-18.",
}


def blocks(title: str, table: dict[str, Shown]) -> str:
    """Which, when, picture, one line of code, arguments, paper."""
    lines = [f"# {title}", "", ABOUT[title]]
    for name, shown in table.items():
        value = PUBLIC[name]
        on = f" on {size(shown.input_shape)}" if issubclass(value, kb.Block) else ""
        lines += ["", f"## {name}", "", f"{escaped(summary(value))} **When:** {shown.when}", ""]
        lines += [f"`{shown.code}`{on}:", ""]
        lines += [f"![Drawing of {name}]({name}.svg){{ loading=lazy }}", ""]
        told = f"[All arguments](../reference/{path_of(name)})"
        lines += [told + (f". Paper: {reference}" if (reference := paper(value)) else "")]
    return linked("\n".join(lines) + "\n", "../reference")


def size(shape: Any) -> str:
    return " x ".join(map(str, shape))


def figures(name: str, row: dict[str, Any], link: str) -> str:
    """A network's row of a table."""
    sets = kb.architecture(name).weights
    stated = [TOP1.get(row["family"]) or TOP1[one.name] for one in sets]
    top1 = f"{sets[0].top1:.1f} ({stated[0]})" if sets else ""
    cells = [f"[{name}]({link})", row["input"][0], f"{row['params'] / 1e6:.2f}"]
    cells += [f"{row['macs'] / 1e6:,.0f}", top1, ", ".join(f"`{one.name}`" for one in sets)]
    return f"| {' | '.join(map(str, cells))} |"


HEADER = """| network | side | parameters, M | multiply-adds, M | top-1, % | weights |
|---|---:|---:|---:|---|---|"""


def architectures(about: dict[str, Any]) -> str:
    first, second = HEADER.splitlines()
    rows = [f"{first} space |", f"{second}---|"]
    for name, row in about.items():
        family = row["family"]
        space = f"[`{family}`](../reference/{path_of('spaces')}#{family})"
        rows.append(f"{figures(name, row, f'{family}.md#{name}')} {space} |")
    table = ['<div class="sortable" markdown>', "", *rows, "", "</div>", ""]
    return "\n".join([ARCHITECTURES, *table])


ARCHITECTURES = f"""---
hide: [toc]
---

# Architectures

{len(kb.architectures())} published networks. A click on a column's title sorts by it. Every network
also trains from fresh weights on any number of classes and any size of images:
`kb.resnet18(classes=7)`. Parameters and multiply-adds are counted, at images of the published side.
Top-1 is the accuracy on ImageNet's validation images that the publisher of the weights states:
torchvision's metadata, the family's paper, TF-slim's table, TensorFlow's repository of
EfficientNet-Lite. "Weights" are the names that `net.model(shape, weights=...)` takes; where there
are none, kblocks knows of none. "Space" is the ready search space, such as `kb.spaces.resnet()`.

Who looks for a "TraceNet" may mean TResNet: we know of no classification network of the other name.
"""


def family_page(family: str, about: dict[str, Any]) -> str:
    builder = PUBLIC[family]
    lines = [f"# {family}", "", escaped(summary(builder)), ""]
    space = f"[search space](../reference/{path_of('spaces')}#{family})"
    lines += [f"Its [arguments](../reference/{path_of(family)}) and its {space}."]
    lines += ["", f"Paper: {reference}"] if (reference := paper(builder)) else []
    lines += ["", HEADER, *(figures(name, row, f"#{name}") for name, row in about.items())]
    for name, row in about.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"`kb.{name}(classes=10)`, drawn at {size(row['input'])}:",
            "",
        ]
        lines += [f"![Drawing of {name}]({name}.svg){{ loading=lazy }}"]
    return linked("\n".join(lines) + "\n", "../reference")
