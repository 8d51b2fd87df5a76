"""Choices around the published Inception networks, for their ready spaces."""

from collections.abc import Mapping, Sequence
from typing import Any

from kblocks.families.inception import NORM
from kblocks.families.inception_forms import STEMS
from kblocks.families.inception_published import Published
from kblocks.families.published_choices import depths, options, paddings, units

_FACTOR = options(1.0, 0.25, 0.5, 0.75, 1.5)  # of filters
VARIED = ("blocks", "kernel_size", "stem", "dropout", "head")  # by the papers of these families


def inception_choices(
    published: Published, form: str, blocks: Sequence[int], dropout: float
) -> dict[str, Any]:
    """Choices for each stage's modules and reductions, and for stem, auxiliary heads and end.

    `form` is the name of the published stem, `blocks` and `dropout` are the published values.
    """
    tables = [modules[0] for modules in published.branches]
    sizes = published.kernels(list(published.kernel_size or [3] * len(blocks)))
    pools = [_pool_of(table) for table in tables]
    auxiliary = published.whole.get("auxiliary", {})
    return {
        "blocks": [depths(number) for number in blocks],
        "filters": [_factors(table) for table in tables],
        "kernel_size": [[_kernel(size) for size in own] for own in sizes],
        **({"pool": [options(pool, "max", "avg") for pool in pools]} if all(pools) else {}),
        "kept": [_kept(table) for table in tables],
        "strides": [options(1, 2), *(options(2, 1) for _ in blocks[1:])],
        "padding": [paddings() for _ in blocks],
        "reductions": [reduction and _reduction(reduction) for reduction in published.reductions],
        "stem": _stem(form),
        **({"auxiliary": _places(auxiliary, blocks)} if auxiliary else {}),
        "dropout": options(dropout, 0.0, 0.2, 0.5),
        "head": {"pool": options("avg", "max", "concat")},
        **units(NORM),
    }


def _factors(table: Sequence[Any]) -> list[Any]:
    """Factors of each branch's filters: one, or two where it has several convolutions."""
    numbers = [sum(isinstance(part, int) for part in _parts(branch)) for branch in table]
    return [[None, _FACTOR, [_FACTOR, _FACTOR]][min(number, 2)] for number in numbers]


def _parts(branch: Any) -> Sequence[Any]:
    return branch if isinstance(branch, (list, tuple)) else (branch,)


def _pool_of(table: Sequence[Any]) -> str | None:
    """The kind of the pool in a table of branches; None if it has none."""
    return next((part for b in table for part in _parts(b) if isinstance(part, str)), None)


def _kernel(size: Any) -> Any:
    """Kernels of a branch: of n 3, 5 and 7, of a factorised one also these as 1xn or nx1."""
    if size == 1:
        return 1
    if isinstance(size, int):
        return options(size, 3, 5, 7)
    return options(size, *((1, n) if size[0] == 1 else (n, 1) for n in (3, 5, 7)), 3)


def _kept(table: Sequence[Any]) -> Any:
    """Which branches there are: all, or all but one."""
    every = tuple(range(1, len(table) + 1))
    return options(every, *(tuple(n for n in every if n != left) for left in every))


def _reduction(published: Mapping[str, Any]) -> dict[str, Any]:
    """Choices for the reduction before a stage: branches, or a single pool."""
    table, size = published["branches"], published["kernel_size"]
    found = {"pool": options(_pool_of(table), "max", "avg")}
    if len(table) == 1:
        return found | {"kernel_size": options(size, 2, 3), "padding": options("valid", 1)}
    sizes = {"kernel_size": size, "last_kernel_size": published.get("last_kernel_size")}
    found |= {
        name: [3, _kernel(own[1]), options(3, 5)] if isinstance(own, tuple) else options(own, 3, 5)
        for name, own in sizes.items()
        if own is not None
    }
    padding = paddings(published["last_padding"])
    return found | {"filters": _factors(table), "kept": _kept(table), "last_padding": padding}


def _stem(form: str) -> dict[str, Any]:
    """Choices between the stems of the papers, and for the rows that halve the map."""
    strided = [row for row in STEMS[form] if "strides" in row]
    return {
        "form": options(form, "googlenet", "inception_v3", "inception_v4"),
        "filters": _FACTOR,
        "kernel_size": [options(row.get("kernel_size", 3), 3, 5) for row in strided],
        "strides": [options(2, 1) for _ in strided],
        "padding": [options(row["padding"], "valid", 1) for row in strided],
    }


def _places(auxiliary: Mapping[str, Any], blocks: Sequence[int]) -> dict[str, Any]:
    """Choices for the module that each auxiliary head reads: the published one and neighbours."""
    found = {}
    for name, own in auxiliary.items():
        place = own.get("block", blocks[own["stage"] - 1])
        found[name] = {**own, "block": options(place, max(1, place - 1), place + 1)}
    return found
