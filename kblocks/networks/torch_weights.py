"""Converts weights between kblocks and PyTorch: names of tensors and their layouts."""

import contextlib
import importlib
import importlib.util
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kblocks.blocks.block import Block
from kblocks.common.keras_graph import refuse_altered
from kblocks.heads import Classifier
from kblocks.networks.published import WeightSet
from kblocks.networks.rows import is_of_head
from kblocks.plans import cost, ops

_NORM = {"gamma": "weight", "beta": "bias"}
_NORM |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
_IGNORED = "num_batches_tracked"
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_HEADS = ("fc.", "_fc.", "classifier.", "head.", "last_linear.", "classif.", "pre_logits.")

_HUB_FILE = "model.safetensors"  # the file of a repository on the Hugging Face hub
ADDRESSES = ("hf://", "package://")  # prefixes of sources that are not paths
Names = Callable[[list[str]], dict[str, str]]
_NAMINGS: dict[str, tuple[Names, frozenset[str]]] = {}


def naming(source: str, as_convolutions: Sequence[str] = ()) -> Callable[[Names], Names]:
    """Registers a function that names the parts of a family as published weights do.

    The function gets the paths of all parts of a model in order, such as
    "stage1_block1/main_conv1", and returns the published module of each part with weights. For
    a model of another family it may raise LookupError or ValueError, or return wrong names.
    Modules in `as_convolutions` are linear in kblocks and convolutions in the published model.
    """

    def register(function: Names) -> Names:
        _NAMINGS[source] = function, frozenset(as_convolutions)
        return function

    return register


BLOCK = r"stage(?P<stage>\d+)_block(?P<block>\d+)/"  # the path of a block in `by_patterns`


def by_patterns(paths: list[str], names: Mapping[str, str]) -> dict[str, str]:
    """The published name of each path: that of the first pattern that fits the whole path.

    In a name, {0}, {1}, ... are the pattern's groups; named groups are numbers, counted from 0.
    """
    found = {}
    for path in paths:
        for pattern, name in names.items():
            if match := re.fullmatch(pattern, path):
                numbers = {key: int(number) - 1 for key, number in match.groupdict().items()}
                found[path] = name.format(*match.groups(), **numbers)
                break
    return found


@dataclass(frozen=True)
class _Tensor:
    """A variable of the model, and its published name and shape."""

    name: str
    variable: Any
    # (height, width, input channels) of a convolution's kernel, also of the one that a linear layer
    # after a Flatten is equal to.
    kernel: tuple[int, int, int] | None = None
    is_flat: bool = False  # whether the published model has a linear layer

    def from_torch(self, given: np.ndarray) -> np.ndarray:
        """The array in Keras' layout; the ValueError says why it does not fit."""
        if given.dtype.kind not in "biuf" and not given.dtype.name.startswith(("bfloat", "float8")):
            raise ValueError(f"holds no real numbers but {given.dtype}")
        shape = published = tuple(self.variable.shape)
        if self.kernel is not None:
            height, width, channels = self.kernel
            published = shape[-1], channels, height, width
        linear = shape[::-1] if self.kernel and len(shape) == 2 else published
        if given.shape not in (published, linear):
            raise ValueError(f"is {given.shape}, which does not fit {self.variable.path}, {shape}")
        if self.kernel is None:
            return given
        return given.reshape(published).transpose(2, 3, 1, 0).reshape(shape)

    def to_torch(self) -> np.ndarray:
        """The variable's array in PyTorch's layout."""
        value = np.asarray(self.variable)
        if self.kernel is None:
            return value
        maps = value.reshape(*self.kernel, -1).transpose(3, 2, 0, 1)
        return maps.reshape(len(maps), -1) if self.is_flat else maps


