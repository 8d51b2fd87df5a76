"""VGG networks (Simonyan & Zisserman 2014, arXiv:1409.1556)."""

from typing import Any

from kblocks.families import published_choices as choices
from kblocks.families import stage_arguments as staged
from kblocks.families.alexnets import linear_head_choices, plain_rows, with_linear_head
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import variant
from kblocks.networks.torch_weights import naming


@staged.described
def vgg(
    classes: int = 1000,
    *,
    blocks: Any = (1, 1, 2, 2, 2),
    filters: Any = None,
    kernel_size: Any = 3,
    strides: Any = 1,
    padding: Any = "symmetric",
    head: Any = None,
    name: str = "vgg",
    **block: Any,
) -> Architecture:
    """VGG: stages of plain convolutions, each with a max pool at its end; by default VGG-11.

    Args:
        blocks: number of convolutions in each stage, one entry a stage.
        filters, kernel_size, strides, padding: those of the convolutions, one value or one a
            stage (a tuple of two is a (height, width) for all stages unless there are two
            stages). `filters` None is 64, doubled with each stage up to 512. Strides apply to a
            stage's first convolution.
        head: arguments of `kb.Classifier` that replace the published ones (a map averaged to
            7x7, two hidden layers of 4,096 with dropout), or the Spec of a head. Images below 224
            pixels end in a smaller map, which is enlarged to 7x7; head={"pool_size": None} leaves
            it as it is: at 64 a step takes a quarter less, and the head has fewer weights.
        **block: further arguments of `kb.ConvBlock`, one value or a list with one a stage.
    """
    stages = staged.count_stages(blocks)
    columns = {"kernel_size": kernel_size, "strides": strides, "padding": padding}
    columns |= {"convolutions": list(blocks), "normalization": None, "pool": "max"}
    columns["filters"] = _filters(stages) if filters is None else filters
    rows = plain_rows(name, staged.arguments_by_stage(stages, {**columns, **block}))
    return with_linear_head(name, rows, head, classes=classes, pool_size=7)


def _filters(stages: int) -> list[int]:
    """The published filters of each stage: 64, doubled with each stage up to 512."""
    return [min(number, 512) for number in staged.doubled(64, stages)]


_A, _B, _D, _E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)
_BN = {"normalization": staged.NORM, "use_bias": True}  # published with a bias despite the norm

vgg11 = variant("vgg11", vgg, blocks=_A)
vgg13 = variant("vgg13", vgg, blocks=_B)
vgg16 = variant("vgg16", vgg, blocks=_D)
vgg19 = variant("vgg19", vgg, blocks=_E)
vgg11_bn = variant("vgg11_bn", vgg, blocks=_A, **_BN)
vgg13_bn = variant("vgg13_bn", vgg, blocks=_B, **_BN)
vgg16_bn = variant("vgg16_bn", vgg, blocks=_D, **_BN)
vgg19_bn = variant("vgg19_bn", vgg, blocks=_E, **_BN)


def _choices(row: dict[str, Any]) -> dict[str, Any]:
    """All of its stages and pools, head."""
    stages = len(row["blocks"])
    norm = row.get("normalization")
    return {
        "blocks": [choices.depths(number) for number in row["blocks"]],
        "filters": [choices.widths(number) for number in _filters(stages)],
        "kernel_size": [choices.kernels() for _ in range(stages)],
        **choices.pooled_stages(["max"] * stages, size=2),
        **choices.units(norm, staged.NORM, None),
        "head": linear_head_choices(),
    }


space = choices.ready_space(vgg, "vgg11", _choices, ("blocks", "kernel_size", "normalization"))


def _features(paths: list[str]) -> dict[str, str]:
    """In torchvision and timm, `features` numbers convolutions, norms, activations and pools."""
    stages = [path for path in paths if path.startswith("stage")]
    return {path: f"features.{index}" for index, path in enumerate(stages)}


@naming("torchvision vgg")
def _torchvision_names(paths: list[str]) -> dict[str, str]:
    """In torchvision, `classifier` numbers linear layers, activations and dropouts."""
    dense = [path for path in paths if path.startswith("head/dense")]
    return {**_features(paths), **{path: f"classifier.{3 * i}" for i, path in enumerate(dense)}}


@naming("timm vgg", as_convolutions=["pre_logits.fc1", "pre_logits.fc2"])
def _timm_names(paths: list[str]) -> dict[str, str]:
    """In timm, the hidden layers are convolutions, called `pre_logits`."""
    dense = {"dense1": "pre_logits.fc1", "dense2": "pre_logits.fc2", "dense3": "head.fc"}
    return {**_features(paths), **{f"head/{path}": name for path, name in dense.items()}}
