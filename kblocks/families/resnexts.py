"""ResNeXt: residual networks of grouped bottlenecks (Xie et al. 2016, arXiv:1611.05431)."""

from typing import Any

from kblocks.families import published_choices as choices
from kblocks.families.resnets import CIFAR_STEM, resnet
from kblocks.families.stage_arguments import count_stages, described, doubled
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import variant


@described
def resnext(
    classes: int = 1000,
    *,
    blocks: Any = (3, 4, 6, 3),
    filters: Any = None,
    cardinality: Any = 32,
    group_width: Any = 4,
    **arguments: Any,
) -> Architecture:
    """ResNeXt: `kb.resnet` with `kb.ResNeXtBlock`; by default ResNeXt-50 32x4d.

    Args:
        filters: output channels, one value or one a stage; None is 256, doubled with each stage.
        cardinality: groups of the spatial convolutions, one value or one a stage.
        group_width: channels of a group; an integer is the first stage's and doubles with each
            stage, a list or tuple has one for each stage.
        **arguments: further arguments of `kb.resnet`.

    Reference: Xie et al. 2016, arXiv:1611.05431, Table 1.
    """
    stages = count_stages(blocks)
    if filters is None:
        filters = doubled(256, stages)
    if isinstance(group_width, int):
        group_width = doubled(group_width, stages)
    own = {"blocks": blocks, "filters": filters, "cardinality": cardinality}
    own |= {"group_width": group_width, "block": "resnext", "name": "resnext"}
    return resnet(classes, **{**own, **arguments})


_50, _101 = (3, 4, 6, 3), (3, 4, 23, 3)
resnext50_32x4d = variant("resnext50_32x4d", resnext, blocks=_50)
resnext50_64x4d = variant("resnext50_64x4d", resnext, blocks=_50, cardinality=64)
resnext101_32x4d = variant("resnext101_32x4d", resnext, blocks=_101)
resnext101_32x8d = variant("resnext101_32x8d", resnext, blocks=_101, group_width=8)
resnext101_64x4d = variant("resnext101_64x4d", resnext, blocks=_101, cardinality=64)
_CIFAR: dict[str, Any] = {"classes": 10, "blocks": (3, 3, 3), "cardinality": 8, "group_width": 64}
_CIFAR["stem"] = {**CIFAR_STEM, "filters": 64}
resnext29_8x64d = variant("resnext29_8x64d", resnext, **_CIFAR)


def _choices(row: dict[str, Any]) -> dict[str, Any]:
    """Cardinality, group width, and as in `resnet`."""
    stages = len(row["blocks"])
    cardinality, width = row.get("cardinality", 32), row.get("group_width", 4)
    return {
        **choices.residual_space_choices({**row, "filters": doubled(256, stages)}),
        "cardinality": [choices.options(cardinality, 1, 8, 32) for _ in range(stages)],
        "group_width": [choices.widths(number) for number in doubled(width, stages)],
    }


PUBLISHED = ("blocks", "cardinality", "group_width")
space = choices.ready_space(resnext, "resnext50_32x4d", _choices, PUBLISHED)
