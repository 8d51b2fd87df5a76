"""README and examples run as they are written."""

import csv
import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from safetensors.numpy import save_file
from tiers import THOROUGH

import kblocks as kb
from kblocks.tuner.running.jobs import imported

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"
MADE = {DOCS / "catalogue", DOCS / "reference"}  # by `docs/make.py`
PAGES = {
    path: path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if not MADE & {*path.parents}
}
GALLERY = PAGES[DOCS / "examples.md"] + PAGES[DOCS / "examples-tasks.md"]
COMMANDS = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
RUN_TO_DRAW = ("compose", "own_architecture", "own_hypermodel")  # quick; their figures are compared


def run(code: list[str], folder: Path, **environment: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, *code],
        cwd=folder,
        env={**os.environ, "KERAS_BACKEND": "tensorflow", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.system
def test_the_code_of_the_readme_runs(tmp_path: Path) -> None:
    """The three uses, in order, in one process; the hub's cache holds random weights."""
    cache = tmp_path / "hub" / "models--timm--resnet18.tv_in1k"
    (cache / "snapshots" / "0").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0", encoding="utf-8")
    state = kb.to_torch_state_dict(kb.resnet18().model((32, 32, 3)))
    save_file(state, cache / "snapshots" / "0" / "model.safetensors")
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    assert code.count("import kblocks") == 1
    (tmp_path / "readme.py").write_text(code, encoding="utf-8")
    printed = run(["readme.py"], tmp_path, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert "stage4 (7, 7, 2048)" in printed


def short(example: Path) -> list[str]:
    """What makes a long example short."""
    return ["--short"] if '"--short" in sys.argv' in example.read_text(encoding="utf-8") else []


@pytest.mark.system
@pytest.mark.parametrize(
    "example",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.slow if short(path) else ())
        for path in EXAMPLES
    ],
)
def test_each_example_runs(example: Path, tmp_path: Path) -> None:
    """To its end, and with something to say; a picture that it names is there."""
    printed = run([str(example), *short(example)], tmp_path)
    assert printed.strip()
    for picture in re.findall(r"^(runs/\S+\.(?:png|svg))", printed, re.MULTILINE):
        assert (tmp_path / picture).stat().st_size > 1000, picture
    if example.stem in RUN_TO_DRAW:
        drawn = (tmp_path / "runs" / f"{example.stem}.svg").read_text(encoding="utf-8")
        stored = ROOT / "docs" / "examples" / f"{example.stem}.svg"
        assert stored.read_text(encoding="utf-8") == drawn  # else run docs/pictures.py


