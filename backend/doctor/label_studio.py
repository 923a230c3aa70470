"""Label Studio as a whole: whether it answers, takes the key, and tells the same time."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from functools import partial

import httpx

from backend.doctor.finding import ANSWER_SECONDS, Check, Finding, first_line
from backend.labelstudio import LabelStudioError, LabelStudioUnreachable
from backend.services import Services

CLOCK_SECONDS = 5.0
"""Difference of two clocks that is told; a little is the answer's way."""
TESTED = (1, 23)
"""Release of Label Studio from which on Tandem is tested."""


def checks(services: Services) -> list[dict[str, Check]]:
    """Return the checks by name, in groups that can be asked side by side."""
    group = {"label-studio": _label_studio, "api-key": _api_key, "clock": _clock}
    return [{name: partial(check, services) for name, check in group.items()}]


def _label_studio(services: Services) -> Finding:
    name, url = "label-studio", services.settings.label_studio_url.rstrip("/")
    mend = "Start it, or correct LABEL_STUDIO_URL."
    try:
        answer = _ask_version(url)
        told = answer.json() if answer.is_success else None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding(name, "broken", f"Label Studio does not answer at {url} ({first_line(error)}).", mend)
    except ValueError:
        told = None
    if answer.is_redirect:
        elsewhere = answer.headers.get("Location", "")
        told = f"{url} sends on to {elsewhere}."
        return Finding(name, "broken", told, "Set LABEL_STUDIO_URL to the address it sends to.")
    if not isinstance(told, dict) or "release" not in told:
        told = f"Another program answers at {url} (status {answer.status_code})."
        return Finding(name, "broken", told, mend)
    release = str(told["release"])
    if tuple(int(part) for part in release.split(".")[:2] if part.isdecimal()) < TESTED:
        told = f"Label Studio {release} answers at {url}; Tandem is tested from 1.23 on."
        return Finding(name, "warning", told, "Bring Label Studio up to date.")
    return Finding(name, "fine", f"Label Studio {release} answers at {url}.")


def _ask_version(url: str) -> httpx.Response:
    """Ask for what Label Studio tells anyone."""
    return httpx.get(f"{url}/api/version", timeout=ANSWER_SECONDS, trust_env=False)


def _api_key(services: Services) -> Finding:
    settings = services.settings
    if not settings.label_studio_api_key.get_secret_value():
        told = "There is no API key for Label Studio."
        return Finding("api-key", "broken", told, "Copy one from its Account & Settings into LABEL_STUDIO_API_KEY.")
    try:
        user = services.label_studio.whoami()
    except LabelStudioUnreachable:
        raise
    except LabelStudioError as error:
        # "What was refused: what to do." or "What was refused. What to do."
        told, mark, mend = str(error).partition(": ")
        if not mark:
            told, _, mend = str(error).partition(". ")
        return Finding("api-key", "broken", f"{told}.", mend[:1].upper() + mend[1:])
    return Finding("api-key", "fine", f"Label Studio takes the key, which is {user.email}'s.")


def _clock(services: Services) -> Finding:
    asked = time.time()
    told = _ask_version(services.settings.label_studio_url.rstrip("/")).headers.get("Date")
    if told is None:
        return Finding("clock", "fine", "Label Studio does not tell the time.")
    # The header has whole seconds, rounded down.
    difference = parsedate_to_datetime(told).timestamp() + 0.5 - (asked + time.time()) / 2
    if abs(difference) > CLOCK_SECONDS:
        side = "ahead of" if difference > 0 else "behind"
        told = f"Label Studio's clock is {abs(difference):.0f} seconds {side} ours."
        return Finding("clock", "warning", told, "Let both machines follow a time server (timedatectl set-ntp true).")
    return Finding("clock", "fine", "The clocks agree.")
