"""Numbers, and values of choices, as text; data as JSON inside a script.

A run folder may come from anyone, so its names, values and messages can hold anything.
"""

import itertools
import json
import math
from typing import Any

from kblocks.common.quantities import quantity
from kblocks.common.showing import clean as clean
from kblocks.common.showing import escaped as escaped


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
