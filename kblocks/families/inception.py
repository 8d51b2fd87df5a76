"""The builder of all Inception families, their stems, and where the parts of a module are."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kblocks.blocks.convolution import ConvBlock
from kblocks.blocks.fields import positive
from kblocks.blocks.inception import InceptionBlock
from kblocks.families import stage_arguments as staged
from kblocks.heads import AuxiliaryClassifier, Classifier
from kblocks.heads.attaching import Head
from kblocks.networks.architecture import Architecture
from kblocks.plans.ops import Norm

NORM = Norm("batch", momentum=0.9, epsilon=1e-3)  # as in their published weights

Rows = list[tuple[Any, ...]]

_POOL = {"branches": ("max",), "kernel_size": 3, "strides": 2, "padding": "valid"}
_CEIL = {**_POOL, "pool_ceil_mode": True}
_V3 = (
    {"filters": 32, "strides": 2, "padding": "valid"},
    {"filters": 32, "padding": "valid"},
    {"filters": 64},
    _POOL,
    {"filters": 80, "kernel_size": 1},
    {"filters": 192, "padding": "valid"},
    _POOL,
)
STEMS: dict[str, tuple[dict[str, Any], ...]] = {  # in each of them three rows halve the map
    "googlenet": (
        {"filters": 64, "kernel_size": 7, "strides": 2, "padding": "symmetric"},
        _CEIL,
        {"filters": 64, "kernel_size": 1},
        {"filters": 192, "kernel_size": 3},
        _CEIL,
    ),
    "inception_v3": _V3,
    "inception_v4": (
        *_V3[:3],
        {"branches": ("max", 96), "kernel_size": 3, "strides": 2, "padding": "valid"},
        {
            "branches": ((64, 96), (64, 64, 64, 96)),
            "kernel_size": (3, (1, 7)),
            "last_kernel_size": 3,
            "last_padding": "valid",
        },
        {"branches": (192, "max"), "kernel_size": 3, "strides": 2, "padding": "valid"},
    ),
    "inception_resnet_v1": (*_V3[:6], {"filters": 256, "strides": 2, "padding": "valid"}),
    "inception_resnet_v2": (
        *_V3,
        {"branches": (96, (48, 64), (64, 96, 96), ("avg", 64)), "kernel_size": (1, 5, 3, 3)},
    ),
}


@staged.described
def inception(
    classes: int,
    *,
    blocks: Any,
    branches: Any,
    kernel_size: Any,
    filters: Any = None,
    width: Any = 1.0,
    pool: Any = None,
    kept: Any = None,
    strides: Any = None,
    padding: Any = "symmetric",
    reductions: Any = None,
    stem: Any,
    top: Any = None,
    dropout: float = 0.2,
    head: Any = None,
    auxiliary: Mapping[str, Any] | None = None,
    block: Any = InceptionBlock,
    last: Mapping[str, Any] | None = None,
    name: str = "inception",
    **options: Any,
) -> Architecture:
    """A stem, stages of Inception modules behind grid reductions, and a classifier.

    Args:
        blocks: number of modules in each stage, one entry a stage.
        branches: for each stage a sequence with the `branches` of each of its modules (see
            `kb.InceptionBlock`); the last also serves further modules.
        kernel_size: for each stage the `kernel_size` of its modules.
        filters: factors of the modules' filters, one value or one a stage: a number for all
            branches; or a list with one entry for each branch, a number or a pair for the
            convolutions before its last and for its last. Products are rounded to multiples of 8,
            but 1 and None change nothing.
        width: factor of all filters, one value or one a stage, not rounded to multiples of 8; the
            stem has the first stage's, the top the last stage's.
        pool: kind of the modules' pools ("max", "avg" or "min"), one value or one a stage; None is
            that of `branches`.
        kept: for each stage None, or the numbers of the branches that its modules keep, counted
            from 1.
        strides: strides of each stage's reduction, or of its first module if it has none. None is
            1 for the first stage and 2 for the others.
        padding: padding of the modules, one value or one a stage.
        reductions: for each stage None, or a mapping of arguments of the `kb.InceptionBlock`
            before its modules, which may also have `filters`, `pool` and `kept`.
        stem: a mapping of arguments of `kb.ConvBlock` (with `branches`, of `kb.InceptionBlock`),
            or a Spec; or a sequence of these. Or a mapping of `form`, the name of the published
            network whose stem it is, and of changes to this: `filters`, a factor; `kernel_size`,
            `strides` and `padding` of the three rows that halve the map, one value or a list.
        top: arguments of a `kb.ConvBlock` after the last stage, named as one more stage.
        head: arguments of `kb.Classifier` that replace the published ones (average pool and
            dropout), or the Spec of a head.
        auxiliary: for each auxiliary output a mapping of arguments of `kb.AuxiliaryClassifier`,
            and of the `stage` and `block` that it reads, counted from 1; the last ones if there
            are fewer or the mapping does not say.
        block: the class of the modules.
        last: arguments of the very last module that differ from its stage's.
        **options: further arguments of the modules, one value or a list with one a stage;
            activation, normalization, bias and initializers also apply to all other parts.
    """
    stages = staged.count_stages(blocks)
    widths = staged.by_stage("width", width, stages)
    columns = {"kernel_size": kernel_size, "filters": filters, "pool": pool, "kept": kept}
    columns |= {"branches": _tables(branches, stages), "padding": padding, "width": widths}
    columns["strides"] = [1] + [2] * (stages - 1) if strides is None else strides
    columns["reduction"] = staged.by_stage("reductions", reductions, stages)
    columns |= {"normalization": NORM, **options}
    arguments = staged.arguments_by_stage(stages, columns)
    shared = staged.shared_by_all(*arguments)
    rows = _stem_rows(stem, shared, widths[0])
    for i, own in enumerate(arguments, 1):
        rows += _stage_rows(block, name, i, blocks[i - 1], own)
    if last is not None:
        if not isinstance(last, Mapping):
            raise ValueError(
                f"`last` must be a mapping of arguments of InceptionBlock. Received: last={last!r}"
            )
        rows[-1] = (rows[-1][0], rows[-1][1].replace(**last))
    if top is not None:
        top = staged.part(ConvBlock, "top", widened(top, widths[-1]), shared)
        rows.append((f"stage{stages + 1}", top))
    end = staged.part(Classifier, "head", head, {"classes": classes, "dropout": dropout})
    auxiliary = auxiliary or {}
    aside = _auxiliary_rows(auxiliary, blocks, {"classes": classes, **shared})
    if isinstance(end, (Head, Mapping)):  # its rows come after the auxiliary ones
        return Architecture([*rows, *aside], head=end, auxiliary=tuple(auxiliary), name=name)
    rows += [("head", end), *aside]
    outputs = {"logits": "head", **{output: output for output in auxiliary}}
    return Architecture(rows, outputs=outputs, auxiliary=tuple(auxiliary), name=name)


def _tables(branches: Any, stages: int) -> list[Any]:
    """The branches of the modules of each stage; ValueError for another form."""
    columns = staged.by_stage("branches", branches, stages)
    for i, tables in enumerate(columns):
        whole = isinstance(tables, (list, tuple)) and len(tables) > 0
        if not whole or not all(isinstance(table, (list, tuple)) for table in tables):
            raise ValueError(
                "`branches` must have for each stage a sequence with the branches of each module. "
                f"Received: branches[{i}]={tables!r}"
            )
    return columns


def _stem_rows(stem: Any, shared: Mapping[str, Any], width: float) -> Rows:
    if isinstance(stem, Mapping) and "form" in stem:
        stem = stem_rows(**stem)
    items = stem if isinstance(stem, (list, tuple)) else [stem]
    names = [f"stem_block{i}" for i in range(1, len(items) + 1)] if len(items) > 1 else ["stem"]
    rows = []
    for name, item in zip(names, items, strict=True):
        kind, own = ConvBlock, widened(item, width)
        if isinstance(own, Mapping) and "branches" in own:
            kind, own = InceptionBlock, changed_module(own)
        rows.append((name, staged.part(kind, name, own, shared)))
    return rows


def _stage_rows(block: Any, name: str, stage: int, number: int, own: dict[str, Any]) -> Rows:
    """The rows of a stage: its reduction, if it has one, and its modules."""
    where, rows = f"{name}, stage {stage}", []
    strides, width, reduction = (own.pop(key) for key in ("strides", "width", "reduction"))
    tables = scaled(own.pop("branches"), width)[:number]
    if reduction is not None:
        common = {"padding": own["padding"], "strides": strides, **staged.shared_by_all(own)}
        arguments = {**common, **widened(reduction, width)}
        rows.append((f"stage{stage}_reduction", _module(InceptionBlock, where, arguments)))
        strides = 1
    specs = [_module(block, where, {**own, "branches": table}) for table in tables]
    specs += [specs[-1]] * (number - len(specs))
    if strides not in (1, (1, 1)):
        specs[0] = _module(block, where, {**own, "branches": tables[0], "strides": strides})
    return rows + [(f"stage{stage}_block{j}", spec) for j, spec in enumerate(specs, 1)]


def _module(block: Any, where: str, arguments: Mapping[str, Any]) -> Any:
    """The Spec of a block of branches with changes to them; an error begins with `where`."""
    try:
        changed = changed_module(arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return staged.spec_of(block, where, changed)


def _auxiliary_rows(auxiliary: Any, blocks: Sequence[int], shared: Mapping[str, Any]) -> Rows:
    given = auxiliary.values() if isinstance(auxiliary, Mapping) else [None]
    if not all(isinstance(one, Mapping) for one in given):
        raise ValueError(
            "`auxiliary` must be a mapping of arguments of AuxiliaryClassifier for each output. "
            f"Received: auxiliary={auxiliary!r}"
        )
    rows = []
    for output, given in auxiliary.items():
        own = dict(given)
        stage = min(own.pop("stage", len(blocks)), len(blocks))
        number = min(own.pop("block", blocks[stage - 1]), blocks[stage - 1])
        head = staged.spec_of(AuxiliaryClassifier, output, {**shared, **own})
        rows.append((output, head, f"stage{stage}_block{number}"))
    return rows


def widened(arguments: Any, width: float) -> Any:
    """A mapping of a block's arguments with `width` times as many filters; a Spec as it is."""
    if not isinstance(arguments, Mapping):
        return arguments
    names = arguments.keys() & {"branches"} or arguments.keys() & {"filters"}
    return {**arguments, **{name: scaled(arguments[name], width) for name in names}}


