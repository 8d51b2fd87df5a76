"""Checkpoints on any file system of fsspec: whole or not at all, and refused at the door."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import keras
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import kblocks as kb
from kblocks.tuner.storing.checkpoints import Checkpoints, State

_numbers = itertools.count()
X = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
PLACES: dict[str, Callable[[Path], str]] = {
    "a folder": str,
    "file://": lambda folder: folder.as_uri(),
    "memory://": lambda folder: f"memory://bucket-{next(_numbers)}/run",
    "a folder with a space": lambda folder: str(folder / "of mine"),
}


@pytest.fixture(params=PLACES)
def place(request: Any, tmp_path: Path) -> str:
    return PLACES[request.param](tmp_path)


def state(epoch: int) -> State:
    """A state that tells its epoch in each of its parts."""
    full = [np.full((2, 3), epoch, "float32"), np.float32(epoch)]
    return State(epoch, full, [np.int64(epoch)])


def listed(checkpoints: Checkpoints) -> list[str]:
    """Every file, from the place itself."""
    files, root = fsspec.core.url_to_fs(checkpoints.location)
    return sorted(str(path).removeprefix(root).strip("/") for path in files.find(root))


def test_states_and_best_weights(place: str) -> None:
    checkpoints = Checkpoints(place)
    assert checkpoints.state(7) is None
    assert checkpoints.best(7) is None
    checkpoints.save_state(7, state(1))
    checkpoints.save_state(7, state(12))
    assert listed(checkpoints) == ["trial-000007/epoch-000012.npz"]
    found = Checkpoints(place).state(7)  # of another process
    assert found is not None
    assert found.epoch == 12
    np.testing.assert_equal(found.weights, state(12).weights)
    np.testing.assert_equal(found.optimizer, state(12).optimizer)
    checkpoints.save_best(7, [np.arange(5.0)])
    kept = {"trial-000007/best.npz", "trial-000007/epoch-000012.npz"}
    checkpoints.keep([], is_finished=lambda number: False)  # its end is not told yet
    assert set(listed(checkpoints)) == kept
    checkpoints.keep([7], is_finished=lambda number: True)
    assert listed(checkpoints) == ["trial-000007/best.npz"]
    np.testing.assert_equal(checkpoints.best(7), [np.arange(5.0)])
    checkpoints.save_best(7, [np.arange(2.0)])  # its process had died before it told its end
    np.testing.assert_equal(checkpoints.best(7), [np.arange(2.0)])
    checkpoints.save_best(8, [np.zeros(8)])
    assert checkpoints.numbers() == [7, 8]
    checkpoints.keep([8], is_finished=lambda number: True)
    checkpoints.drop(9)  # of which nothing is kept
    assert listed(checkpoints) == ["trial-000008/best.npz"]
    checkpoints.clear()
    assert listed(checkpoints) == []


def test_half_a_file_is_none(place: str) -> None:
    """Cut anywhere, or with one byte changed in an array."""
    checkpoints = Checkpoints(place)
    checkpoints.save_state(1, state(3))
    files, root = fsspec.core.url_to_fs(place)
    path = f"{root.rstrip('/')}/trial-000001/epoch-000003.npz"
    whole = files.cat_file(path)
    assert len(whole) > 500
    for length in [0, 1, *range(10, len(whole), 37), len(whole) - 1]:
        files.pipe_file(path, whole[:length])
        assert checkpoints.state(1) is None, length
    start = whole.index(np.full(6, 3, "float32").tobytes())
    files.pipe_file(path, whole[:start] + b"\x01" + whole[start + 1 :])
    assert checkpoints.state(1) is None
    files.pipe_file(path, whole)
    assert checkpoints.state(1) is not None


def test_the_state_before_counts_where_the_last_is_cut(place: str) -> None:
    checkpoints = Checkpoints(place)
    checkpoints.save_state(1, state(3))
    files, root = fsspec.core.url_to_fs(place)
    folder = f"{root.rstrip('/')}/trial-000001"
    files.pipe_file(f"{folder}/epoch-000004.npz", b"PK\x03\x04")
    files.pipe_file(f"{folder}/.0123.part", b"PK\x03\x04")  # of a process that died
    found = checkpoints.state(1)
    assert found is not None
    assert found.epoch == 3


def test_no_object_is_unpickled(place: str) -> None:
    files, root = fsspec.core.url_to_fs(place)
    checkpoints = Checkpoints(place)
    checkpoints.save_best(1, [np.zeros(2)])
    with files.open(f"{root.rstrip('/')}/trial-000001/best.npz", "wb") as file:
        np.savez(file, w00000=np.array([{}], dtype=object))
    assert checkpoints.best(1) is None


class Failing(MemoryFileSystem):
    """Breaks off in the middle of a file, with an error of its own."""

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if "w" not in mode:
            return super().open(path, mode, **kwargs)
        file = super().open(path, mode, **kwargs)
        write = file.write

        def half(content: Any) -> None:
            write(bytes(content)[: len(content) // 2])
            raise RuntimeError("the network is away")

        file.write = half
        return file


def test_a_write_that_breaks_off_leaves_what_was_there() -> None:
    checkpoints = Checkpoints("memory://breaking/run")
    checkpoints.save_best(1, [np.arange(100.0)])
    checkpoints._files = Failing()
    with pytest.raises(OSError, match="RuntimeError: the network is away"):
        checkpoints.save_best(1, [np.zeros(100)])
    np.testing.assert_equal(checkpoints.best(1), [np.arange(100.0)])
    with pytest.raises(ConnectionError, match="cannot be kept in memory://breaking/run: Runtime"):
        checkpoints.check()


# --- in a search -------------------------------------------------------------------------


def build(hp: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(hp.Int("units", 1, 8))])
    model.add(keras.layers.Dense(1))
    model.compile("adam", "mse")
    return model


def made(folder: Path, **settings: Any) -> kb.tuner.Tuner:
    own = {"trials": 3, "workers": 0, "directory": folder, "seed": 1, "checkpoints": 2}
    return kb.tuner.Tuner(build, "val_loss", **{**own, **settings})


def searched(tuner: kb.tuner.Tuner) -> kb.tuner.Run:
    return tuner.search(X, Y, validation_data=(X, Y), epochs=2, verbose=0)


@pytest.mark.thin(4)
def test_a_search_keeps_its_best(place: str, tmp_path: Path) -> None:
    tuner = made(tmp_path / "runs", checkpoint_directory=place, project_name="one")
    run = searched(tuner)
    for record, model in zip(run.ranked(), tuner.get_best_models(2), strict=False):
        assert model.evaluate(X, Y, verbose=0) == pytest.approx(record.scores[0], rel=1e-5)
    kept = {f"trial-{record.number:06d}/best.npz" for record in run.ranked()[:2]}
    assert set(listed(Checkpoints(f"{place}/one"))) == {"search", *kept}
    assert not (tmp_path / "runs/one/checkpoints").exists()


@pytest.mark.system
def test_a_new_search_does_not_touch_what_an_older_one_keeps(place: str, tmp_path: Path) -> None:
    """Two searches in one place keep apart; what another storage's has left has to be removed."""
    for name in ("one", "two", "one-more"):
        made(tmp_path / "x", checkpoint_directory=place, project_name=name)
    left = Checkpoints(f"{place}/one")
    left.save_state(0, state(1))
    Checkpoints(f"{place}/two").save_state(0, state(1))
    tuner = made(tmp_path / "runs", checkpoint_directory=place, project_name="one")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"`checkpoint_directory`.*overwrite=True"):
            searched(tuner)
    assert left.state(0) is not None
    anew = made(tmp_path / "runs", checkpoint_directory=place, project_name="one", overwrite=True)
    run = searched(anew)
    assert left.state(0) is None
    assert [len(trial.history["loss"]) for trial in run.trials] == [2, 2, 2]
    assert Checkpoints(f"{place}/two").state(0) is not None
    again = made(
        tmp_path / "runs", checkpoint_directory=place, project_name="one", overwrite=True, trials=1
    )
    searched(again)
    assert Checkpoints(f"{place}/one").numbers() == [0]


