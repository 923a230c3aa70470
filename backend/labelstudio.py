"""The client of Label Studio's API: one method for each thing that Tandem asks of it.

Knows HTTP, the two kinds of keys and the traps of Label Studio 1.23; knows nothing of SQL, Redis or the learner.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import httpx

from backend.events import BadEvent, ProjectFacts, parse_project

PAGE = 1000
"""Tasks listed in one request: 0.3 s, and larger pages are no faster."""

LISTED = (
    "id,data,annotations,result,was_cancelled,ground_truth,updated_at,updated_by,lead_time,completed_by,"
    "parent_prediction,task"
)
"""Fields of a listed task and of its annotations: without its predictions a task costs a fourth of the time."""

IMPORT_BATCH = 1000
"""Tasks imported in one request; Label Studio sends them all in one webhook."""

UPLOAD_FILES = 100
"""Files in one upload request: Label Studio refuses more (DATA_UPLOAD_MAX_NUMBER_FILES)."""

UPLOAD_BYTES = 64 << 20
"""Bytes in one upload request: well under Label Studio's limit of 250 MB, and little enough to hold in memory."""

REFRESH_MARGIN = 60.0
"""Seconds before its end at which an access token (300 s) is replaced."""

RETRY_PAUSES = (0.2, 1.0)
"""Seconds before a GET that met a lost connection or a busy server is tried again."""

_BUSY = {502, 503, 504}


class LabelStudioError(Exception):
    """Label Studio refused something.

    Attributes
    ----------
    status
        HTTP status; 0 when there was no answer.
    message
        A sentence that says what was refused and, where that is known, what to change.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class LabelStudioUnreachable(LabelStudioError):  # noqa: N818 - reads as the sentence it carries
    """Label Studio did not answer."""

    def __init__(self, message: str) -> None:
        super().__init__(0, message)


@dataclass(frozen=True, slots=True)
class User:
    """The user whose key is used."""

    id: int
    email: str


@dataclass(frozen=True, slots=True)
class ProjectState:
    """A project and the settings of it that decide what annotators are asked and shown."""

    facts: ProjectFacts
    model_version: str
    sampling: str
    show_collab_predictions: bool


@dataclass(frozen=True, slots=True)
class Backend:
    """An ML backend of a project, as Label Studio found it a moment ago."""

    id: int
    project_id: int
    url: str
    title: str
    connected: bool
    auth_method: str
    auth_user: str


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook of a project."""

    id: int
    url: str
    headers: Mapping[str, str]
    is_active: bool
    send_payload: bool
    send_for_all_actions: bool


@dataclass(frozen=True, slots=True)
class View:
    """A tab of a project's Data Manager; `data` is all that it shows and how, as Label Studio keeps it."""

    id: int
    title: str
    data: dict[str, Any] = field(default_factory=dict, compare=False)


