"""Blocks as a user would write them, in a module of their own that a fresh process can import."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

import keras

import kblocks as kb
from kblocks.fields import Count, Rate, Size
from kblocks.ops import Activation, Chain, Conv, GlobalPool, Merge, Norm, Op


class Fire(kb.Block):
    """Squeeze and two expansions side by side (Iandola et al. 2016, arXiv:1602.07360, Fig. 1)."""

    squeeze: Count
    expand: Count = 16
    _: KW_ONLY
    kernel_size: Size = 3
    activation: str = "relu"

    @property
    def ending(self) -> Activation:
        return Activation(self.activation)

    def branch(self, kernel_size: tuple[int, int]) -> Op:
        return Chain(Conv(self.expand, kernel_size), self.ending)

    def plan(self, channels: int) -> Op:
        expanded = Merge("concat", narrow=self.branch((1, 1)), wide=self.branch(self.kernel_size))
        return Chain(Conv(self.squeeze), self.ending, expanded)


class WideFire(Fire):
    """Keeps the fields of its parent, changes a default and adds one."""

    expand: Count = 32
    norm_momentum: Rate = 0.9

    def plan(self, channels: int) -> Op:
        return Chain(Conv(self.squeeze), Norm("batch", self.norm_momentum), self.branch((3, 3)))


class Join(kb.Block):
    """Several maps joined: a convolution of each."""

    mode: Literal["add", "concat"] = "add"
    filters: Count = 4

    def plan(self, channels: list[int]) -> Op:
        return Merge(
            self.mode, **{f"input{'abc'[i]}": Conv(self.filters) for i in range(len(channels))}
        )


class Squeeze(kb.Block):
    """Global average: a head without weights."""

    def plan(self, channels: int) -> Op:
        return GlobalPool("avg")


@keras.saving.register_keras_serializable("user_blocks")
def twice(x: object) -> object:
    """An activation of one's own."""
    return 2 * x
