"""Losses, metrics, decoding: held against plain NumPy, and trained through `fit`."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kblocks as kb
from kblocks.heads.boxes import BoxIoU, BoxLoss, overlap
from kblocks.heads.classification import ClassLoss, LabelAccuracy
from kblocks.heads.decoding import Detections
from kblocks.heads.detector import CellIoU, DetectionLoss, focal_loss
from kblocks.heads.keypoints import KeypointDistance, KeypointLoss, KeypointsWithin
from kblocks.heads.segmenter import PixelLoss

Images = Callable[..., np.ndarray]


def boxes(number: int, seed: int = 0) -> np.ndarray:
    """Corners of boxes in the unit square."""
    random = np.random.default_rng(seed)
    ends = np.sort(random.uniform(size=(number, 2, 2)), 1)
    return ends.reshape(number, 4).astype("float32")


def iou_by_hand(a: Any, b: Any) -> float:
    """Of two boxes, number by number."""
    side = max(0.0, min(a[2], b[2]) - max(a[0], b[0])), max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = side[0] * side[1]
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either else 0.0


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


# --- classes -------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("form", ["integers", "column", "shares"])
def test_cross_entropy(form: str, smoothing: float) -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(9, 4)).astype("float32") * 3, random.integers(0, 4, 9)
    target = (1 - smoothing) * np.eye(4)[labels] + smoothing / 4
    expected = -(target * log_softmax(logits)).sum(1).mean()
    truth = {"integers": labels, "column": labels[:, None], "shares": np.eye(4)[labels]}[form]
    loss = ClassLoss(4, label_smoothing=smoothing)
    assert float(loss(truth, logits)) == pytest.approx(expected, rel=1e-5)
    loss.check(truth)


def test_multi_label_cross_entropy_and_accuracy() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(9, 4)).astype("float32")
    labels = random.integers(0, 2, (9, 4)).astype("float32")
    shares = 1 / (1 + np.exp(-logits))
    expected = -(labels * np.log(shares) + (1 - labels) * np.log(1 - shares)).mean()
    assert float(ClassLoss(4, True)(labels, logits)) == pytest.approx(expected, rel=1e-5)
    metric = LabelAccuracy()
    metric.update_state(labels, logits)
    assert float(metric.result()) == pytest.approx(np.mean((logits > 0) == (labels == 1)))


# --- boxes ---------------------------------------------------------------------------------


def test_iou_and_generalized_iou() -> None:
    """GIoU: arXiv:1902.09630, Algorithm 1, box by box."""
    a, b = boxes(200), boxes(200, seed=1)
    iou, giou = (np.asarray(one) for one in overlap(a, b))
    for i in range(200):
        expected = iou_by_hand(a[i], b[i])
        assert iou[i] == pytest.approx(expected, abs=1e-5)
        hull = [*np.minimum(a[i, :2], b[i, :2]), *np.maximum(a[i, 2:], b[i, 2:])]
        area = (hull[2] - hull[0]) * (hull[3] - hull[1])
        own, other = np.prod(a[i, 2:] - a[i, :2]), np.prod(b[i, 2:] - b[i, :2])
        union = (own + other) / (1 + expected)
        assert giou[i] == pytest.approx(expected - (area - union) / area, abs=1e-4)
    assert (iou > 0).any()
    assert (iou == 0).any()


def test_iou_of_boxes_known_from_a_drawing() -> None:
    """A unit square moved by half its side: 1/3; apart by its side: IoU 0, GIoU -1/3."""
    square = np.array([[0.0, 0.0, 1.0, 1.0]])
    for other, iou, giou in (
        ([0.0, 0.5, 1.0, 1.5], 1 / 3, 1 / 3),
        ([0.0, 2.0, 1.0, 3.0], 0.0, -1 / 3),
        ([0.25, 0.25, 0.75, 0.75], 0.25, 0.25),
    ):
        found = overlap(square, np.array([other]))
        assert [float(one[0]) for one in found] == pytest.approx([iou, giou], abs=1e-6)


def test_box_losses_and_metric() -> None:
    a, b = boxes(20), boxes(20, seed=1)
    distance, beta = np.abs(a - b), 0.1
    expected = np.where(distance < beta, 0.5 * distance**2 / beta, distance - beta / 2).sum(1)
    assert float(BoxLoss("smooth_l1", beta)(a, b)) == pytest.approx(expected.mean(), rel=1e-5)
    giou = np.asarray(overlap(a, b)[1])
    assert float(BoxLoss("giou")(a, b)) == pytest.approx((1 - giou).mean(), rel=1e-5)
    metric = BoxIoU()
    metric.update_state(a, b)
    expected = np.mean([iou_by_hand(*pair) for pair in zip(a, b, strict=True)])
    assert float(metric.result()) == pytest.approx(expected, rel=1e-4)


def test_a_box_regressor_gives_corners_in_order(images: Images) -> None:
    """However large its features are; around the middle, at half the size, where it starts."""
    layer = kb.BoxRegressor(hidden=(7,))
    found = np.asarray(layer(images(50, 4, 4, 3) * 10))
    assert np.all(found[:, 2:] >= found[:, :2])
    start = np.asarray(layer(np.zeros((1, 4, 4, 3), "float32")))
    np.testing.assert_allclose(start, [[0.25, 0.25, 0.75, 0.75]], atol=1e-4)
    layer.centre_dense.bias.assign([0.3, 0.6])
    layer.size_dense.bias.assign(np.log(np.expm1([0.2, 0.4])))
    moved = np.asarray(layer(np.zeros((1, 4, 4, 3), "float32")))
    np.testing.assert_allclose(moved, [[0.2, 0.4, 0.4, 0.8]], atol=1e-5)


# --- keypoints -----------------------------------------------------------------------------


def test_keypoint_loss_and_metrics_leave_out_what_is_not_seen() -> None:
    random = np.random.default_rng(0)
    truth, found = random.uniform(size=(2, 6, 4, 2)).astype("float32")
    seen = random.integers(0, 2, (6, 4)).astype("float32")
    seen[0] = 0
    gap, beta = np.abs(truth - found), 0.05
    errors = np.where(gap < beta, gap**2 / 2 / beta, gap - beta / 2).sum(-1)
    distance = np.hypot(*(truth - found).transpose(2, 0, 1))
    counts = np.maximum(seen.sum(1), 1)
    places = np.where(seen[..., None] > 0, truth, np.float32(np.nan))  # as tables have them
    both = np.concatenate([places, seen[..., None]], -1)
    expected = ((errors * seen).sum(1) / counts).mean()
    assert float(KeypointLoss(4)(both, found)) == pytest.approx(expected, rel=1e-5)
    assert float(KeypointLoss(4)(truth, found)) == pytest.approx(errors.mean(), rel=1e-5)
    for metric, values in (
        (KeypointDistance(), distance),
        (KeypointsWithin(0.4), (distance <= 0.4).astype(float)),
    ):
        metric.update_state(truth, found)
        assert float(metric.result()) == pytest.approx(values.mean(), rel=1e-5)
        metric.reset_state()
        metric.update_state(both, found)
        expected = ((values * seen).sum(1) / counts)[seen.any(1)].mean()
        assert float(metric.result()) == pytest.approx(expected, rel=1e-5)


def test_soft_argmax_finds_a_sharp_maximum() -> None:
    """One high pixel of each heatmap: the centre of that pixel, as a share of the map."""
    maps = np.zeros((1, 5, 8, 2), "float32")
    maps[0, 3, 6, 0] = maps[0, 0, 1, 1] = 60
    layer = kb.KeypointMaps(2, kernel_initializer="zeros")
    layer.build(maps.shape)
    layer.conv.kernel.assign(np.eye(2).reshape(1, 1, 2, 2))
    expected = [[[3.5 / 5, 6.5 / 8], [0.5 / 5, 1.5 / 8]]]
    np.testing.assert_allclose(layer(maps), expected, atol=1e-5)
    even = np.asarray(layer(np.zeros_like(maps)))
    np.testing.assert_allclose(even, np.full((1, 2, 2), 0.5), atol=1e-6)


# --- pixels --------------------------------------------------------------------------------


@pytest.mark.parametrize("void", [None, 255])
def test_pixel_loss(void: int | None) -> None:
    """An image's mean over the pixels that count, then the mean over images."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 4, 5, 6)).astype("float32")
    labels = random.integers(0, 6, (3, 4, 5))
    if void:
        labels[random.uniform(size=labels.shape) < 0.5] = void
        labels[0] = void
    each = -np.take_along_axis(log_softmax(logits), np.minimum(labels, 5)[..., None], -1)[..., 0]
    counts = labels < 6
    expected = (each * counts).sum((1, 2)) / np.maximum(counts.sum((1, 2)), 1)
    assert float(PixelLoss(6, void)(labels, logits)) == pytest.approx(expected.mean(), rel=1e-5)
    assert float(PixelLoss(6, void)(labels[..., None], logits)) == pytest.approx(expected.mean())