def load_torch_weights(
    model: keras.Model, source: Any, *, skip_head: bool = False, prefix: str = ""
) -> None:
    """Loads published PyTorch weights into a model from `Architecture.model`.

    Args:
        model: a model of an architecture whose weights torchvision or timm publishes; the tensors
            may have either's names.
        source: a mapping of PyTorch's names to arrays; a `.safetensors` file; a `.pth` file (needs
            torch); "hf://owner/repo" or "hf://owner/repo/file" on the Hugging Face hub; or
            "package://name/file" in an installed Python package.
        skip_head: whether the classifier keeps its fresh weights, for other classes. Not needed
            for a model without a head or with another kind of head.
        prefix: the `prefix` given to `Architecture.model`; layers without it are not changed.

    Tensors of auxiliary heads that the model does not have are ignored.

    Raises:
        ValueError: if tensors are missing, left over, of another shape or not real numbers; the
            message names them, and the model is unchanged.
        ImportError: if the source needs a package that is not installed; the message names it.
        OSError: if the download fails.
    """
    tensors = {str(n): a for n, a in opened(source).items() if not str(n).endswith(_IGNORED)}
    table = _table(model, set(tensors), prefix=prefix)
    own = _variables_of_classifiers(model, prefix)
    kept = own if skip_head else set()
    known = {t.name for t in table}
    passed = _AUXILIARY + (() if own else _HEADS)
    problems = [f"left over {n}" for n in tensors if n not in known and not n.startswith(passed)]
    values = []
    for tensor in table:
        if id(tensor.variable) in kept:
            continue
        if tensor.name not in tensors:
            problems.append(f"missing {tensor.name}")
            continue
        try:
            values.append((tensor.variable, tensor.from_torch(_array(tensors[tensor.name]))))
        except ValueError as error:
            problems.append(f"{tensor.name} {error}")
    if problems:
        more = f"; and {len(problems) - 5} more" if problems[5:] else ""
        raise ValueError(f"`source` does not fit {model.name}: {'; '.join(problems[:5])}{more}")
    for variable, value in values:
        variable.assign(value)


def fitting(model: keras.Model, tensors: Mapping[str, Any]) -> list[tuple[Any, np.ndarray]]:
    """The variables of a model whose shape agrees with that of a tensor, each with its array.

    For images of one channel the first kernel is summed over its three, as `kb.adapt_input` does.
    """
    own = {weight.path: weight for weight in model.weights}
    if own.keys() & tensors.keys():
        given = {path: np.asarray(tensors[path]) for path in own if path in tensors}
        return [(own[k], value) for k, value in given.items() if own[k].shape == value.shape]
    found = []
    for tensor in _table(model, set(tensors)):
        if tensor.name in tensors:
            value = _array(tensors[tensor.name])
            if tensor.kernel and tensor.kernel[2] == 1 and value.ndim == 4 and value.shape[1] == 3:
                value = value.sum(1, keepdims=True)
            with contextlib.suppress(ValueError):
                found.append((tensor.variable, tensor.from_torch(value)))
    return found


def _array(value: Any) -> np.ndarray:
    """A NumPy array of a tensor or array; bfloat16 tensors become float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"is no array: {error}") from error


def load_weights(
    model: keras.Model,
    source: Any,
    known: Sequence[WeightSet],
    prefix: str,
    skip_head: bool = False,
) -> None:
    """Loads weights from a file, a source or a `known` set's name, as `Architecture.model` does.

    If a known set is of other classes, the classifier keeps its fresh weights, with a warning.
    """
    if isinstance(source, (str, os.PathLike)):
        if str(source).endswith((".weights.h5", ".keras")):
            _load_keras_weights(model, source, skip_head, prefix)
            return
        sets = {one.name: one.source for one in known}
        if known:
            sets["imagenet"] = known[0].source
        if source not in sets and not is_source(source):
            raise no_such_weights(model.name, list(sets), source)
        if source in sets:
            source = opened(sets[str(source)])
            skip_head = skip_head or _has_other_classes(model, source, prefix)
    load_torch_weights(model, source, skip_head=skip_head, prefix=prefix)


def is_source(weights: str | os.PathLike[str]) -> bool:
    """Whether this is an address or a file that is there, and not the name of a set."""
    return str(weights).startswith(ADDRESSES) or Path(weights).exists()


def is_installed(source: str) -> bool:
    """Whether a source is a file in a package that is installed."""
    package = source.removeprefix("package://").partition("/")[0]
    return package != source.partition("/")[0] and importlib.util.find_spec(package) is not None


def no_such_weights(network: str, sets: Sequence[str], weights: Any) -> ValueError:
    """The error for weights that are no file, no source and none of a network's published sets."""
    known = f"one of {list(sets)}" if sets else f"None: none are published for this {network!r}"
    return ValueError(
        f"`weights` must be a file that is there, a source or {known}. "
        f"Received: weights={weights!r}"
    )


