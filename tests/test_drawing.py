"""`draw` and `summary`: what a figure shows, and that nothing in it lies over anything else."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from conformance import CASES
from PIL import Image, ImageFont

import kblocks as kb
from kblocks.drawing.graphs import rows_of_model
from kblocks.plans import ops
from kblocks.plans.ops import Chain, Conv, Merge

NETWORKS = kb.architectures()


def size_of(name: str) -> tuple[int, int, int]:
    """An input that every published network takes."""
    return (299, 299, 3) if "inception" in name else (224, 224, 3)


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float
    data: dict[str, str]

    def overlaps(self, other: Box, by: float = 0.5) -> bool:
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return across > by and down > by

    def holds(self, other: Box) -> bool:
        inside = self.left <= other.left and other.right <= self.right
        return inside and self.top <= other.top and other.bottom <= self.bottom


class Figure:
    """What is in an SVG, read again from its text."""

    def __init__(self, svg: str) -> None:
        root = ElementTree.fromstring(svg)
        left, top, width, height = map(float, root.attrib["viewBox"].split())
        self.canvas = Box(left, top, left + width, top + height, {})
        shapes = [(tag(element), element) for element in root]
        rects = [rect_of(element) for name, element in shapes if name == "rect"]
        self.ops = [r for r in rects if r.data["class"].startswith("op ")]
        self.frames = [r for r in rects if r.data["class"] == "frame"]
        self.bars = [r for r in rects if r.data["class"] == "bar"]
        self.tracks = [r for r in rects if r.data["class"] == "track"]
        circles = [element for name, element in shapes if name == "circle"]
        self.joints = [circle_of(c) for c in circles if c.attrib["class"].startswith("joint ")]
        texts = [element for name, element in shapes if name == "text"]
        self.texts = [(str(element.text), text_of(element)) for element in texts]
        paths = [element.attrib["d"] for name, element in shapes if name == "path"]
        self.segments = [segment for path in paths for segment in segments_of(path)]

    def words(self) -> list[str]:
        return [text for text, _ in self.texts]

    def times(self, box: Box) -> int:
        """How often a box is there: what the frames around it say."""
        frames = [frame for frame in self.frames if frame.holds(box)]
        return int(np.prod([int(frame.data["data-times"]) for frame in frames], initial=1))


def tag(element: Any) -> str:
    return element.tag.split("}")[1]


def rect_of(element: Any) -> Box:
    left, top, width, height = (float(element.attrib[n]) for n in ("x", "y", "width", "height"))
    return Box(left, top, left + width, top + height, element.attrib)


def circle_of(element: Any) -> Box:
    x, y, radius = (float(element.attrib[name]) for name in ("cx", "cy", "r"))
    return Box(x - radius, y - radius, x + radius, y + radius, element.attrib)


def text_of(element: Any) -> Box:
    """Its extent by a font of Pillow's, which is about as wide as Helvetica."""
    size, x, y = (float(element.attrib[name]) for name in ("font-size", "x", "y"))
    width = ImageFont.load_default(100).getlength(str(element.text)) * size / 100
    left = x - {"start": 0, "middle": width / 2, "end": width}[element.attrib["text-anchor"]]
    return Box(left, y - 0.75 * size, left + width, y + 0.22 * size, element.attrib)


def segments_of(path: str) -> Iterator[Box]:
    """The straight parts of a line, and its round corners as chords."""
    numbers = [tuple(map(float, p)) for p in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]
    for (a, b), (c, d) in itertools.pairwise(numbers):
        yield Box(min(a, c), min(b, d), max(a, c), max(b, d), {})


