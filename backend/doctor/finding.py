"""What a check of the doctor finds, and everything that is looked at."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Literal

State = Literal["fine", "warning", "broken", "unknown"]

NAMES = {
    "database": "Tandem's database answers and takes what is written",
    "schema": "its tables are those of this release",
    "disk": "the disk of the state folder has room",
    "redis": "Redis answers",
    "redis-persistence": "Redis keeps what it was told through a restart, and drops nothing when memory is short",
    "workers": "a worker of each queue is alive",
    "mlflow": "MLflow answers",
    "artifacts": "where MLflow keeps files, a folder or S3, takes a small file and lets go of it",
    "web": "Tandem's web process answers at its address, is ready, and knows the same secret",
    "secret": "Tandem answers only who knows the secret",
    "label-studio": "Label Studio answers, in a release that is known",
    "api-key": "Label Studio takes the API key",
    "clock": "Label Studio's clock and this machine's agree",
    "project": "the project is there and classifies images",
    "sampling": "Label Studio asks for what is least clear first, and shows predictions",
    "webhook": "Label Studio tells Tandem of every annotation, once, with the secret",
    "address": "Label Studio is willing to call Tandem's address",
    "score-column": "the version that Label Studio shows has predictions, so that its score column and order are alive",
    "learning": "what was labelled is learned soon, and no work fails again and again",
    "images": "the images of tasks can be read",
    "backend": "Label Studio asks Tandem, and nobody before it, for predictions",
}
"""What is looked at, by the finding's name, in the order it is told."""

ANSWER_SECONDS = 4.0
"""Seconds to wait for one answer of a web server."""


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


Check = Callable[[], Finding | None]
"""Asks one thing; None when there is nothing to say, and then nothing that rests on it is asked either."""


def worst(findings: Sequence[Finding]) -> State:
    """Return the worst state among findings: broken, then unknown, then warning, then fine.

    Examples
    --------
    >>> worst([Finding("disk", "fine", "40 GB are free."), Finding("redis", "broken", "It does not answer.")])
    'broken'
    """
    states: tuple[State, ...] = ("broken", "unknown", "warning")
    return next((state for state in states if any(each.state == state for each in findings)), "fine")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or of what first caused it; its kind where it says nothing.

    Examples
    --------
    >>> first_line(TimeoutError()), first_line(ConnectionError("(Caused by x: [Errno 111] Connection refused)"))
    ('TimeoutError', '[Errno 111] Connection refused')
    """
    while error.__cause__ is not None or isinstance(error.__context__, OSError):
        error = error.__cause__ or error.__context__ or error
    told = str(error).strip() or type(error).__name__
    of_system = re.search(r"\[Errno -?\d+\] [^)\"'\n]+", told)
    return shorten(of_system[0] if of_system else told.splitlines()[0], 200, placeholder=" …").rstrip(".")
