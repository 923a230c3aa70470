"""Review: what a reviewer decides reaches Label Studio whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from pydantic import SecretStr

from backend.events import ProjectTold
from backend.label_config import parse_label_config
from backend.labelstudio import LabelStudio, LabelStudioUnreachable
from backend.reconcile import reconcile
from backend.review import NoSuchClass, Overtaken, Unknown, confirm, correct, undo
from tests import conftest
from tests.parts import CONFIG, Classroom, make_services

Answer = Callable[[httpx.Request], httpx.Response]


class LabelStudioOf:
    """One annotation as Label Studio has it; what is asked of it is kept."""

    def __init__(self, classroom: Classroom, *labels: str) -> None:
        self.result: list[dict[str, Any]] = [
            {"id": "note", "from_name": "note", "to_name": "image", "type": "textarea", "value": {"text": ["mine"]}},
            {
                "id": "tandem-1",
                "from_name": "expression",
                "to_name": "image",
                "type": "choices",
                "score": 0.7,
                "value": {"choices": list(labels)},
            },
        ]
        config = classroom.project.config
        assert config is not None
        self.result[1]["from_name"] = config.from_name
        self.cancelled = False
        self.gone = False
        self.requests: list[httpx.Request] = []
        client = classroom.services.label_studio
        client._http = httpx.Client(base_url=client.url, transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.gone:
            return httpx.Response(404, json={"detail": "No Annotation matches the given query."})
        if request.method == "PATCH":
            self.result = json.loads(request.content)["result"]
        return httpx.Response(200, json={"id": 1, "result": self.result, "was_cancelled": self.cancelled})

    @property
    def changes(self) -> int:
        return sum(request.method == "PATCH" for request in self.requests)

    @property
    def choices(self) -> list[str]:
        (region,) = [region for region in self.result if region["type"] == "choices"]
        named: list[str] = region["value"]["choices"]
        return named


def test_a_correction_changes_the_choice_and_nothing_else(classroom: Classroom) -> None:
    annotation = classroom.annotate(1, "sad")
    server = LabelStudioOf(classroom, "sad")
    note = server.result[0]
    review = correct(classroom.services, classroom.project, annotation, ["sad"], ["happy"], "ada")
    assert server.choices == ["happy"]
    assert server.result[0] == note
    # The probability was that of the other class.
    assert "score" not in server.result[1]
    assert json.loads(server.requests[-1].content).keys() == {"result"}
    assert (review.before, review.after, review.who, review.task_id) == (("sad",), ("happy",), "ada", 1)


def test_a_correction_that_is_taken_back_leaves_the_annotation_as_it_was(classroom: Classroom) -> None:
    annotation = classroom.annotate(1, "sad")
    server = LabelStudioOf(classroom, "sad")
    before = json.loads(json.dumps(server.result))
    review = correct(classroom.services, classroom.project, annotation, ["sad"], ["happy"], "ada")
    undo(classroom.services, classroom.project, review.id, "grace")
    assert server.result == before
    assert classroom.services.reviews.newest(1, 10) == []
    with pytest.raises(Unknown, match="taken back already"):
        undo(classroom.services, classroom.project, review.id, "grace")


def test_a_label_that_somebody_else_changed_is_left_alone_and_looked_for(
    classroom: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(classroom.services.jobs, "ask", lambda *work: asked.append(work))
    annotation = classroom.annotate(1, "sad")
    server = LabelStudioOf(classroom, "angry")
    with pytest.raises(Overtaken, match="it says angry now"):
        correct(classroom.services, classroom.project, annotation, ["sad"], ["happy"], "ada")
    server.cancelled = True
    assert asked == [("sync", classroom.project.id)]
    with pytest.raises(Overtaken, match="it was skipped"):
        correct(classroom.services, classroom.project, annotation, ["sad"], ["happy"], "ada")
    assert server.changes == 0
    assert classroom.services.reviews.newest(1, 10) == []


def test_a_correction_that_was_overtaken_is_not_taken_back(classroom: Classroom) -> None:
    annotation = classroom.annotate(1, "sad")
    server = LabelStudioOf(classroom, "sad")
    review = correct(classroom.services, classroom.project, annotation, ["sad"], ["happy"], "ada")
    server.result[1]["value"] = {"choices": ["angry"]}
    with pytest.raises(Overtaken):
        undo(classroom.services, classroom.project, review.id, "ada")
    assert server.choices == ["angry"]
    assert classroom.services.reviews.newest(1, 10) == [review]


def test_a_label_that_is_gone_is_said_to_be(classroom: Classroom) -> None:
    annotation = classroom.annotate(1, "sad")
    LabelStudioOf(classroom, "sad").gone = True
    with pytest.raises(Unknown, match="no longer in Label Studio"):
        correct(classroom.services, classroom.project, annotation, ["sad"], ["happy"], "ada")
    with pytest.raises(Unknown, match="gone"):
        correct(classroom.services, classroom.project, 999, ["sad"], ["happy"], "ada")
    with pytest.raises(Unknown, match="gone"):
        confirm(classroom.services, classroom.project, 999, ["sad"], "ada")


@pytest.mark.parametrize("label", [[], ["no such class"], ["sad", "happy"], ["happy", "no such class"]])
def test_only_a_class_of_the_project_can_be_chosen(classroom: Classroom, label: list[str]) -> None:
    annotation = classroom.annotate(1, "sad")
    server = LabelStudioOf(classroom, "sad")
    with pytest.raises(NoSuchClass, match="Choose one of"):
        correct(classroom.services, classroom.project, annotation, ["sad"], label, "ada")
    assert server.requests == []


def test_without_label_studio_nothing_is_decided(classroom: Classroom) -> None:
    annotation = classroom.annotate(1, "sad")
    with pytest.raises(LabelStudioUnreachable):
        correct(classroom.services, classroom.project, annotation, ["sad"], ["happy"], "ada")
    assert classroom.services.reviews.newest(1, 10) == []


def test_a_confirmation_needs_no_label_studio_and_holds_for_what_was_seen(classroom: Classroom) -> None:
    annotation = classroom.annotate(1, "sad")
    with pytest.raises(Overtaken, match="it says sad now"):
        confirm(classroom.services, classroom.project, annotation, ["happy"], "ada")
    review = confirm(classroom.services, classroom.project, annotation, ["sad"], "ada")
    assert review.confirmed
    assert classroom.services.reviews.settled(1) == {(1, ("sad",))}
    undo(classroom.services, classroom.project, review.id, "ada")
    assert classroom.services.reviews.settled(1) == set()


@pytest.mark.servers
def test_label_studio_has_the_correction_as_an_update_of_the_same_annotation(
    tmp_path: Path, valkey: str, label_studio: conftest.LabelStudio
) -> None:
    redis.Redis.from_url(valkey).flushall()
    services = make_services(
        tmp_path, valkey, label_studio_url=label_studio.url, label_studio_api_key=SecretStr(label_studio.api_key)
    )
    with closing(services), LabelStudio(label_studio.url, label_studio.api_key) as client:
        facts = client.create_project("Review", CONFIG).facts
        first, second = client.import_tasks(facts.id, [{"data": {"image": "http://127.0.0.1:1/x.png"}}] * 2)
        config = parse_label_config(CONFIG)
        note = {
            "from_name": "note",
            "to_name": "image",
            "type": "textarea",
            "id": "n",
            "value": {"text": ["odd light"]},
        }
        given = client.annotate(first, [*config.result("sad"), note], lead_time=4.5)
        other = client.annotate(second, config.result("happy"), lead_time=1.0)
        project = services.ledger.tell(ProjectTold(facts)).project
        reconcile(services, project.id)
        before = client.annotation(given)

        review = correct(services, project, given, ["sad"], ["angry"], "ada")
        after = client.annotation(given)
        assert config.labels(after["result"]) == ("angry",)
        assert note in after["result"]
        kept = ("id", "task", "completed_by", "lead_time", "created_at", "ground_truth", "was_cancelled")
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        reconcile(services, project.id)
        assert {label.label for label in services.ledger.in_force(project.id).values()} == {"angry", "happy"}

        undo(services, project, review.id, "ada")
        assert client.annotation(given)["result"] == before["result"]

        confirm(services, project, other, ["happy"], "ada")
        unchanged = client.annotation(other)
        assert (unchanged["ground_truth"], config.labels(unchanged["result"])) == (False, ("happy",))

        client.update_annotation(given, result=config.result("surprise"))
        with pytest.raises(Overtaken, match="it says surprise now"):
            correct(services, project, given, ["angry"], ["happy"], "ada")
        client.delete_annotation(given)
        with pytest.raises(Unknown, match="no longer in Label Studio"):
            correct(services, project, given, ["angry"], ["happy"], "ada")
        reconcile(services, project.id)
        assert [label.label for label in services.ledger.in_force(project.id).values()] == ["happy"]
