"""A project of Label Studio: all that `connect` sets and somebody may have changed, its images, and what is learned."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

import sqlalchemy as sa
from redis.exceptions import RedisError

from backend.connect import SAMPLING, explained, public_url, sort_webhooks, tells_all, webhook_headers
from backend.database import events, images, reading, tasks
from backend.doctor.finding import Check, Finding
from backend.images import ImageUnreadable, decode
from backend.jobs import QUEUES
from backend.label_config import UnusableConfig, parse_label_config
from backend.labelstudio import LabelStudioError, LabelStudioUnreachable, ProjectState
from backend.projects import Project
from backend.services import Services

LATE_SECONDS = 60.0
"""Seconds after which a label should long have been learned."""
REASONS = {
    "bad_address": "Correct the image's address in the tasks' data.",
    "scheme_not_allowed": "Upload the images to Label Studio, or give them http(s), s3, gs or azure-blob addresses.",
    "host_not_allowed": "Name the host in TANDEM_IMAGE_HOSTS.",
    "private_address": "Set TANDEM_IMAGE_PRIVATE_ADDRESSES=true, if the hosts in TANDEM_IMAGE_HOSTS are yours.",
    "outside_folder": "Correct the address, or put the file below Label Studio's local-files folder.",
    "not_found": "Put the file back, or delete the task.",
    "not_authorized": "Give this machine's credentials, or Label Studio's storage, the right to read it.",
    "server_error": "See the log of the server that has the images; they are tried again by themselves.",
    "too_many_redirects": "Give the tasks the address to which the redirects lead.",
    "timeout": "See whether the server is overloaded, or raise TANDEM_IMAGE_TIMEOUT.",
    "unreachable": "Start the server that has the images, or correct the address.",
    "too_large": "Raise TANDEM_IMAGE_MAX_BYTES, or make the files smaller.",
    "too_many_pixels": "Raise TANDEM_IMAGE_MAX_PIXELS, or make the images smaller.",
    "not_an_image": "Replace the file by an image, such as a JPEG or PNG, or delete the task.",
    "truncated": "Upload the file again: it ends too early.",
}
"""What to do about images that can't be read, by the reason that `ImageUnreadable` gives."""


@dataclass(slots=True)
class _Case:
    """A project under examination: Label Studio's id, what Tandem knows of it, and what Label Studio says."""

    number: int
    project: Project | None
    asked_for: bool
    state: ProjectState | None = None


def checks(services: Services, number: int, project: Project | None, asked_for: bool) -> dict[str, Check]:
    """Return the checks of a project by name, of which all rest on the first.

    Parameters
    ----------
    services
        Of this process.
    number
        Label Studio's id of the project.
    project
        What Tandem knows of it; None: nothing.
    asked_for
        Whether somebody named it; else nothing is said when it is gone.
    """
    case = _Case(number, project, asked_for)
    asked: dict[str, Check] = {
        "project": partial(_project, services, case),
        "sampling": partial(_sampling, services, case),
        "webhook": partial(_webhook, services, case),
        "address": partial(_address, services, case),
    }
    if project is not None:
        asked |= {
            "score-column": partial(_score_column, services, case, project),
            "learning": partial(_learning, services, project),
            "images": partial(_images, services, project),
        }
    return asked | {"backend": partial(_backend, services, case)}


def _project(services: Services, case: _Case) -> Finding | None:
    try:
        case.state = services.label_studio.project(case.number)
    except LabelStudioError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        if not case.asked_for:
            return None  # deleted in Label Studio; what was learned stays in the database, and harms nothing
        told = f"There is no project {case.number} for this key."
        return Finding("project", "broken", told, "See its number in the address of its page in Label Studio.")
    facts = case.state.facts
    if case.project is not None and facts.created != case.project.created:
        if not case.asked_for:
            return None
        case.project = None
    try:
        parse_label_config(facts.label_config)
    except UnusableConfig as error:
        mend = "Change its labeling configuration: an Image and Choices, see label_config.xml."
        return Finding("project", "broken", f"{facts.title}: {error}", mend)
    if case.project is None:
        told = f"Tandem has not heard of {facts.title} yet."
        return Finding("project", "warning", told, f"Connect it: `tandem connect --project {case.number}`.")
    return Finding("project", "fine", f"{facts.title} classifies images.")