def test_mean_iou_of_masks() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 4, 5, 3)).astype("float32")
    labels = random.integers(0, 3, (3, 4, 5))
    labels[0, 0] = 9
    found, counts = logits.argmax(-1), labels != 9
    expected = np.mean(
        [
            np.sum((found == k) & (labels == k)) / np.sum(((found == k) & counts) | (labels == k))
            for k in range(3)
        ]
    )
    metric = kb.Segmenter(3, void=9).metrics()["mask"][0]
    metric.update_state(labels, logits)
    assert float(metric.result()) == pytest.approx(expected, rel=1e-5)


# --- detection -----------------------------------------------------------------------------


def test_focal_loss_by_hand() -> None:
    """arXiv:1708.02002, Eq. 5: -a (1 - p)^2 log(p) of the right answer's share p."""
    for logit, truth in itertools.product((-3.0, -0.5, 0.0, 2.0), (0.0, 1.0)):
        share = 1 / (1 + np.exp(-logit))
        right, alpha = (share, 0.25) if truth else (1 - share, 0.75)
        expected = -alpha * (1 - right) ** 2 * np.log(right)
        found = focal_loss(np.float32(truth), np.float32(logit))
        assert float(found) == pytest.approx(expected, rel=1e-5)


def detection_by_hand(
    objects: np.ndarray, cells: np.ndarray, classes: int, smallest: float, largest: float
) -> tuple[float, list[float]]:
    """One image's loss, and the IoU of the cells that find an object, by loops over cells."""
    height, width, _ = cells.shape
    size = np.array([height, width, height, width])
    real = [o for o in objects if o[0] >= 0]
    focal = errors = 0.0
    found = []
    for i, j in itertools.product(range(height), range(width)):
        y, x = i + 0.5, j + 0.5
        matches = []
        for kind, *corners in real:
            y1, x1, y2, x2 = np.array(corners) * size
            if not smallest < max(y2 - y1, x2 - x1) <= largest:
                continue
            away = max(abs(y - (y1 + y2) / 2), abs(x - (x1 + x2) / 2))
            if away <= 0.5 or (away < 1.5 and y1 < y < y2 and x1 < x < x2):
                matches.append(((y2 - y1) * (x2 - x1), kind, (y1, x1, y2, x2)))
        best = min(matches) if matches else None
        for k in range(classes):
            share = 1 / (1 + np.exp(-cells[i, j, k]))
            yes = best is not None and best[1] == k
            right, alpha = (share, 0.25) if yes else (1 - share, 0.75)
            focal += -alpha * (1 - right) ** 2 * np.log(right)
        if best is not None:
            top, left, low, right = cells[i, j, classes:]
            box = np.array([y - top, x - left, y + low, x + right], "float32")
            truth = np.array(best[2], "float32")
            found.append(iou_by_hand(box, truth))
            errors += 1 - float(overlap(box[None], truth[None])[1][0])
    return (focal + 2.0 * errors) / max(len(real), 1), found


