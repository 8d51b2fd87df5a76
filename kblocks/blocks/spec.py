"""`Spec`: a block as data, immutable and hashable, made from the block's fields and `plan`."""

import dataclasses
import difflib
import inspect
import itertools
import re
import textwrap
import types
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import keras

from kblocks.blocks.fields import Check, check_of
from kblocks.plans import cost, ops
from kblocks.plans.geometry import InputTooSmallError
from kblocks.plans.ops import Op

_OWN = {"name", "dtype", "trainable", "data_format", "spec", "layers", "remat", "changed_parts"}
_RESERVED = frozenset(dir(keras.Layer)) | _OWN
_LABELS = {kind.label for kind in ops.PRIMITIVES.values()}
_ARGS = re.compile(r"^Args:((?:\n+ .*)+)", re.MULTILINE)  # a section of a docstring
_NAME = r"[^\s:,(]+"
_ENTRY = re.compile(rf"^({_NAME}(?:,\s+{_NAME})*)(.*(?:\n+ .*)*)", re.MULTILINE)  # names, text
# The descriptions of arguments that many blocks have, for those that their docstrings leave out.
_COMMON = """Args:
    activation: a Keras activation by name, a function, an activation layer without weights, or
        None.
    gate: the last activation of the gate, in the forms of `activation` but None.
    pool_padding: padding of the pool, in the forms of `padding`; less than `pool_size`.
    loss_weight: factor of this output's loss in the total of several outputs.
    kernel_initializer: Keras initializer of the kernels, by name or as an object. Each kernel gets
        its own, so that a seed does not make two kernels equal.
    bias_initializer: Keras initializer of the biases, by name or as an object.
    kernel_regularizer: Keras regularizer of the kernels, by name or as an object, or None.
    bias_regularizer: Keras regularizer of the biases, by name or as an object, or None."""


class Spec:
    """The base class of Specs. `_block` is the block's class; `_checks` has a check a field."""

    _block: ClassVar[Any]
    _checks: ClassVar[dict[str, Check]] = {}
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
                values[name] = self._checks[name].normalise(value)
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
        """Raises ValueError where arguments contradict each other; a block may override it."""

    def plan(self, channels: Any) -> Op:
        """The tree of ops for an input of `channels` (a list of them for several inputs)."""
        raise NotImplementedError(f"{self._block.__name__} has no plan")

    def cost(self, input_shape: Any) -> cost.Cost:
        """The cost on an input of (height, width, channels)."""
        try:
            return cost.cost(self.plan(channels_of(input_shape)), input_shape)
        except ValueError as error:
            raise placed(error, self._block.__name__, input_shape) from error

    def layer(self, name: str | None = None, **keras_own: Any) -> Any:
        """A new Keras layer of this Spec; `keras_own` are such arguments as `dtype`."""
        fields = {field: getattr(self, field) for field in self._checks}
        return self._block(name=name, **keras_own, **fields)

    def config(self) -> dict[str, Any]:
        """The values of all fields, ready for JSON."""
        return {name: check.serialise(getattr(self, name)) for name, check in self._checks.items()}

    def changes(self) -> dict[str, Any]:
        """The values that differ from their field's default, ready for JSON."""
        defaults = self._defaults
        return {
            name: check.serialise(getattr(self, name))
            for name, check in self._checks.items()
            if name not in defaults or getattr(self, name) != defaults[name]
        }


def _by_word(sentences: dict[str, str]) -> dict[str, str]:
    return {word: text for words, text in sentences.items() for word in words.split()}


