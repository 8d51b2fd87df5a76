"""The ready runs in tuning/: each begins with its command, and makes a tuner and its data."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import kblocks as kb
from kblocks.tuner.running.jobs import imported

pytestmark = pytest.mark.system

FOLDER = Path(__file__).parent.parent / "tuning"
FILES = sorted(FOLDER.glob("*.py"))
CLASSES = {"image_folder": 2}  # others have ten


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sets of ours where the runs look for theirs."""
    random = np.random.default_rng(0)
    labels = np.tile(np.arange(10, dtype="uint8"), 6)
    clothes = tmp_path / "clothes"
    clothes.mkdir()
    for part in ("train", "t10k"):
        images = random.integers(0, 256, (60, 28, 28), dtype="uint8")
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            head = bytes((0, 0, 8, array.ndim)) + sizes
            (clothes / f"{part}-{name}-ubyte").write_bytes(head + array.tobytes())
    monkeypatch.setenv("FASHION_MNIST", str(clothes))
    for name in ("cats", "dogs"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        for number in range(5):
            Image.effect_noise((30, 20), 90).save(tmp_path / "animals" / name / f"{number}.png")
    monkeypatch.setenv("IMAGES", str(tmp_path / "animals"))
    things = random.integers(0, 256, (60, 32, 32, 3), dtype="uint8")
    np.savez(tmp_path / "things.npz", x=things, y=labels)
    monkeypatch.setenv("DATA", str(tmp_path / "things.npz"))
    monkeypatch.delenv("KBLOCKS_STORAGE", raising=False)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_run_file_begins_with_its_command_and_time(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    verbs, options = "(search|worker)", "( --workers 2)?"
    command = rf'"""([A-Z]+=\w+ )?kblocks {verbs} tuning/{path.name}{options}    \(.+\)'
    assert re.fullmatch(command, first)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_python_with_a_run_file_searches_too(path: Path) -> None:
    """With the options of `kblocks search`."""
    lines = path.read_text(encoding="utf-8").splitlines()[-2:]
    assert lines[0].startswith('if __name__ == "__main__":')
    digits = (FOLDER / "digits.py").read_text(encoding="utf-8").splitlines()
    assert lines[1] == digits[-1]
    if path.stem == "digits":
        done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True)
        assert (done.returncode, "kblocks search" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_run_file_makes_a_tuner_that_fits_its_data(
    path: Path, sources: None, tmp_path: Path
) -> None:
    """And what the command line says goes over what it says itself."""
    module: Any = imported(path)
    data = module.data()
    assert isinstance(data, kb.tuner.Data)
    assert data.test is not None
    assert {"epochs"} <= set(data.fit)
    storage = f"sqlite:///{tmp_path / 'a.db'}"
    tuner = module.tuner(directory=str(tmp_path), trials=3, workers=0, storage=storage)
    assert isinstance(tuner, kb.tuner.Tuner)
    assert (tuner.trials, tuner.workers, tuner.storage_url) == (3, 0, storage)
    assert tuner.folder == tmp_path / path.stem
    space = tuner.hypermodel.space
    assert space.input_shape == data.input_shape
    cost = space.build(space.default()).cost(space.input_shape)
    assert cost.output_shape == (CLASSES.get(path.stem, 10),) == (data.classes,)
    assert space.budget.exceeded(cost) == {}


def test_digits_are_moved_by_one_pixel_for_the_last_training() -> None:
    module: Any = imported(FOLDER / "digits.py")
    data = module.data()
    images, labels = module.final(data).train
    before = np.concatenate([data.train[0], data.validation[0]])
    count = len(before)
    assert len(images) == len(labels) == 5 * count
    np.testing.assert_array_equal(images[:count], before)
    for number, (axis, step) in enumerate(((1, 1), (1, -1), (2, 1), (2, -1)), 1):
        moved = images[number * count : (number + 1) * count]
        inner = [slice(None), slice(1, -1), slice(1, -1)]
        expected = np.roll(before, step, axis)
        np.testing.assert_array_equal(moved[tuple(inner)], expected[tuple(inner)])
    seen = {image.tobytes() for image in images[:count]}
    assert seen & {image.tobytes() for image in data.test[0]} == set()


def test_checkpoints_of_a_cluster_are_where_the_environment_says(
    sources: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CHECKPOINTS", f"file://{tmp_path}/weights")
    monkeypatch.setenv("KBLOCKS_STORAGE", f"sqlite:///{tmp_path / 'b.db'}")
    tuner = imported(FOLDER / "cluster.py").tuner(directory=str(tmp_path))
    assert tuner.checkpoint_directory == f"file://{tmp_path}/weights/{tuner.project_name}"
    assert tuner.storage_url == f"sqlite:///{tmp_path / 'b.db'}"


def test_images_without_a_folder_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGES", raising=False)
    module: Any = imported(FOLDER / "image_folder.py")
    module.data.cache_clear()
    with pytest.raises(ValueError, match="IMAGES"):
        module.data()
