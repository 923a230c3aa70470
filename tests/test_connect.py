"""Connecting a project of a real Label Studio to a backend that records what it is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from backend.connect import SAMPLING, TITLE, connect
from backend.data_manager import LISTS, TABS
from backend.label_config import UnusableConfig, parse_label_config
from backend.labelstudio import LabelStudio, LabelStudioError, View
from backend.settings import Settings
from tests.recording import RecordingBackend, recording_backend

if TYPE_CHECKING:
    from tests import conftest

CONFIG_XML = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)
CONFIG = parse_label_config(CONFIG_XML)
TEXT_XML = (
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text"><Choice value="a"/></Choices></View>'
)
BEARER = {"Authorization": "Bearer s3cret"}

pytestmark = pytest.mark.servers


@pytest.fixture
def client(label_studio: conftest.LabelStudio) -> Iterator[LabelStudio]:
    with LabelStudio(label_studio.url, label_studio.api_key, timeout=60) as client:
        yield client


@pytest.fixture
def backend() -> Iterator[RecordingBackend]:
    with recording_backend("s3cret") as backend:
        yield backend


@pytest.fixture
def title() -> str:
    return f"connect {time.time_ns()}"


def settings(url: str, secret: str = "s3cret") -> Settings:
    return Settings(public_url=url, secret=secret, _env_file=None)  # type: ignore[call-arg]


def everything(client: LabelStudio, project: int) -> tuple[Any, ...]:
    """Return all that connecting may change."""
    return client.project(project), client.backends(project), client.webhooks(project), client.views(project)


def test_a_project_is_made_and_connected(client: LabelStudio, backend: RecordingBackend, title: str) -> None:
    connected = connect(settings(backend.url), client, title=title, label_config=CONFIG_XML)
    assert connected.made
    assert connected.notes == ()
    state, backends, webhooks, views = everything(client, connected.project.facts.id)
    assert (state.sampling, state.show_collab_predictions, state.model_version) == (SAMPLING, True, TITLE)
    assert backends == [connected.backend]
    assert (backends[0].url, backends[0].title, backends[0].connected) == (backend.url, TITLE, True)
    assert (backends[0].auth_method, backends[0].auth_user) == ("BASIC_AUTH", "label-studio")
    assert [(webhook.url, webhook.headers) for webhook in webhooks] == [(f"{backend.url}/webhook", BEARER)]
    assert [view.title for view in views] == [tab.title for tab in TABS] + ["Default"]


def test_connecting_again_changes_nothing_and_tells_nothing(
    client: LabelStudio, backend: RecordingBackend, title: str
) -> None:
    first = connect(settings(backend.url), client, title=title, label_config=CONFIG_XML)
    before = everything(client, first.project.facts.id)
    backend.requests.clear()
    again = connect(settings(backend.url + "/"), client, title=title, label_config=CONFIG_XML)
    assert not again.made
    assert everything(client, first.project.facts.id) == before
    assert backend.heard() == []


def test_every_event_and_question_carries_the_secret(
    client: LabelStudio, backend: RecordingBackend, title: str
) -> None:
    connected = connect(settings(backend.url), client, title=title, label_config=CONFIG_XML)
    project = connected.project.facts.id
    (task,) = client.import_tasks(project, [{"data": {"image": "a.png"}}])
    client.annotate(task, CONFIG.result("cat"))
    train = f"{client.url}/api/ml/{connected.backend.id}/train"
    httpx.post(train, json={}, headers=client.authorization()).raise_for_status()
    assert backend.heard()[-3:] == ["TASKS_CREATED", "ANNOTATION_CREATED", "START_TRAINING"]
    assert [request for request in backend.requests if backend.refuses(request.authorization)] == []


def test_the_tab_lists_what_is_unlabelled_least_certain_first(
    client: LabelStudio, backend: RecordingBackend, title: str
) -> None:
    connected = connect(settings(backend.url), client, title=title, label_config=CONFIG_XML)
    project = connected.project.facts.id
    ids = client.import_tasks(project, [{"data": {"image": f"{number}.png"}} for number in range(4)])
    scores = dict(zip(ids, [0.7, 0.2, 0.9, 0.4], strict=True))
    client.import_predictions(
        project, [{"task": task, "result": [], "score": s, "model_version": "v"} for task, s in scores.items()]
    )
    client.update_project(project, model_version="v")
    client.annotate(ids[3], CONFIG.result("cat"))
    address = f"{client.url}/api/tasks?view={connected.views[0].id}&project={project}"
    listed = httpx.get(address, headers=client.authorization()).json()["tasks"]
    assert [(task["id"], task["predictions_score"]) for task in listed] == [(ids[1], 0.2), (ids[0], 0.7), (ids[2], 0.9)]


def listed(client: LabelStudio, view: View) -> list[int]:
    answer = httpx.get(f"{client.url}/api/tasks?view={view.id}", headers=client.authorization()).raise_for_status()
    return [task["id"] for task in answer.json()["tasks"]]


def test_label_studio_lists_the_tasks_that_a_tab_names(
    client: LabelStudio, backend: RecordingBackend, title: str
) -> None:
    connected = connect(settings(backend.url), client, title=title, label_config=CONFIG_XML)
    project = connected.project.facts.id
    ids = client.import_tasks(project, [{"data": {"image": f"{number}.png"}} for number in range(4)])
    annotation = client.annotate(ids[3], CONFIG.result("cat"))
    for view in connected.views[1:]:
        assert listed(client, view) == []
        tab = LISTS[view.title]
        data = tab.listing(view.data, [annotation] if tab.lists == "annotations" else [ids[2], ids[0]])
        assert data is not None
        client.update_view(view, data)
        assert sorted(listed(client, view)) == ([ids[3]] if tab.lists == "annotations" else [ids[0], ids[2]])
    assert [view.title for view in client.views(project)] == [tab.title for tab in TABS] + ["Default"]


def test_a_tab_that_was_deleted_comes_back_and_what_a_user_changed_or_made_stays(
    client: LabelStudio, backend: RecordingBackend, title: str
) -> None:
    project = client.create_project(title, CONFIG_XML).facts.id
    mine = client.create_view(project, "Mine", type="list", target="tasks")
    connected = connect(settings(backend.url), client, project=project)
    assert [view.title for view in client.views(project)] == [tab.title for tab in TABS] + ["Mine"]
    ask_next, novel = connected.views[0], connected.views[3]
    client.update_view(ask_next, ask_next.data | {"ordering": ["-tasks:id"]})
    client.order_views(project, [mine, *connected.views])
    httpx.delete(f"{client.url}/api/dm/views/{novel.id}/", headers=client.authorization()).raise_for_status()
    connect(settings(backend.url), client, project=project)
    views = client.views(project)
    assert [view.title for view in views] == ["Mine", "Ask next", "Novel", "Look again", "Ambiguous", "Disagreements"]
    assert views[1].data["ordering"] == ["-tasks:id"]


def test_what_it_passes_over_is_told(client: LabelStudio, backend: RecordingBackend, title: str) -> None:
    more = '<Choices name="light" toName="image"><Choice value="dim"/></Choices></View>'
    connected = connect(settings(backend.url), client, title=title, label_config=CONFIG_XML.replace("</View>", more))
    assert connected.notes == ("Tandem learns what is chosen in 'label'; 'light' is left to people.",)


def test_a_project_is_taken_by_its_number_with_what_it_shows_left_as_it_is(
    client: LabelStudio, backend: RecordingBackend, title: str
) -> None:
    project = client.create_project(title, CONFIG_XML).facts.id
    (task,) = client.import_tasks(project, [{"data": {"image": "a.png"}}])
    client.import_predictions(project, [{"task": task, "result": [], "score": 0.5, "model_version": "v7"}])
    client.update_project(project, model_version="v7")
    connected = connect(settings(backend.url), client, project=project)
    assert not connected.made
    assert connected.project.model_version == "v7"


def test_webhooks_of_ours_are_made_one_and_others_are_left_alone(
    client: LabelStudio, backend: RecordingBackend, title: str
) -> None:
    project = client.create_project(title, CONFIG_XML).facts.id
    other = client.create_webhook(project, "http://127.0.0.1:1/other", {})
    client.create_webhook(project, "http://127.0.0.1:1/webhook", BEARER)  # an earlier address of ours
    for _ in range(2):
        client.create_webhook(project, f"{backend.url}/webhook", {})
    connected = connect(settings(backend.url), client, project=project)
    assert client.webhooks(project) == [other, connected.webhook]
    assert connected.webhook.headers == BEARER


def test_a_backend_that_was_connected_by_hand_is_made_ours(
    client: LabelStudio, backend: RecordingBackend, title: str
) -> None:
    backend.secret = ""
    project = client.create_project(title, CONFIG_XML).facts.id
    by_hand = [client.add_backend(project, backend.url, "mine") for _ in range(2)]
    backend.secret = "s3cret"
    connected = connect(settings(backend.url), client, project=project)
    assert connected.backend.id == by_hand[0].id
    assert client.backends(project) == [connected.backend]
    assert client.project(project).model_version == TITLE
    assert [webhook.headers for webhook in client.webhooks(project)] == [BEARER]


def test_a_tandem_that_moved_takes_its_backend_along(client: LabelStudio, title: str) -> None:
    with recording_backend() as old:
        first = connect(settings(old.url, ""), client, title=title, label_config=CONFIG_XML)
    with recording_backend("s3cret") as new:
        moved = connect(settings(new.url), client, title=title)
        assert moved.backend.id == first.backend.id
        project = first.project.facts.id
        assert [backend.url for backend in client.backends(project)] == [new.url]
        assert [webhook.url for webhook in client.webhooks(project)] == [f"{new.url}/webhook"]


def test_without_a_secret_none_is_sent(client: LabelStudio, title: str) -> None:
    with recording_backend() as backend:
        connected = connect(settings(backend.url, ""), client, title=title, label_config=CONFIG_XML)
        assert connected.webhook.headers == {}
        assert connected.backend.auth_method == "NONE"
        assert {request.authorization for request in backend.requests} == {None}


def test_an_older_backend_of_another_kind_is_named(client: LabelStudio, backend: RecordingBackend, title: str) -> None:
    project = client.create_project(title, CONFIG_XML).facts.id
    with recording_backend() as other:
        client.add_backend(project, other.url, "older")
        connected = connect(settings(backend.url), client, project=project)
    assert "'older'" in connected.notes[0]


def test_a_project_that_can_not_be_learned_is_refused_before_anything_is_made(
    client: LabelStudio, backend: RecordingBackend, title: str
) -> None:
    with pytest.raises(UnusableConfig):
        connect(settings(backend.url), client, title=title, label_config=TEXT_XML)
    assert title not in [state.facts.title for state in client.projects()]
    project = client.create_project(title, TEXT_XML).facts.id
    with pytest.raises(UnusableConfig):
        connect(settings(backend.url), client, project=project)
    assert client.webhooks(project) == client.backends(project) == []


def test_a_tandem_that_is_not_running_leaves_nothing_behind(client: LabelStudio, title: str) -> None:
    project = client.create_project(title, CONFIG_XML).facts.id
    with pytest.raises(LabelStudioError, match="start Tandem, or set TANDEM_PUBLIC_URL"):
        connect(settings("http://127.0.0.1:1"), client, project=project)
    assert client.webhooks(project) == client.backends(project) == []


def test_a_secret_that_tandem_does_not_know_is_told(client: LabelStudio, title: str) -> None:
    with recording_backend("another") as backend, pytest.raises(LabelStudioError, match="same TANDEM_SECRET"):
        connect(settings(backend.url), client, title=title, label_config=CONFIG_XML)


def test_an_address_that_label_studio_refuses_is_told_with_the_settings_to_change(
    client: LabelStudio, title: str
) -> None:
    with pytest.raises(LabelStudioError, match=r"private address .*USER_ADDITIONAL_BANNED_SUBNETS=169.254.0.0/16"):
        connect(settings("http://169.254.7.7:9090"), client, title=title, label_config=CONFIG_XML)


def test_a_project_that_is_not_there_is_told_with_those_that_are(
    client: LabelStudio, backend: RecordingBackend, title: str
) -> None:
    known = client.create_project(title, CONFIG_XML).facts.id
    with pytest.raises(LabelStudioError, match=rf"no project 999999 .*{known} \({title}\)"):
        connect(settings(backend.url), client, project=999999)
    with pytest.raises(LabelStudioError, match="give a labeling configuration"):
        connect(settings(backend.url), client, title="nobody made this")
    with pytest.raises(LabelStudioError, match="which project"):
        connect(settings(backend.url), client)


def test_an_address_to_listen_on_is_none_to_call(client: LabelStudio) -> None:
    everywhere = Settings(web_host="0.0.0.0", public_url="", _env_file=None)  # type: ignore[call-arg]
    with pytest.raises(LabelStudioError, match="set TANDEM_PUBLIC_URL"):
        connect(everywhere, client, project=1)
