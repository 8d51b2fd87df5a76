"""The stages of a network: a row's name tells its stage."""

import re
from collections.abc import Sequence
from typing import Any

# In a larger model, a prefix or the names of the outer models precede the stage.
_STAGE = re.compile(r"(?!(?:.*/)?head)((?:.*[_/])?(?:stem|stage\d+))_")

NamedRow = tuple[str, Any, tuple[str, ...]]  # name, Spec, names of the rows that it reads


def stage_of(name: str) -> str:
    """The stage of a row or layer: `stage1` for `stage1_block2`, `head` for `head`."""
    stage = _STAGE.match(name)
    return stage[1] if stage else name


def members(name: str, names: Sequence[str]) -> list[str]:
    """The row called `name`, or else the rows of the stage called `name`."""
    return [n for n in names if n == name] or [n for n in names if stage_of(n) == name]


def unknown_stage(argument: str, name: Any, names: Sequence[str]) -> ValueError:
    known = ", ".join(dict.fromkeys(map(stage_of, names)))
    block = f", such as {names[0]!r}" if names else ""
    return ValueError(
        f"`{argument}` must name a stage ({known}) or one of its blocks{block}. "
        f"Received: {argument}={name!r}"
    )


def replaced(
    rows: Sequence[NamedRow], name: str, block: Any
) -> tuple[list[NamedRow], dict[str, str]]:
    """The rows with a row or stage replaced, and the new name of the last one replaced."""
    names = [row[0] for row in rows]
    old = members(name, names)
    if not old:
        raise unknown_stage("name", name, names)
    several = isinstance(block, (list, tuple))
    if several and (not block or stage_of(name) != name):
        raise ValueError(
            "`block` must be a Spec, or for a whole stage a list of them. "
            f"Received: block={block!r} for {name!r}"
        )
    new = [(name, block)]
    if several:
        new = [(f"{name}_block{number}", spec) for number, spec in enumerate(block, 1)]
    gone = set(old[:-1]) - {new_name for new_name, _ in new}
    renamed = {old[-1]: new[-1][0]}
    changed: list[NamedRow] = []
    for row_name, spec, inputs in rows:
        if row_name == old[0]:
            source = inputs
            for new_name, new_spec in new:
                changed.append((new_name, new_spec, source))
                source = (new_name,)
        if row_name in old:
            continue
        if missing := [name for name in inputs if name in gone]:
            raise ValueError(
                f"{row_name} reads {missing[0]}, which would not be there any more: replace it by "
                "a list with at least as many blocks"
            )
        spec = renamed.get(spec, spec) if isinstance(spec, str) else spec
        changed.append((row_name, spec, tuple(renamed.get(n, n) for n in inputs)))
    return changed, renamed
