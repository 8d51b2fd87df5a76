"""Masks passwords in text."""

import re

_SECRETS = (
    (re.compile(r"(://[^:/?#\s]*):\S*@"), r"\1:***@"),
    (re.compile(r"(?i)\b(password|passwd|pwd|sslpassword)=[^&\s'\"]+"), r"\1=***"),
)


def masked(text: str) -> str:
    """The text with *** in place of passwords, in URLs and as in `password=...`."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text
