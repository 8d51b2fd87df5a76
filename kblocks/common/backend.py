"""The only module that asks for Keras' backend and device, and that calls TensorFlow."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Collection
from typing import Any

import keras

_LEAST_EPSILON = 1.001e-5  # the smallest that batch norm accepts in every GPU library


def name() -> str:
    """The backend: "tensorflow", "jax" or "torch"."""
    return str(keras.backend.backend())


@functools.cache
def has_accelerator() -> bool:
    """Whether TensorFlow or JAX has a device other than a CPU, or PyTorch a GPU of CUDA."""
    if name() == "jax":
        import jax

        return bool(jax.default_backend() != "cpu")
    if name() == "torch":
        import torch

        return torch.cuda.is_available()
    if name() != "tensorflow":
        return False
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def is_slow_in(dtype: str) -> bool:
    """Whether float32 with two conversions is faster than this dtype in most ops but convolutions.

    So it is on CPUs in TensorFlow, whose kernels convert number by number (`benchmarks/half.py`).
    """
    is_half = dtype in ("bfloat16", "float16")
    return is_half and name() == "tensorflow" and not has_accelerator() and not compiles()


def convolves_channels_first() -> bool:
    """Whether channels-first convolutions have a kernel for every dtype here.

    On CPUs, TensorFlow lacks those of float16 and float64, and without oneDNN all.
    """
    return name() != "tensorflow" or has_accelerator()


@functools.cache
def convolves_groups(dtype: str, dilated: bool) -> bool:
    """Whether TensorFlow's own grouped convolution has a gradient on all devices here.

    Tried out once: on CPUs oneDNN has it, but not in every dtype, and oneDNN may be switched off or
    missing.
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
        with tf.device(device):  # the gradient's ops themselves: tapes do not record here
            outputs = tf.nn.conv2d(inputs, kernel, **how)
            size, shape = tf.shape(inputs), tf.shape(kernel)
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=size, filter=kernel, out_backprop=outputs, **how
            ).numpy()  # a GPU reports errors only when results are read
            tf.raw_ops.Conv2DBackpropFilter(
                input=inputs, filter_sizes=shape, out_backprop=outputs, **how
            ).numpy()
    except (tf.errors.OpError, ValueError):
        return False
    return True


def overruns(inputs: Any, kernel_shape: Any, strides: Any) -> bool:
    """Whether the kernel gradient of a convolution may write out of bounds.

    oneDNN's does on CPUs, under TensorFlow and PyTorch, for 1x1 kernels with strides and fewer
    input channels than fit a vector register, 16 at most: uxlfoundation/oneDNN issue 6035.
    """
    height, width, channels, _ = kernel_shape
    if height * width > 1 or max(strides) == 1 or channels >= 16:
        return False
    if name() == "torch":
        return bool(inputs.device.type == "cpu")
    return name() == "tensorflow" and not compiles()


def errs_channels_last(inputs: Any, kernel_shape: Any, dilation_rate: Any, groups: int) -> bool:
    """Whether PyTorch's kernel gradient fails for maps that lie channels-last in memory.

    Keras passes maps on that way. On CPUs the gradient for dilated groups in bfloat16 is never
    written; for a single filter PyTorch may raise "grad_weight must be contiguous".
    """
    if name() != "torch" or inputs.device.type != "cpu":
        return False
    if groups > 1:
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        return dtype == "bfloat16" and max(dilation_rate) > 1
    return kernel_shape[-1] == 1


def channels_first(inputs: Any, data_format: str) -> Any:
    """PyTorch's tensor of maps with channels first, in memory as well."""
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
    """Whether TensorFlow is tracing a function for XLA (`jit_compile=True`).

    TensorFlow has no public function for this; a test fails when the private one changes.
    """
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    if tf.executing_eagerly():
        return False
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def has_fused_batch_norm(epsilon: float, data_format: str) -> bool:
    """Whether to normalize by a fused kernel of TensorFlow or PyTorch here.

    Under XLA separate ops are faster; TensorFlow lacks the kernel for channels-first maps on CPUs,
    and on GPUs it may refuse a smaller epsilon.
    """
    if name() != "tensorflow":
        return name() == "torch"
    if compiles():
        return False
    return epsilon >= _LEAST_EPSILON if has_accelerator() else data_format == "channels_last"