def _variables_of_classifiers(model: keras.Model, prefix: str) -> set[int]:
    """The ids of the variables of a model's classifiers."""
    heads = [layer for layer in model.layers if _is_classifier(layer, prefix)]
    return {id(variable) for head in heads for variable in head.variables}


def _has_other_classes(model: keras.Model, state: Mapping[str, Any], prefix: str) -> bool:
    """Whether the classifiers of model and state differ in their classes; warns if they do."""
    own = _variables_of_classifiers(model, prefix)
    for tensor in _table(model, set(state), prefix=prefix):
        if id(tensor.variable) in own and tensor.name in state:
            published, classes = len(state[tensor.name]), tensor.variable.shape[-1]
            if published != classes:
                warnings.warn(
                    f"The classifier of {model.name} keeps fresh weights: it has {classes} classes "
                    f"and the published one {published}",
                    stacklevel=4,
                )
                return True
    return False


def _load_keras_weights(model: keras.Model, path: Any, skip_head: bool, prefix: str) -> None:
    """Calls `model.load_weights`; with `skip_head` the rows of the head keep their weights."""
    if not skip_head:
        model.load_weights(path)
        return
    heads = [layer for layer in model.layers if is_of_head(layer.name.removeprefix(prefix))]
    with tempfile.TemporaryDirectory() as folder:
        if str(path).endswith(".keras"):  # Keras cannot skip layers of these
            with zipfile.ZipFile(path) as file:
                file.extract("model.weights.h5", folder)
            path = Path(folder) / "model.weights.h5"
        model.load_weights(path, objects_to_skip=heads)


def opened(source: Any) -> Mapping[str, Any]:
    """The tensors of a source by name; `load_torch_weights` describes the sources."""
    if isinstance(source, Mapping):
        return source
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        if path.startswith("hf://"):
            return opened(_downloaded(path))
        if path.startswith("package://"):
            return opened(_packaged(path))
        if path.endswith(".safetensors"):
            return _needed("safetensors.numpy", "weights").load_file(path)
        if path.endswith((".pth", ".pt", ".bin")):
            return _from_torch(path)
    raise ValueError(
        "`source` must be a mapping of names to arrays, a .safetensors or .pth file, "
        f"'hf://owner/repo' or 'package://name/file'. Received: source={source!r}"
    )


def _from_torch(path: str) -> dict[str, np.ndarray]:
    torch = _needed("torch", "torch")
    found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, Mapping) or not all(map(torch.is_tensor, found.values())):
        keys = list(found)[:5] if isinstance(found, Mapping) else type(found).__name__
        raise ValueError(
            f"`source` must hold a mapping of names to tensors (a state_dict). Received: {keys}"
        )
    return {name: _array(tensor) for name, tensor in found.items()}


def _downloaded(address: str) -> str:
    owner, _, rest = address.removeprefix("hf://").partition("/")
    repo, _, file = rest.partition("/")
    if not owner or not repo:
        raise ValueError(f"`source` must be 'hf://owner/repo'. Received: source={address!r}")
    hub = _needed("huggingface_hub", "weights")
    try:
        return hub.hf_hub_download(f"{owner}/{repo}", file or _HUB_FILE)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise OSError(
            f"source={address!r} could not be downloaded, and is in no cache: {reason}. "
            f"On a machine with a network `hf download {owner}/{repo} {file or _HUB_FILE}` makes "
            f"the folder models--{owner}--{repo}: bring it to {hub.constants.HF_HUB_CACHE}. "
            "A .safetensors file given by its path needs no network."
        ) from None


def _packaged(address: str) -> str:
    """The path of a file in an installed package, without importing the package."""
    package, _, file = address.removeprefix("package://").partition("/")
    if not package.isidentifier() or not file:
        raise ValueError(f"`source` must be 'package://name/file'. Received: source={address!r}")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"This source needs {package}: pip install {package}")
    path = Path(spec.submodule_search_locations[0], file)
    if not path.is_file():
        raise ValueError(f"`source` must be a file of {package}. Received: source={address!r}")
    return str(path)


