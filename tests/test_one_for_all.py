"""An argument with one value, and with the same value for each stage, is one network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import pytest
from family_grids import FAMILIES
from grids import BLOCKS

import kblocks as kb

STAGES = 3
MADE_OF = {
    "alexnet": [kb.ConvBlock],
    "vgg": [kb.ConvBlock],
    "resnet": [kb.ResidualBlock],
    "preresnet": [kb.BottleneckBlock],
    "resnext": [kb.ResNeXtBlock],
    "densenet": [kb.DenseBlock],
    "efficientnet": [kb.MBConvBlock],
    "xception": [kb.SeparableConvBlock],
    "tresnet": [kb.TResNetBottleneckBlock, kb.TResNetBasicBlock],
    "googlenet": [kb.InceptionBlock],
    "inception_v3": [kb.InceptionBlock],
    "inception_v4": [kb.InceptionBlock],
    "inception_resnet": [kb.InceptionResNetBlock],
}
# None stands for what is published there, which differs by stage.
PUBLISHED = {"filters", "kernel_size", "strides", "expansion", "reductions", "scale", "block"}
# Arguments of the whole network, and columns that the builders fill in themselves; `group_width`
# says that a single value doubles with each stage.
WHOLE = {
    *("blocks", "branches", "stem", "top", "head", "auxiliary", "last", "transition"),
    *("width", "depth", "stochastic_depth", "dropout", "variant", "version", "convolutions"),
    "group_width",
}
MORE: dict[str, list[Any]] = {
    "kernel_initializer": ["zeros", keras.initializers.HeNormal(seed=3)],
    "bias_initializer": ["ones"],
    "kernel_regularizer": [keras.regularizers.L2(1e-4)],
    "bias_regularizer": [keras.regularizers.L1(1e-4)],
    "activation": ["tanh", keras.layers.LeakyReLU(0.2), None],
    "normalization": [kb.Norm("batch", momentum=0.7), "group"],
}


def _arguments(family: str) -> Iterator[tuple[str, Any]]:
    """Every argument that a stage may have of its own, with values that are not the default."""
    axes: dict[str, list[Any]] = {**FAMILIES[family]}
    if family in ("inception_v3", "inception_v4", "inception_resnet", "googlenet"):
        axes.pop("width")  # one for all of them, as the table has it
        yield "width", 0.5
    for block in MADE_OF[family]:
        for name, values in {**BLOCKS[block][0], **MORE}.items():
            if name in block.Spec._checks and name not in FAMILIES[family]:
                axes[name] = values
    for name, values in axes.items():
        if name not in WHOLE and (name != "block" or family == "tresnet"):
            values = [v for v in values if not (v is None and name in PUBLISHED)]
            yield from ((name, value) for value in values if not isinstance(value, list))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_value_is_the_same_value_for_each_stage(family: str) -> None:
    build = getattr(kb, family)
    base: dict[str, Any] = {"classes": 5, "blocks": (1,) * STAGES}
    tried = set()
    for name, value in _arguments(family):
        count = (
            STAGES - 1 if family == "densenet" and name in ("compression", "strides") else STAGES
        )
        try:
            one = build(**{**base, name: value})
        except (TypeError, ValueError):
            with pytest.raises((TypeError, ValueError)):
                build(**{**base, name: [value] * count})
            continue
        assert build(**{**base, name: [value] * count}) == one, (name, value)
        assert build(**{**base, name: (value,) * count}) == one, (name, value)
        tried.add(name)
    assert tried >= {"activation", "normalization", "kernel_initializer", "padding"}


def test_separate_objects_of_one_config_are_one_value() -> None:
    def layers() -> list[Any]:
        return [keras.layers.LeakyReLU(0.2) for _ in range(STAGES)]

    each = kb.resnet(5, blocks=(1,) * STAGES, activation=layers())
    assert each == kb.resnet(5, blocks=(1,) * STAGES, activation=layers()[0])
    assert each.rows[0].spec.activation["config"]["negative_slope"] == 0.2  # the stem's too


def test_a_wrong_value_is_named_with_its_stage() -> None:
    with pytest.raises(ValueError, match=r"resnet, stage 2: `activation`.*'nope'"):
        kb.resnet(5, blocks=(1, 1), activation=["relu", "nope"])