def fused_batch_norm(
    x: Any, scale: Any, offset: Any, moments: Any, epsilon: float, data_format: str
) -> tuple[Any, Any, Any]:
    """Normalizes `x` by `moments`, a mean and a variance, or by its own if they are None.

    Returns the normalized maps, the mean and the variance, which is biased if it is that of `x`.
    """
    if name() == "torch":
        return _batch_norm_of_torch(x, scale, offset, moments, epsilon, data_format)
    import tensorflow as tf

    known = moments is not None
    mean, variance = moments if known else [tf.zeros(0)] * 2
    outputs = tf.raw_ops.FusedBatchNormV3(
        x=tf.cast(x, "float32"),  # float16 would overflow
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


def _batch_norm_of_torch(
    x: Any, scale: Any, offset: Any, moments: Any, epsilon: float, data_format: str
) -> tuple[Any, Any, Any]:
    import torch

    last, known = data_format == "channels_last", moments is not None
    if last:
        x = torch.movedim(x, -1, 1)  # a view
    mean, variance = moments if known else (torch.zeros_like(scale), torch.zeros_like(scale))
    cudnn, momentum = torch.backends.cudnn.enabled, 1.0
    outputs = torch.batch_norm(
        x, scale, offset, mean, variance, not known, momentum, epsilon, cudnn
    )
    if last:
        outputs = torch.movedim(outputs, 1, -1)
    if not known:  # it has written those of `x` there, with Bessel's correction
        values = x.numel() // scale.numel()
        variance = variance * ((values - 1) / values) if values > 1 else torch.zeros_like(scale)
    return outputs, mean, variance


def kept_from_fusing(x: Any) -> Any:
    """`x` behind an op across which TensorFlow does not fuse ops.

    On CPUs with oneDNN, TensorFlow fuses a convolution, `fused_batch_norm` and tanh or mish into a
    kernel that does not exist: "Fusion is not implemented". A test shows when that is fixed.
    """
    if name() != "tensorflow":
        return x
    import tensorflow as tf

    return x if tf.executing_eagerly() else tf.ensure_shape(x, x.shape)


def has_update_kernels() -> bool:
    """Whether an optimizer's step on a variable can be one op: TensorFlow without a strategy."""
    if name() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.distribute.has_strategy()


def updates_in_place(variable: Any, gradient: Any) -> bool:
    """Whether `variable` is a `tf.Variable` and `gradient` a dense tensor.

    They are not in a `keras.StatelessScope`, or for a sparse gradient of some rows.
    """
    import tensorflow as tf

    return isinstance(variable, tf.Variable) and isinstance(gradient, tf.Tensor)


def apply_adam(
    variable: Any,
    slots: Any,
    gradient: Any,
    learning_rate: Any,
    power_1: Any,
    power_2: Any,
    beta_1: Any,
    beta_2: Any,
    epsilon: Any,
) -> None:
    """Adam's step on a variable and its two moments, the `slots`.

    The powers are those of the betas to the step's number. All numbers have the variable's dtype,
    and are best tensors: a plain one becomes a new op for each variable.
    """
    import tensorflow as tf

    first, second = slots
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=first.value.handle,
        v=second.value.handle,
        beta1_power=power_1,
        beta2_power=power_2,
        lr=learning_rate,
        beta1=beta_1,
        beta2=beta_2,
        epsilon=epsilon,
        grad=tf.cast(gradient, variable.dtype),
    )


