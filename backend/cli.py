"""The command line: one command per thing a person does. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import logging
from typing import Annotated, Literal

import typer

from backend.settings import get_settings

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("httpx", "alembic", "mlflow", "botocore", "urllib3", "rq"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    app()


@app.command()
def web() -> None:
    """Serve Label Studio's protocol for ML backends."""
    import uvicorn

    from backend.app import create_app

    settings = get_settings()
    uvicorn.run(create_app(settings), host=settings.web_host, port=settings.web_port, log_config=None, access_log=False)


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
    from backend.reconcile import reconcile
    from backend.services import Services

    services = Services(get_settings())
    difference = reconcile(services, services.projects.named(project).id)
    typer.echo(
        f"{difference.tasks} tasks and {difference.annotations} annotations in Label Studio; "
        f"{difference.events} events were missing from the ledger."
    )