def overlapping(boxes: list[Box]) -> list[tuple[Box, Box]]:
    return [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def check_layout(figure: Figure) -> None:
    """Nothing over anything else, no line through a box, all text where it belongs."""
    assert overlapping([*figure.ops, *figure.joints]) == []
    for shape in [*figure.ops, *figure.joints, *figure.frames, *figure.segments]:
        assert figure.canvas.holds(shape)
    for box in [*figure.ops, *figure.joints]:
        inner = Box(box.left + 1, box.top + 1, box.right - 1, box.bottom - 1, {})
        crossed = [s for s in figure.segments if touches(s, inner)]
        assert crossed == [], box
    for text, extent in figure.texts:
        assert figure.canvas.holds(extent), text
        over = [box for box in figure.ops if box.overlaps(extent)]
        assert len(over) <= 1, text
        assert not over or over[0].holds(extent), text
    extents = [extent for _, extent in figure.texts]
    assert overlapping(extents) == []


def touches(segment: Box, box: Box) -> bool:
    across = segment.right >= box.left and segment.left <= box.right
    return across and segment.bottom >= box.top and segment.top <= box.bottom


def convolutions(op: ops.Op) -> int:
    """Counted by a walk of its own."""
    if isinstance(op, Merge):
        return sum(convolutions(branch) for _, branch in op.branches)
    if isinstance(op, Chain):
        return sum(map(convolutions, op))
    return isinstance(op, Conv)


def joints(op: ops.Op) -> int:
    if isinstance(op, Merge):
        several = len(op.branches) > 1
        return several + sum(joints(branch) for _, branch in op.branches)
    return sum(map(joints, op)) if isinstance(op, Chain) else 0


# --- blocks ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_block_is_drawn_with_all_its_parts(name: str) -> None:
    """One box a convolution, one circle a joint, and nothing over anything else."""
    case = CASES[name]
    plan = case.spec().plan(case.shape[-1])
    figure = Figure(kb.draw(case.spec(), input_shape=case.shape))
    check_layout(figure)
    convs = [box for box in figure.ops if box.data["class"] == "op conv"]
    assert sum(map(figure.times, convs)) == convolutions(plan)
    assert sum(map(figure.times, figure.joints)) == joints(plan)


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.more])
def test_boxes_bear_the_paths_of_the_layers_they_stand_for(name: str) -> None:
    case = CASES[name]
    layer = case.layer()
    layer.build((None, *case.shape))
    svg = kb.draw(layer)  # a built layer knows its input
    drawn = [box.data["data-path"] for box in Figure(svg).ops]
    assert sorted(filter(None, drawn)) == sorted(part.name for part in layer.layers)
    assert svg == kb.draw(case.spec(), input_shape=case.shape)


def test_a_bottleneck_is_that_of_the_paper() -> None:
    """He et al. 2015, Fig. 5, right: 1x1, 64; 3x3, 64; 1x1, 256; added to the input."""
    figure = Figure(kb.draw(kb.BottleneckBlock.Spec(64), input_shape=(56, 56, 256)))
    words = figure.words()
    assert words == [
        *("BottleneckBlock", "56 x 56 x 256"),
        *("1x1 conv, 64", "batch norm", "relu"),
        *("3x3 conv, 64", "batch norm", "relu"),
        *("1x1 conv, 256", "batch norm", "+"),
        *("relu", "56 x 56 x 256"),
    ]
    middles = [(box.left + box.right) / 2 for box in [*figure.ops, *figure.joints]]
    assert max(middles) - min(middles) < 0.02  # the shortcut is a line


