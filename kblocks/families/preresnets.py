"""Pre-activation residual networks (He et al. 2016, arXiv:1603.05027), and WRN (arXiv:1605.07146).

Networks for ImageNet follow timm's `resnetv2`, those for CIFAR the authors' resnet-1k-layers.
"""

from __future__ import annotations

import re
from typing import Any

from kblocks.families.resnets import CIFAR_STEM, residual_space, resnet
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import member, variant
from kblocks.networks.torch_weights import naming
from kblocks.search_space.space import Space


def preresnet(classes: int = 1000, **arguments: Any) -> Architecture:
    """`kb.resnet` with full pre-activation; by default PreResNet-50, with bottlenecks.

    Normalization and activation come before each convolution and after the last stage; the stem
    has neither.

    Args:
        classes: number of logits.
        **arguments: further arguments of `kb.resnet`.

    Raises:
        ValueError, TypeError: if an argument does not fit; the message names it and the stage.

    Reference: He et al. 2016, arXiv:1603.05027, Fig. 4 e.
    """
    published = {"block": "bottleneck", "blocks": (3, 4, 6, 3), "name": "preresnet"}
    return resnet(classes, **{"order": "full_preactivation", **published, **arguments})


preresnet50 = variant("preresnet50", preresnet, blocks=(3, 4, 6, 3))
preresnet101 = variant("preresnet101", preresnet, blocks=(3, 4, 23, 3))
preresnet152 = variant("preresnet152", preresnet, blocks=(3, 8, 36, 3))

_CIFAR: dict[str, Any] = {"classes": 10, "filters": (16, 32, 64), "stem": CIFAR_STEM}
_BOTTLENECK = {**_CIFAR, "block": "bottleneck", "strides_on": "first"}
preresnet110 = variant("preresnet110", preresnet, **_CIFAR, block="basic", blocks=(18, 18, 18))
preresnet164 = variant("preresnet164", preresnet, **_BOTTLENECK, blocks=(18, 18, 18))
preresnet1001 = variant("preresnet1001", preresnet, **_BOTTLENECK, blocks=(111, 111, 111))
resnet1001 = variant("resnet1001", preresnet, **_BOTTLENECK, blocks=(111, 111, 111))

_WIDE = {**_CIFAR, "block": "basic", "filters": (160, 320, 640)}
wrn28_10 = variant("wrn28_10", preresnet, **_WIDE, blocks=(4, 4, 4))


def space(name: str = "preresnet50", **arguments: Any) -> Space:
    """A space around the published network `name`: depth, widths, kernels, strides, padding.

    Args:
        name: the published network of this family that is the default point.
        arguments: arguments of `kb.preresnet` that replace the space's own; they may contain
            choices.
    """
    return residual_space(*member(name, preresnet), arguments)


@naming("timm resnetv2", as_convolutions=["head.fc"])
def _timm_names(paths: list[str]) -> dict[str, str]:
    """`stage2_block3/main_conv1` is `stages.1.blocks.2.conv1`.

    The first norm of a block is `norm` if both paths share it, else `main_norm1`.
    """
    names = {"stem/conv": "stem.conv", "head/dense": "head.fc"}
    for path in paths:
        found = re.fullmatch(r"stage(\d+)_block(\d+)/(\w+)", path)
        if re.fullmatch(r"stage\d+_norm/norm", path):
            names[path] = "norm"
        elif found:
            block = f"stages.{int(found[1]) - 1}.blocks.{int(found[2]) - 1}"
            part = found[3]
            shared = f"{path.rsplit('/', 1)[0]}/norm" in paths
            if part == "norm":
                names[path] = f"{block}.norm1"
            elif part == "shortcut_conv":
                names[path] = f"{block}.downsample.conv"
            elif kind := re.fullmatch(r"main_(conv|norm)(\d)", part):
                number = int(kind[2]) + (shared and kind[1] == "norm")
                names[path] = f"{block}.{kind[1]}{number}"
    return names
