"""Residual networks (He et al. 2015, arXiv:1512.03385; He et al. 2016, arXiv:1603.05027)."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY
from typing import Any, Literal

from kblocks.blocks.convolution import (
    ConvBlock,
    Convolutional,
    NormAct,
    act,
    check_convolutions,
    conv,
    norm,
)
from kblocks.catalog import naming, variant
from kblocks.families.stages import (
    PUBLISHED_NORM,
    arguments_by_stage,
    count_stages,
    made,
    part,
    rising,
    shared_by_all,
)
from kblocks.fields import Count, Padding, Rate, Size
from kblocks.heads import Classifier
from kblocks.network import Architecture
from kblocks.ops import Chain, DropPath, Merge, Op, PadChannels, Pool

Order = Literal[
    "original",
    "norm_after_addition",
    "relu_before_addition",
    "relu_only_preactivation",
    "full_preactivation",
]


class Residual(Convolutional, kw_only=True):
    """The arguments that all residual blocks have.

    Args:
        padding: "same" (as Keras), "valid", "symmetric", or the pixels on each side. Where
            the main path shrinks the map, the shortcut's input is cropped in its centre.
        order: of convolution, normalization, activation and addition, as in Fig. 4 of He et
            al. 2016: "original" (a), "norm_after_addition" (b), "relu_before_addition" (c),
            "relu_only_preactivation" (d) or "full_preactivation" (e). "relu" stands for the
            block's activation.
        shortcut: where shape changes, "projection" is a 1x1 convolution and "zero_pad" takes
            every `strides`-th pixel and appends zero channels; else both are the identity.
            "identity" refuses a change of shape.
        dilation_rate: integer or pair, of the spatial convolutions; not with strides.
        groups: of the spatial convolutions.
        stochastic_depth: the rate at which training drops the main path of a sample.
    """

    padding: Padding = "same"
    order: Order = "original"
    shortcut: Literal["projection", "zero_pad", "identity"] = "projection"
    dilation_rate: Size = 1
    groups: Count = 1
    stochastic_depth: Rate = 0.0


def residual(spec: Any, channels: int, filters: int, convolutions: list[Op]) -> Op:
    """The main path of `convolutions` and the shortcut beside it, in the order of `spec`."""
    changes = channels != filters or spec.strides != (1, 1)
    if changes and spec.shortcut == "identity":
        raise ValueError(
            "shortcut='identity' needs strides=1 and as many output as input channels. "
            f"Received: strides={spec.strides}, {channels} channels in, {filters} out"
        )
    projects = changes and spec.shortcut == "projection"
    shortcut = Chain()
    if projects:
        normed = spec.order not in ("norm_after_addition", "full_preactivation")
        padding = "same" if isinstance(spec.padding, str) else "valid"
        projection = conv(spec, filters, (1, 1), spec.strides, padding)
        shortcut = Chain(projection, norm(spec) if normed else None)
    elif changes:
        subsample = None if spec.strides == (1, 1) else Pool("max", (1, 1), spec.strides)
        shortcut = Chain(subsample, None if channels == filters else PadChannels(filters))
    drop = DropPath(spec.stochastic_depth) if spec.stochastic_depth else None
    before, main, after = _ordered(spec, convolutions, shared=projects)
    return Chain(before, Merge("add", main=Chain(main, drop), shortcut=shortcut), after)


def _ordered(spec: Any, convolutions: list[Op], shared: bool) -> tuple[Op, Op, Op]:
    """What stands before the two paths, on the main path, and behind the addition."""
    bn, relu = norm(spec), act(spec)
    first, *rest = convolutions
    between = [op for convolution in rest for op in (bn, relu, convolution)]
    match spec.order:
        case "original":
            return None, Chain(first, *between, bn), relu
        case "norm_after_addition":
            return None, Chain(first, *between), Chain(bn, relu)
        case "relu_before_addition":
            return None, Chain(first, *between, bn, relu), None
        case "relu_only_preactivation":
            return None, Chain(*(op for c in convolutions for op in (relu, c, bn))), None
    if shared:
        return Chain(bn, relu), Chain(first, *between), None
    return None, Chain(bn, relu, first, *between), None


class ResidualBlock(Residual):
    """Two convolutions and a shortcut.

    Args:
        filters: output channels of both convolutions.
        kernel_size: of both convolutions; integer or pair (height, width).
        strides: of the first convolution and the shortcut.
        ...: see `Residual` and `Convolutional`.

    Input shape: (batch, height, width, channels).
    Output shape: (batch, new_height, new_width, filters).

    Raises:
        ValueError: if an argument is not of the documented form or does not fit the input.

    Reference: He et al. 2015, arXiv:1512.03385, Fig. 2; orders: arXiv:1603.05027, Fig. 4.
    """

    filters: Count
    kernel_size: Size = 3
    strides: Size = 1

    def check(self) -> None:
        check_convolutions(self)

    def plan(self, channels: int) -> Op:
        shared = {"dilation_rate": self.dilation_rate, "groups": self.groups}
        first = conv(self, self.filters, self.kernel_size, self.strides, **shared)
        second = conv(self, self.filters, self.kernel_size, **shared)
        return residual(self, channels, self.filters, [first, second])


class BottleneckBlock(Residual):
    """A 1x1 convolution to `filters`, a spatial one, a 1x1 to `expansion * filters`; a shortcut.

    Args:
        filters: channels of the first two convolutions: the width of the bottleneck.
        kernel_size: of the middle convolution; integer or pair (height, width).
        strides: of the middle convolution (or the first, see `strides_on`) and the shortcut.
        expansion: the output has `expansion * filters` channels.
        strides_on: "spatial" puts the strides on the middle convolution, as published weights
            have it ("v1.5"); "first" on the first 1x1, as the paper has it.
        ...: see `Residual` and `Convolutional`.

    Input shape: (batch, height, width, channels).
    Output shape: (batch, new_height, new_width, expansion * filters).

    Raises:
        ValueError: if an argument is not of the documented form or does not fit the input.

    Reference: He et al. 2015, arXiv:1512.03385, Fig. 5; orders: arXiv:1603.05027, Fig. 4.
    """

    filters: Count
    kernel_size: Size = 3
    strides: Size = 1
    _: KW_ONLY
    expansion: Count = 4
    strides_on: Literal["spatial", "first"] = "spatial"

    def check(self) -> None:
        check_convolutions(self)

    def plan(self, channels: int) -> Op:
        outputs = self.expansion * self.filters
        padding = "same" if isinstance(self.padding, str) else "valid"
        first = self.strides_on == "first"
        spatial = conv(
            self,
            self.filters,
            self.kernel_size,
            (1, 1) if first else self.strides,
            dilation_rate=self.dilation_rate,
            groups=self.groups,
        )
        reduce = conv(self, self.filters, (1, 1), self.strides if first else (1, 1), padding)
        expand = conv(self, outputs, (1, 1), padding=padding)
        return residual(self, channels, outputs, [reduce, spatial, expand])


_BLOCKS = {"basic": ResidualBlock, "bottleneck": BottleneckBlock}
_PREACTIVATED = ("relu_only_preactivation", "full_preactivation")


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
    name: str = "resnet",
    **block_arguments: Any,
) -> Architecture:
    """A stem and stages of residual blocks; by default ResNet-18 as PyTorch's weights have it.

    Args:
        classes: number of logits.
        block: "basic" (`kb.ResidualBlock`) or "bottleneck" (`kb.BottleneckBlock`).
        blocks: blocks of each stage; fixes the number of stages.
        filters, kernel_size, strides, padding: of the blocks, one value or one a stage (a tuple
            of two is a pair for all stages unless there are two). `filters` None doubles from
            64. Strides are those of a stage's first block; None is 1, then 2 for each stage.
        stochastic_depth: the rate of the last block; grows linearly from the first.
        stem: arguments of `kb.ConvBlock` that replace the published ones (64 filters of 7x7 with
            strides 2, max pool of 3 with strides 2), or the Spec of a stem.
        head: arguments of `kb.Classifier` that replace the published ones (average pool), or
            the Spec of a head.
        name: of the model.
        **block_arguments: further arguments of the block, one value or a list with one a stage;
            activation, normalization, bias and initializers are the stem's too.

    Raises:
        ValueError, TypeError: if an argument does not fit, with its name and stage.

    Reference: He et al. 2015, arXiv:1512.03385, Table 1.
    """
    if block not in _BLOCKS:
        raise ValueError(f"`block` must be one of {list(_BLOCKS)}. Received: block={block!r}")
    stages = count_stages(blocks)
    columns = {
        "filters": [64 * 2**stage for stage in range(stages)] if filters is None else filters,
        "kernel_size": kernel_size,
        "strides": [1] + [2] * (stages - 1) if strides is None else strides,
        "padding": padding,
    }
    options = {"normalization": PUBLISHED_NORM, **block_arguments}
    arguments = arguments_by_stage(stages, {**columns, **options})
    rates = rising(stochastic_depth, blocks) if stochastic_depth else [[0.0] * n for n in blocks]
    rows = [("stem", _stem(options, stem))]
    for i, (own, depths) in enumerate(zip(arguments, rates, strict=True), 1):
        specs = _stage(_BLOCKS[block], f"{name}, stage {i}", own, depths)
        rows += [(f"stage{i}_block{j}", spec) for j, spec in enumerate(specs, 1)]
    order = arguments[-1].get("order")
    if order in _PREACTIVATED:
        last = shared_by_all(arguments[-1])
        if order == "relu_only_preactivation":
            last["normalization"] = None
        rows.append((f"stage{stages}_norm", NormAct.Spec(**last)))
    return Architecture(rows, head=part(Classifier, "head", head, {"classes": classes}), name=name)


def _stem(options: dict[str, Any], given: Any) -> Any:
    published = {
        "filters": 64,
        "kernel_size": 7,
        "strides": 2,
        "padding": "symmetric",
        "pool": "max",
        "pool_size": 3,
        "pool_strides": 2,
        "pool_padding": "symmetric",
        **shared_by_all(options),
    }
    if options.get("order") == "full_preactivation":  # the first block begins with both
        published |= {"normalization": None, "activation": None}
        published["use_bias"] = options.get("use_bias") or False
    return part(ConvBlock, "stem", given, published)


def _stage(block: Any, place: str, arguments: dict[str, Any], depths: list[float]) -> list[Any]:
    """The Specs of one stage: the first with the stage's strides, equal ones made once."""
    first = made(block, place, arguments)
    if any(depths):
        first = first.replace(stochastic_depth=depths[0])
        return [first, *(first.replace(strides=1, stochastic_depth=rate) for rate in depths[1:])]
    return [first] + [first.replace(strides=1)] * (len(depths) - 1)


