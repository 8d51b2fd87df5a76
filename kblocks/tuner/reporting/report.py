"""The report of a search: one self-contained HTML file, and the plots as PNG."""

import os
from pathlib import Path
from typing import Any

from kblocks.common.atomic import whole
from kblocks.tuner.records import Run


def report(run: Run, folder: str | os.PathLike[str], *, png: bool = True) -> Path:
    """Writes `report.html` and, with `png`, a PNG of each group of plots into a folder.

    Returns the path of `report.html`. Each file is written whole or not at all. The report executes
    nothing from the run and escapes all text from it. With many trials the plots and the table
    leave some out, and say so.

    Args:
        run: the run, such as `kb.tuner.Tuner.search` returns.
        folder: the folder for the files; created if it is missing.
        png: whether to write `progress.png`, `front.png`, `importance.png`, `effects.png`
            and `curves.png`, each only if it has something to show.

    Raises:
        ImportError: without the extra `report`.
    """
    try:
        import altair as _altair  # noqa: F401
        import vl_convert
    except ImportError as error:
        raise ImportError(
            f"A report needs {error.name}: pip install 'kblocks[report]'", name=error.name
        ) from error
    from kblocks.tuner.reporting import charts, choice_charts, outline, overview, tables
    from kblocks.tuner.reporting.figures import Section, image, trial_rows
    from kblocks.tuner.reporting.page import page
    from kblocks.tuner.reporting.view import View

    view = View(run)
    importances, made = choice_charts.importances(view)
    parts: list[str | Section | None] = [
        overview.head(view),
        charts.progress(view),
        charts.fronts(view),
        outline.drawing(view),
        importances,
        choice_charts.effects(view, made),
        charts.curves(view),
        tables.failures(view),
        overview.settings(view),
        tables.trials(view),
    ]
    study = Path(folder) / "study.db"
    if study.is_file():
        parts.append(tables.dashboard(study))
    shown = [part for part in parts if part]
    trials = trial_rows(view)
    bundle: Any = vl_convert.javascript_bundle  # its stub demands arguments that it does not need
    javascript = bundle()
    path = Path(folder) / "report.html"
    with whole(path) as written:
        text = page(f"{run.name}: architecture search", shown, trials, javascript)
        written.write_text(text, encoding="utf-8")
    for part in shown if png else ():
        if isinstance(part, Section):
            with whole(Path(folder) / f"{part.name}.png") as written:
                written.write_bytes(image(part, trials))
    return path
