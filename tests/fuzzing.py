"""The fuzzer: cases over the documented domain of blocks, families, heads and spaces.

A case is plain data that `repr` writes and `ast.literal_eval` reads. Its values are drawn by
Hypothesis from the annotations of a block's fields and the signatures of families and heads, so
that a new block is fuzzed with no new line here. What must hold of a case stands in
`fuzz_checks.py`, which runs in child processes: a case may end its process.

    python tests/fuzzing.py --cases 2000 --seed 1 --kinds block family head space
"""

from __future__ import annotations

import argparse
import ast
import copy
import dataclasses
import functools
import inspect
import os
import queue
import random
import re
import subprocess
import sys
import threading
import time
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import kblocks as kb
from kblocks.blocks import fields
from kblocks.families.inception import inception
from kblocks.heads.attaching import Head
from kblocks.networks import catalog

Case = dict[str, Any]
KINDS = ("block", "family", "head", "space")

# --- values by the type of an argument ---------------------------------------------------

FLAG = st.booleans()
small = st.integers(1, 4)
count = small | small | st.integers(1, 17)
size = st.sampled_from([1, 2, 2, 2, 3, 3, 5]) | st.tuples(
    *[st.sampled_from([1, 1, 2, 3, 4, 7])] * 2
)
few = st.lists(st.integers(1, 9), max_size=3).map(tuple)
pool_kind = st.sampled_from(["max", "avg", "min"])
branch = (
    st.integers(1, 9)
    | pool_kind
    | st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)
    | st.tuples(pool_kind, st.integers(1, 6))
)
branches = st.lists(branch, min_size=4, max_size=4) | st.lists(branch, min_size=1, max_size=4)
share = st.sampled_from([0.1, 0.25, 0.5, 0.9]) | st.floats(0.01, 0.99)


def _works(make: Any) -> bool:
    state = random.getstate()  # Keras draws seeds, which Hypothesis takes for a mistake
    try:
        make()
    except (TypeError, ValueError):
        return False
    finally:
        random.setstate(state)
    return True


ACTIVATIONS = [
    name
    for name in sorted(vars(keras.activations))
    if name.islower() and _works(lambda name=name: kb.NormAct.Spec(activation=name))
]


def _layer(name: str, **config: Any) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": name, "config": config, "registered_name": None}


activation = st.sampled_from(
    [
        *ACTIVATIONS,
        *ACTIVATIONS,
        _layer("LeakyReLU", negative_slope=0.1),
        _layer("ReLU", max_value=2.0, negative_slope=0.1),
        _layer("ELU", alpha=0.5),
    ]
)
norm = st.sampled_from(["batch", "batch", "layer", "group", "weight"]) | st.fixed_dictionaries(
    {"kind": st.sampled_from(["batch", "layer", "group"])},
    optional={
        "momentum": st.sampled_from([0.0, 0.9, 1.0]),
        "epsilon": st.sampled_from([1e-5, 1e-2]),
        "scale": st.booleans(),
        "center": st.booleans(),
    },
)
initializer = st.sampled_from(
    [
        "he_normal",
        "ones",
        "zeros",
        {"class_name": "RandomNormal", "config": {"stddev": 0.1, "seed": 3}},
    ]
)
regularizer = st.sampled_from(["l1", "l2", "l1_l2", {"class_name": "L2", "config": {"l2": 0.1}}])
sizes = size | size | st.lists(size, min_size=1, max_size=4).map(tuple)
padding = st.sampled_from(["same", "valid", "symmetric"]) | st.integers(0, 3)
padding = padding | st.tuples(st.integers(0, 3), st.integers(0, 3))

BY_TYPE: list[tuple[Any, Any]] = [  # a list, since annotations are not all hashable
    (fields.Count, count),
    (getattr(fields, "Repeats", None), small),
    (fields.Counts, few),
    (fields.Size, size),
    (fields.Sizes, sizes),
    (fields.Branches, branches.map(tuple)),
    (fields.Padding, padding),
    (fields.PoolKind, pool_kind | st.just("average")),
    (fields.Rate, st.just(0.0) | share),
    (fields.Fraction, st.just(1.0) | share),
    (fields.Positive, st.floats(0.1, 4.0)),
    (fields.ActivationLike, activation),
    (fields.NormLike, norm),
    (fields.InitializerLike, initializer),
    (fields.RegularizerLike, regularizer),
    (bool, FLAG),
    (int, count),
    (float, st.floats(-2.0, 2.0)),
    (str, st.sampled_from(["a", "b_1"])),
    (type(None), st.none()),
]