def test_branches_stand_side_by_side_in_their_order() -> None:
    """GoogLeNet, Fig. 2b: what ends the branches stands in one row."""
    spec = kb.InceptionBlock.Spec((64, (96, 128), (16, 32), ("max", 32)), (1, 3, 5, 3))
    figure = Figure(kb.draw(spec, input_shape=(28, 28, 192)))
    last = [
        box
        for label in ("1x1 conv, 64", "3x3 conv, 128", "5x5 conv, 32", "1x1 conv, 32")
        for box in figure.ops
        if any(text == label and box.holds(extent) for text, extent in figure.texts)
    ]
    assert len({box.top for box in last}) == 1
    assert [box.left for box in last] == sorted(box.left for box in last)
    assert figure.words().count("concat") == 1


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (kb.ConvBlock.Spec(8, (1, 7), (2, 1), padding="valid"), "1x7 conv, 8, /2x1, valid"),
        (kb.ConvBlock.Spec(8, 3, padding=(0, 2)), "3x3 conv, 8, pad 0x2"),
        (kb.ConvBlock.Spec(8, 3, 2, padding="symmetric"), "3x3 conv, 8, /2"),
        (kb.ConvBlock.Spec(8, dilation_rate=2, groups=2), "3x3 conv, 8, 2 groups, dilation 2x2"),
        (kb.ConvBlock.Spec(12, groups=6), "3x3 depthwise, 12"),
        (kb.ConvBlock.Spec(8, dropout=0.5), "dropout 0.5"),
        (kb.ConvBlock.Spec(8, activation=keras.layers.LeakyReLU(0.2)), "LeakyReLU"),
        (kb.ConvBlock.Spec(8, pool="max", pool_size=3, pool_strides=2), "3x3 max pool, /2"),
        (kb.BlurPooling2D.Spec(5, 2), "5x5 blur, /2"),
        (kb.SpaceToDepthStem.Spec(8), "space to depth, 4"),
        (kb.ResidualBlock.Spec(8, 3, 2, shortcut="zero_pad"), "zeros to 8 channels"),
        (kb.ResidualBlock.Spec(6, 3, padding="valid"), "crop 4 x 4"),
        (kb.Classifier.Spec(5, pool="flatten", pool_size=7), "avg pool to 7x7"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_boxes_tell_what_matters(spec: Any, told: str) -> None:
    assert told in Figure(kb.draw(spec, input_shape=(16, 16, 6))).words()


def test_equal_steps_in_a_row_are_drawn_once() -> None:
    """A dense block of 24 layers is one layer in a frame."""
    figure = Figure(kb.draw(kb.DenseBlock.Spec(32, depth=24), input_shape=(14, 14, 256)))
    assert [frame.data["data-times"] for frame in figure.frames] == ["24"]
    assert "x 24" in figure.words()
    assert len(figure.joints) == 1
    assert "14 x 14 x 1024" in figure.words()  # 256 + 24 * 32 channels


@pytest.mark.parametrize("depth", [1, 2])
def test_few_equal_steps_are_drawn_as_they_are(depth: int) -> None:
    figure = Figure(kb.draw(kb.DenseBlock.Spec(4, depth=depth), input_shape=(8, 8, 4)))
    assert figure.frames == []
    assert len(figure.joints) == depth


def test_without_a_shape_a_block_fits_its_own_output() -> None:
    """The shortcut is then plain, as the papers draw it."""
    for spec in (kb.ResidualBlock.Spec(24), kb.BottleneckBlock.Spec(6), kb.MBConvBlock.Spec(24)):
        words = Figure(kb.draw(spec)).words()
        assert words.count("24 channels") == 2
    assert "1x1 conv, 24" not in Figure(kb.draw(kb.ResidualBlock.Spec(24))).words()


@pytest.mark.parametrize("name", CASES)
def test_every_block_is_drawn_without_a_shape_too(name: str) -> None:
    check_layout(Figure(kb.draw(CASES[name].spec())))


def test_a_plan_is_drawn() -> None:
    plan = Chain(Conv(8), Merge("add", main=Conv(8, (3, 3)), shortcut=Chain()))
    figure = Figure(kb.draw(plan))
    assert {"1x1 conv, 8", "3x3 conv, 8", "+", "input", "output"} <= set(figure.words())
    assert "5 x 5 x 8" in Figure(kb.draw(plan, input_shape=(5, 5, 3))).words()
    assert len(Figure(kb.draw(Conv(8))).ops) == 1


def test_a_branch_of_several_inputs_is_drawn() -> None:
    """A plan whose merge joins several maps, as rows with several inputs have."""
    merge = Merge("concat", a=Conv(4), b=Chain())
    check_layout(Figure(kb.draw(merge)))


# --- networks ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_an_architecture_is_drawn_with_its_cost(name: str) -> None:
    net, shape = kb.architecture(name), size_of(name)
    svg = kb.draw(net, input_shape=shape)
    figure = Figure(svg)
    check_layout(figure)
    assert len(svg) < 100_000
    words = figure.words()
    cost = net.cost(shape)
    assert reads(words[1].split(" parameters")[0], cost.params)
    assert reads(words[1].split(", ")[1].split(" multiply")[0], cost.macs)
    stages = net.stages(shape)
    assert [word for word in words if word in dict(stages)][: len(stages)] == list(dict(stages))
    shares = [float(word[:-1]) for word in words if re.fullmatch(r"[\d.]+%", word)]
    expected = [100 * stage.macs / cost.macs for _, stage in stages]
    assert shares == pytest.approx(expected, abs=0.051)
    lengths = [bar.right - bar.left for bar in figure.bars]
    full = figure.tracks[0].right - figure.tracks[0].left
    assert lengths == pytest.approx([full * share / 100 for share in expected], abs=0.02)


def reads(text: str, number: int) -> bool:
    """Whether a text like `25.6 M` is a number, rounded."""
    value, _, unit = text.partition(" ")
    scale = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}[unit]
    digits = len(value.split(".")[1]) if "." in value else 0
    return abs(float(value) * scale - number) <= 0.5001 * scale / 10**digits


