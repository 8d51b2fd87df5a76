"""python docs/pictures.py [NAME ...]    (seconds; where an example trains, its minutes)

Makes the pictures of README and docs: those named, such as `picture.png`, else all that
are older than their source. `--unchanged` trains nothing, and notes that a change of an example's
code leaves its picture as it is.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import kblocks as kb

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "examples"
sys.path[:0] = [str(EXAMPLES), str(DOCS)]
import student_pictures  # noqa: E402
from pages import page_of, save_png  # noqa: E402

BLUE, ORANGE = "#2f6db3", "#d9822b"
TRIALS = DOCS / "digits.csv"  # a copy of runs/digits/trials.csv
# Pictures that an example makes from what it trained.
TRAINED = (
    *("budget_search", "detect", "finetune", "keypoints", "lecture", "localise", "phone"),
    *("segment", "tf_data_pipeline"),
)
OPTIONS = {
    "finetune": ["--network", "efficientnet_lite0", "--weights", "package_in1k", "--size", "96"],
}
CLOTHES = "/usr/share/datasets/fashion-mnist"
QUICK = ("compose", "own_architecture", "own_hypermodel")  # SVGs of examples that take seconds
SOURCE = "source"  # the entry of a PNG that says what it was made from


Parts = str | dict[str, Any]  # an SVG, or titles with SVGs and charts


def guide() -> Parts:
    return kb.draw(kb.resnet50(), input_shape=(224, 224, 3))


def lecture_blocks() -> Parts:
    from lecture import LECTURE, figure_of

    return {f"{one.name} ({one.year})": figure_of(one) for one in LECTURE}


def readme() -> Parts:
    """A block as a layer, a network's cost by stage, and the trials of a search."""
    block = kb.draw(kb.BottleneckBlock.Spec(64, strides=2), input_shape=(56, 56, 64))
    return {
        "kb.BottleneckBlock(64, strides=2)": block,
        "kb.resnet50().stages((224, 224, 3))": cost_chart(),
        "kblocks search tuning/digits.py": search_chart(),
    }


def svg_of(parts: Parts) -> str:
    if isinstance(parts, str):
        return parts
    figures = {
        title: part if isinstance(part, str) else vl_convert.vegalite_to_svg(part)
        for title, part in parts.items()
    }
    return page_of(figures, width=1330)


def cost_chart() -> dict[str, Any]:
    """Multiply-adds of the stages of ResNet-50, with their output shapes."""
    rows = [
        {"stage": name, "macs": cost.macs, "shape": " x ".join(map(str, cost.output_shape))}
        for name, cost in kb.resnet50().stages((224, 224, 3))
    ]
    bars = alt.Chart(alt.Data(values=rows), width=270, height=300).encode(
        x=alt.X("macs:Q", title="multiply-adds").axis(
            format="~s", grid=False, values=[5e8, 1e9, 1.5e9]
        ),
        y=alt.Y("stage:N", title=None, sort=None),
    )
    shapes = bars.mark_text(align="left", dx=4).encode(text="shape:N")
    return plain(bars.mark_bar(color=BLUE) + shapes)


def search_chart() -> dict[str, Any]:
    """Accuracy and multiply-adds of the trials of the search on digits, and its budget."""
    with TRIALS.open(encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if row["val_accuracy"]]
    names = ("macs", "params", "val_accuracy")
    rows: list[dict[str, Any]] = [{name: float(row[name]) for name in names} for row in found]
    best = max(rows, key=lambda row: row["val_accuracy"])
    for row in rows:
        row["is"] = "the best" if row is best else "a trial"
    kinds = alt.Scale(domain=["a trial", "the best"], range=[BLUE, ORANGE])
    x = alt.X("macs:Q", title="multiply-adds").axis(
        format="~s", grid=False, values=[5e5, 1e6, 1.5e6]
    )
    dots = alt.Chart(alt.Data(values=rows), width=330, height=300).mark_circle(opacity=0.7)
    dots = dots.encode(
        x=x,
        y=alt.Y("val_accuracy:Q", title="validation accuracy")
        .scale(zero=False, padding=9)
        .axis(grid=False),
        size=alt.Size("params:Q", title="parameters").legend(format="~s", values=[5e4, 1e5, 2e5]),
        color=alt.Color("is:N", title=None, scale=kinds),
    )
    limit = alt.Chart(alt.Data(values=[{"macs": 1.5e6}])).encode(x)
    words = limit.mark_text(align="right", dx=-4, text="budget").encode(y=alt.value(294))
    return plain(dots + limit.mark_rule(strokeDash=[3, 3]) + words)