@pytest.mark.parametrize(("smallest", "largest"), [(0.0, np.inf), (0.0, 3.0), (2.0, 4.0)])
def test_detection_loss_and_metric(smallest: float, largest: float) -> None:
    random = np.random.default_rng(1)
    objects = np.concatenate(
        [random.integers(-1, 3, (4, 6, 1)), boxes(24, seed=3).reshape(4, 6, 4)], -1
    ).astype("float32")
    objects[0, :, 0] = -1  # an image without objects
    objects[1, 0] = (1, 0.5, 0.5, 0.53, 0.53)  # smaller than a cell
    cells = random.normal(size=(4, 5, 7, 7)).astype("float32")
    cells[..., 3:] = np.abs(cells[..., 3:]) * 2 + 0.1
    by_hand = [
        detection_by_hand(*pair, 3, smallest, largest) for pair in zip(objects, cells, strict=True)
    ]
    arguments: dict[str, Any] = {"classes": 3, "smallest": smallest, "largest": largest}
    loss = DetectionLoss(**arguments, box_weight=2.0)
    assert float(loss(objects, cells)) == pytest.approx(np.mean([v for v, _ in by_hand]), rel=1e-4)
    metric = CellIoU(**arguments)
    metric.update_state(objects, cells)
    found = [iou for _, ious in by_hand for iou in ious]
    assert len(found) > 3
    assert float(metric.result()) == pytest.approx(np.mean(found), rel=1e-4)


def test_levels_of_a_detector_share_out_the_objects() -> None:
    """Every object falls to one level: the finest on which it has at most `largest` cells."""
    losses = kb.Detector(1, (4, 8, 16), largest=6).losses()
    ranges = {name: (loss.smallest, loss.largest) for name, loss in losses.items()}
    assert ranges == {
        "objects_stride4": (0.0, 6.0),
        "objects_stride8": (3.0, 6.0),
        "objects_stride16": (3.0, np.inf),
    }
    for pixels in (1, 23.9, 24, 24.1, 48, 49, 200):
        takers = [
            stride
            for stride, (least, most) in zip((4, 8, 16), ranges.values(), strict=True)
            if least < pixels / stride <= most
        ]
        assert len(takers) == 1


def suppressed_by_hand(found: np.ndarray, scores: np.ndarray, iou: float) -> list[int]:
    """Every box, surest first, against every one that was kept."""
    kept: list[int] = []
    for i in sorted(range(len(found)), key=lambda i: (-scores[i], i)):
        if all(iou_by_hand(found[i], found[k]) <= iou for k in kept):
            kept.append(i)
    return kept


@settings(max_examples=60)
@given(
    number=st.integers(0, 40), iou=st.sampled_from([0.0, 0.3, 0.5, 1.0]), seed=st.integers(0, 99)
)
def test_non_maximum_suppression(number: int, iou: float, seed: int) -> None:
    found = boxes(number, seed).astype("float64")
    scores = np.random.default_rng(seed).integers(0, 8, number) / 8  # with equal ones
    kept = kb.non_maximum_suppression(found, scores, iou)
    assert list(kept) == suppressed_by_hand(found, scores, iou)
    assert list(kb.non_maximum_suppression(found, scores, iou, most=3)) == list(kept)[:3]