# None of these is of any argument's form by chance alone; what takes one has to work with it.
WRONG = ["no", "", -1, 0, 2.5, True, None, (), (1, 2, 3), {}, b"x", [[3]]]


def values(annotation: Any) -> Any:
    """A strategy for an argument of this type."""
    for known, strategy in BY_TYPE:
        if annotation == known:
            return strategy
    if typing.get_origin(annotation) is typing.Literal:
        return st.sampled_from(typing.get_args(annotation))
    members = [m for m in typing.get_args(annotation) if typing.get_origin(m) is not None]
    if type(None) in typing.get_args(annotation) or str(annotation).count("|"):
        return st.one_of([values(member) for member in typing.get_args(annotation)])
    if typing.get_origin(annotation) in (list, tuple) or "Sequence" in str(annotation):
        return st.lists(count, min_size=1, max_size=3).map(tuple)
    raise TypeError(f"tests/fuzzing.py knows no values for {annotation} ({members})")


# Kernels of a backend differ by these, so that one value in some is wrong: drawn in every case.
ALWAYS = ("activation", "strides")


@st.composite
def some_of(
    draw: Any, strategies: dict[str, Any], required: Any, defaults: Any = (), most: int = 99
) -> Any:
    """Arguments: the required ones, and any number of others away from their defaults."""
    others = sorted(set(strategies) - set(required))
    number = draw(st.integers(0, min(most, len(others))))
    chosen = {*draw(st.permutations(others))[:number], *(name for name in ALWAYS if name in others)}
    if draw(st.integers(0, 2)) == 0:  # what flags do to each other is seldom tried
        chosen |= {name for name in others if strategies[name] is FLAG}
    given_ = {name: draw(strategies[name]) for name in required}
    for name in sorted(chosen):
        usual = dict(defaults).get(name, "no default")
        given_[name] = draw(strategies[name].filter(lambda value, u=usual: value != u))
    return given_


@st.composite
def with_wrong(draw: Any, arguments: Case) -> Case:
    """One case in some with a value that is of no argument's form."""
    if not arguments or draw(st.integers(0, 24)) != 7:
        return arguments
    return {**arguments, draw(st.sampled_from(sorted(arguments))): draw(st.sampled_from(WRONG))}


# --- blocks ------------------------------------------------------------------------------


@functools.cache
def blocks() -> dict[str, Any]:
    """Every exported block that has a plan, and the one of no export."""
    found = {n: b for n, b in sorted(vars(kb).items()) if inspect.isclass(b)}
    return {
        name: block
        for name, block in found.items()
        if issubclass(block, kb.Block) and block.Spec.plan is not kb.Block.Spec.plan
    }


@functools.cache
def strategies_of(block: Any) -> tuple[dict[str, Any], list[str]]:
    """The strategy of each field of a block, and the names of those without a default."""
    made = {field.name: values(field.type) for field in dataclasses.fields(block.Spec)}
    if "strides" in made:
        made["strides"] = st.just(2) | made["strides"]  # the kernels' commonest own way
    return made, [name for name in made if name not in block.Spec._defaults]


@functools.cache
def _takes_maps(block: Any) -> bool:
    required = strategies_of(block)[1]
    simple = {"branches": (2, (3, 2)), "kernel_size": 3} if "branches" in required else {}
    given_ = {field: simple.get(field, 2) for field in {*required, *simple}}
    return _works(lambda: block.Spec(**given_).cost((30, 30, 6)))


DTYPES = ["float32"] * 5 + ["mixed_bfloat16", "mixed_float16", "bfloat16", "float16"]
BEHIND = [None, "Dropout", "GaussianNoise", "SpatialDropout2D", "Activation", "BatchNormalization"]


