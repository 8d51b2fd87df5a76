"""Searches over spaces: Keras Tuner, Optuna, data and reports (extra `tune`)."""

try:
    import keras_tuner as _keras_tuner  # noqa: F401
    import rich as _rich  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"kblocks.tuner needs {error.name}: pip install 'kblocks[tune]'", name=error.name
    ) from error

from kblocks.tuner.bridge import NETWORK, CostLogs, HyperModel, network_of, suggest
from kblocks.tuner.files import save
from kblocks.tuner.images.data import Data, load
from kblocks.tuner.records import Objective, Record, Run
from kblocks.tuner.reporting.report import report
from kblocks.tuner.stock.run import Result, search
from kblocks.tuner.tuner import Tuner

__all__ = [
    "NETWORK",
    "CostLogs",
    "Data",
    "HyperModel",
    "Objective",
    "Record",
    "Result",
    "Run",
    "Tuner",
    "load",
    "network_of",
    "report",
    "save",
    "search",
    "suggest",
]
