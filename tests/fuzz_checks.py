"""What must hold of every case of `fuzzing.py`; as a script, a child that runs cases.

A child reads a case a line and answers with a dict a line, see `fuzzing.Children.run`.
"""

from __future__ import annotations

import ast
import copy
import faulthandler
import json
import os
import pickle
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from counting import as_count, counted
from numpy_plans import computed, numbers_of

import kblocks as kb
from kblocks.heads.boxes import BoxLoss
from kblocks.heads.classification import ClassLoss
from kblocks.heads.detector import DetectionLoss
from kblocks.heads.keypoints import KeypointLoss
from kblocks.heads.segmenter import PixelLoss
from kblocks.networks.rows import INPUT, origins_of

Case = dict[str, Any]

# By compute dtype, how far a result may lie from float64's, in units of its largest value.
CLOSE = {"float32": 2e-3, "bfloat16": 0.3, "float16": 0.1}


class RefusedError(Exception):
    """The case was refused as it should be."""


class FoundError(Exception):
    """What does not hold: where, and why."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(why)
        self.where = where


@contextmanager
def during(where: str) -> Iterator[None]:
    """What fails in here is a finding of this place."""
    try:
        yield
    except (FoundError, RefusedError):
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{Path(last.filename).name}:{last.name}"
        told = " ".join(str(error).split())[:400]
        raise FoundError(where, f"{type(error).__name__} in {at}: {told}") from error


@contextmanager
def door(names: Any) -> Iterator[None]:
    """What is raised in here is a refusal, if it names an argument and what was received."""
    try:
        yield
    except (kb.InputTooSmallError, ValueError, TypeError) as error:
        told = str(error)
        named = isinstance(error, kb.InputTooSmallError) or any(f"{n}" in told for n in names)
        told_of = ("Received", "(input:", "needs the argument", "needs a map at stride")
        if named and any(words in told for words in told_of):
            raise RefusedError(told) from error
        where = "refused without a name"
        raise FoundError(
            where, f"{type(error).__name__}: {' '.join(told.split())[:300]}"
        ) from error


def close(found: Any, expected: Any, where: str, dtype: str = "float32") -> None:
    """Raises FoundError where they are further apart than the dtype explains."""
    found, expected = np.asarray(found, "float64"), np.asarray(expected, "float64")
    if found.shape != expected.shape:
        raise FoundError(where, f"shapes {found.shape} and {expected.shape}")
    if not expected.size or np.nanmax(np.abs(expected)) > 1e30:
        return  # nothing to compare, or beyond float32 on the way, as exp(exp(x)) may be
    if not np.array_equal(np.isfinite(found), np.isfinite(expected)):
        if dtype == "float32":
            raise FoundError(where, f"{np.sum(~np.isfinite(found))} values are not finite")
        return
    seen = np.isfinite(expected)
    if not seen.any():
        return
    scale = max(np.abs(expected[seen]).max(), 1e-2)
    errors = np.abs(found - expected)[seen] / scale
    # Halves may fall on the other side of a jump: of hard_shrink, of a maximum under a resize.
    off = errors.max() if dtype == "float32" else np.quantile(errors, 0.9)
    if off > CLOSE[dtype]:
        raise FoundError(where, f"off by {off:.2g} of the largest value {scale:.3g}")


def randomised(owner: Any, seed: int = 7) -> Any:
    """The layer or model with all weights moved off the values they start with."""
    rng = np.random.default_rng(seed)
    for weight in owner.weights:
        if weight.path.endswith(("kernel", "bias", "beta", "moving_mean")):
            weight.assign(rng.normal(size=weight.shape) * 0.3)
        elif not weight.path.endswith("seed_generator_state"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return owner


def image(case: Case, seed: int = 0) -> np.ndarray:
    shape = (case["batch"], *case["shape"])
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def same_again(value: Any, where: str) -> None:
    """Pickled, copied and copied deeply, a value stays what it is."""
    for how, made in (
        ("pickle", lambda: pickle.loads(pickle.dumps(value))),
        ("copy", lambda: copy.copy(value)),
        ("deepcopy", lambda: copy.deepcopy(value)),
    ):
        with during(f"{where} {how}"):
            if made() != value:
                raise FoundError(f"{where} {how}", "differs")


# --- blocks ------------------------------------------------------------------------------


def turned(x: Any, first: bool, back: bool = False) -> Any:
    """A batch of maps as the data format wants it, or back."""
    x = (
        np.asarray(x)
        if not hasattr(x, "dtype") or "bfloat16" not in str(x.dtype)
        else np.asarray(tf.cast(x, "float32"))
    )
    if not first or x.ndim != 4:
        return x
    return x.transpose((0, 2, 3, 1) if back else (0, 3, 1, 2))


def check_block(case: Case) -> None:
    """One block: as data, as a layer, as numbers, in graphs, in training, on disk."""
    block = getattr(kb, case["name"], None) or getattr(kb.heads, case["name"])
    shape, given = tuple(case["shape"]), case["arguments"]
    names = [*block.Spec._checks, "channels", "rank", "size", "pixels", "axis"]
    with during("spec"):
        try:
            with door(names):
                spec = block.Spec(**given)
                cost = spec.cost(shape)
        except RefusedError:
            if len(shape) == 3:
                _refused_as_layer(block, case)
            raise
    with during("config"):
        again = block.Spec(**json.loads(json.dumps(spec.config())))
        if again != spec or hash(again) != hash(spec):
            raise FoundError("config", f"{again} is not {spec}")
    same_again(spec, "spec")
    if case.get("light"):
        return
    first = case["data_format"] == "channels_first"
    x = image(case)
    with during("layer"):
        layer = spec.layer(name="one")
        layer = type(layer).from_config(
            {**layer.get_config(), "dtype": case["dtype"], "data_format": case["data_format"]}
        )
        inputs = keras.Input(turned(x, first).shape[1:], dtype="float32")
        symbolic = layer(inputs)
        randomised(layer)
    with during("eager"):
        y = layer(turned(x, first), training=False)
    ours = turned(y, first, back=True)
    if not (layer.compute_output_shape(inputs.shape)[1:] == symbolic.shape[1:] == y.shape[1:]):
        raise FoundError("shape", f"symbolic {symbolic.shape}, eager {y.shape}")
    if ours.shape[1:] != cost.output_shape:
        raise FoundError("cost", f"output shape {cost.output_shape}, is {ours.shape[1:]}")
    _counts(case, layer, cost, x, first)
    compute = layer.compute_dtype
    plan, numbers = spec.plan(shape[-1]), [numbers_of(part) for part in layer.layers]
    with during("numpy"):
        expected = computed(plan, x.astype("float64"), numbers)
    close(ours, expected, "numpy", compute)
    with during("batch of 1"):
        one = turned(layer(turned(x[-1:], first), training=False), first, back=True)
    close(one, ours[-1:], "batch of 1", compute)
    model = keras.Model(inputs, symbolic)
    with during("graph"):
        graph = tf.function(lambda x: model(x, training=False))
        in_graph = turned(graph(tf.constant(turned(x, first))), first, back=True)
    close(in_graph, ours, "graph", compute)
    if case["unknown"] and len(shape) == 3 and not first:
        _unknown_size(layer, x, ours, compute)
    _gradient(case, layer, plan, numbers, x, first)
    if case["saves"]:
        randomised(layer)  # training has moved averages
        _saved(_followed(model, case["behind"], first), turned(x, first), compute)


def _refused_as_layer(block: Any, case: Case) -> None:
    """What the Spec refuses, its layer refuses by the same error."""
    try:
        block(**case["arguments"]).build((None, *case["shape"]))
    except (ValueError, TypeError):
        return
    raise FoundError("layer", "takes what its Spec refuses")


def _counts(case: Case, layer: Any, cost: Any, x: np.ndarray, first: bool) -> None:
    if first or case["dtype"] != "float32":
        return
    with during("cost"):
        found, told = counted(layer, x[:1]), as_count(cost)
        if len(case["shape"]) == 1:
            found, told = found._replace(activations=0), told._replace(activations=0)
        if found != told:
            raise FoundError("cost", f"{told}, counted {found}")


def _gradient(case: Case, layer: Any, plan: Any, numbers: Any, x: np.ndarray, first: bool) -> None:
    """The derivative of a random projection along a random direction, against differences."""
    training = case["training"]
    rng = np.random.default_rng(3)
    out = layer.compute_output_shape(turned(x, first).shape)
    projection = rng.normal(size=out)
    wanted = list(layer.trainable_weights)
    with during("gradient"):
        tensor = tf.constant(turned(x, first))
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            outputs = tf.cast(layer(tensor, training=training), "float32")
            loss = tf.reduce_sum(outputs * tf.cast(projection, "float32"))
        gradients = tape.gradient(loss, [*(w.value for w in wanted), tensor])
    if case["dtype"] != "float32" or (training and _draws(layer)):
        return
    if any(gradient is None for gradient in gradients):
        raise FoundError("gradient", "a weight has none")
    *steps, into_x = (rng.normal(size=gradient.shape) for gradient in gradients)
    pairs = zip(gradients, [*steps, into_x], strict=True)
    slope = sum(float(np.sum(np.asarray(g, "float64") * s)) for g, s in pairs)
    scale = np.sqrt(sum(float(np.sum(np.asarray(g, "float64") ** 2)) for g in gradients))
    named = {id(weight): step for weight, step in zip(wanted, steps, strict=True)}

    def loss_at(far: float) -> float:
        moved = [
            {
                weight.path.split("/")[-1]: value + far * named.get(id(weight), 0.0)
                for weight, value in zip(part.weights, own.values(), strict=True)
            }
            for part, own in zip(layer.layers, numbers, strict=True)
        ]
        there = x.astype("float64") + far * turned(into_x, first, back=True)
        outputs = computed(plan, there, moved, training)
        return float(np.sum(outputs * turned(projection, first, back=True)))

    with during("gradient by differences"):
        expected, finer = ((loss_at(far) - loss_at(-far)) / (2 * far) for far in (1e-6, 2e-7))
    if not np.isfinite(expected) or abs(expected - finer) > 0.01 * max(scale, 1e-3) + 1e-3:
        return  # at a jump, as hard_shrink has, there is no derivative
    if not np.isfinite(slope) or abs(slope - expected) > 0.02 * max(scale, 1e-3) + 1e-3:
        raise FoundError(
            "gradient", f"{slope:.6g}, by differences {expected:.6g}, norm {scale:.3g}"
        )


def _draws(layer: Any) -> bool:
    return any(isinstance(part, keras.layers.Dropout) for part in layer.layers)


def _unknown_size(layer: Any, x: np.ndarray, expected: np.ndarray, compute: str) -> None:
    """Traced with no size known, the numbers are those of known sizes."""
    try:
        inputs = keras.Input((None, None, x.shape[-1]), dtype="float32")
        model = keras.Model(inputs, layer(inputs))
    except ValueError as error:
        if "known" in str(error) or "given" in str(error):
            return
        raise FoundError("unknown size", str(error)[:300]) from error
    with during("unknown size"):
        signature = [tf.TensorSpec((None, None, None, x.shape[-1]))]
        traced = tf.function(lambda x: model(x, training=False), input_signature=signature)
        found = tf.cast(traced(tf.constant(x)), "float32")
    close(found, expected, "unknown size", compute)


def _saved(model: Any, x: np.ndarray, compute: str = "float32") -> None:
    """Saved and loaded, cloned and fused, a model gives the same."""
    expected = _flat(model(x, training=False))
    with during("fuse"):
        fused = kb.fuse(model)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as to:
        for name, one in (("save", model), ("fused save", fused)):
            with during(name):
                one.save(f"{to}/a.keras")
                loaded = keras.models.load_model(f"{to}/a.keras")
                found = _flat(loaded(x, training=False))
            for a, b in zip(found, expected, strict=True):
                close(a, b, name, compute)
    for name, one in (("clone", model), ("fused clone", fused)):
        with during(name):
            other = keras.models.clone_model(one)
            other.set_weights(one.get_weights())
            found = _flat(other(x, training=False))
        for a, b in zip(found, expected, strict=True):
            close(a, b, name, compute)


def _followed(model: Any, layer: str | None, first: bool) -> Any:
    """The model with a layer of Keras behind it."""
    rank = len(model.output.shape)
    if layer is None or (layer == "SpatialDropout2D" and rank != 4):
        return model
    more: dict[str, Any] = {
        "Activation": {"activation": "tanh"},
        "BatchNormalization": {"axis": 1 if first else -1},
        "SpatialDropout2D": {"rate": 0.5, "data_format": "channels_first" if first else None},
        "GaussianNoise": {"stddev": 0.5},
    }
    made = getattr(keras.layers, layer)(**more.get(layer, {"rate": 0.5}))
    return keras.Model(model.input, made(model.output))


def _flat(outputs: Any) -> list[np.ndarray]:
    return [np.asarray(tf.cast(x, "float32")) for x in tf.nest.flatten(outputs)]


# --- networks ----------------------------------------------------------------------------


def check_family(case: Case) -> None:
    """A member of a family."""
    build, given = getattr(kb, case["name"]), case["arguments"]
    with door([*given, "stage", "stem", "head", "filters", "strides", "block", "argument"]):
        net = build(**given)
    _one_value_is_each(build, given, net)
    check_network(case, net)


def _one_value_is_each(build: Any, given: Case, net: Any) -> None:
    """One value, and a list with the same for each stage, make one network."""
    stages = len(given["blocks"])
    apart = ("blocks", "name", "head", "stem", "classes")
    apart = (*apart, "group_width")  # a single value is documented to double with each stage
    for name, value in given.items():
        if name in apart or isinstance(value, (list, dict)):
            continue
        if isinstance(value, tuple) and len(value) == stages:
            continue  # has one value for each already
        try:
            other = build(**{**given, name: [value] * stages})
        except (ValueError, TypeError):
            continue  # it has no value a stage
        if other != net:
            raise FoundError(
                f"one value for all: {name}", f"[{value!r}] * {stages} is another network"
            )


def check_network(case: Case, net: Any) -> None:
    """A network: as data, as a model, as numbers, in training, on disk."""
    shape = tuple(case["shape"])
    names = ["input", "size", "channels", "filters", "strides", "groups"]
    for aux in (False, True):
        told = _told(lambda aux=aux: net.cost(shape, aux=aux))
        if not aux:
            cost = told
            for what, made in (
                ("canonical", lambda: hash(net.canonical(shape))),
                ("draw", lambda: kb.draw(net, input_shape=shape)),
                ("stages", lambda: net.stages(shape)),
                ("cost_if_alive", lambda: net.cost_if_alive(shape)),
                ("replace", lambda: net.replace(net.rows[0].name, net.rows[0].spec, shape)),
            ):
                also = _told(made)
                alive = isinstance(also, Exception) or (what == "cost_if_alive" and also is None)
                if alive != isinstance(told, Exception):
                    raise FoundError(what, f"{what} says {_brief(also)}, cost {_brief(told)}")
    if isinstance(cost, Exception):
        with door(names):
            raise cost
    with during("json"):
        if kb.Architecture.from_json(net.to_json()) != net:
            raise FoundError("json", "another network comes back")
        if net.canonical(shape) != kb.Architecture.from_json(net.to_json()).canonical(shape):
            raise FoundError("json", "another canonical form comes back")
    same_again(net, "network")
    if case.get("light"):
        return
    x = image(case)
    with during("model"):
        model = randomised(net.model(shape))
        y = model(x, training=False)
    with during("cost"):
        found, told = counted(model, x[:1]), as_count(cost)
        if found != told:
            raise FoundError("cost", f"{told}, counted {found}")
    expected = _rows_computed(net, model, x)
    outputs = _by_name(net, y)
    for output, row in net._shown(aux=False).items():
        close(outputs[output], expected[row], "numpy")
    with during("batch of 1"):
        one = _by_name(net, model(x[-1:], training=False))
    for output in outputs:
        close(one[output], outputs[output][-1:], "batch of 1")
    with during("graph"):
        graph = tf.function(lambda x: model(x, training=False))
        in_graph = _by_name(net, graph(tf.constant(x)))
    for output in outputs:
        close(in_graph[output], outputs[output], "graph")
    if case["saves"]:
        _saved(model, x)
    if case["trains"]:
        _trained(case, net, model, x)


def _told(make: Any) -> Any:
    """What it gives, or the error."""
    try:
        return make()
    except Exception as error:
        return error


def _brief(value: Any) -> str:
    return repr(value)[:200]


def _by_name(net: Any, outputs: Any) -> dict[str, np.ndarray]:
    shown = list(net._shown(aux=False))
    if not isinstance(outputs, dict):
        outputs = {shown[0]: outputs}
    return {name: np.asarray(value) for name, value in outputs.items()}


def _rows_computed(net: Any, model: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    needed, origins = net.needed(net._shown(aux=False).values()), origins_of(net.rows)
    known = {INPUT: x.astype("float64")}
    with during("numpy"):
        for row in net.rows:
            if row.name not in needed:
                continue
            origin, spec = origins[row.name][:2]
            sources = [known[name] for name in row.inputs]
            channels = [source.shape[-1] for source in sources]
            several = len(sources) > 1
            plan = spec.plan(channels if several else channels[0])
            numbers = [numbers_of(part) for part in model.get_layer(origin).layers]
            known[row.name] = computed(plan, sources if several else sources[0], numbers)
    return known


def _trained(case: Case, net: Any, model: Any, x: np.ndarray) -> None:
    """A step of `fit` and `evaluate` on targets of the documented form, then `predict`."""
    tasks = net.head
    if not tasks:
        return
    rng = np.random.default_rng(1)
    shapes = {**_by_name(net, model(x[:1], training=False))}
    y: Any = {
        tasks._targets[output]: _target(task.loss(), shapes[output].shape, len(x), case, rng)
        for output, task in tasks.items()
    }
    alone = len(tasks) == 1 and not isinstance(case.get("head"), dict)
    if alone:  # as `fit` takes them
        (y,) = y.values()
    told = _told(lambda: tasks.check(y))
    if isinstance(told, Exception):
        if "alone" in str(told):
            return  # one class alone has nothing to tell apart
        raise FoundError("targets", str(told)[:300])
    with during("fit"):
        model.compile("sgd", **tasks.training())
        losses = model.fit(x, y, batch_size=len(x), verbose=0, validation_data=(x, y)).history
    if case["batch"] > 1 and not np.all(np.isfinite(losses["loss"])):
        raise FoundError("fit", f"losses {losses}")
    with during("predict"):
        model.predict(x, verbose=0)


def _target(loss: Any, output: Any, batch: int, case: Case, rng: Any) -> np.ndarray:
    corners = np.sort(rng.uniform(0.05, 0.9, (batch, 2, 2)), axis=1)
    corners[:, 1] += 0.05
    match loss:
        case ClassLoss():
            if loss.multi_label:
                return rng.integers(0, 2, (batch, loss.classes)).astype("float32")
            return rng.integers(0, loss.classes, batch)
        case BoxLoss():
            return corners.reshape(batch, 4).astype("float32")
        case KeypointLoss():
            return rng.uniform(0, 1, (batch, loss.points, 2)).astype("float32")
        case PixelLoss():
            return rng.integers(0, loss.classes, (batch, *output[1:3]))
        case DetectionLoss():
            number = case["objects"]
            kinds = rng.integers(-1, loss.classes, (batch, number, 1))
            boxes = np.repeat(corners.reshape(batch, 1, 4), number, 1)
            return np.concatenate([kinds, boxes], -1).astype("float32")
    raise TypeError(f"tests/fuzz_checks.py knows no targets for {type(loss).__name__}")


def _head_of(made: Any) -> Any:
    if isinstance(made, dict):
        return {name: _head_of(inner) for name, inner in made.items()}
    name, given = made
    return getattr(kb, name)(**given)


def check_head(case: Case) -> None:
    """A head, or a dict of heads, over maps at strides 1 to 16."""
    made = case["head"]
    given = [g for _, g in (made.values() if isinstance(made, dict) else [made])]
    names = [*(n for g in given for n in g), "head", "argument", "points", "classes", "stride"]
    names.append("convolutions")  # which a detector calls `depth`
    with door(names):
        head = _head_of(made)
        rows = [("stem", kb.ConvBlock.Spec(4))]
        rows += [(f"stage{i}_block1", kb.ConvBlock.Spec(4, strides=2)) for i in (1, 2, 3, 4)]
        net = kb.Architecture(rows, head=head)
    check_network(case, net)


# --- spaces ------------------------------------------------------------------------------

_spaces: dict[Any, Any] = {}


def check_space(case: Case) -> None:
    """A ready space within an input and a budget."""
    key = case["name"], case["classes"] % 2
    shape = tuple(case["shape"])
    if key not in _spaces:
        with during("space"):
            space = getattr(kb.spaces, case["name"])(classes=2 + key[1], **case["arguments"])
        for how, made in (
            ("pickle", lambda: pickle.loads(pickle.dumps(space))),
            ("deepcopy", lambda: copy.deepcopy(space)),
        ):
            with during(f"space {how}"):
                again = made()
                if again.names() != space.names() or again.default() != space.default():
                    raise FoundError(f"space {how}", "another space")
        _spaces[key] = space
    space = _spaces[key]
    budget = None if case["macs"] is None else kb.Budget(macs=case["macs"])
    with door(["input"]):
        try:
            space = space.within(shape, budget)
        except ValueError as error:
            if "Nothing in this space fits" in str(error):
                raise RefusedError(str(error)) from error
            raise
    for seed in range(case["seed"], case["seed"] + 3):
        with during("sample"):
            values = space.sample(seed)
            if values != space.sample(seed):
                raise FoundError("sample", "a seed gives two samples")
            net = space.build(values)
            cost = net.cost(shape)
        if case["macs"] is not None and cost.macs > case["macs"]:
            raise FoundError("sample", f"{cost.macs} MACs, over the budget")
        with during("key"):
            hash(space.key(values))
        with during("repair"):
            if space.repair(values) != values:
                raise FoundError("repair", "changes what fits")
        with during("json"):
            if kb.Architecture.from_json(net.to_json()) != net:
                raise FoundError("json", "another network comes back")
    with during("samples"):
        some = space.samples(case["seed"])
        next(some), next(some, None)


# --- the child ---------------------------------------------------------------------------

CHECKS = {"block": check_block, "family": check_family, "head": check_head, "space": check_space}


def outcome(case: Case) -> dict[str, Any]:
    """What became of a case."""
    try:
        CHECKS[case["kind"]](case)
    except RefusedError as refused:
        return {"outcome": "refused", "why": str(refused)[:300]}
    except FoundError as found:
        return {"outcome": "found", "where": found.where, "why": str(found)}
    except Exception as error:
        with_trace = "".join(traceback.format_exception(error))[-1500:]
        print(with_trace, file=sys.stderr, flush=True)
        return {"outcome": "found", "where": f"{type(error).__name__}", "why": str(error)[:400]}
    return {"outcome": "works"}


def main() -> None:
    faulthandler.enable()
    warnings.simplefilter("ignore")
    tf.get_logger().setLevel("ERROR")
    keras.utils.set_random_seed(5)
    for number, line in enumerate(sys.stdin):
        print(repr(outcome(ast.literal_eval(line))), flush=True)
        if number % 20 == 19:
            keras.backend.clear_session()  # collects garbage, which takes as long as a case


if __name__ == "__main__":
    main()