@st.composite
def block_cases(draw: Any, name: str) -> Case:
    """A block on a map (or features), and how it is run.

    Of four cases that are refused one is kept; the others lose arguments until they are not.
    """
    block = blocks()[name]
    strategies, required = strategies_of(block)
    flat = not _takes_maps(block) or draw(st.integers(0, 60)) == 1
    side, kept = st.integers(1, 20) | st.sampled_from([8, 12, 20]), draw(st.integers(0, 3)) == 0
    shape = (draw(side), draw(side), draw(st.integers(1, 17)))[2 if flat else 0 :]
    arguments = draw(some_of(strategies, required, block.Spec._defaults.items()))

    def fits(shape: tuple[int, ...]) -> bool:
        return _works(lambda: block.Spec(**arguments).cost(shape))

    for less in draw(st.permutations(sorted({*arguments} - {*required}))):
        if kept or fits(shape):
            break
        if not flat and fits((20, 20, shape[-1])):
            shape = (20, 20, shape[-1])
        else:
            del arguments[less]
    return {
        "kind": "block",
        "name": name,
        "arguments": draw(with_wrong(arguments)),
        "shape": shape,
        "batch": draw(st.integers(1, 9)),
        "dtype": draw(st.sampled_from(DTYPES)),
        "data_format": draw(st.sampled_from(["channels_last"] * 5 + ["channels_first"])),
        "training": draw(st.booleans()),
        "unknown": draw(st.integers(0, 3)) == 0,
        "saves": draw(st.integers(0, 7)) == 0,
        "behind": draw(st.sampled_from(BEHIND)),
    }


# --- families ----------------------------------------------------------------------------


@functools.cache
def families() -> dict[str, Any]:
    """The family functions by name."""
    return {name: getattr(kb, name) for name in catalog.by_family()}


# What the rows of a family's signature, which are annotated as `Any`, take. `each` stands for one
# value or a list with one a stage.
_WIDTH = st.integers(1, 17)
ONCE: dict[str, Any] = {
    "classes": st.integers(1, 7),
    "name": st.sampled_from(["net", "b_1"]),
    "stochastic_depth": st.just(0.0) | share,
    "dropout": st.just(0.0) | share,
    "depth": st.sampled_from([0.5, 1.0, 1.3]),
    "version": st.sampled_from(["v1", "v2"]),
    "variant": st.sampled_from([None, "v1", "v1.5"]),
    "head": st.sampled_from(
        [None, {"pool": "concat"}, {"dropout": 0.5}, {"pool": "flatten", "hidden": (5,)}]
    ),
    "stem": st.sampled_from(
        [None, {"filters": 4}, {"filters": 6, "strides": 1}, {"kernel_size": 3}]
    ),
    "top": st.sampled_from([None, {"filters": 8}]),
    "last": st.sampled_from([None, {}, {"scale": 0.7}]),
    "transition": st.sampled_from([None, {"pool": "max"}, {"pool": "min", "pool_size": 3}]),
    "reductions": st.sampled_from([None]),
    "branches": st.sampled_from([None]),
    "auxiliary": st.sampled_from(
        [None, {}, {"aux": {"stage": 1, "filters": (4,), "hidden": (6,)}}]
    ),
}
EACH: dict[str, Any] = {
    "filters": _WIDTH,
    "kernel_size": size,
    "strides": st.sampled_from([1, 1, 2, 2, 3, (2, 1)]),
    "padding": padding,
    "growth_rate": st.integers(1, 7),
    "bottleneck": st.none() | st.integers(1, 4),
    "compression": st.sampled_from([0.5, 1.0, 0.3]),
    "expansion": st.integers(1, 4),
    "cardinality": st.integers(1, 4),
    "group_width": st.integers(1, 3),
    "scale": st.sampled_from([None, 0.1, 1.0]),
}
_INCEPTION: dict[str, Any] = {  # of which `filters` are factors
    "filters": st.sampled_from([None, 0.5, 1, 1.5]),
    "pool": st.sampled_from([None, "max", "avg", "min"]),
    "kept": st.sampled_from([None, (1, 2), (2,), (1, 3)]),
}
_BLOCK: dict[str, Any] = {"resnet": st.sampled_from(["basic", "bottleneck", "resnext"])}
_BLOCK["preresnet"] = st.sampled_from(["basic", "bottleneck"])
_BLOCK["tresnet"] = st.sampled_from([None, "basic", "bottleneck"])
# Widths of families whose published ones are slow: multipliers, and blocks' own arguments.
NARROW = {"efficientnet": 0.2, "inception": 0.08, "googlenet": 0.08}
OF_BLOCKS = {
    "alexnet": "ConvBlock",
    "vgg": "ConvBlock",
    "resnet": "ResidualBlock",
    "preresnet": "ResidualBlock",
    "resnext": "ResNeXtBlock",
    "densenet": "DenseBlock",
    "efficientnet": "MBConvBlock",
    "tresnet": "TResNetBasicBlock",
    "xception": "SeparableConvBlock",
}
_RESIDUAL = ("preresnet", "resnext")
_TAKEN = {"filters", "kernel_size", "strides", "padding", "stochastic_depth", "convolutions"}


