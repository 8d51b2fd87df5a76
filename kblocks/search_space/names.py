"""The names under which a tuner's trial records choices and networks."""

import re
from collections.abc import Collection

NETWORK = "kblocks/network"  # the trial's user attribute that holds the network as JSON
START = "kblocks/start"  # the trial's user attribute that holds what its weights started from
_RESERVED = ("tuner", "kblocks")  # under which Keras Tuner and kblocks record more of a trial


def network_key(name: str | None) -> str:
    """The user attribute of a trial that holds the network called `name` as JSON."""
    return NETWORK if name is None else f"{NETWORK}/{name}"


def prefix_of(name: str | None, is_block: bool) -> str:
    """What the names of choices begin with in a trial if their network or block is called `name`.

    Raises ValueError if the name is not a word, has a "/" (of a block also a "."), or is reserved.
    """
    if name is None:
        return ""
    marks, reserved = ("/.", (*_RESERVED, "recipe", "finetuning")) if is_block else ("/", _RESERVED)
    if not isinstance(name, str) or not name or set(marks) & set(name) or name in reserved:
        refused = " and ".join(map(repr, marks)), " or ".join(map(repr, reserved))
        raise ValueError(
            f"`name` must be a word without {refused[0]}, not {refused[1]}. Received: name={name!r}"
        )
    return f"{name}." if is_block else f"{name}/"


def is_of_others(key: str, arguments: Collection[str]) -> bool:
    """Whether a recorded entry is of a recipe, a named network or block, or the tuner itself."""
    argument = re.split(r"[.\[#]", key, maxsplit=1)[0]
    return "/" in key or ("." in key and argument not in arguments)