def test_detections_are_the_boxes_that_were_drawn_into_the_maps() -> None:
    """Two levels, two classes; the doubles of a box are suppressed, other classes' are not."""
    fine = np.full((2, 4, 8, 6), -9.0, "float32")
    coarse = np.full((2, 2, 4, 6), -9.0, "float32")
    fine[0, 1, 2] = (-9, 3, 1, 1, 2, 2)  # around (1.5, 2.5), of 4 by 8 cells
    fine[0, 1, 3] = (-9, 2, 1, 2, 2, 1)  # the same box, less sure
    fine[0, 2, 2] = (1, -9, 2, 1, 1, 2)  # the same, of the other class
    coarse[0, 1, 3] = (2, -9, 0.5, 0.5, 5, 5)  # over the edge: cut there
    none, some = kb.detections({"a": fine, "b": coarse}, score=0.5)[::-1]
    same = [0.5 / 4, 1.5 / 8, 3.5 / 4, 4.5 / 8]
    np.testing.assert_allclose(some.boxes, [same, [0.5, 0.75, 1, 1], same], atol=1e-6)
    assert list(some.classes) == [1, 0, 0]
    np.testing.assert_allclose(some.scores, 1 / (1 + np.exp(-np.array([3, 2, 1]))), rtol=1e-5)
    assert none.boxes.shape == (0, 4)
    assert len(kb.detections({"a": fine, "b": coarse}, score=0.5, most=2)[0].scores) == 2
    with pytest.raises(ValueError, match="maps"):
        kb.detections(np.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"detector alone\. Received: kind beside them"):
        kb.detections({"kind": np.zeros((2, 3)), "found": fine})


def test_mean_average_precision_of_a_worked_example() -> None:
    """Three objects; hit, miss, hit, double: precisions 1, 1/2, 2/3 at recalls 1/3, 1/3, 2/3.

    Area: 1/3 x 1 + 1/3 x 2/3 = 5/9. The other class is found whole: (5/9 + 1) / 2.
    """
    a, b, c, d = boxes(4, seed=5)
    far = np.array([0.0, 0.0, 0.001, 0.001], "float32")
    targets = np.array([[(0, *a), (0, *b)], [(0, *c), (1, *d)]])
    found = [
        Detections(np.stack([a, far, a]), np.array([0, 0, 0]), np.array([0.9, 0.8, 0.4])),
        Detections(np.stack([c, d]), np.array([0, 1]), np.array([0.7, 0.6])),
    ]
    assert kb.mean_average_precision(found, targets) == pytest.approx((5 / 9 + 1) / 2)
    empty = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    assert kb.mean_average_precision([empty, empty], targets) == 0
    with pytest.raises(ValueError, match="images"):
        kb.mean_average_precision(found[:1], targets)


# --- through fit ---------------------------------------------------------------------------

INPUT = (32, 32, 3)
BOX = np.array([[0.2, 0.1, 0.7, 0.6]] * 4, "float32")
OBJECTS = np.concatenate([np.array([[0.0], [1.0], [2.0], [-1.0]]), BOX], 1)[:, None].astype(
    "float32"
)
# By name: a head for maps of strides 4 and 8, and its targets for four images.
TRAINED: dict[str, tuple[Callable[[], Any], Any]] = {
    "classifier": (lambda: kb.Classifier(3), np.array([0, 1, 2, 0])),
    "labels": (lambda: kb.Classifier(3, multi_label=True), np.eye(4, 3)),
    "localizer": (
        lambda: kb.Localizer(3, box_weight=0.5),
        {"class": np.array([0, 1, 2, 0]), "box": BOX},
    ),
    "keypoints": (lambda: kb.Keypoints(2, filters=8), BOX.reshape(4, 2, 2)),
    "coordinates": (lambda: kb.Keypoints(2, "coordinates"), BOX.reshape(4, 2, 2)),
    "segmenter": (lambda: kb.Segmenter(3, 4), np.zeros((4, 32, 32), "int32")),
    "detector": (lambda: kb.Detector(3, 4, filters=8), OBJECTS),
    "levels": (lambda: kb.Detector(3, (4, 8), filters=8), OBJECTS),
    "several": (
        lambda: {"kind": kb.Classifier(3), "found": kb.Detector(3, (4, 8), filters=8)},
        {"kind": np.array([0, 1, 2, 0]), "found": OBJECTS},
    ),
}
each_trained = pytest.mark.parametrize(("make", "y"), TRAINED.values(), ids=TRAINED.keys())


def network(head: Any) -> kb.Architecture:
    return kb.resnet(3, blocks=(1, 1), filters=(8, 8), head=head)


@pytest.mark.thin(9)
@each_trained
@pytest.mark.parametrize(
    "policy", ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_a_head_trains_on_its_targets(
    make: Callable[[], Any], y: Any, policy: str, images: Images
) -> None:
    """By a recipe and by `net.head.training()`: the loss falls on four images."""
    keras.config.set_dtype_policy(policy)
    net = network(make())
    net.head.check(y)
    x = images(4, *INPUT)
    model = net.model(INPUT)
    model.compile(keras.optimizers.Adam(3e-3), **net.head.training())
    losses = model.fit(x, y, batch_size=4, epochs=12, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))
    assert losses[-1] < 0.9 * losses[0]
    if policy == "float32":
        again = net.model(INPUT)
        again.set_weights(model.get_weights())
        kb.Recipe().compile(again)
        found = again.evaluate(x, y, verbose=0, return_dict=True)
        known = model.evaluate(x, y, verbose=0, return_dict=True)
        assert found == pytest.approx(known, rel=1e-4, abs=1e-6)


