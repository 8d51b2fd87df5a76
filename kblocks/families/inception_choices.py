"""The published values of the Inception families as arguments, and choices around them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kblocks.families.inception import NORM, STEMS
from kblocks.families.published_choices import depths, options, paddings, units
from kblocks.families.stage_arguments import by_stage, count_stages

# Grid reductions: all kernels are 3x3; or the second branch has 1x7 and 7x1 before the last 3x3.
REDUCE = {"kernel_size": 3, "last_padding": "valid"}
REDUCE_FACTORIZED = {"kernel_size": (3, (1, 7), 3), "last_kernel_size": 3, "last_padding": "valid"}


class Published(NamedTuple):
    """The published values of an Inception network, for arguments that are None.

    `branches`, `reductions` and `kernel_size` have one entry a stage; `kernel_size` is left out if
    the family's own default is not None. `kernels` turns a list of the stages' `kernel_size` into
    the kernels of all branches. `whole` has, by name, arguments that have no stages.
    """

    branches: Sequence[Any]
    reductions: Sequence[Any]
    kernels: Callable[[list[Any]], list[Any]]
    whole: Mapping[str, Any]
    kernel_size: Sequence[Any] | None = None

    def filled(
        self, blocks: Any, branches: Any, kernel_size: Any, reductions: Any, **whole: Any
    ) -> dict[str, Any]:
        """Arguments of `inception`: the given ones, and published ones where they are None."""
        stages = count_stages(blocks)
        if kernel_size is None and self.kernel_size is not None:
            kernel_size = self.kernel_size[:stages]
        known = {name: self.whole[name] for name, value in whole.items() if value is None}
        return {
            "blocks": blocks,
            "branches": self.branches[:stages] if branches is None else branches,
            "kernel_size": self.kernels(by_stage("kernel_size", kernel_size, stages)),
            "reductions": _changed(self.reductions, reductions, stages),
            **{**whole, **known},
        }


def _changed(default: Sequence[Any], given: Any, stages: int) -> list[Any]:
    """The arguments of each stage's reduction: the published ones, with replacements."""
    defaults = [*default, *[None] * stages][:stages]
    changes = by_stage("reductions", given, stages)
    if not all(change is None or isinstance(change, Mapping) for change in changes):
        raise ValueError(
            "`reductions` must be None or a mapping of arguments of InceptionBlock for each "
            f"stage. Received: reductions={given!r}"
        )
    pairs = zip(defaults, changes, strict=True)
    return [old if change is None else {**(old or {}), **change} for old, change in pairs]


def square(size: Any) -> Any:
    """Kernels of four branches from one size for both spatial branches or a pair; else `size`."""
    first, *second = size if isinstance(size, (list, tuple)) else (size, size)
    return (1, first, *second, 3) if len(second) == 1 else size


def factorized(size: Any) -> Any:
    """From n: 1xn, then nx1 in one branch and nx1, then 1xn in the other; else `size`."""
    return (1, (1, size), (size, 1), 3) if isinstance(size, int) else size


def mixed(size: Any) -> Any:
    """From n: nxn in one branch and nx1, then 1xn in the other; else `size`."""
    return (1, size, (size, 1), 3) if isinstance(size, int) else size


def one_form_a_stage(*forms: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    """A function that turns a list of the stages' sizes into kernels, one form for each stage."""
    return lambda sizes: [form(size) for form, size in zip(forms, sizes, strict=False)]


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