def apply_sgd(
    variable: Any, slot: Any, gradient: Any, learning_rate: Any, momentum: float, nesterov: bool
) -> None:
    """A step of gradient descent on a variable and, for momentum, its `slot`; else None."""
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
    """`function(inputs)`, recomputed in the backward pass instead of kept in memory.

    The second run starts from the same random states, `seeds`, and its assignments to variables are
    discarded. `keras.remat` would update moving averages twice and drop other features.
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
    """Checks the values of tensors during training, where the backend can.

    On JAX and in steps that XLA compiles there is no check.

    Args:
        condition: a scalar, whether the values are valid.
        message: what they must be.
        values: tensors to show in the error.

    Raises:
        ValueError: if the condition is false. In a graph, TensorFlow raises InvalidArgumentError
            with the same message.
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
        received = ", ".join(str(keras.ops.convert_to_numpy(value)) for value in values)
        raise ValueError(f"{message} Received: {received}")


def custom_gradients() -> dict[str, Any]:
    """TensorFlow's table of the gradients that functions register while they are traced.

    TensorFlow never removes one, so each keeps its whole graph in memory, and Keras' optimizers
    register one with every `train_step`. The table is private; returns {} if it has moved.
    """
    if name() != "tensorflow":
        return {}
    try:
        from tensorflow.python.framework import ops

        return ops.gradient_registry._registry
    except (ImportError, AttributeError):
        return {}


def free_cached() -> None:
    """Returns the GPU memory that PyTorch keeps for later use: other processes may need it."""
    if name() == "torch":
        import torch

        torch.cuda.empty_cache()


def forget_gradients(known: Collection[str]) -> None:
    """Removes the custom gradients whose names are not in `known`, so those registered since.

    Functions that were traced since can still be called, but not be traced again.
    """
    registered = custom_gradients()
    for one in [n for n in registered if n.startswith("CustomGradient-") and n not in known]:
        registered.pop(one, None)


def lite_options(samples: Any = None) -> dict[str, Any]:
    """Options of TensorFlow's conversion to LiteRT: only the runtime's built-in ops.

    With `samples`, a function that yields lists of inputs, the model is quantized to int8 by the
    ranges of values that these inputs cause.
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
    """Raises if a LiteRT file cannot be loaded or, with `allocate`, its tensors be allocated."""
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this interpreter is deprecated
        interpreter = tf.lite.Interpreter(model_path=str(path))
    if allocate:
        interpreter.allocate_tensors()


def steps_together(
    model: Any, step: Any, arrays: Any, batch: int, together: int, shuffle: bool
) -> tuple[Any, int, Any]:
    """A function of a Keras model that runs several of its steps in one execution.

    `step` is the model's `train_step` or `test_step`. Returns the function, how many executions are
    an epoch, and the dataset of their numbers that `fit` gets in place of the arrays. The last
    execution has the rest of the steps, the last step that of the rows.
    """
    import tensorflow as tf

    rows = len(arrays[0])
    steps = -(-rows // batch)
    executions = -(-steps // together)
    kinds = [keras.config.floatx() if array.dtype.kind == "f" else None for array in arrays]
    held = [tf.convert_to_tensor(a, kind) for a, kind in zip(arrays, kinds, strict=True)]
    order = tf.Variable(tf.range(rows), trainable=False)

    @tf.function(autograph=False)
    def several(number: Any) -> Any:
        if shuffle:
            anew = functools.partial(tf.random.shuffle, order)
            order.assign(tf.cond(number == 0, anew, order.value))

        def one(index: Any) -> Any:
            chosen = order[index * batch : (index + 1) * batch]
            step(tuple(tf.gather(array, chosen) for array in held))
            return index + 1

        first = number * together
        last = tf.minimum(first + together, steps)
        tf.while_loop(lambda index: index < last, one, [first], parallel_iterations=1)
        return model.get_metrics_result()

    numbers = tf.data.Dataset.range(executions, output_type=tf.int32).repeat()
    return lambda iterator: several(next(iterator)), executions, numbers


def gives_numbers(iterator: Any) -> bool:
    """Whether an iterator is one of a dataset that `steps_together` has returned."""
    return getattr(getattr(iterator, "element_spec", None), "shape", None) == []
