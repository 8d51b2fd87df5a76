"""Hides typed passwords: everyone on a machine can read the command line of a process."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from kblocks.common.masking import masked

_HANDED = "KBLOCKS_ARGUMENTS"  # the environment, which only its own user sees


def hide() -> None:
    """Masks passwords in the command line of this process, if it is the command `kblocks`.

    The process starts again under the same number with masked arguments, and finds the real ones
    in its environment, from which it removes them. Windows cannot replace a process and shows a
    command line only to its own user, so there nothing is done.
    """
    handed = os.environ.pop(_HANDED, None)
    with contextlib.suppress(ValueError, TypeError):  # it may be another program's
        given = json.loads(handed or "[]")
        if list(map(masked, given)) == sys.argv[1:]:
            sys.argv[1:] = given
    arguments = sys.argv[1:]
    shown = list(map(masked, arguments))
    if os.name != "posix" or shown == arguments or not is_command():
        return
    typed = [*sys.orig_argv[: -len(arguments)], *shown]
    with contextlib.suppress(OSError):  # then the process goes on as it is
        os.execve(sys.executable, typed, {**os.environ, _HANDED: json.dumps(arguments)})


def is_command() -> bool:
    """Whether this process was started as `kblocks` or `python -m kblocks`.

    Worker processes of a search have other command lines, so it is False in them.
    """
    arguments = sys.argv[1:]
    before = sys.orig_argv[: len(sys.orig_argv) - len(arguments)]
    if not sys.executable or [*before, *arguments] != sys.orig_argv or not sys.argv:
        return False
    if before[-2:] == ["-m", "kblocks"] or before[-1:] == ["-mkblocks"]:
        main = str(Path(__file__).parents[1] / "__main__.py")
        return sys.argv[0] in ("-m", main)  # the first while Python looks for what `-m` names
    return os.path.basename(sys.argv[0]) == "kblocks"
