"""Choices around published values, the published one first: what ready spaces are made of."""

from __future__ import annotations

from typing import Any

from kblocks.search_space.choices import choice


def options(published: Any, *others: Any) -> Any:
    """The published value and those of the others that differ from it."""
    different: list[Any] = [published]
    different += [other for other in dict.fromkeys(others) if other != published]
    return choice(*different)


def widths(published: int) -> Any:
    """Half, three quarters, one and a half times as many channels, in eights where there are."""
    step = 8 if published % 8 == 0 and published > 8 else 1
    scaled = (max(step, round(published * share / step) * step) for share in (0.25, 0.5, 0.75, 1.5))
    return options(published, *scaled)


def depths(published: int) -> Any:
    """Half as many, one fewer, one more."""
    return options(published, max(1, published // 2), max(1, published - 1), published + 1)


def kernels(published: Any = 3) -> Any:
    """Square kernels of odd size and two long ones."""
    return options(published, 3, 5, 7, (1, 7), (7, 1))


def paddings(published: str = "symmetric") -> Any:
    """All that are named."""
    return options(published, "same", "symmetric", "valid")
