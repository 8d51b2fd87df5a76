"""Xception (Chollet 2016, arXiv:1610.02357)."""

from typing import Any

from kblocks.blocks.convolution import ConvBlock
from kblocks.blocks.separable import SeparableConvBlock
from kblocks.families import published_choices as choices
from kblocks.families import stage_arguments as staged
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import namesake

# Fig. 5, one column a stage; the last stage of the entry flow, of 728 filters, is the third.
_BLOCKS = (1, 1, 1, 8, 1)
_STAGES: dict[str, tuple[Any, ...]] = {
    "filters": (128, 256, 728, 728, 1024),
    "strides": (2, 2, 2, 1, 2),
    "convolutions": (2, 2, 2, 3, 2),
}
_WIDTHS = (None, None, None, None, 728)
_STEM = ({"filters": 32, "strides": 2}, {"filters": 64})
_TOP = {"filters": 2048, "convolutions": 2, "width": 1536}


@namesake
@staged.described
def xception(
    classes: int = 1000,
    *,
    blocks: Any = _BLOCKS,
    filters: Any = None,
    kernel_size: Any = 3,
    strides: Any = None,
    padding: Any = "same",
    convolutions: Any = None,
    stem: Any = None,
    top: Any = None,
    head: Any = None,
    name: str = "xception",
    **block: Any,
) -> Architecture:
    """Xception: stages of separable convolutions with shortcuts.

    Args:
        filters, kernel_size, strides, padding, convolutions: those of the blocks, one value or one
            a stage (a tuple of two is a (height, width) for all stages unless there are two
            stages). None is the published values, for up to five stages; the published filters
            come with 728 as `width` of the fifth stage. Strides apply to a stage's first block,
            whose pool has them.
        stem: arguments of `kb.ConvBlock`, or the Spec of a block, or a list of these; None is the
            two published ones: 32 and 64 filters of 3x3 without padding, the first with strides 2.
        top: arguments of `kb.SeparableConvBlock` that replace the published ones (two convolutions
            of 1,536 and 2,048 filters) after the last stage, or a Spec; its row is named as one
            more stage.
        **block: further arguments of `kb.SeparableConvBlock`, one value or a list with one a stage;
            activation, normalization, bias and initializers also apply to the stem and top.

    Reference: Chollet 2016, arXiv:1610.02357, Fig. 5.
    """
    stages = staged.count_stages(blocks)
    given = {"filters": filters, "strides": strides, "convolutions": convolutions}
    columns = {k: staged.published_or(value, _STAGES[k], stages) for k, value in given.items()}
    columns |= {"kernel_size": kernel_size, "padding": padding}
    if filters is None:
        columns["width"] = staged.published_or(None, _WIDTHS, stages)
    columns |= {"order": "act_conv_norm", "shortcut": True, "pool": "max", **block}
    arguments = staged.arguments_by_stage(stages, columns)
    shared = staged.shared_by_all(*arguments)
    items = stem if isinstance(stem, (list, tuple)) else _STEM if stem is None else [stem]
    names = [f"stem_block{i}" for i in range(1, len(items) + 1)] if len(items) > 1 else ["stem"]
    published = {"filters": 32, "padding": "valid", **shared}
    pairs = zip(names, items, strict=True)
    rows = [(part, staged.part(ConvBlock, part, item, published)) for part, item in pairs]
    kinds = [SeparableConvBlock] * stages
    rows += staged.stage_rows(name, kinds, arguments, blocks, rate=0.0)
    top = staged.part(SeparableConvBlock, "top", top, {**_TOP, **shared})
    return staged.network(name, [*rows, (f"stage{stages + 1}", top)], head, classes=classes)


def _choices(row: dict[str, Any]) -> dict[str, Any]:
    """All of its stages, stem, top, head."""
    first, second = _STEM
    return {
        "blocks": [choices.depths(number) for number in _BLOCKS],
        "filters": [choices.widths(number) for number in _STAGES["filters"]],
        "width": [width and choices.widths(width) for width in _WIDTHS],
        "kernel_size": [choices.kernels() for _ in _BLOCKS],
        "strides": [choices.options(strides, 1, 2, (2, 1)) for strides in _STAGES["strides"]],
        "padding": [choices.paddings("same") for _ in _BLOCKS],
        "convolutions": [choices.options(n, 1, 2, 3) for n in _STAGES["convolutions"]],
        "pool": [choices.options("max", "avg", None) for _ in _BLOCKS],
        "order": choices.options("act_conv_norm", "conv_norm_act"),
        **choices.units("batch"),
        "stem": [_opened(first, "valid", strides=choices.options(2, 1)), _opened(second, "valid")],
        "top": _opened(_TOP, "same", width=choices.widths(1536), strides=choices.options(1, 2)),
        "head": {"pool": choices.options("avg", "max", "concat")},
    }


def _opened(published: dict[str, Any], padding: str, **more: Any) -> dict[str, Any]:
    """The published arguments of a block, with choices of its filters, kernel and padding."""
    own = {"kernel_size": choices.kernels(), "padding": choices.paddings(padding)}
    return {**published, "filters": choices.widths(published["filters"]), **own, **more}


space = choices.ready_space(xception, "xception", _choices, ("blocks", "filters"))
