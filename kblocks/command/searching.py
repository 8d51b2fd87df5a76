"""`kblocks search` and `kblocks worker`: their options, and the job made from these."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kblocks.command.listing import FAMILIES
from kblocks.command.quiet import keep_in
from kblocks.command.typed import STORAGE, BadArgumentError, sizes

if TYPE_CHECKING:
    from kblocks.command.ready import FamilyJob, RunFile

    Job = FamilyJob | RunFile  # what the options can ask for


def run_or_join(
    context: typer.Context,
    run: Annotated[str | None, typer.Argument(help="A run file, RUN.py.")] = None,
    family: Annotated[str | None, typer.Option(help=f"{', '.join(FAMILIES)}.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, mnist, fashion_mnist, cifar10, cifar100, an .npz, a folder with one "
            "folder of images a class, or a folder of idx files."
        ),
    ] = None,
    image_size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH.")] = None,
    limit: Annotated[int | None, typer.Option(help="The most images to search on.")] = None,
    macs: Annotated[
        str | None, typer.Option(help="The most multiply-adds, such as 20M: 40 million FLOPs.")
    ] = None,
    params: Annotated[str | None, typer.Option(help="The most parameters, such as 1.5M.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="plain or strong, see kb.Recipe.named; with --family.")
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="val_accuracy, macs, any figure of the logs, NAME:min; may be repeated."),
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="tpe, random, grid, nsga2.")] = None,
    pruner: Annotated[str | None, typer.Option(help="hyperband, median.")] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="asha: trials begin with about a quarter of the epochs, and the best go on; or "
            "none. The default with --family is asha, unless --epochs, --objective, --pruner, "
            "--folds, --weights, --storage, --ray or --trial-seconds is given."
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            help="In all, earlier runs included. --family: 20; with a scheduler 10, and the best "
            "of them go on."
        ),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="After which no trial is begun; --retrain comes after.")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            help="Processes that train; auto, used by --family: one a GPU, or one a core."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Workers on a Ray cluster: what each needs, num_cpus=4,num_gpus=1."),
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(help="Those that workers get in turn, such as 0,2; or none.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16, or auto: the faster of both.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Of each trial. --family: 15, with a scheduler 60.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Fine-tune networks of the family: imagenet, another set, or a file."),
    ] = None,
    class_weight: Annotated[
        str | None, typer.Option(help="balanced: rare classes count as much as frequent ones.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="k-fold cross-validation: a trial trains so many times.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Trials without improvement that end the search.")
    ] = None,
    trial_seconds: Annotated[float | None, typer.Option(help="That a trial may take.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of sampler and splits.")] = None,
    directory: Annotated[str | None, typer.Option(help="That has the run's folder.")] = None,
    project_name: Annotated[str | None, typer.Option(help="The run's folder and name.")] = None,
    storage: Annotated[
        str | None, typer.Option(help=f"A SQLAlchemy URL; without it {STORAGE}, else SQLite.")
    ] = None,
    checkpoints: Annotated[int | None, typer.Option(help="How many of the best.")] = None,
    checkpoint_directory: Annotated[
        str | None, typer.Option(help="A folder or a URL of fsspec, for many machines.")
    ] = None,
    tensorboard: Annotated[
        str | None, typer.Option(help="A folder for TensorBoard: curves, and the tab HParams.")
    ] = None,
    extend: Annotated[bool, typer.Option("--extend", help="Go on with added choices.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew.")] = False,
    retrain: Annotated[
        bool | None,
        typer.Option(help="Train the best network once more, on validation images too."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose/--quiet")] = True,
) -> None:
    """Runs `kblocks search` and `kblocks worker`: a run file, or a family on data."""
    from kblocks.command.final import finish
    from kblocks.command.ready import FamilyJob
    from kblocks.search_space.budget import Budget
    from kblocks.tuner.running.jobs import helping

    size = None if image_size is None else sizes("--image-size", image_size, 2)
    limits = _given(macs=macs, params=params)
    settings = _given(
        recipe=recipe,
        objective=_objectives(objective),
        sampler=sampler,
        pruner=pruner,
        scheduler=scheduler,
        trials=trials,
        hours=hours,
        patience=patience,
        folds=folds,
        workers=None if workers is None else _count(workers),
        ray=None if ray is None else _needs(ray),
        gpus=None if gpus is None else _indices(gpus),
        precision=precision,
        trial_seconds=trial_seconds,
        seed=seed,
        directory=directory,
        project_name=project_name,
        storage=storage or os.environ.get(STORAGE) or None,
        checkpoints=checkpoints,
        checkpoint_directory=checkpoint_directory,
        tensorboard=tensorboard,
        extend=extend or None,
        overwrite=overwrite or None,
    )
    if scheduler == "none":
        settings["scheduler"] = None
    fitting = _given(epochs=epochs, batch_size=batch_size, class_weight=class_weight)
    loading = _given(image_size=size, limit=limit, seed=seed)
    try:
        if limits:
            settings["budget"] = Budget(**limits)
        job = _job(run, family, data, loading, fitting, settings, weights)
        joins = context.info_name == "worker"
        with helping() if joins else contextlib.nullcontext():
            tuner = job.tuner()
        if isinstance(job, FamilyJob) and not joins:
            before: Mapping[str, Any] = {}
            if not overwrite:
                with contextlib.suppress(KeyError):  # there is no search to go on with
                    before = tuner.run().settings
            job = job.begun_as(before)
            tuner = job.tuner()
        known = job.data()
        ending = _retraining(job, retrain)
    except (ValueError, FileNotFoundError) as error:
        raise BadArgumentError(str(error)) from error
    keep_in(tuner.folder)
    if joins:  # settings that were not typed come from the search
        from kblocks.command.stored import opened

        job = job.joining(opened(tuner.project_name, tuner.storage_url).settings)
        with helping():
            tuner = job.tuner()
        tuner.join()
        tuner.run_job(job, verbose=int(verbose))
        return
    tuner.run_job(job, verbose=int(verbose))
    finish(tuner, known, ending, verbose, keep=retrain is None)


def _job(
    run: str | None,
    family: str | None,
    data: str | None,
    loading: dict[str, Any],
    fitting: dict[str, Any],
    settings: dict[str, Any],
    weights: str | None,
) -> Job:
    from kblocks.command.ready import FamilyJob, RunFile

    if (run is None) == (family is None) or (family is None) != (data is None):
        raise BadArgumentError("give either a run file RUN.py, or --family with --data")
    if family is not None and data is not None:
        if "batch_size" in fitting and Path(data).is_dir():  # batched while it is read
            loading = {**loading, "batch_size": fitting.pop("batch_size")}
        name = f"{family}_{Path(data).absolute().stem}"  # of "." too
        return FamilyJob(
            family, data, loading, {"project_name": name, **settings}, fitting, weights
        )
    if weights is not None:
        raise BadArgumentError("--weights goes with --family; a run file names them itself")
    if set(loading) - {"seed"} or "recipe" in settings:
        raise BadArgumentError(
            "--image-size, --limit and --recipe go with --data. Received: a run file"
        )
    return RunFile(str(run), settings, fitting)


def _retraining(job: Job, wanted: bool | None) -> Callable[..., Any] | None:
    """The function that makes the data of the last training, or None for no such training.

    A run file's `final` is used unless `wanted` is False, `together` only if `wanted` is True.
    """
    from kblocks.command.final import can_join, together
    from kblocks.command.ready import RunFile
    from kblocks.tuner.running.jobs import imported

    own = getattr(imported(Path(job.path)), "final", None) if isinstance(job, RunFile) else None
    if wanted is False:
        return None
    if wanted and own is None and not can_join(data := job.data()):
        raise ValueError(
            "`retrain` needs arrays or a folder of images, or `final` in the run file. Received: "
            f"{type(data.train).__name__} and, to validate, {type(data.validation).__name__}"
        )
    return own or (together if wanted else None)


def _objectives(texts: list[str] | None) -> Any:
    if not texts:
        return None
    import keras_tuner

    objectives = []
    for text in texts:
        name, _, direction = text.partition(":")
        if direction not in ("", "min", "max"):
            raise BadArgumentError(
                f"--objective must be NAME, NAME:min or NAME:max. Received: {text}"
            )
        objectives.append(keras_tuner.Objective(name, direction) if direction else name)
    return objectives if len(objectives) > 1 else objectives[0]


def _needs(text: str) -> dict[str, float]:
    """Parses `num_cpus=4,num_gpus=0.5` to numbers."""
    form = r"(num_cpus|num_gpus|memory)=(\d+(?:\.\d+)?)"
    found = [re.fullmatch(form, part) for part in text.split(",")]
    needs = {match[1]: float(match[2]) for match in found if match}
    if len(needs) < len(found):
        raise BadArgumentError(
            "--ray must be what a worker needs, such as num_cpus=4,num_gpus=1 (memory is in "
            f"bytes). Received: {text}"
        )
    return {name: int(number) if number.is_integer() else number for name, number in needs.items()}


def _count(text: str) -> int | str:
    if text != "auto" and not text.isdecimal():
        raise BadArgumentError(f"--workers must be a number, or auto. Received: {text}")
    return text if text == "auto" else int(text)


def _indices(text: str) -> list[int]:
    """Parses `0,2` to indices, and `none` to no index."""
    if not re.fullmatch(r"none|[0-9]+(,[0-9]+)*", text):
        raise BadArgumentError(f"--gpus must be indices, such as 0,2, or none. Received: {text}")
    return [] if text == "none" else [int(index) for index in text.split(",")]


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
