"""The doctor: asks for each way in which Tandem and what it stands on are known to fail each other, and says the mend.

Each check is small and asks one thing; none changes anything that stays, and none can break another. What rests on
something is looked at after it, everything else side by side, and what has not answered in time is said to be unknown.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import sqlalchemy as sa
from redis.exceptions import RedisError

from backend.doctor import label_studio, machine, project
from backend.doctor.finding import NAMES, Check, Finding
from backend.labelstudio import LabelStudioError, LabelStudioUnreachable
from backend.projects import Project
from backend.services import Services

log = logging.getLogger(__name__)

PATIENCE = 15.0
"""Seconds after which what has not answered is given up."""


@dataclass(slots=True)
class _Row:
    """Checks that rest on the first of them, by name, and what they have found so far."""

    checks: dict[str, Check]
    project: int | None = None
    found: dict[str, Finding] = field(default_factory=dict)
    ended: bool = False

    def ask(self) -> None:
        """Ask one after the other; the rest is unknown when the first is not well."""
        first = next(iter(self.checks))
        for name, check in self.checks.items():
            try:
                finding = check()
            except Exception as error:
                finding = _not_looked_at(name, error)
            if finding is None:
                break
            self.found[name] = finding
            if name == first and finding.state in {"broken", "unknown"}:
                for other in list(self.checks)[1:]:
                    self.found[other] = Finding(other, "unknown", "Not looked at.", f"First mend {first}, see there.")
                break
        self.ended = True

    def told(self, patience: float) -> list[Finding]:
        """Return what was found, and what was not within `patience` seconds."""
        ended, found = self.ended, dict(self.found)
        late = {} if ended else {name: _late(name, patience) for name in self.checks if name not in found}
        return [Finding(each.name, each.state, each.told, each.mend, self.project) for each in (found | late).values()]


def examine(services: Services, projects: Sequence[int] | None = None, patience: float = PATIENCE) -> list[Finding]:
    """Look at everything; return what was found, what is of no project first, else in the order of `NAMES`.

    Parameters
    ----------
    services
        Of this process.
    projects
        Label Studio's ids of the projects to look at; None: all that Tandem knows.
    patience
        Seconds after which what has not answered is given up.
    """
    deadline = time.monotonic() + patience
    rows = [_Row(checks) for checks in machine.checks(services) + label_studio.checks(services)]
    for part in ("engine", "jobs", "label_studio", "tracking", "images"):
        with suppress(Exception):  # a setting that is wrong is found by what is asked
            getattr(services, part)  # made here, lest two threads make it twice
    threads = _start(rows)
    known: dict[int, Project] = {}
    listing = _Row({"project": partial(_list_projects, services, known)})
    _wait(_start([listing]), deadline)
    chosen = list(known) if projects is None else list(dict.fromkeys(projects))
    asked_for = projects is not None
    of_projects = [_Row(project.checks(services, each, known.get(each), asked_for), each) for each in chosen]
    _wait(threads + _start(of_projects), deadline)
    found = [finding for row in rows + of_projects for finding in row.told(patience)]
    if not chosen and not listing.told(patience):
        told = "Tandem serves no project yet."
        found.append(Finding("project", "warning", told, "Connect one: `tandem connect --project NUMBER`."))
    order = list(NAMES)
    return sorted(found, key=lambda each: (each.project is not None, each.project or 0, order.index(each.name)))


def _start(rows: Sequence[_Row]) -> list[threading.Thread]:
    # Daemons: a check that hangs must not keep the process from ending.
    threads = [threading.Thread(target=row.ask, name="doctor", daemon=True) for row in rows]
    for thread in threads:
        thread.start()
    return threads


def _wait(threads: Sequence[threading.Thread], deadline: float) -> None:
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _not_looked_at(name: str, error: Exception) -> Finding:
    """Return what is told of a check that failed itself."""
    if isinstance(error, LabelStudioUnreachable):
        return Finding(name, "unknown", "Not looked at: Label Studio did not answer.", "First mend label-studio.")
    if isinstance(error, LabelStudioError):
        return Finding(name, "unknown", f"Not looked at: {error}")
    if isinstance(error, sa.exc.SQLAlchemyError):
        return Finding(name, "unknown", "Not looked at: the database did not answer.", "First mend database.")
    if isinstance(error, RedisError):
        return Finding(name, "unknown", "Not looked at: Redis did not answer.", "First mend redis.")
    log.warning("The doctor could not look at %s", name, exc_info=error)
    return Finding(name, "unknown", f"Could not be looked at: {type(error).__name__}: {error}")


def _late(name: str, patience: float) -> Finding:
    told = f"No answer within {patience:.0f} seconds."
    return Finding(name, "unknown", told, "See whether what it asks is overloaded, and try again.")


def _list_projects(services: Services, known: dict[int, Project]) -> None:
    """Note the projects Tandem knows by Label Studio's id: the newest of each."""
    for each in sorted(services.projects.all(), key=lambda project: project.created):
        known[each.label_studio_id] = each