@pytest.mark.system
def test_another_storages_search_neither_removes_nor_exports_what_is_kept(tmp_path: Path) -> None:
    """As where the URL of the storage was mistyped."""
    mine = made(tmp_path)
    searched(mine)
    before = [model.get_weights() for model in mine.get_best_models(2)]
    typed = made(tmp_path, storage=f"sqlite:///{tmp_path / 'typo.db'}")
    with pytest.raises(ValueError, match=r"another search than the one in /.*typo\.db"):
        searched(typed)
    after = [model.get_weights() for model in made(tmp_path).get_best_models(2)]
    for a, b in zip(before, after, strict=True):
        for one, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(one, other)
    elsewhere = made(tmp_path / "other", storage=f"sqlite:///{tmp_path / 'typo.db'}")
    searched(elsewhere)
    with pytest.raises(ValueError, match="another search"):
        made(tmp_path, storage=f"sqlite:///{tmp_path / 'typo.db'}").get_best_models()


DOORS: list[tuple[str, type[Exception], str]] = [
    ("s3://bucket/run", ImportError, "s3://bucket/run.* s3fs"),
    ("gs://bucket/run", ImportError, "gcsfs"),
    ("abfs://container/run", ImportError, "adlfs"),
    ("nowhere://bucket/run", ValueError, "`checkpoint_directory`.*nowhere"),
    ("ftp://me:hidden@127.0.0.1:1/run", ConnectionError, "127.0.0.1:1/run.*refused"),
]


@pytest.mark.parametrize(("place", "error", "told"), DOORS, ids=[door[0] for door in DOORS])
def test_refused_at_the_door(place: str, error: type[Exception], told: str, tmp_path: Path) -> None:
    for package, scheme in (("s3fs", "s3:"), ("gcsfs", "gs:"), ("adlfs", "abfs:")):
        if place.startswith(scheme):
            _skip_with(package)
    with pytest.raises(error, match=told) as caught:
        made(tmp_path, checkpoint_directory=place)
    assert "hidden" not in str(caught.value)
    assert not (tmp_path / "search/study.db").exists()


def _skip_with(package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")


def test_what_cannot_be_written_to_is_refused_before_the_first_trial(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tuner = made(tmp_path, checkpoint_directory=tmp_path / "file")
    with pytest.raises(ConnectionError, match=r"Checkpoints cannot be kept in .*file/search"):
        searched(tuner)
    assert tuner.remaining_trials == 3


def test_memory_is_of_one_process(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`checkpoint_directory` must be one that worker"):
        made(tmp_path, checkpoint_directory="memory://x", workers=1)
