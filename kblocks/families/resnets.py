"""Residual networks (He et al. 2015, arXiv:1512.03385), also wide ones (arXiv:1605.07146)."""

from typing import Any

from kblocks.blocks.convolution import ConvBlock, NormAct
from kblocks.blocks.residual import BottleneckBlock, ResidualBlock, ResNeXtBlock
from kblocks.families import stage_arguments as staged
from kblocks.families.published_choices import options, ready_space, residual_space_choices
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import variant as published
from kblocks.networks.torch_weights import BLOCK, by_patterns, naming

_BLOCKS = {"basic": ResidualBlock, "bottleneck": BottleneckBlock, "resnext": ResNeXtBlock}
_VARIANTS = {"v1": "first", "v1.5": "spatial"}
_PREACTIVATED = ("relu_only_preactivation", "full_preactivation")


@staged.described
def resnet(
    classes: int = 1000,
    *,
    block: str = "basic",
    blocks: Any = (2, 2, 2, 2),
    filters: Any = None,
    kernel_size: Any = 3,
    strides: Any = None,
    padding: Any = "symmetric",
    stochastic_depth: float = 0.0,
    stem: Any = None,
    head: Any = None,
    variant: str | None = None,
    name: str = "resnet",
    **block_arguments: Any,
) -> Architecture:
    """ResNet: a stem and stages of residual blocks; default ResNet-18, fits PyTorch's weights.

    Args:
        block: "basic" (`kb.ResidualBlock`), "bottleneck" (`kb.BottleneckBlock`) or "resnext"
            (`kb.ResNeXtBlock`).
        stem: arguments of `kb.ConvBlock` that replace the published ones (64 filters of 7x7 with
            strides 2, max pool of 3 with strides 2), or the Spec of a stem.
        variant: which convolution of a bottleneck has the strides: "v1.5" is the spatial one, as
            in published weights, "v1" the first 1x1, as in the paper.
        **block_arguments: further arguments of the block, one value or a list with one a stage;
            activation, normalization, bias and initializers also apply to the stem. In a stage
            with strides, `dilation_rate` is for all blocks but the first.

    Reference: He et al. 2015, arXiv:1512.03385, Table 1.
    """
    kind = _BLOCKS[staged.one_of("block", block, _BLOCKS)]
    stages = staged.count_stages(blocks)
    columns = {"kernel_size": kernel_size, "padding": padding, "normalization": staged.NORM}
    columns["filters"] = staged.doubled(64, stages) if filters is None else filters
    columns["strides"] = [1] + [2] * (stages - 1) if strides is None else strides
    columns |= block_arguments
    if variant is not None:
        columns["strides_on"] = _VARIANTS[staged.one_of("variant", variant, _VARIANTS)]
    arguments = staged.arguments_by_stage(stages, columns)
    first = {**staged.RESNET_STEM, **staged.shared_by_all(*arguments)}
    if all(own.get("order") == "full_preactivation" for own in arguments):
        # The first block begins with norm and activation.
        first |= {"normalization": None, "activation": None}
        first["use_bias"] = first.get("use_bias") or False
    rows = [("stem", staged.part(ConvBlock, "stem", stem, first))]
    rows += staged.stage_rows(name, [kind] * stages, arguments, blocks, stochastic_depth)
    order = arguments[-1].get("order")
    if order in _PREACTIVATED:
        last = staged.shared_by_all(arguments[-1])
        if order == "relu_only_preactivation":
            last["normalization"] = None
        rows.append((f"stage{stages}_norm", NormAct.Spec(**last)))
    return staged.network(name, rows, head, classes=classes)


resnet18 = published("resnet18", resnet, block="basic", blocks=(2, 2, 2, 2))
resnet34 = published("resnet34", resnet, block="basic", blocks=(3, 4, 6, 3))
resnet50 = published("resnet50", resnet, block="bottleneck", blocks=(3, 4, 6, 3))
resnet101 = published("resnet101", resnet, block="bottleneck", blocks=(3, 4, 23, 3))
resnet152 = published("resnet152", resnet, block="bottleneck", blocks=(3, 8, 36, 3))

# Zagoruyko & Komodakis 2016: only the spatial convolutions are wider.
_WIDE: dict[str, Any] = {"block": "bottleneck", "width": (128, 256, 512, 1024)}
wide_resnet50_2 = published("wide_resnet50_2", resnet, blocks=(3, 4, 6, 3), **_WIDE)
wide_resnet101_2 = published("wide_resnet101_2", resnet, blocks=(3, 4, 23, 3), **_WIDE)

# He et al. 2015, Sec. 4.2: 6n + 2 layers on 32x32 images, parameter-free shortcuts (option A).
CIFAR_STEM = {"filters": 16, "kernel_size": 3, "strides": 1, "pool": None}
_CIFAR: dict[str, Any] = {
    **{"classes": 10, "block": "basic", "filters": (16, 32, 64)},
    **{"shortcut": "zero_pad", "stem": CIFAR_STEM},
}
resnet20 = published("resnet20", resnet, blocks=(3, 3, 3), **_CIFAR)
resnet32 = published("resnet32", resnet, blocks=(5, 5, 5), **_CIFAR)
resnet44 = published("resnet44", resnet, blocks=(7, 7, 7), **_CIFAR)
resnet56 = published("resnet56", resnet, blocks=(9, 9, 9), **_CIFAR)
resnet110 = published("resnet110", resnet, blocks=(18, 18, 18), **_CIFAR)


def resnet_choices(row: dict[str, Any]) -> dict[str, Any]:
    """All of its stages, blocks' kind and order, shortcuts, stem, head."""
    found = {**residual_space_choices(row), "groups": [options(1, 2, 4) for _ in row["blocks"]]}
    if not row.keys() & {"width", "strides_on"}:  # arguments of bottlenecks alone
        found["block"] = options(row.get("block", "bottleneck"), "basic", "bottleneck")
    return found


PUBLISHED = ("block", "blocks", "filters", "shortcut", "stochastic_depth")
space = ready_space(resnet, "resnet18", resnet_choices, PUBLISHED)


@naming("timm resnet")
@naming("torchvision resnet")
def _torchvision_names(paths: list[str]) -> dict[str, str]:
    """`stage2_block3/main_conv1` is `layer2.2.conv1`."""
    names = {
        "stem/conv": "conv1",
        "stem/norm": "bn1",
        BLOCK + r"main_conv(\d)": "layer{0}.{block}.conv{2}",
        BLOCK + r"main_norm(\d)": "layer{0}.{block}.bn{2}",
        BLOCK + "shortcut_conv": "layer{0}.{block}.downsample.0",
        BLOCK + "shortcut_norm": "layer{0}.{block}.downsample.1",
        "head/dense": "fc",
    }
    return by_patterns(paths, names)
