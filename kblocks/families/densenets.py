"""Densely connected networks (Huang et al. 2016, arXiv:1608.06993)."""

import re
from collections.abc import Mapping
from types import NoneType
from typing import Any

from kblocks.blocks.convolution import ConvBlock, NormAct
from kblocks.blocks.dense_block import DenseBlock, TransitionBlock
from kblocks.families import published_choices as choices
from kblocks.families import stage_arguments as staged
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import variant
from kblocks.networks.torch_weights import by_patterns, naming


@staged.described
def densenet(
    classes: int = 1000,
    *,
    blocks: Any = (6, 12, 24, 16),
    growth_rate: Any = 32,
    bottleneck: Any = 4,
    kernel_size: Any = 3,
    padding: Any = "symmetric",
    compression: Any = 0.5,
    strides: Any = 2,
    transition: Any = None,
    stem: Any = None,
    head: Any = None,
    name: str = "densenet",
    **block: Any,
) -> Architecture:
    """DenseNet: a stem, and dense blocks with transitions between them; default DenseNet-121.

    Args:
        blocks: number of layers in each stage's dense block, one entry a stage.
        growth_rate, bottleneck, kernel_size, padding: those of the dense blocks, one value or one
            a stage (a tuple of two is a (height, width) for all stages unless there are two
            stages).
        compression, strides: those of the transitions, which begin all stages but the first; one
            value or one a transition.
        transition: further arguments of `kb.TransitionBlock`, each one value or a list with one a
            transition.
        stem: arguments of `kb.ConvBlock` that replace the published ones (7x7 with strides 2 and
            twice the growth rate in filters, max pool of 3 with strides 2), or the Spec of a stem.
        **block: further arguments of `kb.DenseBlock`, one value or a list with one a stage;
            activation, normalization, bias and initializers also apply to transitions and stem.

    Reference: Huang et al. 2016, arXiv:1608.06993, Table 1.
    """
    stages = staged.count_stages(blocks)
    columns = {"growth_rate": growth_rate, "bottleneck": bottleneck, "kernel_size": kernel_size}
    columns |= {"depth": list(blocks), "padding": padding, "normalization": staged.NORM, **block}
    arguments = staged.arguments_by_stage(stages, columns)
    dense = [
        staged.spec_of(DenseBlock, f"{name}, stage {i}", own) for i, own in enumerate(arguments, 1)
    ]
    published = {**staged.RESNET_STEM, "filters": 2 * dense[0].growth_rate}
    published |= staged.shared_by_all(*arguments)
    rows = [("stem", staged.part(ConvBlock, "stem", stem, published)), ("stage1_block1", dense[0])]
    if not isinstance(transition, (Mapping, NoneType)):
        raise ValueError(
            "`transition` must be a mapping of TransitionBlock's arguments or None. "
            f"Received: transition={transition!r}"
        )
    between = {"compression": compression, "strides": strides, **(transition or {})}
    for i, own in enumerate(staged.arguments_by_stage(stages - 1, between, "transitions"), 1):
        shared = staged.shared_by_all(arguments[i - 1])
        spec = staged.spec_of(TransitionBlock, f"{name}, transition {i}", {**shared, **own})
        rows += [(f"stage{i + 1}_transition", spec), (f"stage{i + 1}_block1", dense[i])]
    rows.append((f"stage{stages}_norm", NormAct.Spec(**staged.shared_by_all(arguments[-1]))))
    return staged.network(name, rows, head, classes=classes)


densenet121 = variant("densenet121", densenet, blocks=(6, 12, 24, 16))
densenet161 = variant("densenet161", densenet, blocks=(6, 12, 36, 24), growth_rate=48)
densenet169 = variant("densenet169", densenet, blocks=(6, 12, 32, 32))
densenet201 = variant("densenet201", densenet, blocks=(6, 12, 48, 32))

# Sec. 3, "Implementation Details": for 32x32 images, a bare convolution and three dense blocks.
# A network of L layers has (L - 4) / 3 in each block, or half as many with bottlenecks.
_BARE = {"normalization": None, "activation": None, "use_bias": False, "pool": None}
_SMALL = {"kernel_size": 3, "strides": 1, **_BARE}
_CIFAR: dict[str, Any] = {"classes": 10, "growth_rate": 12}
_PLAIN = {**_CIFAR, "bottleneck": None, "compression": 1.0, "stem": {"filters": 16, **_SMALL}}
densenet40_12 = variant("densenet40_12", densenet, blocks=(12, 12, 12), **_PLAIN)
_COMPRESSED = {**_CIFAR, "stem": _SMALL}
densenet_bc100_12 = variant("densenet_bc100_12", densenet, blocks=(16, 16, 16), **_COMPRESSED)


def _choices(row: dict[str, Any]) -> dict[str, Any]:
    """All of its stages and transitions, stem, head."""
    stages = len(row["blocks"])
    growth, compression = row.get("growth_rate", 32), row.get("compression", 0.5)
    bottleneck = row.get("bottleneck", 4)
    groups = {"groups": [choices.options(1, 2, 4) for _ in range(stages)]}
    return {
        **(groups if growth % 8 == 0 else {}),
        "blocks": [choices.depths(number) for number in row["blocks"]],
        "growth_rate": [choices.widths(growth) for _ in range(stages)],
        "bottleneck": [choices.options(bottleneck, 4, 2, None) for _ in range(stages)],
        "kernel_size": [choices.kernels() for _ in range(stages)],
        "padding": [choices.paddings() for _ in range(stages)],
        "dilation_rate": [choices.options(1, 2) for _ in range(stages)],
        "dropout": choices.options(0.0, 0.2),
        **choices.units(staged.NORM),
        "compression": [choices.options(compression, 0.5, 1.0) for _ in range(stages - 1)],
        "strides": [choices.options(2, 1, (2, 1)) for _ in range(stages - 1)],
        "transition": {
            "kernel_size": choices.options(1, 3),
            "pool": choices.options("avg", "max"),
            "pool_size": choices.options(None, 2, 3),
        },
        "stem": choices.stems({"filters": 2 * growth, **row.get("stem", {})}),
        "head": {"pool": choices.options("avg", "max", "concat")},
    }


PUBLISHED = ("blocks", "growth_rate", "bottleneck", "compression", "dropout")
space = choices.ready_space(densenet, "densenet121", _choices, PUBLISHED)


_NAMES = {
    "stem/conv": "features.conv0",
    "stem/norm": "features.norm0",
    r"stage(\d+)_block1/layer(\d+)_(conv|norm)": "features.denseblock{0}.denselayer{1}.{2}1",
    r"stage(\d+)_block1/layer(\d+)_(conv|norm)(\d)": "features.denseblock{0}.denselayer{1}.{2}{3}",
    r"stage(?P<before>\d+)_transition/(conv|norm)": "features.transition{before}.{1}",
    r"stage\d+_norm/norm": "features.norm5",
    "head/dense": "classifier",
}


@naming("timm densenet")
@naming("torchvision densenet")
def _torchvision_names(paths: list[str]) -> dict[str, str]:
    """`stage2_block1/layer3_conv1` is `features.denseblock2.denselayer3.conv1`."""
    return by_patterns(paths, _NAMES)


@naming("torchvision densenet, files")
def _older_names(paths: list[str]) -> dict[str, str]:
    """The names in torchvision's older weight files: `conv.1` for `conv1`."""
    names = by_patterns(paths, _NAMES)
    return {path: re.sub(r"(denselayer.*)(\d)$", r"\1.\2", name) for path, name in names.items()}
