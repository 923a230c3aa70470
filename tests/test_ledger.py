"""The ledger: told twice, late or out of order, it says the same."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import sqlalchemy as sa

from backend.database import connect, migrate
from backend.events import (
    Annotation,
    AnnotationsDeleted,
    AnnotationsTold,
    ProjectFacts,
    ProjectTold,
    Task,
    TasksDeleted,
    TasksTold,
    parse_webhook,
)
from backend.ledger import Answer, Label, Ledger
from backend.projects import Projects

CONFIG = """<View><Image name="image" value="$image"/><Choices name="label" toName="image">
<Choice value="cat"/><Choice value="dog"/></Choices></View>"""
FACTS = ProjectFacts(2, 1795246825, "pets", CONFIG)
PAYLOADS = Path(__file__).parent / "payloads"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    url = f"sqlite:///{tmp_path / 'tandem.db'}"
    migrate(url)
    return Ledger(connect(url))


def task(task_id: int, image: str | None = None) -> Task:
    return Task(task_id, image or f"/data/upload/2/{task_id}.jpg", {})


def annotation(annotation_id: int, task_id: int, *labels: str, at: float = 1.0, **changes: object) -> Annotation:
    values: dict[str, object] = {
        "cancelled": False,
        "ground_truth": False,
        "machine_made": False,
        "completed_by": 1,
        "lead_time": 2.5,
        "prediction_version": None,
    }
    return Annotation(annotation_id, task_id, labels, updated_at=at, **(values | changes))  # type: ignore[arg-type]


def told(*annotations: Annotation) -> AnnotationsTold:
    return AnnotationsTold(FACTS, annotations, tuple(task(each.task_id) for each in annotations))


def labels(ledger: Ledger) -> dict[int, Answer]:
    return {annotation_id: label.label for annotation_id, label in ledger.in_force(1).items()}


def test_a_label_is_in_force_with_its_image_once_told(ledger: Ledger) -> None:
    result = ledger.tell(told(annotation(7, 3, "cat")))
    assert result.labels
    assert ledger.in_force(result.project.id) == {7: Label(7, 3, "/data/upload/2/3.jpg", "cat", completed_by=1)}


def test_a_repeated_event_changes_nothing(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "cat")))
    assert not ledger.tell(told(annotation(7, 3, "cat"))).labels
    assert ledger.position(1) == 1


def test_an_older_copy_does_not_undo_a_correction(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "dog", at=2.0)))
    ledger.tell(told(annotation(7, 3, "cat", at=1.0)))
    assert labels(ledger) == {7: "dog"}


def test_a_deleted_label_is_not_brought_back_by_a_late_copy(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "cat")))
    ledger.tell(AnnotationsDeleted(FACTS, (7,)))
    ledger.tell(told(annotation(7, 3, "cat", at=5.0)))
    assert labels(ledger) == {}


def test_what_label_studio_says_when_asked_brings_a_wrongly_deleted_label_back(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "cat")))
    ledger.tell(AnnotationsDeleted(FACTS, (7,)))
    ledger.tell(told(annotation(7, 3, "cat")), as_of=2e10)
    assert labels(ledger) == {7: "cat"}


def test_what_was_told_after_label_studio_was_asked_wins_over_the_answer(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "cat")))
    ledger.tell(AnnotationsDeleted(FACTS, (7,)))
    ledger.tell(told(annotation(7, 3, "cat", at=9.0)), as_of=1.0)
    assert labels(ledger) == {}


@pytest.mark.parametrize(
    ("standing", "which"),
    [
        ("skipped", annotation(7, 3, "cat", cancelled=True)),
        ("machine", annotation(7, 3, "cat", machine_made=True)),
        ("empty", annotation(7, 3)),
        ("several", annotation(7, 3, "cat", "dog")),
    ],
)
def test_what_is_nobodys_single_label_is_kept_but_not_learned(ledger: Ledger, standing: str, which: Annotation) -> None:
    assert not ledger.tell(told(which)).labels
    assert ledger.standing(1) == {standing: 1}
    assert ledger.position(1) == 0


def test_an_unskipped_annotation_is_learned_and_a_skipped_one_taken_back(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "cat", cancelled=True, at=1.0)))
    ledger.tell(told(annotation(7, 3, "cat", at=2.0)))
    assert labels(ledger) == {7: "cat"}
    ledger.tell(told(annotation(7, 3, "cat", cancelled=True, at=3.0)))
    assert labels(ledger) == {}


def test_a_ground_truth_star_is_no_new_label(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "cat")))
    assert not ledger.tell(told(annotation(7, 3, "cat", at=2.0, ground_truth=True))).labels
    assert ledger.position(1) == 1


def test_deleting_a_task_takes_its_labels_back(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "cat"), annotation(8, 4, "dog")))
    result = ledger.tell(TasksDeleted(FACTS, (3,)))
    assert result.labels
    assert labels(ledger) == {8: "dog"}
    assert ledger.known_tasks(1, 2e10) == {4}


def test_a_task_with_another_picture_takes_its_labels_along(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "cat")))
    result = ledger.tell(AnnotationsTold(FACTS, (), (task(3, "/data/upload/2/other.jpg"),)))
    assert result.labels
    assert ledger.in_force(1)[7].image == "/data/upload/2/other.jpg"
    assert ledger.since(1, 1).labels[7] == ledger.in_force(1)[7]


def test_a_new_task_with_the_id_of_one_that_is_gone_does_not_inherit_its_labels(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "cat")))
    result = ledger.tell(TasksTold(FACTS, (task(3, "/data/upload/2/other.jpg"),), with_annotations=False))
    assert result.labels
    assert ledger.in_force(1) == {}
    assert [task_id for task_id, _, _ in ledger.pool(1)] == [3]


SEVERAL = ProjectFacts(2, 1795246825, "pets", CONFIG.replace("<Choices", '<Choices choice="multiple"'))


def told_several(*annotations: Annotation, facts: ProjectFacts = SEVERAL) -> AnnotationsTold:
    return AnnotationsTold(facts, annotations, tuple(task(each.task_id) for each in annotations))


def test_where_several_can_be_chosen_the_set_is_the_label_whatever_the_order(ledger: Ledger) -> None:
    assert ledger.tell(told_several(annotation(7, 3, "dog", "cat"), annotation(8, 4, "dog"))).labels
    assert labels(ledger) == {7: ("cat", "dog"), 8: ("dog",)}
    assert not ledger.tell(told_several(annotation(7, 3, "cat", "dog", at=2.0))).labels
    assert ledger.position(1) == 2


def test_a_set_is_corrected_by_one_event_and_its_history_replays(ledger: Ledger) -> None:
    ledger.tell(told_several(annotation(7, 3, "dog", "cat")))
    ledger.tell(told_several(annotation(7, 3, "cat", at=2.0)))
    ledger.tell(told_several(annotation(7, 3, at=3.0)))
    ledger.tell(AnnotationsDeleted(SEVERAL, (7,)))
    at = [{key: label.label for key, label in ledger.in_force(1, position).items()} for position in range(5)]
    assert at == [{}, {7: ("cat", "dog")}, {7: ("cat",)}, {7: ()}, {}]
    assert ledger.since(1, 1).labels == {7: None}
    assert ledger.position(1) == 4
    assert ledger.in_force(1) == {}


def test_none_of_them_is_a_label_in_force_that_takes_the_task_from_the_pool(ledger: Ledger) -> None:
    ledger.tell(told_several(annotation(7, 3)))
    assert labels(ledger) == {7: ()}
    assert ledger.standing(1) == {"in force": 1}
    assert not ledger.has_pool(1)


@pytest.mark.parametrize(
    ("standing", "which"),
    [
        ("skipped", annotation(7, 3, cancelled=True)),
        ("machine", annotation(7, 3, machine_made=True)),
    ],
)
def test_what_no_person_answered_is_not_none_of_them(ledger: Ledger, standing: str, which: Annotation) -> None:
    assert not ledger.tell(told_several(which)).labels
    assert ledger.standing(1) == {standing: 1}


def test_where_one_must_be_chosen_none_is_no_label(ledger: Ledger) -> None:
    xml = SEVERAL.label_config.replace("<Choices", '<Choices required="true"')
    ledger.tell(told_several(annotation(7, 3), annotation(8, 4, "cat"), facts=ProjectFacts(2, 1795246825, "pets", xml)))
    assert labels(ledger) == {8: ("cat",)}
    assert ledger.standing(1) == {"empty": 1, "in force": 1}


def test_labels_told_before_several_could_be_chosen_become_sets_when_compared(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "cat"), annotation(8, 4, "cat", "dog")))
    assert labels(ledger) == {7: "cat"}
    assert ledger.tell(ProjectTold(SEVERAL)).config
    assert {key: label.names for key, label in ledger.in_force(1).items()} == {7: ("cat",)}
    ledger.tell(told_several(annotation(7, 3, "cat"), annotation(8, 4, "cat", "dog")), as_of=2e10)
    assert labels(ledger) == {7: ("cat",), 8: ("cat", "dog")}
    ledger.tell(told(annotation(7, 3, "cat"), annotation(8, 4, "cat", "dog")), as_of=3e10)
    assert labels(ledger) == {7: "cat"}


def test_a_set_stays_with_its_task_when_its_picture_is_another(ledger: Ledger) -> None:
    ledger.tell(told_several(annotation(7, 3, "dog", "cat")))
    ledger.tell(TasksTold(SEVERAL, (task(3),), with_annotations=False))
    other = AnnotationsTold(SEVERAL, (annotation(9, 4, "dog"),), (task(3, "/other.jpg"), task(4)))
    ledger.tell(other)
    expected = Label(7, 3, "/other.jpg", ("cat", "dog"), completed_by=1)
    assert ledger.in_force(1)[7] == ledger.in_force(1, 3)[7] == expected


def test_a_class_named_like_a_list_stays_a_name(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, '["cat"]')))
    ledger.tell(told_several(annotation(8, 4, '["cat"]', "Müde & froh")))
    assert labels(ledger) == {7: '["cat"]', 8: ("Müde & froh", '["cat"]')}


def test_the_pool_is_what_has_no_label(ledger: Ledger) -> None:
    ledger.tell(TasksTold(FACTS, (task(3), task(4), task(5)), with_annotations=False))
    ledger.tell(told(annotation(7, 3, "cat"), annotation(8, 4, "cat", cancelled=True)))
    assert [task_id for task_id, _, _ in ledger.pool(1)] == [4, 5]
    assert ledger.has_unshown_tasks(1)
    Projects(ledger.engine).note_shown(1, "tandem-v1", 1)
    ledger.note_shown(1, [4, 5], "tandem-v1")
    assert not ledger.has_unshown_tasks(1)
    Projects(ledger.engine).note_shown(1, "tandem-v2", 2)
    assert ledger.has_unshown_tasks(1)
    assert ledger.has_pool(1)


def test_another_class_is_an_event_and_another_title_is_none(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "cat")))
    assert not ledger.tell(ProjectTold(ProjectFacts(2, 1795246825, "animals", CONFIG))).config
    assert not ledger.tell(ProjectTold(ProjectFacts(2, 1795246825, "animals", CONFIG + "\n"))).config
    wider = CONFIG.replace('<Choice value="dog"/>', '<Choice value="dog"/><Choice value="bird"/>')
    assert ledger.tell(ProjectTold(ProjectFacts(2, 1795246825, "animals", wider))).config
    assert ledger.since(1, 1).config_changed
    assert ledger.position(1) == 2


def test_a_namesake_in_a_new_label_studio_is_another_project(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "cat")))
    other = ledger.tell(ProjectTold(ProjectFacts(2, 1895246825, "pets", CONFIG))).project
    assert other.id != 1
    assert ledger.in_force(other.id) == {}


def test_changes_tell_first_labels_from_corrections(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "cat")))
    ledger.tell(told(annotation(7, 3, "dog", at=2.0), annotation(8, 4, "dog")))
    changes = ledger.since(1, 1)
    assert changes.first_labels == {8}
    assert {key: label and label.label for key, label in changes.labels.items()} == {7: "dog", 8: "dog"}


def test_labels_at_an_older_position_are_those_of_then(ledger: Ledger) -> None:
    ledger.tell(told(annotation(7, 3, "cat")))
    ledger.tell(told(annotation(8, 4, "dog")))
    ledger.tell(told(annotation(7, 3, "dog", at=2.0)))
    ledger.tell(AnnotationsDeleted(FACTS, (8,)))
    at = [{key: label.label for key, label in ledger.in_force(1, position).items()} for position in range(5)]
    assert at == [{}, {7: "cat"}, {7: "cat", 8: "dog"}, {7: "dog", 8: "dog"}, {7: "dog"}]


def test_any_order_with_repeats_ends_at_the_same_labels(ledger: Ledger, tmp_path: Path) -> None:
    rng = random.Random(0)
    newest: dict[int, str] = {}
    story = []
    for at in range(60):
        annotation_id = rng.randrange(12)
        newest[annotation_id] = rng.choice(["cat", "dog"])
        story.append(told(annotation(annotation_id, annotation_id, newest[annotation_id], at=float(at))))
    for event in rng.sample(story + story, 120):
        ledger.tell(event)
    assert labels(ledger) == newest


def test_positions_have_no_gaps_and_history_replays_to_the_labels_in_force(ledger: Ledger) -> None:
    ledger.tell(told(*(annotation(each, each, "cat") for each in range(700))))
    ledger.tell(AnnotationsDeleted(FACTS, tuple(range(0, 700, 2))))
    with ledger.engine.connect() as connection:
        positions = connection.scalars(sa.text("SELECT position FROM events ORDER BY position")).all()
    assert positions == list(range(1, 1051))
    assert ledger.in_force(1) == ledger.in_force(1, 1050)
    assert len(ledger.in_force(1)) == 350


@pytest.mark.parametrize("path", sorted(PAYLOADS.glob("webhook_*.json")), ids=lambda path: path.stem)
def test_every_recorded_webhook_can_be_told_twice(ledger: Ledger, path: Path) -> None:
    recorded = json.loads(path.read_text())
    event = parse_webhook(recorded.get("json", recorded))
    assert event is not None
    ledger.tell(event)
    position = ledger.position(1)
    again = ledger.tell(event)
    assert not again.labels
    assert ledger.position(1) == position
