"""Label Studio's JSON, as it was recorded and as anyone might forge it, read into dataclasses."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.events import (
    Annotation,
    AnnotationsDeleted,
    AnnotationsTold,
    BadEvent,
    ProjectTold,
    Task,
    TasksDeleted,
    TasksTold,
    TrainingAsked,
    parse_annotation,
    parse_predict,
    parse_project,
    parse_setup,
    parse_task,
    parse_task_with_annotations,
    parse_webhook,
)
from backend.label_config import LabelConfig

PAYLOADS = Path(__file__).parent / "payloads"
WEBHOOKS = sorted(path.stem for path in PAYLOADS.glob("*_POST_webhook_*.json"))
PREDICTS = sorted(path.stem for path in PAYLOADS.glob("*_POST_predict.json"))
CONFIG = LabelConfig("label", "image", "image", ("cat", "dog", "bird"), multiple=False)
TASK = {"id": 7, "data": {"image": "a.png"}}
ANNOTATION = {"id": 1, "task": 7, "result": [], "updated_at": "2026-11-21T07:42:14.172889Z"}


def recorded(name: str) -> Any:
    """Return the body of a recorded request."""
    return json.loads((PAYLOADS / f"{name}.json").read_text())["json"]


def told(name: str) -> AnnotationsTold:
    event = parse_webhook(recorded(name))
    assert isinstance(event, AnnotationsTold)
    return event


@pytest.mark.parametrize("name", WEBHOOKS)
def test_every_recorded_webhook_is_understood(name: str) -> None:
    event = parse_webhook(recorded(name))
    assert event is not None
    assert event.project.id == 2 or "static_headers" in name or "multiple" in name
    assert event.project.label_config.startswith("<View>")


def test_an_annotation_is_told_with_its_label_its_time_and_what_the_annotator_saw() -> None:
    event = told("webhook_annotation_created__0_POST_webhook_ANNOTATION_CREATED")
    assert event.project.created == 1795246825
    assert event.tasks == (Task(1, "/data/upload/2/8190de33-upload_00.jpg", event.tasks[0].data),)
    (annotation,) = event.annotations
    assert (annotation.id, annotation.task_id, annotation.labels) == (1, 1, ("dog",))
    assert (annotation.completed_by, annotation.lead_time, annotation.prediction_version) == (1, 3.2, "v1")
    assert not (annotation.cancelled)
    assert not (annotation.ground_truth)
    assert not (annotation.machine_made)
    assert math.isclose(annotation.updated_at, 1795246934.172889, abs_tol=1e-6)


def test_a_skip_is_cancelled_and_without_labels() -> None:
    (skipped,) = told("webhook_annotation_skipped__0_POST_webhook_ANNOTATION_CREATED").annotations
    assert skipped.cancelled
    assert skipped.labels == ()


def test_a_correction_is_later_than_what_it_corrects() -> None:
    (first,) = told("webhook_annotation_created__0_POST_webhook_ANNOTATION_CREATED").annotations
    (second,) = told("webhook_annotation_updated__0_POST_webhook_ANNOTATION_UPDATED").annotations
    assert second.id == first.id
    assert second.labels != first.labels
    assert second.updated_at > first.updated_at


def test_annotations_made_of_predictions_in_bulk_are_machine_made() -> None:
    event = told("webhook_predictions_to_annotations__0_POST_webhook_ANNOTATIONS_CREATED")
    assert [annotation.machine_made for annotation in event.annotations] == [True, True]
    assert [task.id for task in event.tasks] == [annotation.task_id for annotation in event.annotations]


def test_a_copied_prediction_reads_the_same_from_the_list_and_the_export_also_when_the_prediction_is_gone() -> None:
    listed = json.loads((PAYLOADS / "copies_of_predictions_listed_and_exported.json").read_text())
    machine_made = {}
    for way, tasks in listed.items():
        for body in tasks:
            _, annotations = parse_task_with_annotations(body, CONFIG)
            machine_made[way, body["id"]] = [annotation.machine_made for annotation in annotations]
    copied, corrected, made, unlabelled = (body["id"] for body in listed["before"])
    for way in ("before", "after", "exported"):
        assert machine_made[way, copied] == [True]
        assert machine_made[way, corrected] == [False]
        assert machine_made[way, made] == [False]
        assert machine_made.get((way, unlabelled), []) == []


def test_where_several_can_be_chosen_all_that_were_are_told() -> None:
    (made,) = told("webhook_multiple_created__0_POST_webhook_ANNOTATION_CREATED").annotations
    (updated,) = told("webhook_multiple_updated__0_POST_webhook_ANNOTATION_UPDATED").annotations
    emptied = told("webhook_multiple_emptied__0_POST_webhook_ANNOTATION_UPDATED")
    assert [made.labels, updated.labels, emptied.annotations[0].labels] == [("dog", "cat"), ("dog",), ()]
    assert not any(each.machine_made for each in (made, updated, *emptied.annotations))
    assert emptied.project.config is not None
    assert emptied.project.config.may_be_empty


def test_a_copy_of_a_prediction_that_chose_nothing_is_machine_made_also_when_the_prediction_is_gone() -> None:
    event = told("webhook_multiple_predictions_to_annotations__0_POST_webhook_ANNOTATIONS_CREATED")
    listed = json.loads((PAYLOADS / "multiple_copies_of_predictions_listed.json").read_text())
    later = [each for body in listed for each in parse_task_with_annotations(body, event.project.config)[1]]
    for copies in (event.annotations, later):
        assert [(each.labels, each.machine_made) for each in copies] == [(("dog", "bird"), True), ((), True)]
    assert [each["parent_prediction"] for body in listed for each in body["annotations"]] == [None, None]


@pytest.mark.parametrize("touched", [{"updated_by": 3}, {"lead_time": 0.5}, {"ground_truth": True}])
def test_a_copied_prediction_that_a_person_touched_is_the_persons(touched: dict[str, object]) -> None:
    copied = {**ANNOTATION, "result": CONFIG.result("cat"), "parent_prediction": 4}
    assert parse_annotation(copied, CONFIG).machine_made
    assert not parse_annotation({**copied, **touched}, CONFIG).machine_made


def test_imported_annotations_without_a_trace_of_a_prediction_are_a_persons() -> None:
    imported = {**ANNOTATION, "result": [{"id": "x1", "from_name": "label", "value": {"choices": ["cat"]}}]}
    assert not parse_annotation(imported, CONFIG).machine_made


@pytest.mark.parametrize(
    "name",
    [
        "webhook_annotations_deleted__0_POST_webhook_ANNOTATIONS_DELETED",
        "webhook_annotations_deleted_dm__0_POST_webhook_ANNOTATIONS_DELETED",
    ],
)
def test_deleted_annotations_are_told_by_id(name: str) -> None:
    event = parse_webhook(recorded(name))
    assert isinstance(event, AnnotationsDeleted)
    assert event.ids == tuple(item["id"] for item in recorded(name)["annotations"])


def test_tasks_are_told_with_their_images() -> None:
    event = parse_webhook(recorded("webhook_tasks_created_upload__0_POST_webhook_TASKS_CREATED"))
    assert isinstance(event, TasksTold)
    assert [(task.id, task.image) for task in event.tasks] == [(21, "/data/upload/2/d0cd40a2-u6.jpg")]
    assert not event.with_annotations


@pytest.mark.parametrize("counted", ["total_annotations", "cancelled_annotations"])
def test_tasks_that_came_with_annotations_say_so(counted: str) -> None:
    body = recorded("webhook_tasks_created__0_POST_webhook_TASKS_CREATED")
    body["tasks"][-1][counted] = 1
    event = parse_webhook(body)
    assert isinstance(event, TasksTold)
    assert event.with_annotations


def test_deleted_tasks_changed_projects_and_start_training_are_told() -> None:
    deleted = parse_webhook(recorded("webhook_tasks_deleted__0_POST_webhook_TASKS_DELETED"))
    assert isinstance(deleted, TasksDeleted)
    assert deleted.ids == (22,)
    changed = parse_webhook(
        recorded("webhook_project_updated_label_config__0_POST_webhook_PROJECT_UPDATED"),
    )
    assert isinstance(changed, ProjectTold)
    assert '"fish"' in changed.project.label_config
    asked = parse_webhook(recorded("webhook_start_training__0_POST_webhook_START_TRAINING"))
    assert isinstance(asked, TrainingAsked)


def test_an_unknown_action_is_none_of_ours() -> None:
    assert parse_webhook({"action": "LABEL_LINK_CREATED", "anything": []}) is None


def test_events_of_a_project_that_can_not_be_learned_are_still_understood() -> None:
    body = recorded("webhook_annotation_created__0_POST_webhook_ANNOTATION_CREATED")
    body["project"]["label_config"] = '<View><Text name="text" value="$text"/></View>'
    event = parse_webhook(body)
    assert isinstance(event, AnnotationsTold)
    assert event.annotations[0].labels == ()
    assert event.tasks[0].image is None


def test_a_task_imported_as_a_plain_file_has_its_image_under_the_undefined_key() -> None:
    assert parse_task({"id": 1, "data": {"$undefined$": "a.png"}}, CONFIG).image == "a.png"
    assert parse_task({"id": 1, "data": {"$undefined$": "a.png", "image": "b.png"}}, CONFIG).image == "b.png"


@pytest.mark.parametrize("value", [None, 3, ["a.png"], {"url": "a.png"}, "", "a\0.png"])
def test_a_task_whose_image_is_no_address_has_none(value: object) -> None:
    assert parse_task({"id": 1, "data": {"image": value}}, CONFIG).image is None


@pytest.mark.parametrize(
    ("name", "project", "created"),
    [("connect__1_POST_setup", 2, 1795246825), ("connect_basic_auth__1_POST_setup", 5, 1795247370)],
)
def test_a_set_up_names_the_project_and_its_configuration(name: str, project: int, created: int) -> None:
    assert parse_setup(recorded(name)) == (project, created, recorded(name)["schema"])


@pytest.mark.parametrize("project", [None, 2, "2", "2.", ".5", "-2.5", "2.5.1", "٢.5", "0.5", "9" * 30 + ".1", "2.1e3"])
def test_a_set_up_of_no_project_is_refused(project: object) -> None:
    with pytest.raises(BadEvent):
        parse_setup({"project": project, "schema": "<View/>"})


@pytest.mark.parametrize("name", PREDICTS)
def test_every_recorded_request_for_predictions_gives_its_tasks_in_order(name: str) -> None:
    body = recorded(name)
    project, created, xml, tasks = parse_predict(body)
    assert f"{project}.{created}" == body["project"]
    assert xml == body["label_config"]
    assert [task.id for task in tasks] == [task["id"] for task in body["tasks"]]
    assert [task.image for task in tasks] == [task["data"]["image"] for task in body["tasks"]]


def test_as_many_tasks_come_out_of_a_request_for_predictions_as_went_in() -> None:
    body = recorded("open_task_uploaded__2_POST_predict")
    body["tasks"] = [None, 3, {"id": 4}, {"id": 5, "data": []}, {"id": "6", "data": {}}, TASK]
    *_, tasks = parse_predict(body)
    assert [(task.id, task.image) for task in tasks] == [
        (0, None),
        (0, None),
        (4, None),
        (5, None),
        (0, None),
        (7, "a.png"),
    ]


def test_every_listed_task_is_read() -> None:
    listed = json.loads((PAYLOADS / "api_tasks_list_fields_all.json").read_text())["tasks"]
    read = [parse_task_with_annotations(body, CONFIG) for body in listed]
    assert [task.id for task, _ in read] == [body["id"] for body in listed]
    assert all(task.image for task, _ in read)


def test_a_listed_annotation_may_name_its_user_as_an_object_and_leave_out_its_task() -> None:
    listed = {key: value for key, value in ANNOTATION.items() if key != "task"} | {"completed_by": {"id": 3}}
    _, (annotation,) = parse_task_with_annotations({**TASK, "annotations": [listed]}, CONFIG)
    assert (annotation.task_id, annotation.completed_by) == (7, 3)


@pytest.mark.parametrize("lead_time", [True, "2.5", math.nan, math.inf, 10**400, []])
def test_a_lead_time_that_is_no_number_is_none(lead_time: object) -> None:
    assert parse_annotation({**ANNOTATION, "lead_time": lead_time}, CONFIG).lead_time is None


@pytest.mark.parametrize("identity", [None, True, 0, -1, 2**63, 1.0, "1"])
def test_an_annotation_without_a_positive_whole_id_is_refused(identity: object) -> None:
    with pytest.raises(BadEvent, match="id is not a positive whole number"):
        parse_annotation({**ANNOTATION, "id": identity}, CONFIG)


@pytest.mark.parametrize("moment", [None, 5, "", "yesterday", "2026-13-01T00:00:00Z"])
def test_an_annotation_without_a_time_is_refused(moment: object) -> None:
    with pytest.raises(BadEvent, match="is not a time"):
        parse_annotation({**ANNOTATION, "updated_at": moment}, CONFIG)


def test_a_time_without_a_zone_is_universal_time() -> None:
    assert parse_annotation({**ANNOTATION, "updated_at": "1970-01-01T00:00:01"}, CONFIG).updated_at == 1.0


def test_a_project_says_when_it_was_made_to_the_second() -> None:
    body = recorded("webhook_project_updated__0_POST_webhook_PROJECT_UPDATED")["project"]
    assert parse_project(body).created == 1795246825


@pytest.mark.parametrize("body", [None, 1, "text", [], {}, {"action": None}, {"action": "TASKS_CREATED"}])
def test_a_body_that_label_studio_does_not_send_is_refused_with_a_sentence(body: object) -> None:
    with pytest.raises(BadEvent) as refused:
        parse_webhook(body)
    assert str(refused.value).endswith(".")


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a JSON tree."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    found = [(tree, key) for key in keys]
    return found + [place for key in keys for place in places(tree[key])]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(WEBHOOKS), draw=st.data())
def test_a_forged_webhook_is_understood_or_refused_and_nothing_else(name: str, draw: st.DataObject) -> None:
    body = copy.deepcopy(recorded(name))
    container, key = draw.draw(st.sampled_from(places(body)))
    container[key] = draw.draw(JUNK)
    try:
        event = parse_webhook(body)
    except BadEvent:
        return
    if isinstance(event, AnnotationsTold):
        for annotation in event.annotations:
            assert isinstance(annotation, Annotation)
            assert all(label.encode() for label in annotation.labels)
