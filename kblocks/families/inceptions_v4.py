"""Inception-v4 (Szegedy et al. 2016, arXiv:1602.07261)."""

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
        [(96, (64, 96), (64, 96, 96), ("avg", 96))],
        [(384, (192, 224, 256), (192, 192, 224, 224, 256), ("avg", 128))],
        [(256, (384, 256), (384, 448, 512, 256), ("avg", 256))],
    ),
    reductions=(
        None,
        {"branches": (384, (192, 224, 256), "max"), **published.REDUCE},
        {"branches": ((192, 192), (256, 256, 320, 320), "max"), **published.REDUCE_FACTORIZED},
    ),
    kernels=published.one_form_a_stage(published.square, published.factorized, published.mixed),
    kernel_size=(3, 7, 3),
    whole={"stem": STEMS["inception_v4"]},
)


@namesake
@described
def inception_v4(
    classes: int = 1000,
    *,
    blocks: Any = (4, 7, 3),
    branches: Any = None,
    kernel_size: Any = None,
    reductions: Any = None,
    stem: Any = None,
    name: str = "inception_v4",
    **arguments: Any,
) -> Architecture:
    """Inception-v4: a stem with branches, and modules A, B and C; fits timm's weights.

    Args:
        blocks: number of modules in each stage, one entry a stage.
        kernel_size: kernel of each stage's spatial branches. For the first stage an integer for
            both or a pair, for the second the n of 1xn and nx1, for the third the n of nxn, nx1
            and 1xn; or a tuple for all branches. None is 3, 7 and 3.
        stem: None is the published values.
        **arguments: filters, width, pool, kept, strides, padding, dropout, head and arguments of
            the modules; these and those above as in `kblocks.families.inception.inception`.

    Reference: Szegedy et al. 2016, arXiv:1602.07261, Fig. 3 to 9.
    """
    filled = _PUBLISHED.filled(blocks, branches, kernel_size, reductions, stem=stem)
    modules = {"wide": [stage == 2 for stage in range(len(blocks))]}
    return inception(classes, **filled, name=name, **{**modules, **arguments})


def _choices(row: dict[str, Any]) -> dict[str, Any]:
    """All of its stages, reductions, stem, head."""
    return published.inception_choices(_PUBLISHED, "inception_v4", (4, 7, 3), 0.2)


space = ready_space(inception_v4, "inception_v4", _choices, published.VARIED)


@naming("timm inception_v4")
def _timm_names(paths: list[str]) -> dict[str, str]:
    """`stage2_block3/branch2_conv1` is `features.13.branch1.0.conv`; `features` numbers rows."""
    if "stem_block6/branch1_conv" not in paths:
        raise ValueError("The stem of Inception-v4 has six rows")
    rows = list(dict.fromkeys(path.split("/")[0] for path in paths if "head" not in path))
    modules = {row: f"features.{index}" for index, row in enumerate(rows)}
    names = {"head/dense": "last_linear", **plain(modules)}
    for path, part in positions(paths):
        branch = f"branch{part.branch}{part.number}"
        if f"{part.row}/branch2_row_conv" in paths and part.branch in (1, 2):
            branch = f"branch{part.branch}_{part.step}{part.side}"
        elif part.row.startswith("stem") and part.steps == 1:
            branch = "conv"  # the other branch is a pool
        names[path] = f"{modules[part.row]}.{branch}.{part.leaf}"
    return names
