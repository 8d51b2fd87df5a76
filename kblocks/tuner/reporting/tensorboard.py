"""Writes trials for TensorBoard: learning curves as scalars, and the HParams tab."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary import Writer
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from kblocks.common.atomic import whole
from kblocks.tuner.records import Objective, Record, folder_name
from kblocks.tuner.reporting.text import number

# protobuf creates these message classes on import, where no type checker sees them.
_api: Any = api_pb2
_data: Any = plugin_data_pb2
_events: Any = event_pb2
_summaries: Any = summary_pb2


def log_trial(
    record: Record, objectives: Sequence[Objective], folder: str | os.PathLike[str]
) -> Path | None:
    """Writes a trial that has ended to a folder in that of `tensorboard --logdir`, and returns it.

    The trial's folder appears whole or not at all, so several processes may call this, and more
    than once. Each objective becomes a scalar `best/<name>` with its value at the best epoch. (The
    HParams tab shows the first five metrics by name.)
    """
    if not record.is_finished:
        return None
    path = Path(folder) / folder_name(record.number)
    if path.exists():
        return path
    try:
        with whole(path) as written:
            written.mkdir()
            _write(written, record, objectives)
    except OSError:
        if not path.exists():  # if it exists, another process was first
            raise
    return path


class Values(keras.callbacks.Callback):
    """Writes a trial's values for the HParams tab into the folder of Keras' own callback."""

    def __init__(self, folder: str, name: str, values: Mapping[str, Any]) -> None:
        super().__init__()
        self._folder, self._name = folder, name
        self._values = {name: _value(value) for name, value in values.items()}

    def on_train_begin(self, logs: Any = None) -> None:
        now = time.time()
        begin = hparams_pb(self._values, trial_id=self._name, start_time_secs=now)
        _add_summaries(self._folder, [(now, begin)])

    def on_train_end(self, logs: Any = None) -> None:
        now = time.time()
        _add_summaries(self._folder, [(now, _end(_api.STATUS_SUCCESS, now))])


def _write(folder: Path, record: Record, objectives: Sequence[Objective]) -> None:
    began = record.started.timestamp() if record.started else 0.0
    ended = record.ended.timestamp() if record.ended else began
    values = {name: _value(value) for name, value in record.values.items()}
    name = folder_name(record.number)  # the HParams tab sorts its table by this name, as text
    status = _api.STATUS_SUCCESS if record.state == "completed" else _api.STATUS_FAILURE
    begin = hparams_pb(values, trial_id=name, start_time_secs=began)
    _add_summaries(str(folder), [(began, begin), (ended, _end(status, ended))])
    writer = Writer(str(folder))
    history = record.history if isinstance(record.history, Mapping) else {}
    for metric, figures in history.items():
        for epoch, figure in enumerate(figures, 1):
            if number(figure) is not None:
                # The record has no end times of epochs: assume that all epochs took equally long.
                moment = began + (ended - began) * epoch / len(figures)
                writer.add_scalar(metric, figure, epoch, wall_time=moment)
    scores = zip(objectives, record.scores, strict=False)
    told = {f"best/{objective.name}": score for objective, score in scores}
    told |= {f"cost/{cost}": figure for cost, figure in record.costs.items()}
    for tag, figure in told.items():
        if number(figure) is not None:
            writer.add_scalar(tag, figure, record.epochs, wall_time=ended)
    writer.close()


def _add_summaries(folder: str, timed: Sequence[tuple[float, Any]]) -> None:
    events = EventFileWriter(folder)
    for moment, summary in timed:
        events.add_event(_events.Event(wall_time=moment, summary=summary))
    events.close()


def _end(status: Any, ended: float) -> Any:
    info = _data.SessionEndInfo(status=status, end_time_secs=ended)
    content = _data.HParamsPluginData(session_end_info=info)
    summary = _summaries.Summary()
    summary.value.add(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(content),
        tensor=metadata.NULL_TENSOR,
    )
    return summary


def _value(value: Any) -> bool | int | float | str:
    return value if isinstance(value, (bool, int, float, str)) else str(value)
