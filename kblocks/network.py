"""`Architecture`: a network as data, from which come its cost, its Keras model and its JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras

from kblocks.block import Block
from kblocks.canonical import of_rows
from kblocks.cost import Cost
from kblocks.geometry import InputTooSmallError, check_input_shape, missing_pixels
from kblocks.heads import Features
from kblocks.published import WeightSet
from kblocks.stages import replaced, stage_of
from kblocks.weights import load_torch_weights

FORMAT = 1
INPUT = "input"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class Row(NamedTuple):
    """One layer of a network: its name, its Spec and the rows it reads.

    A string in place of the Spec is the name of an earlier row whose weights are used
    again; "input" in `inputs` is the network's input.
    """

    name: str
    spec: Any
    inputs: tuple[str, ...]


class Architecture:
    """A network as rows of named blocks, made without any Keras layer.

    Args:
        rows: in order, each a block's Spec; a list of Specs, which is a stage of several
            blocks; or a tuple `(name, spec)` or `(name, spec, inputs)`. Unnamed ones are
            called `stage1`, `stage2`, ... and their blocks `stage1_block1`, ... A row
            reads the row before it unless `inputs` names others.
        head: the Spec of the last row, named `head`, such as `kb.Classifier(10)`.
        outputs: names of outputs and the rows they come from; None is the last row, as
            `logits` where there is a head and `features` where there is none.
        auxiliary: the outputs that only `aux=True` shows.
        name: of the Keras model.

    `weights` are the published weight sets that fit: name, source, licence, top-1, preprocessing.

    In place of a Spec a block itself may be given; its Spec is taken.

    Raises:
        ValueError: if names are not unique or not known, with the row.

    Example:
        >>> net = kb.Architecture([kb.ConvBlock.Spec(32, pool="max")], head=kb.Classifier(10))
        >>> net.cost((32, 32, 3)).macs
        885056
    """

    def __init__(
        self,
        rows: Sequence[Any],
        head: Any = None,
        *,
        outputs: Mapping[str, str] | None = None,
        auxiliary: Sequence[str] = (),
        name: str = "network",
    ) -> None:
        made = list(_rows(rows))
        if head is not None:
            made.append(Row("head", _spec_of(head, "head"), (made[-1].name if made else INPUT,)))
        if not made:
            raise ValueError(f"`rows` must hold a block. Received: rows={rows!r}")
        if outputs is None:
            outputs = {"features" if head is None else "logits": made[-1].name}
        self.rows = tuple(made)
        self.outputs = dict(outputs)
        self.auxiliary = tuple(auxiliary)
        self.name = name
        self.weights: tuple[WeightSet, ...] = ()
        _refuse_bad_names(self)

    def cost(self, input_shape: Any, aux: bool = False) -> Cost:
        """The cost for an input of (height, width, channels), with no Keras object made.

        Args:
            input_shape: three known sizes.
            aux: whether auxiliary heads count.

        Raises:
            InputTooSmallError: (a ValueError) if a map would vanish, with the row and the
                smallest input that fits.
            ValueError: if blocks do not fit each other, with the row.
        """
        shown = self._shown(aux)
        costs = self._costs(input_shape, shown)
        shapes = {name: costs[row].output_shape for name, row in shown.items()}
        return _total(costs.values(), shapes if len(shapes) > 1 else next(iter(shapes.values())))

    def cost_if_alive(self, input_shape: Any) -> Cost | None:
        """`cost`, or None where a map would vanish: for a search, which needs no reason."""
        check_input_shape(input_shape)
        shown = self._shown(aux=False)
        try:
            costs = self._walk(input_shape, self.needed(shown.values()))
        except InputTooSmallError:
            return None
        return _total(costs.values(), None)

    def stages(self, input_shape: Any, aux: bool = False) -> list[tuple[str, Cost]]:
        """Name and cost of each stage: `stem`, `stage1`, ..., `head`."""
        stages: dict[str, list[Cost]] = {}
        for name, row_cost in self.costs(input_shape, aux).items():
            stages.setdefault(stage_of(name), []).append(row_cost)
        return [(name, _total(costs, costs[-1].output_shape)) for name, costs in stages.items()]

    def costs(self, input_shape: Any, aux: bool = False) -> dict[str, Cost]:
        """The cost of each row by its name; `cost` and `stages` are its sums."""
        return self._costs(input_shape, self._shown(aux))

    def replace(self, name: str, block: Any, input_shape: Any = None) -> Architecture:
        """A copy with another block in place of a row, or others in place of a stage.

        Args:
            name: of a row, such as `stage2_block1`, or of a stage, such as `stage2`.
            block: a block's Spec; for a stage also a list of Specs, one for each new block.
            input_shape: (height, width, channels) that the new network has to fit, where given.

        Raises:
            ValueError: if there is no such row or stage, a row is missed by another that reads it,
                or the new network does not fit the input.
        """
        rows, renamed = replaced(self.rows, name, block)
        outputs = {output: renamed.get(row, row) for output, row in self.outputs.items()}
        options: dict[str, Any] = {"auxiliary": self.auxiliary, "name": self.name}
        net = Architecture(rows, outputs=outputs, **options)
        if input_shape is not None:
            net.cost(input_shape, aux=True)
        return net

    def model(
        self,
        input_shape: Any,
        *,
        include_top: bool = True,
        pooling: Any = None,
        weights: Any = None,
        input_tensor: Any = None,
        classifier_activation: Any = None,
        aux: bool = False,
        remat: bool = False,
        name: str | None = None,
    ) -> keras.Model:
        """The network as a Keras model: one layer a block, ending in logits.

        Args:
            input_shape: (height, width, channels) whatever Keras' data format; height and
                width may be None where the head pools globally.
            include_top: whether the head is there; without it the model gives the last map.
            pooling: "avg", "max" or "concat" of that map, or None.
            weights: a file that `model.save_weights` wrote; the name of a published set (see
                `weights` of the architecture); any source that `kb.load_torch_weights` takes;
                or None for fresh weights.
            input_tensor: a Keras tensor to build on in place of a new input.
            classifier_activation: put on the logits, such as "softmax".
            aux: whether auxiliary heads are outputs too; then outputs are a dict by name.
            remat: whether training computes each block again in the backward pass in place of
                keeping its maps: less memory for more time. TensorFlow only; not saved.
            name: of the model; None is the architecture's.

        Raises:
            ValueError: if an argument is not of the form above or the network does not fit.
        """
        check_input_shape(input_shape, unknown=True)
        if pooling is not None and include_top:
            raise ValueError(
                f"`pooling` goes with include_top=False. Received: pooling={pooling!r}"
            )
        shown = self._shown(aux) if include_top else {"features": self._body()}
        if None not in input_shape:
            self._costs(input_shape, shown)  # refuses early what does not fit
        if input_tensor is None:
            input_tensor = keras.Input(_as_keras(tuple(input_shape)), name=INPUT)
        tensors = self._tensors(input_tensor, self.needed(shown.values()))
        outputs = {output: tensors[row] for output, row in shown.items()}
        if not include_top and pooling is not None:
            outputs = {"features": Features(pooling, name="pooling")(outputs["features"])}
        if include_top and classifier_activation is not None:
            outputs = {
                output: keras.layers.Activation(classifier_activation, name=f"{output}_activation")(
                    x
                )
                for output, x in outputs.items()
            }
        model = keras.Model(
            keras.utils.get_source_inputs(input_tensor)[0],
            outputs if len(outputs) > 1 else next(iter(outputs.values())),
            name=name or self.name,
        )
        for layer in model.layers if remat else ():
            if isinstance(layer, Block):
                layer.remat = True
        if weights is not None:
            self._load(model, weights)
        return model

    def _load(self, model: keras.Model, source: Any) -> None:
        if isinstance(source, (str, os.PathLike)):
            sets = {known.name: known.source for known in self.weights}
            if str(source).endswith((".weights.h5", ".keras")):
                model.load_weights(source)
                return
            if (
                source not in sets
                and not str(source).startswith("hf://")
                and not Path(source).exists()
            ):
                raise ValueError(
                    f"`weights` must be a file, a source or one of {list(sets)}. "
                    f"Received: weights={source!r}"
                )
            source = sets.get(str(source), source)
        load_torch_weights(model, source)

    def to_json(self, indent: int | None = None) -> str:
        """Text that `from_json` reads; arguments at their default are left out."""
        rows = []
        before = INPUT
        for row in self.rows:
            inputs = {} if row.inputs == (before,) else {"inputs": list(row.inputs)}
            rows.append({"name": row.name, **_block_to_json(row.spec), **inputs})
            before = row.name
        described = {"format": FORMAT, "name": self.name, "rows": rows, "outputs": self.outputs}
        if self.auxiliary:
            described["auxiliary"] = list(self.auxiliary)
        return json.dumps(described, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """The architecture that `to_json` wrote.

        Raises:
            ValueError: if the text is of another format or names a block that is not
                known here (import the module that defines it first).
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"`text` must be an architecture's JSON. Received: {error}") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else data
            raise ValueError(f'`text` must have "format": {FORMAT}. Received: format={found!r}')
        try:
            rows, before = [], INPUT
            for row in data["rows"]:
                inputs = tuple(row.get("inputs", (before,)))
                rows.append(Row(row["name"], _block_from_json(row), inputs))
                before = row["name"]
            options = {"outputs": data["outputs"], "auxiliary": data.get("auxiliary", ())}
            return cls(rows, **options, name=data["name"])
        except (KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"`text` is not an architecture's JSON: {error!r}") from error

    def canonical(self, input_shape: Any) -> Hashable:
        """Equal for networks that compute the same on inputs of (height, width, channels).

        Names do not count, nor what the sizes of maps leave without effect, such as a larger
        kernel on a map of one pixel: only the number of its weights and how they start differ.
        """
        check_input_shape(input_shape)
        needed = self.needed(self.outputs.values())
        rows = [row for row in self.rows if row.name in needed]
        return of_rows(rows, self.outputs, tuple(input_shape))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"<Architecture {self.name!r} of {len(self.rows)} rows>"

    def _key(self) -> Any:
        return self.rows, tuple(self.outputs.items()), self.auxiliary

    def _shown(self, aux: bool) -> dict[str, str]:
        return {k: row for k, row in self.outputs.items() if aux or k not in self.auxiliary}

    def _body(self) -> str:
        """The row that the head reads; the last row where there is no head."""
        last = next(iter(self._shown(aux=False).values()))
        if last != "head":
            return last
        return next(row.inputs[0] for row in self.rows if row.name == "head")

    def needed(self, names: Any) -> set[str]:
        """The names of the rows that these are made from, themselves among them."""
        needed = set(names)
        for row in reversed(self.rows):
            if row.name in needed:
                needed.update(row.inputs)
        return needed

    def _origins(self) -> dict[str, Row]:
        """For each row the one whose weights it uses: itself or an earlier one."""
        origins: dict[str, Row] = {}
        for row in self.rows:
            origins[row.name] = origins[row.spec] if isinstance(row.spec, str) else row
        return origins

    def _costs(self, input_shape: Any, shown: Mapping[str, str]) -> dict[str, Cost]:
        """The cost of each row that the `shown` outputs need."""
        check_input_shape(input_shape)
        needed = self.needed(shown.values())
        try:
            return self._walk(input_shape, needed)
        except InputTooSmallError as error:
            height, width, channels = input_shape
            missing = missing_pixels(
                lambda n: self._walk((height + n, width + n, channels), needed)
            )
            if math.isinf(missing):
                raise
            fits = (height + missing, width + missing, channels)
            told = f"an input of {fits} would fit"
            if height == width:
                told = f"the smallest input that fits is {fits}"
            raise InputTooSmallError(f"{error}; {told}", missing) from error

    def _walk(self, input_shape: Any, needed: set[str]) -> dict[str, Cost]:
        """The cost of each row in `needed`. Equal blocks on equal maps are looked at once."""
        origins = self._origins()
        params: dict[str, int] = {}
        shapes: dict[str, Any] = {INPUT: tuple(input_shape)}
        seen: dict[Any, Cost] = {}
        costs: dict[str, Cost] = {}
        for row in self.rows:
            if row.name not in needed:
                continue
            origin, spec = origins[row.name][:2]
            several = len(row.inputs) > 1
            source = [shapes[n] for n in row.inputs] if several else shapes[row.inputs[0]]
            key = (_price(spec), str(source) if several else source)
            if key not in seen:
                seen[key] = _located(row.name, spec, source)
            found = seen[key]
            if origin in params:
                if found.params != params[origin]:
                    raise ValueError(
                        f"{row.name} cannot share the weights of {origin}: on an input of {source} "
                        f"it has {found.params} parameters, not {params[origin]}"
                    )
                found = dataclasses.replace(found, params=0, trainable_params=0)
            else:
                params[origin] = found.params
            costs[row.name] = found
            shapes[row.name] = found.output_shape
        return costs

    def _tensors(self, start: Any, needed: set[str]) -> dict[str, Any]:
        made: dict[str, Block] = {}
        origins = self._origins()
        tensors = {INPUT: start}
        for row in self.rows:
            if row.name not in needed:
                continue
            origin, spec = origins[row.name][:2]
            if origin not in made:
                made[origin] = spec.layer(name=origin)
            inputs = [tensors[name] for name in row.inputs]
            tensors[row.name] = made[origin](inputs if len(inputs) > 1 else inputs[0])
        return tensors


