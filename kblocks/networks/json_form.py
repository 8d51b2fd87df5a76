"""An architecture as JSON, and back."""

import json
import reprlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import keras

from kblocks.blocks.block import Block
from kblocks.networks.rows import INPUT, Row

if TYPE_CHECKING:
    from kblocks.networks.architecture import Architecture

FORMAT = 1
T = TypeVar("T")


def to_json(net: "Architecture", indent: int | None) -> str:
    """The text of `Architecture.to_json`."""
    rows: list[dict[str, Any]] = []
    before = INPUT
    for row in net.rows:
        inputs = {} if row.inputs == (before,) else {"inputs": list(row.inputs)}
        rows.append({"name": row.name, **_block_to_json(row.spec), **inputs})
        before = row.name
    data = {"format": FORMAT, "name": net.name, "rows": rows, "outputs": net.outputs}
    if net.auxiliary:
        data["auxiliary"] = list(net.auxiliary)
    if net.targets:
        data["targets"] = net.targets
    return json.dumps(data, indent=indent)


def from_json(text: str, make: Callable[..., T]) -> T:
    """What `make` returns for the arguments of the `Architecture` that `to_json` wrote."""
    try:
        data = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"`text` must be an architecture's JSON. Received: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = reprlib.repr(data.get("format") if isinstance(data, dict) else data)
        raise ValueError(f'`text` must have "format": {FORMAT}. Received: format={found}')
    try:
        rows, before = [], INPUT
        for row in data["rows"]:
            inputs = tuple(row.get("inputs", (before,)))
            rows.append(Row(row["name"], _block_from_json(row), inputs))
            before = row["name"]
        optional = {key: data[key] for key in ("auxiliary", "targets") if key in data}
        return make(rows, outputs=dict(data["outputs"]), name=data["name"], **optional)
    except ValueError:
        raise
    except Exception as error:  # JSON of another kind can raise anything
        raise ValueError(f"`text` is not an architecture's JSON: {error!r}") from error


def _block_to_json(spec: Any) -> dict[str, Any]:
    if isinstance(spec, str):
        return {"weights_of": spec}
    name = keras.saving.get_registered_name(spec._block)
    return {"block": name.removeprefix("kblocks>"), "arguments": spec.changes()}


def _block_from_json(row: Mapping[str, Any]) -> Any:
    """The inverse of `_block_to_json`: a Spec, or the name of the row whose weights are shared."""
    if "weights_of" in row:
        return row["weights_of"]
    name = row["block"]
    block = keras.saving.get_registered_object(name if ">" in name else f"kblocks>{name}")
    if not (isinstance(block, type) and issubclass(block, Block)):
        raise ValueError(
            f"{row['name']}: no block is known as {name!r}; import the module that defines it first"
        )
    return block.Spec(**row["arguments"])
