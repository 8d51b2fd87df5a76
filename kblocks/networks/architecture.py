"""`Architecture`: a network as data, with its cost, its Keras model and its JSON."""

import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras

from kblocks.blocks.block import Block
from kblocks.blocks.spec import channels_of
from kblocks.blocks.stages import replaced, stage_of
from kblocks.heads import Features, Tasks
from kblocks.heads.attaching import Attached, Place, attached, tasks_of_rows
from kblocks.heads.shared_targets import model_of
from kblocks.heads.task import task_of
from kblocks.networks import building, json_form
from kblocks.networks.canonical import of_rows
from kblocks.networks.costs import by_stage, costs_of, shown_total, walked
from kblocks.networks.published import WeightSet
from kblocks.networks.pyramid import Level, chosen_levels, levels_of
from kblocks.networks.rows import (
    INPUT,
    Row,
    check_prefix,
    is_of_head,
    origins_of,
    refuse_bad_names,
    rows_of,
    walk_rows,
)
from kblocks.networks.torch_weights import load_weights
from kblocks.plans.cost import Cost, total
from kblocks.plans.geometry import InputTooSmallError, check_input_shape
from kblocks.plans.receptive_field import receptive_fields

# Functions of kblocks that users look for among the methods, and what they take after the model.
_OF_MODELS = {
    **dict.fromkeys(("fuse", "pyramid_outputs", "convolutionize"), ""),
    **{"freeze": ', "stage2"', "extract": ', "stage2"', "replace_head": ", kb.Classifier(5)"},
}


