"""Everything public goes through pickle, copy and deepcopy, and comes out as it was."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import kblocks as kb

INPUT = (8, 8, 3)


def net() -> kb.Architecture:
    return kb.Architecture([kb.ConvBlock.Spec(4, strides=2)], kb.Classifier(3))


def compiled() -> keras.Model:
    model = net().model(INPUT)
    optimizer = kb.learning_rate_multipliers("adam", {"stage1": 0.5})
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return kb.prepare(model)


def shared_targets() -> keras.Model:
    return kb.Architecture([kb.ConvBlock.Spec(4)], {"z": kb.Classifier(3)}).model(INPUT)


def searched() -> kb.Space:
    blocks = [kb.choice(1, 2)]
    return kb.Space(kb.resnet, classes=3, blocks=blocks, filters=[kb.integer(4, 8)])


WEIGHTS = kb.architecture("resnet50").weights[0]
# How one of each public class is made; the others are called without arguments.
MADE: dict[str, Callable[[], Any]] = {
    "Architecture": net,
    "AuxiliaryClassifier": lambda: kb.AuxiliaryClassifier(3),
    "BottleneckBlock": lambda: kb.BottleneckBlock(4),
    "BoxRegressor": kb.BoxRegressor,
    "Budget": lambda: kb.Budget(macs=1e6, training_memory=1e9),
    "Classifier": lambda: kb.Classifier(3),
    "ConvBlock": lambda: kb.ConvBlock(4, activation=keras.layers.LeakyReLU(0.2)),
    "Cost": lambda: net().cost(INPUT),
    "DenseBlock": lambda: kb.DenseBlock(4),
    "DetectionMap": lambda: kb.DetectionMap(3),
    "Detector": lambda: kb.Detector(3),
    "GroupedConv2D": lambda: kb.GroupedConv2D(4, 3, groups=2),
    "InceptionBlock": lambda: kb.InceptionBlock([4, "max"], [3, 3]),
    "InceptionResNetBlock": lambda: kb.InceptionResNetBlock([4, (4, 8)], [1, 3]),
    "InputTooSmallError": lambda: kb.InputTooSmallError("too small", 3),
    "KeypointMaps": lambda: kb.KeypointMaps(3),
    "KeypointRegressor": lambda: kb.KeypointRegressor(3),
    "Keypoints": lambda: kb.Keypoints(3),
    "Localizer": lambda: kb.Localizer(3),
    "MBConvBlock": lambda: kb.MBConvBlock(4),
    "Norm": lambda: kb.Norm("group", groups=4),
    "Preprocessing": lambda: WEIGHTS.preprocessing(),
    "Recipe": lambda: kb.Recipe(learning_rate=kb.real(1e-4, 1e-1, log=True)),
    "ResNeXtBlock": lambda: kb.ResNeXtBlock(4),
    "ResidualBlock": lambda: kb.ResidualBlock(4),
    "ResidualDense": lambda: kb.ResidualDense(4),
    "Row": lambda: net().rows[0],
    "Segmenter": lambda: kb.Segmenter(3),
    "SeparableConvBlock": lambda: kb.SeparableConvBlock(4),
    "SharedTargets": shared_targets,
    "Space": searched,
    "SpaceToDepthStem": lambda: kb.SpaceToDepthStem(4),
    "SqueezeExcite": lambda: kb.SqueezeExcite(4),
    "TResNetBasicBlock": lambda: kb.TResNetBasicBlock(4),
    "TResNetBottleneckBlock": lambda: kb.TResNetBottleneckBlock(4),
    "Tasks": lambda: net().head,
    "WeightSet": lambda: WEIGHTS,
}
_CLASSES = {name for name in kb.__all__ if isinstance(getattr(kb, name), type)} - {"Block"}
MADE = {name: MADE.get(name, getattr(kb, name)) for name in sorted(_CLASSES)}
# What functions return, and classes in other states.
RETURNED: dict[str, Callable[[], Any]] = {
    "boolean": kb.boolean,
    "choice": lambda: kb.choice(3, (1, 7), "same", None),
    "fixed": lambda: kb.fixed([1, 2]),
    "integer": lambda: kb.integer(1, 8, log=True),
    "per_stage": lambda: kb.per_stage(3, kb.choice(1, 2)),
    "real": lambda: kb.real(0, 1),
    "learning_rate_multipliers": lambda: kb.learning_rate_multipliers("sgd", {"stem": 0.1}),
    "a Spec": lambda: kb.ResidualBlock.Spec(4, kernel_regularizer="l2", normalization="layer"),
    "a compiled model": compiled,
    "a fused model": lambda: kb.fuse(net().model(INPUT)),
    "a model with auxiliary heads": lambda: kb.googlenet(3, width=0.1).model((64, 64, 3), aux=True),
    "a space within": lambda: searched().within((32, 32, 3), kb.Budget(macs=4e6)),
    "weights": lambda: WEIGHTS,
    **{f"spaces.{name}": getattr(kb.spaces, name) for name in kb.spaces.__all__},
}
WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def looks(thing: Any) -> Any:
    """What must stay of a thing that is not compared by its values."""
    match thing:
        case keras.Model():
            told = [getattr(thing, name, None) for name in ("targets", "auxiliary", "output_names")]
            weights = [(w.path, keras.ops.convert_to_numpy(w).tolist()) for w in thing.weights]
            return told, [(layer.name, type(layer)) for layer in thing.layers], weights
        case keras.Layer() | keras.optimizers.Optimizer():
            return thing.get_config()
        case kb.Space():
            return thing.names(), thing.sample(0), thing.input_shape, thing.budget
        case kb.Tasks():
            return thing.targets, thing.loss_weights()
        case Exception():
            return str(thing), vars(thing)
    if hasattr(thing, "attach"):  # a head of several rows
        return kb.resnet(blocks=(1, 1), head=thing)
    return thing


@pytest.mark.thin(6)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [*MADE, *RETURNED])
def test_it_comes_out_as_it_went_in(make: str, way: str) -> None:
    thing = {**MADE, **RETURNED}[make]()
    found = WAYS[way](thing)
    assert type(found) is type(thing)
    if make.startswith("spaces."):
        assert (found.names(), found.size()) == (thing.names(), thing.size())
    else:
        assert looks(found) == looks(thing)


@pytest.mark.parametrize("way", WAYS)
def test_functions_and_classes_are_themselves(way: str) -> None:
    for name in set(kb.__all__) - {"fields", "ops", "spaces", "tuner"}:
        assert WAYS[way](getattr(kb, name)) is getattr(kb, name), name
        spec = getattr(getattr(kb, name), "Spec", None)
        assert WAYS[way](spec) is spec, name


def test_a_model_is_a_copy_of_its_own() -> None:
    """Weights are copies, and the copy trains on from where its original stood."""
    model = compiled()
    x, y = np.ones((4, *INPUT)), np.array([0, 1, 2, 0])
    model.fit(x, y, verbose=0)
    other = pickle.loads(pickle.dumps(model))
    assert not {id(w) for w in other.weights} & {id(w) for w in model.weights}
    for one in (model, other):
        one.fit(x, y, verbose=0)
    for mine, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