def _handed_on(family: str) -> list[Any]:
    """The functions that a family's arguments reach: itself and the one it hands the rest to."""
    if "inception" in family or family == "googlenet":
        return [getattr(kb, family), inception]
    return [getattr(kb, name) for name in (family, *(["resnet"] if family in _RESIDUAL else []))]


def parameters_of(family: str) -> list[str]:
    """The named parameters of a family; those of what it hands on too."""
    names: list[str] = []
    for function in _handed_on(family):
        names += inspect.signature(function).parameters
    return [n for n in dict.fromkeys(names) if n not in ("arguments", "block_arguments", "options")]


def each(stages: int, strategy: Any) -> Any:
    """One value, or a list with one for each stage."""
    return strategy | st.lists(strategy, min_size=stages, max_size=stages)


@st.composite
def family_cases(draw: Any, family: str) -> Case:
    """A small member of a family on an input."""
    inception = "inception" in family or family == "googlenet"
    stages = 3 if inception else draw(st.integers(1, 3))
    strategies: dict[str, Any] = {}
    for name in parameters_of(family):
        if name in ("blocks", "width", "block"):
            continue
        if inception and name in _INCEPTION:
            strategies[name] = each(stages, _INCEPTION[name])
        elif name not in ONCE and name not in EACH:
            kinds = strategies_of(blocks()[OF_BLOCKS[family]])[0] if family in OF_BLOCKS else {}
            assert name in kinds, f"tests/fuzzing.py knows no values for {name} of kb.{family}"
            strategies[name] = each(stages, kinds[name])
        else:
            strategies[name] = ONCE[name] if name in ONCE else each(stages, EACH[name])
    if family in OF_BLOCKS:
        own = strategies_of(blocks()[OF_BLOCKS[family]])[0]
        strategies |= {
            n: each(stages, s) for n, s in own.items() if n not in (_TAKEN | {*strategies})
        }
    arguments = draw(with_wrong(draw(some_of(strategies, [], most=5))))
    arguments["blocks"] = tuple(
        draw(st.lists(small.filter(lambda n: n < 3), min_size=stages, max_size=stages))
    )
    if family in _BLOCK:
        arguments["block"] = draw(_BLOCK[family])
    if inception or family == "efficientnet":
        arguments["width"] = 0.2 if family == "efficientnet" else 0.08
    elif family not in ("densenet",):
        arguments.setdefault("filters", draw(each(stages, _WIDTH)))
    if family in ("alexnet", "vgg") and arguments.get("head") is None:
        arguments["head"] = {"hidden": (5,)}
    side = st.integers(90, 160) if inception else st.integers(8, 64)
    return {
        "kind": "family",
        "name": family,
        "arguments": arguments,
        "shape": (draw(side), draw(side), draw(st.integers(1, 4))),
        "batch": draw(st.integers(1, 5)),
        "saves": draw(st.booleans()),
        "trains": draw(st.booleans()),
    }


# --- heads and spaces --------------------------------------------------------------------


@functools.cache
def heads() -> dict[str, Any]:
    """Every exported head: the blocks with a task, and the heads of several rows."""
    return {
        name: member
        for name, member in sorted(vars(kb).items())
        if inspect.isclass(member)
        and (
            issubclass(member, Head)
            or (issubclass(member, kb.Block) and hasattr(member.Spec, "task"))
        )
    }


@functools.cache
def head_strategies(name: str) -> tuple[dict[str, Any], list[str]]:
    """The strategy of each argument of a head, and the names of those without a default."""
    head = heads()[name]
    if issubclass(head, kb.Block):
        return strategies_of(head)
    hints = typing.get_type_hints(head.__init__, include_extras=True)
    made, required = {}, []
    for key, parameter in inspect.signature(head).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD or hints[key] is Any:
            continue
        made[key] = st.floats(0.1, 8.0) if hints[key] is float else values(hints[key])
        if "stride" in key:
            made[key] = st.sampled_from([1, 2, 4, 8, (4, 8), None])
        if parameter.default is parameter.empty:
            required.append(key)
    return made, required


@st.composite
def one_head(draw: Any, name: str) -> tuple[str, dict[str, Any]]:
    return name, draw(with_wrong(draw(some_of(*head_strategies(name), most=4))))


