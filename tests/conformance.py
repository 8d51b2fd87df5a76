"""One table: every block layer that kblocks exports, in its variants, and an input for each.

The generic tests of `test_conformance.py` run over it, and one of them fails when an
exported layer is missing here. Eight columns and eight filters are on purpose: broadcasts
that mistake one axis for another show only where axes are equally long.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import keras

import kblocks as kb
from kblocks.heads import Features

ORDERS = (
    "original",
    "norm_after_addition",
    "relu_before_addition",
    "relu_only_preactivation",
    "full_preactivation",
)


@dataclass(frozen=True)
class Case:
    """How a layer is made, and an input of (height, width, channels) that it fits.

    `unknown_size` tells whether its height and width may be None; `random` whether
    training draws random numbers; `more` that the case is one more of its kind, which
    costly tests leave to slow runs.
    """

    block: type[kb.Block]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, int, int] = (9, 8, 6)
    unknown_size: bool = True
    random: bool = False
    more: bool = False

    def layer(self, **own: Any) -> Any:
        return self.block(*self.args, **self.kwargs, **own)

    def spec(self) -> Any:
        return self.block.Spec(*self.args, **self.kwargs)


def exported_layers() -> list[type[kb.Block]]:
    """The blocks of maps among kblocks' public names; `test_dense.py` has those of features."""
    return [
        member
        for name, member in sorted(vars(kb).items())
        if inspect.isclass(member)
        and issubclass(member, kb.Block)
        and not name.startswith("_")
        and member.Spec.plan is not kb.Block.Spec.plan
        and member is not kb.ResidualDense
    ]


CASES: dict[str, Case] = {}


def _add(block: Any, variant: str, *args: Any, **kwargs: Any) -> None:
    own = {
        key: kwargs.pop(key) for key in ("shape", "unknown_size", "random", "more") if key in kwargs
    }
    name = f"{block.__name__}-{variant}"
    assert name not in CASES, name
    CASES[name] = Case(block, args, kwargs, **own)


# --- ConvBlock ---------------------------------------------------------------------------

_add(kb.ConvBlock, "default", 8)
for _kernel in (1, 2, 5, 7, (1, 7)):
    _add(kb.ConvBlock, f"kernel {_kernel}", 8, _kernel, more=_kernel in (5, 7))
for _strides in (2, (2, 1)):
    for _padding in ("same", "valid", "symmetric", 2, (0, 2)):
        _name, _more = f"strides {_strides}, {_padding}", _strides != 2
        _add(kb.ConvBlock, _name, 8, 3, _strides, padding=_padding, more=_more)
for _mode in ("reflect", "replicate"):
    _more = _mode == "replicate"
    _add(kb.ConvBlock, f"{_mode}, same", 8, 3, padding_mode=_mode, more=True)
    _add(kb.ConvBlock, f"{_mode}, same, even", 8, (4, 2), padding_mode=_mode, more=_more)
    _symmetric = {"padding": "symmetric", "padding_mode": _mode}
    _add(kb.ConvBlock, f"{_mode}, symmetric", 8, 5, 2, **_symmetric, more=_more)
    _add(kb.ConvBlock, f"{_mode}, pixels", 8, 3, padding=(1, 3), padding_mode=_mode)
    _add(
        kb.ConvBlock,
        f"{_mode}, same, strides",
        *(8, 3, 2),
        padding_mode=_mode,
        unknown_size=False,  # how much "same" adds depends on the size
        more=_more,
    )
_add(kb.ConvBlock, "dilation", 8, 3, dilation_rate=2)
_add(kb.ConvBlock, "dilation, symmetric", 8, 3, dilation_rate=(1, 2), padding="symmetric")
_add(kb.ConvBlock, "dilation, valid", 8, 3, dilation_rate=(3, 2), padding="valid")
_add(kb.ConvBlock, "groups", 8, groups=2, convolutions=2)
_add(kb.ConvBlock, "depthwise", 12, groups=6)
for _norm in (
    "layer",
    "group",
    None,
    kb.Norm("batch", momentum=0.9, epsilon=1e-5, scale=False),
    kb.Norm("batch", center=False),
    kb.Norm("layer", epsilon=1e-5, scale=False, center=False),
    kb.Norm("group", groups=4, epsilon=1e-4),
):
    _more = isinstance(_norm, kb.Norm) and _norm.scale
    _add(kb.ConvBlock, f"normalization {_norm}", 8, normalization=_norm, more=_more)
