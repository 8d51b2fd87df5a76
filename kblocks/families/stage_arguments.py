"""What the families share: arguments a stage, and rows of blocks from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kblocks.blocks.convolution import Convolutional
from kblocks.heads.attaching import is_head
from kblocks.plans.ops import Norm

PUBLISHED_NORM = Norm("batch", momentum=0.9, epsilon=1e-5)  # as PyTorch's models have it


def count_stages(blocks: Any) -> int:
    """The number of stages, which `blocks` fixes."""
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
    """One value a stage (or a transition, or whatever they are `of`).

    A list or tuple as long as there are stages has one value for each; another pair is a
    (height, width) for all of them, and so is any single value.
    """
    if isinstance(value, (list, tuple)) and len(value) == stages:
        return list(value)
    if isinstance(value, list) or (isinstance(value, tuple) and len(value) != 2):
        raise ValueError(
            f"`{name}` must be one value or one for each of the {stages} {of}. "
            f"Received: {name}={value!r}"
        )
    return [value] * stages


def one_for_all(stages: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same arguments, with one value where each stage is given the same: one network."""
    return {name: _one(name, value, stages) for name, value in arguments.items()}


def _one(name: str, value: Any, stages: int) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != stages:
        return value
    if isinstance(value[0], (list, tuple)):  # a single one would be taken for one a stage
        return value
    spec: Any = Convolutional.Spec
    check = spec._checks.get(name, (None,))[0]
    try:
        forms = [one if check is None or one is None else check.normalise(one) for one in value]
    except (TypeError, ValueError):
        return value  # refused with its stage when the blocks are made
    return value[0] if all(form == forms[0] for form in forms) else value


def arguments_by_stage(
    stages: int, arguments: Mapping[str, Any], of: str = "stages"
) -> list[dict[str, Any]]:
    """The arguments of each stage's blocks, from arguments that may have one value a stage."""
    columns = {name: by_stage(name, value, stages, of) for name, value in arguments.items()}
    return [{name: column[i] for name, column in columns.items()} for i in range(stages)]


def published_or(given: Any, published: tuple[Any, ...], stages: int) -> Any:
    """What is given, or the published values of the first stages where they are enough."""
    return published[:stages] if given is None and stages <= len(published) else given


def made(block: Any, place: str, arguments: Mapping[str, Any]) -> Any:
    """A Spec, or an error that tells the place."""
    try:
        return block.Spec(**arguments)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{place}: {error}") from error


def stage_specs(
    block: Any, place: str, arguments: Mapping[str, Any], depths: Sequence[float]
) -> list[Any]:
    """The Specs of a stage, one for each of `depths`, the rates of their stochastic depth.

    The first has the stage's strides; equal ones are made once.
    """
    first = made(block, place, arguments)
    rest = first.replace(strides=1)
    if any(depths):
        first = first.replace(stochastic_depth=depths[0])
        return [first, *(rest.replace(stochastic_depth=rate) for rate in depths[1:])]
    return [first] + [rest] * (len(depths) - 1)


def part(block: Any, place: str, given: Any, defaults: Mapping[str, Any]) -> Any:
    """The stem or head: `given` as a Spec, or as arguments that replace some defaults."""
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
    """Those arguments of the blocks that the stem follows too: activation, normalization, ..."""
    spec: Any = Convolutional.Spec
    names = spec._checks
    return {
        name: value
        for name, value in arguments.items()
        if name in names and not isinstance(value, (list, tuple))
    }


def positive(name: str, value: Any) -> float:
    """A multiplier of widths or depths."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"`{name}` must be a number over 0. Received: {name}={value!r}")
    return value


def rising(rate: float, blocks: Sequence[int], first: int = 1) -> list[list[float]]:
    """Stochastic depth that grows linearly to `rate` (arXiv:1603.09382, Eq. 4), by stage.

    Of n blocks the i-th has i / n of the rate, counted from `first`.
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