def scaled(filters: Any, width: float) -> Any:
    """A table of branches with `width` times as many filters, at least 1 each."""
    if positive("width", width) == 1 or isinstance(filters, str):
        return filters
    if isinstance(filters, (list, tuple)):
        return tuple(scaled(inner, width) for inner in filters)
    return max(1, round(filters * width))


def stem_rows(form: str, filters: Any = None, **changes: Any) -> list[dict[str, Any]]:
    """The rows of a published stem; `changes` are for the three rows that halve the map."""
    rows = [dict(row) for row in STEMS[staged.one_of("form", form, STEMS)]]
    strided = [row for row in rows if "strides" in row]
    known: dict[str, Any] = dict.fromkeys(("form", "filters", "kernel_size", "strides", "padding"))
    for name, value in changes.items():
        staged.one_of("stem", name, known)
        changed = staged.by_stage(name, value, len(strided), "rows")
        for row, own in zip(strided, changed, strict=True):
            row.update({} if own is None else {name: own})
    for row in rows:
        row["filters"] = filters if "branches" in row else _rounded(row["filters"], filters)
    return rows


def changed_module(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a block of branches: its own, changed by `filters`, `pool` and `kept`.

    These three have the forms of `inception`; ValueError for others.
    """
    own = dict(arguments)
    filters, pool, kept = (own.pop(name, None) for name in ("filters", "pool", "kept"))
    table = own.get("branches", ())
    if filters is not None or pool is not None:
        factors = staged.by_stage("filters", filters, len(table), "branches")
        pairs = zip(table, factors, strict=True)
        own["branches"] = [_changed_branch(parts, factor, pool) for parts, factor in pairs]
    if kept is not None:
        known = range(1, len(table) + 1)
        if not isinstance(kept, (list, tuple)) or not kept or not all(n in known for n in kept):
            raise ValueError(
                f"`kept` must be numbers of branches, 1 to {len(table)}. Received: kept={kept!r}"
            )
        for name in ("branches", "kernel_size"):
            column = own.get(name)
            if isinstance(column, (list, tuple)) and len(column) == len(table):
                own[name] = [column[number - 1] for number in kept]
    return own


def _changed_branch(parts: Any, factor: Any, pool: str | None) -> list[Any]:
    *inner, last = parts if isinstance(parts, (list, tuple)) else (parts,)
    before, end = factor if isinstance(factor, (list, tuple)) else (factor, factor)
    pairs = [*((part, before) for part in inner), (last, end)]
    return [(pool or part) if isinstance(part, str) else _rounded(part, own) for part, own in pairs]


def _rounded(filters: int, factor: Any) -> int:
    """`factor` times as many filters as the nearest multiple of 8; 1 and None change nothing."""
    if factor is None or positive("filters", factor) == 1:
        return filters
    return 8 * max(1, round(filters * factor / 8))


class Position(NamedTuple):
    """The position of a part with weights, counted from 0.

    `step` is its position among the `steps` of its branch, a pool included; `side` is "a" or "b"
    in the pair of convolutions that ends a widened branch; `leaf` is "conv" or "bn".
    """

    row: str
    branch: int
    steps: int
    step: int
    side: str
    leaf: str

    @property
    def number(self) -> str:
        """`.step` if the branch has several steps, else nothing."""
        return f".{self.step}" if self.steps > 1 else ""


_SIDES = {"row_": "a", "column_": "b", "": ""}
_PART = re.compile(r"((\w+)/(?:main_)?branch(\d)_)(row_|column_|)(conv|norm|pooling)(\d?)")


def positions(paths: list[str]) -> Iterator[tuple[str, Position]]:
    """Yields path and position of each part with weights in a branch."""
    parts = [(found[0], *found.groups()) for path in paths if (found := _PART.fullmatch(path))]
    pools = {branch for _, branch, *_, kind, _ in parts if kind == "pooling"}
    ends = {branch for _, branch, _, _, side, *_ in parts if side}
    convolutions = Counter(b for _, b, _, _, side, kind, _ in parts if kind == "conv" and not side)
    for path, branch, row, index, side, kind, number in parts:
        if kind != "pooling":
            before, pooled = convolutions[branch], branch in pools
            step = before if side else int(number or 1) - 1 + pooled
            leaf = "conv" if kind == "conv" else "bn"
            steps = before + pooled + (branch in ends)
            yield path, Position(row, int(index) - 1, steps, step, _SIDES[side], leaf)


def plain(modules: Mapping[str, str]) -> dict[str, str]:
    """The names of the conv and norm of rows that are one convolution, from the rows' names."""
    return {
        f"{row}/{part}": f"{module}.{leaf}"
        for row, module in modules.items()
        for part, leaf in (("conv", "conv"), ("norm", "bn"))
    }
