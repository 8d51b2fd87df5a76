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

import dataclasses
import difflib
import inspect
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

import keras

from kblocks import cost, fields, layers, ops
from kblocks.ops import Chain, Merge, Op

_OWN = {"name", "dtype", "trainable", "data_format", "spec", "layers"}
_RESERVED = frozenset(dir(keras.Layer)) | _OWN
_LABELS = {
    kind.label for kind in vars(ops).values() if isinstance(kind, type) and hasattr(kind, "label")
}
_MISSING = dataclasses.MISSING


class _Spec:
    """The base of every block's Spec. `_block` is the layer class, `_checks` the fields' checks."""

    _block: ClassVar[type[Block]]
    _checks: ClassVar[dict[str, tuple[fields.Check | None, bool]]] = {}
    _defaults: ClassVar[dict[str, Any]] = {}
    _positional: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *args: Any, **given: Any) -> None:
        if args:
            given = {**self._by_name(args, given), **given}
        self.__dict__.update(self._defaults)
        self._take(given)

    def replace(self, **changes: Any) -> Any:
        """A copy with some arguments changed."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy._take(changes)
        return copy

    def _take(self, given: dict[str, Any]) -> None:
        values = self.__dict__
        name = ""
        try:
            for name, value in given.items():
                check, optional = self._checks[name]
                if check is not None and not (value is None and optional):
                    value = check.normalise(value)
                values[name] = value
        except (KeyError, TypeError, ValueError) as error:
            raise _refusal(self._block.__name__, name, given[name], self._checks) from error
        if len(values) < len(self._checks):
            missing = ", ".join(repr(name) for name in self._checks if name not in values)
            raise TypeError(f"{self._block.__name__} needs the argument {missing}")
        self.check()

    def _by_name(self, args: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:
        names = self._positional
        named = dict(zip(names, args, strict=False))
        twice = sorted(named.keys() & given.keys())
        if twice or len(args) > len(names):
            problem = f"got {twice[0]!r} twice" if twice else f"got {len(args)}"
            raise TypeError(
                f"{self._block.__name__} takes {', '.join(names) or 'nothing'} by position and all "
                f"else by keyword; {problem}"
            )
        return named

    def check(self) -> None:
        """Raises ValueError where arguments do not go together; a block may define it."""

    def plan(self, channels: Any) -> Op:
        """The tree of ops for an input of `channels` (a list of them for several inputs)."""
        raise NotImplementedError(f"{self._block.__name__} has no plan")

    def cost(self, input_shape: Any) -> cost.Cost:
        """The cost on an input of (height, width, channels)."""
        try:
            return cost.cost(self.plan(_channels(input_shape)), input_shape)
        except ValueError as error:
            raise _placed(error, self._block.__name__, input_shape) from error

    def layer(self, name: str | None = None) -> Block:
        """A new Keras layer of this Spec."""
        return self._block(name=name, **{field: getattr(self, field) for field in self._checks})

    def config(self) -> dict[str, Any]:
        """All fields in a form that JSON can hold."""
        return {name: self._serialised(name) for name in self._checks}

    def changes(self) -> dict[str, Any]:
        """The fields that differ from their defaults, in a form that JSON can hold."""
        return {
            name: self._serialised(name)
            for name in self._checks
            if name not in self._defaults or getattr(self, name) != self._defaults[name]
        }

    def _serialised(self, name: str) -> Any:
        check, value = self._checks[name][0], getattr(self, name)
        return value if check is None or value is None else check.serialise(value)


def _refusal(owner: str, name: str, value: Any, checks: dict[str, Any]) -> Exception:
    """The error for an argument that is unknown or not of its field's form."""
    if name not in checks:
        close = difflib.get_close_matches(name, checks, 1)
        hint = f"Did you mean {close[0]!r}?" if close else f"It has {', '.join(checks)}."
        return TypeError(f"{owner} has no argument {name!r}. {hint} Received: {name}={value!r}")
    check, optional = checks[name]
    none = " or None" if optional and "None" not in check.expected else ""
    return ValueError(
        f"`{name}` of {owner} must be {check.expected}{none}. Received: {name}={value!r}"
    )


def _placed(error: ValueError, place: str, input_shape: Any) -> ValueError:
    """The error again, with the place it came from and what went in."""
    message = f"{place}: {error} (input: {input_shape})"
    if isinstance(error, cost.InputTooSmallError):
        return cost.InputTooSmallError(message, error.missing)
    return ValueError(message)


def _channels(shape: Any) -> Any:
    if isinstance(shape, list):
        return [inner[-1] for inner in shape]
    return shape[-1]


