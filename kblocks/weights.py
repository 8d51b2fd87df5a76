"""Published weights into a model of ours, and back: torch's names, torch's layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kblocks import catalog, cost, ops
from kblocks.block import Block

_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_IGNORED = "num_batches_tracked"


@dataclass(frozen=True)
class _Tensor:
    """A variable of the model, its published name, and the layouts on both sides."""

    name: str
    variable: Any
    from_torch: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


def load_torch_weights(model: keras.Model, source: Any, *, skip_head: bool = False) -> None:
    """Puts published weights into a model that `Architecture.model` made.

    Args:
        model: of an architecture whose weights torchvision or timm publishes.
        source: a mapping of torch's names to arrays.
        skip_head: whether the classifier keeps its fresh weights, for other classes.

    Raises:
        ValueError: if tensors are missing, left over or of another shape, with their names;
            the model is then as it was.
    """
    tensors = {n: np.asarray(a) for n, a in source.items() if not n.endswith(_IGNORED)}
    table = _table(model, set(tensors))
    head = {t.name for t in table if skip_head and t.variable.path.split("/")[0] == "head"}
    values, problems = [], []
    for tensor in table:
        if tensor.name in head:
            continue
        if tensor.name not in tensors:
            problems.append(f"missing {tensor.name}")
            continue
        value = tensor.from_torch(tensors[tensor.name])
        if tuple(value.shape) != tuple(tensor.variable.shape):
            problems.append(
                f"{tensor.name} is {tensors[tensor.name].shape}, which does not fit "
                f"{tensor.variable.path} of {tuple(tensor.variable.shape)}"
            )
        values.append((tensor.variable, value))
    known = {t.name for t in table}
    auxiliary = _auxiliary(model)
    problems += [
        f"left over {n}" for n in tensors if n not in known and not n.startswith(auxiliary)
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (
            f"; and {len(problems) - 5} more" if problems[5:] else ""
        )
        raise ValueError(f"`source` does not fit {model.name}: {shown}")
    for variable, value in values:
        variable.assign(value)


def to_torch_state_dict(model: keras.Model, source: str | None = None) -> dict[str, np.ndarray]:
    """The model's weights by the names and in the layouts of published ones."""
    return {
        tensor.name: tensor.to_torch(keras.ops.convert_to_numpy(tensor.variable))
        for tensor in _table(model, set(), source)
    }


def _auxiliary(model: keras.Model) -> tuple[str, ...]:
    """Published prefixes of auxiliary heads that the model leaves out."""
    return ("aux1.", "aux2.", "AuxLogits.")


def _table(model: keras.Model, names: set[str], source: str | None = None) -> list[_Tensor]:
    """The naming that fits `names` best, spelled out for the model's variables."""
    parts = list(_parts(model))
    paths = [path for path, _, _ in parts]
    best: list[_Tensor] = []
    score = -1
    for label, naming in catalog.namings().items():
        if source is not None and label != source:
            continue
        try:
            modules = naming(paths)
            table = [t for path, part, block in parts for t in _tensors(path, part, block, modules)]
        except (KeyError, ValueError):
            continue
        hits = sum(tensor.name in names for tensor in table)
        if hits > score:
            best, score = table, hits
    if not best:
        raise ValueError(f"No published weights are known for the parts of {model.name!r}")
    return best


def _parts(model: keras.Model) -> Iterator[tuple[str, Any, Block]]:
    for layer in model.layers:
        if isinstance(layer, Block):
            for part in layer.layers:
                yield f"{layer.name}/{part.name}", part, layer


def _tensors(path: str, part: Any, block: Block, modules: Mapping[str, str]) -> Iterator[_Tensor]:
    if not part.weights:
        return
    module = modules[path]
    for variable in part.variables:
        if variable.name not in ("kernel", "bias", *_NORM):
            continue
        if isinstance(part, keras.layers.BatchNormalization):
            yield _Tensor(f"{module}.{_NORM[variable.name]}", variable, _as_is, _as_is)
        elif variable.name == "bias":
            yield _Tensor(f"{module}.bias", variable, _as_is, _as_is)
        elif isinstance(part, keras.layers.Dense):
            yield _Tensor(f"{module}.weight", variable, *_dense_layouts(part, block))
        else:
            yield _Tensor(f"{module}.weight", variable, _conv_in, _conv_out)


def _flattened(path: str, block: Block) -> Any:
    """The (height, width, channels) that a Flatten right before a linear part flattens, or None."""
    channels_first = block.data_format == "channels_first"
    _, *sizes = block.get_build_config()["input_shape"]
    shape = (sizes[1], sizes[2], sizes[0]) if channels_first else tuple(sizes)
    plan = ops.Chain(block.spec.plan(shape[-1]))
    before = None
    for (found, _), op in zip(ops.parts(plan), plan, strict=False):
        if isinstance(op, ops.Merge):
            return None
        if found == path:
            return before
        before = shape if isinstance(op, ops.Flatten) else None
        shape = cost.walk(op, shape)
    return None


def _as_is(value: np.ndarray) -> np.ndarray:
    return value


def _conv_in(value: np.ndarray) -> np.ndarray:
    return value.transpose(2, 3, 1, 0)


def _conv_out(value: np.ndarray) -> np.ndarray:
    return value.transpose(3, 2, 0, 1)


def _dense_layouts(part: Any, block: Block) -> tuple[Any, Any]:
    """Between torch's (out, in) and Keras' (in, out); behind a Flatten the maps' order differs."""
    before = _flattened(part.name, block)
    if before is None:
        return (lambda v: v.reshape(v.shape[0], -1).T), (lambda v: v.T)
    height, width, channels = before

    def inward(value: np.ndarray) -> np.ndarray:
        maps = value.reshape(-1, channels, height, width)
        return maps.transpose(2, 3, 1, 0).reshape(height * width * channels, -1)

    def outward(value: np.ndarray) -> np.ndarray:
        maps = value.reshape(height, width, channels, -1)
        return maps.transpose(3, 2, 0, 1).reshape(-1, channels * height * width)

    return inward, outward
