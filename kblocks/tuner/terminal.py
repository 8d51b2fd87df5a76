"""Prints everything that a search shows, as harmless text.

Names, values and messages may come from data, or from a storage of unknown origin. None of them
can move the cursor, colour or hide text, reverse its direction, or act as markup. Passwords in URLs
are masked.
"""

from __future__ import annotations

import logging
from typing import Any

from rich.console import Console
from rich.text import Text

from kblocks.common.masking import masked


def plain(value: Any) -> str:
    """A value as one line of text; unprintable characters become spaces."""
    return "".join(c if c.isprintable() else " " for c in masked(str(value)))


def lines(value: Any) -> str:
    """Like `plain`, but keeps line breaks and tabs."""
    parts = str(value).replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(plain, part.split("\t"))) for part in parts)


def cell(value: Any, style: str = "") -> Text:
    """`plain` text for rich's tables and groups."""
    return Text(plain(value), style=style)


def tell(text: Any, console: Console | None = None, file: Any = None) -> None:
    """Prints lines that stay, by `print` or above what a console shows live."""
    if console is None:
        print(lines(text), file=file, flush=True)
    else:
        console.print(Text(lines(text)))


class _Harmless(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = lines(record.getMessage()), ()
        return True


log = logging.getLogger("kblocks")
log.addFilter(_Harmless())