def _make_spec(cls: type[Block], kw_only: bool) -> type[_Spec]:
    parent = next((base.Spec for base in cls.__mro__[1:] if "Spec" in vars(base)), _Spec)
    annotations = {
        name: annotation
        for name, annotation in inspect.get_annotations(cls, eval_str=True).items()
        if not name.startswith("_") or annotation is dataclasses.KW_ONLY
        if not str(annotation).startswith("typing.ClassVar")
    }
    _refuse_bad_fields(cls, annotations, parent)
    namespace = {name: vars(cls)[name] for name in annotations if name in vars(cls)}
    namespace |= {name: value for name, value in vars(cls).items() if _is_shared(name, value)}
    checks = {name: fields.check_of(a) for name, a in annotations.items() if name[0] != "_"}
    for name, (check, optional) in checks.items():
        default = namespace.get(name, _MISSING)
        if check is not None and default is not _MISSING and not (optional and default is None):
            try:
                namespace[name] = check.normalise(default)
            except (TypeError, ValueError) as error:
                raise _refusal(cls.__name__, name, default, checks) from error
    spec: Any = type(
        f"{cls.__name__}.Spec", (parent,), {**namespace, "__annotations__": annotations}
    )
    spec.__module__, spec._block, spec.__doc__ = cls.__module__, cls, cls.__doc__
    spec = dataclasses.dataclass(frozen=True, init=False, kw_only=kw_only)(spec)
    made = dataclasses.fields(spec)
    every = {**parent._checks, **checks}
    spec._checks = {field.name: every[field.name] for field in made}
    spec._defaults = {field.name: field.default for field in made if field.default is not _MISSING}
    spec._positional = tuple(field.name for field in made if not field.kw_only)
    return spec


def _refuse_bad_fields(cls: type, annotations: dict[str, Any], parent: type[_Spec]) -> None:
    for name in annotations:
        if name in _RESERVED or name.rstrip("0123456789") in _LABELS:
            raise TypeError(
                f"{cls.__name__}: a field cannot bear the name {name!r}, which is taken"
            )
    for name in set(vars(cls)) & set(parent._checks) - set(annotations):
        raise TypeError(f"{cls.__name__}: annotate {name!r} to change the default of a field")


def _is_shared(name: str, value: Any) -> bool:
    """Whether a member of the class belongs to its Spec too: its properties and helpers."""
    shared = (types.FunctionType, property, staticmethod, classmethod)
    return isinstance(value, shared) and not name.startswith("__") and name not in _RESERVED


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
        Spec: ClassVar[type[_Spec]] = _Spec

    def __init_subclass__(cls, *, kw_only: bool = False) -> None:
        super().__init_subclass__()
        cls.Spec = _make_spec(cls, kw_only)
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
            plan = self.spec.plan(_channels(shape))
            cost.walk(plan, shape)
        except ValueError as error:
            raise _placed(error, f"{type(self).__name__} {self.name!r}", shape) from error
        # Past Keras' tracking of attributes, which would put the plan's tuples into lists.
        self.__dict__["_plan"] = plan
        self._paths = tuple(path for path, _ in ops.parts(plan))
        _refuse_clashes(self._paths, self)
        self._build(plan, shape, ops.parts(plan))
        self.input_spec = self._expected_inputs(shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self._run(self._plan, inputs, iter(self._paths), training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = self._spatial_last(input_shape)
        self._refuse_unfit(shape, input_shape)
        try:
            output = cost.walk(self.spec.plan(_channels(shape)), shape)
        except ValueError as error:
            raise _placed(error, f"{type(self).__name__} {self.name!r}", shape) from error
        if len(output) == 3 and self.data_format == "channels_first":
            output = (output[2], output[0], output[1])
        first = input_shape[0] if isinstance(input_shape, list) else input_shape
        return (first[0], *output)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()  # type: ignore[misc]
        return {**config, "data_format": self.data_format, **self.spec.config()}

    # --- the interpreter: one walk to build, one to run ------------------------------

    def _build(self, op: Op, shape: Any, parts: Iterator[tuple[str, Op]]) -> Any:
        if isinstance(op, Chain):
            for step in op:
                shape = self._build(step, shape, parts)
            return shape
        if isinstance(op, Merge):
            for source, (_, branch) in zip(_sources(op, shape), op.branches, strict=True):
                self._build(branch, source, parts)
            return cost.walk(op, shape)
        path, _ = next(parts)
        layer = layers.layer_for(
            op, shape[-1], self.data_format, path, f"{self.name}/{path}", self.dtype_policy
        )
        setattr(self, path, layer)
        layer.build(self._as_keras(shape))
        if not self.trainable:  # else batch norms would go on moving their averages
            layer.trainable = False
        return cost.walk(op, shape)

    def _run(self, op: Op, x: Any, paths: Iterator[str], training: bool | None) -> Any:
        if isinstance(op, Chain):
            for step in op:
                x = self._run(step, x, paths, training)
            return x
        if isinstance(op, Merge):
            outputs = []
            for index, (cut, (_, branch)) in enumerate(zip(_cuts(op, x), op.branches, strict=True)):
                source = x[index] if isinstance(x, (list, tuple)) else x
                source = source if cut is None else layers.crop(source, cut, self.data_format)
                outputs.append(self._run(branch, source, paths, training))
            return self._join(op, outputs)
        layer = getattr(self, next(paths))
        return layer(x, training=training) if isinstance(op, _TRAINED) else layer(x)

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


_TRAINED = (ops.Norm, ops.Dropout, ops.DropPath)


def _sources(op: Merge, shape: Any) -> list[Any]:
    if isinstance(shape, list):
        return shape
    return [shape if cut is None else cost.cropped(shape, cut) for cut in cost.crops(op)]


def _cuts(op: Merge, x: Any) -> list[Any]:
    return [None] * len(op.branches) if isinstance(x, (list, tuple)) else cost.crops(op)


def _field(name: str) -> property:
    return property(lambda self: getattr(self.spec, name), doc=f"The argument `{name}`.")


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