def _sampling(services: Services, case: _Case) -> Finding:
    state = case.state
    assert state is not None  # noqa: S101 - the project was looked at first
    mend = f"Set both: `tandem connect --project {case.number}`."
    if state.sampling != SAMPLING:
        told = f"Label Studio asks in the order {state.sampling!r}, not by what is least clear."
        return Finding("sampling", "warning", told, mend)
    if not state.show_collab_predictions:
        return Finding("sampling", "warning", "Label Studio shows annotators no predictions.", mend)
    return Finding("sampling", "fine", "Label Studio asks for what is least clear first, and shows predictions.")


def _webhook(services: Services, case: _Case) -> Finding:
    url, headers = public_url(services.settings), webhook_headers(services.settings)
    ours, moved = sort_webhooks(services.label_studio.webhooks(case.number), url, headers)
    mend = f"Mend it: `tandem connect --project {case.number}`, then `tandem sync --project {case.number}`."
    if not ours:
        where = f"; {moved[0].url} is told instead" if moved else ""
        return Finding("webhook", "broken", f"Nobody tells Tandem at {url} of annotations{where}.", mend)
    if not tells_all(ours[0], headers):
        kept = ours[0]
        wrong = (
            "switched off"
            if not kept.is_active
            else "without the secret, so each call is refused"
            if kept.headers != headers
            else "not sent everything"
        )
        return Finding("webhook", "broken", f"The webhook to Tandem is {wrong}.", mend)
    if len(ours) > 1:
        return Finding("webhook", "warning", f"{len(ours)} webhooks tell Tandem the same.", mend)
    if moved:
        told = f"A webhook is left over from an earlier address, and sends the secret to {moved[0].url}."
        return Finding("webhook", "warning", told, mend)
    return Finding("webhook", "fine", "Label Studio tells Tandem of every annotation.")


def _address(services: Services, case: _Case) -> Finding:
    url, headers = public_url(services.settings), webhook_headers(services.settings)
    ours, _ = sort_webhooks(services.label_studio.webhooks(case.number), url, headers)
    try:
        # Label Studio looks at an address when it is told of it, and later drops what it would refuse without a word.
        if not ours:
            services.label_studio.delete_webhook(
                services.label_studio.create_webhook(case.number, f"{url}/webhook", headers)
            )
        elif tells_all(ours[0], headers):
            services.label_studio.update_webhook(ours[0], headers)
    except LabelStudioUnreachable:
        raise
    except LabelStudioError as error:
        told, _, mend = str(explained(error, url)).partition("). ")
        return Finding("address", "broken", f"{told})." if mend else told, mend)
    return Finding("address", "fine", f"Label Studio is willing to call {url}.")


def _score_column(services: Services, case: _Case, project: Project) -> Finding:
    assert case.state is not None  # noqa: S101 - the project was looked at first
    name, shown = "score-column", services.projects.get(project.id).shown
    if shown is None:
        if not services.ledger.has_pool(project.id):
            return Finding(name, "fine", "There is nothing to ask yet.")
        told = "No prediction has been pushed yet: the score column is empty, and the order random."
        return Finding(name, "warning", told, "Wait while images are encoded; if it stays so, see workers and images.")
    theirs = case.state.model_version
    if theirs not in {shown, project.shown}:
        told = (
            f"Label Studio shows the version {theirs or 'none'!r}, Tandem's predictions are those of {shown!r}: the "
            "score column is dead, and the order random."
        )
        mend = f"Choose {shown} in the project's Settings, Annotation, Prelabeling; the next label does it by itself."
        return Finding(name, "broken", told, mend)
    count = services.label_studio.model_versions(case.number).get(theirs, 0)
    if not count and services.ledger.has_pool(project.id):
        told = f"Label Studio has no prediction of the version it shows, {theirs}: the order is random."
        return Finding(
            name, "broken", told, f"Label a task: that pushes anew. Or run `tandem sync --project {case.number}`."
        )
    return Finding(name, "fine", f"Label Studio shows {theirs}, with {count} predictions.")