class Batches(keras.utils.PyDataset):
    """One batch."""

    def __init__(self, x: Any, y: Any) -> None:
        super().__init__()
        self.batch = x, y

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return self.batch


def by_hand(model: Any, x: Any, y: Any) -> None:
    """A step of one's own, on TensorFlow."""
    tf = pytest.importorskip("tensorflow")
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    variables = model.trainable_variables
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    model.optimizer.apply(gradients, variables)


def tensors(x: Any, y: Any) -> Any:
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(4).cache().prefetch(1)


WAYS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "eager": lambda model, x, y: model.fit(x, y, batch_size=4, verbose=0),
    "XLA": lambda model, x, y: model.fit(x, y, batch_size=4, verbose=0),
    "tf.data": lambda model, x, y: model.fit(tensors(x, y), verbose=0),
    "PyDataset": lambda model, x, y: model.fit(Batches(x, y), verbose=0),
    "generator": lambda model, x, y: model.fit(
        ((x, y) for _ in itertools.count()), steps_per_epoch=1, verbose=0
    ),
    "train_on_batch": lambda model, x, y: model.train_on_batch(x, y),
    "by hand": by_hand,
}


@pytest.mark.thin(1000, 5)
@each_trained
@pytest.mark.parametrize("way", WAYS)
def test_a_head_trains_alike_however_it_is_trained(
    way: str, make: Callable[[], Any], y: Any, images: Images
) -> None:
    net, x = network(make()), images(4, *INPUT)
    start = net.model(INPUT).get_weights()
    how = {"eager": {"run_eagerly": True}, "XLA": {"jit_compile": True}}.get(way, {})

    def trained(how: dict[str, Any], step: Callable[[Any, Any, Any], Any]) -> list[np.ndarray]:
        model = net.model(INPUT)
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.01), **net.head.training(), **how)
        step(model, x, y)
        return model.get_weights()

    plain = trained({"jit_compile": False}, WAYS["eager"])
    moved = max(np.abs(a - b).max() for a, b in zip(plain, start, strict=True))
    assert moved > 1e-5
    for mine, theirs in zip(trained(how, WAYS[way]), plain, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_heads_are_loaded_in_a_process_that_knows_kblocks_alone(
    tmp_path: Path, images: Images, fresh_process: Callable[..., str]
) -> None:
    x = images(4, *INPUT)
    np.save(tmp_path / "x.npy", x)
    expected = {}
    for name, (make, y) in TRAINED.items():
        net = network(make())
        model = net.model(INPUT)
        model.compile("sgd", **net.head.training())
        model.fit(x, y, verbose=0)
        model.save(tmp_path / f"{name}.keras")
        expected[name] = float(np.atleast_1d(model.evaluate(x, y, verbose=0))[0])
    (tmp_path / "targets.pkl").write_bytes(pickle.dumps({k: y for k, (_, y) in TRAINED.items()}))
    script = f"""
import pickle, keras, numpy as np, kblocks
from pathlib import Path
folder = Path({str(tmp_path)!r})
x, targets = np.load(folder / "x.npy"), pickle.loads((folder / "targets.pkl").read_bytes())
for name, y in targets.items():
    model = keras.models.load_model(folder / f"{{name}}.keras")
    print("loss", name, float(np.atleast_1d(model.evaluate(x, y, verbose=0))[0]))
"""
    lines = [line.split() for line in fresh_process(script).splitlines()]
    found = {line[1]: float(line[2]) for line in lines if line[:1] == ["loss"]}
    assert found == pytest.approx(expected, rel=1e-4)


def test_weights_of_losses_are_in_the_sum(images: Images) -> None:
    net = network(kb.Localizer(3, class_weight=2.0, box_weight=0.25))
    model, y = net.model(INPUT), TRAINED["localizer"][1]
    model.compile("sgd", **net.head.training())
    logs = model.evaluate(images(4, *INPUT), y, verbose=0, return_dict=True)
    expected = 2 * logs["class_loss"] + 0.25 * logs["box_loss"]
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    other = net.head.training({"box": 4.0})["loss_weights"]
    assert other == {"class": 2.0, "box": 4.0}
    with pytest.raises(ValueError, match=r"loss_weights.*class, box.*'boxes'"):
        net.head.training({"boxes": 1.0})


@pytest.mark.slow
def test_channels_first_has_the_same_loss(images: Images) -> None:
    """Of maps, whose channels the loss must look for elsewhere."""
    for name in ("segmenter", "levels", "keypoints"):
        make, y = TRAINED[name]
        found, weights = [], None
        for data_format in ("channels_last", "channels_first"):
            keras.config.set_image_data_format(data_format)
            net = network(make())
            model = net.model(INPUT)
            weights = weights or model.get_weights()
            model.set_weights(weights)
            model.compile("sgd", **net.head.training(), jit_compile=False)
            x = images(4, *INPUT)
            x = x if data_format == "channels_last" else x.transpose(0, 3, 1, 2)
            found.append(model.evaluate(x, y, verbose=0, return_dict=True))
            if name == "levels":
                maps = {k: np.asarray(v) for k, v in model.predict(x, verbose=0).items()}
                found[-1]["found"] = len(kb.detections(maps, score=0.0)[0].scores)
        assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-5), name


# --- bad input -----------------------------------------------------------------------------

