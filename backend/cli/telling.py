"""How commands tell: tables for people, JSON for machines, a sentence and an exit code when something is in the way."""

from __future__ import annotations

import dataclasses
import json
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from backend.projects import Project
    from backend.services import Services

PIPED_WIDTH = 200
"""Columns of a table that goes into a file or another program."""


class Exit(IntEnum):
    """What a command's exit code says."""

    FINE = 0
    FAILED = 1
    USAGE = 2
    FOUND = 3
    INTERRUPTED = 130


def known_projects() -> list[tuple[str, str]]:
    """Return the projects as the shell completes them: number and title."""
    from backend.services import Services
    from backend.settings import get_settings

    try:
        return [(str(each.label_studio_id), each.title) for each in Services(get_settings()).projects.all()]
    except Exception:
        return []  # a shell that completes is no place for an error


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ProjectNumber = Annotated[
    int | None,
    typer.Option(
        "--project",
        "-p",
        help="Label Studio's id of the project; not needed where Tandem serves one.",
        autocompletion=known_projects,
    ),
]


def examples(*commands: str) -> str:
    """Return what stands below the help of a command: how it is called, for example."""
    return "\n\n".join(("[bold]For example[/bold]", *(f"[cyan]{command}[/cyan]" for command in commands)))


@contextmanager
def errors_told() -> Iterator[None]:
    """Tell what is in the way in a sentence, and end with the exit code that says so."""
    try:
        yield
    except KeyboardInterrupt:
        typer.secho("Interrupted.", err=True)
        raise typer.Exit(Exit.INTERRUPTED) from None
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        typer.secho(plain(sentence), err=True, fg=typer.colors.RED)
        raise typer.Exit(Exit.FAILED) from error


@contextmanager
def services_open() -> Iterator[Services]:
    """Give the services of this process, closed afterwards; errors are told as `errors_told` does."""
    from backend.services import Services
    from backend.settings import get_settings

    with errors_told(), closing(Services(get_settings())) as services:
        yield services


def _sentence(error: Exception) -> str | None:
    """Return what to tell of an error that is no fault of the program; None for one that is."""
    from redis.exceptions import RedisError
    from sqlalchemy.exc import OperationalError, ProgrammingError

    from backend.images import ImageUnreadable
    from backend.insight.export import NothingLearned
    from backend.insight.history import UnknownVersion
    from backend.label_config import UnusableConfig
    from backend.labelstudio import LabelStudioError
    from backend.projects import UnknownProject
    from backend.rollback import CanNotServe
    from model.encoder import EncoderError

    if isinstance(error, (OperationalError, ProgrammingError)):
        return f"The database can't be used ({str(error.orig).strip()}): run `tandem doctor`, or `tandem migrate`."
    if isinstance(error, RedisError):
        return f"Redis does not answer ({error}): run `tandem doctor`."
    expected = (
        LabelStudioError,
        UnusableConfig,
        UnknownProject,
        UnknownVersion,
        CanNotServe,
        NothingLearned,
        EncoderError,
        ImageUnreadable,
        OSError,
    )
    return str(error) if isinstance(error, expected) else None


def chosen_project(services: Services, number: int | None) -> Project:
    """Return the project of this number; without one, the only one there is.

    Raises
    ------
    backend.projects.UnknownProject
        When there is none.
    typer.BadParameter
        When there are several, and none was named.
    """
    from backend.projects import UnknownProject

    if number is not None:
        return services.projects.named(number)
    newest = {project.label_studio_id: project for project in services.projects.all()}
    if not newest:
        raise UnknownProject("Tandem serves no project yet: connect one with `tandem connect --project NUMBER`.")
    if len(newest) > 1:
        listed = ", ".join(f"{project.label_studio_id} ({plain(project.title)})" for project in newest.values())
        raise typer.BadParameter(f"say which: {listed}", param_hint="--project")
    return next(iter(newest.values()))


def console(*, stderr: bool = False) -> Console:
    """Return a console that takes no text for markup; names and titles come from outside."""
    from rich.console import Console

    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, markup=False, highlight=False, width=None if is_terminal else PIPED_WIDTH)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table, if there are rows; a column whose name begins with ``#`` is set to the right."""
    if not rows:
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column.removeprefix("#"), justify="right" if column.startswith("#") else "left")
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    console().print(made)


def as_json(told: Any) -> None:
    """Print a dataclass, or a list of some, as JSON: the keys are the names of its fields."""
    typer.echo(json.dumps(told, indent=2, ensure_ascii=False, default=_plain_data))


def _plain_data(told: Any) -> Any:
    if dataclasses.is_dataclass(told) and not isinstance(told, type):
        return {field.name: getattr(told, field.name) for field in dataclasses.fields(told)}
    raise TypeError(f"{type(told).__name__} can't be told as JSON")


def plain(text: str) -> str:
    r"""Return a text without what a terminal would act on; it comes from outside.

    Examples
    --------
    >>> plain("a \x1b[31mred\x1b[0m face\n")
    'a [31mred[0m face '
    """
    return "".join(" " if each in "\n\t" else each for each in text if each in "\n\t" or _shown(each))


def _shown(character: str) -> bool:
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs"}


def share(value: float | None) -> str:
    """Return a share as people read it: what is nearly certain is not told as certain.

    Examples
    --------
    >>> share(0.8349), share(0.998), share(1.0), share(None)
    ('83 %', '> 99 %', '100 %', '')
    """
    if value is None:
        return ""
    if 0.99 < value < 1:
        return "> 99 %"
    return "< 1 %" if 0 < value < 0.01 else f"{value:.0%}".replace("%", " %")


def moment(seconds: float | None) -> str:
    """Return a time of ours, in this machine's zone."""
    return "" if seconds is None else datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