class Architecture:
    """A network as rows of named blocks, without any Keras layer.

    Args:
        rows: a sequence whose items are a block's Spec; a list of Specs, which is a stage of
            several blocks; or a tuple `(name, spec)` or `(name, spec, inputs)`. Unnamed items are
            called `stage1`, `stage2`, ... by their position, and the blocks of a list
            `stage1_block1`, ... A row reads the row before it unless `inputs` names others.
        head: the end of the network: a block's Spec, such as `kb.Classifier(10)`, which becomes
            the row `head` and the output `logits`; 10 for that one; a head of several rows, such as
            `kb.Segmenter(21)`; or a dict of heads by output, such as
            `{"class": kb.Classifier(10), "points": kb.Keypoints(4)}`. It reads the last row that
            is not an auxiliary output.
        outputs: the row of each output, by the output's name. None is the outputs of the head (or
            the last row as `features` if there is no head), and the rows that `auxiliary` names.
        auxiliary: names of the outputs that exist only with `aux=True`.
        targets: the name of the target of each output for which it is not the output's own name.
            By default an auxiliary output shares the target of a main output.
        name: name of the Keras model.

    A block may stand in place of its Spec. The attribute `weights` holds the published weight
    sets that fit (see `kb.WeightSet`).

    Raises:
        ValueError: if a name is not a word, is used twice or is unknown; the message names the
            row.

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
        targets: Mapping[str, str] | None = None,
        name: str = "network",
    ) -> None:
        parsed = list(rows_of(rows))
        aside = {(outputs or {}).get(output, output) for output in auxiliary}
        body = [row.name for row in parsed if row.name not in aside]
        end = Attached([], {"features": body[-1]} if body else {})
        if head is not None:
            end = attached(head, Place(body[-1] if body else INPUT, levels_of(parsed, body)))
            parsed += [Row(*row) for row in end.rows]
        if not parsed:
            raise ValueError(f"`rows` must hold a block. Received: rows={rows!r}")
        if outputs is None:
            known = {row.name for row in parsed}
            outputs = {**end.outputs, **{name: name for name in auxiliary if name in known}}
        self.rows = tuple(parsed)
        self.outputs = dict(outputs)
        self.auxiliary = tuple(auxiliary)
        self.targets = {**end.targets, **(targets or {})}
        self.name = name
        self.weights: tuple[WeightSet, ...] = ()
        refuse_bad_names(self)

    @property
    def head(self) -> Tasks:
        """The losses, metrics and targets of all but the auxiliary outputs.

        Empty if any of these outputs is not a head of kblocks.

        Example:
            >>> model.compile("adam", **net.head.training())
        """
        return tasks_of_rows(self._specs(), Attached([], self._shown(aux=False), self.targets))

    def cost(self, input_shape: Any, aux: bool = False) -> Cost:
        """The cost for an input of (height, width, channels), without making any Keras object.

        Args:
            input_shape: (height, width, channels), all known.
            aux: whether to count auxiliary heads.

        Raises:
            InputTooSmallError: (a ValueError) if a map would vanish; the message names the row and
                the smallest input that fits.
            ValueError: if blocks do not fit each other; the message names the row.
        """
        shown = self._shown(aux)
        return shown_total(self._costs(input_shape, shown), shown)

    def cost_if_alive(self, input_shape: Any) -> Cost | None:
        """`cost`, or None if a map would vanish; does not look for the smallest input that fits."""
        check_input_shape(input_shape)
        shown = self._shown(aux=False)
        try:
            costs = walked(self.rows, self.needed(shown.values()), input_shape)
        except InputTooSmallError:
            return None
        return shown_total(costs, shown)

    def stages(self, input_shape: Any, aux: bool = False) -> list[tuple[str, Cost]]:
        """The name and cost of each stage: `stem`, `stage1`, ..., `head`.

        `cost.receptive_field` is the (height, width) in pixels of the input that one pixel of the
        stage's output depends on.
        """
        stages = []
        for name, costs in by_stage(self.costs(input_shape, aux)).items():
            last = costs[-1]
            whole = total(costs, last.output_shape)
            stages.append((name, replace(whole, receptive_field=last.receptive_field)))
        return stages

    def costs(self, input_shape: Any, aux: bool = False) -> dict[str, Cost]:
        """The cost of each row by name; `cost` and `stages` are sums of these."""
        shown = self._shown(aux)
        costs = self._costs(input_shape, shown)
        shapes = {INPUT: input_shape, **{name: cost.output_shape for name, cost in costs.items()}}
        plans = (
            (row.name, spec.plan(channels_of(source)), row.inputs)
            for row, _, spec, source in walk_rows(self.rows, shapes, costs)
        )
        fields = receptive_fields(plans, INPUT)
        return {name: replace(c, receptive_field=fields.get(name)) for name, c in costs.items()}

    def __getattr__(self, name: str) -> Any:
        """Refuses what only a Keras model has, such as `fit`, with the line that makes one."""
        hint = ""
        if name in _OF_MODELS:
            hint = f": kb.{name}(net.model((height, width, channels)){_OF_MODELS[name]})"
        if not name.startswith("_") and hasattr(keras.Model, name):
            hint = f". A Keras model has it: net.model((height, width, channels)).{name}"
        text = f"an Architecture has no attribute {name!r}{hint}"
        raise AttributeError(text, name=name, obj=self)

    def __call__(self, *inputs: Any) -> Any:
        """Refuses to be called: a Keras model computes."""
        raise TypeError(
            "an Architecture computes nothing: net.model((height, width, channels)) is a Keras "
            "model that does"
        )

    def replace(self, name: str, block: Any, input_shape: Any = None) -> "Architecture":
        """A copy with another block in place of a row, or other blocks in place of a stage.

        Args:
            name: name of a row, such as `stage2_block1`, or of a stage, such as `stage2`.
            block: a block's Spec; for a stage also a list of Specs, one for each new block.
            input_shape: (height, width, channels) that the new network must fit (auxiliary heads
                need not); None checks nothing.

        Raises:
            ValueError: if there is no such row or stage, another row reads a removed one, or the
                new network does not fit the input.
        """
        rows, renamed = replaced(self.rows, name, block)
        outputs = {output: renamed.get(row, row) for output, row in self.outputs.items()}
        options: dict[str, Any] = {"auxiliary": self.auxiliary, "targets": self.targets}
        net = Architecture(rows, outputs=outputs, name=self.name, **options)
        if input_shape is not None:
            net.cost(input_shape)
        return net

    def model(
        self,
        input_shape: Any,
        *,
        include_top: bool = True,
        pooling: Any = None,
        weights: Any = None,
        skip_head: bool = False,
        input_tensor: Any = None,
        classifier_activation: Any = None,
        dtype: Any = None,
        data_format: str | None = None,
        aux: bool = False,
        remat: bool = False,
        name: str | None = None,
        prefix: str = "",
    ) -> keras.Model:
        """The network as a Keras model with one layer a block.

        Args:
            input_shape: (height, width, channels) in any of Keras' data formats; height and
                width may be None if the head pools globally.
            include_top: whether to include the head; without it the model returns the last map.
            pooling: global pooling of that map with `include_top=False`: "avg", "max", "concat"
                or None.
            weights: a file from `model.save_weights` or `model.save`; the name of a published
                set (see the attribute `weights`), or "imagenet" for the first of them; any source
                of `kb.load_torch_weights`; or None for fresh weights. If the classifier has other
                classes than a published set, it keeps fresh weights, with a warning.
            skip_head: whether the head keeps its fresh weights, for other classes.
            input_tensor: a Keras tensor to build on in place of a new input.
            classifier_activation: activation after the logits, such as "softmax", or None.
            dtype: dtype policy of all layers, such as "mixed_bfloat16"; None is Keras' setting.
            data_format: "channels_first" or "channels_last", in which the model then takes its
                images; None is Keras' setting, which heads with maps need for their losses.
            aux: whether auxiliary heads are outputs too; the model then returns a dict by name.
            remat: whether to recompute each block in the backward pass instead of keeping its
                maps: less memory, more time. TensorFlow only; not saved.
            name: name of the model; None is the architecture's.
            prefix: text before the names of all layers, such as "rgb_", so that several networks
                fit in one model; stages are then called "rgb_stage1".

        Raises:
            ValueError: if an argument is not as described above or the network does not fit the
                input.
        """
        if pooling is not None and include_top:
            raise ValueError(
                f"`pooling` goes with include_top=False. Received: pooling={pooling!r}"
            )
        if skip_head and weights is None:
            raise ValueError("`skip_head` goes with weights. Received: skip_head=True")
        shown = self._shown(aux) if include_top else {"features": self._body()}
        shared = building.layer_arguments(dtype, data_format)
        start, outputs = self._tensors(input_shape, shown, input_tensor, prefix, shared)
        tasks = {name: task_of(self._specs()[row]) for name, row in self.outputs.items()}
        building.refuse_other_format(outputs, tasks, shared.get("data_format"))
        if not include_top and pooling is not None:
            pooled = Features(pooling, name=f"{prefix}pooling", **shared)
            outputs = {"features": pooled(outputs["features"])}
        if include_top and classifier_activation is not None:
            how = classifier_activation, prefix, shared.get("dtype")
            outputs = building.activated(outputs, tasks, *how)
        hidden = self.auxiliary if aux and include_top else ()
        losses = building.auxiliary_losses(hidden, tasks, self.targets)
        model = model_of(start, outputs, self.targets, losses, name or self.name)
        for layer in model.layers if remat else ():
            if isinstance(layer, Block):
                layer.remat = True
        if weights is not None:
            load_weights(model, weights, self.weights, prefix, skip_head)
        return model

    def pyramid(self, input_shape: Any, levels: Any = None) -> list[Level]:
        """The maps that `features` would return, without making any Keras object.

        Args:
            input_shape: (height, width, channels).
            levels: a stride, the name of a row or stage, or a sequence of these; a stride or stage
                means its last row. None is all of the strides 4, 8, 16 and 32 that exist.

        Returns:
            For each level the row's name, its stride and its shape, (height, width, channels).

        Raises:
            ValueError: if a level does not exist; the message lists those that do.
        """
        check_input_shape(input_shape)
        return list(self._levels(input_shape, levels)[0].values())

    def features(
        self,
        input_shape: Any,
        levels: Any = None,
        *,
        weights: Any = None,
        input_tensor: Any = None,
        dtype: Any = None,
        data_format: str | None = None,
        name: str | None = None,
        prefix: str = "",
    ) -> keras.Model:
        """The feature pyramid as a Keras model, for a head of your own.

        Args:
            input_shape, weights, input_tensor, dtype, data_format, name, prefix: as in `model`.
            levels: as in `pyramid`.

        Returns:
            A model that returns a dict of maps: under `stride4`, ... for strides, and under the
            given names for rows and stages. With `levels` None a warning lists the strides of 4,
            8, 16 and 32 that do not exist.

        Raises:
            ValueError: if a level does not exist (the message lists those that do), or the input
                does not fit.
        """
        check_input_shape(input_shape, unknown=True)
        found, missing = self._levels(input_shape, levels)
        if missing:
            lacking = ", ".join(map(str, missing))
            warnings.warn(f"{self.name} has no map at stride {lacking}", stacklevel=2)
        rows = {key: level.row for key, level in found.items()}
        shared = building.layer_arguments(dtype, data_format)
        start, outputs = self._tensors(input_shape, rows, input_tensor, prefix, shared)
        model = keras.Model(start, outputs, name=name or f"{self.name}_features")
        if weights is not None:
            load_weights(model, weights, self.weights, prefix)
        return model

    def to_json(self, indent: int | None = None) -> str:
        """The architecture as JSON for `from_json`; arguments with default values are left out."""
        return json_form.to_json(self, indent)

    @classmethod
    def from_json(cls, text: str) -> "Architecture":
        """The architecture that `to_json` wrote.

        Raises:
            ValueError: if the text is not an architecture's JSON, has another format number, or
                names an unknown block (import the module that defines the block first).
        """
        return json_form.from_json(text, cls)

    def canonical(self, input_shape: Any, aux: bool = False) -> Hashable:
        """A key that is equal for networks that compute the same on inputs of `input_shape`.

        It ignores names, and arguments without effect at the given size, such as a larger kernel
        on a map of one pixel; such networks differ only in the number of weights and
        their initial values.

        Args:
            input_shape: (height, width, channels).
            aux: whether to include auxiliary heads.

        Raises:
            InputTooSmallError, ValueError: as `cost` does.
        """
        check_input_shape(input_shape)
        shown = self._shown(aux)
        try:
            return of_rows(self.rows, self.needed(shown.values()), shown, tuple(input_shape))
        except ValueError:
            self._costs(input_shape, shown)  # raises an error that names the row
            raise

    _repr_svg_: Any  # the figure that notebooks show, from `drawing/figures.py`

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        stages = Counter(stage_of(row.name) for row in self.rows)
        listed = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in stages.items())
        return f"<Architecture {self.name!r} of {len(self.rows)} rows: {listed}>"

    def _key(self) -> Any:
        targets = tuple(sorted(self.targets.items()))
        return self.rows, tuple(self.outputs.items()), self.auxiliary, targets

    def _shown(self, aux: bool) -> dict[str, str]:
        return {k: row for k, row in self.outputs.items() if aux or k not in self.auxiliary}

    def _specs(self) -> dict[str, Any]:
        """The Spec of each row by name; of a row that shares weights, the other row's."""
        return {name: row.spec for name, row in origins_of(self.rows).items()}

    def _body(self) -> str:
        """The name of the row that the head reads, or of the last row if there is no head."""
        inputs = {row.name: row.inputs for row in self.rows}
        last = next(iter(self._shown(aux=False).values()))
        if not is_of_head(last):
            return last
        if last == "head" and len(inputs[last]) == 1 and not is_of_head(inputs[last][0]):
            return inputs[last][0]
        aside = {self.outputs[output] for output in self.auxiliary}
        first = next(i for i, name in enumerate(inputs) if is_of_head(name))
        before = [name for name in list(inputs)[:first] if name not in aside]
        return before[-1] if before else INPUT

    def needed(self, names: Iterable[str]) -> set[str]:
        """The names of these rows and of all rows that they depend on."""
        needed = set(names)
        for row in reversed(self.rows):
            if row.name in needed:
                needed.update(row.inputs)
        return needed

    def _costs(self, input_shape: Any, shown: Mapping[str, str]) -> dict[str, Cost]:
        """The cost of each row that the outputs `shown` need."""
        check_input_shape(input_shape)
        return costs_of(self.rows, self.needed(shown.values()), input_shape)

    def _levels(self, input_shape: Any, levels: Any) -> tuple[dict[str, Level], list[int]]:
        """The chosen levels, and the strides of `pyramid`'s default that do not exist."""
        body = self._body()
        if None not in input_shape:
            self._costs(input_shape, {"features": body})  # raises if the input does not fit
        return chosen_levels(self.rows, self.needed([body]), input_shape, levels)

    def _tensors(
        self,
        input_shape: Any,
        shown: Mapping[str, str],
        input_tensor: Any,
        prefix: str,
        shared: Mapping[str, Any],
    ) -> tuple[Any, dict[str, Any]]:
        """The input and the outputs `shown` as Keras tensors of new layers."""
        check_input_shape(input_shape, unknown=True)
        check_prefix(prefix)
        if None not in input_shape:
            self._costs(input_shape, shown)  # raises early if the input does not fit
        if input_tensor is None:
            input_tensor = building.input_of(input_shape, prefix, shared)
        needed = self.needed(shown.values())
        tensors = building.tensors_of(self.rows, needed, {INPUT: input_tensor}, prefix, shared)
        start = keras.utils.get_source_inputs(input_tensor)[0]
        return start, {output: tensors[row] for output, row in shown.items()}
