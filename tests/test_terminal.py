"""What is shown in a terminal: whatever stands in a run, it is text there and nothing else."""

from __future__ import annotations

import ast
import csv
import io
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from rich.console import Console
from typer.testing import CliRunner

import kblocks as kb
from kblocks.command import cli
from kblocks.tuner import records, terminal
from kblocks.tuner.files import table_of, write_table
from kblocks.tuner.records import read
from kblocks.tuner.running import live
from kblocks.tuner.running.live import Live
from kblocks.tuner.storing.owners import owner

# Red, NUL, red by C1's CSI, a bell, text that runs backwards, isolates, markup, an emoji's name.
HOSTILE = "\x1b[31m\x00\x9b31m\x07\u202e\u2066\u200f[red]a[/red][/all] :key:"
ACTING = set(HOSTILE) - set("[31m]red]a[/red][/all] :key:")
METRIC = "val_iou[/all]"


def only_text(shown: str) -> bool:
    return not ACTING & set(shown) and "[red]a[/red][/all] :key:" in shown


def study(folder: Path) -> optuna.Study:
    """A completed, a failed and a running trial, in a run folder, with hostile text all over."""
    folder.mkdir()
    made = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}", study_name=folder.name, direction="maximize"
    )
    objective = {"name": METRIC, "direction": "max"}
    made.set_user_attr(records.RUN, {"objectives": [objective], "input_shape": [8, 8, 1]})
    net = kb.resnet20(classes=3, blocks=(1, 1, 1), filters=(4, 8, 8), stem={"filters": 4})
    kinds = optuna.distributions.CategoricalDistribution([HOSTILE])
    made.add_trial(
        create_trial(
            value=0.5,
            params={HOSTILE: HOSTILE},
            distributions={HOSTILE: kinds},
            user_attrs={records.NETWORK: net.to_json()},
        )
    )
    failure = {"kind": "error", "message": HOSTILE, "traceback": HOSTILE}
    made.add_trial(create_trial(state=TrialState.FAIL, user_attrs={records.FAILURE: failure}))
    made.ask().set_user_attr(records.HISTORY, {METRIC: [0.25]})
    return made


@pytest.mark.parametrize("text", [HOSTILE, f"one\n{HOSTILE}\ttwo\r\nthree"])
def test_what_acts_is_taken_out(text: str) -> None:
    assert only_text(terminal.plain(text))
    assert "\n" not in terminal.plain(text)
    assert terminal.lines(text).count("\n") == text.count("\n")
    assert "\r" not in terminal.lines(text)
    assert terminal.plain("è 漢字 – ×, [a]") == "è 漢字 – ×, [a]"
    assert terminal.plain("postgresql://me:secret@host") == "postgresql://me:***@host"


def test_a_search_shows_text(tmp_path: Path) -> None:
    """Its lines, and the table that lives in a terminal."""
    found = study(tmp_path / "run")
    written = io.StringIO()
    shown = Live(lambda: read(found), 3, console=Console(file=written, width=300, soft_wrap=True))
    shown._look()
    shown.console.print(shown._table(read(found)))
    assert only_text(written.getvalue())
    assert written.getvalue().count(f"{METRIC} 0.5000") == 2  # its line, and the best
    assert f"{METRIC} 0.2500" in written.getvalue()
    assert len(written.getvalue().splitlines()) == 7


def test_a_line_names_another_machine() -> None:
    trials = [
        records.Record(0, "completed", (0.5,), owner=name) for name in ("else|1|2", owner(), "")
    ]
    trials = [replace(trial, number=number) for number, trial in enumerate(trials)]
    run = records.Run("toy", (records.Objective(METRIC, "max"),), {}, tuple(trials))
    written = io.StringIO()
    Live(lambda: run, 3, console=Console(file=written, width=300))._look()
    lines = written.getvalue().splitlines()
    assert [" on else" in line for line in lines] == [True, False, False]
    assert not any(" on " in line for line in lines[1:])


def test_the_time_left_falls_while_a_trial_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    made = optuna.create_study(direction="maximize")
    made.set_user_attr(records.RUN, {"objectives": [{"name": METRIC, "direction": "max"}]})
    shown = Live(lambda: read(made), 4, console=Console(file=io.StringIO()))
    for _ in range(2):
        made.add_trial(create_trial(value=0.5))
    found = []
    for clock[0] in (20.0, 25.0, 39.0, 60.0):  # two trials have ended after 20 s, two are left
        found.append(shown._left(read(made)))
    assert found == ["0:20", "0:15", "0:01", "0:00"]
    for _ in range(2):
        made.add_trial(create_trial(value=0.5))
    assert shown._left(read(made)) == "0:00"
    made.add_trial(create_trial(value=0.5, user_attrs={records.CONTINUES: 1}))
    assert shown._left(read(made)) == ""  # with a scheduler more may yet go on


@pytest.mark.parametrize("command", ["status", "best"])
def test_the_command_shows_text(command: str, tmp_path: Path) -> None:
    study(tmp_path / "run")
    shown = CliRunner().invoke(cli.app, [command, str(tmp_path / "run")])
    assert shown.exit_code == 0, shown.output
    assert only_text(shown.output)
    assert METRIC in shown.output


def test_errors_and_warnings_are_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for before in ([], ["--debug"]):
        assert cli.main([*before, "show", HOSTILE.replace("\x00", "")]) == 2
        assert only_text(capsys.readouterr().err)
    with caplog.at_level(logging.WARNING, "kblocks"):
        terminal.log.warning("no checkpoint: %s", HOSTILE)
    assert only_text(caplog.text)
    tuner: Any = kb.tuner.Tuner.__new__(kb.tuner.Tuner)
    run = read(study(tmp_path / "other"))
    tuner.run = lambda: run
    tuner.storage_url, tuner.objectives = "sqlite://", run.objectives
    tuner.results_summary()
    assert only_text(capsys.readouterr().out)


def test_a_table_has_no_formulas(tmp_path: Path) -> None:
    """What OWASP lists as the beginnings of one has a quotation mark before it; numbers stay."""
    beginnings = ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"]
    made = optuna.create_study(direction="maximize")
    for begin in beginnings:
        name, value = f"{begin}name", f'{begin}cmd|";=1+1"'
        kinds = optuna.distributions.CategoricalDistribution([value, -3])
        for one in (value, -3):
            made.add_trial(
                create_trial(value=-0.5, params={name: one}, distributions={name: kinds})
            )
    write_table(tmp_path / "trials.csv", table_of(read(made)))
    text = (tmp_path / "trials.csv").read_text(encoding="utf-8")
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for begin, row, negative in zip(beginnings, rows[::2], rows[1::2], strict=True):
        assert row[f"'{begin}name"] == f'\'{begin}cmd|";=1+1"'
        assert row["objective 0"] == "-0.5"
        assert negative[f"'{begin}name"] == "-3"
    cells = [cell for row in rows for cell in (*row, *row.values())]
    assert not [cell for cell in cells if cell.startswith(tuple(beginnings)) and not number(cell)]
    assert ";=" not in text.replace('"";=1+1""', "")  # within quotes alone


def number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_there_is_no_other_door() -> None:
    """Nothing in the tuner prints or logs on its own."""
    root = Path(terminal.__file__).parent
    calls: list[str] = []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and path != Path(terminal.__file__):
                name = ast.unparse(node.func)
                if name in ("print", "logging.getLogger", "sys.stdout.write", "sys.stderr.write"):
                    calls.append(f"{path.name}: {name}")
    assert calls == []