@st.composite
def head_cases(draw: Any, name: str) -> Case:
    """A few convolutions under a head, or under a dict of it and perhaps of another."""
    made: Any = draw(one_head(name))
    outputs = draw(st.lists(st.sampled_from("yz"), unique=True, max_size=2))
    if outputs:
        others = [draw(one_head(draw(st.sampled_from(sorted(heads()))))) for _ in outputs[1:]]
        made = dict(zip(outputs, [made, *others], strict=True))
    side = st.integers(8, 40)
    return {
        "kind": "head",
        "name": name,
        "arguments": {},
        "head": made,
        "shape": (draw(side), draw(side), draw(st.integers(1, 4))),
        "batch": draw(st.integers(1, 5)),
        "objects": draw(st.integers(0, 3)),
        "saves": draw(st.booleans()),
        "trains": True,
    }


@st.composite
def space_cases(draw: Any, name: str) -> Case:
    """A ready space within an input and a budget."""
    side = st.integers(1, 256)
    macs = st.none() | st.sampled_from([1e6, 1e8, 1e9])
    return {
        "kind": "space",
        "name": name,
        "arguments": {},
        "classes": draw(st.integers(1, 100)),
        "shape": (draw(side), draw(side), draw(st.integers(1, 4))),
        "macs": draw(macs),
        "seed": draw(st.integers(0, 1000)),
    }


CASES = {"block": block_cases, "family": family_cases, "head": head_cases, "space": space_cases}


