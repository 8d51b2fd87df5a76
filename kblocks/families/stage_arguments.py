"""Arguments by stage, and the Specs of a stage's blocks, for all families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kblocks.blocks.convolution import Convolutional
from kblocks.heads.attaching import is_head
from kblocks.plans.ops import Norm

PUBLISHED_NORM = Norm("batch", momentum=0.9, epsilon=1e-5)  # as in PyTorch's models
RESNET_STEM = {  # also of DenseNets
    "filters": 64,
    "kernel_size": 7,
    "strides": 2,
    "padding": "symmetric",
    "pool": "max",
    "pool_size": 3,
    "pool_strides": 2,
    "pool_padding": "symmetric",
}


def count_stages(blocks: Any) -> int:
    """The number of stages, the length of `blocks`; ValueError unless all are positive integers."""
    if not isinstance(blocks, (list, tuple)) or not blocks:
        raise ValueError(
            "`blocks` must be a sequence with the blocks of each stage. "
            f"Received: blocks={blocks!r}"
        )
    for index, number in enumerate(blocks):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(
                f"`blocks` must be positive integers. Received: blocks[{index}]={number!r}"
            )
    return len(blocks)


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


def one_for_all(stages: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with one value for a list of equal ones, so that equal networks compare equal."""
    return {name: _one(name, value, stages) for name, value in arguments.items()}


def _one(name: str, value: Any, stages: int) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != stages:
        return value
    if isinstance(value[0], (list, tuple)):  # a single one could be read as one a stage
        return value
    spec: Any = Convolutional.Spec
    check = spec._checks.get(name)
    try:
        forms = [one if check is None else check.normalise(one) for one in value]
    except (TypeError, ValueError):
        return value  # making the blocks raises, with the stage
    return value[0] if all(form == forms[0] for form in forms) else value


def arguments_by_stage(
    stages: int, arguments: Mapping[str, Any], of: str = "stages"
) -> list[dict[str, Any]]:
    """The arguments of each stage's blocks, from arguments that may have one value a stage."""
    columns = {name: by_stage(name, value, stages, of) for name, value in arguments.items()}
    return [{name: column[i] for name, column in columns.items()} for i in range(stages)]


def published_or(given: Any, published: tuple[Any, ...], stages: int) -> Any:
    """`given`, or if it is None the published values, unless there are more stages than these."""
    return published[:stages] if given is None and stages <= len(published) else given


def made(block: Any, place: str, arguments: Mapping[str, Any]) -> Any:
    """The block's Spec; an error names the place."""
    try:
        return block.Spec(**arguments)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{place}: {error}") from error


def stage_rows(
    name: str,
    blocks: Sequence[Any],
    arguments: Sequence[Mapping[str, Any]],
    rates: Sequence[Sequence[float]],
) -> list[tuple[str, Any]]:
    """The rows of all stages of the network `name`, one for each stochastic-depth rate in `rates`.

    Each stage has one class of `blocks` and its own `arguments`; only its first block has strides.
    Equal Specs are one object unless a rate is set.
    """
    rows = []
    for stage, (block, own, drops) in enumerate(zip(blocks, arguments, rates, strict=True), 1):
        first = made(block, f"{name}, stage {stage}", own)
        specs = [first] + [first.replace(strides=1)] * (len(drops) - 1)
        if any(drops):
            specs = [
                spec.replace(stochastic_depth=rate) for spec, rate in zip(specs, drops, strict=True)
            ]
        rows += [(f"stage{stage}_block{number}", spec) for number, spec in enumerate(specs, 1)]
    return rows


def part(block: Any, place: str, given: Any, defaults: Mapping[str, Any]) -> Any:
    """The Spec of a stem, top or head: `given` itself, or the defaults with `given` arguments."""
    if given is None:
        given = {}
    if given and is_head(given):
        return given
    if isinstance(given, Mapping):
        return made(block, place, {**defaults, **given})
    raise ValueError(
        f"`{place}` must be a mapping of {block.__name__}'s arguments, a Spec or None. "
        f"Received: {place}={given!r}"
    )


def shared_by_all(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that also apply to the stem: activation, normalization, bias, initializers."""
    spec: Any = Convolutional.Spec
    names = spec._checks
    return {
        name: value
        for name, value in arguments.items()
        if name in names and not isinstance(value, (list, tuple))
    }


def positive(name: str, value: Any) -> float:
    """A factor of widths or depths; ValueError unless it is a number over 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"`{name}` must be a number over 0. Received: {name}={value!r}")
    return value


def rising(rate: float, blocks: Sequence[int], first: int = 1) -> list[list[float]]:
    """Stochastic depth by stage and block, growing linearly (arXiv:1603.09382, Eq. 4).

    Of n blocks the i-th has i / n of `rate`, where i counts from `first`.
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise ValueError(
            "`stochastic_depth` must be a number from 0 up to but not including 1. "
            f"Received: stochastic_depth={rate!r}"
        )
    total, place, rates = sum(blocks), first, []
    for number in blocks:
        rates.append([rate * (place + i) / total for i in range(number)])
        place += number
    return rates
