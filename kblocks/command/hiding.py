"""Passwords in what was typed: everyone on a machine sees a process's command line."""

from __future__ import annotations

import contextlib
import json
import os
import sys

from kblocks.common.masking import masked

_HANDED = "KBLOCKS_ARGUMENTS"  # the environment, which only its own user sees


def hide() -> None:
    """Takes passwords out of this process's command line, if it is the command `kblocks`.

    The process begins anew, under its own number, with the arguments masked; the true ones come
    along in the environment, and are taken out of it. On Windows, which cannot do that and shows
    command lines to their own user, nothing is done.
    """
    handed = os.environ.pop(_HANDED, None)
    with contextlib.suppress(ValueError, TypeError):  # it may be another's
        given = json.loads(handed or "[]")
        if list(map(masked, given)) == sys.argv[1:]:
            sys.argv[1:] = given
    arguments = sys.argv[1:]
    shown = list(map(masked, arguments))
    if os.name != "posix" or shown == arguments or not _is_command():
        return
    typed = [*sys.orig_argv[: -len(arguments)], *shown]
    with contextlib.suppress(OSError):  # then it goes on as it is
        os.execve(sys.executable, typed, {**os.environ, _HANDED: json.dumps(arguments)})


def _is_command() -> bool:
    """Whether this process was begun as `kblocks` or `python -m kblocks`, not by such a one."""
    arguments = sys.argv[1:]
    if not sys.executable or sys.orig_argv[-len(arguments) :] != arguments:
        return False
    if sys.argv[0] == "-m":  # as long as what it names is being imported
        before = sys.orig_argv[: -len(arguments)]
        return before[-2:] == ["-m", "kblocks"] or before[-1] == "-mkblocks"
    return os.path.basename(sys.argv[0]) == "kblocks"
