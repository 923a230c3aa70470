"""Commands that tell what is known: what was learned, what is asked next, what to look at again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from backend.cli.acting import version_number
from backend.cli.telling import (
    AsJson,
    ProjectNumber,
    as_json,
    chosen_project,
    examples,
    moment,
    plain,
    services_open,
    share,
    table,
)

if TYPE_CHECKING:
    from backend.insight.doubts import Doubts
    from backend.insight.history import Comparison, Detail, History
    from backend.insight.overview import Rate

app = typer.Typer()


@app.command(epilog=examples("tandem status --json"), rich_help_panel="Look at")
def status(json: AsJson = False) -> None:
    """Tell what each project has learned."""
    from backend.insight.overview import overview

    with services_open() as services:
        told = [overview(services, project) for project in services.projects.all()]
    if json:
        as_json({"projects": told})
        return
    rows = [
        (
            f"{each.project} {each.title}",
            each.version if each.version == each.newest else f"{each.version} (newest: {each.newest})",
            moment(each.learned_at),
            str(each.labels),
            str(each.tasks - each.labelled),
            _rate(each.measured.recent if each.measured else None),
            _rate(each.measured.all if each.measured else None),
            "; ".join(alarm.sentence for alarm in each.alarms),
        )
        for each in told
    ]
    columns = (
        "project",
        "serves",
        "learned at",
        "#labels",
        "#to label",
        "right of the newest",
        "right of all",
        "alarm",
    )
    if not told:
        typer.echo("Tandem serves no project yet: connect one with `tandem connect --project NUMBER`.")
        return
    table(columns, rows)
    typer.echo("Right: the share of images that were predicted rightly before their label was learned.")


@app.command(epilog=examples("tandem queue --kind novel --size 10"), rich_help_panel="Look at")
def queue(
    kind: Annotated[
        Literal["all", "ambiguous", "novel"], typer.Option(help="All, those where classes overlap, or novel ones.")
    ] = "all",
    predicted: Annotated[str | None, typer.Option(help="Only tasks of which this class is predicted.")] = None,
    page: Annotated[int, typer.Option(min=1, help="Which page.")] = 1,
    size: Annotated[int, typer.Option(min=1, max=200, help="Tasks on a page.")] = 30,
    project: ProjectNumber = None,
    json: AsJson = False,
) -> None:
    """List the tasks without a label in the order they are asked, with what is made of each and why."""
    from backend.insight.queue import queue as read

    with services_open() as services:
        told = read(services, chosen_project(services, project), kind, predicted, page, size)
    if json:
        as_json(told)
        return
    rows = [
        (
            str(task.place),
            str(task.task),
            f"{task.score:.3f}",
            _named(task.predicted),
            share(task.probability),
            f"can't be read: {task.unreadable}" if task.unreadable else task.reason,
        )
        for task in told.tasks
    ]
    table(("#place", "#task", "#score", "predicted", "#sure", "why"), rows)
    typer.echo(
        f"{told.listed} of {told.unlabelled} without a label, page {told.page} of {told.pages}; "
        f"ordered by {told.version or 'nobody yet'}."
    )


@app.command(epilog=examples("tandem doubts"), rich_help_panel="Look at")
def doubts(project: ProjectNumber = None, json: AsJson = False) -> None:
    """List the labels worth a second look, and the tasks about which people disagree."""
    from backend.insight.doubts import doubts as read

    with services_open() as services:
        told = read(services, chosen_project(services, project))
    if json:
        as_json(told)
    else:
        _tell_doubts(told)


def _tell_doubts(told: Doubts) -> None:
    rows = [
        (str(each.task), _named(each.said.label), each.suggested, f"{each.odds:.0f}", each.reason)
        for each in told.doubts
    ]
    table(("#task", "labelled", "rather", "#times likelier", "why"), rows, "Labels in doubt")
    if not rows:
        typer.echo("No label is in doubt.")
    if told.disagreements:
        split = [
            (str(each.task), "; ".join(f"{_named(said.label)} by {said.person or 'somebody'}" for said in each.labels))
            for each in told.disagreements
        ]
        table(("#task", "labelled"), split, "Disagreements")
    if told.people:
        listed = [(str(each.id), str(each.labels), str(each.shared), share(each.agreement)) for each in told.people]
        table(("#person", "#labels", "#shared tasks", "#agreement"), listed, "People")
    behind = f"{told.behind} changes of labels ago" if told.behind else "and nothing has changed since"
    at = f"Studied {moment(told.studied_at)}, {behind}." if told.studied_at else "No study was made yet."
    typer.echo(f"{at} Confirm or correct doubts on the page Doubts, see /ui/.")


@app.command(
    epilog=examples("tandem versions", "tandem versions 12", "tandem versions 12 15"), rich_help_panel="Look at"
)
def versions(
    numbers: Annotated[
        list[str] | None, typer.Argument(metavar="[VERSION [VERSION]]", help="One to tell, or two to compare.")
    ] = None,
    before: Annotated[int | None, typer.Option(help="Only versions before this number.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many to list.")] = 20,
    project: ProjectNumber = None,
    json: AsJson = False,
) -> None:
    """List the versions, newest first; or tell one, or compare two."""
    from backend.insight.gallery import Galleries
    from backend.insight.history import compare, history, version

    asked = [version_number(each) for each in numbers or []]
    if len(asked) > 2:
        raise typer.BadParameter("name one version to tell, or two to compare")
    with services_open() as services:
        chosen = chosen_project(services, project)
        if len(asked) == 2:
            compared = compare(services, Galleries(), chosen, *asked)
            as_json(compared) if json else _tell_comparison(compared)
        elif asked:
            detail = version(services, chosen, asked[0])
            as_json(detail) if json else _tell_version(detail)
        else:
            listed = history(services, chosen, before, limit)
            as_json(listed) if json else _tell_history(listed)


def _tell_history(told: History) -> None:
    rows = [
        (
            str(line.number),
            "serves" if line.serves else "newest" if line.newest else "",
            moment(line.created_at),
            str(line.labels),
            f"{line.more:+d}",
            share(line.recent),
            share(line.accuracy),
            line.run or "",
        )
        for line in told.versions
    ]
    if not rows:
        typer.echo("There is no version yet: label some images.")
    table(("#version", "", "made at", "#labels", "#more", "#right of 50", "#right of all", "MLflow"), rows)
    if told.pinned:
        who = plain(told.pinned.who or "somebody")
        why = f": {plain(told.pinned.why)}" if told.pinned.why else ""
        typer.echo(f"{who} let version {told.pinned.version} serve at {moment(told.pinned.at)}{why}")
    if told.older is not None:
        typer.echo(f"Older: tandem versions --before {told.older}")


def _tell_version(told: Detail) -> None:
    line = told.line
    typer.echo(f"{line.name}, made {moment(line.created_at)}{', serves' if line.serves else ''}")
    table(("class", "#labels"), [(name, str(count)) for name, count in told.classes.items()])
    learned = told.learned
    typer.echo(f"Labels given: {learned.given}, corrected: {learned.corrected}, withdrawn: {learned.withdrawn}.")
    rows = [
        (str(each.task), _named(each.before), _named(each.after), moment(each.at), str(each.person or ""))
        for each in learned.listed
    ]
    table(("#task", "before", "after", "at", "#person"), rows)


def _tell_comparison(told: Comparison) -> None:
    if told.fair:
        rows = [
            (told.left.name, share(told.fair.left), _interval(told.fair.left_interval), str(told.fair.only_left)),
            (told.right.name, share(told.fair.right), _interval(told.fair.right_interval), str(told.fair.only_right)),
        ]
        title = f"On the {told.fair.labels} labels that came after both"
        table(("version", "#right", "between", "#only this one right"), rows, title)
    if told.hindrance:
        typer.echo(f"Their predictions can't be compared: {plain(told.hindrance)}.")
        return
    typer.echo(f"They disagree on {told.differing} of {told.images} labelled images.")
    rows = [
        (
            str(each.task),
            _named(each.labels),
            f"{_named(each.left.names)} {share(each.left.probability)}",
            f"{_named(each.right.names)} {share(each.right.probability)}",
        )
        for each in told.differences
    ]
    if rows:
        table(("#task", "labelled", told.left.name, told.right.name), rows)


def _rate(told: Rate | None) -> str:
    if told is None or not told.count:
        return ""
    return f"{share(told.share)} of {told.count} ({_interval((told.low, told.high))})"


def _interval(told: tuple[float, float]) -> str:
    return f"{told[0] * 100:.0f} to {told[1] * 100:.0f} %"


def _named(names: Sequence[str] | None) -> str:
    return "" if names is None else ", ".join(names)
