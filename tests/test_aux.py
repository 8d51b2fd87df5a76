"""Auxiliary classifiers: one target, the weighted loss, and the model without them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import kblocks as kb

Images = Callable[..., np.ndarray]
INPUT = (32, 32, 3)
CLASSES = 5


def network() -> kb.Architecture:
    """Two auxiliary heads without dropout, of weights 0.3 and 0.4."""
    block = kb.ConvBlock.Spec(4, strides=2, normalization=None)
    aux: dict[str, Any] = {"filters": (4,), "pool_size": None, "grid": 2, "hidden": ()}
    aux |= {"dropout": 0.0, "normalization": None, "kernel_regularizer": "l2"}
    return kb.Architecture(
        [
            ("stage1", block),
            ("stage2", block),
            ("aux1", kb.AuxiliaryClassifier.Spec(CLASSES, **aux), "stage1"),
            ("aux2", kb.AuxiliaryClassifier.Spec(CLASSES, loss_weight=0.4, **aux), "stage2"),
            ("head", kb.Classifier.Spec(CLASSES), "stage2"),
        ],
        outputs={"logits": "head", "aux1": "aux1", "aux2": "aux2"},
        auxiliary=["aux1", "aux2"],
    )


def data(number: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    return random.normal(size=(number, *INPUT)).astype("float32"), random.integers(0, 5, number)


def weighted_loss(model: Any, x: Any, y: Any, weights: Any = None) -> Any:
    """The sum by hand, with TensorFlow's own cross-entropy."""
    outputs = model(x, training=True)
    total = tf.add_n(model.losses)
    for name, weight in (("logits", 1.0), ("aux1", 0.3), ("aux2", 0.4)):
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs[name])
        total += weight * tf.reduce_mean(each if weights is None else each * weights)
    return total


