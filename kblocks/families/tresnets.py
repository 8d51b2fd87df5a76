"""TResNets (Ridnik et al. 2020, arXiv:2003.13630), as in timm.

In-place activated batch norm saves memory; its result is batch norm, then leaky ReLU.
"""

from typing import Any

from kblocks.blocks.anti_aliased import SpaceToDepthStem, TResNetBasicBlock, TResNetBottleneckBlock
from kblocks.blocks.fields import leaky_relu
from kblocks.families import published_choices as choices
from kblocks.families import stage_arguments as staged
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import variant
from kblocks.networks.torch_weights import BLOCK, by_patterns, naming

_BLOCKS: dict[str, Any] = {"basic": TResNetBasicBlock, "bottleneck": TResNetBottleneckBlock}


@staged.described
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
        block: "basic" (`kb.TResNetBasicBlock`) or "bottleneck" (`kb.TResNetBottleneckBlock`), one
            value or a list with one a stage; None is basic in the first two stages.
        expansion: expansion of the bottlenecks, one value or one a stage.
        stem: arguments of `kb.SpaceToDepthStem` that replace the published ones (as many filters
            as the first stage, 3x3, squares of 4x4 pixels), or the Spec of a stem.
        **block_arguments: further arguments of the blocks, one value or a list with one a stage.
            `squeeze_ratio` is by default that of the block's class, and None in the last stage;
            in a stage with strides, `dilation_rate` is for all blocks but the first.
            Normalization, bias, initializers and a given activation also apply to the stem.

    Reference: Ridnik et al. 2020, arXiv:2003.13630, Sec. 2; timm 1.0.31.
    """
    stages = staged.count_stages(blocks)
    if block is None:
        block = ["basic" if stage < 2 else "bottleneck" for stage in range(stages)]
    names = staged.by_stage("block", block, stages)
    kinds = [_BLOCKS[staged.one_of("block", known, _BLOCKS)] for known in names]
    columns = {"kernel_size": kernel_size, "padding": padding, "normalization": staged.NORM}
    columns["filters"] = staged.doubled(64, stages) if filters is None else filters
    columns["strides"] = [1] + [2] * (stages - 1) if strides is None else strides
    ratios = [kind.Spec._defaults["squeeze_ratio"] for kind in kinds[:-1]]
    columns |= {"squeeze_ratio": [*ratios, None], **block_arguments}
    arguments = staged.arguments_by_stage(stages, columns)
    first = {"filters": arguments[0]["filters"], "padding": "symmetric"}
    first |= {"activation": leaky_relu(1e-2), **staged.shared_by_all(*arguments)}
    rows = [("stem", staged.part(SpaceToDepthStem, "stem", stem, first))]
    expansions = staged.by_stage("expansion", expansion, stages)
    for kind, own, expand in zip(kinds, arguments, expansions, strict=True):
        if kind is TResNetBottleneckBlock:
            own["expansion"] = expand
    rows += staged.stage_rows(name, kinds, arguments, blocks, stochastic_depth)
    return staged.network(name, rows, head, classes=classes)


tresnet_m = variant("tresnet_m", tresnet, blocks=(3, 4, 11, 3))
# The first widths are 64 times 1.2 and 1.3, rounded down; each stage doubles them.
tresnet_l = variant("tresnet_l", tresnet, blocks=(4, 5, 18, 3), filters=(76, 152, 304, 608))
tresnet_xl = variant("tresnet_xl", tresnet, blocks=(4, 5, 24, 3), filters=(83, 166, 332, 664))


def _choices(row: dict[str, Any]) -> dict[str, Any]:
    """Blocks, all of its stages, blurs, gates, stem, head."""
    kinds = ("basic", "basic", "bottleneck", "bottleneck")
    ratios = (0.25, 0.25, 0.5, None)
    return {
        "block": [choices.options(kind, "basic", "bottleneck") for kind in kinds],
        **choices.residual_choices(row),
        "activation": choices.options(leaky_relu(1e-3), "relu", "silu"),
        "last_activation": choices.options("relu", "silu"),
        "expansion": [choices.options(4, 2) for _ in range(4)],
        "blur_size": [choices.options(3, 5, None) for _ in range(4)],
        "squeeze_ratio": [choices.options(ratio, 0.25, 0.5, None) for ratio in ratios],
        "stem": {
            "filters": choices.widths(row.get("filters", [64])[0]),
            "kernel_size": choices.options(3, 5, 7),
            "padding": choices.paddings(),
            "block_size": choices.options(4, 2, 1),
            "activation": leaky_relu(1e-2),
        },
        "head": {"pool": choices.options("avg", "max", "concat")},
    }


space = choices.ready_space(
    tresnet, "tresnet_m", _choices, ("block", "blocks", "filters", "blur_size", "squeeze_ratio")
)


@naming("timm tresnet")
def _timm_names(paths: list[str]) -> dict[str, str]:
    """`stage2_block3/main_conv1` is `body.layer2.2.conv1.conv`."""
    if "stem/space_to_depth" not in paths:
        raise ValueError("TResNet has a space-to-depth stem")
    block = "body.layer{0}.{block}"
    names = {
        "stem/conv": "body.conv1.conv",
        "stem/norm": "body.conv1.bn",
        BLOCK + r"main_gate_conv(\d)": f"{block}.se.fc{{2}}",
        BLOCK + r"main_conv(\d)": f"{block}.conv{{2}}.conv",
        BLOCK + r"main_norm(\d)": f"{block}.conv{{2}}.bn",
        BLOCK + "shortcut_conv": f"{block}.downsample.0.conv",
        BLOCK + "shortcut_norm": f"{block}.downsample.0.bn",
        "head/dense": "head.fc",
    }
    found = by_patterns(paths, names)
    for path in paths:
        inside, _, kind = path.partition("/shortcut_")
        if kind and f"{inside}/shortcut_pooling" in paths and path in found:
            found[path] = found[path].replace("downsample.0", "downsample.1")
    return found
