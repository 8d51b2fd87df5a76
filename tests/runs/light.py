"""Keras on numpy without JAX: imported first, it lets a process begin in a second.

The numpy backend imports JAX for Fourier transforms and a few layers that no test here needs.
"""

from __future__ import annotations

import os
import sys
import types

os.environ["KERAS_BACKEND"] = "numpy"


class _Nothing(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return types.SimpleNamespace()


for _name in (
    *("jax", "jax.experimental", "jax.experimental.sparse"),
    *("keras.src.backend.jax", "keras.src.backend.jax.math"),
):
    sys.modules[_name] = _Nothing(_name)
for _name in ("sklearn", "matplotlib"):  # Keras does without them
    sys.modules[_name] = None  # type: ignore[assignment]