for _order in ("conv_norm_act", "norm_act_conv", "norm_last"):
    _add(kb.ConvBlock, f"{_order} x 3", 8, convolutions=3, order=_order)
_add(kb.ConvBlock, "norm_last, no norm", 8, convolutions=2, order="norm_last", normalization=None)
for _pool in ("max", "avg", "min"):
    _add(kb.ConvBlock, f"pool {_pool}", 8, pool=_pool, more=_pool != "max")
    _add(kb.ConvBlock, f"pool {_pool}, 3 / 2", 8, pool=_pool, pool_size=3, pool_strides=2)
    for _padding in ("same", "symmetric", (1, 2)):
        _add(
            kb.ConvBlock,
            f"pool {_pool}, 3 / (2, 1), {_padding}",
            8,
            pool=_pool,
            pool_size=3,
            pool_strides=(2, 1),
            pool_padding=_padding,
            more=_pool == "max" or _padding == "same",
        )
_add(kb.ConvBlock, "dropout", 8, dropout=0.5, random=True)
for _activation in ("gelu", "softmax", None):
    _add(kb.ConvBlock, f"activation {_activation}", 8, activation=_activation)
_add(kb.ConvBlock, "activation function", 8, activation=keras.activations.silu)
_add(kb.ConvBlock, "activation layer", 8, convolutions=2, activation=keras.layers.LeakyReLU(0.2))
_add(
    kb.ConvBlock,
    "bias, initializers, regularizers",
    8,
    convolutions=2,
    use_bias=True,
    kernel_initializer=keras.initializers.VarianceScaling(0.5, seed=3),
    bias_initializer=keras.initializers.RandomNormal(stddev=0.1, seed=4),
    kernel_regularizer=keras.regularizers.L2(1e-3),
    bias_regularizer="l1",
)

# --- NormAct -----------------------------------------------------------------------------

_add(kb.NormAct, "default")
_add(kb.NormAct, "group, tanh", normalization="group", activation="tanh")

# --- residual blocks ---------------------------------------------------------------------

for _block, _outputs in ((kb.ResidualBlock, 1), (kb.BottleneckBlock, 4)):
    for _order in ORDERS:
        _same: dict[str, Any] = {"shortcut": "identity", "shape": (7, 6, 4 * _outputs)}
        _valid: dict[str, Any] = {"padding": "valid", "shape": (13, 12, 6)}
        _drop: dict[str, Any] = {"stochastic_depth": 0.5, "random": True}
        _more = _block is kb.BottleneckBlock or _order not in ("original", "full_preactivation")
        _add(_block, f"{_order}, projection", 8, 3, 2, order=_order, more=_more and _outputs == 4)
        _add(_block, f"{_order}, identity", 4, order=_order, **_same, more=_more)
        _add(_block, f"{_order}, widening", 8, order=_order, more=True)
        _add(_block, f"{_order}, zero_pad", 8, 3, 2, order=_order, shortcut="zero_pad", more=_more)
        _add(_block, f"{_order}, valid", 8, 3, (2, 1), order=_order, **_valid, more=_more)
        _add(_block, f"{_order}, drop path", 8, order=_order, **_drop, more=_more)
    _more = _block is kb.BottleneckBlock
    _same = {"padding": "valid", "shortcut": "identity", "shape": (9, 8, 2 * _outputs)}
    _add(_block, "identity, valid", 2, 3, **_same, more=_more)
    _add(_block, "kernel (1, 7)", 8, (1, 7), more=_more)
    _add(_block, "kernel (1, 7), valid", 8, (1, 7), padding="valid", shape=(4, 17, 6), more=_more)
    _add(_block, "kernel 5, symmetric", 8, 5, 2, padding="symmetric", more=_more)
    _add(_block, "kernel 2", 8, 2, 2, more=_more)
    _add(_block, "kernel 1", 8, 1, (2, 1), more=True)
    _add(_block, "pixels that shrink", 8, 5, 2, padding=1, shape=(15, 14, 6), more=_more)
    _add(_block, "pixels that grow", 8, 3, 1, padding=(2, 1), more=_more)
    _grows: dict[str, Any] = {"padding": 1, "shortcut": "zero_pad", "shape": (15, 14, 6)}
    _add(_block, "pixels that grow, strides", 8, 1, 2, **_grows, more=True)
    _add(_block, "zero_pad, no strides", 8, shortcut="zero_pad", more=True)
    _add(_block, "dilation", 8, 3, dilation_rate=2, more=_more)
    _add(_block, "groups", 8, 3, 2, groups=2, padding="symmetric", shape=(8, 9, 4), more=_more)
    _add(_block, "reflect", 8, 3, 2, padding="symmetric", padding_mode="reflect", more=_more)
    _add(_block, "replicate", 8, 3, padding_mode="replicate", more=True)
    _add(_block, "layer norm, gelu", 8, 3, 2, normalization="layer", activation="gelu", more=_more)
    _add(_block, "group norm", 8, 3, normalization=kb.Norm("group", groups=2), more=_more)
    _add(_block, "no norm", 8, 3, 2, normalization=None, more=_more)
    _add(_block, "bias", 8, 3, 2, use_bias=True, bias_initializer="ones", more=_more)
    _add(_block, "no activation", 8, activation=None, more=True)