def _needed(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        install = "torch" if extra == "torch" else f"'kblocks[{extra}]'"
        raise ImportError(f"This source needs {package}: pip install {install}") from error


def to_torch_state_dict(
    model: keras.Model, source: str | None = None, *, prefix: str = ""
) -> dict[str, np.ndarray]:
    """A PyTorch `state_dict` of NumPy arrays: the model's weights as published models name them.

    Args:
        model: a model of an architecture that torchvision or timm publishes.
        source: the names to use, "torchvision" or "timm"; None is torchvision if it has the
            network. If a source has several names for a family, its label chooses among them,
            such as "torchvision densenet, files".
        prefix: as in `load_torch_weights`.

    Raises:
        ValueError: if the source has no names for the model's parts.
    """
    # In C order, because safetensors writes an array's memory and ignores its strides.
    return {
        tensor.name: np.array(tensor.to_torch(), order="C")
        for tensor in _table(model, set(), source, prefix)
    }


def _table(
    model: keras.Model, names: set[str], source: str | None = None, prefix: str = ""
) -> list[_Tensor]:
    """The published tensors of the model's variables, by the naming that fits `names` best."""
    parts = list(_parts(model, prefix))
    refuse_altered(model)
    paths = [path for path, _, _ in parts]
    best: list[_Tensor] = []
    score = -1
    for label, (naming, convolutions) in _NAMINGS.items():
        if source not in (None, label, label.split()[0]):
            continue
        try:
            modules = naming(paths)
            table = [
                tensor
                for path, part, block in parts
                if part.weights
                for tensor in _tensors(part, block, modules[path], modules[path] in convolutions)
            ]
        except (LookupError, ValueError):
            continue
        hits = sum(tensor.name in names for tensor in table)
        if hits > score:
            best, score = table, hits
    if not best:
        known = ", ".join(_NAMINGS)
        raise ValueError(
            f"No published weights are known for the parts of {model.name!r}. "
            f"`source` is None, 'torchvision', 'timm' or one of: {known}. "
            f"Received: source={source!r}"
        )
    return best


def _parts(model: keras.Model, prefix: str) -> Iterator[tuple[str, Any, Block]]:
    """Yields path, part and block of all parts, without heads that are not classifiers."""
    for layer in model.layers:
        row = str(layer.name).removeprefix(prefix)
        if not isinstance(layer, Block) or f"{prefix}{row}" != layer.name:
            continue
        if _is_classifier(layer, prefix) or not is_of_head(row):
            for part in layer.layers:
                yield f"{row}/{part.name}", part, layer


def _is_classifier(layer: Any, prefix: str) -> bool:
    return layer.name == f"{prefix}head" and isinstance(layer, Classifier)


def _tensors(part: Any, block: Block, module: str, as_convolution: bool) -> Iterator[_Tensor]:
    for variable in part.variables:
        if variable.name not in ("kernel", "bias", *_NORM):
            continue
        if isinstance(part, keras.layers.BatchNormalization):
            yield _Tensor(f"{module}.{_NORM[variable.name]}", variable)
        elif variable.name == "bias":
            yield _Tensor(f"{module}.bias", variable)
        elif isinstance(part, keras.layers.Dense):
            kernel = _flattened(part.name, block) or (1, 1, variable.shape[0])
            yield _Tensor(f"{module}.weight", variable, kernel, not as_convolution)
        else:
            yield _Tensor(f"{module}.weight", variable, tuple(variable.shape[:3]))


def _flattened(path: str, block: Block) -> Any:
    """The (height, width, channels) that the Flatten before a linear part reads, or None."""
    shape = block._spatial_last(block.get_build_config()["input_shape"])
    plan = ops.Chain(block.spec.plan(shape[-1]))
    before = None
    for (found, _), op in zip(ops.parts(plan), plan, strict=False):
        if isinstance(op, ops.Merge):
            return None
        if found == path:
            return before
        if not isinstance(op, ops.Dropout):  # AlexNet has one between the two
            before = shape if isinstance(op, ops.Flatten) else None
        shape = cost.walk(op, shape)
    return None