# Words of Keras, KerasHub and timm that users type, and what stands for them here.
_ELSEWHERE = _by_word(
    {
        "weights pretrained load_weights": "Weights go to the model: "
        '`.model((224, 224, 3), weights="imagenet")`.',
        "include_top": "The model takes it: `.model((224, 224, 3), include_top=False)`.",
        "pooling global_pool": "The model takes it: "
        '`.model((224, 224, 3), include_top=False, pooling="avg")`.',
        "input_shape image_shape in_chans in_channels": "The model takes it, "
        "`.model((224, 224, 3))`; a block reads its input's.",
        "input_tensor": "The model takes it: `.model((224, 224, 3), input_tensor=x)`.",
        "classifier_activation": "The model takes it: "
        '`.model(size, classifier_activation="softmax")`.',
        "dtype data_format": "The model takes it: "
        '`.model((224, 224, 3), dtype="mixed_bfloat16", data_format="channels_first")`.',
        "features_only": "The maps are a model: `.features((224, 224, 3))`.",
        "momentum bn_momentum epsilon bn_eps": "The normalization takes it: "
        '`normalization=kb.Norm("batch", momentum=0.9, epsilon=1e-5)`.',
    }
)
_OF_FAMILIES = _by_word(
    {
        "num_classes n_classes": "It has `classes`.",
        "num_blocks depths layers": "It has `blocks`, those of each stage.",
        "drop_rate dropout_rate": "The head takes it: `head=kb.Classifier(10, dropout=0.2)`.",
    }
)
# What other libraries call arguments of blocks, where `difflib` would not find ours.
_OURS = _by_word(
    {
        "use_batchnorm use_batch_norm use_bn bn": "normalization",
        "batch_norm batchnorm norm norm_layer": "normalization",
        "act act_fn act_layer nonlinearity": "activation",
        "out_channels channels features planes width": "filters",
        "kernel size": "kernel_size",
        "subsample downsample": "strides",
        "pad": "padding",
        "bias": "use_bias",
        "drop_rate rate": "dropout",
        "drop_path drop_path_rate drop_connect_rate": "stochastic_depth",
    }
)


def refuse_foreign(names: Iterable[str]) -> None:
    """Raises TypeError if an argument of a family has a name under which others know it."""
    for name in names:
        if hint := _ELSEWHERE.get(name) or _OF_FAMILIES.get(name):
            raise TypeError(f"There is no argument {name!r}. {hint}")


def _refusal(owner: str, name: str, value: Any, checks: dict[str, Check]) -> Exception:
    """The error for an unknown argument (TypeError) or an invalid value (ValueError)."""
    if name not in checks:
        close = difflib.get_close_matches(name, checks, 1)
        hint = f"Did you mean {close[0]!r}?" if close else f"It has {', '.join(checks)}."
        ours = _OURS.get(name)
        if ours in checks:
            hint = f"It has `{ours}`: {checks[ours].expected}."
        hint = _ELSEWHERE.get(name, hint)
        return TypeError(f"{owner} has no argument {name!r}. {hint} Received: {name}={value!r}")
    return ValueError(
        f"`{name}` of {owner} must be {checks[name].expected}. Received: {name}={value!r}"
    )


def placed(error: ValueError, place: str, input_shape: Any) -> ValueError:
    """The same error, its message completed by where it was raised and the input shape."""
    message = f"{place}: {error} (input: {input_shape})"
    if isinstance(error, InputTooSmallError):
        return InputTooSmallError(message, error.missing)
    return ValueError(message)


def channels_of(shape: Any) -> Any:
    if isinstance(shape, list):
        return [inner[-1] for inner in shape]
    return shape[-1]


def make_spec(cls: Any, kw_only: bool) -> type[Spec]:
    """The Spec class of a block: a frozen dataclass with its fields, properties and methods."""
    parent = next((base.Spec for base in cls.__mro__[1:] if "Spec" in vars(base)), Spec)
    annotations = _annotations_of(cls)
    _refuse_bad_fields(cls, annotations, parent)
    checks = {name: check_of(annotations[name]) for name in annotations if name[0] != "_"}
    namespace = {
        "__annotations__": annotations,
        "__doc__": cls.__doc__,
        "__module__": cls.__module__,
        "_block": cls,
        **{name: value for name, value in vars(cls).items() if _is_shared(name, value)},
        **_defaults_of(cls, checks),
    }
    spec: Any = type(f"{cls.__name__}.Spec", (parent,), namespace)
    spec = dataclasses.dataclass(frozen=True, init=False, kw_only=kw_only)(spec)
    fields = dataclasses.fields(spec)  # those of base classes too
    checks = {**parent._checks, **checks}
    spec._checks = {field.name: checks[field.name] for field in fields}
    spec._defaults = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    spec._positional = tuple(field.name for field in fields if not field.kw_only)
    return spec


