"""Pre-activation residual networks (He et al. 2016, arXiv:1603.05027), and WRN (arXiv:1605.07146).

Networks for ImageNet follow timm's `resnetv2`, those for CIFAR the authors' resnet-1k-layers.
"""

from typing import Any

from kblocks.families.published_choices import ready_space
from kblocks.families.resnets import CIFAR_STEM, PUBLISHED, resnet, resnet_choices
from kblocks.families.stage_arguments import described
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import variant
from kblocks.networks.torch_weights import BLOCK, by_patterns, naming


@described
def preresnet(classes: int = 1000, **arguments: Any) -> Architecture:
    """`kb.resnet` with full pre-activation; by default PreResNet-50, with bottlenecks.

    Normalization and activation come before each convolution and after the last stage; the stem
    has neither.

    Args:
        **arguments: further arguments of `kb.resnet`.

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


def _choices(row: dict[str, Any]) -> dict[str, Any]:
    """As in `resnet`."""
    return resnet_choices({"order": "full_preactivation", **row})


space = ready_space(preresnet, "preresnet50", _choices, (*PUBLISHED, "order"))


@naming("timm resnetv2", as_convolutions=["head.fc"])
def _timm_names(paths: list[str]) -> dict[str, str]:
    """The first norm of a block is `norm` if both paths share it, else `main_norm1`."""
    block = "stages.{stage}.blocks.{block}"
    names = {
        "stem/conv": "stem.conv",
        BLOCK + "norm": f"{block}.norm1",
        BLOCK + "shortcut_conv": f"{block}.downsample.conv",
        BLOCK + r"main_(conv|norm)(\d)": f"{block}.{{2}}{{3}}",
        r"stage\d+_norm/norm": "norm",
        "head/dense": "head.fc",
    }
    found = by_patterns(paths, names)
    for path in paths:
        inside, _, number = path.partition("/main_norm")
        if number and f"{inside}/norm" in found:
            found[path] = f"{found[path][:-1]}{int(number) + 1}"
    return found
