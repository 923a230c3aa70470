"""What the tabs list follows what is known, and who opens a doubted task is told why."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend import tabs
from backend.data_manager import LISTS, TABS
from backend.insight.doubts import Disagreement, Doubt, Said
from backend.labelstudio import LabelStudioError, View
from tests.parts import Classroom, make_services


@dataclass
class Screen:
    """What Label Studio shows, and what it was told."""

    tabs: list[View] = field(
        default_factory=lambda: [View(number, tab.title, tab.data()) for number, tab in enumerate(TABS, start=1)]
    )
    predictions: list[dict[str, Any]] = field(default_factory=list)
    refuses: bool = False
    writes: int = 0

    def views(self, project_id: int) -> list[View]:
        return list(self.tabs)

    def update_view(self, view: View, data: dict[str, Any]) -> None:
        self.writes += 1
        self.tabs = [View(each.id, each.title, data) if each.id == view.id else each for each in self.tabs]

    def import_predictions(self, project_id: int, predictions: list[dict[str, Any]]) -> int:
        if self.refuses:
            raise LabelStudioError(400, "a task is gone")
        self.predictions += predictions
        return len(predictions)

    def delete_predictions(self, task_id: int, name: str) -> None:
        kept = [each for each in self.predictions if (each["task"], each["model_version"]) != (task_id, name)]
        assert len(kept) == len(self.predictions) - 1
        self.predictions = kept

    def close(self) -> None: ...

    def listed(self, title: str) -> list[str]:
        (data,) = (view.data for view in self.tabs if view.title == title)
        return [str(item["value"]) for item in data["filters"]["items"]]

    def questions(self) -> list[tuple[int, str]]:
        return [(each["task"], each["model_version"]) for each in self.predictions]


@dataclass
class Room:
    """A project, what is known of it, and its screen."""

    classroom: Classroom
    screen: Screen
    doubted: list[Doubt] = field(default_factory=list)
    disputed: list[Disagreement] = field(default_factory=list)
    ambiguous: list[int] = field(default_factory=list)
    novel: list[int] = field(default_factory=list)

    def renew(self) -> None:
        tabs.renew(self.classroom.services, self.classroom.project.id)

    def is_due(self) -> bool:
        services = self.classroom.services
        return tabs.are_due(services, services.projects.get(self.classroom.project.id))


def doubt(task: int, suggested: str = "happy", odds: float = 30.0) -> Doubt:
    return Doubt(task, Said(100 + task, ("sad",), 1, 0.0), suggested, odds, f"looks like {suggested}")


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    services = make_services(tmp_path, show_keep=0.0)
    room = Room(Classroom(services), Screen())

    @contextmanager
    def lock(kind: str, project_id: int) -> Iterator[None]:
        yield

    def queue(services: Any, project: Any, kind: str, size: int) -> Any:
        return SimpleNamespace(tasks=[SimpleNamespace(task=each) for each in getattr(room, kind)[:size]])

    monkeypatch.setattr(services.jobs, "lock", lock)
    monkeypatch.setattr(tabs, "queue", queue)
    monkeypatch.setattr(
        tabs, "doubts", lambda services, project: SimpleNamespace(doubts=room.doubted, disagreements=room.disputed)
    )
    monkeypatch.setitem(services.__dict__, "label_studio", room.screen)
    yield room
    services.close()


def test_each_tab_lists_what_is_known_now(room: Room) -> None:
    room.doubted = [doubt(4)]
    room.disputed = [Disagreement(6, (Said(61, ("sad",), 1, 0.0), Said(62, ("happy",), 2, 0.0)))]
    room.ambiguous, room.novel = [7, 8], [9]
    room.renew()
    assert [room.screen.listed(title) for title in LISTS] == [["104"], ["7", "8"], ["9"], ["61"]]
    room.ambiguous = []
    room.renew()
    assert room.screen.listed("Ambiguous") == ["0"]


def test_a_tab_that_somebody_deleted_stays_away(room: Room) -> None:
    room.screen.tabs = [view for view in room.screen.tabs if view.title != "Novel"]
    room.novel = [9]
    room.renew()
    assert "Novel" not in [view.title for view in room.screen.tabs]


def test_where_nothing_changed_nothing_is_written(room: Room) -> None:
    room.doubted, room.novel = [doubt(4)], [9]
    room.renew()
    writes, predictions = room.screen.writes, list(room.screen.predictions)
    room.renew()
    assert (room.screen.writes, room.screen.predictions) == (writes, predictions)


def test_a_doubted_task_is_told_what_speaks_against_its_label_and_why(room: Room) -> None:
    room.doubted = [doubt(4)]
    room.renew()
    (told,) = room.screen.predictions
    config = room.classroom.project.config
    assert config is not None
    assert (told["task"], told["model_version"]) == (4, "Look again: happy?")
    assert config.labels(told["result"]) == ("happy",)
    assert [region["value"]["text"] for region in told["result"][1:]] == [["looks like happy"]]
    assert told["score"] == pytest.approx(30 / 31, abs=1e-4)


def test_classes_that_overlap_are_no_reason_to_look_again(room: Room) -> None:
    room.doubted = [doubt(4, odds=tabs.LEAST_ODDS), doubt(5, odds=tabs.LEAST_ODDS - 0.1)]
    room.renew()
    assert room.screen.listed("Look again") == ["104"]
    assert room.screen.questions() == [(4, "Look again: happy?")]


def test_a_question_that_is_answered_goes_and_a_new_one_comes(room: Room) -> None:
    room.doubted = [doubt(4), doubt(5)]
    room.renew()
    room.doubted = [doubt(5), doubt(6, "angry")]
    room.renew()
    assert sorted(room.screen.questions()) == [(5, "Look again: happy?"), (6, "Look again: angry?")]


def test_an_answered_question_stays_as_long_as_somebody_may_have_it_open(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.classroom.services.settings, "show_keep", 3600.0)
    room.doubted = [doubt(4)]
    room.renew()
    room.doubted = []
    room.renew()
    assert room.screen.questions() == [(4, "Look again: happy?")]
    assert room.screen.listed("Look again") == ["0"]
    later = time.time() + 3601
    monkeypatch.setattr(time, "time", lambda: later)
    room.renew()
    assert room.screen.questions() == []


def test_what_cannot_be_chosen_any_more_is_not_suggested(room: Room) -> None:
    room.doubted = [doubt(4, "tired")]
    room.renew()
    assert room.screen.questions() == []


def test_a_task_that_is_gone_asks_for_a_comparison_and_the_tabs_are_tried_again(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(room.classroom.services.jobs, "ask", lambda kind, project_id: asked.append(kind))
    room.classroom.services.projects.note_shown(room.classroom.project.id, "tandem-v0", 0)
    room.doubted, room.screen.refuses = [doubt(4)], True
    with pytest.raises(LabelStudioError):
        room.renew()
    assert asked == ["sync"]
    assert room.is_due()


def test_the_tabs_are_due_when_something_changed_and_some_time_passed(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not room.is_due()
    room.classroom.services.projects.note_shown(room.classroom.project.id, "tandem-v0", 0)
    assert room.is_due()
    room.renew()
    assert not room.is_due()
    room.classroom.annotate(1)
    assert not room.is_due()
    later = time.time() + tabs.LEAST_PAUSE
    monkeypatch.setattr(time, "time", lambda: later)
    assert room.is_due()
    room.renew()
    later += tabs.LEAST_PAUSE
    assert not room.is_due()