_add(kb.BottleneckBlock, "default", 8)
_add(kb.BottleneckBlock, "strides, no norm", 8, 3, 2, normalization=None)
_add(kb.BottleneckBlock, "full pre-activation", 8, 3, (2, 1), order="full_preactivation")
_add(kb.BottleneckBlock, "strides on the first", 8, 3, 2, strides_on="first", more=True)
_add(
    kb.BottleneckBlock, "strides on the first, valid", 8, 3, 2, strides_on="first", padding="valid"
)
_add(kb.BottleneckBlock, "expansion 2", 4, 3, expansion=2, shape=(9, 8, 8))
_add(kb.BottleneckBlock, "expansion 1", 6, 3, expansion=1, shortcut="identity")

# --- pools -------------------------------------------------------------------------------

_add(kb.MinPooling2D, "default")
_add(kb.MinPooling2D, "3 / 2, same", 3, 2, padding="same")
_add(kb.MinPooling2D, "3 / 1, symmetric", 3, 1, padding="symmetric")
_add(kb.MinPooling2D, "(2, 3) / (1, 2), pixels", (2, 3), (1, 2), padding=(0, 1))
_add(kb.GlobalConcatPooling2D, "default")

# --- heads -------------------------------------------------------------------------------

for _pool in ("avg", "max", "concat"):
    _add(kb.Classifier, f"{_pool}", 5, pool=_pool)
_add(kb.Classifier, "flatten", 5, pool="flatten", unknown_size=False)
_add(kb.Classifier, "adaptive", 5, pool="flatten", pool_size=(3, 4), unknown_size=False)
_add(kb.Classifier, "adaptive up", 5, pool="flatten", pool_size=11, unknown_size=False)
_add(
    kb.Classifier, "hidden, dropout", 5, hidden=(7, 7), dropout=0.3, activation="gelu", random=True
)
_add(kb.Classifier, "multi-label", 5, multi_label=True, more=True)
_add(kb.BoxRegressor, "default", hidden=(7,), unknown_size=False)
_add(
    kb.BoxRegressor,
    "smooth L1, adaptive, dropout",
    box_loss="smooth_l1",
    pool_size=3,
    hidden=(7, 7),
    dropout=0.3,
    random=True,
    unknown_size=False,
    more=True,
)
_add(kb.BoxRegressor, "concat, no hidden layer", pool="concat", activation=None, more=True)
_add(kb.KeypointRegressor, "default", 3, hidden=(7,), unknown_size=False)
_add(kb.KeypointRegressor, "avg", 1, pool="avg", more=True)
_add(kb.KeypointMaps, "default", 3)
_add(kb.KeypointMaps, "hidden, valid", 2, (4, 6), (3, 2), padding="valid")
_add(kb.KeypointMaps, "no norm, gelu", 1, (4,), normalization=None, activation="gelu", more=True)
_add(kb.DetectionMap, "default", 3)
_add(kb.DetectionMap, "bounds", 1, smallest=2.0, largest=8.0, box_weight=2.0, more=True)
_add(kb.Classifier, "dropout, no bias", 5, pool="concat", dropout=0.3, use_bias=False, random=True)
for _pool in ("avg", "max", "concat"):
    _add(Features, f"{_pool}", _pool)

