"""Small convolutions: ours are right however they are run, and where Keras' own are not yet.

With KBLOCKS_THOROUGH=1 twenty thousand of them each way: hours.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_reference import conv, pad, same_pads
from small_convolutions import arrays_of, case_of, right, sweep
from tiers import THOROUGH

from kblocks.layers.primitives import layer_for
from kblocks.plans import ops

tf = pytest.importorskip("tensorflow")
MANY = 20_000 if THOROUGH else 0


@pytest.mark.parametrize("number", range(0, 60, 3))
def test_the_reference(number: int) -> None:
    """Against windows of NumPy, and by differences: of a linear map they are exact."""
    case = case_of(number)
    x, k, g = arrays_of(case, number)
    outputs, to_input, to_kernel = right(case, x, k, g)
    pads = ((0, 0), (0, 0))
    if case["padding"] == "same":
        pads = same_pads(case["size"], case["kernel"], case["strides"], case["dilation"])
    how = (case["strides"], case["dilation"], case["groups"])
    np.testing.assert_array_equal(outputs, conv(pad(x, pads), k, *how))
    step = np.random.default_rng(1)
    dx, dk = (step.integers(-3, 4, value.shape) for value in (x, k))
    assert np.sum(g * (right(case, x + dx, k)[0] - outputs)) == np.sum(to_input * dx)
    assert np.sum(g * (right(case, x, k + dk)[0] - outputs)) == np.sum(to_kernel * dk)


@pytest.mark.parametrize("channels", [1, 8, 15, 16, 64])
def test_only_few_channels_leave_the_kernel_with_strides(channels: int) -> None:
    """oneDNN's books too little room under 16, its vector of AVX-512; others stay quick."""
    op = ops.Conv(4, (1, 1), strides=(2, 2))
    layer: Any = layer_for(op, None, channels, "channels_last", "conv", "", "float32")
    layer.build((None, 8, 8, channels))

    @tf.function
    def gradient(x: Any) -> Any:
        with tf.GradientTape() as tape:
            outputs = layer(x)
        return tape.gradient(outputs, layer.kernel.value)

    graph = gradient.get_concrete_function(tf.TensorSpec((3, 8, 8, channels))).graph
    found = [o for o in graph.get_operations() if o.type == "Conv2DBackpropFilter"]
    assert [max(o.get_attr("strides")) for o in found] == [2 if channels >= 16 else 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "cases"), [("eager", 400), ("graph", 150), ("without oneDNN", 150), ("XLA", 60)]
)
def test_ours_are_right(way: str, cases: int) -> None:
    assert sweep(range(MANY or cases), way, "ours") == {}


DIED = """
import numpy as np
import kblocks as kb
net = kb.preresnet(
    classes=10, block="basic", blocks=[1, 1], filters=[8, 12], strides=[1, 2], padding="same",
    stem={"filters": 4, "strides": 1},
)
model = net.model((75, 75, 3))
kb.Recipe().compile(model)
model.fit(np.zeros((15, 75, 75, 3)), np.arange(15) % 10, batch_size=3, epochs=4, verbose=0)
print("trained")
"""


@pytest.mark.slow
def test_a_small_network_with_odd_batches_trains(fresh_process: Callable[..., str]) -> None:
    assert fresh_process(DIED).splitlines()[-1] == "trained"


# The kind of uxlfoundation/oneDNN issue 6035; some of them end their process, others write where
# nobody looks.
FAULTY = [
    number
    for number in range(1, 1000, 2)
    if (case := case_of(number))["groups"] == 1
    and case["channels"] < 16
    and case["dtype"] != "float16"
    and min(case["size"]) > 11
][:20]


@pytest.mark.slow
def test_kerass_own_layer_still_writes_over_memory() -> None:
    """Tells when `backend.overruns` can go: TensorFlow 2.21 fails on AVX-512."""
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or "avx2" not in flags.read_text():
        pytest.skip("the fault is one of oneDNN on x86 with AVX2 or AVX-512")
    assert sweep(FAULTY, "eager", "keras"), (
        f"TensorFlow {tf.__version__} no longer fails here: `backend.overruns` may go for it once "
        "https://github.com/uxlfoundation/oneDNN/issues/6035 says that its version is mended"
    )
