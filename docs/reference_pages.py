"""The reference: a page for each public name, from its docstring, and the command line's help.

It imports kblocks: the docstrings and signatures of blocks are put together when their classes are
made, so that mkdocstrings, which reads the source, finds only a part of them.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import typer

import kblocks as kb
from kblocks.command import cli

# The rooms of the reference, and the packages of `kblocks/` whose public names are in each.
ROOMS = {
    "Blocks": ("blocks", "layers"),
    "Heads": ("heads",),
    "Architectures": ("families", "networks"),
    "Costs and sizes": ("plans",),
    "Search spaces": ("search_space",),
    "Training": ("training",),
    "Finished models": ("model_tools", "drawing"),
    "Searches": ("tuner",),
}
TITLES = "Args|Attributes|Input shape|Output shape|Returns|Yields|Raises|Example|Reference"
SECTION = re.compile(rf"^({TITLES}):", re.MULTILINE)
LONGEST = 200  # lines of a page


def public() -> dict[str, Any]:
    """Everything that `kb` and `kb.tuner` offer, by the name that one types after `kb.`."""
    found = {name: getattr(kb, name) for name in kb.__all__}
    found |= {f"tuner.{name}": getattr(kb.tuner, name) for name in kb.tuner.__all__}
    modules = {name for name, value in found.items() if inspect.ismodule(value)}
    return {name: value for name, value in found.items() if name not in modules}


PUBLIC = public()
CALLABLE = {name: value for name, value in PUBLIC.items() if callable(value)}


def is_variant(value: Any) -> bool:
    """Whether it is a published network, which its family's page shows."""
    return value.__name__ in kb.architectures() and "; takes the arguments of" in value.__doc__


def room_of(value: Any) -> str:
    package = value.__module__.split(".")[1]
    return next(room for room, packages in ROOMS.items() if package in packages)


def pages() -> dict[str, str]:
    """The pages of the reference by their paths in `docs/reference/`."""
    rooms: dict[str, list[str]] = {room: [] for room in ROOMS}
    made = {}
    for name, value in CALLABLE.items():
        if not is_variant(value):
            rooms[room_of(value)].append(name)
            made |= page(name, value)
    made["Architectures/spaces.md"] = spaces()
    rooms["Architectures"].append("spaces")
    made["command-line.md"] = command_line()
    made["index.md"] = index(rooms)
    return made


def path_of(name: str) -> str:
    room = "Architectures" if name == "spaces" else room_of(CALLABLE[name])
    return f"{slug(room)}/{name.removeprefix('tuner.')}.md"


def slug(room: str) -> str:
    return room.replace(" ", "-")


def index(rooms: dict[str, list[str]]) -> str:
    lines = ["# Reference", "", "Every public name, from its docstring; `import kblocks as kb`."]
    lines += ["", "Also: [the command line](command-line.md) and [files](files.md)."]
    for room, names in rooms.items():
        lines += ["", f"## {room}", ""]
        for name in sorted(names, key=lambda name: (name.lower(), name)):
            about = summary(CALLABLE[name]) if name in CALLABLE else "Ready spaces, one a family."
            lines.append(f"- [`kb.{name}`]({path_of(name)}): {escaped(about)}")
    return "\n".join(lines) + "\n"


