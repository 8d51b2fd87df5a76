"""TResNets (Ridnik et al. 2020, arXiv:2003.13630), as in timm.

In-place activated batch norm saves memory; its result is batch norm, then leaky ReLU.
"""

from __future__ import annotations

import re
from typing import Any

from kblocks.blocks.anti_aliased import (
    SpaceToDepthStem,
    TResNetBasicBlock,
    TResNetBottleneckBlock,
)
from kblocks.blocks.fields import leaky_relu
from kblocks.families.published_choices import options, residual_choices, widths
from kblocks.families.stage_arguments import (
    PUBLISHED_NORM,
    arguments_by_stage,
    by_stage,
    count_stages,
    doubled,
    one_for_all,
    part,
    rising,
    shared_by_all,
    stage_rows,
)
from kblocks.heads import Classifier
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import member, variant
from kblocks.networks.torch_weights import naming
from kblocks.search_space.space import Space

_BLOCKS: dict[str, Any] = {"basic": TResNetBasicBlock, "bottleneck": TResNetBottleneckBlock}


def tresnet(
    classes: int = 1000,
    *,
    block: Any = None,
    blocks: Any = (3, 4, 11, 3),
    filters: Any = None,
    kernel_size: Any = 3,
    strides: Any = None,
    padding: Any = "symmetric",
    expansion: Any = 4,
    stochastic_depth: float = 0.0,
    stem: Any = None,
    head: Any = None,
    name: str = "tresnet",
    **block_arguments: Any,
) -> Architecture:
    """TResNet: a space-to-depth stem and anti-aliased residual blocks; default TResNet-M.

    Args:
        classes: number of logits.
        block: "basic" (`kb.TResNetBasicBlock`) or "bottleneck" (`kb.TResNetBottleneckBlock`), one
            value or a list with one a stage; None is basic in the first two stages.
        blocks: number of blocks in each stage, one entry a stage.
        filters, kernel_size, strides, padding: those of the blocks, one value or one a stage (a
            tuple of two is a (height, width) for all stages unless there are two stages).
            `filters` None is 64, doubled with each stage. Strides apply to a stage's first block;
            None is 1 for the first stage and 2 for the others.
        expansion: expansion of the bottlenecks, one value or one a stage.
        stochastic_depth: the rate of the last block; of n blocks the i-th has i / n of it.
        stem: arguments of `kb.SpaceToDepthStem` that replace the published ones (as many filters
            as the first stage, 3x3, squares of 4x4 pixels), or the Spec of a stem.
        head: arguments of `kb.Classifier` that replace the published ones (average pool), or
            the Spec of a head.
        name: name of the model.
        **block_arguments: further arguments of the blocks, one value or a list with one a stage.
            `squeeze_ratio` is by default that of the block's class, and None in the last stage.
            Normalization, bias, initializers and a given activation also apply to the stem.

    Raises:
        ValueError, TypeError: if an argument does not fit; the message names it and the stage.

    Reference: Ridnik et al. 2020, arXiv:2003.13630, Sec. 2; timm 1.0.31.
    """
    stages = count_stages(blocks)
    if block is None:
        block = ["basic" if stage < 2 else "bottleneck" for stage in range(stages)]
    kinds = [_kind(value) for value in by_stage("block", block, stages)]
    columns = {
        "filters": doubled(64, stages) if filters is None else filters,
        "kernel_size": kernel_size,
        "strides": [1] + [2] * (stages - 1) if strides is None else strides,
        "padding": padding,
        "squeeze_ratio": [kind.Spec._defaults["squeeze_ratio"] for kind in kinds[:-1]] + [None],
    }
    options = one_for_all(stages, {"normalization": PUBLISHED_NORM, **block_arguments})
    arguments = arguments_by_stage(stages, {**columns, **options})
    first = {"filters": arguments[0]["filters"], "padding": "symmetric"}
    first |= {"activation": leaky_relu(1e-2), **shared_by_all(options)}
    rows = [("stem", part(SpaceToDepthStem, "stem", stem, first))]
    expansions = by_stage("expansion", expansion, stages)
    rates = rising(stochastic_depth, blocks)
    for kind, own, expand in zip(kinds, arguments, expansions, strict=True):
        if kind is TResNetBottleneckBlock:
            own["expansion"] = expand
    rows += stage_rows(name, kinds, arguments, rates)
    return Architecture(rows, head=part(Classifier, "head", head, {"classes": classes}), name=name)


def _kind(value: Any) -> Any:
    if not isinstance(value, str) or value not in _BLOCKS:
        raise ValueError(f"`block` must be one of {list(_BLOCKS)}. Received: block={value!r}")
    return _BLOCKS[value]


tresnet_m = variant("tresnet_m", tresnet, blocks=(3, 4, 11, 3))
# The first widths are 64 times 1.2 and 1.3, rounded down; each stage doubles them.
tresnet_l = variant("tresnet_l", tresnet, blocks=(4, 5, 18, 3), filters=(76, 152, 304, 608))
tresnet_xl = variant("tresnet_xl", tresnet, blocks=(4, 5, 24, 3), filters=(83, 166, 332, 664))


def space(name: str = "tresnet_m", **arguments: Any) -> Space:
    """A space around the published network `name`: blocks, depth, widths, kernels, strides, blurs.

    Args:
        name: the published network of this family that is the default point.
        arguments: arguments of `kb.tresnet` that replace the space's own; they may contain choices.
    """
    build, row = member(name, tresnet)
    kinds = ("basic", "basic", "bottleneck", "bottleneck")
    opened = {
        "block": [options(kind, "basic", "bottleneck") for kind in kinds],
        **residual_choices(row),
        "expansion": [options(4, 2) for _ in range(4)],
        "blur_size": [options(3, 5, None) for _ in range(4)],
        "squeeze_ratio": [options(ratio, 0.25, 0.5, None) for ratio in (0.25, 0.25, 0.5, None)],
        "stem": {"filters": widths(row.get("filters", [64])[0]), "block_size": options(4, 2, 1)},
        "head": {"pool": options("avg", "max", "concat")},
    }
    return Space(build, **{**opened, **arguments})


@naming("timm tresnet")
def _timm_names(paths: list[str]) -> dict[str, str]:
    """`stage2_block3/main_conv1` is `body.layer2.2.conv1.conv`."""
    if "stem/space_to_depth" not in paths:
        raise ValueError("TResNet has a space-to-depth stem")
    names = {
        "stem/conv": "body.conv1.conv",
        "stem/norm": "body.conv1.bn",
        "head/dense": "head.fc",
    }
    leaves = {"conv": "conv", "norm": "bn"}
    for path in paths:
        found = re.fullmatch(r"stage(\d+)_block(\d+)/(\w+?)_(conv|norm)(\d?)", path)
        if not found:
            continue
        stage, number, place, kind, index = found.groups()
        block = f"body.layer{stage}.{int(number) - 1}"
        if place == "main_gate":
            names[path] = f"{block}.se.fc{index}"
        elif place == "main":
            names[path] = f"{block}.conv{index}.{leaves[kind]}"
        else:
            position = int(f"{path.rsplit('/', 1)[0]}/shortcut_pooling" in paths)
            names[path] = f"{block}.downsample.{position}.{leaves[kind]}"
    return names