# (head, targets, what the message says that fits): refused by the check and by `fit` alike.
SHAPES: list[tuple[str, Any, str]] = [
    ("classifier", np.eye(4), r"classes from 0 to 2.*shape \(4, 4\)"),
    ("classifier", np.zeros((4, 1, 1)), r"\(batch,\).*shape \(4, 1, 1\)"),
    ("labels", np.zeros(4), r"each of 3 labels.*shape \(4,\)"),
    ("labels", np.eye(4), r"each of 3 labels.*shape \(4, 4\)"),
    ("localizer", {"class": np.zeros(4), "box": np.zeros((4, 5))}, r"\(batch, 4\).*\(4, 5\)"),
    ("localizer", {"class": np.zeros(4), "box": np.zeros(4)}, r"\(y1, x1, y2, x2\).*\(4,\)"),
    ("localizer", {"class": np.eye(4), "box": BOX}, r"classes from 0 to 2.*shape \(4, 4\)"),
    ("keypoints", np.zeros((4, 3, 2)), r"\(batch, 2, 2\).*\(4, 3, 2\)"),
    ("keypoints", np.zeros((4, 4)), r"\(batch, 2, 2\).*\(4, 4\)"),
    ("coordinates", np.zeros((4, 2, 4)), r"\(batch, 2, 3\).*\(4, 2, 4\)"),
    ("segmenter", np.zeros((4, 32, 32, 3)), r"\(batch, height, width\).*\(4, 32, 32, 3\)"),
    ("segmenter", np.zeros(4), r"\(batch, height, width\).*\(4,\)"),
    ("detector", np.zeros((4, 5)), r"\(batch, objects, 5\).*\(4, 5\)"),
    ("levels", np.zeros((4, 2, 4)), r"\(batch, objects, 5\).*\(4, 2, 4\)"),
]
VALUES: list[tuple[str, Any, str]] = [
    ("classifier", np.array([0, 1, 2, 3]), "from 0 to 3"),
    ("classifier", np.array([0.5, 1, 2, 1]), "fractions"),
    ("labels", 2 * np.eye(4, 3), "from 0.0 to 2.0"),
    ("localizer", {"class": np.zeros(4), "box": 64 * BOX}, "in pixels"),
    ("localizer", {"class": np.zeros(4), "box": BOX[:, [2, 3, 0, 1]]}, "y2 <= y1"),
    ("localizer", {"class": np.zeros(4)}, "dict of class, box"),
    ("localizer", np.zeros(4), "dict of class, box"),
    ("keypoints", np.full((4, 2, 2), 3.0), "from 3.0 to 3.0"),
    ("segmenter", np.full((4, 32, 32), 3), "from 3 to 3"),
    ("detector", np.array([[[3, 0.1, 0.1, 0.2, 0.2]]]), "classes from 3"),
    ("several", {"kind": np.zeros(4), "found": 40 * OBJECTS}, "found: "),
]


@pytest.mark.parametrize(("name", "y", "words"), SHAPES)
def test_targets_of_other_shapes(name: str, y: Any, words: str, images: Images) -> None:
    net = network(TRAINED[name][0]())
    with pytest.raises(ValueError, match=words):
        net.head.check(y)
    model = net.model(INPUT)
    model.compile("sgd", **net.head.training())
    traced = words.replace(r"\(4,", r"\((4|None),")  # `fit` leaves the batch open
    with pytest.raises(ValueError, match=traced):
        model.fit(images(4, *INPUT), y, verbose=0)


