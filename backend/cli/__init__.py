"""The command line: one command per thing a person does. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Annotated

import typer

from backend.cli import acting, asking, processes, taking

EXIT_CODES = "Exit codes: 0 fine, 1 failed, 2 called wrongly, 3 doctor found something broken, 130 interrupted."

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
for group in (processes, acting, asking, taking):
    app.registered_commands += group.app.registered_commands


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("httpx", "alembic", "mlflow", "botocore", "urllib3", "rq"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    app()


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tandem {version('tandem')}")
        raise typer.Exit


@app.callback(epilog=EXIT_CODES)
def _tandem(
    wanted: Annotated[
        bool, typer.Option("--version", help="Tell the release and end.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Tandem learns image classes from every annotation in Label Studio, as it is made."""
