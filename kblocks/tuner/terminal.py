"""The one door to the terminal: what a search shows goes through it, and cannot act there.

Names, values and messages may come from data, or from a storage of unknown origin. None of them
moves the cursor, colours or hides text, turns its direction, or is read as markup; and passwords
of URLs are masked.
"""

from __future__ import annotations

import logging
from typing import Any

from rich.console import Console
from rich.text import Text

from kblocks.common.masking import masked


def plain(value: Any) -> str:
    """Any value as text on one line; what is not to be printed is a space."""
    return "".join(c if c.isprintable() else " " for c in masked(str(value)))


def lines(value: Any) -> str:
    """The same with its lines and tabs."""
    parts = str(value).replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(plain, part.split("\t"))) for part in parts)


def cell(value: Any, style: str = "") -> Text:
    """`plain`, for rich's tables and groups."""
    return Text(plain(value), style=style)


def tell(text: Any, console: Console | None = None, file: Any = None) -> None:
    """Lines that stay.

    Args:
        text: any text.
        console: of rich, where something live is shown; None prints.
        file: where to print; None is the standard output.
    """
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
