"""Convolutions and pools over maps in plain NumPy: what the tests hold kblocks against."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Pads = tuple[tuple[int, int], tuple[int, int]]
PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}


def pair(value: Any) -> tuple[int, int]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def pad(x: np.ndarray, pads: Pads, mode: str = "constant", **more: Any) -> np.ndarray:
    return np.pad(x, ((0, 0), *pads, (0, 0)), mode=mode, **more)


def windows(x: np.ndarray, kernel: Any, strides: Any, dilation: Any = 1) -> np.ndarray:
    """(batch, rows, columns, channels, kernel height, kernel width) over a padded map."""
    (kh, kw), (sh, sw), (dh, dw) = pair(kernel), pair(strides), pair(dilation)
    spans = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    seen = sliding_window_view(x, spans, axis=(1, 2))
    return seen[:, ::sh, ::sw, :, ::dh, ::dw]


def conv(
    x: np.ndarray, kernel: np.ndarray, strides: Any = 1, dilation: Any = 1, groups: int = 1
) -> np.ndarray:
    """The valid convolution by a kernel of (height, width, channels / groups, filters)."""
    outputs = []
    for inputs, filters in zip(
        np.split(x, groups, axis=-1), np.split(kernel, groups, axis=-1), strict=True
    ):
        seen = windows(inputs, kernel.shape[:2], strides, dilation)
        outputs.append(np.einsum("nyxcij,ijcf->nyxf", seen, filters, optimize=True))
    return np.concatenate(outputs, axis=-1)


def pool(x: np.ndarray, kind: str, size: Any, strides: Any, pads: Pads) -> np.ndarray:
    """Windows see only what lies on the map: padding is never a value."""
    seen = windows(pad(x.astype("float64"), pads, constant_values=np.nan), size, strides)
    return {"max": np.nanmax, "avg": np.nanmean, "min": np.nanmin}[kind](seen, axis=(-2, -1))


def same_pads(size: Any, kernel: Any, strides: Any, dilation: Any = 1) -> Pads:
    """TensorFlow's SAME (tf.nn's documentation): ceil(n / s) outputs, the odd pixel behind."""
    pads = []
    for n, k, s, d in zip(size, pair(kernel), pair(strides), pair(dilation), strict=True):
        outputs = int(np.ceil(n / s))
        total = max((outputs - 1) * s + (k - 1) * d + 1 - n, 0)
        pads.append((total // 2, total - total // 2))
    return pads[0], pads[1]


def adaptive_average(x: np.ndarray, size: Any) -> np.ndarray:
    """As PyTorch defines it: window i of m covers floor(i n / m) up to ceil((i + 1) n / m)."""
    (rows, columns), (h, w) = pair(size), x.shape[1:3]
    outputs = np.empty((len(x), rows, columns, x.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * h // rows, -(-(i + 1) * h // rows)
            left, right = j * w // columns, -(-(j + 1) * w // columns)
            outputs[:, i, j] = x[:, top:bottom, left:right].mean((1, 2))
    return outputs
