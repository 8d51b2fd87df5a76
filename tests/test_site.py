"""README and the pages of `docs/`: their code runs, their links lead somewhere, the site is built.

The ```python blocks of a page run in order, in one process and one namespace, in an empty folder.
A page whose code takes minutes has the line `<!-- tests: slow -->`.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file
from typed_commands import check_options

import kblocks as kb

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MADE = ("catalogue/", "reference/")  # folders of pages that `docs/make.py` makes
STORED = [
    path
    for path in sorted(DOCS.rglob("*.md"))
    if not path.relative_to(DOCS).as_posix().startswith(MADE) or path.name == "files.md"
]
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *STORED)
}
WORDS = TEXTS["docs/words.md"]


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def named(page: str) -> Any:
    slow = "<!-- tests: slow -->" in TEXTS[page]
    return pytest.param(page, id=page, marks=pytest.mark.slow if slow else ())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, beside a hub that has random weights of every network."""

    def download(repo: str, file: str) -> str:
        net = kb.architecture(repo.partition("/")[2].partition(".")[0])
        save_file(kb.to_torch_state_dict(net.model((64, 64, 3))), tmp_path.parent / file)
        return str(tmp_path.parent / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(code: list[str], page: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in code:
        exec(compile(block, page, "exec", dont_inherit=True), names)
    return names


@pytest.mark.system
@pytest.mark.parametrize(
    "page",
    [named(page) for page, text in TEXTS.items() if blocks(text, "python")],
)
def test_the_code_of_a_page_runs(
    page: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(blocks(TEXTS[page], "python"), page)
    assert page != "README.md" or "stage4 (7, 7, 2048)" in capsys.readouterr().out


def ours() -> list[str]:
    """The code in the last column of the tables of words."""
    cells = re.findall(r"^\|.*\| (.*?) \|$", WORDS, re.MULTILINE)
    return [code for cell in cells for code in re.findall(r"`(.*?)`", cell)]


@pytest.mark.system
def test_our_words_run(folder: Path) -> None:
    """Each line of the tables, after the block before them."""
    lines = [code for code in ours() if not code.startswith("kblocks ")]
    assert len(lines) > 70
    run([*blocks(WORDS, "python"), *lines], "docs/words.md")


def typed() -> dict[str, str]:
    """Each command of kblocks that README and pages type, by page and number."""
    found = {}
    for page, text in TEXTS.items():
        lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
        for i, line in enumerate([*lines, *(ours() if text is WORDS else [])]):
            if command := re.search(r"(?:^|/|&& )kblocks (?=\w)([^;>&|#]*)", line):
                found[f"{page}:{i}"] = command[1]
    return found


@pytest.mark.parametrize("command", typed().values(), ids=typed().keys())
def test_a_command_that_a_page_types_exists(command: str) -> None:
    words = shlex.split(command)
    check_options(words)
    for word in words[1:]:
        assert not word.startswith("tuning/") or (ROOT / word).is_file()


def anchors(text: str) -> set[str]:
    """Those of a page's headings, as GitHub and the site make them."""
    without = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", without, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    """To a file, and where it has one to a heading; the strict build checks those to made pages."""
    text = re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        inside = target.relative_to(DOCS).as_posix() if target.is_relative_to(DOCS) else ""
        if "://" in link or (inside.startswith(MADE) and target.name != "files.md"):
            continue
        assert target.exists(), link
        assert inside or not page.startswith("docs/"), f"{link} is not a part of the site"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", [page for page in TEXTS if page.startswith("docs/")])
def test_a_page_is_short(page: str) -> None:
    assert TEXTS[page].count("\n") <= 200


def test_every_page_is_in_the_navigation() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    named = {f"docs/{name}" for name in re.findall(r"'([\w/-]+\.md)'", str(nav))}
    stored = {page for page in TEXTS if page.startswith("docs/")}
    pages = {name for name in named if not name.startswith(("docs/catalogue/", "docs/reference/"))}
    assert stored - {"docs/reference/files.md"} == pages


def test_the_catalogue_has_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    import catalogue_pages

    public = {name: getattr(kb, name) for name in kb.__all__}
    known = {n for n, one in public.items() if isinstance(one, type) and issubclass(one, kb.Block)}
    known |= {"Detector", "Keypoints", "Localizer", "Segmenter"}
    assert {"Block", *catalogue_pages.BLOCKS, *catalogue_pages.HEADS} == known


class Loaded(HTMLParser):
    """What a page of the site makes a browser load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.found.append(given.get("href") or "")
        elif tag != "a":
            self.found.append(given.get("src") or "")


@pytest.mark.system
def test_the_site_is_built() -> None:
    """Without a warning; with a page for each name, and with nothing from another host."""
    pytest.importorskip("zensical", reason="the site needs the extra `docs`")
    command = [sys.executable, str(DOCS / "make.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    for path in DOCS.rglob("*.md"):
        assert path.read_text(encoding="utf-8").count("\n") <= 200, path
    site = ROOT / "build" / "site"
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) > 130
    for path, html in pages.items():
        for link in filter(None, Loaded(html).found):
            assert "//" not in link, (path, link)
            begin = site if link.startswith("/") else path.parent
            assert (begin / link.lstrip("/").partition("?")[0]).exists(), (path, link)
    search = json.loads((site / "search.json").read_text(encoding="utf-8"))
    texts = json.dumps(search).lower()
    for word in ("include_top", "max_trials", "flops", "frozen", "class weights"):
        assert word in texts, word
    for name in kb.__all__:
        assert f"kb.{name}".lower() in texts, name
