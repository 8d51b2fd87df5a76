"""Renders the plots of a section to one PNG, without a browser."""

import textwrap
from typing import Any

import altair as alt
import vl_convert

from kblocks.tuner.reporting.figures import TRIALS, Rows, Section
from kblocks.tuner.reporting.theme import LIGHT, config

_WIDTHS = {1: 860, 2: 440, 3: 270}  # pixels of a plot, by the number of columns
_LETTERS = 140  # in a line of the caption
_FONT = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"


def image(section: Section, trials: Rows) -> bytes:
    """Renders the unfolded plots of a section to a PNG at double resolution."""
    figures = section.figures[: section.opened]
    columns = min(section.columns, len(figures))
    charts = [
        figure.chart.properties(width=_WIDTHS[columns], height=figure.height, title=figure.title)
        for figure in figures
    ]
    caption = textwrap.wrap(section.caption, _LETTERS)
    title = alt.Title(section.title, subtitle=caption, fontSize=18, offset=20)
    chart = alt.concat(*charts, columns=columns, spacing=36, title=title)
    chart = chart.resolve_scale(color="independent")  # so that each plot has its legend
    spec: dict[str, Any] = chart.to_dict()
    data = {name: rows for figure in figures for name, rows in figure.data.items()}
    spec["datasets"] = {TRIALS: trials, **data}
    spec["config"] = {**config(LIGHT, _FONT), "background": "white", "padding": 24}
    return vl_convert.vegalite_to_png(spec, scale=2)