def _annotations_of(cls: type) -> dict[str, Any]:
    """The annotations of a class that make fields, and the KW_ONLY mark between them."""
    return {
        name: annotation
        for name, annotation in inspect.get_annotations(cls, eval_str=True).items()
        if not name.startswith("_") or annotation is dataclasses.KW_ONLY
        if not str(annotation).startswith("typing.ClassVar")
    }


def _defaults_of(cls: type, checks: dict[str, Check]) -> dict[str, Any]:
    """The defaults of a class's own fields, in the form that Specs keep."""
    defaults = {name: vars(cls)[name] for name in checks if name in vars(cls)}
    for name, value in defaults.items():
        try:
            defaults[name] = checks[name].normalise(value)
        except (TypeError, ValueError) as error:
            raise _refusal(cls.__name__, name, value, checks) from error
    return defaults


def documented(cls: Any, names: Sequence[str]) -> str:
    """The docstring of `cls`, completed from its base classes and `_COMMON`.

    Args, if there is such a section, gets the entries for `names` that are missing, in their
    order. A docstring with an Output shape gets an Input shape and Raises.
    """
    doc = inspect.cleandoc(cls.__doc__)
    bases = [base for base in cls.__mro__[1:] if "Spec" in vars(base)]
    inherited = [inspect.cleandoc(base.__doc__ or "") for base in bases]
    if "Output shape:" in doc:
        doc = with_section(doc, "Input shape", inherited, "Output shape:", "\n")
        doc = with_section(doc, "Raises", inherited, "Example:|Reference:", "\n\n")
    return with_args(doc, names, [*inherited, _COMMON])


def with_args(doc: str, names: Sequence[str], inherited: list[str]) -> str:
    """The docstring with entries for all `names`, from the first text that describes one."""
    own = texts = _described(doc)
    for text in inherited:
        texts = {**_described(text), **texts}
    order = [name for name in names if name in texts] + [name for name in own if name not in names]
    groups = itertools.groupby(order, texts.__getitem__)
    entries = "\n".join(", ".join(group) + text for text, group in groups)
    return _ARGS.sub(lambda _: f"Args:\n{textwrap.indent(entries, ' ' * 4)}", doc, count=1)


def with_section(doc: str, name: str, inherited: list[str], before: str, gap: str) -> str:
    """The docstring with a section that it lacks, from the first base that has it."""
    section = re.compile(rf"^{name}:.*(?:\n+ .*)*", re.MULTILINE)
    found = next(filter(None, map(section.search, inherited)), None)
    if f"{name}:" in doc or found is None:
        return doc
    place = next(re.finditer(rf"^(?:{before})|\Z", doc, re.MULTILINE)).start()
    return f"{doc[:place].rstrip()}\n\n{found[0]}{gap}{doc[place:]}".rstrip()


def _described(doc: str) -> dict[str, str]:
    """Each argument that a docstring describes, with the text behind its name."""
    section = _ARGS.search(doc)
    entries = _ENTRY.findall(textwrap.dedent(section[1])) if section else []
    return {name: text for names, text in entries for name in re.findall(_NAME, names)}


def _refuse_bad_fields(cls: type, annotations: dict[str, Any], parent: type[Spec]) -> None:
    for name in annotations:
        if name in _RESERVED or name.rstrip("0123456789") in _LABELS:
            raise TypeError(f"{cls.__name__}: a field cannot be called {name!r}, which is taken")
    for name in set(vars(cls)) & set(parent._checks) - set(annotations):
        raise TypeError(f"{cls.__name__}: annotate {name!r} to change the default of a field")


def _is_shared(name: str, value: Any) -> bool:
    """Whether the Spec gets this member of the class too: its properties and methods."""
    shared = (types.FunctionType, property, staticmethod, classmethod)
    return isinstance(value, shared) and not name.startswith("__") and name not in _RESERVED
