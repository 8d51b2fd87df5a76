"""`Block`, the base class of blocks: one definition is a Keras layer and, as its Spec, data."""

import functools
import inspect
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

import keras

from kblocks.blocks.spec import Spec, channels_of, documented, make_spec, placed
from kblocks.common import backend
from kblocks.layers.primitives import crop, layer_for
from kblocks.plans import cost, ops
from kblocks.plans.ops import Chain, Merge, Op

if TYPE_CHECKING:
    # Keras is untyped: without this, type checkers would accept any call of a block.
    _B = TypeVar("_B")

    class _SpecOf:
        """To a type checker, a Spec has the signature and the type of its block."""

        def __get__(self, instance: Any, owner: type[_B]) -> type[_B]: ...

    @dataclass_transform(eq_default=False)
    class _Root:
        def __init_subclass__(cls, *, kw_only: bool = False, abstract: bool = False) -> None: ...
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
    """The base class of all blocks. A block is a class with annotated fields and a `plan`.

    The arguments of a block are its fields and those below. If its docstring has an Args section,
    the entries that are missing there are added from the docstrings of its base classes, and so are
    Input shape and Raises if it has an Output shape. A base class of blocks without a `plan` of its
    own says so: `class Mine(kb.Block, abstract=True)`.

    Args:
        name: of the layer; None makes one of the class's name, such as "conv_block_1".
        dtype: of computations and weights, or a `keras.DTypePolicy`; None takes Keras' setting.
        trainable: whether training changes the weights.
        data_format: "channels_last" or "channels_first"; None takes Keras' setting.

    Input shape: (batch, height, width, channels).
    Output shape: see `compute_output_shape(input_shape)`.

    Raises:
        TypeError: if an argument is unknown or missing.
        ValueError: if an argument is invalid or does not fit the input.

    Example:
        >>> class Pointwise(kb.Block):
        ...     filters: kb.fields.Count
        ...
        ...     def plan(self, channels):
        ...         conv = kb.ops.Conv(self.filters)
        ...         return kb.ops.Chain(conv, kb.Norm(), kb.ops.Activation("relu"))

        `Pointwise(8)` is a Keras layer. `Pointwise.Spec(8)` has the same fields, properties,
        methods and `plan`, but is immutable, hashable and no Keras object: architectures are made
        of Specs. `plan` always runs on the Spec, so `super()` in it fails: blocks share code by
        functions.
    """

    if TYPE_CHECKING:
        Spec = _SpecOf()
    else:
        Spec: ClassVar[type[Spec]] = Spec

    remat = False
    """Whether training recomputes the block in the backward pass instead of keeping its maps, which
    takes less memory and more time. TensorFlow only; not saved. `Architecture.model(remat=True)`
    sets it.
    """

    def __init_subclass__(cls, *, kw_only: bool = False, abstract: bool = False) -> None:
        super().__init_subclass__()
        cls.Spec = make_spec(cls, kw_only)
        if cls.Spec.plan is Spec.plan and not abstract:
            raise TypeError(
                "A block must define a method plan(self, channels), or be a base class of blocks: "
                f"class {cls.__name__}(..., abstract=True). Received: {cls.__name__} without either"
            )
        for name in cls.Spec._checks:
            setattr(cls, name, _field(name))
        cls.plan = lambda self, channels: self.spec.plan(channels)
        cls.__signature__ = _signature(cls)
        if cls.__doc__:
            names = list(cls.__signature__.parameters)
            fields = [name for name in names if name in cls.Spec._checks]
            cls.Spec.__doc__, cls.__doc__ = documented(cls, fields), documented(cls, names)
        package = cls.__module__.split(".")[0]
        keras.saving.register_keras_serializable(package)(cls)

    def __init__(
        self,
        *args: Any,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        data_format: str | None = None,
        input_shape: Any = None,
        **values: Any,
    ) -> None:
        spec = self.Spec(*args, **values)
        given = {} if input_shape is None else {"input_shape": input_shape}  # Keras warns of it
        super().__init__(name=name, dtype=dtype, trainable=trainable, **given)
        self.spec = spec
        self.data_format = checked_data_format(data_format)
        self._paths: tuple[str, ...] = ()
        self.__dict__["_loaded"] = {}  # what differs in parts; Keras would track it

    @property
    def is_head(self) -> bool:
        """Whether the block ends a network. Its last kernels, and what follows them, then compute
        in the dtype of the weights: under "mixed_bfloat16" in float32.
        """
        return hasattr(self.spec, "task")

    def set_policy(self, policy: Any) -> None:
        """Makes the block and its parts compute in a mixed dtype policy, or in "float32" again."""
        self.dtype_policy = policy
        for path, part in zip(self._paths, self.layers, strict=True):
            part.dtype_policy = self._policy_of(path)

    @property
    def layers(self) -> list[Any]:
        """The Keras layers in the block, in the order of its plan."""
        return [getattr(self, path) for path in self._paths]

    def __dir__(self) -> list[str]:
        # Keras finds what to save by dir(). Without `layers` there, it saves each part
        # under its path (`main_conv1`), not under its position in a list.
        return [name for name in super().__dir__() if name != "layers"]

    def build(self, input_shape: Any) -> None:
        shape, plan, _ = self._planned(input_shape)
        # Set past Keras' attribute tracking, which would turn the plan's tuples into lists.
        self.__dict__["_plan"] = plan
        self._paths = tuple(path for path, _ in ops.parts(plan))
        ends = zip(self._paths, ops.ends(plan), strict=True) if self.is_head else ()
        self.__dict__["_ends"] = {path for path, is_end in ends if is_end}
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
        _, _, output = self._planned(input_shape)
        first = input_shape[0] if isinstance(input_shape, list) else input_shape
        return (first[0], *self._as_keras(output)[1:])

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        spec = super().compute_output_spec(*args, **kwargs)  # type: ignore[misc]
        dtype = self.variable_dtype if self.is_head else spec.dtype
        return keras.KerasTensor(spec.shape, dtype)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()  # type: ignore[misc]
        parts = self._changed_parts() if self.built else self._loaded
        own = {"changed_parts": parts} if parts else {}
        return {**config, "data_format": self.data_format, **self.spec.config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        own = {name: value for name, value in config.items() if name != "changed_parts"}
        block = super().from_config(own)  # type: ignore[misc]
        block.__dict__["_loaded"] = config.get("changed_parts", {})
        return block

    def enable_lora(self, rank: int, lora_alpha: float | None = None) -> None:
        """Trains low-rank additions to all kernels in place of the kernels, as Keras' layers do.

        Compile the model afterwards. A saved model has the sums as its kernels, and trains these.

        Args:
            rank: of the additions.
            lora_alpha: the additions are multiplied by `lora_alpha / rank`; None is `rank`.

        Raises:
            ValueError: if the block has no kernels, is not built, or has such additions already.

        Reference: Hu et al. 2021, arXiv:2106.09685, Sec. 4.1.
        """
        parts = [part for part in self.layers if hasattr(part, "enable_lora")]
        if not parts:
            raise ValueError(f"{self.name} must be built and have kernels for LoRA. Received: none")
        for part in parts:
            part.enable_lora(rank, lora_alpha)

    def _policy_of(self, path: str) -> Any:
        is_mixed = self.compute_dtype != self.variable_dtype
        return self.variable_dtype if is_mixed and path in self._ends else self.dtype_policy

    def _changed_parts(self) -> dict[str, dict[str, Any]]:
        """What was changed in parts after `build`: frozen alone, or quantized."""
        found = {}
        for path, part in zip(self._paths, self.layers, strict=True):
            names = [] if part.trainable == self.trainable else ["trainable"]
            names += ["dtype", "quantization_config"] if part.quantization_mode else []
            if names:
                config = part.get_config()
                found[path] = {name: config[name] for name in names}
        return found

    def _build(
        self, op: Op, shape: Any, parts: Iterator[tuple[str, Op]], following: Op | None = None
    ) -> Any:
        if isinstance(op, Chain):
            for step, after in itertools.zip_longest(op, op[1:]):
                shape = self._build(step, shape, parts, after)
            return shape
        if isinstance(op, Merge):
            for source, (_, branch) in zip(op.sources(shape), op.branches, strict=True):
                self._build(branch, source, parts)
            return cost.walk(op, shape)
        path, _ = next(parts)
        seed = f"{self.name}/{path}"
        changed = self._loaded.get(path, {})
        dtype = changed.get("dtype", self._policy_of(path))
        layer = layer_for(op, following, shape[-1], self.data_format, path, seed, dtype)
        if "quantization_config" in changed:
            config = changed["quantization_config"]
            layer.quantization_config = keras.saving.deserialize_keras_object(config)
        setattr(self, path, layer)
        layer.build(self._as_keras(shape))
        # In a frozen block, too: otherwise batch norms would still update their averages.
        if not changed.get("trainable", self.trainable):
            layer.trainable = False
        return cost.walk(op, shape)

    def _up_to(self, path: str, inputs: Any, training: bool | None = None) -> Any:
        """The output of the part at `path`, such as `main_conv2`; for `kb.extract`."""
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
            sources = x
            if not isinstance(x, (list, tuple)):
                cuts = op.crops()
                sources = [x if cut is None else crop(x, cut, self.data_format) for cut in cuts]
            outputs = [
                self._run(branch, source, paths, training, seen)
                for source, (_, branch) in zip(sources, op.branches, strict=True)
            ]
            return self._join(op.mode, outputs)
        path = next(paths)
        outputs = getattr(self, path)(x, training=training)
        if seen is not None:
            seen[path] = outputs
        return outputs

    def _join(self, mode: str, outputs: list[Any]) -> Any:
        if mode == "concat":
            is_first = self.data_format == "channels_first" and len(outputs[0].shape) > 2
            return keras.ops.concatenate(outputs, axis=1 if is_first else -1)
        return functools.reduce(keras.ops.add if mode == "add" else keras.ops.multiply, outputs)

    def _spatial_last(self, shape: Any) -> Any:
        """A Keras shape as (height, width, channels), without the batch."""
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
        """What Keras checks at each call: the rank and channels that the block was built for."""
        if isinstance(shape, list):
            return [self._expected_inputs(inner) for inner in shape]
        axis = 1 if self.data_format == "channels_first" else -1
        return keras.InputSpec(ndim=len(shape) + 1, axes={axis: shape[-1]})

    def _planned(self, input_shape: Any) -> tuple[Any, Op, Any]:
        """The input's shape as (height, width, channels), the plan for it, the output's shape."""
        shape, owner = self._spatial_last(input_shape), f"{type(self).__name__} {self.name!r}"
        for inner in shape if isinstance(shape, list) else [shape]:
            if len(inner) not in (1, 3) or inner[-1] is None:
                raise ValueError(
                    f"{owner} works on maps of rank 4 (or features of rank 2) with a known number "
                    f"of channels. Received: input shape {input_shape}"
                )
        try:
            plan = self.spec.plan(channels_of(shape))
            return shape, plan, cost.walk(plan, shape)
        except ValueError as error:
            raise placed(error, owner, shape) from error


def _field(name: str) -> property:
    def refuse(self: Any, value: Any) -> None:
        """Keras' layers allow this, and some Keras examples use it to remove a softmax."""
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


def checked_data_format(value: str | None) -> str:
    """A data format, Keras' setting for None; raises ValueError for anything else."""
    value = keras.config.image_data_format() if value is None else value
    if value not in ("channels_last", "channels_first"):
        raise ValueError(
            "`data_format` must be 'channels_last', 'channels_first' or None. "
            f"Received: data_format={value!r}"
        )
    return value


def _signature(cls: type[Block]) -> inspect.Signature:
    """The signature for help() and editors: positional fields, other fields, Keras' arguments."""
    spec: Any = cls.Spec
    kind = inspect.Parameter
    keras_own = {"name": None, "dtype": None, "trainable": True, "data_format": None}
    defaults = {**spec._defaults, **keras_own}
    parameters = [
        kind(
            name,
            kind.POSITIONAL_OR_KEYWORD if name in spec._positional else kind.KEYWORD_ONLY,
            default=defaults.get(name, kind.empty),
        )
        for name in dict.fromkeys([*spec._positional, *spec._checks, *keras_own])
    ]
    return inspect.Signature(parameters)
