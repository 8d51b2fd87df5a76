"""The report: what it says is what the run holds, and nothing that it holds can act."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import searches
from PIL import Image

from kblocks.tuner import records
from kblocks.tuner.records import Failure, Objective, Record, Run
from kblocks.tuner.reporting.importance import importance
from kblocks.tuner.reporting.report import report
from kblocks.tuner.reporting.text import clean, duration, escaped, for_script, short
from kblocks.tuner.reporting.view import POINTS, View

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
HOSTILE = "</script><!--<img src=http://evil.example/x onerror=alert(1)>'\"&\u2028\u202e\x00\ud800"
PICTURES = ("progress", "front", "importance", "effects", "curves")


class Page(HTMLParser):
    """A page's tags, the cells of its table of trials, and the JSON of its plots."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text, self._json, self._in = "", "", ""
        self.feed(path.read_text(encoding="utf-8"))
        self.plots = json.loads(self._json, parse_constant=self._refuse)

    def _refuse(self, constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "table":
            self._table = found.get("class")
        elif tag in ("script", "style"):
            self._in = found.get("id") or tag
        elif tag == "tr" and getattr(self, "_table", None) == "trials":
            self.rows.append([])
        elif tag in ("td", "th") and getattr(self, "_table", None) == "trials":
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._table = None
        elif tag in ("script", "style"):
            self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "plots":
            self._json += data
        elif not self._in:
            self.text += data
            if getattr(self, "_table", None) == "trials" and self.rows and self.rows[-1]:
                self.rows[-1][-1] += data

    def data(self, name: str) -> list[dict[str, Any]]:
        """The rows of one of the plots."""
        return next(
            figure["spec"]["datasets"][name]
            for figure in self.plots["figures"]
            if name in figure["spec"]["datasets"]
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    run = searches.run(60)
    return run, report(run, tmp_path_factory.mktemp("run"))


def plain(trials: list[Record], objectives: tuple[Objective, ...] | None = None) -> Run:
    """A run of these trials that another program made."""
    return Run("other", objectives or (Objective("score", "max"),), {}, tuple(trials))


def done(number: int, score: float, **more: Any) -> Record:
    return Record(number, "completed", (score,), **more)


# --- what it says --------------------------------------------------------------------------


def test_the_table_has_every_trial_the_best_first(made: tuple[Run, Path]) -> None:
    run, path = made
    head, *rows = Page(path).rows
    assert head[:3] == ["trial", "state", "val_accuracy"]
    assert sorted(int(row[0]) for row in rows) == [trial.number for trial in run.trials]
    scores = {trial.number: trial.scores[0] for trial in run.trials if trial.scores}
    best_first = sorted(scores, key=lambda number: -scores[number])
    assert [int(row[0]) for row in rows[: len(scores)]] == best_first
    assert all(row[2] == f"{scores[int(row[0])]:.4f}" for row in rows[: len(scores)])
    column = head.index("learning_rate")
    rates = {trial.number: trial.values["learning_rate"] for trial in run.trials}
    assert all(float(r[column]) == pytest.approx(rates[int(r[0])], rel=1e-3) for r in rows)


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_the_front_is_that_of_brute_force(made: tuple[Run, Path], cost: str) -> None:
    run, path = made
    points = {t.number: (t.costs[cost], t.scores[0]) for t in run.trials if t.scores}

    def beaten(number: int) -> bool:
        x, y = points[number]
        return any(a <= x and b >= y and (a, b) != (x, y) for a, b in points.values())

    expected = {number for number in points if not beaten(number)}
    assert len(expected) > 2
    shown = Page(path).data(f"front_{cost}")
    assert {row["n"] for row in shown} == expected
    assert {row["n"]: (row["x"], row["s0"]) for row in shown} == {n: points[n] for n in expected}


def test_the_line_is_the_best_so_far(made: tuple[Run, Path]) -> None:
    run, path = made
    line = Page(path).data("best_number0")
    scored = [trial for trial in run.trials if trial.scores]
    for trial in scored:
        so_far = max(other.scores[0] for other in scored if other.number <= trial.number)
        assert [row["s"] for row in line if row["x"] <= trial.number][-1] == so_far


def test_the_front_of_several_objectives(tmp_path: Path) -> None:
    run = searches.run(40, objectives=2)
    points = {t.number: (-t.scores[0], t.scores[1]) for t in run.trials if t.scores}
    expected = {
        n
        for n, p in points.items()
        if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points.values())
    }
    page = Page(report(run, tmp_path, png=False))
    assert {row["n"] for row in page.data("front_s1")} == expected
    assert "val_accuracy against macs" in page.text


def test_the_best_network_has_its_stages_and_costs(made: tuple[Run, Path]) -> None:
    run, path = made
    best = max((t for t in run.trials if t.scores), key=lambda t: t.scores[0])
    text = Page(path).text
    section = text[text.index("The best network") : text.index("Which choices matter")]
    assert f"Trial {best.number}:" in section
    names = dict.fromkeys(r["name"].split("_")[0] for r in json.loads(best.network or "")["rows"])
    assert [name for name in names if name not in section] == []
    assert f"{best.costs['params'] / 1e3:.3g} k parameters" in section
    assert f"{best.costs['macs'] / 1e6:.3g} M multiply-adds" in section


def test_failures_are_told_with_their_networks(made: tuple[Run, Path]) -> None:
    run, path = made
    text = Page(path).text
    section = text[text.index("What failed") : text.index("What is searched")]
    failed = [trial for trial in run.trials if trial.failure]
    assert failed
    for trial in failed:
        assert trial.failure
        assert trial.failure.message in section
        assert f"Trial {trial.number} after" in section
    assert section.count("ResidualBlock") >= len(failed)
    assert searches.TRACEBACK in section


def test_pictures_are_not_blank(made: tuple[Run, Path]) -> None:
    folder = made[1].parent
    assert {path.stem for path in folder.glob("*.png")} == set(PICTURES)
    for name in PICTURES:
        assert (folder / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 400
            assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 8


# --- choices, as they were to be drawn --------------------------------------------------------


def specs(page: Page) -> list[str]:
    """The plots as JSON."""
    return [json.dumps(figure["spec"]) for figure in page.plots["figures"]]


def test_a_logarithmic_choice_has_a_logarithmic_axis(made: tuple[Run, Path]) -> None:
    """From 1e-4 to 1e-1, as `searches` draws it, though few trials come near its ends."""
    path = made[1]
    ranged = [spec for spec in specs(Page(path)) if '"domain": [0.0001, 0.1]' in spec]
    assert len(ranged) == 1
    assert '"type": "log"' in ranged[0]


def test_options_that_were_never_tried_are_told(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    distributions = {
        "kernel": optuna.distributions.CategoricalDistribution(["3", "5", "7", "9"]),
        "depth": optuna.distributions.IntDistribution(1, 3),
    }
    states = {"3": "COMPLETE", "5": "COMPLETE", "7": "FAIL"}
    for number, (kernel, state) in enumerate(states.items()):
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[state],
                value=number / 3 if state == "COMPLETE" else None,
                params={"kernel": kernel, "depth": 1},
                distributions=distributions,
            )
        )
    page = Page(report(records.read(study), tmp_path, png=False))
    told = [page.data(f"effect{place}_without") for place in (0, 1)]
    assert told == [
        [{"x": "7", "w": "without a score"}, {"x": "9", "w": "never tried"}],
        [{"x": "2", "w": "never tried"}, {"x": "3", "w": "never tried"}],
    ]


def test_curves_are_seen_where_they_differ(tmp_path: Path) -> None:
    """The axis holds the ends and the best values; the first epochs, far below, are cut off."""
    curves = [[0.1, 0.5, 0.9, 0.95, 0.96, 0.955], [0.2, 0.4, 0.97, 0.93, 0.94, 0.95]]
    trials = [done(n, max(c), history={"score": c}) for n, c in enumerate(curves)]
    page = Page(report(plain(trials), tmp_path, png=False))
    found = next(f["spec"] for f in page.plots["figures"] if "curve0" in f["spec"]["datasets"])
    low, high = found["encoding"]["y"]["scale"]["domain"]
    assert 0.9 <= low <= 0.95
    assert high == 0.97
    assert len(page.data("curve0")) == 12
    assert "early epochs may lie outside" in page.text


def test_a_reader_sees_names_and_no_hashes(tmp_path: Path) -> None:
    """Of a run that was really searched, and of options that are dicts."""
    shutil.copy(Path(__file__).parent / "saved" / "run" / "study.db", tmp_path)
    storage = f"sqlite:///{tmp_path}/study.db"
    run = records.read(optuna.load_study(study_name=None, storage=storage))
    page = Page(report(run, tmp_path, png=False))
    assert "float32 (48, 8, 8, 1)" in page.text
    assert re.findall(r"\b[0-9a-f]{12,}\b", page.text) == []
    assert f"optuna-dashboard {storage}" in page.text
    settings = {"space": {"head": "#0, #1"}, "options": {"head": ["pool avg", "pool max"]}}
    trials = tuple(done(n, n / 9, values={"head": f"#{n % 2}"}) for n in range(9))
    path = report(Run("r", (Objective("s", "max"),), settings, trials), tmp_path, png=False)
    assert "pool avg, pool max" in Page(path).text
    assert re.findall(r"#\d", Page(path).text + json.dumps(Page(path).plots["trials"])) == []


# --- which choices matter ------------------------------------------------------------------


def test_importance_of_a_sum_is_the_variance_of_its_terms() -> None:
    """Uniform `a` and `b`: of 3a + b, `a` has 9/10 of the variance; `c` does nothing."""
    random = np.random.default_rng(3)
    trials = [
        done(n, 3 * a + b, values={"a": a, "b": b, "c": c})
        for n, (a, b, c) in enumerate(random.uniform(size=(600, 3)).tolist())
    ]
    found = importance(View(plain(trials)).scored)
    assert found
    assert list(found.shares)[:2] == ["a", "b"]
    assert found.shares["a"] == pytest.approx(0.9, abs=0.1)
    assert found.shares["b"] == pytest.approx(0.1, abs=0.04)
    assert found.shares["c"] < 0.01
    assert found.explained > 0.9


def test_a_conditional_choice_is_not_credited_with_its_parent() -> None:
    random = np.random.default_rng(4)
    trials = []
    for n, (on, inner) in enumerate(random.uniform(size=(300, 2)).tolist()):
        values = {"on": True, "inner": inner} if on > 0.5 else {"on": False}
        trials.append(done(n, float(on > 0.5) + 0.001 * n / 300, values=values))
    found = importance(View(plain(trials)).scored)
    assert found
    assert found.shares["inner"] < 0.02


def test_importance_does_not_depend_on_the_names_of_options() -> None:
    """Else it would differ from process to process, as the order of a set of texts does."""

    def shares(prefix: str) -> dict[str, float]:
        random = np.random.default_rng(5)
        trials = []
        for number in range(30):
            a, b = number % 5, int(random.integers(5))
            values = {"a": f"{prefix}{a}", "b": f"{prefix}{b}"}
            trials.append(done(number, a % 3 + random.normal(), values=values))
        found = importance(View(plain(trials)).scored)
        assert found is not None
        return found.shares

    assert all(shares(prefix) == shares("") for prefix in ("u", "v", "w"))


@pytest.mark.parametrize("scores", [[0.5] * 30, [0.1, 0.2, 0.3]])
def test_nothing_is_said_where_nothing_can_be_known(scores: list[float]) -> None:
    trials = [done(n, score, values={"a": n}) for n, score in enumerate(scores)]
    assert importance(View(plain(trials)).scored) is None


# --- data that would act -------------------------------------------------------------------


def hostile() -> Run:
    """Everything that is text is hostile, everything else is of the wrong kind now and then."""
    trials = [
        done(
            n,
            n / 20,
            values={HOSTILE: HOSTILE if n % 2 else "image", "image": n, "a.b[0]": None},
            network=json.dumps(
                {"rows": [{"name": HOSTILE, "block": HOSTILE, "arguments": {HOSTILE: HOSTILE}}]}
            ),
            costs={"macs": 10.0 + n, "params": "many", HOSTILE: 1},  # type: ignore[dict-item]
            history={HOSTILE: [1.0], "loss": [math.nan, math.inf, 0.5, 0.4]},
        )
        for n in range(20)
    ]
    failure = Failure(HOSTILE, HOSTILE, HOSTILE)
    trials.append(Record(20, "failed", failure=failure, values={HOSTILE: HOSTILE}))
    settings = {
        HOSTILE: {HOSTILE: [HOSTILE]},
        "storage": "postgresql://me:sec/re@t@host/db?password=secret",
    }
    return Run(HOSTILE, (Objective(HOSTILE, "max"),), settings, tuple(trials))


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    path = report(hostile(), tmp_path)
    page = Page(path)
    tags = {tag for tag, _ in page.tags}
    assert tags & {"img", "iframe", "link", "object", "base", "form", "a"} == set()
    assert [tag for tag, _ in page.tags].count("script") == 3
    attributes = {name for _, found in page.tags for name in found}
    assert not [n for n in attributes if n.startswith("on") or n in ("src", "href")]
    assert "<img src=http" in page.text  # told, as text
    assert not {s for s in ("secret", "re@t") if s in path.read_text(encoding="utf-8")}
    assert "postgresql://me:***@host/db?password=***" in page.text
    assert not set("\u2028\u202e\x00") & set(re.sub(r"\s+", "", page._json))


@pytest.mark.parametrize("data", [HOSTILE, [{"a": HOSTILE}], {"<": "&"}])
def test_json_in_a_script_cannot_end_it(data: Any) -> None:
    text = for_script(data)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == data


def test_text_is_clean_and_short() -> None:
    assert escaped("<b a='\"'>&") == "&lt;b a=&#x27;&quot;&#x27;&gt;&amp;"
    assert clean("a\x00b\ud800\u202ec") == "a\ufffdb\ufffd\ufffdc"
    assert len(clean("x" * 10**6, 50)) == 50
    assert clean(10**5000) == "(too large to show)"
    assert [short(v) for v in (1_234_567, 999_600, 12, 0.5, math.nan)] == [
        *("1.23\u00a0M", "1\u00a0M", "12", "0.5", "–"),
    ]
    assert [duration(s) for s in (5, 75, 3600, 90061)] == ["5.0 s", "1 min 15 s", "1 h", "1 d 1 h"]


@pytest.mark.parametrize(
    "network",
    [
        None,
        "{",
        '{"format": 1}',
        "[" * 5000,
        json.dumps({"rows": [1]}),
        json.dumps(
            {
                "format": 1,
                "name": "n",
                "outputs": {"features": "a"},
                "rows": [
                    {
                        "name": "a",
                        "block": "DenseBlock",
                        "arguments": {"growth_rate": 1, "depth": 10**9},
                    }
                ],
            }
        ),
    ],
    ids=["none", "cut", "empty", "deep", "numbers", "endless"],
)
def test_a_broken_network_only_leaves_its_drawing_out(network: Any, tmp_path: Path) -> None:
    run = Run("r", (Objective("s", "max"),), {"input_shape": [8, 8, 1]}, ())
    run = replace(run, trials=(done(0, 0.5, network=network, costs={"macs": 5}),))
    page = Page(report(run, tmp_path, png=False))
    assert "The best network" in page.text
    assert not [tag for tag, _ in page.tags if tag == "svg"]


# --- runs of all kinds ---------------------------------------------------------------------


def foreign() -> Run:
    study = optuna.create_study(directions=["minimize", "maximize"])
    for a, b in itertools.product((1.0, 2.0, 3.0), repeat=2):
        distributions = {"a": optuna.distributions.FloatDistribution(0, 9)}
        study.add_trial(
            optuna.trial.create_trial(values=[a, b], params={"a": a}, distributions=distributions)
        )
    return records.read(study)


RUNS: dict[str, Callable[[], Run]] = {
    "no trial": lambda: plain([]),
    "one trial": lambda: plain([done(0, 0.5, values={"a": 1})]),
    "one running": lambda: plain([Record(0, "running")]),
    "all failed": lambda: plain([Record(n, "failed") for n in range(3)]),
    "one value": lambda: plain([done(n, 0.5, values={"a": 1}) for n in range(20)]),
    "one score": lambda: plain([done(n, 0.5, values={"a": n}) for n in range(20)]),
    "zeros": lambda: plain([done(n, 0.0, values={"a": 0}, costs={"macs": 0}) for n in range(12)]),
    "infinite": lambda: plain([done(0, math.inf), done(1, 0.5), done(2, -math.inf)]),
    "mixed values": lambda: plain(
        [done(n, n / 9, values={"a": v}) for n, v in enumerate([1, "1", None, True, 2.5] * 4)]
    ),
    "huge loss": lambda: plain(
        [done(n, 10.0**n, values={"a": n}) for n in range(14)], (Objective("loss", "min"),)
    ),
    "three objectives": lambda: searches.run(20, objectives=3),
    "foreign": foreign,
}


@pytest.mark.thin(4)
@pytest.mark.parametrize("name", RUNS)
def test_runs_of_all_kinds(name: str, tmp_path: Path) -> None:
    run = RUNS[name]()
    path = report(run, tmp_path)
    page = Page(path)
    for trial in run.trials:
        assert str(trial.number) in [row[0] for row in page.rows]
    for picture in tmp_path.glob("*.png"):
        with Image.open(picture) as image:
            image.verify()


@pytest.mark.slow
def test_of_many_trials_some_are_drawn_and_it_says_so(tmp_path: Path) -> None:
    few = searches.run(40).trials
    scored = [trial for trial in few if trial.scores]
    trials = [
        replace(scored[n % len(scored)], number=n, scores=(n % 997 / 997,)) for n in range(3000)
    ]
    path = report(replace(searches.run(40), trials=tuple(trials)), tmp_path, png=False)
    page = Page(path)
    assert len(page.plots["trials"]) == POINTS
    assert "2,000 of 3,000 completed trials are drawn" in page.text
    assert len(page.rows) == 1001
    assert "The first 1,000 of 3,000 trials" in page.text


def test_a_report_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = report(plain([]), tmp_path, png=False)
    before = path.read_bytes()

    def broken(self: Path, *args: Any, **kwargs: Any) -> int:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", broken)
    with pytest.raises(OSError, match="space"):
        report(plain([done(0, 0.5)]), tmp_path, png=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    assert path.read_bytes() == before


@pytest.mark.system
def test_without_the_extra_it_is_named(fresh_process: Callable[..., str], tmp_path: Path) -> None:
    script = """
import sys
sys.modules["altair"] = None
from kblocks.tuner.records import Run
from kblocks.tuner.reporting.report import report
try:
    report(Run("r", (), {}, ()), sys.argv[1])
except ImportError as error:
    print(error)
"""
    assert "pip install 'kblocks[report]'" in fresh_process(script, str(tmp_path))


# --- in a browser --------------------------------------------------------------------------


def browsed(path: Path, folder: Path) -> tuple[str, str]:
    """The page as Chromium has it after its scripts ran, without a network, and its log."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"),
            *("--window-size=1200,3000", "--virtual-time-budget=30000", "--enable-logging=stderr"),
            *(f"--user-data-dir={folder / 'chrome'}", "--host-resolver-rules=MAP * ~NOTFOUND"),
            *(f"--log-net-log={folder / 'net.json'}", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        timeout=180,
        check=True,
    )
    return done.stdout.decode(), done.stderr.decode(errors="replace")


@pytest.mark.parametrize("kind", ["usual", "hostile"])
def test_a_browser_draws_it_and_asks_for_nothing(kind: str, tmp_path: Path) -> None:
    path = report(searches.run(30) if kind == "usual" else hostile(), tmp_path, png=False)
    dom, log = browsed(path, tmp_path)
    assert 'data-drawn="yes"' in dom
    plots = len(re.findall(r'class="plot[^"]*" id=', dom))
    assert plots > 4
    # One for each, but for those that wait in what is folded.
    drawn = dom.count('class="marks"')
    assert plots - 12 <= drawn <= plots
    assert "could not be drawn" not in re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)
    console = [line for line in log.splitlines() if "CONSOLE" in line]
    assert console == []
    net = (tmp_path / "net.json").read_text(errors="replace")
    assert '"constants"' in net
    asked = re.findall(r'"url":"(https?://[^"]+)"', net)
    assert [url for url in asked if "google" not in url and "gvt1" not in url] == []
