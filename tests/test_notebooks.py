"""How objects show themselves: in one line, and in a notebook; and the tutorials as notebooks."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import kblocks as kb
from kblocks.tuner.records import Objective, Record, Run

TUTORIALS = sorted((Path(__file__).parent.parent / "docs" / "tutorials").glob("*.md"))
HOSTILE = "</td><script>alert(1)</script>&\"'\x00"
NET = kb.Architecture([kb.ConvBlock.Spec(4), [kb.ResidualBlock.Spec(4)] * 2], head=3, name="tiny")
SPACE = kb.Space(kb.resnet, classes=3, filters=kb.per_stage(2, kb.choice(8, 16)), blocks=[1, 1])


def test_costs_budgets_and_recipes_are_the_calls_that_make_them() -> None:
    rate = kb.real(1e-4, 1e-2, log=True)
    shown = {
        "Budget(macs=20_000_000, min_params=1_500)": kb.Budget(macs=20e6, min_params=1500),
        "Cost(output_shape=(4,), params=1_234_567, macs=8)": kb.Cost((4,), 1234567, macs=8),
        "Recipe()": kb.Recipe(),
        "Recipe(optimizer='sgd', learning_rate=real(low=0.0001, high=0.01, log=True))": kb.Recipe(
            optimizer="sgd", learning_rate=rate
        ),
        "choice(16, (1, 7), name='k')": kb.choice(16, (1, 7), name="k"),
        "integer(low=1, high=2_000)": kb.integer(1, 2000),
    }
    for text, thing in shown.items():
        assert repr(thing) == text
        assert eval(text, dict(vars(kb))) == thing


def test_networks_spaces_and_runs_in_one_line() -> None:
    assert repr(NET) == "<Architecture 'tiny' of 4 rows: stage1, stage2 (2), head>"
    within = SPACE.within((8, 8, 3), kb.Budget(macs=1e6))
    assert repr(SPACE) == "<Space of resnet: 2 choices, 4 networks>"
    assert repr(within) == repr(SPACE)[:-1] + ", within (8, 8, 3), Budget(macs=1_000_000)>"
    both = kb.Space(kb.choice(kb.resnet20, kb.resnet32), classes=3)
    assert repr(both) == "<Space of resnet20, resnet32: 1 choice, 2 networks>"
    trials = tuple(Record(n, "completed", (n / 10,)) for n in range(3))
    run = Run("r", (Objective("val_accuracy", "max"),), {}, trials)
    assert repr(run) == "<Run 'r': 3 trials, best: val_accuracy 0.2000>"
    assert repr(Run("r", run.objectives, {}, ())) == "<Run 'r': 0 trials>"


def shown(thing: Any, kind: str) -> ElementTree.Element:
    """What a notebook shows: IPython calls the method if no name at all is an attribute."""
    assert getattr(thing, "_ipython_canary_method_should_not_exist_", None) is None
    text = getattr(thing, f"_repr_{kind}_")()
    assert isinstance(text, str)
    return ElementTree.fromstring(text)


def rows_of(table: ElementTree.Element) -> list[list[str | None]]:
    assert not list(table.iter("script"))
    return [[cell.text for cell in row] for row in table.iter("tr")]


def test_a_network_is_a_figure() -> None:
    hostile = kb.Architecture(NET.rows, name=HOSTILE)
    for net in (NET, hostile):
        figure = shown(net, "svg")
        assert figure.tag == "{http://www.w3.org/2000/svg}svg"
        assert not [element for element in figure.iter() if "script" in element.tag]
        texts = [element.text for element in figure.iter() if element.tag.endswith("text")]
        assert net.name.replace("\x00", "\ufffd") in texts


def test_a_network_that_takes_no_colour_images_stays_text() -> None:
    """IPython shows the `repr` if a method returns None."""

    class Grey(kb.Block):
        def plan(self, channels: int) -> Any:
            if channels != 1:
                raise ValueError("only one channel")
            return kb.ops.Conv(2)  # type: ignore[attr-defined]

    assert kb.Architecture([Grey.Spec()])._repr_svg_() is None


def test_a_space_is_a_table_of_its_choices() -> None:
    space = kb.Space(kb.resnet, blocks=[1, 1], classes=kb.choice(2, 3, name="<b>"))
    table = rows_of(shown(space, "html"))
    assert table == [["choice", "options", "only where"], ["<b>", "2, 3", None]]


@pytest.mark.parametrize("name", ["r", HOSTILE])
def test_a_run_is_a_table_of_its_best_trials(name: str) -> None:
    trials = [Record(n, "completed", (n / 8,), values={"k": 3, name: name}) for n in range(30)]
    objectives = (Objective("loss", "min"),)
    run = Run(name, objectives, {}, (*trials, Record(30, "failed")))
    head, first, *rest = rows_of(shown(run, "html"))
    clean = name.replace("\x00", "\ufffd")
    assert head == ["trial", "loss", "k", clean]
    assert first == ["0", "0", "3", clean]
    assert len(rest) == 19
    assert rows_of(shown(Run(name, objectives, {}, ()), "html")) == [["trial", "loss"]]


def test_notebooks_are_the_tutorials(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python docs/notebooks.py` makes them, without outputs."""
    monkeypatch.syspath_prepend(TUTORIALS[0].parent.parent)
    notebooks = importlib.import_module("notebooks")
    for page in TUTORIALS:
        stored = page.with_suffix(".ipynb").read_text(encoding="utf-8")
        assert stored == notebooks.notebook_of(page), page.name


@pytest.mark.system
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_notebook_runs(page: Path, tmp_path: Path) -> None:
    """In a kernel of its own, as Jupyter runs it (extra `notebooks`)."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(page.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    assert "outputs" in json.dumps(notebook)
