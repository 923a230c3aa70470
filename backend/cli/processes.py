"""Commands that run: everything, or each process by itself."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from backend.cli.telling import errors_told, examples
from backend.settings import Settings, get_settings

GRACE_SECONDS = 5
"""Seconds that open requests have when the web process is asked to stop: pages hold one open for what is live."""

app = typer.Typer()


@app.command(epilog=examples("tandem up --images ~/photos"), rich_help_panel="Run")
def up(
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images for a project of your own; subfolders, if any, become its classes."),
    ] = None,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.", envvar="MLFLOW_PORT")] = 5000,
) -> None:
    """Run everything on this machine: Redis, MLflow, Label Studio, Tandem, and a project to label in."""
    from backend.up.run import up as run_everything

    _log_all()
    raise typer.Exit(run_everything(Settings(), images, mlflow_port))


@app.command(rich_help_panel="Run")
def web() -> None:
    """Serve Label Studio's protocol for ML backends, the pages at /ui/ and the API at /docs."""
    import uvicorn

    from backend.app import create_app

    _log_all()
    settings = get_settings()
    served = create_app(settings)
    _spare_what_stays()
    uvicorn.run(
        served,
        host=settings.web_host,
        port=settings.web_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


@app.command(epilog=examples("tandem worker learn"), rich_help_panel="Run")
def worker(queue: Annotated[Literal["learn", "chores"], typer.Argument(help="The queue to work on.")]) -> None:
    """Work on one queue until stopped: `learn` makes versions, `chores` studies, logs, shows and compares."""
    from backend.worker import run_worker

    _log_all()
    _spare_what_stays()
    run_worker(queue, get_settings())


@app.command(rich_help_panel="Run")
def migrate() -> None:
    """Bring the database to the newest schema."""
    from backend.database import migrate as bring_up_to_date

    _log_all()
    with errors_told():
        bring_up_to_date(get_settings().database)


def _spare_what_stays() -> None:
    """Let the garbage collector pass over all that was loaded: going through it stops all threads for 0.1 s."""
    gc.collect()
    gc.freeze()


def _log_all() -> None:
    """Write down what the process does, not only what goes wrong."""
    logging.getLogger().setLevel(logging.INFO)
