"""The report's page: one HTML file that loads nothing from elsewhere."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any

from kblocks.tuner.reporting.figures import Rows, Section
from kblocks.tuner.reporting.text import escaped, for_script
from kblocks.tuner.reporting.theme import DARK, LIGHT, config

_CANVAS = 600  # a plot with more rows is drawn on a canvas, else as SVG


def page(title: str, contents: Sequence[str | Section], trials: Rows, javascript: str) -> str:
    """Assembles the page from escaped HTML and sections of plots, which share the rows `trials`.

    The page's content security policy lets a browser run only our own two scripts, identified by
    their hashes, and load nothing, so text in the data can neither run nor call out. `javascript`
    is the bundle of vega-embed and its dependencies.
    """
    plots = [one for one in contents if isinstance(one, Section)]
    body = "".join(_section(one) if isinstance(one, Section) else one for one in contents)
    own = _resource("page.js")
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in (javascript, own))
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:"
    data = {
        "trials": trials,
        "figures": [_figure(section, i) for section in plots for i in range(len(section.figures))],
        "light": config(LIGHT),
        "dark": config(DARK),
    }
    parts = {"title": escaped(title, 120), "policy": policy, "css": _resource("page.css")}
    parts |= {"body": body, "data": for_script(data), "javascript": javascript, "own": own}
    return Template(_resource("page.html")).substitute(parts)


def _section(section: Section) -> str:
    boxes = [_box(section, i) for i in range(len(section.figures))]
    opened, more, folded = "".join(boxes[: section.opened]), boxes[section.opened :], ""
    if more:
        folded = (
            f"<details><summary>{len(more)} more, of less importance</summary>"
            f'<div class="plots">{"".join(more)}</div></details>'
        )
    columns = f"--columns:{min(section.columns, len(section.figures))}"
    return (
        f'<section id="{section.name}"><h2>{escaped(section.title)}</h2>'
        f"<p>{escaped(section.caption, 2000)}</p>"
        f'<div class="plots" style="{columns}">{opened}</div>{folded}</section>'
    )


def _box(section: Section, index: int) -> str:
    figure = section.figures[index]
    title = f"<h3>{escaped(figure.title)}</h3>" if figure.title else ""
    return (
        f'<figure>{title}<div class="scroll"><div class="plot" id="{section.name}-{index}" '
        f'style="min-width:{figure.width}px;height:{figure.height}px"></div></div></figure>'
    )


def _figure(section: Section, index: int) -> dict[str, Any]:
    figure = section.figures[index]
    chart = figure.chart.properties(width="container", height=figure.height)
    chart = chart.properties(autosize={"type": "fit", "contains": "padding"})
    spec = chart.to_dict()
    del spec["config"]  # Altair's config; the page has its own
    large = sum(map(len, figure.data.values())) > _CANVAS
    named = f"{section.name}-{index}"
    return {"id": named, "spec": {**spec, "datasets": figure.data}, "canvas": large}


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _resource(name: str) -> str:
    return (files("kblocks.tuner.reporting") / name).read_text(encoding="utf-8")
