"""Review: what a reviewer decides reaches Label Studio whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.labelstudio import LabelStudioUnreachable
from backend.review import NoSuchClass, Overtaken, Unknown, confirm, correct, undo
from tests.parts import Classroom, make_services

Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def classroom(tmp_path: Path) -> Classroom:
    return Classroom(make_services(tmp_path))


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


def test_a_label_that_somebody_else_changed_is_left_alone(classroom: Classroom) -> None:
    annotation = classroom.annotate(1, "sad")
    server = LabelStudioOf(classroom, "angry")
    with pytest.raises(Overtaken, match="it says angry now"):
        correct(classroom.services, classroom.project, annotation, ["sad"], ["happy"], "ada")
    server.cancelled = True
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
