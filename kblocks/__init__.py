"""kblocks: convolutional blocks and architectures for Keras, with every argument searchable.

One definition of a block has three uses: it is a Keras layer (`kb.ResidualBlock(64)(x)`), a part
of an architecture whose cost is known without building it (`kb.resnet50().cost((224, 224, 3))`),
and a part of a search space (`kb.Space(kb.resnet, filters=kb.choice(16, 32))`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kblocks.command.hiding import is_command

if TYPE_CHECKING or not is_command():
    # Keras loads a saved model only if our classes are registered, so they are imported here. Only
    # the command line waits until it uses a name: it must hide the passwords in its arguments
    # before it imports Keras, which takes seconds.
    from kblocks.exports import *  # noqa: F403
if TYPE_CHECKING:
    from kblocks import tuner as tuner

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports names on first use (PEP 562): `tuner`, and in the command line's process all."""
    if name == "tuner":
        return importlib.import_module("kblocks.tuner")
    if name == "__all__":
        return sorted([*_public(), "tuner"])
    if not name.startswith("_") and name in (public := _public()):
        return public[name]
    raise AttributeError(f"module 'kblocks' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names only, so that completion shows no modules."""
    return __getattr__("__all__")


def _public() -> dict[str, Any]:
    exports = importlib.import_module("kblocks.exports")
    return {name: value for name, value in vars(exports).items() if not name.startswith("_")}
