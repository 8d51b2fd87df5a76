"""The names under which a tuner's trial records choices and networks."""

from __future__ import annotations

NETWORK = "kblocks/network"  # the trial's user attribute that holds the network as JSON
_TUNERS = ("tuner/", "kblocks/")  # prefixes of what Keras Tuner and kblocks record of a trial


def network_key(name: str | None) -> str:
    """The user attribute of a trial that holds the network called `name` as JSON."""
    return NETWORK if name is None else f"{NETWORK}/{name}"


def prefix_of(name: str | None) -> str:
    """What the names of choices begin with in a trial if their network is called `name`.

    Raises:
        ValueError: if the name is not a word, has a "/" or is reserved.
    """
    if name is None:
        return ""
    if not isinstance(name, str) or not name or "/" in name or f"{name}/" in _TUNERS:
        raise ValueError(
            f"`name` must be a word without '/', not 'tuner' or 'kblocks'. Received: name={name!r}"
        )
    return f"{name}/"


def is_of_others(key: str) -> bool:
    """Whether a recorded entry belongs to a recipe, a named network, or the tuner itself."""
    return "/" in key or key.startswith("recipe.")
