"""The command line: `list`, `show`, `search`, `worker`, `status`, `report`, `best`, `predict`."""

from __future__ import annotations

import json
import re
import shutil
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

import kblocks
from kblocks.command import tables
from kblocks.command.listing import listing, native_input, staged
from kblocks.command.quiet import kept
from kblocks.command.searching import run_or_join
from kblocks.command.typed import STORAGE, BadArgumentError, check_known, masked, say, sizes
from kblocks.common.atomic import whole
from kblocks.model_tools.formats import FORMATS, OTHER_NAMES, refuse_missing
from kblocks.tuner.terminal import plain, tell

if TYPE_CHECKING:
    import keras

    from kblocks.tuner.records import Run

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Convolutional architectures and searches over them.",
)
_WIDTH = 160  # columns, if the output is not a terminal
_SHOWN = 3  # classes of an image

RunName = Annotated[str, typer.Argument(help="A run's folder; with --storage its name.")]
Storage = Annotated[
    str | None,
    typer.Option(help=f"A SQLAlchemy URL. Without it: the folder's own study.db, else {STORAGE}."),
]


def _version(wanted: bool) -> None:
    if wanted:
        say(f"kblocks {kblocks.__version__}")
        raise typer.Exit


@app.callback()
def _every(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Convolutional architectures and searches over them."""


@app.command("list")
def list_(
    family: Annotated[str | None, typer.Option(help="Only this family.")] = None,
) -> None:
    """The published architectures: input, parameters, MACs, weights."""
    families = {known["family"]: None for known in listing()["architectures"].values()}
    if family is not None:
        check_known("--family", family, families)
    _console().print(tables.of_architectures(family))


@app.command()
def show(
    network: Annotated[str, typer.Argument(help="An architecture's name, or its JSON file.")],
    input: Annotated[str | None, typer.Option(help="HEIGHTxWIDTHxCHANNELS.")] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="Of the classifier.")] = None,
) -> None:
    """A network stage by stage: what comes out and what it costs."""
    known = listing()["architectures"]
    if network in known and input is None and classes is None:  # without importing Keras
        _console().print(tables.of_stages(network, known[network]))
        return
    path, found = Path(network), {}
    if path.suffix == ".json":
        if classes is not None:
            raise BadArgumentError(
                "--classes goes with the name of an architecture. Received: a file"
            )
        if not path.is_file():
            raise BadArgumentError(f"there is no file {path}")
        text = path.read_text(encoding="utf-8")
        net, found = kblocks.Architecture.from_json(text), json.loads(text).get("model", {})
    else:
        try:
            net = kblocks.architecture(network, **({} if classes is None else {"classes": classes}))
        except ValueError as error:
            raise BadArgumentError(str(error)) from error
    own = found.get("input_shape") or native_input(net)  # that of a search, in its best.json
    shape = tuple(own) if input is None else sizes("--input", input, 3)
    _console().print(tables.of_stages(net.name, staged(net, shape)))
    if "started_from" in found:
        say(plain(f"its weights started from {found['started_from']}"))


app.command("search", help="Searches: a run file, or a family on data.")(run_or_join)
app.command(
    "worker",
    help="Joins a search from another process or machine: give the same run file, or the same "
    "family and data, and the storage.",
)(run_or_join)


@app.command()
def status(run: RunName, storage: Storage = None) -> None:
    """Where a run stands."""
    from kblocks.command.stored import opened

    _console().print(tables.of_run(opened(run, storage)))


@app.command()
def report(
    run: RunName,
    storage: Storage = None,
    output: Annotated[Path | None, typer.Option(help="A folder.")] = None,
) -> None:
    """Writes a report of a run: one HTML file and pictures."""
    from kblocks.command.stored import folder_of, opened
    from kblocks.tuner.reporting.report import report as write

    _register()
    found = opened(run, storage)
    folder = output or folder_of(run, storage) or Path("runs") / tables.file_name(found.name)
    say(f"written to {write(found, folder)}")


@app.command()
def best(
    run: RunName,
    storage: Storage = None,
    export_: Annotated[str | None, typer.Option("--export", help=f"{', '.join(FORMATS)}.")] = None,
    output: Annotated[Path | None, typer.Option(help="The file, or SavedModel's folder.")] = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="Where weights are kept, if not in the run's folder.")
    ] = None,
) -> None:
    """A run's best network stage by stage; with --export its model with the weights found."""
    from kblocks.command.stored import best_network, best_of, folder_of, opened

    export_ = OTHER_NAMES.get(export_ or "", export_)
    if export_ is not None:
        check_known("--export", export_, FORMATS)
        refuse_missing(export_)  # before Keras is imported
    found = opened(run, storage)
    _register()
    folder = folder_of(run, storage) or Path("runs") / tables.file_name(found.name)
    if export_ is not None:
        _export(found, folder, export_, output, checkpoints)
        return
    trial = best_of(found)
    say(plain(f"trial {trial.number}: {found.told(trial)}"))
    for name, value in trial.values.items():
        say(plain(f"  {name} = {value}"))
    if trial.started_from:
        say(plain(f"  started from {trial.started_from}"))
    if trial.network is None and output is None:
        say("its model is of code of your own and has no architecture to show: see --export")
        return
    _, net = best_network(found)
    assert found.input_shape is not None
    _console().print(tables.of_stages(net.name, staged(net, found.input_shape)))
    if output is not None:
        replaced = output.is_file()
        with whole(output) as path:
            path.write_text(net.to_json(indent=2), encoding="utf-8")
        _tell_written(output, replaced)


@app.command()
def predict(
    run: Annotated[str, typer.Argument(help="A run's folder, or a .keras file.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
) -> None:
    """Names the classes of images, with the model that a search has delivered."""
    from kblocks.tuner.delivering import predictor
    from kblocks.tuner.images.image_files import images_in

    found = [file for path in images for file in (images_in(path) if path.is_dir() else [path])]
    if not found:
        raise BadArgumentError(f"IMAGES must have images. Received: {', '.join(map(str, images))}")
    _register()
    named = predictor(run)
    errors: dict[str, Exception] = {}
    for path in found:
        try:
            best = list(named(path)[0].items())[:_SHOWN]
        except (ValueError, OSError) as error:  # the other images are named nevertheless
            errors[_message_of(error)] = error
            continue
        say(plain(f"{path}  {', '.join(f'{name} {share:.3f}' for name, share in best)}"))
    for message in list(errors)[:-1]:
        tell(f"kblocks: {plain(message)}", file=sys.stderr)
    if errors:
        raise errors.popitem()[1]


def _export(
    run: Run, folder: Path, format: str, output: Path | None, checkpoints: str | None
) -> None:
    """Exports the delivered model, or the best trial's if there is none or an outdated one."""
    import keras

    from kblocks.command.final import is_of, origin
    from kblocks.command.stored import best_of
    from kblocks.model_tools.exporting import export, format_of
    from kblocks.tuner.delivering import MODEL, facts
    from kblocks.tuner.files import facts_of

    delivered = folder / MODEL
    target = output or folder / f"best{FORMATS[format].suffix or f'_{format}'}"
    format_of(target, format)
    best, known = best_of(run), facts_of(delivered)
    is_there, replaced = delivered.is_file(), target.is_file()
    if is_there and known and not is_of(known, run, best):
        if target == delivered:
            raise ValueError(
                f"{delivered} is the model of {origin(known)}, and the best is trial "
                f"{best.number} by now: the search begun again delivers it, or give --output"
            )
        is_there = False
    told = f"{delivered} is the model: {origin(known)}"
    if not is_there:
        trained = _trained(run, folder, checkpoints)
        known = facts(run, best, trained)
        told = f"the model is of {origin(known)}"
        export(trained, target, format, metadata=known)
    elif format != "keras":
        model: Any = keras.models.load_model(delivered, compile=False)
        export(model, target, format, metadata=known or None)
    elif replaced and target.samefile(delivered):
        say(told)
        return
    else:
        with whole(target) as path:
            shutil.copyfile(delivered, path)
    say(told)
    if known.get("value_range") is None:
        say("the search has no record of its images: the model takes arrays as in its training")
    _tell_written(target, replaced)


def _trained(run: Run, folder: Path, checkpoints: str | None) -> keras.Model:
    """The best trial's network with the weights from its checkpoint."""
    from kblocks.command.stored import best_network
    from kblocks.tuner.delivering import model_of
    from kblocks.tuner.storing.checkpoints import Checkpoints

    trial, _ = best_network(run)
    own = str(folder / "checkpoints")
    places = (
        [own] if checkpoints is None else [checkpoints, f"{checkpoints.rstrip('/')}/{run.name}"]
    )
    kept = [found for found in map(Checkpoints, places) if found.are_of(run.identity)]
    weights = next((w for found in kept if (w := found.best(trial.number)) is not None), None)
    if weights is None:
        raise ValueError(
            f"no weights of trial {trial.number} of that search are in "
            f"{Checkpoints(places[0]).shown}: give --checkpoints, the folder or URL that the "
            "search has as `checkpoint_directory`"
        )
    return model_of(run, trial, weights)


def _register() -> None:
    """Imports all blocks, so that models and networks of files can have them."""
    dir(kblocks)  # its names are imported on first use


def _tell_written(path: Path, replaced: bool) -> None:
    if replaced:
        say(f"{path} is replaced")
    say(f"written to {path}")


def _console() -> Console:
    width = None if Console().is_terminal else _WIDTH
    return Console(highlight=False, markup=False, emoji=False, width=width)


def main(arguments: list[str]) -> int:
    """Runs a command; writes an error as one line to stderr.

    Returns the exit status: 0, 1 on failure, 2 for bad arguments, 130 if it was interrupted.
    """
    try:
        return app(arguments or ["--help"], prog_name="kblocks", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if "--debug" in arguments:
            tell(masked(traceback.format_exc()), file=sys.stderr)
        tell(f"kblocks: {plain(masked(_typed(_message_of(error), arguments)))}", file=sys.stderr)
        if not isinstance(error, BadArgumentError) and (log := kept()):
            tell(f"kblocks: messages of other packages are in {log}", file=sys.stderr)
        return 2 if isinstance(error, BadArgumentError) else getattr(error, "exit_code", 1)


def _message_of(error: Exception) -> str:
    message: Any = getattr(error, "format_message", lambda: error)()
    if isinstance(error, KeyError):  # str() of it would quote the text
        message = error.args[0]
    text, is_cut, _ = str(message).partition("\nTraceback (")  # of a failed trial
    where = " (kblocks --debug shows where)" if is_cut else ""
    return f"{' '.join(text.split())}{where}" or type(error).__name__


def _typed(message: str, arguments: list[str]) -> str:
    """A message with the options of the typed command in place of Python's arguments."""
    commands: dict[str, Any] = getattr(typer.main.get_command(app), "commands", {})
    command = next((commands[word] for word in arguments if word in commands), None)
    options = {p.name: max(p.opts, key=len) for p in command.params} if command else {}
    options = {name: option for name, option in options.items() if option.startswith("--")}
    path = "--output" if "output" in options else "RUN"
    for name, option in {**options, "source": "--data", "path": path}.items():
        message = re.sub(rf"`{name}`|\b{name}=True", option, message)
        message = message.replace(f"Received: {name}=", "Received: ")
    return message
