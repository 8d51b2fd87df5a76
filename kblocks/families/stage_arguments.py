"""Arguments by stage, and the Specs of a stage's blocks, for all families."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from kblocks.blocks.convolution import Convolutional
from kblocks.blocks.spec import refuse_foreign, with_args, with_section
from kblocks.heads import Classifier
from kblocks.heads.attaching import is_head
from kblocks.networks.architecture import Architecture
from kblocks.plans.ops import Norm

NORM = Norm("batch", momentum=0.9, epsilon=1e-5)  # as in PyTorch's models
RESNET_STEM = {  # also of DenseNets
    **{"filters": 64, "kernel_size": 7, "strides": 2, "padding": "symmetric"},
    **{"pool": "max", "pool_size": 3, "pool_strides": 2, "pool_padding": "symmetric"},
}

_Family = TypeVar("_Family", bound=Callable[..., Architecture])
_SHARED = """Args:
    classes: number of logits.
    blocks: number of blocks in each stage, one entry a stage.
    filters, kernel_size, strides, padding: those of the blocks, one value or one a stage (a tuple
        of two is a (height, width) for all stages unless there are two stages). `filters` None is
        64, doubled with each stage. Strides apply to a stage's first block; None is 1 for the
        first stage and 2 for the others.
    branches: None is the published values.
    stochastic_depth: the rate of the last block; of n blocks the i-th has i / n of it.
    reductions: for each stage None, or arguments that replace those of its published reduction;
        the first stage has no reduction.
    dropout: dropout rate of the head.
    head: arguments of `kb.Classifier` that replace the published ones (average pool), or the Spec
        of a head.
    name: name of the model.

Raises:
    ValueError, TypeError: if an argument does not fit; the message names it and the stage."""


def described(family: _Family) -> _Family:
    """Completes a family's docstring by what several families have: arguments, and Raises."""
    doc = inspect.cleandoc(family.__doc__ or "")
    doc = with_section(doc, "Raises", [_SHARED], "Reference:", "\n\n")
    family.__doc__ = with_args(doc, list(inspect.signature(family).parameters), [_SHARED])
    return family


def count_stages(blocks: Any) -> int:
    """The number of stages, the length of `blocks`; ValueError unless all are positive integers."""
    if not isinstance(blocks, (list, tuple)) or not blocks:
        raise ValueError(
            "`blocks` must be a sequence with the blocks of each stage. "
            f"Received: blocks={blocks!r}"
        )
    for i, n in enumerate(blocks):
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ValueError(f"`blocks` must be positive integers. Received: blocks[{i}]={n!r}")
    return len(blocks)


def one_of(name: str, value: Any, known: Mapping[str, Any]) -> str:
    """A key of `known`; ValueError for any other value of the argument `name`."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"`{name}` must be one of {list(known)}. Received: {name}={value!r}")
    return value


def by_stage(name: str, value: Any, stages: int, of: str = "stages") -> list[Any]:
    """A list with one value a stage, from one value or one a stage; errors call stages `of`.

    A list or tuple with as many items as stages is one value a stage. Any other tuple of two is a
    (height, width) for all stages, and any single value is for all stages.
    """
    if isinstance(value, (list, tuple)) and len(value) == stages:
        return list(value)
    if isinstance(value, list) or (isinstance(value, tuple) and len(value) != 2):
        raise ValueError(
            f"`{name}` must be one value or one for each of the {stages} {of}. "
            f"Received: {name}={value!r}"
        )
    return [value] * stages


def doubled(first: int, stages: int) -> list[int]:
    """A number for each stage: `first`, doubled with each stage."""
    return [first * 2**stage for stage in range(stages)]


def arguments_by_stage(
    stages: int, arguments: Mapping[str, Any], of: str = "stages"
) -> list[dict[str, Any]]:
    """The arguments of each stage's blocks, from arguments that may have one value a stage."""
    refuse_foreign(arguments)
    columns = {name: by_stage(name, value, stages, of) for name, value in arguments.items()}
    return [{name: column[i] for name, column in columns.items()} for i in range(stages)]


def published_or(given: Any, published: tuple[Any, ...], stages: int) -> Any:
    """`given`, or if it is None the published values, unless there are more stages than these."""
    return published[:stages] if given is None and stages <= len(published) else given


def spec_of(block: Any, where: str, arguments: Mapping[str, Any]) -> Any:
    """The block's Spec with these arguments; an error begins with `where`."""
    try:
        return block.Spec(**arguments)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from error


def stage_rows(
    name: str,
    kinds: Sequence[Any],
    arguments: Sequence[Mapping[str, Any]],
    blocks: Sequence[int],
    rate: float,
    first: int = 1,
) -> list[tuple[str, Any]]:
    """The rows of all stages of the network `name`; a stage has one of the `kinds` of blocks.

    Only the first block of a stage has its strides; if these are not 1, only the others have its
    dilation rate. Of n blocks the i-th, counted from `first`, has i / n of the stochastic depth
    `rate` (arXiv:1603.09382, Eq. 4).
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise ValueError(
            "`stochastic_depth` must be a number from 0 up to but not including 1. "
            f"Received: stochastic_depth={rate!r}"
        )
    rows = []
    for stage, (kind, own, repeats) in enumerate(zip(kinds, arguments, blocks, strict=True), 1):
        dilation = {} if own["strides"] in (1, (1, 1)) else own.keys() & {"dilation_rate"}
        spec = spec_of(kind, f"{name}, stage {stage}", {**own, **dict.fromkeys(dilation, 1)})
        for number in range(1, repeats + 1):
            drop = rate * (first + len(rows)) / sum(blocks)
            dropped = spec.replace(stochastic_depth=drop) if drop else spec
            rows.append((f"stage{stage}_block{number}", dropped))
            if number == 1:
                spec = spec.replace(strides=1, **{key: own[key] for key in dilation})
    return rows


def part(block: Any, name: str, given: Any, defaults: Mapping[str, Any]) -> Any:
    """The Spec of a stem, top or head: `given` itself, or the defaults with `given` arguments."""
    given = {} if given is None else given
    if given and is_head(given):
        return given
    if isinstance(given, Mapping):
        return spec_of(block, name, {**defaults, **given})
    number = f" (classes={given} sets their number)" if name == "head" else ""
    raise ValueError(
        f"`{name}` must be a mapping of {block.__name__}'s arguments, a Spec or None{number}. "
        f"Received: {name}={given!r}"
    )


def network(name: str, rows: Sequence[Any], head: Any, **published: Any) -> Architecture:
    """The network of `rows` and a head: a Classifier of `published` arguments, as in `part`."""
    return Architecture(rows, head=part(Classifier, "head", head, published), name=name)


def shared_by_all(*stages: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that also apply to the stem, if equal in all stages: activation, norm, bias."""
    spec: Any = Convolutional.Spec
    return {
        name: value
        for name, value in stages[0].items()
        if name in spec._checks
        and all(_is_equal(spec._checks[name], value, own[name]) for own in stages)
    }


def _is_equal(check: Any, one: Any, other: Any) -> bool:
    """Whether two values of a field, which has this check or None, mean the same."""
    if one is other or check is None or one is None or other is None:
        return one is other or one == other
    try:
        return check.normalise(one) == check.normalise(other)
    except (TypeError, ValueError):
        return False  # making the blocks raises, with the stage