LOSSES = {
    "object": lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "head": lambda: network().head.training()["loss"],
    "function": lambda: lambda y, p: keras.losses.sparse_categorical_crossentropy(y, p, True),
    "by output": lambda: {"logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
}


@pytest.mark.thin(4)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("make", LOSSES.values(), ids=[name.replace(" ", "_") for name in LOSSES])
def test_a_step_is_that_of_the_weighted_loss(make: Callable[[], Any], weighted: bool) -> None:
    """One step of SGD moves the weights by the gradient of the sum written by hand."""
    x, y = data()
    weights = np.linspace(0.5, 2.0, len(y)).astype("float32") if weighted else None
    model = network().model(INPUT, aux=True)
    with tf.GradientTape() as tape:
        loss = weighted_loss(model, x, y, weights)
    variables = [variable.value for variable in model.trainable_variables]
    expected = [np.asarray(g) for g in tape.gradient(loss, variables)]
    before = [np.asarray(v) for v in model.trainable_variables]
    model.compile(keras.optimizers.SGD(0.1), loss=make())
    history = model.fit(x, y, sample_weight=weights, batch_size=len(y), verbose=0)
    assert history.history["loss"][0] == pytest.approx(float(loss), rel=1e-5)
    for old, variable, gradient in zip(before, model.trainable_variables, expected, strict=True):
        assert np.abs(gradient).max() > 1e-6
        np.testing.assert_allclose(old - 0.1 * gradient, variable, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("traced", [False, True])
def test_a_loop_of_ones_own(traced: bool) -> None:
    """`compute_loss` under a tape is the weighted sum, and its gradient that of the sum by hand."""
    x, y = data()
    model = network().model(INPUT, aux=True)
    model.compile("sgd", **network().head.training())
    variables = [variable.value for variable in model.trainable_variables]

    def by_call() -> Any:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
        return loss, tape.gradient(loss, variables)

    loss, gradients = (tf.function(by_call) if traced else by_call)()
    with tf.GradientTape() as tape:
        expected = weighted_loss(model, x, y)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    for mine, by_hand in zip(gradients, tape.gradient(expected, variables), strict=True):
        assert np.abs(by_hand).max() > 1e-6
        np.testing.assert_allclose(mine, by_hand, rtol=1e-4, atol=1e-6)


def test_default_weights_are_the_published_ones() -> None:
    """Szegedy et al. 2014, Sec. 5: 0.3; Inception-v3 is trained with 0.4."""
    google, v3 = kb.googlenet(3, width=0.1), kb.inception_v3(3, width=0.1)
    model = google.model((64, 64, 3), aux=True)
    assert model.auxiliary == {"aux1": ("logits", 0.3), "aux2": ("logits", 0.3)}
    assert v3.model((299, 299, 3), aux=True).auxiliary == {"AuxLogits": ("logits", 0.4)}


@pytest.mark.slow
@pytest.mark.parametrize("first", ["mask", "kind"])
def test_beside_several_heads_it_is_trained_like_the_classifier(first: str) -> None:
    heads = {"mask": kb.Segmenter(3), "kind": kb.Classifier(3)}
    net = kb.googlenet(3, width=0.1, head={first: heads[first], **heads})
    model = net.model((64, 64, 3), aux=True)
    assert {like for like, _ in model.auxiliary.values()} == {"kind"}
    model.compile("sgd", **net.head.training())
    y = {"mask": np.zeros((2, 64, 64)), "kind": np.zeros(2)}
    loss = model.fit(np.zeros((2, 64, 64, 3)), y, verbose=0).history["loss"]
    assert np.isfinite(loss).all()


@pytest.mark.parametrize("head", [kb.Segmenter(3), kb.Keypoints(2)], ids=["mask", "points"])
def test_beside_a_head_that_is_told_no_classes_it_is_refused(head: Any) -> None:
    net = kb.googlenet(3, width=0.1, head=head)
    assert net.model((64, 64, 3)).count_params() > 0
    with pytest.raises(ValueError, match="`aux` needs a head that is trained on"):
        net.model((64, 64, 3), aux=True)


@pytest.mark.slow
@pytest.mark.parametrize("eagerly", [False, True])
def test_an_ordinary_pipeline(eagerly: bool) -> None:
    """One label tensor, the metrics' usual names, class weights, evaluation, prediction."""
    x, y = data(16)
    model = network().model(INPUT, aux=True)
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=eagerly,
    )
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    logs = model.fit(dataset, validation_data=(x, y), verbose=0).history
    assert set(logs) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    model.fit(x, y, class_weight={0: 2.0}, verbose=0)
    logits = model.predict(x, verbose=0)["logits"]
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    assert found["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == y))
    assert model.train_on_batch(x, y, return_dict=True)["loss"] > 0


def test_a_recipe_compiles_it() -> None:
    x, y = data()
    model = network().model(INPUT, aux=True)
    kb.Recipe().compile(model)
    assert set(model.fit(x, y, verbose=0).history) == {"loss", "accuracy"}


def test_a_dict_of_all_losses_is_taken_as_keras_takes_it() -> None:
    """With weights of one's own, and targets by output or by target."""
    x, y = data()
    model = network().model(INPUT, aux=True)
    names = ("logits", "aux1", "aux2")
    cross = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    weights = {"logits": 1.0, "aux1": 0.0, "aux2": 0.5}
    model.compile("sgd", dict.fromkeys(names, cross), loss_weights=weights)
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    same = model.evaluate(x, dict.fromkeys(names, y), verbose=0, return_dict=True)
    assert found == pytest.approx(same)
    total = found["logits_loss"] + 0.5 * found["aux2_loss"] + float(tf.add_n(model.losses))
    assert found["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("saved", [False, True])
def test_strip_aux(saved: bool, tmp_path: Path) -> None:
    x, y = data()
    net = network()
    model = net.model(INPUT, aux=True)
    model.compile("sgd", **net.head.training())
    model.fit(x, y, verbose=0)
    if saved:
        model.save(tmp_path / "aux.keras")
        before = model.evaluate(x, y, verbose=0, return_dict=True)
        model = keras.models.load_model(tmp_path / "aux.keras")
        assert model.evaluate(x, y, verbose=0, return_dict=True) == pytest.approx(before)
    plain = kb.strip_aux(model)
    assert plain.count_params() == net.cost(INPUT).params
    np.testing.assert_array_equal(plain(x), model(x)["logits"])
    assert {layer.name for layer in model.layers} - {layer.name for layer in plain.layers} == {
        "aux1",
        "aux2",
    }
    with pytest.raises(ValueError, match="auxiliary outputs"):
        kb.strip_aux(plain)


@pytest.mark.slow
def test_aux_beside_other_heads() -> None:
    """The auxiliary classifier is trained like the first output, and told the other's target."""
    net = kb.googlenet(3, width=0.1, head=kb.Localizer(3))
    assert list(net.outputs) == ["class", "box", "aux1", "aux2"]
    model = net.model((64, 64, 3), aux=True)
    assert model.auxiliary == {"aux1": ("class", 0.3), "aux2": ("class", 0.3)}
    model.compile("sgd", **net.head.training())
    x = np.zeros((2, 64, 64, 3), "float32")
    y = {"class": np.array([0, 2]), "box": np.array([[0.1, 0.2, 0.5, 0.6]] * 2, "float32")}
    logs = model.fit(x, y, verbose=0).history
    assert {"loss", "class_loss", "box_loss", "class_accuracy", "box_iou"} == set(logs)
    assert logs["loss"][0] > logs["class_loss"][0] + logs["box_loss"][0]


SMALL = (8, 8, 3)
ASKED: dict[str, Callable[[kb.Architecture], Any]] = {
    "cost": lambda net: net.cost(SMALL),
    "stages": lambda net: net.stages(SMALL),
    "canonical": lambda net: net.canonical(SMALL),
    "pyramid": lambda net: net.pyramid(SMALL, [2, 4]),
    "replace": lambda net: net.replace("stage2", kb.ConvBlock.Spec(3), SMALL).cost(SMALL),
    "training memory": lambda net: kb.training_memory(net, SMALL),
    "inference memory": lambda net: kb.inference_memory(net, SMALL),
    "parameters": lambda net: net.model(SMALL).count_params(),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=[name.replace(" ", "_") for name in ASKED])
def test_auxiliary_heads_count_only_where_asked_for(ask: Callable[[Any], Any]) -> None:
    """On an input too small for the head, all is as if there were none."""
    block = kb.ConvBlock.Spec(4, strides=2)
    aux = ("aux1", kb.AuxiliaryClassifier.Spec(CLASSES), "stage1")  # windows of 5 on 4 pixels
    rows: list[Any] = [("stage1", block), ("stage2", block, "stage1")]
    head = kb.Classifier(CLASSES)
    without = kb.Architecture(rows, head)
    net = kb.Architecture([rows[0], aux, rows[1]], head, auxiliary=["aux1"])
    assert ask(net) == ask(without)
    with pytest.raises(kb.InputTooSmallError, match="aux1"):
        net.canonical(SMALL, aux=True)
    with pytest.raises(kb.InputTooSmallError, match="aux1"):
        kb.training_memory(net, SMALL, aux=True)
    larger = (32, 32, 3)
    assert net.canonical(larger) == without.canonical(larger) != net.canonical(larger, aux=True)
    assert kb.training_memory(net, larger) < kb.training_memory(net, larger, aux=True)


def test_a_search_on_images_too_small_for_the_auxiliary_head() -> None:
    """Inception-v3's needs 299 pixels; without it the network takes 75 (Keras' documentation)."""
    space = kb.spaces.inception_v3(classes=3).within((139, 139, 3))
    first = next(space.samples(0))
    assert space.key(first) == space.build(first).canonical((139, 139, 3))


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("head", "y", "wrong"),
    [
        ({"z": kb.Classifier(CLASSES)}, np.arange(8) % CLASSES, "logits"),
        (kb.Segmenter(2, stride=2), np.zeros((8, *INPUT[:2])), "logits"),
        (kb.Keypoints(2, stride=2), np.full((8, 2, 2), 0.5), "mask"),
    ],
    ids=["dict", "mask", "points"],
)
@pytest.mark.parametrize("loaded", [False, True])
def test_one_output_with_a_name(
    head: Any, y: Any, wrong: str, loaded: bool, tmp_path: Path
) -> None:
    """The network, its tasks, its model and `fit` agree on it; alone or by name is the same."""
    net = kb.Architecture([kb.ConvBlock.Spec(4, strides=2)], head)
    (name,) = net.outputs
    model = net.model(INPUT)
    if loaded:
        model.save(tmp_path / "m.keras")
        model = keras.models.load_model(tmp_path / "m.keras")
    assert [name] == model.output_names == list(kb.tasks_of(model)) == list(net.head)
    x, _ = data()
    task = net.head.training()
    named = {"loss": {name: task["loss"]}, "metrics": {name: task["metrics"]}}
    found = []
    for told in (task, named):
        model.compile("sgd", **told)
        for given in (y, {name: y}):
            net.head.check(given)
            found.append(model.evaluate(x, given, verbose=0, return_dict=True))
    assert found[0]["loss"] > 0
    assert all(one == pytest.approx(found[0]) for one in found)
    model.fit(x, {name: y}, validation_data=(x, y), verbose=0)
    with pytest.raises(ValueError, match=f"dict of {name}"):
        net.head.check({wrong: y})
    with pytest.raises(ValueError, match=f"dict of {name}"):
        model.train_on_batch(x, {wrong: y})


def test_a_classifier_alone_takes_an_array() -> None:
    net = kb.Architecture([kb.ConvBlock.Spec(4)], kb.Classifier(CLASSES))
    with pytest.raises(ValueError, match=r"must be an array. Received: a dict of logits"):
        net.head.check({"logits": data()[1]})


@pytest.mark.slow
def test_without_auxiliary_outputs_the_others_keep_their_targets() -> None:
    """Of a detector's two maps, which have one target, and of one output with a name."""
    heads = {"kind": kb.Classifier(3), "found": kb.Detector(2, (8, 16), filters=4)}
    net = kb.googlenet(3, width=0.1, head=heads)
    model = kb.strip_aux(net.model((64, 64, 3), aux=True))
    model.compile("sgd", **net.head.training())
    y = {"kind": np.zeros(2), "found": np.full((2, 1, 5), -1.0)}
    assert np.isfinite(model.fit(np.zeros((2, 64, 64, 3)), y, verbose=0).history["loss"]).all()
    one = kb.googlenet(3, width=0.1, head={"z": kb.Classifier(3)})
    assert kb.strip_aux(one.model((64, 64, 3), aux=True)).output_names == ["z"]


def test_targets_that_do_not_fit_are_refused() -> None:
    x, y = data()
    model = network().model(INPUT, aux=True)
    model.compile("sgd", **network().head.training())
    with pytest.raises(ValueError, match=r"dict of logits.*Received: label"):
        model.train_on_batch(x, {"label": y})
    net = kb.resnet(3, blocks=(1, 1), head={"a": kb.Detector(2, (4, 8)), "b": kb.Classifier(2)})
    model = net.model(INPUT)
    model.compile("sgd", **net.head.training())
    with pytest.raises(ValueError, match=r"dict of a, b"):
        model.train_on_batch(x, y)
