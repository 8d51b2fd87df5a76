"""`Block`: from one definition a Keras layer, a static cost and a point of a search space.

A block is a class with annotated fields and a `plan`:

    class Pointwise(Block):
        filters: Count

        def plan(self, channels):
            return Chain(Conv(self.filters), Norm(), Activation("relu"))

`Pointwise(8)` is a Keras layer; `Pointwise.Spec(8)` is its light, frozen form with the
same fields, properties, methods and `plan`, which needs no Keras object: what
architectures are made of. `plan` always runs on the Spec, so `super()` in it does not
work; share through functions.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

import keras

from kblocks.blocks.spec import Spec, channels_of, make_spec, placed
from kblocks.common import backend
from kblocks.layers import primitives as layers
from kblocks.plans import cost, ops
from kblocks.plans.geometry import cropped, crops
from kblocks.plans.ops import Chain, Merge, Op

if TYPE_CHECKING:
    # Keras is untyped: without this, type checkers would take any call of a block.
    _B = TypeVar("_B")

    class _SpecOf:
        """For a checker, a Spec is called as its block is, and is one."""

        def __get__(self, instance: Any, owner: type[_B]) -> type[_B]: ...

    @dataclass_transform(eq_default=False)
    class _Root:
        def __init_subclass__(cls, *, kw_only: bool = False) -> None: ...
        def __call__(self, inputs: Any, training: bool | None = None) -> Any: ...
        def __getattr__(self, name: str) -> Any: ...

    class _Typed(_Root, kw_only=True):
        name: str | None = None
        dtype: Any = None
        trainable: bool = True
        data_format: Any = None

    _Layer = _Typed
else:
    _Layer = keras.Layer


class Block(_Layer):
    """The base of all blocks; see this module's head for how one is written.

    Args:
        name, dtype, trainable: as for every Keras layer.
        data_format: "channels_last" or "channels_first"; None takes Keras' setting.
        ...: the fields of the block, those after `strides` by keyword only.

    Input shape: a batch of maps of any size that the block's strides and kernels fit.
    Output shape: `compute_output_shape(input_shape)` tells.
    """

    if TYPE_CHECKING:
        Spec = _SpecOf()
    else:
        Spec: ClassVar[type[Spec]] = Spec

    remat = False
    """Whether training computes the block again in the backward pass in place of keeping its maps:
    less memory for more time. TensorFlow only; not saved. `Architecture.model(remat=True)` sets it.
    """

    def __init_subclass__(cls, *, kw_only: bool = False) -> None:
        super().__init_subclass__()
        cls.Spec = make_spec(cls, kw_only)
        for name in cls.Spec._checks:
            setattr(cls, name, _field(name))
        cls.plan = lambda self, channels: self.spec.plan(channels)
        cls.__signature__ = _signature(cls)
        package = cls.__module__.split(".")[0]
        keras.saving.register_keras_serializable(package)(cls)

    def __init__(
        self,
        *args: Any,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        data_format: str | None = None,
        **values: Any,
    ) -> None:
        spec = self.Spec(*args, **values)
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.spec = spec
        self.data_format = _data_format(data_format)
        self._paths: tuple[str, ...] = ()

    @property
    def layers(self) -> list[Any]:
        """The Keras layers that the block is made of, in the order of its plan."""
        return [getattr(self, path) for path in self._paths]

    def __dir__(self) -> list[str]:
        # Keras finds what to save by dir(). Without `layers` it finds each part under
        # its own path (`main_conv1`), not under a position in a list.
        return [name for name in super().__dir__() if name != "layers"]

    def build(self, input_shape: Any) -> None:
        shape = self._spatial_last(input_shape)
        self._refuse_unfit(shape, input_shape)
        try:
            plan = self.spec.plan(channels_of(shape))
            cost.walk(plan, shape)
        except ValueError as error:
            raise placed(error, f"{type(self).__name__} {self.name!r}", shape) from error
        # Past Keras' tracking of attributes, which would put the plan's tuples into lists.
        self.__dict__["_plan"] = plan
        self._paths = tuple(path for path, _ in ops.parts(plan))
        _refuse_clashes(self._paths, self)
        self._build(plan, shape, ops.parts(plan))
        self.input_spec = self._expected_inputs(shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        def run(x: Any) -> Any:
            return self._run(self._plan, x, iter(self._paths), training)

        if not (self.remat and training):
            return run(inputs)
        seeds = [v for v in self.non_trainable_variables if v.name == "seed_generator_state"]
        return backend.recomputed(run, inputs, seeds)

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = self._spatial_last(input_shape)
        self._refuse_unfit(shape, input_shape)
        try:
            output = cost.walk(self.spec.plan(channels_of(shape)), shape)
        except ValueError as error:
            raise placed(error, f"{type(self).__name__} {self.name!r}", shape) from error
        if len(output) == 3 and self.data_format == "channels_first":
            output = (output[2], output[0], output[1])
        first = input_shape[0] if isinstance(input_shape, list) else input_shape
        return (first[0], *output)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()  # type: ignore[misc]
        return {**config, "data_format": self.data_format, **self.spec.config()}

    # --- the interpreter: one walk to build, one to run ------------------------------

    def _build(
        self, op: Op, shape: Any, parts: Iterator[tuple[str, Op]], following: Op | None = None
    ) -> Any:
        if isinstance(op, Chain):
            for step, after in itertools.zip_longest(op, op[1:]):
                shape = self._build(step, shape, parts, after)
            return shape
        if isinstance(op, Merge):
            for source, (_, branch) in zip(_sources(op, shape), op.branches, strict=True):
                self._build(branch, source, parts)
            return cost.walk(op, shape)
        path, _ = next(parts)
        seed = f"{self.name}/{path}"
        layer = layers.layer_for(
            op, following, shape[-1], self.data_format, path, seed, self.dtype_policy
        )
        setattr(self, path, layer)
        layer.build(self._as_keras(shape))
        if not self.trainable:  # else batch norms would go on moving their averages
            layer.trainable = False
        return cost.walk(op, shape)

    def _up_to(self, path: str, inputs: Any, training: bool | None = None) -> Any:
        """What the part at `path`, such as `main_conv2`, puts out: see `kb.extract`."""
        seen: dict[str, Any] = {}
        self._run(self._plan, inputs, iter(self._paths), training, seen)
        return seen[path]

    def _run(
        self,
        op: Op,
        x: Any,
        paths: Iterator[str],
        training: bool | None,
        seen: dict[str, Any] | None = None,
    ) -> Any:
        if isinstance(op, Chain):
            for step in op:
                x = self._run(step, x, paths, training, seen)
            return x
        if isinstance(op, Merge):
            outputs = []
            for index, (cut, (_, branch)) in enumerate(zip(_cuts(op, x), op.branches, strict=True)):
                source = x[index] if isinstance(x, (list, tuple)) else x
                source = source if cut is None else layers.crop(source, cut, self.data_format)
                outputs.append(self._run(branch, source, paths, training, seen))
            return self._join(op, outputs)
        path = next(paths)
        layer = getattr(self, path)
        outputs = layer(x, training=training) if isinstance(op, _TRAINED) else layer(x)
        if seen is not None:
            seen[path] = outputs
        return outputs

    def _join(self, op: Merge, outputs: list[Any]) -> Any:
        if op.mode == "add":
            total = outputs[0]
            for other in outputs[1:]:
                total = keras.ops.add(total, other)
            return total
        if op.mode == "multiply":
            product = outputs[0]
            for other in outputs[1:]:
                product = keras.ops.multiply(product, other)
            return product
        flat = len(outputs[0].shape) == 2
        axis = 1 if self.data_format == "channels_first" and not flat else -1
        return keras.ops.concatenate(outputs, axis=axis)

    # --- shapes ----------------------------------------------------------------------

    def _spatial_last(self, shape: Any) -> Any:
        """Keras' shape with its batch as (height, width, channels)."""
        if isinstance(shape, list) and shape and isinstance(shape[0], (list, tuple)):
            return [self._spatial_last(inner) for inner in shape]
        inner = tuple(shape[1:])
        if len(inner) == 3 and self.data_format == "channels_first":
            inner = (inner[1], inner[2], inner[0])
        return inner

    def _as_keras(self, shape: Any) -> Any:
        if len(shape) == 3 and self.data_format == "channels_first":
            shape = (shape[2], shape[0], shape[1])
        return (None, *shape)

    def _expected_inputs(self, shape: Any) -> Any:
        """What Keras checks at each call: rank and channels stay those that were built for."""
        if isinstance(shape, list):
            return [self._expected_inputs(inner) for inner in shape]
        axis = 1 if self.data_format == "channels_first" else -1
        return keras.InputSpec(ndim=len(shape) + 1, axes={axis: shape[-1]})

    def _refuse_unfit(self, shape: Any, received: Any) -> None:
        for inner in shape if isinstance(shape, list) else [shape]:
            if len(inner) not in (1, 3) or inner[-1] is None:
                raise ValueError(
                    f"{type(self).__name__} {self.name!r} works on maps of rank 4 (or features of "
                    f"rank 2) with a known number of channels. Received: input shape {received}"
                )


