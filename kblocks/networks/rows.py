"""The rows of an architecture: parsed, checked and walked."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from kblocks.blocks.block import Block

INPUT = "input"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class Row(NamedTuple):
    """One layer of a network: its name, its Spec and the names of the rows it reads.

    A string in place of the Spec is the name of an earlier row whose weights this row shares;
    "input" in `inputs` is the network's input.
    """

    name: str
    spec: Any
    inputs: tuple[str, ...]


def rows_of(rows: Sequence[Any]) -> Iterator[Row]:
    """Yields a `Row` for each item and block, in all forms that `Architecture` takes."""
    before = INPUT
    for index, item in enumerate(rows, start=1):
        for row in _tuples(item, index):
            name, spec, inputs = row if len(row) == 3 else (*row, (before,))
            inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
            yield Row(name, spec if isinstance(spec, str) else spec_of(spec, name), inputs)
            before = name


def _tuples(item: Any, index: int) -> list[Any]:
    """The blocks of an item as `(name, spec)` or `(name, spec, inputs)`."""
    if isinstance(item, list):
        return [(f"stage{index}_block{number}", spec) for number, spec in enumerate(item, 1)]
    if isinstance(item, tuple):
        if len(item) not in (2, 3) or not isinstance(item[0], str):
            raise ValueError(
                "A row's tuple must be (name, spec) or (name, spec, inputs). "
                f"Received: rows[{index - 1}]={item!r}"
            )
        return [item]
    return [(f"stage{index}", item)]


def spec_of(value: Any, row: str) -> Any:
    """The Spec of the row called `row`, from a Spec or a block."""
    spec = getattr(value, "spec", value)
    if not isinstance(spec, Block.Spec) or isinstance(value, type):
        hint = (
            " In place of a layer of Keras write such as kb.ConvBlock.Spec(32, kernel_size=3) or a "
            "block of your own (see kb.Block); or call the layer before or behind the network's "
            "model."
        )
        hint = hint if isinstance(value, keras.Layer) else ""
        raise ValueError(f"{row} must be a block's Spec or a block.{hint} Received: {value!r}")
    return spec


def refuse_bad_names(net: Any) -> None:
    """Raises ValueError if a name in an architecture is no word, is used twice or is unknown."""
    if not isinstance(net.name, str) or not net.name:
        raise ValueError(f"`name` must be a word. Received: name={net.name!r}")
    known = {INPUT}
    for row in net.rows:
        if not isinstance(row.name, str) or not _NAME.fullmatch(row.name) or row.name in known:
            raise ValueError(
                "A row's name must be a word of letters, digits and _, used once, and not "
                f"'input'. Received: {row.name!r}"
            )
        if isinstance(row.spec, str) and row.spec not in known - {INPUT}:
            raise ValueError(f"{row.name} must name an earlier row. Received: {row.spec!r}")
        for name in row.inputs:
            if name not in known:
                raise ValueError(f"{row.name} must name an earlier row. Received: {name!r}")
        known.add(row.name)
    for output, name in net.outputs.items():
        if name not in known - {INPUT}:
            raise ValueError(f"`outputs` must name rows. Received: outputs[{output!r}]={name!r}")
    for output in net.auxiliary:
        if output not in net.outputs:
            raise ValueError(f"`auxiliary` must name outputs. Received: {output!r}")
    for output, target in net.targets.items():
        if output not in net.outputs or not isinstance(target, str):
            raise ValueError(
                f"`targets` must be words, for outputs. Received: targets[{output!r}]={target!r}"
            )
    if len(net.auxiliary) == len(net.outputs):
        raise ValueError(f"One output must not be auxiliary. Received: {net.auxiliary}")


def check_prefix(prefix: Any) -> None:
    """Raises ValueError unless the prefix is empty or a word."""
    if not isinstance(prefix, str) or (prefix and not prefix.isidentifier()):
        raise ValueError(f"`prefix` must be a word, such as 'rgb_'. Received: prefix={prefix!r}")


def origins_of(rows: Sequence[Row]) -> dict[str, Row]:
    """For each row's name the row whose weights it uses: itself or an earlier one."""
    origins: dict[str, Row] = {}
    for row in rows:
        origins[row.name] = origins[row.spec] if isinstance(row.spec, str) else row
    return origins


def walk_rows(
    rows: Sequence[Row], values: Mapping[str, Any], needed: Collection[str] | None = None
) -> Iterator[tuple[Row, str, Any, Any]]:
    """Yields each needed row, the row whose weights it uses (by name), its Spec and its inputs.

    These are a list if several, from `values`, where the caller stores each row's value in time.
    """
    origins = origins_of(rows)
    for row in rows:
        if needed is None or row.name in needed:
            origin, spec = origins[row.name][:2]
            inputs = [values.get(name) for name in row.inputs]
            yield row, origin, spec, inputs if len(inputs) > 1 else inputs[0]


def is_of_head(name: str) -> bool:
    """Whether a row of this name belongs to a head."""
    return name == "head" or name.startswith("head_")