# --- Inception modules -------------------------------------------------------------------

_MODULE = (4, (3, 6), (2, 5), ("max", 3))
_add(kb.InceptionBlock, "default", _MODULE)
_add(kb.InceptionBlock, "naive", (4, 6, 5, "max"), more=True)
_add(kb.InceptionBlock, "one branch", (4,), 3, more=True)
_add(
    kb.InceptionBlock,
    "one bare pool, ceil",
    ("max",),
    3,
    2,
    padding="valid",
    pool_ceil_mode=True,
    more=True,
)
for _padding in ("same", "valid", "symmetric", 1):
    _add(kb.InceptionBlock, f"{_padding}", _MODULE, padding=_padding, more=True)
    _add(
        kb.InceptionBlock,
        f"{_padding}, strides 2",
        _MODULE,
        (1, 3, 5, 3),
        2,
        padding=_padding,
        more=True,
    )
    _add(
        kb.InceptionBlock,
        f"{_padding}, strides (2, 1), last valid",
        _MODULE,
        3,
        (2, 1),
        padding=_padding,
        last_padding="valid",
        more=True,
    )
_add(
    kb.InceptionBlock,
    "factorised",
    (4, (3, 3, 6), (3, 3, 3, 3, 6), ("avg", 6)),
    (1, (1, 7), (7, 1), 3),
)
_add(
    kb.InceptionBlock,
    "factorised, valid",
    (4, (3, 3, 6), (3, 3, 3, 3, 6), ("avg", 6)),
    (1, (1, 3), (3, 1), 3),
    padding="valid",
    more=True,
)
_add(
    kb.InceptionBlock,
    "wide",
    (4, (3, 6), (4, 5, 6), ("avg", 3)),
    (1, 3, (3, 1), 3),
    wide=True,
    pool_count_padding=True,
)
_add(
    kb.InceptionBlock,
    "wide, strides",
    (4, (3, 6), (4, 5, 6)),
    3,
    2,
    wide=True,
    last_padding="valid",
    more=True,
)
_add(
    kb.InceptionBlock,
    "reduction",
    ((3, 6), (3, 3, 3, 6), "max"),
    (3, (1, 7), 3),
    2,
    last_kernel_size=3,
    last_padding="valid",
)
_add(kb.InceptionBlock, "min pool, even kernels", ((3, 6), ("min", 2)), (4, 2), more=True)
_add(
    kb.InceptionBlock,
    "no norm, gelu, reflect",
    _MODULE,
    normalization=None,
    activation="gelu",
    padding_mode="reflect",
    more=True,
)
_add(kb.InceptionBlock, "weight norm", _MODULE, normalization="weight", more=True)

# --- residual ones --------------------------------------------------------------------------

_add(kb.InceptionResNetBlock, "A", (3, (3, 3), (3, 4, 5)), scale=0.17)
_add(kb.InceptionResNetBlock, "B", (3, (3, 4, 5)), (1, (1, 7)), scale=0.1)
_add(
    kb.InceptionResNetBlock,
    "C, no activation",
    (3, (3, 4, 5)),
    (1, (1, 3)),
    activate=False,
    more=True,
)
_add(
    kb.InceptionResNetBlock, "valid", (3, (3, 3), (3, 4, 5)), padding="valid", scale=0.3, more=True
)
_add(
    kb.InceptionResNetBlock,
    "pool, layer norm",
    (3, ("avg", 3)),
    (1, 3),
    normalization="layer",
    use_bias=False,
    more=True,
)

# --- auxiliary ----------------------------------------------------------------------------