@pytest.mark.parametrize("name", ["resnet50", "preresnet1001", "inception_resnet_v2", "tresnet_l"])
def test_folded_blocks_are_as_many_as_there_are(name: str) -> None:
    """Chips of blocks, times what stands beside them."""
    net = kb.architecture(name)
    figure = Figure(kb.draw(net, input_shape=size_of(name)))
    chips = [box for box in figure.ops if box.data["class"] == "op block"]
    beside = [(text, extent) for text, extent in figure.texts if re.fullmatch(r"x \d+", text)]
    number = 0
    for chip in chips:
        told = [int(t[2:]) for t, e in beside if chip.top <= e.top and e.bottom <= chip.bottom]
        number += told[0] if told else 1
    merged = [row for row in net.rows if joints(row.spec.plan(64))]
    assert number == len(merged)
    assert len(chips) < 12


def test_kinds_of_blocks_are_drawn_in_detail() -> None:
    """Inception-v3 has A, B, C and two reductions (arXiv:1512.00567, Fig. 5 to 7 and 10)."""
    words = Figure(kb.draw(kb.inception_v3(), input_shape=(299, 299, 3))).words()
    assert words.count("InceptionBlock") == 5
    resnet = Figure(kb.draw(kb.resnet50(), input_shape=(224, 224, 3))).words()
    assert resnet.count("BottleneckBlock") == 2  # with and without a projection


def test_auxiliary_heads_are_drawn_and_not_counted() -> None:
    figure = Figure(kb.draw(kb.googlenet(), input_shape=(224, 224, 3)))
    assert figure.words().count("in training only") == 2
    assert {"aux1", "aux2"} <= set(figure.words())


def test_an_auxiliary_head_that_the_image_is_too_small_for_is_drawn_without_numbers() -> None:
    """23,851,784 parameters are those of `keras.applications.InceptionV3`, which has none."""
    figure = Figure(kb.draw(kb.inception_v3(), input_shape=(139, 139, 3)))
    check_layout(figure)
    assert "AuxLogits" in figure.words()
    assert "23.9 M parameters" in " ".join(figure.words())


def test_without_a_shape_an_architecture_has_no_costs() -> None:
    for net in (kb.resnet18(), kb.vgg11(), kb.alexnet()):
        figure = Figure(kb.draw(net))
        check_layout(figure)
        assert figure.bars == []
        assert not any("parameters" in word for word in figure.words())


def test_lines_go_past_the_rows_that_they_skip() -> None:
    """A row that reads an earlier one, several, and shared weights."""
    conv, add = kb.ConvBlock.Spec(4), Sum.Spec()
    net = kb.Architecture(
        [
            ("a", conv),
            ("b", conv),
            ("c", conv),
            ("d", add, ("c", "a")),
            ("e", "c", ("d",)),
            ("f", add, ("e", "b", "input")),
        ],
        head=kb.Classifier(3),
    )
    figure = Figure(kb.draw(net, input_shape=(8, 8, 4)))
    check_layout(figure)
    assert "ConvBlock, weights of c" in figure.words()
    params = net.cost((8, 8, 4)).params
    assert reads(figure.words()[1].split(" parameters")[0], params)


