"""Docstrings of blocks and families explain every argument, those that several have included."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import kblocks as kb
from kblocks.fields import Count, Rate
from kblocks.ops import Conv, Op

KERAS_OWN = ["name", "dtype", "trainable", "data_format"]
BLOCKS = [
    member
    for _, member in sorted(vars(kb).items())
    if inspect.isclass(member) and issubclass(member, kb.Block)
]
each_block = pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)


def described(doc: str | None) -> list[str]:
    """The names that stand before the colons of the Args section, in order."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", doc or "", re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^    (\S[^:]*):", section[1], re.MULTILINE) if section else []
    return [name for head in heads for name in head.split(", ")]


def test_blocks_are_found() -> None:
    assert {kb.Block, kb.ConvBlock, kb.ResidualBlock, kb.ResidualDense, kb.Classifier} < set(BLOCKS)


@each_block
def test_args_describe_each_argument_once_in_the_order_of_the_signature(
    block: type[kb.Block],
) -> None:
    spec: Any = block.Spec
    fields = list(spec._checks)
    arguments = list(inspect.signature(block).parameters) if fields else []
    assert set(arguments) == {*fields, *KERAS_OWN} if fields else not arguments
    names = described(inspect.cleandoc(block.__doc__ or ""))
    assert [name for name in names if name in arguments] == arguments
    of_spec = described(inspect.cleandoc(spec.__doc__ or ""))
    assert [name for name in of_spec if name in arguments] == arguments[: len(fields)]


@each_block
def test_shapes_and_errors_are_told_on_the_spot(block: type[kb.Block]) -> None:
    doc = inspect.cleandoc(block.__doc__ or "")
    for section in ("Input shape:", "Output shape:", "\nRaises:\n"):
        assert doc.count(section) == 1, section
    assert not re.search(r"\bsee `(kb\.)?[A-Z]", doc)
    assert "..." not in described(doc)


@pytest.mark.parametrize("name", kb.spaces.__all__)
def test_families_describe_each_argument_once_in_the_order_of_the_signature(name: str) -> None:
    family = getattr(kb, name)
    doc = inspect.getdoc(family) or ""
    assert [one.lstrip("*") for one in described(doc)] == list(inspect.signature(family).parameters)
    assert doc.count("\n\nRaises:\n    ValueError, TypeError: ") == 1


def test_help_of_a_residual_block() -> None:
    doc = kb.ResidualBlock.__doc__ or ""
    assert doc.startswith("Two convolutions and a shortcut.\n\nArgs:\n    filters: output channels")
    assert "\n    activation: a Keras activation by name, a function, an activation layer" in doc
    assert doc.index("data_format: ") < doc.index("\n\nInput shape: ") < doc.index("\n\nRaises:\n")
    assert doc.endswith("Fig. 4.")


class Scaled(kb.Block):
    """Two fields in one entry.

    Args:
        first,
            second: numbers
            of something.
    """

    first: Count
    second: Count = 2

    def plan(self, channels: int) -> Op:
        return Conv(self.first)


def test_an_own_description_replaces_the_inherited_one() -> None:
    class Mine(Scaled):
        """Mine.

        Args:
            third (float): a
                rate.

                In two paragraphs.
            second: described anew.
            unknown: stays.

        Example:
            Text: that stays.
        """

        third: Rate = 0.0

    assert Mine.__doc__ == (
        "Mine.\n\nArgs:\n    first: numbers\n        of something.\n    second: described anew.\n"
        "    third (float): a\n        rate.\n\n        In two paragraphs.\n"
        + "".join(f"    {name}{text}\n" for name, text in _keras_own().items())
        + "    unknown: stays.\n\nExample:\n    Text: that stays."
    )


def _keras_own() -> dict[str, str]:
    doc = inspect.cleandoc(kb.Block.__doc__ or "")
    return {name: re.findall(rf"^    {name}(:.*)", doc, re.MULTILINE)[0] for name in KERAS_OWN}


def test_entries_of_several_names_stay_together() -> None:
    assert "\n    first, second: numbers\n        of something.\n    name: " in (
        Scaled.__doc__ or ""
    )


def test_a_docstring_without_args_stays() -> None:
    class Undocumented(kb.ConvBlock):
        filters: Count = 8

    class Brief(kb.ConvBlock):
        """Brief."""

    assert Undocumented.__doc__ is None
    assert Undocumented().filters == 8
    assert Brief.__doc__ == "Brief."
