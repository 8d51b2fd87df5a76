"""What all tests share: a quiet TensorFlow, fixed seeds, images made by formula."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from hypothesis import settings
from tiers import THOROUGH

# The same examples each time; slow runs look further.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

# A shell's background jobs begin deaf to Ctrl-C, and those of `nohup` to the end of a terminal; so
# would the searches that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

TESTS = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Spreads the cases of a test marked `thin` over the tiers, as pyproject.toml describes."""
    seen: dict[str, int] = {}
    dropped: list[pytest.Item] = []
    for item in items:
        thin = item.get_closest_marker("thin")
        if thin is None or item.get_closest_marker("slow") is not None:
            continue
        each, slow = (*thin.args, 1)[:2]
        name = item.nodeid.split("[")[0]
        number = seen.setdefault(name, 0)
        seen[name] += 1
        if number % each:
            item.add_marker(pytest.mark.slow)
            if number % slow and not THOROUGH:
                dropped.append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        gone = set(dropped)
        items[:] = [item for item in items if item not in gone]


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    keras.utils.set_random_seed(20240117)


@pytest.fixture(autouse=True)
def _global_settings_stay() -> object:
    """A test that changes Keras' settings must not change those of the next."""
    before = keras.config.image_data_format(), keras.config.floatx(), keras.config.dtype_policy()
    yield
    keras.config.set_image_data_format(before[0])
    keras.config.set_floatx(before[1])
    keras.config.set_dtype_policy(before[2])


@pytest.fixture
def images() -> Callable[..., np.ndarray]:
    """`images(2, 9, 8, 3)`: normal numbers of that shape, the same in each test."""

    def make(*shape: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=shape).astype("float32")

    return make


@pytest.fixture
def fresh_process() -> Callable[..., str]:
    """Runs a script in a Python that has imported nothing yet; gives what it printed."""

    def run(script: str, *arguments: str) -> str:
        paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            capture_output=True,
            text=True,
            timeout=900,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run
