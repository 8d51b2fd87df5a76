"""How objects show themselves: dataclasses as calls, tables in notebooks, text safe for HTML."""

import dataclasses
import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kblocks.common.masking import masked

# Control characters except tab and newline, lone surrogates (which no UTF-8 file can hold), and
# characters that change the direction of the text after them.
_UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_CUT = " …"
_EXACT = 1e15  # whole floats below it have all digits of the integer


def call_of(thing: Any, function: str = "") -> str:
    """The call of `function`, or the class, that makes a dataclass, without default arguments."""
    given = ((f.name, getattr(thing, f.name), f.default) for f in dataclasses.fields(thing))
    shown = [f"{n}={literal(v)}" for n, v, default in given if v is not default and v != default]
    return f"{function or type(thing).__name__}({', '.join(shown)})"


def literal(value: Any) -> str:
    """`repr`, with _ between the thousands of a whole number: 20_000_000."""
    is_whole = type(value) is int or (type(value) is float and value.is_integer())
    return f"{int(value):_}" if is_whole and abs(value) < _EXACT else repr(value)


def html_table(rows: Sequence[Sequence[Any]], caption: str) -> str:
    """A table for notebooks; the first row is its head."""
    head, *body = ("".join(f"<td>{escaped(cell, 80)}</td>" for cell in row) for row in rows)
    lines = "".join(f"<tr>{cells}</tr>" for cells in body)
    head = head.replace("td>", "th>")
    return (
        f"<table><caption>{escaped(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{lines}</tbody></table>"
    )


def clean(value: Any, longest: int = 200) -> str:
    """Any value as printable text of at most `longest` characters, without passwords of URLs."""
    try:
        text = value if isinstance(value, str) else _written(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; lists in lists
        text = "(too large to show)"
    text = masked(text[: 4 * longest].replace("\r\n", "\n"))
    text = _UNSHOWN.sub("\ufffd", text)
    return text if len(text) <= longest else text[: longest - len(_CUT)] + _CUT


def escaped(value: Any, longest: int = 200) -> str:
    """`clean` text escaped for HTML and SVG: between tags, and in quoted attributes."""
    return html.escape(clean(value, longest))


def _written(value: Any) -> str:
    """Settings as text: "a, b" for lists, "name: value" for dicts, "32 × 32" for shapes."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_written(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        is_shape = len(value) > 1 and all(type(item) is int for item in value)
        return (" × " if is_shape else ", ").join(map(_written, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "–" if value is None else str(value)
