"""The command line, `kblocks` or `python -m kblocks`; it needs the extra `tune`."""

from __future__ import annotations

import sys

from kblocks.command.hiding import hide
from kblocks.command.quiet import divert


def main() -> int:
    """Runs the command line; where a package is missing, prints which extra to install."""
    hide()  # before anything that takes time
    divert()  # before Keras is imported
    try:
        from kblocks.command.cli import main as run
    except ImportError as error:
        print(
            f"kblocks: the command line needs {error.name}: pip install 'kblocks[tune]'",
            file=sys.stderr,
        )
        return 1
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
