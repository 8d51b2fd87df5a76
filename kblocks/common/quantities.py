"""Numbers as a reader takes them in: three digits and a unit."""

from __future__ import annotations

_UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def quantity(number: float, space: str = " ") -> str:
    """25636712 as "25.6 M".

    Args:
        number: finite.
        space: between the number and its unit.
    """
    for size, unit in _UNITS:
        if abs(number) >= 0.9995 * size:
            return f"{_digits(number / size)}{space}{unit}"
    return _digits(number)


def _digits(value: float) -> str:
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.0f}" if abs(value) >= 1 else text
