"""Searches over spaces: Keras Tuner, Optuna, data and reports (extra `tune`)."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

for _package in ("keras_tuner", "optuna", "rich"):
    if importlib.util.find_spec(_package) is None:
        raise ImportError(
            f"kblocks.tuner needs {_package}: pip install 'kblocks[tune]'", name=_package
        )

if TYPE_CHECKING:
    from kblocks.search_space.names import NETWORK
    from kblocks.tuner.applications import HyperEfficientNet, HyperResNet, HyperXception
    from kblocks.tuner.choosing.rungs import Asha
    from kblocks.tuner.delivering import predictor
    from kblocks.tuner.files import save
    from kblocks.tuner.hypermodel import CostLogs, HyperModel
    from kblocks.tuner.images.data import Data, load
    from kblocks.tuner.records import Objective, Record, Run
    from kblocks.tuner.reporting.report import report
    from kblocks.tuner.stock import Result, search
    from kblocks.tuner.suggesting import network_of, suggest
    from kblocks.tuner.tuner import Tuner

# Imported on first use (PEP 562): `kblocks status` reads records without waiting for Keras.
_MODULES = {
    "kblocks.search_space.names": ("NETWORK",),
    "kblocks.tuner.applications": ("HyperEfficientNet", "HyperResNet", "HyperXception"),
    "kblocks.tuner.hypermodel": ("CostLogs", "HyperModel"),
    "kblocks.tuner.choosing.rungs": ("Asha",),
    "kblocks.tuner.delivering": ("predictor",),
    "kblocks.tuner.files": ("save",),
    "kblocks.tuner.images.data": ("Data", "load"),
    "kblocks.tuner.records": ("Objective", "Record", "Run"),
    "kblocks.tuner.reporting.report": ("report",),
    "kblocks.tuner.suggesting": ("network_of", "suggest"),
    "kblocks.tuner.stock": ("Result", "search"),
    "kblocks.tuner.tuner": ("Tuner",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["NETWORK", "Asha", "CostLogs", "Data", "HyperEfficientNet", "HyperModel", "HyperResNet"]
__all__ += ["HyperXception", "Objective", "Record", "Result", "Run", "Tuner", "load", "network_of"]
__all__ += ["predictor", "report", "save", "search", "suggest"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'kblocks.tuner' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    """The public names only, so that completion shows no modules."""
    return __all__