def summary(value: Any) -> str:
    return (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")


def paper(value: Any) -> str:
    """The docstring's reference, as Markdown; "" if there is none."""
    reference = (inspect.getdoc(value) or "").partition("\nReference:")[2]
    return escaped(" ".join(reference.split()))


def page(name: str, value: Any) -> dict[str, str]:
    """A class or function: how it is called, its docstring, its methods (if long, on their own)."""
    path = path_of(name)
    lines = [f"# kb.{name}", "", signature(f"kb.{name}", value), *told(value)]
    if networks := variants(value):
        family = f"../../catalogue/{value.__name__}.md"
        lines += ["", f"**Published networks** of this family ([figures and drawings]({family}))"]
        lines += ["take the same arguments:", ""]
        lines += [f"- `kb.{one.__name__}`: {summary(one).split(';')[0]}" for one in networks]
    members = []
    for method, function in methods(value).items():
        members += ["", f"## {method}"]
        if not isinstance(function, property):
            members += [f"`{one_line(f'.{method}', function)}`"]
        members += told(function)
    if "\n".join([*lines, *members]).count("\n") < LONGEST:
        return {path: linked("\n".join([*lines, *members]) + "\n")}
    more = path.replace(".md", ".methods.md")
    lines += ["", f"**Methods**: [kb.{name}: methods]({Path(more).name})"]
    members = [f"# kb.{name}: methods", *members]
    return {path: linked("\n".join(lines) + "\n"), more: linked("\n".join(members) + "\n")}


def spaces() -> str:
    lines = ["# kb.spaces", "", *told(kb.spaces)]
    for name in kb.spaces.__all__:
        space = getattr(kb.spaces, name)
        lines += ["", f"## {name}", "", signature(f"kb.spaces.{name}", space)]
        lines += told(space) if name == kb.spaces.__all__[0] else ["", escaped(summary(space))]
    return linked("\n".join(lines) + "\n")


def variants(family: Any) -> list[Any]:
    ends = f"takes the arguments of `{getattr(family, '__name__', '')}`."
    return [one for one in PUBLIC.values() if (one.__doc__ or "").endswith(ends)]


def methods(value: Any) -> dict[str, Any]:
    """The public methods and properties that a class of ours describes itself."""
    if not inspect.isclass(value) or issubclass(value, kb.Block):
        return {}
    found: dict[str, Any] = {}
    for base in reversed(value.__mro__):
        if base.__module__.startswith("kblocks"):
            found |= vars(base)
    found = {name: getattr(one, "__func__", one) for name, one in found.items() if name[0] != "_"}
    return {
        name: one
        for name, one in found.items()
        if (inspect.isfunction(one) or isinstance(one, property)) and one.__doc__
    }


def signature(call: str, value: Any) -> str:
    """How it is called, an argument a line if all do not fit on one."""
    text = one_line(call, value)
    if len(text) > 90:
        found = inspect.signature(value).parameters.values()
        arguments = ",\n    ".join(plain(str(one)) for one in _with_marks(list(found)))
        text = f"{call}(\n    {arguments},\n){text.rpartition(')')[2]}"
    return f"```py\n{text}\n```"


def one_line(call: str, value: Any) -> str:
    found = inspect.signature(value)
    kept = [one for one in found.parameters.values() if one.name != "self"]
    returns = None if inspect.isclass(value) else found.return_annotation
    text = str(found.replace(parameters=kept, return_annotation=returns))
    return call + plain(text.removesuffix(" -> None"))


def _with_marks(parameters: list[inspect.Parameter]) -> list[Any]:
    """Parameters, with the star before those that need their names."""
    marked: list[Any] = []
    for one in parameters:
        named = one.kind is one.KEYWORD_ONLY
        if named and not any(str(p)[0] == "*" for p in marked):
            marked.append("*")
        marked.append(one)
    return marked


def plain(text: str) -> str:
    """A signature without the quotes around annotations, long objects and our modules' names."""
    text = text.replace(str(kb.Norm("batch")), "'batch'")
    text = re.sub(r"ForwardRef\('([^']*)'\)", r"\1", text)
    text = re.sub(r"(: |-> )(['\"])(.*?)\2(?=[,)]| = |$)", r"\1\3", text)
    text = re.sub(r"\{'module': '([\w.]+)', 'class_name': '(\w+)', .*?: None\}", r"\1.\2", text)
    text = re.sub(r"<(?:function|class|built-in function) '?([\w.]+)'?[^>]*>", r"\1", text)
    return re.sub(r"\b(?:kblocks|collections\.abc|typing)\.(?:\w+\.)*(?=[A-Z])", "", text)


def told(value: Any) -> list[str]:
    """A docstring as Markdown."""
    text = inspect.getdoc(value) or ""
    found = list(SECTION.finditer(text))
    ends = [*(match.start() for match in found), len(text)][1:]
    lines = ["", escaped(text[: found[0].start()] if found else text).strip()]
    for match, end in zip(found, ends, strict=False):
        title, body = match[1], text[match.end() : end]
        if title == "Example":
            lines += ["", "**Example**", "", f"```pycon\n{inspect.cleandoc(body)}\n```"]
        elif title in ("Args", "Raises", "Attributes"):
            body, _, after = re.sub(r"\n(?=[^\s])", "\0", body, count=1).partition("\0")
            lines += ["", f"**{title}**", "", *entries(body)]
            lines += ["", escaped(after).strip()] if after.strip() else []
        else:
            lines += ["", f"**{title}**: {escaped(' '.join(body.split()))}"]
    return lines


def entries(body: str) -> list[str]:
    """A list of the names in a section and what they are."""
    items = re.split(r"\n(?=\S)", inspect.cleandoc("\n" + body))
    told = []
    for item in items:
        name, _, about = item.partition(":")
        told.append(f"- `{name}`: {escaped(' '.join(about.split()))}")
    return told


def escaped(text: str) -> str:
    """Text in which only backticks mean anything, with links to the papers."""
    parts = re.split(r"(`[^`]*`)", text)
    for i in range(0, len(parts), 2):
        part = re.sub(r"([*<_\[\]])", r"\\\1", parts[i])
        parts[i] = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", part)
    return "".join(parts)


def linked(text: str, root: str = "..") -> str:
    """The names of kblocks in backticks, as links to their pages."""

    def link(match: re.Match[str]) -> str:
        name = match[1]
        known = name in CALLABLE and not is_variant(CALLABLE[name])
        return f"[`kb.{name}`]({root}/{path_of(name)})" if known else match[0]

    parts = re.split(r"(```.*?```)", text, flags=re.DOTALL)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"(?<!\[)`(?:kb|kblocks)\.([\w.]+)`", link, parts[i])
    return "".join(parts)


def command_line() -> str:
    """The help of all commands; an option that several have alike is shown with the first."""
    app: Any = typer.main.get_command(cli.app)
    lines = ["# The command line", "", "What `kblocks COMMAND --help` prints (extra `tune`)."]
    before: dict[tuple[str, str], str] = {}
    for name, command in app.commands.items():
        lines += ["", f"## kblocks {name}", "", escaped(inspect.cleandoc(command.help or ""))]
        context = command.make_context(name, [], resilient_parsing=True)
        lines += ["", f"`kblocks {' '.join(command.get_usage(context).split()[1:])}`", ""]
        records = [one.get_help_record(context) for one in command.params if one.name != "help"]
        shared: dict[str, list[str]] = {}
        for record in filter(None, records):
            first = before.setdefault(record, name)
            if first == name or name != "worker":
                lines.append(f"- `{record[0]}`: {escaped(' '.join(record[1].split()))}")
            else:
                shared.setdefault(first, []).append(f"`{record[0].split()[0]}`")
        for first, options in shared.items():
            lines.append(f"- as in `kblocks {first}`: {', '.join(options)}")
    return "\n".join(lines) + "\n"