def names_of(kind: str) -> list[str]:
    """What a kind's cases are about; a block as often as pairs of its arguments want."""
    if kind == "block":
        pairs = {name: len(block.Spec._checks) ** 2 // 8 + 1 for name, block in blocks().items()}
        return [name for name, number in pairs.items() for _ in range(number)]
    return sorted({"family": families(), "head": heads()}.get(kind, kb.spaces.__all__))


def drawn(kind: str, number: int, first: int = 0, only: str | None = None) -> list[Case]:
    """That many cases, perhaps `only` of one name; the same for the same seed `first`."""
    names = [only] if only else names_of(kind)
    random.Random(first).shuffle(names)
    cases = (
        drawn_one(CASES[kind](names[i % len(names)]), first * 1_000_000 + i) for i in range(number)
    )
    return list({repr(case): case for case in cases}.values())


def drawn_one(strategy: Any, own: int) -> Case:
    """One case, by a run of Hypothesis for itself: in one run most are changes of those before."""
    made: list[Case] = []

    def take(case: Case) -> None:
        made.append(case)

    quick = settings(
        max_examples=2,  # the first is always the simplest
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seed(own)(quick(given(strategy)(take)))()
    return made[-1]


# --- children ----------------------------------------------------------------------------


class Children:
    """One child process at a time that runs cases; a new one after a death or many cases.

    Args:
        folder: where the running case is written before it runs, and what the child says.
        limit: seconds that a case may take.
        most: cases that one child runs.
        script: what a child runs; it reads a case a line and answers a dict a line.
    """

    def __init__(
        self,
        folder: Path,
        limit: float = 180.0,
        most: int = 250,
        script: Path = Path(__file__).parent / "fuzz_checks.py",
    ) -> None:
        self.folder, self.limit, self.most, self.script = folder, limit, most, script
        self._child: Any = None
        self._done = 0
        self.refusals: Counter[str] = Counter()
        self.recent: list[Case] = []  # what the present child ran

    def run(self, case: Case) -> dict[str, Any]:
        """`{"outcome": "works" | "refused" | "found", "why": ..., "where": ...}`."""
        if self._child is None or self._done >= self.most:
            self.close()
            self._start()
        self.folder.joinpath("case.txt").write_text(repr(case))
        self._done += 1
        self.recent.append(case)
        try:
            self._child.stdin.write(repr(case) + "\n")
            self._child.stdin.flush()
            line = self._lines.get(timeout=self.limit)
        except (OSError, queue.Empty) as error:
            line = "" if isinstance(error, OSError) else None
        if line is None:
            self.close()
            return {"outcome": "found", "where": "time", "why": f"more than {self.limit} s"}
        if not line:
            code = self._child.wait(30)
            self._child = None
            return {"outcome": "found", "where": "process", "why": f"the process ended: {code}"}
        return ast.literal_eval(line)

    def _start(self) -> None:
        self._said = open(self.folder / "child.log", "ab")  # noqa: SIM115
        here = Path(__file__).parent
        paths = [str(here.parent), str(here), os.environ.get("PYTHONPATH", "")]
        self._child = subprocess.Popen(
            [sys.executable, str(self.script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        self._done, self.recent = 0, []
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_read, args=(self._child.stdout, self._lines), daemon=True).start()

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._said.close()
        self._child = None


def _read(stream: Any, lines: Any) -> None:
    for line in stream:
        if line.startswith("{"):
            lines.put(line)
    lines.put("")


# --- shrinking ---------------------------------------------------------------------------


def smaller(case: Case) -> Iterator[Case]:
    """Simpler cases: without an argument, with smaller values, on smaller inputs."""
    for key, plain in (
        ("saves", False),
        ("unknown", False),
        ("training", False),
        ("trains", False),
    ):
        if case.get(key, plain) != plain:
            yield {**case, key: plain}
    for key, plain in (("dtype", "float32"), ("data_format", "channels_last"), ("batch", 1)):
        if case.get(key, plain) != plain:
            yield {**case, key: plain}
    for name in case["arguments"]:
        yield {**case, "arguments": {k: v for k, v in case["arguments"].items() if k != name}}
    for name, value in case["arguments"].items():
        for less in _less(value):
            yield {**case, "arguments": {**case["arguments"], name: less}}
    for axis, n in enumerate(case["shape"]):
        for less in (n // 2, n - 1):
            if less:
                yield {**case, "shape": (*case["shape"][:axis], less, *case["shape"][axis + 1 :])}
    if isinstance(case.get("head"), dict):
        for name in case["head"]:
            yield {**case, "head": {k: v for k, v in case["head"].items() if k != name}}
        yield from ({**case, "head": one} for one in case["head"].values())


def _less(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        return
    if isinstance(value, int) and value > 1:
        yield from dict.fromkeys((1, value // 2, value - 1))
    if isinstance(value, (list, tuple)):
        if len(value) > 1:
            yield from value
        for i, item in enumerate(value):
            rest = (*value[:i], *value[i + 1 :])
            yield type(value)(rest)
            for less in _less(item):
                yield type(value)((*value[:i], less, *value[i + 1 :]))


def shrunk(case: Case, found: dict[str, Any], children: Children, tries: int = 60) -> Case:
    """The smallest case that greedy steps reach with the same finding."""
    case, went_on = copy.deepcopy(case), True
    while went_on and tries > 0:
        went_on = False
        for candidate in smaller(case):
            tries -= 1
            if tries < 0:
                break
            again = children.run(candidate)
            if again["outcome"] == "found" and again["where"] == found["where"]:
                case, went_on = candidate, True
                break
    return case


def fuzz(
    cases: list[Case], children: Children, told: Any = print, tries: int = 60
) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Runs cases; gives the number of each outcome, and the findings, one of each kind smallest."""
    outcomes: Counter[str] = Counter()
    findings: dict[str, dict[str, Any]] = {}
    for number, case in enumerate(cases):
        if number % 50 == 49:
            told(f"{number + 1} of {len(cases)} cases: {dict(outcomes)}")
        result = children.run(case)
        outcomes[result["outcome"]] += 1
        if result["outcome"] != "found":
            children.refusals.update([result.get("why", "")[:90]] * (result["outcome"] != "works"))
            continue
        kind = f"{result['where']}: {re.sub('[^A-Za-z_ ]+', '', result['why'])[:40]}"
        if kind not in findings:
            before = list(children.recent)
            least = shrunk(case, result, children, tries)
            findings[kind] = {"case": case, "least": least, "number": 0, "before": before, **result}
            told(f"FOUND {kind}\n  {result['why']}\n  {case}\n  least: {least}")
        findings[kind]["number"] += 1
    return outcomes, list(findings.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=300, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--only", help="of a block, family or space")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/kblocks-fuzz"))
    parser.add_argument("--refusals", action="store_true", help="tell the commonest")
    parser.add_argument("--tries", type=int, default=60, help="to make a finding smaller")
    own = parser.parse_args()
    own.folder.mkdir(parents=True, exist_ok=True)
    children = Children(own.folder)
    number = 0
    for kind in own.kinds:
        cases = drawn(kind, own.cases, own.seed, own.only)
        begun = time.monotonic()
        outcomes, findings = fuzz(cases, children, lambda t: print(t, flush=True), own.tries)
        took = time.monotonic() - begun
        number += len(findings)
        told = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items())
        print(
            f"{kind}: {len(cases)} cases in {took:.0f} s: {told}; {len(findings)} kinds", flush=True
        )
    if own.refusals:
        print(*(f"{n} x {why}" for why, n in children.refusals.most_common(40)), sep="\n")
    children.close()
    return 1 if number else 0


if __name__ == "__main__":
    sys.exit(main())