def _price(spec: Any) -> Any:
    """Equal for Specs of one cost: for one and the same, and those of a stage's rising rates."""
    values = spec.__dict__
    if not values.get("stochastic_depth"):
        return id(spec)
    return type(spec), *(id(value) for name, value in values.items() if name != "stochastic_depth")


def _located(name: str, spec: Any, shape: Any) -> Cost:
    try:
        return spec.cost(shape)
    except InputTooSmallError as error:
        raise InputTooSmallError(f"{name}: {error}", error.missing) from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _total(costs: Any, output_shape: Any) -> Cost:
    params = trainable = macs = activations = 0
    for one in costs:
        params += one.params
        trainable += one.trainable_params
        macs += one.macs
        activations += one.activations
    return Cost(output_shape, params, trainable, macs, activations)


def _rows(rows: Sequence[Any]) -> Iterator[Row]:
    """Rows from all the forms that `Architecture` takes."""
    before = INPUT
    for index, item in enumerate(rows, start=1):
        for row in _named(item, index):
            name, spec, inputs = row if len(row) == 3 else (*row, (before,))
            inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
            yield Row(name, spec if isinstance(spec, str) else _spec_of(spec, name), inputs)
            before = name


def _named(item: Any, index: int) -> list[Any]:
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


def _spec_of(value: Any, place: str) -> Any:
    spec = getattr(value, "spec", value)
    if not isinstance(spec, Block.Spec) or isinstance(value, type):
        raise ValueError(f"{place} must be a block's Spec or a block. Received: {value!r}")
    return spec


def _refuse_bad_names(net: Architecture) -> None:
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
    if len(net.auxiliary) == len(net.outputs):
        raise ValueError(f"One output must not be auxiliary. Received: {net.auxiliary}")


def _as_keras(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    if keras.config.image_data_format() == "channels_first":
        return (shape[2], shape[0], shape[1])
    return shape


def _block_to_json(spec: Any) -> dict[str, Any]:
    if isinstance(spec, str):
        return {"weights_of": spec}
    name = keras.saving.get_registered_name(spec._block)
    return {"block": name.removeprefix("kblocks>"), "arguments": spec.changes()}


def _block_from_json(row: Mapping[str, Any]) -> Any:
    if "weights_of" in row:
        return row["weights_of"]
    name = row["block"]
    block = keras.saving.get_registered_object(name if ">" in name else f"kblocks>{name}")
    if not (isinstance(block, type) and issubclass(block, Block)):
        raise ValueError(
            f"{row['name']}: no block is known as {name!r}; import the module that defines it first"
        )
    return block.Spec(**row["arguments"])