def test_each_input_of_a_model_goes_to_what_reads_it() -> None:
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 1), name="right")
    maps = [keras.layers.Conv2D(4, 3, name=f"of_{x.name}")(x) for x in (left, right)]
    rows, _ = rows_of_model(keras.Model([left, right], keras.layers.Add(name="sum")(maps)))
    assert {row.name: row.inputs for row in rows} == {
        **{"left": ("input",), "right": ("input",)},
        **{"of_left": ("left",), "of_right": ("right",), "sum": ("of_left", "of_right")},
    }


def test_an_input_may_be_called_input() -> None:
    first, second = keras.Input((4,), name="input"), keras.Input((4,), name="other")
    rows, _ = rows_of_model(
        keras.Model([first, second], keras.layers.Add(name="sum")([first, second]))
    )
    assert {row.name: row.inputs for row in rows} == {
        **{"input_1": ("input",), "other": ("input",)},
        **{"sum": ("input_1", "other")},
    }


class Sum(kb.Block):
    """Several maps added."""

    def plan(self, channels: Any) -> ops.Op:
        number = len(channels) if isinstance(channels, list) else 2
        return Merge("add", **{f"branch{i}": Chain() for i in range(number)})


def test_a_model_of_ours_is_drawn_as_its_architecture(tmp_path: Path) -> None:
    net = kb.resnet18(classes=10)
    model = net.model((64, 64, 3))
    drawn = kb.draw(net, input_shape=(64, 64, 3))
    assert kb.draw(model) == drawn
    model.save(tmp_path / "model.keras")
    assert kb.draw(keras.models.load_model(tmp_path / "model.keras")) == drawn


def mixed() -> keras.Model:
    """Blocks and Keras' own layers, a shortcut, a layer that is called twice."""
    inputs = keras.Input((16, 16, 4))
    twice = keras.layers.Conv2D(4, 3, padding="same", name="twice")
    x = twice(inputs)
    y = keras.layers.DepthwiseConv2D(3, padding="same")(keras.layers.BatchNormalization()(x))
    x = keras.layers.Add()([x, twice(y)])
    x = kb.ResidualBlock(8, strides=2)(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x), name="mixed")


def test_a_model_of_other_layers_is_drawn_plainly() -> None:
    model = mixed()
    figure = Figure(kb.draw(model))
    check_layout(figure)
    chips = [box.data["data-path"] for box in figure.ops]
    names = [layer.name for layer in model.layers[1:]]
    assert {"twice", "twice (2)", *names} <= set(chips)
    assert {"3x3 conv, 4", "batch norm", "2x2 max pool, /2", "dense, 3"} <= set(figure.words())
    assert reads(figure.words()[1].split(" parameters")[0], model.count_params())


def test_models_of_any_rank_and_form_are_drawn() -> None:
    """Sequences, volumes, operations without a layer, several inputs, models in models."""
    layers = keras.layers
    text, volume, image = keras.Input((None,)), keras.Input((4, 4, 4, 1)), keras.Input((8, 8, 3))
    x = layers.Conv1D(4, 3, strides=2)(layers.Embedding(9, 4)(text))
    x = layers.LSTM(5)(x)
    y = layers.Flatten()(layers.Conv3D(2, (1, 2, 3), strides=(1, 2, 1))(volume))
    inner = keras.Sequential([keras.Input((8, 8, 3)), kb.ConvBlock(2), layers.Flatten()])
    z = keras.ops.relu(inner(image)) * 2.0
    model = keras.Model([text, volume, image], layers.Concatenate()([x, y, z]))
    figure = Figure(kb.draw(model))
    check_layout(figure)
    told = ("3 Conv1D, 4, /2", "LSTM, 5", "1x2x3 Conv3D, 2, /1x2x1", "Sequential", "4 x 2 x 2 x 2")
    assert set(told) <= set(figure.words())
    assert reads(figure.words()[1].split(" parameters")[0], model.count_params())

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = layers.Dense(3), kb.ConvBlock(4)

    check_layout(Figure(kb.draw(Own())))


