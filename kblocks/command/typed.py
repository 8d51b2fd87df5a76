"""What the user has typed: errors about it, passwords in it, and the environment beside it."""

import difflib
import os
import re
from collections.abc import Iterable
from urllib.parse import unquote

from kblocks.common import masking
from kblocks.tuner.terminal import tell

DATABASE = "study.db"  # the database in a run's folder
STORAGE = "KBLOCKS_STORAGE"  # the environment variable with a storage's URL


class BadArgumentError(ValueError):
    """The typed arguments are wrong."""


def masked(text: str) -> str:
    """Masks the passwords of URLs, and that of KBLOCKS_STORAGE wherever it stands."""
    text = masking.masked(text)
    found = re.search(r"://[^:/?#\s]*:(\S*)@", os.environ.get(STORAGE, ""))
    for secret in {found[1], unquote(found[1])} if found else ():
        if len(secret) > 3:  # shorter ones occur in ordinary words
            text = text.replace(secret, "***")
    return text


def say(text: str) -> None:
    """Writes a line to the standard output, with passwords masked."""
    tell(masked(text))


def sizes(option: str, text: str, count: int) -> tuple[int, ...]:
    """Parses `224x224x3` to numbers; BadArgumentError unless they are `count` positive ones."""
    parts = text.lower().split("x")
    if len(parts) != count or not all(part.isdecimal() and int(part) > 0 for part in parts):
        form = "x".join(("HEIGHT", "WIDTH", "CHANNELS")[:count])
        raise BadArgumentError(f"{option} must be {form}. Received: {text}")
    return tuple(map(int, parts))


def check_known(option: str, typed: str, known: Iterable[str]) -> None:
    """Raises BadArgumentError, with what comes close, unless the typed word is a known one."""
    words = list(known)
    if typed not in words:
        close = difflib.get_close_matches(typed, words, 1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise BadArgumentError(
            f"{option} must be one of {', '.join(words)}. {hint}Received: {typed}"
        )
