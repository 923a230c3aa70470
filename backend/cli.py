"""The command line: one command per thing a person does. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from backend.settings import Settings, get_settings

GRACE_SECONDS = 5
"""Seconds that open requests have when the web process is asked to stop: pages hold one open for what is live."""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("httpx", "alembic", "mlflow", "botocore", "urllib3", "rq"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    app()


@app.command()
def up(
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images for a project of your own; subfolders, if any, become its classes."),
    ] = None,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.", envvar="MLFLOW_PORT")] = 5000,
) -> None:
    """Run everything on this machine: Redis, MLflow, Label Studio, Tandem, and a project to label in."""
    from backend.up.run import up as run_everything

    raise typer.Exit(run_everything(Settings(), images, mlflow_port))


@app.command()
def connect(
    project: Annotated[int | None, typer.Option(help="Label Studio's id of a project that is there already.")] = None,
    title: Annotated[str | None, typer.Option(help="Title of a project: taken if there is one, else made.")] = None,
    label_config: Annotated[Path | None, typer.Option(help="Labeling configuration of a project that is made.")] = None,
) -> None:
    """Connect a project of Label Studio to Tandem: backend, webhook with its secret, sampling and the tab Ask next.

    Tandem must be running, since Label Studio asks it at once. Running this again mends what is not as it should be.
    """
    from backend.connect import connect as connect_project
    from backend.label_config import UnusableConfig
    from backend.labelstudio import LabelStudioError
    from backend.services import Services

    settings = get_settings()
    xml = label_config.read_text(encoding="utf-8") if label_config else None
    try:
        connected = connect_project(
            settings, Services(settings).label_studio, project=project, title=title, label_config=xml
        )
    except (LabelStudioError, UnusableConfig) as error:
        typer.secho(str(error), err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error
    facts = connected.project.facts
    typer.echo(f"Project {facts.id} ({facts.title}) is connected: {settings.label_studio_url}/projects/{facts.id}/")
    for note in connected.notes:
        typer.echo(f"- {note}")


@app.command()
def web() -> None:
    """Serve Label Studio's protocol for ML backends."""
    import uvicorn

    from backend.app import create_app

    settings = get_settings()
    uvicorn.run(
        create_app(settings),
        host=settings.web_host,
        port=settings.web_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


@app.command()
def worker(queue: Annotated[Literal["learn", "chores"], typer.Argument(help="The queue to work on.")]) -> None:
    """Work on one queue until stopped: `learn` makes versions, `chores` logs, shows and compares."""
    from backend.worker import run_worker

    run_worker(queue, get_settings())


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    from backend.database import migrate as bring_up_to_date

    bring_up_to_date(get_settings().database)


@app.command()
def sync(project: Annotated[int, typer.Argument(help="Label Studio's id of the project.")]) -> None:
    """Compare the ledger with Label Studio now, and learn the difference."""
    from backend.labelstudio import LabelStudioError
    from backend.projects import UnknownProject
    from backend.reconcile import reconcile
    from backend.services import Services

    services = Services(get_settings())
    try:
        difference = reconcile(services, services.projects.named(project).id)
    except (LabelStudioError, UnknownProject) as error:
        typer.secho(str(error), err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error
    typer.echo(
        f"{difference.tasks} tasks and {difference.annotations} annotations in Label Studio; "
        f"{difference.events} events were missing from the ledger."
    )


@app.command()
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
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary for machines.")] = False,
) -> None:
    """Label a folder of classes as a person would, and report how fast Tandem learns it; needs no servers.

    Going on after an interruption, or with more seeds, does only what is missing.
    """
    import json

    from rich.console import Console

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
            console=Console(stderr=True),
        )
    except (EncoderError, ValueError, OSError) as error:
        typer.secho(str(error), err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.secho("Interrupted; the same command goes on from here.", err=True)
        raise typer.Exit(130) from None
    typer.echo(json.dumps(summary, indent=2) if as_json else f"The report: {out / 'index.html'}")


@app.command()
def status() -> None:
    """Tell what each project has learned, and what still waits to be done."""
    from rich.console import Console
    from rich.table import Table

    from backend.services import Services
    from model.evaluation import Prequential

    services = Services(get_settings())
    table = Table("project", "version", "labels", "pool", "accuracy before learning", "shown", "not in MLflow")
    for project in services.projects.all():
        champion = services.versions.champion(project.id)
        prequential = Prequential.from_dict(champion.metrics["prequential"]) if champion else Prequential()
        table.add_row(
            f"{project.label_studio_id} {project.title}",
            champion.name if champion else "none yet",
            str(sum(champion.metrics["labels"].values()) if champion else 0),
            str(len(services.ledger.pool(project.id))),
            f"{prequential.accuracy:.3f} of {prequential.count}" if prequential.count else "",
            project.shown or "",
            str(len(services.versions.unlogged(project.id, 1000))),
        )
    Console().print(table)