@pytest.mark.parametrize(("name", "y", "words"), VALUES)
def test_targets_of_other_values(name: str, y: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        network(TRAINED[name][0]()).head.check(y)


# What `check` refuses is refused while training too: (head, targets, words). Where XLA compiles
# the step there is no way to say so, and the loss is no number.
LABELS: list[tuple[str, Any, str]] = [
    ("classifier", np.array([0, 1, 2, 3]), "classes from 0 to 2"),
    ("classifier", np.array([0, 1, 2, -1]), "classes from 0 to 2"),
    ("classifier", np.array([0.5, 1, 2, 1]), "classes from 0 to 2"),
    ("segmenter", np.full((4, 32, 32), 255), "`void` is a label that does not count"),
    ("detector", np.array([[[3, 0.1, 0.1, 0.2, 0.2]]] * 4), "classes from 0 to 2 or -1"),
    ("several", {"kind": np.full(4, 3), "found": OBJECTS}, "classes from 0 to 2"),
]
PIXELS: list[tuple[str, Any, str]] = [
    ("localizer", {"class": np.zeros(4), "box": 64 * BOX}, "in pixels"),
    ("levels", OBJECTS * [1, 64, 64, 64, 64], "in pixels"),
]


@pytest.mark.thin(8)
@pytest.mark.parametrize("eagerly", [False, True])
@pytest.mark.parametrize(("name", "y", "words"), LABELS + PIXELS)
def test_values_that_do_not_fit_are_refused_while_training(
    name: str, y: Any, words: str, eagerly: bool, images: Images
) -> None:
    net = network(TRAINED[name][0]())
    model = net.model(INPUT)
    model.compile("sgd", **net.head.training(), run_eagerly=eagerly, jit_compile=False)
    for call in (model.fit, model.evaluate):
        with pytest.raises(Exception, match=words) as caught:  # TensorFlow's own, in its graphs
            call(images(4, *INPUT), y, verbose=0)
        assert eagerly <= isinstance(caught.value, ValueError)


@pytest.mark.thin(6)
@pytest.mark.parametrize(("name", "y", "words"), LABELS)
def test_under_xla_labels_that_do_not_fit_give_no_number(
    name: str, y: Any, words: str, images: Images
) -> None:
    net = network(TRAINED[name][0]())
    model = net.model(INPUT)
    model.compile("sgd", **net.head.training(), jit_compile=True)
    assert np.isnan(model.evaluate(images(4, *INPUT), y, verbose=0)[0])
    good = model.evaluate(images(4, *INPUT), TRAINED[name][1], verbose=0)
    assert np.isfinite(good[0])


@pytest.mark.parametrize(
    ("head", "y"),
    [(kb.Classifier(1), np.zeros(4)), (kb.Segmenter(1, 4), np.zeros((4, 32, 32)))],
    ids=["class", "mask"],
)
def test_one_class_alone_is_refused(head: Any, y: Any, images: Images) -> None:
    """Whose softmax is 1 whatever the network does."""
    net = network(head)
    model = net.model(INPUT)
    model.compile("sgd", **net.head.training())
    with pytest.raises(ValueError, match="always right"):
        model.fit(images(4, *INPUT), y, verbose=0)
    with pytest.raises(ValueError, match="always right"):
        net.head.check(y)


DICTS: list[Any] = [
    {"classes": np.zeros(4), "box": BOX},
    {"class": np.zeros(4)},
    {"class": np.zeros(4), "box": BOX, "more": BOX},
    np.zeros(4),
]


@pytest.mark.thin(4)
@pytest.mark.parametrize("y", DICTS, ids=["misspelled", "missing", "more", "array"])
def test_other_dicts_of_targets_are_refused_and_the_right_one_then_trains(
    y: Any, images: Images
) -> None:
    tf = pytest.importorskip("tensorflow")
    net = network(kb.Localizer(3))
    model = net.model(INPUT)
    model.compile("sgd", **net.head.training())
    x = images(4, *INPUT)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    calls = [lambda: model.fit(x, y, verbose=0), lambda: model.evaluate(x, y, verbose=0)]
    calls += [lambda: model.train_on_batch(x, y), lambda: model.fit(data, verbose=0)]
    for call in calls:
        with pytest.raises(ValueError, match=r"Targets must be a dict of class, box\. Received"):
            call()
    model.fit(x, TRAINED["localizer"][1], verbose=0)


@pytest.mark.parametrize(
    ("name", "size"), [("classifier", ()), ("labels", (None,)), ("keypoints", (2, None))]
)
def test_targets_of_an_unknown_last_size_are_refused(name: str, size: Any, images: Images) -> None:
    """Which TensorFlow would broadcast against the outputs in silence."""
    tf = pytest.importorskip("tensorflow")
    net = network(TRAINED[name][0]())
    model = net.model(INPUT)
    model.compile("sgd", **net.head.training())
    x, y = images(4, *INPUT), np.asarray(TRAINED[name][1], "float32")
    y, size = (y[:, None], (None,)) if name == "classifier" else (y, size)
    specs = tf.TensorSpec((None, *INPUT)), tf.TensorSpec((None, *size))
    data = tf.data.Dataset.from_generator(lambda: [(x, y)], output_signature=specs)
    with pytest.raises(ValueError, match=r"Received: targets of shape \(None, .*None\)"):
        model.fit(data, shuffle=False, verbose=0)


@pytest.mark.parametrize(
    ("name", "y", "words"),
    [
        ("localizer", {"class": np.zeros(4), "box": BOX * np.nan}, "from nan"),
        ("keypoints", np.full((4, 2, 2), np.nan), "from nan"),
        ("detector", OBJECTS * [0.5, 1, 1, 1, 1], "fractions"),
        ("classifier", np.array(["a", "b", "c", "d"]), "dtype <U1"),
        ("detector", [[[0, 0, 0, 1, 1]], []], "inhomogeneous"),
    ],
)
def test_values_that_are_no_numbers_are_refused(name: str, y: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"Targets must be .*{words}"):
        network(TRAINED[name][0]()).head.check(y)


def test_masks_of_another_size(images: Images) -> None:
    net = network(kb.Segmenter(3, 4))
    model = net.model(INPUT)
    model.compile("sgd", **net.head.training())
    with pytest.raises(ValueError, match=r"targets of shape \(4, 16, 16\) for outputs of"):
        model.fit(images(4, *INPUT), np.zeros((4, 16, 16)), batch_size=4, verbose=0)


def test_a_network_without_a_head_has_no_tasks() -> None:
    net = kb.Architecture([kb.ConvBlock.Spec(4)])
    assert dict(net.head) == {}
    with pytest.raises(ValueError, match="head of kblocks"):
        net.head.training()


# --- sample weights ------------------------------------------------------------------------

ROWS = [kb.ConvBlock.Spec(4, strides=2), kb.ConvBlock.Spec(4, strides=2)]


@pytest.mark.parametrize("batch", [8, 16])
@pytest.mark.parametrize("void", [None, 2])
def test_weights_of_pixels_are_those_of_keras(batch: int, void: int | None) -> None:
    """Also where the batch is as large as an image, which would be broadcast without an error."""
    random = np.random.default_rng(0)
    net = kb.Architecture(ROWS, head=kb.Segmenter(3, stride=2, void=void))
    model = net.model((16, 16, 3))
    model.compile("sgd", **net.head.training())
    x = random.random((16, 16, 16, 3), "float32")
    y, weights = random.integers(0, 3, (16, 16, 16)), random.random((16, 16, 16), "float32")
    found = model.evaluate(x, y, sample_weight=weights, batch_size=batch, verbose=0)[0]
    logits = model.predict(x, verbose=0).astype("float64")
    chances = np.take_along_axis(logits, y[..., None], -1)[..., 0]
    losses = np.log(np.exp(logits).sum(-1)) - chances
    counts = np.ones_like(losses) if void is None else (y != void).astype(float)
    images = (losses * counts * weights).sum((1, 2)) / counts.sum((1, 2))
    assert found == pytest.approx(images.mean(), rel=1e-4)


def test_weights_of_points_are_refused() -> None:
    net = kb.Architecture(ROWS, head=kb.Keypoints(3))
    model = net.model((16, 16, 3))
    model.compile("sgd", **net.head.training())
    x, y = np.zeros((4, 16, 16, 3)), np.full((4, 3, 2), 0.5)
    with pytest.raises(ValueError, match=r"one a sample. Received: shape \(.*3\)"):
        model.train_on_batch(x, y, sample_weight=np.ones((4, 3)))


@pytest.mark.slow
def test_one_tensor_of_weights_is_for_all_targets() -> None:
    tf = pytest.importorskip("tensorflow")
    head: dict[str, Any] = {
        "kind": kb.Classifier(3),
        "found": kb.Detector(3, strides=(2, 4), filters=4),
    }
    net = kb.Architecture(ROWS, head=head)
    model = net.model((16, 16, 3))
    model.compile("sgd", **net.head.training())
    objects = np.full((4, 1, 5), -1.0, "float32")
    objects[:, 0] = 1, 0.1, 0.1, 0.6, 0.7
    x, y = (
        np.random.default_rng(0).random((4, 16, 16, 3)),
        {"kind": np.arange(4) % 3, "found": objects},
    )
    weights = np.full(4, 2.0, "float32")
    data = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(4)
    weighted = model.evaluate(data, verbose=0)[0]
    assert weighted == pytest.approx(2 * model.evaluate(x, y, verbose=0)[0], rel=1e-5)


# --- parts exchanged and loaded ------------------------------------------------------------


def test_a_replaced_row_leaves_the_targets() -> None:
    net = kb.Architecture(ROWS, head=kb.Detector(3, strides=(2, 4), filters=4))
    other = net.replace("stage1", kb.ConvBlock.Spec(6, strides=2))
    assert other.targets == net.targets != {}
    other.head.check({"objects": np.full((2, 1, 5), -1.0)})


@pytest.mark.thin(5)
@pytest.mark.parametrize(
    "head",
    [kb.Localizer(3), kb.Segmenter(3), kb.Keypoints(2), kb.Detector(3), {"a": kb.Classifier(3)}],
    ids=lambda head: type(head).__name__,
)
def test_published_weights_fit_under_any_head(head: Any) -> None:
    source = kb.resnet18(7, filters=[4, 4, 8, 8]).model((64, 64, 3))
    state = kb.to_torch_state_dict(source)
    model = kb.resnet18(head=head, filters=[4, 4, 8, 8]).model((64, 64, 3), weights=state)
    for layer in source.layers[:-1]:
        for one, other in zip(layer.weights, model.get_layer(layer.name).weights, strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


# --- nothing to see ------------------------------------------------------------------------


def test_images_without_a_point_to_see_are_not_in_the_metrics() -> None:
    targets, places = np.full((4, 2, 3), 0.5, "float32"), np.full((4, 2, 2), 0.5, "float32")
    targets[:2, :, 2], targets[2:, :, 2], places[..., 0] = 1, 0, 0.7
    for metric, expected in ((KeypointDistance(), 0.2), (KeypointsWithin(0.3), 1.0)):
        metric.update_state(targets, places)
        assert float(metric.result()) == pytest.approx(expected)
        metric.update_state(targets, places, np.array([1.0, 0.0, 1.0, 1.0]))
        assert float(metric.result()) == pytest.approx(expected)


@pytest.mark.parametrize("eagerly", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_batch_without_an_object_trains(eagerly: bool) -> None:
    """As one whose objects are all -1."""
    net = kb.Architecture(ROWS, head=kb.Detector(3, strides=4, filters=4))
    model = net.model((16, 16, 3))
    model.compile("sgd", run_eagerly=eagerly, **net.head.training())
    x = np.random.default_rng(0).random((4, 16, 16, 3), "float32")
    none, filled = np.zeros((4, 0, 5), "float32"), np.full((4, 1, 5), -1.0, "float32")
    net.head.check(none)
    losses = [model.evaluate(x, y, verbose=0)[0] for y in (none, filled)]
    assert losses[0] == pytest.approx(losses[1])
    assert np.isfinite(model.train_on_batch(x, none)[0])
