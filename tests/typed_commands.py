"""Checks the commands of kblocks that scripts and pages type."""

from typing import Any

import typer

from kblocks.command import cli


def check_options(words: list[str]) -> None:
    """Checks that a command, the first of the words, exists and has the options among them."""
    name, *given = words
    known: Any = typer.main.get_command(cli.app)
    assert name in known.commands
    options = {option for parameter in known.commands[name].params for option in parameter.opts}
    assert {word.partition("=")[0] for word in given if word.startswith("--")} <= options
