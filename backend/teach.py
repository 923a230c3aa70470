"""Teach: a picture that someone shows Tandem becomes a task of Label Studio with an annotation.

Label Studio tells of both by its webhook, and Tandem learns as ever; nothing is written to the ledger here. Who taught
it is kept beside: Label Studio only knows the user whose key Tandem has.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import sqlalchemy as sa
from PIL import Image

from backend.database import annotation_table, images, reading, tasks, taught, writing
from backend.images import FORMATS, ImageUnreadable, content_hash, decode
from backend.labelstudio import LabelStudioError
from backend.projects import Project
from backend.services import Services

log = logging.getLogger(__name__)

ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
"""Formats that Label Studio takes in, and how their files are named; others are uploaded as PNG."""


class CanNotTeach(ValueError):  # noqa: N818 - reads as what it says
    """Raised when a picture can't be taught; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Taught:
    """The `annotation` that says that the picture of `task` is `labels`; `uploaded` tells that the task is new."""

    task: int
    annotation: int
    labels: tuple[str, ...]
    uploaded: bool


@dataclass(frozen=True, slots=True)
class KnownTask:
    """A task that has a picture already, and whether somebody labelled it."""

    task: int
    labelled: bool


def teach(services: Services, project: Project, data: bytes, labels: Sequence[str], who: str) -> Taught:
    """Make a task of a picture in Label Studio, and label it.

    A picture that is a task already, and has no label, is labelled there instead of uploaded again.

    Parameters
    ----------
    services, project
        Where to.
    data
        The image file, as it was sent: nothing of it is trusted.
    labels
        The class it shows; several, or none, where the labeling configuration lets one choose so.
    who
        Name of the person; it is kept.

    Raises
    ------
    CanNotTeach
        When the labels are none of the project's, the picture is labelled already, or Label Studio does not take it.
    backend.images.ImageUnreadable
        When the file is no image, or a larger one than the settings allow.
    """
    config = project.config
    if config is None:
        raise CanNotTeach("Tandem can't work with this project's labeling configuration: see `tandem connect`.")
    chosen = tuple(dict.fromkeys(labels))
    foreign = [label for label in chosen if label not in config.classes]
    if foreign:
        raise CanNotTeach(f"{foreign[0]!r} is none of the project's classes: {', '.join(config.classes)}.")
    if not chosen and not config.may_be_empty:
        raise CanNotTeach("Say which class the picture shows.")
    if len(chosen) > 1 and not config.multiple:
        raise CanNotTeach("One picture has one class in this project: choose one.")
    check(services, data)
    known = known_task(services, project.id, content_hash(data))
    if known is not None and known.labelled:
        raise CanNotTeach(f"This very picture is task {known.task} already, and labelled: change its label there.")
    try:
        task = known.task if known else services.label_studio.upload_one(project.label_studio_id, *_as_file(data))
    except LabelStudioError as error:
        raise CanNotTeach(f"Label Studio did not take the picture: {error}") from error
    result = config.result(chosen)
    for region in result:
        # The ids of Tandem's own predictions would make it a copy of one.
        region["id"] = secrets.token_urlsafe(7)
    try:
        annotation = services.label_studio.annotate(task, result)
    except LabelStudioError as error:
        raise CanNotTeach(
            f"The picture is task {task} now, but Label Studio did not take the label: {error}"
        ) from error
    row = {"project_id": project.id, "annotation_id": annotation, "task_id": task, "who": who, "taught_at": time.time()}
    with writing(services.engine) as connection:
        connection.execute(taught.insert().values(row))
    log.info("Project %d: %s taught that task %d is %s", project.id, who, task, " + ".join(chosen))
    return Taught(task, annotation, chosen, uploaded=known is None)


def check(services: Services, data: bytes) -> Image.Image:
    """Return the picture of a file that was sent to be looked at, within the limits that tasks' images have.

    Raises
    ------
    backend.images.ImageUnreadable
        When the file is no image, or a larger one than the settings allow.
    """
    limit = services.settings.image_max_bytes
    if len(data) > limit:
        raise ImageUnreadable("too_large", f"The file is larger than {limit} bytes: see TANDEM_IMAGE_MAX_BYTES.")
    return decode(data, services.settings.image_max_pixels)


def known_task(services: Services, project_id: int, digest: str) -> KnownTask | None:
    """Return the first task whose image has this content hash, None where Tandem has read no such image."""
    labelled = sa.exists().where(
        annotation_table.c.project_id == tasks.c.project_id,
        annotation_table.c.task_id == tasks.c.id,
        annotation_table.c.label.is_not(None),
    )
    same = (images.c.project_id == tasks.c.project_id) & (images.c.address == tasks.c.image)
    query = (
        sa.select(tasks.c.id, labelled)
        .select_from(images.join(tasks, same))
        .where(images.c.project_id == project_id, images.c.content_hash == digest)
        .order_by(~labelled, tasks.c.id)
        .limit(1)
    )
    with reading(services.engine) as connection:
        row = connection.execute(query).first()
    return KnownTask(*row) if row else None


def _as_file(data: bytes) -> tuple[str, bytes]:
    """Return a name and the bytes of an image that was decoded before, as Label Studio takes them."""
    name = f"shown-to-tandem-{content_hash(data)[:12]}"
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        if image.format in ENDINGS:
            return f"{name}.{ENDINGS[image.format]}", data
        file = BytesIO()
        image.convert("RGB").save(file, "PNG")
    return f"{name}.png", file.getvalue()
