"""AlexNet (Krizhevsky et al. 2012) in its one-tower form (Krizhevsky 2014, arXiv:1404.5997)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kblocks.blocks.convolution import ConvBlock
from kblocks.families import published_choices as choices
from kblocks.families import stage_arguments as staged
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import namesake
from kblocks.networks.torch_weights import naming

_POOL = {"pool": "max", "pool_size": 3, "pool_strides": 2}


@namesake
@staged.described
def alexnet(
    classes: int = 1000,
    *,
    blocks: Any = (1, 1, 1, 1),
    filters: Any = None,
    kernel_size: Any = None,
    strides: Any = 1,
    padding: Any = "symmetric",
    stem: Any = None,
    head: Any = None,
    name: str = "alexnet",
    **block: Any,
) -> Architecture:
    """AlexNet: a stem and stages of plain convolutions; the defaults fit PyTorch's weights.

    Args:
        blocks: number of convolutions in each stage, one entry a stage.
        filters, kernel_size, strides, padding: those of the convolutions, one value or one a
            stage (a tuple of two is a (height, width) for all stages unless there are two
            stages). None is the published values, for up to four stages: 192, 384, 256, 256
            filters of 5, 3, 3, 3 pixels. Strides apply to a stage's first convolution.
        stem: arguments of `kb.ConvBlock` that replace the published ones (64 filters of 11x11
            with strides 4, max pool of 3 with strides 2), or the Spec of a stem.
        head: arguments of `kb.Classifier` that replace the published ones (a map averaged to
            6x6, two hidden layers of 4,096 with dropout before them), or the Spec of a head.
        **block: further arguments of `kb.ConvBlock`, one value or a list with one a stage; `pool`
            is by default "max" in the first and last stage. Activation, normalization, bias and
            initializers also apply to the stem.

    Reference: Krizhevsky 2014, arXiv:1404.5997; padding and adaptive pool are torchvision's.
    """
    stages = staged.count_stages(blocks)
    columns = {"convolutions": list(blocks), "strides": strides, "padding": padding, **_POOL}
    columns["filters"] = staged.published_or(filters, (192, 384, 256, 256), stages)
    columns["kernel_size"] = staged.published_or(kernel_size, (5, 3, 3, 3), stages)
    columns["pool"] = ["max" if stage in (0, stages - 1) else None for stage in range(stages)]
    arguments = staged.arguments_by_stage(stages, {**columns, "normalization": None, **block})
    first = {"filters": 64, "kernel_size": 11, "strides": 4, "padding": 2, **_POOL}
    first |= staged.shared_by_all(*arguments)
    rows = [("stem", staged.part(ConvBlock, "stem", stem, first)), *plain_rows(name, arguments)]
    return with_linear_head(name, rows, head, classes=classes, pool_size=6, dropout_first=True)


def plain_rows(name: str, arguments: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """The rows of the network `name`, one `kb.ConvBlock` for each stage."""
    return [
        (f"stage{i}", staged.spec_of(ConvBlock, f"{name}, stage {i}", own))
        for i, own in enumerate(arguments, 1)
    ]


def with_linear_head(name: str, rows: Any, head: Any, **published: Any) -> Architecture:
    """The network with the head of AlexNet and VGG: two hidden layers on a flattened map."""
    published |= {"pool": "flatten", "hidden": (4096, 4096), "dropout": 0.5}
    if isinstance(head, dict) and head.get("pool", "flatten") != "flatten":
        published.pop("pool_size")
    return staged.network(name, rows, head, **published)


def linear_head_choices() -> dict[str, Any]:
    """Choices for the pool, the hidden layers and the dropout of the head."""
    return {
        "pool": choices.options("flatten", "avg", "concat"),
        "hidden": choices.options((4096, 4096), (), (256,), (512,), (1024, 1024)),
        "dropout": choices.options(0.5, 0.0, 0.2),
    }


def _choices(row: dict[str, Any]) -> dict[str, Any]:
    """All of its stages and pools, stem, head."""
    return {
        "blocks": [choices.depths(1) for _ in range(4)],
        "filters": [choices.widths(number) for number in (192, 384, 256, 256)],
        "kernel_size": [choices.kernels(size) for size in (5, 3, 3, 3)],
        **choices.pooled_stages(["max", None, None, "max"], size=3, strides=2),
        "groups": [choices.options(1, 2) for _ in range(4)],
        **choices.units(None, staged.NORM),
        "stem": {
            "filters": choices.widths(64),
            "kernel_size": choices.options(11, 7, 5, 3),
            "strides": choices.options(4, 2, 1),
            "padding": choices.options(2, "same"),
            "pool": choices.options("max", "avg", None),
            "pool_size": choices.options(3, 2),
            "pool_strides": choices.options(2, 1, 3),
        },
        "head": linear_head_choices(),
    }


space = choices.ready_space(alexnet, "alexnet", _choices, ("filters", "groups", "stem", "head"))


@naming("torchvision alexnet")
def _torchvision_names(paths: list[str]) -> dict[str, str]:
    """`features` and `classifier` number all layers; a dropout comes before each hidden layer."""
    if "stem/conv" not in paths:
        raise ValueError("AlexNet has a stem")
    features = [path for path in paths if re.match(r"(stem|stage\d+)/", path)]
    dense = [path for path in paths if path.startswith("head/dense")]
    names = {path: f"features.{i}" for i, path in enumerate(features)}
    names |= {path: f"classifier.{3 * i + (i + 1 < len(dense))}" for i, path in enumerate(dense)}
    return names
