"""The one place that asks which backend and device Keras runs on."""

from __future__ import annotations

import functools

import keras


@functools.cache
def convolves_channels_first() -> bool:
    """Whether a channels-first convolution has a kernel for every dtype here.

    TensorFlow's CPU lacks it in float16 and float64, and in every dtype without oneDNN.
    """
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
