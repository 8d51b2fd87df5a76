"""What TensorBoard is given, read back from its event files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import searches
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util import tensor_util

import kblocks as kb
from kblocks.tuner.records import Objective, Record
from kblocks.tuner.reporting.tensorboard import log_trial


def read(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, Any]]:
    """The scalars of a trial's folder, and what its HParams tab shows."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    scalars = {
        tag: [
            (event.step, float(tensor_util.make_ndarray(event.tensor_proto)))
            for event in events.Tensors(tag)
        ]
        for tag in events.PluginTagToContent("scalars")
    }
    return scalars, hparams(events)


def hparams(events: EventAccumulator) -> dict[str, Any]:
    """What the HParams tab shows of a folder that was read."""
    content = events.PluginTagToContent(metadata.PLUGIN_NAME)
    return {
        "start": metadata.parse_session_start_info_plugin_data(
            content[metadata.SESSION_START_INFO_TAG]
        ),
        "end": metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG]),
    }


def test_trials_are_read_back(tmp_path: Path) -> None:
    run = searches.run(20)
    folder = tmp_path / "logs"
    for trial in run.trials:
        log_trial(trial, run.objectives, folder)
    ended = [trial for trial in run.trials if trial.is_finished]
    assert len(list(folder.iterdir())) == len(ended)
    for trial in ended:
        scalars, told = read(folder / f"trial-{trial.number:05d}")
        for metric, values in trial.history.items():
            expected = [(epoch, pytest.approx(v)) for epoch, v in enumerate(values, 1)]
            assert scalars[metric] == expected
        if trial.scores:
            assert scalars["best/val_accuracy"] == [(12, pytest.approx(trial.scores[0]))]
        shown = {
            name: value.number_value or value.string_value
            for name, value in told["start"].hparams.items()
        }
        assert shown == trial.values
        assert told["start"].group_name == f"trial-{trial.number:05d}"
        assert told["end"].status == (1 if trial.state == "completed" else 2)


def test_values_stand_beside_the_curves_of_keras_own_callback(tmp_path: Path) -> None:
    """As under Keras Tuner: of two trials' six event files two have HParams."""

    def build(hp: Any) -> keras.Model:
        width = hp.Choice("width", [2, 3])
        model = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(width), keras.layers.Dense(1)]
        )
        model.compile(hp.Choice("optimizer", ["sgd", "adam"]), "mse")
        return model

    tuner = kb.tuner.Tuner(
        build,
        "val_loss",
        trials=2,
        sampler="grid",
        workers=0,
        directory=tmp_path / "runs",
    )
    board = keras.callbacks.TensorBoard(str(tmp_path / "board"))
    x, y = np.zeros((8, 4), "float32"), np.zeros(8, "float32")
    run = tuner.search(x, y, validation_data=(x, y), epochs=2, verbose=0, callbacks=[board])
    for trial in run.trials:
        events = EventAccumulator(str(tmp_path / "board" / f"trial-{trial.number:05d}"))
        events.Reload()
        told = hparams(events)
        shown = {
            name: value.number_value or value.string_value
            for name, value in told["start"].hparams.items()
        }
        assert shown == trial.values
        assert told["end"].status == 1
        for part, tag in (("train", "epoch_loss"), ("validation", "epoch_loss")):
            curves = EventAccumulator(str(tmp_path / "board" / f"trial-{trial.number:05d}" / part))
            curves.Reload()
            assert len(curves.Tensors(tag)) == 2


def test_an_axis_of_time_has_the_epochs_side_by_side(tmp_path: Path) -> None:
    [trial] = searches.run(1).trials
    assert trial.started
    assert trial.ended
    path = log_trial(trial, [Objective("val_accuracy", "max")], tmp_path)
    events = EventAccumulator(str(path), size_guidance={"tensors": 0})
    events.Reload()
    times = [event.wall_time for event in events.Tensors("val_loss")]
    each = trial.seconds / len(times)  # type: ignore[operator]
    assert [b - a for a, b in itertools.pairwise(times)] == [pytest.approx(each, abs=1e-3)] * 11
    assert times[-1] == pytest.approx(trial.ended.timestamp())


def test_the_objective_is_among_the_metrics_that_are_shown_first(tmp_path: Path) -> None:
    """TensorBoard's table begins with the first five names; a fit has curves of many."""
    names = ("accuracy", "learning_rate", "loss", "val_accuracy", "val_loss")
    costs = dict.fromkeys(("params", "macs", "activations", "latency"), 1.0)
    record = Record(
        0, "completed", (0.5,), history={key: [0.5] for key in names}, costs=costs, epochs=1
    )
    path = log_trial(record, [Objective("val_accuracy", "max")], tmp_path)
    assert path
    scalars, _ = read(path)
    assert "best/val_accuracy" in sorted(scalars)[:5]


def test_a_trial_is_written_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = searches.run(6)
    first, *_ = run.trials
    log_trial(first, run.objectives, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("events*")}
    assert before
    log_trial(first, run.objectives, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("events*")} == before

    def full(*arguments: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("kblocks.tuner.reporting.tensorboard._write", full)
    folder, objectives = tmp_path / "other", [Objective("s", "max")]
    with pytest.raises(OSError, match="space"):
        log_trial(Record(0, "completed", (0.5,)), objectives, folder)
    assert list(folder.iterdir()) == []
    assert log_trial(Record(1, "running"), objectives, folder) is None