@pytest.mark.parametrize("built", [True, False])
def test_a_sequential_model_is_drawn(built: bool) -> None:
    layers = [kb.ConvBlock(4), keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers] if built else layers)
    figure = Figure(kb.draw(model))
    check_layout(figure)
    assert len(figure.ops) == 3
    assert ("8 x 8 x 3" in figure.words()) == built


def test_text_is_escaped() -> None:
    name = "<b> & \"q\" 'r' </text>"
    net = kb.Architecture([kb.ConvBlock.Spec(4)], name=name)
    assert Figure(kb.draw(net, input_shape=(8, 8, 3))).words()[0] == name


# --- files -------------------------------------------------------------------------------


def test_svg_and_png_are_written(tmp_path: Path) -> None:
    spec = kb.ResidualBlock.Spec(8, strides=2)
    svg = kb.draw(spec, tmp_path / "new" / "block.svg", input_shape=(8, 8, 4))
    assert (tmp_path / "new" / "block.svg").read_text(encoding="utf-8") == svg
    kb.draw(spec, str(tmp_path / "block.png"), input_shape=(8, 8, 4))
    with Image.open(tmp_path / "block.png") as image:
        pixels = np.asarray(image.convert("L"), dtype=float)
    canvas = Figure(svg).canvas
    expected = 2 * (canvas.bottom - canvas.top), 2 * (canvas.right - canvas.left)
    assert pixels.shape == pytest.approx(expected, abs=1)
    edge = np.concatenate([pixels[:8].ravel(), pixels[-8:].ravel(), pixels[:, :8].ravel()])
    assert edge.min() == 255  # nothing is cut off
    assert pixels.min() < 80  # and something is there


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> bytes:
        raise RuntimeError("full")

    monkeypatch.setitem(sys.modules, "vl_convert", SimpleNamespace(svg_to_png=fails))
    with pytest.raises(RuntimeError, match="full"):
        kb.draw(kb.ConvBlock.Spec(4), tmp_path / "block.png")
    assert list(tmp_path.iterdir()) == []


def test_png_without_its_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(ImportError, match=r"kblocks\[report\]"):
        kb.draw(kb.ConvBlock.Spec(4), tmp_path / "block.png")


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`path` must end in \.svg or \.png.*block\.pdf"):
        kb.draw(kb.ConvBlock.Spec(4), tmp_path / "block.pdf")
    with pytest.raises(TypeError, match=r"`thing` must be a block.*Received: thing='resnet50'"):
        kb.draw("resnet50")
    with pytest.raises(ValueError, match="input of its own"):
        kb.draw(keras.Sequential([keras.Input((4, 4, 3))]), input_shape=(4, 4, 3))
    with pytest.raises(ValueError, match="`input_shape` must be"):
        kb.draw(kb.resnet18(), input_shape=(224, 224))
    with pytest.raises(kb.InputTooSmallError):
        kb.draw(kb.ConvBlock.Spec(4, 5, padding="valid"), input_shape=(4, 4, 3))
    with pytest.raises(kb.InputTooSmallError, match="smallest input that fits"):
        kb.draw(kb.inception_v3(), input_shape=(32, 32, 3))


# --- the table ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet50", "googlenet", "vgg11", "densenet40_12"])
def test_the_summary_adds_up(name: str) -> None:
    """Stages in order, their numbers and shares, and totals equal to the network's cost."""
    net, shape = kb.architecture(name), size_of(name)
    lines: list[str] = []
    kb.summary(net, shape, print_fn=lines.append)
    head, rows, total = lines[0], lines[3:-2], lines[-1]
    assert head == f"{name}, input {shape[0]} x {shape[1]} x 3"
    stages = net.stages(shape)
    assert [row.split()[0] for row in rows] == [stage for stage, _ in stages]
    blocks = [int(row.split()[1]) for row in rows]
    assert sum(blocks) == len(net.rows) - len(net.auxiliary)
    numbers = [
        [int(n.replace(",", "")) for n in re.findall(r"(?<= )[\d,]+(?=  )", r)] for r in rows
    ]
    columns = np.array([row[-3:] for row in numbers])
    cost = net.cost(shape)
    assert columns.sum(0).tolist() == [cost.params, cost.macs, cost.activations]
    told = [int(n.replace(",", "")) for n in total.split()[1:]]
    assert told == [sum(blocks), cost.params, cost.macs, cost.activations]
    bars = [row.count("#") for row in rows]
    assert bars == [round(20 * stage.macs / cost.macs) for _, stage in stages]
    shares = [float(row.split()[-1][:-1]) for row in rows]
    assert shares == pytest.approx([100 * s.macs / cost.macs for _, s in stages], abs=0.051)