def _learning(services: Services, project: Project) -> Finding:
    newest = services.versions.newest(project.id)
    query = sa.select(sa.func.count(), sa.func.min(events.c.told_at)).where(
        events.c.project_id == project.id, events.c.position > (newest.position if newest else 0)
    )
    with reading(services.engine) as connection:
        count, oldest = connection.execute(query).one()
    late = time.time() - oldest if count else 0.0
    if late > LATE_SECONDS:
        told = f"{count} events wait to be learned, the oldest for {_minutes(late)}."
        return Finding("learning", "broken", told, "See workers, and the log of `tandem worker learn`.")
    try:
        failing = services.jobs.failing(project.id)
    except RedisError:
        failing = {}
    if failing:
        kinds = ", ".join(f"{kind} ({count} times)" for kind, count in failing.items())
        queues = " and ".join(sorted({f"`tandem worker {QUEUES[kind]}`" for kind in failing}))
        told = f"Work fails again and again: {kinds}; it is tried anew by itself."
        return Finding("learning", "warning", told, f"See the log of {queues} for the reason.")
    return Finding(
        "learning", "fine", f"{newest.name} has learned everything." if newest else "Nothing is labelled yet."
    )


def _images(services: Services, project: Project) -> Finding:
    unreadable = services.features.unreadable(project.id)
    counting = sa.select(sa.func.count()).where(images.c.project_id == project.id)
    example = sa.select(tasks.c.id, tasks.c.image).where(tasks.c.project_id == project.id, tasks.c.image.is_not(None))
    if unreadable:
        wrong = images.c.reason.is_not(None)
        joined = (images.c.project_id == tasks.c.project_id) & (images.c.address == tasks.c.image)
        example = example.join(images, joined).where(wrong)
    with reading(services.engine) as connection:
        seen = connection.scalar(counting) or 0
        task = connection.execute(example.limit(1)).first()
    problem = _trouble(services, task.id, task.image) if task else None
    count = sum(unreadable.values())
    if not count:
        if problem is None:
            return Finding("images", "fine", f"All {seen} images read so far could be read.")
        told = f"The image of task {task.id if task else 0} can't be read. {problem}"
        return Finding("images", "broken", told, REASONS.get(problem.reason, ""))
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(unreadable.items()))
    told = f"{count} of {seen} images can't be read ({reasons})."
    if task is not None:
        told += f" Task {task.id}, for one: {problem or 'it can be read now, and will be at the next try.'}"
    commonest = max(unreadable, key=lambda reason: unreadable[reason])
    return Finding("images", "broken" if 2 * count > seen else "warning", told, REASONS.get(commonest, ""))


def _trouble(services: Services, task_id: int, address: str) -> ImageUnreadable | None:
    """Return why the image of a task can't be read now; None when it can."""
    try:
        decode(services.images.read(address, task_id), services.settings.image_max_pixels)
    except ImageUnreadable as problem:
        return problem
    return None


def _backend(services: Services, case: _Case) -> Finding:
    url = public_url(services.settings)
    connected = sorted(services.label_studio.backends(case.number), key=lambda each: each.id)
    ours = [each for each in connected if each.url.rstrip("/") == url]
    mend = f"Mend it: `tandem connect --project {case.number}`."
    if not ours:
        others = ", ".join(f"{each.title!r} at {each.url}" for each in connected)
        told = f"Label Studio asks {others or 'nobody'} for predictions, not Tandem at {url}."
        return Finding("backend", "broken", told, mend)
    if connected[0] != ours[0]:
        told = f"Label Studio asks {connected[0].title!r} at {connected[0].url} for predictions, which was there first."
        return Finding("backend", "broken", told, "Remove that one in the project's Settings, Model.")
    if services.settings.secret.get_secret_value() and ours[0].auth_method == "NONE":
        return Finding("backend", "broken", "Label Studio asks without the secret, and is refused.", mend)
    if not ours[0].connected:
        told = f"Label Studio can't reach Tandem at {url}, or is refused there."
        mend = f"Mend web first; set TANDEM_PUBLIC_URL to Tandem's address as Label Studio reaches it. {mend}"
        return Finding("backend", "broken", told, mend)
    return Finding("backend", "fine", f"Label Studio asks Tandem at {url}.")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
