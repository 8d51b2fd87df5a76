"""Mixes the images of a batch (MixUp, CutMix), and losses and metrics in the same shares."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from kblocks.common.overriding import override
from kblocks.training.moving import Kind, image_places, joined, parted

_ops: Any = keras.ops  # its functions are annotated as if they could return None
MIXING = (keras.layers.MixUp, keras.layers.CutMix)
METHODS = "compute_loss", "compute_metrics"  # of a model, that are replaced
# For each image of a batch some of its rows, (batch,), and the share of each of them, (batch,).
Parts = list[tuple[Any, Any]]


def check_mixes(layer: Any, kinds: Mapping[Any, Kind], model: keras.Model) -> None:
    """Refuses to mix the images of a model whose targets or inputs cannot be mixed.

    Raises:
        ValueError: for targets other than classes, inputs other than images, or a summed loss.
    """
    name = type(layer).__name__
    lying = [str(output) for output, kind in kinds.items() if kind.geometry != "class"]
    if lying:
        raise ValueError(
            "`augmentation` can mix images for classifiers only: masks, boxes and points cannot be "
            f"mixed. Received: {name} for targets of {', '.join(dict.fromkeys(lying))}"
        )
    others = [x.name for x in getattr(model, "inputs", None) or () if len(x.shape) != 4]
    if others:
        raise ValueError(
            "`augmentation` can mix images only if all inputs are images. "
            f"Received: {name} for a model with the inputs {', '.join(others)}"
        )
    if any(getattr(loss, "reduction", None) == "sum" for loss in keras.tree.flatten(model.loss)):
        raise ValueError(
            "`augmentation` can mix images only if the loss is a mean over the batch. "
            f"Received: {name} for a loss with reduction='sum'"
        )


def mixed(batch: Any, layer: Any, parts: Parts | None) -> tuple[Any, Parts]:
    """A batch (x, y, weights) with mixed images and its own targets, and what is in each image.

    Args:
        batch: whose images an earlier layer may have mixed.
        layer: a MixUp or CutMix layer.
        parts: what is in each image of `batch`; None if each has itself alone.
    """
    leaves = keras.tree.flatten(batch)
    places = image_places(batch)
    axis = 1 if keras.config.image_data_format() == "channels_first" else 3
    images = [_ops.convert_to_tensor(leaves[place]) for place in places]
    whole = joined(images, axis)
    drawn = layer.get_random_transformation({"images": whole}, training=True)
    whole = layer.transform_images(whole, drawn, training=True)
    channels = [image.shape[axis] for image in images]
    for place, image in zip(places, parted(whole, channels, axis), strict=True):
        leaves[place] = image
    order = _ops.cast(drawn["permutation_order"], "int32")
    share = _ops.cast(_ops.reshape(drawn["mix_weight"], (-1,)), "float32")
    if isinstance(layer, keras.layers.CutMix):  # the pixels, and not the area before rounding
        share = 1 - _ops.mean(_ops.cast(drawn["batch_masks"], "float32"), axis=(1, 2, 3))
    if parts is None:
        parts = [(_ops.arange(_ops.shape(order)[0], dtype="int32"), _ops.ones_like(share))]
    pasted = [(_ops.take(rows, order), _ops.take(old, order)) for rows, old in parts]
    kept = [(rows, share * old) for rows, old in parts]
    return keras.tree.pack_sequence_as(batch, leaves), [
        *kept,
        *((rows, (1 - share) * old) for rows, old in pasted),
    ]


class Mixture:
    """Makes the loss of a model the mean of the losses for all images in a mixed one.

    The weights are the shares; for cross-entropy, that is the loss with the mixed labels (Zhang et
    al. 2017, arXiv:1710.09412), for labels of any form. Metrics compare with the label of the image
    that has the largest share.
    """

    def __init__(self) -> None:
        self._held = threading.local()  # the parts during a training step, in each thread

    def attach(self, model: keras.Model) -> None:
        """Replaces the methods of a model that compute its loss and metrics."""
        override(model, "compute_loss", self._loss)
        override(model, "compute_metrics", self._metrics)

    @contextlib.contextmanager
    def of(self, parts: Parts | None) -> Iterator[None]:
        """Inside, the step of a batch that has these parts is computed or traced."""
        self._held.parts = parts
        try:
            yield
        finally:
            self._held.parts = None

    def _loss(
        self,
        model: Any,
        plain: Any,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        **rest: Any,
    ) -> Any:
        parts: Parts | None = getattr(self._held, "parts", None)
        if parts:
            rows = _ops.concatenate([rows for rows, _ in parts])
            shares = len(parts) * _ops.concatenate([share for _, share in parts])
            y = _taken(y, rows)
            y_pred = keras.tree.map_structure(
                lambda outputs: _ops.concatenate([outputs] * len(parts)), y_pred
            )
            weights = _taken(sample_weight, rows)
            sample_weight = keras.tree.map_structure(lambda w: _times(shares, w), weights)
        return plain(x, y, y_pred, sample_weight, **rest)

    def _metrics(
        self, model: Any, plain: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> Any:
        parts: Parts | None = getattr(self._held, "parts", None)
        if parts:
            largest, share = parts[0]
            for rows, other in parts[1:]:
                largest = _ops.where(other > share, rows, largest)
                share = _ops.maximum(other, share)
            y, sample_weight = _taken(y, largest), _taken(sample_weight, largest)
        return plain(x, y, y_pred, sample_weight)


def _taken(tree: Any, rows: Any) -> Any:
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else _ops.take(leaf, rows, axis=0), tree
    )


def _times(shares: Any, weights: Any) -> Any:
    if weights is None:
        return shares
    return _ops.cast(weights, "float32") * _ops.reshape(shares, (-1, *[1] * len(weights.shape[1:])))
