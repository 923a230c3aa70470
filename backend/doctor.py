"""The doctor: asks for each way in which Tandem and what it stands on are known to fail each other, and says the mend.

Each check is small and asks one thing; none changes anything that stays, and none can break another: they run side by
side, and what has not answered after `PATIENCE` is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from backend.services import Services

State = Literal["fine", "warning", "broken", "unknown"]

PATIENCE = 15.0
"""Seconds after which a check that has not answered is given up."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    name
        What was looked at, one of `NAMES`; docs/troubleshooting.md has a section of this name.
    state
        ``fine``; ``warning``: works, with something to know; ``broken``; ``unknown``: could not be looked at.
    told
        What was found, a sentence or two.
    mend
        What to do, a sentence; empty when there is nothing to do.
    project
        Label Studio's id of the project it was found in; None: it is of no single project.
    """

    name: str
    state: State
    told: str
    mend: str = ""
    project: int | None = None


NAMES = {
    "database": "Tandem's database answers and takes what is written",
    "schema": "its tables are those of this release",
    "disk": "the disk of the state folder has room",
    "redis": "Redis answers",
    "redis-persistence": "Redis keeps what it was told through a restart, and drops nothing when memory is short",
    "workers": "a worker of each queue is alive and gets its jobs done",
    "mlflow": "MLflow answers",
    "artifacts": "what MLflow keeps files in (a folder, S3) takes, and lets go of, a small file",
    "web": "Tandem's web process answers at its address, and no other program does",
    "secret": "Tandem answers only who knows the secret",
    "label-studio": "Label Studio answers, in a release that is known",
    "api-key": "Label Studio takes the API key",
    "clock": "Label Studio's clock and this machine's agree",
    "project": "the project is there and classifies images",
    "backend": "Label Studio asks Tandem, and nobody else, for predictions",
    "address": "Label Studio is willing to call Tandem's address",
    "webhook": "Label Studio tells Tandem of every annotation, once, with the secret",
    "score-column": "the version that Label Studio shows has predictions, so that its score column and order are alive",
    "sampling": "Label Studio asks for what is least clear first",
    "images": "the images of tasks can be read",
    "learning": "what was labelled is learned soon",
}
"""What is looked at, by the finding's name, in the order it is told."""


def examine(
    services: Services, projects: Sequence[int] | None = None, patience: float = PATIENCE
) -> list[Finding]:
    """Look at everything, side by side; return a finding for each thing looked at, in the order of `NAMES`.

    Parameters
    ----------
    services
        Of this process.
    projects
        Label Studio's ids of the projects to look at; None: all that Tandem knows.
    patience
        Seconds after which a check that has not answered is given up.
    """
    return []
