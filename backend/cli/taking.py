"""Commands that use what was learned: on pictures, on a folder of classes, elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.telling import (
    AsJson,
    Exit,
    ProjectNumber,
    as_json,
    chosen_project,
    console,
    examples,
    services_open,
    share,
    table,
)
from backend.settings import get_settings

if TYPE_CHECKING:
    from backend.insight.trial import Trial

app = typer.Typer()

LITTLE = 0.01
"""Probability below which a further class is not worth naming."""


@app.command(epilog=examples("tandem predict cat.jpg", "tandem predict photos/ --json"), rich_help_panel="Use")
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of some.", exists=True)],
    project: ProjectNumber = None,
    json: AsJson = False,
) -> None:
    """Tell what the version that serves takes images for; nothing of them is kept.

    Ends with 1 when a file could not be read as an image; the others are told all the same.
    """
    from rich.progress import track

    from backend.images import ImageUnreadable
    from backend.insight.gallery import Galleries
    from backend.insight.trial import trial
    from backend.predict import Champions

    champions, galleries = Champions(), Galleries()
    told: list[tuple[Path, Trial | str]] = []
    with services_open() as services:
        chosen = chosen_project(services, project)
        files = list(_files(images))
        err = console(stderr=True)
        for file in track(files, "Predicting", console=err, transient=True, disable=len(files) < 2):
            try:
                told.append((file, trial(services, champions, galleries, chosen, file.read_bytes(), similar=0)))
            except ImageUnreadable as problem:
                told.append((file, str(problem)))
    if json:
        as_json({"images": [_as_data(file, each) for file, each in told]})
    else:
        table(("image", "most probably", "#sure", "then", "why"), [_as_row(file, each) for file, each in told])
    if any(isinstance(each, str) for _, each in told):
        raise typer.Exit(Exit.FAILED)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield files, and those below folders by name; hidden ones are passed over."""
    for path in paths:
        if path.is_dir():
            yield from sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith("."))
        else:
            yield path


def _as_data(file: Path, told: Trial | str) -> dict[str, Any]:
    return {
        "image": str(file),
        "prediction": None if isinstance(told, str) else told,
        "problem": told if isinstance(told, str) else None,
    }


def _as_row(file: Path, told: Trial | str) -> tuple[str, ...]:
    if isinstance(told, str):
        return (str(file), "", "", "", told)
    of = {each.name: each.probability for each in told.probabilities}
    then = [each for each in told.probabilities if each.name not in told.chosen and each.probability >= LITTLE][:2]
    sure = min((of[name] for name in told.chosen if name in of), default=None)
    others = ", ".join(f"{each.name} {share(each.probability)}" for each in then)
    return (str(file), ", ".join(told.chosen), share(sure), others, told.told)


@app.command(
    epilog=examples("tandem export exported/", "tandem export labels.csv", "tandem export labels.json"),
    rich_help_panel="Use",
)
def export(
    out: Annotated[Path, typer.Argument(help="A folder for labels and model, or a .csv or .json file for labels.")],
    project: ProjectNumber = None,
    json: AsJson = False,
) -> None:
    """Take along the labels in force, and the model that serves.

    A folder gets labels.csv, labels.json, and model/ with weights.npz, card.json and README.md, which tells how the
    package `model` uses them without any server. What is there already under these names is replaced.
    """
    from backend.cli.exporting import export_to

    with services_open() as services:
        exported = export_to(services, chosen_project(services, project), out, console(stderr=True))
    if json:
        as_json(exported)
        return
    typer.echo(f"{exported.labels} labels: {', '.join(exported.files)}")
    if exported.problem:
        typer.echo(exported.problem)
    elif exported.model:
        typer.echo(f"The model: {exported.model}")


@app.command(
    epilog=examples("tandem replay photos/", "tandem replay photos/ --seeds 5 --heads ours,logistic"),
    rich_help_panel="Use",
)
def replay(
    folder: Annotated[Path, typer.Argument(help="Folder with a subfolder of images per class, or {train,test}/class.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the report; by default replay-NAME, here.")] = None,
    labels: Annotated[int, typer.Option(min=1, help="Labels to ask for; all, if there are fewer.")] = 1000,
    seeds: Annotated[int, typer.Option(min=1, help="Runs with different random numbers.")] = 3,
    orders: Annotated[str, typer.Option(help="Which orders of the labels to compare.")] = "random,ours,sorted",
    heads: Annotated[str, typer.Option(help="Which heads to compare.")] = "ours,mlp,sgd,logistic",
    encoder: Annotated[str | None, typer.Option(help="Backbone of timm instead of the setting's.")] = None,
    encoder_weights: Annotated[Path | None, typer.Option(help="Its weights file instead of the setting's.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of what is kept to go on from; else the state's.")] = None,
    json: AsJson = False,
) -> None:
    """Label a folder of classes as a person would, and report how fast Tandem learns it; needs no servers.

    Going on after an interruption, or with more seeds, does only what is missing.
    """
    from model.encoder import EncoderError, load_encoder
    from replay.command import replay_folder

    settings = get_settings()
    folder = folder.resolve()
    out = out or Path(f"replay-{folder.name}")
    cache = cache or settings.cache
    try:
        summary = replay_folder(
            folder,
            out,
            load_encoder(
                encoder or settings.encoder,
                weights=encoder_weights or (None if encoder else settings.encoder_weights),
                runtime=settings.encoder_runtime,
                cache=settings.cache,
                batch=settings.encoder_batch,
                threads=settings.threads,
            ),
            cache,
            labels=labels,
            seeds=seeds,
            orders=orders.split(","),
            heads=heads.split(","),
            console=console(stderr=True),
        )
    except (EncoderError, ValueError, OSError) as error:
        typer.secho(str(error), err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.secho("Interrupted; the same command goes on from here.", err=True)
        raise typer.Exit(130) from None
    if json:
        as_json(summary)
    else:
        typer.echo(f"The report: {out / 'index.html'}")
