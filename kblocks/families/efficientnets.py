"""EfficientNets (Tan & Le 2019, arXiv:1905.11946)."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from kblocks.blocks.convolution import ConvBlock
from kblocks.blocks.fields import positive
from kblocks.blocks.mbconv import MBConvBlock
from kblocks.families import published_choices as choices
from kblocks.families import stage_arguments as staged
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import variant
from kblocks.networks.torch_weights import naming
from kblocks.plans.ops import Norm

# Table 1, one column a stage.
_BLOCKS = (1, 2, 2, 3, 3, 4, 1)
_STAGES: dict[str, tuple[int, ...]] = {
    "filters": (16, 24, 40, 80, 112, 192, 320),
    "kernel_size": (3, 3, 5, 3, 5, 5, 3),
    "strides": (1, 2, 2, 2, 1, 2, 1),
    "expansion": (1, 6, 6, 6, 6, 6, 6),
}


@staged.described
def efficientnet(
    classes: int = 1000,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    blocks: Any = _BLOCKS,
    filters: Any = None,
    kernel_size: Any = None,
    strides: Any = None,
    expansion: Any = None,
    padding: Any = "symmetric",
    stochastic_depth: float = 0.2,
    dropout: float = 0.2,
    stem: Any = None,
    top: Any = None,
    head: Any = None,
    name: str = "efficientnet",
    **block: Any,
) -> Architecture:
    """EfficientNet: stages of inverted bottlenecks, then a 1x1 convolution; default B0.

    Args:
        width: factor of all filters, which are rounded to multiples of 8; 1 does not round.
        depth: factor of all `blocks`, which are rounded up.
        filters, kernel_size, strides, expansion, padding: those of the blocks, one value or one a
            stage (a tuple of two is a (height, width) for all stages unless there are two
            stages). None is the published values, for up to seven stages. Strides apply to a
            stage's first block.
        stochastic_depth: the rate grows linearly with the block: of n blocks the i-th has
            (i - 1) / n of this rate.
        stem: arguments of `kb.ConvBlock` that replace the published ones (32 filters of 3x3
            with strides 2), or the Spec of a stem.
        top: arguments of `kb.ConvBlock` that replace the published ones (1,280 filters of 1x1)
            after the last stage, or a Spec; its row is named as one more stage.
        head: arguments of `kb.Classifier` that replace the published ones (average pool and
            dropout), or the Spec of a head.
        **block: further arguments of `kb.MBConvBlock`, one value or a list with one a stage;
            activation, normalization, bias and initializers also apply to the stem and top.

    Reference: Tan & Le 2019, arXiv:1905.11946, Table 1 and Eq. 3.
    """
    stages = staged.count_stages(blocks)
    repeats = [math.ceil(number * positive("depth", depth)) for number in blocks]
    given = (filters, kernel_size, strides, expansion)  # in the order of `_STAGES`
    pairs = zip(_STAGES.items(), given, strict=True)
    columns = {name: staged.published_or(own, old, stages) for (name, old), own in pairs}
    filters = staged.by_stage("filters", columns["filters"], stages)
    columns |= {"filters": [scaled(number, width) for number in filters], "padding": padding}
    columns |= {"activation": "silu", "normalization": staged.NORM, **block}
    arguments = staged.arguments_by_stage(stages, columns)
    shared = {"padding": "symmetric", **staged.shared_by_all(*arguments)}
    published = {"filters": scaled(32, width), "strides": 2, **shared}
    rows = [("stem", staged.part(ConvBlock, "stem", stem, published))]
    kinds = [MBConvBlock] * stages
    rows += staged.stage_rows(name, kinds, arguments, repeats, stochastic_depth, first=0)
    published = {"filters": scaled(1280, width), "kernel_size": 1, **shared}
    rows.append((f"stage{stages + 1}", staged.part(ConvBlock, "top", top, published)))
    return staged.network(name, rows, head, classes=classes, dropout=dropout)


def scaled(filters: Any, width: float) -> Any:
    """`width` times as many filters, as the nearest multiple of 8 that is at most 10 % fewer."""
    if positive("width", width) == 1 or not isinstance(filters, int):
        return filters
    rounded = max(8, int(filters * width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * filters * width else rounded + 8


# As in torchvision, B5 to B7 have TensorFlow's momentum and epsilon, because their weights come
# from there; B0 to B4 have PyTorch's. timm's `efficientnet_b5` has PyTorch's; its `tf_` networks
# have TensorFlow's, and "same" padding.
_TF: dict[str, Any] = {"normalization": Norm("batch", momentum=0.99, epsilon=1e-3)}
efficientnet_b0 = variant("efficientnet_b0", efficientnet, width=1.0, depth=1.0, dropout=0.2)
efficientnet_b1 = variant("efficientnet_b1", efficientnet, width=1.0, depth=1.1, dropout=0.2)
efficientnet_b2 = variant("efficientnet_b2", efficientnet, width=1.1, depth=1.2, dropout=0.3)
efficientnet_b3 = variant("efficientnet_b3", efficientnet, width=1.2, depth=1.4, dropout=0.3)
efficientnet_b4 = variant("efficientnet_b4", efficientnet, width=1.4, depth=1.8, dropout=0.4)
efficientnet_b5 = variant("efficientnet_b5", efficientnet, width=1.6, depth=2.2, dropout=0.4, **_TF)
efficientnet_b6 = variant("efficientnet_b6", efficientnet, width=1.8, depth=2.6, dropout=0.5, **_TF)
efficientnet_b7 = variant("efficientnet_b7", efficientnet, width=2.0, depth=3.1, dropout=0.5, **_TF)


def _lite(name: str, width: float, depth: float, dropout: float) -> Callable[..., Architecture]:
    """A Lite: ReLU6, no gates; stem and top keep B0's width, first and last stage its depth."""
    repeats = [math.ceil(number * depth) for number in _BLOCKS[1:-1]]
    blocks = (_BLOCKS[0], *repeats, _BLOCKS[-1])
    row = {"width": width, "depth": 1.0, "blocks": blocks, "dropout": dropout}
    row |= {"activation": "relu6", "squeeze_ratio": None, "padding": "same"}
    row |= {"stem": {"filters": 32, "padding": "same"}, "top": {"filters": 1280}}
    return variant(name, efficientnet, **row, **_TF)


