"""python docs/make.py [serve]    (half a minute; needs the extras `docs` and `tune`)

Writes the pages that are made from the code, then builds the site in `build/site/` with warnings as
errors, or serves it at http://localhost:8000 and builds pages again as they are edited.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent


def write() -> None:
    """The reference and the catalogue, in place of those of an earlier run."""
    import catalogue_pages
    import reference_pages

    for folder, pages in (
        ("reference", reference_pages.pages()),
        ("catalogue", catalogue_pages.pages()),
    ):
        old = {path for path in (DOCS / folder).rglob("*.*") if path.name != "files.md"}
        for name, text in pages.items():
            path = DOCS / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            old.discard(path)
        for path in old:
            path.unlink()


def main() -> None:
    write()
    command = ["serve"] if sys.argv[1:] == ["serve"] else ["build", "--clean", "--strict"]
    done = subprocess.run(
        [sys.executable, "-m", "zensical", *command], cwd=DOCS.parent, check=False
    )
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
