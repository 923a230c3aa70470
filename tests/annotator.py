"""A person who labels in a real Label Studio, and the patience of whoever looks what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from backend.label_config import parse_label_config
from backend.labelstudio import LabelStudio
from backend.projects import Project
from backend.services import Services
from tests.parts import CONFIG

T = TypeVar("T")


@dataclass
class Annotator:
    """A person at a project of demo images that is connected.

    Attributes
    ----------
    services
        Tandem's parts in this process, on the database that its own processes use.
    client
        The client of Label Studio, as this person.
    number
        Label Studio's id of the project.
    truth
        Each task's class.
    """

    services: Services
    client: LabelStudio
    number: int
    truth: dict[int, str]

    @property
    def project(self) -> Project:
        return self.services.projects.named(self.number)

    def annotate(self, task_id: int, label: str | None = None) -> int:
        """Submit a label as an annotator does, rightly unless told otherwise; return the annotation's id."""
        result = parse_label_config(CONFIG).result(label or self.truth[task_id])
        return self.client.annotate(task_id, result, lead_time=1.5)

    def unlabelled(self) -> list[int]:
        return [task_id for task_id, _, _ in self.services.ledger.pool(self.project.id)]


def truth(client: LabelStudio, number: int, paths: list[Path]) -> dict[int, str]:
    """Return each task's class: Label Studio puts random letters before a name and keeps the name."""
    classes = {path.name: path.parent.name for path in paths}
    found = {}
    for task in client.tasks(number):
        name = str(task["data"]["image"]).rsplit("/", 1)[1].split("-", 1)[1]
        found[int(task["id"])] = classes[name]
    return found


def soon(what: Callable[[], T | None], seconds: float = 90.0) -> T:
    """Return what becomes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come true in {seconds:.0f} seconds")