_TRAINED = (ops.Norm, ops.Dropout, ops.DropPath, ops.ResizeLike)


def _sources(op: Merge, shape: Any) -> list[Any]:
    if isinstance(shape, list):
        return shape
    return [shape if cut is None else cropped(shape, cut) for cut in crops(op)]


def _cuts(op: Merge, x: Any) -> list[Any]:
    return [None] * len(op.branches) if isinstance(x, (list, tuple)) else crops(op)


def _field(name: str) -> property:
    def refuse(self: Any, value: Any) -> None:
        """Keras' layers take it, and some of Keras' examples take a classifier's softmax off so."""
        owner = f"{type(self).__name__} {self.name!r}"
        none = value in (None, "linear", keras.activations.linear)
        ends_in_logits = name == "activation" and none and hasattr(self.spec, "classes")
        raise AttributeError(
            (f"{owner} gives logits already: leave the line out. " if ends_in_logits else "")
            + f"`{name}` of {owner} is what it was built from and stays: put a block of "
            f"layer.spec.replace({name}=...) in its place. Received: {name}={value!r}"
        )

    return property(lambda self: getattr(self.spec, name), refuse, doc=f"The argument `{name}`.")


def _refuse_clashes(paths: tuple[str, ...], layer: Any) -> None:
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{type(layer).__name__}: two parts of the plan are both {path!r}")
        if hasattr(type(layer), path):
            raise ValueError(f"{type(layer).__name__}: the name of the part {path!r} is taken")


def _data_format(value: str | None) -> str:
    value = keras.config.image_data_format() if value is None else value
    if value not in ("channels_last", "channels_first"):
        raise ValueError(
            "`data_format` must be 'channels_last', 'channels_first' or None. "
            f"Received: data_format={value!r}"
        )
    return value


def _signature(cls: type[Block]) -> inspect.Signature:
    """What help() and editors show: positional fields, the others, Keras' own."""
    spec: Any = cls.Spec
    kind = inspect.Parameter
    keras_own = {"name": None, "dtype": None, "trainable": True, "data_format": None}
    ordered = [*spec._positional, *(n for n in spec._checks if n not in spec._positional)]
    return inspect.Signature(
        [
            kind(
                name,
                kind.POSITIONAL_OR_KEYWORD if name in spec._positional else kind.KEYWORD_ONLY,
                default=spec._defaults.get(name, kind.empty),
            )
            for name in ordered
        ]
        + [kind(name, kind.KEYWORD_ONLY, default=value) for name, value in keras_own.items()]
    )