class LabelStudio:
    """A connection to one Label Studio; may be shared between threads.

    Parameters
    ----------
    url
        Address, with http:// or https://.
    api_key
        A legacy token, or a personal access token (exchanged for short-lived access tokens as needed).
    timeout
        Seconds to wait for an answer.

    Raises
    ------
    LabelStudioError
        From every method, when Label Studio refuses.
    LabelStudioUnreachable
        From every method, when there is no answer. Only GETs are tried again.
    """

    def __init__(self, url: str, api_key: str, timeout: float = 30.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise LabelStudioUnreachable(
                f"{url!r} is no address: set LABEL_STUDIO_URL to one with http:// or https://."
            )
        self.url = url.rstrip("/")
        self._api_key = api_key.strip()
        self._is_personal = _is_jwt(self._api_key)
        self._access = ""
        self._access_ends = 0.0
        self._lock = threading.Lock()
        try:
            self._http = httpx.Client(base_url=self.url, timeout=timeout)
        except httpx.InvalidURL as error:
            raise LabelStudioUnreachable(f"{url!r} is no address ({error}): correct LABEL_STUDIO_URL.") from error

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def authorization(self) -> dict[str, str]:
        """Return the header that authenticates a request now; it holds for at least half a minute."""
        if not self._api_key or not self._api_key.isascii():
            raise LabelStudioError(401, f"The API key is empty or has characters that no key has. {_NEW_KEY}")
        if not self._is_personal:
            return {"Authorization": f"Token {self._api_key}"}
        with self._lock:
            if time.time() >= self._access_ends:
                self._refresh()
            return {"Authorization": f"Bearer {self._access}"}

    def version(self) -> str:
        """Return Label Studio's release, for example ``1.23.2``."""
        return str(_mapping(self._get("/api/version")).get("release", ""))

    def whoami(self) -> User:
        """Return the user whose key is used."""
        told = _mapping(self._get("/api/current-user/whoami"))
        return User(_number(told.get("id")), str(told.get("email", "")))

    def projects(self) -> Iterator[ProjectState]:
        """Yield every project that the user may see."""
        page = 1
        while True:
            told = _mapping(self._get("/api/projects/", {"page": page, "page_size": 100}))
            yield from map(_project, _list(told.get("results")))
            if not told.get("next"):
                return
            page += 1

    def project(self, project_id: int) -> ProjectState:
        """Return one project."""
        return _project(self._get(f"/api/projects/{project_id}/"))

    def create_project(self, title: str, label_config: str) -> ProjectState:
        """Make a project; Label Studio wants three characters of title at least."""
        return _project(self._send("POST", "/api/projects/", {"title": title, "label_config": label_config}))

    def update_project(self, project_id: int, **fields: object) -> ProjectState:
        """Change fields of a project; Label Studio then sends PROJECT_UPDATED, to ourselves too."""
        return _project(self._send("PATCH", f"/api/projects/{project_id}/", fields))

    def upload(self, project_id: int, files: Iterable[Path | tuple[str, bytes]]) -> int:
        """Upload image files, each of which becomes a task.

        Label Studio puts eight random characters before each name, so files of one name, and a file that is uploaded
        again, become tasks of their own.

        Returns
        -------
        int
            Tasks made.
        """
        made = 0
        for batch in _upload_batches(files):
            with ExitStack() as opened:
                # A name of its own for each part: of parts with one name Label Studio keeps the last.
                parts: dict[str, tuple[str, bytes | BinaryIO]] = {}
                for number, file in enumerate(batch):
                    content = opened.enter_context(file.open("rb")) if isinstance(file, Path) else file[1]
                    parts[f"file{number}"] = (file.name if isinstance(file, Path) else file[0], content)
                told = self._json(self._request("POST", f"/api/projects/{project_id}/import", files=parts))
            made += _number(_mapping(told).get("task_count"))
        return made

    def upload_one(self, project_id: int, name: str, content: bytes) -> int:
        """Upload one image file, named `name`; return the id of the task it becomes."""
        told = self._json(
            self._request(
                "POST",
                f"/api/projects/{project_id}/import",
                params={"return_task_ids": "true"},
                files={"file": (name, content)},
            )
        )
        (task,) = _list(_mapping(told).get("task_ids"))
        return _number(task)

    def import_tasks(self, project_id: int, tasks: Sequence[Mapping[str, object]]) -> list[int]:
        """Import tasks, with their annotations where they have some.

        Parameters
        ----------
        project_id
            Where to.
        tasks
            Each ``{"data": {...}, "annotations": [...], "predictions": [...]}``, or the data alone.

        Returns
        -------
        list of int
            The new tasks' ids, in the order of `tasks`.
        """
        ids: list[int] = []
        for start in range(0, len(tasks), IMPORT_BATCH):
            batch = list(tasks[start : start + IMPORT_BATCH])
            told = self._send("POST", f"/api/projects/{project_id}/import", batch, {"return_task_ids": "true"})
            ids += [_number(item) for item in _list(_mapping(told).get("task_ids"))]
        return ids

    def tasks(self, project_id: int) -> Iterator[dict[str, Any]]:
        """Yield a project's tasks with their annotations, by ascending id, as `backend.events` reads them.

        A page starts after the last id of the page before, so that tasks which are made or deleted meanwhile shift
        none of the others.
        """
        last = 0
        while True:
            after = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
            query = {"ordering": ["tasks:id"], "filters": {"conjunction": "and", "items": [after]}}
            # `resolve_uri` would put presigned addresses, other ones each time, in place of s3:// and its like.
            params: dict[str, str | int] = {
                "project": project_id,
                "page_size": PAGE,
                "fields": "all",
                "include": LISTED,
                "resolve_uri": "false",
                "query": json.dumps(query),
            }
            page = [_mapping(item) for item in _list(_mapping(self._get("/api/tasks", params)).get("tasks"))]
            yield from page
            if len(page) < PAGE:
                return
            last = _number(page[-1].get("id"))

    def next_task(self, project_id: int) -> dict[str, Any] | None:
        """Return the task that Label Studio asks the user next, or None when none is left."""
        try:
            return _mapping(self._get(f"/api/projects/{project_id}/next/"))
        except LabelStudioError as error:
            if error.status == 404:
                return None
            raise

    def annotate(self, task_id: int, result: Sequence[Mapping[str, object]], lead_time: float | None = None) -> int:
        """Submit an annotation as an annotator does; return its id."""
        told = self._send("POST", f"/api/tasks/{task_id}/annotations/", {"result": result, "lead_time": lead_time})
        return _number(_mapping(told).get("id"))

    def annotation(self, annotation_id: int) -> dict[str, Any]:
        """Return an annotation as it stands."""
        return _mapping(self._get(f"/api/annotations/{annotation_id}/"))

    def update_annotation(self, annotation_id: int, **fields: object) -> None:
        """Change fields of an annotation."""
        self._send("PATCH", f"/api/annotations/{annotation_id}/", fields)

    def delete_annotation(self, annotation_id: int) -> None:
        """Delete an annotation."""
        self._send("DELETE", f"/api/annotations/{annotation_id}/")

    def import_predictions(self, project_id: int, predictions: Sequence[Mapping[str, object]]) -> int:
        """Import predictions, each ``{"task", "result", "score", "model_version"}``, in one request.

        Returns
        -------
        int
            How many were made: Label Studio drops those that do not fit the labeling configuration, and says so only
            in its log. One whose task is gone makes it refuse all of them (status 400).
        """
        told = self._send("POST", f"/api/projects/{project_id}/import/predictions", list(predictions))
        return _number(_mapping(told).get("created"))

    def model_versions(self, project_id: int) -> dict[str, int]:
        """Return how many predictions a project has of each version that has some."""
        told = _mapping(self._get(f"/api/projects/{project_id}/model-versions/"))
        # Label Studio counts the version that is shown too when it has none.
        return {version: _number(count) for version, count in told.items() if count}

    def delete_model_version(self, project_id: int, name: str) -> int:
        """Delete a version's predictions, without unsetting the version that the project shows.

        Label Studio unsets that when it is the title of a backend, whichever version is deleted; it is set again here.

        Returns
        -------
        int
            Predictions deleted.
        """
        shown = self.project(project_id).model_version
        told = self._send("DELETE", f"/api/projects/{project_id}/model-versions/", {"model_version": name})
        if shown not in {"", name} and self.project(project_id).model_version != shown:
            self.update_project(project_id, model_version=shown)
        return _number(_mapping(told).get("deleted_predictions"))

    def backends(self, project_id: int) -> list[Backend]:
        """Return a project's ML backends; Label Studio asks each for its health to answer this."""
        return [_backend(item) for item in _list(self._get("/api/ml", {"project": project_id}))]

    def add_backend(self, project_id: int, url: str, title: str, **fields: object) -> Backend:
        """Add an ML backend; Label Studio asks it for its health and sets it up to answer this."""
        return _backend(self._send("POST", "/api/ml", {"project": project_id, "url": url, "title": title, **fields}))

    def update_backend(self, backend: Backend, **fields: object) -> Backend:
        """Change fields of an ML backend; Label Studio asks it for its health and sets it up to answer this."""
        # Without the address Label Studio fails with 500.
        known = {"project": backend.project_id, "url": backend.url, "title": backend.title}
        return _backend(self._send("PATCH", f"/api/ml/{backend.id}", {**known, **fields}))

    def delete_backend(self, backend: Backend) -> None:
        """Remove an ML backend; its webhook stays, and a project version that is its title is unset."""
        self._send("DELETE", f"/api/ml/{backend.id}")

    def webhooks(self, project_id: int) -> list[Webhook]:
        """Return a project's webhooks."""
        return [_webhook(item) for item in _list(self._get("/api/webhooks/", {"project": project_id}))]

    def create_webhook(self, project_id: int, url: str, headers: Mapping[str, str]) -> Webhook:
        """Make a webhook that is sent every action with its payload."""
        body = {"project": project_id, "url": url, "headers": dict(headers), **_SENDS_ALL}
        return _webhook(self._send("POST", "/api/webhooks/", body))

    def update_webhook(self, webhook: Webhook, headers: Mapping[str, str]) -> Webhook:
        """Have a webhook sent every action with its payload and these headers."""
        body = {"url": webhook.url, "headers": dict(headers), **_SENDS_ALL}
        return _webhook(self._send("PATCH", f"/api/webhooks/{webhook.id}/", body))

    def delete_webhook(self, webhook: Webhook) -> None:
        """Remove a webhook."""
        self._send("DELETE", f"/api/webhooks/{webhook.id}/")

    def views(self, project_id: int) -> list[View]:
        """Return the tabs of a project's Data Manager; a project that no one has opened has none."""
        return [_view(item) for item in _list(self._get("/api/dm/views/", {"project": project_id}))]

    def create_view(self, project_id: int, title: str, **data: object) -> View:
        """Make a tab of the Data Manager."""
        return _view(self._send("POST", "/api/dm/views/", {"project": project_id, "data": {"title": title, **data}}))

    def order_views(self, project_id: int, views: Sequence[View]) -> None:
        """Put the tabs of a project in this order."""
        self._send("POST", "/api/dm/views/order/", {"project": project_id, "ids": [view.id for view in views]})

    def update_view(self, view: View, data: Mapping[str, object]) -> None:
        """Replace all that a tab shows and how."""
        self._send("PATCH", f"/api/dm/views/{view.id}/", {"data": dict(data)})

    def delete_predictions(self, task_id: int, name: str) -> None:
        """Delete the predictions that a task has of one version."""
        for told in _list(self._get("/api/predictions/", {"task": task_id})):
            item = _mapping(told)
            if item.get("model_version") == name:
                self._send("DELETE", f"/api/predictions/{_number(item.get('id'))}/")

    def _refresh(self) -> None:
        response = self._answer("POST", "/api/token/refresh/", json={"refresh": self._api_key})
        if response.status_code == 401:
            raise LabelStudioError(401, f"Label Studio refuses the personal access token. {_NEW_KEY}")
        self._access = str(_mapping(self._json(response)).get("access", ""))
        claims = _claims(self._access)
        lifetime = _number(claims.get("exp")) - _number(claims.get("iat"))
        # The lifetime, not `exp` itself: the two machines' clocks may differ. Wall time: it also passes in suspend.
        self._access_ends = time.time() + max(lifetime - REFRESH_MARGIN, 0.0)

    def _get(self, path: str, params: Mapping[str, str | int] | None = None) -> object:
        for pause in RETRY_PAUSES:
            try:
                return self._json(self._request("GET", path, params=params))
            except LabelStudioError as error:
                if error.status not in _BUSY and not isinstance(error, LabelStudioUnreachable):
                    raise
            time.sleep(pause)
        return self._json(self._request("GET", path, params=params))

    def _send(
        self, method: str, path: str, body: object = None, params: Mapping[str, str | int] | None = None
    ) -> object:
        return self._json(self._request(method, path, json=body, params=params))

    def _request(self, method: str, path: str, **content: Any) -> httpx.Response:
        response = self._answer(method, path, headers=self.authorization(), **content)
        if response.status_code == 401:
            raise LabelStudioError(401, _refused_key(_detail(response)))
        return response

    def _answer(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **content)
        except httpx.TimeoutException as error:
            raise LabelStudioUnreachable(
                f"Label Studio at {self.url} did not answer {method} {path} in time: see whether it is overloaded, or "
                "raise TANDEM_LABEL_STUDIO_TIMEOUT."
            ) from error
        except httpx.HTTPError as error:
            raise LabelStudioUnreachable(
                f"Label Studio at {self.url} can't be reached ({error}): start it, or correct LABEL_STUDIO_URL."
            ) from error

    def _json(self, response: httpx.Response) -> object:
        request = f"{response.request.method} {response.request.url.path}"
        if response.is_redirect:
            target = response.headers.get("location", "")
            raise LabelStudioError(
                response.status_code,
                f"Label Studio sends {request} on to {target}: set LABEL_STUDIO_URL to that.",
            )
        if response.is_error:
            raise LabelStudioError(
                response.status_code,
                f"Label Studio refused {request} with status {response.status_code}: {_detail(response)}",
            )
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise LabelStudioError(
                response.status_code,
                f"{self.url} answered {request} without JSON: is LABEL_STUDIO_URL right?",
            ) from error


_NEW_KEY = "Copy a key from Label Studio's Account & Settings into LABEL_STUDIO_API_KEY."

_SENDS_ALL = {"is_active": True, "send_payload": True, "send_for_all_actions": True, "actions": []}


def _refused_key(detail: str) -> str:
    if "legacy token" in detail:
        return (
            "Label Studio has legacy tokens switched off: make a personal access token under Account & Settings and "
            "use it as LABEL_STUDIO_API_KEY, or switch legacy tokens on under Organization, Access Token Settings."
        )
    return f"Label Studio refuses the API key ({detail}). {_NEW_KEY}"


def _upload_batches(files: Iterable[Path | tuple[str, bytes]]) -> Iterator[list[Path | tuple[str, bytes]]]:
    batch: list[Path | tuple[str, bytes]] = []
    size = 0
    for file in files:
        length = file.stat().st_size if isinstance(file, Path) else len(file[1])
        if batch and (len(batch) == UPLOAD_FILES or size + length > UPLOAD_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += length
    if batch:
        yield batch


def _is_jwt(key: str) -> bool:
    try:
        return bool(_claims(key))
    except LabelStudioError:
        return False


def _claims(token: str) -> dict[str, Any]:
    """Return what a JSON web token says, unverified: only its issuer can verify it."""
    parts = token.split(".")
    try:
        claims = (
            json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))) if len(parts) == 3 else None
        )
    except (ValueError, binascii.Error):
        claims = None
    return _mapping(claims)


