"""The per-stage arguments of every family, in small: see `grids.py`."""

from __future__ import annotations

from grids import Axes

import kblocks as kb

INPUTS = [(128, 120, 3), (139, 131, 1)]

_STAGED: Axes = {
    "blocks": [(1, 2, 1), [2, 1, 1]],
    "filters": [[8, 4, 12], 8],
    "kernel_size": [3, [(1, 5), 3, 1], (3, 5)],
    "strides": [[1, 2, (2, 1)], 2, 1],
    "padding": ["symmetric", ["same", "valid", 1], "valid"],
}
_HEAD: Axes = {"head": [None, {"pool": "concat"}, {"pool": "flatten", "hidden": (5,)}]}
_LINEAR: Axes = {"head": [{"hidden": (6, 5)}, {"pool": "concat", "hidden": ()}]}
_STEM: Axes = {"stem": [{"filters": 4}, kb.ConvBlock.Spec(6, 5, 4, padding="valid")]}
_RESNET: Axes = {
    **_STAGED,
    **_HEAD,
    **_STEM,
    "block": ["basic", "bottleneck", "resnext"],
    "stochastic_depth": [0.0, 0.3],
    "variant": [None, "v1", "v1.5"],
    "order": ["original", ["full_preactivation", "norm_after_addition", "original"]],
    "shortcut": ["projection", ["zero_pad", "projection", "zero_pad"]],
}
_TABLES = [
    [(4, (3, 6), (2, 4, 3), ("max", 2))],
    [(4, (3, 6), (2, 3, 4), ("avg", 2)), (8, (3, 2), (2, 2), "max")],
    [(5, (2, 5), (2, 5), ("min", 3))],
]
_REDUCTION = {"branches": (8, (4, 6), "avg"), "kernel_size": 5, "last_padding": "valid"}
_WIDENED = {"branches": ("max", 16), "kernel_size": 3, "strides": 2}
_INCEPTION: Axes = {
    "blocks": [(1, 2, 1), (2, 1, 2)],
    "branches": [None, _TABLES],
    "filters": [None, 0.5, [1, (0.5, 2), 0.25]],
    "width": [0.125, [0.25, 0.125, 0.1]],
    "pool": [None, ["min", "avg", None]],
    "kept": [None, [(1, 2), [2], None]],
    "strides": [None, [1, (2, 1), 2], [2, 1, 1]],
    "padding": ["symmetric", ["valid", "same", 1]],
    "reductions": [None, [None, _REDUCTION, {}], [_REDUCTION, {"kernel_size": 5}, None]],
    "stem": [
        None,
        {"filters": 32, "strides": 4},
        [{"filters": 8}, _WIDENED],
        {"form": "inception_v4", "filters": 0.5, "kernel_size": [5, 3, 3], "strides": 2},
    ],
    "dropout": [0.2, 0.0],
    **_HEAD,
}

# By family, the axes of its arguments; the published widths would be slow here.
FAMILIES: dict[str, Axes] = {
    "alexnet": {**_STAGED, **_LINEAR, **_STEM, "pool": [["max", None, "avg"], "min"]},
    "vgg": {**_STAGED, **_LINEAR, "pool": ["max", [None, "avg", "max"]]},
    "resnet": _RESNET,
    "preresnet": {
        **{name: values for name, values in _RESNET.items() if name != "order"},
        "block": ["basic", "bottleneck"],
    },
    "resnext": {
        **{name: values for name, values in _RESNET.items() if name != "block"},
        "cardinality": [2, [4, 1, 2]],
        "group_width": [1, [3, 2, 4]],
    },
    "densenet": {
        **{name: values for name, values in _STAGED.items() if name != "filters"},
        **_HEAD,
        **_STEM,
        "growth_rate": [4, [3, 4, 6]],
        "bottleneck": [4, [None, 2, 1]],
        "compression": [0.5, [1.0, 0.3]],
        "strides": [2, [1, (2, 1)]],
        "transition": [None, {"pool": "max", "kernel_size": 3, "pool_size": [2, 3]}],
    },
    "efficientnet": {
        **_STAGED,
        **_HEAD,
        "width": [1.0, 0.6],
        "depth": [1.0, 1.4],
        "filters": [[8, 16, 8], None],
        "expansion": [[1, 6, 2.5], 4],
        "stochastic_depth": [0.2, 0.0],
        "dropout": [0.2, 0.0],
        "stem": [{"filters": 8}, kb.SpaceToDepthStem.Spec(8, block_size=2)],
        "top": [{"filters": 16}, {"filters": 8, "kernel_size": 3}],
        "squeeze_ratio": [0.25, [None, 0.5, 0.25]],
    },
    "tresnet": {
        **_STAGED,
        **_HEAD,
        "block": [None, ["bottleneck", "basic", "bottleneck"], "basic"],
        "expansion": [4, [2, 1, 4]],
        "stochastic_depth": [0.0, 0.3],
        "stem": [None, {"filters": 4, "block_size": 2}],
        "blur_size": [3, [5, None, 3]],
        "least_squeeze": [2, 8],
    },
    "xception": {
        **_STAGED,
        **_HEAD,
        **_STEM,
        "convolutions": [2, [1, 3, 2]],
        "width": [None, [None, 6, 8]],
        "pool": ["max", [None, "avg", "max"]],
        "top": [None, {"filters": 8, "width": 6}],
    },
    "googlenet": {
        **_INCEPTION,
        "kernel_size": [3, [(3, 5), 5, (1, (1, 5), (5, 1), 3)]],
        "auxiliary": [None, {}, {"aux": {"stage": 1, "filters": (4,), "hidden": (6,)}}],
    },
    "inception_v3": {
        **_INCEPTION,
        "kernel_size": [None, [3, 5, (1, 5, (1, 3), 3)]],
        "auxiliary": [None, {}, {"aux": {"stage": 1, "filters": (4,), "pool_size": 3}}],
    },
    "inception_v4": {**_INCEPTION, "kernel_size": [None, [(3, 5), 5, 5]]},
    "inception_resnet": {
        **{name: values for name, values in _INCEPTION.items() if name != "strides"},
        "strides": [None, [1, (2, 1), 2]],
        "version": ["v2", "v1"],
        "branches": [None, [[(4, (2, 3), ("max", 2))], [(4, (2, 3, 3))], [(3, (2, 4)), (5, (3,))]]],
        "kernel_size": [None, [5, 3, 5]],
        "scale": [None, [1.0, 0.5, 0.3]],
        "last": [None, {}, {"scale": 0.7}],
        "top": [None, {"filters": 64, "kernel_size": 3}],
    },
}
