"""Commands that look after a project's connection, and that change what serves."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.telling import (
    AsJson,
    Exit,
    ProjectNumber,
    as_json,
    chosen_project,
    console,
    examples,
    plain,
    services_open,
)
from backend.settings import get_settings

if TYPE_CHECKING:
    from backend.doctor import Finding

app = typer.Typer()

MARKS = {"fine": ("✓", "green"), "warning": ("!", "yellow"), "broken": ("✗", "red"), "unknown": ("?", "magenta")}


@app.command(
    epilog=examples("tandem connect --project 3", "tandem connect --title Faces --label-config label_config.xml"),
    rich_help_panel="Look after",
)
def connect(
    project: Annotated[int | None, typer.Option(help="Label Studio's id of a project that is there already.")] = None,
    title: Annotated[str | None, typer.Option(help="Title of a project: taken if there is one, else made.")] = None,
    label_config: Annotated[Path | None, typer.Option(help="Labeling configuration of a project that is made.")] = None,
    json: AsJson = False,
) -> None:
    """Connect a project of Label Studio: backend, webhook with its secret, sampling and tabs; or mend its connection.

    Tandem must be running, since Label Studio asks it at once. Running this again changes only what is not as it
    should be.
    """
    from backend.connect import connect as connect_project

    settings = get_settings()
    with services_open() as services:
        xml = label_config.read_text(encoding="utf-8") if label_config else None
        connected = connect_project(settings, services.label_studio, project=project, title=title, label_config=xml)
    facts, notes = connected.project.facts, list(connected.notes)
    url = f"{settings.label_studio_for_people}/projects/{facts.id}/"
    if json:
        as_json({"project": facts.id, "title": facts.title, "url": url, "made": connected.made, "notes": notes})
        return
    typer.echo(f"Project {facts.id} ({plain(facts.title)}) is connected: {url}")
    for note in notes:
        typer.echo(f"- {plain(note)}")


@app.command(epilog=examples("tandem doctor", "tandem doctor --project 3 --json"), rich_help_panel="Look after")
def doctor(
    project: Annotated[
        list[int] | None,
        typer.Option("--project", "-p", help="Only projects of these numbers, also such as are not connected yet."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Ask everything Tandem stands on whether it works, and say the mend of what does not.

    Ends with 3 when something is broken or could not be looked at. docs/troubleshooting.md tells more of each finding.
    """
    from backend.doctor import examine, worst

    with services_open() as services, console(stderr=True).status("Asking ..."):
        findings = examine(services, project)
    state = worst(findings)
    if json:
        as_json({"state": state, "findings": findings})
    else:
        _tell_findings(findings)
    if state in {"broken", "unknown"}:
        raise typer.Exit(Exit.FOUND)


def _tell_findings(findings: list[Finding]) -> None:
    from rich.text import Text

    out = console()
    place: int | None = None
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        if finding.project != place:
            place = finding.project
            out.print(f"\nProject {place}", style="bold")
        mark, color = MARKS[finding.state]
        out.print(
            Text.assemble((f"{mark} ", color), (f"{finding.name:<{width}}  ", "bold"), plain(finding.told)),
            soft_wrap=True,
        )
        if finding.mend:
            out.print(Text.assemble(" " * (width + 4), ("→ ", color), plain(finding.mend)), soft_wrap=True)
    wrong = [finding for finding in findings if finding.state != "fine"]
    count = f"{len(findings) - len(wrong)} of {len(findings)} are fine"
    more = "; docs/troubleshooting.md tells more of each." if wrong else "."
    out.print(f"\n{count}{more}")


@app.command(epilog=examples("tandem sync --project 3"), rich_help_panel="Look after")
def sync(project: ProjectNumber = None, json: AsJson = False) -> None:
    """Compare the ledger with Label Studio now, and learn the difference."""
    from backend.reconcile import reconcile

    with services_open() as services:
        chosen = chosen_project(services, project)
        with console(stderr=True).status(f"Comparing project {chosen.label_studio_id} with Label Studio ..."):
            difference = reconcile(services, chosen.id)
    if json:
        as_json(difference)
        return
    typer.echo(
        f"{difference.tasks} tasks and {difference.annotations} annotations in Label Studio; "
        f"{difference.events} events were missing from the ledger."
    )


@app.command(
    epilog=examples('tandem rollback 12 --why "a camera was mislabelled"', "tandem rollback --newest"),
    rich_help_panel="Look after",
)
def rollback(
    version: Annotated[str | None, typer.Argument(help="Number or name of the version that shall serve.")] = None,
    newest: Annotated[bool, typer.Option("--newest", help="Let the newest version serve again.")] = False,
    why: Annotated[str, typer.Option(help="A sentence for those who see it later.")] = "",
    who: Annotated[str, typer.Option(help="Who chooses so; by default, who is logged in here.")] = "",
    project: ProjectNumber = None,
    json: AsJson = False,
) -> None:
    """Let an older version serve; learning goes on underneath, and --newest takes it back."""
    from backend.rollback import release, roll_back

    if newest == (version is not None):
        raise typer.BadParameter("name a version, or say --newest")
    who = who or getpass.getuser()
    with services_open() as services:
        chosen = chosen_project(services, project)
        if version is None:
            pin = release(services, chosen, who, why)
        else:
            pin = roll_back(services, chosen, version_number(version), who, why)
    if json:
        as_json(pin)
    elif pin is None:
        typer.echo("The newest version serves already.")
    elif pin.version is None:
        typer.echo("The newest version serves again.")
    else:
        typer.echo(f"Version {pin.version} serves; `tandem rollback --newest` takes it back.")


def version_number(told: str) -> int:
    """Return the number of a version that is told by number or name.

    Examples
    --------
    >>> version_number("12"), version_number("tandem-v12")
    (12, 12)
    """
    number = told.removeprefix("tandem-").removeprefix("v")
    if not number.isdecimal():
        raise typer.BadParameter(f"{told!r} is no version: give its number, or its name such as tandem-v12")
    return int(number)