def test_the_summary_prints(capsys: pytest.CaptureFixture[str]) -> None:
    kb.summary(kb.resnet20(), (32, 32, 3))
    assert capsys.readouterr().out.startswith("resnet20, input 32 x 32 x 3\nstage")


def test_the_summary_of_a_model_needs_no_shape() -> None:
    """It is that of its architecture."""
    net, of_net, of_model = kb.resnet20(), list[str](), list[str]()
    kb.summary(net, (32, 32, 3), print_fn=of_net.append)
    kb.summary(net.model((32, 32, 3)), print_fn=of_model.append)
    assert of_model == of_net


def test_the_summary_refuses_what_has_no_known_cost() -> None:
    with pytest.raises(TypeError, match="`net` must be an Architecture or a Keras model"):
        kb.summary(kb.ConvBlock.Spec(4), (8, 8, 3))
    with pytest.raises(ValueError, match="`input_shape` must be"):
        kb.summary(kb.resnet20())
    net = kb.Architecture([kb.ConvBlock.Spec(4)], head=2)
    with pytest.raises(ValueError, match=r"layers without costs: \['stage1', 'head'\]"):
        kb.summary(net.model((None, None, 3)))
    with pytest.raises(ValueError, match="A model has an input of its own"):
        kb.summary(net.model((8, 8, 3)), (8, 8, 3))


def test_a_summary_counts_blocks_and_layers_of_keras() -> None:
    """By hand: a 3x3 convolution of 4 to 4 channels on 16x16 pixels, called twice, and so on."""
    lines: list[str] = []
    kb.summary(mixed(), print_fn=lines.append)
    twice, depthwise, dense = 2 * 256 * 9 * 4 * 4, 256 * 9 * 4, 8 * 3
    residual = 64 * (9 * 4 * 8 + 9 * 8 * 8 + 4 * 8)
    assert f"{twice + depthwise + residual + dense:,}" in lines[-1]
    assert f"{mixed().count_params():,}" in lines[-1]


@pytest.mark.parametrize(
    ("layer", "macs", "activations"),
    [
        (lambda of: of.SeparableConv2D(6, 3, 2, depth_multiplier=2), 12 * (9 * 8 + 8 * 6), 12 * 14),
        (lambda of: of.Conv2D(8, (3, 1), groups=2), 7 * 8 * 3 * 2 * 8, 7 * 8 * 8),
        (lambda of: of.DepthwiseConv2D(3, 2, "same"), 5 * 4 * 9 * 4, 5 * 4 * 4),
        (lambda of: of.Dense(5), 9 * 8 * 4 * 5, 9 * 8 * 5),
        (lambda of: of.LayerNormalization(), 0, 0),
        (lambda of: of.GroupNormalization(2), 0, 0),
        (lambda of: of.PReLU(), 0, 0),
        # 18 x 16 pixels come from 9 x 8, at each of which the whole kernel is multiplied.
        (lambda of: of.Conv2DTranspose(6, 3, 2, "same"), 72 * 9 * 4 * 6, 18 * 16 * 6),
        # Two layers, a model inside the model.
        (
            lambda of: keras.Sequential([keras.Input((9, 8, 4)), of.Conv2D(2, 1), of.Dense(3)]),
            72 * (4 * 2 + 2 * 3),
            72 * (2 + 3),
        ),
    ],
)
def test_costs_of_layers_of_keras(layer: Any, macs: int, activations: int) -> None:
    inputs = keras.Input((9, 8, 4))
    model = keras.Model(inputs, layer(keras.layers)(inputs))
    ((row,), _) = rows_of_model(model)
    cost: Any = row.cost
    assert (cost.macs, cost.activations) == (macs, activations)
    assert cost.params == cost.trainable_params == model.count_params()
