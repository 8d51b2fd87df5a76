"""The one place that asks which backend and device Keras runs on, and that calls TensorFlow."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Collection
from typing import Any

import keras

_LEAST_EPSILON = 1.001e-5  # that the batch norm of every GPU library takes


def name() -> str:
    """The backend: "tensorflow", "jax" or "torch"."""
    return str(keras.backend.backend())


@functools.cache
def has_accelerator() -> bool:
    """Whether TensorFlow or JAX computes on something else than a CPU."""
    if name() == "jax":
        import jax

        return bool(jax.default_backend() != "cpu")
    if name() != "tensorflow":
        return False
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def convolves_channels_first() -> bool:
    """Whether a channels-first convolution has a kernel for every dtype here.

    TensorFlow's CPU lacks it in float16 and float64, and in every dtype without oneDNN.
    """
    return name() != "tensorflow" or has_accelerator()


@functools.cache
def convolves_groups(dtype: str, dilated: bool) -> bool:
    """Whether TensorFlow's own kernel of a grouped convolution has a gradient on all devices here.

    Found by trying: a CPU has it through oneDNN, but not in every dtype, and not at all where
    oneDNN is switched off or missing.
    """
    import tensorflow as tf

    devices = ("CPU", "GPU") if has_accelerator() else ("CPU",)
    with tf.init_scope():
        return all(_tries_groups(device, dtype, dilated) for device in devices)


def _tries_groups(device: str, dtype: str, dilated: bool) -> bool:
    import tensorflow as tf

    inputs, kernel = tf.ones((1, 8, 8, 4), dtype), tf.ones((3, 3, 2, 4), dtype)
    how = {"strides": [1] * 4, "padding": "SAME", "dilations": [1, *[1 + dilated] * 2, 1]}
    try:
        with tf.device(device):  # by the gradient's own ops, as tapes rest in an init scope
            outputs = tf.nn.conv2d(inputs, kernel, **how)
            size, shape = tf.shape(inputs), tf.shape(kernel)
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=size, filter=kernel, out_backprop=outputs, **how
            ).numpy()  # a GPU tells of its errors only when it is read
            tf.raw_ops.Conv2DBackpropFilter(
                input=inputs, filter_sizes=shape, out_backprop=outputs, **how
            ).numpy()
    except (tf.errors.OpError, ValueError):
        return False
    return True


def overruns(kernel_shape: Any, strides: Any) -> bool:
    """Whether the kernel gradient of a convolution may write over memory that is not its own.

    oneDNN's does so on CPUs, under TensorFlow and PyTorch, for 1x1 kernels with strides and fewer
    input channels than a vector register has places, 16 at most: uxlfoundation/oneDNN issue 6035.
    """
    height, width, channels, _ = kernel_shape
    if height * width > 1 or max(strides) == 1 or channels >= 16:
        return False
    return name() == "torch" or (name() == "tensorflow" and not compiles())


def errs_channels_last(kernel_shape: Any, dilation_rate: Any, groups: int, dtype: str) -> bool:
    """Whether PyTorch's kernel gradient is wrong for maps that lie channels-last in memory.

    As Keras passes them on. In bfloat16 the gradient of dilated groups is left unwritten; the one
    of one filter may raise "grad_weight must be contiguous".
    """
    if name() != "torch":
        return False
    if groups > 1:
        return dtype == "bfloat16" and max(dilation_rate) > 1
    return kernel_shape[-1] == 1


def channels_first(inputs: Any, data_format: str) -> Any:
    """Maps in that order, in memory as well: a tensor of PyTorch's."""
    if data_format == "channels_last":
        inputs = keras.ops.transpose(inputs, (0, 3, 1, 2))
    return inputs.contiguous()


def conv2d(
    inputs: Any, kernel: Any, strides: Any, padding: str, dilation_rate: Any, data_format: str
) -> Any:
    """TensorFlow's own convolution, grouped where the kernel has fewer channels than the inputs."""
    import tensorflow as tf

    edges: Any = padding.upper()
    return tf.nn.conv2d(
        inputs,
        kernel,
        strides,
        edges,
        data_format="NHWC" if data_format == "channels_last" else "NCHW",
        dilations=dilation_rate,
    )


def compiles() -> bool:
    """Whether what TensorFlow traces now is for XLA (`jit_compile=True`).

    There is no public way to ask. A test sees to it that this one still tells.
    """
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    if tf.executing_eagerly():
        return False
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def has_fused_batch_norm(epsilon: float, data_format: str) -> bool:
    """Whether one kernel normalizes here and now, with a gradient.

    Under XLA several ops are faster. CPUs have none for channels-first maps, and that of GPUs may
    not take a smaller epsilon.
    """
    if name() != "tensorflow" or compiles():
        return False
    return epsilon >= _LEAST_EPSILON if has_accelerator() else data_format == "channels_last"