def plain(chart: Any) -> dict[str, Any]:
    """A chart as JSON, without what only says which version of Altair wrote it."""
    spec = chart.configure_view(stroke=None).to_dict()
    return {key: value for key, value in spec.items() if key != "$schema"}


DRAWN: dict[str, Callable[[], Parts]] = {
    "resnet50.svg": guide,
    "picture.png": readme,
    "examples/lecture_blocks.png": lecture_blocks,
    **student_pictures.DRAWN,
}
AFRESH = tuple(f"examples/{name}.svg" for name in QUICK)  # how old they are only a run can tell
PICTURES = (*DRAWN, *AFRESH, *(f"examples/{name}.png" for name in TRAINED))


def code_of(path: Path) -> str:
    """A file's lines but for its docstring and comments, and those of its neighbours."""
    text = path.read_text(encoding="utf-8")
    start = ast.parse(text).body[0].end_lineno or 0
    lines = [line for line in text.splitlines()[start:] if line.strip() and line.strip()[0] != "#"]
    named = re.findall(r"^from (pages|shapes) import", text, re.MULTILINE)
    return "\n".join([*lines, *(code_of(path.with_name(f"{name}.py")) for name in named)])


def source_of(name: str) -> str:
    """What a PNG is made from, as a number."""
    if name in DRAWN:
        source = json.dumps(DRAWN[name](), sort_keys=True)
    else:
        source = code_of(EXAMPLES / f"{Path(name).stem}.py")
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def is_stale(name: str) -> bool:
    path = DOCS / name
    if name in AFRESH or not path.exists():
        return True
    if path.suffix == ".svg":
        return path.read_text(encoding="utf-8") != DRAWN[name]()
    with Image.open(path) as image:
        return image.info.get(SOURCE) != source_of(name)


def make(name: str) -> None:
    path, made = DOCS / name, Path("runs") / Path(name).name
    if name not in DRAWN:
        example = EXAMPLES / f"{path.stem}.py"
        if CLOTHES in example.read_text(encoding="utf-8") and not Path(CLOTHES).is_dir():
            sys.exit(f"docs/{name} needs Debian's package dataset-fashion-mnist")
        subprocess.run([sys.executable, example, *OPTIONS.get(path.stem, ())], check=True)
    elif path.suffix == ".svg":
        made.write_text(svg_of(DRAWN[name]()), encoding="utf-8")
    else:
        save_png(svg_of(DRAWN[name]()), made, scale=1)
    if path.suffix == ".svg":
        shutil.copy(made, path)
    else:
        note(name, made)


def note(name: str, picture: Path) -> None:
    """Writes a picture to its place, with what it was made from."""
    known = PngInfo()
    known.add_text(SOURCE, source_of(name))
    with Image.open(picture) as image:
        image.load()
    image.save(DOCS / name, pnginfo=known, optimize=True)


if __name__ == "__main__":
    Path("runs").mkdir(exist_ok=True)
    asked = [word for word in sys.argv[1:] if not word.startswith("--")]
    known = [Path(name).name for name in PICTURES]
    if unknown := sorted({*asked} - {*known}):
        sys.exit(f"NAME must be one of {', '.join(known)}. Received: {unknown[0]}")
    for name in PICTURES:
        if Path(name).name not in asked if asked else not is_stale(name):
            continue
        if "--unchanged" in sys.argv and name not in (*DRAWN, *AFRESH):
            note(name, DOCS / name)
        else:
            make(name)
        print(f"docs/{name}", flush=True)