# The table of TensorFlow's "EfficientNet-lite" (2020), without the image sizes.
efficientnet_lite0 = _lite("efficientnet_lite0", width=1.0, depth=1.0, dropout=0.2)
efficientnet_lite1 = _lite("efficientnet_lite1", width=1.0, depth=1.1, dropout=0.2)
efficientnet_lite2 = _lite("efficientnet_lite2", width=1.1, depth=1.2, dropout=0.3)
efficientnet_lite3 = _lite("efficientnet_lite3", width=1.2, depth=1.4, dropout=0.3)
efficientnet_lite4 = _lite("efficientnet_lite4", width=1.4, depth=1.8, dropout=0.3)


def _choices(row: dict[str, Any]) -> dict[str, Any]:
    """Its table's columns, gates, stem, top, head."""
    activation = row.get("activation", "silu")
    width = row["width"]
    blocks = row.get("blocks", [math.ceil(number * row["depth"]) for number in _BLOCKS])
    gate = row.get("squeeze_ratio", 0.25)
    ends = {"stem": scaled(32, width), "top": scaled(1280, width)}
    stem, top = ({"filters": n, **row.get(end, {})} for end, n in ends.items())
    stem |= {
        "filters": choices.widths(stem["filters"]),
        "kernel_size": choices.options(3, 5, 7),
        "strides": choices.options(2, 1),
        "padding": choices.paddings(stem.get("padding", "symmetric")),
    }
    return {
        "width": 1.0,
        "depth": 1.0,
        "blocks": [choices.depths(number) for number in blocks],
        "filters": [choices.widths(scaled(number, width)) for number in _STAGES["filters"]],
        "kernel_size": [choices.kernels(size) for size in _STAGES["kernel_size"]],
        "strides": [choices.options(strides, 1, 2, (2, 1)) for strides in _STAGES["strides"]],
        "expansion": [choices.options(ratio, 1, 3, 4, 6) for ratio in _STAGES["expansion"]],
        "padding": [choices.paddings(row.get("padding", "symmetric")) for _ in _BLOCKS],
        "squeeze_ratio": [choices.options(gate, 0.25, 0.125, None) for _ in _BLOCKS],
        **choices.units(row.get("normalization", staged.NORM), activation=activation),
        "stochastic_depth": choices.options(0.2, 0.0, 0.1),
        "stem": stem,
        "top": {**top, "filters": choices.widths(top["filters"])},
        "dropout": choices.options(row["dropout"], 0.0, 0.2),
        "head": {"pool": choices.options("avg", "max", "concat")},
    }