def _detail(response: httpx.Response) -> str:
    """Return Label Studio's own words of what is wrong, at most a few lines of them."""
    try:
        told = response.json()
    except ValueError:
        return response.reason_phrase
    if not isinstance(told, dict):
        return str(told)[:1000]
    errors = told.get("validation_errors")
    words = [f"{field}: {problem}" for field, problem in errors.items()] if isinstance(errors, dict) else []
    return "; ".join(words or [str(told.get("detail", told))])[:1000]


def _project(told: object) -> ProjectState:
    item = _mapping(told)
    try:
        facts = parse_project(item)
    except BadEvent as error:
        raise LabelStudioError(200, f"Label Studio told of a project that can't be read: {error}") from error
    return ProjectState(
        facts=facts,
        model_version=str(item.get("model_version") or ""),
        sampling=str(item.get("sampling") or ""),
        show_collab_predictions=item.get("show_collab_predictions") is True,
    )


def _backend(told: object) -> Backend:
    item = _mapping(told)
    return Backend(
        id=_number(item.get("id")),
        project_id=_number(item.get("project")),
        url=str(item.get("url", "")),
        title=str(item.get("title") or ""),
        connected=item.get("state") == "CO",
        auth_method=str(item.get("auth_method") or "NONE"),
        auth_user=str(item.get("basic_auth_user") or ""),
    )


def _webhook(told: object) -> Webhook:
    item = _mapping(told)
    return Webhook(
        id=_number(item.get("id")),
        url=str(item.get("url", "")),
        headers={str(name): str(value) for name, value in _mapping(item.get("headers") or {}).items()},
        is_active=item.get("is_active") is True,
        send_payload=item.get("send_payload") is True,
        send_for_all_actions=item.get("send_for_all_actions") is True,
    )


def _view(told: object) -> View:
    item = _mapping(told)
    data = _mapping(item.get("data") or {})
    return View(_number(item.get("id")), str(data.get("title") or ""), data)


def _mapping(told: object) -> dict[str, Any]:
    if not isinstance(told, dict):
        raise _unexpected(told)
    return told


def _list(told: object) -> list[Any]:
    if not isinstance(told, list):
        raise _unexpected(told)
    return told


def _number(told: object) -> int:
    if not isinstance(told, int):
        raise _unexpected(told)
    return told


def _unexpected(told: object) -> LabelStudioError:
    return LabelStudioError(
        200, f"Label Studio answered {str(told)[:100]!r}, not what release 1.23 does: see whether its version fits."
    )
