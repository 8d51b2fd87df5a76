"""Inception-v3 (Szegedy et al. 2015, arXiv:1512.00567)."""

import re
from typing import Any

from kblocks.families import inception_choices as published
from kblocks.families.inception import STEMS, inception, plain, positions
from kblocks.families.published_choices import ready_space
from kblocks.families.stage_arguments import described
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import namesake
from kblocks.networks.torch_weights import naming

_PUBLISHED = published.Published(
    branches=(
        [(64, (48, 64), (64, 96, 96), ("avg", pool)) for pool in (32, 64, 64)],
        [(192, (n, n, 192), (n, n, n, n, 192), ("avg", 192)) for n in (128, 160, 160, 192)],
        [(320, (384, 384), (448, 384, 384), ("avg", 192))],
    ),
    reductions=(
        None,
        {"branches": (384, (64, 96, 96), "max"), **published.REDUCE},
        {"branches": ((192, 320), (192, 192, 192, 192), "max"), **published.REDUCE_FACTORIZED},
    ),
    kernels=published.one_form_a_stage(published.square, published.factorized, published.square),
    kernel_size=((5, 3), 7, 3),
    whole={
        "stem": STEMS["inception_v3"],
        "auxiliary": {
            "AuxLogits": {
                **{"stage": 2, "filters": (128, 768), "kernel_size": (1, 5), "pool": "avg"},
                **{"hidden": (), "dropout": 0.0, "loss_weight": 0.4},
            }
        },
    },
)


@namesake
@described
def inception_v3(
    classes: int = 1000,
    *,
    blocks: Any = (3, 4, 2),
    branches: Any = None,
    kernel_size: Any = None,
    reductions: Any = None,
    stem: Any = None,
    auxiliary: Any = None,
    dropout: float = 0.5,
    name: str = "inception_v3",
    **arguments: Any,
) -> Architecture:
    """Inception-v3: square, factorised and widened modules; fits torchvision's weights.

    Args:
        blocks: number of modules in each stage, one entry a stage.
        kernel_size: kernel of each stage's spatial branches. For the first stage an integer for
            both or a pair, for the second the n of 1xn and nx1, for the third the n of nxn, 1xn
            and nx1; or a tuple for all branches. None is (5, 3), 7 and 3.
        stem, auxiliary: None is the published values, with `AuxLogits` on the last module of the
            second stage; `auxiliary={}` is no auxiliary output.
        **arguments: filters, width, pool, kept, strides, padding, head and arguments of the
            modules; these and those above as in `kblocks.families.inception.inception`.

    Reference: Szegedy et al. 2015, arXiv:1512.00567, Table 1.
    """
    ends = {"stem": stem, "auxiliary": auxiliary}
    filled = _PUBLISHED.filled(blocks, branches, kernel_size, reductions, **ends)
    modules = {"wide": [stage == 2 for stage in range(len(blocks))], "pool_count_padding": True}
    return inception(classes, **filled, dropout=dropout, name=name, **{**modules, **arguments})


_ROWS = {
    "stem_block1": "Conv2d_1a_3x3",
    "stem_block2": "Conv2d_2a_3x3",
    "stem_block3": "Conv2d_2b_3x3",
    "stem_block5": "Conv2d_3b_1x1",
    "stem_block6": "Conv2d_4a_3x3",
}
_MODULES = {
    "stage1_block": ("branch1x1", "branch5x5_", "branch3x3dbl_", "branch_pool"),
    "stage2_reduction": ("branch3x3", "branch3x3dbl_"),
    "stage2_block": ("branch1x1", "branch7x7_", "branch7x7dbl_", "branch_pool"),
    "stage3_reduction": ("branch3x3_", "branch7x7x3_"),
    "stage3_block": ("branch1x1", "branch3x3_", "branch3x3dbl_", "branch_pool"),
}


def _choices(row: dict[str, Any]) -> dict[str, Any]:
    """All of its stages, reductions, stem, auxiliary place, head."""
    return published.inception_choices(_PUBLISHED, "inception_v3", (3, 4, 2), 0.5)


space = ready_space(inception_v3, "inception_v3", _choices, published.VARIED)


@naming("timm inception_v3")
@naming("torchvision inception_v3")
def _torchvision_names(paths: list[str]) -> dict[str, str]:
    """`stage2_block3/branch2_conv1` is `Mixed_6d.branch7x7_1.conv`; reductions are 6a and 7a."""
    names = {"head/dense": "fc", "AuxLogits/dense": "AuxLogits.fc", **plain(_ROWS)}
    for i in (1, 2):
        names[f"AuxLogits/conv{i}"] = f"AuxLogits.conv{i - 1}.conv"
        names[f"AuxLogits/norm{i}"] = f"AuxLogits.conv{i - 1}.bn"
    for path, part in positions(paths):
        found = re.fullmatch(r"(stage(\d)_(?:block|reduction))(\d*)", part.row)
        kind, stage, block = found.groups() if found else ("", 0, 0)
        module = f"Mixed_{int(stage) + 4}{chr(ord('a') + int(block or 0))}"
        branch = _MODULES[kind][part.branch]
        if branch.endswith("_"):
            branch += f"{part.step + 1}{part.side}"
        names[path] = f"{module}.{branch}.{part.leaf}"
    return names