# What the examples of tasks must reach on images that they were not trained on: two in each slow
# run, which take a minute each, and with KBLOCKS_THOROUGH=1 all.
FIGURES: dict[str, dict[str, float]] = {
    "keypoints": {r"within 2 pixels ([\d.]+)": 0.95},
    "segment": {r"mean IoU ([\d.]+)": 0.9},
    "localise": {r"accuracy ([\d.]+)": 0.95, r"mean IoU ([\d.]+)": 0.9},
    "detect": {r"mAP50 ([\d.]+)": 0.9},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_examples_reach_their_figures(name: str, tmp_path: Path) -> None:
    if name in ("localise", "detect") and not THOROUGH:
        pytest.skip("two to three minutes: KBLOCKS_THOROUGH=1")
    printed = run([str(ROOT / "examples" / f"{name}.py")], tmp_path)
    for told, least in FIGURES[name].items():
        found = re.search(told, printed)
        assert found is not None, printed
        assert float(found[1]) >= least


def test_the_lecture_is_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Papers as the families cite them, and small networks of 5 to 7 million multiply-adds."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    lecture = importlib.import_module("lecture")
    assert len(lecture.LECTURE) == 11
    for one in lecture.LECTURE:
        family = getattr(kb, one.published).__module__
        cited = Path(sys.modules[family].__file__ or "").read_text(encoding="utf-8")
        assert one.paper in cited, one.name
        assert 5e6 <= one.small.cost(lecture.INPUT).macs <= 7e6, one.name


def test_ci_runs_the_command_of_the_readme() -> None:
    """A green CI means that the README's test command works."""
    tests = next(command for command in COMMANDS if "pytest" in command)
    assert tests in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_files_that_the_readme_names_exist() -> None:
    """Links and commands point somewhere."""
    named = [*re.findall(r"\]\(([^)#]+)\)", README), "tuning/digits.py"]
    assert len(named) > 4
    for name in named:
        assert (ROOT / name).exists(), name


# Where the modules that a page spells out stand in the published networks.
MODULES = {
    "inception_3a": ("googlenet", "stage1_block1"),
    **{f"v3_{form}": ("inception_v3", f"stage{i}_block1") for i, form in enumerate("abc", 1)},
    **{f"v4_{form}": ("inception_v4", f"stage{i}_block1") for i, form in enumerate("abc", 1)},
    **{f"v4_stem_{i}": ("inception_v4", f"stem_block{i + 3}") for i in (1, 2, 3)},
    **{
        f"v{n}_{form}": (f"inception_resnet_v{n}", f"stage{i}_block1")
        for n in (1, 2)
        for i, form in enumerate("abc", 1)
    },
    **{
        f"{version}_reduction_{form}": (network, f"stage{i}_reduction")
        for version, network in (
            ("v3", "inception_v3"),
            ("v4", "inception_v4"),
            ("v1", "inception_resnet_v1"),
            ("v2", "inception_resnet_v2"),
        )
        for i, form in enumerate("ab", 2)
    },
}


@pytest.fixture(scope="module")
def modules() -> dict[str, Any]:
    """What the page makes that spells out the modules of the papers."""
    [page] = [text for text in PAGES.values() if "v3_reduction_b =" in text]
    code = re.findall(r"```python\n(.*?)```", page.partition("## Names")[0], re.DOTALL)
    made: dict[str, Any] = {}
    exec("\n".join(code), made)
    return {name: value for name, value in made.items() if hasattr(value, "branches")}


def test_the_modules_of_the_guide_are_all_held_to_published_ones(modules: dict[str, Any]) -> None:
    assert set(modules) == {"naive", *MODULES}


@pytest.mark.parametrize(("name", "place"), MODULES.items(), ids=MODULES.keys())
def test_a_module_of_the_guide_is_the_published_one(
    name: str, place: tuple[str, str], modules: dict[str, Any]
) -> None:
    """Equal but for what the guide says that the published networks add."""
    network, row = place
    five = {"kernel_size": (3, 5)} if network == "googlenet" else {}  # as the paper has it
    net = kb.architecture(network, **five)
    published = {row.name: row.spec for row in net.rows}[row]
    added: dict[str, Any] = {"normalization": kb.Norm("batch", momentum=0.9, epsilon=1e-3)}
    if row.startswith("stage"):
        added["padding"] = "symmetric"
    if network == "inception_v3" and "block" in row:
        added["pool_count_padding"] = True
    assert modules[name].replace(**added) == published


def test_the_naive_module_of_the_guide_is_that_of_the_figure(modules: dict[str, Any]) -> None:
    """1x1, 3x3 and 5x5 convolutions and a bare pool on the 192 channels before 3a."""
    cost = modules["naive"].replace(normalization=None).cost((28, 28, 192))
    kernels = {64: 1, 128: 9, 32: 25}
    assert cost.params == sum(filters * (size * 192 + 1) for filters, size in kernels.items())
    assert cost.output_shape == (28, 28, 64 + 128 + 32 + 192)


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("pictures")


def test_no_picture_is_older_than_its_source(pictures: Any) -> None:
    """`python docs/pictures.py` makes those that are."""
    known = [name for name in pictures.PICTURES if name not in pictures.AFRESH]
    assert [name for name in known if pictures.is_stale(name)] == []
    named = {
        (path.parent / picture).resolve().relative_to(DOCS).as_posix()
        for path, text in PAGES.items()
        for picture in re.findall(r"\]\((\S+\.(?:png|svg))\)", text)
    }
    assert named == set(pictures.PICTURES)


def test_a_picture_of_other_code_is_older(
    pictures: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A comment in an example changes nothing, a constant does, also in what it imports."""
    monkeypatch.setattr(pictures, "EXAMPLES", tmp_path)
    for name in ("detect", "shapes"):
        shutil.copy(ROOT / "examples" / f"{name}.py", tmp_path)
    for file, old, new, stale in (
        ("detect", "SHORT =", "# short\nSHORT =", False),
        ("shapes", "FONT = 14", "FONT = 15", True),
    ):
        path = tmp_path / f"{file}.py"
        path.write_text(path.read_text().replace(old, new))
        assert pictures.is_stale("examples/detect.png") == stale


def test_the_trials_in_the_picture_are_of_the_search_that_it_names(pictures: Any) -> None:
    """Costs of the networks that `tuning/digits.py` makes of their values now."""
    module: Any = imported(ROOT / "tuning" / "digits.py")
    space = module.space().within(module.INPUT, kb.Budget(macs=1.5e6))
    with pictures.TRIALS.open(encoding="utf-8") as file:
        rows: list[Any] = list(csv.DictReader(file, quoting=csv.QUOTE_NONNUMERIC))
    assert len(rows) == 10
    for row in rows:
        values = {name: row[name] for name in space.names() if row[name] != ""}
        cost = space.suggest(optuna.trial.FixedTrial(values)).cost(module.INPUT)
        assert (cost.macs, cost.params) == (row["macs"], row["params"])


def test_the_pipeline_compares_networks_of_equal_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply-adds of the team's model by hand: 28x28 or 8x8 images, two poolings, two layers."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    module = importlib.import_module("tf_data_pipeline")
    size, half = (side[0] ** 2 for side in (module.SIZE, [module.SIZE[0] // 2]))
    theirs = size * 9 * 32 + half * 9 * 32 * 64 + (half // 4 * 64 * 128 + 128 * 10)
    assert module.multiply_adds(module.their_model()) == theirs
    assert module.our_network().cost((*module.SIZE, 1)).macs == pytest.approx(theirs, rel=0.01)


def test_words_of_boxes_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the pictures of the gallery, at the true boxes."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    shapes = importlib.import_module("shapes")
    for objects in shapes.scenes(12, most=3, seed=2).objects:
        known = objects[objects[:, 0] >= 0]
        words = [shapes.KINDS[int(kind)] for kind in known[:, 0]]
        placed = shapes.label_places((known[:, 1:] * 190).astype(int), words, (192, 192))
        for one, other in itertools.combinations(placed, 2):
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1]
            assert apart or other[3] <= one[1]


def test_the_gallery_has_every_example() -> None:
    """Each with its command, which is also the example's own first line."""
    shared = {"pages", "shapes"}  # what several examples draw with
    for path in EXAMPLES:
        command = f"python examples/{path.name}"
        assert path.read_text(encoding="utf-8").startswith(f'"""{command}') or path.stem in shared
        assert command in GALLERY or path.stem in shared, path.name


def test_the_gallery_shows_all_its_pictures() -> None:
    """And none is so large that a page loads slowly."""
    named = set(re.findall(r"!\[[^\]]*\]\(examples/([^)]+)\)", GALLERY))
    files = {path.name: path for path in (ROOT / "docs" / "examples").iterdir()}
    assert named == set(files)
    assert {name for name, path in files.items() if path.stat().st_size > 300_000} == set()