space = choices.ready_space(efficientnet, "efficientnet_b0", _choices, ("blocks", "filters"))


@naming("torchvision efficientnet")
def _torchvision_names(paths: list[str]) -> dict[str, str]:
    """torchvision numbers a block's convolutions and gate: `block.0.0`, its norm `block.0.1`."""
    names = {"stem/conv": "features.0.0", "stem/norm": "features.0.1", "head/dense": "classifier.1"}
    for stage, block, parts in _blocks_of(paths):
        unit = -1
        for path, kind, number in parts:
            unit += kind == "conv" or (kind == "gate_conv" and number == 1)
            leaf = {"conv": "0", "norm": "1"}.get(kind, f"fc{number}")
            names[path] = f"features.{stage}.{block}.block.{unit}.{leaf}"
    row, features = f"stage{_top(paths)}", f"features.{_top(paths)}"
    return names | {f"{row}/conv": f"{features}.0", f"{row}/norm": f"{features}.1"}


@naming("efficientnet_pytorch")
def _package_names(paths: list[str]) -> dict[str, str]:
    """The package efficientnet_pytorch numbers the blocks of all stages together: `_blocks.0`."""
    names = {"stem/conv": "_conv_stem", "stem/norm": "_bn0", "head/dense": "_fc"}
    for index, (_, _, parts) in enumerate(_blocks_of(paths)):
        expands = sum(kind == "conv" for _, kind, _ in parts) == 3
        convs = ["_expand_conv", "_depthwise_conv", "_project_conv"]
        leaves = {"conv": convs, "norm": ["_bn0", "_bn1", "_bn2"]}
        for path, kind, number in parts:
            role = number - 1 if expands else number
            gate = "_se_expand" if number == 2 else "_se_reduce"
            names[path] = f"_blocks.{index}.{leaves[kind][role] if kind in leaves else gate}"
    top = _top(paths)
    return names | {f"stage{top}/conv": "_conv_head", f"stage{top}/norm": "_bn1"}


@naming("timm efficientnet")
def _timm_names(paths: list[str]) -> dict[str, str]:
    """timm names a block's convolutions by kind: `conv_dw` is depthwise, the others are 1x1.

    They are `conv_pw`, `conv_dw` and `conv_pwl`; in a block without expansion `conv_dw`, `conv_pw`.
    """
    names = {"stem/conv": "conv_stem", "stem/norm": "bn1", "head/dense": "classifier"}
    gate = ["se.conv_reduce", "se.conv_expand"]
    for stage, block, parts in _blocks_of(paths):
        expands = sum(kind == "conv" for _, kind, _ in parts) == 3
        convs = ["conv_pw", "conv_dw", "conv_pwl"] if expands else ["conv_dw", "conv_pw"]
        leaves = {"conv": convs, "norm": ["bn1", "bn2", "bn3"], "gate_conv": gate}
        for path, kind, number in parts:
            names[path] = f"blocks.{stage - 1}.{block}.{leaves[kind][number - 1]}"
    top = _top(paths)
    return names | {f"stage{top}/conv": "conv_head", f"stage{top}/norm": "bn2"}


def _blocks_of(paths: list[str]) -> Iterator[tuple[int, int, list[tuple[str, str, int]]]]:
    """Yields stage (from 1), block (from 0), and path, kind and number of the block's parts."""
    blocks: dict[tuple[int, int], list[tuple[str, str, int]]] = {}
    pattern = r"stage(\d+)_block(\d+)/(?:main_)?(conv|norm|gate_conv)(\d)"
    for path in paths:
        if found := re.fullmatch(pattern, path):
            stage, block, kind, number = found.groups()
            parts = blocks.setdefault((int(stage), int(block) - 1), [])
            parts.append((path, kind, int(number)))
    return ((stage, block, parts) for (stage, block), parts in blocks.items())


def _top(paths: list[str]) -> int:
    """The number of the stage with one convolution, the top; ValueError without exactly one."""
    stages = re.findall(r"^stage(\d+)/conv$", "\n".join(paths), re.MULTILINE)
    if len(stages) != 1:
        raise ValueError("An EfficientNet has one stage of one convolution")
    return int(stages[0])
