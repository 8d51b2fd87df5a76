"""Numbers in short form, such as 25.6 M, written and read."""

_UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def quantity(number: float, space: str = " ") -> str:
    """A finite number in short form, with `space` before the prefix: "25.6 M" for 25636712."""
    for size, unit in _UNITS:
        if abs(number) >= 0.9995 * size:
            return f"{_digits(number / size)}{space}{unit}"
    return _digits(number)


def number_of(text: str) -> float:
    """The number that "20M", "1.5 G" or "2e7" means; ValueError for other text."""
    sizes = {"K": 1e3, **{unit: size for size, unit in _UNITS}}
    text = text.strip()
    size = sizes.get(text[-1:])
    return float(text[:-1]) * size if size else float(text)


def _digits(value: float) -> str:
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.0f}" if abs(value) >= 1 else text
