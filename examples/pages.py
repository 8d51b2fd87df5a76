"""Writes figures and charts as small SVG and PNG files, several on one page.

The examples with charts share this file; run by itself, it writes a page of two blocks:
    python examples/pages.py    (about 5 seconds)
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import vl_convert
from PIL import Image

import kblocks as kb

COLOURS = 128  # in a PNG: flat shapes and text need no more


def page_of(figures: dict[str, str], width: float, gap: float = 24, title: float = 40) -> str:
    """Puts figures of `kb.draw` under their titles on one SVG, in as many lines as needed."""
    lines: list[list[tuple[str, str, float, float]]] = [[]]
    for text, svg in figures.items():
        wide, high = (float(size) for size in re.findall(r' (?:width|height)="(.*?)"', svg)[:2])
        taken = sum(figure[2] + gap for figure in lines[-1])
        if lines[-1] and taken + wide > width:
            lines.append([])
        lines[-1].append((text, svg, wide, high))
    placed, top = [], gap
    for line in lines:
        left = (width - sum(figure[2] + gap for figure in line) + gap) / 2
        for text, svg, wide, _ in line:
            placed.append(
                f'<text x="{left + wide / 2:.1f}" y="{top + title / 2:.1f}">{text}</text>'
            )
            placed.append(svg.replace("<svg ", f'<svg x="{left:.1f}" y="{top + title:.1f}" ', 1))
            left += wide + gap
        top += max(figure[3] for figure in line) + title + gap
    style = 'font-family="Helvetica, Arial, sans-serif" font-size="19" text-anchor="middle"'
    page = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}"'
    parts = [
        f"{page} {style}>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    return "\n".join([*parts, *placed, "</svg>"])


def save_png(picture: Any, file: str | Path, scale: float = 1.5) -> None:
    """Writes a PNG of an SVG's text or of an Altair chart."""
    svg = picture if isinstance(picture, str) else vl_convert.vegalite_to_svg(picture.to_dict())
    image = Image.open(io.BytesIO(vl_convert.svg_to_png(svg, scale=scale))).convert("RGB")
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    blocks = {"2015": kb.ResidualBlock.Spec(64), "2016": kb.ResNeXtBlock.Spec(256)}
    save_png(page_of({year: kb.draw(spec) for year, spec in blocks.items()}, 480), "runs/pages.png")
    print("runs/pages.png")
