"""The published values of the Inception families as arguments, and their space."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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
        """dict[str, Any] of `inception`: the given ones, and published ones where they are None."""
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
    return [
        before if change is None else {**(before or {}), **change}
        for before, change in zip(defaults, changes, strict=True)
    ]


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
