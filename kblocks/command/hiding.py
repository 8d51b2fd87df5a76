"""Hides typed passwords: every user of a machine can read a process's command line."""

import contextlib
import json
import os
import sys
from pathlib import Path

from kblocks.common.masking import masked

_HANDED = "KBLOCKS_ARGUMENTS"  # an environment variable: only the process's own user sees these


def hide() -> None:
    """Masks passwords in the command line of this process, if it is the command `kblocks`.

    The process restarts itself under the same process id with masked arguments, then takes the
    real ones from its environment and removes them there. On Windows it does nothing: Windows
    cannot replace a process, and shows a command line only to its own user.
    """
    handed = os.environ.pop(_HANDED, None)
    with contextlib.suppress(ValueError, TypeError):  # another program may have set the variable
        given = json.loads(handed or "[]")
        if list(map(masked, given)) == sys.argv[1:]:
            sys.argv[1:] = given
    arguments = sys.argv[1:]
    shown = list(map(masked, arguments))
    if os.name != "posix" or shown == arguments or not is_command():
        return
    typed = [*sys.orig_argv[: -len(arguments)], *shown]
    with contextlib.suppress(OSError):  # on failure the process continues unmasked
        os.execve(sys.executable, typed, {**os.environ, _HANDED: json.dumps(arguments)})


def is_command() -> bool:
    """Whether this process was started as `kblocks` or `python -m kblocks`.

    It is False in the worker processes of a search, which have other command lines.
    """
    arguments = sys.argv[1:]
    before = sys.orig_argv[: len(sys.orig_argv) - len(arguments)]
    if not sys.executable or [*before, *arguments] != sys.orig_argv or not sys.argv:
        return False
    if before[-2:] == ["-m", "kblocks"] or before[-1:] == ["-mkblocks"]:
        main = str(Path(__file__).parents[1] / "__main__.py")
        return sys.argv[0] in ("-m", main)  # "-m" while Python still looks for the module
    return os.path.basename(sys.argv[0]) == "kblocks"
