"""GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842), with batch norm, as in torchvision."""

import re
from typing import Any

from kblocks.families.inception import STEMS, inception, plain, positions
from kblocks.families.inception_choices import VARIED, Published, inception_choices, square
from kblocks.families.published_choices import ready_space
from kblocks.families.stage_arguments import described
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import namesake
from kblocks.networks.torch_weights import naming

_POOL: dict[str, Any] = {"branches": ("max",), "padding": "valid", "pool_ceil_mode": True}
# Table 1: each module has a 1x1, a reduced 3x3, a reduced 5x5 and a projected pool.
_PUBLISHED = Published(
    branches=(
        (
            (64, (96, 128), (16, 32), ("max", 32)),
            (128, (128, 192), (32, 96), ("max", 64)),
        ),
        (
            (192, (96, 208), (16, 48), ("max", 64)),
            (160, (112, 224), (24, 64), ("max", 64)),
            (128, (128, 256), (24, 64), ("max", 64)),
            (112, (144, 288), (32, 64), ("max", 64)),
            (256, (160, 320), (32, 128), ("max", 128)),
        ),
        (
            (256, (160, 320), (32, 128), ("max", 128)),
            (384, (192, 384), (48, 128), ("max", 128)),
        ),
    ),
    reductions=(None, {**_POOL, "kernel_size": 3}, {**_POOL, "kernel_size": 2}),
    kernels=lambda sizes: [square(size) for size in sizes],
    whole={
        "stem": STEMS["googlenet"],
        "auxiliary": {
            "aux1": {"stage": 2, "block": 1, "pool_size": None, "grid": 4},
            "aux2": {"stage": 2, "block": 4, "pool_size": None, "grid": 4},
        },
    },
)


@namesake
@described
def googlenet(
    classes: int = 1000,
    *,
    blocks: Any = (2, 5, 2),
    branches: Any = None,
    kernel_size: Any = 3,
    reductions: Any = None,
    stem: Any = None,
    auxiliary: Any = None,
    name: str = "googlenet",
    **arguments: Any,
) -> Architecture:
    """GoogLeNet: stages of Inception modules with pools between; fits torchvision's weights.

    Args:
        blocks: number of modules in each stage, one entry a stage.
        kernel_size: kernel of the second and third branch: an integer for both or a pair; or a
            tuple for all four branches. One such value or a list with one a stage. The paper has
            (3, 5).
        reductions: for each stage None, or arguments that replace those of its reduction: none, a
            max pool of 3, and a max pool of 2 (3 in the paper).
        stem, auxiliary: None is the published values, with `aux1` and `aux2` on the first and
            fourth module of the second stage; `auxiliary={}` is no auxiliary output.
        **arguments: filters, width, pool, kept, strides, padding, dropout, head and arguments of
            the modules; these and those above as in `kblocks.families.inception.inception`.

    Reference: Szegedy et al. 2014, arXiv:1409.4842, Table 1.
    """
    ends = {"stem": stem, "auxiliary": auxiliary}
    filled = _PUBLISHED.filled(blocks, branches, kernel_size, reductions, **ends)
    return inception(classes, **filled, name=name, **arguments)


def _choices(row: dict[str, Any]) -> dict[str, Any]:
    """All of its stages, reductions, stem, auxiliary places, head."""
    return inception_choices(_PUBLISHED, "googlenet", (2, 5, 2), 0.2)


space = ready_space(googlenet, "googlenet", _choices, VARIED)


@naming("torchvision googlenet")
def _torchvision_names(paths: list[str]) -> dict[str, str]:
    """`stage2_block3/branch2_conv1` is `inception4c.branch2.0.conv`."""
    rows = {"stem_block1": "conv1", "stem_block3": "conv2", "stem_block4": "conv3"}
    names = {"head/dense": "fc", **plain({**rows, "aux1": "aux1.conv", "aux2": "aux2.conv"})}
    names |= {f"{aux}/dense{i}": f"{aux}.fc{i}" for aux in ("aux1", "aux2") for i in (1, 2)}
    for path, part in positions(paths):
        stage, block = re.findall(r"\d+", part.row)
        module = f"inception{int(stage) + 2}{chr(ord('a') + int(block) - 1)}"
        names[path] = f"{module}.branch{part.branch + 1}{part.number}.{part.leaf}"
    return names
