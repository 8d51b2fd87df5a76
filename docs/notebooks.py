"""python docs/notebooks.py    (a second)

Writes docs/tutorials/*.ipynb: each tutorial as a notebook without outputs. Its ```python blocks
become code cells, all else text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).parent / "tutorials"


def cell(kind: str, text: str, number: int) -> dict[str, Any]:
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    source = text.strip().splitlines(keepends=True)
    return {"cell_type": kind, "id": f"cell{number}", "metadata": {}, **code, "source": source}


def notebook_of(page: Path) -> str:
    """A page as the text of a notebook."""
    parts = re.split(r"```python\n(.*?)```\n", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    kinds = [(("markdown", "code")[number % 2], part) for number, part in enumerate(parts)]
    cells = [(kind, part) for kind, part in kinds if part.strip()]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": [cell(kind, part, number) for number, (kind, part) in enumerate(cells)],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for page in sorted(TUTORIALS.glob("*.md")):
        stored = page.with_suffix(".ipynb")
        stored.write_text(notebook_of(page), encoding="utf-8")
        print(stored.relative_to(TUTORIALS.parent.parent))