_add(
    kb.AuxiliaryClassifier, "default", 5, filters=(4,), hidden=(7,), random=True, unknown_size=False
)
_add(
    kb.AuxiliaryClassifier,
    "grid",
    5,
    filters=(4,),
    hidden=(7,),
    pool_size=None,
    grid=4,
    random=True,
    unknown_size=False,
    more=True,
)
_add(
    kb.AuxiliaryClassifier,
    "two convolutions, avg",
    5,
    filters=(4, 6),
    kernel_size=(1, 2),
    pool_size=3,
    pool_strides=2,
    pool="avg",
    hidden=(),
    dropout=0.0,
    more=True,
)

# --- DenseNet ----------------------------------------------------------------------------

_add(kb.DenseBlock, "default", 4)
_add(kb.DenseBlock, "depth 3", 4, depth=3, more=True)
_add(kb.DenseBlock, "plain, depth 2", 4, depth=2, bottleneck=None, kernel_size=(1, 5), more=True)
_add(kb.DenseBlock, "valid, depth 2", 4, depth=2, padding="valid", more=True)
_add(kb.DenseBlock, "pixels that grow", 4, padding=(2, 1), more=True)
_add(kb.DenseBlock, "symmetric, dilation", 4, padding="symmetric", dilation_rate=(1, 2), more=True)
_add(kb.DenseBlock, "groups", 4, groups=2, bottleneck=2, more=True)
_add(kb.DenseBlock, "dropout", 4, depth=2, dropout=0.5, random=True, more=True)
_add(
    kb.DenseBlock,
    "reflect, layer norm, gelu",
    4,
    padding_mode="reflect",
    normalization="layer",
    activation="gelu",
    more=True,
)
_add(kb.DenseBlock, "no norm", 4, normalization=None, activation=None, more=True)
_add(kb.DenseBlock, "weight", 4, normalization="weight", more=True)
_add(kb.TransitionBlock, "default")
_add(
    kb.TransitionBlock,
    "compression 1, max",
    1.0,
    pool="max",
    pool_size=3,
    pool_padding="symmetric",
    more=True,
)
_add(kb.TransitionBlock, "kernel 3, no pool", 0.4, 3, 1, more=True)
_add(
    kb.TransitionBlock,
    "strides (2, 1), dropout",
    0.3,
    1,
    (2, 1),
    dropout=0.4,
    random=True,
    more=True,
)
_add(kb.TransitionBlock, "kernel 3, valid", 0.5, 3, 2, padding="valid", pool="min", more=True)
_add(kb.TransitionBlock, "pool_size 2, strides 1", strides=1, pool_size=2, more=True)

# --- EfficientNet ------------------------------------------------------------------------

_add(kb.MBConvBlock, "default, shortcut", 6)
_add(kb.MBConvBlock, "strides", 8, 5, 2, padding="symmetric")
_add(kb.MBConvBlock, "strides (2, 1)", 8, 3, (2, 1), more=True)
_add(kb.MBConvBlock, "valid, shortcut", 6, 5, padding="valid", more=True)
_add(kb.MBConvBlock, "no expansion", 6, expansion=1, more=True)
_add(kb.MBConvBlock, "expansion 2.5, no squeeze", 6, expansion=2.5, squeeze_ratio=None, more=True)
_add(kb.MBConvBlock, "contraction", 6, expansion=0.1, squeeze_ratio=0.01, more=True)
_add(kb.MBConvBlock, "stochastic depth", 6, stochastic_depth=0.5, random=True, more=True)
_add(
    kb.MBConvBlock,
    "relu, hard gate",
    6,
    activation="relu",
    squeeze_activation="tanh",
    gate="hard_sigmoid",
    more=True,
)
_add(kb.MBConvBlock, "no activation", 6, activation=None, more=True)
_add(kb.MBConvBlock, "group norm, bias", 6, normalization="group", use_bias=True, more=True)
_add(
    kb.MBConvBlock,
    "no bias, reflect",
    6,
    use_bias=False,
    padding_mode="reflect",
    normalization=None,
    more=True,
)
_add(kb.MBConvBlock, "weight", 6, normalization="weight", more=True)

# --- Xception ----------------------------------------------------------------------------

