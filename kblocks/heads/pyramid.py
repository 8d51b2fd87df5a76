"""Top-down pathways: coarse maps are upsampled and added to finer ones."""

import itertools
from dataclasses import KW_ONLY
from typing import Any

from kblocks.blocks.block import Block
from kblocks.blocks.convolution import ConvBlock
from kblocks.blocks.fields import Count, InitializerLike
from kblocks.heads.attaching import Place
from kblocks.plans.ops import Chain, Conv, Merge, Op
from kblocks.plans.ops import ResizeLike as Resize

Rows = list[tuple[str, Any, tuple[str, ...]]]


class ResizeLike(Block):
    """Resizes the first of two inputs bilinearly to the height and width of the second."""

    def plan(self, channels: Any) -> Op:
        return Resize()


class AddLateral(Block):
    """Adds a 1x1 convolution of the second input to the first, which has the same size."""

    filters: Count
    _: KW_ONLY
    kernel_initializer: InitializerLike = "he_normal"

    def plan(self, channels: Any) -> Op:
        lateral = Conv(self.filters, kernel_initializer=self.kernel_initializer)
        return Chain(Merge("add", coarse=Chain(), lateral=lateral))


def strides_down_to(place: Place, owner: str, stride: int | None) -> list[int]:
    """The network's strides from the coarsest down to `stride`; None is the coarsest alone."""
    levels = place.levels()
    if stride is not None:
        place.at([stride], owner)
    elif not levels:
        raise ValueError(f"{owner} needs a map of the network. Received: none")
    finest = max(levels) if stride is None else stride
    return [one for one in sorted(levels, reverse=True) if one >= finest]


def raised(
    place: Place, strides: list[int], first: Any, filters: int, part: str, initializer: Any
) -> tuple[Rows, dict[int, str]]:
    """The rows of a top-down pathway that starts with block `first`, and the row at each stride."""
    levels = place.levels()
    rows: Rows = [(place.row(f"{part}{strides[0]}"), first, (levels[strides[0]],))]
    found = {strides[0]: rows[0][0]}
    for coarse, fine in itertools.pairwise(strides):
        own = levels[fine]
        up, added = place.row(f"up{fine}"), place.row(f"{part}{fine}")
        rows.append((up, ResizeLike.Spec(), (found[coarse], own)))
        lateral = AddLateral.Spec(filters, kernel_initializer=initializer)
        rows.append((added, lateral, (up, own)))
        found[fine] = added
    return rows, found


def top_down(place: Place, owner: str, stride: int, filters: int) -> tuple[Rows, dict[int, str]]:
    """The rows of a feature pyramid from the coarsest map to `stride`, and the row at each stride.

    Reference: Lin et al. 2016, arXiv:1612.03144, Fig. 3, with bilinear upsampling.
    """
    strides = strides_down_to(place, owner, stride)
    first = ConvBlock.Spec(filters, 1, normalization=None, activation=None)
    return raised(place, strides, first, filters, "level", "he_normal")
