"""Densely connected networks (Huang et al. 2016, arXiv:1608.06993)."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY
from typing import Any

from kblocks.blocks.convolution import (
    ConvBlock,
    Convolutional,
    NormAct,
    act,
    check_pool,
    check_symmetric,
    conv,
    norm,
)
from kblocks.catalog import variant
from kblocks.families.stages import (
    PUBLISHED_NORM,
    arguments_by_stage,
    count_stages,
    made,
    part,
    shared_by_all,
)
from kblocks.fields import Count, Fraction, Padding, PoolKind, Rate, Size
from kblocks.heads import Classifier
from kblocks.network import Architecture
from kblocks.ops import Chain, Dropout, Merge, Op, Pool
from kblocks.weights import naming


class DenseBlock(Convolutional):
    """Layers that each add `growth_rate` channels to all those before them.

    Args:
        growth_rate: channels that a layer adds.
        depth: how many layers.
        kernel_size: of the spatial convolution of a layer; integer or pair (height, width).
        bottleneck: a 1x1 convolution before it reduces the input to this many times
            `growth_rate` channels; None for a layer without.
        padding: "same" (as Keras), "valid", "symmetric", or the pixels on each side. Where a
            layer shrinks the map, what it is joined to is cropped in its centre.
        dilation_rate, groups: of the spatial convolution.
        dropout: rate of zeroed features behind each layer.
        ...: see `Convolutional`; normalization and activation stand before each convolution.

    Input shape: (batch, height, width, channels).
    Output shape: (batch, new_height, new_width, channels + depth * growth_rate).

    Raises:
        ValueError: if an argument is not of the documented form or does not fit the input.

    Reference: Huang et al. 2016, arXiv:1608.06993, Eq. 2, "Composite function" and "Bottleneck
        layers".
    """

    growth_rate: Count
    _: KW_ONLY
    depth: Count = 1
    kernel_size: Size = 3
    bottleneck: Count | None = 4
    padding: Padding = "same"
    dilation_rate: Size = 1
    groups: Count = 1
    dropout: Rate = 0.0

    def check(self) -> None:
        check_symmetric("padding", self.padding, "kernel_size", self.kernel_size)
        if self.growth_rate % self.groups:
            raise ValueError(
                "`groups` must divide `growth_rate`. "
                f"Received: groups={self.groups}, growth_rate={self.growth_rate}"
            )

    def plan(self, channels: int) -> Op:
        reduce = self.bottleneck and Chain(
            norm(self), act(self), conv(self, self.bottleneck * self.growth_rate, padding="same")
        )
        spatial = conv(
            self,
            self.growth_rate,
            self.kernel_size,
            dilation_rate=self.dilation_rate,
            groups=self.groups,
        )
        drop = Dropout(self.dropout) if self.dropout else None
        layer = Chain(reduce, norm(self), act(self), spatial, drop)
        names = (f"layer{number}" for number in range(1, self.depth + 1))
        return Chain(*(Merge("concat", **{"input": Chain(), name: layer}) for name in names))


class TransitionBlock(Convolutional):
    """What stands between dense blocks: fewer channels, then a pool.

    Args:
        compression: the share of the input's channels that the convolution leaves, rounded
            down; 1 keeps all.
        kernel_size: of the convolution.
        strides: of the pool; 1 leaves it out unless `pool_size` is given.
        padding: of the convolution.
        pool: "avg", "max" or "min".
        pool_size: None is `strides`.
        pool_padding: see `ConvBlock`.
        dropout: rate of zeroed features before the pool.
        ...: see `Convolutional`; normalization and activation stand before the convolution.

    Input shape: (batch, height, width, channels).
    Output shape: (batch, new_height, new_width, int(compression * channels)).

    Reference: Huang et al. 2016, arXiv:1608.06993, "Pooling layers" and "Compression".
    """

    compression: Fraction = 0.5
    kernel_size: Size = 1
    strides: Size = 2
    _: KW_ONLY
    padding: Padding = "same"
    pool: PoolKind = "avg"
    pool_size: Size | None = None
    pool_padding: Padding = "valid"
    dropout: Rate = 0.0

    def check(self) -> None:
        check_symmetric("padding", self.padding, "kernel_size", self.kernel_size)
        check_pool("pool_padding", self.pool_padding, "pool_size", self.pool_size or self.strides)

    def plan(self, channels: int) -> Op:
        filters = max(
            1, int(channels * self.compression + 1e-6)
        )  # 0.29 * 100 is 28.999999999999996
        size = self.pool_size or self.strides
        pools = size != (1, 1) or self.strides != (1, 1)
        return Chain(
            norm(self),
            act(self),
            conv(self, filters, self.kernel_size),
            Dropout(self.dropout) if self.dropout else None,
            Pool(self.pool, size, self.strides, self.pool_padding) if pools else None,
        )


def densenet(
    classes: int = 1000,
    *,
    blocks: Any = (6, 12, 24, 16),
    growth_rate: Any = 32,
    bottleneck: Any = 4,
    kernel_size: Any = 3,
    padding: Any = "symmetric",
    compression: Any = 0.5,
    strides: Any = 2,
    transition: Any = None,
    stem: Any = None,
    head: Any = None,
    name: str = "densenet",
    **block: Any,
) -> Architecture:
    """A stem, and dense blocks with transitions between them; by default DenseNet-121.

    Args:
        classes: number of logits.
        blocks: layers of the dense block of each stage; fixes the number of stages.
        growth_rate, bottleneck, kernel_size, padding: of the dense blocks, one value or one a
            stage (a tuple of two is a pair for all stages unless there are two).
        compression, strides: of the transitions, which begin all stages but the first; one value
            or one a transition.
        transition: further arguments of `kb.TransitionBlock`, one value or a list with one a
            transition.
        stem: arguments of `kb.ConvBlock` that replace the published ones (twice the growth rate
            in filters of 7x7 with strides 2, max pool of 3 with strides 2), or the Spec of a stem.
        head: arguments of `kb.Classifier` that replace the published ones (average pool), or
            the Spec of a head.
        name: of the model.
        **block: further arguments of `kb.DenseBlock`, one value or a list with one a stage;
            activation, normalization, bias and initializers are the transitions' and stem's too.

    Raises:
        ValueError, TypeError: if an argument does not fit, with its name and stage.

    Reference: Huang et al. 2016, arXiv:1608.06993, Table 1.
    """
    stages = count_stages(blocks)
    columns = {
        "depth": list(blocks),
        "growth_rate": growth_rate,
        "bottleneck": bottleneck,
        "kernel_size": kernel_size,
        "padding": padding,
    }
    options = {"normalization": PUBLISHED_NORM, **block}
    arguments = arguments_by_stage(stages, {**columns, **options})
    between = {"compression": compression, "strides": strides, **(transition or {})}
    between = [{}, *arguments_by_stage(stages - 1, between)]
    rows = [("stem", _stem({**options, "growth_rate": arguments[0]["growth_rate"]}, stem))]
    for i, (own, before) in enumerate(zip(arguments, between, strict=True), 1):
        if i > 1:
            shared = shared_by_all(arguments[i - 2])
            spec = made(TransitionBlock, f"{name}, transition {i - 1}", {**shared, **before})
            rows.append((f"stage{i}_transition", spec))
        rows.append((f"stage{i}_block1", made(DenseBlock, f"{name}, stage {i}", own)))
    rows.append((f"stage{stages}_norm", NormAct.Spec(**shared_by_all(arguments[-1]))))
    return Architecture(rows, head=part(Classifier, "head", head, {"classes": classes}), name=name)


def _stem(options: dict[str, Any], given: Any) -> Any:
    published = {
        "filters": 2 * options["growth_rate"],
        "kernel_size": 7,
        "strides": 2,
        "padding": "symmetric",
        "pool": "max",
        "pool_size": 3,
        "pool_strides": 2,
        "pool_padding": "symmetric",
        **shared_by_all(options),
    }
    return part(ConvBlock, "stem", given, published)


densenet121 = variant("densenet121", densenet, blocks=(6, 12, 24, 16))
densenet161 = variant("densenet161", densenet, blocks=(6, 12, 36, 24), growth_rate=48)
densenet169 = variant("densenet169", densenet, blocks=(6, 12, 32, 32))
densenet201 = variant("densenet201", densenet, blocks=(6, 12, 48, 32))

# Sec. 4.1: on 32x32 images, three dense blocks behind a bare convolution; BC is 3 * 2n + 4 layers.
_BARE = {"normalization": None, "activation": None, "use_bias": False, "pool": None}
_SMALL = {"kernel_size": 3, "strides": 1, **_BARE}
_CIFAR: dict[str, Any] = {"classes": 10, "growth_rate": 12}
_PLAIN = {**_CIFAR, "bottleneck": None, "compression": 1.0, "stem": {"filters": 16, **_SMALL}}
densenet40_12 = variant("densenet40_12", densenet, blocks=(12, 12, 12), **_PLAIN)
densenet_bc100_12 = variant(
    "densenet_bc100_12", densenet, blocks=(16, 16, 16), **_CIFAR, stem=_SMALL
)


@naming("torchvision densenet")
def _torchvision_names(paths: list[str]) -> dict[str, str]:
    """`stage2_block1/layer3_conv1` is `features.denseblock2.denselayer3.conv1`."""
    return _names(paths, "{}{}")


@naming("torchvision densenet, files")
def _older_names(paths: list[str]) -> dict[str, str]:
    """`conv.1` for `conv1`: torchvision's files still have the names of its first years."""
    return _names(paths, "{}.{}")


def _names(paths: list[str], numbered: str) -> dict[str, str]:
    names = {
        "stem/conv": "features.conv0",
        "stem/norm": "features.norm0",
        "head/dense": "classifier",
    }
    for path in paths:
        if found := re.fullmatch(r"stage(\d+)_block1/layer(\d+)_(conv|norm)(\d?)", path):
            stage, layer, kind, number = found.groups()
            module = numbered.format(kind, number or 1)
            names[path] = f"features.denseblock{stage}.denselayer{layer}.{module}"
        elif found := re.fullmatch(r"stage(\d+)_transition/(conv|norm)", path):
            names[path] = f"features.transition{int(found[1]) - 1}.{found[2]}"
        elif re.fullmatch(r"stage\d+_norm/norm", path):
            names[path] = "features.norm5"
    return names
