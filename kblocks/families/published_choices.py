"""Choices for ready spaces; the published value comes first and is the default."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, get_args

from kblocks.blocks.residual import Order
from kblocks.families.stage_arguments import NORM, RESNET_STEM, doubled, one_of
from kblocks.networks.architecture import Architecture
from kblocks.networks.catalog import member
from kblocks.search_space.choices import choice
from kblocks.search_space.space import Space
from kblocks.search_space.tree import Tree


def ready_space(
    family: Callable[..., Architecture],
    default: str,
    choices_around: Callable[[dict[str, Any]], dict[str, Any]],
    published: Collection[str],
) -> Callable[..., Space]:
    """The ready space of a family, a function of a published network's name.

    Its choices are `choices_around` that network's arguments, or those of them for the arguments
    that the family's papers varied, `published`; `default` is the default name.
    """

    def space(name: str = default, *, scope: str = "wide", **arguments: Any) -> Space:
        build, row = member(name, family)
        choices = choices_around(row)
        if one_of("scope", scope, {"wide": (), "published": published}) == "published":
            kept = {key: choices[key] for key in published if key in choices}
            choices = Tree(choices).default().arguments | kept
        return Space(build, **{**choices, **arguments})

    about = choices_around.__doc__ or "its arguments."
    space.__module__, space.__qualname__ = family.__module__, "space"
    space.__doc__ = f"""A space around the published network `name`: {about[0].lower()}{about[1:]}

    Args:
        name: the published network of this family that is the default point.
        scope: "wide" opens all arguments; "published" is a smaller space, which opens only those
            that the family's papers varied: {", ".join(published)}.
        arguments: arguments of `kb.{family.__name__}` that replace the space's own; they may
            contain choices.
    """
    return space


def options(published: Any, *others: Any) -> Any:
    """A choice whose default is the published value; `others` equal to it are left out."""
    different: list[Any] = [published]
    different += [other for other in dict.fromkeys(others) if other != published]
    return choice(*different)


def widths(published: int) -> Any:
    """A choice of the published number and 1/4, 1/2, 3/4, 3/2 of it; multiples of 8 stay so."""
    step = 8 if published % 8 == 0 and published > 8 else 1
    scaled = (max(step, round(published * share / step) * step) for share in (0.25, 0.5, 0.75, 1.5))
    return options(published, *scaled)


def depths(published: int) -> Any:
    """A choice of the published number, half of it, one fewer and one more."""
    return options(published, max(1, published // 2), max(1, published - 1), published + 1)


def kernels(published: Any = 3) -> Any:
    """A choice of kernels: the published one, 3, 5, 7, 1x7 and 7x1."""
    return options(published, 3, 5, 7, (1, 7), (7, 1))


def paddings(published: str = "symmetric") -> Any:
    """A choice of the named paddings: "same", "symmetric" and "valid"."""
    return options(published, "same", "symmetric", "valid")


def pooled_stages(
    pools: Sequence[str | None], size: int, strides: int | None = None
) -> dict[str, Any]:
    """Choices for pools, and for strides in their place (Springenberg 2014, arXiv:1412.6806)."""
    return {
        "strides": [options(1, 2) for _ in pools],
        "padding": [paddings() for _ in pools],
        "pool": [options(pool, "max", "avg", None) for pool in pools],
        "pool_size": [options(size, 2, 3) for _ in pools],
        "pool_strides": [options(strides, 2, 1) for _ in pools],
    }


def units(*normalizations: Any, activation: Any = "relu") -> dict[str, Any]:
    """Choices of units (Ramachandran 2017, arXiv:1710.05941; Wu & He 2018, arXiv:1803.08494)."""
    return {
        "activation": options(activation, "relu", "silu", "leaky_relu"),
        "normalization": options(*normalizations, "group", "layer"),
    }


def residual_choices(row: dict[str, Any]) -> dict[str, Any]:
    """Choices for each stage of a published residual network, from its `row` of arguments."""
    blocks = row["blocks"]
    filters = row.get("filters") or doubled(64, len(blocks))
    return {
        "blocks": [depths(number) for number in blocks],
        "filters": [widths(number) for number in filters],
        "kernel_size": [kernels() for _ in blocks],
        "strides": [options(1, 2), *(options(2, 1, (2, 1)) for _ in blocks[1:])],
        "padding": [paddings() for _ in blocks],
        "dilation_rate": [options(1, 2) for _ in blocks],
        "stochastic_depth": options(row.get("stochastic_depth", 0.0), 0.1, 0.2),
        **units(NORM),
    }


def residual_space_choices(row: dict[str, Any]) -> dict[str, Any]:
    """All of its stages, blocks' order, shortcuts, stem, head."""
    return {
        **residual_choices(row),
        "order": options(row.get("order", "original"), *get_args(Order)),
        "shortcut": options(row.get("shortcut", "projection"), "projection", "zero_pad"),
        "stem": stems(row.get("stem", {})),
        "head": {"pool": options("avg", "max", "concat")},
    }


def stems(published: dict[str, Any]) -> dict[str, Any]:
    """Choices for a stem: the `published` arguments come first, or else those of `RESNET_STEM`."""
    stem: dict[str, Any] = {**RESNET_STEM, **published}
    return {
        "filters": widths(stem["filters"]),
        "kernel_size": options(stem["kernel_size"], 3, 5, 7),
        "strides": options(stem["strides"], 1, 2),
        "padding": paddings(stem["padding"]),
        "pool": options(stem["pool"], "max", None),
    }
