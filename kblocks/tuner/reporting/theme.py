"""Colours and font of the plots, for light and dark pages."""

from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

# Text, secondary text, grid lines, a trial's point, the best, a failure, the colours of categories.
LIGHT: dict[str, Any] = {
    **{"ink": "#1c2430", "quiet": "#5b6675", "grid": "#e6e9ee"},
    **{"trial": "#7f93b2", "best": "#0b63ce", "failure": "#c8452f"},
    "category": ["#0b63ce", "#d9822b", "#2f9e6e", "#8e5bc7", "#c8452f", "#4aa3b8", "#8a8f2a"],
}
DARK: dict[str, Any] = {
    **{"ink": "#e8ecf2", "quiet": "#9aa6b6", "grid": "#2a323d"},
    **{"trial": "#6d82a3", "best": "#6cb0ff", "failure": "#ff8068"},
    "category": ["#6cb0ff", "#f0a55a", "#5fcf9d", "#bb93ea", "#ff8068", "#74cbe0", "#c9cf63"],
}


def config(colours: dict[str, Any], font: str = FONT) -> dict[str, Any]:
    """Vega-Lite's config. Marks take their colours from named styles, so one specification serves
    light and dark pages."""
    quiet = {"labelColor": colours["quiet"], "titleColor": colours["quiet"]}
    guide = {**quiet, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    lines = {"gridColor": colours["grid"], "tickColor": colours["grid"], "domain": False}
    title = {"color": colours["ink"], "fontSize": 14, "fontWeight": 600, "anchor": "start"}
    below = {"subtitleColor": colours["quiet"], "subtitleFontSize": 12, "subtitlePadding": 6}
    return {
        "background": None,
        "font": font,
        "view": {"stroke": None},
        "axis": {**guide, **lines, "labelPadding": 6, "titlePadding": 10},
        "legend": guide,
        "title": {**title, **below, "offset": 12},
        "range": {"category": colours["category"]},
        "style": {
            "trial": {"color": colours["trial"], "opacity": 0.6},
            "best": {"color": colours["best"], "opacity": 1},
            "bestline": {"color": colours["best"], "strokeWidth": 2},
            "failure": {"color": colours["failure"], "opacity": 0.85},
            "bar": {"color": colours["best"]},
            "range": {"color": colours["best"], "opacity": 0.16},
            "middle": {"color": colours["best"], "opacity": 1},
            "label": {"color": colours["quiet"], "fontSize": 11},
        },
    }