resnet18 = variant("resnet18", resnet, block="basic", blocks=(2, 2, 2, 2))
resnet34 = variant("resnet34", resnet, block="basic", blocks=(3, 4, 6, 3))
resnet50 = variant("resnet50", resnet, block="bottleneck", blocks=(3, 4, 6, 3))
resnet101 = variant("resnet101", resnet, block="bottleneck", blocks=(3, 4, 23, 3))
resnet152 = variant("resnet152", resnet, block="bottleneck", blocks=(3, 8, 36, 3))

# He et al. 2015, Sec. 4.2: 6n + 2 layers on 32x32 images, parameter-free shortcuts (option A).
_CIFAR: dict[str, Any] = {
    "classes": 10,
    "block": "basic",
    "filters": (16, 32, 64),
    "shortcut": "zero_pad",
    "stem": {"filters": 16, "kernel_size": 3, "strides": 1, "pool": None},
}
resnet20 = variant("resnet20", resnet, blocks=(3, 3, 3), **_CIFAR)
resnet32 = variant("resnet32", resnet, blocks=(5, 5, 5), **_CIFAR)
resnet44 = variant("resnet44", resnet, blocks=(7, 7, 7), **_CIFAR)
resnet56 = variant("resnet56", resnet, blocks=(9, 9, 9), **_CIFAR)
resnet110 = variant("resnet110", resnet, blocks=(18, 18, 18), **_CIFAR)


@naming("torchvision resnet")
def _torchvision_names(paths: list[str]) -> dict[str, str]:
    """`stage2_block3/main_conv1` is `layer2.2.conv1`."""
    top = {"stem/conv": "conv1", "stem/norm": "bn1", "head/dense": "fc"}
    inner = {"conv": "conv", "norm": "bn"}
    shortcut = {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}
    names = {}
    for path in paths:
        if path in top:
            names[path] = top[path]
        elif found := re.fullmatch(r"stage(\d+)_block(\d+)/(\w+)", path):
            stage, block, part = found[1], int(found[2]) - 1, found[3]
            if kind := re.fullmatch(r"main_(conv|norm)(\d)", part):
                names[path] = f"layer{stage}.{block}.{inner[kind[1]]}{kind[2]}"
            elif part in shortcut:
                names[path] = f"layer{stage}.{block}.{shortcut[part]}"
    return names
