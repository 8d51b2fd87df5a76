"""Makes text from data safe for HTML, for JSON inside a script, and for drawings.

A run folder may come from anyone, so its names, values and messages can hold anything.
"""

from __future__ import annotations

import html
import itertools
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from kblocks.common.masking import masked
from kblocks.common.quantities import quantity

# Control characters except tab and newline, lone surrogates (which no UTF-8 file can hold), and
# characters that change the direction of the text after them.
_UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_CUT = " …"


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


def for_script(data: Any) -> str:
    """JSON for use inside <script>: nothing in it ends the script or opens a comment.

    The data must not hold NaN or infinity, which JSON lacks: see `number`.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII: no U+2028
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def number(value: Any) -> float | None:
    """`value` if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer too large for a float
        return None


def short(value: Any) -> str:
    """A number in short form: 1234567 as "1.23 M"."""
    found = number(value)
    return "–" if found is None else quantity(found, "\u00a0")


def cost(name: str, value: float) -> str:
    """One of `view.COSTS` as text: a latency in milliseconds, the others in short form."""
    return f"{1000 * value:.3g} ms" if name == "latency" else short(value)


def score(value: Any) -> str:
    """A metric as text: four decimals; three digits below 0.001; `short` from 100 on."""
    found = number(value)
    if found is None:
        return "–"
    if found and not abs(found) >= 1e-3:
        return f"{found:.3g}"
    return f"{found:.4f}" if abs(found) < 100 else short(found)


def plain(value: Any, longest: int = 60) -> str:
    """The value of a choice as text."""
    return f"{value:.4g}" if isinstance(value, float) else clean(value, longest)


def duration(seconds: Any) -> str:
    """Seconds as text: 75 as "1 min 15 s"."""
    found = number(seconds)
    if found is None or found < 0:
        return "–"
    if found < 9.95:
        return f"{found:.1f} s"
    whole = round(found)
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    for (large, name), (small, rest) in itertools.pairwise(units):
        if whole >= large:
            left = whole % large // small
            return f"{whole // large} {name}" + (f" {left} {rest}" if left else "")
    return f"{whole} s"


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