_XCEPTION: dict[str, Any] = {"convolutions": 2, "order": "act_conv_norm", "shortcut": True}
_add(kb.SeparableConvBlock, "default", 8)
_add(kb.SeparableConvBlock, "strides, no norm", 8, 5, 2, padding="symmetric", normalization=None)
_add(kb.SeparableConvBlock, "projection, pool", 8, 3, 2, pool="max", width=5, **_XCEPTION)
_add(kb.SeparableConvBlock, "identity, valid", 6, padding="valid", **_XCEPTION, more=True)
_add(kb.SeparableConvBlock, "projection, pixels", 8, 5, (2, 1), padding=1, **_XCEPTION, more=True)
_add(kb.SeparableConvBlock, "bias, reflect", 8, use_bias=True, padding_mode="reflect", more=True)
_add(
    kb.SeparableConvBlock, "dilation, weight", 8, dilation_rate=2, normalization="weight", more=True
)

# --- TResNet -----------------------------------------------------------------------------

_add(kb.SpaceToDepthStem, "default", 8, shape=(8, 12, 3))
_add(
    kb.SpaceToDepthStem,
    "block 2, kernel 5, strides",
    8,
    5,
    2,
    block_size=2,
    padding="symmetric",
    shape=(8, 12, 3),
    activation=keras.layers.LeakyReLU(0.01),
    more=True,
)
for _block, _outputs in ((kb.TResNetBasicBlock, 1), (kb.TResNetBottleneckBlock, 4)):
    _add(_block, "identity", 4, least_squeeze=1, shape=(7, 6, 4 * _outputs))
    _add(_block, "strides", 8, 3, 2)
    _add(_block, "strides (2, 1), symmetric", 8, 5, (2, 1), padding="symmetric", more=True)
    _add(_block, "strides, valid", 8, 3, 2, padding="valid", shape=(13, 12, 6), more=True)
    _add(_block, "strides, blur 5", 8, 3, 3, blur_size=5, more=True)
    _add(
        _block,
        "strides, no blur, no squeeze",
        8,
        3,
        2,
        blur_size=None,
        squeeze_ratio=None,
        more=True,
    )
    _add(
        _block, "widening, relu", 8, activation="relu", squeeze_ratio=1, least_squeeze=1, more=True
    )
    _add(_block, "stochastic depth", 4, stochastic_depth=0.5, random=True, more=True)
    _add(_block, "dilation, groups", 6, dilation_rate=2, groups=2, more=True)
    _add(
        _block,
        "no norm, no activation",
        4,
        3,
        2,
        normalization=None,
        activation=None,
        last_activation=None,
        more=True,
    )
_add(kb.TResNetBottleneckBlock, "expansion 2", 4, expansion=2, more=True)

_add(kb.BlurPooling2D, "default")
_add(kb.BlurPooling2D, "5 / (2, 1)", 5, (2, 1), more=True)
_add(kb.BlurPooling2D, "3 / 1", 3, 1, more=True)
_add(kb.SqueezeExcite, "default", 3)
_add(
    kb.SqueezeExcite,
    "silu, hard sigmoid",
    2,
    activation="silu",
    gate="hard_sigmoid",
    kernel_initializer="glorot_uniform",
    more=True,
)
_add(
    kb.Classifier,
    "hidden, dropout first",
    5,
    hidden=(7, 7),
    dropout=0.3,
    dropout_first=True,
    random=True,
    more=True,
)

# --- ResNeXt -----------------------------------------------------------------------------

_add(kb.ResNeXtBlock, "default", 8, 3, 2, cardinality=2, group_width=3)
_add(kb.ResNeXtBlock, "identity, first", 6, cardinality=3, group_width=2, strides_on="first")
_add(
    kb.ResNeXtBlock,
    "preactivated, valid",
    *(8, 3, 2),
    cardinality=2,
    group_width=3,
    order="full_preactivation",
    padding="valid",
    shape=(13, 12, 6),
    more=True,
)
_add(kb.BottleneckBlock, "width", 4, 3, 2, width=6, more=True)
_add(kb.ConvBlock, "weight norm", 8, convolutions=2, normalization="weight")
_add(kb.ResidualBlock, "weight norm", 8, 3, 2, normalization="weight", more=True)
