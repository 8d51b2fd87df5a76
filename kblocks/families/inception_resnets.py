"""Inception-ResNets (Szegedy et al. 2016, arXiv:1602.07261)."""

import re
from typing import Any

from kblocks.blocks.inception import InceptionResNetBlock
from kblocks.families.inception import STEMS, inception, plain, positions
from kblocks.families.inception_choices import REDUCE, VARIED, Published, inception_choices
from kblocks.families.published_choices import options, ready_space, widths
from kblocks.families.stage_arguments import described, one_of
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import variant
from kblocks.networks.torch_weights import naming
from kblocks.search_space.choices import choice


def _kernels(sizes: list[Any]) -> list[Any]:
    """From n: 1x1, nxn, nxn in the first stage and 1x1, 1xn in the others; else the size itself."""
    forms = [(1, n, n) if stage == 0 else (1, (1, n)) for stage, n in enumerate(sizes)]
    return [form if isinstance(n, int) else n for form, n in zip(forms, sizes, strict=True)]


_V1 = Published(
    branches=([(32, (32, 32), (32, 32, 32))], [(128, (128, 128, 128))], [(192, (192, 192, 192))]),
    reductions=(
        None,
        {"branches": (384, (192, 192, 256), "max"), **REDUCE},
        {"branches": ((256, 384), (256, 256), (256, 256, 256), "max"), **REDUCE},
    ),
    kernels=_kernels,
    kernel_size=(3, 7, 3),
    whole={"stem": STEMS["inception_resnet_v1"], "last": {}, "top": None},
)
# As in TF-slim: the stem is v3's and one of its modules; the last block has scale 1.
_V2 = _V1._replace(
    branches=([(32, (32, 32), (32, 48, 64))], [(192, (128, 160, 192))], [(192, (192, 224, 256))]),
    reductions=(
        None,
        {"branches": (384, (256, 256, 384), "max"), **REDUCE},
        {"branches": ((256, 384), (256, 288), (256, 288, 320), "max"), **REDUCE},
    ),
    whole={
        "stem": STEMS["inception_resnet_v2"],
        "last": {"scale": 1.0, "activate": False},
        "top": {"filters": 1536, "kernel_size": 1},
    },
)
_VERSIONS = {"v1": _V1, "v2": _V2}
_SCALES = (0.17, 0.1, 0.2)


@described
def inception_resnet(
    classes: int = 1000,
    *,
    version: str = "v2",
    blocks: Any = (10, 20, 10),
    branches: Any = None,
    kernel_size: Any = None,
    scale: Any = None,
    reductions: Any = None,
    stem: Any = None,
    last: Any = None,
    top: Any = None,
    name: str = "inception_resnet",
    **arguments: Any,
) -> Architecture:
    """Inception-ResNet: stages of residual Inception blocks; default v2, fits timm's weights.

    Args:
        version: "v1" or "v2": which published values replace arguments that are None.
        blocks: number of residual blocks in each stage, one entry a stage.
        kernel_size: kernel of each stage's spatial branches: an integer for the first stage, the n
            of 1xn and nx1 for the second and third; or a tuple for all branches. None is 3, 7, 3.
        scale: factor of the residuals, one value or one a stage. None is 0.17, 0.1 and 0.2.
        last: arguments of the very last block that differ from its stage's. v2 has one without
            scale and activation; {} makes it equal to the others.
        stem: None is the published values.
        top: None is the published values; v1 has no top.
        **arguments: filters, width, kept, strides, padding, dropout, head and arguments of the
            blocks; these and those above as in `kblocks.families.inception.inception`.

    Reference: Szegedy et al. 2016, arXiv:1602.07261, Fig. 7, 10 to 19 and Table 1.
    """
    published = _VERSIONS[one_of("version", version, _VERSIONS)]
    ends = {"stem": stem, "last": last, "top": top}
    filled = published.filled(blocks, branches, kernel_size, reductions, **ends)
    filled["scale"] = _SCALES[: len(blocks)] if scale is None else scale
    return inception(classes, block=InceptionResNetBlock, **filled, name=name, **arguments)


inception_resnet_v1 = variant(
    "inception_resnet_v1", inception_resnet, version="v1", blocks=(5, 10, 5)
)
inception_resnet_v2 = variant("inception_resnet_v2", inception_resnet, version="v2")

_ROWS = {
    **{"stem_block1": "conv2d_1a", "stem_block2": "conv2d_2a", "stem_block3": "conv2d_2b"},
    **{"stem_block5": "conv2d_3b", "stem_block6": "conv2d_4a", "stem_block8": "mixed_5b"},
    **{"stage2_reduction": "mixed_6a", "stage3_reduction": "mixed_7a", "stage4": "conv2d_7b"},
}
_REPEATS = ("repeat", "repeat_1", "repeat_2")


def _choices(row: dict[str, Any]) -> dict[str, Any]:
    """All of its stages, residuals' scales, reductions, stem, head."""
    version, blocks = row["version"], row.get("blocks", (10, 20, 10))
    found = inception_choices(_VERSIONS[version], f"inception_resnet_{version}", blocks, 0.2)
    found["scale"] = [options(scale, 0.1, 0.17, 0.2, 0.3, 1.0) for scale in _SCALES]
    # Its blocks have no strides, so the first stage gets them from a pool before it.
    pool = {"branches": ("max",), "kernel_size": options(3, 2), "strides": 2, "padding": "valid"}
    found["strides"][0], found["reductions"][0] = 1, choice(None, pool)
    if version == "v2":
        found |= {"last": choice(None, {}), "top": {"filters": widths(1536), "kernel_size": 1}}
    return found


space = ready_space(inception_resnet, "inception_resnet_v2", _choices, (*VARIED, "scale"))


@naming("timm inception_resnet_v2")
def _timm_names(paths: list[str]) -> dict[str, str]:
    """`stage2_block3/main_branch2_conv1` is `repeat_1.2.branch1.0.conv`; the last is `block8`."""
    modules = dict(_ROWS)
    blocks = [path.split("/")[0] for path in paths if path.endswith("/main_conv")]
    for row in blocks:
        stage, block = (int(number) - 1 for number in re.findall(r"\d+", row))
        modules[row] = f"{_REPEATS[stage]}.{block}"
    modules[blocks[-1]] = "block8"
    names = {"head/dense": "classif", **plain(modules)}
    names |= {f"{row}/main_conv": f"{modules[row]}.conv2d" for row in blocks}
    for path, part in positions(paths):
        branch = f"branch{part.branch}{part.number}"
        names[path] = f"{modules[part.row]}.{branch}.{part.leaf}"
    return names
