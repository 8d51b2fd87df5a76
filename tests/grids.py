"""The values that the arguments of every block and family are counted with, and their coverings.

A grid has an axis for each argument that may change a cost. Its whole product is out of reach, so
`covering` picks points that hold every value, every pair of values, and so on.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

from conformance import ORDERS

import kblocks as kb

Axes = dict[str, list[Any]]

KERNELS = [3, 1, 5, (1, 7), (4, 2)]
STRIDES = [2, 1, (2, 1), 3]
PADDINGS = ["same", "valid", "symmetric", 1, (0, 2)]
MAPS = [(31, 30, 4), (24, 27, 8)]
# They change how weights start, what is added to the loss and what the loss is.
WITHOUT_COST = {
    *("kernel_initializer", "bias_initializer", "kernel_regularizer", "bias_regularizer"),
    *("loss_weight", "box_weight", "box_loss", "multi_label", "tolerance"),
    *("smallest", "largest", "radius"),
}

_CONVOLUTIONAL: Axes = {
    "activation": ["relu", None],
    "normalization": ["batch", "layer", "group", "weight", None],
    "use_bias": [None, True, False],
    "padding_mode": ["zeros", "reflect", "replicate"],
}
_SPATIAL: Axes = {"kernel_size": KERNELS, "strides": STRIDES, "padding": PADDINGS}
_POOL: Axes = {"pool_size": [2, 3, (2, 3)], "pool_padding": ["valid", "same", "symmetric", 1]}
_GATE: Axes = {
    "squeeze_ratio": [0.25, None, 1.0],
    "squeeze_activation": ["relu", "silu"],
    "gate": ["sigmoid", "hard_sigmoid"],
}
_DROP: Axes = {"dropout": [0.0, 0.5]}
_DEPTH: Axes = {"stochastic_depth": [0.0, 0.5]}
_DILATED: Axes = {"dilation_rate": [1, 2, (1, 3)], "groups": [1, 2, 4]}
_RESIDUAL: Axes = {
    **_CONVOLUTIONAL,
    **_SPATIAL,
    **_DILATED,
    **_DEPTH,
    "filters": [4, 8],
    "order": list(ORDERS),
    "shortcut": ["projection", "zero_pad", "identity"],
}
_ANTI_ALIASED: Axes = {
    **_CONVOLUTIONAL,
    **_SPATIAL,
    **_DILATED,
    **_DEPTH,
    **_GATE,
    "filters": [4, 8],
    "last_activation": ["relu", None],
    "blur_size": [3, 5, None],
    "least_squeeze": [1, 6],
}
_BRANCHED: Axes = {
    **_CONVOLUTIONAL,
    "padding": PADDINGS,
    "last_kernel_size": [None, 3, (5, 1)],
    "wide": [False, True],
    "last_padding": [None, "same", "valid", "symmetric", 1],
    "pool_count_padding": [False, True],
    "pool_ceil_mode": [False, True],
}
_REGRESSOR: Axes = {
    **_DROP,
    "pool": ["flatten", "avg", "max", "concat"],
    "pool_size": [None, (3, 4), 33],
    "hidden": [(5,), (), (5, 3)],
    "activation": ["relu", None],
}
_MODULE = (4, (3, 6), (2, 5, 3), ("max", 3))

# By block: its axes, and the inputs that it is counted on.
BLOCKS: dict[Any, tuple[Axes, list[tuple[int, ...]]]] = {
    kb.ConvBlock: (
        {
            **_CONVOLUTIONAL,
            **_SPATIAL,
            **_DILATED,
            **_POOL,
            **_DROP,
            "filters": [4, 8],
            "convolutions": [1, 2, 3],
            "order": ["conv_norm_act", "norm_act_conv", "norm_last"],
            "pool": [None, "max", "avg", "min"],
            "pool_strides": [None, 1, 2, (2, 1)],
        },
        MAPS,
    ),
    kb.NormAct: (_CONVOLUTIONAL, MAPS),
    kb.ResidualBlock: (_RESIDUAL, MAPS),
    kb.BottleneckBlock: (
        {
            **_RESIDUAL,
            "expansion": [4, 1, 2],
            "width": [None, 4, 12],
            "strides_on": ["spatial", "first"],
        },
        MAPS,
    ),
    kb.ResNeXtBlock: (
        {
            **_RESIDUAL,
            "groups": [1],
            "cardinality": [2, 1, 4],
            "group_width": [3, 1],
            "strides_on": ["spatial", "first"],
        },
        MAPS,
    ),
    kb.InceptionBlock: (
        {
            **_BRANCHED,
            "branches": [_MODULE, (4, 6, 5, "max"), ((3, 6), "avg"), (5,), ("min",)],
            "kernel_size": [3, 5, (1, 3, 5, 3), (1, (1, 7), (7, 1), 3), (4, 2), ((1, 7), 2)],
            "strides": STRIDES,
        },
        MAPS,
    ),
    kb.InceptionResNetBlock: (
        {
            **_BRANCHED,
            "branches": [(3, (3, 3), (3, 4, 5)), (3, (3, 4, 5)), (3, ("avg", 3))],
            "kernel_size": [3, (1, 3, 5), (1, (1, 7)), (1, (5, 1), (1, 5))],
            "scale": [0.2, 1.0],
            "activate": [True, False],
        },
        MAPS,
    ),
    kb.DenseBlock: (
        {
            **_CONVOLUTIONAL,
            **_DROP,
            **_DILATED,
            "growth_rate": [4, 8],
            "depth": [1, 3],
            "kernel_size": KERNELS,
            "bottleneck": [4, 1, None],
            "padding": PADDINGS,
        },
        MAPS,
    ),
    kb.TransitionBlock: (
        {
            **_CONVOLUTIONAL,
            **_SPATIAL,
            **_POOL,
            **_DROP,
            "compression": [0.5, 0.3, 1.0],
            "pool": ["avg", "max", "min"],
            "pool_size": [None, 2, 3, (2, 3)],
        },
        MAPS,
    ),
    kb.MBConvBlock: (
        {
            **_CONVOLUTIONAL,
            **_SPATIAL,
            **_GATE,
            **_DEPTH,
            "filters": [4, 8],
            "expansion": [6, 1, 2.5, 0.4],
        },
        MAPS,
    ),
    kb.SeparableConvBlock: (
        {
            **_CONVOLUTIONAL,
            **_SPATIAL,
            **_POOL,
            "filters": [4, 8],
            "convolutions": [1, 2, 3],
            "width": [None, 6],
            "order": ["conv_norm_act", "act_conv_norm"],
            "dilation_rate": [1, 2, (1, 3)],
            "shortcut": [False, True],
            "pool": [None, "max", "avg", "min"],
        },
        MAPS,
    ),
    kb.SpaceToDepthStem: (
        {**_CONVOLUTIONAL, **_SPATIAL, "filters": [4, 8], "block_size": [4, 3, 2, 1]},
        [(31, 30, 4), (24, 28, 3)],
    ),
    kb.TResNetBasicBlock: (_ANTI_ALIASED, MAPS),
    kb.TResNetBottleneckBlock: (
        {**_ANTI_ALIASED, "squeeze_ratio": [0.5, None, 1.0], "expansion": [4, 1, 2]},
        MAPS,
    ),
    kb.SqueezeExcite: (
        {"width": [1, 3], "activation": ["relu", "silu"], "gate": ["sigmoid", "hard_sigmoid"]},
        MAPS,
    ),
    kb.BlurPooling2D: ({"pool_size": [3, 1, 5, 7], "strides": STRIDES}, MAPS),
    kb.MinPooling2D: (
        {"pool_size": [2, 3, (3, 2)], "strides": [None, *STRIDES], "padding": PADDINGS},
        MAPS,
    ),
    kb.GlobalConcatPooling2D: ({}, MAPS),
    kb.Features: ({"pool": ["avg", "max", "concat"]}, MAPS),
    kb.Classifier: (
        {
            **_DROP,
            "classes": [1, 7],
            "pool": ["avg", "max", "concat", "flatten"],
            "pool_size": [None, (3, 4), 33],
            "hidden": [(), (5,), (5, 3)],
            "activation": ["relu", None],
            "dropout_first": [False, True],
            "use_bias": [True, False],
        },
        MAPS,
    ),
    kb.BoxRegressor: (_REGRESSOR, MAPS),
    kb.KeypointRegressor: ({**_REGRESSOR, "points": [3, 1]}, MAPS),
    kb.KeypointMaps: (
        {
            **_CONVOLUTIONAL,
            "points": [3, 1],
            "filters": [(4,), (4, 6), ()],
            "kernel_size": KERNELS,
            "padding": PADDINGS,
        },
        MAPS,
    ),
    kb.DetectionMap: ({"classes": [1, 7]}, MAPS),
    kb.AuxiliaryClassifier: (
        {
            **_CONVOLUTIONAL,
            **_DROP,
            "classes": [1, 7],
            "filters": [(4,), (4, 6), ()],
            "kernel_size": [1, 3, (1, 5), [(1, 3)]],
            "padding": PADDINGS,
            "pool_size": [5, 3, (2, 3), None],
            "pool_strides": [3, 1, (2, 1)],
            "grid": [None, 4, (6, 3)],
            "pool": ["flatten", "avg"],
            "hidden": [(5,), (), (5, 3)],
        },
        MAPS,
    ),
    kb.ResidualDense: (
        {
            **_DROP,
            "units": [4, 8],
            "depth": [2, 1, 3],
            "order": ["original", "full_preactivation"],
            "activation": ["relu", None],
            "normalization": ["batch", "layer", "weight", None],
            "use_bias": [None, True, False],
        },
        [(4,), (8,)],
    ),
}


def covering(
    axes: Axes, strength: int, fits: Callable[[dict[str, Any]], bool], tries: int = 25
) -> Iterator[dict[str, Any]]:
    """Points that together hold every set of `strength` values of which a point was found to fit.

    Greedy: a set that no point has held yet is completed at random, and the completion that fits
    and holds most new sets is taken.
    """
    draw = random.Random(strength)
    places = [(name, i) for name, values in axes.items() for i in range(len(values))]
    held: set[tuple[tuple[str, int], ...]] = set()

    def sets_of(point: dict[str, int]) -> set[tuple[tuple[str, int], ...]]:
        return set(itertools.combinations(point.items(), strength)) - held

    for wanted in itertools.combinations(places, strength):
        if wanted in held or len(dict(wanted)) < strength:
            continue
        found: list[dict[str, int]] = []
        for _ in range(tries):
            point = {name: draw.randrange(len(values)) for name, values in axes.items()}
            point |= dict(wanted)
            if fits({name: axes[name][i] for name, i in point.items()}):
                found.append(point)
        if found:
            best = max(found, key=lambda point: len(sets_of(point)))
            held |= sets_of(best)
            yield {name: axes[name][i] for name, i in best.items()}