def fused_batch_norm(
    x: Any, scale: Any, offset: Any, moments: Any, epsilon: float, data_format: str
) -> tuple[Any, Any, Any]:
    """The normalized maps, and the mean and variance (with no correction for their number).

    By `moments`, a mean and variance that are known, or None for those of `x`.
    """
    import tensorflow as tf

    known = moments is not None
    mean, variance = moments if known else (tf.zeros(0), tf.zeros(0))
    outputs = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=scale,
        offset=offset,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        data_format="NHWC" if data_format == "channels_last" else "NCHW",
        is_training=not known,
    )
    if known:
        return outputs.y, mean, variance
    values = tf.cast(tf.size(x) // tf.size(scale), "float32")  # of each channel
    return outputs.y, outputs.batch_mean, outputs.batch_variance * ((values - 1) / values)


def kept_from_fusing(x: Any) -> Any:
    """The same tensor, behind an op that TensorFlow's rewriting of graphs does not look through.

    On a CPU with oneDNN it fuses a convolution, `fused_batch_norm` and tanh or mish into a kernel
    that it does not have: "Fusion is not implemented". A test tells when that is mended.
    """
    import tensorflow as tf

    return x if tf.executing_eagerly() else tf.ensure_shape(x, x.shape)


def has_update_kernels() -> bool:
    """Whether an optimizer's step on a variable can be one op here: on TensorFlow's one device."""
    if name() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.distribute.has_strategy()


def updates_in_place(variable: Any, gradient: Any) -> bool:
    """Whether these are a variable of TensorFlow's own and a whole gradient.

    Not so in a `keras.StatelessScope` and for a gradient of some rows only.
    """
    import tensorflow as tf

    return isinstance(variable, tf.Variable) and isinstance(gradient, tf.Tensor)


def apply_adam(
    variable: Any, slots: Any, gradient: Any, powers: Any, rates: Any, epsilon: float
) -> None:
    """Adam's step on a variable and its two moments; `rates` are learning rate, beta 1 and 2."""
    import tensorflow as tf

    first, second = slots
    learning_rate, beta_1, beta_2 = rates
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=first.value.handle,
        v=second.value.handle,
        beta1_power=tf.cast(powers[0], variable.dtype),
        beta2_power=tf.cast(powers[1], variable.dtype),
        lr=tf.cast(learning_rate, variable.dtype),
        beta1=beta_1,
        beta2=beta_2,
        epsilon=epsilon,
        grad=tf.cast(gradient, variable.dtype),
    )


def apply_sgd(
    variable: Any, slot: Any, gradient: Any, learning_rate: Any, momentum: float, nesterov: bool
) -> None:
    """A step of gradient descent on a variable and, with momentum, its slot."""
    import tensorflow as tf

    rate = tf.cast(learning_rate, variable.dtype)
    gradient = tf.cast(gradient, variable.dtype)
    if slot is None:
        tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)
        return
    tf.raw_ops.ResourceApplyKerasMomentum(
        var=variable.handle,
        accum=slot.value.handle,
        lr=rate,
        grad=gradient,
        momentum=momentum,
        use_nesterov=nesterov,
    )


def recomputed(function: Any, inputs: Any, seeds: Any) -> Any:
    """`function(inputs)`, computed once more in the backward pass in place of being kept.

    `seeds` are the states of its random numbers. The second time draws the same ones, and what
    it assigns to variables is thrown away: `keras.remat` moves averages twice and drops others.
    """
    if name() != "tensorflow":
        raise ValueError(f"`remat` needs the TensorFlow backend. Received: backend={name()!r}")
    import tensorflow as tf

    states: list[Any] = []

    def once_more(x: Any) -> Any:
        if states:
            with keras.StatelessScope(state_mapping=states[0]):
                return function(x)
        states.append([(seed, tf.identity(seed.value)) for seed in seeds])
        return function(x)

    return tf.recompute_grad(once_more)(inputs)


def demand(condition: Any, message: str, values: Any) -> None:
    """Refuses values of tensors while a model is trained, as far as the backend can.

    Nothing is said where a step is compiled by XLA, which has no way to.

    Args:
        condition: a scalar, whether they are as they must be.
        message: what they must be.
        values: tensors to show.

    Raises:
        ValueError: if not; within TensorFlow's graphs its InvalidArgumentError, with the message.
    """
    if name() == "tensorflow":
        import tensorflow as tf

        if compiles():
            return
        if not tf.executing_eagerly():
            tf.debugging.Assert(condition, [f"{message} Received:", *values])
            return
    elif name() != "torch":
        return
    if not bool(condition):
        told = ", ".join(str(keras.ops.convert_to_numpy(value)) for value in values)
        raise ValueError(f"{message} Received: {told}")


def custom_gradients() -> dict[str, Any]:
    """The gradients of their own that functions have registered while TensorFlow traced them.

    TensorFlow takes none out: each keeps the graph that it was traced in, and Keras' optimizers
    register one with every `train_step`. This table is private; empty where it has been moved.
    """
    if name() != "tensorflow":
        return {}
    try:
        from tensorflow.python.framework import ops

        return ops.gradient_registry._registry
    except (ImportError, AttributeError):
        return {}


def forget_gradients(known: Collection[str]) -> None:
    """Takes out the custom gradients that have been registered since `known` were all of them.

    Functions that were traced meanwhile can still be called, but no more be traced anew.
    """
    registered = custom_gradients()
    for one in [n for n in registered if n.startswith("CustomGradient-") and n not in known]:
        registered.pop(one, None)


def lite_options(samples: Any = None) -> dict[str, Any]:
    """How TensorFlow converts for phones: by the ops of the plain runtime alone.

    With `samples`, a function that gives inputs as lists, in int8 by the ranges that they show.
    """
    import tensorflow as tf

    if samples is None:
        return {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}
    return {
        "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": samples,
    }


def load_lite(path: Any, allocate: bool) -> None:
    """Raises if a LiteRT file cannot be loaded, or its tensors not be made."""
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow advertises its interpreter's successor
        interpreter = tf.lite.Interpreter(model_path=str(path))
    if allocate:
        interpreter.allocate_tensors()
